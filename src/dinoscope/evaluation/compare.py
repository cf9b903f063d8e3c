"""Comparisons of models: the results of each, rows over seeds, notes where they differ, ranks, and tables.

Nothing is left out for differing: a row that cannot be compared in some respect stays, with a note that tells why.
Which figures are shown follows from `EVALUATIONS`: a new evaluation needs no change here.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from scipy import special  # pyright: ignore[reportMissingTypeStubs]

from dinoscope import __version__, checkpoint
from dinoscope.config import difference, flat, identity, some, text, to_dict
from dinoscope.data.sources import is_split
from dinoscope.errors import UserError
from dinoscope.evaluation import EVALUATIONS, base
from dinoscope.evaluation.base import Context, Data
from dinoscope.evaluation.knn import K
from dinoscope.evaluation.results import conditions, shared_protocol
from dinoscope.evaluation.statistics import CONFIDENCE, OverSeeds, over_seeds
from dinoscope.evaluation.throughput import millions_of_parameters
from dinoscope.methods import DISPLAY, method_name
from dinoscope.model_names import NO_NETWORK, SEED, Model, distinct, load_model, random_backbone
from dinoscope.models.backbone import BACKBONES, PIXELS, is_network, network_title, without_drop_path
from dinoscope.models.baselines import BASELINES as WITHOUT_NETWORK
from dinoscope.models.dictionary import PATCHES
from dinoscope.places import parse_place
from dinoscope.tables import Column, Section, Table, TableRow
from dinoscope.text import ABSENT
from dinoscope.training.config import RunConfig
from dinoscope.training.run_folder import read_config
from dinoscope.types import Metric, Result

logger = logging.getLogger("dinoscope")

BASELINES = (*NO_NETWORK, "random")
WITH_LABELS = "supervised"
"""The method whose rows had what the others had not."""
METHOD_NAMES = {
    **{name: title[0].upper() + title[1:] for name, (title, _) in WITHOUT_NETWORK.items()},
    "random": "Random",
    **{key: display.title for key, display in DISPLAY.items()},
}
"""name of a method or baseline -> as the field writes it, in the order of the rows."""

REPEATABLE = {
    "out",
    "seed",
    "device",
    "workers",
    "threads",
    "saving",
    "log_every",
    "evaluate_every",
    "scan",
    "max_unreadable",
    "max_megapixels",
    "compile",
    "sharding",
}
"""Settings in which runs of one row may differ: all others decide the result."""

MARKED = {
    "data": "data",
    "fraction": "fraction of the images",
    "epochs": "epochs",
    "batch_size": "batch size",
    "views": "views",
}
"""Settings in which all rows should agree -> their name in a note."""


# Records


@dataclass(frozen=True)
class Entry:
    """One model and its results.

    method: a key of `METHOD_NAMES`, or another name.
    backbone: name in `BACKBONES`; "" for a baseline without a network.
    parameters: of the backbone, in millions; None for raw pixels.
    run: its folder, or what else it is.
    settings: flat, what decides the result apart from the seed; empty for a baseline, and if it is not known.
    measurements: by the name of the evaluation.
    remarks: what a reader must know: that it was not finished, why something could not be measured.
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
        evaluation, column = columns()[name]
        result = self.measurements.get(evaluation)
        return None if result is None else column.metric_of(result)

    def value(self, name: str) -> float | None:
        metric = self.metric(name)
        return None if metric is None else metric.value

    def conditions(self, evaluation: str) -> dict[str, Any] | None:
        return conditions(self.measurements[evaluation]) if evaluation in self.measurements else None


@dataclass(frozen=True)
class Row:
    """Runs that differ in nothing but the seed, and numbers (from 1) of the notes that mark them."""

    entries: tuple[Entry, ...]
    marks: tuple[int, ...] = ()

    @property
    def first(self) -> Entry:
        return self.entries[0]

    @property
    def method(self) -> str:
        return METHOD_NAMES.get(self.first.method, self.first.method)

    @property
    def architecture(self) -> str:
        return network_title(self.first.backbone) or ABSENT

    def cell(self, name: str) -> OverSeeds | None:
        return over_seeds([value for entry in self.entries if (value := entry.value(name)) is not None])

    def results(self, evaluation: str) -> list[Result]:
        return [entry.measurements[evaluation] for entry in self.entries if evaluation in entry.measurements]


@dataclass(frozen=True)
class Comparison:
    """Rows in the order of the field, the notes that mark them, and the evaluations that are shown."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    evaluations: tuple[str, ...]

    @property
    def columns(self) -> dict[str, base.Column]:
        return {name: column for name, (evaluation, column) in columns().items() if evaluation in self.evaluations}

    @property
    def accuracies(self) -> tuple[str, ...]:
        """Return the names of the figures by which rows are ranked, the field's first."""
        return tuple(name for name, column in self.columns.items() if column.ranked)

    def title(self, name: str) -> str:
        """Return the title of a column, with the parameters that its figures have: "k-NN (k = 20)"."""
        metrics = [metric for row in self.rows for entry in row.entries if (metric := entry.metric(name))]
        column = columns()[name][1]
        keys = dict.fromkeys(key for metric in metrics for key in metric.parameters) or column.parameters
        values = {key: max((m.parameters[key] for m in metrics if key in m.parameters), default=None) for key in keys}
        shown = ", ".join(f"{key} = {column.parameters.get(key, 0) if v is None else v:g}" for key, v in values.items())
        return f"{column.title} ({shown})" if shown else column.title


