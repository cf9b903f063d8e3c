"""Maps of images by their features: a point for each, and thumbnails in the free places. Pixels in, pixels out."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.colors import to_rgb
from numpy import ndarray

from dinoscope.pictures import (
    MARGIN,
    MAX_COLUMNS,
    PAGE_WIDTH,
    Page,
    Pixels,
    Row,
    Tile,
    bands,
    layout,
    page_width,
    per_band,
    scale_of,
    tile_width,
)
from dinoscope.types import FeatureBank

CLASS_COLORS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
"""Petroff 2021, Accessible Color Sequences for Data Visualization: ten that most people can tell apart."""
NEUTRAL = (63, 90, 130)

_MIN_THUMBNAIL, _MAX_THUMBNAIL = 36, 96  # pixels, with the frame
_FRAME = 2
_FARTHEST = 2.0  # thumbnails that one may be moved to find room; beyond, its place would mean nothing
_FLATTEST, _STEEPEST = 0.45, 0.8  # height over width of a map of thumbnails
_FILLED = 0.5  # share of a map that thumbnails would cover if all found room
_FINER = 4  # a panel of points is drawn so much larger: smooth edges


@dataclass(frozen=True)
class Labelling:
    """The class of each of n images, and the names of all classes."""

    labels: tuple[int, ...]
    classes: tuple[str, ...]

    @property
    def colors(self) -> dict[int, tuple[int, int, int]]:
        """The colour of each class that occurs; above ten they differ in hue, which shows groups but has no names."""
        present = sorted(set(self.labels))
        colors = [to_rgb(color) for color in CLASS_COLORS]
        if len(present) > len(CLASS_COLORS):
            hues = [place / len(present) for place in range(len(present))]
            colors = [colorsys.hls_to_rgb(hue, 0.45 + 0.12 * (place % 2), 0.75) for place, hue in enumerate(hues)]
        rgb = [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in colors]
        return dict(zip(present, rgb, strict=False))

    @property
    def can_be_named(self) -> bool:
        """Whether there are so few classes that the colour of each can be told from all others."""
        return len(set(self.labels)) <= len(CLASS_COLORS)


def labelling_of(bank: FeatureBank) -> Labelling | None:
    """Return the classes of the images of a bank, or None without labels."""
    return None if bank.labels is None else Labelling(tuple(bank.labels.tolist()), bank.classes)


def image_colors(count: int, labelling: Labelling | None) -> UInt8[ndarray, "n 3"]:
    """Return the colour of each of `count` images: that of its class, or one for all without labels."""
    if labelling is None:
        return np.full((count, 3), NEUTRAL, np.uint8)
    colors = labelling.colors
    return np.array([colors[label] for label in labelling.labels], np.uint8)


def points_page(
    maps: Sequence[tuple[str, str, Float[ndarray, "n 2"]]], labelling: Labelling | None, *, dpi: int | None = None
) -> Page:
    """Draw the same images on the maps of several models, given as title, detail and points; the classes below."""
    per_row = per_band(len(maps), MAX_COLUMNS // 2)
    width = tile_width(max(2, per_row))
    colors = image_colors(len(maps[0][2]), labelling)
    tiles = [
        [Tile(points_panel(points, colors, width, scale_of(dpi)), title, detail)] for title, detail, points in maps
    ]
    rows = bands(tiles, per_row, width)
    return layout([*rows, *_legend(labelling, page_width(per_row, width), dpi)], min_width=0, dpi=dpi)


def points_panel(points: Float[ndarray, "n 2"], colors: UInt8[ndarray, "n 3"], side: int, scale: float = 1) -> Pixels:
    """Draw a square with a dot for each image, `scale` times as large; both axes have the same scale."""
    radius = float(np.clip(side / (2 * math.sqrt(len(points)) + 40), 2.5, 7)) * scale * _FINER
    side = round(side * scale)
    large = side * _FINER
    canvas = np.full((large, large, 3), 255, np.uint8)
    places = _fitted(points, (large, large), border=round(2.5 * radius))
    # in an order that no class decides, so that none lies above all others
    for index in np.random.default_rng(0).permutation(len(points)):
        centre = (int(places[index, 0]), int(places[index, 1]))
        cv2.circle(canvas, centre, round(radius), (255, 255, 255), -1)
        cv2.circle(canvas, centre, round(0.8 * radius), tuple(int(value) for value in colors[index]), -1)
    small = cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA)
    return cv2.rectangle(small, (0, 0), (side - 1, side - 1), (225, 225, 225), max(1, round(scale)))


def thumbnail(image: UInt8[ndarray, "h w 3"], dpi: int | None = None) -> UInt8[ndarray, "_ _ 3"]:
    """Return all that `thumbnails_page` needs of an image, however large: its middle square, finer than it is drawn."""
    square = _middle(image)
    side = min(len(square), round(2 * _MAX_THUMBNAIL * max(1.0, scale_of(dpi) / 2)))
    return cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA)


def thumbnails_page(
    points: Float[ndarray, "n 2"],
    images: Sequence[UInt8[ndarray, "_ _ 3"]],
    labelling: Labelling | None,
    title: str = "",
    note: str = "",
    *,
    dpi: int | None = None,
) -> tuple[Page, int]:
    """Draw a map of thumbnails, framed in the colours of their classes if those can be named; return how many fit.

    None overlap: each is moved to the nearest free place, and left out if that is too far. title, note: set above.
    """
    width = PAGE_WIDTH - 2 * MARGIN
    spans = np.ptp(points, axis=0)
    steep = spans[1] >= _STEEPEST * spans[0]
    height = round(width * (_STEEPEST if steep else max(float(spans[1] / spans[0]), _FLATTEST)))
    side = round(np.clip(math.sqrt(_FILLED * width * height / len(points)), _MIN_THUMBNAIL, _MAX_THUMBNAIL))
    columns, rows = width // side, height // side
    cells = thumbnail_cells(_fitted(points, (columns, rows), border=0.5), (columns, rows))
    # from here on in the pixels of the page
    scale = scale_of(dpi)
    across, side, gap = round(width * scale), int(side * scale), round(scale)
    canvas = np.full((rows * side, across, 3), 255, np.uint8)
    frame = round(_FRAME * scale) if labelling is not None and labelling.can_be_named else 0
    colors, place = image_colors(len(points), labelling), side - 2 * gap
    inner = place - 2 * frame
    for index, (column, row) in cells.items():
        square = _middle(images[index])
        kind = cv2.INTER_AREA if len(square) > inner else cv2.INTER_CUBIC
        top, left = row * side + gap, (across - columns * side) // 2 + column * side + gap
        canvas[top : top + place, left : left + place] = colors[index]
        small = cv2.resize(square, (inner, inner), interpolation=kind)
        canvas[top + frame : top + frame + inner, left + frame : left + frame + inner] = small
    rows_of = [Row([Tile(canvas)], width), *_legend(labelling, PAGE_WIDTH, dpi)]
    return layout(rows_of, title, note, dpi=dpi), len(cells)


def thumbnail_cells(places: Float[ndarray, "n 2"], size: tuple[int, int]) -> dict[int, tuple[int, int]]:
    """Return a cell (column, row) of its own for each image that finds one near its place; the closest pairs first.

    places: in cells, 0.5 being the middle of the first. size: columns and rows.
    """
    reach = np.arange(-math.ceil(_FARTHEST), math.ceil(_FARTHEST) + 1)
    pairs: list[tuple[float, int, int, int]] = []
    for index, (x, y) in enumerate(places.tolist()):
        for column in (math.floor(x) + reach).tolist():
            for row in (math.floor(y) + reach).tolist():
                distance = math.hypot(column + 0.5 - x, row + 0.5 - y)
                if 0 <= column < size[0] and 0 <= row < size[1] and distance <= _FARTHEST:
                    pairs.append((distance, index, column, row))
    cells: dict[int, tuple[int, int]] = {}
    taken: set[tuple[int, int]] = set()
    for _, index, column, row in sorted(pairs):
        if index not in cells and (column, row) not in taken:
            cells[index] = (column, row)
            taken.add((column, row))
    return cells


def _fitted(points: Float[ndarray, "n 2"], size: tuple[int, int], border: float) -> Float[ndarray, "n 2"]:
    """Fit points into a rectangle (width, height), in its middle, with one scale for both axes; y points up."""
    room = np.array(size, np.float64) - 2 * border
    low, spans = points.min(axis=0), np.ptp(points, axis=0)
    scale = min((r / s for r, s in zip(room, spans, strict=True) if s > 0), default=0.0)
    placed = (points - low - spans / 2) * scale * np.array([1, -1]) + np.array(size) / 2
    return placed.clip(border, np.array(size) - border)


def _middle(image: UInt8[ndarray, "h w 3"]) -> UInt8[ndarray, "s s 3"]:
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def _legend(labelling: Labelling | None, width: int, dpi: int | None) -> list[Row]:
    """Return the names of the classes, each over a bar of its colour, for a page of this width."""
    if labelling is None or not labelling.can_be_named:
        return []
    colors = labelling.colors
    per_row = per_band(len(colors), max(1, (width - 2 * MARGIN) // 110))
    side = min(tile_width(per_row, width), 180)
    size = (round(8 * scale_of(dpi)), round(side * scale_of(dpi)), 3)
    bars = [[Tile(np.full(size, color, np.uint8), labelling.classes[label])] for label, color in colors.items()]
    return bands(bars, per_row, side)
