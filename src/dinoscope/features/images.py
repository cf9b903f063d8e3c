"""Images as every evaluation sees them: short side resized, centre cropped, in the order of the folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from dinoscope.data.grey_range import Window
from dinoscope.data.images import UnreadableImage
from dinoscope.data.loader import Batches, default_workers
from dinoscope.data.sources import ImageSource
from dinoscope.errors import UserError

_SMALL_IMAGE = 64
_LONGEST_STRIP = 16
"""Length over width beyond which the ends of an image are cut before it is resized."""


@dataclass(frozen=True)
class ImageView:
    """What is seen of an image: a square of `size` pixels, which keeps `crop_fraction` of the short side.

    window: grey range of images of more than 8 bits; None takes that of each image.
    """

    size: int
    crop_fraction: float
    window: Window | None = None


@dataclass(frozen=True)
class Batch:
    """The readable ones of `asked` consecutive images (None where there is none), and their positions."""

    images: UInt8[Tensor, "b 3 s s"] | None
    positions: tuple[int, ...]
    asked: int

    def pin_memory(self) -> Batch:
        """Return the same batch in page-locked memory (called by torch's loader)."""
        return Batch(None if self.images is None else self.images.pin_memory(), self.positions, self.asked)


def default_crop_fraction(size: int) -> float:
    """0.875 (resize to 256, crop 224: DINO), but 1 up to 64 pixels: small images have no margin to lose."""
    return 1.0 if size <= _SMALL_IMAGE else 0.875


def evaluation_image(image: UInt8[np.ndarray, "h w 3"], size: int, crop_fraction: float) -> UInt8[Tensor, "3 s s"]:
    """Resize the short side to round(size / crop_fraction), bicubic and antialiased; crop the centre `size`.

    The same pixels as torchvision's Resize and CenterCrop give for a Pillow image, but for rounding.
    """
    pixels = torch.from_numpy(without_ends(image)).permute(2, 0, 1)
    short = round(size / crop_fraction)
    resized = tv.resize(pixels, [short], interpolation=InterpolationMode.BICUBIC, antialias=True)
    return tv.center_crop(resized, [size, size]).contiguous()


def evaluation_batches(
    images: ImageSource, view: ImageView, *, batch_size: int, workers: int, pin: bool
) -> Batches[Batch]:
    """The images of a source in its order, in batches; an unreadable one makes its batch shorter.

    workers: processes (-1 chooses), though no more than there are whole batches to read.

    Raises UserError for a batch size below 1.
    """
    if batch_size < 1:
        raise UserError(f"the batch size is {batch_size}; it must be at least 1")
    chosen = default_workers(processes=1) if workers < 0 else workers
    return Batches(
        _EvaluationImages(images, view),
        min(chosen, len(images) // batch_size),
        batch_size=batch_size,
        collate_fn=_collate,
        pin_memory=pin,
        # The loader draws a seed: from here, for measuring must not disturb the generator of a training run.
        generator=torch.Generator(),
    )


class _EvaluationImages(Dataset[tuple[int, Tensor | None]]):
    """Item i is (i, uint8 [3, size, size]), or (i, None) if the image cannot be read."""

    def __init__(self, images: ImageSource, view: ImageView) -> None:
        self.images, self.view = images, view

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[int, Tensor | None]:
        try:
            image = self.images.read(index).rgb(self.view.window)
        except UnreadableImage:
            return index, None
        return index, evaluation_image(image, self.view.size, self.view.crop_fraction)


def _collate(samples: Sequence[tuple[int, Tensor | None]]) -> Batch:
    images = [image for _, image in samples if image is not None]
    positions = tuple(index for index, image in samples if image is not None)
    return Batch(torch.stack(images) if images else None, positions, len(samples))


def without_ends(image: Shaped[np.ndarray, "h w c"], times: int = _LONGEST_STRIP) -> Shaped[np.ndarray, "_ _ c"]:
    """Cut the ends off a strip that is longer than `times` its width.

    Resized whole, a line of a million pixels would not fit in memory.
    """
    height, width = image.shape[:2]
    longest = times * min(height, width)
    top, left = max(0, (height - longest) // 2), max(0, (width - longest) // 2)
    return image[top : top + longest, left : left + longest]
