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
import itertools
import json
import math
import shutil
import zipfile
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from jaxtyping import Bool, UInt8
from numpy import ndarray

from dinoscope.data.benchmarks import Davis, DavisSequence, find_davis, object_ids, read_indices
from dinoscope.data.grey_range import Window
from dinoscope.data.sources import as_stored
from dinoscope.data.video import FOLDER_FPS
from dinoscope.errors import UserError
from dinoscope.evaluation import base
from dinoscope.evaluation.base import Context, Data, Labelled
from dinoscope.evaluation.propagation import PropagationConfig, check_config, propagate, warn_of_lost, working_size
from dinoscope.evaluation.results import kept_names, new_result
from dinoscope.evaluation.statistics import BootstrapConfig, interval_kind, interval_line, pooled_intervals
from dinoscope.files import mark, replacing, write_text
from dinoscope.model_names import Model, distinct, folder_names
from dinoscope.objects import objects_overlay
from dinoscope.pictures import Pixels, Sheet, Tile, fitted, sheet_tile
from dinoscope.tables import Column, Section, Table, TableRow
from dinoscope.types import Items, Metric, Result
from dinoscope.videos import video_writer, write_mask

Mask = UInt8[ndarray, "_ _"]
"""The number of the object at each pixel, 0 for none."""

# Scores

TOLERANCE = 0.008
"""How far contours may lie apart and still meet, as a share of the frame's diagonal."""
RECALL_ABOVE = 0.5

_MAX_PENDING = 32
"""Frames that wait to be scored, so that masks do not heap up where they come faster."""


ObjectScore = tuple[tuple[float, ...], tuple[float, ...]]
"""J and F of one object in every scored frame, each in [0, 1]."""


@dataclass(frozen=True)
class SequenceScore:
    """Scores of the objects of one sequence, from number 1, and what was not scored.

    frames: number of each scored frame, from 0. not_annotated: frames without a ground truth.
    later: objects above those of the first frame, which the protocol leaves out.
    """

    objects: tuple[ObjectScore, ...]
    frames: tuple[int, ...]
    not_annotated: int
    later: tuple[int, ...]


def region_similarity(prediction: Bool[ndarray, "h w"], ground_truth: Bool[ndarray, "h w"]) -> float:
    """Return J: intersection over union of two masks; 1 if both are empty."""
    union = int(np.count_nonzero(prediction | ground_truth))
    return int(np.count_nonzero(prediction & ground_truth)) / union if union else 1.0


def contour_accuracy(prediction: Bool[ndarray, "h w"], ground_truth: Bool[ndarray, "h w"], radius: int) -> float:
    """Return F: harmonic mean of the shares of either contour within `radius` pixels (Euclidean) of the other.

    1 if neither mask has a contour, 0 if one has none. See `tolerance_radius`.
    """
    ours, theirs = contour(prediction), contour(ground_truth)
    our_length, their_length = int(np.count_nonzero(ours)), int(np.count_nonzero(theirs))
    if not (our_length and their_length):
        return float(our_length == their_length)
    precision = int(np.count_nonzero(ours & _grown(theirs, radius))) / our_length
    recall = int(np.count_nonzero(theirs & _grown(ours, radius))) / their_length
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def contour(mask: Bool[ndarray, "h w"]) -> Bool[ndarray, "h w"]:
    """Return the pixels that differ from the one to the right, below, or below to the right, as far as there is one."""
    edge = np.zeros_like(mask)
    right, down = mask[:, :-1] ^ mask[:, 1:], mask[:-1] ^ mask[1:]
    edge[:, :-1] = right
    edge[:-1] |= down
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge


def _grown(edge: Bool[ndarray, "h w"], radius: int) -> Bool[ndarray, "h w"]:
    """All pixels within `radius` of one that is set; what lies beyond the ends of the array counts for nothing."""
    return cv2.dilate(edge.view(np.uint8), _disk(radius)).view(np.bool_)


@functools.cache
def _disk(radius: int) -> UInt8[ndarray, "d d"]:
    offsets = np.arange(-radius, radius + 1)
    return (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.uint8)


def tolerance_radius(height: int, width: int) -> int:
    """Return how many pixels contours may lie apart in frames of this size: 0.8 % of the diagonal, rounded up."""
    return math.ceil(TOLERANCE * math.sqrt(height**2 + width**2))


