"""One step of label propagation: a cell takes over the labels of the cells of earlier frames that look most like it.

The published protocol compares every cell with every cell of the earlier frames and throws away what lies
outside of a square window. Here only the window is ever computed. The target is cut into tiles; a tile is
compared with the cells around it, frame by frame, one small matrix product per row of cells. The cells most
similar in any frame are found first, so that few similarities are looked at one by one. Results are equal but
for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dinoscope.errors import UserError

_TILE = 8
"""Cells per side of a tile. Larger ones compare more pairs outside of the window, smaller ones multiply slowly."""
_BYTES_PER_SIMILARITY = 16  # itself, and its temporaries where similarities are tied
_BYTES_PER_PAIR = 24  # a cell of the tile and a cell around it: the best frame's similarity, twice, and what is near


@dataclass(frozen=True)
class PropagationConfig:
    """Settings of label propagation; the defaults are DINO's for DAVIS 2017.

    size: short side at which the network sees a frame, in pixels.
    context: frames before the current one that it is compared with, besides the first.
    radius: a cell is compared with those at most so many rows and columns away; None: with all.
    top_k: most similar cells that count, over all frames together. More where the last of them is tied.
    temperature: divides the cosine similarity before the exponential.
    max_bytes: working memory to aim for in a step, beside its inputs and result; the least that is held is
        one cell's window.
    """

    size: int = 480
    context: int = 7
    radius: int | None = 12
    top_k: int = 5
    temperature: float = 0.1
    max_bytes: int = 256 * 2**20


@dataclass(frozen=True)
class _Tile:
    """Cells of the target, and the rectangle that the windows of all of them cover."""

    rows: slice
    columns: slice
    near_rows: slice
    near_columns: slice

    @property
    def count(self) -> int:
        """Cells of the tile."""
        return _length(self.rows) * _length(self.columns)


def check_config(config: PropagationConfig) -> None:
    """Raise UserError for a setting that is out of range."""
    lowest = {"size": 1, "context": 0, "radius": 0, "top_k": 1, "max_bytes": 1}
    for name, least in lowest.items():
        value = getattr(config, name)
        if value is not None and value < least:
            raise UserError(f"label propagation: {name} must be at least {least}, not {value}")
    # below, 1 / temperature is infinite in float32, and so the weight of the best no number
    if not 1e-30 <= config.temperature < float("inf"):
        raise UserError(
            f"label propagation: the temperature must be above 0, at least 1e-30 (DINO: 0.1), not {config.temperature}"
        )


@torch.no_grad()
def propagate_labels(
    target: Float[Tensor, "n d"],
    sources: Float[Tensor, "frames n d"],
    labels: Float[Tensor, "frames labels rows columns"],
    config: PropagationConfig,
) -> Float[Tensor, "labels rows columns"]:
    """Soft labels of a frame's cells from those of other frames (DINO, section 4.2.2, after Jabri et al. 2020).

    Features are row by row and of length 1. A source within the window weighs exp(similarity / temperature) if
    it is among the `top_k` most similar of all frames (as similar as the last of them is enough), else nothing.
    A cell gets the weighted mean.

    Raises UserError where a setting is out of range.
    """
    check_config(config)
    frames, _, rows, columns = labels.shape
    grid = (rows, columns)
    target, sources = target.reshape(rows, columns, -1), sources.reshape(frames, rows, columns, -1)
    result = labels.new_empty(rows, columns, labels.shape[1])
    radius = max(grid) if config.radius is None else config.radius
    side = _tile_side(grid, radius, frames, config.max_bytes)
    room = target.new_empty(max(frames * _pairs(tile) for tile in _tiles(grid, side, radius)))
    for tile in _tiles(grid, side, radius):
        similarity = _similarities(target, sources, tile, room)
        values = _tile_labels(similarity, labels, tile, _near(tile, radius, target.device), config)
        result[tile.rows, tile.columns] = values.view(_length(tile.rows), _length(tile.columns), -1)
    return result.permute(2, 0, 1).contiguous()


def _tiles(grid: tuple[int, int], side: int, radius: int) -> Iterator[_Tile]:
    """Tiles of nearly equal size, at most `side` cells high and wide, that cover the grid."""
    for rows, near_rows in _spans(grid[0], side, radius):
        for columns, near_columns in _spans(grid[1], side, radius):
            yield _Tile(rows, columns, near_rows, near_columns)


def _spans(length: int, side: int, radius: int) -> Iterator[tuple[slice, slice]]:
    """Parts of one dimension, each with what lies within the radius of any of it."""
    parts = -(-length // side)
    for part in range(parts):
        begin, end = length * part // parts, length * (part + 1) // parts
        yield slice(begin, end), slice(max(0, begin - radius), min(length, end + radius))


def _tile_side(grid: tuple[int, int], radius: int, frames: int, max_bytes: int) -> int:
    """The largest side up to `_TILE` whose tiles stay within the memory, or 1."""
    per_pair = _BYTES_PER_SIMILARITY * frames + _BYTES_PER_PAIR
    for side in range(_TILE, 1, -1):
        if per_pair * max(_pairs(tile) for tile in _tiles(grid, side, radius)) <= max_bytes:
            return side
    return 1


def _pairs(tile: _Tile) -> int:
    return tile.count * _length(tile.near_rows) * _length(tile.near_columns)


def _length(part: slice) -> int:
    return part.stop - part.start


def _similarities(
    target: Float[Tensor, "rows columns d"],
    sources: Float[Tensor, "frames rows columns d"],
    tile: _Tile,
    room: Float[Tensor, " _"],
) -> Float[Tensor, "frames near_rows cells near_columns"]:
    """Scalar products of a tile's cells with those around it, written to `room`.

    One product per frame and row, since those cells lie in memory one behind the other: nothing is copied.
    """
    queries = target[tile.rows, tile.columns].flatten(0, 1)
    shape = (len(sources), _length(tile.near_rows), len(queries), _length(tile.near_columns))
    result = room[: shape[0] * shape[1] * shape[2] * shape[3]].view(shape)
    repeated = queries.expand(shape[1], -1, -1)
    for frame, products in zip(sources, result, strict=True):
        keys = frame[tile.near_rows, tile.near_columns]
        torch.bmm(repeated, keys.transpose(1, 2), out=products)
    return result


def _near(tile: _Tile, radius: int, device: torch.device) -> Bool[Tensor, "cells near_rows near_columns"]:
    """Which of the cells around a tile lie in the window of which of its cells."""
    rows = _within(tile.rows, tile.near_rows, radius, device)
    columns = _within(tile.columns, tile.near_columns, radius, device)
    return (rows[:, None, :, None] & columns[None, :, None, :]).flatten(0, 1)


def _within(part: slice, around: slice, radius: int, device: torch.device) -> Bool[Tensor, "part around"]:
    positions = torch.arange(around.stop, device=device)
    return (positions[part, None] - positions[None, around]).abs() <= radius


def _tile_labels(
    similarity: Float[Tensor, "frames near_rows cells near_columns"],
    labels: Float[Tensor, "frames labels rows columns"],
    tile: _Tile,
    near: Bool[Tensor, "cells near_rows near_columns"],
    config: PropagationConfig,
) -> Float[Tensor, "cells labels"]:
    """Labels of the cells of a tile.

    The k most similar pairs of (frame, place) lie at the k places whose best frame is most similar: were one at
    another place, those k places would each hold one that is at least as similar.
    """
    peaks = similarity.amax(dim=0).transpose(0, 1).masked_fill(~near, -torch.inf).flatten(1)
    places = min(config.top_k, peaks.shape[1])
    # one place more than is needed: it tells whether the last similarity that counts is tied beyond the k places
    best, place = peaks.topk(min(places + 1, peaks.shape[1]))
    beyond, best, place = best[:, places:], best[:, :places], place[:, :places]
    width = near.shape[2]
    row, column = place // width, place % width
    cell = torch.arange(len(place), device=place.device)[:, None]
    candidates = similarity[:, row, cell, column].masked_fill(best == -torch.inf, -torch.inf)
    every = candidates.movedim(0, -1).flatten(1)
    threshold = every.topk(min(config.top_k, every.shape[1])).values[:, -1]
    # every cell lies in its own window, so that the best is never -inf
    weights = _weights(every, threshold[:, None], best[:, :1], config.temperature)
    weights = (weights / weights.sum(dim=1, keepdim=True)).view(*place.shape, -1)
    around = labels[:, :, tile.near_rows, tile.near_columns].permute(2, 3, 0, 1)
    # c: cells, k: places, f: frames, l: labels
    result = torch.einsum("ckf,ckfl->cl", weights, around[row, column])
    tied = ((beyond >= threshold[:, None]) & (beyond > -torch.inf)).any(dim=1).nonzero()[:, 0]
    if len(tied):
        result[tied] = _tied_labels(similarity, around, near, (tied, threshold[tied], best[tied, 0]), config)
    return result


def _tied_labels(
    similarity: Float[Tensor, "frames near_rows cells near_columns"],
    around: Float[Tensor, "near_rows near_columns frames labels"],
    near: Bool[Tensor, "cells near_rows near_columns"],
    ties: tuple[Int[Tensor, " tied"], Float[Tensor, " tied"], Float[Tensor, " tied"]],
    config: PropagationConfig,
) -> Float[Tensor, "tied labels"]:
    """Labels of the cells with more than k similarities at or above the threshold: the whole window is weighed.

    ties: the cells, the threshold and the largest similarity of each. Happens where frames have flat areas.
    """
    cells, threshold, best = ties
    window = similarity[:, :, cells].permute(2, 1, 3, 0)
    limit, top = threshold.view(-1, 1, 1, 1), best.view(-1, 1, 1, 1)
    weights = _weights(window, limit, top, config.temperature) * near[cells, :, :, None]
    flat = weights.flatten(1)
    return (flat @ around.flatten(0, 2)) / flat.sum(dim=1, keepdim=True)


def _weights(
    similarity: Float[Tensor, "*s"], threshold: Float[Tensor, "*#s"], best: Float[Tensor, "*#s"], temperature: float
) -> Float[Tensor, "*s"]:
    """exp(similarity / temperature), 0 below the threshold; relative to the best, so that none is infinite."""
    return ((similarity - best) / temperature).exp() * (similarity >= threshold)