def columns() -> dict[str, tuple[str, base.Column]]:
    return {column.name: (name, column) for name, each in EVALUATIONS.items() for column in each.columns}


def default_evaluations() -> tuple[str, ...]:
    return tuple(name for name, evaluation in EVALUATIONS.items() if evaluation.default)


def accuracies() -> tuple[str, ...]:
    """Return the names of the figures by which rows are ranked, of the default evaluations."""
    return Comparison((), (), default_evaluations()).accuracies


# Rows and notes


def compare(entries: Iterable[Entry], evaluations: Sequence[str] | None = None) -> Comparison:
    """Group, sort and mark. evaluations: None takes the default ones."""
    shown = default_evaluations() if evaluations is None else tuple(evaluations)
    rows = sorted((Row(tuple(group)) for group in _groups(entries, shown)), key=_order)
    texts = [_notes(row, rows, shown) for row in rows]
    notes = tuple(dict.fromkeys(note for own in texts for note in own))
    marked = (
        Row(row.entries, tuple(sorted({notes.index(note) + 1 for note in own})))
        for row, own in zip(rows, texts, strict=True)
    )
    return Comparison(tuple(marked), notes, shown)


def deciding_settings(config: RunConfig) -> dict[str, Any]:
    """Return the settings of a run that decide its result, flat, apart from the seed."""
    values = {name: value for name, value in to_dict(config).items() if name not in REPEATABLE}
    return flat({**values, "data": str(config.data.resolve())}) | {"method.name": method_name(config.method)}


def _groups(entries: Iterable[Entry], evaluations: Sequence[str]) -> list[list[Entry]]:
    """Return entries that may be averaged: equal but for the seed, and measured under equal conditions."""
    alike: dict[str, list[Entry]] = {}
    for entry in entries:
        alike.setdefault(identity([entry.method, entry.backbone, entry.settings]), []).append(entry)
    groups: dict[str, list[Entry]] = {}
    for key, group in alike.items():
        kinds = {
            name: {identity(each.conditions(name)) for each in group if name in each.measurements}
            for name in evaluations
        }
        mixed = [name for name in evaluations if len(kinds[name]) > 1]
        for entry in group:
            groups.setdefault(key + identity([entry.conditions(name) for name in mixed]), []).append(entry)
    return [sorted(group, key=lambda entry: (entry.seed or 0, entry.run)) for group in groups.values()]


def _order(row: Row) -> tuple[Any, ...]:
    """No network, ResNets, transformers, each from small to large; within an architecture by method."""
    entry, methods = row.first, list(METHOD_NAMES)
    network = BACKBONES.get(entry.backbone)
    is_resnet = "resnet" in entry.backbone or (network is not None and not network.transformer)
    family = 0 if not entry.backbone else 1 if is_resnet else 2
    place = methods.index(entry.method) if entry.method in methods else len(methods)
    return family, entry.parameters or 0.0, entry.backbone, place, entry.method, entry.run


def _notes(row: Row, rows: Sequence[Row], evaluations: Sequence[str]) -> list[str]:
    notes: list[str] = []
    first = row.first
    if first.method not in BASELINES and first.settings:
        trained = [other.first for other in rows if other.first.method not in BASELINES and other.first.settings]
        for name, title in MARKED.items():
            parts = [
                {key: value for key, value in entry.settings.items() if key == name or key.startswith(f"{name}.")}
                for entry in (first, *trained)
            ]
            if differs := difference(parts[0], parts[1:], MARKED, shorten=f"{name}."):
                notes.append(differs if differs.startswith(title) else f"{title}: {differs}")
        namesakes = [
            entry
            for entry in trained
            if entry.method == first.method and network_title(entry.backbone) == network_title(first.backbone)
        ]
        names = sorted({name for entry in namesakes for name in entry.settings if name.split(".")[0] not in MARKED})
        telling = [name for name in names if len({identity(entry.settings.get(name)) for entry in namesakes}) > 1]
        if telling:
            own = some([f"{name} {text(first.settings.get(name))}" for name in telling])
            notes.append(f"of several {row.method} on {row.architecture}, this one has {own}")
        display = DISPLAY.get(first.method)
        notes += [
            f"{title} ({text(first.settings[name])})"
            for name, (usual, title) in (display.deviations.items() if display else ())
            if first.settings.get(name, usual) != usual
        ]
    for name in evaluations if first.method not in NO_NETWORK else ():  # nothing that could be shown another size
        under = [
            (other, found[0])
            for other in rows
            if other.first.method not in NO_NETWORK and (found := other.results(name))
        ]
        own = next((conditions(result) for other, result in under if other is row), None)
        if own and (differs := difference(own, [conditions(result) for _, result in under])):
            title = name if EVALUATIONS[name].by_network else EVALUATIONS[name].columns[0].title
            notes.append(f"{title} measured with {differs}")
    if len({entry.seed for entry in row.entries}) < len(row.entries):
        notes.append("some of its runs have the same seed, so their deviation means little")
    return notes + [remark for entry in row.entries for remark in entry.remarks]


