"""Models and what was measured of them become the rows of a table: grouped, sorted, and marked where they differ.

Nothing is left out for differing: a row that cannot be compared in some respect stays, with a note that says why.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dinoscope.config import difference, flat, identity, some, text, to_dict
from dinoscope.evaluation.results import conditions
from dinoscope.evaluation.statistics import OverSeeds, over_seeds
from dinoscope.methods import DISPLAY, method_name
from dinoscope.models.backbone import BACKBONES, network_title
from dinoscope.study.names import METHOD_NAMES
from dinoscope.training.config import RunConfig
from dinoscope.types import Result

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

K = 20
EVALUATIONS = {"linear": "Linear", "knn": "k-NN", "throughput": "im/s"}
"""name of a kept measurement -> title of its column."""


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

    def value(self, evaluation: str) -> float | None:
        """The figure of a column, or None where there is none."""
        found = figure(evaluation, self.measurements.get(evaluation))
        return None if found is None else found[0]


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

    def cell(self, evaluation: str) -> OverSeeds | None:
        """The figure of a column, or None where no run has it."""
        values = tuple(value for entry in self.entries if (value := entry.value(evaluation)) is not None)
        return over_seeds(values)


@dataclass(frozen=True)
class Comparison:
    """Rows in the order of the field, the notes that mark them, and the k of the k-NN (20, or all there are)."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    k: int = K


def compare(entries: Iterable[Entry]) -> Comparison:
    """Group, sort and mark."""
    rows = sorted((Row(tuple(group)) for group in _groups(entries)), key=_order)
    texts = [_notes(row, rows) for row in rows]
    notes = tuple(dict.fromkeys(text for each in texts for text in each))
    marked = tuple(
        Row(row.entries, tuple(sorted({notes.index(text) + 1 for text in each})))
        for row, each in zip(rows, texts, strict=True)
    )
    ks = {k for row in rows for entry in row.entries if (k := _k(entry)) is not None}
    return Comparison(marked, notes, max(ks, default=K))


def deciding_settings(config: RunConfig) -> dict[str, Any]:
    """The settings of a run that decide its result, flat, apart from the seed."""
    values = {name: value for name, value in to_dict(config).items() if name not in REPEATABLE}
    return flat({**values, "data": str(config.data.resolve())}) | {"method.name": method_name(config.method)}


def usual_conditions(rows: Iterable[Row], evaluation: str) -> dict[str, Any] | None:
    """The conditions under which most rows were measured, or None where none was; raw pixels do not count."""
    found = [each for row in rows if row.first.method != "pixels" and (each := _conditions(row, evaluation))]
    counts = Counter(map(identity, found))
    return json.loads(counts.most_common(1)[0][0]) if counts else None


def figure(evaluation: str, measurement: Result | None) -> tuple[float, int] | None:
    """The figure that the table shows, and the k where it is a k-NN (else 0); None where it is not there.

    A gallery of fewer than 20 images has no k = 20: then it is the largest k.
    """
    if measurement is None:
        return None
    values = {metric.name: metric.value for metric in measurement.metrics}
    if evaluation == "knn":
        ks = {int(each.parameters["k"]): each.value for each in measurement.metrics if each.name.endswith("top1")}
        few = measurement.protocol.get("gallery_images", K + 1) <= K
        k = K if K in ks else max(ks, default=None) if few else None
        return None if k is None else (ks[k], k)
    name = {"linear": "linear_top1", "throughput": "images_per_second"}[evaluation]
    return (values[name], 0) if name in values else None


def _k(entry: Entry) -> int | None:
    found = figure("knn", entry.measurements.get("knn"))
    return None if found is None else found[1]


def _groups(entries: Iterable[Entry]) -> list[list[Entry]]:
    """Entries that may be averaged: equal but for the seed, and measured under equal conditions."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(identity([entry.method, entry.backbone, entry.settings]), []).append(entry)
    divided: dict[str, list[Entry]] = {}
    for key, group in groups.items():
        mixed = [
            name
            for name in EVALUATIONS
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


def _notes(row: Row, rows: Sequence[Row]) -> list[str]:
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
            for name, (usual, title) in (
                DISPLAY[row.first.method].deviations if row.first.method in DISPLAY else {}
            ).items()
            if row.first.settings.get(name, usual) != usual
        ]
    if row.first.method != "pixels":  # which have no network to be shown another size
        for name, title in EVALUATIONS.items():
            others = [each for other in rows if (each := _conditions(other, name)) and other.first.method != "pixels"]
            own = _conditions(row, name)
            found = difference(own, others) if own else ""
            if found:
                notes.append(f"{'throughput' if name == 'throughput' else title} measured with {found}")
    if len({entry.seed for entry in row.entries}) < len(row.entries):
        notes.append("some of its runs have the same seed, so that their spread says little")
    notes += [remark for entry in row.entries for remark in entry.remarks]
    return notes


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
