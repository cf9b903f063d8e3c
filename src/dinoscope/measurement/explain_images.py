"""The images that maps are measured on, with their objects where there are masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, UInt8
from numpy import ndarray
from torch import Tensor

from dinoscope.data.benchmarks import VOID, MaskedImages, find_masked_images, object_pixels, voc_root
from dinoscope.data.grey_range import Window
from dinoscope.data.images import UnreadableImage, decode
from dinoscope.data.sources import evenly, find_images
from dinoscope.errors import UserError


@dataclass(frozen=True)
class Objects:
    """Where an image's objects are, all of them as one, and which pixels count."""

    truth: Bool[Tensor, "h w"]
    valid: Bool[Tensor, "h w"]


@dataclass(frozen=True)
class Subjects:
    """Image files with unique names; masked: the same files with their masks, or None."""

    data: Path
    names: tuple[str, ...]
    files: tuple[Path, ...]
    masked: MaskedImages | None = None

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int, window: Window | None = None) -> tuple[UInt8[ndarray, "h w 3"], Objects | None]:
        """The image, and its objects, or None where it has none, or there are no masks.

        window: the model's grey range.
        Raises UserError where either file cannot be read, or the two are not of one size.
        """
        try:
            image = decode(self.files[index], window=window)
        except UnreadableImage as error:
            raise UserError(f"{self.files[index]}: {error}") from error
        if self.masked is None:
            return image, None
        mask = self.masked.truth(index, (image.shape[0], image.shape[1]))
        objects = Objects(torch.from_numpy(object_pixels(mask)), torch.from_numpy(mask != VOID))
        return image, objects if objects.truth.any() else None


def find_subjects(data: Path, masks: Path | None, limit: int | None) -> Subjects:
    """A folder of images, with the masks of the same names below `masks`; or a VOC layout, which holds its own.

    limit: at most so many images, spread evenly.

    Raises UserError where there are no images, no image has a mask though masks were named, or the limit is
    below 1.
    """
    if masks is not None or voc_root(data) is not None:
        masked = find_masked_images(data, masks).subset(limit)
        return Subjects(data, masked.names, masked.images, masked)
    folder = find_images(data, labelled=False)
    chosen = folder.subset(evenly(len(folder), limit))
    return Subjects(data, chosen.paths, tuple(chosen.path(i) for i in range(len(chosen))))
