"""Images that a collection holds more than once: equal pixels, and copies that were saved again, resized, or mirrored.

Without a model, images are compared by their lowest frequencies: the luminance is shrunk to 32 x 32 cells, and of its
cosine transform the 12 x 12 lowest coefficients are kept without the mean, each multiplied by its frequency. The
amplitudes of photographs fall with the frequency (Field 1987), so all of them then count alike. Brightness and contrast
drop out of the cosine similarity, and mirroring an image changes the sign of its odd horizontal frequencies.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from rich.filesize import decimal
from torch import Tensor

from dinoscope import distributed
from dinoscope.data.finding import containers_at
from dinoscope.data.overlap import prints_of
from dinoscope.data.reader import RawImage, UnreadableImage, split_key
from dinoscope.data.scan import Unreadable
from dinoscope.data.sources import ImageSource
from dinoscope.errors import UserError
from dinoscope.evaluation.base import DEFAULT_CONTEXT, Context
from dinoscope.evaluation.graph import components, similar_pairs
from dinoscope.evaluation.knn import unit
from dinoscope.features import require_same
from dinoscope.model_names import Model
from dinoscope.places import JoinedPath
from dinoscope.remote import RemotePath
from dinoscope.system import available_cores
from dinoscope.tables import Column, Section, Table, TableRow

THRESHOLD = 0.9
"""Cosine similarity of lowest frequencies from which two images are copies: measured, docs/results/duplicates.md."""

_SIDE = 32
_FREQUENCIES = 12
_LENGTHS = np.hypot(*np.indices((_FREQUENCIES, _FREQUENCIES))).astype(np.float32)  # of frequencies; 0 for the mean
_FLAT = 1.0
"""Standard deviation of the cells, in grey levels of 255, below which an image has nothing to be compared by."""

_CHUNK = 32
"""Images read between two calls of `progress`."""

_MOVABLE = "copies are moved out of a folder of single files only: leave out --remove-to"

Kind = Literal["kept", "exact", "near", "mirrored", "alike", "indirect"]

KINDS: dict[Kind, str] = {
    "kept": "kept: the largest of its group",
    "exact": "exact: the same pixels as the kept one",
    "near": "near: its lowest frequencies are as similar to those of the kept one as the threshold asks",
    "mirrored": "mirrored: the same of its mirror image",
    "alike": "alike: by the features of a model alone",
    "indirect": "indirect: similar to others of the group alone, so it is never moved",
}
"""Kind of a member -> what it means."""


@dataclass(frozen=True)
class DuplicatesConfig:
    """What counts as a copy."""

    threshold: float | None = None
    """Cosine similarity of lowest frequencies from which two images are near duplicates; by default 0.9."""

    model_threshold: float | None = None
    """The same of the features of --model. It must be given with it, as each network has its own scale."""

    exact: bool = False
    """Look for equal pixels alone."""


@dataclass(frozen=True)
class Member:
    """An image of a group. index: its position in the source. cosine: with the kept one. size: bytes, 0 if unknown."""

    index: int
    key: str
    kind: Kind
    cosine: float
    width: int
    height: int
    size: int


@dataclass(frozen=True)
class Duplicates:
    """Groups of copies, the largest group first; the first of a group is the kept one.

    images: the source. by: what was compared, in words. unreadable: images that were left out.
    """

    images: ImageSource
    groups: tuple[tuple[Member, ...], ...]
    by: str
    unreadable: tuple[Unreadable, ...]

    def of_kind(self, kind: Kind) -> list[Member]:
        """Return the members of a kind, group by group."""
        return [member for group in self.groups for member in group if member.kind == kind]

    def table(self) -> Table:
        """Return the numbers of images, groups and copies of each kind."""
        copies = [member for group in self.groups for member in group if member.kind != "kept"]
        numbers = {
            "images": f"{len(self.images):,}",
            "unreadable": f"{len(self.unreadable):,}",
            "groups of copies": f"{len(self.groups):,}",
            "copies": f"{len(copies):,}",
            **{f"  {kind}": f"{len(self.of_kind(kind)):,}" for kind in KINDS if kind != "kept"},
            "size of the copies": decimal(sum(member.size for member in copies)),
        }
        rows = tuple(TableRow(row) for row in numbers.items())
        return Table((Column("duplicates"), Column("", "right")), (Section(rows),), remarks=(f"Compared by {self.by}",))


class _Seen(NamedTuple):
    # An image that was read: a hash of its pixels, its size, and its descriptor.
    pixels: str
    height: int
    width: int
    descriptor: Float32[np.ndarray, " d"]


def descriptor(image: RawImage) -> Float32[np.ndarray, " d"]:
    """Return the lowest frequencies of an image, each times its frequency; zeros if it has too little structure."""
    plain = image.values.dtype == np.uint8 and image.values.shape[2] in (1, 3)  # others are shown as RGB
    pixels = image.values if plain else image.rgb()
    between = cv2.INTER_AREA if min(pixels.shape[:2]) >= _SIDE else cv2.INTER_LINEAR
    cells = cv2.resize(pixels, (_SIDE, _SIDE), interpolation=between)
    grey = (cells if cells.ndim == 2 else cv2.cvtColor(cells, cv2.COLOR_RGB2GRAY)).astype(np.float32)
    if grey.std() < _FLAT:
        return np.zeros(_FREQUENCIES**2, np.float32)
    return (cv2.dct(grey)[:_FREQUENCIES, :_FREQUENCIES] * _LENGTHS).ravel()


def mirrored(descriptors: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Return the descriptors of the images mirrored left to right: odd horizontal frequencies change their sign."""
    signs = torch.ones(_FREQUENCIES, _FREQUENCIES, dtype=descriptors.dtype)
    signs[:, 1::2] = -1
    return descriptors * signs.flatten()


