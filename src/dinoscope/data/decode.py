"""One image file to uint8 RGB, whatever its format: read right, or refused with a reason for a person.

The content decides, never the name. JPEG goes through torchvision, the faster of the two; everything else,
and the JPEGs that torchvision cannot read (CMYK), through Pillow.

- The EXIF orientation is applied, so sizes are those a person sees (of a PNG: the block before the pixels).
- Transparency is composited on white, as a browser or a printed page shows it.
- More than 8 bits of grey, and floats: see `to_uint8`. Colour with 16 bits a channel keeps the upper 8.
- Animations and multi-page files give their first frame or page.
- Colour profiles are ignored; CMYK is converted by the plain formula.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
import torchvision.io  # noqa: F401  (registers torch.ops.image)
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION, TiffImageFile

from dinoscope.data.image_header import (
    MAX_PIXELS,
    ORIENTATIONS,
    Stream,
    UnreadableImage,
    damage_reported,
    is_deep_grey,
    jpeg_header,
    open_pillow,
    opened,
    pillow_header,
    sniff,
    without_pillow_limit,
)

__all__ = ["MAX_PIXELS", "UnreadableImage", "decode", "to_uint8"]

_JPEG_RGB = 3  # torchvision.io.ImageReadMode.RGB
_BIT_DEPTHS = (8, 10, 12, 14, 16)

_PILLOW_UNLIMITED = 1 << 26  # pixels, safely below the 89 million at which Pillow begins to warn


def decode(path: Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return the image as uint8 [height, width, 3] RGB, C-contiguous and writable.

    Raises UnreadableImage for anything wrong with the file: missing, not an image, damaged, truncated, or
    more than `max_pixels` by its header (nothing is decoded then). Safe to call from many threads.
    """
    with opened(path) as file, damage_reported():
        stream = BytesIO(file.read())
        kind = sniff(stream)
        if kind == "JPEG":
            return _decode_jpeg(stream, max_pixels)
        return _decode_pillow(stream, kind, max_pixels)


def to_uint8(values: np.ndarray) -> np.ndarray:
    """Map grey values of any depth to uint8, linearly, by a rule that depends on this image alone.

    - Integers, none negative, up to 65535: [0, 2^b - 1] becomes [0, 255], where b is the smallest of 8, 10,
      12, 14 and 16 bits that holds the largest value. So black stays black, and what a 12-bit detector saw
      keeps its contrast in a 16-bit file.
    - Floats within [0, 1]: that range becomes [0, 255].
    - Anything else (Hounsfield units, floats of any range): the smallest finite value becomes 0, the largest
      255; an image of one value becomes 0.

    Not-a-number becomes 0; infinities become the ends of the range.
    """
    integral = values.dtype.kind in "iu"
    finite = values if integral else values[np.isfinite(values)]
    if finite.size == 0:
        return np.zeros(values.shape, np.uint8)
    low, high = float(finite.min()), float(finite.max())
    if integral and low >= 0 and high < 2 ** _BIT_DEPTHS[-1]:
        low, high = 0.0, float(next(2**bits - 1 for bits in _BIT_DEPTHS if high < 2**bits))
    elif not integral and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    scaled = np.subtract(values, low, dtype=np.float64)
    scaled *= 255 / ((high - low) or 1.0)
    np.clip(scaled, 0, 255, out=scaled)  # infinities
    return np.rint(np.nan_to_num(scaled, copy=False), out=scaled).astype(np.uint8)


def _orient(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels [height, width, 3] upright; C-contiguous."""
    swap, flip_rows, flip_columns = ORIENTATIONS[orientation]
    if swap:
        pixels = pixels.swapaxes(0, 1)
    if flip_rows:
        pixels = pixels[::-1]
    if flip_columns:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


# JPEG


def _decode_jpeg(stream: BytesIO, max_pixels: int) -> np.ndarray:
    header = jpeg_header(stream, max_pixels)
    pixels = None if header.cmyk else _torchvision_jpeg(stream.getvalue())
    if pixels is None:
        pixels = _rgb(open_pillow(stream, "JPEG"))
    return _orient(pixels, header.orientation)


def _torchvision_jpeg(data: bytes) -> np.ndarray | None:
    """Return the stored pixels [height, width, 3], or None where Pillow is to have the last word.

    The operator is called without its wrapper, deprecated since torchvision 0.29, which warns at every call.
    A torchvision that has dropped it, was built without libjpeg, or refuses the file leaves it to Pillow.
    """
    try:
        planes = torch.ops.image.decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), _JPEG_RGB)
    except (AttributeError, RuntimeError):
        return None
    return planes.permute(1, 2, 0).numpy()


# Everything else


def _decode_pillow(stream: Stream, kind: str, max_pixels: int) -> np.ndarray:
    image = open_pillow(stream, kind)
    header = pillow_header(image, kind, max_pixels)
    pixels = _rgb(image)
    # Pillow turns a TIFF upright while loading it, and no other format.
    return _orient(pixels, 1 if kind == "TIFF" else header.orientation)


def _load(image: ImageFile) -> None:
    if image.height * image.width > _PILLOW_UNLIMITED:
        with without_pillow_limit():
            image.load()
    else:
        image.load()


def _rgb(image: ImageFile) -> np.ndarray:
    """Load and return the pixels as uint8 [height, width, 3], writable."""
    _load(image)
    if is_deep_grey(image):
        grey = to_uint8(np.asarray(image))
        # Pillow inverts a "white is zero" TIFF (some X-rays) at 8 bits, not above.
        if isinstance(image, TiffImageFile) and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0:
            grey = 255 - grey
        return np.repeat(grey[..., None], 3, axis=2)
    if image.has_transparency_data:
        page = Image.new("RGBA", image.size, "white")
        page.alpha_composite(image.convert("RGBA"))
        return np.array(page.convert("RGB"))
    return np.array(image.convert("RGB"))
