"""DICOM (PS3.3, PS3.5), read by pydicom: the values of an image and how its header shows them.

The order is that of PS3.4 N.2: decoded (YBR and palettes to RGB) > modality LUT, or slope and intercept > pixel padding
left out > grey range, or the VOI LUT or window of the header > MONOCHROME1 inverted. Only the elements that pixels
need are read: no name, date or identifier. Only `identifier` and `series_place` read one of these, for callers that
hash it at once.
"""

from __future__ import annotations

import contextlib
import math
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from functools import cache, partial
from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
from jaxtyping import Bool, Shaped, UInt8
from numpy import ndarray
from scipy.special import expit

from dinoscope.data import jpeg, neighbours, reader
from dinoscope.data.grey_range import Window, bits_window, to_uint8, window_text
from dinoscope.data.reader import (
    Display,
    Frames,
    Header,
    RawImage,
    Reader,
    SeriesPlace,
    Stream,
    UnreadableImage,
    not_supported,
)

if TYPE_CHECKING:
    from pydicom import Dataset, FileDataset

_WANTED = [
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelAspectRatio"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "ModalityLUTSequence", "RescaleSlope", "RescaleIntercept"),
    *("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction", "PresentationLUTShape"),
    *(
        f"{colour}PaletteColorLookupTable{part}"
        for colour in ("Red", "Green", "Blue")
        for part in ("Data", "Descriptor")
    ),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
]

_IDENTIFIERS = {"patient": 0x00100020, "study": 0x0020000D, "series": 0x0020000E}

_SERIES, _NUMBER, _POSITION, _ORIENTATION = 0x0020000E, 0x00200013, 0x00200032, 0x00200037
_SIZE = 0x00280010, 0x00280011  # rows, columns
_DIRECTION_DIGITS = 4  # of cosines that are equal: 0.0001 is a pixel's tenth over 1,000 pixels

_PREAMBLE = 128
# Bytes in front of the pixels (PS3.5 7.1.2, 7.1.3): tag, VR and length; tag and length.
_EXPLICIT_ELEMENT, _IMPLICIT_ELEMENT = 12, 8
_MAX_RLE_BYTES = 24_000_000  # of a compressed frame: two bytes may become 128
_MAX_FRAMES = 1 << 16

_EXTRA = "medical"
_SYNTAX = "1.2.840.10008.1.2."
_RLE = f"{_SYNTAX}5"
_DECODERS = {
    **{"5": "pydicom", "4.50": "pillow"},
    **dict.fromkeys(("4.51", "4.57", "4.70"), "imagecodecs"),
    **dict.fromkeys(("4.80", "4.81"), "pyjpegls"),
    **dict.fromkeys(("4.90", "4.91", "4.201", "4.202", "4.203"), "pylibjpeg-openjpeg"),
}
"""End of a compressed transfer syntax -> package that decodes it."""

# JPEG with more than 8 bits and lossless JPEG, the usual one of CT and MR. pydicom has decoders for them too, of which
# pylibjpeg-libjpeg is under the GPL.
DECODER_DEPENDENCIES = {_SYNTAX + end: (package,) for end, package in _DECODERS.items() if package == "imagecodecs"}


def is_available(uid: str) -> bool:
    """Whether `decode_frame` decodes this transfer syntax; pydicom asks it."""
    return uid in DECODER_DEPENDENCIES and find_spec("imagecodecs") is not None


def decode_frame(content: bytes, runner: Any) -> bytearray:
    """Decode a frame for pydicom (docs/guides/decoding/decoder_plugins of its repository)."""
    import imagecodecs

    pixels = np.asarray(imagecodecs.jpeg8_decode(content))
    runner.set_option("planar_configuration", 0)
    runner.set_option("bits_allocated", 8 * pixels.dtype.itemsize)
    return bytearray(pixels.tobytes())


def recognises(start: bytes) -> bool:
    """Tell a file by its preamble, or by the first element of its meta information or of its data set."""
    if start[_PREAMBLE : _PREAMBLE + 4] == b"DICM":
        return True
    if len(start) < 8:
        return False
    for order in "<>":
        group, _, length = struct.unpack(order + "HHI", start[:8])
        explicit = start[4:6].isalpha() and start[4:6].isupper()
        if group in (0x0002, 0x0008) and (explicit or (order == "<" and length <= 64 and length % 2 == 0)):
            return True
    return False


def names(stream: Stream, max_pixels: int) -> tuple[str, ...]:
    """Return "frame=0", "frame=1" and so on; "" for a single frame."""
    return _names(_opened(stream, max_pixels)[0])


