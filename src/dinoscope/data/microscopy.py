"""TIFF of every kind: `tiff` reads what it can, and tifffile (with imagecodecs) the rest: pages, depths, compressions.

Each page is a sample of its own: a plane of an OME-TIFF, a slice of a stack of ImageJ. Smaller copies and masks are no
pages. Grey with three and more further samples that are not transparency has as many channels.

What tifffile is given is bounded here: it trusts what a file says.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Sequence
from io import BytesIO
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from dinoscope.data import jpeg, neighbours, reader, tiff
from dinoscope.data.grey_range import bits_window, to_uint8
from dinoscope.data.reader import (
    ORIENTATION_TAG,
    Frames,
    Header,
    NotSupported,
    RawImage,
    Reader,
    Stream,
    UnreadableImage,
)

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

_MAX_PAGES = 1 << 16
_MAX_PARTS = 1 << 18  # strips or tiles of a page
_MAX_BYTES_PER_PIXEL = 32  # RGB and transparency of 64 bits, or 16 channels of 16
_PAGE = re.compile(r"page=(\d{1,9})")

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6  # TIFF 6.0
_RAW = 1
# None, LZW, Deflate twice, PackBits, LZMA, Zstandard: decompressed up to the size of a strip or tile.
_BOUNDED = (_RAW, 5, 8, 32946, 32773, 34925, 50000)
_JPEG, _JPEG_2000 = 7, (33003, 33004, 33005, 34712)
_JPEG_HEADER_BYTES = 1 << 14
_ALPHA = (1, 2)  # ExtraSamples
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType

_FAULT = reader.not_supported("this page of a TIFF, save it as PNG")


def names(stream: Stream, max_pixels: int) -> tuple[str, ...]:
    """Return "page=0", "page=1" and so on; "" for a single page."""
    try:
        tiff.read_header(stream, max_pixels)
    except NotSupported as fault:
        return _names(_directories(_opened(stream, fault), fault))
    return ("",)


def read_header(stream: Stream, max_pixels: int, frame: str = "") -> Header:
    """Return what the directory of a page tells."""
    fault = _FAULT
    if not frame:
        try:
            return tiff.read_header(stream, max_pixels)
        except NotSupported as error:
            fault = error
    return _header(_page(_opened(stream, fault), frame, fault), fault, max_pixels)


def read(content: Stream, max_pixels: int, frame: str = "") -> RawImage:
    """Decode a page, and no other."""
    fault = _FAULT
    if not frame:
        data = content.read()
        try:
            return tiff.read(BytesIO(data), max_pixels)
        except NotSupported as error:
            content, fault = BytesIO(data), error
    return _image(_page(_opened(content, fault), frame, fault), fault, max_pixels)


def stack(content: Stream, max_pixels: int, frame: str, slices: int) -> RawImage:
    """Decode a page and those next to it. Smaller copies and masks are passed over."""
    file = _opened(content, _FAULT)
    header = _header(_page(file, frame, _FAULT), _FAULT, max_pixels)
    neighbours.check_size(header.height, header.width, slices, max_pixels)
    match, pages, is_stack = _PAGE.fullmatch(frame), cast("Any", file.pages), _stack(file) > 1
    place, count = int(match[1]) if match else 0, _stack(file) if is_stack else len(pages)

    def whole(places: Iterable[int]) -> list[int]:
        pages_there = (one for one in places if is_stack or not pages[one].subfiletype & (_REDUCED | _MASK))
        return list(islice(pages_there, slices // 2))

    before, behind = whole(range(place - 1, -1, -1)), whole(range(place + 1, count))
    places = [*reversed(before), place, *behind]

    def image(index: int) -> RawImage:
        opened = _opened(content, _FAULT) if is_stack else file  # `_page` changes the only directory of a stack
        return _image(_page(opened, f"page={places[index]}", _FAULT), _FAULT, max_pixels)

    return neighbours.around(len(before), len(places), slices, image)


def _image(page: TiffPage, fault: NotSupported, max_pixels: int) -> RawImage:
    """Decode a page."""
    header = _header(page, fault, max_pixels)
    with reader.turn(header.height * header.width):
        values = page.asarray(maxworkers=1).reshape(page.shaped[0], *page.shaped[2:])  # [planes, h, w, channels]
        values = np.moveaxis(values, 0, 2).reshape(page.imagelength, page.imagewidth, -1)
        if page.photometric == _PALETTE:
            colours: Any = page.colormap  # [3, n] of 16 bits
            values = (colours[:, values[..., 0]].transpose(1, 2, 0) >> 8).astype(np.uint8)
        elif page.bitspersample < 8:
            values = to_uint8(values.astype(np.uint8), bits_window(page.bitspersample))
        values = reader.orient(values[..., : header.channels], header.orientation)
        return RawImage(values, white_is_zero=page.photometric == _WHITE_IS_ZERO)


READER = Reader(
    tiff.READER.extensions, tiff.READER.recognises, read_header, read, frames=Frames(names, read_header, read, stack)
)


def _opened(stream: Stream, fault: NotSupported) -> TiffFile:
    """Open a file, without what its descriptions say of its pages: those of ImageJ alone may have no directories.

    fault: why `tiff` does not read it.
    """
    try:
        import tifffile
    except ImportError:
        raise reader.not_supported(
            f"{str(fault).removeprefix('not supported: ')}, or pip install 'dinoscope[microscopy]'"
        ) from None
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    stream.seek(0)
    return tifffile.TiffFile(stream, is_ome=False, is_shaped=False)


def _stack(file: TiffFile) -> int:
    """Return how many pages follow each other behind the first directory, as in a large file of ImageJ."""
    is_stack = len(file.pages) == 1 and file.pages.first.compression == _RAW
    return int((file.imagej_metadata or {}).get("images", 1)) if is_stack else 1


def _directories(file: TiffFile, fault: NotSupported) -> Sequence[int]:
    """Return the places of the pages that are neither a smaller copy nor a mask. Raises `fault` if there are none."""
    if (count := _stack(file)) > 1:
        places: Sequence[int] = range(count)
    else:
        pages = cast("Iterable[TiffPage]", file.pages)
        places = [
            place for place, page in enumerate(islice(pages, _MAX_PAGES)) if not page.subfiletype & (_REDUCED | _MASK)
        ]
    if not places:
        raise fault
    if len(places) > _MAX_PAGES:
        raise UnreadableImage(f"not read: {len(places)} pages, and {_MAX_PAGES} is the limit")
    return places


def _names(places: Sequence[int]) -> tuple[str, ...]:
    return tuple(f"page={place}" for place in places) if len(places) > 1 else ("",)


def _page(file: TiffFile, frame: str, fault: NotSupported) -> TiffPage:
    """Return the page of a name, which may be that of a smaller copy too."""
    match, stack = _PAGE.fullmatch(frame), _stack(file)
    place = int(match[1]) if match else -1
    if not 0 <= place < max(stack, len(file.pages)):
        places = _directories(file, fault)
        place = places[reader.frame_index(frame, _names(places))]
    page: Any = file.pages[0 if stack > 1 else place]
    if stack > 1:
        page.dataoffsets = tuple(offset + place * page.nbytes for offset in page.dataoffsets)
    return page


def _header(page: TiffPage, fault: NotSupported, max_pixels: int) -> Header:
    """Return what a directory tells. Raises UnreadableImage for what is not read; `fault` if `tiff` has said why."""
    height, width, channels, colours = page.imagelength, page.imagewidth, page.samplesperpixel, page.photometric
    if height < 1 or width < 1:
        raise UnreadableImage("damaged: the header says zero pixels")
    if height * width > max_pixels:
        raise reader.too_large(height, width, max_pixels)
    orientation = page.tags.valueof(ORIENTATION_TAG, 1)
    orientation = orientation if orientation in range(1, 9) else 1
    is_grey, is_coded = colours in (_WHITE_IS_ZERO, _BLACK_IS_ZERO), page.compression in (_JPEG, *_JPEG_2000)
    is_rgb = colours == _RGB or (colours == _YCBCR and is_coded)
    colour_channels = 3 if is_rgb else 1
    bands = (channels if channels > 3 else 1) if is_grey else 3
    if (
        not (is_grey or is_rgb or colours == _PALETTE)
        or channels - len(page.extrasamples) != colour_channels
        or bands > reader.MAX_CHANNELS
        or not set(page.extrasamples).isdisjoint(_ALPHA)
        or page.dtype is None
        or page.dtype.kind not in "buif"
        or page.imagedepth != 1
        or (page.compression not in _BOUNDED and not is_coded)
    ):
        raise fault
    pixels = math.prod(page.chunks[:2]) * math.prod(page.chunked)
    if page.nbytes > _MAX_BYTES_PER_PIXEL * max_pixels or pixels > 4 * max(max_pixels, 1 << 22):
        raise UnreadableImage(f"not read: parts of {page.chunks} for a page of {width}x{height}; save it again")
    if len(page.dataoffsets) > _MAX_PARTS:
        raise UnreadableImage(f"not read: {len(page.dataoffsets)} strips or tiles, and {_MAX_PARTS} is the limit")
    if is_coded:
        _check_parts(page)
    sample = "u1" if page.bitspersample <= 8 and page.dtype.kind in "bu" else page.dtype.str[1:]
    size = reader.oriented_size(height, width, orientation)
    return Header("TIFF", *size, orientation, grey=bands == 1, sample=sample, channels=bands)


def _check_parts(page: TiffPage) -> None:
    """Raise UnreadableImage if a JPEG or JPEG 2000 holds more pixels than the strip or tile that it is."""
    rows, columns = page.tilelength or page.rowsperstrip, page.tilewidth or page.imagewidth
    for offset, size in zip(page.dataoffsets, page.databytecounts, strict=False):
        page.parent.filehandle.seek(offset)
        shape = jpeg.coded_shape(page.parent.filehandle.read(min(size, _JPEG_HEADER_BYTES)))
        if shape is None or shape[0] > rows or shape[1] > columns or shape[2] > page.samplesperpixel:
            raise UnreadableImage(f"damaged: a strip or tile of {columns}x{rows} holds an image of another size")