def usual_protocol(rows: Iterable[Row], evaluation: str) -> dict[str, Any] | None:
    """Return the protocol under which most rows were measured, without entries about a model.

    None if none was. Baselines without a network do not count.
    """
    measured = [found[0] for row in rows if row.first.method not in NO_NETWORK and (found := row.results(evaluation))]
    keys = [identity(conditions(result)) for result in measured]
    return shared_protocol(measured[keys.index(Counter(keys).most_common(1)[0][0])]) if keys else None


# Results: kept ones that still hold, else measured and kept

Wanted = Mapping[str, tuple[Data, Any]]
"""Evaluation -> data of its own (None: the common data), and its settings."""


def default_settings(evaluations: Iterable[str] | None = None) -> dict[str, tuple[Data, Any]]:
    """Return evaluations (None: the default ones) with their default settings, on the common data."""
    names = default_evaluations() if evaluations is None else evaluations
    return {name: (None, EVALUATIONS[name].config()) for name in names}


def check(data: Path | None, wanted: Wanted | None, skip: Collection[str], context: Context) -> None:
    """Raise UserError if the data cannot be used by what is to be measured, before models are loaded."""
    for name, (own, config) in (default_settings() if wanted is None else wanted).items():
        evaluation, place = EVALUATIONS[name], data if own is None else own
        if name not in skip and place is not None and (own is not None or evaluation.needs in ("labels", "images")):
            evaluation.check(place, config, context)


def gather(
    models: Sequence[Model],
    data: Path | None = None,
    wanted: Wanted | None = None,
    *,
    skip: Collection[str] = (),
    context: Context = base.DEFAULT_CONTEXT,
    baselines: bool = False,
) -> Comparison:
    """Return the comparison of models, after measuring what is missing.

    Args:
        models: distinct by name.
        data: labelled images to measure on; None keeps to those that the models were measured or trained on.
        wanted: None takes the default evaluations.
        skip: evaluations that are not measured; kept results are shown nevertheless.
        context: of the features; speed is measured on its device.
        baselines: add raw pixels, whitened patches, and each network with random weights.

    Raises UserError if the data cannot be used, or are missing and a model has no images of its own.
    """
    wanted = default_settings() if wanted is None else wanted
    gatherer = _Gatherer(models, data, wanted, skip, context)
    if baselines and data is not None:
        logger.warning(
            "added as baselines: raw pixels, whitened patches, and each network with random weights; what was not kept "
            "of them is measured, too (--no-baselines leaves them out)"
        )
    entries = [gatherer.entry(model) for model in gatherer.models]
    if baselines:
        entries += [*gatherer.random_networks(models), *gatherer.pixels(), *gatherer.patches()]
    return compare(entries, tuple(wanted))


