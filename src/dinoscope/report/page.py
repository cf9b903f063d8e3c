"""One HTML page that stands alone: what is on it as plain records, and `render`, which makes the file.

`template.html` escapes all text; pictures are inline, SVG files too as images, in which no script can run; nothing on
the page is fetched, and its content security policy forbids that anything be.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image, UnidentifiedImageError

from dinoscope.tables import Line, Table, joined_sections
from dinoscope.text import printable

OPEN_FOR_PRINT = (
    "addEventListener('beforeprint',()=>document.querySelectorAll('details:not([open])')"
    ".forEach(d=>{d.open=true;d.dataset.folded=''}));"
    "addEventListener('afterprint',()=>document.querySelectorAll('details[data-folded]')"
    ".forEach(d=>{d.open=false;delete d.dataset.folded}))"
)
"""The page's one script: opens what is folded for print, where it cannot be unfolded, and folds it again."""

LEGIBLE = 0.75
"""Share of a picture's own width at which it can still be read: its letters of 13 pixels then have about 10."""
_PHONE = 340  # pixels that every screen has: pictures that are legible at this width need no care
_POINT = 96 / 72  # CSS pixels
_VIEW_BOX = re.compile(r"<svg[^>]*\sviewBox=[\"']\s*[\d.eE+-]+[\s,]+[\d.eE+-]+[\s,]+([\d.eE+-]+)")
_PATH = re.compile(r'\sd="[^"]*"')


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Notice:
    """A sentence that must be seen: something is well, worth knowing, or wrong."""

    text: str
    kind: Literal["good", "note", "warning"] = "note"


@dataclass(frozen=True)
class Bullets:
    items: tuple[str, ...]


@dataclass(frozen=True)
class Figure:
    """A picture with its caption.

    picture: a PNG, JPEG, WebP or GIF file, or the text of an SVG file.
    alt: what it shows, for those who cannot see it.
    width: in CSS pixels; None for its own width. It is never wider than the page if its letters can be read at that
    size; else it scrolls within the page.

    Raises ValueError for a picture of a format that browsers do not show.
    """

    picture: bytes | str
    caption: str
    alt: str
    width: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.picture, str) and "<svg" not in self.picture:
            raise ValueError(f"a drawing must be an SVG file, and not begin with {self.picture[:12]!r}")
        _ = self._kind_and_width

    @functools.cached_property
    def _kind_and_width(self) -> tuple[str, float]:
        """The MIME type, and the picture's own width in CSS pixels (0 if a drawing does not tell)."""
        if isinstance(self.picture, str):
            box = _VIEW_BOX.search(self.picture)
            return "image/svg+xml", float(box[1]) * _POINT if box else 0.0
        try:
            with Image.open(io.BytesIO(self.picture), formats=("PNG", "JPEG", "WEBP", "GIF")) as image:
                return Image.MIME[image.format or ""], image.width
        except UnidentifiedImageError as error:
            text = f"a picture must be PNG, JPEG, WebP or GIF, and not begin with {self.picture[:12]!r}"
            raise ValueError(text) from error

    @property
    def source(self) -> str:
        content = self.picture
        if isinstance(content, str):  # a hundredth of a point is finer than any screen, and a third of the file
            content = _PATH.sub(lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), content).encode("utf-8", "replace")
        return f"data:{self._kind_and_width[0]};base64,{base64.b64encode(content).decode('ascii')}"

    @property
    def min_width(self) -> int:
        """Width in CSS pixels below which it cannot be read; 0 if any screen is wide enough."""
        readable = round(LEGIBLE * self._kind_and_width[1])
        return min(readable, self.width or readable) if readable > _PHONE else 0


@dataclass(frozen=True)
class Gallery:
    """Small pictures next to each other, as many in a row as fit, over one caption; each may have its own below.

    min_width: CSS pixels below which a picture is not made smaller while there is room.
    columns: pictures in a row at most.
    legend: of the lines in all of them (label, colour, style and marker are used).
    """

    figures: tuple[Figure, ...]
    caption: str = ""
    min_width: int = 200
    columns: int = 1000
    legend: tuple[Line, ...] = ()


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
    title: str
    blocks: tuple[Block, ...]


Block = Paragraph | Notice | Bullets | Figure | Gallery | Table | KeyValues | Code | Folded | Group


@dataclass(frozen=True)
class Section:
    """A part of the page that its navigation leads to.

    anchor: its name in the page's address: small letters, digits and hyphens.
    lead: one or two sentences on what it shows.
    """

    title: str
    anchor: str
    lead: str = ""
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True)
class Document:
    """The page. lead: below its title. foot: the last line.

    Raises ValueError if anchors are not well formed, or two are equal.
    """

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
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # spell out what no page may hold, such as control characters; what is markup already comes from the template
        finalize=lambda value: printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    environment.filters |= {"kind": lambda block: type(block).__name__, "joined": joined_sections}
    digest = base64.b64encode(hashlib.sha256(OPEN_FOR_PRINT.encode()).digest()).decode()
    text = environment.get_template("template.html").render(
        document=document,
        style=Markup((Path(__file__).parent / "style.css").read_text(encoding="utf-8")),
        script=Markup(OPEN_FOR_PRINT),
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
    )
    return text.lstrip() + "\n"


def folded_rest(title: str, figures: Sequence[Figure], shown: int = 1) -> tuple[Block, ...]:
    """Return the first figures, and the others folded under a title with their number."""
    rest = tuple(figures[shown:])
    return (*figures[:shown], Folded(f"{title} ({len(rest)})", rest)) if rest else tuple(figures)
