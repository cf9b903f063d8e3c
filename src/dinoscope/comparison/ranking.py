"""Which rows of a comparison may be ranked against each other, and how sure their figures are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dinoscope.evaluation.bootstrap import Interval
from dinoscope.evaluation.proportion import wilson
from dinoscope.measurement import Measurement, conditions
from dinoscope.study.compare import BASELINES, Comparison, Row
from dinoscope.study.differences import identity

ACCURACIES = ("linear", "knn")
"""Figures of accuracy by which rows are ranked, the field's first."""
WITH_LABELS = "supervised"
"""The method whose rows had what the others had not."""


def ranked(comparison: Comparison, name: str) -> tuple[Row, ...]:
    """Models with this figure, best first; none where they were not all measured alike, or there are fewer than two."""
    rows = [row for row in comparison.rows if row.first.method not in BASELINES and row.cell(name)]
    alike = {identity(conditions(found)) for row in rows for found in _measured(row, name)}
    if len(rows) < 2 or len(alike) > 1:
        return ()
    return tuple(sorted(rows, key=lambda row: -_mean(row, name)))


def without_labels(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Those that were trained without labels where there are two or more, whose contest it is then; else all."""
    found = tuple(row for row in rows if row.first.method != WITH_LABELS)
    return found if len(found) > 1 else tuple(rows)


def best(comparison: Comparison, name: str) -> tuple[Row, ...]:
    """The best in this figure, of those without labels where there are several; all that look the same in a table."""
    rows = without_labels(ranked(comparison, name))
    return tuple(row for row in rows if f"{_mean(row, name):.1f}" == f"{_mean(rows[0], name):.1f}")


def bold_line(comparison: Comparison) -> str:
    """What it says below tables in which the best are in bold; "" where nothing is."""
    leading = [row for name in ACCURACIES for row in best(comparison, name)]
    if not leading:
        return ""
    labelled, chosen = (any(row.first.method == WITH_LABELS for row in rows) for rows in (comparison.rows, leading))
    return f"Bold: the best{' of those trained without labels' if labelled and not chosen else ''}"


def best_first(comparison: Comparison) -> Comparison:
    """The same, sorted by the first accuracy that ranks rows, those without it and baselines last."""
    order = next((found for name in ACCURACIES if (found := ranked(comparison, name))), ())
    others = (row for row in comparison.rows if not any(row is one for one in order))
    return replace(comparison, rows=(*order, *others))


def interval(row: Row, name: str) -> Interval | None:
    """Of an accuracy in %, over the images that were classified; None of several runs, whose spread says more."""
    found = _measured(row, name)
    images = images_classified(found[0]) if len(row.entries) == 1 and found else None
    cell = row.cell(name)
    if images is None or cell is None or not 0 <= cell.mean <= 100:
        return None
    made = wilson(cell.mean / 100, images)
    return Interval(cell.mean, 100 * made.low, 100 * made.high)


def images_classified(measurement: Measurement) -> int | None:
    """How many images an accuracy is a share of; None where it is not kept."""
    protocol = measurement.protocol
    if "val_images" in protocol:
        return protocol["val_images"]
    return protocol.get("query_images") or protocol.get("gallery_images")


def guessing(rows: Sequence[Row], name: str) -> float | None:
    """The accuracy of guessing among classes of one size, in %; None where classes are not known or differ."""
    classes = {found.protocol.get("classes") for row in rows for found in _measured(row, name)}
    number = classes.pop() if len(classes) == 1 else None
    return 100 / number if number else None


def _measured(row: Row, name: str) -> list[Measurement]:
    return [entry.measurements[name] for entry in row.entries if name in entry.measurements]


def _mean(row: Row, name: str) -> float:
    cell = row.cell(name)
    return float("-inf") if cell is None else cell.mean
