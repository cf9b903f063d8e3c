"""What was found, in plain words with figures: the sentences that the report begins with."""

from __future__ import annotations

from collections.abc import Sequence

from dinoscope.comparison.presentation import label
from dinoscope.comparison.ranking import (
    ACCURACIES,
    TITLES,
    WITH_LABELS,
    baseline_lines,
    guessing,
    images_classified,
    interval,
    lead,
    measured,
    ranked,
    settled,
    without_labels,
)
from dinoscope.report.runs import RunRecord
from dinoscope.study.compare import BASELINES, Comparison, Row
from dinoscope.text import count, listed
from dinoscope.types import Result

_WITHIN = {"linear": "linear probe", "knn": "k-NN"}  # a sentence


def headlines(runs: Sequence[RunRecord], comparison: Comparison | None) -> list[str]:
    """How good the features are, who is ahead and how sure that is; of runs that nothing was measured of, online k-NN.

    Accuracies that were measured otherwise than others are no contest and are not ranked.
    """
    rows = [row for row in (comparison.rows if comparison else ()) if row.first.method not in BASELINES]
    having = {id(row): row for name in ACCURACIES for row in rows if row.cell(name)}
    if comparison is None or not having:
        return _online(runs)
    news = [f"{line}." for line in baseline_lines(comparison)]
    if len(having) == 1:
        return news + _alone(next(iter(having.values())), comparison)
    lines = [line for name in ACCURACIES for line in _contest(comparison, name)]
    if not lines:
        return [*news, "The accuracies were measured on different images or otherwise, so they are not ranked."]
    lines = news + lines
    if all(len(row.entries) == 1 for row in rows):
        lines.append("One run of each: differences of a few points may be chance. Other seeds (--seed) tell.")
    return lines


def _contest(comparison: Comparison, name: str) -> list[str]:
    """Who is first, second and last in one figure, what labels give, and guessing."""
    every = ranked(comparison, name)
    if not every:
        return []
    rows, title = without_labels(every), TITLES[name]
    scope = " without labels" if len(rows) < len(every) else ""
    first, second, last = rows[0], rows[1], rows[-1]
    title = f"{title} on {where(measured(first, name)[0])}{',' * bool(scope)}"
    if _figure(first, name) == _figure(last, name):
        said = f"{title}{scope}: the accuracy is the same everywhere, {_figure(first, name)} %."
    else:
        sure = settled(first, second, name)
        said = (
            f"{title}{scope}: {_of(first, comparison)} is {'best' if sure else 'ahead'} with {_with_ends(first, name)}"
        )
        said += f", then {_of(second, comparison)} with {_with_ends(second, name)}" if len(rows) > 2 else ""
        said += f"; last is {_of(last, comparison)} with {_with_ends(last, name)}."
        said += _by_how_much(first, second, name, sure=sure)
    labelled = [row for row in every if row.first.method == WITH_LABELS and row not in rows]
    if labelled:
        said += f" With labels: {listed([f'{_of(row, comparison)} {_figure(row, name)} %' for row in labelled])}."
    chance = guessing(every, name)
    return [said + (f" Guessing: {chance:.1f} %." if chance is not None else "")]


def _alone(row: Row, comparison: Comparison) -> list[str]:
    """One row's accuracies."""
    found = [name for name in ACCURACIES if row.cell(name)]
    chance, places = guessing([row], found[0]), {name: where(measured(row, name)[0]) for name in found}
    shared = next(iter(places.values())) if len(set(places.values())) == 1 else ""
    figures = [f"{_with_ends(row, name)} ({_WITHIN[name]}{'' if shared else f', {places[name]}'})" for name in found]
    return [
        f"The frozen features of {_of(row, comparison)} classify {shared or 'images'} with a top-1 accuracy of "
        f"{listed(figures)}" + (f"; guessing gives {chance:.1f} %." if chance is not None else ".")
    ]


def _online(runs: Sequence[RunRecord]) -> list[str]:
    """What online k-NN ended at, where nothing was measured afterwards."""
    found = [(run, value) for run in runs if (value := run.last("knn_top1")) is not None]
    if not found:
        return ["How good the features are was not measured. Give --data FOLDER, and it is."]
    classes = {run.classes for run, _ in found}
    number = classes.pop() if len(classes) == 1 else None
    chance = f" Guessing: {100 / number:.1f} %." if number else ""
    texts = [f"{value:.1f} % at {run.image_size} px" for run, value in found]
    figures = (
        texts[0]
        if len(runs) == 1
        else listed([f"{run.label} {text}" for (run, _), text in zip(found, texts, strict=True)])
    )
    return [
        f"During training, online k-NN on each run's own images came to: {figures}.{chance} Accuracy on common images "
        "was not measured; give --data FOLDER, and it is."
    ]


def where(measurement: Result) -> str:
    """The images that were classified and how large they were shown: "500 images of DATA/val at 64 px"."""
    protocol, images = measurement.protocol, images_classified(measurement)
    place = next((protocol[name] for name in ("queries", "val", "gallery") if protocol.get(name)), None)
    words = [f"{count(images)} images" if images else "images"]
    words += [f"of {place}"] if place else []
    words += [f"at {protocol['image_size']} px"] if protocol.get("image_size") else []
    return " ".join(words)


def _of(row: Row, comparison: Comparison) -> str:
    """A row by its method, with its architecture where there are several."""
    networks = {each.architecture for each in comparison.rows if each.first.method != "pixels"}
    return label(row, comparison) + (f" on {row.architecture}" if len(networks) > 1 else "")


def _figure(row: Row, name: str) -> str:
    cell = row.cell(name)
    return "" if cell is None else f"{cell.mean:.1f}"


def _with_ends(row: Row, name: str) -> str:
    """The figure with its interval, or of several runs with their deviation."""
    cell, ends = row.cell(name), interval(row, name)
    if ends is not None:
        return f"{ends.mean:.1f} % [{ends.low:.1f}, {ends.high:.1f}]"
    deviation = "" if cell is None or cell.deviation is None else f" ± {cell.deviation:.1f}"
    return f"{_figure(row, name)}{deviation} %"


def _by_how_much(first: Row, second: Row, name: str, *, sure: bool) -> str:
    """The difference of the first two and whether it may be chance, as a sentence that begins with a space."""
    found = lead(first, second, name)
    if found is None:
        return "" if sure else " The intervals of the first two overlap: they do not settle which of them is better."
    if found.low is None or found.high is None:
        return f" The first two differ by {found.mean:.1f} points; no interval can be drawn from these runs."
    text = f" The first two differ by {found.mean:.1f} points [{found.low:.1f}, {found.high:.1f}] ({found.how}"
    if sure:
        return f"{text})."
    return f"{text}): the interval contains 0, so these runs do not settle which of them is better."