def find_duplicates(
    images: ImageSource,
    config: DuplicatesConfig | None = None,
    model: Model | None = None,
    context: Context = DEFAULT_CONTEXT,
) -> Duplicates:
    """Return the images that are copies of each other, as groups: connected components of pairs that are alike.

    Of a group, the image with the most pixels is kept, then the one with the most bytes, then the first.

    model: compare by its features, too.

    Raises UserError if no image can be read, a threshold is out of range or missing for the model, or the images do not
    fit the model.
    """
    config = config or DuplicatesConfig()
    _require_thresholds(config, model)
    with context.watch("reading images") as progress:
        seen, unreadable = _read(images, progress)
    if not seen:
        raise UserError(f"{images.name}: none of the {len(images)} images can be read; see `dinoscope scan`")
    records, positions = list(seen.values()), list(seen)
    first, inverse = np.unique(np.array([own.pixels for own in records]), return_index=True, return_inverse=True)[1:]
    original = first[inverse]  # of each image the first with the same pixels
    comparisons = [] if config.exact else _comparisons(images, seen, config, model, context)
    edges = [(original, np.arange(len(seen)))]
    with context.watch("comparing images") as progress:
        edges += _similar(comparisons, np.sort(first), progress)
    left, right = (np.concatenate(ends) for ends in zip(*edges, strict=True))
    groups: list[tuple[Member, ...]] = []
    for rows in _groups_of(components(len(seen), left, right)):
        stamps = [images.stamp(positions[row]) for row in rows]
        sizes = dict(zip(rows, [stamp[0] if stamp else 0 for stamp in stamps], strict=True))
        rows = sorted(rows, key=lambda row: (-records[row].height * records[row].width, -sizes[row], row))
        best, members = rows[0], list[Member]()
        for row in rows:
            if original[row] == original[best]:
                kind, cosine = "kept" if row == best else "exact", 1.0
            else:
                kind, cosine = _relation(comparisons, row, best)
            index, own = positions[row], records[row]
            members.append(Member(index, images.keys[index], kind, cosine, own.width, own.height, sizes[row]))
        order = list(KINDS)
        members.sort(key=lambda member: (order.index(member.kind), -member.cosine))
        groups.append(tuple(members))
    groups.sort(key=lambda group: (-len(group), group[0].index))
    by = " or ".join(f"{own.what} (threshold {own.threshold:g})" for own in comparisons if own.kind != "mirrored")
    return Duplicates(images, tuple(groups), by or "equal pixels", unreadable)


