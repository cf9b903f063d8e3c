"""The contract of an image reader: it turns the bytes of one format into values, or refuses them with a reason.

`dinoscope.data.images` lists the readers. Everything that they walk through is bounded: no file costs more than 1.5 GB
or 10 seconds of CPU time.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BufferedReader, BytesIO

import numpy as np
from filelock import FileLock, Timeout
from jaxtyping import Bool, Shaped, UInt8
from numpy import ndarray
from PIL import Image

from dinoscope.data.grey_range import (
    ValueRange,
    Window,
    fallback,
    is_header,
    is_joined,
    range_of,
    separate,
    to_uint8,
    window_text,
)
from dinoscope.errors import UserError
from dinoscope.files import COMPOSITE_VARIABLE, cache_folder

Stream = BufferedReader | BytesIO
"""A file, or its content in memory."""

MAX_CHANNELS = 16
"""Channels that an image may have."""

METADATA = 1 << 20
"""Bytes of EXIF, XMP or text, once decompressed, in which the orientation is looked for."""

ORIENTATION_TAG = 0x0112
# EXIF orientation -> transpose, then reverse rows, then reverse columns. EXIF 2.32, tag 0x0112.
_TURNS = {1: "", 2: "c", 3: "rc", 4: "r", 5: "t", 6: "tc", 7: "trc", 8: "tr"}
_SHORT = 3  # type of a TIFF entry

_HUGE = 1 << 25  # pixels; 16 processes may decode smaller images at the same time
_PATIENCE = 120.0  # seconds that a huge image waits for its turn: a process that was stopped (Ctrl-Z) keeps it
_STRIP = 1 << 20  # pixels converted at a time

Shrink = Callable[[int, int], int]
"""Takes height and width of an image, and returns what both may be divided by when it is decoded: 1, 2, 4 or 8."""

Display = Callable[[Shaped[ndarray, "h w c"]], UInt8[ndarray, "h w c"]]
"""Maps grey values to what the header of their file shows them as."""

START = 1024
"""Bytes from the beginning of a file that `Reader.recognises` is given: enough for the header in a NIfTI's gzip."""

_BYTES_PER_PIXEL = 6  # of the largest file: RGB with 16 bits a channel, uncompressed
_SMALL_FILE = 64_000_000  # bytes, read whatever the limit of pixels


class UnreadableImage(Exception):
    """A file that is not an image we read. Its message is the reason: one line, without the path."""


class NotSupported(UnreadableImage):
    """An undamaged file of a kind that is not read."""


def not_supported(what: str) -> NotSupported:
    """Return the refusal of an undamaged file of a kind that is not read. what: the kind, and how to save it."""
    return NotSupported(f"not supported: {what}")


def needs(package: str, extra: str) -> NotSupported:
    """Return the refusal of a file that an optional package reads. extra: the part of dinoscope that installs it."""
    return NotSupported(f"needs {package}: pip install 'dinoscope[{extra}]'")


def too_large(height: int, width: int, max_pixels: int) -> UnreadableImage:
    """Return the refusal of an image with too many pixels."""
    return UnreadableImage(
        f"too large: {width}x{height} is {height * width / 1e6:.4g} million pixels, "
        f"at most {max_pixels / 1e6:.4g} million are read; scale it down, or allow more with --max-megapixels"
    )


def max_bytes(max_pixels: int) -> int:
    """Return how large a file may be, and what it holds once decompressed, if an image may have `max_pixels`."""
    return max(_BYTES_PER_PIXEL * max_pixels, _SMALL_FILE)


