"""J and F of a model, or of masks that exist already, on the sequences of DAVIS, with the protocol."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from numpy import ndarray, zeros

from dinoscope import checkpoint
from dinoscope.data.benchmarks import Davis, DavisSequence, object_ids, read_indices
from dinoscope.data.sources import as_stored
from dinoscope.errors import UserError
from dinoscope.evaluation.propagation import propagate, warn_of_lost
from dinoscope.evaluation.results import new_result
from dinoscope.evaluation.statistics import BootstrapConfig, interval_kind, pooled_intervals
from dinoscope.evaluation.video_scores import SequenceScore, score_sequence, summarise
from dinoscope.evaluation.window import PropagationConfig
from dinoscope.model_names import Model
from dinoscope.types import Items, Result

Mask = UInt8[ndarray, "h w"]
Image = UInt8[ndarray, "h w 3"]
Masks = Callable[[DavisSequence], Iterator[tuple[Image | None, Mask]]]
"""From a sequence to all of its frames, one after the other: the image if it was decoded on the way, and the ids."""
Seen = Callable[[int, Image | None, Mask], None]
"""Told the number of a frame, its image if it was decoded on the way, and its mask."""

MEANS = ("jf_mean", "j_mean", "f_mean")
"""Figures that have an interval, and are kept of every sequence."""
BOOTSTRAP = BootstrapConfig()
"""Of those intervals: sequences are drawn, each with its objects."""

RESULTS = "results"
"""What stands for the weights in the protocol of masks that exist already."""


@dataclass(frozen=True)
class SequenceResult:
    """Scores of one sequence of so many frames."""

    name: str
    frames: int
    score: SequenceScore


@dataclass(frozen=True)
class DavisProtocol:
    """How figures on DAVIS came about.

    weights, weights_hash: of the model; for masks that exist already their folder, and None.
    complete: the sequences are all that the year's list names. limit_frames: of each sequence; None is all.
    not_annotated: frames that were not scored as they have no truth. later_objects: objects, over all sequences, that
    the first frame does not number, and that are not scored.
    size, context, radius, top_k, temperature: of the propagation (see `PropagationConfig`); None without a model.
    interval: kind of the intervals; earlier results, which do not say, have the bootstrap's of any number of sequences.
    """

    weights: str
    weights_hash: str | None
    data: str
    year: int
    resolution: str
    sequences: tuple[str, ...]
    complete: bool
    limit_frames: int | None
    frames: int
    objects: int
    not_annotated: int
    later_objects: int
    size: int | None = None
    context: int | None = None
    radius: int | None = None
    top_k: int | None = None
    temperature: float | None = None
    interval: str = "bootstrap"


def limited(davis: Davis, frames: int | None) -> tuple[DavisSequence, ...]:
    """The sequences, of each only the first frames. Raises UserError for fewer than three."""
    return davis.sequences if frames is None else tuple(each.limited(frames) for each in davis.sequences)


def propagated(model: Model, config: PropagationConfig, device: torch.device) -> Masks:
    """Masks that follow the objects of a sequence's first frame. Raises UserError as `propagate` does."""

    def masks(sequence: DavisSequence) -> Iterator[tuple[Image, Mask]]:
        decoded: deque[Image] = deque()

        def frames() -> Iterator[Image]:
            for index in range(len(sequence)):
                decoded.append(sequence.image(index, model.backbone.config.window))
                yield decoded[-1]

        first = _first(sequence)
        warn_of_lost(first, f"{sequence.name}, {model.label}", config.size, model.backbone.patch_size)
        for mask in propagate(model.backbone, frames(), {0: first}, config, device):
            yield decoded.popleft(), mask

    return masks


