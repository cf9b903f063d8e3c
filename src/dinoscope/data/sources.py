"""Where images lie: the contract of all containers, folders of files, and datasets of a Python program.

A container knows where bytes lie and what each image is called; a reader (`dinoscope.data.images`) turns bytes into
values. A folder, nested or not, with classes or without, becomes an ordered list of files.
"""

from __future__ import annotations

import contextlib
import hashlib
import operator
import os
import re
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any, Literal, TypeVar

import numpy as np
from torch.utils.data import Dataset

from dinoscope.data.groups import NONE, group_numbers, header_numbers, matched, of_headers
from dinoscope.data.images import (
    as_raw,
    extensions,
    identifier_of_bytes,
    read,
    read_header,
    read_identifier,
    read_series_place,
    series_place_of_bytes,
)
from dinoscope.data.neighbours import stacked_header
from dinoscope.data.reader import Header, RawImage, SeriesPlace, Shrink, UnreadableImage, split_key
from dinoscope.data.samples import recognised_file, samples_in, without_ending
from dinoscope.data.series import Origin, Series, series_of
from dinoscope.errors import UserError
from dinoscope.files import MARK, RUN_SETTINGS, drawn_names, is_made, nothing_but_made
from dinoscope.places import require_local

LATER_EXTENSIONS = (".jfif", ".jpe")
"""Names of JPEG that runs of version 0.1 passed over."""

MADE_BY_DINOSCOPE = "made by dinoscope"
"""Folders and pictures that are passed over, counted next to the endings of files."""

SPLITS: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "test", "testing"),
}
"""What people call the two splits, the usual name first."""
_SPLIT_NAMES = {name for names in SPLITS.values() for name in names}

SPLIT_SEED = 0
"""Seed of `split_images`, the same for training and every evaluation."""

_SAMPLED = 16
"""Items of a dataset that its fingerprint is computed from."""

Source = TypeVar("Source", bound="ImageSource")