def _require_thresholds(config: DuplicatesConfig, model: Model | None) -> None:
    for value in (config.threshold, config.model_threshold):
        if value is not None and not -1 <= value <= 1:
            raise UserError(f"the threshold is {value}; a cosine similarity lies between -1 and 1")
    if model is not None and config.model_threshold is None:
        raise UserError(
            f"--model {model.label} needs --model-threshold, as each network has its own scale of similarity: begin "
            "with 0.98, and look at duplicates.html"
        )
    if model is None and config.model_threshold is not None:
        raise UserError("--model-threshold is for the features of a --model; that of lowest frequencies is --threshold")
    if config.exact and (model is not None or config.threshold is not None):
        raise UserError(f"--exact compares pixels alone: leave out {'--threshold' if model is None else '--model'}")


def _read(images: ImageSource, progress: Callable[[int, int], None]) -> tuple[dict[int, _Seen], tuple[Unreadable, ...]]:
    # What is known of each readable image by its position, and the others. Processes of a group share the reading.
    if distributed.world_size() > 1:
        require_same(images)
    starts, looked = range(0, len(images), _CHUNK), dict[int, _Seen | str]()

    def look(number: int) -> list[tuple[int, _Seen | str]]:
        chunk = range(starts[number], min(starts[number] + _CHUNK, len(images)))
        return [(index, _look(images, index)) for index in chunk]

    pool = ThreadPoolExecutor(available_cores())
    try:
        for chunk in pool.map(look, distributed.own_share(len(starts))):
            looked |= chunk
            progress(min(chunk[-1][0] + 1, len(images)), len(images))
    finally:
        pool.shutdown(cancel_futures=True)
    own_seen = {index: own for index, own in looked.items() if not isinstance(own, str)}
    reasons = {index: own for index, own in looked.items() if isinstance(own, str)}
    seen, left_out = _of_all(own_seen, reasons)
    return seen, tuple(Unreadable(images.keys[index], reason) for index, reason in sorted(left_out.items()))


def _of_all(seen: dict[int, _Seen], reasons: dict[int, str]) -> tuple[dict[int, _Seen], dict[int, str]]:
    # What all processes of a group saw, by position.
    if distributed.world_size() == 1:
        return seen, reasons
    facts = json.dumps([[[index, *own[:3]] for index, own in seen.items()], list(reasons.items())])
    rows = np.array([own.descriptor for own in seen.values()], np.float32).reshape(len(seen), _FREQUENCIES**2)
    told = [json.loads(text) for text in distributed.gather_texts(facts)]
    descriptors = distributed.gather_uneven(torch.from_numpy(rows)).numpy()
    found = zip([fact for of_one, _ in told for fact in of_one], descriptors, strict=True)
    joined = {index: _Seen(pixels, height, width, row) for (index, pixels, height, width), row in found}
    return dict(sorted(joined.items())), {index: reason for _, of_one in told for index, reason in of_one}


def _look(images: ImageSource, index: int) -> _Seen | str:
    try:
        image = images.read(index)
    except UnreadableImage as error:
        return str(error)
    height, width = image.values.shape[:2]
    return _Seen(prints_of(None, image).pixels, height, width, descriptor(image))


class _Comparison(NamedTuple):
    # Features of length 1 of the readable images, in their order, and what they are compared with: themselves (None),
    # or those of the mirrored images.
    kind: Kind
    what: str
    features: Float32[Tensor, "n d"]
    others: Float32[Tensor, "n d"] | None
    threshold: float


def _comparisons(
    images: ImageSource, seen: dict[int, _Seen], config: DuplicatesConfig, model: Model | None, context: Context
) -> list[_Comparison]:
    lowest = unit(torch.from_numpy(np.stack([own.descriptor for own in seen.values()])))
    threshold, what = THRESHOLD if config.threshold is None else config.threshold, "lowest frequencies"
    found = [
        _Comparison("near", what, lowest, None, threshold),
        _Comparison("mirrored", what, lowest, mirrored(lowest), threshold),
    ]
    if model is not None and config.model_threshold is not None:
        bank = context.features(model.backbone, images, f"{model.label}: features")
        row_of = {path: row for row, path in enumerate(bank.paths)}
        features = torch.zeros(len(seen), bank.features.shape[1])
        for row, index in enumerate(seen):
            if (place := row_of.get(images.keys[index])) is not None:
                features[row] = bank.features[place]
        label = f"features of {model.label}"
        found.append(_Comparison("alike", label, unit(features), None, config.model_threshold))
    return found


