"""Objects that models followed through a video, beside the truth. Pixels in, pixels out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import UInt8
from numpy import ndarray

from dinoscope.pictures import Pixels, Row, Tile, fitted, objects_overlay, page, page_width

_TILE = 300


@dataclass(frozen=True)
class Followed:
    """What one model made of a frame: the number of the object at each pixel, and the mean J of its objects."""

    label: str
    ids: UInt8[ndarray, "h w"]
    j: float


@dataclass(frozen=True)
class FrameRow:
    """A frame, its truth, and what the models made of it."""

    number: int
    image: UInt8[ndarray, "h w 3"]
    truth: UInt8[ndarray, "h w"]
    models: tuple[Followed, ...]


def frames_sheet(rows: Sequence[FrameRow]) -> Pixels:
    """One line of pictures for each frame: the truth, then each model."""
    lines = [Row(_tiles(row), _TILE) for row in rows]
    return page(lines, page_width(1 + len(rows[0].models), _TILE))


def _tiles(row: FrameRow) -> list[Tile]:
    truth = fitted(objects_overlay(row.image, row.truth), _TILE)
    tiles = [Tile(truth, "truth", f"frame {row.number}")]
    for each in row.models:
        shown = fitted(objects_overlay(row.image, each.ids), _TILE)
        tiles.append(Tile(shown, each.label, f"J {100 * each.j:.1f} %"))
    return tiles