class _Gatherer:
    """Measures models under the same conditions as far as possible.

    given, context: the conditions, and the same with the groups and the split of the runs (`base.inherited`).
    models: those that must be are fitted to the train split of the images (`Context.fitted`).
    images: labelled images that all models are measured on; None if each is measured on its own.
    chosen: model -> evaluation -> the kept result that is shown, if it need not be measured again.
    agreeing: evaluations of which all models have a kept result under the same conditions.
    """

    def __init__(
        self, models: Sequence[Model], data: Path | None, wanted: Wanted, skip: Collection[str], context: Context
    ) -> None:
        self.data, self.wanted, self.skip = data, wanted, skip
        labelled = {name for name in wanted if EVALUATIONS[name].needs == "labels"}
        self.given = replace(context, device=context.device or torch.device("cpu"))
        common = self._common_context(models, measures=not labelled <= set(skip))
        self.context = common or self.given
        self.images = None if data is None else base.labelled_images(data, self.context)
        models = self.models = [self.context.fitted(model, self.images) for model in models]
        self.chosen = self._choose(models)
        if data is None:
            self.images = None if common is None else self._usual_images()
            models = self.models = [self.context.fitted(model, self.images) for model in models]
        strangers = [model.name for model in models if model.settings is None]
        if strangers and self.images is None and not labelled <= set(skip):
            raise UserError(
                f"{' and '.join(strangers)}: no run folder names the images to measure on; give --data FOLDER "
                "with train/CLASS/... and val/CLASS/..., or only CLASS/..."
            )
        kept = {name: [self.chosen[model.name].get(name) for model in models] for name in wanted}
        self.agreeing = {
            name
            for name, each in kept.items()
            if None not in each and len({identity(conditions(r)) for r in each if r}) == 1
        }
        self.by_network: dict[tuple[str, str], Result] = {}

    def _common_context(self, models: Sequence[Model], *, measures: bool) -> Context | None:
        """Return the conditions with the groups and the split of all runs; None if, without data, each has its own.

        Raises UserError as `base.inherited`, if there are data.
        """
        if self.data is not None:
            return base.inherited(self.given, models, self.data)
        of_runs = [(model, parse_place(model.settings["data"])) for model in models if model.run and model.settings]
        if all(base.inherited(self.given, [model], data, say=False) == self.given for model, data in of_runs):
            return self.given
        if len({data for _, data in of_runs}) == 1:
            with contextlib.suppress(UserError):
                return base.inherited(self.given, models, of_runs[0][1], say=measures)
        return None

    def _conditions(self, model: Model, name: str, data: Data, *, say: bool = False) -> Context:
        """Return the conditions under which a model is measured on data: its run's, if it was trained on them."""
        if isinstance(data, Path) and "group" in EVALUATIONS[name].uses:
            return base.inherited(self.given, [model], data, say=say)
        return self.context

    def entry(self, model: Model, evaluations: Collection[str] | None = None) -> Entry:
        """Return a model with its results. evaluations: of those that are wanted; None takes all."""
        measurements: dict[str, Result] = {}
        remarks = list(model.remarks)
        newest = None if model.run is None else checkpoint.newest_metadata(model.run / "checkpoints")
        if newest is not None and newest.get("step") != newest.get("total"):
            remarks.append(f"{model.name}: stopped at step {newest.get('step')} of {newest.get('total')}")
        if model.backbone.made_of:
            remarks.append(f"{model.label}: {model.backbone.made_of}")
        for name in self.wanted if evaluations is None else evaluations:
            result = self.chosen.get(model.name, {}).get(name)
            if name not in self.skip and (result is None or not self._is_wanted(model, name, result)):
                try:
                    result = self._measure(model, name)
                except UserError as error:
                    title = EVALUATIONS[name].columns[0].title
                    remarks.append(f"{model.name}: {title} not measured: {error}")
            if result is not None:
                measurements[name] = result
        return Entry(
            model.method,
            "" if model.method in NO_NETWORK else model.backbone.config.name,
            millions_of_parameters(model.backbone) or None,
            model.name,
            None if model.settings is None else model.settings.get("seed", RunConfig.seed),
            {} if model.run is None else deciding_settings(read_config(model.run)),
            measurements,
            tuple(remarks),
        )

    def _measure(self, model: Model, name: str) -> Result:
        evaluation, (_, config), network = EVALUATIONS[name], self.wanted[name], model.backbone.config
        what, key = model.name, (name, network.name)
        result = self.by_network.get(key) if evaluation.by_network else None
        if result is None:
            if evaluation.by_network:
                what = network.name
                if getattr(config, "image_size", math.inf) < model.backbone.patch_size:
                    config = replace(config, image_size=network.image_size)
            data = self._data_of(model, name)
            context = self._conditions(model, name, data, say=True).naming(what)
            result = next(iter(evaluation.run([model], data, config, context)))
            if evaluation.by_network:
                self.by_network[key] = result
        if not evaluation.keeps_results:
            base.keep_result(evaluation, model, config, result)
        weights = {"weights": model.name} if "weights" in result.protocol else {}
        return replace(result, protocol={**result.protocol, **weights}, items=None)

    def _data_of(self, model: Model, name: str) -> Data:
        own, needs = self.wanted[name][0], EVALUATIONS[name].needs
        if own is not None or needs == "nothing":
            return own
        common = self.images if needs == "labels" else self.data
        if common is None and needs not in ("labels", "images"):
            raise UserError(f"give --evaluations {name}=FOLDER")
        if common is None and model.settings is None:
            raise UserError("give --data")
        return common or parse_place((model.settings or {})["data"])

    def _is_wanted(self, model: Model, name: str, result: Result) -> bool:
        """Return whether a kept result was measured on these data, at this size and precision, with these settings."""
        evaluation = EVALUATIONS[name]
        if evaluation.by_network:  # speeds are compared if all models have one, measured alike
            return name in self.agreeing
        if self.wanted[name][0] is None and (self.data is None or evaluation.needs == "nothing"):
            return True
        with contextlib.suppress(UserError):
            return self._holds(model, name, result, self._data_of(model, name))
        return False

    def _holds(self, model: Model, name: str, result: Result, data: Data) -> bool:
        context = self._conditions(model, name, data)
        return base.is_expected(result, EVALUATIONS[name].expected(model, data, self.wanted[name][1], context))

    def _choose(self, models: Sequence[Model]) -> dict[str, dict[str, Result]]:
        """Choose, for each model, one kept result of each evaluation: the one that was asked for, if there is one.

        Otherwise all models follow one order of conditions, so that they are shown alike: first the conditions that
        most models share, then the images that most results are of, then the model's own image size, then the newest.
        """
        kept = {name: [(model, found) for model in models for found in self._kept(model, name)] for name in self.wanted}
        counts = Counter(_images_of(found) for pairs in kept.values() for _, found in pairs)
        chosen: dict[str, dict[str, Result]] = {model.name: {} for model in models}
        for name, pairs in kept.items():
            alike: dict[str, list[tuple[Model, Result]]] = {}
            for model, found in pairs:
                alike.setdefault(identity(conditions(found)), []).append((model, found))
            by_network, groups = EVALUATIONS[name].by_network, list[tuple[int, int, bool, list[tuple[Model, Result]]]]()
            for group in alike.values():
                model, found = group[0]
                is_usual = by_network or self._holds(model, name, found, None)
                groups.append((len({each.name for each, _ in group}), counts[_images_of(found)], is_usual, group))
            groups.sort(key=lambda group: group[:3], reverse=True)
            pairs = [pair for *_, group in groups for pair in group]
            if (self.data is not None or self.wanted[name][0] is not None) and not by_network:
                pairs.sort(key=lambda pair, name=name: not self._is_wanted(pair[0], name, pair[1]))
            for model, found in pairs:
                chosen[model.name].setdefault(name, found)
        return chosen

    def _kept(self, model: Model, name: str) -> list[Result]:
        """Return what is kept of all, or of the wanted, labels, and of features as they are, or whitened, if wanted.

        Accuracies among a single class, which are 100 % by definition, are left out.
        """
        fraction = getattr(self.wanted[name][1], "label_fraction", 1.0)
        whitened = getattr(self.wanted[name][1], "whitened", False)
        return [
            found
            for found in base.kept_results(EVALUATIONS[name], model)
            if found.protocol.get("classes") != 1
            and found.protocol.get("label_fraction", 1.0) == fraction
            and found.protocol.get("whitened", False) == whitened
        ]

    def _usual_images(self) -> base.Images | None:
        """Return the images that most kept results were measured on, so that missing ones are measured on the same."""
        results = [found for own in self.chosen.values() for found in own.values()]
        places = Counter(_images_of(found) for found in results if found.protocol.get("split") == self.context.share)
        usual = next((place for place, _ in places.most_common() if place[0] is not None), None)
        if usual is not None and usual[0] is not None:
            with contextlib.suppress(UserError):  # moved away since: the runs' own images are left
                return base.images_of(
                    parse_place(usual[0]), None if usual[1] is None else parse_place(usual[1]), self.context
                )
        return None

    def random_networks(self, models: Sequence[Model]) -> list[Entry]:
        """Return each network of the models with random weights: of runs once for each of their seeds.

        A network that is among the models with random weights already gets no other.
        """
        present = {model.backbone.config.name for model in models if model.method == "random"}
        entries: dict[str, Entry] = {}
        for model in models:
            network = without_drop_path(model.backbone.config)
            seed = SEED if model.settings is None else model.settings.get("seed", SEED)
            name = f"random weights of {network.name} for {network.image_size} px, seed {seed}"
            if network.name not in present and is_network(network.name) and name not in entries:
                backbone = random_backbone(network, seed)
                random = Model(name, name, backbone, method="random", settings=model.settings, keeps_results=False)
                entries[name] = self.entry(random)
        return list(entries.values())

    def pixels(self) -> list[Entry]:
        """Return k-NN of the images themselves; nothing if there are no images that all were measured on."""
        if self.images is None or "knn" in self.skip or "knn" not in self.wanted:
            return []
        pixels, config = load_model(PIXELS), replace(self.wanted["knn"][1], ks=(K,))
        context = replace(self.context, precision="fp32", image_size=None, crop_fraction=None, cached=False)
        (result,) = EVALUATIONS["knn"].run([pixels], self.images, config, context.naming(pixels.label))
        size = pixels.backbone.config.image_size
        remark = f"raw pixels: the images themselves at {size} x {size} px, less the mean of each"
        return [Entry(PIXELS, "", None, pixels.label, measurements={"knn": result}, remarks=(remark,))]

    def patches(self) -> list[Entry]:
        """Return the baseline of whitened patches; nothing if it is among the models, or without common images.

        It has features of whole images alone.
        """
        if self.images is None or any(model.method == PATCHES for model in self.models):
            return []
        model = self.context.fitted(load_model(PATCHES), self.images)
        chosen = self._choose([model])[model.name]
        self.chosen[model.name] = {name: each for name, each in chosen.items() if not EVALUATIONS[name].by_network}
        return [self.entry(model, [name for name in self.wanted if EVALUATIONS[name].needs in ("labels", "nothing")])]


