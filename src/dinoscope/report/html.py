"""One HTML page that stands alone: what is on it as plain records, and `render`, which makes the file.

All text is plain and escaped here; pictures are inline; nothing on the page is fetched, and its content security
policy forbids that anything be. No paragraph, name or cell can become markup.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dinoscope.report.html_style import OPEN_FOR_PRINT, STYLE
from dinoscope.report.html_svg import inline_svg
from dinoscope.report.html_text import data_address, escape, table_html
from dinoscope.report.picture_size import legible_width
from dinoscope.tables import Table


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True)
class Notice:
    """A sentence that must be seen: something is well, worth knowing, or wrong."""

    text: str
    kind: Literal["good", "note", "warning"] = "note"


@dataclass(frozen=True)
class Bullets:
    """A list of short texts."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Figure:
    """A picture with its caption.

    picture: a PNG, JPEG, WebP or GIF file, or the text of an SVG file.
    alt: what it shows, for those who cannot see it.
    width: the most that it is shown at, in CSS pixels; None for its own width. Never wider than the page, where its
    letters can be read at that size; else it scrolls within the page.
    """

    picture: bytes | str
    caption: str
    alt: str
    width: int | None = None


@dataclass(frozen=True)
class Stroke:
    """What a line in drawings stands for. color: as CSS has it (#rrggbb). style: as matplotlib has it."""

    label: str
    color: str
    style: Literal["-", "--", ":", "-."] = "-"


@dataclass(frozen=True)
class Gallery:
    """Small pictures beside each other, as many in a row as fit, over one caption; each may have its own below.

    least: width in CSS pixels below which a picture is not made smaller while there is room.
    most: pictures in a row; 0 for as many as fit.
    legend: of the lines in all of them.
    """

    figures: tuple[Figure, ...]
    caption: str = ""
    least: int = 200
    most: int = 0
    legend: tuple[Stroke, ...] = ()


@dataclass(frozen=True)
class KeyValues:
    """Names and what they are, one pair a line. dense: many short ones, set small and in columns."""

    pairs: tuple[tuple[str, str], ...]
    dense: bool = False


@dataclass(frozen=True)
class Code:
    """Text to be copied as it stands: a command, a file."""

    text: str


