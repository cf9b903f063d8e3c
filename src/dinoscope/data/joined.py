"""Images of several places as one data set: `--data photos --data shards.tar`.

They are in the order of their keys, so the same images train to the same weights however they are shared out among
places. If two places have a key in common, each key begins with the name of its place.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath

import numpy as np

from dinoscope.data.groups import NONE, group_numbers, matched, of_headers
from dinoscope.data.reader import Header, RawImage, Shrink
from dinoscope.data.sources import ImageSource, comparable, fingerprint_of

_ENDING = re.compile(r"\.(tar|zip|parquet|txt|csv|tsv)$", re.IGNORECASE)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class JoinedImages(ImageSource):
    """Images of several sources.

    parts: the sources. owners: number of the source of each image. positions: its place in that source.
    classes: of all sources, a class of one name being one.
    """

    name: str
    parts: tuple[ImageSource, ...]
    keys: tuple[str, ...]
    owners: np.ndarray
    positions: np.ndarray
    labels: tuple[int, ...] | None = None
    classes: tuple[str, ...] = ()
    passed_over: tuple[tuple[str, int], ...] = field(default=(), compare=False)
    groups: tuple[int, ...] | None = None
    grouping: str = ""
    slices: int = 1

    def _at(self, index: int) -> tuple[ImageSource, int]:
        return self.parts[self.owners[index]], int(self.positions[index])

    def read(self, index: int, shrink: Shrink | None = None) -> RawImage:
        """Decode an image of its source."""
        part, position = self._at(index)
        return part.read(position, shrink)

    def header(self, index: int) -> Header:
        """Read the header of an image of its source."""
        part, position = self._at(index)
        return part.header(position)

    def content(self, index: int) -> bytes | None:
        """Return the bytes of the file that holds an image."""
        part, position = self._at(index)
        return part.content(position)

    def listed_as(self, index: int) -> str | None:
        """Return what an image of its source is called in a list of files."""
        part, position = self._at(index)
        return part.listed_as(position)

    def stamp(self, index: int) -> tuple[int, int] | None:
        """Return size in bytes and time of change, as the source has them."""
        part, position = self._at(index)
        return part.stamp(position)

    def sizes(self) -> Sequence[int]:
        """Return the size of each image in bytes, -1 if it is gone."""
        return self._gathered([np.asarray(part.sizes(), np.int64) for part in self.parts]).tolist()

    def fingerprint(self, sizes: Sequence[int] | None = None) -> str:
        """Return 32 hex digits, those of a folder with the same files."""
        return fingerprint_of(self.keys, self.sizes() if sizes is None else sizes)

    def disk_order(self) -> np.ndarray:
        """Return the positions of the images source by source, each in the order of its own."""
        ranks = [np.argsort(part.disk_order()) for part in self.parts]
        return np.lexsort((self._gathered(ranks), self.owners))

    def subset(self, indices: Sequence[int]) -> JoinedImages:
        """Return these images, in this order, with all the class names kept."""
        chosen = np.asarray(indices, np.int64)
        keys, labels, groups = (
            None if values is None else tuple(values[index] for index in chosen)
            for values in (self.keys, self.labels, self.groups)
        )
        positions = self.positions[chosen]
        return replace(
            self, keys=keys or (), labels=labels, groups=groups, owners=self.owners[chosen], positions=positions
        )

    def identifier(self, index: int, kind: str) -> str:
        """Read it of an image of its source."""
        part, position = self._at(index)
        return part.identifier(position, kind)

    def with_slices(self, slices: int, progress: Callable[[int, int], None] | None = None) -> JoinedImages:
        """Return the images with their neighbours in their own files, or the series of their own source."""
        return replace(self, parts=tuple(part.with_slices(slices, progress) for part in self.parts), slices=slices)

    def has_neighbours(self) -> bool:
        """Whether an image of one of the sources has neighbours."""
        return any(part.has_neighbours() for part in self._chosen_parts())

    def neighbours_fingerprint(self) -> str:
        """Return what changes with the slices next to the images in the series of their source."""
        marks = [part.neighbours_fingerprint() for part in self._chosen_parts()] if self.slices > 1 else []
        return " ".join(marks) if any(marks) else ""

    def _chosen_parts(self) -> list[ImageSource]:
        """Return of each source the images that are here."""
        return [part.subset(self.positions[self.owners == number].tolist()) for number, part in enumerate(self.parts)]

    def grouped_by(self, pattern: str, progress: Callable[[int, int], None] | None = None) -> JoinedImages:
        """Return the images with the groups that a pattern finds in the keys that they have in their own source.

        A group of one name in two places is one. Otherwise as `ImageSource.grouped_by`.
        """
        if pattern == NONE or of_headers(pattern):
            return super().grouped_by(pattern, progress)
        columns = [part.keys for part in self.parts]
        own = (
            columns[owner][position]
            for owner, position in zip(self.owners.tolist(), self.positions.tolist(), strict=True)
        )
        return self.with_groups(group_numbers(matched(own, pattern, self.name)), pattern)

    def _gathered(self, columns: Sequence[np.ndarray]) -> np.ndarray:
        """Return, of values for each image of each source, those of the images here."""
        values = np.zeros(len(self), np.int64)
        for number, column in enumerate(columns):
            own = self.owners == number
            values[own] = column[self.positions[own]]
        return values


def joined_images(name: str, parts: Mapping[str, ImageSource]) -> JoinedImages:
    """Return the images of several sources, by the place that each comes from.

    There are labels if every source has them, and groups if every source has them from one column.
    """
    sources = tuple(parts.values())
    columns = [list(part.keys) for part in sources]
    if len(set().union(*columns)) < sum(map(len, columns)):
        columns = [
            [f"{prefix}/{key}" for key in keys] for prefix, keys in zip(_prefixes(list(parts)), columns, strict=True)
        ]
    keys = [key for column in columns for key in column]
    order = sorted(range(len(keys)), key=lambda place: os.fsencode(keys[place]))
    owners = np.repeat(np.arange(len(sources), dtype=np.int32), [len(column) for column in columns])[order]
    positions = np.concatenate([np.arange(len(column)) for column in columns])[order]
    counts = Counter[str]()
    for part in sources:
        counts.update(dict(part.passed_over))
    passed_over = tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    images = JoinedImages(
        name, sources, tuple(keys[place] for place in order), owners, positions, passed_over=passed_over
    )
    if all(part.labels is not None for part in sources):
        images = _labelled(images)
    groupings = {part.grouping for part in sources}
    if len(groupings) > 1:
        logger.warning(
            "%s: the groups of the places (%s) do not come from one column and are not used: --group gives a pattern",
            name,
            ", ".join(sorted(text or "unknown" for text in groupings)),
        )
    elif groupings != {""}:
        images = images.with_groups(images._gathered([np.asarray(part.groups) for part in sources]), *groupings)
    return images


def _labelled(images: JoinedImages) -> JoinedImages:
    names = list(dict.fromkeys(comparable(name) for part in images.parts for name in part.classes))
    by_value = all(name.isdecimal() for name in names) and any(
        list(part.classes) != sorted(part.classes, key=os.fsencode) for part in images.parts
    )  # as a container that tells the labels has them
    classes = tuple(sorted(names, key=int if by_value else os.fsencode))
    number = {name: place for place, name in enumerate(classes)}
    columns = [
        np.array([number[comparable(name)] for name in part.classes], np.int64)[np.asarray(part.labels)]
        for part in images.parts
    ]
    return replace(images, labels=tuple(images._gathered(columns).tolist()), classes=classes)


def _prefixes(places: Sequence[str]) -> list[str]:
    """Return as many of the last names of each place as tell them apart, without the ending of a file."""
    parts = [PurePath(_ENDING.sub("", place)).parts for place in places]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(own[-count:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{'/'.join(own[-1:])}-{number}" for number, own in enumerate(parts, 1)]
