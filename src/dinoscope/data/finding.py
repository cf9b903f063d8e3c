"""What `--data` may name: a folder of images, a list of files, containers, or several of these; and their splits.

A folder within a container is written like any other: `images.zip/train`. Several containers are joined by a pattern,
such as `shards/{000..127}.tar` or `data/train-*.parquet`; a folder that holds containers and no images stands for all
of them.
"""

from __future__ import annotations

import contextlib
import glob
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from dinoscope.data import archives, listing
from dinoscope.data.joined import joined_images
from dinoscope.data.sources import SPLITS, ImageSource, images_in_folder, is_split, split_folder, subfolders
from dinoscope.errors import UserError
from dinoscope.places import JoinedPath, joined
from dinoscope.remote import RemotePath, matching, remote_path

_MAX_FILES = 100_000
"""Containers that one pattern may stand for."""


def find_images(
    place: Path,
    *,
    labelled: bool | None = None,
    splits: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ImageSource:
    """Find the images of a folder (`sources.images_in_folder`), a list of files (`listing`) or containers.

    labelled: None takes the first-level folders as classes if every image lies in one, there are at least two, and they
    are not all named like splits (train, val…). True insists on labels, and allows a single class. False gives none.
    Labels that a list or a container holds come before those of folders.
    splits: of train/CLASS/... and val/CLASS/..., which may lie in a single folder, label by the classes of both.
    progress: called with (done, total) while they are looked for.
    Raises UserError if there are no images, or with labelled=True no labels.
    """
    if isinstance(place, JoinedPath):
        return _joined(place, labelled=labelled, splits=splits, progress=progress)
    if listing.is_listing(place):
        images = listing.images_of(place, progress)
        if labelled and images.labels is None:
            raise UserError(f"{place}: no labels. Add a column `label` to the list.")
        return images.unlabelled() if labelled is False else images
    files, inside = containers_at(place)
    if not files:
        return images_in_folder(place, labelled=labelled, splits=splits, progress=progress)
    images = archives.images_in(place, archives.index_of(files, progress), inside)
    if labelled is False:
        return images.unlabelled()
    return images if images.labels is not None else _labelled(images, labelled, splits)


def _joined(place: JoinedPath, labelled: bool | None, **options: Any) -> ImageSource:
    """Return the images of several places.

    A single class in one place is one if there are others elsewhere; if a place has no classes at all, there are none.
    """
    parts = [find_images(own, labelled=labelled, **options) for own in place.places]
    if labelled is None and any(part.labels is None for part in parts):
        with contextlib.suppress(UserError):
            every = [
                part if part.labels is not None else find_images(own, labelled=True, **options)
                for own, part in zip(place.places, parts, strict=True)
            ]
            names = {name for part in every for name in part.classes}
            if len(names) >= 2 and not all(map(is_split, names)):
                parts = every
    return joined_images(str(place), dict(zip(map(str, place.places), parts, strict=True)))


def _labelled(images: archives.ArchiveImages, labelled: bool | None, splits: bool) -> ImageSource:
    """Label images by their folders, as `sources.images_in_folder` does."""
    folders, hold_all = archives.folders_in(images)
    if not hold_all:
        if labelled:
            raise UserError(
                f"{images.name}: not every image lies in a folder named after its class. Make it again so, or go "
                "without labels."
            )
        return images
    if labelled or (len(folders) >= 2 and not all(is_split(name) for name, _, _ in folders)):
        return archives.with_classes(images, folders)
    if splits:
        above = ""
        if len(folders) == 1 and not is_split(folders[0][0]):
            above = f"{folders[0][0]}/"
            folders, hold_all = archives.folders_in(images, above)
        inner = [archives.folders_in(images, f"{above}{name}/") for name, _, _ in folders if is_split(name)]
        if hold_all and len(inner) == len(folders) and all(hold for _, hold in inner):
            labels = [folder for part, _ in inner for folder in part]
            if len({name for name, _, _ in labels}) >= 2:
                return archives.with_classes(images, labels)
    return images


# Splits


def find_split(data: Path, split: Literal["train", "val"]) -> Path | None:
    """Return the place of the split within DATA, named as in `SPLITS` in upper or lower case, or None if it has none.

    If DATA has neither split and holds a single folder (an archive made of a folder), that folder is searched
    instead. Of containers whose names begin with a split (train-00000-of-00002.parquet), it is a pattern.
    Of joined places it is that of each; one that has no splits belongs to "train" if another one has any.
    Raises UserError if DATA cannot be read.
    """
    if isinstance(data, JoinedPath):
        return _joined_split(data, split)
    if listing.is_listing(data):
        return None
    files, inside = containers_at(data)
    if not files:
        return split_folder(data, split)
    if not inside and (pattern := _split_of_files(data, files, split)) is not None:
        return pattern
    if not inside and any(_split_of_files(data, files, other) is not None for other in ("train", "val")):
        return None
    images = archives.images_in(data, archives.index_of(files), inside)
    names, above = _folder_names(images, ""), ""
    if len(names) == 1 and not is_split(names[0]):
        above = names[0] + "/"
        names = _folder_names(images, above)
    by_name = {name.lower(): name for name in sorted(names)}
    found = next((by_name[name] for name in SPLITS[split] if name in by_name), None)
    return None if found is None else data / f"{above}{found}"


def _joined_split(data: JoinedPath, split: Literal["train", "val"]) -> Path | None:
    found = {own: (find_split(own, "train"), find_split(own, "val")) for own in data.places}
    if not any(train or val for train, val in found.values()):
        return None
    if split == "val":
        places = [val for _, val in found.values() if val is not None]
    else:
        whole = {own: train or (own if val is None else None) for own, (train, val) in found.items()}
        places = [place for place in whole.values() if place is not None]
    return joined(places) if places else None


def _folder_names(images: archives.ArchiveImages, below: str) -> list[str]:
    return [name for name, _, _ in archives.folders_in(images, below)[0]]


def _split_of_files(data: Path, files: list[Path], split: str) -> Path | None:
    """Return a pattern of the containers that are named after a split, if all of DATA's are named after one."""
    known = "|".join(sorted({name for names in SPLITS.values() for name in names}, key=len, reverse=True))
    matches = [re.match(rf"({known})([-_.0-9].*)", file.name, re.IGNORECASE) for file in files]
    folders = {file.parent for file in files}
    if len(folders) != 1 or not all(matches):
        return None
    for name in SPLITS[split]:
        own = [file for file, match in zip(files, matches, strict=True) if match and match[1].lower() == name]
        if own and len(own) < len(files):
            folder = own[0].parent
            if len(own) == 1:
                return own[0]
            names = ",".join(file.name for file in own)
            common = re.match(rf"{name}[-_.0-9]", own[0].name, re.IGNORECASE)
            pattern = f"{own[0].name[: len(name)]}{common[0][-1] if common else ''}*{own[0].suffix}"
            matching = sorted(folder.glob(glob.escape(pattern).replace("[*]", "*")))
            return folder / (pattern if matching == sorted(own) else f"{{{names}}}")
    return None


def resolve_split(data: Path, split: Literal["train", "val"]) -> Path:
    """Return the place to read for a split: `find_split`'s, else DATA itself for "train".

    Raises UserError if DATA cannot be read, or "val" is requested and there is none.
    """
    place = find_split(data, split)
    if place is not None:
        return place
    if split == "train":
        return data
    raise UserError(
        f"{data}: no validation folder found (looked for {', '.join(SPLITS['val'])}). "
        "Add one with images to measure on."
    )


# Containers


def containers_at(place: Path) -> tuple[list[Path], str]:
    """Return the containers that a place names, and the folder within them; none if it is a folder of images.

    Raises UserError if a pattern matches nothing.
    """
    if isinstance(place, RemotePath):
        return _on_server(place)
    if place.is_dir():
        return _only_containers(place), ""
    for outer in (place, *place.parents):
        inside = "" if outer == place else place.relative_to(outer).as_posix()
        if outer.is_file():
            return [outer], inside
        if outer.is_dir():
            break
        if any(sign in outer.name for sign in "*?[{"):
            files = sorted({path for text in braces(str(outer)) for path in _matching(text)})
            if files:
                return files, inside
    if any(sign in str(place) for sign in "*?[{"):
        raise UserError(f"{place}: no file matches this pattern")
    return [], ""


def _on_server(place: RemotePath) -> tuple[list[Path], str]:
    """Return the containers that an address names: by its endings, so that nothing is asked but for a * in a bucket."""
    known = archives.endings()
    # the server and the bucket may have an ending, too
    below = [path for path in [*reversed(place.parents), place] if len(path.parts) > 2]
    outer = next((path for path in below if path.name.lower().endswith(known)), None)
    if outer is None:
        raise UserError(
            f"{place}: folders are not read from a server. Its address ends in {', '.join(known)} or, of a list, in "
            f"{', '.join(listing.ENDINGS)}; compressed tar files are not read"
        )
    inside = "" if outer == place else place.relative_to(outer).as_posix()
    files = list[Path]()
    for text in braces(str(outer)):
        path = remote_path(text)
        files += matching(path) if any(sign in text for sign in "*[") else [path]
    if not files:
        raise UserError(f"{place}: no file matches this pattern")
    return sorted(set(files)), inside


def _matching(pattern: str) -> Iterator[Path]:
    if not any(sign in pattern for sign in "*?["):
        if not Path(pattern).is_file():
            raise UserError(f"{pattern}: no such file. Check the pattern.")
        yield Path(pattern)
    else:
        yield from (path for path in map(Path, glob.iglob(pattern)) if path.is_file())  # noqa: PTH207


def _only_containers(folder: Path) -> list[Path]:
    """Return the containers right in a folder that holds nothing else that may be data."""
    try:
        files = [path for path in folder.iterdir() if path.name.lower().endswith(archives.endings()) and path.is_file()]
        if not files or subfolders(folder):
            return []
        images_in_folder(folder, labelled=False)
    except (OSError, UserError):
        return sorted(path for path in files if not path.name.startswith("."))
    return []


def braces(pattern: str) -> list[str]:
    """Return what a pattern with braces stands for: {a,b} and {000..127}, as shells read it."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    inner, span = match[1], re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if span:
        first, last = int(span[1]), int(span[2])
        if not 0 <= last - first < _MAX_FILES:
            raise UserError(f"{pattern}: {{{inner}}} must count upwards, over at most {_MAX_FILES:,} files")
        width = max(len(span[1]), len(span[2])) if "0" in (span[1][0], span[2][0]) and len(span[1]) > 1 else 0
        options = [f"{number:0{width}d}" for number in range(first, last + 1)]
    elif "," in inner:
        options = inner.split(",")
    else:
        return [pattern]
    return [text for option in options for text in braces(pattern[: match.start()] + option + pattern[match.end() :])]
