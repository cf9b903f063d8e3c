"""Masks as PNG files whose pixel values are the classes or objects themselves, as PASCAL VOC and DAVIS keep them."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from dinoscope.data.image_header import UnreadableImage, damage_reported, open_pillow, opened, pixel_limit, sniff
from dinoscope.errors import UserError

_INDEXED_MODES = ("1", "L", "P")
_BIT_DEPTH = 24  # place of the bits of a pixel in a file (PNG 1.2, 4.1.1)


def read_indices(path: Path) -> UInt8[ndarray, "h w"]:
    """The values of a palette or grey PNG as they stand in the file: the palette is not looked up.

    Of one bit without a palette the object is 255, as drawing programs write it.

    Raises UserError, with the file's name, for what is missing, damaged, too large, or has colours instead of indices.
    """
    limit = pixel_limit()
    try:
        with opened(path, limit) as file, damage_reported():
            if sniff(file) != "PNG":
                raise UnreadableImage("the content is of another format")
            content = file.read()
            image, _ = open_pillow(BytesIO(content), "PNG", limit, header_only=False)
            if image.mode in _INDEXED_MODES:
                image.load()
                values = np.array(image.convert("L") if image.mode == "1" else image, dtype=np.uint8)
                bits = content[_BIT_DEPTH] if image.mode == "L" else 8
                # Pillow stretches grey of 2 and 4 bits to 255.
                return values if bits == 8 else values // np.uint8(255 // (2**bits - 1))
    except UnreadableImage as error:
        raise UserError(f"{path}: not a readable PNG: {error}") from error
    raise UserError(
        f"{path} is a PNG of mode {image.mode}, and a mask needs one index a pixel: "
        "save it with a palette, or as 8-bit grey"
    )


def encode_indices(indices: UInt8[ndarray, "h w"]) -> bytes:
    """A palette PNG with VOC's colours whose pixel values are the indices."""
    image = Image.fromarray(indices, mode="P")
    image.putpalette(voc_palette())
    buffer = BytesIO()
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
