"""The formats that Pillow reads, PNG, GIF, WebP, BMP and PPM; and how any file is opened and loaded with Pillow.

Decoders read the metadata too: Pillow keeps every text of a PNG, and refuses a PNG with more than 1 MB of text. The
pixels need none of it, except for the orientation. So the containers are read here, and Pillow is given the rest.
Animations give their first frame. Colours of 16 bits, which Pillow cuts to 8, go through OpenCV.
"""

from __future__ import annotations

import contextlib
import re
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO

import cv2
import numpy as np
from jaxtyping import Shaped, UInt8
from numpy import ndarray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin  # noqa: F401  (register two formats)
from PIL.ImageFile import ImageFile

from dinoscope.data import reader
from dinoscope.data.reader import METADATA, Header, RawImage, Reader, Stream, UnreadableImage, not_supported, orient

MAX_CHUNKS = 100_000  # chunks of a PNG or a WebP. libpng writes one per 8 KB
MAX_BLOCKS = 1_000_000  # blocks of a GIF up to its second frame; a block has up to 255 bytes
MAX_HEADER_BYTES = 1 << 16  # size of the header of a PPM, whose comments may be of any length
MAX_COMMENTS = 10_000  # comments between the values of a PPM

_UNLIMITED = 1 << 26  # pixels, safely below the 89 million at which Pillow begins to warn
_pillow_limit = threading.RLock()

_SLOW_CODECS = frozenset({"bmp_rle", "ppm", "ppm_plain"})  # Pillow's, in Python: 0.4 µs a value
_MAX_SLOW_VALUES = 10_000_000
_MAX_RLE_WIDTH = 1 << 16  # of a BMP, in which two bytes may skip 255 lines

Bare = tuple[Stream, int, bool]
"""A file without what its pixels do not need, its EXIF orientation, and whether it has more than one frame."""


# Pillow


def open_image(stream: Stream, kind: str) -> ImageFile:
    """Open a file up to its pixels with Pillow's reader for this format and no other.

    Raises UnidentifiedImageError, which has no reason, if Pillow does not know this kind of the format.
    """
    stream.seek(0)
    with _without_pillow_limit():
        try:
            return Image.open(stream, formats=[kind])
        except UnidentifiedImageError as error:  # its message has a place in memory
            raise UnidentifiedImageError(f"its {kind} header is broken") from error


@contextlib.contextmanager
def _without_pillow_limit() -> Iterator[None]:
    """Lift Pillow's process-wide limit of pixels, one thread at a time: that bounds the memory of huge images too."""
    with _pillow_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def load(image: Image.Image) -> Image.Image:
    """Decode the pixels, if that has not been done."""
    is_huge = image.height * image.width > _UNLIMITED
    with _without_pillow_limit() if is_huge else contextlib.nullcontext():
        image.load()
    return image


def rgb(image: Image.Image, *, transparent: bool) -> UInt8[ndarray, "h w 3"]:
    """Load and return the pixels, writable. transparent: it has transparency, which is composited on white."""
    load(image)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for rows in reader.strips(image.height, image.width):
        strip = image
        if rows.stop - rows.start < image.height:
            strip = image.crop((0, rows.start, image.width, rows.stop))
        if transparent:
            page = Image.new("RGBA", strip.size, "white")
            page.alpha_composite(strip.convert("RGBA"))
            strip = page
        pixels[rows] = np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))
    return pixels


# OpenCV


def opencv_values(content: bytes) -> Shaped[ndarray, "h w c"]:
    """Return the values as stored, RGB or RGBA if there are three or four. Raises ValueError if they are damaged."""
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


def deep_image(
    values: Shaped[ndarray, "_ _ c"], orientation: int, *, transparent: bool, white_is_zero: bool = False
) -> RawImage:
    """Split transparency, if there is any, from the colours, and leave out any other fourth channel."""
    values = orient(values, orientation)
    alpha = values[..., 3:] if transparent else None
    return RawImage(values[..., :3] if values.shape[2] > 3 else values, alpha, white_is_zero)


# Reading


def open_bare(kind: str, stream: Stream, max_pixels: int, *, header_only: bool = False) -> tuple[ImageFile, int, bool]:
    """Read a file up to its pixels, without its metadata. header_only: the pixels may be missing.

    Returns the image as stored, its EXIF orientation, and whether it has more than one frame.
    """
    stream.seek(0)
    bare, orientation, animated = _FORMATS[kind][2](stream, max_pixels, header_only)
    try:
        image = open_image(bare, kind)
    except OSError as error:
        if str(error).startswith("Unsupported BMP"):
            raise not_supported(f"a BMP that Pillow does not know ({error}), save it as PNG") from error
        raise
    height, width = image.height, image.width
    if height < 1 or width < 1:
        raise UnreadableImage("damaged: the header says zero pixels")
    if height * width > max_pixels:
        raise reader.too_large(*reader.oriented_size(height, width, orientation), max_pixels)
    codec = image.tile[0][0] if image.tile else ""
    too_slow = height * width * len(image.getbands()) > _MAX_SLOW_VALUES
    slow = codec in _SLOW_CODECS and (codec != "ppm" or _sample(image) == "u1")  # `_deep_ppm` reads the others
    if slow and (too_slow or (codec == "bmp_rle" and width > _MAX_RLE_WIDTH)):
        raise not_supported(f"a {kind} of {width}x{height} as text, run lengths or odd values, save it as PNG")
    return image, orientation, animated


def _read_header(kind: str, stream: Stream, max_pixels: int) -> Header:
    image, orientation, animated = open_bare(kind, stream, max_pixels, header_only=True)
    return Header(
        kind,
        *reader.oriented_size(image.height, image.width, orientation),
        orientation,
        grey=_is_deep_grey(image) or image.mode in ("1", "L", "LA", "La"),
        alpha=image.has_transparency_data,
        sample=_sample(image),
        cmyk=image.mode == "CMYK",
        animated=animated,
    )


def _read(kind: str, content: BytesIO, max_pixels: int) -> RawImage:
    image, orientation, _ = open_bare(kind, content, max_pixels)
    with reader.turn(image.height * image.width):
        if _sample(image) == "u1":
            transparent = load(image).has_transparency_data
            if transparent and kind == "BMP":  # some programs write a fourth channel and leave it at 0
                transparent = image.getchannel("A").getextrema() != (0, 0)
            return RawImage(orient(rgb(image, transparent=transparent), orientation))
        if kind == "PPM":
            return RawImage(_deep_ppm(image, content.getvalue()))
        load(image)  # if it is damaged, Pillow raises where OpenCV's libpng prints
        if not _is_deep_grey(image):
            values = opencv_values(_critical_chunks(content.getvalue()))
            return deep_image(values, orientation, transparent=image.has_transparency_data)
        values = orient(np.asarray(image).astype(np.uint16)[..., None], orientation)
        invisible = image.info.get("transparency")
        alpha = None if invisible is None else np.where(values == invisible, np.uint16(0), np.uint16(65535))
        return RawImage(values, alpha)


def _sample(image: ImageFile) -> str:
    """Return `Header.sample` of an image opened and not yet loaded."""
    options = image.tile[0][3] if image.tile else ""
    if image.format == "PPM" and isinstance(options, tuple):  # raw mode and largest value
        return "u2" if options[1] > 255 else "u1"
    return "u2" if _is_deep_grey(image) or ";16" in str(options) else "u1"


def _is_deep_grey(image: Image.Image) -> bool:
    return image.mode.startswith("I")


# PNG and WebP


def _chunks(stream: Stream, *, png: bool) -> Iterator[tuple[bytes, int, bytes]]:
    """Yield the kind, length and header of each chunk of a PNG or a WebP (RFC 9649), with the stream at its body."""
    place = 8 if png else 12  # of the first chunk
    for _ in range(MAX_CHUNKS):
        head = stream.read(8)
        if len(head) < 8:
            return
        if png:
            length, kind = struct.unpack(">I4s", head)
        else:
            kind, length = struct.unpack("<4sI", head)
        place += 8 + length + (4 if png else length % 2)  # with the checksum, or the padding
        yield kind, length, head
        stream.seek(place)
    raise UnreadableImage(f"not read: more than {MAX_CHUNKS} chunks; save it again")


def _bare_png(stream: Stream, max_pixels: int, header_only: bool) -> Bare:
    """Keep what the first picture needs. The orientation is looked for in front of the pixels, as browsers do."""
    parts = [stream.read(8)]
    metadata: dict[bytes, bytes] = {}
    frames, separate, pixels = 0, 1, False
    for kind, length, head in _chunks(stream, png=True):
        if kind == b"CgBI":
            raise not_supported("a PNG packed for iPhones (CgBI), save it as PNG again")
        if kind == b"IDAT" and header_only:
            parts.append(head)
            break
        pixels = pixels or kind == b"IDAT"
        if kind in (b"IDAT", b"IEND") or (kind in (b"IHDR", b"PLTE", b"tRNS") and length <= 1024):
            parts += (head, stream.read(length + 4))  # and the checksum
            if kind == b"IEND":
                break
        elif kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"acTL", b"fcTL") and not pixels:
            body = stream.read(min(length, METADATA))
            if kind == b"acTL":
                frames = int.from_bytes(body[:4])
            elif kind == b"fcTL":  # the picture is the first frame, and not one for programs that know no animations
                separate = 0
            else:
                keyword = kind if kind == b"eXIf" else body.partition(b"\0")[0]
                metadata.setdefault(keyword, kind + body)
    exif = metadata.get(b"eXIf", b"")[4:]
    raw, xmp = metadata.get(b"Raw profile type exif"), metadata.get(b"XML:com.adobe.xmp")
    try:
        if raw and not exif:  # by ImageMagick: a line break, the name, the length, then lines of hex
            exif = bytes.fromhex(_png_text(raw).decode("ascii").split("\n", 3)[3])
        text = _png_text(xmp) if xmp else None
    except (ValueError, IndexError, zlib.error):
        text = None
    return BytesIO(b"".join(parts)), reader.valid_orientation(exif, text), frames + separate > 1


def _png_text(chunk: bytes) -> bytes:
    """Return the beginning of the text of a tEXt, zTXt or iTXt chunk (PNG 1.2, 4.2.3)."""
    kind, text = chunk[:4], chunk.partition(b"\0")[2]
    compressed = kind == b"zTXt"
    if kind == b"zTXt":
        text = text[1:]
    elif kind == b"iTXt":
        compressed = text[:1] == b"\1"
        text = text[2:].split(b"\0", 2)[2]
    return zlib.decompressobj().decompress(text, METADATA) if compressed else text


def _critical_chunks(content: bytes) -> bytes:
    """Return a PNG with its pixels alone: libpng prints warnings about the rest.

    Raises ValueError if a chunk is damaged or missing.
    """
    stream = BytesIO(content)
    parts = [stream.read(8)]
    for kind, length, head in _chunks(stream, png=True):
        if kind not in (b"IHDR", b"tRNS", b"IDAT", b"IEND"):
            continue
        body, checksum = stream.read(length), stream.read(4)
        if len(checksum) < 4:
            break
        if zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(checksum):
            raise ValueError(f"the checksum of {kind.decode()} is wrong")
        parts += (head, body, checksum)
        if kind == b"IEND":
            return b"".join(parts)
    raise ValueError("the file ends within its pixels")


def _bare_webp(stream: Stream, max_pixels: int, header_only: bool) -> Bare:
    """Check the size, since libwebp makes room for all pixels when it opens a file; find the metadata (RFC 9649)."""
    start = stream.read(30)
    if len(start) < 30:
        raise UnreadableImage("damaged: the file ends within its header")
    width = height = 0
    if start[12:16] == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", start, 26))
    elif start[12:16] == b"VP8L":
        bits = int.from_bytes(start[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif start[12:16] == b"VP8X":
        width, height = (int.from_bytes(start[place : place + 3], "little") + 1 for place in (24, 27))
    if height * width > max_pixels:
        raise reader.too_large(height, width, max_pixels)
    metadata: dict[bytes, bytes] = {}
    frames = 0
    stream.seek(12)
    for kind, length, _ in _chunks(stream, png=False):
        frames += kind == b"ANMF"
        if kind in (b"EXIF", b"XMP ") and kind not in metadata:
            metadata[kind] = stream.read(min(length, METADATA))
    return stream, reader.valid_orientation(metadata.get(b"EXIF"), metadata.get(b"XMP ")), frames > 1


# GIF, BMP, PPM


def _bare_gif(stream: Stream, max_pixels: int, header_only: bool) -> Bare:
    """Keep the first picture and the extensions that tell how it is shown."""
    data = stream.read()
    position = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    parts = [data[:position]]
    blocks = pictures = 0
    while position < len(data) and blocks <= MAX_BLOCKS:
        start, kind = position, data[position]
        if kind == 0x3B:  # trailer
            break
        blocks += 1
        if kind == 0x2C:  # picture
            pictures += 1
            if pictures == 2:
                break
            flags = data[start + 9] if start + 9 < len(data) else 0
            position += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
        elif kind == 0x21:  # extension
            position += 2
        else:
            position += 1  # as Pillow does
            continue
        while position < len(data) and data[position] and blocks <= MAX_BLOCKS:
            position += data[position] + 1
            blocks += 1
        position += 1
        if kind == 0x2C or data[start + 1 : start + 2] == b"\xf9":
            parts.append(data[start:position])
    if blocks > MAX_BLOCKS:
        raise UnreadableImage(f"not read: more than {MAX_BLOCKS} blocks; save it again")
    return BytesIO(b"".join([*parts, b";"])), 1, pictures == 2


def _bare_ppm(stream: Stream, max_pixels: int, header_only: bool) -> Bare:
    """Bound the header, which Pillow reads byte by byte, and the comments between the values of a text."""
    start = stream.read(MAX_HEADER_BYTES)
    fields = re.sub(rb"#[^\r\n]*", b"", start).split(None, 4)
    if len(start) == MAX_HEADER_BYTES and len(fields) < (3 if start[1:2] in b"14" else 4):
        raise UnreadableImage(f"not read: its header is longer than {MAX_HEADER_BYTES} bytes; save it again")
    if start[1:2] in b"123" and not header_only:
        comments = start.count(b"#") + sum(block.count(b"#") for block in iter(lambda: stream.read(1 << 20), b""))
        if comments > MAX_COMMENTS:
            raise UnreadableImage(f"not read: more than {MAX_COMMENTS} comments; save it again")
    return stream, 1, False


def _deep_ppm(image: ImageFile, content: bytes) -> Shaped[ndarray, "h w c"]:
    """Return values of more than 8 bits as stored: Pillow stretches them to the maximum in the header."""
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


# Format -> endings of its files, their beginning, and the function that leaves out what the pixels do not need.
_FORMATS: dict[str, tuple[tuple[str, ...], bytes, Callable[[Stream, int, bool], Bare]]] = {
    "PNG": ((".png",), rb"\x89PNG\r\n\x1a\n", _bare_png),
    "GIF": ((".gif",), rb"GIF8[79]a", _bare_gif),
    "WebP": ((".webp",), rb"RIFF.{4}WEBP", _bare_webp),
    "BMP": ((".bmp",), rb"BM", lambda stream, max_pixels, header_only: (stream, 1, False)),
    "PPM": ((".pgm", ".ppm"), rb"P[1-6]\s", _bare_ppm),
}
READERS = {
    kind: Reader(endings, re.compile(start, re.DOTALL).match, partial(_read_header, kind), partial(_read, kind))
    for kind, (endings, start, _) in _FORMATS.items()
}
