"""One image file to RGB, whatever its format: read right, or refused with a reason for a person.

The content decides, never the name. JPEG goes through torchvision, the faster of the two; everything else up to 8
bits, and the JPEGs that torchvision cannot read (CMYK), through Pillow; 16-bit colour and TIFFs of more than 8 bits,
which Pillow cuts or confuses, through OpenCV.

- `read` gives the values as they stand in the file, and `RawImage.rgb` maps those of more than 8 bits to uint8 by a
  grey range, in one place (`grey_range`). `decode` does both.
- The EXIF orientation is applied, so sizes are those a person sees (of a PNG: the block before the pixels).
- Transparency is composited on white, as a browser or a printed page shows it. A further channel that the file does
  not call transparency is left out.
- Animations give their first frame. TIFFs of several pages are refused: an image can be only one of them.
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
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import torch
import torchvision.io  # noqa: F401  (registers torch.ops.image)
from filelock import FileLock, Timeout
from jaxtyping import Shaped, UInt8
from numpy import ndarray
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import COMPRESSION, TILEWIDTH, TiffImageFile

from dinoscope.data.bare_image import bare_jpeg, count_scans, fax_between, jpeg_frame
from dinoscope.data.grey_range import ValueRange, Window, range_of, to_uint8
from dinoscope.data.image_header import (
    ORIENTATIONS,
    UnreadableImage,
    check_coefficients,
    damage_reported,
    is_deep_grey,
    jpeg_divisor,
    jpeg_header,
    open_pillow,
    open_tiff,
    opened,
    pixel_limit,
    raw_pillow,
    sample_kind,
    sniff,
    tiff_header,
    unsupported,
    without_pillow_limit,
)
from dinoscope.files import cache_folder

__all__ = ["RawImage", "UnreadableImage", "decode", "read"]

_JPEG_RGB = 3  # torchvision.io.ImageReadMode.RGB

_PILLOW_UNLIMITED = 1 << 26  # pixels, safely below the 89 million at which Pillow begins to warn
_HUGE = 1 << 25  # pixels; 16 processes may decode smaller ones at the same time
_PATIENCE = 120.0  # seconds that a huge image waits for its turn: a process that was stopped (Ctrl-Z) keeps it
_NO_TURN = contextlib.nullcontext()
_STRIP = 1 << 20  # pixels converted at a time
_OPAQUE = 65535
_PNG_CRITICAL = (b"IHDR", b"tRNS", b"IDAT", b"IEND")


@dataclass(frozen=True)
class RawImage:
    """Values as they stand in a file, upright.

    values: uint8 [h, w, 3], which is RGB and finished; or of another type, [h, w, 1] grey or [h, w, 3] RGB.
    alpha: uint16 [h, w, 1], 0 where nothing is seen, or None. Of uint8 it is composited already.
    white_is_zero: the largest values are black.
    """

    values: Shaped[ndarray, "h w c"]
    alpha: Shaped[ndarray, "h w 1"] | None = None
    white_is_zero: bool = False

    @property
    def range(self) -> ValueRange | None:
        """Smallest and largest value; None for uint8, which has no grey range, and where no value is finite."""
        return None if self.values.dtype == np.uint8 else range_of(self.values)

    def rgb(self, window: Window | None = None) -> UInt8[ndarray, "h w 3"]:
        """RGB, C-contiguous and writable. window: the grey range; None takes that of this image alone."""
        if self.values.dtype == np.uint8:
            return self.values
        pixels = to_uint8(self.values, window)
        if self.white_is_zero:
            np.subtract(255, pixels, out=pixels)
        if self.alpha is not None:
            for rows in _strips(*pixels.shape[:2]):
                opacity = self.alpha[rows].astype(np.float32) / _OPAQUE
                blended = (pixels[rows].astype(np.float32) - 255) * opacity + 255
                pixels[rows] = np.rint(blended, out=blended)
        return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else np.ascontiguousarray(pixels)


def decode(path: Path, *, window: Window | None = None, max_pixels: int | None = None) -> UInt8[ndarray, "h w 3"]:
    """Return the image as uint8 [height, width, 3] RGB, C-contiguous and writable. Raises as `read` does.

    window: grey range of values of more than 8 bits, the model's where there is one; None takes the image's own.
    """
    return read(path, max_pixels=max_pixels).rgb(window)


def read(path: Path, *, max_pixels: int | None = None) -> RawImage:
    """Return the values of the image as they stand in the file. max_pixels: `pixel_limit()` if None.

    Raises UnreadableImage for anything wrong with the file: missing, not an image, of a kind that is not read,
    damaged, truncated, or more than `max_pixels` by its header (nothing is decoded then). Safe to call from many
    threads.
    """
    limit = pixel_limit() if max_pixels is None else max_pixels
    with opened(path, limit) as file, damage_reported():
        stream = BytesIO(file.read())
        kind = sniff(stream)
        if kind == "JPEG":
            return RawImage(_decode_jpeg(stream, limit))
        if kind == "TIFF":
            return _read_tiff(stream, limit)
        return _read_pillow(stream, kind, limit)


def _turn(pixels: int) -> contextlib.AbstractContextManager[object]:
    """Wait, before a huge image is decoded, for any other that is being decoded on this machine."""
    return _turn_of_the_huge() if pixels > _HUGE else _NO_TURN


@contextlib.contextmanager
def _turn_of_the_huge() -> Iterator[None]:
    file = cache_folder("locks") / f"huge-image-{platform.node()}"
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError, Timeout):  # a folder that cannot be written; a process that was stopped
            file.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(file, timeout=_PATIENCE, fallback_to_soft=False, preserve_lock_file=True))
        yield


def _strips(height: int, width: int) -> Iterator[slice]:
    """Yield the rows that are converted at a time."""
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        yield slice(top, min(top + rows, height))


def _orient(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels [height, width, channels] upright; C-contiguous."""
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
    frame, orientation = jpeg_frame(stream)
    header = jpeg_header(frame, orientation, max_pixels)
    data = stream.getvalue()
    if count_scans(data, stream.tell()) > 1:
        check_coefficients(frame.coefficient_bytes)
    divisor = jpeg_divisor(frame.height, frame.width, max_pixels)
    with _turn(frame.height * frame.width):
        pixels = None if header.cmyk or divisor > 1 else _torchvision_jpeg(data)
        if pixels is None:
            image = raw_pillow(bare_jpeg(data), "JPEG")
            if divisor > 1:
                image.draft(None, (frame.width // divisor, frame.height // divisor))
            pixels = _rgb(image, transparent=False)
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


# TIFF


def _read_tiff(stream: BytesIO, max_pixels: int) -> RawImage:
    header, tiff, bare = tiff_header(stream, max_pixels, header_only=False)
    traits = {"transparent": tiff.transparent, "white_is_zero": tiff.white_is_zero}
    with _turn(header.height * header.width):
        if tiff.opencv:
            values = _opencv(stream.getvalue())
            if tiff.sample == "u4":  # OpenCV 4 gives it as signed
                values = values.view(np.uint32)
            if values.dtype != np.dtype(tiff.sample):
                raise ValueError(f"{tiff.sample} was read as {values.dtype}")
            return _upright(values, header.orientation, **traits)
        image = open_tiff(bare.stream, tiff)
        if tiff.sample == "u1":
            return RawImage(_orient(_rgb(image, transparent=tiff.transparent), header.orientation))
        _load(image)
        values = np.asarray(image)[..., None]
        values = values.view(np.int8) if tiff.sample == "i1" else values.astype(np.uint16)
        return RawImage(_orient(values, header.orientation), white_is_zero=tiff.white_is_zero)


def _opencv(content: bytes) -> Shaped[ndarray, "h w c"]:
    """The values as stored, RGB or RGBA where there are three or four. Raises ValueError where they cannot be read."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(error.err) from error
    finally:
        cv2.utils.logging.setLogLevel(level)
    if values is None:
        raise ValueError("its pixels cannot be read")
    values = values if values.ndim == 3 else values[..., None]
    return values[..., [2, 1, 0, 3][: values.shape[2]]] if values.shape[2] > 1 else values


def _upright(values: Shaped[ndarray, "h w c"], orientation: int, **traits: bool) -> RawImage:
    """Part transparency, if there is any, from the colours, and leave out any other fourth channel."""
    transparent = traits.pop("transparent")
    values = _orient(values, orientation)
    alpha = values[..., 3:] if transparent else None
    return RawImage(values[..., :3] if values.shape[2] > 3 else values, alpha, **traits)


# Everything else


def _read_pillow(stream: BytesIO, kind: str, max_pixels: int) -> RawImage:
    image, bare = open_pillow(stream, kind, max_pixels, header_only=False)
    with _turn(image.height * image.width):
        if sample_kind(image) == "u1":
            transparent = _load(image).has_transparency_data
            if transparent and kind == "BMP":  # some programs write a fourth channel and leave it at 0
                transparent = image.getchannel("A").getextrema() != (0, 0)
            return RawImage(_orient(_rgb(image, transparent=transparent), bare.orientation))
        if kind == "PPM":
            return RawImage(_deep_ppm(image, stream.getvalue()))
        if is_deep_grey(image):
            _load(image)
            values = np.asarray(image).astype(np.uint16)[..., None]
            if (invisible := image.info.get("transparency")) is None:
                return RawImage(_orient(values, bare.orientation))
            alpha = np.where(values == invisible, np.uint16(0), np.uint16(_OPAQUE))
            return RawImage(_orient(values, bare.orientation), _orient(alpha, bare.orientation))
        _load(image)  # if it is damaged, Pillow raises where OpenCV's libpng prints
        values = _opencv(_pixels_of_png(stream.getvalue()))
        return _upright(values, bare.orientation, transparent=image.has_transparency_data)


def _pixels_of_png(content: bytes) -> bytes:
    """The same file without what are no pixels: libpng prints its remarks about the rest.

    Raises ValueError where a chunk is damaged or missing.
    """
    parts, at, kind = [content[:8]], 8, b""
    while kind != b"IEND":
        kind, end = content[at + 4 : at + 8], at + 12 + int.from_bytes(content[at : at + 4])
        if end > len(content) or len(kind) < 4:
            raise ValueError("the file ends within its pixels")
        if kind in _PNG_CRITICAL:
            if zlib.crc32(content[at + 4 : end - 4]) != int.from_bytes(content[end - 4 : end]):
                raise ValueError(f"the checksum of {kind.decode()} is wrong")
            parts.append(content[at:end])
        at = end
    return b"".join(parts)


def _deep_ppm(image: ImageFile, content: bytes) -> Shaped[ndarray, "h w c"]:
    """The values of more than 8 bits as they stand: Pillow stretches them to the largest that the header allows."""
    shape = (image.height, image.width, 3 if image.mode == "RGB" else 1)
    coding, _, offset, _ = image.tile[0]
    if coding == "ppm_plain":
        values = np.fromstring(content[offset:], np.int64, sep=" ")
    else:
        values = np.frombuffer(content, ">u2", offset=offset)
    count = np.prod(shape)
    if len(values) < count:
        raise ValueError("the file ends within its pixels")
    return values[:count].reshape(shape).astype(np.uint16)


def _load(image: ImageFile) -> ImageFile:
    with contextlib.ExitStack() as held:
        if image.height * image.width > _PILLOW_UNLIMITED:
            held.enter_context(without_pillow_limit())
        if isinstance(image, TiffImageFile):
            held.enter_context(_tiff_errors_raised(image))
            if image.tag_v2.get(COMPRESSION) == _GROUP_4:
                _check_fax(image)
        image.load()
    return image


def _rgb(image: ImageFile, *, transparent: bool) -> np.ndarray:
    """Load and return the pixels as uint8 [height, width, 3], writable. transparent: it has transparency."""
    _load(image)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for rows in _strips(image.height, image.width):
        strip = image
        if rows.stop - rows.start < image.height:
            strip = image.crop((0, rows.start, image.width, rows.stop))
        if transparent:
            page = Image.new("RGBA", strip.size, "white")
            page.alpha_composite(strip.convert("RGBA"))
            strip = page
        pixels[rows] = np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))
    return pixels


# libtiff carries on after some errors, with whatever was in memory as pixels. Pillow does not ask it about them.

_CLEAN_CODECS = frozenset({1, 5, 8, 32773, 32946, 34925, 50000})  # none, LZW, deflate, PackBits, LZMA, Zstandard
_GROUP_4 = 4
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
        raise unsupported("on this system, a TIFF compressed as a fax or JPEG is, save it as PNG")
    yield
    if _tiff_errors.last is not None:
        raise UnreadableImage(f"damaged: libtiff reports an error ({_tiff_errors.last})")


def _check_fax(image: TiffImageFile) -> None:
    """Raise UnreadableImage for Group 4 strips with too few rows: libtiff is silent about them, in all versions.

    Each strip is decoded behind one that is white and behind one that is not. What differs was not in the file.
    """
    if TILEWIDTH in image.tag_v2:
        raise unsupported("a TIFF with tiles compressed as a fax is, save it as PNG")
    assert isinstance(image.fp, BytesIO)
    content = image.fp.getvalue()
    decoded = []
    for filler in ("1", "0101"):
        doubled, rows = fax_between(content, image.tag_v2, filler)
        pixels = raw_pillow(BytesIO(doubled), "TIFF")
        pixels.load()
        decoded.append([pixels.crop((0, top, image.width, min(top + rows, pixels.height))).tobytes()
            for top in range(rows, pixels.height, 2 * rows)])  # fmt: skip
    if decoded[0] != decoded[1]:
        raise UnreadableImage("damaged: a fax strip ends before its last row")
