"""Neighbouring slices as channels: an image between those in front of it and behind it.

They are those of the same file or, of a file of one image, of its series (`series`): context and no samples, which a
split or a subset does not change. At the ends of a volume the slice at the edge is repeated, and so is an image that is
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from jaxtyping import Shaped, UInt8
from numpy import ndarray

from dinoscope.data.reader import Display, Frames, Header, RawImage, Stream, UnreadableImage, composite, require_slice
from dinoscope.errors import UserError

MAX_SLICES = 15
"""Slices that an image may be stacked of: an odd number below the channels that an image may have."""

_MAX_PIXELS = 4
"""Pixels of all slices of an image, as a multiple of the limit of one image."""


def check_slices(slices: int) -> None:
    """Raise UserError unless it is an odd number from 1 to `MAX_SLICES`."""
    if slices % 2 == 0 or not 1 <= slices <= MAX_SLICES:
        raise UserError(f"--slices must be odd, from 1 to {MAX_SLICES}, not {slices}: the image is in the middle")


def check_size(height: int, width: int, slices: int, max_pixels: int) -> None:
    """Raise UnreadableImage for slices of too many pixels together."""
    if height * width * slices > (limit := _MAX_PIXELS * max_pixels):
        raise UnreadableImage(
            f"too large: {slices} slices of {width}x{height}, together at most {limit / 1e6:.4g} million pixels are "
            "read; take fewer slices, or allow more with --max-megapixels"
        )


def places_around(place: int, count: int, slices: int) -> list[int]:
    """Return the places of so many slices around one of `count`; those beyond an end are the one at the end."""
    half = slices // 2
    return [min(max(other, 0), count - 1) for other in range(place - half, place + half + 1)]


def around(place: int, count: int, slices: int, read: Callable[[int], RawImage]) -> RawImage:
    """Return the slices around one of `count` as an image. read: is called once for each of them, in order."""
    places = places_around(place, count, slices)
    images = {one: read(one) for one in dict.fromkeys(places)}
    return images[place] if slices == 1 else stacked([images[one] for one in places])


def read_stack(frames: Frames, stream: Stream, max_pixels: int, frame: str, slices: int) -> RawImage:
    """Read an image and its neighbours in the file. Raises UnreadableImage as `stacked` does, and if it is too large.

    frames: of the format, which reads them at once, or one after the other.
    """
    if frames.stack is not None:
        return frames.stack(stream, max_pixels, frame, slices)
    header = frames.header(stream, max_pixels, frame)
    check_size(header.height, header.width, slices, max_pixels)
    stream.seek(0)
    names = frames.names(stream, max_pixels)

    def read(place: int) -> RawImage:
        stream.seek(0)
        return frames.read(stream, max_pixels, names[place])

    return around(names.index(frame), len(names), slices, read)


def repeated(image: RawImage, slices: int) -> RawImage:
    """Return an image without neighbours as so many slices. Raises UnreadableImage as `stacked` does."""
    return image if slices == 1 else stacked([image] * slices)


def stacked(images: Sequence[RawImage]) -> RawImage:
    """Return slices as the channels of one image; colour of 8 bits becomes grey.

    Raises UnreadableImage for other channels, and for slices that differ in size or kind.
    """
    images = [_grey(image) for image in images]
    first, *others = images
    for other in others:
        own, wanted = (image.values.shape[1::-1] for image in (other, first))
        if own != wanted:
            raise UnreadableImage("slices of {}x{} and {}x{} next to each other".format(*wanted, *own))
        if _kind(other) != _kind(first):
            raise UnreadableImage("slices of different kinds next to each other: bits, or black as the largest value")
    displays = [image.display for image in images if image.display is not None]
    return RawImage(
        np.concatenate([image.values for image in images], axis=2),
        _joined([image.alpha for image in images], np.uint16(65535)),
        first.white_is_zero,
        first.reduction,
        _joined([image.padding for image in images], np.False_),
        partial(_shown, displays=displays) if len(displays) == len(images) else None,
    )


def shown(pixels: UInt8[ndarray, "h w c"], slices: int) -> UInt8[ndarray, "h w 3"]:
    """Return what a person is shown of an image that a network is given: of slices the one in the middle, as grey."""
    return composite(pixels, (slices // 2,) if slices > 1 else None)


def stacked_header(header: Header, slices: int) -> Header:
    """Return the header of an image of so many slices. Raises UnreadableImage as `stacked` does."""
    if slices == 1:
        return header
    require_slice(header.channels, over_8_bit=header.over_8_bit)
    return replace(header, channels=slices, grey=False)


def _grey(image: RawImage) -> RawImage:
    channels, over_8_bit = image.values.shape[2], image.values.dtype != np.uint8
    require_slice(channels, over_8_bit=over_8_bit)
    return image if channels == 1 else RawImage(image.pixels(1), reduction=image.reduction)


def _kind(image: RawImage) -> tuple[bool, bool]:
    return image.values.dtype == np.uint8, image.white_is_zero


def _joined(parts: Sequence[ndarray | None], default: np.generic) -> ndarray | None:
    """Return the channels that some of the slices have; those of the others have one value everywhere."""
    shape = next((part.shape for part in parts if part is not None), None)
    if shape is None:
        return None
    return np.concatenate([np.full(shape, default) if part is None else part for part in parts], axis=2)


def _shown(values: Shaped[ndarray, "h w c"], displays: Sequence[Display]) -> UInt8[ndarray, "h w c"]:
    return np.concatenate([display(values[..., [place]]) for place, display in enumerate(displays)], axis=2)
