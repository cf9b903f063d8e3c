"""Models next to each other: what was measured of each, rows over seeds, notes where they differ, ranks, and tables.

Nothing is left out for differing: a row that cannot be compared in some respect stays, with a note that says why. Which
figures are shown follows from `EVALUATIONS`: a new evaluation needs no change here.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from scipy import special  # pyright: ignore[reportMissingTypeStubs]

from dinoscope import __version__, checkpoint
from dinoscope.config import difference, flat, identity, some, text, to_dict
from dinoscope.errors import UserError
from dinoscope.evaluation import EVALUATIONS
from dinoscope.evaluation.base import (
    Column,
    Context,
    Data,
    Images,
    images_of,
    is_expected,
    keep_result,
    kept_results,
    labelled_images,
)
from dinoscope.evaluation.knn import K
from dinoscope.evaluation.results import classified, conditions, shared_protocol
from dinoscope.evaluation.statistics import CONFIDENCE, Estimate, OverSeeds, over_seeds, wilson
from dinoscope.evaluation.throughput import millions_of_parameters
from dinoscope.methods import DISPLAY, method_name
from dinoscope.model_names import SEED, Model, Watch, distinct, load_model, random_backbone, unwatched
from dinoscope.models.backbone import BACKBONES, PIXELS, is_network, network_title, without_drop_path
from dinoscope.tables import Column as TableColumn
from dinoscope.tables import Section, Table, TableRow
from dinoscope.text import ABSENT
from dinoscope.training.config import RunConfig
from dinoscope.training.run_folder import read_config
from dinoscope.types import Metric, Result

METHOD_NAMES = {
    "pixels": "Raw pixels",
    "random": "Random",
    **{key: display.title for key, display in DISPLAY.items()},
}
"""name of a method or baseline -> as the field writes it, in the order of the rows."""


# Records


BASELINES = ("pixels", "random")

REPEATABLE = frozenset(
    {"out", "seed", "device", "workers", "threads", "saving", "log_every", "evaluate_every", "scan", "max_unreadable"}
    | {"max_megapixels"}
)
"""Settings in which runs of one row may differ: all others decide the result."""

MARKED = {
    "data": "data",
    "fraction": "fraction of the images",
    "epochs": "epochs",
    "batch_size": "batch size",
    "views": "views",
}
"""Settings in which all rows should agree -> their name in a note."""


@dataclass(frozen=True)
class Entry:
    """One model, and what was measured of it.

    method: a key of `METHOD_NAMES`, or another name.
    backbone: name in `BACKBONES`; "" for raw pixels.
    parameters: of the backbone, in millions; None for raw pixels.
    run: its folder, or what else it is.
    settings: flat, what decides the result apart from the seed; empty for a baseline, and where it is not known.
    measurements: by the name that a run folder keeps them under (`EVALUATIONS`).
    remarks: what must be known of it: that it was not finished, why something could not be measured.
    """

    method: str
    backbone: str
    parameters: float | None
    run: str
    seed: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    measurements: Mapping[str, Result] = field(default_factory=dict[str, Result])
    remarks: tuple[str, ...] = ()

    def metric(self, name: str) -> Metric | None:
        """Return the figure of a column, or None if there is none."""
        evaluation, column = columns()[name]
        result = self.measurements.get(evaluation)
        return None if result is None else column.metric_of(result)

    def value(self, name: str) -> float | None:
        """Return the value of a column, or None if there is none."""
        metric = self.metric(name)
        return None if metric is None else metric.value


@dataclass(frozen=True)
class Row:
    """Runs that differ in nothing but the seed, and numbers (from 1) of the notes that mark them."""

    entries: tuple[Entry, ...]
    marks: tuple[int, ...] = ()

    @property
    def first(self) -> Entry:
        """Any of them, for what they share."""
        return self.entries[0]

    @property
    def method(self) -> str:
        """The method as the field writes it."""
        return METHOD_NAMES.get(self.first.method, self.first.method)

    @property
    def architecture(self) -> str:
        """The architecture as the field writes it; a dash for raw pixels."""
        return network_title(self.first.backbone) or "–"

    def cell(self, name: str) -> OverSeeds | None:
        """Return the figure of a column, or None if no run has it."""
        values = tuple(value for entry in self.entries if (value := entry.value(name)) is not None)
        return over_seeds(values)


@dataclass(frozen=True)
class Comparison:
    """Rows in the order of the field, the notes that mark them, and the evaluations that are shown."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    evaluations: tuple[str, ...]

    @property
    def columns(self) -> dict[str, Column]:
        """Return the headline figures of the evaluations, in order."""
        return {name: column for name, (evaluation, column) in columns().items() if evaluation in self.evaluations}

    @property
    def accuracies(self) -> tuple[str, ...]:
        """Return the names of the figures by which rows are ranked, the field's first."""
        return tuple(name for name, column in self.columns.items() if column.ranked)

    def title(self, name: str) -> str:
        """Return the title of a column, with the parameters that its figures have: "k-NN (k = 20)"."""
        metrics = [each for row in self.rows for entry in row.entries if (each := entry.metric(name))]
        column = columns()[name][1]
        keys = dict.fromkeys(key for metric in metrics for key in metric.parameters) or column.parameters
        values = {key: max((m.parameters[key] for m in metrics if key in m.parameters), default=None) for key in keys}
        shown = ", ".join(f"{key} = {column.parameters.get(key, 0) if v is None else v:g}" for key, v in values.items())
        return f"{column.title} ({shown})" if shown else column.title