def score_object(
    prediction: UInt8[ndarray, "h w"], ground_truth: UInt8[ndarray, "h w"], number: int
) -> tuple[float, float]:
    """Return J and F of one object in one frame, from id masks."""
    ours, theirs = prediction == number, ground_truth == number
    radius = tolerance_radius(*ground_truth.shape)
    left, top, width, height = cv2.boundingRect((ours | theirs).view(np.uint8))
    # Both scores depend on the object alone, with one pixel around it for the contour, which lies half a pixel up and
    # left of the edge. Where the frame ends there is no such pixel, and the crop's end is the frame's.
    rows, columns = slice(max(0, top - 1), top + height + 1), slice(max(0, left - 1), left + width + 1)
    ours, theirs = ours[rows, columns], theirs[rows, columns]
    return region_similarity(ours, theirs), contour_accuracy(ours, theirs, radius)


def score_sequence(
    predictions: Iterable[Mask], ground_truths: Iterable[Mask | None], workers: int = 2
) -> SequenceScore:
    """Score a sequence while its masks arrive, frame by frame, on threads.

    workers: threads; more than a few gain nothing, a frame being a millisecond's work.
    predictions: id masks of as many frames as ground truths, the first included; not written to once handed over.
    ground_truths: id masks without void, None for frames that are not annotated.

    Raises UserError if the first frame has no ground truth or no object, masks differ in size, fewer than three
    frames are annotated, or a scored prediction holds an object that the first frame does not number.
    """
    objects, not_annotated, later, frames = 0, 0, set[int](), list[int]()

    def annotated() -> Iterator[tuple[int, Mask, Mask]]:
        nonlocal objects, not_annotated
        for frame, (prediction, ground_truth) in enumerate(zip(predictions, ground_truths, strict=True)):
            if ground_truth is None:
                if frame == 0:
                    raise UserError("the first frame is not annotated, and its objects are to be followed")
                not_annotated += 1
                continue
            objects = objects or int(ground_truth.max())
            if not objects:
                raise UserError("the first frame has no object")
            if ground_truth.max() > objects:
                later.update(int(number) for number in np.unique(ground_truth) if number > objects)
            yield frame, prediction, ground_truth

    def scored() -> Iterator[tuple[Mask, Mask]]:
        for (frame, *masks), _ in itertools.pairwise(annotated()):  # without the last
            if frame == 0:
                continue
            sizes = [f"{mask.shape[1]} x {mask.shape[0]} px" for mask in masks]
            if sizes[0] != sizes[1]:
                raise UserError(f"frame {frame}: the mask and its ground truth differ in size, {' and '.join(sizes)}")
            if (highest := int(masks[0].max())) > objects:
                raise UserError(f"frame {frame}: the mask holds object {highest}, and the first frame has {objects}")
            frames.append(frame)
            yield masks[0], masks[1]

    def score(masks: tuple[Mask, Mask]) -> list[tuple[float, float]]:
        return [score_object(*masks, number) for number in range(1, objects + 1)]

    scores = list(base.mapped_ahead(score, scored(), workers, _MAX_PENDING))
    if not scores:
        raise UserError("at least 3 annotated frames are needed: the first and the last are not scored")
    of_objects = zip(*scores, strict=True)
    of_objects = tuple((tuple(j for j, _ in each), tuple(f for _, f in each)) for each in of_objects)
    return SequenceScore(of_objects, tuple(frames), not_annotated, tuple(sorted(later)))


def statistics(values: Sequence[float]) -> tuple[float, float, float]:
    """Return mean, recall (share above 0.5) and decay of an object's values, in the order of the frames.

    Decay is the mean of the first quarter less that of the last. Quarters share the frames at which they meet: n values
    are cut at 1 + (n - 1) q / 4, rounded, halves upwards.
    """
    array = np.asarray(values, np.float64)
    cuts = np.floor(np.linspace(1, len(array), 5) + 0.5 + 1e-10).astype(int) - 1
    decay = array[cuts[0] : cuts[1] + 1].mean() - array[cuts[3] : cuts[4] + 1].mean()
    return float(array.mean()), float((array > RECALL_ABOVE).mean()), float(decay)


def summarise(scores: Sequence[ObjectScore]) -> Iterator[Metric]:
    """Yield J&F, and mean, recall and decay of both, in %, averaged over the objects of all sequences."""
    table = np.array([[*statistics(j), *statistics(f)] for j, f in scores])
    values = dict(zip(list(FIGURES)[1:], (100 * table.mean(axis=0)).tolist(), strict=True))
    yield Metric("jf_mean", (values["j_mean"] + values["f_mean"]) / 2)
    for name, value in values.items():
        yield Metric(name, value, higher_is_better=name not in _DECAYS)


