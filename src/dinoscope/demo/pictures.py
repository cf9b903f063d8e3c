"""Images as they come in: refused by their headers, before anything is decoded. And the samples."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from numpy import ndarray
from PIL import Image

from dinoscope.data.benchmarks import BACKGROUND, VOID, find_masks, read_indices
from dinoscope.data.grey_range import Window
from dinoscope.data.images import RawImage, UnreadableImage, decode, read, read_header
from dinoscope.data.sources import evenly, find_images
from dinoscope.demo.limits import MB, Limits, Refused
from dinoscope.errors import UserError
from dinoscope.scenes import ScenesConfig, write_scenes

Pixels = UInt8[ndarray, "_ _ 3"]

SHOWN = 720
"""Longest side, in pixels, of a picture on the page."""
THUMBNAIL = 240
"""The same for small pictures, such as those of the heads."""
SAMPLES = 8

_SMALLEST = 320  # px; a map over a smaller image looks coarse once the browser enlarges it
_NAMED = 4  # an image that is larger than the limit by up to this factor is refused with its size


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    digest: hash of its values, so that the same image is recognised under another name.
    raw: values of more than 8 bits, which each model maps by its own grey range; None for unsigned 8 bits.
    """

    digest: str
    pixels: UInt8[ndarray, "h w 3"]
    raw: RawImage | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def by(self, window: Window | None) -> UInt8[ndarray, "h w 3"]:
        """Return the pixels by a model's grey range."""
        return self.pixels if self.raw is None else self.raw.rgb(window)


@dataclass(frozen=True)
class GroundTruth:
    """Pixels of objects, and pixels that count (all but void)."""

    objects: Bool[ndarray, "h w"]
    valid: Bool[ndarray, "h w"]


def read_picture(path: Path, limits: Limits, window: Window | None = None) -> Picture:
    """Decode an image, upright; `window` is the grey range by which it is shown.

    Raises Refused if the file is gone, no image, damaged or beyond the limits.
    """
    check_picture(path, limits)
    try:
        raw = read(path, max_pixels=int(limits.megapixels * MB))
    except UnreadableImage as error:
        raise Refused("picture_damaged") from error
    values = raw.values
    digest = hashlib.blake2b(values.tobytes(), digest_size=16, key=repr(values.shape).encode()).hexdigest()
    return Picture(digest, raw.rgb(window), None if values.dtype == np.uint8 else raw)


def check_picture(path: Path, limits: Limits) -> None:
    """Check a file's size and header alone. Raises Refused as `read_picture` does, except for damage behind them."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise Refused("picture_gone") from error
    if size == 0:
        raise Refused("picture_empty")
    if size > limits.upload_mb * MB:
        raise Refused("picture_heavy", size=f"{size / MB:.0f}", most=f"{limits.upload_mb:g}")
    max_pixels = int(limits.megapixels * MB)
    try:
        header = read_header(path, max_pixels=_NAMED * max_pixels)
    except UnreadableImage as error:
        # a header beyond what `read` ever takes says so, and is the only fault that is about size
        key = "picture_vast" if str(error).startswith("too large") else "picture_no_image"
        raise Refused(key, most=f"{limits.megapixels:g}") from error
    width, height = header.width, header.height
    if width * height > max_pixels:
        millions = f"{width * height / 1e6:.0f}"
        raise Refused("picture_large", width=width, height=height, pixels=millions, most=f"{limits.megapixels:g}")
    if max(width, height) > limits.side:
        raise Refused("picture_long", width=width, height=height, most=limits.side)


def read_truth(path: Path, size: tuple[int, int], limits: Limits, binary: bool | None = None) -> GroundTruth:
    """Read the mask of an image of `size` = (height, width): 0 is background, 255 void, all else an object.

    binary: 255 is the object and nothing is void; None: this holds if the mask has no values but 0 and 255.
    Raises Refused if it is no mask, or of another size.
    """
    check_picture(path, limits)
    try:
        values = read_indices(path)
    except UserError as error:
        raise Refused("truth_no_mask") from error
    if values.shape != size:
        raise Refused("truth_size", mask=f"{values.shape[1]} × {values.shape[0]}", image=f"{size[1]} × {size[0]}")
    if binary or (binary is None and not np.isin(values, (BACKGROUND, VOID), invert=True).any()):
        return GroundTruth(values > BACKGROUND, np.ones(size, bool))
    return GroundTruth((values != BACKGROUND) & (values != VOID), values != VOID)


def shrunk(pixels: Pixels, longest: int, shortest: int = _SMALLEST) -> Pixels:
    """Resize an image so that its longest side is from `shortest` to `longest` pixels. The aspect stays."""
    side = max(pixels.shape[:2])
    wanted = min(max(side, shortest), longest)
    if wanted == side:
        return pixels
    height, width = (max(1, round(each * wanted / side)) for each in pixels.shape[:2])
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if wanted < side else cv2.INTER_CUBIC)


@dataclass(frozen=True)
class Sample:
    """An image that the page offers. mask: of its objects. binary: see `read_truth`."""

    path: Path
    mask: Path | None = None
    binary: bool | None = None


def find_samples(data: Path, masks: Path | None, count: int = SAMPLES) -> list[Sample]:
    """Return evenly spaced images of a folder; with `masks`, only images that have one.

    Raises UserError if there are no images, or none has a mask.
    """
    folder = find_images(data, labelled=False)
    if masks is None:
        return [Sample(folder.path(index)) for index in evenly(len(folder), count)]
    pairs = find_masks([folder.path(index) for index in range(len(folder))], masks).subset(count)
    return [Sample(image, mask, pairs.binary) for image, mask in zip(pairs.images, pairs.masks, strict=True)]


def draw_samples(folder: Path, count: int = SAMPLES) -> list[Sample]:
    """Draw scenes of one to four objects, with their masks, into an existing folder."""
    config = ScenesConfig(train_per_class=0, val_per_class=0, voc_images=count, davis_sequences=0, davis_frames=0)
    voc = write_scenes(folder / "scenes", config) / "VOCdevkit"
    return find_samples(voc / "VOC2012" / "JPEGImages", voc, count)


def readable(samples: Sequence[Sample], limits: Limits) -> list[Sample]:
    """Return the samples that can be shown; everybody meets the first of them. Raises UserError if none can."""
    result: list[Sample] = []
    for sample in samples:
        with contextlib.suppress(Refused):
            read_picture(sample.path, limits)
            result.append(sample)
    if samples and not result:
        raise UserError(
            f"none of the {len(samples)} images in {samples[0].path.parent} that were to be samples can be shown: each "
            "is damaged or beyond the --limits"
        )
    return result


def thumbnails(samples: Sequence[Sample], folder: Path, window: Window | None = None) -> list[Path]:
    """Write small pictures of readable samples into a folder, by the grey range `window`."""
    paths = [folder / f"thumbnail-{number}.png" for number in range(len(samples))]
    for path, sample in zip(paths, samples, strict=True):
        Image.fromarray(shrunk(decode(sample.path, window=window), THUMBNAIL, THUMBNAIL)).save(path)
    return paths
