"""An image file with nothing in it but what its pixels need, and limits on how much there may be of everything.

Decoders read the metadata too: Pillow copies every entry of a TIFF directory, even if 20,000 entries share the same
bytes, keeps every text of a PNG, and refuses a PNG with more than 1 MB of text. The pixels need none of it, except for
the orientation. So the containers are walked here, and the decoders are given the rest. Every walk is bounded.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from itertools import accumulate
from typing import NamedTuple

Stream = BufferedReader | BytesIO  # a file, or its content in memory

MAX_SEGMENTS = 10_000
"""Segments of a JPEG. A preview or depth map of 10 MB takes 160."""
MAX_FILL_BYTES = 1 << 16
"""Bytes between the segments of a JPEG."""
MAX_SCANS = 100
"""Scans of a JPEG, as in libtiff. A progressive file has about 10, and each is a pass over all pixels."""
MAX_COEFFICIENT_BYTES = 720_000_000
"""Memory for the coefficients of a JPEG with several scans: all are held until the last scan, at 2 bytes each."""
MAX_CHUNKS = 100_000
"""Chunks of a PNG. libpng writes one per 8 KB."""
MAX_BLOCKS = 1_000_000
"""Blocks of a GIF up to its second frame; a block has up to 255 bytes."""
MAX_ENTRIES = 4096
"""Entries of a TIFF directory."""
MAX_PARTS = 1 << 18
"""Strips or tiles of a TIFF."""
MAX_DIRECTORY_BYTES = 1 << 24
"""Size of the entries of a TIFF directory that the pixels need: most of all, where its strips or tiles are."""
MAX_HEADER_BYTES = 1 << 16
"""Size of the header of a PPM, whose comments may be of any length."""

_METADATA = 1 << 20  # bytes of EXIF, XMP or text, once decompressed, in which the orientation is looked for
_JPEG_HEADER_BYTES = 1 << 14  # up to the frame header of a JPEG in a TIFF, which has no metadata of its own
_SMALL_TILE = 1 << 22  # pixels; allowed whatever the limit

_START_OF_SCAN = b"\xff\xda"
_SMALL_JPEG = 1 << 20  # bytes of a JPEG in which nothing but scans can cost much
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # not a stuffed zero, a restart or a fill byte
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15 without DHT, JPG and DAC
_JPEG_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_JPEG_BARE = frozenset({0x01, 0xD8})  # markers without a length: TEM, SOI
_EOI, _SOS, _APP1, _JPEG_LS = 0xD9, 0xDA, 0xE1, 0xF7
_JPEG_METADATA = frozenset({*range(0xE0, 0xEE), 0xEF, 0xFE})  # APPn and COM, but APP14, which tells the colour space

_PNG_HEADER = frozenset({b"IHDR", b"PLTE", b"tRNS"})

# TIFF 6.0 and its technical note 2. JPEGTables is 347; 512 to 521 belong to old-style JPEG.
_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TIFF_WHOLE = {1: "B", 3: "H", 4: "I", 16: "Q"}  # types that are whole numbers
_TIFF_PIXELS = frozenset(
    {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 332, 338, 339, 347}
    | {529, 530, 531, 532}
)
_FILL_ORDER = 266
_WIDTH, _HEIGHT, _COMPRESSION, _SAMPLES, _PLANAR, _SUBSAMPLING = 256, 257, 259, 277, 284, 530
_STRIPS, _STRIP_ROWS, _STRIP_BYTES = 273, 278, 279
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES = 322, 323, 324, 325
_ORIENTATION, _XMP = 274, 700
_OLD_JPEG, _JPEG = 6, 7  # compressions
_SHORT = 3


class UnreadableImage(Exception):
    """A file that is not an image we read. Its message is the reason: one line, without the path."""


def unsupported(what: str) -> UnreadableImage:
    """The exception for a file that is whole and of a kind that is not read. what: it, and how to save it instead."""
    return UnreadableImage(f"not supported: {what}")


@dataclass(frozen=True)
class Bare:
    """What a decoder is given. animated: more than one frame or page."""

    stream: Stream
    orientation: int = 1
    animated: bool = False


def too_large(height: int, width: int, max_pixels: int) -> UnreadableImage:
    """Return the refusal of an image with too many pixels."""
    return UnreadableImage(
        f"too large: {width}x{height} is {height * width / 1e6:.4g} million pixels, "
        f"at most {max_pixels / 1e6:.4g} million are read; scale it down, or allow more with --max-megapixels"
    )


def without_metadata(stream: Stream, kind: str, max_pixels: int, *, header_only: bool) -> Bare:
    """Return the file without what its pixels do not need.

    kind: as in `image_header.sniff`, but not "JPEG". header_only: nothing need be there of the pixels. A `BytesIO` may
    be changed; a file is not.

    Raises UnreadableImage for more of anything than the limits above, and any other exception for damage.
    """
    stream.seek(0)
    return _WITHOUT_METADATA[kind](stream, max_pixels, header_only)


def orientation_or_upright(read: Callable[[], int | None]) -> int:
    """Return the orientation read, 1 to 8, or 1 if it is absent, damaged or impossible: the pixels may be whole."""
    try:
        orientation = read()
    except Exception:  # as in image_header.damage_reported
        return 1
    return orientation if orientation is not None and 1 <= orientation <= 8 else 1


def exif_orientation(block: bytes) -> int | None:
    """Look the orientation up in the first directory of an EXIF block (EXIF 2.32, 4.6), and in nothing else of it."""
    tiff = block.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}[tiff[:2]]
    (directory,) = struct.unpack_from(order + "I", tiff, 4)
    (entries,) = struct.unpack_from(order + "H", tiff, directory)
    for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
        tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, entry)
        if tag == _ORIENTATION and kind == _SHORT:
            return value
    return None


def _orientation(exif: bytes | None, xmp: bytes | None) -> int:
    """Return that of the EXIF block, else that of the XMP packet, else 1."""

    def read() -> int | None:
        if exif and (orientation := exif_orientation(exif)) is not None:
            return orientation
        match = re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp or b"")
        return int(match[1]) if match else None

    return orientation_or_upright(read)


# JPEG


class JpegFrame(NamedTuple):
    """The frame header of a JPEG (ITU T.81, B.2.2). factors: sampling factors of each component, four bits for each."""

    marker: int
    precision: int
    height: int
    width: int
    components: int
    factors: bytes

    @property
    def progressive(self) -> bool:
        """Whether it comes in several scans."""
        return self.marker in _JPEG_PROGRESSIVE

    @property
    def coefficient_bytes(self) -> float:
        """Memory for all coefficients, which a decoder holds if there are several scans."""
        factors = [divmod(factor, 16) for factor in self.factors]  # horizontal, vertical
        full = max((h for h, _ in factors), default=1) * max((v for _, v in factors), default=1)
        samples = sum(h * v for h, v in factors) / full  # of all components, per pixel
        return 2 * samples * self.height * self.width


def jpeg_frame(stream: Stream) -> tuple[JpegFrame, int]:
    """Walk the segments up to the end of the frame header; return it, and the EXIF orientation picked up on the way."""
    orientation, fill = 1, 0
    stream.seek(0)
    for _ in range(MAX_SEGMENTS):
        marker, skipped = _next_marker(stream, MAX_FILL_BYTES - fill)
        fill += skipped
        if marker in _JPEG_BARE or 0xD0 <= marker < 0xD8:
            continue
        if marker in (_EOI, _SOS):
            raise UnreadableImage("damaged: no frame header before the data")
        if marker == _JPEG_LS:
            raise unsupported("JPEG-LS, save it as PNG")
        (length,) = struct.unpack(">H", stream.read(2))
        if length < 2:
            raise UnreadableImage("damaged: a segment of impossible length")
        if marker in _JPEG_FRAMES:
            return _frame(marker, stream.read(length - 2)), orientation
        if marker == _APP1:
            segment = stream.read(length - 2)
            if segment.startswith(b"Exif\0"):
                orientation = orientation_or_upright(lambda block=segment: exif_orientation(b"Exif\0\0" + block[6:]))
        else:
            stream.seek(length - 2, 1)
    raise UnreadableImage(f"not read: more than {MAX_SEGMENTS} segments before the pixels; save it again")


def _frame(marker: int, segment: bytes) -> JpegFrame:
    precision, height, width, components = struct.unpack_from(">BHHB", segment)
    return JpegFrame(marker, precision, height, width, components, segment[7 : 6 + 3 * components : 3])


def _next_marker(stream: Stream, fill: int) -> tuple[int, int]:
    """Return the next marker's second byte, and how many stray and fill bytes were skipped, as libjpeg skips them."""
    pair = stream.read(2)
    if len(pair) == 2 and pair[0] == 0xFF and 0 < pair[1] < 0xFF:
        return pair[1], 0
    stream.seek(-len(pair), 1)
    previous = b""
    for skipped in range(fill + 2):
        byte = stream.read(1)
        if not byte:
            raise UnreadableImage("damaged: the file ends within its header")
        if previous == b"\xff" and byte not in b"\x00\xff":
            return byte[0], skipped - 1
        previous = byte
    raise UnreadableImage(f"not read: more than {MAX_FILL_BYTES} bytes between its segments; save it again")


