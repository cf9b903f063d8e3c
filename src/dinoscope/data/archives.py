"""Images within tar, zip and parquet files: one index for all the files that `--data` names, and the source over it.

The index says which file holds an image, where, and how many bytes. It is made once, kept in the cache as plain arrays,
and mapped into memory, so that all processes share it and no image costs a Python object. Images are in the order of
their keys, as in a folder: the same images get the same numbers, and so the same views, in any container.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import operator
import os
import shutil
import zlib
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path, PurePath
from typing import Any, BinaryIO, TypeVar, overload

import numpy as np

from dinoscope.data.containers import CONTAINERS
from dinoscope.data.containers.container import Container, Entry, Progress
from dinoscope.data.images import (
    check_bytes,
    extensions,
    frames_of_bytes,
    pixel_limit,
    read_bytes,
    stream_header,
    unreadable_if_wrong,
)
from dinoscope.data.neighbours import stacked_header
from dinoscope.data.reader import START, Header, RawImage, Shrink, UnreadableImage, split_key
from dinoscope.data.samples import frame_endings, is_recognised, keys_of, versions, without_ending
from dinoscope.data.series import Origin
from dinoscope.data.sources import FileSource, class_numbers, comparable, counted, fingerprint_of
from dinoscope.errors import UserError, located
from dinoscope.files import cache_folder, locked
from dinoscope.places import parse_place
from dinoscope.remote import RemotePath, read_range, states

logger = logging.getLogger(__name__)

_VERSION = 1
_START = 512  # bytes by which a container is recognised
_COPIES = "images.bin"
_COLUMNS = ("names", "ends", "files", "offsets", "sizes", "unpacked", "labels")

Watch = Callable[[int, int], None]
V = TypeVar("V", str, int)


def container_of(path: Path) -> str | None:
    """Return the kind of container that a file is by its content, None if it is none.

    Raises OSError, and for a file on a server UserError without its name.
    """
    with path.open("rb") as file:
        start = file.read(_START)
    return next((name for name, container in CONTAINERS.items() if container.recognises(start)), None)


def endings() -> tuple[str, ...]:
    """Return the endings of containers' names."""
    return tuple(ending for container in CONTAINERS.values() for ending in container.endings)


# Columns of an index, seen through a choice of rows


class _Column(Sequence[V], ABC):
    """Values of some rows, each made when it is asked for."""

    rows: range | np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> V: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[V, ...]: ...
    def __getitem__(self, place: int | slice) -> V | tuple[V, ...]:
        if isinstance(place, slice):
            return tuple(self._value(int(row)) for row in self.rows[place])
        return self._value(int(self.rows[place]))

    def __iter__(self) -> Iterator[V]:
        return (self._value(int(row)) for row in self.rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(operator.eq, self, other))

    def __hash__(self) -> int:
        return hash(tuple(self))

    @abstractmethod
    def _value(self, row: int) -> V: ...


def _chooser(rows: range | np.ndarray) -> slice | np.ndarray:
    return slice(rows.start, rows.stop) if isinstance(rows, range) else rows


class Names(_Column[str]):
    """Texts that lie one behind the other. skip: bytes that are left out at the beginning of each."""

    def __init__(self, text: np.ndarray, ends: np.ndarray, rows: range | np.ndarray, skip: int = 0) -> None:
        self.text, self.ends, self.rows, self.skip = text, ends, rows, skip

    def _value(self, row: int) -> str:
        start = int(self.ends[row - 1]) if row else 0
        return os.fsdecode(self.text[start + self.skip : int(self.ends[row])].tobytes())


class Numbers(_Column[int]):
    """Numbers of an array."""

    def __init__(self, numbers: np.ndarray, rows: range | np.ndarray) -> None:
        self.numbers, self.rows = numbers, rows

    def _value(self, row: int) -> int:
        return int(self.numbers[row])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.numbers[_chooser(self.rows)], dtype or np.int64)


# The index


