"""A sheet of images, the truth, and the mask of each model with its Jaccard. Pixels in, pixels out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8
from numpy import ndarray

from dinoscope.data.benchmarks import BACKGROUND, VOID
from dinoscope.pictures import Pixels, Row, Tile, fitted, page, page_width, tinted, truth_overlay

_TILE = 300


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


def _classes(truth: UInt8[ndarray, "h w"]) -> str:
    values = [int(value) for value in np.unique(truth) if value not in (BACKGROUND, VOID)]
    return f"class {values[0]}" if len(values) == 1 else f"classes {', '.join(map(str, values))}"