class ImageSource(ABC):
    """Images in a fixed order, and what is known of each without decoding it.

    name: for messages.
    keys: names of the images, each unique and the same wherever the source lies.
    labels: position in `classes` of each image, or None if there are no classes.
    classes: names of the classes; empty if there are none.
    groups: number of the group (patient, slide, video...) of each image, see `groups.group_numbers`; None if unknown.
    grouping: where the groups come from, "" if they are unknown: a pattern, "column patient", or
        "header:patient#1f0c3a77", with the name of the key (`groups`).
    slices: how many neighbouring slices an image is read with, as channels: see `with_slices`.
    passed_over: what was not taken for an image, as (ending, count), the most frequent first.
    """

    name: str
    keys: Sequence[str]
    labels: Sequence[int] | None
    classes: tuple[str, ...]
    passed_over: tuple[tuple[str, int], ...]
    groups: Sequence[int] | None = None
    grouping: str = ""
    slices: int = 1

    @abstractmethod
    def read(self, index: int, shrink: Shrink | None = None) -> RawImage:
        """Decode image `index`. Raises UnreadableImage. Called in many processes and threads.

        shrink: allows a reduced size (`reader.Reduction`), to which it comes if the format can be decoded so.
        """

    @abstractmethod
    def header(self, index: int) -> Header:
        """Return what is known before pixels are decoded. Raises UnreadableImage."""

    @abstractmethod
    def stamp(self, index: int) -> tuple[int, int] | None:
        """Return size in bytes and time of change, which tell whether an image was replaced.

        The size is -1 if the image is gone; None if nothing but its pixels tells.
        """

    @abstractmethod
    def fingerprint(self, sizes: Sequence[int] | None = None) -> str:
        """Return 32 hex digits that change with the images and not with their place. sizes: `sizes()`, if known."""

    @abstractmethod
    def subset(self: Source, indices: Sequence[int]) -> Source:
        """Return these images, in this order, with all the class names kept."""

    def __len__(self) -> int:
        return len(self.keys)

    def sizes(self) -> Sequence[int]:
        """Return the size of each image in bytes, -1 if it is gone, 0 if it has none."""
        return [stamp[0] if (stamp := self.stamp(index)) else 0 for index in range(len(self))]

    def disk_order(self) -> np.ndarray:
        """Return the positions of the images in the order in which they lie on the disk, as far as it is known."""
        return np.arange(len(self))

    def without(self: Source, keys: Set[str]) -> Source:
        """Return the other images, in the same order."""
        if not keys:
            return self
        return self.subset([index for index, key in enumerate(self.keys) if key not in keys])

    def unlabelled(self: Source) -> Source:
        """Return the images without labels."""
        return replace(self, labels=None, classes=())  # pyright: ignore[reportArgumentType]

    def content(self, index: int) -> bytes | None:
        """Return the bytes of the file of image `index`, None if it is no file. Raises UnreadableImage."""
        return None

    def listed_as(self, index: int) -> str | None:
        """Return what image `index` is called in a list of files (`listing`), absolute; None if it cannot be in one."""
        return None

    def identifier(self, index: int, kind: str) -> str:
        """Return what the header of image `index` says of a kind in `groups.HEADERS`, "" if nothing.

        It is to be hashed at once. Raises UnreadableImage, with nothing of the header in its text.
        """
        content = self.content(index)
        if content is None:
            raise UnreadableImage("no file")
        return identifier_of_bytes(content, split_key(self.keys[index])[0], kind)

    def grouped_by(self: Source, pattern: str, progress: Callable[[int, int], None] | None = None) -> Source:
        """Return the images with other groups: those that a pattern finds in their keys, or of their headers.

        pattern: also header:patient, header:study or header:series; `groups.NONE` takes the groups away.
        progress: called with (done, total) in headers.
        Raises UserError as `matched` and `header_numbers` do.
        """
        if pattern == NONE:
            return replace(self, groups=None, grouping="")  # pyright: ignore[reportArgumentType]
        if of_headers(pattern):
            return self.with_groups(*header_numbers(self, pattern, progress))
        return self.with_groups(group_numbers(matched(self.keys, pattern, self.name)), pattern)

    def with_groups(self: Source, numbers: np.ndarray, grouping: str) -> Source:
        """Return the images with these groups, from wherever they are known: a column, or a header of each image."""
        return replace(self, groups=tuple(numbers.tolist()), grouping=grouping)  # pyright: ignore[reportArgumentType]

    def with_slices(self: Source, slices: int, progress: Callable[[int, int], None] | None = None) -> Source:
        """Return the images as a model of so many slices reads them: with their neighbours as channels.

        Neighbours come from the file, or of a file of one image from its series, whatever is in this choice of images.
        progress: called with (done, total) in files if headers are read.
        """
        if slices == self.slices:
            return self
        return replace(self, slices=slices)  # pyright: ignore[reportArgumentType]

    def has_neighbours(self) -> bool:
        """Whether an image has neighbours: in its file, or in a series that `with_slices` looked for."""
        return any(split_key(key)[1] for key in self.keys)

    def neighbours_fingerprint(self) -> str:
        """Return what changes with the files that images are read with; "" if each is read from its own file."""
        return ""


