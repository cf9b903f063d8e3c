"""What `dinoscope davis` found, as tables on the terminal and in files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinoscope.errors import UserError
from dinoscope.files import write_text

if TYPE_CHECKING:
    from dinoscope.measurement.davis import SequenceResult
    from dinoscope.tables import Table
    from dinoscope.types import Result

TABLES = ("scores.csv", "scores.json", "table.md")


@dataclass(frozen=True)
class Measured:
    """A row of the table, and the sequences that it sums up."""

    label: str
    measurement: Result
    results: tuple[SequenceResult, ...]


def result_table(measured: Sequence[Measured], *, published: bool) -> Table:
    """One row for each model or folder of masks, and published figures below if asked for."""
    from dinoscope.report.davis_tables import measured_table
    from dinoscope.study.published import DAVIS_LABEL, DAVIS_SOURCE, PUBLISHED_DAVIS

    known = [
        (f"DINO {row.architecture}", {"jf_mean": row.jf_mean, "j_mean": row.j_mean, "f_mean": row.f_mean})
        for row in PUBLISHED_DAVIS
        if published
    ]
    rows = [(each.label, each.measurement) for each in measured]
    return measured_table(rows, known, DAVIS_LABEL, DAVIS_SOURCE)


def object_rows(measured: Sequence[Measured]) -> list[dict[str, str | float]]:
    """One row for each object of each sequence of each model; figures in %."""
    from dinoscope.evaluation.video_scores import summarise

    return [
        {
            "model": each.label,
            "sequence": result.name,
            "object": str(score.number),
            "frames": str(len(score.frames)),
            **{metric.name: metric.value for metric in summarise([score])},
        }
        for each in measured
        for result in each.results
        for score in result.score.objects
    ]


def json_values(measured: Sequence[Measured]) -> dict[str, Any]:
    """Every model with its protocol, and every object; figures in %."""
    from dinoscope.evaluation.results import plain

    models = [{"model": each.label, **plain(each.measurement, items=False)} for each in measured]
    return {"models": models, "objects": object_rows(measured)}


def write_tables(out: Path, measured: Sequence[Measured], table: Table) -> None:
    """The tables, each whole or not at all. Raises UserError where that is not possible."""
    from dinoscope.report.davis_tables import OBJECT_HEADER, csv_cells, object_table
    from dinoscope.report.tables import csv_text, markdown

    rows = object_rows(measured)
    contents = {
        "scores.csv": csv_text(OBJECT_HEADER, csv_cells(rows)),
        "scores.json": json.dumps(json_values(measured), indent=2) + "\n",
        "table.md": "# DAVIS\n\n" + markdown(table) + "\n" + markdown(object_table(rows, "Every object, in %")),
    }
    try:
        for name, text in contents.items():
            write_text(out / name, text)
    except OSError as error:
        raise UserError(f"the results could not be written to {out}: {error}") from error
