"""What an image file says of itself before its pixels are decoded: format, size, orientation, kind of values.

The content decides, never the name. JPEG's segments are walked here; everything else is opened by Pillow. Here it is
also said what is refused, and how: `decode` reads the pixels of what passes.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from dinoscope.data.tiff import Tiff, read_tiff

Stream = BufferedReader | BytesIO  # a file, or its content in memory

MAX_PIXELS = 200_000_000
"""Height times width above which an image is refused: 600 MB of RGB."""

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

_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15 without DHT, JPG and DAC
_JPEG_LS = 0xF7
_JPEG_UNREAD = frozenset({0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF, 0xCB})  # hierarchical; lossless with arithmetic coding
_JPEG_BITS, _JPEG_CHANNELS = 8, (1, 3, 4)
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length: TEM, RST0 to RST7, SOI
_TIFF_SHORT = 3
_LARGEST_OF_8_BITS = 255

_pillow_limit = threading.Lock()


class UnreadableImage(Exception):
    """A file that is not an image we read. Its message is the reason: one line, without the path."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself before its pixels are decoded.

    format: "JPEG", "PNG", "GIF", "WebP", "BMP", "TIFF" or "PPM", by content.
    height, width: pixels, after EXIF orientation.
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


def read_header(path: Path, *, max_pixels: int = MAX_PIXELS) -> Header:
    """Return what the file's header says, without decoding pixels.

    Raises UnreadableImage as `decode` does, except for damage that only the pixels show.
    """
    with opened(path) as file, damage_reported():
        kind = sniff(file)
        if kind == "JPEG":
            return jpeg_header(file, max_pixels)
        if kind == "TIFF":
            return tiff_header(file, max_pixels)[0]
        image = open_pillow(file, kind)
        header = pillow_header(image, kind, max_pixels)
        return replace(header, sample=sample_kind(image), **_pillow_traits(image))


def read_size(path: Path, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return (height, width) in pixels after EXIF orientation. Raises as `read_header` does."""
    header = read_header(path, max_pixels=max_pixels)
    return header.height, header.width


def unsupported(what: str) -> UnreadableImage:
    """The exception for a file that is whole and of a kind that is not read. what: it, and how to save it instead."""
    return UnreadableImage(f"not supported: {what}")


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """Open for reading; what cannot be opened (a folder, no permission, gone since) is unreadable."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise UnreadableImage(f"cannot be opened: {error.strerror}") from error
    with file:
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


def _header(kind: str, height: int, width: int, orientation: int, max_pixels: int, **traits: Any) -> Header:
    """Build a Header from the size as stored, which orientations 5 to 8 swap."""
    if height < 1 or width < 1:
        raise UnreadableImage("damaged: the header says zero pixels")
    if ORIENTATIONS[orientation][0]:
        height, width = width, height
    if height * width > max_pixels:
        raise UnreadableImage(
            f"too large: {width}x{height} is {height * width / 1e6:.4g} million pixels, "
            f"at most {max_pixels / 1e6:.4g} million are read; scale it down"
        )
    return Header(kind, height, width, orientation, **traits)


# JPEG


def jpeg_header(stream: Stream, max_pixels: int) -> Header:
    """Walk the segments up to the frame header, picking up the EXIF orientation on the way."""
    orientation = 1
    stream.seek(0)
    while True:
        marker = _next_marker(stream)
        if marker in _JPEG_BARE:
            continue
        if marker in (0xD9, 0xDA):  # end of image, start of scan
            raise UnreadableImage("damaged: no frame header before the data")
        if marker == _JPEG_LS:
            raise unsupported("JPEG-LS, save it as PNG")
        (length,) = struct.unpack(">H", stream.read(2))
        if length < 2:
            raise UnreadableImage("damaged: a segment of impossible length")
        if marker in _JPEG_FRAMES:
            precision, height, width, components = struct.unpack(">BHHB", stream.read(6))  # ITU T.81, B.2.2
            if precision != _JPEG_BITS:
                raise unsupported(f"a JPEG with {precision} bits a channel, save it as PNG with 16 bits")
            if marker in _JPEG_UNREAD or components not in _JPEG_CHANNELS:
                coding = "hierarchical or arithmetic" if marker in _JPEG_UNREAD else f"{components}-channel"
                raise unsupported(f"a JPEG of the {coding} kind, save it as PNG or as ordinary JPEG")
            traits = {"grey": components == 1, "cmyk": components == 4}
            return _header("JPEG", height, width, orientation, max_pixels, **traits)
        if marker == 0xE1:
            segment = stream.read(length - 2)
            if segment.startswith(b"Exif\0"):
                orientation = _orientation(partial(_exif_orientation, segment))
        else:
            stream.seek(length - 2, 1)


def _next_marker(stream: Stream) -> int:
    """Return the next marker's second byte. Skips stray bytes and fill bytes, as libjpeg does."""
    previous = b""
    while byte := stream.read(1):
        if previous == b"\xff" and byte not in b"\x00\xff":
            return byte[0]
        previous = byte
    raise UnreadableImage("damaged: the file ends within its header")


def _exif_orientation(block: bytes) -> int:
    """Look the orientation up in an APP1 segment: "Exif", two zeros, a TIFF directory (EXIF 2.32, 4.6)."""
    tiff = block[6:]
    order = {b"II": "<", b"MM": ">"}[tiff[:2]]
    (directory,) = struct.unpack_from(order + "I", tiff, 4)
    (entries,) = struct.unpack_from(order + "H", tiff, directory)
    for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
        tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, entry)
        if tag == ExifTags.Base.Orientation and kind == _TIFF_SHORT:
            return value
    return 1


