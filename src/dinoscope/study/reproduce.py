"""Published tables run again with the released weights: data, protocol, one evaluation after the other, the table."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from dinoscope import __version__
from dinoscope.config import to_dict
from dinoscope.data.benchmarks import find_davis, find_masked_images
from dinoscope.data.finding import find_split
from dinoscope.data.sources import ImageFolder, evenly, images_in_folder
from dinoscope.errors import UserError, lookup
from dinoscope.evaluation import EVALUATIONS
from dinoscope.evaluation import davis as davis_evaluation
from dinoscope.evaluation import voc as voc_evaluation
from dinoscope.evaluation.base import Context, Data, require_known_classes
from dinoscope.evaluation.knn import KNNConfig
from dinoscope.evaluation.linear import LinearConfig
from dinoscope.evaluation.results import keep_as, kept
from dinoscope.evaluation.voc import PUBLISHED_SIDE, measure_voc
from dinoscope.features import default_crop_fraction, extract
from dinoscope.files import claim
from dinoscope.model_names import Model, Watch, folder_names, random_backbone
from dinoscope.study import targets as published
from dinoscope.study.definition import study_files
from dinoscope.study.run import execute
from dinoscope.study.targets import MASSES, K, Target
from dinoscope.system import machine
from dinoscope.tables import Column, Section, Table, TableRow
from dinoscope.text import ABSENT, duration, figure
from dinoscope.types import Result

IMAGE_SIZE = 224
CLASSES, TRAIN_IMAGES, VAL_IMAGES = 1000, 1_281_167, 50_000
"""Classes and images of ImageNet-1k (ILSVRC 2012)."""
LINEAR, LINEAR_REFERENCE = "linear", "linear-reference"
PROBES = {"fast": LINEAR, "reference": LINEAR_REFERENCE, "none": None}
"""What --linear chooses -> the name that the result is kept under."""
PROBED_IMAGES, PROBED_MASKS, PROBED_FRAMES = 32, 4, 5
"""For the estimate of a time."""
SETTINGS = "reproduction"
"""Entry of a kept protocol: what a later start must ask for to take the result up."""
SCRATCH = "features"
"""Folder next to evaluations/ of what is computed for a result; deleted when that is kept."""
FILES = ("reproduce.md", "reproduce.csv", "reproduce.json")
NOT_COMPARABLE = "Not comparable with the published figures"

T = TypeVar("T")


@dataclass(frozen=True)
class Measuring:
    """How a table is measured.

    data, context, configs: of the evaluations; configs by the name under which a result is kept, after which the
        evaluation is called up to the first hyphen.
    amount: images or frames, for a person. cautions: why figures are not comparable with the published ones.
    remarks: the protocol, and where it is not the paper's.
    settings: evaluation -> all that decides a figure but the weights, as plain values.
    seconds: evaluation, model -> roughly how long that takes, from a short probe on the same data.
    """

    data: Data
    context: Context
    configs: Mapping[str, Any]
    amount: str
    cautions: Sequence[str]
    remarks: Sequence[str]
    settings: Callable[[str], Mapping[str, Any]]
    seconds: Callable[[str, Model], float]


@dataclass(frozen=True)
class Reproduction:
    """A table to be run again, or that was: its models hold what was measured. missing: rows without weights."""

    name: str
    title: str
    measuring: Measuring
    targets: Sequence[Target]
    missing: str


# ImageNet


def imagenet(data: Path, context: Context, linear: str | None) -> Measuring:
    """Return k-NN and linear probes on ImageNet (DINO's Table 2). Raises UserError for another layout or classes."""
    roots = {name: find_split(data, name) for name in ("train", "val")}
    absent = [name for name, root in roots.items() if root is None]
    if absent:
        raise UserError(
            f"{data} has no folder {' and no folder '.join(absent)}: expected is ImageNet as train/CLASS/*.JPEG "
            "and val/CLASS/*.JPEG, with the same names of classes in both"
        )
    train, val = (_listed(root.resolve(), context.watch) for root in roots.values() if root is not None)
    require_known_classes(train, val)
    if len(train) < K:
        raise UserError(f"{train.root}: {len(train)} images, and {K} neighbours are to vote")
    size = context.image_size or IMAGE_SIZE
    context = replace(context, image_size=size)

    @functools.cache
    def images() -> dict[str, str]:
        prints = {"train_images": train.fingerprint(), "val_images": val.fingerprint()}
        return {"train": str(train.root), "val": str(val.root), **prints}

    def seconds(evaluation: str, model: Model) -> float:
        """Time the features of a few images, read by this process; votes and training of a probe come on top."""
        probing = replace(context, workers=0).extraction("image" if evaluation == "knn" else "linear")
        few = train.subset(evenly(len(train), PROBED_IMAGES))
        extract(model.backbone, few.subset([0]), probing)  # the first forward is slow
        each = _seconds_of(lambda: extract(model.backbone, few, probing)) / len(few)
        passes = LinearConfig.epochs if evaluation == LINEAR_REFERENCE else 1
        return each * (passes * len(train) + len(val))

    counts = (len(train.classes), len(train), len(val))
    cautions = {
        f"not ImageNet-1k: {counts[0]:,} classes, {counts[1]:,} training and {counts[2]:,} validation images instead "
        f"of {CLASSES:,}, {TRAIN_IMAGES:,} and {VAL_IMAGES:,}": counts != (CLASSES, TRAIN_IMAGES, VAL_IMAGES),
        f"images of {size} px instead of {IMAGE_SIZE}": size != IMAGE_SIZE,
    }
    short = round(size / default_crop_fraction(size))
    protocols = {
        "knn": f"k-NN: features of the last class token (ResNet: pooled), all training images, weights "
        f"exp(cosine / {KNNConfig.temperature:g}), short side {short} px (bicubic), centre {size} px, fp32; as in the "
        "paper",
        LINEAR: "linear: the fast protocol. Features are extracted once, without augmentation, and standardised; the "
        f"learning rate is chosen on held-out training images; last of {LinearConfig.epochs} epochs. The papers train "
        "on augmented images (--linear reference) and sweep by figures of their own",
        LINEAR_REFERENCE: f"linear: DINO's protocol, {LinearConfig.epochs} epochs of crops and flips; the figure is "
        "the last epoch's, not the best one's on the validation images. Other papers than DINO's sweep settings of "
        "their own",
    }
    return Measuring(
        (train, val),
        context,
        {"knn": KNNConfig(), LINEAR: LinearConfig("fast"), LINEAR_REFERENCE: LinearConfig("reference")},
        f"{len(train):,} training and {len(val):,} validation images",
        _true(cautions),
        [text for name, text in protocols.items() if name in ("knn", linear)],
        lambda evaluation: {**images(), "evaluation": evaluation, "image_size": size, "precision": "fp32"},
        seconds,
    )


def _listed(root: Path, watch: Watch) -> ImageFolder:
    with watch(f"listing {root.name}, in classes") as progress:
        return images_in_folder(root, labelled=True, progress=progress)


def _true(statements: Mapping[str, bool]) -> list[str]:
    return [text for text, holds in statements.items() if holds]


# PASCAL VOC


def voc(data: Path, context: Context, _: str | None = None) -> Measuring:
    """Return the Jaccard of attention masks on VOC 2012 val (DINO's Fig. 4). Raises UserError for another layout."""
    images, square = find_masked_images(data.resolve()), context.image_size or PUBLISHED_SIDE
    config = voc_evaluation.VocConfig(protocol="published", mass=MASSES[0], masses=(MASSES[1],), square=square)

    @functools.cache
    def files() -> str:
        digest = hashlib.blake2b(digest_size=16)
        for name, *paths in zip(images.names, images.images, images.masks, strict=True):
            sizes = [path.stat().st_size if path.is_file() else -1 for path in paths]
            digest.update(f"{name}\0{sizes}\0".encode())
        return digest.hexdigest()

    def seconds(evaluation: str, model: Model) -> float:
        few = images.subset(PROBED_MASKS)
        measure_voc([model], few.subset(1), config, context=context)  # the first forward is slow
        return _seconds_of(lambda: measure_voc([model], few, config, context=context)) / len(few) * len(images)

    wanted = voc_evaluation.ALL_VAL
    cautions = {
        f"not VOC 2012 val: {len(images):,} images with masks instead of {wanted:,}": len(images) != wanted,
        f"squares of {square} px instead of {PUBLISHED_SIDE}": square != PUBLISHED_SIDE,
    }
    remarks = (
        f"Jaccard: image and mask at {square} x {square} px, attention of the class token in the last block, the "
        "smallest mask that holds so much of it, of each class of an image the head that fits the ground truth best, "
        "mean over the classes of an image, then over images; void counts as not of the class",
        "The paper's text says 60 % of the attention, the public script of Naseer et al. takes 90 %: both are here",
        "`dinoscope voc` also measures without choosing by the ground truth, and with intervals",
    )

    def settings(evaluation: str) -> dict[str, Any]:
        return {"data": str(images.root), "images": files(), "evaluation": evaluation, "square": square}

    amount = f"{len(images):,} images"
    return Measuring(data.resolve(), context, {"voc": config}, amount, _true(cautions), remarks, settings, seconds)


# DAVIS


def davis(data: Path, context: Context, _: str | None = None) -> Measuring:
    """Return video object segmentation on DAVIS 2017 val (DINO's Table 5). Raises UserError as `find_davis` does."""
    found, config = find_davis(data.resolve(), 2017), davis_evaluation.DavisConfig()
    if context.image_size is not None:
        config = replace(config, size=context.image_size)
    sequences, frames = found.sequences, found.frames

    @functools.cache
    def settings(_: str) -> Mapping[str, Any]:
        return {
            "data": str(found.root),
            "sequences": [sequence.name for sequence in sequences],
            "frames": [sequence.fingerprint() for sequence in sequences],
            **davis_evaluation.propagation_protocol(config),
        }

    def seconds(evaluation: str, model: Model) -> float:
        """Time the first frames of the first sequence; later ones are compared with more frames."""
        if not sequences:
            raise UserError(f"{found.root}: no sequence to measure on")
        first = sequences[0].limited(min(PROBED_FRAMES, len(sequences[0])))
        masks = davis_evaluation.propagated(first, model, config, context.device)
        return _seconds_of(lambda: davis_evaluation.score_masks(first, masks)) / len(first) * frames

    wanted, side = davis_evaluation.ALL_VAL, davis_evaluation.DavisConfig.size
    cautions = {
        f"not DAVIS 2017 val: {len(sequences)} sequences instead of {wanted}": len(sequences) != wanted,
        f"frames at {found.resolution} instead of 480p": found.resolution != "480p",
        f"short side {config.size} px instead of {side}": config.size != side,
    }
    remarks = (
        f"J and F: short side {config.size} px, first and {config.context} previous frames, radius "
        f"{config.radius}, top {config.top_k}, temperature {config.temperature:g}; scored as by the official "
        "scorer: means over objects, first and last frame left out. The settings are those of the public script",
        "Pixels are normalised as the networks were trained (standard deviation of red 0.229; the public script "
        "divides by 0.228), so that small differences are to be expected",
    )
    amount = f"{frames:,} frames of {len(sequences)} sequences"
    configs = {"davis-2017": config}
    return Measuring(data.resolve(), context, configs, amount, _true(cautions), remarks, settings, seconds)


TABLES = {
    "imagenet-table": (imagenet, published.imagenet_figures),
    "voc-table": (voc, published.voc_figures),
    "davis-table": (davis, published.davis_figures),
}
"""Name of a file in `studies/`, with title, models and rows without released weights -> how it is measured: from data,
conditions and the name of the probe, raising UserError for data that are laid out otherwise; and the figures of a model
with that probe."""


# Running


def prepare(
    name: str, data: Path, context: Context, models: Sequence[str] = (), linear: str | None = LINEAR
) -> Reproduction:
    """Return a table of `TABLES` that is checked against its data, and not measured.

    models: none takes the table's; see `targets.parse`. linear: one of the values of `PROBES`.

    Raises UserError for an unknown name, models that cannot be in the table, and data that are laid out otherwise.
    """
    measuring, figures = lookup("table", name, TABLES)
    table = study_files()[name]
    targets = published.chosen(models, table["models"], lambda target: figures(target, linear))
    missing = "" if models else table["missing"]
    return Reproduction(name, table["title"], measuring(data, context, linear), targets, missing)


@dataclass(frozen=True)
class _Job:
    """One evaluation of one model. out: the file of its result, without the suffix."""

    target: Target
    evaluation: str
    out: Path

    @property
    def folder(self) -> Path:  # where the results of the model are kept, below evaluations/
        return self.out.parents[1]


@dataclass
class _InThisProcess:
    """Runs jobs one after the other, for `execute`. measure: returns why a job failed, or ""."""

    measure: Callable[[_Job], str]
    at_once: int = 1

    def start(self, configs: Sequence[_Job]) -> list[_Ended]:
        return [_Ended(self.measure(job)) for job in configs]


@dataclass(frozen=True)
class _Ended:
    """A job that has ended. failure: why it failed, or ""."""

    failure: str

    def poll(self) -> int:
        return 1 if self.failure else 0

    def stop(self) -> None:
        pass

    kill = stop

    def diagnosis(self) -> str:
        return self.failure


def run(
    reproduction: Reproduction, out: Path, *, overwrite: bool = False, warn: Callable[[str], object] = lambda text: None
) -> int:
    """Take each result from what an earlier start kept, else measure and keep it; one model is in memory at a time.

    All weights are fetched first. What is measured, and why else it is not, goes to the targets.

    overwrite: measure again what is kept. warn: called before the work with the reasons why figures are not comparable.

    Returns how many results are missing. Raises UserError if `out` holds another table or results that were measured
    otherwise, weights cannot be had, or a result cannot be written; all else that goes wrong with a model is its
    result.
    """
    measuring = reproduction.measuring
    folders = [out / name for name in folder_names([target.name for target in reproduction.targets])]
    jobs = [
        _Job(target, evaluation, folder / "evaluations" / evaluation)
        for target, folder in zip(reproduction.targets, folders, strict=True)
        for evaluation in target.evaluations
    ]
    claim(out, FILES, overwrite=overwrite or _continues(reproduction, out))
    if not overwrite:
        for job in jobs:
            _require_same_settings(job, measuring)
    published.fetch_all(reproduction.targets, measuring.context.watch)
    for caution in measuring.cautions:
        warn(f"{NOT_COMPARABLE}: {caution}")
    loaded: dict[str, Model | str] = {}

    def measure(job: _Job) -> str:
        if job.target.name not in loaded:
            loaded.clear()
            loaded[job.target.name] = attempt(job.target.load)
        model = loaded[job.target.name]
        if isinstance(model, str):
            return model
        result = None if overwrite else kept(job.folder, job.evaluation)
        if result is not None and result.protocol.get("weights_hash") != model.weights_hash:
            return "what is kept was measured of other weights: name another --out, or add --overwrite"
        if result is None:
            result = attempt(lambda: _measured(job, model, measuring))
            if isinstance(result, str):
                return result
            keep_as(job.folder, job.evaluation, result)
            shutil.rmtree(job.folder / SCRATCH, ignore_errors=True)
        job.target.results[job.evaluation] = result
        return ""

    ended = execute(jobs, _InThisProcess(measure), finished=lambda job: False, catch_signals=False)
    for status in ended.named("failed"):
        status.config.target.failures[status.config.evaluation] = status.diagnosis
    return len(ended.named("failed"))


def _continues(reproduction: Reproduction, out: Path) -> bool:
    """Return whether `out` holds the same table, of these models or fewer."""
    try:
        values = json.loads((out / "reproduce.json").read_text(encoding="utf-8"))
        models = {model["model"] for model in values["models"]}
        return values["table"] == reproduction.name and models <= {target.name for target in reproduction.targets}
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _require_same_settings(job: _Job, measuring: Measuring) -> None:
    """Refuse, before the work, a kept result that was made otherwise: it would have to be replaced."""
    result = kept(job.folder, job.evaluation)
    if result is None:
        return
    before, now = result.protocol.get(SETTINGS, {}), _plain(measuring.settings(job.evaluation))
    changed = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    if changed:
        raise UserError(
            f"{job.out}.json was measured otherwise (other {', '.join(changed)}): name another --out, or add "
            "--overwrite to measure it again"
        )


def _measured(job: _Job, model: Model, measuring: Measuring) -> Result:
    begin, context = time.perf_counter(), measuring.context
    model.backbone.to(context.device)
    watch = lambda what: context.watch(f"{model.label}: {what}")
    own = replace(context, watch=watch, place=job.folder / SCRATCH)  # gigabytes for each model: until it is measured
    evaluation = EVALUATIONS[job.evaluation.partition("-")[0]]
    alone = replace(model, keeps_results=False)  # this module keeps the result
    result = next(iter(evaluation.run([alone], measuring.data, measuring.configs[job.evaluation], own)))
    taken = {
        "seconds": round(time.perf_counter() - begin, 1),
        "machine": to_dict(machine(context.device or torch.device("cpu"))),
    }
    settings = {SETTINGS: _plain(measuring.settings(job.evaluation))}
    return replace(result, protocol={**result.protocol, **taken, **settings})


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
    return json.loads(json.dumps(dict(settings)))


def _seconds_of(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


# Tables


def plan_table(reproduction: Reproduction) -> Table:
    """Return a row for each model with its file and time, and the sums; networks are probed with random weights."""
    measuring, targets = reproduction.measuring, reproduction.targets

    def seconds(target: Target) -> float:
        model = Model(target.name, target.name, random_backbone(target.release.config()), None)
        model.backbone.to(measuring.context.device)
        return sum(measuring.seconds(evaluation, model) for evaluation in target.evaluations)

    rows: list[TableRow] = []
    reasons: list[str] = []
    total = 0.0
    with measuring.context.watch("measuring how fast the networks are") as progress:
        for number, target in enumerate(targets):
            progress(number, len(targets))
            taken, (size, known) = attempt(functools.partial(seconds, target)), target.megabytes()
            if isinstance(taken, str):
                reasons += [] if taken in reasons else [taken]
            else:
                total += taken
            cells = (
                target.name,
                target.place or ABSENT,
                ABSENT if target.random else f"{'' if known else '≥'}{size:.0f}",
                "yes" if target.available else "no",
                ABSENT if isinstance(taken, str) else duration(taken, coarse=True),
            )
            rows.append(TableRow(cells, (reasons.index(taken) + 1,) if isinstance(taken, str) else ()))
    columns = (Column("Model"), Column("File"), Column("MB", "right"), Column("Here"), Column("Time", "right"))
    remarks = [
        f"On {measuring.amount}; in all {duration(total, coarse=True)} by the probe, without what is kept from an "
        "earlier start.",
        "The probe is of a few images, read by one process; votes and the training of fast probes come on top.",
    ]
    if sizes := [target.megabytes()[0] for target in targets if not target.available]:
        remarks.append(f"To be fetched: {len(sizes)} files, {sum(sizes):,.0f} MB; ≥: the weights of the network alone.")
    remarks += [f"{NOT_COMPARABLE}: {caution}." for caution in measuring.cautions]
    return Table(columns, (Section(tuple(rows)),), "What would be done", tuple(reasons), tuple(remarks))


def figure_rows(target: Target) -> list[dict[str, Any]]:
    """Return every figure of a model, unrounded, by the names of the columns of reproduce.csv; None for what is not
    known. difference: measured less published, in points of %. notes: a list.
    """
    rows: list[dict[str, Any]] = []
    for one in target.figures:
        result = target.results.get(one.evaluation)
        metric = None if result is None else result.metric(one.metric, **one.parameters)
        measured, less = None if metric is None else metric.value, None
        if measured is not None and one.published is not None:
            less = measured - one.published
        rows.append(
            {
                "model": target.name,
                "figure": one.title,
                "measured": measured,
                "published": one.published,
                "difference": less,
                "source": one.source,
                "evaluation": one.evaluation,
                "seconds": None if result is None else result.protocol.get("seconds"),
                "weights": None if result is None else result.protocol.get("weights"),
                "notes": target.notes(one),
            }
        )
    return rows


def result_table(reproduction: Reproduction) -> Table:
    """Return one row for each figure of each model, in %; a failure is a row with its reason as a note."""
    pairs = [(target, row) for target in reproduction.targets for row in figure_rows(target)]
    notes = list(dict.fromkeys(note for _, row in pairs for note in row["notes"]))
    rows: list[TableRow] = []
    for target, row in pairs:
        measured = "failed" if row["evaluation"] in target.failures else figure(row["measured"])
        less = ABSENT if row["difference"] is None else f"{row['difference']:+.1f}"
        cells = (row["model"], row["figure"], measured, figure(row["published"]), less)
        rows.append(TableRow(cells, tuple(sorted(notes.index(note) + 1 for note in row["notes"]))))
    numbers = (Column(title, "right") for title in ("Measured", "Published", "Difference"))
    columns = (Column("Model"), Column("Figure"), *numbers)
    return Table(columns, (Section(tuple(rows)),), reproduction.title, tuple(notes), tuple(remarks(reproduction)))


def remarks(reproduction: Reproduction) -> list[str]:
    """Return why figures are not comparable, if they are not; the protocol; the sources; what was not measured."""
    measuring, targets = reproduction.measuring, reproduction.targets
    sentences = [f"{NOT_COMPARABLE}: {'; '.join(measuring.cautions)}."] if measuring.cautions else []
    sentences += [f"{remark}." for remark in measuring.remarks]
    sources = dict.fromkeys(one.source for target in targets for one in target.figures if one.source)
    if sources:
        listing = "; ".join(sources)
        sentences.append(f"Published, in %: {listing}. Difference: measured less published, in points of %.")
    unchecked = [target.release.method for target in targets if not target.random and not target.release.digest]
    if unchecked:
        methods = ", ".join(dict.fromkeys(unchecked))
        sentences.append(f"No digests are published of the files of {methods}: they are taken as they are.")
    if reproduction.missing:
        sentences.append(f"Not released, and so not measured: {reproduction.missing}.")
    return sentences


def csv_rows(reproduction: Reproduction) -> list[list[str]]:
    rows = [row for target in reproduction.targets for row in figure_rows(target)]
    texts = [{**row, "notes": "; ".join(row["notes"])}.values() for row in rows]
    return [list(rows[0]), *(["" if value is None else str(value) for value in row] for row in texts)]


def json_values(reproduction: Reproduction) -> dict[str, Any]:
    added = ("measured", "difference", "notes")
    models = [
        {
            "model": target.name,
            "file": target.place,
            "figures": [
                {**asdict(one), **{name: row[name] for name in added}}
                for one, row in zip(target.figures, figure_rows(target), strict=True)
            ],
            "measurements": {name: to_dict(one) for name, one in target.results.items()},
            "failures": dict(target.failures),
        }
        for target in reproduction.targets
    ]
    return {
        "version": __version__,
        "table": reproduction.name,
        "data": reproduction.measuring.amount,
        "comparable": not reproduction.measuring.cautions,
        "units": "%",
        "models": models,
        "remarks": remarks(reproduction),
    }