class FileSource(ImageSource):
    """Images in files, of which some are slices of a series (`series`).

    origin: the whole that the images were chosen from; None for a whole, of one slice each.
    """

    origin: Origin | None = None

    @abstractmethod
    def read_file(self, index: int, shrink: Shrink | None) -> RawImage:
        """Decode image `index`, with as many slices as there are to be, from its file alone. Otherwise as `read`."""

    def read(self, index: int, shrink: Shrink | None = None) -> RawImage:
        """Decode an image, with its neighbours in its file or its series."""
        if self.slices > 1 and self.origin is not None and not split_key(self.keys[index])[1]:
            image = self.origin.read(index, self.slices)
            if image is not None:
                return image
        return self.read_file(index, shrink)

    def series_place(self, index: int) -> SeriesPlace | None:
        """Return where image `index` lies in its series, None if its header does not say. Raises UnreadableImage.

        What names the series is to be hashed at once.
        """
        content = self.content(index)
        return None if content is None else series_place_of_bytes(content, split_key(self.keys[index])[0])

    def series(self, progress: Callable[[int, int], None] | None = None) -> Series:
        """Return the series of the images, whose headers are read the first time; other processes get the result."""
        known: Series | None = self.__dict__.get("_series")
        if known is None:
            known = series_of(self, progress)
            object.__setattr__(self, "_series", known)  # a frozen record
        return known

    def with_slices(self: Files, slices: int, progress: Callable[[int, int], None] | None = None) -> Files:
        """Return the images with their neighbours. Headers are read here, and in no process that is given the result.

        Raises UserError as `series_of` does.
        """
        if slices == self.slices:
            return self
        origin = self._origin()
        if slices > 1:
            origin.source.series(progress)
        return replace(self, slices=slices, origin=origin)  # pyright: ignore[reportArgumentType]

    def has_neighbours(self) -> bool:
        """Whether an image has neighbours in its file or, of a source of several slices, in its series."""
        found = self.slices > 1 and self.origin is not None and self.origin.has_neighbours(len(self))
        return found or super().has_neighbours()

    def neighbours_fingerprint(self) -> str:
        """Return what changes with the slices next to the images in their series."""
        return "" if self.slices == 1 or self.origin is None else self.origin.fingerprint(len(self), self.slices)

    def _origin(self) -> Origin:
        return Origin(self) if self.origin is None else self.origin


Files = TypeVar("Files", bound=FileSource)


# Folders


@dataclass(frozen=True)
class ImageFolder(FileSource):
    """The image files below `root`, and their classes if the folders name them.

    paths: relative to root, with forward slashes, sorted by their bytes: the same order on every machine. Of a file
    that holds several images, each has its name behind a # (`samples`).
    classes: names of the first-level folders in Unicode's form NFC, in the order of the folders' bytes. Folders that
    differ in their Unicode form alone are one class.
    """

    root: Path
    paths: tuple[str, ...]
    labels: tuple[int, ...] | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    classes: tuple[str, ...] = ()
    passed_over: tuple[tuple[str, int], ...] = field(default=(), compare=False)
    groups: tuple[int, ...] | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    grouping: str = ""
    slices: int = 1
    origin: Origin | None = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The folder."""
        return str(self.root)

    @property
    def keys(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The relative paths."""
        return self.paths

    def path(self, index: int) -> Path:
        """Return the file of image `index`."""
        return self.root / split_key(self.paths[index])[0]

    def read_file(self, index: int, shrink: Shrink | None) -> RawImage:
        """Decode a file."""
        return read(self.path(index), frame=split_key(self.paths[index])[1], shrink=shrink, slices=self.slices)

    def content(self, index: int) -> bytes:
        """Read a file. Raises UnreadableImage."""
        try:
            return self.path(index).read_bytes()
        except OSError as error:
            raise UnreadableImage(f"cannot be read: {error.strerror}") from error

    def listed_as(self, index: int) -> str:
        """Return the absolute path of a file, and which image of it."""
        return (self.root.absolute() / self.paths[index]).as_posix()

    def identifier(self, index: int, kind: str) -> str:
        """Read it of a file."""
        return read_identifier(self.path(index), kind)

    def series_place(self, index: int) -> SeriesPlace | None:
        """Read it of a file."""
        return read_series_place(self.path(index))

    def header(self, index: int) -> Header:
        """Read a file's header."""
        return stacked_header(read_header(self.path(index), frame=split_key(self.paths[index])[1]), self.slices)

    def stamp(self, index: int) -> tuple[int, int]:
        """Return size in bytes and time of change in nanoseconds, (-1, -1) if there is no such file."""
        try:
            status = self.path(index).stat()
        except OSError:
            return -1, -1
        return status.st_size, status.st_mtime_ns

    def fingerprint(self, sizes: Sequence[int] | None = None) -> str:
        """Return 32 hex digits that change when a file is added, removed, renamed, reordered or resized."""
        return fingerprint_of(self.paths, self.sizes() if sizes is None else sizes)

    def labelled_by(self, owners: Sequence[str]) -> ImageFolder:
        """Return the images with labels. owners: the name of the class of each, or of the folder that stands for it."""
        labels, classes = class_numbers(owners)
        return replace(self, labels=labels, classes=classes)

    def subset(self, indices: Sequence[int]) -> ImageFolder:
        """Return these images, in this order, with all the class names kept."""
        return replace(
            self,
            paths=_chosen(self.paths, indices),
            labels=_chosen(self.labels, indices),
            groups=_chosen(self.groups, indices),
            origin=self._origin().chosen(indices),
        )


