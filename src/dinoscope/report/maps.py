"""Maps of images by their features: a point for each, and thumbnails in the free places. Pixels in, pixels out."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from dinoscope.pictures import (
    MARGIN,
    MAX_COLUMNS,
    PAGE_WIDTH,
    Pixels,
    Row,
    Tile,
    page,
    page_width,
    per_band,
    tile_width,
)
from dinoscope.types import FeatureBank

CLASS_COLORS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
"""Petroff 2021, Accessible Color Sequences for Data Visualization: ten that most people can tell apart."""
NEUTRAL = (63, 90, 130)

_SMALLEST_THUMBNAIL, _LARGEST_THUMBNAIL = 36, 96  # pixels, with the frame
_FRAME = 2
_FARTHEST = 2.0  # thumbnails that one may be moved to find room; beyond, its place would say nothing
_FLATTEST, _STEEPEST = 0.45, 0.8  # height over width of a map of thumbnails
_FILLED = 0.5  # share of a map that thumbnails would cover if all found room
_FINER = 4  # a panel of points is drawn so much larger: smooth edges


@dataclass(frozen=True)
class Labelling:
    """The class of each of n images, and the names of all classes."""

    labels: tuple[int, ...]
    classes: tuple[str, ...]

    @property
    def present(self) -> list[int]:
        """The classes that occur, in their order."""
        return sorted(set(self.labels))

    @property
    def can_be_named(self) -> bool:
        """Whether there are so few that each has a colour that can be told from all others."""
        return len(self.present) <= len(CLASS_COLORS)


def labelling_of(bank: FeatureBank) -> Labelling | None:
    """The classes of the images of a bank, or None without labels."""
    return None if bank.labels is None else Labelling(tuple(bank.labels.tolist()), bank.classes)


@dataclass(frozen=True)
class ModelPoints:
    """What one model makes of the images: a title, a number about it, and the place of each."""

    title: str
    detail: str
    points: Float[ndarray, "n 2"]


def image_colors(count: int, labelling: Labelling | None) -> UInt8[ndarray, "n 3"]:
    """The colour of each of `count` images: that of its class, or one for all without labels."""
    if labelling is None:
        return np.full((count, 3), NEUTRAL, np.uint8)
    present = labelling.present
    of_class = dict(zip(present, _class_colors(len(present)), strict=True))
    return np.array([of_class[label] for label in labelling.labels], np.uint8)


def points_page(maps: Sequence[ModelPoints], labelling: Labelling | None) -> Pixels:
    """The same images on the maps of several models, next to each other; the classes below, where they can be named."""
    per_row = per_band(len(maps), MAX_COLUMNS // 2)
    width = tile_width(PAGE_WIDTH, max(2, per_row))
    colors = image_colors(len(maps[0].points), labelling)
    tiles = [Tile(points_panel(each.points, colors, width), each.title, each.detail) for each in maps]
    rows = [Row(tiles[begin : begin + per_row], width) for begin in range(0, len(tiles), per_row)]
    whole = page_width(per_row, width)
    return page([*rows, *_legend(labelling, whole)], whole)


def points_panel(points: Float[ndarray, "n 2"], colors: UInt8[ndarray, "n 3"], side: int) -> Pixels:
    """A square with a dot for each image; both axes have the same scale."""
    large = side * _FINER
    canvas = np.full((large, large, 3), 255, np.uint8)
    radius = float(np.clip(side / (2 * math.sqrt(len(points)) + 40), 2.5, 7)) * _FINER
    places = _fitted(points, (large, large), border=round(2.5 * radius))
    # in an order that no class decides, so that none lies above all others
    for index in np.random.default_rng(0).permutation(len(points)):
        centre = (int(places[index, 0]), int(places[index, 1]))
        cv2.circle(canvas, centre, round(radius), (255, 255, 255), -1)
        cv2.circle(canvas, centre, round(0.8 * radius), tuple(int(value) for value in colors[index]), -1)
    small = cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA)
    return cv2.rectangle(small, (0, 0), (side - 1, side - 1), (225, 225, 225), 1)


def thumbnail(image: UInt8[ndarray, "h w 3"]) -> UInt8[ndarray, "_ _ 3"]:
    """All that `thumbnails_page` needs of an image, however large: its middle square, twice as fine as it is drawn."""
    square = _middle(image)
    side = min(len(square), 2 * _LARGEST_THUMBNAIL)
    return cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA)


def thumbnails_page(
    points: Float[ndarray, "n 2"],
    images: Sequence[UInt8[ndarray, "_ _ 3"]],
    labelling: Labelling | None,
    title: str = "",
    note: str = "",
) -> tuple[Pixels, int]:
    """A map of thumbnails, framed in the colours of their classes if those can be named; and how many found room.

    None overlap: each is moved to the nearest free place, and left out where that is too far.
    title, note: set above.
    """
    width = PAGE_WIDTH - 2 * MARGIN
    spans = np.ptp(points, axis=0)
    steep = spans[1] >= _STEEPEST * spans[0]
    height = round(width * (_STEEPEST if steep else max(float(spans[1] / spans[0]), _FLATTEST)))
    tile = round(np.clip(math.sqrt(_FILLED * width * height / len(points)), _SMALLEST_THUMBNAIL, _LARGEST_THUMBNAIL))
    columns, rows = width // tile, height // tile
    canvas = np.full((rows * tile, width, 3), 255, np.uint8)
    cells = thumbnail_cells(_fitted(points, (columns, rows), border=0.5), (columns, rows))
    colors, named = image_colors(len(points), labelling), labelling is not None and labelling.can_be_named
    for index, (column, row) in cells.items():
        framed = _framed(images[index], tile - 2, colors[index] if named else None)
        top, left = row * tile + 1, (width - columns * tile) // 2 + column * tile + 1
        canvas[top : top + tile - 2, left : left + tile - 2] = framed
    drawn = Row([Tile(canvas)], width)
    return page([drawn, *_legend(labelling, PAGE_WIDTH)], PAGE_WIDTH, title, note), len(cells)


def thumbnail_cells(places: Float[ndarray, "n 2"], size: tuple[int, int]) -> dict[int, tuple[int, int]]:
    """A cell (column, row) of its own for each image that finds one near its place; the closest pairs come first.

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
    found: dict[int, tuple[int, int]] = {}
    taken: set[tuple[int, int]] = set()
    for _, index, column, row in sorted(pairs):
        if index not in found and (column, row) not in taken:
            found[index] = (column, row)
            taken.add((column, row))
    return found