def read_header(stream: Stream, max_pixels: int, frame: str = "") -> Header:
    """Return what the data set tells of a frame."""
    dataset, _ = _opened(stream, max_pixels)
    return _header(dataset, reader.frame_index(frame, _names(dataset)))


def read(content: Stream, max_pixels: int, frame: str = "") -> RawImage:
    """Decode a frame, and read no other."""
    return stack(content, max_pixels, frame, 1)


def stack(content: Stream, max_pixels: int, frame: str, slices: int) -> RawImage:
    """Decode a frame and its neighbours."""
    dataset, stream = _opened(content, max_pixels)
    names, start = _names(dataset), stream.tell()
    index = reader.frame_index(frame, names)
    neighbours.check_size(dataset.Rows, dataset.Columns, slices, max_pixels)

    def image(place: int) -> RawImage:
        stream.seek(start)
        return _image(dataset, stream, place)

    return neighbours.around(index, len(names), slices, image)


def _image(dataset: FileDataset, stream: Stream, index: int) -> RawImage:
    """Decode a frame. stream: at the pixels."""
    from pydicom.pixels import apply_color_lut, pixel_array

    header = _header(dataset, index)
    syntax = dataset.file_meta.TransferSyntaxUID
    element = stream.read(_IMPLICIT_ELEMENT)
    is_implicit = not element[4:6].isalpha()  # there is no VR
    stream.seek(0 if is_implicit else _EXPLICIT_ELEMENT - _IMPLICIT_ELEMENT, 1)
    _check_frame(dataset, stream, index)
    stream.seek(0)
    with reader.turn(header.height * header.width):
        if is_implicit == syntax.is_implicit_VR:
            pixels = pixel_array(stream, index=index, transfer_syntax_uid=syntax)
        else:  # encoded as the syntax forbids, which pydicom takes for a whole data set only
            pixels = pixel_array(
                _library().dcmread(stream, force=True, specific_tags=[*_WANTED, "PixelData"]), index=index
            )
        bits = dataset.get("BitsStored", dataset.BitsAllocated)
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            _check_palette(dataset)
            pixels = apply_color_lut(pixels, dataset)
            return RawImage(pixels if pixels.dtype == np.uint8 else to_uint8(pixels, bits_window(16)))
        if not header.grey:
            return RawImage(pixels if bits == 8 else to_uint8(pixels, bits_window(bits)))
        stored = pixels[..., None]
        if stored.dtype == np.uint8 and bits < 8:
            stored = to_uint8(stored, bits_window(bits))
        voi = _macro(dataset, "FrameVOILUTSequence", index)
        return RawImage(
            _modality(stored, dataset, index),
            white_is_zero=_white_is_zero(dataset),
            padding=_padding(stored, dataset),
            display=_display(voi),
        )


def identifier(stream: Stream, max_pixels: int, kind: str) -> str:
    """Return the PatientID, StudyInstanceUID or SeriesInstanceUID, and read no element behind it.

    Spaces around it do not count (PS3.5 6.2). Raises UnreadableImage, whose text has nothing of the header.
    """
    wanted = _IDENTIFIERS[kind]
    with _without_header_text():
        return _text(_part(stream, max_pixels, [wanted]), wanted)


def series_place(stream: Stream, max_pixels: int) -> SeriesPlace | None:
    """Return where a slice lies in its series (PS3.3 C.7.6.2.1.1), None without a SeriesInstanceUID.

    The position is that of its first pixel, projected on the cross product of the directions of rows and columns. It is
    unknown if position or orientation is missing or is not numbers. No element behind its size is read.
    """
    with _without_header_text():
        dataset = _part(stream, max_pixels, [_SERIES, _NUMBER, _POSITION, _ORIENTATION, *_SIZE])
        series, number = _text(dataset, _SERIES), _text(dataset, _NUMBER)
        corner, directions = _decimals(dataset, _POSITION, 3), _decimals(dataset, _ORIENTATION, 6)
        size = tuple(float(dataset[tag].value) for tag in _SIZE if tag in dataset)
    if not series:
        return None
    position = None
    if corner is not None and directions is not None:
        (a, b, c), (d, e, f) = directions[:3], directions[3:]
        normal = b * f - c * e, c * d - a * f, a * e - b * d
        position = sum(one * other for one, other in zip(corner, normal, strict=True))
    plane = () if directions is None else tuple(round(value, _DIRECTION_DIGITS) + 0.0 for value in directions)
    whole = re.fullmatch(r"[+-]?\d{1,12}", number.strip())
    return SeriesPlace(series, (*size, *plane), position, int(number) if whole else None)


