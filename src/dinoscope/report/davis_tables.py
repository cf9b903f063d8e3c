"""Scores on DAVIS as tables: one row a model, and one row for each object of each sequence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dinoscope.evaluation.results import settled
from dinoscope.evaluation.statistics import interval_line
from dinoscope.measurement.davis import BOOTSTRAP, MEANS
from dinoscope.tables import BOLD, Column, Section, Settled, Table, TableRow, best_marked
from dinoscope.text import ABSENT
from dinoscope.types import Metric, Result

FIGURES = {
    "jf_mean": "J&F",
    "j_mean": "J",
    "j_recall": "J recall",
    "j_decay": "J decay",
    "f_mean": "F",
    "f_recall": "F recall",
    "f_decay": "F decay",
}
"""name of a figure -> title of its column."""

_DECAYS = ("j_decay", "f_decay")
"""Whose best is not marked: who follows nothing from the start loses nothing later."""

OBJECT_HEADER = ("model", "sequence", "object", "frames", *FIGURES)


def davis_table(
    rows: Sequence[tuple[str, Mapping[str, Metric]]],
    published: Sequence[tuple[str, Mapping[str, float]]],
    label: str,
    caption: str,
    remarks: Sequence[str],
    settled: Settled = lambda *_: None,
) -> Table:
    """Rows are (model, figures in %); those published come in a section with the label."""
    values = [
        [None, *(None if key in _DECAYS or key not in figures else figures[key].value for key in FIGURES)]
        for _, figures in rows
    ]
    sections = [
        Section(best_marked([_row(*row) for row in rows], values, settled), "Measured here" if published else "")
    ]
    if published:
        sections.append(
            Section(
                tuple(_row(name, {key: Metric(key, each) for key, each in row.items()}) for name, row in published),
                label,
            )
        )
    columns = (Column("Model"), *(Column(title, "right") for title in FIGURES.values()))
    return Table(columns, tuple(sections), caption, remarks=tuple(remarks))


def measured_table(
    rows: Sequence[tuple[str, Result]],
    published: Sequence[tuple[str, Mapping[str, float]]] = (),
    label: str = "",
    source: str = "",
) -> Table:
    """One row for each (model, what was measured of it), best first, under one protocol; what it was, in remarks below.

    published: with the label above and the source below.
    """
    protocol = rows[0][1].protocol
    objects, count = protocol["objects"], len(protocol["sequences"])
    rows = sorted(rows, key=lambda each: -_metrics(each[1])["jf_mean"].value)
    figures = [(name, _metrics(each)) for name, each in rows]
    caption = f"DAVIS {protocol['year']}: objects {objects}, sequences {count}; in %"
    remarks = [f"Videos: {protocol['data']}", *protocol_lines(protocol)]
    remarks.append(interval_line(count, "sequence", BOOTSTRAP))
    if count > 1:
        remarks[-1] += " Each sequence counts with all its objects."
    keys = list(FIGURES)
    table = davis_table(
        figures,
        published,
        label,
        caption,
        remarks,
        lambda column, top, row: settled(rows[top][1], rows[row][1], keys[column - 1]),
    )
    bold = [BOLD] if any(row.best for row in table.sections[0].rows) else []
    return replace(table, remarks=(*remarks, *bold, *([source] if published else [])))


def protocol_lines(protocol: Mapping[str, Any]) -> list[str]:
    """The protocol for a person: the settings, and whatever makes these figures others than DAVIS's."""
    lines = [f"{protocol['frames']} frames at {protocol['resolution']}; first and last of each sequence not scored"]
    if protocol["size"] is not None:
        lines[0] += (
            f"; short side {protocol['size']} px, first and {protocol['context']} previous frames, "
            f"radius {protocol['radius']}, top {protocol['top_k']}, temperature {protocol['temperature']:g}"
        )
    if protocol["limit_frames"] is not None:
        lines.append(f"Only the first {protocol['limit_frames']} frames of each sequence: not comparable with others")
    if not protocol["complete"]:
        lines.append(f"Not the sequences of the list of {protocol['year']}: {', '.join(protocol['sequences'])}")
    if protocol["not_annotated"]:
        lines.append(f"Frames without annotation, not scored: {protocol['not_annotated']}")
    if protocol["later_objects"]:
        lines.append(
            f"Objects that appear after the first frame, not scored (as officially): {protocol['later_objects']}"
        )
    return lines


def object_table(rows: Sequence[Mapping[str, str | float]], caption: str) -> Table:
    """The means of every row; rows have the keys of `OBJECT_HEADER`, figures in %."""
    columns = (
        Column("Model"),
        Column("Sequence"),
        Column("Object", "right"),
        *(Column(FIGURES[name], "right") for name in MEANS),
    )
    lines = (
        TableRow(
            (*(str(row[name]) for name in ("model", "sequence", "object")), *(_shown(row[name]) for name in MEANS))
        )
        for row in rows
    )
    return Table(columns, (Section(tuple(lines)),), caption)


def csv_cells(rows: Sequence[Mapping[str, str | float]]) -> Iterator[list[str]]:
    """The same rows for a file: figures with four digits after the point."""
    for row in rows:
        yield [f"{row[name]:.4f}" if name in FIGURES else str(row[name]) for name in OBJECT_HEADER]


def _metrics(result: Result) -> dict[str, Metric]:
    return {metric.name: metric for metric in result.metrics}


def _row(name: str, figures: Mapping[str, Metric]) -> TableRow:
    return TableRow((name, *(figures[key].text() if key in figures else ABSENT for key in FIGURES)))


def _shown(value: str | float) -> str:
    return f"{value:.1f}"
