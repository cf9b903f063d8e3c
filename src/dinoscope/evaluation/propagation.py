"""Video object segmentation by label propagation, in DINO's protocol for DAVIS 2017: no training, features only.

The objects are given in the first frame. Every later frame takes over labels, cell by cell, from the first frame and
the latest ones before it. One cell is one patch token, or one place of a ResNet's last feature map.

Two things differ from the published script: pixels are normalised as the network was trained (the script has a standard
deviation of 0.228 for 0.229), and frames more than twice as large as the network is to see them are averaged over
areas, as bilinear sampling would skip pixels.

The published script compares every cell with every cell of the earlier frames and throws away what lies outside of a
square window. Here only the window is computed. The target is cut into tiles; a tile is compared with the cells around
it, frame by frame, one small matrix product per row of cells. The places most similar in any frame are found first, so
that few similarities are looked at one by one. Results are equal but for rounding.
"""

from __future__ import annotations

import logging
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from PIL import Image
from torch import Tensor

from dinoscope.errors import UserError
from dinoscope.models.network import Backbone, require_patches

_log = logging.getLogger(__name__)

_LONG_SIDE_STEP = 64  # pixels: DINO's long side is a multiple of it
_MAX_CELLS = 2**16
_TILE = 8
"""Cells per side of a tile. Larger ones compare more pairs outside of the window, smaller ones multiply slowly."""
_BYTES_PER_SIMILARITY = 16  # itself, and its temporaries where similarities are tied
_BYTES_PER_PAIR = 24  # a cell of the tile and a cell around it: the best frame's similarity, twice, and what is near


@dataclass(frozen=True)
class PropagationConfig:
    """How labels travel from frame to frame; the defaults are DINO's for DAVIS 2017.

    max_bytes: working memory to aim for in a step, besides its inputs and result; at least one cell's window is held.
    """

    size: int = 480
    """Short side at which the network sees a frame, in pixels: the larger, the finer the masks, and the slower."""

    context: int = 7
    """Frames before the current one that it is compared with, besides the first."""

    radius: int | None = 12
    """A patch is compared with those at most so many rows and columns of patches away; None: with all."""

    top_k: int = 5
    """Most similar patches that count, over all frames together. More if the last of them is tied."""

    temperature: float = 0.1
    """A patch weighs exp(cosine similarity / temperature): the smaller, the more the most similar one counts."""

    max_bytes: int = field(default=256 * 2**20, metadata={"internal": True})


def check_config(config: PropagationConfig) -> None:
    """Raise UserError for a setting that is out of range."""
    for name, limit in {"size": 1, "context": 0, "radius": 0, "top_k": 1, "max_bytes": 1}.items():
        value = getattr(config, name)
        if value is not None and value < limit:
            raise UserError(f"label propagation: {name} must be at least {limit}, not {value}")
    # below, 1 / temperature is infinite in float32, and so the weight of the best no number
    if not 1e-30 <= config.temperature < float("inf"):
        raise UserError(
            f"label propagation: the temperature must be above 0, at least 1e-30 (DINO: 0.1), not {config.temperature}"
        )


# From frame to frame


