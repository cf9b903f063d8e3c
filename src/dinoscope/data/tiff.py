"""TIFF and BigTIFF (TIFF 6.0): what the first directory tells, which kinds are not read, and the pixels.

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
from io import BytesIO
from itertools import accumulate
from struct import Struct
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from dinoscope.data import jpeg, pillow, reader
from dinoscope.data.reader import METADATA, ORIENTATION_TAG, Header, RawImage, Stream, UnreadableImage, not_supported

MAX_ENTRIES = 4096  # entries of a directory
MAX_PARTS = 1 << 18  # strips or tiles
MAX_DIRECTORY_BYTES = 1 << 24  # size of the entries that the pixels need: above all, where the strips or tiles are
_MAX_DIRECTORIES = 100
_MAX_DESCRIPTION = 256  # values of a tag that describes the image and is not needed for its pixels
_SMALL_TILE = 1 << 22  # pixels of a tile that are allowed whatever the limit
_JPEG_HEADER_BYTES = 1 << 14  # up to the frame header of a JPEG in a TIFF, which has no metadata of its own

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

Entry = tuple[int, int, bytes]
"""Type, number of values, values."""


class _Layout(NamedTuple):
    """How a directory is stored: its number of entries, a place in the file, and an entry.

    An entry is tag, type, number of values, and the values or their place. The place of the first directory stands in
    the file at the size of a place.
    """

    order: str
    count: Struct
    place: Struct
    entry: Struct


_CLASSIC, _BIG = ("H", "I", "HHI4s"), ("Q", "Q", "HHQ8s")
_LAYOUTS = {
    start: _Layout(order, *(Struct(order + form) for form in forms))
    for start, order, forms in (
        (b"II*\0", "<", _CLASSIC),
        (b"MM\0*", ">", _CLASSIC),
        (b"II+\0", "<", _BIG),
        (b"MM\0+", ">", _BIG),
    )
}


class _Tiff:
    """What the first directory of a file tells, and the file with a directory that holds what the pixels need.

    following: place of the next directory, 0 for none. opencv: whether OpenCV reads the pixels, otherwise Pillow does.
    """

    def __init__(
        self, layout: _Layout, entries: Mapping[int, Entry], following: int, pages: int, bare: BytesIO
    ) -> None:
        self.layout, self.entries, self.following, self.bare = layout, entries, following, bare
        self.height, self.width, self.channels = self.first(_HEIGHT), self.first(_WIDTH), self.first(_SAMPLES, 1)
        self.strip_rows = min(self.first(_STRIP_ROWS, self.height), self.height)
        self.compression, self.extra = self.first(_COMPRESSION, _RAW), self.first(_EXTRA)
        self.photometric = self.first(_PHOTOMETRIC, _WHITE_IS_ZERO)
        self.white_is_zero = self.photometric == _WHITE_IS_ZERO
        # The different values of all channels, in order of size.
        self.bits, self.formats = (sorted(set(self.numbers(tag)[: self.channels])) or [1] for tag in (_BITS, _FORMAT))
        stack = _IMAGEJ.match(bytes(self.numbers(_DESCRIPTION)))
        self.pages = max(pages, int(stack[1]) if stack else 1)
        bits, kind = self.bits[-1], _FORMATS.get(self.formats[-1], "?")
        sample = "u1" if bits <= 8 and self.formats == [1] else f"{kind}{(bits + 7) // 8}"
        self.opencv = sample not in ("u1", "i1") and self.compression in _OPENCV_COMPRESSIONS and self.bits != [12]
        is_alpha = self.extra in (_PREMULTIPLIED, _ALPHA, _COREL_ALPHA)
        alpha = is_alpha and self.channels > _COLOURS.get(self.photometric, 1)
        orientation = self._orientation()
        self.header = Header(
            "TIFF",
            *reader.oriented_size(self.height, self.width, orientation),
            orientation,
            grey=self.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO) and self.channels - alpha == 1,
            alpha=alpha,
            sample=sample,
            cmyk=self.photometric == _CMYK,
        )

    def numbers(self, tag: int) -> tuple[int, ...]:
        return _numbers(self.layout, self.entries, tag)

    def first(self, tag: int, default: int = 0) -> int:
        return next(iter(self.numbers(tag)), default)

    def _orientation(self) -> int:
        kind, number, _ = self.entries.get(ORIENTATION_TAG, (0, 0, b""))
        if kind == _SHORT and number:
            orientation = self.first(ORIENTATION_TAG)
            return orientation if 1 <= orientation <= 8 else 1
        return reader.valid_orientation(None, self.entries.get(_XMP, (0, 0, b""))[2])

    @property
    def kind(self) -> str:
        """The values in words."""
        number = f"{self.channels} channels" if self.channels > 1 else "1 channel"
        bits = "- and ".join(map(str, self.bits))
        formats = " and ".join(_FORMAT_NAMES.get(format, "odd ") for format in self.formats)
        colours = _PHOTOMETRICS.get(self.photometric, f"colours of kind {self.photometric}")
        if self.compression != _RAW:
            colours += f", compression {_COMPRESSION_NAMES.get(self.compression, self.compression)}"
        return f"{number} of {bits}-bit {formats}values ({colours})"

    def fault(self) -> str | None:
        """Return why the image is not read and how it should be saved, or None if it is read."""
        channels, grey, sample = self.channels, self.header.grey, self.header.sample
        if self.pages > 1:
            more = " or more" if self.pages == _MAX_DIRECTORIES else ""
            return f"a TIFF of {self.pages}{more} pages, save it as one file for each page"
        if self.first(_SUBFILE) & _REDUCED and (self.following or _SUB_IMAGES in self.entries):
            return f"a TIFF that begins with a preview (a raw file of a camera?), {_OTHERWISE}"
        if sample != "u1" and channels > 1 and self.first(_PLANAR, 1) == _SEPARATE:
            return f"a TIFF with {self.kind} that are stored plane by plane, save it as TIFF with interleaved channels"
        if sample == "u1":
            are_values_read = True
        elif not self.opencv:
            are_values_read = grey and channels == 1 and sample in ("i1", "u2")
        else:
            are_channels_read = (grey and channels == 1) or (self.photometric == _RGB and channels in (3, 4))
            is_alpha_read = not self.header.alpha or (sample == "u2" and self.extra != _PREMULTIPLIED)
            are_values_read = sample in _DEEP_KINDS and are_channels_read and is_alpha_read
        is_read = (
            are_values_read
            and self.compression in _PILLOW_COMPRESSIONS
            and self.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR)
            # Pillow would take four bytes for a pixel.
            and not (self.photometric == _YCBCR and self.compression == _RAW)
            and not (self.compression in (_OLD_JPEG, _JPEG) and self.bits != [8])
            and len(self.bits) == len(self.formats) == 1
            and self.bits[0] in _BITS_READ
        )
        return None if is_read else f"a TIFF with {self.kind}, {_OTHERWISE}"

    def check_parts(self, max_pixels: int, stream: Stream | None) -> None:
        """Check that all strips or tiles exist and are not too large, and in `stream` that JPEGs fill them.

        libtiff shows the process's memory where a JPEG is smaller than its strip or tile, and merely warns.
        """
        height, width = self.height, self.width
        if height < 1 or width < 1:
            raise UnreadableImage("damaged: the header says zero pixels")
        if height * width > max_pixels:
            raise reader.too_large(height, width, max_pixels)
        if self.compression == _OLD_JPEG:
            raise not_supported("a TIFF with old-style JPEG compression, save it as PNG")
        offsets, tiled = self.numbers(_STRIPS), bool(self.numbers(_TILES))
        if tiled == bool(offsets) or tiled != bool(self.numbers(_TILE_WIDTH)):
            raise UnreadableImage("damaged: its directory tells neither strips nor tiles, or both")
        rows, columns = (self.first(_TILE_HEIGHT), self.first(_TILE_WIDTH)) if tiled else (self.strip_rows, width)
        if rows < 1 or columns < 1:
            raise UnreadableImage("damaged: strips or tiles of zero pixels")
        down, across = -(-height // rows), -(-width // columns)
        limit = max(max_pixels, _SMALL_TILE)
        if down * rows * across * columns > 2 * limit or rows * columns > limit:
            raise UnreadableImage(
                f"not read: tiles of {columns}x{rows} for an image of {width}x{height}; save it again"
            )
        planes = self.first(_SAMPLES, 1) if self.first(_PLANAR, 1) == _SEPARATE else 1
        offsets, wanted = offsets or self.numbers(_TILES), down * across * planes
        if len(offsets) > MAX_PARTS:
            raise UnreadableImage(
                f"not read: {len(offsets)} strips or tiles, and {MAX_PARTS} is the limit; save it again"
            )
        if len(offsets) < wanted:
            raise UnreadableImage(f"damaged: {len(offsets)} of {wanted} strips or tiles are there")
        if stream is None or self.compression != _JPEG:
            return
        if planes > 1 and self.numbers(_SUBSAMPLING):
            raise not_supported("a TIFF with separate planes of subsampled colour, save it as PNG")
        sizes = self.numbers(_TILE_BYTES if tiled else _STRIP_BYTES)
        for part, (offset, size) in enumerate(zip(offsets, sizes, strict=False)):
            stream.seek(offset)
            frame = jpeg.first_frame(stream.read(min(size, _JPEG_HEADER_BYTES)))
            lines = rows if tiled else min(rows, height - part % down * rows)
            if frame is None or frame.height < lines or frame.width < columns:
                raise UnreadableImage("damaged: a JPEG that does not fill its strip or tile")

    def opened(self) -> ImageFile:
        """Open the file with Pillow."""
        try:
            return pillow.open_image(self.bare, "TIFF")
        except UnidentifiedImageError as error:  # the directory is whole, so this is an "unknown pixel mode"
            raise not_supported(f"a TIFF with {self.kind}, save it as PNG") from error


def read_header(stream: Stream, max_pixels: int) -> Header:
    """Return what the directories tell."""
    tiff = _open(stream, max_pixels, header_only=True)
    if not tiff.opencv:
        tiff.opened()
    return tiff.header


def read(content: BytesIO, max_pixels: int) -> RawImage:
    """Decode the pixels."""
    tiff = _open(content, max_pixels, header_only=False)
    header = tiff.header
    with reader.turn(header.height * header.width):
        if tiff.opencv:
            values = pillow.opencv_values(content.getvalue())
            if header.sample == "u4":  # OpenCV 4 gives it as signed
                values = values.view(np.uint32)
            if values.dtype != np.dtype(header.sample):
                raise ValueError(f"{header.sample} was read as {values.dtype}")
            return pillow.deep_image(
                values, header.orientation, transparent=header.alpha, white_is_zero=tiff.white_is_zero
            )
        with _libtiff_errors_raised(tiff.compression):
            image = tiff.opened()
            if tiff.compression == _GROUP_4:
                _check_fax(tiff)
            pillow.load(image)
        if header.sample == "u1":
            return RawImage(reader.orient(pillow.rgb(image, transparent=header.alpha), header.orientation))
        values = np.asarray(image)[..., None]
        values = values.view(np.int8) if header.sample == "i1" else values.astype(np.uint16)
        return RawImage(reader.orient(values, header.orientation), white_is_zero=tiff.white_is_zero)


READER = reader.Reader((".tif", ".tiff"), lambda start: start[:4] in _LAYOUTS, read_header, read)


# Directories


def _open(stream: Stream, max_pixels: int, *, header_only: bool) -> _Tiff:
    """Read the directories. header_only: the pixels may be missing; otherwise the stream is changed.

    Raises UnreadableImage for a file that is damaged or not read.
    """
    stream.seek(0)
    start = bytearray(stream.read(16))
    layout = _LAYOUTS[bytes(start[:4])]
    (at,) = layout.place.unpack_from(start, layout.place.size)
    size = stream.seek(0, 2)
    entries, following, is_whole = _read_directory(stream, at, layout, _WANTED, size)
    if not is_whole:
        raise UnreadableImage("damaged: the file ends within its directory")
    bare = stream if isinstance(stream, BytesIO) and not header_only else BytesIO()
    tiff = _Tiff(layout, entries, following, _pages(stream, layout, at, following, size), bare)
    fault = tiff.fault()
    if fault is not None and tiff.height * tiff.width <= max_pixels:
        raise not_supported(fault)
    tiff.check_parts(max_pixels, None if header_only else stream)

    header = 2 * layout.place.size
    base = len(start[:header]) if header_only else size + size % 2
    layout.place.pack_into(start, layout.place.size, base)
    bare.seek(0)
    bare.write(start[:header])
    bare.seek(base)
    bare.write(_packed(layout, base, {tag: entry for tag, entry in entries.items() if tag in _PIXELS}))
    return tiff


def _numbers(layout: _Layout, entries: Mapping[int, Entry], tag: int) -> tuple[int, ...]:
    """Return the values of a tag; none if it is absent or holds no whole numbers."""
    kind, number, value = entries.get(tag, (_SHORT, 0, b""))
    return struct.unpack(f"{layout.order}{number}{_WHOLE[kind]}", value) if kind in _WHOLE else ()


def _read_directory(
    stream: Stream, at: int, layout: _Layout, tags: Set[int], size: int
) -> tuple[dict[int, Entry], int, bool]:
    """Return the entries of some tags of a directory, the place of the next, and whether the file holds all of it.

    size: of the file. Raises UnreadableImage for more than is read, and any other exception for damage.
    """
    stream.seek(at)
    (count,) = layout.count.unpack(stream.read(layout.count.size))
    if count > MAX_ENTRIES:
        raise UnreadableImage(
            f"not read: a directory of {count} entries, and {MAX_ENTRIES} is the limit; save it again"
        )
    width = layout.entry.size
    block = stream.read(width * count)
    # Some writers leave the link to the next directory out of the last one.
    (following,) = layout.place.unpack(stream.read(layout.place.size).ljust(layout.place.size, b"\0"))
    entries: dict[int, Entry] = {}
    total = 0
    for tag, kind, number, field in layout.entry.iter_unpack(block[: len(block) // width * width]):
        if tag in entries or tag not in tags or kind not in _SIZES:
            continue
        value = field[: number * _SIZES[kind]]
        if number * _SIZES[kind] > len(field):
            (place,) = layout.place.unpack(field)
            if place + number * _SIZES[kind] > size:
                raise UnreadableImage("damaged: an entry of its directory lies outside the file")
            if tag not in _PIXELS:
                number = min(number, METADATA if tag == _XMP else _MAX_DESCRIPTION)
            elif (total := total + number * _SIZES[kind]) > min(size, MAX_DIRECTORY_BYTES):
                raise UnreadableImage("not read: a directory larger than the file, or than 16 MB; save it again")
            stream.seek(place)
            value = stream.read(number * _SIZES[kind])
        entries[tag] = kind, number, value
    return entries, following, len(block) == width * count


def _pages(stream: Stream, layout: _Layout, at: int, following: int, size: int) -> int:
    """Count the images that are neither a smaller copy of another one nor its mask."""
    pages, seen = 1, {at}
    while following and following not in seen and len(seen) < _MAX_DIRECTORIES:
        seen.add(following)
        try:
            entries, following, _ = _read_directory(stream, following, layout, _DESCRIBING, size)
        except (UnreadableImage, struct.error, ValueError, OverflowError, OSError):
            break
        kinds = _numbers(layout, entries, _SUBFILE)
        pages += not (kinds and kinds[0] & (_REDUCED | _MASK))
    return pages


def _packed(layout: _Layout, base: int, entries: Mapping[int, Entry]) -> bytes:
    """Return a directory, to be placed at `base`, and behind it the values that do not fit into it."""
    rows, values = b"", b""
    behind = base + layout.count.size + len(entries) * layout.entry.size + layout.place.size
    for tag, (kind, number, value) in sorted(entries.items()):
        field = value
        if len(value) > layout.place.size:
            field = layout.place.pack(behind + len(values))
            values += value + b"\0" * (len(value) % 2)
        rows += layout.entry.pack(tag, kind, number, field)
    return layout.count.pack(len(entries)) + rows + bytes(layout.place.size) + values


# libtiff continues after some errors, with whatever was in memory as pixels. Pillow does not ask it about them.

_tiff_errors = threading.local()


@ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p)
def _note_tiff_error(module: bytes | None, message: bytes | None) -> None:
    """Replace libtiff's messages on the terminal. It calls this in the thread that decodes, which takes note."""
    _tiff_errors.last = (message or module or b"").decode("latin-1")


