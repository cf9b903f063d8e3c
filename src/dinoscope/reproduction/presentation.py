"""What was measured beside what was published: as a table, and as values for files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dinoscope import __version__
from dinoscope.config import to_dict
from dinoscope.report.tables import csv_text, markdown
from dinoscope.reproduction.bench import Bench
from dinoscope.reproduction.running import Outcome
from dinoscope.reproduction.targets import Figure
from dinoscope.tables import Column, Section, Table, TableRow
from dinoscope.text import ABSENT

FAILED = "failed"

CSV_HEADER = (
    "model",
    "figure",
    "measured",
    "published",
    "difference",
    "source",
    "evaluation",
    "seconds",
    "weights",
    "notes",
)

NOT_COMPARABLE = "Not comparable with the published figures"


@dataclass(frozen=True)
class Reproduction:
    """A table that was run again. missing: rows of the paper that nobody can measure, in words; "" for none."""

    name: str
    title: str
    bench: Bench
    outcomes: tuple[Outcome, ...]
    missing: str = ""

    @property
    def failed(self) -> int:
        """Measurements that came to nothing."""
        return sum(len(outcome.failures) for outcome in self.outcomes)


def table(result: Reproduction) -> Table:
    """One row for each figure of each model, in %; a failure is a row with its reason as a note."""
    columns = (
        Column("Model"),
        Column("Figure"),
        Column("Measured", "right"),
        Column("Published", "right"),
        Column("Difference", "right"),
    )
    pairs = [(outcome, figure) for outcome in result.outcomes for figure in outcome.target.figures]
    notes = list(dict.fromkeys(note for pair in pairs for note in _notes(*pair)))
    rows = tuple(_row(outcome, figure, notes) for outcome, figure in pairs)
    return Table(columns, (Section(rows),), result.title, tuple(notes), tuple(remarks(result)))


def remarks(result: Reproduction) -> list[str]:
    """Why figures are not comparable, if they are not; the protocol; the sources; what could not be measured."""
    cautions = result.bench.cautions
    said = [f"{NOT_COMPARABLE}: {'; '.join(cautions)}."] if cautions else []
    said += [f"{remark}." for remark in result.bench.remarks]
    sources = dict.fromkeys(
        figure.source for outcome in result.outcomes for figure in outcome.target.figures if figure.source
    )
    if sources:
        said.append(f"Published, in %: {'; '.join(sources)}. Difference: measured less published, in points of %.")
    every = [outcome.target.weights for outcome in result.outcomes if not outcome.target.weights.random]
    unchecked = dict.fromkeys(weights.release.method for weights in every if not weights.release.digest)
    if unchecked:
        said.append(f"No digests are published of the files of {', '.join(unchecked)}: they are taken as they are.")
    if result.missing:
        said.append(f"Not released, and so not measured: {result.missing}.")
    return said


def difference(outcome: Outcome, figure: Figure) -> float | None:
    """Measured less published, in points of %."""
    measured = outcome.measured(figure)
    return None if measured is None or figure.published is None else measured - figure.published


def _row(outcome: Outcome, figure: Figure, notes: Sequence[str]) -> TableRow:
    measured, less = outcome.measured(figure), difference(outcome, figure)
    shown = FAILED if figure.evaluation in outcome.failures else ABSENT
    cells = (
        outcome.target.weights.name,
        figure.title,
        shown if measured is None else f"{measured:.1f}",
        ABSENT if figure.published is None else f"{figure.published:.1f}",
        ABSENT if less is None else f"{less:+.1f}",
    )
    return TableRow(cells, tuple(sorted(notes.index(note) + 1 for note in _notes(outcome, figure))))


def _notes(outcome: Outcome, figure: Figure) -> list[str]:
    """What must be known of one figure."""
    name, found = outcome.target.weights.name, outcome.measurements.get(figure.evaluation)
    notes = [figure.note] if figure.note else []
    if remark := outcome.target.weights.remark:
        notes.append(f"{name}: {remark}")
    if reason := outcome.failures.get(figure.evaluation):
        notes.append(f"{name}: {figure.evaluation} failed: {reason}")
    left_out = {} if found is None else found.protocol.get("left_out") or {}
    if left_out:
        notes.append(f"{name}: images left out: {', '.join(f'{count} {kind}' for kind, count in left_out.items())}")
    if found is not None and found.protocol.get("rate_at_edge"):
        notes.append("the learning rate is at the edge of those tried, so that one beyond may be better")
    return notes


def contents(result: Reproduction) -> dict[str, bytes]:
    """name of a file -> its content."""
    shown = table(result)
    return {
        "reproduce.md": f"# {result.name}\n\n{markdown(shown)}".encode(errors="surrogateescape"),
        "reproduce.csv": csv_text(CSV_HEADER, csv_rows(result)).encode(errors="surrogateescape"),
        "reproduce.json": (json.dumps(json_values(result), indent=2) + "\n").encode(errors="surrogateescape"),
    }


FILES = ("reproduce.md", "reproduce.csv", "reproduce.json")


def csv_rows(result: Reproduction) -> list[list[str]]:
    """One row per row of the table, under `CSV_HEADER`; figures unrounded, empty where there are none."""
    rows: list[list[str]] = []
    for outcome in result.outcomes:
        for figure in outcome.target.figures:
            found = outcome.measurements.get(figure.evaluation)
            values = [
                outcome.target.weights.name,
                figure.title,
                outcome.measured(figure),
                figure.published,
                difference(outcome, figure),
                figure.source,
                figure.evaluation,
                None if found is None else found.protocol.get("seconds"),
                None if found is None else found.protocol.get("weights"),
                "; ".join(_notes(outcome, figure)),
            ]
            rows.append(["" if value is None else str(value) for value in values])
    return rows


def json_values(result: Reproduction) -> dict[str, Any]:
    """Everything: figures, protocols, failures, notes."""
    models = [
        {
            "model": outcome.target.weights.name,
            "file": outcome.target.weights.place,
            "figures": [
                {
                    **asdict(figure),
                    "measured": outcome.measured(figure),
                    "difference": difference(outcome, figure),
                    "notes": _notes(outcome, figure),
                }
                for figure in outcome.target.figures
            ],
            "measurements": {name: to_dict(each) for name, each in outcome.measurements.items()},
            "failures": dict(outcome.failures),
        }
        for outcome in result.outcomes
    ]
    return {
        "version": __version__,
        "table": result.name,
        "data": result.bench.amount,
        "comparable": not result.bench.cautions,
        "units": "%",
        "models": models,
        "remarks": remarks(result),
    }