def propagate(
    backbone: Backbone,
    frames: Iterable[UInt8[ndarray, "_ _ 3"]],
    masks: Mapping[int, UInt8[ndarray, "_ _"]],
    config: PropagationConfig | None = None,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[UInt8[ndarray, "_ _"]]:
    """Yield the mask of each frame, in the order of the frames and as large as they are.

    frames: RGB, all of one size; taken one at a time. Features of at most 1 + context of them are held.
    masks: by number of the frame, from 0, which must be there; 0 is background, every other value the id of an
        object. A mask of a later frame says exactly where the objects are that it names (so that they may
        appear there for the first time, or be corrected); all others stay as they were predicted. Objects may be
        too small for that: see `warn_of_lost`.
    device: where the network, which is moved, and the propagation run; by default where the network is.
    progress: told (frames done, of all) after each frame; of all is 0 while their number is not known.

    Raises UserError for a setting out of range, masks without any object or for frames that are not there, a
    mask of another size than its frame, frames of different sizes, or features that are not finite.
    """
    config = config or PropagationConfig()
    check_config(config)
    if 0 not in masks:
        raise UserError("there is no mask for frame 0, with which propagation begins")
    if min(masks) < 0:
        raise UserError(f"a mask is given for frame {min(masks)}; frames are counted from 0")
    ids = np.unique(np.concatenate([np.zeros(1, np.uint8), *(np.unique(mask) for mask in masks.values())]))
    if len(ids) == 1:
        raise UserError("no object to follow: every pixel of the masks is 0, which is background")
    network = backbone.to(backbone.mean.device if device is None else torch.device(device)).eval()
    return _propagate(network, frames, masks, ids, config, progress)


def _propagate(
    backbone: Backbone,
    frames: Iterable[UInt8[ndarray, "_ _ 3"]],
    masks: Mapping[int, UInt8[ndarray, "_ _"]],
    ids: UInt8[ndarray, " labels"],
    config: PropagationConfig,
    progress: Callable[[int, int], None],
) -> Iterator[UInt8[ndarray, "_ _"]]:
    features: list[Tensor] = []  # of the first frame and the latest ones, in no order
    labels: list[Tensor] = []
    size: tuple[int, int] | None = None
    number = -1
    for number, frame in enumerate(frames):
        size = size or (frame.shape[0], frame.shape[1])
        given = masks.get(number)
        _check_sizes(number, size, frame, given)
        cells, grid = cell_features(backbone, frame, config.size)
        if number:
            soft = propagate_labels(cells, features, torch.stack(labels), config)
            mask = ids[segment(soft, backbone.patch_size, size)]
        else:  # nothing is known before the first frame
            soft, mask = _one_hot(masks[0], ids, grid).to(cells.device), masks[0]
        if given is not None:
            soft = _insert(soft, _one_hot(given, ids, grid).to(soft.device))
            mask = np.where(np.isin(mask, given[given > 0]), 0, mask).astype(np.uint8)
            mask = np.where(given > 0, given, mask)
        if number <= config.context:
            features.append(cells)
            labels.append(soft)
        elif config.context:
            oldest = 1 + (number - 1) % config.context
            features[oldest], labels[oldest] = cells, soft
        progress(number + 1, max(number + 1, operator.length_hint(frames)))
        yield mask
    if number < 0:
        raise UserError("there are no frames")
    if number < max(masks):
        raise UserError(f"a mask is given for frame {max(masks)}, and there are only {number + 1} frames, from 0")


def working_size(height: int, width: int, size: int, patch: int) -> tuple[int, int]:
    """Return the height and width at which the network sees a frame: the short side `size`, the long one floored.

    The long side is floored to a multiple of 64, or of the multiple of the patch that is nearest to 64 (70 for a
    patch of 14); the short one to a multiple of the patch (480 becomes 476). Neither is less than one such step.
    As published, the height of a square frame counts as the short side.

    Raises UserError if that is less than a patch, or more than 65,536 cells.
    """
    if size < patch:
        raise UserError(f"the size must be at least one patch of {patch} px, not {size}")
    step = patch * max(1, round(_LONG_SIDE_STEP / patch))
    short = size // patch * patch
    long = max(1, size * max(height, width) // (min(height, width) * step)) * step
    if (short // patch) * (long // patch) > _MAX_CELLS:
        raise UserError(
            f"frames of {width} x {height} px would become {short // patch} x {long // patch} cells, and "
            f"the limit is {_MAX_CELLS}: choose a smaller size"
        )
    return (long, short) if height > width else (short, long)


@torch.no_grad()
def cell_features(
    backbone: Backbone, frame: UInt8[ndarray, "h w 3"], size: int
) -> tuple[Float[Tensor, "n d"], tuple[int, int]]:
    """Return the features of a frame's cells, row by row, of length 1, and the grid: tokens after the last norm.

    Raises UserError as `working_size` does, for a network without patches, and if the network gives no numbers.
    """
    require_patches(backbone, "following objects in a video")
    height, width = working_size(frame.shape[0], frame.shape[1], size, backbone.patch_size)
    shrinks = min(frame.shape[:2]) > 2 * min(height, width)
    resized = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    pixels = torch.as_tensor(resized).permute(2, 0, 1)[None].to(backbone.mean.device)
    tokens = backbone(backbone.normalize(pixels))
    features = F.normalize(tokens.patches[0].float(), dim=1)
    if not features.sum().isfinite():
        raise UserError("the features are not finite: the weights of this model are broken (did its training diverge?)")
    return features, tokens.grid


def lost_objects(mask: UInt8[ndarray, "h w"], size: int, patch: int) -> list[int]:
    """Return the objects of a mask that cannot be followed, as no cell has its centre in them.

    Raises UserError as `working_size` does.
    """
    height, width = working_size(mask.shape[0], mask.shape[1], size, patch)
    ids = np.unique(mask)
    cells = _one_hot(mask, ids, (height // patch, width // patch)).flatten(1).any(dim=1).numpy()
    return [int(number) for number in ids[~cells] if number]


def warn_of_lost(mask: UInt8[ndarray, "h w"], where: str, size: int, patch: int) -> None:
    """Log the `lost_objects` of a mask. where: what mask it is. Raises UserError as `working_size` does."""
    if lost := lost_objects(mask, size, patch):
        _log.warning(
            "%s: object %s is smaller than a patch and cannot be followed: try a larger size or smaller patches",
            where,
            ", ".join(map(str, lost)),
        )


def segment(cells: Float[Tensor, "labels rows columns"], patch: int, size: tuple[int, int]) -> UInt8[ndarray, "h w"]:
    """Return each pixel's index of a label: bilinear x patch, each label stretched to 0..1, argmax, nearest to `size`.

    Of equal labels the first. A label that is the same everywhere is not stretched.
    """
    shape = (cells.shape[1] * patch, cells.shape[2] * patch)
    best = torch.full(shape, -torch.inf, device=cells.device)
    index = torch.zeros(shape, dtype=torch.uint8, device=cells.device)
    for label, values in enumerate(cells):  # one at a time: there may be 256 of them
        large = F.interpolate(values[None, None], shape, mode="bilinear")[0, 0]
        low, high = large.aminmax()
        large = (large - low) / (high - low) if high > low else large
        index.masked_fill_(large > best, label)
        best = torch.maximum(best, large)
    picture = Image.fromarray(index.cpu().numpy())
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.NEAREST))


def _one_hot(
    mask: UInt8[ndarray, "h w"], ids: UInt8[ndarray, " labels"], grid: tuple[int, int]
) -> Float[Tensor, "labels rows columns"]:
    """A mask on the grid of cells: that of the pixel nearest to the centre of each."""
    small = Image.fromarray(mask).resize((grid[1], grid[0]), Image.Resampling.NEAREST)
    return torch.as_tensor(np.asarray(small) == ids[:, None, None]).float()


def _insert(
    cells: Float[Tensor, "labels rows columns"], given: Float[Tensor, "labels rows columns"]
) -> Float[Tensor, "labels rows columns"]:
    """Put the objects of a given mask in their places and nowhere else; what they leave falls to the background."""
    named = given.flatten(1).any(dim=1)
    named[0] = False
    kept = torch.where(named[:, None, None], 0.0, cells)
    kept[0] += cells[named].sum(dim=0)
    return torch.where(given[1:].any(dim=0), given, kept)


def _check_sizes(
    number: int, size: tuple[int, int], frame: UInt8[ndarray, "h w 3"], mask: UInt8[ndarray, "_ _"] | None
) -> None:
    """Raise UserError if a frame or its mask is not of the size of the first frame."""
    for what, array in (("", frame), ("the mask of ", mask)):
        if array is not None and array.shape[:2] != size:
            raise UserError(
                f"{what}frame {number} is {array.shape[1]} x {array.shape[0]} px, "
                f"and the {'frames are' if what else 'first frame is'} {size[1]} x {size[0]}"
            )


# One step: a cell takes over the labels of the cells of earlier frames that look most like it

_Tile = tuple[slice, slice, slice, slice]
"""Rows and columns of cells of the target, and those of the rectangle that the windows of all of them cover."""


@torch.no_grad()
def propagate_labels(
    target: Float[Tensor, "n d"],
    sources: Float[Tensor, "frames n d"] | Sequence[Float[Tensor, "n d"]],
    labels: Float[Tensor, "frames labels rows columns"],
    config: PropagationConfig,
) -> Float[Tensor, "labels rows columns"]:
    """Return soft labels of a frame's cells from those of other frames (DINO, section 4.2.2, after Jabri et al. 2020).

    Features are row by row and of length 1. A source within the window weighs exp(similarity / temperature) if
    it is among the `top_k` most similar of all frames (as similar as the last of them is enough), else nothing.
    A cell gets the weighted mean.

    Raises UserError if a setting is out of range.
    """
    check_config(config)
    frames, _, *grid = labels.shape
    target, sources = target.reshape(*grid, -1), [source.reshape(*grid, -1) for source in sources]
    result = labels.new_empty(*grid, labels.shape[1])
    radius = max(grid) if config.radius is None else config.radius
    side = _tile_side((grid[0], grid[1]), radius, frames, config.max_bytes)
    tiles = list(_tiles((grid[0], grid[1]), side, radius))
    room = target.new_empty(frames * max(map(_pairs, tiles)))
    for tile in tiles:
        rows, columns, near_rows, near_columns = tile
        queries = target[rows, columns].flatten(0, 1)
        shape = (frames, _length(near_rows), len(queries), _length(near_columns))
        similarity = room[: math.prod(shape)].view(shape)
        repeated = queries.expand(shape[1], -1, -1)
        # one product per frame and row, since those cells lie in memory one behind the other: nothing is copied
        for source, products in zip(sources, similarity, strict=True):
            torch.bmm(repeated, source[near_rows, near_columns].transpose(1, 2), out=products)
        near = _near(tile, radius, target.device)
        around = labels[:, :, near_rows, near_columns].permute(2, 3, 0, 1)
        values = _tile_labels(similarity, around, near, config)
        result[rows, columns] = values.view(_length(rows), _length(columns), -1)
    return result.permute(2, 0, 1).contiguous()


def _tiles(grid: tuple[int, int], side: int, radius: int) -> Iterator[_Tile]:
    """Tiles of nearly equal size, at most `side` cells high and wide, that cover the grid."""
    for rows, near_rows in _spans(grid[0], side, radius):
        for columns, near_columns in _spans(grid[1], side, radius):
            yield rows, columns, near_rows, near_columns


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
        if per_pair * max(map(_pairs, _tiles(grid, side, radius))) <= max_bytes:
            return side
    return 1


def _pairs(tile: _Tile) -> int:
    return math.prod(map(_length, tile))


def _length(part: slice) -> int:
    return part.stop - part.start


def _near(tile: _Tile, radius: int, device: torch.device) -> Bool[Tensor, "cells near_rows near_columns"]:
    """Which of the cells around a tile lie in the window of which of its cells."""
    within: list[Tensor] = []
    for part, around in (tile[::2], tile[1::2]):
        positions = torch.arange(around.stop, device=device)
        within.append((positions[part, None] - positions[None, around]).abs() <= radius)
    rows, columns = within
    return (rows[:, None, :, None] & columns[None, :, None, :]).flatten(0, 1)


def _tile_labels(
    similarity: Float[Tensor, "frames near_rows cells near_columns"],
    around: Float[Tensor, "near_rows near_columns frames labels"],
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
    row, column = place // near.shape[2], place % near.shape[2]
    cell = torch.arange(len(place), device=place.device)[:, None]
    candidates = similarity[:, row, cell, column].masked_fill(best == -torch.inf, -torch.inf)
    every = candidates.movedim(0, -1).flatten(1)
    threshold = every.topk(min(config.top_k, every.shape[1])).values[:, -1:]
    # every cell lies in its own window, so that the best is never -inf
    weights = _weights(every, threshold, best[:, :1], config.temperature)
    weights = (weights / weights.sum(dim=1, keepdim=True)).view(*place.shape, -1)
    # c: cells, k: places, f: frames, l: labels
    result = torch.einsum("ckf,ckfl->cl", weights, around[row, column])
    tied = ((beyond >= threshold) & (beyond > -torch.inf)).any(dim=1).nonzero()[:, 0]
    if len(tied):  # more than k similarities reach the threshold, as in flat areas: the whole window is weighed
        window = similarity[:, :, tied].permute(2, 1, 3, 0)
        limit, top = threshold[tied].view(-1, 1, 1, 1), best[tied, 0].view(-1, 1, 1, 1)
        flat = (_weights(window, limit, top, config.temperature) * near[tied, :, :, None]).flatten(1)
        result[tied] = (flat @ around.flatten(0, 2)) / flat.sum(dim=1, keepdim=True)
    return result


def _weights(
    similarity: Float[Tensor, "*s"], threshold: Float[Tensor, "*#s"], best: Float[Tensor, "*#s"], temperature: float
) -> Float[Tensor, "*s"]:
    """exp(similarity / temperature), 0 below the threshold; relative to the best, so that none is infinite."""
    return ((similarity - best) / temperature).exp() * (similarity >= threshold)
