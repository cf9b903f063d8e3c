"""What an image file says of itself before its pixels are decoded: format, size, orientation, kind of values.

The content decides, never the name. JPEG's segments are walked; everything else is opened by Pillow, without its
metadata (see `bare_image`). Here it is also said what is refused, and how: `decode` reads the pixels of what passes.
"""

from __future__ import annotations

import math
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path

from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from dinoscope.data.bare_image import (
    MAX_COEFFICIENT_BYTES,
    Bare,
    JpegFrame,
    Stream,
    UnreadableImage,
    jpeg_frame,
    too_large,
    unsupported,
    without_metadata,
)
from dinoscope.data.tiff import Tiff, read_tiff
from dinoscope.errors import UserError
from dinoscope.files import MEGAPIXELS_VARIABLE

MAX_MEGAPIXELS = 60.0
"""Height times width above which an image is refused, in millions; a JPEG of up to four times as many is halved."""

# Named directly instead of through Image.open: only formats that we mean to read (Pillow would hand EPS to
# Ghostscript), and no decompression-bomb check against a global limit that is not ours.
_READERS: dict[str, type[ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "GIF": GifImageFile,
    "WebP": WebPImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
    "PPM": PpmImageFile,
}

# Place of the bytes that tell it, these bytes, name: what people take for images that are read, often by its name.
_OTHERS = (
    *((4, b"ftyp" + brand, "HEIC") for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")),
    *((4, b"ftyp" + brand, "AVIF") for brand in (b"avif", b"avis")),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"II\xbc", "JPEG XR"),
    (0, b"P7\n", "PAM"),
    (0, b"PF\n", "PFM"),
    (0, b"Pf\n", "PFM"),
)

# EXIF orientation -> (swap rows and columns, then reverse rows, then reverse columns). EXIF 2.32, tag 0x0112.
ORIENTATIONS: dict[int, tuple[bool, bool, bool]] = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}

_BYTES_PER_PIXEL = 6  # of the largest file: RGB with 16 bits a channel, uncompressed
_SMALL_FILE = 64_000_000  # bytes, read whatever the limit of pixels

_JPEG_UNREAD = frozenset({0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF, 0xCB})  # hierarchical; lossless with arithmetic coding
_JPEG_BITS, _JPEG_CHANNELS = 8, (1, 3, 4)
_LARGEST_OF_8_BITS = 255

_SLOW_CODECS = frozenset({"bmp_rle", "ppm", "ppm_plain"})  # Pillow's, in Python: 0.4 µs a value
_MAX_SLOW_VALUES = 10_000_000
_MAX_RLE_WIDTH = 1 << 16  # of a BMP, in which two bytes may skip 255 lines

_pillow_limit = threading.Lock()


@dataclass(frozen=True)
class Header:
    """What a file says of itself before its pixels are decoded.

    format: "JPEG", "PNG", "GIF", "WebP", "BMP", "TIFF" or "PPM", by content.
    height, width: pixels as `decode` returns them: after EXIF orientation, and of a large JPEG half as many a side.
    orientation: EXIF orientation, 1 (upright) to 8.
    sample: kind of the values as numpy names it: "u1" up to 8 bits, "u2" up to 16, "i2" signed, "f4" float, ...
    animated: more than one frame.
    """

    format: str
    height: int
    width: int
    orientation: int = 1
    grey: bool = False
    alpha: bool = False
    sample: str = "u1"
    cmyk: bool = False
    animated: bool = False

    @property
    def over_8_bit(self) -> bool:
        """Whether it has more than 8 bits per channel, floats included."""
        return not self.sample.endswith("1")


def pixel_limit() -> int:
    """Return how many pixels an image may have. Raises UserError if --max-megapixels is no number above 0."""
    text = os.environ.get(MEGAPIXELS_VARIABLE)
    try:
        megapixels = MAX_MEGAPIXELS if text is None else float(text)
    except ValueError:
        megapixels = math.nan
    if not 1e-6 <= megapixels < math.inf:
        raise UserError(f"--max-megapixels is {text!r}; it must be a number above 0, such as {MAX_MEGAPIXELS:g}")
    return int(megapixels * 1e6)


