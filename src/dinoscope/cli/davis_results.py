"""What `dinoscope davis` found, as tables on the terminal and in files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinoscope.errors import UserError

if TYPE_CHECKING:
    from dinoscope.measurement import Measurement
    from dinoscope.measurement.davis import SequenceResult
    from dinoscope.report.tables import Table

TABLES = ("scores.csv", "scores.json", "table.md")


@dataclass(frozen=True)
class Measured:
    """A row of the table, and the sequences that it sums up."""

    label: str
    measurement: Measurement
    results: tuple[SequenceResult, ...]


def result_table(measured: Sequence[Measured], *, published: bool) -> Table:
    """One row for each model or folder of masks, and published figures below if asked for."""
    from dinoscope.report.davis_tables import davis_table
    from dinoscope.study.published import DAVIS_LABEL, DAVIS_SOURCE, PUBLISHED_DAVIS

    protocol = measured[0].measurement.protocol
    rows = [(each.label, {m.name: m.value for m in each.measurement.metrics}) for each in measured]
    known = [
        (f"DINO {row.architecture}", {"jf_mean": row.jf_mean, "j_mean": row.j_mean, "f_mean": row.f_mean})
        for row in PUBLISHED_DAVIS
        if published
    ]
    objects, count = protocol["objects"], len(protocol["sequences"])
    caption = f"DAVIS {protocol['year']}: objects {objects}, sequences {count}; in %"
    remarks = protocol_lines(protocol) + ([DAVIS_SOURCE] if published else [])
    return davis_table(rows, known, DAVIS_LABEL, caption, remarks)


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
    from dinoscope.settings import to_dict

    models = [{"model": each.label, **to_dict(each.measurement)} for each in measured]
    return {"models": models, "objects": object_rows(measured)}


def write_tables(out: Path, measured: Sequence[Measured], table: Table) -> None:
    """The tables, each whole or not at all. Raises UserError where that is not possible."""
    from dinoscope import checkpoint
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
            checkpoint.write_text(out / name, text)
    except OSError as error:
        raise UserError(f"the results could not be written to {out}: {error}") from error
