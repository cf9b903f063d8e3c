"""What the page takes on, and images as they come in: refused by their headers, before anything is decoded."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from numpy import ndarray

from dinoscope.data.benchmarks import BACKGROUND, VOID, find_masks, is_binary, read_indices
from dinoscope.data.grey_range import Window, is_joined
from dinoscope.data.images import RawImage, UnreadableImage, read, read_header
from dinoscope.data.neighbours import repeated
from dinoscope.data.sources import evenly, images_in_folder
from dinoscope.errors import UserError
from dinoscope.models.backbone import BackboneConfig

Pixels = UInt8[ndarray, "_ _ 3"]

MB = 10**6
"""Bytes of a megabyte, and pixels of a megapixel."""
SHOWN = 720
"""Longest side, in pixels, of a picture on the page."""
THUMBNAIL = 240
"""The same for small pictures, such as those of the heads."""
SAMPLES = 8

_SMALLEST = 320  # px; a map over a smaller image looks coarse once the browser enlarges it
_NAMED = 4  # an image that is larger than the limit by up to this factor is refused with its size


@dataclass(frozen=True)
class Limits:
    """What is refused, and how many are served at once. Raises UserError for a limit that is not above 0."""

    megapixels: float = 50
    """Max million pixels of an image, by its header."""
    side: int = 20_000
    """Longest side of an image, in pixels, by its header."""
    upload_mb: float = 50
    """Largest file of an image, in MB (1,000,000 bytes)."""
    video_mb: float = 200
    """Largest file of a video, in MB."""
    uploads_mb: float = 4000
    """All files that the page holds at a time, in MB; they are removed after an hour."""
    decode_seconds: float = 10
    """Longest time for reading an image; a video may take six times as long."""
    video_seconds: float = 30
    """Longest video, in seconds."""
    video_frames: int = 150
    """Max frames of a video that are followed; of a longer video, the person chooses which."""
    video_side: int = 640
    """Longer side of a video's frames, in pixels: larger ones are shrunk to it."""
    most_size: int = 640
    """Largest short side, in pixels, of a model's input."""
    patches: int = 12_000
    """Max patches of a model's input; the time grows with their square, and all others wait for it."""
    cache_mb: float = 512
    """Memory for what the models have computed, in MB; the least recently used is removed first."""
    concurrent: int = 1
    """Computations at the same time; all others wait in the queue."""
    queue: int = 64
    """Max computations that wait; later visitors are asked to try again."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise UserError(f"{field.name} is a limit above 0, not {getattr(self, field.name)}")


class Refused(Exception):
    """What the page does not do, and why: `key` names a text of en.toml, and `values` fill its placeholders."""

    def __init__(self, key: str, **values: object) -> None:
        super().__init__(key, values)
        self.key, self.values = key, values

    def __reduce__(self) -> tuple[Any, ...]:  # it crosses from the decoding processes
        return functools.partial(Refused, self.key, **self.values), ()


@dataclass(frozen=True)
class Sample:
    """An image that the page offers or a visitor chose. mask: of its objects. binary: see `read_truth`."""

    path: Path
    mask: Path | None = None
    binary: bool | None = None


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    digest: hash of its values, by which the same image is recognised under another name.
    raw: values of more than 8 bits, which each model maps by its own grey range, and those of other channels than a
        picture shows; None for unsigned 8 bits of grey or RGB.
    """

    digest: str
    pixels: UInt8[ndarray, "h w 3"]
    raw: RawImage | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def given_to(self, config: BackboneConfig) -> UInt8[ndarray, "h w c"]:
        """Return the pixels as a model takes them: by its grey range, in its channels, repeated if these are slices.

        Raises Refused if the picture cannot be brought to them.
        """
        raw = RawImage(self.pixels) if self.raw is None else self.raw
        try:
            return repeated(raw, config.slices).pixels(config.channels, config.window)
        except UnreadableImage as error:
            if is_joined(config.window):
                raise Refused("picture_bits", wanted=config.channels) from error
            raise Refused("picture_channels", channels=raw.values.shape[2], wanted=config.channels) from error


@dataclass(frozen=True)
class GroundTruth:
    """Pixels of objects, and pixels that are evaluated (all but void)."""

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
    is_shown = values.dtype == np.uint8 and values.shape[2] in (1, 3)
    return Picture(digest, raw.rgb(window), None if is_shown else raw)


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
    max_pixels, most = int(limits.megapixels * MB), f"{limits.megapixels:g}"
    try:
        header = read_header(path, max_pixels=_NAMED * max_pixels)
    except UnreadableImage as error:
        # a header beyond what `read` ever takes says so, and is the only fault that is about size
        key = "picture_vast" if str(error).startswith("too large") else "picture_no_image"
        raise Refused(key, most=most) from error
    width, height = header.width, header.height
    if width * height > max_pixels:
        raise Refused("picture_large", width=width, height=height, pixels=f"{width * height / 1e6:.0f}", most=most)
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
    if binary or (binary is None and is_binary(values)):
        return GroundTruth(values > BACKGROUND, np.ones(size, bool))
    return GroundTruth((values != BACKGROUND) & (values != VOID), values != VOID)


def fitted_size(size: tuple[int, int], longest: int, shortest: int = 1) -> tuple[int, int]:
    """Return (height, width) of the same aspect whose longer side is from `shortest` to `longest` pixels."""
    side = max(size)
    wanted = min(max(side, shortest), longest)
    return max(1, round(size[0] * wanted / side)), max(1, round(size[1] * wanted / side))


def shrunk(pixels: Pixels, longest: int, shortest: int = _SMALLEST) -> Pixels:
    """Resize an image so that its longest side is from `shortest` to `longest` pixels. The aspect stays."""
    size = pixels.shape[0], pixels.shape[1]
    height, width = fitted_size(size, longest, shortest)
    if (height, width) == size:
        return pixels
    method = cv2.INTER_AREA if max(height, width) < max(size) else cv2.INTER_CUBIC
    return cv2.resize(pixels, (width, height), interpolation=method)


def find_samples(data: Path, masks: Path | None, limits: Limits) -> list[Sample]:
    """Return evenly spaced images of a folder that can be shown; with `masks`, only images that have one.

    Raises UserError if there are no images, none can be shown, or none has a mask.
    """
    folder = images_in_folder(data, labelled=False)
    if masks is None:
        samples = [Sample(folder.path(index)) for index in evenly(len(folder), SAMPLES)]
    else:
        pairs = find_masks([folder.path(index) for index in range(len(folder))], masks).subset(SAMPLES)
        samples = [Sample(image, mask, pairs.binary) for image, mask in zip(pairs.images, pairs.masks, strict=True)]
    result = list[Sample]()
    for sample in samples:
        with contextlib.suppress(Refused):
            read_picture(sample.path, limits)
            result.append(sample)
    if not result:
        raise UserError(
            f"none of the {len(samples)} images in {samples[0].path.parent} that were to be samples can be shown: each "
            "is damaged or beyond the --limits"
        )
    return result
