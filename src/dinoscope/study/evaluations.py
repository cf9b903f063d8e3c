"""What is measured of a run after its end, each kept in its folder and never measured twice."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

import torch

from dinoscope.data.benchmarks import MaskedImages, find_masked_images, voc_root
from dinoscope.data.images import UnreadableImage, read_size
from dinoscope.data.sources import evenly, find_images, find_split, resolve_split
from dinoscope.errors import UserError
from dinoscope.evaluation.base import Context, gallery_and_queries
from dinoscope.evaluation.results import keep, kept, kept_names
from dinoscope.measurement.voc import VocConfig, measure_voc
from dinoscope.measurement.voc_record import measurements, summarise
from dinoscope.methods.health import rank_me
from dinoscope.model_names import Model, Watch, load_model, unwatched
from dinoscope.study.gather import Gatherer, Measuring
from dinoscope.types import Metric, Result

logger = logging.getLogger("dinoscope")

RANKME_IMAGES = 25_600
"""Most images whose features RankMe looks at: what its paper found to be enough (Garrido et al. 2023, section 4)."""

RANKME, JACCARD = "rankme", "ablation-jaccard"
"""Names under which the run folder keeps them; accuracies are kept as every command keeps them."""


@dataclass(frozen=True)
class Evaluating:
    """What is measured, and on what.

    data: the study's images; accuracy needs train/CLASS/... and val/CLASS/... .
    masked: images whose objects are known, or None: no Jaccard.
    context: of the features; its device is where attention is computed too.
    watch: hears of the progress.
    """

    data: Path
    masked: MaskedImages | None = None
    context: Context = field(default_factory=Context)
    watch: Watch = unwatched

    @property
    def device(self) -> torch.device:
        """Where networks run."""
        return self.context.device or torch.device("cpu")


def find_masks_for(data: Path, masks: Path) -> MaskedImages:
    """The images of `masks` itself where that is a VOC layout; else those of `data`'s val split, with masks below it.

    A folder of masks may have the val split in a folder of its own, called like that of the images.
    Raises UserError where nothing fits.
    """
    if voc_root(masks) is not None:
        return find_masked_images(masks)
    images = resolve_split(data, "val")
    inner = masks / images.name
    return find_masked_images(images, inner if inner.is_dir() else masks)


def is_labelled(data: Path) -> bool:
    """Whether accuracy can be measured on this folder: both splits, with labels."""
    try:
        _, queries = gallery_and_queries(data)
    except UserError:
        return False
    return queries is not None


def evaluate(run: Path, evaluating: Evaluating) -> tuple[dict[str, float], list[str]]:
    """Every measure of a finished run, by key of `MEASURES`, and remarks on what could not be measured.

    Raises UserError where the run has no weights.
    """
    subject = load_model(str(run))
    found, remarks = _accuracy(subject, evaluating)
    try:
        found["rankme"] = _value(_rankme(run, subject, evaluating), "rankme")
        if evaluating.masked is not None:
            found["jaccard"] = _value(_jaccard(run, subject, evaluating, evaluating.masked), "voc_jaccard_strict_mean")
    except UserError as error:
        remarks.append(f"{run.name}: {error}")
    return found, remarks


def _accuracy(subject: Model, evaluating: Evaluating) -> tuple[dict[str, float], list[str]]:
    """k-NN and linear top-1 in %, where the images have labels."""
    try:
        _, queries = gallery_and_queries(evaluating.data)
    except UserError as error:
        meant = find_split(evaluating.data, "val") is not None
        return {}, [f"accuracy was not measured: {error}"] if meant else []
    if queries is None:
        return {}, []
    measuring = Measuring(
        evaluating.data, skip=frozenset({"throughput"}), context=evaluating.context, watch=evaluating.watch
    )
    entry = Gatherer(measuring, [subject]).entry(subject)
    values = {"knn_top1": entry.value("knn"), "linear_top1": entry.value("linear")}
    return {name: value for name, value in values.items() if value is not None}, list(entry.remarks)


def _rankme(run: Path, subject: Model, evaluating: Evaluating) -> Result:
    """RankMe of the features of the val images, or of the training images where there is no val split."""
    folder = find_images(find_split(evaluating.data, "val") or resolve_split(evaluating.data, "train"))
    protocol = {
        **evaluating.context.network(subject),
        "images": str(folder.root),
        "count": len(folder),
        "most": RANKME_IMAGES,
    }
    held = _held(run, RANKME, protocol)
    if held is not None:
        return held
    bank = evaluating.context.features(subject.backbone, folder, f"{run.name}: features for RankMe")
    rank = rank_me(bank.features[evenly(len(bank.features), RANKME_IMAGES)])
    return _keep(run, RANKME, Result("rank", protocol, (Metric("rankme", rank, ""),)))


def _jaccard(run: Path, subject: Model, evaluating: Evaluating, masked: MaskedImages) -> Result:
    """Jaccard in % of the mask with 60 % of the mean attention and all objects of an image (`voc`, strict)."""
    config = VocConfig(protocols=("strict",), short_side=_side(masked), device=evaluating.device)
    wanted = {"data": str(masked.root), "images_there": len(masked), "short_side": config.short_side}
    wanted |= {"weights_hash": subject.weights_hash}
    held = _held(run, JACCARD, wanted)
    if held is not None:
        return held
    with evaluating.watch(f"{run.name}: attention on objects") as progress:
        result = measure_voc([subject], masked, config, progress)
    (measured,) = measurements(summarise(result))
    return _keep(run, JACCARD, Result("voc", {**measured.protocol, **wanted}, measured.metrics))


def _side(masked: MaskedImages) -> int:
    """Short side at which images are shown: the strict protocol's 480 px, but small images are not blown up."""
    try:
        size = read_size(masked.images[0])
    except UnreadableImage as error:
        raise UserError(f"{masked.images[0]} cannot be read: {error}") from error
    return min(VocConfig.short_side, *size) if voc_root(masked.root) is None else VocConfig.short_side


def _held(run: Path, name: str, protocol: dict[str, object]) -> Result | None:
    """What the run folder keeps, if it came about like this."""
    own = {key: value for key, value in protocol.items() if key != "weights"}  # the folder may have been moved
    every = (kept(run, file) for file in kept_names(run, name))
    same = (held for held in every if held and all(held.protocol.get(key) == value for key, value in own.items()))
    return next(same, None)


def _keep(run: Path, name: str, measurement: Result) -> Result:
    try:
        keep(run, name, measurement)
    except UserError as error:  # a run folder that cannot be written to
        logger.warning("%s", error)
    return measurement


def _value(measurement: Result, name: str) -> float:
    return next(metric.value for metric in measurement.metrics if metric.name == name)
