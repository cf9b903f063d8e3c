"""One image to values, whatever its format: read right, or refused with a reason for a person.

The content decides what a file is, never its name. `READERS` lists the formats.

- `read` gives the values as stored in the file, `decode` 8-bit RGB, and `read_header` what is known without pixels.
- The EXIF orientation is applied, so sizes are those a person sees.
- Colour profiles are ignored; CMYK is converted by the plain formula. A further channel that the file does not call
  transparency is left out.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, BytesIO, FileIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from dinoscope.data import arrays, dicom, heif, jpeg, jpeg2000, microscopy, nifti, pillow
from dinoscope.data.grey_range import Window
from dinoscope.data.neighbours import read_stack, repeated
from dinoscope.data.reader import (
    MAX_CHANNELS,
    START,
    Header,
    RawImage,
    Reader,
    SeriesPlace,
    Shrink,
    Stream,
    UnreadableImage,
    frame_index,
    max_bytes,
    not_supported,
    split_key,
)
from dinoscope.errors import UserError
from dinoscope.files import MEGAPIXELS_VARIABLE

__all__ = [
    "READERS",
    "Header",
    "RawImage",
    "UnreadableImage",
    "as_raw",
    "decode",
    "frames",
    "frames_of_bytes",
    "read",
    "read_bytes",
    "read_header",
    "read_size",
]

READERS: dict[str, Reader] = {
    "DICOM": dicom.READER,  # the first, since its preamble may be the beginning of a TIFF
    "JPEG": jpeg.READER,
    **pillow.READERS,
    **heif.READERS,
    "JPEG 2000": jpeg2000.READER,
    "TIFF": microscopy.READER,
    "NIfTI": nifti.READER,
    "NPY": arrays.READER,
}

MAX_MEGAPIXELS = 60.0
"""Height times width above which an image is refused, in millions; a JPEG of up to four times as many is halved."""

_OTHERS = {
    "JPEG XL": rb"\0\0\0\x0cJXL |\xff\x0a",
    "Photoshop": rb"8BPS",
    "OpenEXR": rb"\x76\x2f\x31\x01",
    "JPEG XR": rb"II\xbc",
    "PAM": rb"P7\n",
    "PFM": rb"P[Ff]\n",
}
"""Format -> beginning of its files: what people take for images that are read, often because of the name."""

OTHER_EXTENSIONS = {
    **dict.fromkeys((".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"), "a camera's raw format"),
    **{".jxl": "JPEG XL", ".svg": "SVG", ".pdf": "PDF", ".psd": "Photoshop's format"},
    **{".exr": "OpenEXR", ".hdr": "Radiance HDR"},
}
"""Endings of images that cannot be read -> the format, for the reason if the content does not tell it."""


def extensions() -> tuple[str, ...]:
    """Return the endings of names by which images are found, in lower case, with the dot, sorted."""
    return tuple(sorted(ending for reader in READERS.values() for ending in reader.extensions))


def pixel_limit() -> int:
    """Return how many pixels an image may have. Raises UserError if --max-megapixels is no number above 0."""
    text = os.environ.get(MEGAPIXELS_VARIABLE)
    try:
        megapixels = MAX_MEGAPIXELS if text is None else float(text)
    except ValueError:
        megapixels = math.nan
    if not 1e-6 <= megapixels < math.inf:
        raise UserError(f"--max-megapixels is {text!r}; it must be a number above 0, such as {MAX_MEGAPIXELS:g}")
    return int(megapixels * 1e6)


def decode(
    path: Path, *, frame: str = "", window: Window | None = None, max_pixels: int | None = None
) -> UInt8[ndarray, "h w 3"]:
    """Return the image as RGB, C-contiguous and writable. Raises as `read` does.

    window: grey range of values of more than 8 bits, the model's if there is one; None takes the image's own.
    """
    return read(path, frame=frame, max_pixels=max_pixels).rgb(window)


def read(
    path: Path, *, frame: str = "", max_pixels: int | None = None, shrink: Shrink | None = None, slices: int = 1
) -> RawImage:
    """Return the values of the image as stored in the file. max_pixels: `pixel_limit()` if None.

    frame: one of `frames`, "" for the only image of a file. PATH#FRAME names both, unless there is a file called so.
    shrink: lets a format that can (JPEG) be decoded at a reduced size; None for the whole size.
    slices: how many images of the file, this one in the middle, become channels (`neighbours`).

    Raises UnreadableImage for anything wrong with the file: missing, not an image, of a kind that is not read,
    damaged, truncated, or more than `max_pixels` by its header (nothing is decoded then). Safe to call from many
    threads.
    """
    limit = pixel_limit() if max_pixels is None else max_pixels
    path, frame = _named(path, frame)
    with opened(path, limit) as file:
        reader = READERS[format_of(file, path.name)]
        if reader.frames is None:
            return _decoded(reader, BytesIO(file.read()), frame, limit, shrink, slices)
        with _buffered(file) as stream:
            return _decoded(reader, stream, frame, limit, shrink, slices)


def _named(path: Path, frame: str) -> tuple[Path, str]:
    """Return the file and the frame that a path names."""
    if frame or "#" not in path.name or path.exists():
        return path, frame
    name, frame = split_key(path.name)
    return path.with_name(name), frame


def read_bytes(
    content: bytes,
    name: str,
    *,
    frame: str = "",
    max_pixels: int | None = None,
    shrink: Shrink | None = None,
    slices: int = 1,
) -> RawImage:
    """Return the values of an image that is in memory. name: what the file is called. Otherwise as `read`."""
    limit = pixel_limit() if max_pixels is None else max_pixels
    with unreadable_if_wrong():
        stream = BytesIO(content)
        return _decoded(READERS[format_of(stream, name)], stream, frame, limit, shrink, slices)


def _decoded(reader: Reader, stream: Stream, frame: str, limit: int, shrink: Shrink | None, slices: int) -> RawImage:
    if reader.frames is not None:
        if frame and slices > 1:
            return read_stack(reader.frames, stream, limit, frame, slices)
        return repeated(reader.frames.read(stream, limit, frame), slices)
    frame_index(frame, ("",))
    assert isinstance(stream, BytesIO)
    if shrink is not None and reader.read_reduced is not None:
        return repeated(reader.read_reduced(stream, limit, shrink), slices)
    return repeated(reader.read(stream, limit), slices)


def read_header(path: Path, *, frame: str = "", max_pixels: int | None = None) -> Header:
    """Return the file's header, without decoding pixels. max_pixels: `pixel_limit()` if None.

    Raises UnreadableImage as `read` does, except for damage that only the pixels show.
    """
    limit = pixel_limit() if max_pixels is None else max_pixels
    path, frame = _named(path, frame)
    with opened(path, limit) as file, _buffered(file) as stream:
        return stream_header(stream, path.name, limit, frame)


def stream_header(stream: Stream, name: str, max_pixels: int, frame: str = "") -> Header:
    """Return the header of an image of this name. Raises what the format's reader does."""
    reader = READERS[format_of(stream, name)]
    if reader.frames is not None:
        return reader.frames.header(stream, max_pixels, frame)
    frame_index(frame, ("",))
    return reader.header(stream, max_pixels)


