"""Finding images: a folder, nested or not, with classes or without, becomes an ordered list of files."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Literal

from dinoscope.errors import UserError
from dinoscope.files import MARK, RUN_SETTINGS, drawn_names, is_made, nothing_but_made

LATER_EXTENSIONS = (".jfif", ".jpe")
"""Names of JPEG that runs of version 0.1 passed over."""

EXTENSIONS = (
    *(".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"),
    *LATER_EXTENSIONS,
)

UNSUPPORTED = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIC"),
    **dict.fromkeys((".dcm", ".dicom"), "DICOM"),
    **dict.fromkeys((".jp2", ".j2k", ".jpx"), "JPEG 2000"),
    **dict.fromkeys((".nii", ".nii.gz"), "NIfTI"),
    **dict.fromkeys((".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"), "a camera's raw format"),
    **{".avif": "AVIF", ".jxl": "JPEG XL", ".svg": "SVG", ".pdf": "PDF", ".psd": "Photoshop's format"},
    **{".exr": "OpenEXR", ".hdr": "Radiance HDR"},
}
"""Endings of images that cannot be read -> the format, for the reason that a file named by a person gets."""

MADE_BY_DINOSCOPE = "made by dinoscope"
"""Folders and pictures that are passed over, counted next to the endings of files."""

# What people call the two splits, the usual name first.
SPLITS: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "test", "testing"),
}

_UNPACKING_DEBRIS = frozenset({"__MACOSX"})


@dataclass(frozen=True)
class ImageFolder:
    """The image files below `root`, and their classes where the folders name them.

    paths: relative to root, with forward slashes, sorted by their bytes: the same order on every machine.
    labels: position in `classes` of each image, or None for an unlabelled folder.
    classes: names of the first-level folders in Unicode's form NFC, in the order of the folders' bytes; empty for an
    unlabelled folder. Folders that differ in their Unicode form alone are one class.
    passed_over: files below root that were not taken, as (ending, count), the most frequent first.
    """

    root: Path
    paths: tuple[str, ...]
    labels: tuple[int, ...] | None = None
    classes: tuple[str, ...] = ()
    passed_over: tuple[tuple[str, int], ...] = field(default=(), compare=False)

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> Path:
        """Return the file of image `index`."""
        return self.root / self.paths[index]

    def sizes(self) -> list[int]:
        """Return the size of each file in bytes, -1 if there is no such file."""
        return [_size(self.root / path) for path in self.paths]

    def fingerprint(self, sizes: Sequence[int] | None = None) -> str:
        """Return 32 hex digits that change when a file is added, removed, renamed, reordered or resized.

        Made of relative paths and sizes in bytes (`sizes`, read anew if they are not given), so that it survives moving
        the folder.
        """
        digest = hashlib.blake2b(digest_size=16)
        for relative, size in zip(self.paths, self.sizes() if sizes is None else sizes, strict=True):
            digest.update(os.fsencode(relative) + b"\0%d\0" % size)
        return digest.hexdigest()

    def subset(self, indices: Sequence[int]) -> ImageFolder:
        """Return these images, in this order, with all the class names kept."""
        labels = None if self.labels is None else tuple(self.labels[i] for i in indices)
        return replace(self, paths=tuple(self.paths[i] for i in indices), labels=labels)

    def without(self, paths: Set[str]) -> ImageFolder:
        """Return the other images, in the same order."""
        return self.subset([i for i, path in enumerate(self.paths) if path not in paths])


def find_images(
    root: Path, *, labelled: bool | None = None, progress: Callable[[int, int], None] | None = None
) -> ImageFolder:
    """Find the images below `root` by extension, at any depth, following links to files and folders.

    Hidden files and folders, `__MACOSX`, and below `root` what dinoscope has made (runs, results, pictures) are passed
    over. A link to nowhere is kept, to be reported as unreadable rather than to vanish.

    labelled: None takes the first-level folders as classes where every image lies in one, there are at least
    two, and they are not all named like splits (train, val…). True insists on it, and allows a single class.
    False gives an unlabelled folder.
    progress: called with (done, total) in folders right below `root`.

    Raises UserError where `root` is not a folder that can be read, holds no images, or has images outside of
    class folders with labelled=True.
    """
    _require_folder(root)
    counts = Counter[str]()
    paths = tuple(sorted(_image_paths(root, progress, counts), key=os.fsencode))
    passed_over = tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    if not paths:
        others = f"; passed over: {listed(passed_over)}" if passed_over else ""
        raise UserError(f"{root}: no images in this folder or below it. Looked for {' '.join(EXTENSIONS)}{others}")
    stray = next((path for path in paths if "/" not in path), None)
    if labelled and stray is not None:
        raise UserError(
            f"{root}: '{stray}' lies outside of any class folder. "
            "Move every image into a folder named after its class, or go without labels."
        )
    unlabelled = ImageFolder(root, paths, passed_over=passed_over)
    if labelled is False or stray is not None:
        return unlabelled
    owners = [path.partition("/")[0] for path in paths]
    folder = _with_classes(unlabelled, owners)
    return unlabelled if labelled is None and not _are_classes(folder.classes) else folder


def _with_classes(folder: ImageFolder, owners: Sequence[str]) -> ImageFolder:
    """The images with labels; owners: the folder of the class of each."""
    folders = sorted(set(owners), key=os.fsencode)
    classes = tuple(dict.fromkeys(map(comparable, folders)))
    number = {name: i for i, name in enumerate(classes)}
    position = {owner: number[comparable(owner)] for owner in folders}
    return replace(folder, labels=tuple(position[owner] for owner in owners), classes=classes)


def images_within(folder: Path) -> list[Path]:
    """The images right in a folder, numbers in their names by value: the frames of a video.

    What is passed over is as in `find_images`. Raises UserError where the folder cannot be listed.
    """
    entries = [entry for entry in _data_entries(folder) if _is_image(entry)]
    return [Path(entry.path) for entry in sorted(entries, key=lambda entry: _by_numbers(entry.name))]


def _by_numbers(name: str) -> tuple[list[tuple[int, str]], str]:
    """A key that sorts frame9 before frame10."""
    parts = re.split(r"(\d+)", name)
    return [(int(part) if place % 2 else 0, "" if place % 2 else part) for place, part in enumerate(parts)], name


def comparable(name: str) -> str:
    """The form in which names are compared: an accented letter may be stored as one character or as two (NFC, NFD)."""
    return unicodedata.normalize("NFC", name)


def as_stored(folder: Path, relative: str) -> Path:
    """FOLDER/RELATIVE, each name in the Unicode form that is on the disk; as given where there is none of them."""
    path = folder / relative
    if relative.isascii() or path.exists():
        return path
    for part in PurePath(relative).parts:
        forms = (folder / form for form in (part, *(unicodedata.normalize(kind, part) for kind in ("NFC", "NFD"))))
        folder = next((form for form in forms if form.exists()), folder / part)
    return folder


def listed(counts: Sequence[tuple[str, int]], most: int = 6) -> str:
    """Counts in words: "12 .heic, 1 .txt", those after the first few summed up."""
    words = [f"{count:,} {name}" for name, count in counts[:most]]
    rest = sum(count for _, count in counts[most:])
    return ", ".join([*words, *([f"{rest:,} others"] if rest else [])])


def unsupported(path: Path) -> str:
    """The reason why an image of this name cannot be read, or "" where the name does not tell."""
    known = next((kind for ending, kind in UNSUPPORTED.items() if path.name.lower().endswith(ending)), None)
    return f"{known} is not supported: save it as JPEG, PNG or TIFF" if known else ""


def find_images_of_splits(root: Path) -> ImageFolder:
    """`find_images`, but of train/CLASS/... and val/CLASS/... the classes are those of both splits together.

    As for `find_split`, the splits may lie in a single folder below `root`. Raises UserError as `find_images` does.
    """
    folder = find_images(root)
    parts = [path.split("/") for path in folder.paths]
    splits = {name for names in SPLITS.values() for name in names}
    first = {part[0].lower() for part in parts}
    depth = 1 if len(first) == 1 and first.isdisjoint(splits) else 0
    if folder.labels is not None or not all(len(part) > depth + 2 and part[depth].lower() in splits for part in parts):
        return folder
    labelled = _with_classes(folder, [part[depth + 1] for part in parts])
    return folder if len(labelled.classes) < 2 else labelled


def find_split(data: Path, split: Literal["train", "val"]) -> Path | None:
    """Return DATA's folder for the split, or None where it has none.

    Looked for by the names in `SPLITS`, in upper or lower case. Where DATA has neither split and holds a
    single folder (an archive unpacked into a folder), that folder is searched instead.

    Raises UserError where DATA is not a folder that can be read.
    """
    _require_folder(data)
    folders = _subfolders(data)
    if not any(_named(folders, kind) for kind in SPLITS) and len(folders) == 1:
        folders = _subfolders(folders[0])
    return _named(folders, split)


def resolve_split(data: Path, split: Literal["train", "val"]) -> Path:
    """Return the folder to read for a split: `find_split`'s, else DATA itself for "train".

    Raises UserError where DATA is not a folder that can be read, or "val" is asked for and there is none.
    """
    found = find_split(data, split)
    if found is not None:
        return found
    if split == "train":
        return data
    raise UserError(
        f"{data}: no validation folder found (looked for {', '.join(SPLITS['val'])}). "
        "Add one with images to measure on."
    )


def label_fraction(folder: ImageFolder, fraction: float, seed: int) -> ImageFolder:
    """Return the same share of every class, rounded, and at least one image of each; order kept.

    Images are ranked by a hash of (seed, path), so a seed gives the same images on any machine and with any
    version of any library, and a smaller fraction is a subset of a larger one.

    Raises UserError where the folder has no labels or the fraction is not in (0, 1].
    """
    if folder.labels is None:
        raise UserError(f"{folder.root}: a fraction of the labels was asked for, but the folder has no classes")
    if not 0 < fraction <= 1:
        raise UserError(f"the fraction of labels is {fraction}; it must be above 0 and at most 1")
    members: dict[int, list[int]] = {}
    for index, label in enumerate(folder.labels):
        members.setdefault(label, []).append(index)
    kept: list[int] = []
    for indices in members.values():
        indices.sort(key=lambda i: hash_rank(seed, folder.paths[i]))
        kept += indices[: max(1, round(fraction * len(indices)))]
    return folder.subset(sorted(kept))


def image_fraction(folder: ImageFolder, fraction: float) -> ImageFolder:
    """Return a share of the images, rounded, and at least one; labels are not looked at; order kept.

    Images are ranked by a hash of their path, and of nothing else: every run on a folder gets the same ones, on any
    machine, and a smaller fraction is a subset of a larger one.

    Raises UserError where the fraction is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise UserError(f"--fraction must be above 0 and at most 1, not {fraction}")
    if fraction == 1:
        return folder
    ranked = sorted(range(len(folder)), key=lambda i: hash_rank(0, folder.paths[i]))
    return folder.subset(sorted(ranked[: max(1, round(fraction * len(folder)))]))