class _Files:
    """Files that stay open, and their bytes at any place, here or on a server. Other processes open their own."""

    def __init__(self) -> None:
        self.descriptors: dict[Path, int] = {}

    def read(self, file: Path, offset: int, size: int) -> bytes:
        """Return so many bytes, or fewer if the file ends before. Raises OSError."""
        if isinstance(file, RemotePath):
            return read_range(file, offset, size)
        descriptor = self.descriptors.get(file)
        if descriptor is None:
            opened = os.open(file, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            descriptor = self.descriptors.setdefault(file, opened)
            if descriptor != opened:  # another thread was faster
                os.close(opened)
        return os.pread(descriptor, size, offset)

    def __getstate__(self) -> dict[str, Any]:
        return {"descriptors": {}}

    def __del__(self) -> None:
        for descriptor in self.descriptors.values():
            with contextlib.suppress(OSError):
                os.close(descriptor)


@dataclass
class Index:
    """Where the images of some containers lie, in the order of the keys' bytes.

    columns: names (UTF-8, one behind the other), ends (of each name), files (number of the file), offsets, sizes,
        unpacked (as of `Entry`), labels (-1 without).
    files: that hold the bytes, here or on a server. stamp: time of change of the newest container, in nanoseconds.
    classes: names of the labels; empty if not all images have one. passed_over: as of `ImageSource`.
    folder: in the cache, which holds the columns.
    """

    columns: dict[str, np.ndarray]
    files: tuple[Path, ...]
    stamp: int
    classes: tuple[str, ...]
    passed_over: tuple[tuple[str, int], ...]
    folder: Path
    _opened: _Files = field(default_factory=_Files, repr=False)

    def __len__(self) -> int:
        return len(self.columns["ends"])

    def content(self, row: int) -> bytes:
        """Return the bytes of an image. Raises UnreadableImage if they are gone, damaged or too many."""
        offset, size, unpacked = (int(self.columns[name][row]) for name in ("offsets", "sizes", "unpacked"))
        check_bytes(unpacked or size, pixel_limit())
        try:
            content = self._opened.read(self.files[int(self.columns["files"][row])], offset, size)
        except OSError as error:
            raise UnreadableImage(f"cannot be read: {error.strerror}") from error
        if len(content) < size:
            raise UnreadableImage("truncated: the container ends before it")
        return _inflated(content, unpacked) if unpacked else content

    def __getstate__(self) -> dict[str, Any]:
        """Leave the columns out: the other process maps the files itself."""
        return self.__dict__ | {"columns": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.columns = _mapped(self.folder)


def _inflated(content: bytes, size: int) -> bytes:
    try:
        unpacked = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size + 1)
    except zlib.error as error:
        raise UnreadableImage(f"damaged: {error}") from error
    if len(unpacked) != size:
        raise UnreadableImage("damaged: another size than the container says")
    return unpacked


def index_of(files: Sequence[Path], progress: Watch | None = None, kind: Container | None = None) -> Index:
    """Return the index of these containers, from the cache if they have not changed.

    kind: of all the files; None finds it out.
    Raises UserError if one is no container, is damaged, or two of them hold images of one name.
    """
    files = list(dict.fromkeys(files))
    stamps = _stamps(files)
    about = {"version": _VERSION, "files": stamps, "endings": extensions(), "packages": versions()}
    digest = hashlib.blake2b(json.dumps(about).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    folder = cache_folder("index") / digest
    if (known := _read(folder)) is not None:
        return known
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_suffix(".lock"), lambda: logger.info("another process makes the index of the images")):
            if (known := _read(folder)) is not None:
                return known
            kinds = {path: kind or _known(path) for path in files}
            return _made(kinds, stamps, folder, progress or (lambda done, total: None))
    except OSError as error:
        raise UserError(
            f"the index of the images cannot be written to {folder.parent} ({error.strerror}): set $DINOSCOPE_CACHE to "
            "another folder"
        ) from error


def _stamps(files: Sequence[Path]) -> list[list[Any]]:
    """Return name, size and time of change of each container; of those on a server also what marks their content."""
    known = dict(zip(remote := [path for path in files if isinstance(path, RemotePath)], states(remote), strict=True))
    stamps = list[list[Any]]()
    for path in files:
        if isinstance(path, RemotePath):
            state = known[path]
            if isinstance(state, UserError):
                raise UserError(f"{path}: {state}") from state
            stamps.append([str(path), state.size, state.changed, state.mark])
        else:
            try:
                status = path.stat()
            except OSError as error:
                raise UserError(f"{path} cannot be read: {error.strerror}") from error
            stamps.append([str(path.resolve()), status.st_size, status.st_mtime_ns])
    return stamps


def _known(path: Path) -> Container:
    try:
        with located(str(path)):
            kind = container_of(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if kind is None:
        packed = path.name.lower().endswith((".gz", ".tgz", ".bz2", ".xz", ".zst"))
        what = "Decompress it first." if packed else f"Give a folder of images, or a file: {', '.join(CONTAINERS)}."
        raise UserError(f"{path}: neither a folder nor a container of images. {what}")
    return CONTAINERS[kind]


def _made(kinds: dict[Path, Container], stamps: list[Any], folder: Path, progress: Watch) -> Index:
    """Make the index in a folder next to its place, and move it there."""
    workplace = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(workplace, ignore_errors=True)
    workplace.mkdir()
    try:
        with (workplace / _COPIES).open("wb") as copies:
            sizes = [stamp[1] for stamp in stamps]
            columns, files, classes, passed_over = _collected(kinds, sizes, copies, progress)
        if not (workplace / _COPIES).stat().st_size:
            (workplace / _COPIES).unlink()
        for name in _COLUMNS:
            np.save(workplace / f"{name}.npy", columns[name])
        own = str(workplace / _COPIES)
        about = {
            "files": [_COPIES if str(path) == own else str(path) for path in files],
            "stamp": max(stamp[2] for stamp in stamps),
            "classes": classes,
            "passed_over": passed_over,
        }
        (workplace / "index.json").write_text(json.dumps(about))
        workplace.rename(folder)
    except BaseException:
        shutil.rmtree(workplace, ignore_errors=True)
        raise
    made = _read(folder)
    assert made is not None
    return made


def _mapped(folder: Path) -> dict[str, np.ndarray]:
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _COLUMNS}


def _read(folder: Path) -> Index | None:
    """Return the index in a folder, None if there is none or it is damaged."""
    try:
        about = json.loads((folder / "index.json").read_text())
        columns = _mapped(folder)
        files = tuple(folder / path if path == _COPIES else parse_place(path) for path in about["files"])
        if len({len(columns[name]) for name in _COLUMNS[1:]}) != 1:
            raise ValueError("columns of different lengths")
        passed_over = tuple((ending, count) for ending, count in about["passed_over"])
        return Index(columns, files, about["stamp"], tuple(about["classes"]), passed_over, folder)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("the index %s is damaged and made again (%s)", folder, error)
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _collected(
    kinds: dict[Path, Container], sizes: Sequence[int], copies: BinaryIO, progress: Watch
) -> tuple[dict[str, np.ndarray], list[Path], tuple[str, ...], list[tuple[str, int]]]:
    """Return the columns, the files, the names of the classes, and what was passed over."""
    known, counts = dict[bytes, tuple[Any, ...]](), Counter[str]()
    wanted, several = extensions(), frame_endings()
    numbers, opened = dict[Path, int](), _Files()
    total, before = sum(sizes), 0
    for (path, container), size in zip(kinds.items(), sizes, strict=True):
        report = Progress(lambda done, _, before=before: progress(before + done, total), size)
        own: dict[bytes, tuple[Any, ...]] = {}
        try:
            for entry in container.entries(path, copies, report):
                if entry.file is not None:
                    copies.flush()
                # of two with one name the later one counts
                for key in _keys(entry, path, opened, wanted, several, counts):
                    number = numbers.setdefault(entry.file or path, len(numbers))
                    own[key] = number, entry.offset, entry.size, entry.unpacked, entry.label
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        if double := next((key for key in own if key in known), None):
            raise UserError(
                f"{path}: '{os.fsdecode(double)}' is also in another of the containers. Give each image a name of its "
                "own, or use one container at a time."
            )
        known |= own
        before += size
        progress(before, total)
    keys = sorted(known)
    rows = [known[key] for key in keys]
    labels = {row[4] for row in rows}
    classes = () if "" in labels else tuple(sorted(labels, key=_numbers_first))
    place = {name: number for number, name in enumerate(classes)}
    columns = {
        "names": np.frombuffer(b"".join(keys), np.uint8),
        "ends": np.cumsum([len(key) for key in keys], dtype=np.int64),
        "files": np.array([row[0] for row in rows], np.int32),
        "offsets": np.array([row[1] for row in rows], np.int64),
        "sizes": np.array([row[2] for row in rows], np.int64),
        "unpacked": np.array([row[3] for row in rows], np.int64),
        "labels": np.array([place.get(row[4], -1) for row in rows], np.int32),
    }
    return columns, list(numbers), classes, sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _numbers_first(text: str) -> tuple[bool, int, str]:
    """Sort names of classes that are numbers by value, before all others."""
    return (False, int(text), text) if text.isdecimal() else (True, 0, text)


def _keys(
    entry: Entry, path: Path, opened: _Files, wanted: tuple[str, ...], several: tuple[str, ...], counts: Counter[str]
) -> list[bytes]:
    """Return the keys of the images in an entry; one that is no image has none and is counted."""
    parts = [part for part in entry.key.split("/") if part not in ("", ".")]
    if not parts or any(part.startswith(".") or part == "__MACOSX" for part in parts):  # ".." too
        return []
    name, ending = "/".join(parts), not without_ending(parts[-1])
    if ending and not name.lower().endswith(wanted):
        counts[PurePath(name).suffix.lower()] += 1
        return []
    if ending and not name.lower().endswith(several):
        return [os.fsencode(name)]
    try:
        content = _content(opened, entry.file or path, entry)
        if not ending and not is_recognised(content[:START], parts[-1]):
            counts["without an ending"] += 1
            return []
        return [os.fsencode(key) for key in keys_of(name, frames_of_bytes(content, parts[-1]))]
    except UnreadableImage:
        return [os.fsencode(name)]


def _content(opened: _Files, file: Path, entry: Entry) -> bytes:
    """Return the bytes of an entry. Raises UnreadableImage if there are too many, or they are damaged."""
    check_bytes(entry.unpacked or entry.size, pixel_limit())
    try:
        content = opened.read(file, entry.offset, entry.size)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}") from error
    return _inflated(content, entry.unpacked) if entry.unpacked else content


