"""Where objects are in a picture, from a few clicks: places that look more like them than like the picture's edge.

With f(x) a cell's feature of length 1, an object has at a cell x the score

    s(x) = like(x, its clicks) - max(like(x, the edge), like(x, its clicks that take away)) + reach

like(x, clicks) is the mean of the largest cosines of f(x) with the cells around the clicks, like(x, the edge) the mean
of the largest with the cells at the edge of the picture, which is mostly background. The region is what is connected to
a click through cells of a score above 0. Nothing is trained, and the same clicks give the same region.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from torch import Tensor

from dinoscope.data.benchmarks import voc_palette

OBJECTS = 6
"""Objects that may be marked: as many colours are told apart easily."""
_EDGE_SHARE = 1 / 8  # of the edge's cells that count: an object may lie at the edge and not be taken for background
_SEED_CELLS = 3  # of the cells around clicks that count: a texture's light or dark part
_NOWHERE = -1.0  # a score below that of any cell of a region
_OPAQUE = 128  # of 255: paint that covers less of a pixel is the soft edge of a stroke


@dataclass(frozen=True)
class Click:
    """A click on object `number`, from 1; row and column are shares of the picture's height and width, in [0, 1).

    adds: the object is here; False: it is not.
    """

    number: int
    row: float
    column: float
    adds: bool = True


@dataclass(frozen=True, eq=False)
class Painting:
    """What was painted with a brush: the object of each pixel, 0 for none."""

    ids: UInt8[ndarray, "h w"]


@dataclass(frozen=True)
class Marks:
    """All that a person has marked, in order; every change gives new marks.

    reach: added to the scores of all regions: above 0 they grow, below they shrink.
    """

    marks: tuple[Click | Painting, ...] = ()
    reach: float = 0.0

    def with_mark(self, mark: Click | Painting) -> Marks:
        """These, and one more."""
        return replace(self, marks=(*self.marks, mark))

    def undone(self) -> Marks:
        """Without the last; the same where there is none."""
        return replace(self, marks=self.marks[:-1])

    @property
    def clicks(self) -> tuple[Click, ...]:
        """The clicks alone."""
        return tuple(mark for mark in self.marks if isinstance(mark, Click))

    def ids(self, cells: Float[Tensor, "rows columns d"] | None, size: tuple[int, int]) -> UInt8[ndarray, "h w"]:
        """The object of each pixel of a picture of `size`, 0 for none: regions of clicks, over them what is painted.

        cells: features of length 1 of the cells that cover the picture; may be None where there are no clicks.
        """
        ids = np.zeros(size, np.uint8) if cells is None else grown(self.clicks, cells, size, self.reach)
        for mark in self.marks:
            if isinstance(mark, Painting):
                ids = np.where(mark.ids > 0, mark.ids, ids)
        return ids


def grown(
    clicks: Sequence[Click], cells: Float[Tensor, "rows columns d"], size: tuple[int, int], reach: float = 0.0
) -> UInt8[ndarray, "h w"]:
    """The object of each pixel, 0 for none, by the rule above; of several objects the one of the highest score."""
    ids, best = np.zeros(size, np.uint8), np.zeros(size, np.float32)
    against = _likeness(cells, _edge(cells), _EDGE_SHARE)
    for number in sorted({click.number for click in clicks if click.adds}):
        own = [click for click in clicks if click.number == number]
        score = _score(own, cells, against) + reach
        region = _region(score, own)
        inside = score > 0
        # cells alike that are not connected would bleed into the region's border where scores are interpolated
        score = np.where(region | ~inside, score, _NOWHERE).astype(np.float32)
        pixels = cv2.resize(score, size[::-1], interpolation=cv2.INTER_LINEAR)
        ids[pixels > best] = number
        best = np.maximum(best, pixels)
    return ids


def painted(layers: Iterable[UInt8[ndarray, "_ _ 4"]], size: tuple[int, int]) -> UInt8[ndarray, "h w"]:
    """The object of each painted pixel, by the nearest of their colours; 0 where there is no paint.

    layers: RGBA, the lowest first, of the picture's aspect.
    """
    ids = np.zeros(size, np.uint8)
    colors = np.asarray(object_colors(), np.int64)
    for layer in layers:
        if layer.shape[:2] != size:
            layer = cv2.resize(layer, size[::-1], interpolation=cv2.INTER_NEAREST)
        opaque = layer[..., 3] >= _OPAQUE
        distance = ((layer[opaque][:, None, :3].astype(np.int64) - colors) ** 2).sum(axis=2)
        ids[opaque] = 1 + distance.argmin(axis=1)
    return ids


def object_colors() -> list[tuple[int, int, int]]:
    """RGB of objects 1 to `OBJECTS`: VOC's, which the masks have too."""
    flat = voc_palette()
    return [(flat[at], flat[at + 1], flat[at + 2]) for at in range(3, 3 * OBJECTS + 3, 3)]


def _score(
    clicks: Sequence[Click], cells: Float[Tensor, "rows columns d"], against: Float[Tensor, "rows columns"]
) -> Float[ndarray, "rows columns"]:
    """s(x) of one object, without the reach. Clicked cells are in it, or out of it, whatever they look like."""
    near = _likeness(cells, _around([click for click in clicks if click.adds], cells), None)
    if away := [click for click in clicks if not click.adds]:
        against = torch.maximum(against, _likeness(cells, _around(away, cells), None))
    score = (near - against).numpy()
    for click in clicks:  # in order: the last click on a cell counts
        place = _cell(click, cells)
        score[place] = max(score[place], 1.0) if click.adds else _NOWHERE
    return score


def _likeness(
    cells: Float[Tensor, "rows columns d"], seeds: Float[Tensor, "n d"], share: float | None
) -> Float[Tensor, "rows columns"]:
    """Mean of the largest cosines of each cell with the seeds: of a share of them, or of `_SEED_CELLS`."""
    count = _SEED_CELLS if share is None else max(1, round(share * len(seeds)))
    return (cells @ seeds.T).topk(min(count, len(seeds)), dim=2).values.mean(dim=2)


def _edge(cells: Float[Tensor, "rows columns d"]) -> Float[Tensor, "n d"]:
    inner = torch.zeros(cells.shape[:2], dtype=torch.bool)
    inner[1:-1, 1:-1] = True
    return cells[~inner]


def _around(clicks: Sequence[Click], cells: Float[Tensor, "rows columns d"]) -> Float[Tensor, "n d"]:
    """The clicked cells and their neighbours, corners too."""
    parts: list[Tensor] = []
    for click in clicks:
        row, column = _cell(click, cells)
        parts.append(cells[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].flatten(0, 1))
    return torch.cat(parts)


def _cell(click: Click, cells: Float[Tensor, "rows columns d"]) -> tuple[int, int]:
    rows, columns = cells.shape[:2]
    return min(rows - 1, int(click.row * rows)), min(columns - 1, int(click.column * columns))


def _region(score: Float[ndarray, "rows columns"], clicks: Sequence[Click]) -> Bool[ndarray, "rows columns"]:
    """Cells connected (4 neighbours) to a click of the object through scores above 0."""
    _, parts = cv2.connectedComponents((score > 0).astype(np.uint8), connectivity=4)
    rows, columns = score.shape
    at = [
        parts[min(rows - 1, int(click.row * rows)), min(columns - 1, int(click.column * columns))]
        for click in clicks
        if click.adds
    ]
    return np.isin(parts, [part for part in at if part])
