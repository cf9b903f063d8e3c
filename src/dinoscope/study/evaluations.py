"""What is measured of a run after its end, each kept in its folder and never measured twice."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dinoscope.data.benchmarks import MaskedImages, find_masked_images, voc_root
from dinoscope.data.images import UnreadableImage, read_size
from dinoscope.data.sources import find_split, resolve_split
from dinoscope.errors import UserError
from dinoscope.evaluation import EVALUATIONS
from dinoscope.evaluation.base import Context, Data, Evaluation, gallery_and_queries, is_expected
from dinoscope.evaluation.results import keep_in, kept, kept_names, newest_first
from dinoscope.evaluation.voc import VocConfig, measure_voc, results_of
from dinoscope.model_names import Model, load_model
from dinoscope.study.effects import RANK
from dinoscope.types import Result

logger = logging.getLogger("dinoscope")

JACCARD = "ablation-jaccard"
"""Name under which the run folder keeps it."""


@dataclass(frozen=True)
class Evaluating:
    """What is measured, and on what.

    data: the study's images; accuracy needs train/CLASS/... and val/CLASS/... .
    masked: images whose objects are known, or None: no Jaccard.
    names: of further evaluations; those that compare by default and depend on the weights are always made, and RankMe.
    context: where networks run and how features are computed.
    """

    data: Path
    masked: MaskedImages | None = None
    names: tuple[str, ...] = ()
    context: Context = field(default_factory=Context)

    @property
    def evaluations(self) -> list[Evaluation]:
        """What is measured, in the order of the registry."""
        every = EVALUATIONS.items()
        return [one for name, one in every if name in (*self.names, RANK) or (one.default and not one.by_network)]


def find_masks_for(data: Path, masks: Path) -> MaskedImages:
    """Return the images of `masks` if that is a VOC layout; else those of `data`'s val split, with masks below it.

    A folder of masks may have the val split in a folder of its own, named like that of the images.

    Raises UserError if nothing fits.
    """
    if voc_root(masks) is not None:
        return find_masked_images(masks)
    images = resolve_split(data, "val")
    inner = masks / images.name
    return find_masked_images(images, inner if inner.is_dir() else masks)


def is_labelled(data: Path) -> bool:
    """Return whether accuracy can be measured on this folder: both splits, with labels."""
    try:
        _, queries = gallery_and_queries(data)
    except UserError:
        return False
    return queries is not None


def evaluate(run: Path, evaluating: Evaluating) -> tuple[dict[str, float], list[str]]:
    """Return every measure of a finished run, by key of `measures()`, and remarks on what could not be measured.

    Raises UserError if the run has no weights.
    """
    model, watch = load_model(str(run)), evaluating.context.watch
    context = replace(evaluating.context, watch=lambda what: watch(f"{run.name}: {what}"))
    metrics: dict[str, float] = {}
    labels, remarks = _labels(evaluating.data)
    for one in evaluating.evaluations:
        data = None if one.needs == "nothing" else evaluating.data
        if one.needs == "labels" and not labels:
            continue
        try:
            result = kept_or_measured(one, model, data, one.config(), context)
        except UserError as error:
            remarks.append(f"{run.name}: {one.title} was not measured: {error}")
            continue
        columns = [(column.name, column.metric_of(result)) for column in one.columns]
        metrics |= {name: metric.value for name, metric in columns if metric is not None}
    if evaluating.masked is not None:
        try:
            metrics["voc"] = _jaccard(model, evaluating.masked, context)
        except UserError as error:
            remarks.append(f"{run.name}: {error}")
    return metrics, remarks


def kept_or_measured(one: Evaluation, model: Model, data: Data, config: Any, context: Context) -> Result:
    """Return the newest result of these weights that was made under these conditions, else measure and keep it.

    Raises UserError as the evaluation does.
    """
    home, wanted = model.home, one.expected(model, data, config, context)
    held = () if home is None else newest_first(home, kept_names(home, one.prefix or one.name))
    for name in held:
        result = kept(model.home or Path(), name)
        if result is None or result.protocol.get("weights_hash", model.weights_hash) != model.weights_hash:
            continue
        if is_expected(result, wanted) and any(column.metric_of(result) is not None for column in one.columns):
            return result
    result = one.run([model], data, config, context)[0]
    _keep(model, one.kept_as(config, result.protocol), result)
    return result


def _labels(data: Path) -> tuple[bool, list[str]]:
    """Return whether there are labelled images of both splits, and a remark if they seem to be meant to be."""
    try:
        return gallery_and_queries(data)[1] is not None, []
    except UserError as error:
        meant = find_split(data, "val") is not None
        return False, [f"accuracy was not measured: {error}"] if meant else []


def _keep(model: Model, name: str, result: Result) -> None:
    try:
        if model.home is not None:
            keep_in(model.home, name, result)
    except UserError as error:  # a run folder that cannot be written to
        logger.warning("%s", error)


def _jaccard(model: Model, masked: MaskedImages, context: Context) -> float:
    """Return the Jaccard in % of the mask with 60 % of the mean attention and all objects of an image (strict)."""
    config = VocConfig(protocol="strict", size=_side(masked))
    wanted = {"data": str(masked.root), "images_there": len(masked), "short_side": config.size}
    wanted |= {"weights_hash": model.weights_hash}
    home = model.home or Path()
    every = (kept(home, name) for name in kept_names(home, JACCARD))
    same = (one for one in every if one and all(one.protocol.get(key) == value for key, value in wanted.items()))
    result = next(same, None)
    if result is None:
        with context.watch("attention on objects") as progress:
            (measured,) = results_of(measure_voc([model], masked, config, progress, context=context))
        result = Result("voc", {**measured.protocol, **wanted}, measured.metrics)
        _keep(model, JACCARD, result)
    return next(metric.value for metric in result.metrics if metric.name == "voc_jaccard_strict_mean")


def _side(masked: MaskedImages) -> int:
    """Return the short side of the shown images: the strict protocol's 480 px, but small images are not blown up."""
    try:
        size = read_size(masked.images[0])
    except UnreadableImage as error:
        raise UserError(f"{masked.images[0]} cannot be read: {error}") from error
    return min(VocConfig.size, *size) if voc_root(masked.root) is None else VocConfig.size
