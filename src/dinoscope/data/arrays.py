"""Arrays of numpy in files of their own (.npy, numpy/lib/format.py): images, or stacks of images along the first axis.

[h, w] and [h, w, c] are images, of up to 16 channels if there are fewer than rows and columns. [n, h, w] and
[n, h, w, c] are stacks, whose frames are samples of their own. Of four channels the last is left out, as transparency.
Pickles are never loaded.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy

from dinoscope.data import reader
from dinoscope.data.reader import Frames, Header, RawImage, Reader, Stream, UnreadableImage, not_supported

_MAX_FRAMES = 1 << 20
_USUAL = (1, 3, 4)  # channels, however small the image
_READ_HEADER = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class _Array(NamedTuple):
    """What the header of a file tells. shape: [frames, h, w, c]. start: of the values in the file."""

    shape: tuple[int, int, int, int]
    kind: np.dtype
    is_fortran: bool
    start: int

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"frame={index}" for index in range(self.shape[0])) if self.shape[0] > 1 else ("",)


def names(stream: Stream, max_pixels: int) -> tuple[str, ...]:
    """Return "frame=0", "frame=1" and so on of a stack; "" for an image."""
    return _opened(stream, max_pixels).names


def read_header(stream: Stream, max_pixels: int, frame: str = "") -> Header:
    """Return what the header of the file tells of an image."""
    array = _opened(stream, max_pixels)
    reader.frame_index(frame, array.names)
    _, height, width, channels = array.shape
    sample = "u1" if array.kind == np.bool_ else array.kind.str[1:]
    shown = 3 if channels == 4 else channels
    return Header("NPY", height, width, grey=channels == 1, alpha=False, sample=sample, channels=shown)


def read(content: Stream, max_pixels: int, frame: str = "") -> RawImage:
    """Read an image, and no other of a stack. A fourth channel is left out."""
    array = _opened(content, max_pixels)
    index, (frames, *shape) = reader.frame_index(frame, array.names), array.shape
    if array.is_fortran:  # every frame is spread over the whole file
        content.seek(array.start)
        values = np.frombuffer(content.read(), array.kind, frames * math.prod(shape))
        values = values.reshape(array.shape, order="F")[index]
    else:
        content.seek(array.start + index * math.prod(shape) * array.kind.itemsize)
        values = np.frombuffer(content.read(math.prod(shape) * array.kind.itemsize), array.kind).reshape(shape)
    values = np.array(values[..., : 3 if shape[2] == 4 else None], array.kind.newbyteorder("="), order="C")
    return RawImage(values * np.uint8(255) if values.dtype == np.bool_ else values)


READER = Reader(
    (".npy",),
    lambda start: start.startswith(npy.MAGIC_PREFIX),
    read_header,
    read,
    frames=Frames(names, read_header, read),
)


def _opened(stream: Stream, max_pixels: int) -> _Array:
    """Read the header. Raises UnreadableImage for values that are no image, or more than the file holds."""
    size = stream.seek(0, 2)
    stream.seek(0)
    shape, is_fortran, kind = _READ_HEADER[npy.read_magic(stream)](stream)  # of a text that is limited to 10,000 bytes
    start = stream.tell()
    if kind.hasobject or kind.kind not in "buif":
        raise not_supported(f"an array of {kind}, save it as numbers")
    if not shape or min(shape) < 1 or max(shape) > max(max_pixels, _MAX_FRAMES):
        raise UnreadableImage(f"not an image: an array of shape {shape}")
    full = _shape(shape)
    if full[1] * full[2] > max_pixels:
        raise reader.too_large(full[1], full[2], max_pixels)
    if math.prod(shape) * kind.itemsize > size - start:
        raise UnreadableImage(f"damaged: an array of shape {shape} in a file of {size} bytes")
    return _Array(full, kind, is_fortran, start)


def _shape(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return [frames, h, w, c]."""
    if len(shape) == 2:
        return (1, *shape, 1)
    channels = shape[-1]
    are_channels = channels in _USUAL or (channels <= reader.MAX_CHANNELS and channels < min(shape[-3:-1], default=0))
    if len(shape) == 3 and are_channels:
        return (1, *shape)
    if len(shape) == 3 and shape[0] not in (3, 4):
        return (*shape, 1)
    if len(shape) == 4 and are_channels:
        return shape
    raise not_supported(
        f"an array of shape {shape}, save it as [h, w] or [h, w, c] with 1 to 16 channels, or a stack of such images"
    )