# The source


@dataclass(frozen=True)
class ArchiveImages(FileSource):
    """Images of an index: those whose keys begin with a folder, or any choice of them.

    name: what was given as the place of the images. rows: of the index, in the order of the images.
    skip: bytes of the folder, which is not part of the keys.
    """

    name: str
    index: Index
    rows: range | np.ndarray
    skip: int
    labels: Numbers | None
    classes: tuple[str, ...]
    passed_over: tuple[tuple[str, int], ...] = field(default=(), compare=False)
    groups: Numbers | None = None
    grouping: str = ""
    slices: int = 1
    origin: Origin | None = field(default=None, compare=False, repr=False)

    @property
    def keys(self) -> Names:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The paths within the container, below the folder."""
        return Names(self.index.columns["names"], self.index.columns["ends"], self.rows, self.skip)

    def __len__(self) -> int:
        return len(self.rows)

    def read_file(self, index: int, shrink: Shrink | None) -> RawImage:
        """Read the bytes of an image, and decode them."""
        name, frame = split_key(self.keys[index])
        return read_bytes(self.content(index), name, frame=frame, shrink=shrink, slices=self.slices)

    def content(self, index: int) -> bytes:
        """Return the bytes of the file that holds an image."""
        return self.index.content(int(self.rows[index]))

    def header(self, index: int) -> Header:
        """Read the bytes of an image, and their header."""
        name, frame = split_key(self.keys[index])
        with unreadable_if_wrong():
            header = stream_header(BytesIO(self.content(index)), name, pixel_limit(), frame)
            return stacked_header(header, self.slices)

    def stamp(self, index: int) -> tuple[int, int]:
        """Return the size of an image in bytes, and when its container was changed."""
        row = int(self.rows[index])
        return int(self.index.columns["unpacked"][row] or self.index.columns["sizes"][row]), self.index.stamp

    def sizes(self) -> Numbers:
        """Return the size of each image in bytes."""
        unpacked, sizes = self.index.columns["unpacked"], self.index.columns["sizes"]
        rows = _chooser(self.rows)
        return Numbers(np.where(unpacked[rows] > 0, unpacked[rows], sizes[rows]), range(len(self)))

    def fingerprint(self, sizes: Sequence[int] | None = None) -> str:
        """Return 32 hex digits, those of a folder with the same files."""
        return fingerprint_of(self.keys, self.sizes() if sizes is None else sizes)

    def subset(self, indices: Sequence[int]) -> ArchiveImages:
        """Return these images, in this order, with all the class names kept."""
        chosen = np.asarray(indices, np.int64)
        rows = chosen + self.rows.start if isinstance(self.rows, range) else self.rows[chosen]
        labels = None if self.labels is None else Numbers(self.labels.numbers, rows)
        groups = None if self.groups is None else Numbers(np.asarray(self.groups)[chosen], range(len(chosen)))
        return replace(self, rows=rows, labels=labels, groups=groups, origin=self._origin().chosen(indices))

    def labelled_by(self, owners: Sequence[str]) -> ArchiveImages:
        """Return all the images of an index with labels. owners: the name of the class of each."""
        labels, classes = class_numbers(owners)
        return replace(self, labels=Numbers(np.array(labels, np.int32), self.rows), classes=classes)

    def with_groups(self, numbers: np.ndarray, grouping: str) -> ArchiveImages:
        """Return the images with these groups, as one array."""
        return replace(self, groups=Numbers(numbers, range(len(numbers))), grouping=grouping)

    def disk_order(self) -> np.ndarray:
        """Return the positions of the images in the order in which they lie in their files."""
        rows = np.arange(self.rows.start, self.rows.stop) if isinstance(self.rows, range) else self.rows
        return np.lexsort((self.index.columns["offsets"][rows], self.index.columns["files"][rows]))


def images_in(place: Path, index: Index, inside: str) -> ArchiveImages:
    """Return the images of an index below the folder `inside`, "" for all, with the labels of the index if it has any.

    Raises UserError if there are none.
    """
    prefix = os.fsencode(inside + "/") if inside else b""
    keys = Names(index.columns["names"], index.columns["ends"], range(len(index)))
    first, last = folder_range(keys, os.fsdecode(prefix))
    if first == last:
        others = f"; passed over: {counted(index.passed_over)}" if index.passed_over else ""
        raise UserError(f"{place}: no images in it. Looked for {' '.join(extensions())}{others}")
    rows = range(first, last)
    labels = Numbers(index.columns["labels"], rows) if index.classes else None
    return ArchiveImages(str(place), index, rows, len(prefix), labels, index.classes, index.passed_over)


def folder_range(keys: Sequence[str], prefix: str, first: int = 0, last: int | None = None) -> tuple[int, int]:
    """Return where, in sorted keys, those that begin with a prefix begin and end."""
    if not prefix:
        return first, len(keys) if last is None else last
    wanted = os.fsencode(prefix)
    begin = bisect_left(keys, wanted, first, len(keys) if last is None else last, key=os.fsencode)
    beyond = wanted[:-1] + bytes([wanted[-1] + 1])  # a prefix ends with "/"
    return begin, bisect_left(keys, beyond, begin, len(keys) if last is None else last, key=os.fsencode)


def folders_in(images: ArchiveImages, below: str = "") -> tuple[list[tuple[str, int, int]], bool]:
    """Return name, begin and end, by position, of each folder right below a folder; and whether these hold all images.

    The images are in the order of their keys.
    """
    keys = images.keys
    first, last = folder_range(keys, below)
    inner = np.flatnonzero(_lie_deeper(images, first, last, len(os.fsencode(below)))) + first
    folders: list[tuple[str, int, int]] = []
    place = 0
    while place < len(inner):
        begin = int(inner[place])
        name = keys[begin][len(below) :].partition("/")[0]
        _, end = folder_range(keys, f"{below}{name}/", begin, last)
        folders.append((name, begin, end))
        place = int(np.searchsorted(inner, end))
    return folders, len(inner) == last - first


def _lie_deeper(images: ArchiveImages, first: int, last: int, skip: int) -> np.ndarray:
    """Return which of some images have a slash in their keys behind the first `skip` bytes: no key is decoded."""
    assert isinstance(images.rows, range)
    begin, end = images.rows.start + first, images.rows.start + last
    text, ends = images.index.columns["names"], images.index.columns["ends"]
    if begin == end:
        return np.zeros(0, bool)
    offset = int(ends[begin - 1]) if begin else 0
    slashes = np.flatnonzero(text[offset : int(ends[end - 1])] == ord("/"))
    own = ends[begin:end] - offset
    starts = np.concatenate([[0], own[:-1]]) + images.skip + skip
    following = np.searchsorted(slashes, starts)
    return np.append(slashes, np.iinfo(np.int64).max)[following] < own


def with_classes(images: ArchiveImages, folders: Sequence[tuple[str, int, int]]) -> ArchiveImages:
    """Label the images by the folders that hold them. Names that differ in their Unicode form alone are one class."""
    names = sorted({name for name, _, _ in folders}, key=os.fsencode)
    classes = tuple(dict.fromkeys(map(comparable, names)))
    number = {name: place for place, name in enumerate(classes)}
    assert isinstance(images.rows, range)
    numbers = np.full(images.rows.stop, -1, np.int32)
    for name, first, last in folders:
        numbers[images.rows.start + first : images.rows.start + last] = number[comparable(name)]
    return replace(images, labels=Numbers(numbers, images.rows), classes=classes)