def read_header(path: Path, *, max_pixels: int | None = None) -> Header:
    """Return what the file's header says, without decoding pixels. max_pixels: `pixel_limit()` if None.

    Raises UnreadableImage as `decode` does, except for damage that only the pixels show.
    """
    limit = pixel_limit() if max_pixels is None else max_pixels
    with opened(path, limit) as file, damage_reported():
        kind = sniff(file)
        if kind == "JPEG":
            return jpeg_header(*jpeg_frame(file), limit)
        if kind == "TIFF":
            return tiff_header(file, limit, header_only=True)[0]
        image, bare = open_pillow(file, kind, limit, header_only=True)
        return replace(pillow_header(image, kind, bare.orientation), animated=bare.animated)


def read_size(path: Path, *, max_pixels: int | None = None) -> tuple[int, int]:
    """Return (height, width) in pixels after EXIF orientation. Raises as `read_header` does."""
    header = read_header(path, max_pixels=max_pixels)
    return header.height, header.width


@contextmanager
def opened(path: Path, max_pixels: int) -> Iterator[BufferedReader]:
    """Open for reading. What cannot be opened (a folder, no permission, a pipe) or is too large is unreadable."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            raise UnreadableImage("cannot be opened: not a regular file")
        file = path.open("rb")
    except OSError as error:
        raise UnreadableImage(f"cannot be opened: {error.strerror}") from error
    limit = max(_BYTES_PER_PIXEL * max_pixels, _SMALL_FILE)
    with file:
        if status.st_size > limit:
            raise UnreadableImage(
                f"too large: a file of {status.st_size / 1e6:.4g} MB, at most {limit / 1e6:.4g} MB are read; "
                "save the image alone, or compressed"
            )
        yield file


@contextmanager
def damage_reported() -> Iterator[None]:
    """Turn every exception into UnreadableImage: on damaged files Pillow raises most of the built-in ones."""
    try:
        yield
    except UnreadableImage:
        raise
    except MemoryError as error:
        raise UnreadableImage("needs more memory than there is") from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImage(f"damaged: {reason}") from error


def sniff(stream: Stream) -> str:
    """Return the format of the content as in `_READERS`, and rewind. Raises UnreadableImage for any other."""
    start = stream.read(16)
    stream.seek(0)
    if not start:
        raise UnreadableImage("empty file")
    if start.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if start.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return "WebP"
    if start.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if start.startswith(b"BM"):
        return "BMP"
    if start[:1] == b"P" and start[1:2] in b"123456" and start[2:3].isspace():
        return "PPM"
    name = next((name for at, magic, name in _OTHERS if start[at:].startswith(magic)), None)
    if name is not None:
        raise unsupported(f"{name}, save it as PNG or JPEG")
    raise UnreadableImage(f"not an image in a format we read ({', '.join(_READERS)})")


# JPEG


def jpeg_header(frame: JpegFrame, orientation: int, max_pixels: int) -> Header:
    """Return what the segments up to the frame header say (see `jpeg_frame`), or raise UnreadableImage."""
    if frame.height < 1 or frame.width < 1:
        raise UnreadableImage("damaged: the header says zero pixels")
    if frame.precision != _JPEG_BITS:
        raise unsupported(f"a JPEG with {frame.precision} bits a channel, save it as PNG with 16 bits")
    if frame.marker in _JPEG_UNREAD or frame.components not in _JPEG_CHANNELS:
        coding = "hierarchical or arithmetic" if frame.marker in _JPEG_UNREAD else f"{frame.components}-channel"
        raise unsupported(f"a JPEG of the {coding} kind, save it as PNG or as ordinary JPEG")
    divisor = jpeg_divisor(frame.height, frame.width, max_pixels)
    if frame.progressive:
        check_coefficients(frame.coefficient_bytes)
    height, width = -(-frame.height // divisor), -(-frame.width // divisor)
    if ORIENTATIONS[orientation][0]:
        height, width = width, height
    return Header("JPEG", height, width, orientation, grey=frame.components == 1, cmyk=frame.components == 4)


def jpeg_divisor(height: int, width: int, max_pixels: int) -> int:
    """Return by what libjpeg is to divide both sides: 1, or 2 for up to four times as many pixels as are read."""
    if height * width <= max_pixels:
        return 1
    if -(-height // 2) * -(-width // 2) > max_pixels:
        raise too_large(height, width, max_pixels)
    return 2


def check_coefficients(size: float) -> None:
    """Raise UnreadableImage for a JPEG with several scans that holds more coefficients than there may be memory for."""
    if size > MAX_COEFFICIENT_BYTES:
        raise UnreadableImage("too large: a progressive JPEG of this size; save it as an ordinary (baseline) one")


# Everything else


def open_pillow(stream: Stream, kind: str, max_pixels: int, *, header_only: bool) -> tuple[ImageFile, Bare]:
    """Read the file up to its pixels, without its metadata. The image's size is that of the pixels as stored.

    Raises UnreadableImage for too many pixels; Pillow's own limit gives way.
    """
    if kind == "PNG" and stream.read(16)[12:] == b"CgBI":
        raise unsupported("a PNG packed for iPhones (CgBI), save it as PNG again")
    bare = without_metadata(stream, kind, max_pixels, header_only=header_only)
    image = raw_pillow(bare.stream, kind)
    height, width = image.height, image.width
    if height < 1 or width < 1:
        raise UnreadableImage("damaged: the header says zero pixels")
    if height * width > max_pixels:
        raise too_large(*((width, height) if ORIENTATIONS[bare.orientation][0] else (height, width)), max_pixels)
    codec = image.tile[0][0] if image.tile else ""
    too_slow = height * width * len(image.getbands()) > _MAX_SLOW_VALUES
    slow = codec in _SLOW_CODECS and (codec != "ppm" or sample_kind(image) == "u1")  # `decode` reads the deep ones
    if slow and (too_slow or (codec == "bmp_rle" and width > _MAX_RLE_WIDTH)):
        raise unsupported(f"a {kind} of {width}x{height} as text, run lengths or odd values, save it as PNG")
    return image, bare


def raw_pillow(stream: Stream, kind: str) -> ImageFile:
    """Read the file up to its pixels, as it is."""
    stream.seek(0)
    try:
        return _READERS[kind](stream)
    except Image.DecompressionBombError:  # some readers ask for the limit themselves
        stream.seek(0)
        with without_pillow_limit():
            return _READERS[kind](stream)
    except OSError as error:
        if str(error).startswith("Unsupported BMP"):
            raise unsupported(f"a BMP that Pillow does not know ({error}), save it as PNG") from error
        raise


@contextmanager
def without_pillow_limit() -> Iterator[None]:
    """Lift Pillow's process-wide limit, one thread at a time: that bounds the memory of huge images too."""
    with _pillow_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def pillow_header(image: ImageFile, kind: str, orientation: int) -> Header:
    """Return the header of an image opened and not yet loaded."""
    height, width = image.height, image.width
    if ORIENTATIONS[orientation][0]:
        height, width = width, height
    return Header(
        kind,
        height,
        width,
        orientation,
        grey=is_deep_grey(image) or image.mode in ("1", "L", "LA", "La"),
        alpha=image.has_transparency_data,
        sample=sample_kind(image),
        cmyk=image.mode == "CMYK",
    )


