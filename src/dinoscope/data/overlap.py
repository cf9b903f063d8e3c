"""What a val split shares with its train split: groups, files, pixels, or pictures that look nearly the same.

Files and pixels are compared by a hash of 128 bits. Pictures are compared by their difference hash: the picture is
shrunk to 9 x 8 cells, and each of 64 bits tells whether a cell is darker than the one to its right. A copy that was
saved again, in another size or format, has nearly the same bits. So may another picture of the same scene, and now and
then any picture: it is a hint and no fault.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Int64, UInt64

from dinoscope.data.reader import RawImage
from dinoscope.data.sources import ImageSource

MAX_DISTANCE = 2
"""Bits of 64 in which two pictures may differ that look nearly the same."""

PAIRS = 3
"""Examples of each kind."""

_DIGITS = 32  # of a hash of a file or of pixels: 128 bits
_FEWEST_BITS = 4
"""A hash with fewer bits of one kind is of one colour or of a gradient, and too many pictures have it."""

_PARTS = 4  # of 16 bits: of two hashes that differ in two bits, at least two parts are the same
_MAX_CANDIDATES = 2**22  # pairs of hashes compared at a time
_BITS_OF_BYTES = np.array([number.bit_count() for number in range(256)], np.uint8)

Kind = Literal["group", "bytes", "pixels", "picture"]

Progress = Callable[[int, int], None]


class Prints(NamedTuple):
    """By what an image is recognised: hashes of its bytes ("" if it is no file), of its pixels, and of the picture.

    picture: 0 if it has too little structure to be compared.
    """

    content: str
    pixels: str
    picture: int


@dataclass(frozen=True)
class Shared:
    """What the val split shares with the train split.

    kind: "group"; "bytes", of files; "pixels", of other files; "picture", which looks nearly the same, of other pixels.
    images: number of val images. groups: number of groups that are shared; 0 for other kinds.
    pairs: keys of the first of these val images, and of a training image that is like it.
    """

    kind: Kind
    images: int
    groups: int
    pairs: tuple[tuple[str, str], ...]


def prints_of(content: bytes | None, image: RawImage) -> Prints:
    """Return by what an image is recognised, from the bytes of its file and its pixels."""
    values = np.ascontiguousarray(image.values)
    pixels = hashlib.sha256(f"{values.shape} {values.dtype.str}\0".encode())
    pixels.update(values.reshape(-1).data)
    file = "" if content is None else hashlib.sha256(content).hexdigest()
    return Prints(file[:_DIGITS], pixels.hexdigest()[:_DIGITS], picture_hash(image))


def picture_hash(image: RawImage) -> int:
    """Return the difference hash of a picture, row by row; 0 if it has too little structure."""
    plain = image.values.dtype == np.uint8 and image.values.shape[2] in (1, 3)  # others are shown as RGB
    pixels = image.values if plain else image.rgb()
    cells = cv2.resize(pixels, (9, 8), interpolation=cv2.INTER_AREA).reshape(8, 9, -1).astype(np.int64)
    grey = cells @ ((299, 587, 114) if cells.shape[2] == 3 else (1,))
    bits = grey[:, :-1] < grey[:, 1:]
    if not _FEWEST_BITS <= bits.sum() <= bits.size - _FEWEST_BITS:
        return 0
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def shared_images(
    train: ImageSource,
    val: ImageSource,
    prints: tuple[Sequence[Prints | None], Sequence[Prints | None]] | None = None,
    progress: Progress = lambda done, total: None,
) -> list[Shared]:
    """Return what is shared, by kind; an image counts for the first kind of bytes, pixels and picture alone.

    prints: of the images of train and of val, None for an unreadable one. Without them, groups alone are compared.
    """
    matches = shared_places(train, val, prints, progress)
    found: list[Shared] = []
    named = np.zeros(len(val), bool)
    for kind, own in matches.items():
        is_new = (own >= 0) & ~(named & (kind != "group"))
        named |= is_new & (kind != "group")
        places = np.flatnonzero(is_new)
        if len(places):
            groups = len({val.groups[int(place)] for place in places}) if kind == "group" and val.groups else 0
            pairs = tuple((val.keys[int(place)], train.keys[int(own[place])]) for place in places[:PAIRS])
            found.append(Shared(kind, len(places), groups, pairs))
    return found


def shared_places(
    train: ImageSource,
    val: ImageSource,
    prints: tuple[Sequence[Prints | None], Sequence[Prints | None]] | None = None,
    progress: Progress = lambda done, total: None,
) -> dict[Kind, Int64[np.ndarray, " m"]]:
    """Return the place in train of an image that is like each of val, -1 for none, by kind; as `shared_images`."""
    matches: dict[Kind, Int64[np.ndarray, " m"]] = {}
    if train.groups is not None and val.groups is not None:
        matches["group"] = _first_equal(val.groups, train.groups)
    if prints is not None:
        theirs, ours = prints
        matches["bytes"] = _first_equal(*([own.content if own else "" for own in side] for side in (ours, theirs)))
        matches["pixels"] = _first_equal(*([own.pixels if own else "" for own in side] for side in (ours, theirs)))
        pictures = [np.array([own.picture if own else 0 for own in side], np.uint64) for side in (ours, theirs)]
        matches["picture"] = _nearest_of(pictures[0], pictures[1], progress)
    return matches


def _first_equal(queries: Iterable[object], gallery: Iterable[object]) -> Int64[np.ndarray, " m"]:
    """Return the place of the first equal value in the gallery for each query, -1 for none and for ""."""
    places: dict[object, int] = {}
    for place, value in enumerate(gallery):
        places.setdefault(value, place)
    places[""] = -1
    return np.array([places.get(value, -1) for value in queries], np.int64)


def _nearest_of(
    queries: UInt64[np.ndarray, " m"], gallery: UInt64[np.ndarray, " n"], progress: Progress
) -> Int64[np.ndarray, " m"]:
    """Return what `nearest_pictures` does, of hashes among which 0 stands for none."""
    asked, known = np.flatnonzero(queries), np.flatnonzero(gallery)
    near = nearest_pictures(queries[asked], gallery[known], progress=progress)
    matches = np.full(len(queries), -1, np.int64)
    matches[asked[near >= 0]] = known[near[near >= 0]]
    return matches


def nearest_pictures(
    queries: UInt64[np.ndarray, " m"],
    gallery: UInt64[np.ndarray, " n"],
    max_distance: int = MAX_DISTANCE,
    progress: Progress = lambda done, total: None,
) -> Int64[np.ndarray, " m"]:
    """Return the place in the gallery of the hash nearest to each query, -1 if it differs in more bits than allowed.

    Of equally near ones the first is taken. Exact: only hashes that agree in two of their four parts are compared,
    and two hashes of at most two different bits always do. max_distance: at most 2.
    """
    none = np.iinfo(np.int64).max
    values, first = np.unique(gallery, return_index=True)
    asked, inverse = np.unique(queries, return_inverse=True)
    best = np.full(len(asked), none, np.int64)  # distance * n + place
    pairs = list(combinations(range(_PARTS), 2))
    for number, parts in enumerate(pairs):
        mask = np.uint64(sum(0xFFFF << (16 * part) for part in parts))
        order = np.argsort(values & mask, kind="stable")
        keys, wanted = (values & mask)[order], asked & mask
        begin, end = np.searchsorted(keys, wanted), np.searchsorted(keys, wanted, "right")
        ahead = np.concatenate([[0], np.cumsum(end - begin)])
        start = 0
        while start < len(asked):
            stop = max(start + 1, int(np.searchsorted(ahead, ahead[start] + _MAX_CANDIDATES, "right")) - 1)
            counts = (end - begin)[start:stop]
            query = np.repeat(np.arange(start, stop), counts)
            offset = begin[start:stop] - (ahead[start:stop] - ahead[start])
            candidate = order[np.arange(len(query)) + np.repeat(offset, counts)]
            distance = _bits(asked[query] ^ values[candidate])
            near = distance <= max_distance
            score = distance[near] * len(gallery) + first[candidate[near]]
            np.minimum.at(best, query[near], score)
            start = stop
        progress(number + 1, len(pairs))
    return np.where(best == none, -1, best % max(len(gallery), 1))[inverse]


def _bits(values: UInt64[np.ndarray, " c"]) -> Int64[np.ndarray, " c"]:
    """Return how many bits are set."""
    return _BITS_OF_BYTES[values.view(np.uint8)].reshape(-1, 8).sum(axis=1, dtype=np.int64)