def _decimals(dataset: Dataset, tag: int, count: int) -> tuple[float, ...] | None:
    """Return so many numbers of an element (PS3.5 6.2, DS), None if it has others."""
    try:
        numbers = tuple(map(float, _text(dataset, tag).split("\\")))
    except ValueError:
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def _part(stream: Stream, max_pixels: int, wanted: list[int]) -> FileDataset:
    """Read these elements alone, and nothing behind the last of them. wanted: in their order."""
    _library()
    from pydicom.filereader import read_partial

    stream.seek(0)
    stream = _inflated(stream, reader.max_bytes(max_pixels))
    last = wanted[-1]
    return cast(
        "FileDataset",
        read_partial(cast(BinaryIO, stream), lambda tag, vr, length: tag > last, force=True, specific_tags=[*wanted]),
    )


def _text(dataset: Dataset, tag: int) -> str:
    """Return an element as it is stored, "" without it: pydicom warns of a forbidden value, with the value in it."""
    from pydicom.charset import decode_bytes

    value = dataset.get_item(tag).value if tag in dataset else b""
    encodings = dataset.original_character_set
    return decode_bytes(value or b"", [encodings] if isinstance(encodings, str) else encodings, set()).strip(" \0")


@contextlib.contextmanager
def _without_header_text() -> Iterator[None]:
    """Turn whatever a damaged header raises into UnreadableImage, whose text has nothing of the header."""
    try:
        yield
    except UnreadableImage:
        raise
    except Exception:
        raise UnreadableImage("damaged: its header cannot be read") from None


READER = Reader(
    (".dcm", ".dicom"),
    recognises,
    read_header,
    read,
    frames=Frames(names, read_header, read, stack),
    identifier=identifier,
    series_place=series_place,
)


# Data sets


def _library() -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise reader.needs("pydicom", _EXTRA) from error
    _set_up()
    return pydicom


@cache
def _set_up() -> None:
    """Silence what pydicom says about single files, and give it a further decoder."""
    from pydicom import config
    from pydicom.pixels import get_decoder

    warnings.filterwarnings("ignore", module="pydicom")
    config.logger.setLevel("CRITICAL")
    for uid in DECODER_DEPENDENCIES:
        with contextlib.suppress(ValueError):  # another thread has done it
            get_decoder(uid).add_plugin("imagecodecs", (__name__, "decode_frame"))