def _orientation(read: Callable[[], int]) -> int:
    """Return the orientation read, or 1 where it is damaged or impossible: the pixels may be whole."""
    try:
        orientation = read()
    except Exception:  # as in damage_reported
        return 1
    return orientation if orientation in ORIENTATIONS else 1


# Everything else


def open_pillow(stream: Stream, kind: str) -> ImageFile:
    """Read the file up to its pixels. Pillow's own limit gives way to `max_pixels`, checked by the caller."""
    stream.seek(0)
    if kind == "PNG" and stream.read(16)[12:] == b"CgBI":
        raise unsupported("a PNG packed for iPhones (CgBI), save it as PNG again")
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


def pillow_header(image: ImageFile, kind: str, max_pixels: int) -> Header:
    """Return format, size and orientation of an image opened and not yet loaded, other than JPEG and TIFF."""
    # Image.getexif, since PngImageFile.getexif decodes the pixels in search of a block behind them.
    orientation = _orientation(lambda: Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
    return _header(kind, image.height, image.width, orientation, max_pixels)


def tiff_header(stream: Stream, max_pixels: int) -> tuple[Header, Tiff]:
    """Return what the directories say. Raises UnreadableImage for a kind that is not read."""
    tiff = read_tiff(stream)
    header = _header(
        "TIFF",
        tiff.height,
        tiff.width,
        _orientation(lambda: tiff.orientation),
        max_pixels,
        grey=tiff.grey,
        alpha=tiff.transparent,
        sample=tiff.sample,
        cmyk=tiff.cmyk,
    )
    if tiff.unsupported is not None:
        raise unsupported(tiff.unsupported)
    if not tiff.opencv:
        open_tiff(stream, tiff)
    return header, tiff


def open_tiff(stream: Stream, tiff: Tiff) -> ImageFile:
    """Open it with Pillow. Raises UnreadableImage where Pillow does not know this kind of a directory that is whole."""
    try:
        return open_pillow(stream, "TIFF")
    except SyntaxError as error:  # "unknown pixel mode"
        raise unsupported(f"a TIFF with {tiff.kind}, save it as PNG") from error


def _pillow_traits(image: ImageFile) -> dict[str, bool]:
    """Return the remaining fields of Header. Not for decoding: it reads a GIF as far as its second frame."""
    return {
        "grey": is_deep_grey(image) or image.mode in ("1", "L", "LA", "La"),
        "alpha": image.has_transparency_data,
        "cmyk": image.mode == "CMYK",
        "animated": _is_animated(image),
    }


def sample_kind(image: ImageFile) -> str:
    """Return `Header.sample` of an image opened and not yet loaded, other than JPEG and TIFF."""
    options = image.tile[0][3] if image.tile else ""
    if isinstance(image, PpmImageFile) and isinstance(options, tuple):  # raw mode and largest value
        return "u2" if options[1] > _LARGEST_OF_8_BITS else "u1"
    return "u2" if is_deep_grey(image) or ";16" in str(options) else "u1"


def _is_animated(image: ImageFile) -> bool:
    try:
        return getattr(image, "is_animated", False)
    except Exception:  # as in damage_reported: a damaged second frame is a second frame
        return True


def is_deep_grey(image: Image.Image) -> bool:
    """Whether it has one channel of more than 8 bits."""
    return image.mode.startswith("I")