def columns() -> dict[str, tuple[str, Column]]:
    """Return every column by its name, with the name of its evaluation."""
    return {column.name: (name, column) for name, each in EVALUATIONS.items() for column in each.columns}


def default_evaluations() -> tuple[str, ...]:
    """Return the names of the evaluations that are compared without being asked for."""
    return tuple(name for name, evaluation in EVALUATIONS.items() if evaluation.default)


def accuracies(comparison: Comparison | None = None) -> tuple[str, ...]:
    """Return the names of the figures by which rows are ranked; without a comparison those of the default ones."""
    return (comparison or Comparison((), (), default_evaluations())).accuracies


def compare(entries: Iterable[Entry], evaluations: Sequence[str] | None = None) -> Comparison:
    """Group, sort and mark. evaluations: None takes the default ones."""
    shown = default_evaluations() if evaluations is None else tuple(evaluations)
    rows = sorted((Row(tuple(group)) for group in _groups(entries, shown)), key=_order)
    texts = [_notes(row, rows, shown) for row in rows]
    notes = tuple(dict.fromkeys(text for each in texts for text in each))
    marked = tuple(
        Row(row.entries, tuple(sorted({notes.index(text) + 1 for text in each})))
        for row, each in zip(rows, texts, strict=True)
    )
    return Comparison(marked, notes, shown)


def deciding_settings(config: RunConfig) -> dict[str, Any]:
    """The settings of a run that decide its result, flat, apart from the seed."""
    values = {name: value for name, value in to_dict(config).items() if name not in REPEATABLE}
    return flat({**values, "data": str(config.data.resolve())}) | {"method.name": method_name(config.method)}


def usual_conditions(rows: Iterable[Row], evaluation: str) -> dict[str, Any] | None:
    """The conditions under which most rows were measured, or None where none was; raw pixels do not count."""
    found = [each for row in rows if row.first.method != "pixels" and (each := _conditions(row, evaluation))]
    counts = Counter(map(identity, found))
    return json.loads(counts.most_common(1)[0][0]) if counts else None


def _groups(entries: Iterable[Entry], evaluations: Sequence[str]) -> list[list[Entry]]:
    """Entries that may be averaged: equal but for the seed, and measured under equal conditions."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(identity([entry.method, entry.backbone, entry.settings]), []).append(entry)
    divided: dict[str, list[Entry]] = {}
    for key, group in groups.items():
        mixed = [
            name
            for name in evaluations
            if len({identity(conditions(entry.measurements[name])) for entry in group if name in entry.measurements})
            > 1
        ]
        for entry in group:
            apart = [conditions(entry.measurements[name]) if name in entry.measurements else None for name in mixed]
            divided.setdefault(key + identity(apart), []).append(entry)
    return [sorted(group, key=lambda entry: (entry.seed or 0, entry.run)) for group in divided.values()]


def _order(row: Row) -> tuple[Any, ...]:
    """Raw pixels, ResNets, transformers, each from small to large; within an architecture by method."""
    entry, methods = row.first, list(METHOD_NAMES)
    kind = BACKBONES.get(entry.backbone)
    family = (
        0
        if not entry.backbone
        else 1
        if "resnet" in entry.backbone or (kind is not None and not kind.transformer)
        else 2
    )
    place = methods.index(entry.method) if entry.method in methods else len(methods)
    return family, entry.parameters or 0.0, entry.backbone, place, entry.method, entry.run


def _notes(row: Row, rows: Sequence[Row], evaluations: Sequence[str]) -> list[str]:
    """Everything in which the row differs from the others, in words."""
    notes: list[str] = []
    trained = [other for other in rows if other.first.method not in BASELINES and other.first.settings]
    if row.first.method not in BASELINES and row.first.settings:
        for name, title in MARKED.items():
            part = _part(name)
            found = difference(part(row), [part(other) for other in trained], MARKED, shorten=f"{name}.")
            if found:
                notes.append(found if found.startswith(title) else f"{title}: {found}")
        notes += _namesakes(row, trained)
        notes += [
            f"{title} ({text(row.first.settings[name])})"
            for name, (usual, title) in _deviations(row.first.method).items()
            if row.first.settings.get(name, usual) != usual
        ]
    if row.first.method != "pixels":  # which have no network to be shown another size
        for name in evaluations:
            title = name if EVALUATIONS[name].by_network else EVALUATIONS[name].columns[0].title
            others = [each for other in rows if (each := _conditions(other, name)) and other.first.method != "pixels"]
            own = _conditions(row, name)
            found = difference(own, others) if own else ""
            if found:
                notes.append(f"{title} measured with {found}")
    if len({entry.seed for entry in row.entries}) < len(row.entries):
        notes.append("some of its runs have the same seed, so that their deviation says little")
    notes += [remark for entry in row.entries for remark in entry.remarks]
    return notes


def usual_protocol(rows: Iterable[Row], evaluation: str) -> dict[str, Any] | None:
    """Return the protocol under which most rows were measured, without entries about a model; None if none was."""
    usual = usual_conditions(rows, evaluation)
    results = (result for row in rows for result in measured_by(row, evaluation))
    found = next((each for each in results if usual is not None and conditions(each) == usual), None)
    return None if found is None else shared_protocol(found)


def measured_by(row: Row, evaluation: str) -> list[Result]:
    """Return the result of an evaluation of each run of a row that has it."""
    return [entry.measurements[evaluation] for entry in row.entries if evaluation in entry.measurements]


def _part(name: str) -> Callable[[Row], dict[str, Any]]:
    """Gives a row's settings of this name, or below it."""

    def part(row: Row) -> dict[str, Any]:
        return {key: value for key, value in row.first.settings.items() if key == name or key.startswith(f"{name}.")}

    return part