# Masks of the sequences


def propagated(
    sequence: DavisSequence, model: Model, config: PropagationConfig, device: torch.device | None
) -> Generator[Mask]:
    """Yield masks that follow the objects of the first frame. Raises UserError as `propagate` does."""
    first, window = sequence.mask(0), model.backbone.config.window
    if first is None:
        raise UserError("the first frame is not annotated, and its objects are those to be followed")
    warn_of_lost(first, f"{sequence.name}, {model.label}", config.size, model.backbone.patch_size)
    frames = (sequence.image(index, window) for index in range(len(sequence)))
    yield from propagate(model.backbone, frames, {0: first}, config, device)


def masks_in(sequence: DavisSequence, folder: Path) -> Generator[Mask]:
    """Yield masks in the layout of a submission, FOLDER/SEQUENCE/00000.png, named as the frames are.

    Each annotated frame but the first and the last, which are not scored, needs one. Raises UserError if one is missing
    or cannot be read.
    """
    annotated = [index for index, file in enumerate(sequence.annotations) if file is not None]
    for index, frame in enumerate(sequence.frames):
        file = as_stored(folder, f"{sequence.name}/{frame.stem}.png")
        if file.is_file():
            yield object_ids(read_indices(file), binary=sequence.binary)
        elif index in annotated[1:-1]:
            raise UserError(f"{file} is missing: every annotated frame needs a mask, but the first and the last")
        else:
            yield np.zeros(sequence.size, "uint8")


def score_masks(sequence: DavisSequence, masks: Iterable[Mask]) -> SequenceScore:
    """Score masks while they arrive. Raises UserError, with the sequence's name, as `score_sequence` and `masks` do."""
    try:
        return score_sequence(masks, (sequence.mask(index) for index in range(len(sequence))))
    except UserError as error:
        void = not sequence.binary and "no object" in str(error)
        hint = "; for masks that are 0 or 255 alone use --year 2016" if void else ""
        raise UserError(f"{sequence.name}: {error}{hint}") from error


# Files of a model: masks in the layout of a submission, and overlay videos


@dataclass(frozen=True)
class SequenceFiles:
    """FOLDER/SEQUENCE/00000.png, FOLDER/overlays/SEQUENCE.mp4; what decided them in FOLDER/settings/SEQUENCE.json.

    overlay: kind of the video, or None for none. window: the model's grey range.
    """

    folder: Path
    sequence: DavisSequence
    overlay: Literal["mp4", "gif"] | None
    window: Window | None

    def prepare(self, settings: Mapping[str, Any], *, overwrite: bool) -> None:
        """Make room, or take up what was begun with the same settings.

        Raises UserError if there are masks of other settings, not to be overwritten, or nothing can be written.
        """
        name, overlays = self.sequence.name, self.folder / "overlays"
        text = json.dumps(settings, indent=2) + "\n"
        record = self.folder / "settings" / f"{name}.json"
        # masks of frames that the sequence no longer has are among them
        present = [
            *sorted((self.folder / name).glob("*.png")),
            *(file for kind in ("mp4", "gif") if (file := overlays / f"{name}.{kind}").exists()),
        ]
        try:
            if not overwrite and present and not (record.is_file() and record.read_bytes() == text.encode()):
                raise UserError(
                    f"{self.folder} holds masks made with other settings or of other frames, such as {present[0].name} "
                    f"of {name}: name another --out, or add --overwrite"
                )
            for file in present if overwrite else ():
                file.unlink()
            killed = (*(self.folder / name).glob(".*.partial-*"), *overlays.glob(f".{glob.escape(name)}.*.partial-*"))
            for abandoned in killed:
                shutil.rmtree(abandoned)
            mark(self.folder)
            write_text(_placed(record), text)
        except OSError as error:
            raise UserError(f"--out {self.folder}: {error}") from error

    def mask(self, index: int) -> Path:
        """Return the file of the mask of a frame."""
        return self.folder / self.sequence.name / f"{self.sequence.frames[index].stem}.png"

    def complete(self) -> bool:
        """Return whether every frame has its mask already."""
        return all(self.mask(index).is_file() for index in range(len(self.sequence)))

    def recorded(self, masks: Iterable[Mask]) -> Generator[Mask]:
        """Yield the masks, and write what is missing: masks unless all are there, and the video.

        Raises UserError if that is not possible.
        """
        complete, video = self.complete(), self.folder / "overlays" / f"{self.sequence.name}.{self.overlay}"
        wanted = self.overlay is not None and not video.is_file()
        with video_writer(_placed(video), FOLDER_FPS) if wanted else contextlib.nullcontext() as add:
            for index, mask in enumerate(masks):
                if not complete:
                    write_mask(_placed(self.mask(index)), mask)
                if add is not None:
                    add(objects_overlay(self.sequence.image(index, self.window), mask))
                yield mask


