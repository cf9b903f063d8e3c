"""Setting pictures and lines of text on a white page.

Pictures are pasted pixel by pixel, never resampled by a figure; text is drawn by matplotlib's Agg canvas: no
pyplot, no display, no global state. All lengths are in pixels of the page.
"""

from __future__ import annotations

import contextlib
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from numpy import ndarray

Pixels = UInt8[ndarray, "_ _ 3"]
"""RGB of any size."""

MARGIN, GAP = 32, 12
INK, QUIET, MAT = "#1c1c1c", "#757575", 245
FONT = "DejaVu Sans"  # comes with matplotlib: the same page on every machine

_DPI = 100
_HEADING_HEIGHT, _CAPTION_HEIGHT, _LEGEND_HEIGHT = 44, 26, 40
_HEADING_SIZE, _TEXT_SIZE = 17, 13


@dataclass(frozen=True)
class Tile:
    """A picture and the line above it: what it is (left) and a number about it (right)."""

    pixels: Pixels
    caption: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Row:
    """Tiles beside each other, each in a column of `tile_width`; a line of text above where any has one."""

    tiles: Sequence[Tile]
    tile_width: int

    @property
    def picture_height(self) -> int:
        """Height without the line of text."""
        return max(tile.pixels.shape[0] for tile in self.tiles)

    @property
    def height(self) -> int:
        """Height with the line of text."""
        has_text = any(tile.caption or tile.detail for tile in self.tiles)
        return self.picture_height + (_CAPTION_HEIGHT if has_text else 0)


@dataclass(frozen=True)
class Legend:
    """The last line: a scale of colours between the names of its ends, and a text at the right."""

    scale: Pixels
    low: str
    high: str
    text: str


def page_width(columns: int, tile_width: int) -> int:
    """Width of a page with so many columns."""
    return 2 * MARGIN + columns * (tile_width + GAP) - GAP


def tile_width(page_width: int, columns: int) -> int:
    """Width of the columns of a page."""
    return (page_width - 2 * MARGIN - (columns - 1) * GAP) // columns


def page(rows: Sequence[Row], width: int, title: str = "", note: str = "", legend: Legend | None = None) -> Pixels:
    """Set rows below each other, the title above them at the left, the note at the right, the legend below.

    A text that does not fit loses its middle.
    """
    top = MARGIN // 2 + (_HEADING_HEIGHT if title or note else 0)
    height = top + sum(row.height + GAP for row in rows) + (_LEGEND_HEIGHT if legend else 0)
    canvas = _Canvas(width, height)
    if title or note:
        canvas.line(title, note, (MARGIN, width - MARGIN), (MARGIN + _HEADING_HEIGHT) / 2, _HEADING_SIZE)
    for row in rows:
        canvas.row(row, top)
        top += row.height + GAP
    if legend:
        canvas.legend(legend, top + (_LEGEND_HEIGHT - GAP) / 2)
    return canvas.pixels()


class _Canvas:
    """The page while it is set: texts in a figure, pictures to be pasted over it at the end."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.figure = Figure((width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
        self.agg = FigureCanvasAgg(self.figure)
        self.pasted: list[tuple[Pixels, int, int]] = []

    def row(self, row: Row, top: int) -> None:
        """Set the tiles and their lines of text."""
        for column, tile in enumerate(row.tiles):
            left = MARGIN + column * (row.tile_width + GAP)
            span = (left, left + row.tile_width)
            self.line(tile.caption, tile.detail, span, top + _CAPTION_HEIGHT / 2, _TEXT_SIZE)
            self._picture(tile.pixels, left, top + row.height - row.picture_height, row)

    def _picture(self, pixels: Pixels, left: int, top: int, row: Row) -> None:
        """Set a picture in the middle of its place; what it leaves free is tinted."""
        place = np.full((row.picture_height, row.tile_width, 3), MAT, np.uint8)
        height, width, _ = pixels.shape
        down, right = (row.picture_height - height) // 2, (row.tile_width - width) // 2
        place[down : down + height, right : right + width] = pixels
        self.pasted.append((place, left, top))

    def line(self, text: str, detail: str, span: tuple[float, float], middle: float, size: float) -> None:
        """Set a text at the left and a quieter one at the right of `span`; the left gives way."""
        left, right = span
        detail = self._shortened(detail, _TEXT_SIZE, right - left)
        room = right - left - self._length(detail, _TEXT_SIZE) - GAP
        self._text(self._shortened(text, size, room), left, middle, size, INK, "left")
        self._text(detail, right, middle, _TEXT_SIZE, QUIET, "right")

    def legend(self, legend: Legend, middle: float) -> None:
        """Set the legend."""
        height, width, _ = legend.scale.shape
        left = round(MARGIN + self._length(legend.low, _TEXT_SIZE) + GAP) if legend.low else MARGIN
        self.pasted.append((legend.scale, left, round(middle - height / 2)))
        self._text(legend.low, MARGIN, middle, _TEXT_SIZE, QUIET, "left")
        self._text(legend.high, left + width + GAP, middle, _TEXT_SIZE, QUIET, "left")
        self._text(legend.text, self.width - MARGIN, middle, _TEXT_SIZE, QUIET, "right")

    def pixels(self) -> Pixels:
        """Draw the page."""
        with _any_letter():
            self.agg.draw()
        page = np.array(self.agg.buffer_rgba())[..., :3].copy()
        for picture, left, top in self.pasted:
            page[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
        return page

    def _text(
        self, text: str, x: float, middle: float, size: float, color: str, align: Literal["left", "right"]
    ) -> None:
        if not text:
            return
        self.figure.text(
            x / self.width,
            1 - (middle + 0.35 * size) / self.height,  # the baseline: half of a capital letter below
            _drawable(text),
            fontproperties=_font(size),
            color=color,
            horizontalalignment=align,
            parse_math=False,
        )

    def _shortened(self, text: str, size: float, room: float) -> str:
        """The text, with as much of its middle left out as it takes to fit into `room` pixels."""
        if self._length(text, size) <= room:
            return text
        kept = range(len(text))  # so many letters
        fitting = bisect_right(kept, room, key=lambda n: self._length(_without_middle(text, n), size))
        return _without_middle(text, max(fitting - 1, 0))

    def _length(self, text: str, size: float) -> float:
        if not text:
            return 0.0
        with _any_letter():
            return self.agg.get_renderer().get_text_width_height_descent(_drawable(text), _font(size), ismath=False)[0]


def _without_middle(text: str, kept: int) -> str:
    """The first and the last letters of a text, `kept` of them in all, with an ellipsis between."""
    return text[: kept - kept // 2] + "…" + text[len(text) - kept // 2 :]


def _drawable(text: str) -> str:
    """The text with a question mark for each byte of a file's name that is no UTF-8: no font has a letter for it."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


@contextlib.contextmanager
def _any_letter() -> Iterator[None]:
    """A letter that the font lacks is drawn as a box; of that nobody needs to be warned."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _font(size: float) -> FontProperties:
    """The font at a size in pixels."""
    return FontProperties(family=FONT, size=size * 72 / _DPI)
