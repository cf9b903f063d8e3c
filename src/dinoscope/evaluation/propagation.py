"""Video object segmentation by label propagation, in DINO's protocol for DAVIS 2017: no training, features only.

The objects are given in the first frame. Every later frame takes over labels, cell by cell, from the first
frame and the latest ones before it (see `window`). One cell is one patch token, or one place of a ResNet's last
feature map.

Two things differ from the published script: the normalisation of the pixels is the one that the network was
trained with (the script's has a standard deviation of 0.228 for 0.229), and frames more than twice as large as
the network is to see them are averaged over areas, as bilinear sampling would skip pixels.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image
from torch import Tensor

from dinoscope.errors import UserError
from dinoscope.evaluation.window import PropagationConfig, check_config, propagate_labels
from dinoscope.models.network import Backbone, require_patches

_log = logging.getLogger(__name__)

_LONG_SIDE_STEP = 64  # pixels: DINO's long side is a multiple of it
_MAX_CELLS = 2**16
_FIRST_ROOM = 8  # frames


def propagate(
    backbone: Backbone,
    frames: Iterable[UInt8[ndarray, "_ _ 3"]],
    masks: Mapping[int, UInt8[ndarray, "_ _"]],
    config: PropagationConfig | None = None,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
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
    ids = _ids(masks)
    device = backbone.mean.device if device is None else torch.device(device)
    return _propagate(backbone.to(device).eval(), frames, masks, ids, config, progress or (lambda done, total: None))


def _propagate(
    backbone: Backbone,
    frames: Iterable[UInt8[ndarray, "_ _ 3"]],
    masks: Mapping[int, UInt8[ndarray, "_ _"]],
    ids: UInt8[ndarray, " labels"],
    config: PropagationConfig,
    progress: Callable[[int, int], None],
) -> Iterator[UInt8[ndarray, "_ _"]]:
    memory = _Memory(1 + config.context)
    size: tuple[int, int] | None = None
    number = -1
    for number, frame in enumerate(frames):
        size = size or (frame.shape[0], frame.shape[1])
        given = masks.get(number)
        _check_sizes(number, size, frame, given)
        features, grid = cell_features(backbone, frame, config.size)
        if memory.filled:
            cells = propagate_labels(features, memory.features, memory.labels, config)
            mask = ids[segment(cells, backbone.patch_size, size)]
        else:  # nothing is known before the first frame
            cells, mask = _one_hot(masks[0], ids, grid).to(features.device), masks[0]
        if given is not None:
            cells = _insert(cells, _one_hot(given, ids, grid).to(cells.device))
            mask = np.where(np.isin(mask, given[given > 0]), 0, mask).astype(np.uint8)
            mask = np.where(given > 0, given, mask)
        memory.add(features, cells)
        progress(number + 1, max(number + 1, operator.length_hint(frames)))
        yield mask
    if number < 0:
        raise UserError("there are no frames")
    if number < max(masks):
        raise UserError(f"a mask is given for frame {max(masks)}, and there are only {number + 1} frames, from 0")


class _Memory:
    """Features and soft labels of the first frame and the latest ones, one behind the other in memory.

    What is oldest is written over; the order of the frames does not matter to the propagation. Room that was asked
    for, and may be far more than the video has frames, is taken as it is filled.
    """

    def __init__(self, room: int) -> None:
        self.room, self.filled, self.next = room, 0, 0
        self._features: Tensor = torch.empty(0)
        self._labels: Tensor = torch.empty(0)

    @property
    def features(self) -> Float[Tensor, "frames n d"]:
        """Of the frames held."""
        return self._features[: self.filled]

    @property
    def labels(self) -> Float[Tensor, "frames labels rows columns"]:
        """Of the frames held."""
        return self._labels[: self.filled]

    def add(self, features: Float[Tensor, "n d"], labels: Float[Tensor, "labels rows columns"]) -> None:
        """Hold another frame, in place of the oldest but the first where there is no more room."""
        if self.filled == len(self._features) < self.room:
            self._features = self._grown(self._features, features)
            self._labels = self._grown(self._labels, labels)
        if self.next == self.room:
            self.next = 1
        if self.next < self.room:
            self._features[self.next], self._labels[self.next] = features, labels
            self.next += 1
            self.filled = max(self.filled, self.next)

    def _grown(self, held: Tensor, item: Tensor) -> Tensor:
        """What is held [frames, ...], with twice the room, or at first that of the default settings."""
        grown = item.new_empty(min(self.room, max(_FIRST_ROOM, 2 * self.filled)), *item.shape)
        if self.filled:
            grown[: self.filled] = held
        return grown


def working_size(height: int, width: int, size: int, patch: int) -> tuple[int, int]:
    """Height and width at which the network sees a frame: the short side `size`, the long one floored.

    The long side is floored to a multiple of 64, or of the multiple of the patch that is nearest to 64 (70 for a
    patch of 14); the short one to a multiple of the patch (480 becomes 476). Neither is less than one such step.
    As published, the height of a square frame counts as the short side.

    Raises UserError where that is less than a patch, or more than 65,536 cells.
    """
    if size < patch:
        raise UserError(f"the size must be at least one patch of {patch} px, not {size}")
    step = patch * max(1, round(_LONG_SIDE_STEP / patch))
    short = size // patch * patch
    long = max(1, size * max(height, width) // (min(height, width) * step)) * step
    if (short // patch) * (long // patch) > _MAX_CELLS:
        raise UserError(
            f"frames of {width} x {height} px would become {short // patch} x {long // patch} cells, and "
            f"{_MAX_CELLS} is the most: choose a smaller size"
        )
    return (long, short) if height > width else (short, long)


@torch.no_grad()
def cell_features(
    backbone: Backbone, frame: UInt8[ndarray, "h w 3"], size: int
) -> tuple[Float[Tensor, "n d"], tuple[int, int]]:
    """Features of a frame's cells, row by row, of length 1, and the grid: tokens of the last block after its norm.

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
    """The objects of a mask that cannot be followed, as no cell has its centre in them.

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
    """Index of the label of each pixel: bilinear x patch, each label stretched to 0..1, argmax, nearest to `size`.

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


def _ids(masks: Mapping[int, UInt8[ndarray, "_ _"]]) -> UInt8[ndarray, " labels"]:
    """0 and the ids of all objects, ascending."""
    if 0 not in masks:
        raise UserError("there is no mask for frame 0, with which propagation begins")
    if min(masks) < 0:
        raise UserError(f"a mask is given for frame {min(masks)}; frames are counted from 0")
    ids = np.unique(np.concatenate([np.zeros(1, np.uint8), *(np.unique(mask) for mask in masks.values())]))
    if len(ids) == 1:
        raise UserError("no object to follow: every pixel of the masks is 0, which is background")
    return ids


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
    """Raise UserError where a frame or its mask is not of the size of the first frame."""
    for what, array in (("", frame), ("the mask of ", mask)):
        if array is not None and array.shape[:2] != size:
            raise UserError(
                f"{what}frame {number} is {array.shape[1]} x {array.shape[0]} px, "
                f"and the {'frames are' if what else 'first frame is'} {size[1]} x {size[0]}"
            )
