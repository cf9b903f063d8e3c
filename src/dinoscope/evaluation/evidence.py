"""What a verdict rests on: measured if it was not before, for models on one person's images.

Few-label curves, k-NN and linear probe, scores without labels, parameters and speed come from the evaluations, and are
kept as these keep them. The answers for single images, which `evaluation.verdict` compares, are made of the features
that the evaluations left in the cache. Test images that are in the training images, too, are looked for, because no
figure can be trusted then; images that only look or measure alike are hints.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dinoscope.config import to_dict
from dinoscope.data.finding import find_images, find_split, resolve_split
from dinoscope.data.overlap import Kind as Likeness
from dinoscope.data.overlap import Prints, shared_places
from dinoscope.data.scan import scan_with_prints
from dinoscope.data.sources import ImageSource
from dinoscope.errors import UserError
from dinoscope.evaluation import EVALUATIONS, base, compare
from dinoscope.evaluation.base import DEFAULT_CONTEXT, Context
from dinoscope.evaluation.compare import BASELINES, Entry
from dinoscope.evaluation.fewshot import FewshotConfig, fit_logistic
from dinoscope.evaluation.graph import similar_pairs
from dinoscope.evaluation.knn import K, KNNConfig, labels_as_in, predict, unit
from dinoscope.evaluation.throughput import ThroughputConfig
from dinoscope.evaluation.verdict import (
    MEASURES,
    Candidate,
    Decision,
    MeasureName,
    judge,
    leaked_sentence,
    measure_for,
    sentence,
    unlabelled_sentence,
)
from dinoscope.files import cache_folder
from dinoscope.model_names import NO_NETWORK, NOT_TRAINED_HERE, Model
from dinoscope.places import parse_place
from dinoscope.system import machine
from dinoscope.text import count, listed
from dinoscope.training.run_folder import read_metrics
from dinoscope.types import FeatureBank, Result

WITH_LABELS = ("linear", "knn", "fewshot")
SCORES = ("rank", "lidar")
SPEED = "throughput"
"""Evaluations that a verdict rests on or shows, by name: with labels, without, and what a model costs."""
DEFAULT_SPLIT = 0.5
"""Share to train on of images without a val split: the test images decide how sure a verdict is."""
NEARLY_THE_SAME = 0.95
"""A test image resembles a training image if the cosine of their features, less the mean of the training images, is
at least this."""
OVERLAP = "overlap"
"""Name of the search for images that are in both splits, among what may be skipped."""

LIKENESSES: dict[Likeness, tuple[str, bool]] = {
    "group": ("{images} of a group that is in the training images, too", True),
    "bytes": ("{images} equal to a training image, as a file", True),
    "pixels": ("{images} with the pixels of a training image, in another file", True),
    "picture": ("A hint: {images} nearly like a training image, by a hash of 64 bits", False),
}
"""Kind of likeness -> how it is reported, and whether it is a fault."""


@dataclass(frozen=True)
class Check:
    """Something to know about the images or the figures, in a sentence: it is well, worth knowing, or wrong."""

    kind: Literal["good", "note", "warning"]
    text: str


@dataclass(frozen=True)
class Verdict:
    """What was found about models on a person's images.

    sentence: what to do. decision: None without labels; with a leak, that of the test images outside of it.
    shared: number of test images that are in the training images, too, or of a group that is.
    entries: label of a model -> its results. losses: label of a run -> the last loss that it logged.
    data: the place of the images. train, images: numbers of training images and of test images (without labels: 0
    and those that were described).
    """

    sentence: str
    decision: Decision | None
    shared: int
    entries: Mapping[str, Entry]
    losses: Mapping[str, float]
    checks: tuple[Check, ...]
    data: str
    train: int
    images: int

    @property
    def is_without_shared(self) -> bool:
        """Return whether the decision leaves out the test images of `shared`: some others are left."""
        return self.decision is not None and self.decision.images == self.images - self.shared

    @property
    def is_trusted(self) -> bool:
        """Return whether no test image is in the training images."""
        return self.shared == 0


def verdict_on(
    models: Sequence[Model],
    data: Path,
    *,
    wanted: Mapping[str, Any] | None = None,
    skip: Collection[str] = (),
    unlabelled: bool = False,
    context: Context = DEFAULT_CONTEXT,
) -> Verdict:
    """Measure what is missing of models on images, and return the verdict.

    Images with labels but no val split are split as `context.split` says, by default in half; groups stay whole.

    Args:
        models: distinct by name.
        data: images; labelled ones have a folder for each class, or a list or archive with labels.
        wanted: evaluation -> settings instead of its default ones.
        skip: evaluations that are left out, kept results of them too; and "overlap".
        unlabelled: make no use of labels.
        context: of the features.

    Raises UserError if the data cannot be used, there is a single class, or a class has fewer than two images.
    """
    settings = {name: EVALUATIONS[name].config() for name in (*WITH_LABELS, *SCORES, SPEED)} | dict(wanted or {})
    losses = {model.label: loss for model in models if (loss := final_loss(model)) is not None}
    if unlabelled or not _has_labels(data):
        return _without_labels(models, data, settings, skip, losses, context)
    context = base.inherited(context, models, data)
    images, checks = base.labelled_images(data, context), list[Check]()
    if images[1] is None and context.split is None:
        context = replace(context, split=DEFAULT_SPLIT)
        images = base.labelled_images(data, context)
    train, val = images = base.images_of_splits((images[0], images[1]), _as_it_is(context), what="a verdict")
    _require_two_of_each(train, val)
    checks += _about_the_split(train, val, context)
    models = [context.fitted(model, images) for model in models]
    checks += _about_the_models(models, data, context)
    wants: dict[str, tuple[base.Data, Any]] = {n: (None, c) for n, c in settings.items() if n not in (SPEED, *skip)}
    comparison = compare.gather(models, data, wants, context=context)
    places = {name: images if EVALUATIONS[name].needs == "labels" else data for name in wants}
    entries = _entries(models, comparison, places, settings, skip, context)
    measure = measure_for(len(train), len(train.classes))
    answers, labels, groups, keys = _answers(models, train, val, measure, context)
    candidates = [_candidate(model, entries[model.label]) for model in models]
    options: dict[str, Any] = {"measure": MEASURES[measure], "split": context.share}
    decision = judge(candidates, answers, labels, groups, **options)
    shared = torch.zeros(len(keys), dtype=torch.bool)
    text = sentence(decision)
    if OVERLAP not in skip:
        pairs, found = _overlap(train, val, context)
        checks += found
        shared = torch.tensor([key in pairs for key in keys])
        if shared.any():
            rest = ~shared
            if rest.any():
                others = groups if groups is None else groups[rest]
                decision = judge(candidates, answers[rest], labels[rest], others, **options)
            example = next((key, pairs[key]) for key in keys if key in pairs)
            without = sentence(decision) if rest.any() else ""
            text = leaked_sentence(int(shared.sum()), len(keys), example, without)
        leading = next(model for model in models if model.label == next(iter(decision.accuracies)))
        checks += _resembling(leading, train, val, pairs, context)
    checks += _other_measures(decision, entries)
    checks += _remarks(entries)
    return Verdict(
        text, decision, int(shared.sum()), entries, losses, tuple(checks), str(data), len(train), len(answers)
    )


def _without_labels(
    models: Sequence[Model],
    data: Path,
    settings: Mapping[str, Any],
    skip: Collection[str],
    losses: Mapping[str, float],
    context: Context,
) -> Verdict:
    place = find_split(data, "val") or resolve_split(data, "train")
    images = find_images(place, labelled=False)
    models = [context.fitted(model, (images, None)) for model in models]
    wants: dict[str, tuple[base.Data, Any]] = {n: ((images, None), settings[n]) for n in SCORES if n not in skip}
    comparison = compare.gather(models, None, wants, context=context)
    entries = _entries(models, comparison, {name: own for name, (own, _) in wants.items()}, settings, skip, context)
    scores = {label: value for label, entry in entries.items() if (value := entry.value("lidar")) is not None}
    first = max(scores, key=scores.__getitem__, default=models[0].label)
    checks = [
        Check(
            "warning",
            "RankMe and LiDAR compare runs of one method at best. A high one is necessary and not sufficient, and both "
            "have been found to mislead between methods. Losses of different methods cannot be compared at all.",
        ),
        *_remarks(entries),
    ]
    text = unlabelled_sentence(first, scores.get(first), len(models))
    return Verdict(text, None, 0, entries, losses, tuple(checks), str(data), 0, len(images))


def _has_labels(data: Path) -> bool:
    """Return whether the training images have labels, or lie in the folder of a single class."""
    train = find_split(data, "train") or data
    if find_images(train).labels is not None:
        return True
    try:
        return find_images(train, labelled=True).labels is not None
    except UserError:
        return False


def _as_it_is(context: Context) -> Context:
    """Return the context without groups and split, for images that have been prepared."""
    return replace(context, group=None, split=None)


def _require_two_of_each(train: ImageSource, val: ImageSource) -> None:
    counts = dict.fromkeys((*train.classes, *val.classes), 0)
    for images in (train, val):
        for label in images.labels or ():
            counts[images.classes[label]] += 1
    few = [name for name, number in counts.items() if number == 1]
    if few:
        names = listed(few[:5]) if len(few) <= 5 else f"{', '.join(few[:5])}..."
        raise UserError(
            f"{train.name}: {'a class has' if len(few) == 1 else f'{len(few)} classes have'} a single image ({names}), "
            "and two are needed: one to learn from, and one to test on. Add images, or leave such classes out; "
            "--unlabelled makes no use of labels"
        )


def _about_the_split(train: ImageSource, val: ImageSource, context: Context) -> list[Check]:
    checks: list[Check] = []
    if context.share is not None:
        unit = "path" if train.groups is None else f"group ({train.grouping})"
        checks.append(
            Check(
                "note",
                f"There is no val split. {100 * context.share:g} % of the images are to learn from and the rest are to "
                f"test on, by a hash of each {unit}: {count(len(train))} and {count(len(val))} images. --split and "
                "--group make another one.",
            )
        )
    if train.groups is None:
        checks.append(
            Check(
                "note",
                "Images count as independent. If several are of one patient, slide or video, name it with --group: "
                "intervals are too narrow otherwise.",
            )
        )
    known = {train.classes[label] for label in train.labels or ()}
    unseen = [name for name in val.classes if name not in known]
    if unseen:
        checks.append(
            Check("warning", f"No training image of {listed(unseen[:5])}: every model is wrong on its test images.")
        )
    return checks


def _about_the_models(models: Sequence[Model], data: Path, context: Context) -> list[Check]:
    """Tell of runs that were trained on the test images: all images without a val split, but for another split."""
    checks: list[Check] = []
    if context.share is None:
        return checks
    for model in models:
        settings = model.settings or {}
        if model.run is None or "data" not in settings or settings.get("split") == context.share:
            continue
        if base.training_place(parse_place(settings["data"])) == base.training_place(data):
            has_labels = model.method == compare.WITH_LABELS
            text = f"{model.label} was trained on the test images, too, with{'' if has_labels else 'out'} their labels."
            checks.append(Check("warning" if has_labels else "note", text))
    return checks


def _entries(
    models: Sequence[Model],
    comparison: compare.Comparison,
    data: Mapping[str, base.Data],
    settings: Mapping[str, Any],
    skip: Collection[str],
    context: Context,
) -> dict[str, Entry]:
    """Return the results of each model by its label, with its speed at the image size at which it is used.

    A kept result of other data, which stands in if a measurement fails, is left out. data: of each evaluation.
    """
    by_name = {entry.run: entry for row in comparison.rows for entry in row.entries}
    measured: dict[tuple[str, int], Result] = {}
    entries: dict[str, Entry] = {}
    for model in models:
        entry = by_name[model.name]
        own: dict[str, Result] = {}
        for name, result in entry.measurements.items():
            with contextlib.suppress(UserError):
                if base.is_expected(result, EVALUATIONS[name].expected(model, data[name], settings[name], context)):
                    own[name] = result
        entry = entries[model.label] = replace(entry, measurements=own)
        if SPEED in skip or model.method in NO_NETWORK:
            continue
        network = model.backbone.config
        key = network.name, context.image_size or network.image_size
        if key not in measured:
            measured[key] = _speed(model, replace(settings[SPEED], image_size=key[1]), context)
        entries[model.label] = replace(entry, measurements={**entry.measurements, SPEED: measured[key]})
    return entries


def _speed(model: Model, config: ThroughputConfig, context: Context) -> Result:
    """Return a kept result of this machine under these settings; else measure and keep one."""
    evaluation, here = EVALUATIONS[SPEED], to_dict(machine(context.device or torch.device("cpu")))
    wanted = {**evaluation.expected(model, None, config, context), "machine": here}
    for result in base.kept_results(evaluation, model):
        if base.is_expected(result, wanted):
            return result
    named = context.naming(model.label)
    return base.measure(evaluation, [model], None, config, named)[0]


def _candidate(model: Model, entry: Entry) -> Candidate:
    return Candidate(model.label, model.method in BASELINES, entry.parameters, entry.value("throughput"))


def _remarks(entries: Mapping[str, Entry]) -> list[Check]:
    """Return what must be known of how models were made and measured."""
    remarks = dict.fromkeys(remark for entry in entries.values() for remark in entry.remarks)
    return [Check("note", f"{remark.rstrip('.')}.") for remark in remarks if remark != NOT_TRAINED_HERE]


def final_loss(model: Model) -> float | None:
    """Return the last loss that a run logged; None if the model is none."""
    lines = [] if model.run is None else read_metrics(model.run)
    return next((line["loss"] for line in reversed(lines) if "loss" in line), None)


def _answers(
    models: Sequence[Model], train: ImageSource, val: ImageSource, measure: MeasureName, context: Context
) -> tuple[Bool[Tensor, "n k"], Int[Tensor, " n"], Int[Tensor, " n"] | None, list[str]]:
    """Return whether each model is right about each test image that all can read; their classes, groups and keys."""
    right: list[dict[str, bool]] = []
    known: dict[str, tuple[int, int]] = {}
    has_groups = False
    for model in models:
        gallery = context.features(model.backbone, train, "features of the training images")
        queries = context.features(model.backbone, val, "features of the test images")
        targets = labels_as_in(gallery.classes, queries).cpu()
        guesses = _nearest(gallery, queries) if measure == "knn" else _by_regression(gallery, queries)
        right.append(dict(zip(queries.paths, map(bool, guesses == targets), strict=True)))
        has_groups = queries.groups is not None
        groups = targets if queries.groups is None else queries.groups
        known |= dict(zip(queries.paths, zip(map(int, targets), map(int, groups), strict=True), strict=True))
    keys = [key for key in val.keys if all(key in own for own in right)]
    if not keys:
        raise UserError(f"{val.name}: no test image can be read by all models")
    answers = torch.tensor([[own[key] for own in right] for key in keys])
    labels, groups = (torch.tensor([known[key][place] for key in keys]) for place in (0, 1))
    return answers, labels, groups if has_groups else None, keys


def _nearest(gallery: FeatureBank, queries: FeatureBank) -> Int[Tensor, " n"]:
    (ranked,) = predict(gallery, queries, KNNConfig(ks=(K,))).values()
    return ranked[:, 0].cpu()


def _by_regression(gallery: FeatureBank, queries: FeatureBank) -> Int[Tensor, " n"]:
    """Classify by `fewshot`'s logistic regression on all training images."""
    if gallery.labels is None:
        raise UserError("the training images have no labels")
    numbers, classes = np.unique(gallery.labels.cpu().numpy(), return_inverse=True)
    features, penalty = unit(gallery.features).cpu().double(), FewshotConfig.regularisation / len(classes)
    weights, _ = fit_logistic(features[None], torch.as_tensor(classes)[None], len(numbers), penalty)
    return torch.as_tensor(numbers)[(unit(queries.features).cpu().double() @ weights[0]).argmax(dim=1)]