def _placed(file: Path) -> Path:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{file.parent} cannot be made: {error.strerror}") from error
    return file


# A few masks of each sequence, kept next to the figures, so that a report can draw what would take hours to redo:
# HOME/evaluations/davis-2017.frames.npz holds a mask of ids for each SEQUENCE/FRAME, and the protocol of the result
# that it belongs to. It is read without running anything in it.

FRAMES = 3
"""Masks of each sequence; the first frame's is given, and is not among them."""

Frames = Mapping[tuple[str, int], Mask]
"""(name of the sequence, number of the frame) -> its mask."""


def kept_places(frames: int) -> list[int]:
    """Return the numbers of the frames that are kept, of so many: a third in, two thirds in, and the last."""
    return sorted({round((frames - 1) * (place + 1) / FRAMES) for place in range(FRAMES)} - {0})


def _frames_file(home: Path, name: str) -> Path:
    return home / "evaluations" / f"{name}.frames.npz"


def keep_frames(home: Path, name: str, frames: Frames, result: Result) -> None:
    """Write masks next to the result of that name. Raises UserError if that fails."""
    arrays: dict[str, ndarray] = {f"{sequence}/{index}": mask for (sequence, index), mask in frames.items()}
    arrays["protocol"] = np.array(json.dumps(result.protocol, sort_keys=True))
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
    frames: dict[tuple[str, int], ndarray] = {}
    try:
        if not zipfile.is_zipfile(file):
            raise ValueError("no archive")
        with np.load(file, allow_pickle=False) as arrays:
            if str(arrays["protocol"]) != json.dumps(result.protocol, sort_keys=True):
                return {}
            for key in arrays.files:
                sequence, _, index = key.rpartition("/")
                if key == "protocol":
                    continue
                mask = arrays[key]
                if not index.isdecimal() or mask.dtype != np.uint8 or mask.ndim != 2:
                    raise ValueError(f"{key} is no mask")
                frames[sequence, int(index)] = mask
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{file} is damaged ({error}): delete it and measure again") from error
    return frames