def _conditions(row: Row, name: str) -> dict[str, Any] | None:
    """Conditions that all runs of a row share."""
    found = [entry.measurements[name] for entry in row.entries if name in entry.measurements]
    return conditions(found[0]) if found else None


def _namesakes(row: Row, trained: Sequence[Row]) -> list[str]:
    """Where several rows have one method and architecture: the settings that tell this one from the others."""
    first = row.first
    same = [other.first for other in trained if (other.method, other.architecture) == (row.method, row.architecture)]
    names = sorted({name for entry in same for name in entry.settings if name.split(".")[0] not in MARKED})
    telling = [name for name in names if len({identity(entry.settings.get(name)) for entry in same}) > 1]
    if not telling:
        return []
    return [
        f"of several {row.method} on {row.architecture}, this one has "
        + some([f"{name} {text(first.settings.get(name))}" for name in telling])
    ]


# Results: kept ones that still hold, else measured and kept


logger = logging.getLogger("dinoscope")


@dataclass(frozen=True)
class Measuring:
    """What is measured, and how.

    data: labelled images, with splits or without; None keeps to those that the runs were measured or trained on.
    fraction: share of the labels that are used, in (0, 1].
    evaluations: names in `EVALUATIONS`; None takes the default ones. places: name -> its own data, if not `data`.
    configs: name -> its settings, if not the default ones.
    skip: names that are not measured; what is kept is shown nevertheless.
    context: of the features; its device is where speed is measured too.
    watch: hears of the progress.
    """

    data: Path | None = None
    fraction: float = 1.0
    skip: frozenset[str] = frozenset()
    context: Context = field(default_factory=Context)
    watch: Watch = unwatched
    evaluations: tuple[str, ...] | None = None
    places: Mapping[str, Path] = field(default_factory=dict[str, Path])
    configs: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def shown(self) -> tuple[str, ...]:
        """Return the names of the evaluations."""
        return default_evaluations() if self.evaluations is None else self.evaluations

    def config(self, name: str) -> Any:
        """Return the settings of an evaluation."""
        config = self.configs[name] if name in self.configs else EVALUATIONS[name].config()
        return replace(config, label_fraction=self.fraction) if hasattr(config, "label_fraction") else config

    @property
    def device(self) -> torch.device:
        """Where the networks run."""
        return self.context.device or torch.device("cpu")


