"""Video object segmentation on DAVIS: objects followed through videos, and scored by region J and contour F.

Semi-supervised task: the objects are those of the first frame, first and last annotated frame are not scored, and a
figure is a mean over objects, not over sequences. Sources: Perazzi et al. 2016, A Benchmark Dataset and Evaluation
Methodology for Video Object Segmentation, section 5.1; Pont-Tuset et al. 2017, The 2017 DAVIS Challenge; and, where
the papers leave details open, the behaviour of the official scorer (davis2017-evaluation), equal to the last digit.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import json
import math
import shutil
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from jaxtyping import Bool, UInt8
from numpy import ndarray

from dinoscope import checkpoint
from dinoscope.data.benchmarks import Davis, DavisSequence, find_davis, object_ids, read_indices
from dinoscope.data.grey_range import Window
from dinoscope.data.sources import as_stored
from dinoscope.data.video import FOLDER_FPS
from dinoscope.errors import UserError
from dinoscope.evaluation import base
from dinoscope.evaluation.base import ABREAST, Context, Data, Evaluation, Labelled, best_first
from dinoscope.evaluation.propagation import PropagationConfig, check_config, propagate, warn_of_lost, working_size
from dinoscope.evaluation.results import kept_names, new_result, settled
from dinoscope.evaluation.statistics import BootstrapConfig, interval_kind, interval_line, pooled_intervals
from dinoscope.files import mark, replacing, write_text
from dinoscope.model_names import Model, distinct, folder_names
from dinoscope.pictures import Sheet, Tile, fitted, objects_overlay
from dinoscope.tables import BOLD, Column, Section, Table, TableRow, best_marked
from dinoscope.text import ABSENT
from dinoscope.types import Items, Metric, Result
from dinoscope.videos import video_writer, write_mask

TOLERANCE = 0.008
"""How far contours may lie apart and still meet, as a share of the frame's diagonal."""
RECALL_ABOVE = 0.5
FEWEST_FRAMES = 3
"""Annotated frames of which one is left when the first and the last are not scored."""

_MOST_PENDING = 32
"""Frames that wait to be scored, so that masks do not heap up where they come faster."""

AnyMask = UInt8[ndarray, "_ _"]
"""Ids, in a size that has not been checked yet."""
FrameScores = list[tuple[float, float]]


@dataclass(frozen=True)
class Statistics:
    """Of one object's values.

    recall: share above 0.5. decay: mean of the first quarter of the frames less that of the last.
    """

    mean: float
    recall: float
    decay: float


@dataclass(frozen=True)
class ObjectScore:
    """J and F of one object in every scored frame, each in [0, 1].

    number: of the object in the masks, from 1. frames: number of each scored frame in its sequence, from 0.
    """

    number: int
    frames: tuple[int, ...]
    j: tuple[float, ...]
    f: tuple[float, ...]

    @property
    def region(self) -> Statistics:
        """Statistics of J."""
        return statistics(self.j)

    @property
    def contour(self) -> Statistics:
        """Statistics of F."""
        return statistics(self.f)


@dataclass(frozen=True)
class SequenceScore:
    """Scores of the objects of one sequence, and what was not scored.

    not_annotated: frames without a truth. later: objects above those of the first frame, which the protocol leaves out.
    """

    objects: tuple[ObjectScore, ...]
    not_annotated: int = 0
    later: tuple[int, ...] = ()


def region_similarity(prediction: Bool[ndarray, "h w"], truth: Bool[ndarray, "h w"]) -> float:
    """J: intersection over union of two masks; 1 if both are empty."""
    union = int(np.count_nonzero(prediction | truth))
    return int(np.count_nonzero(prediction & truth)) / union if union else 1.0


def contour_accuracy(prediction: Bool[ndarray, "h w"], truth: Bool[ndarray, "h w"], radius: int) -> float:
    """F: harmonic mean of the shares of either contour that lie within `radius` pixels (Euclidean) of the other.

    1 if neither mask has a contour, 0 if one has none. See `tolerance_radius`.
    """
    ours, theirs = contour(prediction), contour(truth)
    our_length, their_length = int(np.count_nonzero(ours)), int(np.count_nonzero(theirs))
    if not (our_length and their_length):
        return float(our_length == their_length)
    precision = int(np.count_nonzero(ours & _grown(theirs, radius))) / our_length
    recall = int(np.count_nonzero(theirs & _grown(ours, radius))) / their_length
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def contour(mask: Bool[ndarray, "h w"]) -> Bool[ndarray, "h w"]:
    """Pixels that differ from the one to the right, below, or below to the right, as far as there is one."""
    edge = np.zeros_like(mask)
    right, down = mask[:, :-1] ^ mask[:, 1:], mask[:-1] ^ mask[1:]
    edge[:, :-1] = right
    edge[:-1] |= down
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge


def tolerance_radius(height: int, width: int) -> int:
    """Pixels that contours may lie apart in frames of this size: 0.8 % of the diagonal, rounded up."""
    return math.ceil(TOLERANCE * math.sqrt(height**2 + width**2))


