"""Images as they come in: refused by their headers, before anything is decoded, with a message in plain words."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from numpy import ndarray

from dinoscope.data.benchmarks import BACKGROUND, VOID, read_indices
from dinoscope.data.grey_range import Window
from dinoscope.data.images import RawImage, UnreadableImage, read, read_header
from dinoscope.demo.limits import MB, Limits
from dinoscope.errors import UserError

_NAMED = 4
"""An image that is larger than the limit by up to this factor is refused with its size."""


class Refused(Exception):
    """Something that the page does not do. key, values: of a text in `Words`."""

    def __init__(self, key: str, **values: object) -> None:
        super().__init__(key, values)
        self.key, self.values = key, values

    def __reduce__(self) -> tuple[Any, ...]:
        return _refused, (self.key, self.values)


def _refused(key: str, values: dict[str, object]) -> Refused:
    return Refused(key, **values)


@dataclass(frozen=True)
class Picture:
    """An image. digest: of its values, so that the same image is known again under another name.

    raw: the values that models of other grey ranges than that of `pixels` are given; None for unsigned 8 bits.
    """

    digest: str
    pixels: UInt8[ndarray, "h w 3"]
    raw: RawImage | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def by(self, window: Window | None) -> UInt8[ndarray, "h w 3"]:
        """The pixels by a model's grey range."""
        return self.pixels if self.raw is None else self.raw.rgb(window)


@dataclass(frozen=True)
class Truth:
    """What a mask says: pixels of objects, and those that count at all."""

    objects: Bool[ndarray, "h w"]
    valid: Bool[ndarray, "h w"]


def read_picture(path: Path, limits: Limits, window: Window | None = None) -> Picture:
    """Decode an image, upright. Raises Refused where there is none, it is no image, damaged or over the limits.

    window: grey range by which it is shown.
    """
    check_picture(path, limits)
    try:
        raw = read(path, max_pixels=limits.max_pixels)
    except UnreadableImage as error:
        raise Refused("picture_damaged") from error
    values = raw.values
    digest = hashlib.blake2b(values.tobytes(), digest_size=16, key=repr(values.shape).encode()).hexdigest()
    return Picture(digest, raw.rgb(window), None if values.dtype == np.uint8 else raw)


def check_picture(path: Path, limits: Limits) -> None:
    """Look at a file's size and header alone. Raises Refused as `read_picture` does, but for damage behind them."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise Refused("picture_gone") from error
    if size == 0:
        raise Refused("picture_empty")
    if size > limits.upload_bytes:
        raise Refused("picture_heavy", size=f"{size / MB:.0f}", most=f"{limits.upload_mb:g}")
    try:
        header = read_header(path, max_pixels=_NAMED * limits.max_pixels)
    except UnreadableImage as error:
        # a header beyond what decode ever reads says so, and is the only fault that is about size
        key = "picture_vast" if str(error).startswith("too large") else "picture_no_image"
        raise Refused(key, most=f"{limits.megapixels:g}") from error
    width, height = header.width, header.height
    if width * height > limits.max_pixels:
        values = {"width": width, "height": height, "pixels": f"{width * height / 1e6:.0f}"}
        raise Refused("picture_large", **values, most=f"{limits.megapixels:g}")
    if max(width, height) > limits.side:
        raise Refused("picture_long", width=width, height=height, most=limits.side)


def read_truth(path: Path, size: tuple[int, int], limits: Limits, binary: bool | None = None) -> Truth:
    """The mask of an image whose (height, width) is `size`: 0 is background, 255 void, all else an object.

    binary: 255 is the object and nothing is void; None: where the mask holds nothing but 0 and 255.
    Raises Refused where it is no mask, or of another size.
    """
    check_picture(path, limits)
    try:
        values = read_indices(path)
    except UserError as error:
        raise Refused("truth_no_mask") from error
    if values.shape != size:
        raise Refused("truth_size", mask=f"{values.shape[1]} × {values.shape[0]}", image=f"{size[1]} × {size[0]}")
    if binary or (binary is None and not np.isin(values, (BACKGROUND, VOID), invert=True).any()):
        return Truth(values > BACKGROUND, np.ones(size, bool))
    return Truth((values != BACKGROUND) & (values != VOID), values != VOID)
