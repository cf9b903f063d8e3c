"""Pictures small enough to stand within a page: WebP."""

from __future__ import annotations

import io

from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

_QUALITY = 82
_SLOWEST = 6
"""The effort of Pillow's encoder: smallest files."""


def webp(pixels: UInt8[ndarray, "h w 3"], *, lossless: bool = False) -> bytes:
    """A WebP file. lossless: for drawings of few colours, which are smaller so and without smears."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "webp", quality=_QUALITY, method=_SLOWEST, lossless=lossless)
    return file.getvalue()