def read_identifier(path: Path, kind: str) -> str:
    """Return whose image a file's header says it is, of a kind in `groups.HEADERS`; "" if it does not say.

    Raises UnreadableImage for a damaged header, and a format without names in it; its text holds nothing of the header.
    """
    limit = pixel_limit()
    with opened(path, limit) as file, _buffered(file) as stream:
        return _identifier(stream, path.name, limit, kind)


def identifier_of_bytes(content: bytes, name: str, kind: str) -> str:
    """Return the same of a file that is in memory. name: what it is called."""
    with unreadable_if_wrong():
        return _identifier(BytesIO(content), name, pixel_limit(), kind)


def _identifier(stream: Stream, name: str, limit: int, kind: str) -> str:
    format = format_of(stream, name)
    identifier = READERS[format].identifier
    if identifier is None:
        raise not_supported(f"{format} headers have no patient, study or series")
    return identifier(stream, limit, kind)


def read_series_place(path: Path) -> SeriesPlace | None:
    """Return where a file lies in its series; None if it does not say, or is of a format without series.

    Raises UnreadableImage for a damaged header; its text holds nothing of the header.
    """
    limit = pixel_limit()
    with opened(path, limit) as file, _buffered(file) as stream:
        return _series_place(stream, path.name, limit)


def series_place_of_bytes(content: bytes, name: str) -> SeriesPlace | None:
    """Return the same of a file that is in memory. name: what it is called."""
    with unreadable_if_wrong():
        return _series_place(BytesIO(content), name, pixel_limit())


def _series_place(stream: Stream, name: str, limit: int) -> SeriesPlace | None:
    series_place = READERS[format_of(stream, name)].series_place
    return None if series_place is None else series_place(stream, limit)


def frames(path: Path, *, max_pixels: int | None = None) -> tuple[str, ...]:
    """Return the names of the images in a file, in its order: what `read` and `read_header` take as `frame`.

    A file with a single image has one without a name, "". Raises UnreadableImage as `read_header` does.
    """
    limit = pixel_limit() if max_pixels is None else max_pixels
    with opened(path, limit) as file, _buffered(file) as stream:
        return _frames(stream, path.name, limit)


def frames_of_bytes(content: bytes, name: str, *, max_pixels: int | None = None) -> tuple[str, ...]:
    """Return the names of the images in a file that is in memory. name: what it is called. Otherwise as `frames`."""
    limit = pixel_limit() if max_pixels is None else max_pixels
    with unreadable_if_wrong():
        return _frames(BytesIO(content), name, limit)


def _frames(stream: Stream, name: str, limit: int) -> tuple[str, ...]:
    reader = READERS[format_of(stream, name)]
    return ("",) if reader.frames is None else reader.frames.names(stream, limit)