def tiff_header(stream: Stream, max_pixels: int, *, header_only: bool) -> tuple[Header, Tiff, Bare]:
    """Return what the directories say. Raises UnreadableImage for a kind that is not read."""
    tiff = read_tiff(stream)
    if tiff.unsupported is not None and tiff.height * tiff.width <= max_pixels:
        raise unsupported(tiff.unsupported)
    bare = without_metadata(stream, "TIFF", max_pixels, header_only=header_only)
    height, width = tiff.height, tiff.width
    if ORIENTATIONS[bare.orientation][0]:
        height, width = width, height
    header = Header(
        "TIFF",
        height,
        width,
        bare.orientation,
        grey=tiff.grey,
        alpha=tiff.transparent,
        sample=tiff.sample,
        cmyk=tiff.cmyk,
    )
    if header_only and not tiff.opencv:
        open_tiff(bare.stream, tiff)
    return header, tiff, bare


def open_tiff(stream: Stream, tiff: Tiff) -> ImageFile:
    """Open it with Pillow. Raises UnreadableImage where Pillow does not know this kind of a directory that is whole."""
    try:
        return raw_pillow(stream, "TIFF")
    except SyntaxError as error:  # "unknown pixel mode"
        raise unsupported(f"a TIFF with {tiff.kind}, save it as PNG") from error


def sample_kind(image: ImageFile) -> str:
    """Return `Header.sample` of an image opened and not yet loaded, other than JPEG and TIFF."""
    options = image.tile[0][3] if image.tile else ""
    if isinstance(image, PpmImageFile) and isinstance(options, tuple):  # raw mode and largest value
        return "u2" if options[1] > _LARGEST_OF_8_BITS else "u1"
    return "u2" if is_deep_grey(image) or ";16" in str(options) else "u1"


def is_deep_grey(image: Image.Image) -> bool:
    """Whether it has one channel of more than 8 bits."""
    return image.mode.startswith("I")
