"""JPEG: segments are read here, pixels decoded by torchvision, the fastest; CMYK and reduced images by Pillow.

A JPEG of up to four times as many pixels as are read is decoded at half its width and height.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from io import BytesIO
from typing import NamedTuple

import torch
import torchvision.io  # noqa: F401  (registers torch.ops.image)
from jaxtyping import UInt8
from numpy import ndarray

from dinoscope.data import pillow, reader
from dinoscope.data.reader import Header, RawImage, Reduction, Shrink, Stream, UnreadableImage, not_supported

MAX_SEGMENTS = 10_000  # a preview or depth map of 10 MB takes 160
MAX_FILL_BYTES = 1 << 16  # bytes between segments before the pixels
MAX_SCANS = 100  # as in libtiff. A progressive file has about 10, and each is a pass over all pixels
MAX_COEFFICIENT_BYTES = 720_000_000
"""Memory for the coefficients of a JPEG with several scans: all are held until the last scan, at 2 bytes each."""

_HEADER_BYTES = 1 << 16  # read at once for a header; the whole file if it is longer
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # not a stuffed zero, a restart or a fill byte
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15 without DHT, JPG and DAC
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_UNREAD = frozenset({0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF, 0xCB})  # hierarchical; lossless with arithmetic coding
_TEM, _SOI, _EOI, _SOS, _APP1, _JPEG_LS = 0x01, 0xD8, 0xD9, 0xDA, 0xE1, 0xF7
_METADATA = frozenset({*range(0xE0, 0xEE), 0xEF, 0xFE})  # APPn and COM, but APP14, which tells the colour space
_SMALL = 1 << 12  # bytes of a thumbnail
_MAX_DIVISOR = 8  # libjpeg scales by 1/2, 1/4 and 1/8: the lowest 4 x 4, 2 x 2 or 1 coefficients of a block
_RGB = 3  # torchvision.io.ImageReadMode.RGB


class Frame(NamedTuple):
    """The frame header (ITU T.81, B.2.2). factors: sampling factors of each component, four bits for each."""

    marker: int
    precision: int
    height: int
    width: int
    components: int
    factors: bytes


def read_header(stream: Stream, max_pixels: int) -> Header:
    """Return what the segments up to the frame header tell."""
    data = stream.read(_HEADER_BYTES)
    try:
        frame, orientation, end = _find_frame(data)
    except (UnreadableImage, struct.error):
        frame, orientation, end = None, 1, 0
    if frame is None or end > len(data):  # profiles and previews come before the frame
        frame, orientation, _ = _find_frame(data + stream.read())
    height, width = reader.oriented_size(*_divided(frame, _checked_divisor(frame, max_pixels)), orientation)
    return Header("JPEG", height, width, orientation, grey=frame.components == 1, cmyk=frame.components == 4)


def read(content: BytesIO, max_pixels: int, shrink: Shrink | None = None) -> RawImage:
    """Decode the pixels. shrink: of the size that the header has; None for no less than that."""
    data = content.getvalue()
    frame, orientation, end = _find_frame(data)
    divisor, reduction = _checked_divisor(frame, max_pixels), None
    _check_scans(data, frame, end)
    if shrink is not None:
        height, width = reader.oriented_size(*_divided(frame, divisor), orientation)
        factor = min(shrink(height, width), _MAX_DIVISOR // divisor)
        if (factor := reader.exact_divisor(height, width, orientation, factor)) > 1:
            divisor, reduction = divisor * factor, Reduction(height, width, factor)
    with reader.turn(frame.height * frame.width):
        pixels = None if frame.components == 4 or divisor > 1 else _decode(data)
        if pixels is None:
            image = pillow.open_image(BytesIO(_without_metadata(data)), "JPEG")
            if divisor > 1:
                image.draft(None, (frame.width // divisor, frame.height // divisor))
            pixels = pillow.rgb(image, transparent=False)
        return RawImage(reader.orient(pixels, orientation), reduction=reduction)


READER = reader.Reader(
    (".jpeg", ".jpg", ".jfif", ".jpe"), lambda start: start.startswith(b"\xff\xd8\xff"), read_header, read, read
)


def first_frame(data: bytes) -> Frame | None:
    """Return the first frame header in the beginning of a JPEG, None without one.

    Raises UnreadableImage for too many segments.
    """
    return next(
        (_frame(marker, data[start + 4 : end]) for marker, start, end in _segments(data) if marker in _FRAMES), None
    )


def coded_shape(frame: bytes) -> tuple[int, int, int] | None:
    """Return height, width and channels in the header of a JPEG 2000 (T.800 A.5.1), JPEG or JPEG-LS (T.81 B.2.2)."""
    start = codestream(frame)
    if frame[start : start + 4] == b"\xff\x4f\xff\x51":
        right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
        return bottom - top, right - left, int.from_bytes(frame[start + 40 : start + 42])
    place = 2
    while place + 10 <= len(frame):
        mark, marker, length, _, height, width, channels = struct.unpack_from(">BBHBHHB", frame, place)
        if mark != 0xFF or marker == 0xDA:
            return None
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return height, width, channels
        place += 1 if marker == 0xFF else 2 + length
    return None


def codestream(frame: bytes) -> int:
    """Return where the codestream of a JP2 begins (T.800 I.4), the beginning of anything else."""
    place = 0
    while frame[4:8] == b"jP  " and frame[place + 4 : place + 8] != b"jp2c":
        length = int.from_bytes(frame[place : place + 4])
        if length < 8:  # a length of 64 bits, or up to the end of the file
            raise UnreadableImage("damaged: a JPEG 2000 without a codestream")
        place += length
    return place + 8 if place else 0


def _checked_divisor(frame: Frame, max_pixels: int) -> int:
    """Return what libjpeg divides both sides by: 1, or 2 for up to four times as many pixels as are read.

    Raises UnreadableImage for a frame that is not read.
    """
    if frame.height < 1 or frame.width < 1:
        raise UnreadableImage("damaged: the header says zero pixels")
    if frame.precision != 8:
        raise not_supported(f"a JPEG with {frame.precision} bits a channel, save it as PNG with 16 bits")
    if frame.marker in _UNREAD or frame.components not in (1, 3, 4):
        coding = "hierarchical or arithmetic" if frame.marker in _UNREAD else f"{frame.components}-channel"
        raise not_supported(f"a JPEG of the {coding} kind, save it as PNG or as ordinary JPEG")
    divisor = 1 if frame.height * frame.width <= max_pixels else 2
    if math.prod(_divided(frame, divisor)) > max_pixels:
        raise reader.too_large(frame.height, frame.width, max_pixels)
    if frame.marker in _PROGRESSIVE:
        _check_coefficients(frame)
    return divisor


def _divided(frame: Frame, divisor: int) -> tuple[int, int]:
    """Return height and width as stored of an image that libjpeg decodes at a reduced size."""
    return -(-frame.height // divisor), -(-frame.width // divisor)


def _check_coefficients(frame: Frame) -> None:
    """Raise UnreadableImage if a decoder, which holds all coefficients of several scans, would need too much memory."""
    factors = [divmod(factor, 16) for factor in frame.factors]  # horizontal, vertical
    full = max((h for h, _ in factors), default=1) * max((v for _, v in factors), default=1)
    samples = sum(h * v for h, v in factors) / full  # of all components, per pixel
    if 2 * samples * frame.height * frame.width > MAX_COEFFICIENT_BYTES:
        raise UnreadableImage("too large: a progressive JPEG of this size; save it as an ordinary (baseline) one")


def _find_frame(data: bytes) -> tuple[Frame, int, int]:
    """Return the frame header, the EXIF orientation found before it, and where the header ends."""
    orientation, fill, previous = 1, 0, 2
    for marker, start, end in _segments(data):
        fill += start - previous
        previous = end
        if fill > MAX_FILL_BYTES:
            raise UnreadableImage(f"not read: more than {MAX_FILL_BYTES} bytes between its segments; save it again")
        if marker == _SOS:
            raise UnreadableImage("damaged: no frame header before the data")
        if marker == _JPEG_LS:
            raise not_supported("JPEG-LS, save it as PNG")
        if end < start + 4:
            raise UnreadableImage("damaged: a segment of impossible length")
        if marker in _FRAMES:
            return _frame(marker, data[start + 4 : end]), orientation, end
        if marker == _APP1 and data.startswith(b"Exif\0", start + 4):
            orientation = reader.valid_orientation(b"Exif\0\0" + data[start + 10 : end])
    raise UnreadableImage("damaged: the file ends within its header")


def _frame(marker: int, segment: bytes) -> Frame:
    precision, height, width, components = struct.unpack_from(">BHHB", segment)
    return Frame(marker, precision, height, width, components, segment[7 : 6 + 3 * components : 3])


def _segments(data: bytes, position: int = 0) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment from a position to the end of the image; of a scan, its header."""
    for _ in range(MAX_SEGMENTS):
        match = _MARKER.search(data, position)
        if match is None:
            return
        start = match.start()
        marker = data[start + 1]
        if marker == _EOI:
            return
        if marker in (_SOI, _TEM):  # without a length
            position = start + 2
            continue
        (length,) = struct.unpack_from(">H", data, start + 2)
        yield marker, start, start + 2 + length
        position = start + 2 + max(length, 2)
    raise UnreadableImage(f"not read: more than {MAX_SEGMENTS} segments; save it again")


