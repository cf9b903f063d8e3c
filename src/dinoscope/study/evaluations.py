"""What is measured of a run after its end, each kept in its folder and never measured twice."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dinoscope.data.benchmarks import find_masked_images, voc_root
from dinoscope.data.images import UnreadableImage, read_size
from dinoscope.data.sources import find_split, resolve_split
from dinoscope.errors import UserError
from dinoscope.evaluation import EVALUATIONS
from dinoscope.evaluation.base import Context, Data, Evaluation, gallery_and_queries, is_expected
from dinoscope.evaluation.results import keep_in, kept, kept_names, newest_first
from dinoscope.evaluation.voc import VocConfig
from dinoscope.model_names import Model, load_model
from dinoscope.study.effects import RANK
from dinoscope.types import Result

logger = logging.getLogger("dinoscope")


@dataclass(frozen=True)
class Evaluating:
    """What is measured, and on what.

    data: the study's images; accuracy needs train/CLASS/... and val/CLASS/... .
    names: of further evaluations; those that compare by default and depend on the weights are always made, and RankMe.
    given: name of an evaluation -> data and settings of its own; it is made too.
    context: where networks run and how features are computed.
    """

    data: Path
    names: tuple[str, ...] = ()
    given: Mapping[str, tuple[Data, Any]] = field(default_factory=dict)
    context: Context = field(default_factory=Context)

    @property
    def evaluations(self) -> list[Evaluation]:
        """What is measured, in the order of the registry."""
        asked = {*self.names, *self.given, RANK}
        return [one for name, one in EVALUATIONS.items() if name in asked or (one.default and not one.by_network)]


def attention_on_objects(data: Path, masks: Path) -> dict[str, tuple[Data, Any]]:
    """Return the strict Jaccard of attention masks, for `Evaluating.given`.

    It is measured on the images of `masks` if that is a VOC layout; else on those of `data`'s val split, with masks in
    `masks`, or in its folder that is named like that of the images. Small images are not blown up to the protocol's
    480 px.

    Raises UserError if nothing fits.
    """
    if voc_root(masks) is not None:
        find_masked_images(masks)
        return {"voc": (masks, VocConfig(protocol="strict"))}
    images = resolve_split(data, "val")
    inner = masks / images.name
    masks = inner if inner.is_dir() else masks
    first = find_masked_images(images, masks).images[0]
    try:
        side = min(VocConfig.size, *read_size(first))
    except UnreadableImage as error:
        raise UserError(f"{first} cannot be read: {error}") from error
    return {"voc": (images, VocConfig(protocol="strict", masks=masks, size=side))}


def is_labelled(data: Path) -> bool:
    """Return whether accuracy can be measured on this folder: both splits, with labels."""
    return _labels(data)[0]


def evaluate(run: Path, evaluating: Evaluating) -> tuple[dict[str, float], list[str]]:
    """Return every measure of a finished run, by key of `measures()`, and remarks on what could not be measured.

    Raises UserError if the run has no weights.
    """
    model, watch = load_model(str(run)), evaluating.context.watch
    context = replace(evaluating.context, watch=lambda what: watch(f"{run.name}: {what}"))
    metrics: dict[str, float] = {}
    labels, remarks = _labels(evaluating.data)
    for one in evaluating.evaluations:
        if one.needs == "labels" and not labels:
            continue
        data, config = evaluating.given.get(one.name, (None if one.needs == "nothing" else evaluating.data, None))
        try:
            result = kept_or_measured(one, model, data, config or one.config(), context)
        except UserError as error:
            remarks.append(f"{run.name}: {one.title} was not measured: {error}")
            continue
        columns = [(column.name, column.metric_of(result)) for column in one.columns]
        metrics |= {name: metric.value for name, metric in columns if metric is not None}
    return metrics, remarks


def kept_or_measured(one: Evaluation, model: Model, data: Data, config: Any, context: Context) -> Result:
    """Return the newest result of these weights that was made under these conditions, else measure and keep it.

    Raises UserError as the evaluation does.
    """
    home, wanted = model.home, one.expected(model, data, config, context)
    held = () if home is None else newest_first(home, kept_names(home, one.prefix or one.name))
    for name in held:
        result = kept(home or Path(), name)
        if result is None or result.protocol.get("weights_hash", model.weights_hash) != model.weights_hash:
            continue
        if is_expected(result, wanted) and any(column.metric_of(result) is not None for column in one.columns):
            return result
    result = one.run([model], data, config, context)[0]
    try:
        if home is not None:
            keep_in(home, one.kept_as(config, result.protocol), result)
    except UserError as error:  # a run folder that cannot be written to
        logger.warning("%s", error)
    return result


def _labels(data: Path) -> tuple[bool, list[str]]:
    """Return whether there are labelled images of both splits, and a remark if they seem to be meant to be."""
    try:
        return gallery_and_queries(data)[1] is not None, []
    except UserError as error:
        meant = find_split(data, "val") is not None
        return False, [f"accuracy was not measured: {error}"] if meant else []