def _hear_tiff_errors() -> bool:
    """Have libtiff report errors to us. Return False if it cannot be reached (on Windows it is part of Pillow)."""
    try:
        ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(_note_tiff_error)
    except (AttributeError, OSError):
        return False
    return True


_hears_tiff_errors = _hear_tiff_errors()


@contextlib.contextmanager
def _libtiff_errors_raised(compression: int) -> Iterator[None]:
    """Raise UnreadableImage if libtiff reports an error meanwhile, or could not report one that it continues after."""
    _tiff_errors.last = None
    if not _hears_tiff_errors and compression not in _CLEAN_COMPRESSIONS:
        raise not_supported("on this system, a TIFF compressed as a fax or JPEG is, save it as PNG")
    yield
    if _tiff_errors.last is not None:
        raise UnreadableImage(f"damaged: libtiff reports an error ({_tiff_errors.last})")


def _check_fax(tiff: _Tiff) -> None:
    """Raise UnreadableImage for Group 4 strips with too few rows: libtiff is silent about them, in all versions.

    Each strip is decoded behind one that is white and behind one that is not, since a decoder leaves in a strip that
    ends too soon what was in memory. What differs was not in the file.
    """
    if tiff.numbers(_TILE_WIDTH):
        raise not_supported("a TIFF with tiles compressed as a fax is, save it as PNG")
    rows, decoded = tiff.strip_rows, []
    # "1" for white rows, "0101" and then "11" for rows whose last pixel is black (ITU T.6: vertical modes, relative to
    # the row above).
    for filler in ("1" * rows, "0101" + "11" * (rows - 1)):
        pixels = np.asarray(pillow.load(pillow.open_image(BytesIO(_fax_between(tiff, filler)), "TIFF")))
        decoded.append(np.packbits(pixels[np.arange(len(pixels)) // rows % 2 == 1], axis=None))
    if not np.array_equal(*decoded):
        raise UnreadableImage("damaged: a fax strip ends before its last row")


def _fax_between(tiff: _Tiff, filler: str) -> bytes:
    """Return a TIFF in which each Group 4 strip follows one of as many rows, whose bits are `filler`."""
    packed = int(filler.ljust(-(-len(filler) // 8) * 8, "0"), 2).to_bytes(-(-len(filler) // 8))
    fill_order = 2 if tiff.numbers(_FILL_ORDER) == (2,) else 1
    if fill_order == 2:  # the least significant bit first
        packed = bytes(int(f"{byte:08b}"[::-1], 2) for byte in packed)
    content = tiff.bare.getvalue()
    strips = zip(tiff.numbers(_STRIPS), tiff.numbers(_STRIP_BYTES), strict=True)
    parts = [part for offset, size in strips for part in (packed, content[offset : offset + size])]
    sizes = [len(part) for part in parts]
    values = {
        _WIDTH: [tiff.width],
        _HEIGHT: [tiff.height + tiff.strip_rows * len(parts) // 2],
        _BITS: [1],
        _COMPRESSION: [_GROUP_4],
        _PHOTOMETRIC: [_BLACK_IS_ZERO],
        _FILL_ORDER: [fill_order],
        _STRIPS: [8 + start for start in accumulate(sizes[:-1], initial=0)],
        _SAMPLES: [1],
        _STRIP_ROWS: [tiff.strip_rows],
        _STRIP_BYTES: sizes,
    }
    body = b"".join(parts)
    body += b"\0" * (len(body) % 2)
    base = 8 + len(body)
    entries = {tag: (_LONG, len(some), struct.pack(f"<{len(some)}I", *some)) for tag, some in values.items()}
    return b"II*\0" + struct.pack("<I", base) + body + _packed(_LAYOUTS[b"II*\0"], base, entries)
