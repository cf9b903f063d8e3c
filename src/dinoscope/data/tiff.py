"""What the first directory of a TIFF file says of its image, and which kinds are not read (TIFF 6.0, BigTIFF).

Pillow reads up to 8 bits a channel, OpenCV what has more; both would open further kinds and give another picture than
the one in the file. So what each is given is decided here, from the directory alone.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace

from dinoscope.data.bare_image import MAX_ENTRIES, Stream

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_DESCRIPTION, _SAMPLES, _PLANAR, _SUB_IMAGES, _EXTRA, _FORMAT = 270, 277, 284, 330, 338, 339
_TAGS = frozenset(
    {_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _DESCRIPTION, _SAMPLES, _PLANAR}
    | {_SUB_IMAGES, _EXTRA, _FORMAT}
)
_TYPES = {1: "B", 2: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}  # byte, ASCII, short, long, directory, long of BigTIFF
_MOST_VALUES = 256
"""Values of a tag that are looked at."""
_MOST_DIRECTORIES = 100
_BIG = 43
"""The version of BigTIFF; of TIFF it is 42."""

_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_SEPARATE = 2  # PlanarConfiguration
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _CMYK, _YCBCR, _LAB = 0, 1, 2, 5, 6, 8
_PALETTE = 3
_PHOTOMETRICS = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr", 8: "CIE Lab"}
_PHOTOMETRICS |= {9: "ICC Lab", 10: "ITU Lab", 32803: "colour filter array", 32844: "LogL", 32845: "LogLuv"}
_PREMULTIPLIED, _ALPHA, _COREL_ALPHA = 1, 2, 999  # of ExtraSamples; 0 is anything
_FORMATS = {1: "u", 2: "i", 3: "f"}
_FORMAT_NAMES = {1: "", 2: "signed ", 3: "float ", 5: "complex ", 6: "complex "}
_COLOURS = {_RGB: 3, _YCBCR: 3, _LAB: 3, _CMYK: 4}  # channels; 1 in all others
_BITS_READ = frozenset({1, 2, 4, 8, 12, 16, 32, 64})
_DEEP_KINDS = frozenset({"i1", "u2", "i2", "u4", "i4", "f4", "f8"})

_RAW = 1
_JPEGS = (6, 7)
_OPENCV_COMPRESSIONS = frozenset({_RAW, 5, 8, 32773, 32946})  # none, LZW, Deflate twice, PackBits
_PILLOW_COMPRESSIONS = _OPENCV_COMPRESSIONS | {2, 3, 4, 6, 7, 32771, 32809, 34925, 50000, 50001}
_COMPRESSION_NAMES = {1: "", 5: "LZW", 6: "JPEG", 7: "JPEG", 8: "Deflate", 9: "JBIG", 10: "JBIG", 32946: "Deflate"}
_COMPRESSION_NAMES |= {33003: "JPEG 2000", 33004: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000"}
_COMPRESSION_NAMES |= {34661: "JBIG", 34887: "LERC", 34892: "lossy JPEG", 34925: "LZMA", 50000: "Zstandard"}
_COMPRESSION_NAMES |= {50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL", 34676: "SGI Log", 34677: "SGI Log"}

_IMAGEJ = re.compile(rb"ImageJ=.*\nimages=([0-9]+)", re.DOTALL)
"""A stack of ImageJ has one directory when it is large: its description alone counts the pages."""

_OTHERWISE = "save it as PNG, or as TIFF with 8 or 16 bits a channel, grey or RGB"


@dataclass(frozen=True)
class Tiff:
    """The image of a TIFF file.

    height, width: pixels, as stored.
    sample: kind of the values as numpy names it: "u1" (up to 8 bits), "i1", "u2" (up to 16 bits), "i2", "f4", ...
    transparent: the last channel is said to be transparency; a further one that is not is to be left out.
    opencv: whether OpenCV reads it, otherwise Pillow does.
    kind: the values in words.
    unsupported: why it is not read and how it should be saved, or None.
    """

    height: int
    width: int
    sample: str
    grey: bool
    cmyk: bool
    white_is_zero: bool
    transparent: bool
    opencv: bool
    kind: str
    unsupported: str | None


@dataclass(frozen=True)
class _Directory:
    """tags: values of those that are looked at. next: place of the next directory, 0 for none."""

    tags: Mapping[int, tuple[int, ...]]
    next: int

    def first(self, tag: int, default: int) -> int:
        return next(iter(self.tags.get(tag, ())), default)


def read_tiff(stream: Stream) -> Tiff:
    """Read what the directories say, and rewind. Raises a built-in exception where the first one is damaged."""
    stream.seek(0)
    start = stream.read(16)
    order = "<" if start[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", start, 2)[0] == _BIG
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), start, 8 if big else 4)
    directory = _read_directory(stream, at, order, big=big)
    pages = _pages(stream, directory, at, order, big=big)
    stream.seek(0)
    return _describe(directory, pages)


def _read_directory(stream: Stream, at: int, order: str, *, big: bool) -> _Directory:
    count_type, offset_type, entry = (order + "Q", order + "Q", 20) if big else (order + "H", order + "I", 12)
    inline = struct.calcsize(offset_type)
    stream.seek(at)
    (count,) = struct.unpack(count_type, stream.read(struct.calcsize(count_type)))
    if count > MAX_ENTRIES:
        raise ValueError("a directory of impossible length")
    begin = stream.tell()
    block = stream.read(entry * count)
    # Some writers leave the link to the next directory out of the last one.
    (following,) = struct.unpack(offset_type, stream.read(inline).ljust(inline, b"\0"))
    tags: dict[int, tuple[int, ...]] = {}
    for row in range(0, len(block) - entry + 1, entry):
        tag, kind = struct.unpack_from(order + "HH", block, row)
        if tag not in _TAGS or kind not in _TYPES or tag in tags:
            continue
        (number,) = struct.unpack_from(offset_type, block, row + 4)
        size, value = struct.calcsize(_TYPES[kind]), row + entry - inline
        place = begin + value if number * size <= inline else struct.unpack_from(offset_type, block, value)[0]
        number = min(number, _MOST_VALUES)
        stream.seek(place)
        tags[tag] = struct.unpack(f"{order}{number}{_TYPES[kind]}", stream.read(number * size))
    return _Directory(tags, following)


def _pages(stream: Stream, directory: _Directory, at: int, order: str, *, big: bool) -> int:
    """Count the images that are neither a smaller copy of another one nor its mask."""
    pages, seen = 1, {at}
    while directory.next and directory.next not in seen and len(seen) < _MOST_DIRECTORIES:
        seen.add(directory.next)
        try:
            directory = _read_directory(stream, directory.next, order, big=big)
        except (struct.error, ValueError, OverflowError, OSError):
            break
        pages += not directory.first(_SUBFILE, 0) & (_REDUCED | _MASK)
    return pages


def _describe(directory: _Directory, pages: int) -> Tiff:
    channels, photometric = directory.first(_SAMPLES, 1), directory.first(_PHOTOMETRIC, _WHITE_IS_ZERO)
    bits, formats = _of_all(directory, _BITS, channels), _of_all(directory, _FORMAT, channels)
    compression = directory.first(_COMPRESSION, _RAW)
    sample = "u1" if bits[-1] <= 8 and formats == [1] else f"{_FORMATS.get(formats[-1], '?')}{(bits[-1] + 7) // 8}"
    extra = next(iter(directory.tags.get(_EXTRA, ())), 0)
    transparent = channels > _COLOURS.get(photometric, 1) and extra in (_PREMULTIPLIED, _ALPHA, _COREL_ALPHA)
    number = f"{channels} channels" if channels > 1 else "1 channel"
    values = f"{'- and '.join(map(str, bits))}-bit {' and '.join(_FORMAT_NAMES.get(each, 'odd ') for each in formats)}"
    kind = f"{number} of {values}values ({_PHOTOMETRICS.get(photometric, f'colours of kind {photometric}')}"
    if compression != _RAW:
        kind += f", compression {_COMPRESSION_NAMES.get(compression, compression)}"
    opencv = sample not in ("u1", "i1") and compression in _OPENCV_COMPRESSIONS and bits != [12]
    tiff = Tiff(
        directory.first(_HEIGHT, 0),
        directory.first(_WIDTH, 0),
        sample,
        grey=photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO) and channels - transparent == 1,
        cmyk=photometric == _CMYK,
        white_is_zero=photometric == _WHITE_IS_ZERO,
        transparent=transparent,
        opencv=opencv,
        kind=f"{kind})",
        unsupported=None,
    )
    is_read = (
        compression in _PILLOW_COMPRESSIONS
        and photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR)
        and not (photometric == _YCBCR and compression == _RAW)  # Pillow would take four bytes for a pixel
        and not (compression in _JPEGS and bits != [8])
        and len(bits) == len(formats) == 1
        and bits[0] in _BITS_READ
        and (sample == "u1" or _deep_is_read(tiff, photometric, channels, extra))
    )
    fault = _other_pages(directory, pages)
    if fault is None and sample != "u1" and channels > 1 and directory.first(_PLANAR, 1) == _SEPARATE:
        fault = f"a TIFF with {tiff.kind} that are stored plane by plane, save it as TIFF with interleaved channels"
    if fault is None and not is_read:
        fault = f"a TIFF with {tiff.kind}, {_OTHERWISE}"
    return replace(tiff, unsupported=fault)


def _of_all(directory: _Directory, tag: int, channels: int) -> list[int]:
    """The values that a tag has for the channels, each once, in order of size; 1 where there are none."""
    return sorted(set(directory.tags.get(tag, ())[:channels])) or [1]


def _deep_is_read(tiff: Tiff, photometric: int, channels: int, extra: int) -> bool:
    """Whether values that are not of unsigned 8 bits are read."""
    if tiff.sample not in _DEEP_KINDS:
        return False
    if not tiff.opencv:
        return tiff.grey and channels == 1 and tiff.sample in ("i1", "u2")
    if tiff.transparent and (tiff.sample != "u2" or extra == _PREMULTIPLIED):
        return False
    return (tiff.grey and channels == 1) or (photometric == _RGB and channels in (3, 4))


def _other_pages(directory: _Directory, pages: int) -> str | None:
    """What to say of a file that holds more than the image that would be read, or another one."""
    stack = _IMAGEJ.match(bytes(directory.tags.get(_DESCRIPTION, ())))
    pages = max(pages, int(stack[1]) if stack else 1)
    if pages > 1:
        more = " or more" if pages == _MOST_DIRECTORIES else ""
        return f"a TIFF of {pages}{more} pages, save it as one file for each page"
    if directory.first(_SUBFILE, 0) & _REDUCED and (directory.next or _SUB_IMAGES in directory.tags):
        return f"a TIFF that begins with a preview (a raw file of a camera?), {_OTHERWISE}"
    return None