def evenly(count: int, limit: int | None) -> list[int]:
    """Places of at most `limit` of `count` images, spread evenly over them; None takes all.

    Raises UserError where the limit is below 1.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit must be at least 1, not {limit}")
    taken = count if limit is None else min(limit, count)
    return [place * count // taken for place in range(taken)]


def first_to_last(count: int, most: int) -> list[int]:
    """Places of at most `most` of `count`: the first, the last, and evenly between; of one alone the first."""
    if count <= most or most < 2:
        return list(range(min(count, most)))
    return [round(place * (count - 1) / (most - 1)) for place in range(most)]


def balanced(folder: ImageFolder, most: int) -> ImageFolder:
    """At most `most` images, spread evenly; of a labelled folder as many of each class as can be; order kept.

    Classes that have fewer images than their part leave the rest to others. Where there are more classes than `most`,
    classes are spread evenly too.
    """
    if len(folder) <= most:
        return folder
    if folder.labels is None:
        return folder.subset(evenly(len(folder), most))
    members: dict[int, list[int]] = {}
    for index, label in enumerate(folder.labels):
        members.setdefault(label, []).append(index)
    chosen: list[int] = []
    by_size = sorted(members.values(), key=len)
    if len(by_size) > most:
        by_size = [list(members.values())[place] for place in evenly(len(by_size), most)]
    for place, indices in enumerate(by_size):  # the smallest first: what a class lacks goes to those after it
        quota = (most - len(chosen)) // (len(by_size) - place)
        chosen += [indices[at] for at in evenly(len(indices), quota)]
    return folder.subset(sorted(chosen))


def hash_rank(seed: int, path: str) -> bytes:
    """Place of an image in an order that looks random and is the same everywhere; smaller comes first."""
    return hashlib.blake2b(b"%d\0" % seed + os.fsencode(path), digest_size=16).digest()


def _size(path: Path) -> int:
    """Size in bytes, -1 where there is no such file."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _require_folder(root: Path) -> None:
    if not root.exists():
        raise UserError(f"{root}: no such folder. Check the path.")
    if not root.is_dir():
        raise UserError(f"{root}: a file, not a folder. Give the folder that holds the images (unpack archives).")


