"""Published tables run again with the released weights: data, protocol, one evaluation after the other, the table."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from dinoscope import __version__
from dinoscope.config import to_dict
from dinoscope.data.benchmarks import find_davis, find_masked_images
from dinoscope.data.sources import ImageFolder, evenly, find_images, find_split
from dinoscope.errors import UserError
from dinoscope.evaluation import davis as davis_evaluation
from dinoscope.evaluation import knn as knn_evaluation
from dinoscope.evaluation import linear as linear_evaluation
from dinoscope.evaluation.base import Context, require_known_classes
from dinoscope.evaluation.davis import DavisConfig, propagated, propagation_protocol, score_masks
from dinoscope.evaluation.knn import KNNConfig
from dinoscope.evaluation.linear import LinearConfig
from dinoscope.evaluation.propagation import PropagationConfig
from dinoscope.evaluation.results import keep_as, kept
from dinoscope.evaluation.voc import PUBLISHED_MASS, PUBLISHED_SIDE, VocConfig, measure_voc
from dinoscope.features import ExtractConfig, default_crop_fraction, extract
from dinoscope.model_names import Model, Watch, folder_names, unwatched
from dinoscope.study.run import execute
from dinoscope.study.targets import (
    MASSES,
    Figure,
    K,
    Target,
    Weights,
    davis_targets,
    imagenet_targets,
    unreleased,
    voc_targets,
)
from dinoscope.system import machine
from dinoscope.tables import Column, Section, Table, TableRow
from dinoscope.text import ABSENT, duration
from dinoscope.types import Result

IMAGE_SIZE = 224
CLASSES, TRAIN_IMAGES, VAL_IMAGES = 1000, 1_281_167, 50_000
"""Of ImageNet-1k (ILSVRC 2012)."""

VOC_IMAGES = 1449
"""Of the validation images of the segmentation task of PASCAL VOC 2012."""

SEQUENCES = 30
"""In the list of DAVIS 2017 val."""

LINEAR, LINEAR_REFERENCE = "linear", "linear-reference"
PROBES: dict[Literal["fast", "reference", "none"], str | None] = {
    "fast": LINEAR,
    "reference": LINEAR_REFERENCE,
    "none": None,
}
"""What --linear chooses -> the name that the result is kept under."""

PROBED_IMAGES, PROBED_MASKS, PROBED_FRAMES = 32, 4, 5
"""For the estimate of a time."""

SETTINGS = "reproduction"
"""Entry of a kept protocol: what a later start must ask for to take the result up."""

SCRATCH = "features"
"""Folder next to evaluations/ of what is computed for a result; deleted when that is kept."""

FILES = ("reproduce.md", "reproduce.csv", "reproduce.json")
CSV_HEADER = (
    "model",
    "figure",
    "measured",
    "published",
    "difference",
    "source",
    "evaluation",
    "seconds",
    "weights",
    "notes",
)
FAILED = "failed"
NOT_COMPARABLE = "Not comparable with the published figures"

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """What a user may choose for any table.

    image_size: side at which networks see images, in pixels; None is the published one.
    batch_size: images at a time; None is the evaluation's own. workers: of the loader; -1 chooses. Neither changes a
        figure.
    watch: hears of the progress.
    """

    image_size: int | None = None
    device: torch.device = torch.device("cpu")  # noqa: RUF009 (immutable)
    batch_size: int | None = None
    workers: int = -1
    watch: Watch = unwatched


@dataclass(frozen=True)
class Bench:
    """The data of a table, and how a model is measured on it.

    amount: images or frames, for a person. cautions: why figures are not comparable with the published ones.
    remarks: the protocol, and where it is not the paper's.
    settings: evaluation -> all that decides a figure but the weights, as plain values.
    measure: evaluation, model, watch, a folder for what a start that is broken off leaves to the next one -> result.
    seconds: evaluation, model -> roughly how long that takes, from a short probe on the same data.
    """

    amount: str
    cautions: tuple[str, ...]
    remarks: tuple[str, ...]
    settings: Callable[[str], Mapping[str, Any]]
    measure: Callable[[str, Model, Watch, Path], Result]
    seconds: Callable[[str, Model], float]


@dataclass(frozen=True)
class PublishedTable:
    """A table that can be run again.

    targets: from what --models names, and the name of the probe. bench: from data, options and that name; raises
        UserError, before anything heavy, if the data are laid out otherwise.
    missing: rows of the paper without released weights, in words.
    """

    title: str
    targets: Callable[[Sequence[str], str | None], tuple[Target, ...]]
    bench: Callable[[Path, Options, str | None], Bench]
    missing: Callable[[], str]


# ImageNet


def imagenet_bench(data: Path, options: Options, linear: str | None = LINEAR) -> Bench:
    """Return k-NN and linear probes on ImageNet, as in DINO's Table 2; DATA/train/CLASS/... and DATA/val/CLASS/...

    Raises UserError if a split or its class folders are missing, or classes differ between them.
    """
    roots = {name: find_split(data, name) for name in ("train", "val")}
    absent = [name for name, root in roots.items() if root is None]
    if absent:
        raise UserError(
            f"{data} has no folder {' and no folder '.join(absent)}: expected is ImageNet as train/CLASS/*.JPEG "
            "and val/CLASS/*.JPEG, with the same names of classes in both"
        )
    train, val = (_listed(root.resolve(), options.watch) for root in roots.values() if root is not None)
    require_known_classes(train, val)
    if len(train) < K:
        raise UserError(f"{train.root}: {len(train)} images, and {K} neighbours are to vote")
    size = options.image_size or IMAGE_SIZE
    config = ExtractConfig(options.device, options.batch_size or 64, options.workers, size)

    @functools.cache
    def images() -> dict[str, str]:
        prints = {"train_images": train.fingerprint(), "val_images": val.fingerprint()}
        return {"train": str(train.root), "val": str(val.root), **prints}

    def measure(evaluation: str, model: Model, watch: Watch, scratch: Path) -> Result:
        context = Context(
            options.device,
            batch_size=options.batch_size,
            workers=options.workers,
            image_size=size,
            place=scratch,  # gigabytes for each model: kept until it is measured
            watch=watch,
        )
        if evaluation == "knn":
            return next(knn_evaluation.run([model], (train, val), KNNConfig(), context))
        probe = LinearConfig("fast" if evaluation == LINEAR else "reference")
        return next(linear_evaluation.run([model], (train, val), probe, context))

    def seconds(evaluation: str, model: Model) -> float:
        """Time the features of a few images, read by this process; votes and training of a probe come on top."""
        probing = replace(config, feature="image" if evaluation == "knn" else "linear", workers=0)
        few = train.subset(evenly(len(train), PROBED_IMAGES))
        extract(model.backbone, few.subset([0]), probing)  # the first forward is slow
        each = _seconds_of(lambda: extract(model.backbone, few, probing)) / len(few)
        passes = LinearConfig.epochs if evaluation == LINEAR_REFERENCE else 1
        return each * (passes * len(train) + len(val))

    return Bench(
        f"{len(train):,} training and {len(val):,} validation images",
        _imagenet_cautions(train, val, size),
        _imagenet_remarks(size, linear),
        lambda evaluation: {**images(), "evaluation": evaluation, "image_size": size, "precision": "fp32"},
        measure,
        seconds,
    )


def _listed(root: Path, watch: Watch) -> ImageFolder:
    with watch(f"listing {root.name}, in classes") as progress:
        return find_images(root, labelled=True, progress=progress)


def _imagenet_cautions(train: ImageFolder, val: ImageFolder, size: int) -> tuple[str, ...]:
    cautions: list[str] = []
    counts = (len(train.classes), len(train), len(val))
    if counts != (CLASSES, TRAIN_IMAGES, VAL_IMAGES):
        cautions.append(
            f"not ImageNet-1k: {counts[0]:,} classes, {counts[1]:,} training and {counts[2]:,} validation images "
            f"instead of {CLASSES:,}, {TRAIN_IMAGES:,} and {VAL_IMAGES:,}"
        )
    if size != IMAGE_SIZE:
        cautions.append(f"images of {size} px instead of {IMAGE_SIZE}")
    return tuple(cautions)


def _imagenet_remarks(size: int, linear: str | None) -> tuple[str, ...]:
    short = round(size / default_crop_fraction(size))
    remarks = [
        f"k-NN: features of the last class token (ResNet: pooled), all training images, weights "
        f"exp(cosine / {KNNConfig.temperature:g}), short side {short} px (bicubic), centre {size} px, "
        "fp32; as in the paper"
    ]
    if linear == LINEAR:
        remarks.append(
            f"linear: the fast protocol. Features are extracted once, without augmentation, and standardised; the "
            f"learning rate is chosen on held-out training images; last of {LinearConfig.epochs} epochs. The "
            "papers train on augmented images (--linear reference) and sweep by figures of their own"
        )
    elif linear == LINEAR_REFERENCE:
        remarks.append(
            f"linear: DINO's protocol, {LinearConfig.epochs} epochs of crops and flips; the figure is the "
            "last epoch's, not the best one's on the validation images. Other papers than DINO's sweep settings of "
            "their own"
        )
    return tuple(remarks)


# PASCAL VOC


def voc_bench(data: Path, options: Options) -> Bench:
    """Return the Jaccard of attention masks on VOC 2012 val, as in the table of DINO's Fig. 4.

    Raises UserError if the layout is another, or a list or all masks are missing.
    """
    images, square = find_masked_images(data.resolve()), options.image_size or PUBLISHED_SIDE
    config = VocConfig(protocol="published", mass=PUBLISHED_MASS, masses=(MASSES[1],), square=square)
    context = Context(options.device, batch_size=options.batch_size)

    @functools.cache
    def files() -> str:
        digest = hashlib.blake2b(digest_size=16)
        for name, *paths in zip(images.names, images.images, images.masks, strict=True):
            sizes = [path.stat().st_size if path.is_file() else -1 for path in paths]
            digest.update(f"{name}\0{sizes}\0".encode())
        return digest.hexdigest()

    def measure(evaluation: str, model: Model, watch: Watch, scratch: Path) -> Result:
        with watch("attention masks") as progress:
            return measure_voc([model], images, config, progress, context=context)[0][0]

    def seconds(evaluation: str, model: Model) -> float:
        few = images.subset(PROBED_MASKS)
        measure_voc([model], few.subset(1), config, context=context)  # the first forward is slow
        return _seconds_of(lambda: measure_voc([model], few, config, context=context)) / len(few) * len(images)

    cautions: list[str] = []
    if len(images) != VOC_IMAGES:
        cautions.append(f"not VOC 2012 val: {len(images):,} images with masks instead of {VOC_IMAGES:,}")
    if square != PUBLISHED_SIDE:
        cautions.append(f"squares of {square} px instead of {PUBLISHED_SIDE}")
    remarks = (
        f"Jaccard: image and mask at {square} x {square} px, attention of the class token in the last "
        "block, the smallest mask that holds so much of it, of each class of an image the head that fits best by "
        "the ground truth, mean over the classes of an image, then over images; void counts as not of the class",
        "The paper's text says 60 % of the attention, the public script of Naseer et al. takes 90 %: both are here",
        "`dinoscope voc` also measures without choosing by the ground truth, and with intervals",
    )
    return Bench(
        f"{len(images):,} images",
        tuple(cautions),
        remarks,
        lambda evaluation: {
            "data": str(images.root),
            "images": files(),
            "evaluation": evaluation,
            "square": square,
        },
        measure,
        seconds,
    )


# DAVIS


def davis_bench(data: Path, options: Options) -> Bench:
    """Return video object segmentation on DAVIS 2017 val, as in DINO's Table 5.

    Raises UserError as `find_davis` does, also if a sequence of the list is missing.
    """
    davis, usual = find_davis(data.resolve(), 2017), DavisConfig()
    config = usual if options.image_size is None else replace(usual, size=options.image_size)
    sequences, frames = davis.sequences, sum(map(len, davis.sequences))

    @functools.cache
    def settings(evaluation: str) -> Mapping[str, Any]:
        return {
            "data": str(davis.root),
            "sequences": [sequence.name for sequence in sequences],
            "frames": [sequence.fingerprint() for sequence in sequences],
            **propagation_protocol(config),
        }

    def measure(evaluation: str, model: Model, watch: Watch, scratch: Path) -> Result:
        context = Context(options.device, watch=watch)
        model = replace(model, keeps_results=False)  # the reproduction keeps it
        return next(davis_evaluation.run([model], data.resolve(), config, context))

    def seconds(evaluation: str, model: Model) -> float:
        """Time the first frames of the first sequence; later ones are compared with more frames."""
        if not sequences:
            raise UserError(f"{davis.root}: no sequence to measure on")
        first = sequences[0].limited(min(PROBED_FRAMES, len(sequences[0])))
        follow = propagated(model, config, options.device)
        return _seconds_of(lambda: score_masks(first, follow)) / len(first) * frames

    cautions: list[str] = []
    if len(sequences) != SEQUENCES:
        cautions.append(f"not DAVIS 2017 val: {len(sequences)} sequences instead of {SEQUENCES}")
    if davis.resolution != "480p":
        cautions.append(f"frames at {davis.resolution} instead of 480p")
    if config.size != PropagationConfig.size:
        cautions.append(f"short side {config.size} px instead of {PropagationConfig.size}")
    remarks = (
        f"J and F: short side {config.size} px, first and {config.context} previous frames, radius "
        f"{config.radius}, top {config.top_k}, temperature {config.temperature:g}; scored as by the official "
        "scorer: means over objects, first and last frame left out. The settings are those of the public script",
        "Pixels are normalised as the networks were trained (standard deviation of red 0.229; the public script "
        "divides by 0.228), so that small differences are to be expected",
    )
    amount = f"{frames:,} frames of {len(sequences)} sequences"
    return Bench(amount, tuple(cautions), remarks, settings, measure, seconds)


TABLES = {
    "imagenet-table": PublishedTable(
        "ImageNet top-1 in % of frozen features, after DINO's Table 2", imagenet_targets, imagenet_bench, unreleased
    ),
    "voc-table": PublishedTable(
        "Jaccard in % of attention masks on VOC 2012, after DINO's Fig. 4",
        lambda models, _: voc_targets(models),
        lambda data, options, _: voc_bench(data, options),
        lambda: "Supervised ViT-S/8",
    ),
    "davis-table": PublishedTable(
        "DAVIS 2017 val in %, after DINO's Table 5",
        lambda models, _: davis_targets(models),
        lambda data, options, _: davis_bench(data, options),
        lambda: "",
    ),
}


# Running


@dataclass(frozen=True)
class EvaluationJob:
    """One evaluation of one model. out: the file of its result, without the suffix."""

    target: Target
    evaluation: str
    out: Path

    @property
    def folder(self) -> Path:
        """Where the results of the model are kept, below evaluations/."""
        return self.out.parents[1]


@dataclass(frozen=True)
class Outcome:
    """What came of one model. results, failures: by evaluation; each is in one of the two."""

    target: Target
    results: Mapping[str, Result] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)

    def measured(self, figure: Figure) -> float | None:
        """Return a figure, or None if there is none."""
        result = self.results.get(figure.evaluation)
        metric = None if result is None else result.metric(figure.metric, **figure.parameters)
        return None if metric is None else metric.value


def jobs_of(out: Path, targets: Sequence[Target]) -> list[EvaluationJob]:
    """Return every evaluation of every model."""
    folders = [out / name for name in folder_names([target.weights.name for target in targets])]
    return [
        EvaluationJob(target, evaluation, folder / "evaluations" / evaluation)
        for target, folder in zip(targets, folders, strict=True)
        for evaluation in target.evaluations
    ]


def require_same(jobs: Sequence[EvaluationJob], bench: Bench) -> None:
    """Refuse, before the work, kept results that were made otherwise: they would have to be replaced.

    Raises UserError that names which, and what is different.
    """
    for job in jobs:
        result = kept(job.folder, job.evaluation)
        if result is None:
            continue
        before, now = result.protocol.get(SETTINGS, {}), _plain(bench.settings(job.evaluation))
        changed = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
        if changed:
            raise UserError(
                f"{job.out}.json was measured otherwise (other {', '.join(changed)}): name another --out, or add "
                "--overwrite to measure it again"
            )


class InThisProcess:
    """Runs evaluation jobs one after the other, for `execute`. measure: returns why a job failed, or None."""

    at_once = 1

    def __init__(self, measure: Callable[[EvaluationJob], str | None]) -> None:
        self.measure = measure

    def start(self, configs: Sequence[EvaluationJob]) -> list[Ended]:
        """Run these to their end."""
        return [Ended(self.measure(job)) for job in configs]


@dataclass(frozen=True)
class Ended:
    """A job that has ended: why it failed, or None."""

    failure: str | None

    def poll(self) -> int:
        """Return the exit code."""
        return 0 if self.failure is None else 1

    def stop(self) -> None:
        """Do nothing: it has ended."""

    kill = stop

    def diagnosis(self) -> str:
        """Return why it failed."""
        return self.failure or ""


def run(targets: Sequence[Target], bench: Bench, options: Options, out: Path, *, overwrite: bool) -> list[Outcome]:
    """Take each result from what an earlier start kept, else measure and keep it; one model is in memory at a time.

    overwrite: measure again what is kept.

    Raises UserError if a result cannot be written; all else that goes wrong with a model is its result.
    """
    results: dict[Path, Result] = {}
    loaded: dict[str, Model | str] = {}

    def measure(job: EvaluationJob) -> str | None:
        name = job.target.weights.name
        if name not in loaded:
            loaded.clear()
            loaded[name] = attempt(job.target.weights.load)
        model = loaded[name]
        if isinstance(model, str):
            return model
        found = None if overwrite else kept(job.folder, job.evaluation)
        if found is not None and found.protocol.get("weights_hash") != model.weights_hash:
            return "what is kept was measured of other weights: name another --out, or add --overwrite"
        if found is None:
            found = attempt(lambda: _measured(job, model, bench, options))
            if isinstance(found, str):
                return found
            keep_as(job.folder, job.evaluation, found)
            shutil.rmtree(job.folder / SCRATCH, ignore_errors=True)
        results[job.out] = found
        return None

    jobs = jobs_of(out, targets)
    statuses = execute(jobs, InThisProcess(measure), finished=lambda job: False, catch_signals=False).runs
    failures = {status.config.out: status.diagnosis for status in statuses if status.state == "failed"}
    return [
        Outcome(
            target,
            {job.evaluation: results[job.out] for job in jobs if job.target is target and job.out in results},
            {job.evaluation: failures[job.out] for job in jobs if job.target is target and job.out in failures},
        )
        for target in targets
    ]


def _measured(job: EvaluationJob, model: Model, bench: Bench, options: Options) -> Result:
    begin = time.perf_counter()
    model.backbone.to(options.device)
    watch = lambda what: options.watch(f"{model.label}: {what}")
    result = bench.measure(job.evaluation, model, watch, job.folder / SCRATCH)
    taken = {"seconds": round(time.perf_counter() - begin, 1), "machine": to_dict(machine(options.device))}
    return replace(result, protocol={**result.protocol, **taken, SETTINGS: _plain(bench.settings(job.evaluation))})


def attempt(call: Callable[[], T]) -> T | str:
    """Return what the call gives, or why it failed: a mistake of the user, memory, or files that cannot be read."""
    try:
        return call()
    except torch.OutOfMemoryError:
        return "it does not fit into the memory of the device: give a smaller --batch-size"
    except MemoryError:
        return "it does not fit into memory"
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or 'a file'}: {error.strerror or error}"


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as JSON would give them back."""
    return json.loads(json.dumps(dict(settings)))


