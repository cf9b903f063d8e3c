"""What is evaluated of a run after its end, each result kept in its folder and never measured twice."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dinoscope.data.benchmarks import find_masked_images, voc_root
from dinoscope.data.finding import find_split, resolve_split
from dinoscope.data.images import UnreadableImage, read_size
from dinoscope.errors import UserError
from dinoscope.evaluation import EVALUATIONS
from dinoscope.evaluation.base import (
    Context,
    Data,
    Evaluation,
    Images,
    is_expected,
    kept_results,
    labelled_images,
    measure,
)
from dinoscope.evaluation.voc import VocConfig
from dinoscope.model_names import load_model
from dinoscope.study.effects import RANK


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

    @functools.cached_property
    def labelled(self) -> tuple[Images | None, str]:
        """Return the images with labels in both splits, or None, and the fault if there is one."""
        try:
            images = labelled_images(self.data, self.context)
        except UserError as error:
            return None, str(error)
        return (images if images[1] is not None else None), ""

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


def evaluate(run: Path, evaluating: Evaluating) -> tuple[dict[str, float], list[str]]:
    """Return every measure of a finished run, by key of `measures()`, and remarks on what could not be measured.

    Raises UserError if the run has no weights.
    """
    model, context = load_model(str(run)), evaluating.context.naming(run.name)
    metrics: dict[str, float] = {}
    remarks: list[str] = []
    labelled, fault = evaluating.labelled
    if fault and find_split(evaluating.data, "val") is not None:  # labels seem to be meant
        remarks.append(f"accuracy was not measured: {fault}")
    for one in evaluating.evaluations:
        usual = {"labels": labelled, "nothing": None}.get(one.needs, evaluating.data)
        data, config = evaluating.given.get(one.name, (usual, one.config()))
        if one.needs == "labels" and labelled is None:
            continue
        try:
            wanted = one.expected(model, data, config, context)
            held = next((found for found in kept_results(one, model) if is_expected(found, wanted)), None)
            result = held or measure(one, [model], data, config, context)[0]
        except UserError as error:
            remarks.append(f"{run.name}: {one.title} was not measured: {error}")
            continue
        columns = [(column.name, column.metric_of(result)) for column in one.columns]
        metrics |= {name: metric.value for name, metric in columns if metric is not None}
    return metrics, remarks