def _images_of(result: Result) -> tuple[str | None, str | None]:
    """Return the folders of the images that classify, and of those that are classified; None for none."""
    found = conditions(result)
    return found.get("gallery") or found.get("train"), found.get("queries") or found.get("val")


# Ranks

_ROUNDING = 1e-9
"""An interval narrower than this has no width: the values do not vary."""


def ranked(comparison: Comparison, name: str) -> tuple[Row, ...]:
    """Return models with this figure, best first; none if they were not all measured alike, or are fewer than two."""
    rows = [row for row in comparison.rows if row.first.method not in BASELINES and row.cell(name)]
    alike = {identity(conditions(result)) for row in rows for result in measured(row, name)}
    return tuple(sorted(rows, key=lambda row: -_mean(row, name))) if len(rows) > 1 and len(alike) == 1 else ()


def without_labels(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Return those that were trained without labels if there are two or more, whose contest it is then; else all."""
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
    """Return the lead of one row over another if either has several runs; else None (`interval` is for single runs).

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
        count, deviation = max(len(one), len(two)), 0.0 if several is None else several.deviation or 0.0
        half = float(special.stdtrit(count - 1, 0.5 + CONFIDENCE / 2)) * deviation * math.sqrt(1 + 1 / count)
        low, high, how = mean - half, mean + half, f"one run against {count} seeds"
    else:
        stats: Any = importlib.import_module("scipy.stats")  # takes half a second
        paired = ours.keys() == theirs.keys()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values that do not vary: there is no interval then
            if paired:
                test, how = stats.ttest_rel(one, [theirs[seed] for seed in ours]), f"paired by {len(one)} seeds"
            else:
                test, how = stats.ttest_ind(one, two, equal_var=False), f"Welch, {len(one)} and {len(two)} runs"
            low, high = map(float, test.confidence_interval(CONFIDENCE))
    known = math.isfinite(low) and math.isfinite(high) and high - low > _ROUNDING
    return Lead(mean, low if known else None, high if known else None, how)


def settled(first: Row, other: Row, name: str) -> bool:
    """Return whether a lead is more than chance: the interval of the difference is above 0.

    Of two single runs, whether their intervals lie apart.
    """
    found = lead(first, other, name)
    if found is not None:
        return found.low is not None and found.low > 0
    ahead, behind = interval(first, name), interval(other, name)
    return ahead is not None and behind is not None and ahead[0] > behind[1]


def best(comparison: Comparison, name: str) -> tuple[Row, ...]:
    """Return the best in this figure, of those without labels if there are several, and all that may be as good."""
    rows = without_labels(ranked(comparison, name))
    return tuple(row for place, row in enumerate(rows) if place == 0 or not settled(rows[0], row, name))


def bold_line(comparison: Comparison) -> str:
    """Return the remark below tables in which the best are in bold; "" if nothing is."""
    groups = [best(comparison, name) for name in comparison.accuracies]
    leading = [row for rows in groups for row in rows]
    if not leading:
        return ""
    labelled, chosen = (any(row.first.method == WITH_LABELS for row in rows) for rows in (comparison.rows, leading))
    scope = " of those trained without labels" if labelled and not chosen else ""
    unsure = ", and those whose difference from it may be chance (95 % intervals)"
    return f"Bold: the best{scope}" + (unsure if any(len(rows) > 1 for rows in groups) else "")


def baseline_lines(comparison: Comparison) -> list[str]:
    """Return the news that a baseline is as good as every model, for each accuracy."""

    def images(row: Row, name: str) -> tuple[object, ...]:
        found, of_images = conditions(measured(row, name)[0]), ("gallery", "train", "queries", "val", "data", "images")
        return tuple(map(found.get, (*of_images, "label_fraction", "group", "split")))

    lines: list[str] = []
    for name in comparison.accuracies:
        models = [row for row in comparison.rows if row.first.method not in BASELINES and measured(row, name)]
        for row in comparison.rows:
            if row.first.method not in BASELINES or not measured(row, name):
                continue
            rivals = [other for other in models if images(other, name) == images(row, name)]
            unlabelled = [other for other in rivals if other.first.method != WITH_LABELS]
            baseline = f"random weights of {row.architecture}" if row.first.backbone else row.method.lower()
            for scope, others in (("", rivals), (" trained without labels", unlabelled)):
                top = max(others, key=lambda other, name=name: _mean(other, name), default=None)
                if top is not None and _mean(row, name) >= _mean(top, name):
                    own, theirs = f"{_mean(row, name):.1f} %", f"{_mean(top, name):.1f} %"
                    lines.append(
                        f"{evaluation_title(name)}: no model{scope} is better than {baseline}, {own} against {theirs} "
                        f"of the best, {top.method} on {top.architecture}"
                    )
                    break
    return lines


def best_first(comparison: Comparison) -> Comparison:
    """Return it sorted by the first accuracy that ranks rows, those without it and baselines last."""
    order = next((found for name in comparison.accuracies if (found := ranked(comparison, name))), ())
    others = (row for row in comparison.rows if not any(row is one for one in order))
    return replace(comparison, rows=(*order, *others))


def interval(row: Row, name: str) -> tuple[float, float] | None:
    """Return the interval of a figure over what was measured; None of several runs, whose deviation tells more."""
    metric = row.first.metric(name) if len(row.entries) == 1 else None
    return None if metric is None or metric.low is None or metric.high is None else (metric.low, metric.high)


def interval_words(comparison: Comparison) -> str:
    """Return what the intervals of accuracies are for: images, or groups if some are known; and draws of labels."""
    results = [found for row in comparison.rows for name in comparison.accuracies for found in measured(row, name)]
    items = "images or groups" if any("group" in found.protocol for found in results) else "images"
    if any(found.protocol.get("draws", 1) > 1 for found in results):
        return f"for the number of {items}, and with few labels for the draws of the labels, too"
    return f"for the number of {items} alone{' (Wilson)' if items == 'images' else ''}"


def evaluation_title(name: str) -> str:
    return EVALUATIONS[columns()[name][0]].title


def guessing(rows: Sequence[Row], name: str) -> float | None:
    """Return the accuracy of guessing among classes of one size, in %; None if classes are not known or differ."""
    classes = {found.protocol.get("classes") for row in rows for found in measured(row, name)}
    number = classes.pop() if len(classes) == 1 else None
    return 100 / number if number else None


def measured(row: Row, name: str) -> list[Result]:
    return row.results(columns()[name][0])


def _by_seed(row: Row, name: str) -> dict[int, float]:
    """Seed, or place if seeds are not known or not all different -> value."""
    values = [(entry.seed, value) for entry in row.entries if (value := entry.value(name)) is not None]
    known = len({seed for seed, _ in values if seed is not None}) == len(values)
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
    "Linear: DINO's protocol (here `linear --protocol reference`) unless a note states otherwise. "
    "Not measured here, and not comparable with figures on other data"
)