# The evaluation

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
MEANS: tuple[str, ...] = ("jf_mean", "j_mean", "f_mean")
"""Figures that have an interval, and are kept of every sequence."""
_DECAYS = ("j_decay", "f_decay")
"""Whose best is not marked: who follows nothing from the start loses nothing later."""
BOOTSTRAP = BootstrapConfig()
"""The bootstrap of those intervals draws sequences, each with its objects."""
SETTINGS = ("size", "context", "radius", "top_k", "temperature")
"""Settings of the propagation that change the masks."""


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

    In the protocol, weights of masks that exist already are their folder, and `SETTINGS` are None without a model.

    Raises UserError if nothing is named, or data, a model or masks cannot be used, before anything is followed.
    """
    if not (models or config.results):
        raise UserError("nothing to measure: give --model RUN, or --results with a folder of masks")
    absent = next((folder for folder in config.results if not folder.is_dir()), None)
    if absent is not None:
        raise UserError(f"--results {absent}: no such folder")
    check_config(config)
    davis = _found(data, config)
    for model, sequence in itertools.product(models, davis.sequences):
        working_size(*sequence.size, config.size, model.backbone.patch_size)
    folders = folder_names([model.label for model in models])
    files = [_files(model, name, davis, config, context) for model, name in zip(models, folders, strict=True)]
    named = [(folder.resolve().name, folder) for folder in config.results]
    labels = distinct([*((model.label, None) for model in models), *named])
    scored: list[Result] = []  # masks that exist take seconds
    for folder, label in zip(config.results, labels[len(models) :], strict=True):
        with context.watch(f"scoring {folder}") as progress:
            scores: list[SequenceScore] = []
            for done, sequence in enumerate(davis.sequences):
                progress(done, len(davis.sequences))
                scores.append(score_masks(sequence, masks_in(sequence, folder)))
        source = {"weights": f"results: {folder}", "weights_hash": None, "label": label}
        scored.append(_result(davis, scores, source, propagation_protocol(None), config.limit_frames))
    for model, own in zip(models, files, strict=True):
        scores, frames = _follow(model, davis, own, config, context)
        source = {"weights": model.weights, "weights_hash": model.weights_hash}
        result = _result(davis, scores, source, propagation_protocol(config), config.limit_frames)
        name = base.keep_result(EVALUATION, model, config, result)
        if name is not None and model.home is not None:
            try:
                keep_frames(model.home, name, frames, result)
            except UserError as error:
                base.logger.warning("%s", error)
        yield result
    yield from scored


def _found(data: Data, config: DavisConfig) -> Davis:
    """Return the sequences, of each only the first frames. Raises UserError for fewer than three."""
    if not isinstance(data, Path):
        raise UserError("no videos to measure on: give --data DAVIS")
    davis, limit = find_davis(data, config.year, config.sequences), config.limit_frames
    if limit is None:
        return davis
    return replace(davis, sequences=tuple(sequence.limited(limit) for sequence in davis.sequences))


def _files(
    model: Model, name: str, davis: Davis, config: DavisConfig, context: Context
) -> list[SequenceFiles] | list[None]:
    """Return where the masks of each sequence go, made ready. Raises UserError if files are in the way."""
    if context.out is None:
        return [None] * len(davis.sequences)
    overlay, window = None if config.no_overlay else "gif" if config.gif else "mp4", model.backbone.config.window
    files = [SequenceFiles(context.out / name, sequence, overlay, window) for sequence in davis.sequences]
    for own in files:
        frames = {"weights_hash": model.weights_hash, "frames": own.sequence.fingerprint()}
        own.prepare({**frames, **propagation_protocol(config)}, overwrite=context.overwrite)
    return files


def _follow(
    model: Model, davis: Davis, files: Sequence[SequenceFiles | None], config: DavisConfig, context: Context
) -> tuple[list[SequenceScore], dict[tuple[str, int], Mask]]:
    """Score every sequence, whose masks are written on the way, or read if all are there; also return a few of them."""
    scores: list[SequenceScore] = []
    frames: dict[tuple[str, int], Mask] = {}
    done = 0

    def watched(masks: Iterable[Mask], sequence: DavisSequence) -> Iterator[Mask]:
        nonlocal done
        places = kept_places(len(sequence))
        for index, mask in enumerate(masks):
            progress(done, davis.frames)
            if index in places:
                frames[sequence.name, index] = mask
            done += 1
            yield mask

    with context.watch(f"following objects with {model.label}") as progress:
        for sequence, own in zip(davis.sequences, files, strict=True):
            if own is not None and own.complete():
                masks = masks_in(sequence, own.folder)
            else:
                masks = propagated(sequence, model, config, context.device)
            with contextlib.closing(masks if own is None else own.recorded(masks)) as recorded:
                scores.append(score_masks(sequence, watched(recorded, sequence)))
    return scores, frames


def propagation_protocol(config: PropagationConfig | None) -> dict[str, Any]:
    """Return the entries of a protocol about the propagation."""
    return {name: None if config is None else getattr(config, name) for name in SETTINGS}


def _result(
    davis: Davis,
    scores: Sequence[SequenceScore],
    source: Mapping[str, Any],
    propagation: Mapping[str, Any],
    limit_frames: int | None,
) -> Result:
    """Return the figures of masks. source, propagation: entries of the protocol about how the masks came about."""
    protocol = {
        **source,
        **_known(davis),
        "complete": davis.complete,
        "limit_frames": limit_frames,
        "objects": sum(len(score.objects) for score in scores),
        "not_annotated": sum(score.not_annotated for score in scores),
        "later_objects": sum(len(score.later) for score in scores),
        **propagation,
        "interval": interval_kind(len(scores)),
    }
    of_sequences = [{each.name: each.value for each in summarise(score.objects)} for score in scores]
    figures = {name: tuple(each[name] for each in of_sequences) for name in MEANS}
    counts = torch.tensor([len(score.objects) for score in scores], dtype=torch.float64)
    means = torch.tensor(list(figures.values()), dtype=torch.float64).T
    intervals = pooled_intervals(means * counts[:, None], counts, BOOTSTRAP, [(0.0, 100.0)] * len(MEANS))
    interval_of = dict(zip(MEANS, intervals, strict=True))
    metrics: list[Metric] = []
    for metric in summarise([each for score in scores for each in score.objects]):
        interval = interval_of.get(metric.name)
        if interval is not None and interval.low is not None:
            metric = replace(metric, low=interval.low, high=interval.high, n=len(scores))
        metrics.append(metric)
    metrics += [
        replace(metric, n=len(score.frames), parameters={"sequence": place, "object": number})
        for place, score in enumerate(scores)
        for number, each in enumerate(score.objects, start=1)
        for metric in summarise([each])
    ]
    return new_result("davis", protocol, metrics, Items(tuple(sequence.name for sequence in davis.sequences), figures))


def expected(model: Model, data: Data, config: DavisConfig, context: Context) -> dict[str, Any]:
    """Return what is known of a protocol before the objects are followed."""
    settings = {"limit_frames": config.limit_frames, **propagation_protocol(config)}
    return settings if data is None else {**settings, **_known(_found(data, config))}


def _known(davis: Davis) -> dict[str, Any]:
    return {
        "data": str(davis.root.resolve()),
        "year": davis.year,
        "resolution": davis.resolution,
        "sequences": [sequence.name for sequence in davis.sequences],
        "frames": davis.frames,
    }


def protocol_line(protocol: Mapping[str, Any]) -> str:
    """Return the protocol in one line for a person, with whatever makes these figures others than DAVIS's."""
    weights = f"; weights {protocol['weights']}" if "weights" in protocol else ""
    return "; ".join(_protocol_sentences(protocol)) + weights


