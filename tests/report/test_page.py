"""The page that stands alone: nested rightly, escaped everywhere, fetching nothing."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from dinoscope.report.charts import Curve, curves, svg
from dinoscope.report.page import (
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
    assert read.text.count("<script>alert(1)</script>") == 29
    assert {image["alt"] for image in read.images()} == {HOSTILE}
    assert len(read.images()) == 4


@pytest.mark.parametrize(
    "inside",
    [
        "<script>alert(1)</script>",
        '<foreignObject><body onload="alert(1)"/></foreignObject>',
        '<rect onclick="x"/>',
        '<image href="https://example.org/a.png"/>',
        "<style>@import 'a.css'</style>",
    ],
)
def test_a_drawing_is_an_image_in_which_nothing_can_run(inside):
    text = f'<svg xmlns="http://www.w3.org/2000/svg">{inside}</svg>'
    read = page(Figure(text, "c", "a"))
    (image,) = read.images()
    assert (read.count("svg"), read.count("script")) == (0, 1)
    kind, _, content = image["src"].partition(",")
    assert kind == "data:image/svg+xml;base64"
    assert base64.b64decode(content).decode() == text


def test_the_text_of_a_drawing_stays_and_its_paths_become_short():
    text = '<svg viewBox="0 0 300.5 200"><path d="M 1.23456 -7.5 L 10.999999 3"/><text>0.0005</text></svg>'
    (image,) = page(Figure(text, "", "")).images()
    shown = base64.b64decode(image["src"].partition(",")[2]).decode()
    assert shown == '<svg viewBox="0 0 300.5 200"><path d="M 1.23 -7.5 L 10.99 3"/><text>0.0005</text></svg>'


def test_what_is_no_drawing_or_no_picture_is_refused():
    with pytest.raises(ValueError, match="SVG"):
        Figure("<p></p>", "", "")
    with pytest.raises(ValueError, match="PNG, JPEG"):
        Figure(b"BM123456789012", "", "")


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp"])
def test_pictures_of_every_kind_are_inline(kind):
    (image,) = page(Figure(picture(kind), "c", "what it shows", width=40)).images()
    assert image["src"].startswith(f"data:image/{kind};base64,")
    assert "40px" in image["style"]


def test_control_characters_and_bytes_that_are_no_text_are_shown_as_such():
    assert "a\\x00\\x1bb\\udcff\\u202ec d" in page(Paragraph("a\x00\x1bb\udcff\u202ec\nd")).text


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