def read_size(path: Path, *, max_pixels: int | None = None) -> tuple[int, int]:
    """Return (height, width) in pixels after EXIF orientation. Raises as `read_header` does."""
    header = read_header(path, max_pixels=max_pixels)
    return header.height, header.width


@contextmanager
def opened(path: Path, max_pixels: int) -> Iterator[FileIO]:
    """Open an image file for reading. Raise UnreadableImage for whatever goes wrong, with the file or in the block.

    A file larger than an uncompressed image of `max_pixels` is refused.
    """
    try:
        file = FileIO(path, opener=_open_without_waiting)  # unbuffered: images are mostly read whole
    except OSError as error:
        raise UnreadableImage(f"cannot be opened: {error.strerror}") from error
    with unreadable_if_wrong(), file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImage("cannot be opened: not a regular file")
        check_bytes(status.st_size, max_pixels)
        yield file


def _buffered(file: FileIO) -> BufferedReader:
    # Declares the type: what pyright infers, BufferedReader[FileIO], is no `Stream`.
    return BufferedReader(file)


def check_bytes(size: int, max_pixels: int) -> None:
    """Raise UnreadableImage for a file larger than an uncompressed image of `max_pixels`."""
    if size > (limit := max_bytes(max_pixels)):
        raise UnreadableImage(
            f"too large: a file of {size / 1e6:.4g} MB, at most {limit / 1e6:.4g} MB are read; "
            "save the image alone, or compressed"
        )


@contextmanager
def unreadable_if_wrong() -> Iterator[None]:
    """Turn whatever goes wrong in the block into UnreadableImage.

    A damaged file makes decoders raise most of the built-in exceptions.
    """
    try:
        yield
    except UnreadableImage:
        raise
    except MemoryError as error:
        raise UnreadableImage("needs more memory than there is") from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImage(f"damaged: {reason}") from error


def _open_without_waiting(path: Path | str, flags: int) -> int:
    """Open a file; a pipe too, which would otherwise wait for a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def format_of(stream: Stream | FileIO, name: str) -> str:
    """Return the format of the content, a key of `READERS`, and rewind. Raises UnreadableImage for any other.

    name: tells what cannot be read if the content does not.
    """
    start = stream.read(START)
    stream.seek(0)
    for known, reader in READERS.items():
        if reader.recognises(start):
            return known
    if not start:
        raise UnreadableImage("empty file")
    by_content = (kind for kind, magic in _OTHERS.items() if re.match(magic, start, re.DOTALL))
    by_name = (kind for ending, kind in OTHER_EXTENSIONS.items() if name.lower().endswith(ending))
    if other := next(by_content, None) or next(by_name, None):
        raise not_supported(f"{other}, save it as PNG or JPEG")
    raise UnreadableImage(f"not an image in a format we read ({', '.join(READERS)})")


def as_raw(image: Any, slices: int = 1) -> RawImage:
    """Return an image that a Python program holds: a path, a Pillow image, a numpy array, or a tensor.

    Arrays are [h, w] or [h, w, c], tensors [h, w] or [c, h, w], with 1 to 16 channels. Four are RGB with transparency,
    which is composited on white if the values are uint8 and otherwise left out; four other channels are given as a
    `RawImage`. Values that are not uint8 are mapped by a grey range, as those of a file are; of booleans, True is
    white. Raises UnreadableImage for anything else, and as `read` does.

    slices: as of `read`; what is no file has no neighbours: it is repeated, or has as many channels already.
    """
    if slices > 1:
        if isinstance(image, str | os.PathLike):
            return read(Path(image), slices=slices)
        held = as_raw(image)
        return held if held.values.shape[2] == slices else repeated(held, slices)
    if isinstance(image, RawImage):
        return image
    if isinstance(image, str | os.PathLike):
        return read(Path(image))
    if isinstance(image, Image.Image):
        if image.mode not in ("F", "I") and not image.mode.startswith("I;"):
            return RawImage(pillow.rgb(image, transparent=image.has_transparency_data))
        image = np.asarray(image)
    if isinstance(image, torch.Tensor):
        values = image.detach().cpu()
        values = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
        image = (values.movedim(0, -1) if values.ndim == 3 else values).numpy()
    if not isinstance(image, ndarray):
        raise UnreadableImage(
            f"a {type(image).__name__} is no image: give a path, a Pillow image, an array or a tensor"
        )
    values = image if image.ndim == 3 else image[..., None]
    is_shaped = values.ndim == 3 and values.shape[2] <= MAX_CHANNELS and values.size > 0
    if not is_shaped or values.dtype.kind not in "buif":
        raise UnreadableImage(
            f"an array of shape {image.shape} and type {image.dtype} is no image: it needs 1 to {MAX_CHANNELS} "
            "channels, the last of an array and the first of a tensor"
        )
    if values.dtype == np.bool_:
        values = values * np.uint8(255)
    if values.dtype == np.uint8 and values.shape[2] == 4:
        return RawImage(pillow.rgb(Image.fromarray(values, "RGBA"), transparent=True))
    # A copy, because the caller may change the array that an image shows.
    return RawImage((values[..., :3] if values.shape[2] == 4 else values).copy(order="C"))