@dataclass(frozen=True)
class Folded:
    """Blocks that open at a click; in print they are open."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Group:
    """Blocks below a heading of their own, within a section."""

    title: str
    blocks: tuple[Block, ...]


Block = Paragraph | Notice | Bullets | Figure | Gallery | Table | KeyValues | Code | Folded | Group


@dataclass(frozen=True)
class Section:
    """A part of the page that its navigation leads to.

    anchor: its name in the page's address: small letters, digits and hyphens.
    lead: one or two sentences on what is to be seen.
    """

    title: str
    anchor: str
    lead: str = ""
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True)
class Document:
    """The page. lead: below its title. foot: the last line."""

    title: str
    sections: tuple[Section, ...]
    lead: str = ""
    foot: str = ""

    def __post_init__(self) -> None:
        anchors = [section.anchor for section in self.sections]
        wrong = [anchor for anchor in anchors if not re.fullmatch(r"[a-z][a-z0-9-]*", anchor)]
        if wrong or len(set(anchors)) < len(anchors):
            raise ValueError(f"anchors must differ, and be small letters, digits and hyphens: {anchors}")


def render(document: Document) -> str:
    """The page as the text of an HTML file; the same document gives the same text.

    Raises ValueError for a picture of a format that browsers do not show, or an SVG that could run or fetch something.
    """
    digest = base64.b64encode(hashlib.sha256(OPEN_FOR_PRINT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    writer = _Writer()
    links = "".join(f'<li><a href="#{part.anchor}">{escape(part.title)}</a></li>' for part in document.sections)
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="color-scheme" content="light dark"><meta name="generator" content="dinoscope">',
        f"<title>{escape(document.title)}</title>",
        f"<style>{STYLE}</style></head>",
        f'<body><header id="top"><h1>{escape(document.title)}</h1>{_lead(document.lead)}</header>',
        f'<nav aria-label="Sections"><ol>{links}</ol></nav>' if len(document.sections) > 1 else "",
        "<main>",
        *map(writer.section, document.sections),
        "</main>",
        f"<footer>{escape(document.foot)}</footer>" if document.foot else "",
        f"<script>{OPEN_FOR_PRINT}</script></body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


class _Writer:
    """Writes blocks; counts the drawings, whose names must differ on one page."""

    def __init__(self) -> None:
        self.drawings = 0

    def section(self, section: Section) -> str:
        return (
            f'<section id="{section.anchor}"><h2>{escape(section.title)}</h2>{_lead(section.lead)}'
            f"{self.blocks(section.blocks)}</section>"
        )

    def blocks(self, blocks: Sequence[Block]) -> str:
        return "\n".join(map(self.block, blocks))

    def block(self, block: Block) -> str:
        match block:
            case Paragraph(text):
                return f"<p>{escape(text)}</p>"
            case Notice(text, kind):
                return f'<p class="notice {kind}" role="note">{escape(text)}</p>'
            case Bullets(items):
                return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"
            case Figure():
                return self.figure(block)
            case Gallery():
                return self.gallery(block)
            case Table():
                return table_html(block)
            case KeyValues(pairs, dense):
                rows = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in pairs)
                return f'<dl class="dense">{rows}</dl>' if dense else f"<dl>{rows}</dl>"
            case Code(text):
                return f"<pre><code>{escape(text)}</code></pre>"
            case Folded(title, inside):
                return f"<details><summary>{escape(title)}</summary>{self.blocks(inside)}</details>"
            case Group(title, inside):
                return f'<div class="group"><h3>{escape(title)}</h3>{self.blocks(inside)}</div>'

    def gallery(self, gallery: Gallery) -> str:
        inside = "".join(self.figure(figure, numbered=False) for figure in gallery.figures)
        most = f";--most:{int(gallery.most)}" if gallery.most else ""
        legend = "".join(f"<li>{_stroke(each)}{escape(each.label)}</li>" for each in gallery.legend)
        parts = [
            f'<div class="grid" style="--least:{int(gallery.least)}px{most}">{inside}</div>',
            f'<ul class="legend">{legend}</ul>' if legend else "",
            f"<figcaption>{escape(gallery.caption)}</figcaption>" if gallery.caption else "",
        ]
        # Curves are of no use without the legend on the same sheet of paper; many pictures may run over several.
        kind = "gallery" + " numbered" * bool(gallery.caption) + " together" * bool(legend)
        return f'<figure class="{kind}">{"".join(parts)}</figure>'

    def figure(self, figure: Figure, *, numbered: bool = True) -> str:
        # In a gallery pictures stand below each other where the page is narrow; others scroll in a frame of their own.
        least = legible_width(figure.picture) if numbered else 0
        rules = [f"max-width:min(100%,{int(figure.width)}px)"] if figure.width else []
        rules += [f"min-width:{min(least, figure.width or least)}px"] if least else []
        width = f' style="{";".join(rules)}"' if rules else ""
        if isinstance(figure.picture, str):
            self.drawings += 1
            drawing = inline_svg(figure.picture, f"d{self.drawings}-")
            picture = f'<div class="drawing" role="img" aria-label="{escape(figure.alt)}"{width}>{drawing}</div>'
        else:
            picture = f'<img src="{data_address(figure.picture)}" alt="{escape(figure.alt)}"{width}>'
        picture = f'<div class="frame" tabindex="0">{picture}</div>' if least else picture
        caption = f"<figcaption>{escape(figure.caption)}</figcaption>" if figure.caption else ""
        opening = '<figure class="numbered">' if numbered and caption else "<figure>"
        return f"{opening}{picture}{caption}</figure>"


_DASHES = {"-": "", "--": "7 4", ":": "2 3", "-.": "8 3 2 3"}


def _stroke(stroke: Stroke) -> str:
    """A piece of the line."""
    line = f'<line x1="0" y1="5" x2="30" y2="5" stroke="{escape(stroke.color)}" stroke-width="2.5" '
    dashes = f'stroke-dasharray="{_DASHES[stroke.style]}"'
    return f'<svg width="30" height="10" aria-hidden="true">{line}{dashes}></line></svg>'


def _lead(text: str) -> str:
    return f'<p class="lead">{escape(text)}</p>' if text else ""
