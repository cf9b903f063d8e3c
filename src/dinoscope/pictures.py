"""Pictures of models at work: maps and masks laid over images, and pages that set pictures and text in a grid.

Pixels in, pixels out (uint8 RGB, channels last). Lengths are in pixels of a page for the screen; a page for print, of
so many dots an inch (`dpi`), has `scale_of(dpi)` times as many pixels in each direction. On a page, pictures are pasted
and never resampled by a figure; text is drawn by matplotlib: no pyplot, no display, no global state.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from numpy import ndarray
from PIL import Image

from dinoscope.data.benchmarks import VOID
from dinoscope.errors import UserError
from dinoscope.files import replacing

Pixels = UInt8[ndarray, "_ _ 3"]
"""RGB of any size."""

INK, QUIET, MAT = "#1c1c1c", "#757575", 245
FONT = "DejaVu Sans"  # comes with matplotlib: the same page on every machine

COLORS = matplotlib.colormaps["inferno"]  # perceptually uniform, and readable in grey
OUTLINE = (255, 214, 64)
OPACITY = 0.85
"""Opacity of an overlay at its strongest patches."""
VOID_COLOR = (235, 235, 235)
MIN_FRAME = 8
"""Pixels that a patch must have on the page to be framed; a frame would cover a smaller one."""
MAX_ASPECT = 1.5
"""Height over width above which a picture is made narrower than its column."""

MARGIN, GAP = 32, 12
PAGE_WIDTH = 1198
"""Width of a page: three and six columns of whole pixels."""
PRINTED_WIDTH = 7.2
"""Width in inches that `PAGE_WIDTH` has in print: that of a page of a paper."""
PRINT_DPI, MIN_DPI, MAX_DPI = 300, 72, 600
"""Dots an inch that publishers ask for, and the limits: letters that can be read, and the memory of a small machine."""
MAX_COLUMNS = 6

_SCREEN_DPI = 100
_HEADING_HEIGHT, _CAPTION_HEIGHT, _LINE_HEIGHT, _LEGEND_HEIGHT = 44, 26, 20, 40
_HEADING_SIZE, _TEXT_SIZE = 17, 13
SHEET_TILE = 300
_WEBP_QUALITY = 82
_WEBP_EFFORT = 6  # the highest: smallest files


# --- over one image ---------------------------------------------------------------------------------------------------


def overlay(
    image: UInt8[ndarray, "h w 3"],
    values: Float[ndarray, "rows columns"],
    *,
    opacity: float = OPACITY,
    smooth: bool = True,
) -> UInt8[ndarray, "h w 3"]:
    """Lay a map over the image: colour and opacity rise with the value, from the map's mean upwards.

    Patches at or below the mean stay as they are: uniform attention shows nothing, preference shows. The scale ends at
    the 99.5 % quantile, so that a few patches of a peaked map do not leave all others without colour, but never below
    twice the mean: faint preference stays faint.

    opacity: at the strongest patches, 0 to 1. smooth: False gives each patch one colour, so that its edges are seen.
    """
    excess, end = _excess(values)
    strength = excess / end
    between = cv2.INTER_CUBIC if smooth else cv2.INTER_NEAREST_EXACT
    return _colored(_muted(image), cv2.resize(strength, image.shape[1::-1], interpolation=between).clip(0, 1), opacity)


def overlay_end(values: Float[ndarray, "rows columns"]) -> float:
    """Return the value at which `overlay` reaches its strongest colour, as a multiple of the map's mean."""
    return 1 + _excess(values)[1]


def _excess(values: Float[ndarray, "rows columns"]) -> tuple[Float[ndarray, "rows columns"], float]:
    """Return how far each value lies above the mean, as a share of the mean, and the end of the scale."""
    mean = max(float(values.mean()), float(np.finfo(np.float32).tiny))
    excess = values.astype(np.float32) / mean - 1
    return excess, max(float(np.quantile(excess, 0.995, method="higher")), 1.0)


def cosine_overlay(image: UInt8[ndarray, "h w 3"], cosines: Float[ndarray, "rows columns"]) -> Pixels:
    """Lay cosines over an image: nothing at 0 or less, full colour at 1; the same scale for every picture."""
    resized = cv2.resize(cosines.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return _colored(_muted(image), resized.clip(0, 1))


def mask_overlay(image: UInt8[ndarray, "h w 3"], mask: Bool[ndarray, "rows columns"]) -> UInt8[ndarray, "h w 3"]:
    """Dim what lies outside the mask and draw a thin line around what lies inside."""
    inside = _nearest(mask.astype(np.uint8), image)
    drawn = np.where(inside[..., None] > 0, image, np.rint(0.3 * _muted(image)).astype(np.uint8))
    contours, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, contours, -1, OUTLINE, thickness=max(1, round(min(image.shape[:2]) / 200)))
    return drawn