class Gatherer:
    """Measures models under the same conditions as far as can be, and remembers each network's speed."""

    def __init__(self, measuring: Measuring, subjects: Sequence[Model]) -> None:
        """Find the images to measure on.

        Raises UserError if --data was given and cannot be used, or was not and a model has no images of its own.
        """
        self.measuring = measuring
        self.images = labelled_images(measuring.data) if measuring.data else None
        self.kept = self._chosen(subjects)
        if measuring.data is None:
            self.images = self._images_of_most()
        self._require_images(subjects)
        self.agreeing = {name for name in measuring.shown if self._agrees(name, subjects)}
        self.by_network: dict[tuple[str, str], Result] = {}

    def entry(self, subject: Model) -> Entry:
        """What is known of the model, after measuring what is missing or was measured otherwise."""
        measurements: dict[str, Result] = {}
        remarks = [*subject.remarks, *_unfinished(subject)]
        for name in self.measuring.shown:
            result, remark = self._result(subject, name)
            if result is not None:
                measurements[name] = result
            if remark:
                remarks.append(f"{subject.name}: {EVALUATIONS[name].columns[0].title} not measured: {remark}")
        return Entry(
            subject.method,
            subject.backbone.config.name,
            millions_of_parameters(subject.backbone),
            subject.name,
            None if subject.settings is None else subject.settings.get("seed", RunConfig.seed),
            {} if subject.run is None else deciding_settings(read_config(subject.run)),
            measurements,
            tuple(remarks),
        )

    def _result(self, subject: Model, name: str) -> tuple[Result | None, str]:
        """Return a kept result that holds, else a new one; and why there is none or not the one that was wanted."""
        evaluation, held = EVALUATIONS[name], self.kept.get(subject.name, {}).get(name)
        network = subject.backbone.config.name
        if held is not None and (self._is_wanted(subject, name, held) or name in self.measuring.skip):
            return held, ""
        if name in self.measuring.skip:
            return None, ""
        new = self.by_network.get((name, network)) if evaluation.by_network else None
        if new is None:
            try:
                new = self._measured(subject, name)
            except UserError as error:
                return held, str(error)
            self.by_network[name, network] = new
        keep_result(evaluation, subject, self.measuring.config(name), new)
        weights = {"weights": subject.name} if "weights" in new.protocol else {}
        return replace(new, protocol={**new.protocol, **weights}, items=None), ""

    def _measured(self, subject: Model, name: str) -> Result:
        evaluation, config, context = EVALUATIONS[name], self.measuring.config(name), self.measuring.context
        what, size = subject.name, getattr(config, "image_size", None)
        if evaluation.by_network:
            what = subject.backbone.config.name
            if size is not None and size < subject.backbone.patch_size:
                config = replace(config, image_size=subject.backbone.config.image_size)
        watch = self.measuring.watch
        watched = replace(context, device=self.measuring.device, watch=_prefixed(watch, what))
        return next(iter(evaluation.run([subject], self._data_of(subject, name), config, watched)))

    def _data_of(self, subject: Model, name: str) -> Data:
        """Return the data that a model is measured on."""
        needs = EVALUATIONS[name].needs
        if name in self.measuring.places:
            return self.measuring.places[name]
        if needs == "nothing":
            return None
        if needs == "labels":
            return self.images or _own_data(subject)
        if self.measuring.data is None and needs != "images":
            raise UserError(f"give --evaluations {name}=FOLDER")
        return self.measuring.data or _own_data(subject)

    def _is_wanted(self, subject: Model, name: str, held: Result) -> bool:
        """Return whether a kept result was measured on these data, at this size and precision, with these settings."""
        evaluation, measuring = EVALUATIONS[name], self.measuring
        if evaluation.by_network:  # speeds are compared if all models have one, measured alike
            return name in self.agreeing
        if name not in measuring.places and (measuring.data is None or evaluation.needs == "nothing"):
            return True
        try:
            data, config = self._data_of(subject, name), measuring.config(name)
            return is_expected(held, evaluation.expected(subject, data, config, measuring.context))
        except UserError:
            return False

    def _is_usual(self, name: str, subject: Model, held: Result) -> bool:
        """Return whether a kept result was measured at this size and precision, with these settings."""
        if EVALUATIONS[name].by_network:
            return True
        config, context = self.measuring.config(name), self.measuring.context
        return is_expected(held, EVALUATIONS[name].expected(subject, None, config, context))

    def _agrees(self, name: str, subjects: Sequence[Model]) -> bool:
        """Return whether all models have a kept result, and all were measured under the same conditions."""
        found = [self.kept[subject.name].get(name) for subject in subjects]
        alike = {identity(conditions(result)) for result in found if result is not None}
        return len(alike) == 1 and None not in found

    def _all_kept(self, subject: Model) -> dict[str, list[Result]]:
        """What its folder holds of each evaluation, the newest first, without what was measured of other weights.

        Earlier accuracies among a single class are 100 % by definition, and no figures.
        """
        held: dict[str, list[Result]] = {}
        for name in self.measuring.shown:
            fraction = getattr(self.measuring.config(name), "label_fraction", 1.0)
            for found in kept_results(EVALUATIONS[name], subject):
                if found.protocol.get("classes") != 1 and found.protocol.get("label_fraction", 1.0) == fraction:
                    held.setdefault(name, []).append(found)
        return held

    def _chosen(self, subjects: Sequence[Model]) -> dict[str, dict[str, Result]]:
        """Choose, for each model, one kept result of each evaluation: the one that was asked for, if there is one.

        Otherwise all models follow one order of conditions, so that they are shown alike: first the conditions that
        most models share, then the images that most results are of, then the model's own image size, then the newest.
        """
        every = {subject.name: self._all_kept(subject) for subject in subjects}
        results = Counter(_place(found) for held in every.values() for each in held.values() for found in each)
        chosen: dict[str, dict[str, Result]] = {subject.name: {} for subject in subjects}
        for name in self.measuring.shown:
            alike: dict[str, list[tuple[Model, Result]]] = {}
            for subject in subjects:
                for found in every[subject.name].get(name, []):
                    alike.setdefault(identity(conditions(found)), []).append((subject, found))
            preferences = {
                key: (
                    len({subject.name for subject, _ in group}),
                    results[_place(group[0][1])],
                    self._is_usual(name, *group[0]),
                )
                for key, group in alike.items()
            }
            groups = [alike[key] for key in sorted(alike, key=lambda key: preferences[key], reverse=True)]
            pairs = [pair for group in groups for pair in group]
            if (self.measuring.data or name in self.measuring.places) and not EVALUATIONS[name].by_network:
                pairs.sort(key=lambda pair: not self._is_wanted(pair[0], name, pair[1]))
            for subject, found in pairs:
                chosen[subject.name].setdefault(name, found)
        return chosen

    def _require_images(self, subjects: Sequence[Model]) -> None:
        """Refuse, before anything is measured, a model of which nobody can know on which images to measure it."""
        labelled = {name for name in self.measuring.shown if EVALUATIONS[name].needs == "labels"}
        if self.images is not None or self.measuring.skip.issuperset(labelled):
            return
        strangers = [subject.name for subject in subjects if subject.settings is None]
        if strangers:
            raise UserError(
                f"{' and '.join(strangers)}: no run folder says on which images to measure; give --data FOLDER "
                "with train/CLASS/... and val/CLASS/..., or only CLASS/..."
            )

    def _images_of_most(self) -> Images | None:
        """The images that most kept results were measured on, so that missing ones are measured on the same."""
        places = Counter(_place(found) for held in self.kept.values() for found in held.values())
        for (gallery, queries), _ in places.most_common():
            if gallery is None:  # of throughput
                continue
            with contextlib.suppress(UserError):  # moved away since: the runs' own images are left
                return images_of(Path(gallery), None if queries is None else Path(queries))
            return None
        return None


def _place(measurement: Result) -> tuple[str | None, str | None]:
    """Folders of the images that classify, and of those that are classified; None for none."""
    found = conditions(measurement)
    return found.get("gallery") or found.get("train"), found.get("queries") or found.get("val")


def _own_data(subject: Model) -> Path:
    """The images that the model was trained on."""
    if subject.settings is None:
        raise UserError("give --data")
    return Path(subject.settings["data"])


def _unfinished(subject: Model) -> list[str]:
    """A remark where the run's newest checkpoint is not of its last step."""
    if subject.run is None:
        return []
    metadata = checkpoint.newest_metadata(subject.run / "checkpoints")
    if metadata is None:
        return []
    step, total = metadata.get("step"), metadata.get("total")
    return [] if step == total else [f"{subject.name}: stopped at step {step} of {total}"]