def score_object(prediction: UInt8[ndarray, "h w"], truth: UInt8[ndarray, "h w"], number: int) -> tuple[float, float]:
    """J and F of one object in one frame, from id masks."""
    ours, theirs = prediction == number, truth == number
    radius = tolerance_radius(*truth.shape)
    left, top, width, height = cv2.boundingRect((ours | theirs).view(np.uint8))
    # Both scores depend on the object alone, with one pixel around it for the contour, which lies half a pixel up and
    # left of the edge. Where the frame ends there is no such pixel, and the crop's end is the frame's.
    rows, columns = slice(max(0, top - 1), top + height + 1), slice(max(0, left - 1), left + width + 1)
    ours, theirs = ours[rows, columns], theirs[rows, columns]
    return region_similarity(ours, theirs), contour_accuracy(ours, theirs, radius)


def score_sequence(
    predictions: Iterable[AnyMask],
    truths: Iterable[AnyMask | None],
    workers: int = 2,
) -> SequenceScore:
    """Score a sequence while its masks arrive, frame by frame, on threads.

    workers: threads; more than a few gain nothing, a frame being a millisecond's work.
    predictions: id masks of as many frames as truths, the first included; not written to once handed over.
    truths: id masks without void, None for frames that are not annotated.

    Raises UserError if the first frame has no truth or no object, masks differ in size, fewer than three
    frames are annotated, or a scored prediction holds an object that the first frame does not number.
    """
    annotated = _Annotated(zip(predictions, truths, strict=True))
    frames: list[int] = []
    scores: list[FrameScores] = []
    pending: deque[Future[FrameScores]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for frame, prediction, truth in annotated:
            frames.append(frame)
            pending.append(pool.submit(_score_frame, prediction, truth, annotated.objects))
            if len(pending) > _MOST_PENDING:
                scores.append(pending.popleft().result())
        scores += [future.result() for future in pending]
    if not scores:
        raise UserError(f"at least {FEWEST_FRAMES} annotated frames are needed: the first and the last are not scored")
    objects = tuple(
        ObjectScore(index + 1, tuple(frames), *zip(*(frame[index] for frame in scores), strict=True))
        for index in range(annotated.objects)
    )
    return SequenceScore(objects, annotated.without, tuple(sorted(annotated.later)))


def statistics(values: Sequence[float]) -> Statistics:
    """Mean, recall and decay of an object's values, in the order of the frames.

    Quarters share the frames at which they meet: n values are cut at 1 + (n - 1) q / 4, rounded, halves upwards.
    """
    array = np.asarray(values, np.float64)
    cuts = np.floor(np.linspace(1, len(array), 5) + 0.5 + 1e-10).astype(int) - 1
    decay = array[cuts[0] : cuts[1] + 1].mean() - array[cuts[3] : cuts[4] + 1].mean()
    return Statistics(float(array.mean()), float((array > RECALL_ABOVE).mean()), float(decay))


def summarise(scores: Sequence[ObjectScore]) -> Iterator[Metric]:
    """J&F, and mean, recall and decay of both, in %, averaged over the objects of all sequences."""
    table = np.array(
        [
            [getattr(each, field) for each in (s.region, s.contour) for field in ("mean", "recall", "decay")]
            for s in scores
        ]
    )
    j_mean, j_recall, j_decay, f_mean, f_recall, f_decay = (100 * float(value) for value in table.mean(axis=0))
    yield Metric("jf_mean", (j_mean + f_mean) / 2)
    yield Metric("j_mean", j_mean)
    yield Metric("j_recall", j_recall)
    yield Metric("j_decay", j_decay, higher_is_better=False)
    yield Metric("f_mean", f_mean)
    yield Metric("f_recall", f_recall)
    yield Metric("f_decay", f_decay, higher_is_better=False)


class _Annotated:
    """The frames that are scored, as (number, prediction, truth), and what is learnt of the others on the way.

    objects: how many the first frame numbers; known when the first is handed out.
    """

    def __init__(self, pairs: Iterable[tuple[AnyMask, AnyMask | None]]) -> None:
        self._pairs = pairs
        self.objects = 0
        self.without = 0
        self.later: set[int] = set()

    def __iter__(self) -> Iterator[tuple[int, AnyMask, AnyMask]]:
        held: tuple[int, AnyMask, AnyMask] | None = None
        for frame, (prediction, truth) in enumerate(self._pairs):
            if frame == 0:
                self._begin(truth)
            if truth is None:
                self.without += 1
                continue
            if held is not None and held[0] > 0:
                self._check(*held)
                yield held
            held = frame, prediction, truth
            if int(truth.max()) > self.objects:
                self.later.update(int(number) for number in np.unique(truth) if number > self.objects)

    def _begin(self, truth: AnyMask | None) -> None:
        if truth is None:
            raise UserError("the first frame is not annotated, and its objects are those to be followed")
        self.objects = int(truth.max())
        if not self.objects:
            raise UserError("the first frame has no object")

    def _check(self, frame: int, prediction: AnyMask, truth: AnyMask) -> None:
        if prediction.shape != truth.shape:
            sizes = " and ".join(f"{mask.shape[1]} x {mask.shape[0]} px" for mask in (prediction, truth))
            raise UserError(f"frame {frame}: the mask and its truth differ in size, {sizes}")
        if (highest := int(prediction.max())) > self.objects:
            raise UserError(f"frame {frame}: the mask holds object {highest}, and the first frame has {self.objects}")


def _score_frame(prediction: UInt8[ndarray, "h w"], truth: UInt8[ndarray, "h w"], objects: int) -> FrameScores:
    return [score_object(prediction, truth, number) for number in range(1, objects + 1)]


def _grown(edge: Bool[ndarray, "h w"], radius: int) -> Bool[ndarray, "h w"]:
    """All pixels within `radius` of one that is set; what lies beyond the ends of the array counts for nothing."""
    return cv2.dilate(edge.view(np.uint8), _disk(radius)).view(np.bool_)


@functools.cache
def _disk(radius: int) -> UInt8[ndarray, "d d"]:
    offsets = np.arange(-radius, radius + 1)
    return (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.uint8)


# Masks of the sequences

Image = UInt8[ndarray, "h w 3"]
Mask = UInt8[ndarray, "h w"]
Masks = Callable[[DavisSequence], Iterator[tuple[Image | None, Mask]]]
"""From a sequence to all of its frames, one after the other: the image if it was decoded on the way, and the ids."""
Seen = Callable[[int, Image | None, Mask], None]
"""Told the number of a frame, its image if it was decoded on the way, and its mask."""


def propagated(model: Model, config: PropagationConfig, device: torch.device | None) -> Masks:
    """Return masks that follow the objects of a sequence's first frame. Raises UserError as `propagate` does."""

    def masks(sequence: DavisSequence) -> Iterator[tuple[Image, Mask]]:
        decoded: deque[Image] = deque()

        def frames() -> Iterator[Image]:
            for index in range(len(sequence)):
                decoded.append(sequence.image(index, model.backbone.config.window))
                yield decoded[-1]

        first = sequence.mask(0)
        if first is None:
            raise UserError("the first frame is not annotated, and its objects are those to be followed")
        warn_of_lost(first, f"{sequence.name}, {model.label}", config.size, model.backbone.patch_size)
        for mask in propagate(model.backbone, frames(), {0: first}, config, device):
            yield decoded.popleft(), mask

    return masks


def masks_in(folder: Path) -> Masks:
    """Return masks in the layout of a submission, FOLDER/SEQUENCE/00000.png, named as the frames are.

    Needed is one for every annotated frame but the first and the last, which are not scored.

    Raises UserError if one is missing or cannot be read.
    """

    def masks(sequence: DavisSequence) -> Iterator[tuple[None, Mask]]:
        annotated = [index for index, file in enumerate(sequence.annotations) if file is not None]
        for index, frame in enumerate(sequence.frames):
            file = as_stored(folder, f"{sequence.name}/{frame.stem}.png")
            if file.is_file():
                yield None, object_ids(read_indices(file), binary=sequence.binary)
            elif index in annotated[1:-1]:
                raise UserError(f"{file} is missing: every annotated frame needs a mask, but the first and the last")
            else:
                yield None, np.zeros(sequence.size, "uint8")

    return masks


def score_masks(sequence: DavisSequence, masks: Masks, seen: Seen = lambda index, image, mask: None) -> SequenceScore:
    """Score masks of a sequence while they arrive.

    Raises UserError, with the sequence's name, as `score_sequence` and `masks` do.
    """

    def watched() -> Iterator[Mask]:
        for index, (image, mask) in enumerate(masks(sequence)):
            seen(index, image, mask)
            yield mask

    truths = (sequence.mask(index) for index in range(len(sequence)))
    try:
        return score_sequence(watched(), truths)
    except UserError as error:
        void = not sequence.binary and "no object" in str(error)
        hint = "; for masks that are 0 or 255 alone use --year 2016" if void else ""
        raise UserError(f"{sequence.name}: {error}{hint}") from error


# Files of a model: masks in the layout of a submission, and overlay videos

_OVERLAYS = "overlays"
_KINDS = ("mp4", "gif")


@dataclass(frozen=True)
class ModelFiles:
    """FOLDER/SEQUENCE/00000.png, FOLDER/overlays/SEQUENCE.mp4; what decided them in FOLDER/settings/SEQUENCE.json.

    overlay: kind of the videos, or None for none. window: the model's grey range.
    """

    folder: Path
    overlay: Literal["mp4", "gif"] | None
    window: Window | None = None

    def prepare(self, sequence: DavisSequence, settings: Mapping[str, Any], *, overwrite: bool) -> None:
        """Make room for a sequence, or take up what was begun of it with the same settings.

        Raises UserError if there are masks of other settings, not to be overwritten, or nothing can be written.
        """
        text = json.dumps(settings, indent=2) + "\n"
        record = self.folder / "settings" / f"{sequence.name}.json"
        present = self._present(sequence)
        try:
            if not overwrite and present and not (record.is_file() and record.read_bytes() == text.encode()):
                raise UserError(
                    f"{self.folder} holds masks made with other settings or of other frames, such as {present[0].name} "
                    f"of {sequence.name}: name another --out, or add --overwrite"
                )
            for file in present if overwrite else ():
                file.unlink()
            for abandoned in self._half_written(sequence):
                shutil.rmtree(abandoned)
            mark(self.folder)
            write_text(self._place(record), text)
        except OSError as error:
            raise UserError(f"--out {self.folder}: {error}") from error

    def complete(self, sequence: DavisSequence) -> bool:
        """Return whether every frame has its mask already."""
        return all(self._mask(sequence, index).is_file() for index in range(len(sequence)))

    @contextlib.contextmanager
    def recording(self, sequence: DavisSequence) -> Generator[Seen]:
        """Give a function that is told number, image (or None) and mask of every frame, and writes what is missing.

        Masks are written unless all are there: what is scored is then what lies in the folder.

        Raises UserError if that is not possible.
        """
        complete = self.complete(sequence)
        video = None if self.overlay is None or self._video(sequence).is_file() else self._video(sequence)
        with contextlib.nullcontext() if video is None else video_writer(self._place(video), FOLDER_FPS) as add:

            def record(index: int, image: Image | None, mask: Mask) -> None:
                if not complete:
                    write_mask(self._place(self._mask(sequence, index)), mask)
                if add is not None:
                    add(objects_overlay(sequence.image(index, self.window) if image is None else image, mask))

            yield record

    @staticmethod
    def _place(file: Path) -> Path:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{file.parent} cannot be made: {error.strerror}") from error
        return file

    def _present(self, sequence: DavisSequence) -> list[Path]:
        """Return masks and videos of the sequence, those of frames that it no longer has among them."""
        videos = (self.folder / _OVERLAYS / f"{sequence.name}.{kind}" for kind in _KINDS)
        return [*sorted((self.folder / sequence.name).glob("*.png")), *(file for file in videos if file.exists())]

    def _half_written(self, sequence: DavisSequence) -> list[Path]:
        """Return what a killed process left."""
        name = glob.escape(sequence.name)
        return [*self.folder.glob(f"{name}/.*.partial-*"), *self.folder.glob(f"{_OVERLAYS}/.{name}.*.partial-*")]

    def _mask(self, sequence: DavisSequence, index: int) -> Path:
        return self.folder / sequence.name / f"{sequence.frames[index].stem}.png"

    def _video(self, sequence: DavisSequence) -> Path:
        return self.folder / _OVERLAYS / f"{sequence.name}.{self.overlay}"


# A few masks of each sequence, kept next to the figures, so that a report can draw what would take hours to redo:
# HOME/evaluations/davis-2017.frames.npz holds a mask of ids for each SEQUENCE/FRAME, and the protocol of the result
# that it belongs to. It is read without running anything in it.

FRAMES = 3
"""Masks of each sequence; the first frame's is given, and is not among them."""

Frames = Mapping[tuple[str, int], UInt8[ndarray, "_ _"]]
"""(name of the sequence, number of the frame) -> the number of the object at each pixel."""

_PROTOCOL = "protocol"


def kept_places(frames: int) -> list[int]:
    """Return the numbers of the frames that are kept, of so many: a third in, two thirds in, and the last."""
    return sorted({round((frames - 1) * (place + 1) / FRAMES) for place in range(FRAMES)} - {0})


def keep_frames(home: Path, name: str, frames: Frames, result: Result) -> None:
    """Write them next to the result of that name. Raises UserError if that fails."""
    arrays: dict[str, ndarray] = {f"{sequence}/{index}": mask for (sequence, index), mask in frames.items()}
    arrays[_PROTOCOL] = np.array(_text(result))
    file = _frames_file(home, name)
    try:
        file.parent.mkdir(exist_ok=True)
        with replacing(file) as partial, partial.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # pyright: ignore[reportArgumentType] (none is called allow_pickle)
    except OSError as error:
        raise UserError(f"the masks could not be written to {file}: {error}") from error


def kept_frames(home: Path, name: str, result: Result) -> Frames:
    """Return what was kept with this result; empty if nothing was, or only with another one.

    Raises UserError if the file is damaged.
    """
    file = _frames_file(home, name)
    if not file.is_file():
        return {}
    try:
        if not zipfile.is_zipfile(file):
            raise zipfile.BadZipFile("no archive")
        with np.load(file, allow_pickle=False) as found:
            if str(found[_PROTOCOL]) != _text(result):
                return {}
            masks = {key: found[key] for key in found.files if key != _PROTOCOL}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{file} is damaged ({error}): delete it and measure again") from error
    frames: dict[tuple[str, int], ndarray] = {}
    for key, mask in masks.items():
        sequence, _, index = key.rpartition("/")
        if not index.isdecimal() or mask.dtype != np.uint8 or mask.ndim != 2:
            raise UserError(f"{file} is damaged ({key} is no mask): delete it and measure again")
        frames[sequence, int(index)] = mask
    return frames


def _text(result: Result) -> str:
    return json.dumps(result.protocol, sort_keys=True)


def _frames_file(home: Path, name: str) -> Path:
    return home / "evaluations" / f"{name}.frames.npz"


# The evaluation

MEANS = ("jf_mean", "j_mean", "f_mean")
"""Figures that have an interval, and are kept of every sequence."""
BOOTSTRAP = BootstrapConfig()
"""Of those intervals: sequences are drawn, each with its objects."""
SETTINGS = ("size", "context", "radius", "top_k", "temperature")
"""Of the propagation: what changes the masks."""


@dataclass(frozen=True)
class DavisConfig(PropagationConfig):
    """Settings of DAVIS: which videos, and how labels travel from frame to frame."""

    year: Literal[2017, 2016] = 2017
    """2017 has several objects a sequence; in 2016 everything that is marked is one."""

    sequences: tuple[str, ...] = ()
    """Only these, in the year's list or not."""

    limit_frames: int | None = None
    """Only so many frames of each sequence, for a first look: such figures are not DAVIS's."""

    results: tuple[Path, ...] = ()
    """Folders of masks that exist already, SEQUENCE/00000.png, to be scored too, or without any model."""

    no_overlay: bool = False
    """Write no videos to --out."""

    gif: bool = False
    """Write the videos as GIF instead of MP4."""


def run(models: Sequence[Model], data: Data, config: DavisConfig, context: Context) -> Iterator[Result]:
    """Follow the objects of every sequence with each model in turn, and score the masks; then every folder of masks.

    Metrics are in %, over the objects of all sequences, those of `MEANS` with intervals; then those of each object,
    with its number and that of its sequence (from 0) as parameters. Items are the sequences.

    With `context.out`, OUT/LABEL/SEQUENCE/00000.png and OUT/LABEL/overlays/SEQUENCE.mp4 are written; masks that are all
    there are taken up.

    Entries of the protocol: weights, weights_hash of the model (for masks that exist already their folder, and None);
    data, year, resolution, sequences, complete (whether they are all that the year's list names), limit_frames; frames,
    objects, not_annotated (frames without a truth), later_objects (that the first frame does not number); those of
    `SETTINGS` (None without a model); interval (kind of the intervals).

    Raises UserError if nothing is named, or data, a model or masks cannot be used, before anything is followed.
    """
    if not (models or config.results):
        raise UserError("nothing to measure: give --model RUN, or --results with a folder of masks")
    absent = next((folder for folder in config.results if not folder.is_dir()), None)
    if absent is not None:
        raise UserError(f"--results {absent}: no such folder")
    check_config(config)
    davis, sequences = _found(data, config)
    for model in models:
        for sequence in sequences:
            working_size(*sequence.size, config.size, model.backbone.patch_size)
    places = _places(models, sequences, config, context)
    folders = [(folder.resolve().name, folder) for folder in config.results]
    labels = distinct([*((model.label, None) for model in models), *folders])
    scored: list[Result] = []  # masks that exist take seconds
    for folder, label in zip(config.results, labels[len(models) :], strict=True):
        with context.watch(f"scoring {folder}") as progress:
            scores: list[SequenceScore] = []
            for done, sequence in enumerate(sequences):
                progress(done, len(sequences))
                scores.append(score_masks(sequence, masks_in(folder)))
        source = {"weights": f"results: {folder}", "weights_hash": None, "label": label}
        scored.append(result_of(davis, sequences, scores, source, None, config.limit_frames))
    for model, files in zip(models, places, strict=True):
        scores, frames = _follow(model, sequences, files, config, context)
        weights = model.name if model.path is None else str(checkpoint.find_weights(model.path))
        source = {"weights": weights, "weights_hash": model.weights_hash}
        result = result_of(davis, sequences, scores, source, config, config.limit_frames)
        name = base.keep_result(EVALUATION, model, config, result)
        if name is not None and model.home is not None:
            keep_frames(model.home, name, frames, result)
        yield result
    yield from scored


def _found(data: Data, config: DavisConfig) -> tuple[Davis, tuple[DavisSequence, ...]]:
    """Return the sequences, of each only the first frames. Raises UserError for fewer than three."""
    if not isinstance(data, Path):
        raise UserError("no videos to measure on: give --data DAVIS")
    davis, limit = find_davis(data, config.year, config.sequences), config.limit_frames
    return davis, davis.sequences if limit is None else tuple(each.limited(limit) for each in davis.sequences)


def _places(
    models: Sequence[Model], sequences: Sequence[DavisSequence], config: DavisConfig, context: Context
) -> list[ModelFiles | None]:
    """Return where the masks of each model go, made ready. Raises UserError if files are in the way."""
    if context.out is None:
        return [None] * len(models)
    overlay = None if config.no_overlay else "gif" if config.gif else "mp4"
    names = folder_names([model.label for model in models])
    places = [
        ModelFiles(context.out / name, overlay, model.backbone.config.window)
        for name, model in zip(names, models, strict=True)
    ]
    for model, files in zip(models, places, strict=True):
        for sequence in sequences:
            frames = {"weights_hash": model.weights_hash, "frames": sequence.fingerprint()}
            files.prepare(sequence, {**frames, **propagation_protocol(config)}, overwrite=context.overwrite)
    return [*places]


def _follow(
    model: Model,
    sequences: Sequence[DavisSequence],
    files: ModelFiles | None,
    config: DavisConfig,
    context: Context,
) -> tuple[list[SequenceScore], dict[tuple[str, int], Mask]]:
    """Score every sequence, whose masks are written on the way, or read if all are there; also return a few of them."""
    follow = propagated(model, config, context.device)
    scores: list[SequenceScore] = []
    frames: dict[tuple[str, int], Mask] = {}
    total, before = sum(map(len, sequences)), 0
    with context.watch(f"following objects with {model.label}") as progress:
        for sequence in sequences:
            places = kept_places(len(sequence))
            masks = masks_in(files.folder) if files is not None and files.complete(sequence) else follow
            with files.recording(sequence) if files is not None else contextlib.nullcontext() as record:

                def seen(
                    index: int,
                    image: Image | None,
                    mask: Mask,
                    start: int = before,
                    record: Seen | None = record,
                    name: str = sequence.name,
                    places: Sequence[int] = places,
                ) -> None:
                    progress(start + index, total)
                    if index in places:
                        frames[name, index] = mask
                    if record is not None:
                        record(index, image, mask)

                scores.append(score_masks(sequence, masks, seen))
            before += len(sequence)
    return scores, frames


def propagation_protocol(config: PropagationConfig | None) -> dict[str, Any]:
    """Return the entries of a protocol about the propagation."""
    return {name: None if config is None else getattr(config, name) for name in SETTINGS}


def result_of(
    davis: Davis,
    sequences: Sequence[DavisSequence],
    scores: Sequence[SequenceScore],
    source: Mapping[str, Any],
    config: PropagationConfig | None,
    limit_frames: int | None = None,
) -> Result:
    """Return the figures of masks. source: entries of the protocol about where they come from."""
    protocol = {
        **source,
        "data": str(davis.root.resolve()),
        "year": davis.year,
        "resolution": davis.resolution,
        "sequences": [sequence.name for sequence in sequences],
        "complete": davis.complete,
        "limit_frames": limit_frames,
        "frames": sum(map(len, sequences)),
        "objects": sum(len(score.objects) for score in scores),
        "not_annotated": sum(score.not_annotated for score in scores),
        "later_objects": sum(len(score.later) for score in scores),
        **propagation_protocol(config),
        "interval": interval_kind(len(sequences)),
    }
    of_sequences = [{each.name: each.value for each in summarise(score.objects)} for score in scores]
    figures = {name: tuple(each[name] for each in of_sequences) for name in MEANS}
    intervals = _intervals(figures, [len(score.objects) for score in scores])
    metrics = [
        replace(metric, **intervals.get(metric.name, {}))
        for metric in summarise([each for score in scores for each in score.objects])
    ]
    metrics += [
        replace(metric, n=len(each.frames), parameters={"sequence": place, "object": each.number})
        for place, score in enumerate(scores)
        for each in score.objects
        for metric in summarise([each])
    ]
    return new_result("davis", protocol, metrics, Items(tuple(sequence.name for sequence in sequences), figures))


def _intervals(figures: Mapping[str, Sequence[float]], objects: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Return the interval of each mean over the sequences, in %, if there is one."""
    counts = torch.tensor(objects, dtype=torch.float64)
    means = torch.tensor(list(figures.values()), dtype=torch.float64).T
    found = pooled_intervals(means * counts[:, None], counts, BOOTSTRAP, [(0.0, 100.0)] * len(figures))
    return {
        name: {"low": interval.low, "high": interval.high, "n": len(objects)}
        for name, interval in zip(figures, found, strict=True)
        if interval.low is not None
    }


def expected(model: Model, data: Data, config: DavisConfig, context: Context) -> dict[str, Any]:
    """Return what is known of a protocol before the objects are followed."""
    settings = {"limit_frames": config.limit_frames, **propagation_protocol(config)}
    if data is None:
        return settings
    davis, sequences = _found(data, config)
    place = {"data": str(davis.root.resolve()), "year": davis.year, "resolution": davis.resolution}
    return {**settings, **place, "sequences": [each.name for each in sequences], "frames": sum(map(len, sequences))}


def protocol_line(protocol: Mapping[str, Any]) -> str:
    """Return the protocol in one line for a person, with whatever makes these figures others than DAVIS's."""
    weights = f"; weights {protocol['weights']}" if "weights" in protocol else ""
    return "; ".join([f"Videos: {protocol['data']}", *_lines(protocol)]) + weights


def _lines(protocol: Mapping[str, Any]) -> list[str]:
    lines = [f"{protocol['frames']} frames at {protocol['resolution']}; first and last of each sequence not scored"]
    if protocol["size"] is not None:
        lines[0] += (
            f"; short side {protocol['size']} px, first and {protocol['context']} previous frames, "
            f"radius {protocol['radius']}, top {protocol['top_k']}, temperature {protocol['temperature']:g}"
        )
    if protocol["limit_frames"] is not None:
        lines.append(f"Only the first {protocol['limit_frames']} frames of each sequence: not comparable with others")
    if not protocol["complete"]:
        lines.append(f"Not the sequences of the list of {protocol['year']}: {', '.join(protocol['sequences'])}")
    if protocol["not_annotated"]:
        lines.append(f"Frames without annotation, not scored: {protocol['not_annotated']}")
    if protocol["later_objects"]:
        lines.append(
            f"Objects that appear after the first frame, not scored (as officially): {protocol['later_objects']}"
        )
    return lines


# Published figures, tables

LABEL = "published, DAVIS 2017 val"
SOURCE = (
    "Published, DAVIS 2017 val: Caron et al. 2021, Emerging Properties in Self-Supervised Vision Transformers, "
    "Table 5; DINO trained on ImageNet, features frozen, in %. Not measured here"
)
PUBLISHED = {
    ("dino", "ViT-S/16"): {"jf_mean": 61.8, "j_mean": 60.2, "f_mean": 63.4},
    ("dino", "ViT-B/16"): {"jf_mean": 62.3, "j_mean": 60.7, "f_mean": 63.9},
    ("dino", "ViT-S/8"): {"jf_mean": 69.9, "j_mean": 66.6, "f_mean": 73.1},
    ("dino", "ViT-B/8"): {"jf_mean": 71.4, "j_mean": 67.9, "f_mean": 74.9},
}
"""(Method, architecture) -> figures in %."""
ALL_VAL = 30
"""Sequences of DAVIS 2017 val."""

FIGURES = {
    "jf_mean": "J&F",
    "j_mean": "J",
    "j_recall": "J recall",
    "j_decay": "J decay",
    "f_mean": "F",
    "f_recall": "F recall",
    "f_decay": "F decay",
}
"""Name of a metric -> title of its column."""
_DECAYS = ("j_decay", "f_decay")
"""Whose best is not marked: who follows nothing from the start loses nothing later."""
OBJECT_HEADER = ("model", "sequence", "object", "frames", *FIGURES)


def has_published(protocol: Mapping[str, Any]) -> bool:
    """Return whether published figures may stand next to results of this protocol."""
    return (protocol["year"], protocol["size"]) == (2017, PropagationConfig.size)


def tables(results: Labelled, published: bool = False) -> list[Table]:
    """Return the models best first, every sequence if there are several, and every object."""
    found = [_models_table(results, published)]
    rows = object_rows(results)
    if rows:
        columns = (Column("Model"), Column("Sequence"), Column("Object", "right"))
        columns += tuple(Column(FIGURES[name], "right") for name in MEANS)
        lines = (TableRow((row[0], row[1], row[2], *(f"{float(row[at]):.1f}" for at in (4, 5, 8)))) for row in rows)
        found.append(Table(columns, (Section(tuple(lines)),), "Every object, in %"))
    return found


def _value(result: Result, name: str) -> float | None:
    metric = result.metric(name)
    return None if metric is None else metric.value


def _models_table(results: Labelled, published: bool) -> Table:
    protocol, keys = results[0][1].protocol, list(FIGURES)
    objects, count = protocol["objects"], len(protocol["sequences"])
    metrics = {label: {name: result.metric(name) for name in keys} for label, result in results}
    results = sorted(results, key=lambda row: -(_value(row[1], "jf_mean") or 0))
    rows = [
        TableRow((label, *(ABSENT if (each := metrics[label][name]) is None else each.text() for name in keys)))
        for label, _ in results
    ]
    values = [[None, *(None if name in _DECAYS else _value(result, name) for name in keys)] for _, result in results]
    rows = best_marked(
        rows, values, lambda column, top, row: settled(results[top][1], results[row][1], keys[column - 1])
    )
    sections = [Section(rows, "Measured here" if published else "")]
    if published:
        lines = (
            TableRow((f"DINO {architecture}", *(f"{row[name]:.1f}" if name in row else ABSENT for name in keys)))
            for (_, architecture), row in PUBLISHED.items()
        )
        sections.append(Section(tuple(lines), LABEL))
    caption = f"DAVIS {protocol['year']}: objects {objects}, sequences {count}; in %"
    remarks = [f"Videos: {protocol['data']}", *_lines(protocol), interval_line(count, "sequence", BOOTSTRAP)]
    if count > 1:
        remarks[-1] += " Each sequence counts with all its objects."
    remarks += [BOLD] if any(row.best for row in rows) else []
    if published:
        whole = count == ALL_VAL and protocol["limit_frames"] is None
        other = f". Those are of all {ALL_VAL} sequences, these of {count}: for orientation, no comparison."
        remarks.append(SOURCE + ("" if whole else other))
    columns = (Column("Model"), *(Column(title, "right") for title in FIGURES.values()))
    return Table(columns, tuple(sections), caption, remarks=tuple(remarks))


def object_rows(results: Labelled) -> list[tuple[str, ...]]:
    """Return a row for each object of each sequence of each model, under `OBJECT_HEADER`; figures in %."""
    rows: list[tuple[str, ...]] = []
    for label, result in results:
        objects: dict[tuple[float, float], list[Metric]] = {}
        for metric in result.metrics:
            if "object" in metric.parameters:
                key = (metric.parameters["sequence"], metric.parameters["object"])
                objects.setdefault(key, []).append(metric)
        for (place, number), metrics in objects.items():
            name = result.protocol["sequences"][int(place)]
            rows.append((label, name, f"{number:g}", str(metrics[0].n), *(f"{m.value:.4f}" for m in metrics)))
    return rows


# Best and worst


def examples(results: Sequence[Result], models: Sequence[Model], ends: int, context: Context) -> list[Sheet]:
    """Return sheets of the best and the worst sequence, from the masks that were kept; empty if none were.

    Raises UserError if the videos are not there any more, or what was kept is damaged.
    """
    ranked, protocol = best_first(results, "jf_mean"), results[0].protocol
    kept = [
        (model.label, frames) for model, frames in zip(models, map(_frames_of, models, results), strict=True) if frames
    ]
    if not kept or not ranked:
        return []
    sheets: list[Sheet] = []
    for place, (name, scores) in enumerate(dict([ranked[0], ranked[-1]]).items()):
        sequence = find_davis(Path(protocol["data"]), protocol["year"], (name,)).sequences[0]
        rank = "The only sequence" if len(ranked) == 1 else "The worst sequence" if place else "The best sequence"
        mean = sum(scores) / len(scores)
        whose = "" if len(results) == 1 else ", mean of the models"
        caption = f"{rank}, {name}: J&F {mean:.1f} %{whose}. Frames a third in, two thirds in, and the last."
        for begin in range(0, len(kept), ABREAST):
            rows = _frame_rows(sequence, models[0].backbone.config.window, kept[begin : begin + ABREAST])
            sheets += [Sheet(name, tuple(rows), caption)] if rows else []
    return sheets


_NO_FRAMES: Frames = {}


def _frames_of(model: Model, result: Result) -> Frames:
    """Return the kept masks of a result, under whichever name it is kept."""
    home = model.home
    names = [] if home is None else kept_names(home, "davis")
    return next((frames for name in names if home and (frames := kept_frames(home, name, result))), _NO_FRAMES)


def _frame_rows(
    sequence: DavisSequence, window: Window | None, kept: Sequence[tuple[str, Frames]]
) -> list[tuple[Tile, ...]]:
    """Return the frames that have a truth, and that all of these models have a mask of: the truth, then each model."""
    rows: list[tuple[Tile, ...]] = []
    first = sequence.mask(0)
    objects = 0 if first is None else int(first.max())
    for number in range(len(sequence)):
        found = [(label, frames.get((sequence.name, number))) for label, frames in kept]
        if any(mask is None for _, mask in found) or (truth := sequence.mask(number)) is None:
            continue
        image = sequence.image(number, window)
        tiles = [Tile(fitted(objects_overlay(image, truth), 300), "truth", f"frame {number}")]
        for label, mask in found:
            if mask is None or mask.shape != truth.shape:
                raise UserError(f"{sequence.name}: a mask of {label} is not as large as the frame")
            scores = [region_similarity(mask == each, truth == each) for each in range(1, objects + 1)]
            j = sum(scores) / len(scores)
            tiles.append(Tile(fitted(objects_overlay(image, mask), 300), label, f"J {100 * j:.1f} %"))
        rows.append(tuple(tiles))
    return rows


def _file_name(config: Any, protocol: Mapping[str, Any]) -> str:
    """Return a name by which a part of the sequences or frames never replaces the whole."""
    whole = protocol["complete"] and protocol["limit_frames"] is None
    return f"davis-{protocol['year']}" + ("" if whole else "-part")


EVALUATION = Evaluation(
    "davis",
    "DAVIS",
    "Measure how well features follow objects through the videos of DAVIS: J (overlap) and F (contours).",
    "videos",
    DavisConfig,
    run,
    (base.Column("davis", "DAVIS J&F", "jf_mean"),),
    protocol_line,
    expected,
    needs_no_model=True,
    uses=("device",),
    file_name=_file_name,
    tables=tables,
    examples=examples,
    csv=lambda results: (OBJECT_HEADER, object_rows(results)),
    earlier_csv="scores.csv",
)
