"""Which rows of a comparison may be ranked against each other, and how sure their figures are."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from scipy.special import stdtrit

from dinoscope.config import identity
from dinoscope.evaluation.results import conditions
from dinoscope.evaluation.statistics import CONFIDENCE, Interval, over_seeds, wilson
from dinoscope.study.compare import BASELINES, Comparison, Row
from dinoscope.types import Result

ACCURACIES = ("linear", "knn")
"""Figures of accuracy by which rows are ranked, the field's first."""
TITLES = {"linear": "Linear probe", "knn": "k-NN"}
WITH_LABELS = "supervised"
"""The method whose rows had what the others had not."""
_ROUNDING = 1e-9
"""An interval narrower than this has no width: the values do not vary."""


def ranked(comparison: Comparison, name: str) -> tuple[Row, ...]:
    """Models with this figure, best first; none where they were not all measured alike, or there are fewer than two."""
    rows = [row for row in comparison.rows if row.first.method not in BASELINES and row.cell(name)]
    alike = {identity(conditions(found)) for row in rows for found in measured(row, name)}
    if len(rows) < 2 or len(alike) > 1:
        return ()
    return tuple(sorted(rows, key=lambda row: -_mean(row, name)))


def without_labels(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Those that were trained without labels where there are two or more, whose contest it is then; else all."""
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
        half = float(stdtrit(count - 1, 0.5 + CONFIDENCE / 2)) * several.deviation * math.sqrt(1 + 1 / count)
        return _lead(mean, mean - half, mean + half, f"one run against {count} seeds")
    from scipy.stats import ttest_ind, ttest_rel  # takes half a second

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that do not vary: there is no interval then
        paired = ours.keys() == theirs.keys()
        test: Any = ttest_rel(one, [theirs[seed] for seed in ours]) if paired else ttest_ind(one, two, equal_var=False)
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
    return ahead is not None and behind is not None and ahead.low > behind.high


def best(comparison: Comparison, name: str) -> tuple[Row, ...]:
    """The best in this figure, of those without labels if there are several, and all whose lag may be chance."""
    rows = without_labels(ranked(comparison, name))
    return tuple(row for place, row in enumerate(rows) if place == 0 or not settled(rows[0], row, name))


def bold_line(comparison: Comparison) -> str:
    """What it says below tables in which the best are in bold; "" where nothing is."""
    groups = [best(comparison, name) for name in ACCURACIES]
    leading = [row for rows in groups for row in rows]
    if not leading:
        return ""
    labelled, chosen = (any(row.first.method == WITH_LABELS for row in rows) for rows in (comparison.rows, leading))
    scope = " of those trained without labels" if labelled and not chosen else ""
    unsure = ", and those whose difference from it may be chance (95 % intervals)"
    return f"Bold: the best{scope}" + (unsure if any(len(rows) > 1 for rows in groups) else "")


def baseline_lines(comparison: Comparison) -> list[str]:
    """The news that raw pixels or random weights are as good as every model, in each accuracy where they are."""
    found = (_baseline_line(row, name, comparison) for name in ACCURACIES for row in comparison.rows)
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
                f"{TITLES[name]}: no model{scope} is better than {baseline}, {_mean(row, name):.1f} % against "
                f"{_mean(top, name):.1f} % of the best, {top.method} on {top.architecture}"
            )
    return ""


def best_first(comparison: Comparison) -> Comparison:
    """The same, sorted by the first accuracy that ranks rows, those without it and baselines last."""
    order = next((found for name in ACCURACIES if (found := ranked(comparison, name))), ())
    others = (row for row in comparison.rows if not any(row is one for one in order))
    return replace(comparison, rows=(*order, *others))


def interval(row: Row, name: str) -> Interval | None:
    """Of an accuracy in %, over the images that were classified; None of several runs, whose spread says more."""
    found = measured(row, name)
    images = images_classified(found[0]) if len(row.entries) == 1 and found else None
    cell = row.cell(name)
    if images is None or cell is None or not 0 <= cell.mean <= 100:
        return None
    made = wilson(cell.mean / 100, images)
    return Interval(cell.mean, 100 * made.low, 100 * made.high)


def images_classified(measurement: Result) -> int | None:
    """How many images an accuracy is a share of; None where it is not kept."""
    protocol = measurement.protocol
    if "val_images" in protocol:
        return protocol["val_images"]
    return protocol.get("query_images") or protocol.get("gallery_images")


def guessing(rows: Sequence[Row], name: str) -> float | None:
    """The accuracy of guessing among classes of one size, in %; None where classes are not known or differ."""
    classes = {found.protocol.get("classes") for row in rows for found in measured(row, name)}
    number = classes.pop() if len(classes) == 1 else None
    return 100 / number if number else None


def measured(row: Row, name: str) -> list[Result]:
    """Return this evaluation of each run of a row that has it."""
    return [entry.measurements[name] for entry in row.entries if name in entry.measurements]


def _images(row: Row, name: str) -> tuple[object, ...]:
    """Which images classify and are classified."""
    found = conditions(measured(row, name)[0])
    keys = ("gallery", "train", "queries", "val", "label_fraction")
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
