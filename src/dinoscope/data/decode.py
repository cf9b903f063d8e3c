"""One image file to uint8 RGB, whatever its format: read right, or refused with a reason for a person.

The content decides, never the name. JPEG goes through torchvision, the faster of the two; everything else,
and the JPEGs that torchvision cannot read (CMYK), through Pillow.

- The EXIF orientation is applied, so sizes are those a person sees (of a PNG: the block before the pixels).
- Transparency is composited on white, as a browser or a printed page shows it.
- More than 8 bits of grey, and floats: see `to_uint8`. Colour with 16 bits a channel keeps the upper 8.
- Animations and multi-page files give their first frame or page.
- Colour profiles are ignored; CMYK is converted by the plain formula.
- A JPEG of up to four times as many pixels as are read is decoded at half its width and height.

No file costs more than 1.5 GB or 10 seconds of CPU time: metadata is left out (see `bare_image`), pixels are converted
in strips, and of all processes of a person on a machine, one at a time decodes a huge image.
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
import torchvision.io  # noqa: F401  (registers torch.ops.image)
from filelock import FileLock, Timeout
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import COMPRESSION, PHOTOMETRIC_INTERPRETATION, TiffImageFile

from dinoscope.cache import cache_folder
from dinoscope.data.bare_image import bare_jpeg, count_scans, jpeg_frame
from dinoscope.data.image_header import (
    ORIENTATIONS,
    UnreadableImage,
    check_coefficients,
    damage_reported,
    is_deep_grey,
    jpeg_divisor,
    jpeg_header,
    open_pillow,
    opened,
    pixel_limit,
    raw_pillow,
    sniff,
    without_pillow_limit,
)

__all__ = ["UnreadableImage", "decode", "to_uint8"]

_JPEG_RGB = 3  # torchvision.io.ImageReadMode.RGB
_BIT_DEPTHS = (8, 10, 12, 14, 16)

_PILLOW_UNLIMITED = 1 << 26  # pixels, safely below the 89 million at which Pillow begins to warn


_HUGE = 1 << 25  # pixels; 16 processes may decode smaller ones at the same time
_PATIENCE = 120.0  # seconds that a huge image waits for its turn: a process that was stopped (Ctrl-Z) keeps it
_STRIP = 1 << 22  # pixels converted at a time


def decode(path: Path, *, max_pixels: int | None = None) -> np.ndarray:
    """Return the image as uint8 [height, width, 3] RGB, C-contiguous and writable.

    max_pixels: `pixel_limit()` if None.

    Raises UnreadableImage for anything wrong with the file: missing, not an image, damaged, truncated, or
    more than `max_pixels` by its header (nothing is decoded then). Safe to call from many threads.
    """
    limit = pixel_limit() if max_pixels is None else max_pixels
    with opened(path, limit) as file, damage_reported():
        stream = BytesIO(file.read())
        kind = sniff(stream)
        if kind == "JPEG":
            return _decode_jpeg(stream, limit)
        return _decode_pillow(stream, kind, limit)


@contextlib.contextmanager
def _turn(pixels: int) -> Iterator[None]:
    """Wait, before a huge image is decoded, for any other that is being decoded on this machine."""
    with contextlib.ExitStack() as held:
        if pixels > _HUGE:
            file = cache_folder("locks") / f"huge-image-{platform.node()}"
            with contextlib.suppress(OSError, Timeout):  # a folder that cannot be written; a process that was stopped
                file.parent.mkdir(parents=True, exist_ok=True)
                held.enter_context(FileLock(file, timeout=_PATIENCE, fallback_to_soft=False))
        yield


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
    frame, _ = jpeg_frame(stream)
    data = stream.getvalue()
    if count_scans(data) > 1:
        check_coefficients(frame.coefficient_bytes)
    divisor = jpeg_divisor(frame.height, frame.width, max_pixels)
    with _turn(frame.height * frame.width):
        pixels = None if header.cmyk or divisor > 1 else _torchvision_jpeg(data)
        if pixels is None:
            image = raw_pillow(bare_jpeg(data), "JPEG")
            if divisor > 1:
                image.draft(None, (frame.width // divisor, frame.height // divisor))
            pixels = _rgb(image)
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


def _decode_pillow(stream: BytesIO, kind: str, max_pixels: int) -> np.ndarray:
    image, bare = open_pillow(stream, kind, max_pixels, header_only=False)
    with _turn(image.height * image.width):
        return _orient(_rgb(image), bare.orientation)


def _load(image: ImageFile) -> None:
    with contextlib.ExitStack() as held:
        if image.height * image.width > _PILLOW_UNLIMITED:
            held.enter_context(without_pillow_limit())
        if isinstance(image, TiffImageFile):
            held.enter_context(_tiff_errors_raised(image))
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
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        strip = image
        if rows < image.height:
            strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        if strip.has_transparency_data:
            page = Image.new("RGBA", strip.size, "white")
            page.alpha_composite(strip.convert("RGBA"))
            strip = page
        pixels[top : top + rows] = strip if strip.mode == "RGB" else strip.convert("RGB")
    return pixels


# libtiff carries on after some errors, with whatever was in memory as pixels. Pillow does not ask it about them.

_CLEAN_CODECS = frozenset({1, 5, 8, 32773, 32946, 34925, 50000})  # none, LZW, deflate, PackBits, LZMA, Zstandard
_tiff_errors = threading.local()


@ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p)
def _note_tiff_error(module: bytes | None, message: bytes | None) -> None:
    """Take libtiff's place for messages on the terminal. What it calls in the thread that decodes is noted there."""
    _tiff_errors.last = (message or module or b"").decode("latin-1")


def _hear_tiff_errors() -> bool:
    """Have libtiff tell us of errors; False if Pillow's libtiff cannot be reached (it is part of Pillow on Windows)."""
    try:
        ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(_note_tiff_error)
    except (AttributeError, OSError):
        return False
    return True


_hears_tiff_errors = _hear_tiff_errors()


@contextlib.contextmanager
def _tiff_errors_raised(image: TiffImageFile) -> Iterator[None]:
    """Raise UnreadableImage if libtiff reports an error meanwhile, or could not report one that it carries on after."""
    _tiff_errors.last = None
    if not _hears_tiff_errors and image.tag_v2.get(COMPRESSION, 1) not in _CLEAN_CODECS:
        raise UnreadableImage("not supported on this system: a TIFF compressed as a fax or JPEG is; save it as PNG")
    yield
    if _tiff_errors.last is not None:
        raise UnreadableImage(f"damaged: libtiff reports an error ({_tiff_errors.last})")