def class_numbers(owners: Sequence[str]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the label of each image and the classes, from the name of the class of each image.

    Names that differ in their Unicode form alone are one class.
    """
    classes = tuple(dict.fromkeys(map(comparable, sorted(set(owners), key=os.fsencode))))
    number = {name: i for i, name in enumerate(classes)}
    position = {owner: number[comparable(owner)] for owner in set(owners)}
    return tuple(position[owner] for owner in owners), classes


def fingerprint_of(keys: Sequence[str], sizes: Sequence[int]) -> str:
    """Return 32 hex digits of the keys and sizes of files, in this order."""
    digest = hashlib.blake2b(digest_size=16)
    for key, size in zip(keys, sizes, strict=True):
        digest.update(os.fsencode(key) + b"\0%d\0" % size)
    return digest.hexdigest()


def _chosen(values: tuple[Any, ...] | None, indices: Sequence[int]) -> Any:
    return None if values is None else tuple(values[i] for i in indices)


def images_in_folder(
    root: Path,
    *,
    labelled: bool | None = None,
    splits: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ImageFolder:
    """Find the images below `root` by extension, at any depth, following links to files and folders.

    Hidden files and folders, `__MACOSX`, and below `root` what dinoscope has made (runs, results, pictures) are passed
    over. A link to nowhere is kept, to be reported as unreadable rather than to vanish.

    labelled: None takes the first-level folders as classes if every image lies in one, there are at least two, and they
    are not all named like splits (train, val…). True insists on it, and allows a single class. False gives no labels.
    splits: of train/CLASS/... and val/CLASS/..., which may lie in a single folder below `root`, label by the classes of
    both splits together.
    progress: called with (done, total) in folders right below `root`.
    Raises UserError if `root` cannot be read, holds no images, or with labelled=True has images outside of class
    folders.
    """
    _require_folder(root)
    counts, endings = Counter[str](), extensions()
    files = _image_paths(root, endings, progress, counts)
    paths = tuple(sorted(samples_in(root, files, progress), key=os.fsencode))
    passed_over = tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    if not paths:
        others = f"; passed over: {counted(passed_over)}" if passed_over else ""
        raise UserError(f"{root}: no images in this folder or below it. Looked for {' '.join(endings)}{others}")
    stray = next((path for path in paths if "/" not in path), None)
    if labelled and stray is not None:
        raise UserError(
            f"{root}: '{stray}' lies outside of any class folder. "
            "Move every image into a folder named after its class, or go without labels."
        )
    unlabelled = ImageFolder(root, paths, passed_over=passed_over)
    if labelled is False or stray is not None:
        return unlabelled
    folder = unlabelled.labelled_by([path.partition("/")[0] for path in paths])
    if labelled or (len(folder.classes) >= 2 and not all(map(is_split, folder.classes))):
        return folder
    if not splits:
        return unlabelled
    parts = [path.split("/") for path in paths]
    first = {names[0].lower() for names in parts}
    depth = 1 if len(first) == 1 and first.isdisjoint(_SPLIT_NAMES) else 0
    if all(len(names) > depth + 2 and names[depth].lower() in _SPLIT_NAMES for names in parts):
        folder = unlabelled.labelled_by([names[depth + 1] for names in parts])
        if len(folder.classes) >= 2:
            return folder
    return unlabelled


def images_within(folder: Path) -> list[Path]:
    """Return the images right in a folder, numbers in their names by value (frame9, frame10): the frames of a video.

    What is passed over is as in `find_images`. Raises UserError if the folder cannot be listed.
    """

    def by_numbers(path: Path) -> tuple[list[Any], str]:
        parts: list[Any] = re.split(r"(\d+)", path.name)
        parts[1::2] = map(int, parts[1::2])
        return parts, path.name

    endings = extensions()
    return sorted((Path(entry.path) for entry in _listing(folder)[2] if _is_image(entry, endings)), key=by_numbers)


def comparable(name: str) -> str:
    """Return the form in which names are compared: an accented letter is stored as one character or two (NFC, NFD)."""
    return unicodedata.normalize("NFC", name)


def as_stored(folder: Path, relative: str) -> Path:
    """Return FOLDER/RELATIVE, each name in the Unicode form that is on the disk; as given if neither is."""
    path = folder / relative
    if relative.isascii() or path.exists():
        return path
    for part in PurePath(relative).parts:
        forms = (folder / form for form in (part, *(unicodedata.normalize(kind, part) for kind in ("NFC", "NFD"))))
        folder = next((form for form in forms if form.exists()), folder / part)
    return folder


def counted(counts: Sequence[tuple[str, int]], limit: int = 6) -> str:
    """Return counts in words: "12 .heic, 1 .txt", those after the first few summed up."""
    words = [f"{count:,} {name}" for name, count in counts[:limit]]
    rest = sum(count for _, count in counts[limit:])
    return ", ".join([*words, *([f"{rest:,} others"] if rest else [])])


# Splits


def is_split(name: str) -> bool:
    """Whether a folder is called like a split."""
    return name.lower() in _SPLIT_NAMES


def split_folder(data: Path, split: Literal["train", "val"]) -> Path | None:
    """Return a folder's folder for the split, named as in `SPLITS` in upper or lower case, or None if it has none.

    If DATA has neither split and holds a single folder (an archive unpacked into a folder), that folder is searched
    instead. Raises UserError if DATA is not a folder that can be read.
    """
    _require_folder(data)
    folders = subfolders(data)
    if len(folders) == 1 and folders[0].name.lower() not in _SPLIT_NAMES:
        folders = subfolders(folders[0])
    by_name = {folder.name.lower(): folder for folder in sorted(folders)}  # of two, the one in lower case
    return next((by_name[name] for name in SPLITS[split] if name in by_name), None)


# Parts of a source


def label_fraction(images: Source, fraction: float, seed: int) -> Source:
    """Return the same share of every class, rounded, and at least one image of each; order kept.

    Images are ranked by a hash of (seed, key), so a seed gives the same images on any machine and with any version of
    any library, and a smaller fraction is a subset of a larger one. Raises UserError if there are no labels or the
    fraction is not in (0, 1].
    """
    if images.labels is None:
        raise UserError(f"{images.name}: a fraction of the labels was requested, but the folder has no classes")
    if not 0 < fraction <= 1:
        raise UserError(f"the fraction of labels is {fraction}; it must be above 0 and at most 1")
    chosen: list[int] = []
    for indices in _members(images.labels):
        indices.sort(key=lambda i: hash_rank(seed, images.keys[i]))
        chosen += indices[: max(1, round(fraction * len(indices)))]
    return images.subset(sorted(chosen))


def image_fraction(images: Source, fraction: float) -> Source:
    """Return a share of the images, rounded, and at least one; labels are ignored; order kept.

    Images are ranked by a hash of their key alone: every run on a folder gets the same ones, on any machine, and a
    smaller fraction is a subset of a larger one. Raises UserError if the fraction is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise UserError(f"--fraction must be above 0 and at most 1, not {fraction}")
    if fraction == 1:
        return images
    ranked = sorted(range(len(images)), key=lambda i: hash_rank(0, images.keys[i]))
    return images.subset(sorted(ranked[: max(1, round(fraction * len(images)))]))


def split_images(images: Source, share: float) -> tuple[Source, Source]:
    """Return about this share of the images to train on, and the rest to measure on; groups are whole; order kept.

    The hash of a group, or of the key of an image without one, decides alone: so the split is the same on any machine,
    and an image that is added moves no other to the other side. Raises UserError if the share is not between 0 and 1,
    or a side would be empty.
    """
    if not 0 < share < 1:
        raise UserError(f"--split is the share of the images to train on, above 0 and below 1, not {share:g}")
    names = images.keys if images.groups is None else map(str, images.groups)
    limit = int(share * 2**64)
    is_train = [int.from_bytes(hash_rank(SPLIT_SEED, name)[:8], "big") < limit for name in names]
    if all(is_train) or not any(is_train):
        what = f"{len(is_train)} images" if images.groups is None else f"{len(set(images.groups))} groups"
        raise UserError(
            f"{images.name}: --split {share:g} of {what} leaves none to {'measure' if all(is_train) else 'train'} on. "
            "Give another share, or make the folders train and val yourself"
        )
    train, rest = ([place for place, own in enumerate(is_train) if own is side] for side in (True, False))
    return images.subset(train), images.subset(rest)


def balanced(images: Source, limit: int) -> Source:
    """Return at most `limit` images, evenly spaced; with labels, as many of each class as possible; order kept.

    Classes that have fewer images than their part leave the rest to others. If there are more classes than `limit`,
    classes are evenly spaced too.
    """
    if len(images) <= limit:
        return images
    if images.labels is None:
        return images.subset(evenly(len(images), limit))
    members = _members(images.labels)
    if len(members) > limit:
        members = [members[place] for place in evenly(len(members), limit)]
    else:  # the smallest first: what a class lacks goes to those after it
        members.sort(key=len)
    chosen: list[int] = []
    for place, indices in enumerate(members):
        quota = (limit - len(chosen)) // (len(members) - place)
        chosen += [indices[at] for at in evenly(len(indices), quota)]
    return images.subset(sorted(chosen))


def _members(labels: Sequence[int]) -> list[list[int]]:
    """Return the positions of each label, in the order in which the labels appear."""
    members = defaultdict[int, list[int]](list)
    for index, label in enumerate(labels):
        members[label].append(index)
    return list(members.values())


def evenly(count: int, limit: int | None) -> list[int]:
    """Return the places of at most `limit` (None: all) of `count` images, evenly spaced. Raises UserError below 1."""
    if limit is not None and limit < 1:
        raise UserError(f"--limit must be at least 1, not {limit}")
    taken = count if limit is None else min(limit, count)
    return [place * count // taken for place in range(taken)]


def first_to_last(count: int, limit: int) -> list[int]:
    """Return the places of at most `limit` of `count`: the first, the last, and evenly between; of one the first."""
    if count <= limit or limit < 2:
        return list(range(min(count, limit)))
    return [round(place * (count - 1) / (limit - 1)) for place in range(limit)]


def hash_rank(seed: int, key: str) -> bytes:
    """Return the place of an image in an order that looks random and is the same everywhere; smaller comes first."""
    return hashlib.blake2b(b"%d\0" % seed + os.fsencode(key), digest_size=16).digest()


# Searching folders


def _require_folder(root: Path) -> None:
    require_local(root)
    if not root.exists():
        raise UserError(f"{root}: no such folder. Check the path.")
    if not root.is_dir():
        raise UserError(f"{root}: a file, not a folder. Give the folder that holds the images.")


def _image_paths(
    root: Path, endings: tuple[str, ...], progress: Callable[[int, int], None] | None, passed_over: Counter[str]
) -> Iterator[str]:
    """Yield the images below root, in no order, and count what is no image. A folder inside itself is passed over."""
    begun = total = 0
    pending: list[tuple[Path, str, frozenset[tuple[int, int]]]] = [(root, "", frozenset())]
    while pending:
        folder, prefix, above = pending.pop()
        if progress is not None and prefix.count("/") == 1:  # all below the one before it has been listed
            total = total or len(pending) + 1
            progress(begun, total)
            begun += 1
        status = folder.stat()
        identity = status.st_dev, status.st_ino
        if identity in above:
            continue
        names, folders, files = _listing(folder)
        if prefix and names & {MARK, RUN_SETTINGS} and is_made(folder):
            passed_over[MADE_BY_DINOSCOPE] += 1
            continue
        if MARK in names and (drawn := names & drawn_names(folder)):
            passed_over[MADE_BY_DINOSCOPE] += len(drawn)
        pending += [(Path(entry.path), f"{prefix}{entry.name}/", above | {identity}) for entry in folders]
        for entry in files:
            if _is_image(entry, endings):
                yield prefix + entry.name
            elif not entry.name.lower().endswith(endings):
                if not without_ending(entry.name):
                    passed_over[PurePath(entry.name).suffix.lower()] += 1
                elif recognised_file(Path(entry.path)):
                    yield prefix + entry.name
                else:
                    passed_over["without an ending"] += 1


def subfolders(folder: Path) -> list[Path]:
    """Return the folders that may hold data: not those of dinoscope alone."""
    subfolders: list[Path] = []
    for path in (Path(entry.path) for entry in _listing(folder)[1]):
        with contextlib.suppress(OSError):  # whoever reads it gets the error
            if nothing_but_made(path):
                continue
        subfolders.append(path)
    return subfolders


def _listing(folder: Path) -> tuple[set[str], list[os.DirEntry[str]], list[os.DirEntry[str]]]:
    """Return all names, and the folders and the files that may be data: not hidden, not debris, not dinoscope's own."""
    try:
        with os.scandir(folder) as scanned:
            entries = list(scanned)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be listed ({error.strerror}). Change its permissions or move it away."
        ) from error
    names = {entry.name for entry in entries}
    unwanted = {"__MACOSX"} | (drawn_names(folder) if MARK in names else set())
    folders: list[os.DirEntry[str]] = []
    files: list[os.DirEntry[str]] = []
    for entry in entries:
        if not entry.name.startswith(".") and entry.name not in unwanted:
            (folders if _is_folder(entry) else files).append(entry)
    return names, folders, files


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_image(entry: os.DirEntry[str], endings: tuple[str, ...]) -> bool:
    """Whether it is named like an image, and is a file or a link to nowhere; not a pipe, a socket or a device."""
    if not entry.name.lower().endswith(endings):
        return False
    try:
        return entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists())
    except OSError:  # a link to itself
        return True