_OWN_PROTOCOL = "the linear figure is its own paper's, by a protocol that is neither DINO's nor `dinoscope linear`'s"
_OWN_CLASSIFIER = "accuracy of the network's own classifier; there was no linear probe"


@dataclass(frozen=True)
class Published:
    """One row. method: a key of `METHOD_NAMES`; parameters in millions; linear and knn: top-1 in %.

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


# Tables


def display_table(comparison: Comparison, published: bool, intervals: bool = False) -> Table:
    """Return the table of the field, with published figures as a section of their own if asked for.

    intervals: next to each accuracy of a single run; else a remark tells how far they reach at most.
    """
    titles = (Column(comparison.title(name), "right") for name in comparison.columns)
    headings = (Column("Method"), Column("Arch."), Column("Param. (M)", "right"), *titles)
    leading = {name: best(comparison, name) for name in comparison.accuracies}
    sections = [Section(tuple(_display_row(row, comparison, intervals, leading) for row in comparison.rows))]
    notes, remarks = comparison.notes, _remarks(comparison, intervals)
    if published:
        notes = (*notes, *dict.fromkeys(row.note for row in PUBLISHED if row.note))
        rows: list[TableRow] = []
        for row in PUBLISHED:
            shown = (
                f"{row.figures[name]:.{column.digits}f}" if name in row.figures else ABSENT
                for name, column in comparison.columns.items()
            )
            cells = (METHOD_NAMES[row.method], row.architecture, _size(row.parameters), *shown)
            rows.append(TableRow(cells, (notes.index(row.note) + 1,) if row.note else ()))
        sections = [Section(sections[0].rows, "Measured here"), Section(tuple(rows), LABEL)]
        remarks.append(SOURCE)
    return Table(headings, tuple(sections), "Top-1 accuracy in %, size and speed", notes, tuple(remarks))


def _display_row(row: Row, comparison: Comparison, intervals: bool, leading: Mapping[str, Sequence[Row]]) -> TableRow:
    runs = len(row.entries)
    title = label(row, comparison) + (f" (n = {runs})" if runs > 1 else "")
    cells = [title, row.architecture, ABSENT if row.first.parameters is None else _size(row.first.parameters)]
    bold: list[int] = []
    for name, column in comparison.columns.items():
        if column.ranked and any(row is one for one in leading.get(name, ())):
            bold.append(len(cells))
        cells.append(_cell(row, name, column, intervals))
    return TableRow(tuple(cells), row.marks, tuple(bold))


def _cell(row: Row, name: str, column: base.Column, intervals: bool) -> str:
    """Return mean and deviation, how many runs if some lack it, and the interval of a single run if asked for."""
    cell, digits = row.cell(name), column.digits
    if cell is None:
        return ABSENT
    if not column.ranked:
        return f"{cell.mean:.{digits or (0 if cell.mean >= 10 else 1)}f}"
    shown = f"{cell.mean:.{digits}f}"
    if cell.deviation is not None:
        shown += f" ± {cell.deviation:.{digits}f}"
    if len(cell.values) < len(row.entries):
        shown += f" (n = {len(cell.values)})"
    ends = interval(row, name) if intervals else None
    return shown if ends is None else f"{shown} [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"


def label(row: Row, comparison: Comparison) -> str:
    """Return the method, and if several rows have it on one architecture, the name of the row's (first) run."""
    same = [each for each in comparison.rows if (each.method, each.architecture) == (row.method, row.architecture)]
    if len(same) == 1 or row.first.method in BASELINES:
        return row.method
    runs = [Path(each.first.run) for each in same]
    names = distinct([(run.resolve().name, run) for run in runs])
    return f"{row.method} {names[runs.index(Path(row.first.run))]}"