def _similar(
    comparisons: Sequence[_Comparison], distinct: Int64[np.ndarray, " m"], progress: Callable[[int, int], None]
) -> list[tuple[Int64[np.ndarray, " p"], Int64[np.ndarray, " p"]]]:
    # Edges between images of different pixels, one image of each.
    chosen, edges = torch.from_numpy(distinct), list[tuple[Int64[np.ndarray, " p"], Int64[np.ndarray, " p"]]]()
    for number, own in enumerate(comparisons):

        def advance(done: int, total: int, number: int = number) -> None:
            progress(number * total + done, len(comparisons) * total)

        others = None if own.others is None else own.others[chosen]
        pairs = similar_pairs(own.features[chosen], own.threshold, others=others, progress=advance)
        edges.append((distinct[pairs.left], distinct[pairs.right]))
    return edges


def _relation(comparisons: Sequence[_Comparison], row: int, best: int) -> tuple[Kind, float]:
    # What an image is to the kept one of its group, and how similar: by lowest frequencies, and else by a model.
    cosines: dict[Kind, float] = {}
    for own in comparisons:
        others = own.features if own.others is None else own.others
        cosines[own.kind] = float(own.features[best] @ others[row])
    passed = {own.kind for own in comparisons if cosines[own.kind] >= own.threshold}
    order = sorted(cosines, key=lambda kind: (kind == "alike", -cosines[kind]))
    for kind in order:
        if kind in passed:
            return kind, cosines[kind]
    return "indirect", cosines[order[0]]


def _groups_of(grouping: Int64[np.ndarray, " n"]) -> list[list[int]]:
    # The rows of each group of at least two.
    order = np.argsort(grouping, kind="stable")
    bounds = np.flatnonzero(np.diff(grouping[order], prepend=-1))
    return [rows.tolist() for rows in np.split(order, bounds[1:]) if len(rows) > 1]


# Moving copies away


def require_movable(data: Path, to: Path) -> None:
    """Raise UserError, before the work, if `data` is no folder of files on this machine, or `to` lies in it."""
    if isinstance(data, RemotePath | JoinedPath):
        raise UserError(f"{data} is not a single folder on this machine, and {_MOVABLE}")
    if not data.is_dir() or containers_at(data)[0]:
        raise UserError(f"{data} is no folder of single files, and {_MOVABLE}")
    root, target = data.resolve(), to.resolve()
    if target == root or root in target.parents:
        raise UserError(f"{to} lies in {data}, where its images would be found again: name a folder outside of it")
    if to.exists() and not to.is_dir():
        raise UserError(f"{to} is a file; --remove-to names the folder that copies are moved to")


def moves(found: Duplicates, data: Path, to: Path) -> list[tuple[Path, Path]]:
    """Return (file, where it goes) of every copy but the kept and the indirect ones; relative paths stay.

    Raises UserError, before anything is moved, as `require_movable` does, if an image is one of several in a file, a
    link is among them, or a file is in the way.
    """
    require_movable(data, to)
    root, target = data.resolve(), to.resolve()
    planned: list[tuple[Path, Path]] = []
    for member in (member for group in found.groups for member in group):
        if split_key(member.key)[1]:
            raise UserError(f"{data}: {member.key} is one image of several in a file, and {_MOVABLE}")
        if (root / member.key).resolve() != root / member.key:
            raise UserError(f"{data}: {member.key} is reached by a link, and another name may lead to the same file")
        if member.kind not in ("kept", "indirect"):
            planned.append((root / member.key, target / member.key))
    blocked = next((place for _, place in planned if os.path.lexists(place)), None)
    if blocked is not None:
        raise UserError(f"{blocked} exists already, and nothing was moved: name another folder with --remove-to")
    return planned


def move(planned: Sequence[tuple[Path, Path]]) -> None:
    """Move files, with the folders that they lie in. Raises UserError at the first that cannot be moved."""
    for done, (file, place) in enumerate(planned):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(place):
                raise FileExistsError(0, "there is a file already", str(place))
            shutil.move(file, place)
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(f"{done} of {len(planned)} copies were moved; {file} could not be: {reason}") from error