def _protocol_sentences(protocol: Mapping[str, Any]) -> list[str]:
    how = f"{protocol['frames']} frames at {protocol['resolution']}; first and last of each sequence not scored"
    if protocol["size"] is not None:
        how += (
            f"; short side {protocol['size']} px, first and {protocol['context']} previous frames, "
            f"radius {protocol['radius']}, top {protocol['top_k']}, temperature {protocol['temperature']:g}"
        )
    sentences = [f"Videos: {protocol['data']}", how]
    if protocol["limit_frames"] is not None:
        sentences.append(
            f"Only the first {protocol['limit_frames']} frames of each sequence: not comparable with others"
        )
    if not protocol["complete"]:
        sentences.append(f"Not the sequences of the list of {protocol['year']}: {', '.join(protocol['sequences'])}")
    if protocol["not_annotated"]:
        sentences.append(f"Frames without annotation, not scored: {protocol['not_annotated']}")
    if protocol["later_objects"]:
        later = protocol["later_objects"]
        sentences.append(f"Objects that appear after the first frame, not scored (as officially): {later}")
    return sentences


# Published figures, tables

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


def tables(results: Labelled, published: bool = False) -> list[Table]:
    """Return the models best first, and every object."""
    protocol = results[0][1].protocol
    count = len(protocol["sequences"])
    drawn = " Each sequence counts with all its objects." if count > 1 else ""
    remarks = [*_protocol_sentences(protocol), interval_line(count, "sequence", BOOTSTRAP) + drawn]
    size = protocol["size"] or PropagationConfig.size
    alike = (count, protocol["year"], size, protocol["limit_frames"]) == (ALL_VAL, 2017, PropagationConfig.size, None)
    few = (
        f". Those are of all {ALL_VAL} sequences of 2017 val at {PropagationConfig.size} px, these of {count} of "
        f"{protocol['year']} val at {size} px: for orientation, no comparison."
    )
    source = SOURCE + ("" if alike else few)
    rows = {f"DINO {architecture}": figures for (_, architecture), figures in PUBLISHED.items()}
    models = base.models_table(
        results,
        FIGURES,
        f"DAVIS {protocol['year']}: objects {protocol['objects']}, sequences {count}; in %",
        remarks,
        rank="jf_mean",
        not_bold=_DECAYS,
        published=("published, DAVIS 2017 val", rows, source) if published else None,
    )
    places = [4 + list(FIGURES).index(name) for name in MEANS]
    objects = tuple(
        TableRow((*row[:3], *(f"{float(row[place]):.1f}" for place in places))) for row in object_rows(results)
    )
    if not objects:
        return [models]
    texts = (Column("Model"), Column("Sequence"), Column("Object", "right"))
    columns = (*texts, *(Column(FIGURES[name], "right") for name in MEANS))
    return [models, Table(columns, (Section(objects),), "Every object, in %")]