def _fitted(points: Float[ndarray, "n 2"], size: tuple[int, int], border: float) -> Float[ndarray, "n 2"]:
    """Points in a rectangle (width, height), in its middle, with one scale for both axes; y points up."""
    room = np.array(size, np.float64) - 2 * border
    low, spans = points.min(axis=0), np.ptp(points, axis=0)
    scale = min((r / s for r, s in zip(room, spans, strict=True) if s > 0), default=0.0)
    placed = (points - low - spans / 2) * scale * np.array([1, -1]) + np.array(size) / 2
    return placed.clip(border, np.array(size) - border)


def _framed(image: UInt8[ndarray, "h w 3"], side: int, color: UInt8[ndarray, " 3"] | None) -> Pixels:
    """The middle square of an image, in a frame."""
    cropped, inner = _middle(image), side if color is None else side - 2 * _FRAME
    kind = cv2.INTER_AREA if len(cropped) > inner else cv2.INTER_CUBIC
    small = cv2.resize(cropped, (inner, inner), interpolation=kind)
    if color is None:
        return small
    framed = np.empty((side, side, 3), np.uint8)
    framed[:] = color
    framed[_FRAME:-_FRAME, _FRAME:-_FRAME] = small
    return framed


def _middle(image: UInt8[ndarray, "h w 3"]) -> UInt8[ndarray, "s s 3"]:
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def _class_colors(count: int) -> list[tuple[int, int, int]]:
    """One colour for each class; above ten they differ in hue, which shows groups but cannot be named."""
    if count <= len(CLASS_COLORS):
        codes = [CLASS_COLORS[place].removeprefix("#") for place in range(count)]
        return [(int(code[:2], 16), int(code[2:4], 16), int(code[4:], 16)) for code in codes]
    hues = [colorsys.hls_to_rgb(place / count, 0.45 + 0.12 * (place % 2), 0.75) for place in range(count)]
    return [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in hues]


def _legend(labelling: Labelling | None, width: int) -> list[Row]:
    """The names of the classes, each over a bar of its colour."""
    if labelling is None or not labelling.can_be_named:
        return []
    present = labelling.present
    per_row = per_band(len(present), max(1, (width - 2 * MARGIN) // 110))
    tile = min(tile_width(width, per_row), 180)
    bars = [
        Tile(np.full((8, tile, 3), color, np.uint8), labelling.classes[value])
        for value, color in zip(present, _class_colors(len(present)), strict=True)
    ]
    return [Row(bars[begin : begin + per_row], tile) for begin in range(0, len(bars), per_row)]
