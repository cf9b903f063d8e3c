"""A sheet of images, the truth, and the mask of each model with its Jaccard. Pixels in, pixels out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from numpy import ndarray

from dinoscope.data.benchmarks import BACKGROUND, VOID, object_pixels
from dinoscope.report.figures import OUTLINE, fitted
from dinoscope.report.layout import Pixels, Row, Tile, page, page_width

_TILE = 300
_TINT = 0.35
_VOID_COLOR = (235, 235, 235)


@dataclass(frozen=True)
class Masked:
    """A model's mask, one value a patch, and its Jaccard in [0, 1]."""

    label: str
    mask: Bool[ndarray, "r c"]
    jaccard: float


@dataclass(frozen=True)
class SheetRow:
    """An image, its mask as in VOC (0 background, 255 void, else a class), and what the models make of it."""

    name: str
    image: UInt8[ndarray, "h w 3"]
    truth: UInt8[ndarray, "h w"]
    models: tuple[Masked, ...]


def mask_sheet(rows: Sequence[SheetRow], title: str, note: str) -> Pixels:
    """One line of pictures for each row: image, truth, one mask for each model. title, note: set above."""
    lines = [Row(_tiles(row), _TILE) for row in rows]
    return page(lines, page_width(2 + len(rows[0].models), _TILE), title, note)


def _tiles(row: SheetRow) -> list[Tile]:
    shown = fitted(row.image, _TILE)
    tiles = [Tile(shown, row.name), Tile(truth_overlay(shown, row.truth), "truth", _classes(row.truth))]
    for each in row.models:
        tiles.append(Tile(tinted(shown, each.mask), each.label, f"{100 * each.jaccard:.1f} %"))
    return tiles


def truth_overlay(image: UInt8[ndarray, "h w 3"], truth: UInt8[ndarray, "a b"]) -> Pixels:
    """The objects as `tinted` shows a mask; void pixels are light grey. The truth may be of another size."""
    height, width = image.shape[:2]
    values = cv2.resize(truth, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    drawn = tinted(image, object_pixels(values))
    drawn[values == VOID] = _VOID_COLOR
    return drawn


def tinted(image: UInt8[ndarray, "h w 3"], mask: Bool[ndarray, "r c"]) -> Pixels:
    """Tint what lies inside of the mask, dim the rest.

    Without the outline of `figures.mask_overlay`: around many small patches there would be little else to see.
    """
    height, width = image.shape[:2]
    inside = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT)[..., None] > 0
    grey = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    colored = (1 - _TINT) * image + _TINT * np.array(OUTLINE)
    return np.rint(np.where(inside, colored, 0.35 * grey)).astype(np.uint8)


def _classes(truth: UInt8[ndarray, "h w"]) -> str:
    values = [int(value) for value in np.unique(truth) if value not in (BACKGROUND, VOID)]
    return f"class {values[0]}" if len(values) == 1 else f"classes {', '.join(map(str, values))}"
