"""What maps are worth, as a table, a row per image in CSV, and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from dinoscope.config import to_dict
from dinoscope.evaluation.statistics import BootstrapConfig, interval_kind, interval_line
from dinoscope.measurement.explain import CENTRE, ExplainResult, ModelResult
from dinoscope.measurement.explain_scores import FIGURES
from dinoscope.report.tables import csv_text
from dinoscope.tables import Column, Section, Table, TableRow
from dinoscope.text import ABSENT

ON_OBJECTS = ("jaccard", "pointing", "energy", "lift")
"""Columns that need masks."""
IN_THE_NETWORK = (
    "deletion",
    "deletion_gain",
    "insertion",
    "insertion_gain",
    "entropy",
    "agreement",
)
"""Columns that do not."""
_TITLES = {
    "jaccard": "Jaccard %",
    "pointing": "pointing %",
    "energy": "energy %",
    "lift": "lift",
    "deletion": "delete ↓",
    "deletion_gain": "– rand. ↓",
    "insertion": "insert ↑",
    "insertion_gain": "– rand. ↑",
    "entropy": "entropy",
    "agreement": "agree",
}
_WITH_INTERVAL = ("jaccard", "pointing", "energy", "deletion_gain", "insertion_gain")


def explain_table(
    result: ExplainResult, names: Sequence[str] = ON_OBJECTS + IN_THE_NETWORK, *, intervals: bool = True
) -> Table:
    """A row per model, then the centred blob and chance where there are masks.

    names: of the columns, in this order; those that need masks are left out where there are none.
    """
    masked = result.subjects.masked is not None
    shown = [name for name in names if masked or name not in ON_OBJECTS]
    about_objects = bool(set(shown) & set(ON_OBJECTS))
    # beside a table that says it already, the kind of map only takes room
    tells_map = about_objects or not masked
    texts = (Column("model"), Column("map")) if tells_map else (Column("model"),)
    columns = (*texts, *(Column(_TITLES[name], "right") for name in shown))
    every = result.rows if about_objects else [row for row in result.rows if row.model is not None]
    rows = [
        TableRow((row.label, row.map)[: len(texts)] + tuple(_cell(row, name, intervals) for name in shown))
        for row in every
    ]
    if about_objects:
        rows.append(TableRow(("chance", "even map", *(_chance(result.rows[0], name) for name in shown))))
    return Table(columns, (Section(tuple(rows)),), _caption(result), remarks=tuple(_remarks(result, intervals)))


def explain_csv(result: ExplainResult) -> str:
    """One row per model and image; empty where a figure is not defined."""
    rows = (
        [row.label, score.name, *(f"{score.values[name]:.6g}" if name in score.values else "" for name in FIGURES)]
        for row in result.rows
        for score in row.scores
    )
    return csv_text(["model", "image", *FIGURES], rows)


def explain_json(result: ExplainResult) -> str:
    """Every row's protocol and metrics, the entropy of each head, and what was left out."""
    values = {
        "figures": {name: figure.text for name, figure in FIGURES.items()},
        "models": [_model_json(result, row) for row in result.rows],
        "left_out": list(result.faults),
        "without_mask": [] if result.subjects.masked is None else list(result.subjects.masked.without_mask),
    }
    return json.dumps(values, indent=2) + "\n"


def _model_json(result: ExplainResult, row: ModelResult) -> dict[str, Any]:
    by_head = zip(*(score.head_entropies for score in row.scores), strict=True)
    return {
        "label": row.label,
        **to_dict(result.measurement(row)),
        "head_entropies": [sum(head) / len(head) for head in by_head],
    }


def _cell(row: ModelResult, name: str, intervals: bool) -> str:
    if name == "lift":
        return ABSENT if row.lift is None else f"{row.lift:.2f}"
    interval = row.intervals.get(name)
    if interval is None:
        return ABSENT
    digits = 1 if FIGURES[name].unit == "%" else 3
    if not intervals or name not in _WITH_INTERVAL or interval.low is None or interval.high is None:
        return f"{interval.mean:.{digits}f}"
    return f"{interval.mean:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _chance(row: ModelResult, name: str) -> str:
    """Of an even map; its mask would depend on how equal patches are ordered, so it has no Jaccard."""
    source = {"pointing": "pointing_chance", "energy": "area"}.get(name)
    interval = None if source is None else row.intervals.get(source)
    if interval is not None:
        return f"{interval.mean:.1f}"
    return "1.00" if name == "lift" and row.lift is not None else ABSENT


def _caption(result: ExplainResult) -> str:
    count = len(result.rows[0].scores)
    return f"What the maps are worth on {count} images of {result.subjects.data.name}"


def _remarks(result: ExplainResult, intervals: bool) -> Iterator[str]:
    config, perturbation = result.config, result.config.perturbation
    if intervals:
        yield from _interval_lines(result)
    if result.subjects.masked is not None:
        miss = f"its maximum may miss by {config.tolerance:g} px"
        yield f"Masks hold {config.mass:.0%} of the mean over the heads; {miss}."
        yield f"Lift: energy over the objects' area. A map says something where it clears the {CENTRE} and chance."
    what = f"{perturbation.blur:.0%} blur" if perturbation.fill == "blur" else "the mean colour"
    score = (
        "cosine with the image's own feature, scaled so that it falls from 1 to 0 on average"
        if result.gallery is None
        else f"share of the vote of {config.k} neighbours for the class that the whole image is given"
    )
    yield (
        f"Delete and insert (areas): {perturbation.steps} steps, {what}, {score}; "
        f"rand.: {perturbation.orders} random orders of each image."
    )
    yield "Entropy: 1 is an even map. Agreement: 1 is heads that are alike; one map has none."
    yield from _left_out(result)


def _interval_lines(result: ExplainResult) -> Iterator[str]:
    """One line for each kind of interval; figures that need objects are means over fewer images than others."""
    counts = {len(row.values(name)) for row in result.rows for name in _WITH_INTERVAL} - {0}
    kinds = {interval_kind(count): count for count in sorted(counts)}
    for count in kinds.values():
        yield interval_line(count, "image", BootstrapConfig())


def _left_out(result: ExplainResult) -> Iterator[str]:
    masked, count = result.subjects.masked, len(result.rows[0].scores)
    if result.faults:
        yield f"{len(result.faults)} of {len(result.subjects)} images could not be used, such as {result.faults[0]}"
    if masked is not None and masked.without_mask:
        yield f"Without a mask, and left out: {len(masked.without_mask)} images, such as {masked.without_mask[0]}"
    if result.without_object:
        yield f"Without an object, and only in the columns that need none: {result.without_object} of {count} images."
    for row in result.rows:
        protocol = result.protocol(row)
        if protocol["empty_maps"]:
            yield (
                f"{row.label}: {protocol['empty_maps']} of {count} maps are zero throughout; "
                "on objects they count as even, and their masks are empty."
            )
        if row.model is not None and "deletion" not in row.intervals:
            yield (
                f"{row.label}: its features hardly change when an image is wholly replaced; "
                "deletion and insertion are not defined."
            )
