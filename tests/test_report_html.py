"""The page that stands alone: nested rightly, escaped everywhere, fetching nothing."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from dinoscope.report.comparison_figure import Curve, curves, svg
from dinoscope.report.html import (
    Bullets,
    Code,
    Document,
    Figure,
    Folded,
    Gallery,
    Group,
    KeyValues,
    Notice,
    Paragraph,
    Section,
    render,
)
from dinoscope.report.html_text import escape
from dinoscope.tables import Column, Table, TableRow
from dinoscope.tables import Section as Rows
from tests.html_checks import Page

HOSTILE = "<script>alert(1)</script>\"'&amp;</style><img src=x onerror=y>"


def picture(kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 12, 3), 90, np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def drawing(label: str = "a run") -> str:
    return svg(curves([Curve("DINO", "ViT", label, (1, 2), (10.0, 20.0))], "k-NN")).decode()


def page(*blocks, **more) -> Page:
    return Page(render(Document("A page", (Section("Part", "part", "what is here", blocks),), **more)))


def test_every_block_with_a_hostile_text_is_shown_as_text():
    table = Table(
        (Column(HOSTILE), Column("n", "right")),
        (Rows((TableRow((HOSTILE, HOSTILE), (1,)),), HOSTILE),),
        HOSTILE,
        (HOSTILE,),
        (HOSTILE,),
    )
    figure = Figure(picture(), HOSTILE, HOSTILE)
    blocks = (
        Paragraph(HOSTILE),
        Notice(HOSTILE, "warning"),
        Bullets((HOSTILE,)),
        figure,
        Figure(drawing(HOSTILE), HOSTILE, HOSTILE),
        Gallery((figure, figure), HOSTILE),
        table,
        KeyValues(((HOSTILE, HOSTILE),)),
        Code(HOSTILE),
        Folded(HOSTILE, (Paragraph(HOSTILE),)),
        Group(HOSTILE, (Paragraph(HOSTILE),)),
    )
    sections = (Section(HOSTILE, "first", HOSTILE, blocks), Section("Other", "second"))
    read = Page(render(Document(HOSTILE, sections, HOSTILE, HOSTILE)))
    assert read.count("script") == 1  # the page's own line
    assert read.text.count("<script>alert(1)</script>") == 30
    assert {image["alt"] for image in read.images()} == {HOSTILE}
    assert len(read.images()) == 3


def test_drawings_on_one_page_keep_their_names_apart_and_their_style_to_themselves():
    text = drawing()
    assert "<style" in text  # matplotlib writes a rule for everything, which must not reach the page
    rendered = render(Document("t", (Section("S", "s", "", (Figure(text, "", "a"), Figure(text, "", "b"))),)))
    assert Page(rendered).count("svg") == 2
    assert "#d1-drawing *{" in rendered
    assert ">*{" not in rendered
    assert "url(#d2-" in rendered


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        ("<script>alert(1)</script>", "may not hold the element"),
        ("<foreignObject/>", "may not hold the element"),
        ('<rect onclick="x"/>', "event handler"),
        ('<image href="https://example.org/a.png"/>', "may not refer"),
        ('<rect style="fill: url(https://example.org/a)"/>', "outside"),
        ("<style>@import 'a.css'</style>", "outside"),
    ],
)
def test_a_drawing_that_could_run_or_fetch_is_refused(inside, message):
    with pytest.raises(ValueError, match=message):
        page(Figure(f'<svg xmlns="http://www.w3.org/2000/svg">{inside}</svg>', "", ""))


def test_what_is_no_drawing_or_no_picture_is_refused():
    with pytest.raises(ValueError, match="not well-formed"):
        page(Figure("<svg>", "", ""))
    with pytest.raises(ValueError, match="not SVG"):
        page(Figure("<p></p>", "", ""))
    with pytest.raises(ValueError, match="PNG, JPEG"):
        page(Figure(b"BM123456789012", "", ""))


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp"])
def test_pictures_of_every_kind_are_inline(kind):
    (image,) = page(Figure(picture(kind), "c", "what it shows", width=40)).images()
    assert image["src"].startswith(f"data:image/{kind};base64,")
    assert "40px" in image["style"]


def test_control_characters_and_bytes_that_are_no_text_are_shown_as_such():
    assert escape("a\x00\x1bb\udcff\u202ec\nd") == "a\ufffd\ufffdb\ufffd\ufffdc\nd"
    page(Paragraph("\udcff")).text.encode("utf-8")


def test_sections_are_reached_from_the_top_and_names_of_anchors_are_checked():
    sections = (Section("One", "one"), Section("Two", "two"))
    read = Page(render(Document("t", sections)))
    assert [values["href"] for name, values in read.elements if name == "a"] == ["#one", "#two"]
    with pytest.raises(ValueError, match="anchors"):
        Document("t", (Section("One", "one"), Section("Other", "one")))
    with pytest.raises(ValueError, match="anchors"):
        Document("t", (Section("One", '"><script>'),))


def test_a_page_forbids_everything_but_what_it_holds_and_is_the_same_each_time():
    document = Document("t", (Section("S", "s", "", (Figure(drawing(), "c", "a"),)),))
    assert render(document) == render(document)
    policy = next(v["content"] for n, v in Page(render(document)).elements if "http-equiv" in v and n == "meta")
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "http" not in policy
