"""Images and masks of PASCAL VOC as its protocols see them, read and resized in threads ahead of the network."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image
from torch import Tensor

from dinoscope.data.benchmarks import MaskedImages, SizesDisagree
from dinoscope.data.grey_range import Window
from dinoscope.data.images import UnreadableImage, read
from dinoscope.errors import UserError
from dinoscope.evaluation.voc import CellCounts, count_cells
from dinoscope.explain.attention import prepare

VocProtocolName = Literal["published", "strict"]

UNREADABLE_IMAGE = "image unreadable"
UNREADABLE_MASK = "mask unreadable"
NO_MASK = "mask missing"
SIZES_DISAGREE = "image and mask of different sizes"
NO_OBJECT = "no object in the mask"
TOO_LARGE = "too large for the network"

_MOST_WAITING = 8
"""Batches of images that may wait for others of their size."""


@dataclass(frozen=True)
class Fault:
    """An image that is left out. kind: a constant of this module, to be counted; reason: in full, for a person."""

    name: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Sample:
    """An image as one protocol shows it to networks of one patch size, and its mask counted in their cells.

    index: of the image. window: the grey range that it was read by.
    """

    index: int
    protocol: VocProtocolName
    patch: int
    pixels: UInt8[Tensor, "3 h w"]
    truth: CellCounts
    window: Window | None = None


@dataclass(frozen=True)
class Looks:
    """How images are shown.

    protocols: in which every image is shown.
    square: side of the square that "published" resizes image and mask to, in pixels.
    short_side: of the image in "strict", which keeps its aspect, in pixels.
    patches: the patch sizes of the networks. windows: their grey ranges.
    """

    protocols: tuple[VocProtocolName, ...]
    square: int
    short_side: int
    patches: tuple[int, ...]
    windows: tuple[Window | None, ...] = (None,)

    @property
    def per_image(self) -> int:
        """Samples that an image gives."""
        return len(self.protocols) * len(self.patches) * len(self.windows)


def read_samples(images: MaskedImages, index: int, looks: Looks) -> list[Sample] | Fault:
    """All samples of an image, or why there are none."""
    name = images.names[index]
    try:
        raw = read(images.images[index])
    except UnreadableImage as error:
        return Fault(name, UNREADABLE_IMAGE, f"{images.images[index]}: {error}")
    try:
        mask = images.truth(index, (raw.values.shape[0], raw.values.shape[1]))
    except SizesDisagree as error:
        return Fault(name, SIZES_DISAGREE, str(error))
    except UserError as error:
        return Fault(name, UNREADABLE_MASK, str(error))
    try:
        samples = [
            replace(_sample(image, mask, index, protocol, patch, looks), window=window)
            for window, image in ((window, raw.rgb(window)) for window in looks.windows)
            for protocol in looks.protocols
            for patch in looks.patches
        ]
    except UserError as error:
        return Fault(name, TOO_LARGE, f"{images.images[index]}: {error}")
    if not all(sample.truth.classes for sample in samples):
        return Fault(name, NO_OBJECT, f"{images.masks[index]}: no pixel belongs to an object")
    return samples


def _sample(
    image: UInt8[ndarray, "h w 3"],
    mask: UInt8[ndarray, "h w"],
    index: int,
    protocol: VocProtocolName,
    patch: int,
    looks: Looks,
) -> Sample:
    if protocol == "published":
        pixels, mask = squared(image, looks.square), squared_mask(mask, looks.square)
    else:
        pixels = prepare(image, looks.short_side, patch)
    grid = (pixels.shape[1] // patch, pixels.shape[2] // patch)
    return Sample(index, protocol, patch, pixels, count_cells(mask, grid))


def squared(image: UInt8[ndarray, "h w 3"], side: int) -> UInt8[Tensor, "3 side side"]:
    """Resize to a square, aspect ignored: bilinear with antialiasing, as torchvision's Resize of a Pillow image."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    return F.interpolate(pixels, (side, side), mode="bilinear", antialias=True)[0]


def squared_mask(mask: UInt8[ndarray, "h w"], side: int) -> UInt8[ndarray, "side side"]:
    """The nearest pixel: what Pillow does to palette images whatever it is asked for."""
    return np.asarray(Image.fromarray(mask).resize((side, side), Image.Resampling.NEAREST))


def default_threads() -> int:
    """Reading threads: the cores this process may use, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 8)


def read_ahead(
    images: MaskedImages, looks: Looks, threads: int, ahead: int
) -> Generator[list[Sample] | Fault, None, None]:
    """`read_samples` of every image, in order; up to `ahead` of them are read before they are asked for."""
    indices = iter(range(len(images)))
    waiting: deque[Future[list[Sample] | Fault]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="voc-images") as pool:

        def submit(count: int) -> None:
            waiting.extend(pool.submit(read_samples, images, index, looks) for index in islice(indices, count))

        try:
            submit(max(ahead, 1))
            while waiting:
                found = waiting.popleft().result()
                submit(1)
                yield found
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class Batcher:
    """Groups samples that a network can see at once: of one protocol, patch, grey range and size.

    Images of a rare size wait; when too many do, the largest group goes although it is not full.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.groups: dict[tuple[str, int, Window | None, torch.Size], list[Sample]] = {}

    def add(self, samples: Sequence[Sample]) -> list[list[Sample]]:
        """Take samples in; return the groups that are to be computed now."""
        ready: list[list[Sample]] = []
        for sample in samples:
            key = (sample.protocol, sample.patch, sample.window, sample.pixels.shape)
            group = self.groups.setdefault(key, [])
            group.append(sample)
            if len(group) == self.batch_size:
                ready.append(self.groups.pop(key))
        while sum(map(len, self.groups.values())) > _MOST_WAITING * self.batch_size:
            ready.append(self.groups.pop(max(self.groups, key=lambda key: len(self.groups[key]))))
        return ready

    def rest(self) -> list[list[Sample]]:
        """The groups that never filled."""
        rest = list(self.groups.values())
        self.groups = {}
        return rest


def count_faults(faults: Sequence[Fault]) -> dict[str, int]:
    """How many images are left out for each kind of reason."""
    return dict(Counter(fault.kind for fault in faults))