@dataclass(frozen=True)
class Header:
    """What is known of an image before its pixels are decoded.

    format: key of `images.READERS`, by content.
    height, width: pixels as `read` returns them: after EXIF orientation, and of a large JPEG half as many a side.
    orientation: EXIF orientation, 1 (upright) to 8.
    sample: kind of the values as numpy names it: "u1" up to 8 bits, "u2" up to 16, "i2" signed, "f4" float, ...
    animated: more than one frame.
    window: the first window that the file's header asks for, as `--window` takes it; "" if it asks for none.
    channels: 0 stands for what most formats have: 1 if it is grey, otherwise 3.
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
    window: str = ""
    channels: int = 0

    def __post_init__(self) -> None:
        """Fill in the channels."""
        if not self.channels:
            object.__setattr__(self, "channels", 1 if self.grey else 3)

    @property
    def over_8_bit(self) -> bool:
        """Whether it has more than 8 bits per channel, floats included."""
        return not self.sample.endswith("1")


@dataclass(frozen=True)
class Reduction:
    """How an image was decoded at a reduced size.

    height, width: of the whole image. divisor: what both were divided by, and rounded up: the last pixel of a row or a
    column may lie partly outside of the image, the first one never.
    """

    height: int
    width: int
    divisor: int


@dataclass(frozen=True)
class RawImage:
    """Values as stored in the file, upright.

    values: [h, w, c], c from 1 to 16: grey, RGB, or other channels. Values of uint8 are final; others are mapped by a
        grey range.
    alpha: uint16 [h, w, 1], or [h, w, c] of channels that were images of their own; 0 for transparent, or None. With
        uint8 it is composited already.
    white_is_zero: the largest values are black.
    reduction: None for an image of its whole size.
    padding: where the file has no value, in a channel for each of values: black, and outside of the range. None if it
        has one everywhere.
    display: maps values to uint8 as the file's header asks, for the grey range `HEADER`. None if it does not ask.
    """

    values: Shaped[ndarray, "h w c"]
    alpha: Shaped[ndarray, "h w _"] | None = None
    white_is_zero: bool = False
    reduction: Reduction | None = None
    padding: Bool[ndarray, "h w c"] | None = None
    display: Display | None = None

    @property
    def range(self) -> ValueRange | None:
        """Smallest and largest value; None for uint8, which needs no grey range, and if no value is finite."""
        if self.values.dtype == np.uint8:
            return None
        return range_of(self.values if self.padding is None else self.values[~self.padding])

    def rgb(self, window: Window | None = None) -> UInt8[ndarray, "h w 3"]:
        """Return what a person is shown, C-contiguous and writable: RGB, or a `composite` of other channels.

        window: the grey range; None takes that of this image alone, and `HEADER` what the file's header asks for, and
        otherwise the range behind it (`with_fallback`). Of joined windows each makes a channel of a grey image, and
        other images are shown by the first. Values of uint8 are mapped by nothing else. Transparency is composited on
        white, as a browser or a printed page shows it.
        """
        if is_joined(window):
            is_fit = self.values.shape[2] == 1 and self.values.dtype != np.uint8
            return composite(self._by_each(window) if is_fit else self._mapped(window[:2]))
        return composite(self._mapped(window))

    def pixels(self, channels: int = 3, window: Window | None = None) -> UInt8[ndarray, "h w c"]:
        """Return what a network of so many channels is given, C-contiguous and writable. window: as of `rgb`.

        Grey is repeated for a network of three channels, and RGB turned into its luma (ITU-R 601, Pillow's "L") for one
        of a single channel. Joined windows make as many channels of an image of one. Raises UnreadableImage for any
        other number that is not the image's, and for joined windows if the values are uint8.
        """
        if is_joined(window):
            require_grey_values(self.values.shape[2], window, over_8_bit=self.values.dtype != np.uint8)
            return self._by_each(window)
        require_channels(self.values.shape[2], channels)
        pixels = self._mapped(window)
        if pixels.shape[2] == 3 and channels == 1:
            return np.array(Image.fromarray(pixels).convert("L"))[..., None]
        if pixels.shape[2] == 1 and channels == 3:
            return np.repeat(pixels, 3, axis=2)
        return _own(pixels)

    def _by_each(self, window: Window) -> UInt8[ndarray, "h w c"]:
        return np.concatenate([self._mapped(part) for part in separate(window)], axis=2)

    def _mapped(self, window: Window | None) -> UInt8[ndarray, "h w c"]:
        pixels = self.values
        display = self.display if is_header(window) else None
        if display is not None:
            pixels = display(pixels)
        elif pixels.dtype != np.uint8:
            pixels = to_uint8(pixels, fallback(window) or (self.range and self.range.window))
        if self.white_is_zero:
            pixels = 255 - pixels
        if self.padding is not None:
            pixels = np.where(self.padding, np.uint8(0), pixels)
        if self.alpha is not None:
            for rows in strips(*pixels.shape[:2]):
                opacity = self.alpha[rows].astype(np.float32) / 65535
                blended = (pixels[rows].astype(np.float32) - 255) * opacity + 255
                pixels[rows] = np.rint(blended, out=blended)
        return pixels


def _own(pixels: UInt8[ndarray, "h w c"]) -> UInt8[ndarray, "h w c"]:
    return pixels if pixels.flags.c_contiguous and pixels.flags.writeable else pixels.copy()


# Channels


def fits(channels: int, wanted: int) -> bool:
    """Whether images of so many channels can be given to a network that takes `wanted`."""
    return channels == wanted or {channels, wanted} == {1, 3}


def require_channels(channels: int, wanted: int) -> None:
    """Raise UnreadableImage unless the image `fits`."""
    if not fits(channels, wanted):
        raise UnreadableImage(f"has {channels} channel{'s' * (channels > 1)}, and {wanted} are needed")


def require_fit(header: Header, wanted: int, window: Window | None, slices: int) -> None:
    """Raise UnreadableImage unless an image can be given to a network that takes so many channels.

    window, slices: the network's. Joined windows need grey images of more than 8 bits, and slices grey ones.
    """
    if slices > 1:
        require_slice(header.channels, over_8_bit=header.over_8_bit)
    elif is_joined(window):
        require_grey_values(header.channels, window, over_8_bit=header.over_8_bit)
    else:
        require_channels(header.channels, wanted)


def require_slice(channels: int, *, over_8_bit: bool) -> None:
    """Raise UnreadableImage unless an image can be one of several slices: grey, or colour of 8 bits."""
    if channels != 1 and (channels != 3 or over_8_bit):
        raise UnreadableImage(f"has {channels} channels, and --slices takes grey images")


def require_grey_values(channels: int, window: Window, *, over_8_bit: bool) -> None:
    """Raise UnreadableImage unless joined windows can be laid over an image of so many channels."""
    own = f"has {channels} channels" if channels > 1 else "has no more than 8 bits"
    if channels > 1 or not over_8_bit:
        raise UnreadableImage(f"{own}, and --window {window_text(window)} takes grey images of more")


def composite(pixels: UInt8[ndarray, "h w c"], chosen: Sequence[int] | None = None) -> UInt8[ndarray, "h w 3"]:
    """Return three channels as red, green and blue, C-contiguous and writable; an image of one channel stays grey.

    chosen: numbers of the three, from 0, or of one, which is shown as grey; None takes $DINOSCOPE_COMPOSITE, and
    without it the first three (of two, the second is green and blue).

    Raises UserError for a channel that the image does not have.
    """
    channels = pixels.shape[2]
    if channels == 1:
        return np.repeat(pixels, 3, axis=2)
    if chosen is None:
        chosen = parse_composite(os.environ[COMPOSITE_VARIABLE]) if COMPOSITE_VARIABLE in os.environ else ()
    if not chosen and channels == 3:
        return _own(pixels)
    chosen = tuple(chosen) or (0, 1, min(2, channels - 1))
    if max(chosen) >= channels:
        raise UserError(
            f"--composite {','.join(map(str, chosen))} of an image of {channels} channels: they count from 0 to "
            f"{channels - 1}"
        )
    return np.ascontiguousarray(pixels[..., chosen if len(chosen) == 3 else chosen * 3])


def parse_composite(text: str) -> tuple[int, ...]:
    """Read R,G,B or a single number, each a channel from 0. Raises UserError for anything else."""
    words = text.split(",")
    if len(words) not in (1, 3) or not all(word.strip().isdecimal() for word in words):
        raise UserError(f"--composite must be R,G,B, numbers of channels from 0 such as 3,2,1, or one, not {text!r}")
    return tuple(map(int, words))


@dataclass(frozen=True)
class Frames:
    """Read a format whose files may hold several images, each of which is a sample of its own.

    names: lists the images in a file, numbers counting from 0: "frame=3", "axis=2,slice=17"; one without a name ("") if
    the file holds a single image.
    header, read: as `Reader`'s, of the image with this name.
    stack: reads so many slices around it, as `neighbours.stacked` gives them, with less work than one `read` for each;
    None for a format that cannot.
    """

    names: Callable[[Stream, int], tuple[str, ...]]
    header: Callable[[Stream, int, str], Header]
    read: Callable[[Stream, int, str], RawImage]
    stack: Callable[[Stream, int, str, int], RawImage] | None = None


@dataclass(frozen=True)
class SeriesPlace:
    """Where an image lies in a series of files.

    series: its identifier, to be hashed at once. plane: numbers that are equal for images that can be neighbours.
    position: along the normal of the plane, in mm; number: in the series; None if unknown.
    """

    series: str = field(repr=False)
    plane: tuple[float, ...]
    position: float | None
    number: int | None


@dataclass(frozen=True)
class Reader:
    """Read one image format.

    extensions: endings of its files' names, in lower case, with the dot. Files are found by them.
    recognises: tells the format from the first `START` bytes of a file.
    header: reads what is known before pixels are decoded.
    read: decodes a file's content.
    read_reduced: decodes it at a reduced size, if its third argument allows one; None for a format that cannot.
    frames: of a format with several images a file; `header` and `read` take those with one. Otherwise None.
    identifier: reads whose image it is, of a kind in `groups.HEADERS`: "" if the header does not say. Its errors hold
        nothing of what it says. None for a format whose headers do not name anybody.
    series_place: reads where an image lies in its series: None if the header does not say, errors as of `identifier`.
        None for a format without series.

    All of them take the stream at its beginning, and how many pixels (height times width) an image may have.
    They raise UnreadableImage for more, and for a kind of file that is not read; any other exception counts as damage.
    They are called from many threads.
    """

    extensions: tuple[str, ...]
    recognises: Callable[[bytes], object]
    header: Callable[[Stream, int], Header]
    read: Callable[[BytesIO, int], RawImage]
    read_reduced: Callable[[BytesIO, int, Shrink], RawImage] | None = None
    frames: Frames | None = None
    identifier: Callable[[Stream, int, str], str] | None = None
    series_place: Callable[[Stream, int], SeriesPlace | None] | None = None


_NAME = re.compile(r"(.+)#((?:[a-z]+=\d+,)*[a-z]+=\d+)", re.DOTALL)


def split_key(key: str) -> tuple[str, str]:
    """Return the path of a file and the name of an image within it, "" for the only one."""
    match = _NAME.fullmatch(key)
    return (match[1], match[2]) if match else (key, "")


def frame_index(frame: str, names: Sequence[str]) -> int:
    """Return the place of an image among those in its file. Raises UnreadableImage if it has no such name."""
    if frame in names:
        return names.index(frame)
    held = f"the file holds {len(names)} images, {names[0]} to {names[-1]}" if len(names) > 1 else "it holds one image"
    raise UnreadableImage(f"no image {frame!r}: {held}" if frame else f"several images: {held}; choose one of them")


# Orientation


def orient(pixels: Shaped[ndarray, "_ _ c"], orientation: int) -> Shaped[ndarray, "h w c"]:
    """Turn stored pixels upright; C-contiguous."""
    turns = _TURNS[orientation]
    pixels = pixels.swapaxes(0, 1) if "t" in turns else pixels
    return np.ascontiguousarray(pixels[:: -1 if "r" in turns else 1, :: -1 if "c" in turns else 1])


def oriented_size(height: int, width: int, orientation: int) -> tuple[int, int]:
    """Return height and width of the upright image."""
    return (width, height) if "t" in _TURNS[orientation] else (height, width)


def exact_divisor(height: int, width: int, orientation: int, divisor: int) -> int:
    """Return a divisor of 1, 2, 4 or 8, lowered until no side that the orientation reverses has a remainder.

    A decoder leaves the remainder to the last pixel, and reversed that would be the first one. height, width: upright.
    """
    turns = _TURNS[orientation]
    while ("r" in turns and height % divisor) or ("c" in turns and width % divisor):
        divisor //= 2
    return divisor


def valid_orientation(exif: bytes | None, xmp: bytes | None = None) -> int:
    """Return the orientation, 1 to 8, in an EXIF block, else in an XMP packet.

    It is 1 if both are absent, damaged or impossible: the pixels may be undamaged.
    """
    try:
        orientation = _exif_orientation(exif) if exif else None
        if orientation is None:
            match = re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp or b"")
            orientation = int(match[1]) if match else 1
    except Exception:  # damaged metadata raises most of the built-in exceptions
        return 1
    return orientation if orientation in _TURNS else 1


def _exif_orientation(block: bytes) -> int | None:
    """Find the orientation in the first directory of an EXIF block (EXIF 2.32, 4.6), and read nothing else of it."""
    tiff = block.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}[tiff[:2]]
    (directory,) = struct.unpack_from(order + "I", tiff, 4)
    (entries,) = struct.unpack_from(order + "H", tiff, directory)
    for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
        tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, entry)
        if tag == ORIENTATION_TAG and kind == _SHORT:
            return value
    return None


# Memory


def turn(pixels: int) -> contextlib.AbstractContextManager[object]:
    """Wait, before a huge image is decoded, for any other that is being decoded on this machine."""
    return _turn_of_the_huge() if pixels > _HUGE else contextlib.nullcontext()


@contextlib.contextmanager
def _turn_of_the_huge() -> Iterator[None]:
    file = cache_folder("locks") / f"huge-image-{platform.node()}"
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, Timeout):  # a folder that cannot be written; a process that was stopped
            file.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(file, timeout=_PATIENCE, fallback_to_soft=False, preserve_lock_file=True))
        yield


def strips(height: int, width: int) -> Iterator[slice]:
    """Yield the rows that are converted at a time."""
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        yield slice(top, min(top + rows, height))