def _seconds_of(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


# A dry run


def plan_table(targets: Sequence[Target], bench: Bench, options: Options) -> Table:
    """Return what would be done: a row for each model with its file and time, and the sums.

    Every network is probed with random weights: speed does not depend on them, and no file need be here.
    """
    times: list[float | str] = []
    with options.watch("measuring how fast the networks are") as progress:
        for number, target in enumerate(targets):
            progress(number, len(targets))
            times.append(attempt(functools.partial(_seconds, target, bench, options)))
    columns = (Column("Model"), Column("File"), Column("MB", "right"), Column("Here"), Column("Time", "right"))
    reasons = list(dict.fromkeys(one for one in times if isinstance(one, str)))
    rows = [_plan_row(target.weights, one, reasons) for target, one in zip(targets, times, strict=True)]
    missing = [target.weights for target in targets if not target.weights.here]
    total = duration(sum(one for one in times if isinstance(one, float)), coarse=True)
    remarks = [
        f"On {bench.amount}; in all {total} by the probe, without what is kept from an earlier start.",
        "The probe is of a few images, read by one process; votes and the training of fast probes come on top.",
    ]
    if missing:
        fetched = sum(one.megabytes()[0] for one in missing)
        remarks.append(f"To be fetched: {len(missing)} files, {fetched:,.0f} MB; ≥: the weights of the network alone.")
    remarks += [f"{NOT_COMPARABLE}: {caution}." for caution in bench.cautions]
    return Table(columns, (Section(tuple(rows)),), "What would be done", tuple(reasons), tuple(remarks))


def _seconds(target: Target, bench: Bench, options: Options) -> float:
    model = target.weights.untrained()
    model.backbone.to(options.device)
    return sum(bench.seconds(evaluation, model) for evaluation in target.evaluations)


def _plan_row(weights: Weights, seconds: float | str, reasons: Sequence[str]) -> TableRow:
    size, known = weights.megabytes()
    cells = (
        weights.name,
        weights.place or ABSENT,
        ABSENT if weights.random else f"{'' if known else '≥'}{size:.0f}",
        "yes" if weights.here else "no",
        ABSENT if isinstance(seconds, str) else duration(seconds, coarse=True),
    )
    return TableRow(cells, (reasons.index(seconds) + 1,) if isinstance(seconds, str) else ())


# The table


@dataclass(frozen=True)
class Reproduction:
    """A table that was run again. missing: rows of the paper that nobody can measure, in words; "" for none."""

    name: str
    title: str
    bench: Bench
    outcomes: tuple[Outcome, ...]
    missing: str = ""

    @property
    def failed(self) -> int:
        """How many results are missing."""
        return sum(len(outcome.failures) for outcome in self.outcomes)


def table(result: Reproduction) -> Table:
    """Return one row for each figure of each model, in %; a failure is a row with its reason as a note."""
    columns = (
        Column("Model"),
        Column("Figure"),
        Column("Measured", "right"),
        Column("Published", "right"),
        Column("Difference", "right"),
    )
    pairs = [(outcome, figure) for outcome in result.outcomes for figure in outcome.target.figures]
    notes = list(dict.fromkeys(note for pair in pairs for note in _notes(*pair)))
    rows = tuple(_row(outcome, figure, notes) for outcome, figure in pairs)
    return Table(columns, (Section(rows),), result.title, tuple(notes), tuple(remarks(result)))


def remarks(result: Reproduction) -> list[str]:
    """Return why figures are not comparable, if they are not; the protocol; the sources; what was not measured."""
    cautions = result.bench.cautions
    sentences = [f"{NOT_COMPARABLE}: {'; '.join(cautions)}."] if cautions else []
    sentences += [f"{remark}." for remark in result.bench.remarks]
    sources = dict.fromkeys(
        figure.source for outcome in result.outcomes for figure in outcome.target.figures if figure.source
    )
    if sources:
        listing = "; ".join(sources)
        sentences.append(f"Published, in %: {listing}. Difference: measured less published, in points of %.")
    weights = [outcome.target.weights for outcome in result.outcomes if not outcome.target.weights.random]
    unchecked = dict.fromkeys(one.release.method for one in weights if not one.release.digest)
    if unchecked:
        sentences.append(
            f"No digests are published of the files of {', '.join(unchecked)}: they are taken as they are."
        )
    if result.missing:
        sentences.append(f"Not released, and so not measured: {result.missing}.")
    return sentences


def difference(outcome: Outcome, figure: Figure) -> float | None:
    """Return measured less published, in points of %."""
    measured = outcome.measured(figure)
    return None if measured is None or figure.published is None else measured - figure.published


def _row(outcome: Outcome, figure: Figure, notes: Sequence[str]) -> TableRow:
    measured, less = outcome.measured(figure), difference(outcome, figure)
    missing = FAILED if figure.evaluation in outcome.failures else ABSENT
    cells = (
        outcome.target.weights.name,
        figure.title,
        missing if measured is None else f"{measured:.1f}",
        ABSENT if figure.published is None else f"{figure.published:.1f}",
        ABSENT if less is None else f"{less:+.1f}",
    )
    return TableRow(cells, tuple(sorted(notes.index(note) + 1 for note in _notes(outcome, figure))))


def _notes(outcome: Outcome, figure: Figure) -> list[str]:
    """Return what must be known of one figure."""
    name, result = outcome.target.weights.name, outcome.results.get(figure.evaluation)
    notes = [figure.note] if figure.note else []
    if remark := outcome.target.weights.remark:
        notes.append(f"{name}: {remark}")
    if reason := outcome.failures.get(figure.evaluation):
        notes.append(f"{name}: {figure.evaluation} failed: {reason}")
    left_out = {} if result is None else result.protocol.get("left_out") or {}
    if left_out:
        notes.append(f"{name}: images left out: {', '.join(f'{count} {kind}' for kind, count in left_out.items())}")
    if result is not None and result.protocol.get("rate_at_edge"):
        notes.append("the learning rate is at the edge of those tried, so that one beyond may be better")
    return notes


def csv_rows(result: Reproduction) -> list[list[str]]:
    """Return one row per row of the table, under `CSV_HEADER`; figures unrounded, empty if there are none."""
    rows: list[list[str]] = []
    for outcome in result.outcomes:
        for figure in outcome.target.figures:
            one = outcome.results.get(figure.evaluation)
            values = [
                outcome.target.weights.name,
                figure.title,
                outcome.measured(figure),
                figure.published,
                difference(outcome, figure),
                figure.source,
                figure.evaluation,
                None if one is None else one.protocol.get("seconds"),
                None if one is None else one.protocol.get("weights"),
                "; ".join(_notes(outcome, figure)),
            ]
            rows.append(["" if value is None else str(value) for value in values])
    return rows


def json_values(result: Reproduction) -> dict[str, Any]:
    """Return everything as plain values: figures, protocols, failures, notes."""
    models = [
        {
            "model": outcome.target.weights.name,
            "file": outcome.target.weights.place,
            "figures": [
                {
                    **asdict(figure),
                    "measured": outcome.measured(figure),
                    "difference": difference(outcome, figure),
                    "notes": _notes(outcome, figure),
                }
                for figure in outcome.target.figures
            ],
            "measurements": {name: to_dict(one) for name, one in outcome.results.items()},
            "failures": dict(outcome.failures),
        }
        for outcome in result.outcomes
    ]
    return {
        "version": __version__,
        "table": result.name,
        "data": result.bench.amount,
        "comparable": not result.bench.cautions,
        "units": "%",
        "models": models,
        "remarks": remarks(result),
    }