def kept_masks(folder: Path) -> Masks:
    """Masks in the layout of a submission, FOLDER/SEQUENCE/00000.png, named as the frames are.

    Needed is one for every annotated frame but the first and the last, which are not scored.

    Raises UserError where one is missing or cannot be read.
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
                yield None, zeros(sequence.size, "uint8")

    return masks


def score_masks(sequence: DavisSequence, masks: Masks, seen: Seen = lambda *_: None) -> SequenceResult:
    """Score masks of a sequence while they arrive.

    Raises UserError, with the sequence's name, as `score_sequence` and `masks` do.
    """

    def watched() -> Iterator[Mask]:
        for index, (image, mask) in enumerate(masks(sequence)):
            seen(index, image, mask)
            yield mask

    truths = (sequence.mask(index) for index in range(len(sequence)))
    try:
        return SequenceResult(sequence.name, len(sequence), score_sequence(watched(), truths))
    except UserError as error:
        void = not sequence.binary and "no object" in str(error)
        hint = "; for masks that are 0 or 255 alone use --year 2016" if void else ""
        raise UserError(f"{sequence.name}: {error}{hint}") from error


def davis_measurement(
    davis: Davis,
    results: Sequence[SequenceResult],
    source: Model | Path,
    config: PropagationConfig | None,
    limit_frames: int | None = None,
) -> Result:
    """Figures over the objects of all sequences, those of `MEANS` with intervals.

    source: the model, with the config of its propagation; or the folder of masks, without.
    """
    scores = [each.score for each in results]
    protocol = DavisProtocol(
        **_source(source),
        data=str(davis.root.resolve()),
        year=davis.year,
        resolution=davis.resolution,
        sequences=tuple(each.name for each in results),
        complete=davis.complete,
        limit_frames=limit_frames,
        frames=sum(each.frames for each in results),
        objects=sum(len(score.objects) for score in scores),
        not_annotated=sum(score.not_annotated for score in scores),
        later_objects=sum(len(score.later) for score in scores),
        **propagation_protocol(config),
        interval=interval_kind(len(results)),
    )
    summary = summarise([each for score in scores for each in score.objects])
    figures = _of_sequences(results)
    intervals = _intervals(figures, [len(score.objects) for score in scores])
    metrics = [replace(metric, **intervals.get(metric.name, {})) for metric in summary]
    items = Items(tuple(result.name for result in results), {name: tuple(each) for name, each in figures.items()})
    return new_result("davis", protocol, metrics, items)


def _of_sequences(results: Sequence[SequenceResult]) -> dict[str, list[float]]:
    """For each figure of `MEANS`, of every sequence the mean over its objects, in %."""
    found = [{each.name: each.value for each in summarise(result.score.objects)} for result in results]
    return {name: [each[name] for each in found] for name in MEANS}


def _intervals(figures: Mapping[str, Sequence[float]], objects: Sequence[int]) -> dict[str, dict[str, Any]]:
    """The interval of each mean over the sequences, in %, if there is one."""
    counts = torch.tensor(objects, dtype=torch.float64)
    means = torch.tensor(list(figures.values()), dtype=torch.float64).T
    limits = [(0.0, 100.0)] * len(figures)
    found = pooled_intervals(means * counts[:, None], counts, BOOTSTRAP, limits)
    return {
        name: {"low": interval.low, "high": interval.high, "n": len(objects)}
        for name, interval in zip(figures, found, strict=True)
        if interval.low is not None
    }


def propagation_protocol(config: PropagationConfig | None) -> dict[str, Any]:
    """The part of a protocol about the propagation: what changes the masks."""
    names = ("size", "context", "radius", "top_k", "temperature")
    return {} if config is None else {name: getattr(config, name) for name in names}


def mask_settings(weights_hash: str, sequence: DavisSequence, config: PropagationConfig) -> dict[str, Any]:
    """All that decides the masks of a model on a sequence, as JSON values."""
    return {"weights_hash": weights_hash, "frames": sequence.fingerprint(), **propagation_protocol(config)}


def davis_name(davis: Davis, limit_frames: int | None) -> str:
    """What a run folder keeps a result as: a part of the sequences or frames never replaces the whole."""
    return f"davis-{davis.year}" + ("" if davis.complete and limit_frames is None else "-part")


def _source(source: Model | Path) -> dict[str, Any]:
    if isinstance(source, Path):
        return {"weights": f"{RESULTS}: {source}", "weights_hash": None}
    weights = source.name if source.path is None else str(checkpoint.find_weights(source.path))
    return {"weights": weights, "weights_hash": source.weights_hash}


def _first(sequence: DavisSequence) -> Mask:
    mask = sequence.mask(0)
    if mask is None:
        raise UserError("the first frame is not annotated, and its objects are those to be followed")
    return mask