def jpeg_segments(data: bytes, position: int = 0) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment from a position to the end of the image. Of a scan it is the header.

    Raises UnreadableImage for too many.
    """
    for _ in range(MAX_SEGMENTS):
        match = _JPEG_MARKER.search(data, position)
        if match is None:
            return
        start, marker = match.start(), data[match.start() + 1]
        if marker == _EOI:
            return
        if marker in _JPEG_BARE:
            position = start + 2
            continue
        (length,) = struct.unpack_from(">H", data, start + 2)
        position = start + 2 + max(length, 2)
        yield marker, start, position
    raise UnreadableImage(f"not read: more than {MAX_SEGMENTS} segments; save it again")


def count_scans(data: bytes, position: int) -> int:
    """Return the number of scans behind a position. Raises UnreadableImage for more than are read."""
    if len(data) - position <= _SMALL_JPEG and data.count(_START_OF_SCAN, position) == 1:
        return 1  # as almost always; walking through the segments takes longer than decoding a thumbnail
    scans = sum(marker == _SOS for marker, _, _ in jpeg_segments(data, position))
    if scans > MAX_SCANS:
        raise UnreadableImage(f"not read: {scans} scans, and {MAX_SCANS} is the limit; save it again")
    return scans


def bare_jpeg(data: bytes) -> BytesIO:
    """Return the JPEG without its metadata."""
    parts = [data[:2]]
    for marker, start, end in jpeg_segments(data):
        if marker == _SOS:
            parts.append(data[start:])
            break
        if marker not in _JPEG_METADATA:
            parts.append(data[start:end])
    return BytesIO(b"".join(parts))


# PNG


def _bare_png(stream: Stream, max_pixels: int, header_only: bool) -> Bare:
    """Keep what the first picture needs. The orientation is looked for in front of the pixels, as browsers do."""
    parts = [stream.read(8)]
    metadata: dict[bytes, bytes] = {}
    frames, separate, pixels = 0, 1, False
    for _ in range(MAX_CHUNKS):
        head = stream.read(8)
        if len(head) < 8:
            break
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IDAT" and header_only:
            parts.append(head)
            break
        pixels = pixels or kind == b"IDAT"
        if kind in (b"IDAT", b"IEND") or (kind in _PNG_HEADER and length <= 1024):
            parts += (head, stream.read(length + 4))  # and the checksum
            if kind == b"IEND":
                break
        elif kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"acTL", b"fcTL") and not pixels:
            body = stream.read(min(length, _METADATA))
            stream.seek(length - len(body) + 4, 1)
            if kind == b"acTL":
                frames = int.from_bytes(body[:4])
            elif kind == b"fcTL":  # the picture is the first frame, and not one for programs that know no animations
                separate = 0
            else:
                keyword = kind if kind == b"eXIf" else body.partition(b"\0")[0]
                metadata.setdefault(keyword, kind + body)
        else:
            stream.seek(length + 4, 1)
    else:
        raise UnreadableImage(f"not read: more than {MAX_CHUNKS} chunks; save it again")
    return Bare(BytesIO(b"".join(parts)), _png_orientation(metadata), frames + separate > 1)


def _png_orientation(metadata: dict[bytes, bytes]) -> int:
    exif = metadata.get(b"eXIf", b"")[4:]
    raw, xmp = metadata.get(b"Raw profile type exif"), metadata.get(b"XML:com.adobe.xmp")
    try:
        if raw and not exif:  # by ImageMagick: a line break, the name, the length, then lines of hex
            exif = bytes.fromhex(_png_text(raw).decode("ascii").split("\n", 3)[3])
        text = _png_text(xmp) if xmp else None
    except (ValueError, IndexError, zlib.error):
        text = None
    return _orientation(exif, text)


def _png_text(chunk: bytes) -> bytes:
    """Return the beginning of the text of a tEXt, zTXt or iTXt chunk (PNG 1.2, 4.2.3)."""
    kind, text = chunk[:4], chunk.partition(b"\0")[2]
    compressed = kind == b"zTXt"
    if kind == b"zTXt":
        text = text[1:]
    elif kind == b"iTXt":
        compressed = text[:1] == b"\1"
        text = text[2:].split(b"\0", 2)[2]
    return zlib.decompressobj().decompress(text, _METADATA) if compressed else text


# WebP, GIF, PPM, BMP


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
        raise too_large(height, width, max_pixels)
    metadata: dict[bytes, bytes] = {}
    frames = 0
    stream.seek(12)
    for _ in range(MAX_CHUNKS):
        head = stream.read(8)
        if len(head) < 8:
            break
        kind, length = struct.unpack("<4sI", head)
        frames += kind == b"ANMF"
        if kind in (b"EXIF", b"XMP ") and kind not in metadata:
            metadata[kind] = stream.read(min(length, _METADATA))
            stream.seek(-len(metadata[kind]), 1)
        stream.seek(length + length % 2, 1)
    else:
        raise UnreadableImage(f"not read: more than {MAX_CHUNKS} chunks; save it again")
    stream.seek(0)
    return Bare(stream, _orientation(metadata.get(b"EXIF"), metadata.get(b"XMP ")), frames > 1)


def _bare_gif(stream: Stream, max_pixels: int, header_only: bool) -> Bare:
    """Keep the first picture and the extensions that say how it is shown."""
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
    return Bare(BytesIO(b"".join([*parts, b";"])), animated=pictures == 2)


def _bare_ppm(stream: Stream, max_pixels: int, header_only: bool) -> Bare:
    """Bound the header, which Pillow reads byte by byte, and the comments between the values of a text."""
    start = stream.read(MAX_HEADER_BYTES)
    fields = re.sub(rb"#[^\r\n]*", b"", start).split(None, 4)
    if len(start) == MAX_HEADER_BYTES and len(fields) < (3 if start[1:2] in b"14" else 4):
        raise UnreadableImage(f"not read: its header is longer than {MAX_HEADER_BYTES} bytes; save it again")
    if start[1:2] in b"123" and not header_only:
        comments = start.count(b"#") + sum(block.count(b"#") for block in iter(lambda: stream.read(1 << 20), b""))
        if comments > MAX_SEGMENTS:
            raise UnreadableImage(f"not read: more than {MAX_SEGMENTS} comments; save it again")
    stream.seek(0)
    return Bare(stream)


# TIFF


def _bare_tiff(stream: Stream, max_pixels: int, header_only: bool) -> Bare:
    """Give it a new directory, behind the rest, with nothing in it but what the pixels need. Its page is the first."""
    start = bytearray(stream.read(16))
    order = "<" if start[:1] == b"I" else ">"
    big = start[2:4] in (b"+\0", b"\0+")
    pointer, entry = ("Q", "HHQ8s") if big else ("I", "HHI4s")
    (position,) = struct.unpack_from(order + pointer, start, 8 if big else 4)
    size = stream.seek(0, 2)
    stream.seek(position)
    (count,) = struct.unpack(order + ("Q" if big else "H"), stream.read(8 if big else 2))
    if count > MAX_ENTRIES:
        raise UnreadableImage(
            f"not read: a directory of {count} entries, and {MAX_ENTRIES} is the limit; save it again"
        )
    width = struct.calcsize(order + entry)
    rows = stream.read(count * width)
    if len(rows) < count * width:
        raise UnreadableImage("damaged: the file ends within its directory")
    following = stream.read(struct.calcsize(order + pointer))
    entries: dict[int, tuple[int, int, bytes]] = {}  # tag -> type, number of values, values
    xmp, total = b"", 0
    for tag, kind, number, field in struct.iter_unpack(order + entry, rows):
        if tag in entries or kind not in _TIFF_SIZES or tag not in _TIFF_PIXELS | {_ORIENTATION, _XMP}:
            continue
        length = number * _TIFF_SIZES[kind]
        value = field[:length]
        if length > len(field):
            (offset,) = struct.unpack(order + pointer, field)
            if offset + length > size:
                raise UnreadableImage("damaged: an entry of its directory lies outside the file")
            total += length if tag != _XMP else 0
            if total > min(size, MAX_DIRECTORY_BYTES):
                raise UnreadableImage("not read: a directory larger than the file, or than 16 MB; save it again")
            stream.seek(offset)
            value = stream.read(length if tag != _XMP else min(length, _METADATA))
        if tag == _XMP:
            xmp = value
        else:
            entries[tag] = kind, number, value
    numbers = {
        tag: struct.unpack(f"{order}{number}{_TIFF_WHOLE[kind]}", value)
        for tag, (kind, number, value) in entries.items()
        if kind in _TIFF_WHOLE
    }
    _check_tiff(numbers, max_pixels, None if header_only else stream)
    orientation = entries.pop(_ORIENTATION, None)
    turned = numbers[_ORIENTATION][0] if orientation and orientation[0] == _SHORT and orientation[1] else None

    base = len(start[: 16 if big else 8]) if header_only else size + size % 2
    struct.pack_into(order + pointer, start, 8 if big else 4, base)
    directory = _tiff_directory(order, big, base, entries)
    if header_only:
        stream = BytesIO(start[:base] + directory)
    else:
        stream.seek(0)
        stream.write(start[: 16 if big else 8])
        stream.seek(base)
        stream.write(directory)
    stream.seek(0)
    found = turned if turned is not None else _orientation(None, xmp)
    return Bare(stream, orientation_or_upright(lambda: found), any(following))


def _tiff_directory(order: str, big: bool, base: int, entries: dict[int, tuple[int, int, bytes]]) -> bytes:
    """Return the directory, to be placed at `base`, and behind it the values that do not fit into it."""
    pointer = "Q" if big else "I"
    fits = struct.calcsize(order + pointer)
    rows, values = b"", b""
    behind = base + (8 if big else 2) + len(entries) * (4 + 2 * fits) + fits
    for tag, (kind, number, value) in sorted(entries.items()):
        rows += struct.pack(f"{order}HH{pointer}", tag, kind, number)
        if len(value) <= fits:
            rows += value.ljust(fits, b"\0")
        else:
            rows += struct.pack(order + pointer, behind + len(values))
            values += value + b"\0" * (len(value) % 2)
    return struct.pack(order + ("Q" if big else "H"), len(entries)) + rows + bytes(fits) + values


def _check_tiff(numbers: dict[int, tuple[int, ...]], max_pixels: int, stream: Stream | None) -> None:
    """Check that strips or tiles are all there and not larger than they may be, and in `stream` that JPEGs fill them.

    libtiff shows the process's memory where a JPEG is smaller than its strip or tile, and merely warns.
    """

    def first(tag: int, default: int) -> int:
        return next(iter(numbers.get(tag, ())), default)

    height, width, compression = first(_HEIGHT, 0), first(_WIDTH, 0), first(_COMPRESSION, 1)
    if height < 1 or width < 1:
        raise UnreadableImage("damaged: the header says zero pixels")
    if height * width > max_pixels:
        raise too_large(height, width, max_pixels)
    if compression == _OLD_JPEG:
        raise unsupported("a TIFF with old-style JPEG compression, save it as PNG")
    tiled = _TILES in numbers
    if tiled == (_STRIPS in numbers) or tiled != (_TILE_WIDTH in numbers):
        raise UnreadableImage("damaged: its directory tells neither strips nor tiles, or both")
    rows = first(_TILE_HEIGHT, 0) if tiled else min(first(_STRIP_ROWS, height), height)
    columns = first(_TILE_WIDTH, 0) if tiled else width
    if rows < 1 or columns < 1:
        raise UnreadableImage("damaged: strips or tiles of zero pixels")
    down, across = -(-height // rows), -(-width // columns)
    if down * rows * across * columns > 2 * max(max_pixels, _SMALL_TILE) or rows * columns > max(
        max_pixels, _SMALL_TILE
    ):
        raise UnreadableImage(f"not read: tiles of {columns}x{rows} for an image of {width}x{height}; save it again")
    planes = first(_SAMPLES, 1) if first(_PLANAR, 1) == 2 else 1
    offsets, sizes = numbers[_TILES if tiled else _STRIPS], numbers.get(_TILE_BYTES if tiled else _STRIP_BYTES, ())
    if len(offsets) > MAX_PARTS:
        raise UnreadableImage(f"not read: {len(offsets)} strips or tiles, and {MAX_PARTS} is the limit; save it again")
    if len(offsets) < down * across * planes:
        raise UnreadableImage(f"damaged: {len(offsets)} of {down * across * planes} strips or tiles are there")
    if stream is None or compression != _JPEG:
        return
    if planes > 1 and _SUBSAMPLING in numbers:
        raise unsupported("a TIFF with separate planes of subsampled colour, save it as PNG")
    for part, (offset, size) in enumerate(zip(offsets, sizes, strict=False)):
        stream.seek(offset)
        frame = next(_frames(stream.read(min(size, _JPEG_HEADER_BYTES))), None)
        wanted = rows if tiled else min(rows, height - part % down * rows)
        if frame is None or frame.height < wanted or frame.width < columns:
            raise UnreadableImage("damaged: a JPEG that does not fill its strip or tile")


def fax_between(content: bytes, numbers: Mapping[int, int | tuple[int, ...]], filler: str) -> tuple[bytes, int]:
    """Return a TIFF of Group 4 strips in which each one follows a strip of `filler`, and the rows of that strip.

    A decoder leaves in a strip that ends too soon what was in memory: there, the filler.

    numbers: the tags of a TIFF of Group 4 strips (see `_check_tiff`). filler: "1" for white rows, "0101" and "11" for
    rows whose last pixel is black (ITU T.6: vertical modes, relative to the row above).
    """

    def several(tag: int) -> tuple[int, ...]:
        value = numbers[tag]
        return value if isinstance(value, tuple) else (value,)

    (width,), (height,) = several(_WIDTH), several(_HEIGHT)
    rows = min(several(_STRIP_ROWS)[0] if _STRIP_ROWS in numbers else height, height)
    bits = filler + (filler if filler == "1" else "11") * (rows - 1)
    least_first = _FILL_ORDER in numbers and several(_FILL_ORDER) == (2,)
    packed = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8))
    if least_first:
        packed = bytes(int(f"{byte:08b}"[::-1], 2) for byte in packed)
    strips = zip(several(_STRIPS), several(_STRIP_BYTES), strict=True)
    parts = [part for offset, size in strips for part in (packed, content[offset : offset + size])]
    sizes = [len(part) for part in parts]
    starts = [8 + start for start in accumulate(sizes[:-1], initial=0)]
    values = {_WIDTH: [width], _HEIGHT: [height + rows * len(parts) // 2], 258: [1], _COMPRESSION: [4], 262: [1]}
    values |= {_FILL_ORDER: [2 if least_first else 1], _STRIPS: starts, 277: [1], _STRIP_ROWS: [rows]}
    values[_STRIP_BYTES] = sizes
    body = b"".join(parts)
    body += b"\0" * (len(body) % 2)
    entries = {tag: (4, len(some), struct.pack(f"<{len(some)}I", *some)) for tag, some in values.items()}
    base = 8 + len(body)
    return b"II*\0" + struct.pack("<I", base) + body + _tiff_directory("<", False, base, entries), rows


def _frames(data: bytes) -> Iterator[JpegFrame]:
    for marker, start, end in jpeg_segments(data):
        if marker in _JPEG_FRAMES:
            yield _frame(marker, data[start + 4 : end])


_WITHOUT_METADATA: dict[str, Callable[[Stream, int, bool], Bare]] = {
    "PNG": _bare_png,
    "GIF": _bare_gif,
    "WebP": _bare_webp,
    "BMP": lambda stream, max_pixels, header_only: Bare(stream),
    "TIFF": _bare_tiff,
    "PPM": _bare_ppm,
}