def _check_scans(data: bytes, frame: Frame, position: int) -> None:
    """Raise UnreadableImage for more scans behind a position than are read, or more memory than several may take."""
    if len(data) - position <= _SMALL and data.count(b"\xff\xda", position) == 1:
        return  # walking through the segments takes longer than decoding a thumbnail
    if frame.marker not in _PROGRESSIVE:
        first = next((start for marker, start, _ in _segments(data, position) if marker == _SOS), len(data))
        if data[first + 4 : first + 5] == bytes([frame.components]):
            return  # libjpeg decodes no scan behind one that holds every component (jdinput.c, has_multiple_scans)
    scans = sum(marker == _SOS for marker, _, _ in _segments(data, position))
    if scans > MAX_SCANS:
        raise UnreadableImage(f"not read: {scans} scans, and {MAX_SCANS} is the limit; save it again")
    if scans > 1:
        _check_coefficients(frame)


def _without_metadata(data: bytes) -> bytes:
    parts = [data[:2]]
    for marker, start, end in _segments(data):
        if marker == _SOS:
            parts.append(data[start:])
            break
        if marker not in _METADATA:
            parts.append(data[start:end])
    return b"".join(parts)


def _decode(data: bytes) -> UInt8[ndarray, "h w 3"] | None:
    """Return the stored pixels, or None to have Pillow decode them.

    The operator is called without its wrapper, deprecated since torchvision 0.29, which warns at every call. It raises
    RuntimeError for a damaged file or if torchvision was built without libjpeg.
    """
    try:
        planes = torch.ops.image.decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), _RGB)
    except (AttributeError, RuntimeError):
        return None
    return planes.permute(1, 2, 0).numpy()
