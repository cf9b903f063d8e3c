"""Finding images: a folder, nested or not, with classes or without, becomes an ordered list of files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dinoscope.errors import UserError

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

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
    classes: names of the first-level folders, sorted by their bytes; empty for an unlabelled folder.
    """

    root: Path
    paths: tuple[str, ...]
    labels: tuple[int, ...] | None = None
    classes: tuple[str, ...] = ()

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
        return ImageFolder(self.root, tuple(self.paths[i] for i in indices), labels, self.classes)


def find_images(
    root: Path, *, labelled: bool | None = None, progress: Callable[[int, int], None] | None = None
) -> ImageFolder:
    """Find the images below `root` by extension, at any depth, following links to files and folders.

    Hidden files and folders and `__MACOSX` are passed over. A link to nowhere is kept, to be reported as
    unreadable rather than to vanish.

    labelled: None takes the first-level folders as classes where every image lies in one, there are at least
    two, and they are not all named like splits (train, val…). True insists on it, and allows a single class.
    False gives an unlabelled folder.
    progress: called with (done, total) in folders right below `root`.

    Raises UserError where `root` is not a folder that can be read, holds no images, or has images outside of
    class folders with labelled=True.
    """
    _require_folder(root)
    paths = tuple(sorted(_image_paths(root, progress), key=os.fsencode))
    if not paths:
        raise UserError(f"{root}: no images in this folder or below it. Looked for {' '.join(EXTENSIONS)}")
    stray = next((path for path in paths if "/" not in path), None)
    if labelled and stray is not None:
        raise UserError(
            f"{root}: '{stray}' lies outside of any class folder. "
            "Move every image into a folder named after its class, or go without labels."
        )
    if labelled is False or stray is not None:
        return ImageFolder(root, paths)
    owners = [path.partition("/")[0] for path in paths]
    classes = tuple(sorted(set(owners), key=os.fsencode))
    if labelled is None and not _are_classes(classes):
        return ImageFolder(root, paths)
    position = {name: i for i, name in enumerate(classes)}
    return ImageFolder(root, paths, tuple(position[owner] for owner in owners), classes)


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
    owners = [part[depth + 1] for part in parts]
    classes = tuple(sorted(set(owners), key=os.fsencode))
    if len(classes) < 2:
        return folder
    position = {name: i for i, name in enumerate(classes)}
    return ImageFolder(root, folder.paths, tuple(position[owner] for owner in owners), classes)


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


def _image_paths(root: Path, progress: Callable[[int, int], None] | None) -> Iterator[str]:
    """Yield the images below root, in no order. A folder inside itself (a loop of links) is passed over."""
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
        for entry in _visible(folder):
            if _is_folder(entry):
                pending.append((Path(entry.path), f"{prefix}{entry.name}/", above | {identity}))
            elif entry.name.lower().endswith(EXTENSIONS) and _is_file_or_dangling(entry):
                yield prefix + entry.name


def _subfolders(folder: Path) -> list[Path]:
    return [Path(entry.path) for entry in _visible(folder) if _is_folder(entry)]


def _named(folders: Sequence[Path], split: str) -> Path | None:
    """Return the folder named like the split, the first name in `SPLITS` first, lower case before upper."""
    by_name = {folder.name.lower(): folder for folder in sorted(folders, key=lambda folder: folder.name)}
    return next((by_name[name] for name in SPLITS[split] if name in by_name), None)


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [e for e in entries if not e.name.startswith(".") and e.name not in _UNPACKING_DEBRIS]
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be listed ({error.strerror}). Change its permissions or move it away."
        ) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_file_or_dangling(entry: os.DirEntry[str]) -> bool:
    """Tell whether to list it: a file or a link to nowhere; not a pipe, a socket or a device."""
    try:
        return entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists())
    except OSError:  # a link to itself
        return True
