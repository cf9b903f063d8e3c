"""Masks as PNG files whose pixel values are the classes or objects themselves, as PASCAL VOC and DAVIS keep them.

Programs that draw leave soft edges: grey between the 0 outside of an object and its 255. Taken for classes, each of
these greys would be one, and the object itself would be void. Such a mask is cut at one half when it is read.
"""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Int, UInt8
from numpy import ndarray
from PIL import Image, UnidentifiedImageError

from dinoscope.data.image_header import MAX_PIXELS
from dinoscope.errors import UserError

_INDEXED_MODES = ("1", "L", "P")

_HALF = 128
_WHITE = 224
"""What is painted in white is at least so bright: 255, or a little less after a compression that loses detail."""
_GREY = 32
"""Edges are grey; numbers of objects and classes next to a void of 255 are mostly smaller."""
_MAX_FLAT = 0.1
"""Share of the pixels between black and white that may lie amidst equal ones: few in a soft edge, most in an object."""
_MAX_THIN = 8
"""Values that no area has, from which on they are edges rather than objects, if they are most of the values."""


def read_indices(path: Path) -> UInt8[ndarray, "h w"]:
    """The values of a palette or 8-bit grey PNG as they stand in the file: the palette is not looked up.

    Of a grey one, soft edges are cut at one half, to 0 and 255.

    Raises UserError, with the file's name, for what is missing, damaged, too large, has colours instead of indices, or
    soft edges of something that is not white.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"{path}: {image.width} x {image.height} px, and {MAX_PIXELS} pixels is the most")
            if image.mode not in _INDEXED_MODES:
                raise UserError(
                    f"{path} is a PNG of mode {image.mode}, and a mask needs one index a pixel: "
                    "save it with a palette, or as 8-bit grey"
                )
            values = np.array(image.convert("L") if image.mode == "1" else image, dtype=np.uint8)
            return _cut(values, path) if image.mode == "L" else values
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a readable PNG"
        raise UserError(f"{path}: {reason}") from error


def _cut(values: UInt8[ndarray, "h w"], path: Path) -> UInt8[ndarray, "h w"]:
    """The values of a grey mask as they are, or 0 and 255 if it shows something in white with soft edges.

    Grey pixels of an edge lie next to other values, since an edge is a slope; those of an object, or of a class, lie
    amidst equal ones. Raises UserError for edges without white.
    """
    present = _levels(values)
    if len(present) < 2 or present[-1] < _GREY:
        return values
    square = cv2.getStructuringElement(cv2.MORPH_RECT, (3, 3))
    flat = cv2.dilate(values, square) == cv2.erode(values, square)
    areas, between = _levels(values[flat]), (values > 0) & (values < _WHITE)
    white, grey = areas[-1:] >= _WHITE, (present >= _GREY) & (present < 255)
    if white.any() and grey.any() and (flat & between).sum() <= _MAX_FLAT * between.sum():
        return np.where(values < _HALF, np.uint8(0), np.uint8(255))
    thin = len(np.setdiff1d(present[present >= _GREY], areas))
    if thin >= _MAX_THIN and thin > len(areas):
        raise UserError(
            f"{path} has soft edges: {thin} of its {len(present)} values lie along edges alone. A mask needs one value "
            "for each object: cut it at one half, or, if they are numbers of objects, save it with a palette"
        )
    return values


def _levels(values: UInt8[ndarray, "*n"]) -> Int[ndarray, " levels"]:
    """The different values but 0, in order."""
    return np.flatnonzero(np.bincount(values.ravel(), minlength=256)[1:]) + 1


def encode_indices(indices: UInt8[ndarray, "h w"]) -> bytes:
    """A palette PNG with VOC's colours whose pixel values are the indices."""
    image = Image.fromarray(indices, mode="P")
    image.putpalette(voc_palette())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def voc_palette() -> list[int]:
    """The 256 colours of PASCAL VOC, flat RGB: bits of the index dealt to the channels, highest bit first."""
    indices = np.arange(256)
    colors = np.zeros((256, 3), np.int64)
    for level in range(8):
        for channel in range(3):
            colors[:, channel] |= ((indices >> (3 * level + channel)) & 1) << (7 - level)
    return colors.flatten().tolist()