# Baselines


def random_entries(gatherer: Gatherer, subjects: Sequence[Model]) -> list[Entry]:
    """Each network of the models with random weights: of runs once for each of their seeds.

    A network that is among the models with random weights already gets no other.
    """
    there = {subject.backbone.config.name for subject in subjects if subject.method == "random"}
    entries: dict[str, Entry] = {}
    for subject in subjects:
        settings = without_drop_path(subject.backbone.config)
        if settings.name in there or not is_network(settings.name):
            continue
        seed = SEED if subject.settings is None else subject.settings.get("seed", SEED)
        name = f"random weights of {settings.name} for {settings.image_size} px, seed {seed}"
        if name in entries:
            continue
        backbone = random_backbone(settings, seed)
        random = Model(name, name, backbone, method="random", settings=subject.settings, keeps_results=False)
        entries[name] = gatherer.entry(random)
    return list(entries.values())


def pixels_entry(gatherer: Gatherer) -> Entry | None:
    """Return k-NN of the images themselves, or None if there are no images that all were measured on."""
    measuring = gatherer.measuring
    if gatherer.images is None or "knn" in measuring.skip:
        return None
    pixels = load_model(PIXELS)
    context = replace(
        measuring.context,
        precision="fp32",
        image_size=None,
        crop_fraction=None,
        cached=False,
        watch=_prefixed(measuring.watch, pixels.label),
    )
    data, config = gatherer.images, replace(measuring.config("knn"), ks=(K,))
    (result,) = EVALUATIONS["knn"].run([pixels], data, config, context)
    size = pixels.backbone.config.image_size
    remark = f"raw pixels: the images themselves at {size} x {size} px, the mean of each taken off"
    return Entry(PIXELS, "", None, pixels.label, measurements={"knn": result}, remarks=(remark,))


# Ranks


WITH_LABELS = "supervised"
"""The method whose rows had what the others had not."""
_ROUNDING = 1e-9
"""An interval narrower than this has no width: the values do not vary."""


def ranked(comparison: Comparison, name: str) -> tuple[Row, ...]:
    """Models with this figure, best first; none if they were not all measured alike, or there are fewer than two."""
    rows = [row for row in comparison.rows if row.first.method not in BASELINES and row.cell(name)]
    alike = {identity(conditions(found)) for row in rows for found in measured(row, name)}
    if len(rows) < 2 or len(alike) > 1:
        return ()
    return tuple(sorted(rows, key=lambda row: -_mean(row, name)))


