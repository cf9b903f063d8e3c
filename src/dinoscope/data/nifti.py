"""NIfTI-1 and NIfTI-2 (nifti.nimh.nih.gov), plain or in gzip, read by nibabel: the slices of a volume.

Slices are those of the volume turned to RAS+ (nibabel's `as_closest_canonical`, which permutes and flips the axes and
does not resample): axis 0 runs to the right, 1 to the front, 2 to the head. In a picture the earlier of the other two
axes runs to the right and the later one up. Slope and intercept are applied.

Only the voxels of a slice are read, and of neighbouring slices those between the first and the last, at once. In gzip
everything in front of them is decompressed, every time.
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from dinoscope.data import neighbours, reader
from dinoscope.data.grey_range import Window, to_uint8, window_text
from dinoscope.data.reader import Frames, Header, RawImage, Reader, Stream, UnreadableImage, not_supported

_GZIP = b"\x1f\x8b"
_HEADER_BYTES = 540  # of NIfTI-2; NIfTI-1 has 348
_MAX_OFFSET = 1 << 26  # bytes in front of the voxels
_MAX_FRAMES = 1 << 20
_CIFTI = range(3000, 3100)  # intent codes
_FRAME = re.compile(r"(?:volume=(\d{1,9}),)?axis=([012]),slice=(\d{1,9})")


class _Volumes(NamedTuple):
    """What the header of a file tells.

    voxels: nibabel's proxy of [x, y, z, volume] as stored.
    kind: of the values once slope and intercept are applied; "RGB" has three channels.
    shape: of a volume in RAS+. count: of volumes, of different times for instance. axis: across the slices.
    stored: for each axis in RAS+ the one in the file, and whether it is reversed.
    window: from the smallest to the largest value to be displayed (cal_min, cal_max).
    """

    voxels: Any
    kind: str
    shape: tuple[int, ...]
    count: int
    axis: int
    stored: tuple[tuple[int, bool], ...]
    window: Window | None

    @property
    def names(self) -> tuple[str, ...]:
        slices = self.shape[self.axis]
        if self.count * slices == 1:
            return ("",)
        volumes = [f"volume={volume}," if self.count > 1 else "" for volume in range(self.count)]
        return tuple(f"{volume}axis={self.axis},slice={index}" for volume in volumes for index in range(slices))

    def size(self, across: int, max_pixels: int) -> tuple[int, int]:
        """Return height and width of the slices across an axis. Raises UnreadableImage if they are too large."""
        width, height = (side for axis, side in enumerate(self.shape) if axis != across)
        if height * width > max_pixels:
            raise reader.too_large(height, width, max_pixels)
        return height, width

    def place(self, frame: str) -> tuple[int, int, int]:
        """Return volume, axis and slice of a name, which may have another axis than `names`."""
        match = _FRAME.fullmatch(frame)
        if match is None or (match[1] is None) != (self.count == 1):
            volume, index = divmod(reader.frame_index(frame, self.names), self.shape[self.axis])
            return volume, self.axis, index
        volume, axis, index = int(match[1] or 0), int(match[2]), int(match[3])
        if volume >= self.count or index >= self.shape[axis]:
            raise UnreadableImage(f"no image {frame!r}: {self.count} volumes of {self.shape} voxels")
        return volume, axis, index


def recognises(start: bytes) -> bool:
    """Tell a header by its size and its magic, decompressed if it is in gzip."""
    if start.startswith(_GZIP):
        try:
            start = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(start, 352)
        except zlib.error:
            return False
    return start[344:347] in (b"n+1", b"ni1") or start[4:7] in (b"n+2", b"ni2")


def names(stream: Stream, max_pixels: int) -> tuple[str, ...]:
    """Return "axis=2,slice=0", "axis=2,slice=1" and so on; of several volumes "volume=0,axis=2,slice=0"; "" for one.

    The axis is that of the largest distance between voxels; if several are as large, the last axis.
    """
    volumes = _opened(stream, max_pixels)
    volumes.size(volumes.axis, max_pixels)
    return volumes.names


def read_header(stream: Stream, max_pixels: int, frame: str = "") -> Header:
    """Return what the header of the file tells of a slice."""
    volumes = _opened(stream, max_pixels)
    height, width = volumes.size(volumes.place(frame)[1], max_pixels)
    is_rgb = volumes.kind == "RGB"
    text = "" if is_rgb or volumes.window is None else window_text(volumes.window)
    return Header("NIfTI", height, width, grey=not is_rgb, sample="u1" if is_rgb else volumes.kind, window=text)


def read(content: Stream, max_pixels: int, frame: str = "") -> RawImage:
    """Read the voxels of a slice."""
    return stack(content, max_pixels, frame, 1)


def stack(content: Stream, max_pixels: int, frame: str, slices: int) -> RawImage:
    """Read the voxels of a slice and of its neighbours across the same axis."""
    volumes = _opened(content, max_pixels)
    volume, across, index = volumes.place(frame)
    neighbours.check_size(*volumes.size(across, max_pixels), slices, max_pixels)
    axis, is_reversed = volumes.stored[across]
    last = volumes.shape[across] - 1
    places = neighbours.places_around(index, last + 1, slices)
    first, end = places[0], places[-1]
    place: list[Any] = [slice(None), slice(None), slice(None), volume]
    place[axis] = slice(last - end, last - first + 1) if is_reversed else slice(first, end + 1)
    block = np.asarray(volumes.voxels[tuple(place)])

    def image(place: int) -> RawImage:
        return _image(volumes, np.take(block, end - place if is_reversed else place - first, axis), axis)

    return neighbours.around(index, last + 1, slices, image)


def _image(volumes: _Volumes, plane: np.ndarray, axis: int) -> RawImage:
    """Return a slice across an axis of the file as a picture."""
    (first, first_reversed), (second, second_reversed) = (pair for pair in volumes.stored if pair[0] != axis)
    plane = plane.T if first < second else plane  # [second, first]
    rows, columns = (slice(None, None, -1 if backwards else 1) for backwards in (not second_reversed, first_reversed))
    plane = plane[rows, columns]
    if volumes.kind == "RGB":
        return RawImage(np.stack([plane[colour] for colour in "RGB"], axis=2))
    display = None if volumes.window is None else partial(to_uint8, window=volumes.window)
    return RawImage(np.ascontiguousarray(plane, volumes.kind)[..., None], display=display)


READER = Reader((".nii", ".nii.gz"), recognises, read_header, read, frames=Frames(names, read_header, read, stack))


@cache
def _library() -> Any:
    """Import nibabel, and silence what it says about single files."""
    try:
        import nibabel
        from nibabel import imageglobals
    except ImportError as error:
        raise reader.needs("nibabel", "medical") from error
    imageglobals.logger.setLevel("CRITICAL")
    return nibabel


def _opened(stream: Stream, max_pixels: int) -> _Volumes:
    """Read the header. Raises UnreadableImage for a file that is damaged, too large or of a kind that is not read."""
    nibabel = _library()
    size = stream.seek(0, 2)
    stream.seek(0)
    is_packed = stream.read(2) == _GZIP
    stream.seek(0)
    content: Any = gzip.GzipFile(fileobj=stream) if is_packed else stream
    start = content.read(_HEADER_BYTES)
    content.seek(0)
    if b"ni" in (start[4:6], start[344:346]):
        raise not_supported("a NIfTI header whose voxels are in a file of their own (.img), save both as .nii")
    kind = nibabel.Nifti1Header if start[344:347] == b"n+1" else nibabel.Nifti2Header
    header = kind.from_fileobj(content)
    if int(header["intent_code"]) in _CIFTI:
        raise not_supported("CIFTI, whose values are no volume, leave it out")
    dimensions, stored = header.get_data_shape(), header.get_data_dtype()
    if len(dimensions) < 2 or min(dimensions) < 1:
        raise UnreadableImage(f"damaged: {dimensions} voxels")
    sizes, count = (*dimensions, 1)[:3], math.prod(dimensions[3:])
    if stored.kind not in "iuf" and stored.names not in (("R", "G", "B"), ("R", "G", "B", "A")):
        raise not_supported(f"a NIfTI of {header.get_value_label('datatype')} values, save it as numbers or RGB")
    _check_bytes(
        header.get_data_offset(), count * math.prod(sizes) * stored.itemsize, None if is_packed else size, max_pixels
    )

    axes = _axes(header.get_best_affine())
    shape = tuple(sizes[axis] for axis, _ in axes)
    spacing = [(*header.get_zooms(), 1.0)[axis] for axis, _ in axes]
    across = 2 if spacing.count(max(spacing)) > 1 else spacing.index(max(spacing))
    across = max((axis for axis, side in enumerate(shape) if side == 1), default=across)
    if count * shape[across] > _MAX_FRAMES:
        raise UnreadableImage(f"not read: {count * shape[across]} slices, and {_MAX_FRAMES} is the limit")
    slope, intercept = header.get_slope_inter()
    slope, intercept = (1.0, 0.0) if slope is None else (float(slope), float(intercept))
    low, high = float(header["cal_min"]), float(header["cal_max"])
    layout = (*sizes, count), stored, header.get_data_offset(), slope, intercept
    return _Volumes(
        nibabel.arrayproxy.ArrayProxy(content, layout, mmap=False),
        _kind(stored, slope, intercept),
        shape,
        count,
        across,
        axes,
        ((low + high) / 2, high - low) if 0 < high - low < math.inf else None,
    )


def _check_bytes(offset: int, needed: int, size: int | None, max_pixels: int) -> None:
    """Raise UnreadableImage if the voxels are not in the file or, in gzip (no size), would take too long to reach."""
    limit = reader.max_bytes(max_pixels)
    if size is not None and offset + needed > size:
        raise UnreadableImage(f"damaged: {size} bytes instead of {offset + needed}")
    if size is None and (offset > _MAX_OFFSET or needed > limit):
        raise UnreadableImage(
            f"too large: {(offset + needed) / 1e6:.4g} MB once decompressed, at most {limit / 1e6:.4g} MB are read; "
            "unpack the file"
        )


def _axes(affine: np.ndarray) -> tuple[tuple[int, bool], ...]:
    """Return for each axis in RAS+ the one in the file, and whether it is reversed; as stored if that is unknown."""
    from nibabel.orientations import io_orientation

    if np.isfinite(affine).all():
        turns = io_orientation(affine)  # for each axis in the file that in RAS+, and 1 or -1
        if sorted(turns[:, 0]) == [0, 1, 2]:
            return tuple((int(axis), bool(turns[axis, 1] < 0)) for axis in np.argsort(turns[:, 0]))
    return (0, False), (1, False), (2, False)


def _kind(stored: np.dtype, slope: float, intercept: float) -> str:
    """Return the type of the values; of whole numbers that stay whole the same, or 32 bits."""
    if stored.kind == "V":
        return "RGB"
    if stored.kind == "f" or stored.itemsize > 4:
        return "f4"
    if (slope, intercept) == (1, 0):
        return stored.str[1:]
    is_whole = float(slope).is_integer() and float(intercept).is_integer()
    fits = stored.itemsize <= 2 and 2**16 * abs(slope) + abs(intercept) < 2**31
    return "i4" if is_whole and fits else "f4"