def _opened(stream: Stream, max_pixels: int) -> tuple[FileDataset, Stream]:
    """Read what pixels need, up to them. Returns the file too, at its pixels, decompressed if it was deflated.

    Raises UnreadableImage for a file that holds no image, or one of a kind that is not read.
    """
    pydicom = _library()
    stream.seek(0)
    try:
        stream = _inflated(stream, reader.max_bytes(max_pixels))
        dataset = pydicom.dcmread(stream, force=True, stop_before_pixels=True, specific_tags=_WANTED)
    except (EOFError, TypeError) as error:  # a TypeError when it adds the name of the file to its message
        raise UnreadableImage("damaged: the file ends within an element") from error
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        uid = pydicom.uid
        explicit = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else explicit
    if "Rows" not in dataset or "PhotometricInterpretation" not in dataset:
        raise not_supported("a DICOM file without an image, such as a report or a plan, leave it out")
    height, width, channels = dataset.Rows, dataset.Columns, dataset.SamplesPerPixel
    if height < 1 or width < 1:
        raise UnreadableImage("damaged: the header says zero pixels")
    if height * width > max_pixels:
        raise reader.too_large(height, width, max_pixels)
    colours = dataset.PhotometricInterpretation
    if channels not in (1, 3) or (channels == 1) != (colours in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")):
        raise not_supported(f"a DICOM image of {channels} channels ({colours}), save it as RGB")
    return dataset, stream


def _inflated(stream: Stream, limit: int) -> Stream:
    """Return a file of the deflated transfer syntax (PS3.5 A.5) without its meta information and compression.

    pydicom decompresses whatever a file holds.
    """
    from pydicom.filereader import _read_file_meta_info, read_preamble

    read_preamble(stream, force=True)
    if _read_file_meta_info(stream).get("TransferSyntaxUID") != f"{_SYNTAX}1.99":
        stream.seek(0)
        return stream
    content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(stream.read(), limit + 1)
    if len(content) > limit:
        raise UnreadableImage(f"too large: more than {limit / 1e6:.4g} MB once decompressed; save the image alone")
    return BytesIO(content)


def _names(dataset: Dataset) -> tuple[str, ...]:
    count = int(dataset.get("NumberOfFrames") or 1)
    if count > _MAX_FRAMES:
        raise UnreadableImage(f"not read: {count} frames, and {_MAX_FRAMES} is the limit; save fewer in a file")
    return tuple(f"frame={index}" for index in range(count)) if count > 1 else ("",)


def _macro(dataset: Dataset, sequence: str, index: int) -> Dataset:
    """Return the item that holds for a frame: its own, that of all frames, or the data set (PS3.3 C.7.6.16)."""
    for groups, position in (("PerFrameFunctionalGroupsSequence", index), ("SharedFunctionalGroupsSequence", 0)):
        items = dataset.get(groups) or []
        if position < len(items) and (inner := items[position].get(sequence)):
            return inner[0]
    return dataset


def _header(dataset: Dataset, index: int) -> Header:
    grey = dataset.SamplesPerPixel == 1 and dataset.PhotometricInterpretation != "PALETTE COLOR"
    sample = _kind(dataset, index).str[1:] if grey else "u1"
    window = _window(_macro(dataset, "FrameVOILUTSequence", index)) if grey else None
    text = "" if window is None else window_text(window[1:])
    return Header("DICOM", dataset.Rows, dataset.Columns, grey=grey, sample=sample, window=text)


def _white_is_zero(dataset: Dataset) -> bool:
    return dataset.PhotometricInterpretation == "MONOCHROME1" or dataset.get("PresentationLUTShape") == "INVERSE"


# Values


def _rescaling(dataset: Dataset, index: int) -> tuple[float, float]:
    """Return slope and intercept, which count only together (PS3.3 C.11.1)."""
    item = _macro(dataset, "PixelValueTransformationSequence", index)
    slope, intercept = item.get("RescaleSlope"), item.get("RescaleIntercept")
    return (1.0, 0.0) if slope is None or intercept is None else (float(slope), float(intercept))


def _kind(dataset: Dataset, index: int) -> np.dtype:
    """Return the type of the values after the modality LUT, which holds what the stored bits can say."""
    allocated = dataset.BitsAllocated
    if tables := dataset.get("ModalityLUTSequence"):
        return np.dtype("u1" if tables[0].LUTDescriptor[2] <= 8 else "u2")
    if "PixelRepresentation" not in dataset:  # floats, PS3.3 C.7.6.24
        return np.dtype(f"f{allocated // 8}")
    signed, (slope, intercept) = dataset.PixelRepresentation == 1, _rescaling(dataset, index)
    if (slope, intercept) == (1, 0):
        return np.dtype(f"{'i' if signed else 'u'}{max(1, allocated // 8)}")
    is_whole = slope.is_integer() and intercept.is_integer()
    if allocated > 16 or not is_whole or 2**16 * abs(slope) + abs(intercept) >= 2**31:
        return np.dtype("f4")
    values = 2**dataset.BitsStored
    ends = [slope * end + intercept for end in ((-values // 2, values // 2 - 1) if signed else (0, values - 1))]
    holds = (kind for kind in ("u2", "i2") if np.iinfo(kind).min <= min(ends) and max(ends) <= np.iinfo(kind).max)
    return np.dtype(next(holds, "i4"))


def _modality(stored: Shaped[ndarray, "h w 1"], dataset: Dataset, index: int) -> Shaped[ndarray, "h w 1"]:
    from pydicom.pixels import apply_modality_lut

    if dataset.get("ModalityLUTSequence"):
        return apply_modality_lut(stored, dataset)
    slope, intercept = _rescaling(dataset, index)
    if (slope, intercept) == (1, 0):
        return stored
    kind = _kind(dataset, index)
    if kind.kind == "f":
        return (stored * slope + intercept).astype(kind)
    values = stored.astype(np.int32) * np.int32(slope) + np.int32(intercept)
    # A compressed frame may have more bits than the header tells; pydicom clears them in others.
    fits = np.iinfo(kind).min <= values.min() and values.max() <= np.iinfo(kind).max
    return values.astype(kind) if fits else values


def _check_palette(dataset: Dataset) -> None:
    """Raise UnreadableImage if the segments of a palette expand to more than it can hold (PS3.3 C.7.9.2)."""
    for colour in ("Red", "Green", "Blue"):
        data = dataset.get(f"Segmented{colour}PaletteColorLookupTableData") or b""
        _, _, bits = dataset.get(f"{colour}PaletteColorLookupTableDescriptor") or (0, 0, 16)
        order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
        words = np.frombuffer(data, "u1" if bits == 8 else f"{order}u2").astype(int)
        place = count = 0
        while place + 1 < len(words):
            kind, length = words[place : place + 2]
            if kind not in (0, 1) or (count := count + length) > 1 << 16:
                raise not_supported("a DICOM image with a palette of odd segments, save it as RGB")
            place += 2 + length if kind == 0 else 3


def _padding(stored: Shaped[ndarray, "h w 1"], dataset: Dataset) -> Bool[ndarray, "h w 1"] | None:
    """Return where the scanner saw nothing, by the stored values (PS3.3 C.7.5.1.1.2)."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return None
    low, high = sorted((value, dataset.get("PixelPaddingRangeLimit", value)))
    padding = (stored >= low) & (stored <= high)
    return padding if padding.any() else None


# How the header shows the values


def _display(voi: Dataset) -> Display | None:
    """Return what the first VOI LUT does, else the first window (PS3.3 C.11.2); None if there is none that can be."""
    from pydicom.pixels import apply_voi

    if tables := voi.get("VOILUTSequence"):
        count, first, bits = tables[0].LUTDescriptor
        count = count or 1 << 16
        shown = apply_voi(np.arange(first, first + count), voi)
        return partial(_looked_up, first=first, table=to_uint8(shown, bits_window(bits)))
    if (window := _window(voi)) is None:
        return None
    function, level, width = window
    if function == "SIGMOID":
        return partial(_sigmoid, window=(level, width))
    if function == "LINEAR":  # of width 1 it is a step
        level, width = level - 0.5, max(width - 1, 1e-9)
    return partial(to_uint8, window=(level, width))


def _window(voi: Dataset) -> tuple[str, float, float] | None:
    """Return function, level and width of the first window; None without one, or with one that cannot be."""
    level, width = (_first(voi.get(name)) for name in ("WindowCenter", "WindowWidth"))
    function = voi.get("VOILUTFunction") or "LINEAR"
    if level is None or width is None or not width >= (1 if function == "LINEAR" else 1e-9):
        return None
    return function, level, width


def _first(numbers: Any) -> float | None:
    """Return the first of several numbers, or the only one."""
    if numbers is None or isinstance(numbers, str):
        return None
    return float(numbers) if isinstance(numbers, float | int) else float(numbers[0]) if numbers else None


def _looked_up(values: Shaped[ndarray, "*shape"], first: int, table: UInt8[ndarray, " n"]) -> UInt8[ndarray, "*shape"]:
    return table[np.clip(values.astype(np.int64) - first, 0, len(table) - 1)]


def _sigmoid(values: Shaped[ndarray, "*shape"], window: Window) -> UInt8[ndarray, "*shape"]:
    level, width = window
    return np.rint(255 * expit(4 * (values - level) / width)).astype(np.uint8)


# What a compressed frame may cost


def _check_frame(dataset: FileDataset, stream: Stream, index: int) -> None:
    """Raise UnreadableImage if a decoder is missing, or would make more of a compressed frame than the header says.

    stream: at the value of the pixels.
    """
    from pydicom.encaps import get_frame
    from pydicom.pixels import get_decoder

    start, end = stream.tell(), stream.seek(0, 2)
    stream.seek(start)
    if end <= start:
        raise UnreadableImage("damaged: its pixels are missing")
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        values = (index + 1) * dataset.Rows * dataset.Columns * dataset.SamplesPerPixel
        values = values * 2 // 3 if dataset.PhotometricInterpretation == "YBR_FULL_422" else values
        if end - start < values * dataset.BitsAllocated // 8:
            raise UnreadableImage("damaged: the file ends within its pixels")
        return
    while (item := stream.read(8))[:4] == b"\xfe\xff\x00\xe0":
        stream.seek(int.from_bytes(item[4:], "little"), 1)
    if item[:4] != b"\xfe\xff\xdd\xe0":
        raise UnreadableImage("damaged: the file ends within its pixels")
    stream.seek(start)
    package = _DECODERS.get(syntax.removeprefix(_SYNTAX))
    if package is None:
        raise not_supported(f"DICOM in {syntax.name}, save it uncompressed")
    if not get_decoder(syntax).is_available:
        raise reader.needs(f"{package} for {syntax.name}", _EXTRA)
    table = None
    if "ExtendedOffsetTable" in dataset:
        table = dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths
    frames = int(dataset.get("NumberOfFrames") or 1)
    frame = get_frame(stream, index, number_of_frames=frames, extended_offsets=table)
    if syntax == _RLE:
        if len(frame) > _MAX_RLE_BYTES:
            raise UnreadableImage("not read: a frame of more than 24 MB of run lengths; save it uncompressed")
        return
    coded, declared = jpeg.coded_shape(frame), (dataset.Rows, dataset.Columns, dataset.SamplesPerPixel)
    if coded != declared:
        raise UnreadableImage(f"damaged: its header tells height, width and channels {declared}, a frame {coded}")