def _size(millions: float) -> str:
    return f"{millions:.0f}" if millions >= 10 else f"{millions:.2g}"


def _remarks(comparison: Comparison, intervals: bool = False) -> list[str]:
    """Return the news about baselines, how sure figures are, and how most rows were measured; the notes have others."""
    bold = bold_line(comparison)
    remarks = baseline_lines(comparison) + ([bold] if bold else [])
    reach = [
        max(ends[1] - cell.mean, cell.mean - ends[0])
        for row in comparison.rows
        for name in comparison.accuracies
        if (ends := interval(row, name)) and (cell := row.cell(name))
    ]
    if intervals and reach:
        remarks.append(f"[ ]: 95 % interval {interval_words(comparison)}; another seed may differ by more")
    elif reach:
        remarks.append(
            f"Single runs: 95 % intervals {interval_words(comparison)} reach at most {max(reach):.1f} to either side; "
            "another seed may differ by more"
        )
    remarks += _of_several_data(comparison)
    for name in comparison.evaluations:
        if line := _protocol_line(comparison, name):
            remarks.append(f"{EVALUATIONS[name].columns[0].title}: {line}")
    if any(len(row.entries) > 1 for row in comparison.rows):
        remarks.append("n: runs that differ in the seed alone; mean ± standard deviation of the sample")
    return remarks


