"""Videos whose objects are known pixel by pixel: DAVIS 2017 and 2016.

    DAVIS/JPEGImages/480p/SEQUENCE/00000.jpg    DAVIS/Annotations/480p/SEQUENCE/00000.png
    DAVIS/ImageSets/{2016,2017}/val.txt

2017: a pixel of an annotation is the number of its object; 0 is background and so, as in the official scorer, is the
void value 255. 2016: every sequence has one object, which is whatever is not 0.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from dinoscope.data.decode import UnreadableImage, decode
from dinoscope.data.folder import as_stored, comparable, images_within
from dinoscope.data.image_header import read_size
from dinoscope.data.index_png import read_indices
from dinoscope.errors import UserError, lookup

RESOLUTIONS = ("480p", "Full-Resolution", "1080p")
"""Folders of frames, the one that figures are published for first."""
VOID = 255
FEWEST_FRAMES = 3
"""The first frame is given, and first and last are not scored."""

Year = Literal[2017, 2016]


@dataclass(frozen=True)
class DavisSequence:
    """The frames of a video in their order, and the annotation of each, or None where a frame has none.

    binary: what is not 0 is one object, number 1. size: height and width of all frames and annotations, in pixels.
    """

    name: str
    frames: tuple[Path, ...]
    annotations: tuple[Path | None, ...]
    binary: bool
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.frames)

    def image(self, index: int) -> UInt8[ndarray, "h w 3"]:
        """A frame in RGB. Raises UserError where it cannot be read."""
        try:
            return decode(self.frames[index])
        except UnreadableImage as error:
            raise UserError(f"{self.frames[index]}: {error}") from error

    def mask(self, index: int) -> UInt8[ndarray, "h w"] | None:
        """Number of the object at each pixel, 0 for none; None without annotation.

        Raises UserError as `read_indices` does.
        """
        file = self.annotations[index]
        return None if file is None else object_ids(read_indices(file), binary=self.binary)

    def fingerprint(self) -> str:
        """32 hex digits of what decides masks that follow its objects: frames by name and bytes, the first annotation.

        Raises UserError where a file cannot be read.
        """
        digest = hashlib.blake2b(digest_size=16)
        try:
            for frame in self.frames:
                digest.update(b"%s\0%d\0" % (os.fsencode(frame.name), frame.stat().st_size))
            digest.update(b"" if self.annotations[0] is None else self.annotations[0].read_bytes())
        except OSError as error:
            raise UserError(f"{error.filename}: {error.strerror}") from error
        digest.update(b"\0%d" % self.binary)
        return digest.hexdigest()

    def limited(self, frames: int) -> DavisSequence:
        """The first frames alone. Raises UserError for fewer than three."""
        if frames < FEWEST_FRAMES:
            raise UserError(
                f"{frames} frames are too few: first and last are not scored, so take {FEWEST_FRAMES} or more"
            )
        return replace(self, frames=self.frames[:frames], annotations=self.annotations[:frames])


@dataclass(frozen=True)
class Davis:
    """Sequences to be measured. complete: whether they are all that the year's list names, and nothing else."""

    root: Path
    year: Year
    resolution: str
    sequences: tuple[DavisSequence, ...]
    complete: bool


def object_ids(values: UInt8[ndarray, "h w"], *, binary: bool) -> UInt8[ndarray, "h w"]:
    """Number of the object at each pixel from what a file of annotations or results holds."""
    if binary:
        return (values != 0).astype(np.uint8)
    return np.where(values == VOID, np.uint8(0), values)


def find_davis(data: Path, year: Year = 2017, names: Sequence[str] = (), split: str = "val") -> Davis:
    """The sequences of a year's list, or those named, which need not be in it.

    data: the folder DAVIS, or one that holds it.

    Raises UserError where the layout, the list, a sequence, its frames or its first annotation is missing, frames and
    annotations differ in size, or a name leads out of the folder.
    """
    root = _root(data)
    resolution = _resolution(root)
    listed = _listed(root, year, split, required=not names)
    present = _folders(root / "JPEGImages" / resolution)
    if names:
        known = {comparable(name): name for name in (*listed, *present)}
        chosen = [lookup(f"sequence of {root}", name, known) for name in dict.fromkeys(map(comparable, names))]
    else:
        chosen = listed
        _require_all(root, resolution, listed, present, year)
    sequences = tuple(_sequence(root, resolution, name, binary=year == 2016) for name in chosen)
    return Davis(root, year, resolution, sequences, sorted(chosen) == sorted(listed))


def _root(data: Path) -> Path:
    if not data.is_dir():
        raise UserError(f"{data}: no such folder. Give the folder DAVIS, with JPEGImages and Annotations in it")
    for root in (data, data / "DAVIS"):
        if (root / "JPEGImages").is_dir() and (root / "Annotations").is_dir():
            return root
    raise UserError(
        f"{data} is not laid out like DAVIS: there are no folders JPEGImages and Annotations in it or in DAVIS"
    )


def _resolution(root: Path) -> str:
    for name in RESOLUTIONS:
        if all((root / kind / name).is_dir() for kind in ("JPEGImages", "Annotations")):
            return name
    raise UserError(
        f"{root}: JPEGImages and Annotations have no resolution in common; looked in both for {', '.join(RESOLUTIONS)}"
    )


def _listed(root: Path, year: Year, split: str, *, required: bool) -> list[str]:
    """Names in the list of the year, or none where the list is missing and not required."""
    file = root / "ImageSets" / str(year) / f"{split}.txt"
    if not file.is_file():
        if not required:
            return []
        raise UserError(f"{file} is missing: it lists the sequences of {year}. Add it, or name some with --sequences")
    try:
        names = list(dict.fromkeys(file.read_text(encoding="utf-8").split()))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not a list of names that can be read: {error}") from error
    if required and not names:
        raise UserError(f"{file} lists no sequences")
    outside = next((name for name in names if Path(name).name != name or name in (".", "..") or "\\" in name), None)
    if outside is not None:
        raise UserError(f"{file} lists {outside!r}, and a name cannot lead out of the folder")
    return names


def _folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _require_all(root: Path, resolution: str, listed: Sequence[str], present: Iterable[str], year: Year) -> None:
    """Refuse a list of which only a part is there: its figures would pass for those of the whole."""
    annotated = set(map(comparable, _folders(root / "Annotations" / resolution)))
    there = [name for name in listed if comparable(name) in annotated.intersection(map(comparable, present))]
    if len(there) < len(listed):
        missing = [name for name in listed if name not in there]
        offer = f"Name those that are there: --sequences {' '.join(there)}" if there else "None of them is there"
        raise UserError(
            f"{root}: {len(missing)} of the {len(listed)} sequences of {year} lack frames or annotations at "
            f"{resolution}, such as {missing[0]}. {offer}"
        )


def _sequence(root: Path, resolution: str, name: str, *, binary: bool) -> DavisSequence:
    images, masks = (as_stored(root / kind / resolution, name) for kind in ("JPEGImages", "Annotations"))
    for folder in (images, masks):
        if not folder.is_dir():
            raise UserError(f"{folder} is missing, so {name} cannot be measured")
    frames = images_within(images)
    if len(frames) < FEWEST_FRAMES:
        raise UserError(f"{images}: {len(frames)} frames; at least {FEWEST_FRAMES} are needed")
    by_name = {comparable(frame.stem): frame for frame in reversed(frames)}
    twice = next((frame for frame in frames if by_name[comparable(frame.stem)] != frame), None)
    if twice is not None:
        raise UserError(
            f"{by_name[comparable(twice.stem)]} is there with another ending too, or in another Unicode form "
            f"({twice.name}): of each frame, one image is needed"
        )
    files = {comparable(path.stem): path for path in sorted(masks.glob("*.png")) if path.name[0] != "."}
    annotations = tuple(files.pop(name, None) for name in map(comparable, (frame.stem for frame in frames)))
    if files:
        raise UserError(
            f"{masks}: annotations without a frame of their name in {images}: {len(files)}, such as {min(files)}"
        )
    if annotations[0] is None:
        raise UserError(f"{masks / frames[0].stem}.png is missing: without the first annotation no object is known")
    return DavisSequence(name, tuple(frames), annotations, binary, _common_size([*frames, *annotations]))


def _common_size(files: Iterable[Path | None]) -> tuple[int, int]:
    """Height and width of them all, from their headers. Raises UserError where one differs or cannot be read."""
    first: tuple[Path, tuple[int, int]] | None = None
    for file in files:
        if file is None:
            continue
        try:
            size = read_size(file)
        except UnreadableImage as error:
            raise UserError(f"{file}: {error}") from error
        first = first or (file, size)
        if size != first[1]:
            raise UserError(f"{file} is {size[1]} x {size[0]} px, and {first[0]} is {first[1][1]} x {first[1][0]}")
    assert first is not None  # a sequence has three frames at least
    return first[1]