def _overlap(train: ImageSource, val: ImageSource, context: Context) -> tuple[dict[str, str], list[Check]]:
    """Return the test images that are in the training images, too, each with one of these, and what to say of it."""
    prints: list[list[Prints | None]] = []
    for images, what in ((train, "training images"), (val, "test images")):
        with context.watch(f"reading {what}, to find equal ones") as progress:
            prints.append(scan_with_prints(images, cache=cache_folder("scan"), progress=progress)[1])
    with context.watch("comparing training and test images") as progress:
        places = shared_places(train, val, (prints[0], prints[1]), progress)
    checks, pairs = list[Check](), dict[str, str]()
    for kind, (what, is_fault) in LIKENESSES.items():
        alike = [
            (val.keys[at], train.keys[int(own)])
            for at, own in enumerate(places.get(kind, ()))
            if own >= 0 and val.keys[at] not in pairs
        ]
        if alike:
            text = what.format(images=f"{count(len(alike))} test image{'s' * (len(alike) != 1)}")
            checks.append(Check("warning" if is_fault else "note", f"{text} (as {alike[0][0]} with {alike[0][1]})."))
        if is_fault:
            pairs |= dict(alike)
    if not pairs:
        groups = "files, no pixels and no groups" if train.groups is not None else "files and no pixels"
        checks.insert(0, Check("good", f"Training and test images share no {groups}."))
    return pairs, checks