def _are_classes(names: Sequence[str]) -> bool:
    splits = {name for names in SPLITS.values() for name in names}
    return len(names) >= 2 and not all(name.lower() in splits for name in names)


def _image_paths(root: Path, progress: Callable[[int, int], None] | None, passed_over: Counter[str]) -> Iterator[str]:
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
        entries = _entries(folder)
        names = {entry.name for entry in entries}
        if prefix and names & {MARK, RUN_SETTINGS} and is_made(folder):
            passed_over[MADE_BY_DINOSCOPE] += 1
            continue
        if MARK in names and (drawn := names & drawn_names(folder)):
            passed_over[MADE_BY_DINOSCOPE] += len(drawn)
        for entry in _data_entries(folder, entries):
            if _is_folder(entry):
                pending.append((Path(entry.path), f"{prefix}{entry.name}/", above | {identity}))
            elif _is_image(entry):
                yield prefix + entry.name
            elif not entry.name.lower().endswith(EXTENSIONS):
                passed_over[_ending(entry.name)] += 1


def _ending(name: str) -> str:
    """The ending of a file's name, to be counted; the last number of 1.2.840.10008 (DICOM) is none."""
    ending = PurePath(name).suffix.lower()
    return "without an ending" if ending[1:].isdigit() or not 1 < len(ending) <= 9 else ending