def _of_several_data(comparison: Comparison) -> list[str]:
    """Return the remark that columns which need labels are of different data, as kept results may be; else nothing."""
    titles: dict[tuple[str, ...], list[str]] = {}
    for name in comparison.accuracies:
        evaluation = EVALUATIONS[columns()[name][0]]
        protocol = usual_protocol(comparison.rows, evaluation.name) if evaluation.needs == "labels" else None
        if protocol and (places := _data_of(protocol)):
            titles.setdefault(places, []).append(comparison.title(name))
    if len(titles) < 2:
        return []
    parts = (f"{', '.join(own)} of {' and '.join(places)}" for places, own in titles.items())
    return [f"Columns are of different data: {'; '.join(parts)}. With --data FOLDER all are of the same"]


def _data_of(protocol: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the folders of the images of a protocol; of splits the folder that holds them."""
    places = (protocol.get(name) for name in ("gallery", "queries", "train", "val", "data"))
    paths = (Path(place) for place in places if isinstance(place, str))
    return tuple(dict.fromkeys(str(path.parent if is_split(path.name) else path) for path in paths))


def speed_line(comparison: Comparison) -> str:
    """Return what the figures of speed rest on, in words; "" if there are none."""
    line = _protocol_line(comparison, "throughput")
    return f"Images per second of the forward pass, images in memory, {line}" if line else ""


def _protocol_line(comparison: Comparison, evaluation: str) -> str:
    """Return how the figures of most rows came about; "" if there are none, or they are too old to tell."""
    protocol = usual_protocol(comparison.rows, evaluation)
    with contextlib.suppress(KeyError):
        return EVALUATIONS[evaluation].protocol_line(protocol) if protocol else ""
    return ""


# Files


def csv_table(comparison: Comparison, published: bool) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of a CSV file; figures are unrounded, and empty if there are none."""
    rows: list[dict[str, Any]] = []
    for row in comparison.rows:
        values: dict[str, Any] = {
            "source": "measured",
            "method": row.method,
            "architecture": row.architecture,
            "backbone": row.first.backbone,
            "runs": len(row.entries),
            "parameters_millions": row.first.parameters,
        }
        for name, column in comparison.columns.items():
            cell, metric = row.cell(name), row.first.metric(name)
            parameters: Mapping[str, float] = {} if metric is None else metric.parameters
            values[f"{column.metric}_mean" if column.ranked else column.metric] = cell and cell.mean
            if column.ranked:
                values[f"{column.metric}_deviation"] = cell and cell.deviation
            for key in column.parameters:
                values[f"{name}_{key}"] = f"{parameters[key]:g}" if key in parameters else None
        values["seeds"] = " ".join(str(entry.seed) for entry in row.entries if entry.seed is not None)
        values["folders"] = "; ".join(entry.run for entry in row.entries)
        values["notes"] = "; ".join(comparison.notes[mark - 1] for mark in row.marks)
        for name in comparison.accuracies:
            protocol = next((result.protocol for result in measured(row, name)), dict[str, Any]())
            values[f"{name}_image_size"] = protocol.get("image_size")
            values[f"{name}_images"] = protocol.get("queries") or protocol.get("val") or protocol.get("gallery")
        rows.append(values)
    header = list(rows[0])
    for paper in PUBLISHED if published else ():
        values = {
            "source": LABEL,
            "method": METHOD_NAMES[paper.method],
            "architecture": paper.architecture,
            "parameters_millions": paper.parameters,
            "notes": "; ".join(filter(None, ("Caron et al. 2021, Table 2", paper.note))),
        }
        for name, column in comparison.columns.items():
            if name in paper.figures:
                values[f"{column.metric}_mean" if column.ranked else column.metric] = paper.figures[name]
                values |= {f"{name}_{key}": f"{value:g}" for key, value in column.parameters.items()}
        rows.append(values)
    return header, [["" if (value := row.get(key)) is None else str(value) for key in header] for row in rows]


def json_values(comparison: Comparison, published: bool) -> dict[str, Any]:
    """Return everything: the value of each seed, protocols, settings, folders, notes."""
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
    units = {name: column.unit for name, column in comparison.columns.items()}
    values: dict[str, Any] = {
        "version": __version__,
        "units": units | {"deviation": "of a sample (n - 1)"},
        "titles": {name: comparison.title(name) for name in comparison.columns},
        "rows": rows,
        "notes": list(comparison.notes),
        "remarks": _remarks(comparison),
    }
    return values | ({"published": {"source": SOURCE, "rows": [asdict(row) for row in PUBLISHED]}} if published else {})