def _resembling(
    model: Model, train: ImageSource, val: ImageSource, pairs: Collection[str], context: Context
) -> list[Check]:
    """Return a hint at test images whose features are nearly those of a training image, less their mean."""
    gallery = context.features(model.backbone, train, "features of the training images")
    queries = context.features(model.backbone, val, "features of the test images")
    mean = gallery.features.mean(dim=0)
    found = similar_pairs(queries.features - mean, NEARLY_THE_SAME, others=gallery.features - mean, nearest=1)
    alike = [at for at in range(len(found.left)) if queries.paths[found.left[at]] not in pairs]
    if not alike:
        return []
    best = max(alike, key=lambda at: float(found.cosine[at]))
    test, training = queries.paths[int(found.left[best])], gallery.paths[int(found.right[best])]
    return [
        Check(
            "note",
            f"A hint: for {model.label}, {count(len(alike))} test image{'s' * (len(alike) != 1)} resemble a training "
            f"image (cosine of features at least {NEARLY_THE_SAME:g}): most of all {test} with {training}. If they are "
            "copies, or neighbours in a series, figures are too good.",
        )
    ]


def _other_measures(decision: Decision, entries: Mapping[str, Entry]) -> list[Check]:
    """Tell where another measure has another model first."""
    leading, checks = next(iter(decision.accuracies)), list[Check]()
    for name, (evaluation, column) in compare.columns().items():
        if evaluation not in WITH_LABELS:
            continue
        values = {label: value for label, entry in entries.items() if (value := entry.value(name)) is not None}
        top = max(values, key=values.__getitem__, default=leading)
        if leading in values and values[top] > values[leading]:
            figures = f"{values[top]:.1f} against {values[leading]:.1f} %"
            checks.append(Check("note", f"By {column.title}, {top} is ahead of {leading}: {figures}."))
    return checks