def _subfolders(folder: Path) -> list[Path]:
    folders = [Path(entry.path) for entry in _data_entries(folder) if _is_folder(entry)]
    return [path for path in folders if not _is_nothing_but_made(path)]


def _is_nothing_but_made(folder: Path) -> bool:
    try:
        return nothing_but_made(folder)
    except OSError:  # whoever reads it will hear of it
        return False


def _named(folders: Sequence[Path], split: str) -> Path | None:
    """Return the folder named like the split, the first name in `SPLITS` first, lower case before upper."""
    by_name = {folder.name.lower(): folder for folder in sorted(folders, key=lambda folder: folder.name)}
    return next((by_name[name] for name in SPLITS[split] if name in by_name), None)


def _data_entries(folder: Path, entries: Sequence[os.DirEntry[str]] | None = None) -> list[os.DirEntry[str]]:
    """What may be data: not hidden, no debris of unpacking, not drawn by dinoscope."""
    entries = _entries(folder) if entries is None else entries
    drawn = drawn_names(folder) if any(entry.name == MARK for entry in entries) else set[str]()
    unwanted = drawn | _UNPACKING_DEBRIS
    return [entry for entry in entries if not entry.name.startswith(".") and entry.name not in unwanted]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be listed ({error.strerror}). Change its permissions or move it away."
        ) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Tell whether it is named like an image, and is a file or a link to nowhere; not a pipe, a socket or a device."""
    if not entry.name.lower().endswith(EXTENSIONS):
        return False
    try:
        return entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists())
    except OSError:  # a link to itself
        return True