def object_rows(results: Labelled) -> list[tuple[str, ...]]:
    """Return model, sequence, object, frames and `FIGURES` in % of each object of each sequence of each model."""
    rows: list[tuple[str, ...]] = []
    for label, result in results:
        objects: dict[tuple[float, float], list[Metric]] = {}
        for metric in result.metrics:
            if "object" in metric.parameters:
                key = (metric.parameters["sequence"], metric.parameters["object"])
                objects.setdefault(key, []).append(metric)
        for (place, number), own in objects.items():
            name = result.protocol["sequences"][int(place)]
            rows.append((label, name, f"{number:g}", str(own[0].n), *(f"{metric.value:.4f}" for metric in own)))
    return rows


# Best and worst


def examples(
    results: Sequence[Result], models: Sequence[Model], ends: int, context: Context, dpi: int | None = None
) -> list[Sheet]:
    """Return sheets of the best and the worst sequence, from the masks that were kept; empty if none were.

    Raises UserError if the videos are not there any more, or what was kept is damaged.
    """
    ranked, protocol = base.best_first(results, "jf_mean"), results[0].protocol
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
        for begin in range(0, len(kept), base.ABREAST):
            rows = _frame_rows(
                sequence, models[0].backbone.config.window, kept[begin : begin + base.ABREAST], sheet_tile(dpi)
            )
            sheets += [Sheet(f"pictures-{len(sheets) + 1:02d}", tuple(rows), caption, dpi)] if rows else []
    return sheets


def _frames_of(model: Model, result: Result) -> Frames:
    """Return the kept masks of a result, under whichever name it is kept."""
    for name in [] if model.home is None else kept_names(model.home, "davis"):
        if model.home and (frames := kept_frames(model.home, name, result)):
            return frames
    return {}


def _frame_rows(
    sequence: DavisSequence, window: Window | None, kept: Sequence[tuple[str, Frames]], width: int
) -> list[tuple[Tile, ...]]:
    """Return the annotated frames of which all of these models have a mask: the ground truth, then each model."""
    rows: list[tuple[Tile, ...]] = []
    first = sequence.mask(0)
    objects = 0 if first is None else int(first.max())
    for number in range(len(sequence)):
        masks = [(label, frames[sequence.name, number]) for label, frames in kept if (sequence.name, number) in frames]
        if len(masks) < len(kept) or (ground_truth := sequence.mask(number)) is None:
            continue
        image = sequence.image(number, window)
        ground = fitted(image, width)  # before the objects are drawn, so that their numbers can be read

        def drawn(mask: Mask, ground: Pixels = ground) -> Pixels:
            return objects_overlay(ground, cv2.resize(mask, ground.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT))

        tiles = [Tile(drawn(ground_truth), "ground truth", f"frame {number}")]
        for label, mask in masks:
            if mask.shape != ground_truth.shape:
                raise UserError(f"{sequence.name}: a mask of {label} is not as large as the frame")
            scores = [region_similarity(mask == each, ground_truth == each) for each in range(1, objects + 1)]
            j = sum(scores) / len(scores)
            tiles.append(Tile(drawn(mask), label, f"J {100 * j:.1f} %"))
        rows.append(tuple(tiles))
    return rows


def _file_name(config: DavisConfig, protocol: Mapping[str, Any]) -> str:
    """Return a name by which a part of the sequences or frames never replaces the whole."""
    whole = protocol["complete"] and protocol["limit_frames"] is None
    return f"davis-{protocol['year']}" + ("" if whole else "-part")


EVALUATION = base.Evaluation(
    "davis",
    "DAVIS",
    "Measure how well features follow objects through the videos of DAVIS: J (overlap) and F (contours).",
    "videos",
    DavisConfig,
    run,
    (base.Column("davis", "DAVIS J&F", "jf_mean"),),
    protocol_line,
    expected,
    lambda data, config, context: _found(data, config),
    needs_no_model=True,
    uses=("device",),
    keeps_results=True,
    file_name=_file_name,
    tables=tables,
    examples=examples,
    csv=lambda results: (("model", "sequence", "object", "frames", *FIGURES), object_rows(results)),
    earlier_csv="scores.csv",
)