# Datasets


@dataclass(frozen=True)
class DatasetImages(ImageSource):
    """Items of a map-style `torch.utils.data.Dataset`: images (see `images.as_raw`), or pairs (image, label).

    An item must be the same whenever it is requested: views are made here. If the dataset raises an exception, the
    image is unreadable. keys: places in the dataset.
    """

    dataset: Dataset[Any]
    keys: tuple[str, ...]
    labels: tuple[int, ...] | None
    classes: tuple[str, ...]
    name: str = "the dataset"
    passed_over: tuple[tuple[str, int], ...] = ()
    groups: tuple[int, ...] | None = None
    grouping: str = ""
    slices: int = 1

    def read(self, index: int, shrink: Shrink | None = None) -> RawImage:
        """Take the image of an item."""
        key = self.keys[index]
        try:
            item = self.dataset[int(key)]
            return as_raw(item[0] if _is_pair(item) else item, self.slices)
        except UnreadableImage as error:
            raise UnreadableImage(f"item {key}: {error}") from error
        except Exception as error:  # the dataset's own
            reason = " ".join(str(error).split())
            raise UnreadableImage(f"item {key}: {type(error).__name__}: {reason}") from error

    def header(self, index: int) -> Header:
        """Return what the image of an item is, for which the item is made."""
        values = self.read(index).values
        height, width, channels = values.shape
        return Header("dataset", height, width, grey=channels == 1, sample=values.dtype.str[1:], channels=channels)

    def stamp(self, index: int) -> None:
        """Return None: an item has neither size nor time."""

    def fingerprint(self, sizes: Sequence[int] | None = None) -> str:
        """Return 32 hex digits of the number of items and of 16 of them, evenly spaced, with their labels."""
        digest = hashlib.blake2b(b"%d\0" % len(self), digest_size=16)
        for index in first_to_last(len(self), _SAMPLED):
            digest.update(b"%d\0%d\0" % (int(self.keys[index]), -1 if self.labels is None else self.labels[index]))
            with contextlib.suppress(UnreadableImage):
                values = self.read(index).values
                digest.update(f"{values.shape} {values.dtype.str}\0".encode() + np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    def subset(self, indices: Sequence[int]) -> DatasetImages:
        """Return these items, in this order, with all the class names kept."""
        return replace(
            self,
            keys=_chosen(self.keys, indices),
            labels=_chosen(self.labels, indices),
            groups=_chosen(self.groups, indices),
        )


def dataset_images(dataset: Dataset[Any], name: str = "the dataset") -> DatasetImages:
    """Return the items of a map-style dataset as images, with labels if its items are pairs (image, label).

    Labels are whole numbers or texts. They are taken from its attribute `targets` or, for which every item is made,
    from the items; the names of the classes from its attribute `classes`. Raises UserError if the dataset has no
    length, no items, or other labels.
    """
    try:
        count = len(dataset)  # pyright: ignore[reportArgumentType]
    except TypeError as error:
        raise UserError(f"{name} has no length: a map-style dataset is needed, whose items have numbers") from error
    if not count:
        raise UserError(f"{name} has no items")
    keys = tuple(map(str, range(count)))
    if not _is_pair(dataset[0]):
        return DatasetImages(dataset, keys, None, (), name)
    targets = getattr(dataset, "targets", None)
    if targets is None or len(targets) != count:
        targets = [dataset[place][1] for place in range(count)]
    if all(isinstance(target, str) for target in targets):
        texts = list(map(str, targets))
        classes = tuple(sorted(set(texts)))
        number = {text: place for place, text in enumerate(classes)}
        return DatasetImages(dataset, keys, tuple(number[text] for text in texts), classes, name)
    labels = tuple(map(_whole, targets))
    if min(labels) < 0:
        wrong = targets[next(place for place, label in enumerate(labels) if label < 0)]
        raise UserError(f"{name}: {wrong!r} is no label; labels are whole numbers from 0, or texts")
    names = getattr(dataset, "classes", None) or ()
    classes = tuple(map(str, names if len(names) > max(labels) else range(max(labels) + 1)))
    return DatasetImages(dataset, keys, labels, classes, name)


def _is_pair(item: Any) -> bool:
    return isinstance(item, tuple | list) and len(item) == 2


def _whole(label: Any) -> int:
    """Return a label as a whole number, -1 if it is none."""
    try:
        return operator.index(label.item() if hasattr(label, "item") else label)
    except (TypeError, ValueError, RuntimeError):
        return -1
