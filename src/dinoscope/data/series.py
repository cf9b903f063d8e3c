"""Series: files of one image each that are slices of one volume, such as a CT as a folder of DICOM files.

A slice's neighbours are the files of the same series, orientation and size in the same data set, in the order in which
they lie along their normal. They are found in the whole data set, whatever is chosen of it.

Headers are read once for a data set, and cached: the series as a number that has a key (`groups`), the place within it
as plain numbers.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int32, Int64
from numpy import ndarray

from dinoscope.data.groups import keyed_number, own_key
from dinoscope.data.headers import HeaderCache
from dinoscope.data.images import pixel_limit
from dinoscope.data.neighbours import around, check_size, places_around
from dinoscope.data.reader import RawImage, UnreadableImage, split_key

if TYPE_CHECKING:
    from dinoscope.data.sources import FileSource


@dataclass(frozen=True)
class _Place:
    """Where a file lies. stack: number of what neighbours share. position, number: as of `reader.SeriesPlace`."""

    stack: int
    position: float | None
    number: int | None

    @property
    def order(self) -> tuple[float, float]:
        # Within a stack, either all files have a position or none has one.
        return self.position or 0.0, math.inf if self.number is None else self.number


@dataclass(frozen=True)
class Series:
    """The order of the files of a data set within their series.

    members: positions of the files in the data set, series by series, each in its order.
    places: place of each image of the data set among these, -1 for one that is alone.
    firsts, counts: where the series of each of these begins among them, and how many files it has.
    """

    members: Int32[ndarray, " m"]
    places: Int32[ndarray, " n"]
    firsts: Int32[ndarray, " m"]
    counts: Int32[ndarray, " m"]

    def of(self, position: int) -> tuple[Int32[ndarray, " k"], int] | None:
        """Return the positions of the files of an image's series, and its place among them; None if it is alone."""
        place = int(self.places[position])
        if place < 0:
            return None
        first = int(self.firsts[place])
        return self.members[first : first + int(self.counts[place])], place - first


def series_of(images: FileSource, progress: Callable[[int, int], None] | None = None) -> Series:
    """Return the series of a data set. A file that is no DICOM or damaged, or tells no series, is alone.

    progress: called with (done, total) in files. Raises UserError as `groups.own_key`.
    """
    wanted = [(path, index) for index, path in enumerate(images.keys) if not split_key(path)[1]]
    if not wanted:
        return _series([], len(images))
    key = own_key()

    def examine(index: int) -> _Place | None:
        found = images.series_place(index)
        if found is None:
            return None
        shared = "\0".join((found.series, *map(repr, found.plane), str(found.position is None)))
        return _Place(keyed_number(shared, key, "stack"), found.position, found.number)

    store = HeaderCache(images, "series", f"slices-{key.name}", _encoded, _decoded)
    places, _ = store.read(wanted, examine, progress)
    stacks = defaultdict[int, list[tuple[tuple[float, float], bytes, int]]](list)
    for path, index in wanted:
        if (place := places.get(path)) is not None:
            stacks[place.stack].append((place.order, os.fsencode(path), index))
    several = [stack for stack in stacks.values() if len(stack) > 1]
    return _series([[index for _, _, index in sorted(stack)] for stack in several], len(images))


def _series(stacks: Sequence[Sequence[int]], images: int) -> Series:
    """Return the series of so many images. stacks: positions of the files of each, in its order."""
    counts = [len(stack) for stack in stacks]
    members = np.array([index for stack in stacks for index in stack], np.int32)
    alone = np.full(images, -1, np.int32)
    alone[members] = np.arange(len(members))
    firsts = np.repeat(np.cumsum([0, *counts], dtype=np.int32)[:-1], counts)
    return Series(members, alone, firsts, np.repeat(np.array(counts, np.int32), counts))


def _encoded(place: _Place | None) -> list[Any] | None:
    return None if place is None else [place.stack, place.position, place.number]


def _decoded(value: Any) -> _Place | None:
    if value is None:
        return None
    stack, position, number = value
    return _Place(int(stack), None if position is None else float(position), None if number is None else int(number))


@dataclass(frozen=True)
class Origin:
    """Where a choice of images comes from. source: all of them, one slice each. positions: of the chosen; None: all."""

    source: FileSource
    positions: Int64[ndarray, " n"] | None = None

    def chosen(self, indices: Sequence[int]) -> Origin:
        """Return the origin of some of the images."""
        places = np.asarray(indices, np.int64)
        return Origin(self.source, places if self.positions is None else self.positions[places])

    def read(self, index: int, slices: int) -> RawImage | None:
        """Read an image and its neighbours in its series, None if it has none.

        Raises UnreadableImage as `neighbours.stacked` does, if they are too large together, or one cannot be read.
        """
        position = self._position(index)
        if (own := self.source.series().of(position)) is None:
            return None
        members, place = own
        image = self.source.read(position)
        height, width = image.values.shape[:2]
        check_size(height, width, slices, pixel_limit())

        def read(other: int) -> RawImage:
            if other == place:
                return image
            try:
                return self.source.read(int(members[other]))
            except UnreadableImage as error:
                key = self.source.keys[int(members[other])]
                raise UnreadableImage(f"a slice next to it, {key}: {error}") from error

        return around(place, len(members), slices, read)

    def has_neighbours(self, count: int) -> bool:
        """Whether one of so many images has a neighbour in its series."""
        return any(self.source.series().of(self._position(index)) is not None for index in range(count))

    def fingerprint(self, count: int, slices: int) -> str:
        """Return 32 hex digits of name, size and time of change of each slice around the images; "" without any."""
        wanted = set[int]()
        for index in range(count):
            if (own := self.source.series().of(self._position(index))) is not None:
                members, place = own
                wanted.update(members[places_around(place, len(members), slices)].tolist())
        digest = hashlib.blake2b(digest_size=16)
        for position in sorted(wanted):
            size, time = self.source.stamp(position) or (-1, -1)
            digest.update(os.fsencode(self.source.keys[position]) + b"\0%d\0%d\0" % (size, time))
        return digest.hexdigest() if wanted else ""

    def _position(self, index: int) -> int:
        return index if self.positions is None else int(self.positions[index])