def without_labels(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Those that were trained without labels if there are two or more, whose contest it is then; else all."""
    found = tuple(row for row in rows if row.first.method != WITH_LABELS)
    return found if len(found) > 1 else tuple(rows)


@dataclass(frozen=True)
class Lead:
    """By how many points a row is above another: the difference of the means over seeds, and its 95 % interval.

    low, high: None if there is none, as of values that do not vary. how: the test, in words.
    """

    mean: float
    low: float | None
    high: float | None
    how: str


def lead(first: Row, other: Row, name: str) -> Lead | None:
    """The lead of one row over another if either has several runs; None of two single runs (`interval` is for them).

    Paired by seed if both have the same seeds, else Welch's interval. One run against several is taken to vary as much
    as those do (Crawford and Howell 1998).
    """
    ours, theirs = _by_seed(first, name), _by_seed(other, name)
    one, two = list(ours.values()), list(theirs.values())
    if max(len(one), len(two)) < 2:
        return None
    mean = _mean(first, name) - _mean(other, name)
    if min(len(one), len(two)) == 1:
        several = over_seeds(max(one, two, key=len))
        assert several is not None
        assert several.deviation is not None
        count = len(several.values)
        half = float(special.stdtrit(count - 1, 0.5 + CONFIDENCE / 2)) * several.deviation * math.sqrt(1 + 1 / count)
        return _lead(mean, mean - half, mean + half, f"one run against {count} seeds")
    stats: Any = importlib.import_module("scipy.stats")  # takes half a second

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that do not vary: there is no interval then
        paired = ours.keys() == theirs.keys()
        against = [theirs[seed] for seed in ours] if paired else two
        test = stats.ttest_rel(one, against) if paired else stats.ttest_ind(one, against, equal_var=False)
        ends = test.confidence_interval(CONFIDENCE)
    how = f"paired by {len(one)} seeds" if paired else f"Welch, {len(one)} and {len(two)} runs"
    return _lead(mean, float(ends.low), float(ends.high), how)


def _lead(mean: float, low: float, high: float, how: str) -> Lead:
    known = math.isfinite(low) and math.isfinite(high) and high - low > _ROUNDING
    return Lead(mean, low if known else None, high if known else None, how)


def settled(first: Row, other: Row, name: str) -> bool:
    """Whether the lead of one row over another is more than chance: the interval of the difference lies above 0.

    Of two single runs, whether their intervals lie apart.
    """
    found = lead(first, other, name)
    if found is not None:
        return found.low is not None and found.low > 0
    ahead, behind = interval(first, name), interval(other, name)
    return ahead is not None and behind is not None and (ahead.low or 0) > (behind.high or 0)


def best(comparison: Comparison, name: str) -> tuple[Row, ...]:
    """The best in this figure, of those without labels if there are several, and all whose lag may be chance."""
    rows = without_labels(ranked(comparison, name))
    return tuple(row for place, row in enumerate(rows) if place == 0 or not settled(rows[0], row, name))


def bold_line(comparison: Comparison) -> str:
    """What it says below tables in which the best are in bold; "" where nothing is."""
    groups = [best(comparison, name) for name in comparison.accuracies]
    leading = [row for rows in groups for row in rows]
    if not leading:
        return ""
    labelled, chosen = (any(row.first.method == WITH_LABELS for row in rows) for rows in (comparison.rows, leading))
    scope = " of those trained without labels" if labelled and not chosen else ""
    unsure = ", and those whose difference from it may be chance (95 % intervals)"
    return f"Bold: the best{scope}" + (unsure if any(len(rows) > 1 for rows in groups) else "")


def baseline_lines(comparison: Comparison) -> list[str]:
    """The news that raw pixels or random weights are as good as every model, in each accuracy where they are."""
    found = (_baseline_line(row, name, comparison) for name in comparison.accuracies for row in comparison.rows)
    return [line for line in found if line]


def _baseline_line(row: Row, name: str, comparison: Comparison) -> str:
    if row.first.method not in BASELINES or not measured(row, name):
        return ""
    models = [
        other
        for other in comparison.rows
        if other.first.method not in BASELINES and measured(other, name) and _images(other, name) == _images(row, name)
    ]
    unlabelled = [other for other in models if other.first.method != WITH_LABELS]
    for scope, rivals in (("", models), (" trained without labels", unlabelled)):
        top = max(rivals, key=lambda rival: _mean(rival, name), default=None)
        if top is not None and _mean(row, name) >= _mean(top, name):
            baseline = f"random weights of {row.architecture}" if row.first.backbone else "raw pixels"
            return (
                f"{evaluation_title(name)}: no model{scope} is better than {baseline}, {_mean(row, name):.1f} % "
                f"against {_mean(top, name):.1f} % of the best, {top.method} on {top.architecture}"
            )
    return ""


def best_first(comparison: Comparison) -> Comparison:
    """The same, sorted by the first accuracy that ranks rows, those without it and baselines last."""
    order = next((found for name in comparison.accuracies if (found := ranked(comparison, name))), ())
    others = (row for row in comparison.rows if not any(row is one for one in order))
    return replace(comparison, rows=(*order, *others))


def interval(row: Row, name: str) -> Estimate | None:
    """Return the interval of a figure over what was measured; None of several runs, whose deviation says more.

    An accuracy that was kept without one gets that of its number of images (Wilson).
    """
    metric = row.first.metric(name) if len(row.entries) == 1 else None
    if metric is None:
        return None
    if metric.low is not None and metric.high is not None:
        return Estimate(metric.value, metric.low, metric.high)
    images = images_classified(measured(row, name)[0])
    if images is None or metric.unit != "%" or not 0 <= metric.value <= 100:
        return None
    made = wilson(metric.value / 100, images)
    return Estimate(metric.value, 100 * made[0], 100 * made[1])


def images_classified(result: Result) -> int | None:
    """Return how many images an accuracy is a share of; None if that is not kept."""
    return classified(result.protocol)


def evaluation_title(name: str) -> str:
    """Return what the evaluation of a column is called in a sentence."""
    return EVALUATIONS[columns()[name][0]].title


def guessing(rows: Sequence[Row], name: str) -> float | None:
    """The accuracy of guessing among classes of one size, in %; None where classes are not known or differ."""
    classes = {found.protocol.get("classes") for row in rows for found in measured(row, name)}
    number = classes.pop() if len(classes) == 1 else None
    return 100 / number if number else None


def measured(row: Row, name: str) -> list[Result]:
    """Return the result behind a column of each run of a row that has it."""
    return measured_by(row, columns()[name][0])


def _images(row: Row, name: str) -> tuple[object, ...]:
    """Which images classify and are classified."""
    found = conditions(measured(row, name)[0])
    keys = ("gallery", "train", "queries", "val", "data", "images", "label_fraction")
    return tuple(found.get(key) for key in keys)


def _by_seed(row: Row, name: str) -> dict[int, float]:
    """Seed, or place if seeds are not known or not all different -> value."""
    values = [(entry.seed, value) for entry in row.entries if (value := entry.value(name)) is not None]
    seeds = [seed for seed, _ in values if seed is not None]
    known = len(set(seeds)) == len(values)
    return {seed if known and seed is not None else -place: value for place, (seed, value) in enumerate(values, 1)}


def _mean(row: Row, name: str) -> float:
    cell = row.cell(name)
    return float("-inf") if cell is None else cell.mean


# Published figures


LABEL = "published, ImageNet"

SOURCE = (
    "Published, ImageNet: Caron et al. 2021, Emerging Properties in Self-Supervised Vision Transformers, Table 2; "
    "top-1 in % on the validation images; throughput there on an NVIDIA V100 GPU with 128 images per forward. "
    "On ViT-S, BYOL, MoCo v2 and SwAV were run by its authors. "
    "Linear: DINO's protocol (here `linear --protocol reference`) where no note says otherwise. "
    "Not measured here, and not comparable with figures on other data"
)

_OWN_PROTOCOL = "the linear figure is its own paper's, by a protocol that is neither DINO's nor `dinoscope linear`'s"
_OWN_CLASSIFIER = "accuracy of the network's own classifier; there was no linear probe"


@dataclass(frozen=True)
class Published:
    """One row. method: a key of `compare.METHOD_NAMES`; parameters in millions; linear and knn: top-1 in %.

    note: what must be known of its linear figure.
    """

    method: str
    architecture: str
    parameters: float
    images_per_second: float
    linear: float
    knn: float
    note: str = ""

    @property
    def figures(self) -> dict[str, float]:
        """Return the figures by the names of columns."""
        return {"throughput": self.images_per_second, "linear": self.linear, "knn": self.knn}


PUBLISHED = (
    Published("supervised", "RN50", 23, 1237, 79.3, 79.3, _OWN_CLASSIFIER),
    Published("simclr", "RN50", 23, 1237, 69.1, 60.7, _OWN_PROTOCOL),
    Published("moco", "RN50", 23, 1237, 71.1, 61.9, _OWN_PROTOCOL),
    Published("byol", "RN50", 23, 1237, 74.4, 64.8, _OWN_PROTOCOL),
    Published("swav", "RN50", 23, 1237, 75.3, 65.7, _OWN_PROTOCOL),
    Published("dino", "RN50", 23, 1237, 75.3, 67.5),
    Published("supervised", "ViT-S/16", 21, 1007, 79.8, 79.8, _OWN_CLASSIFIER),
    Published("moco", "ViT-S/16", 21, 1007, 72.7, 64.4),
    Published("byol", "ViT-S/16", 21, 1007, 71.4, 66.6),
    Published("swav", "ViT-S/16", 21, 1007, 73.5, 66.3),
    Published("dino", "ViT-S/16", 21, 1007, 77.0, 74.5),
)


# Tables and files


def csv_header(comparison: Comparison) -> tuple[str, ...]:
    """Return the columns of a comparison's CSV file."""
    figures: list[str] = []
    for name, column in comparison.columns.items():
        figures += [f"{column.metric}_mean", f"{column.metric}_deviation"] if column.ranked else [column.metric]
        figures += [f"{name}_{key}" for key in column.parameters]
    seen = [f"{name}_{what}" for name in comparison.accuracies for what in ("image_size", "images")]
    about = ("source", "method", "architecture", "backbone", "runs", "parameters_millions")
    return (*about, *figures, "seeds", "folders", "notes", *seen)


def display_table(comparison: Comparison, published: bool, intervals: bool = False) -> Table:
    """The table of the field, with published figures as a section of their own if asked for.

    intervals: next to each accuracy of a single run; else how wide they are at most is said below.
    """
    headings = (
        TableColumn("Method"),
        TableColumn("Arch."),
        TableColumn("Param. (M)", "right"),
        *(TableColumn(comparison.title(name), "right") for name in comparison.columns),
    )
    sections = [Section(tuple(_display_row(row, comparison, intervals) for row in comparison.rows))]
    notes = comparison.notes
    if published:
        notes = (*notes, *dict.fromkeys(row.note for row in PUBLISHED if row.note))
        rows = tuple(_published_row(row, notes, comparison) for row in PUBLISHED)
        sections = [Section(sections[0].rows, "Measured here"), Section(rows, LABEL)]
    remarks = _remarks(comparison, intervals) + ([SOURCE] if published else [])
    return Table(headings, tuple(sections), "Top-1 accuracy in %, size and speed", notes, tuple(remarks))


def _display_row(row: Row, comparison: Comparison, intervals: bool) -> TableRow:
    runs = len(row.entries)
    cells = [
        label(row, comparison) + (f" (n = {runs})" if runs > 1 else ""),
        row.architecture,
        ABSENT if row.first.parameters is None else _size(row.first.parameters),
    ]
    leading: list[int] = []
    for name, column in comparison.columns.items():
        leading += [len(cells)] if column.ranked and row in best(comparison, name) else []
        cells.append(_cell(row, name, column, intervals=intervals))
    return TableRow(tuple(cells), row.marks, tuple(leading))


def _cell(row: Row, name: str, column: Column, *, intervals: bool) -> str:
    """Return mean and deviation, the interval of a single run if asked for, and how many runs, if some lack it."""
    cell, runs = row.cell(name), len(row.entries)
    if cell is None:
        return ABSENT
    if not column.ranked:
        return f"{cell.mean:.{column.digits or (0 if cell.mean >= 10 else 1)}f}"
    deviation = "" if cell.deviation is None else f" ± {cell.deviation:.{column.digits}f}"
    text = f"{cell.mean:.{column.digits}f}{deviation}" + (
        f" (n = {len(cell.values)})" if len(cell.values) < runs else ""
    )
    ends = interval(row, name) if intervals else None
    return text if ends is None else f"{text} [{ends.low:.{column.digits}f}, {ends.high:.{column.digits}f}]"


def label(row: Row, comparison: Comparison) -> str:
    """The method, and where several rows have it on one architecture, the name of the row's (first) run."""
    same = [each for each in comparison.rows if (each.method, each.architecture) == (row.method, row.architecture)]
    if len(same) == 1 or row.first.method in BASELINES:
        return row.method
    runs = [Path(each.first.run) for each in same]
    names = distinct([(run.resolve().name, run) for run in runs])
    return f"{row.method} {names[runs.index(Path(row.first.run))]}"


def _published_row(row: Published, notes: Sequence[str], comparison: Comparison) -> TableRow:
    figures = row.figures
    shown = (f"{figures[n]:.{column.digits}f}" if n in figures else ABSENT for n, column in comparison.columns.items())
    marks = (notes.index(row.note) + 1,) if row.note else ()
    return TableRow((METHOD_NAMES[row.method], row.architecture, _size(row.parameters), *shown), marks)


def _size(millions: float) -> str:
    return f"{millions:.0f}" if millions >= 10 else f"{millions:.2g}"


def _remarks(comparison: Comparison, intervals: bool = False) -> list[str]:
    """Return how the figures of most rows came about; those of others are in the notes."""
    remarks = _how_sure(comparison, intervals)
    for name in comparison.evaluations:
        if line := _protocol_line(comparison, name):
            remarks.append(f"{EVALUATIONS[name].columns[0].title}: {line}")
    if any(len(row.entries) > 1 for row in comparison.rows):
        remarks.append("n: runs that differ in the seed alone; mean ± standard deviation of the sample")
    return remarks


def _how_sure(comparison: Comparison, intervals: bool) -> list[str]:
    """Return the lines on baselines that no model beats, on what is in bold, and on the intervals of single runs."""
    bold = bold_line(comparison)
    remarks = baseline_lines(comparison) + ([bold] if bold else [])
    found = [each for row in comparison.rows for name in comparison.accuracies if (each := interval(row, name))]
    if intervals and found:
        remarks.append("[ ]: 95 % interval for the number of images alone (Wilson); another seed may differ by more")
    elif found:
        farthest = max(max((each.high or 0) - each.mean, each.mean - (each.low or 0)) for each in found)
        remarks.append(
            f"Single runs: 95 % intervals for the number of images alone (Wilson) reach at most {farthest:.1f} to "
            "either side; another seed may differ by more"
        )
    return remarks


def speed_line(comparison: Comparison) -> str:
    """Return what the figures of speed rest on, in words; "" if there are none."""
    line = _protocol_line(comparison, "throughput")
    return f"images per second of the forward pass, images in memory, {line}" if line else ""


def _protocol_line(comparison: Comparison, evaluation: str) -> str:
    """Return how the figures of most rows came about; "" if there are none, or they are too old to tell."""
    protocol = usual_protocol(comparison.rows, evaluation)
    with contextlib.suppress(KeyError):
        return EVALUATIONS[evaluation].protocol_line(protocol) if protocol else ""
    return ""


def csv_rows(comparison: Comparison, published: bool) -> list[list[str]]:
    """Return one row per row of the table, under `csv_header`; figures unrounded, empty if there are none."""
    rows: list[list[str]] = []
    for row in comparison.rows:
        values: list[Any] = ["measured", row.method, row.architecture, row.first.backbone, len(row.entries)]
        values.append(row.first.parameters)
        for name, column in comparison.columns.items():
            cell, metric = row.cell(name), row.first.metric(name)
            values += [cell and cell.mean, cell and cell.deviation] if column.ranked else [cell and cell.mean]
            parameters: Mapping[str, float] = {} if metric is None else metric.parameters
            values += [f"{parameters[key]:g}" if key in parameters else None for key in column.parameters]
        values.append(" ".join(str(entry.seed) for entry in row.entries if entry.seed is not None))
        values.append("; ".join(entry.run for entry in row.entries))
        values.append("; ".join(comparison.notes[mark - 1] for mark in row.marks))
        for name in comparison.accuracies:
            values += _seen(row, name)
        rows.append(["" if value is None else str(value) for value in values])
    return rows + ([_published_values(row, comparison) for row in PUBLISHED] if published else [])


def _deviations(method: str) -> Mapping[str, tuple[Any, str]]:
    return DISPLAY[method].deviations if method in DISPLAY else {}


def _prefixed(watch: Watch, what: str) -> Watch:
    def named(text: str) -> AbstractContextManager[Callable[[int, int], None]]:
        return watch(f"{what}: {text}")

    return named


def _seen(row: Row, name: str) -> tuple[int | None, str | None]:
    """Return the side in pixels of the images that were classified, and their folder."""
    found: Mapping[str, Any] = next((each.protocol for each in measured(row, name)), dict[str, Any]())
    return found.get("image_size"), found.get("queries") or found.get("val") or found.get("gallery")


def _published_values(row: Published, comparison: Comparison) -> list[str]:
    values = {
        "source": LABEL,
        "method": METHOD_NAMES[row.method],
        "architecture": row.architecture,
        "parameters_millions": str(row.parameters),
        "notes": "; ".join(filter(None, ("Caron et al. 2021, Table 2", row.note))),
    }
    for name, column in comparison.columns.items():
        if name in row.figures:
            values[f"{column.metric}_mean" if column.ranked else column.metric] = str(row.figures[name])
            values |= {f"{name}_{key}": f"{value:g}" for key, value in column.parameters.items()}
    return [values.get(name, "") for name in csv_header(comparison)]


def json_values(comparison: Comparison, published: bool) -> dict[str, Any]:
    """Everything: the value of each seed, protocols, settings, folders, notes."""
    rows = [
        {
            "method": row.method,
            "architecture": row.architecture,
            "backbone": row.first.backbone,
            "parameters_millions": row.first.parameters,
            "figures": {
                name: None if cell is None else {**asdict(cell), "n": len(cell.values)}
                for name, cell in ((name, row.cell(name)) for name in comparison.columns)
            },
            "notes": list(row.marks),
            "entries": [to_dict(entry) for entry in row.entries],
        }
        for row in comparison.rows
    ]
    values: dict[str, Any] = {
        "version": __version__,
        "units": {name: column.unit for name, column in comparison.columns.items()}
        | {"deviation": "of a sample (n - 1)"},
        "titles": {name: comparison.title(name) for name in comparison.columns},
        "rows": rows,
        "notes": list(comparison.notes),
        "remarks": _remarks(comparison),
    }
    return values | ({"published": {"source": SOURCE, "rows": [asdict(row) for row in PUBLISHED]}} if published else {})