def tinted(image: UInt8[ndarray, "h w 3"], mask: Bool[ndarray, "rows columns"]) -> Pixels:
    """Tint what lies inside the mask and dim the rest.

    There is no outline as in `mask_overlay`: around many small patches there would be little else to see.
    """
    inside = _nearest(mask.astype(np.uint8), image)[..., None] > 0
    grey = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    return np.rint(np.where(inside, 0.65 * image + 0.35 * np.array(OUTLINE), 0.35 * grey)).astype(np.uint8)


def ground_truth_overlay(image: UInt8[ndarray, "h w 3"], classes: UInt8[ndarray, "a b"]) -> Pixels:
    """Show the objects of a ground truth of any size as `tinted` shows a mask; void pixels are light grey."""
    values = _nearest(classes, image)
    drawn = tinted(image, (values != 0) & (values != VOID))
    drawn[values == VOID] = VOID_COLOR
    return drawn


def color_picture(colors: Float[ndarray, "rows columns 3"], size: tuple[int, int]) -> Pixels:
    """Draw colours of patches, 0 to 1, at `size` = (height, width); every patch is a rectangle of one colour."""
    return cv2.resize(np.rint(255 * colors).astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def marked(
    image: UInt8[ndarray, "h w 3"],
    point: tuple[int, int],
    box: tuple[float, float, float, float],
    scale: float,
    stroke: float = 1,
) -> Pixels:
    """Draw a crosshair on the point (x, y) and, if it is large enough, a frame around its patch.

    box: edges (left, top, right, bottom) of the patch; point and box are in pixels before `scale`.
    stroke: `scale_of` the page.
    """
    drawn = image.copy()
    left, top, right, bottom = (round(edge * scale) for edge in box)
    x, y = (round((each + 0.5) * scale) for each in point)
    reach, gap = max(round(10 * stroke), round(0.05 * image.shape[1])), round(3 * stroke)
    # on a small picture of fine patches the arms keep off, so that the patch shows between them
    inner_x, inner_y = max(gap, x - left + gap, right - x + gap), max(gap, y - top + gap, bottom - y + gap)
    arms = [((x + side * inner_x, y), (x + side * (inner_x + reach), y)) for side in (-1, 1)]
    arms += [((x, y + side * inner_y), (x, y + side * (inner_y + reach))) for side in (-1, 1)]
    # first thick and dark, then thin and bright: it shows on any ground
    for color, thickness in (((0, 0, 0), round(4 * stroke)), (OUTLINE, round(2 * stroke))):
        if min(right - left, bottom - top) >= MIN_FRAME * stroke:
            cv2.rectangle(drawn, (left, top), (right - 1, bottom - 1), color, thickness)
        for begin, end in arms:
            cv2.line(drawn, begin, end, color, thickness)
    return drawn


def fitted(image: UInt8[ndarray, "h w 3"], width: int) -> Pixels:
    """Enlarge or reduce an image to `width`, or to `MAX_ASPECT` times that in height; its aspect is kept."""
    scale = min(width / image.shape[1], MAX_ASPECT * width / image.shape[0])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def _nearest(values: UInt8[ndarray, "a b"], image: UInt8[ndarray, "h w 3"]) -> UInt8[ndarray, "h w"]:
    return cv2.resize(values, image.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def _muted(image: UInt8[ndarray, "h w 3"]) -> Float[ndarray, "h w 3"]:
    """Take half of an image's colour: a ground on which the colours of a map stand out."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    return (0.5 * image + 0.5 * grey).astype(np.float32)


def _colored(
    ground: Float[ndarray, "h w 3"], strength: Float[ndarray, "h w"], opacity: float = OPACITY
) -> UInt8[ndarray, "h w 3"]:
    """Lay the colour of each strength, 0 to 1, over the ground."""
    share = opacity * strength[..., None] ** 0.7
    # both ends of inferno are left out: near black and near white hardly show on a photograph
    colors = 255 * COLORS(0.3 + 0.65 * strength)[..., :3]
    return np.rint(ground * (1 - share) + colors * share).astype(np.uint8)


# --- pages ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tile:
    """A picture, and the line above it: what it is (left) and a number about it (right)."""

    pixels: Pixels
    caption: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Row:
    """Tiles next to each other, each in a column of `tile_width`; a line of text above if any has one."""

    tiles: Sequence[Tile]
    tile_width: int


@dataclass(frozen=True)
class Legend:
    """The last line of a page: a scale of colours between the names of its ends, and a text at the right."""

    scale: Pixels
    low: str
    high: str
    text: str


@dataclass(frozen=True)
class Sheet:
    """Pictures in rows of equal tiles, such as the best and worst images of an evaluation.

    name: stem of its file. caption: what is shown, and how it came about. dpi: for print; the tiles have the width
    `sheet_tile(dpi)`.
    """

    name: str
    rows: tuple[tuple[Tile, ...], ...]
    caption: str = ""
    dpi: int | None = None

    def page(self, note: str = "") -> Page:
        """Set it, with a note above the pictures."""
        return layout([Row(tiles, SHEET_TILE) for tiles in self.rows], note=note, min_width=0, dpi=self.dpi)

    def pixels(self, note: str = "") -> Pixels:
        """Draw it, with a note above the pictures."""
        return self.page(note).pixels()


def page(
    rows: Sequence[Row], title: str = "", note: str = "", legend: Legend | None = None, *, min_width: int = PAGE_WIDTH
) -> Pixels:
    """Draw a `layout` for the screen."""
    return layout(rows, title, note, legend, min_width=min_width).pixels()


def layout(
    rows: Sequence[Row],
    title: str = "",
    note: str = "",
    legend: Legend | None = None,
    *,
    min_width: int = PAGE_WIDTH,
    dpi: int | None = None,
) -> Page:
    """Set rows below each other, the title above them at the left, the note at the right, the legend below.

    The page is as wide as its longest row. A note without a title takes as many lines as it needs; another text that
    does not fit loses its middle. dpi: for print; the tiles
    have `scale_of(dpi)` times as many pixels as their columns. Raises UserError as `scale_of` does.
    """
    scale = scale_of(dpi)
    captions = [_CAPTION_HEIGHT * any(tile.caption or tile.detail for tile in row.tiles) for row in rows]
    heights = [max(tile.pixels.shape[0] for tile in row.tiles) / scale for row in rows]
    width = max([min_width, *(page_width(len(row.tiles), row.tile_width) for row in rows)])
    notes = [] if title else Page(width, MARGIN, dpi).broken(note, _TEXT_SIZE, width - 2 * MARGIN)
    heading = _HEADING_HEIGHT + _LINE_HEIGHT * max(0, len(notes) - 1) if title or note else 0
    top = MARGIN // 2 + heading
    bottom = top + sum(captions) + sum(heights) + GAP * len(rows) + (_LEGEND_HEIGHT if legend else 0)
    canvas = Page(width, bottom, dpi)
    for number, text in enumerate(notes):
        canvas.text(text, MARGIN, (MARGIN + _HEADING_HEIGHT) / 2 + number * _LINE_HEIGHT, _TEXT_SIZE, QUIET)
    if title:
        canvas.line(title, note, MARGIN, width - MARGIN, (MARGIN + _HEADING_HEIGHT) / 2, _HEADING_SIZE)
    for row, caption, height in zip(rows, captions, heights, strict=True):
        for column, tile in enumerate(row.tiles):
            left = MARGIN + column * (row.tile_width + GAP)
            middle = top + _CAPTION_HEIGHT / 2
            canvas.line(tile.caption, tile.detail, left, left + row.tile_width, middle, _TEXT_SIZE)
            # a smaller picture lies in the middle of its place, and what it leaves free is tinted
            place = np.full((round(height * scale), round(row.tile_width * scale), 3), MAT, np.uint8)
            down, right = ((all_of - own) // 2 for all_of, own in zip(place.shape, tile.pixels.shape[:2], strict=False))
            place[down : down + tile.pixels.shape[0], right : right + tile.pixels.shape[1]] = tile.pixels
            canvas.pasted.append((place, left, top + caption))
        top += caption + height + GAP
    if legend:
        middle, (height, length, _) = top + (_LEGEND_HEIGHT - GAP) / 2, legend.scale.shape
        size = (round(length * scale), round(height * scale))
        left = round(MARGIN + canvas.length(legend.low, _TEXT_SIZE) + GAP) if legend.low else MARGIN
        colors = cv2.resize(legend.scale, size, interpolation=cv2.INTER_NEAREST_EXACT)
        canvas.pasted.append((colors, left, round(middle - height / 2)))
        canvas.text(legend.low, MARGIN, middle, _TEXT_SIZE, QUIET)
        canvas.text(legend.high, left + length + GAP, middle, _TEXT_SIZE, QUIET)
        canvas.text(legend.text, width - MARGIN, middle, _TEXT_SIZE, QUIET, align="right")
    return canvas


def scale_of(dpi: int | None) -> float:
    """Return how many pixels a page of so many dots an inch has for each of one for the screen, which has none.

    Raises UserError if they are too few or too many.
    """
    if dpi is None:
        return 1.0
    if not MIN_DPI <= dpi <= MAX_DPI:
        raise UserError(f"dpi must be {MIN_DPI} to {MAX_DPI}, not {dpi}")
    return dpi * PRINTED_WIDTH / PAGE_WIDTH


def bands(
    columns: Sequence[Sequence[Tile]], per_row: int, tile_width: int, first: Sequence[Tile] | None = None
) -> list[Row]:
    """Set columns of tiles next to each other, in bands of at most `per_row`; each begins with the column `first`."""
    rows: list[Row] = []
    for begin in range(0, len(columns), per_row):
        band = [*([] if first is None else [first]), *columns[begin : begin + per_row]]
        rows += [Row(tiles, tile_width) for tiles in zip(*band, strict=True)]
    return rows


def per_band(count: int, limit: int = MAX_COLUMNS) -> int:
    """Return how many of `count` tiles to set in a row, at most `limit`: as few rows as can be, as even as can be."""
    return math.ceil(count / math.ceil(count / limit))


def page_width(columns: int, tile_width: int) -> int:
    """Return the width of a page of so many columns."""
    return 2 * MARGIN + columns * (tile_width + GAP) - GAP


def tile_width(columns: int, page_width: int = PAGE_WIDTH) -> int:
    """Return the width of the columns of a page."""
    return (page_width - 2 * MARGIN - (columns - 1) * GAP) // columns


def sheet_tile(dpi: int | None) -> int:
    """Return the width of the pictures of a `Sheet` in pixels."""
    return round(SHEET_TILE * scale_of(dpi))


def overlay_legend(text: str, low: str = "average patch", high: str = "strongest") -> Legend:
    """Return the colours of an overlay on light grey, from weak to strong, with a text at the right."""
    return Legend(overlay_scale((12, 160)), low, high, text)


def overlay_scale(size: tuple[int, int], opacity: float = OPACITY) -> Pixels:
    """Draw the colours of an overlay on light grey, from weak to strong, at `size` = (height, width)."""
    strength = np.tile(np.linspace(0, 1, size[1], dtype=np.float32), (size[0], 1))
    return _colored(np.full((*size, 3), 225, np.float32), strength, opacity)


def mass_legend(mass: float, kind: str) -> Legend:
    """Return the legend of overlays and of masks that hold `mass` of maps of a kind such as "attention"."""
    return overlay_legend(f"masks: the fewest patches that hold {mass:.0%} of the {kind}")


def write_page(path: Path, page: Page) -> None:
    """Write a PNG, or a PDF if the path ends in .pdf, whole or not at all. Raises UserError if that fails."""
    with _writing(path) as partial:
        partial.write_bytes(page.pdf() if path.suffix.lower() == ".pdf" else page.png())


def write_png(path: Path, pixels: UInt8[ndarray, "h w *c"]) -> None:
    """Write a PNG, whole or not at all: grey [h, w], RGB or RGBA. Raises UserError if that fails."""
    with _writing(path) as partial:
        Image.fromarray(pixels).save(partial, "png")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[Path]:
    try:
        with replacing(path) as partial:
            yield partial
    except OSError as error:
        raise UserError(f"{path} could not be written: {error.strerror or error}") from error


def page_names(name: str) -> tuple[str, str]:
    """Return the names of the files that a page may have."""
    return f"{name}.png", f"{name}.pdf"


def page_files(name: str, page: Page) -> Iterator[tuple[str, bytes | None]]:
    """Give name and content of each file of a page, as `files.write_all` takes them; a PDF only if it is for print."""
    png, pdf = page_names(name)
    yield png, page.png()
    yield pdf, None if page.dpi is None else page.pdf()


def webp(pixels: UInt8[ndarray, "h w 3"], *, lossless: bool = False) -> bytes:
    """Return a WebP file. lossless: for drawings of few colours, which are smaller that way and without smears."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "webp", quality=_WEBP_QUALITY, method=_WEBP_EFFORT, lossless=lossless)
    return file.getvalue()


class Page:
    """A page: texts in a figure, and pictures (with left and top) to be pasted over it when it is drawn."""

    def __init__(self, width: float, height: float, dpi: int | None = None) -> None:
        self.dpi, self.scale = dpi, scale_of(dpi)
        self._size = (round(width * self.scale), round(height * self.scale))  # in real pixels
        self.width, self.height = (pixels / self.scale for pixels in self._size)
        dots = dpi or _SCREEN_DPI
        self._points = 72 * self.scale / dots  # of print, in a pixel of the layout
        self.figure = Figure((self._size[0] / dots, self._size[1] / dots), dpi=dots, facecolor="white")
        self.agg = FigureCanvasAgg(self.figure)
        self.pasted: list[tuple[Pixels, float, float]] = []

    def line(self, text: str, detail: str, left: float, right: float, middle: float, size: float) -> None:
        """Set a text at the left and a quieter one at the right; the left gives way."""
        detail = self._shortened(detail, _TEXT_SIZE, right - left)
        room = right - left - self.length(detail, _TEXT_SIZE) - GAP
        self.text(self._shortened(text, size, room), left, middle, size, INK)
        self.text(detail, right, middle, _TEXT_SIZE, QUIET, align="right")

    def text(self, text: str, x: float, middle: float, size: float, color: str, align: str = "left") -> None:
        """Set a text in the middle of its line."""
        if text:
            baseline = 1 - (middle + 0.35 * size) / self.height  # half of a capital letter below
            looks = {"fontproperties": self._font(size), "color": color, "horizontalalignment": align}
            self.figure.text(x / self.width, baseline, _drawable(text), parse_math=False, **looks)

    def length(self, text: str, size: float) -> float:
        """Return the width of a text in pixels."""
        if not text:
            return 0.0
        with _any_letter():
            measure = self.agg.get_renderer().get_text_width_height_descent
            return measure(_drawable(text), self._font(size), ismath=False)[0] / self.scale

    def broken(self, text: str, size: float, room: float) -> list[str]:
        """Break a text between words into lines of at most `room` pixels; a word that is longer loses its middle."""
        lines: list[str] = []
        for word in text.split():
            longer = f"{lines[-1]} {word}" if lines else word
            if lines and self.length(longer, size) <= room:
                lines[-1] = longer
            else:
                lines.append(self._shortened(word, size, room))
        return lines

    def _shortened(self, text: str, size: float, room: float) -> str:
        """Drop as much of the text's middle as it takes to fit into `room` pixels."""
        if self.length(text, size) <= room:
            return text

        def without_middle(letters: int) -> str:
            return text[: letters - letters // 2] + "…" + text[len(text) - letters // 2 :]

        fitting = bisect_right(range(len(text)), room, key=lambda letters: self.length(without_middle(letters), size))
        return without_middle(max(fitting - 1, 0))

    def pixels(self) -> Pixels:
        """Draw the texts, and paste the pictures."""
        with _any_letter():
            self.agg.draw()
        page = np.array(self.agg.buffer_rgba())[..., :3].copy()
        for picture, left, top in self._placed():
            page[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
        return page

    def png(self) -> bytes:
        """Return a PNG file, which tells its dots an inch if it is for print."""
        file = io.BytesIO()
        Image.fromarray(self.pixels()).save(file, "png", **({} if self.dpi is None else {"dpi": (self.dpi, self.dpi)}))
        return file.getvalue()

    def pdf(self) -> bytes:
        """Return a PDF file: its texts are letters with their fonts, and pictures have the pixels of `pixels`."""
        width, height = self._size
        axes: list[Axes] = []
        for picture, left, top in self._placed():
            down, across = picture.shape[:2]
            bounds = (left / width, 1 - (top + down) / height, across / width, down / height)
            axes.append(self.figure.add_axes(bounds))
            axes[-1].set_axis_off()
            axes[-1].imshow(picture, interpolation="none", aspect="auto")
        file = io.BytesIO()
        with _any_letter(), matplotlib.rc_context({"pdf.fonttype": 42}):  # TrueType: publishers refuse Type 3
            self.figure.savefig(file, format="pdf", metadata={"CreationDate": None})
        for each in axes:
            each.remove()
        return file.getvalue()

    def _placed(self) -> Iterator[tuple[Pixels, int, int]]:
        """Give the pictures with their left and top in real pixels."""
        for picture, left, top in self.pasted:
            yield picture, round(left * self.scale), round(top * self.scale)

    def _font(self, size: float) -> FontProperties:
        return FontProperties(family=FONT, size=size * self._points)


def _drawable(text: str) -> str:
    """Put a question mark for each byte of a file's name that is no UTF-8: no font has a letter for it."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


@contextlib.contextmanager
def _any_letter() -> Iterator[None]:
    """Draw letters that the font lacks as boxes, without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield
