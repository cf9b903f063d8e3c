"""TIFF and BigTIFF (TIFF 6.0): what the first directory says, which kinds are not read, and the pixels.

Pillow reads up to 8 bits a channel, OpenCV more; both would open further kinds and give another picture than the one
in the file. So what each is given is decided here, from the directory alone. Pillow also copies every entry of a
directory, even if 20,000 entries share the same bytes: both get a new directory with what the pixels need and no more.
A file of several pages is refused: an image can be only one of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import struct
import threading
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from io import BytesIO
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from dinoscope.data import jpeg, pillow
from dinoscope.data.reader import (
    METADATA,
    ORIENTATION_TAG,
    Header,
    RawImage,
    Reader,
    Stream,
    UnreadableImage,
    metadata_orientation,
    not_supported,
    orient,
    oriented_size,
    too_large,
    turn,
    valid_orientation,
)

MAX_ENTRIES = 4096
"""Entries of a directory."""
MAX_PARTS = 1 << 18
"""Strips or tiles."""
MAX_DIRECTORY_BYTES = 1 << 24
"""Size of the entries that the pixels need: most of all, where the strips or tiles are."""
_MAX_DIRECTORIES = 100
_MAX_DESCRIPTION = 256
"""Values of a tag that says something of the image and is not needed for its pixels."""
_SMALL_TILE = 1 << 22
"""Pixels of a tile that are allowed whatever the limit."""
_JPEG_HEADER_BYTES = 1 << 14
"""Up to the frame header of a JPEG in a TIFF, which has no metadata of its own."""

# Tags
_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 254, 256, 257, 258, 259, 262, 266
_DESCRIPTION, _STRIPS, _SAMPLES, _STRIP_ROWS, _STRIP_BYTES, _PLANAR = 270, 273, 277, 278, 279, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _SUB_IMAGES, _EXTRA, _FORMAT = 322, 323, 324, 325, 330, 338, 339
_SUBSAMPLING, _XMP = 530, 700
# TIFF 6.0 and its technical note 2. JPEGTables is 347; 512 to 521 belong to old-style JPEG.
_PIXELS = frozenset(
    {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 332, 338, 339, 347}
    | {529, 530, 531, 532}
)
_DESCRIBING = frozenset({_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _DESCRIPTION, _SAMPLES, _PLANAR})
_DESCRIBING |= {_SUB_IMAGES, _EXTRA, _FORMAT}
_WANTED = _PIXELS | _DESCRIBING | {ORIENTATION_TAG, _XMP}

# Types of values
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_WHOLE = {1: "B", 2: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q"}
_SHORT, _LONG = 3, 4

_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_SEPARATE = 2  # PlanarConfiguration
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
_PHOTOMETRICS = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr", 8: "CIE Lab"}
_PHOTOMETRICS |= {9: "ICC Lab", 10: "ITU Lab", 32803: "colour filter array", 32844: "LogL", 32845: "LogLuv"}
_PREMULTIPLIED, _ALPHA, _COREL_ALPHA = 1, 2, 999  # of ExtraSamples; 0 is anything
_FORMATS = {1: "u", 2: "i", 3: "f"}
_FORMAT_NAMES = {1: "", 2: "signed ", 3: "float ", 5: "complex ", 6: "complex "}
_COLOURS = {_RGB: 3, _YCBCR: 3, _LAB: 3, _CMYK: 4}  # channels; 1 in all others
_BITS_READ = frozenset({1, 2, 4, 8, 12, 16, 32, 64})
_DEEP_KINDS = frozenset({"i1", "u2", "i2", "u4", "i4", "f4", "f8"})

_RAW, _GROUP_4, _OLD_JPEG, _JPEG = 1, 4, 6, 7
_OPENCV_COMPRESSIONS = frozenset({_RAW, 5, 8, 32773, 32946})  # none, LZW, Deflate twice, PackBits
_PILLOW_COMPRESSIONS = _OPENCV_COMPRESSIONS | {2, 3, 4, 6, 7, 32771, 32809, 34925, 50000, 50001}
_CLEAN_COMPRESSIONS = _OPENCV_COMPRESSIONS | {34925, 50000}  # and LZMA, Zstandard
_COMPRESSION_NAMES = {1: "", 5: "LZW", 6: "JPEG", 7: "JPEG", 8: "Deflate", 9: "JBIG", 10: "JBIG", 32946: "Deflate"}
_COMPRESSION_NAMES |= {33003: "JPEG 2000", 33004: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000"}
_COMPRESSION_NAMES |= {34661: "JBIG", 34887: "LERC", 34892: "lossy JPEG", 34925: "LZMA", 50000: "Zstandard"}
_COMPRESSION_NAMES |= {50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL", 34676: "SGI Log", 34677: "SGI Log"}

_IMAGEJ = re.compile(rb"ImageJ=.*\nimages=([0-9]+)", re.DOTALL)
"""A stack of ImageJ has one directory when it is large: its description alone counts the pages."""

_OTHERWISE = "save it as PNG, or as TIFF with 8 or 16 bits a channel, grey or RGB"


def read_header(stream: Stream, max_pixels: int) -> Header:
    """Return what the directories say."""
    file = _open(stream, max_pixels, header_only=True)
    if not file.opencv:
        _open_with_pillow(file)
    return file.header


def read(content: BytesIO, max_pixels: int) -> RawImage:
    """Decode the pixels."""
    file = _open(content, max_pixels, header_only=False)
    header = file.header
    with turn(header.height * header.width):
        if file.opencv:
            values = pillow.opencv_values(content.getvalue())
            if header.sample == "u4":  # OpenCV 4 gives it as signed
                values = values.view(np.uint32)
            if values.dtype != np.dtype(header.sample):
                raise ValueError(f"{header.sample} was read as {values.dtype}")
            return pillow.deep_image(
                values, header.orientation, transparent=header.alpha, white_is_zero=file.white_is_zero
            )
        with _libtiff_errors_raised(file.compression):
            image = _open_with_pillow(file)
            if file.compression == _GROUP_4:
                _check_fax(file)
            pillow.load(image)
        if header.sample == "u1":
            return RawImage(orient(pillow.rgb(image, transparent=header.alpha), header.orientation))
        values = np.asarray(image)[..., None]
        values = values.view(np.int8) if header.sample == "i1" else values.astype(np.uint16)
        return RawImage(orient(values, header.orientation), white_is_zero=file.white_is_zero)


READER = Reader(
    (".tif", ".tiff"), lambda start: start.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")), read_header, read
)


class _Layout(NamedTuple):
    """How numbers are stored. order: of bytes, as `struct` has it. big: BigTIFF."""

    order: str
    big: bool

    @property
    def count(self) -> str:
        return self.order + ("Q" if self.big else "H")

    @property
    def pointer(self) -> str:
        return self.order + ("Q" if self.big else "I")

    @property
    def entry(self) -> str:
        """Tag, type, number of values, and the values or where they are."""
        return self.order + ("HHQ8s" if self.big else "HHI4s")

    @property
    def link(self) -> int:
        """Where a file says where its first directory is."""
        return 8 if self.big else 4


@dataclass(frozen=True)
class _Directory:
    """One directory. entries: tag -> type, number of values, values. next: place of the next one, 0 for none."""

    layout: _Layout
    entries: Mapping[int, tuple[int, int, bytes]]
    next: int
    whole: bool

    def numbers(self, tag: int) -> tuple[int, ...]:
        """Return the values of a tag; none if it is absent or holds no whole numbers."""
        kind, number, value = self.entries.get(tag, (_SHORT, 0, b""))
        return struct.unpack(f"{self.layout.order}{number}{_WHOLE[kind]}", value) if kind in _WHOLE else ()

    def first(self, tag: int, default: int) -> int:
        return next(iter(self.numbers(tag)), default)

    def of_all(self, tag: int, channels: int) -> list[int]:
        """Return the values that a tag has for the channels, each once, in order of size; 1 if there are none."""
        return sorted(set(self.numbers(tag)[:channels])) or [1]


@dataclass(frozen=True)
class _File:
    """What the directories say of the image.

    header: with `alpha` if the last channel is said to be transparency; a further one that is not is to be left out.
    opencv: whether OpenCV reads it, otherwise Pillow does.
    kind: the values in words.
    bare: the file with a directory that holds what the pixels need and no more.
    """

    header: Header
    directory: _Directory
    white_is_zero: bool
    compression: int
    opencv: bool
    kind: str
    bare: BytesIO


def _open(stream: Stream, max_pixels: int, *, header_only: bool) -> _File:
    """Look at the directories. header_only: nothing need be there of the pixels; otherwise the stream is changed."""
    stream.seek(0)
    start = bytearray(stream.read(16))
    layout = _Layout("<" if start[:1] == b"I" else ">", start[2:4] in (b"+\0", b"\0+"))
    (at,) = struct.unpack_from(layout.pointer, start, layout.link)
    size = stream.seek(0, 2)
    directory = _read_directory(stream, at, layout, _WANTED, size)
    if not directory.whole:
        raise UnreadableImage("damaged: the file ends within its directory")
    content = BytesIO() if header_only or not isinstance(stream, BytesIO) else stream
    file = _describe(directory, content)
    fault = _fault(file, _pages(stream, directory, at, size))
    if fault is not None and file.header.height * file.header.width <= max_pixels:
        raise not_supported(fault)
    _check_parts(directory, max_pixels, None if header_only else stream)

    base = len(start[: 2 * layout.link]) if header_only else size + size % 2
    struct.pack_into(layout.pointer, start, layout.link, base)
    entries = {tag: entry for tag, entry in directory.entries.items() if tag in _PIXELS}
    content.seek(0)
    content.write(start[: 2 * layout.link])
    content.seek(base)
    content.write(_packed(layout, base, entries))
    return file


def _orientation(directory: _Directory) -> int:
    kind, number, _ = directory.entries.get(ORIENTATION_TAG, (0, 0, b""))
    if kind == _SHORT and number:
        return valid_orientation(lambda: directory.first(ORIENTATION_TAG, 1))
    return metadata_orientation(None, directory.entries.get(_XMP, (0, 0, b""))[2])


def _read_directory(stream: Stream, at: int, layout: _Layout, tags: Set[int], size: int) -> _Directory:
    """Read some tags of a directory; its end may be missing. size: of the file.

    Raises UnreadableImage for more than is read, and any other exception for damage.
    """
    stream.seek(at)
    (count,) = struct.unpack(layout.count, stream.read(struct.calcsize(layout.count)))
    if count > MAX_ENTRIES:
        raise UnreadableImage(
            f"not read: a directory of {count} entries, and {MAX_ENTRIES} is the limit; save it again"
        )
    width = struct.calcsize(layout.entry)
    block = stream.read(width * count)
    # Some writers leave the link to the next directory out of the last one.
    pointer_size = struct.calcsize(layout.pointer)
    (following,) = struct.unpack(layout.pointer, stream.read(pointer_size).ljust(pointer_size, b"\0"))
    entries: dict[int, tuple[int, int, bytes]] = {}
    total = 0
    for tag, kind, number, field in struct.iter_unpack(layout.entry, block[: len(block) // width * width]):
        if tag in entries or tag not in tags or kind not in _SIZES:
            continue
        value = field[: number * _SIZES[kind]]
        if number * _SIZES[kind] > len(field):
            (place,) = struct.unpack(layout.pointer, field)
            if place + number * _SIZES[kind] > size:
                raise UnreadableImage("damaged: an entry of its directory lies outside the file")
            if tag not in _PIXELS:
                number = min(number, METADATA if tag == _XMP else _MAX_DESCRIPTION)
            elif (total := total + number * _SIZES[kind]) > min(size, MAX_DIRECTORY_BYTES):
                raise UnreadableImage("not read: a directory larger than the file, or than 16 MB; save it again")
            stream.seek(place)
            value = stream.read(number * _SIZES[kind])
        entries[tag] = kind, number, value
    return _Directory(layout, entries, following, len(block) == width * count)


def _pages(stream: Stream, directory: _Directory, at: int, size: int) -> int:
    """Count the images that are neither a smaller copy of another one nor its mask."""
    pages, seen = 1, {at}
    while directory.next and directory.next not in seen and len(seen) < _MAX_DIRECTORIES:
        seen.add(directory.next)
        try:
            directory = _read_directory(stream, directory.next, directory.layout, _DESCRIBING, size)
        except (UnreadableImage, struct.error, ValueError, OverflowError, OSError):
            break
        pages += not directory.first(_SUBFILE, 0) & (_REDUCED | _MASK)
    return pages


def _describe(directory: _Directory, content: BytesIO) -> _File:
    channels, photometric = directory.first(_SAMPLES, 1), directory.first(_PHOTOMETRIC, _WHITE_IS_ZERO)
    bits, formats = directory.of_all(_BITS, channels), directory.of_all(_FORMAT, channels)
    compression, extra = directory.first(_COMPRESSION, _RAW), directory.first(_EXTRA, 0)
    sample = "u1" if bits[-1] <= 8 and formats == [1] else f"{_FORMATS.get(formats[-1], '?')}{(bits[-1] + 7) // 8}"
    transparent = channels > _COLOURS.get(photometric, 1) and extra in (_PREMULTIPLIED, _ALPHA, _COREL_ALPHA)
    orientation = _orientation(directory)
    header = Header(
        "TIFF",
        *oriented_size(directory.first(_HEIGHT, 0), directory.first(_WIDTH, 0), orientation),
        orientation,
        grey=photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO) and channels - transparent == 1,
        alpha=transparent,
        sample=sample,
        cmyk=photometric == _CMYK,
    )
    number = f"{channels} channels" if channels > 1 else "1 channel"
    format_names = " and ".join(_FORMAT_NAMES.get(format, "odd ") for format in formats)
    colours = _PHOTOMETRICS.get(photometric, f"colours of kind {photometric}")
    if compression != _RAW:
        colours += f", compression {_COMPRESSION_NAMES.get(compression, compression)}"
    return _File(
        header,
        directory,
        white_is_zero=photometric == _WHITE_IS_ZERO,
        compression=compression,
        opencv=sample not in ("u1", "i1") and compression in _OPENCV_COMPRESSIONS and bits != [12],
        kind=f"{number} of {'- and '.join(map(str, bits))}-bit {format_names}values ({colours})",
        bare=content,
    )


def _fault(file: _File, pages: int) -> str | None:
    """Return why the image is not read and how it should be saved, or None if it is read."""
    directory, sample = file.directory, file.header.sample
    stack = _IMAGEJ.match(bytes(directory.numbers(_DESCRIPTION)))
    pages = max(pages, int(stack[1]) if stack else 1)
    if pages > 1:
        more = " or more" if pages == _MAX_DIRECTORIES else ""
        return f"a TIFF of {pages}{more} pages, save it as one file for each page"
    if directory.first(_SUBFILE, 0) & _REDUCED and (directory.next or _SUB_IMAGES in directory.entries):
        return f"a TIFF that begins with a preview (a raw file of a camera?), {_OTHERWISE}"
    channels, photometric = directory.first(_SAMPLES, 1), directory.first(_PHOTOMETRIC, _WHITE_IS_ZERO)
    bits, formats = directory.of_all(_BITS, channels), directory.of_all(_FORMAT, channels)
    if sample != "u1" and channels > 1 and directory.first(_PLANAR, 1) == _SEPARATE:
        return f"a TIFF with {file.kind} that are stored plane by plane, save it as TIFF with interleaved channels"
    is_read = (
        file.compression in _PILLOW_COMPRESSIONS
        and photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR)
        and not (photometric == _YCBCR and file.compression == _RAW)  # Pillow would take four bytes for a pixel
        and not (file.compression in (_OLD_JPEG, _JPEG) and bits != [8])
        and len(bits) == len(formats) == 1
        and bits[0] in _BITS_READ
        and (sample == "u1" or _deep_is_read(file, photometric, channels, directory.first(_EXTRA, 0)))
    )
    return None if is_read else f"a TIFF with {file.kind}, {_OTHERWISE}"


def _deep_is_read(file: _File, photometric: int, channels: int, extra: int) -> bool:
    """Whether values that are not of unsigned 8 bits are read."""
    header = file.header
    if header.sample not in _DEEP_KINDS:
        return False
    if not file.opencv:
        return header.grey and channels == 1 and header.sample in ("i1", "u2")
    if header.alpha and (header.sample != "u2" or extra == _PREMULTIPLIED):
        return False
    return (header.grey and channels == 1) or (photometric == _RGB and channels in (3, 4))


def _check_parts(directory: _Directory, max_pixels: int, stream: Stream | None) -> None:
    """Check that strips or tiles are all there and not larger than they may be, and in `stream` that JPEGs fill them.

    libtiff shows the process's memory where a JPEG is smaller than its strip or tile, and merely warns.
    """
    first = directory.first
    height, width, compression = first(_HEIGHT, 0), first(_WIDTH, 0), first(_COMPRESSION, _RAW)
    if height < 1 or width < 1:
        raise UnreadableImage("damaged: the header says zero pixels")
    if height * width > max_pixels:
        raise too_large(height, width, max_pixels)
    if compression == _OLD_JPEG:
        raise not_supported("a TIFF with old-style JPEG compression, save it as PNG")
    offsets, tiled = directory.numbers(_STRIPS), bool(directory.numbers(_TILES))
    if tiled == bool(offsets) or tiled != bool(directory.numbers(_TILE_WIDTH)):
        raise UnreadableImage("damaged: its directory tells neither strips nor tiles, or both")
    rows = first(_TILE_HEIGHT, 0) if tiled else min(first(_STRIP_ROWS, height), height)
    columns = first(_TILE_WIDTH, 0) if tiled else width
    if rows < 1 or columns < 1:
        raise UnreadableImage("damaged: strips or tiles of zero pixels")
    down, across = -(-height // rows), -(-width // columns)
    limit = max(max_pixels, _SMALL_TILE)
    if down * rows * across * columns > 2 * limit or rows * columns > limit:
        raise UnreadableImage(f"not read: tiles of {columns}x{rows} for an image of {width}x{height}; save it again")
    planes = first(_SAMPLES, 1) if first(_PLANAR, 1) == _SEPARATE else 1
    offsets, sizes = offsets or directory.numbers(_TILES), directory.numbers(_TILE_BYTES if tiled else _STRIP_BYTES)
    if len(offsets) > MAX_PARTS:
        raise UnreadableImage(f"not read: {len(offsets)} strips or tiles, and {MAX_PARTS} is the limit; save it again")
    if len(offsets) < down * across * planes:
        raise UnreadableImage(f"damaged: {len(offsets)} of {down * across * planes} strips or tiles are there")
    if stream is None or compression != _JPEG:
        return
    if planes > 1 and directory.numbers(_SUBSAMPLING):
        raise not_supported("a TIFF with separate planes of subsampled colour, save it as PNG")
    for part, (offset, size) in enumerate(zip(offsets, sizes, strict=False)):
        stream.seek(offset)
        frame = next(jpeg.frames(stream.read(min(size, _JPEG_HEADER_BYTES))), None)
        wanted = rows if tiled else min(rows, height - part % down * rows)
        if frame is None or frame.height < wanted or frame.width < columns:
            raise UnreadableImage("damaged: a JPEG that does not fill its strip or tile")


def _packed(layout: _Layout, base: int, entries: Mapping[int, tuple[int, int, bytes]]) -> bytes:
    """Return a directory, to be placed at `base`, and behind it the values that do not fit into it."""
    fits = struct.calcsize(layout.pointer)
    rows, values = b"", b""
    behind = base + struct.calcsize(layout.count) + len(entries) * struct.calcsize(layout.entry) + fits
    for tag, (kind, number, value) in sorted(entries.items()):
        field = value
        if len(value) > fits:
            field = struct.pack(layout.pointer, behind + len(values))
            values += value + b"\0" * (len(value) % 2)
        rows += struct.pack(layout.entry, tag, kind, number, field)
    return struct.pack(layout.count, len(entries)) + rows + bytes(fits) + values


def _open_with_pillow(file: _File) -> ImageFile:
    try:
        return pillow.open_image(file.bare, "TIFF")
    except UnidentifiedImageError as error:  # the directory is whole, so this is an "unknown pixel mode"
        raise not_supported(f"a TIFF with {file.kind}, save it as PNG") from error


# libtiff carries on after some errors, with whatever was in memory as pixels. Pillow does not ask it about them.

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
def _libtiff_errors_raised(compression: int) -> Iterator[None]:
    """Raise UnreadableImage if libtiff reports an error meanwhile, or could not report one that it carries on after."""
    _tiff_errors.last = None
    if not _hears_tiff_errors and compression not in _CLEAN_COMPRESSIONS:
        raise not_supported("on this system, a TIFF compressed as a fax or JPEG is, save it as PNG")
    yield
    if _tiff_errors.last is not None:
        raise UnreadableImage(f"damaged: libtiff reports an error ({_tiff_errors.last})")


def _check_fax(file: _File) -> None:
    """Raise UnreadableImage for Group 4 strips with too few rows: libtiff is silent about them, in all versions.

    Each strip is decoded behind one that is white and behind one that is not. What differs was not in the file.
    """
    if file.directory.numbers(_TILE_WIDTH):
        raise not_supported("a TIFF with tiles compressed as a fax is, save it as PNG")
    decoded = []
    for filler in ("1", "0101"):
        doubled, rows = _fax_between(file, filler)
        pixels = pillow.open_image(BytesIO(doubled), "TIFF")
        height, width = pixels.height, pixels.width
        with pillow.limit_lifted(height * width):
            pixels.load()
            tops = range(rows, height, 2 * rows)
            decoded.append([pixels.crop((0, top, width, min(top + rows, height))).tobytes() for top in tops])
    if decoded[0] != decoded[1]:
        raise UnreadableImage("damaged: a fax strip ends before its last row")


def _fax_between(file: _File, filler: str) -> tuple[bytes, int]:
    """Return a TIFF of Group 4 strips in which each one follows a strip of `filler`, and the rows of that strip.

    A decoder leaves in a strip that ends too soon what was in memory: there, the filler.

    filler: "1" for white rows, "0101" and "11" for rows whose last pixel is black (ITU T.6: vertical modes, relative to
    the row above).
    """
    directory, content = file.directory, file.bare.getvalue()
    height, width = directory.first(_HEIGHT, 0), directory.first(_WIDTH, 0)
    rows = min(directory.first(_STRIP_ROWS, height), height)
    bits = filler + (filler if filler == "1" else "11") * (rows - 1)
    packed = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8))
    fill_order = 2 if directory.numbers(_FILL_ORDER) == (2,) else 1
    if fill_order == 2:  # the least significant bit first
        packed = bytes(int(f"{byte:08b}"[::-1], 2) for byte in packed)
    strips = zip(directory.numbers(_STRIPS), directory.numbers(_STRIP_BYTES), strict=True)
    parts = [part for offset, size in strips for part in (packed, content[offset : offset + size])]
    sizes = [len(part) for part in parts]
    values = {
        _WIDTH: [width],
        _HEIGHT: [height + rows * len(parts) // 2],
        _BITS: [1],
        _COMPRESSION: [_GROUP_4],
        _PHOTOMETRIC: [_BLACK_IS_ZERO],
        _FILL_ORDER: [fill_order],
        _STRIPS: [8 + start for start in accumulate(sizes[:-1], initial=0)],
        _SAMPLES: [1],
        _STRIP_ROWS: [rows],
        _STRIP_BYTES: sizes,
    }
    body = b"".join(parts)
    body += b"\0" * (len(body) % 2)
    entries = {tag: (_LONG, len(some), struct.pack(f"<{len(some)}I", *some)) for tag, some in values.items()}
    base = 8 + len(body)
    return b"II*\0" + struct.pack("<I", base) + body + _packed(_Layout("<", False), base, entries), rows
