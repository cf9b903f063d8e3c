"""The table of one axis, and all runs as rows of a file of values."""

from __future__ import annotations

import json
from collections.abc import Iterator

from dinoscope.ablation.effects import KNN, effect, entropy_share
from dinoscope.ablation.grouping import Axis, Group
from dinoscope.ablation.records import MEASURES, AblationResult
from dinoscope.ablation.statistics import CONFIDENCE
from dinoscope.ablation.wording import number, with_deviation, with_interval
from dinoscope.evaluation.statistics import over_seeds
from dinoscope.tables import Column, Section, Table, TableRow
from dinoscope.text import ABSENT

TABLE_MEASURES = {
    "linear_top1": "linear",
    "jaccard": "Jaccard",
    "rankme": "RankMe",
    "teacher_entropy": "entropy/ln K",
    "images_per_second": "images/s",
    "peak_memory": "memory (MB)",
}
"""Measures beside k-NN -> title of the column."""

BRIEF_MEASURES = {"linear_top1": "linear", "rankme": "RankMe", "teacher_entropy": "H/ln K"}
"""The same on a terminal."""

_WHOLE = frozenset({"images_per_second", "peak_memory"})
"""Measures whose decimals say nothing."""

REMARK = (
    f"Mean ± standard deviation over n seeds. Difference: k-NN against the base, paired by seed, with Student's "
    f"{100 * CONFIDENCE:g} % interval over seeds; other test images would add to it."
)

CSV_HEADER = ("axis", "value", "settings", "seed", "state", "diagnosis", *MEASURES, "folder")


def axis_table(axis: Axis, base: Group, *, brief: bool = False) -> Table:
    """Base and variants, one row each, in the order of `Axis.rows`; columns of what no run has are left out.

    brief: for a terminal: means of the measures beside k-NN, and the state behind the name where a run did not simply
    finish.
    """
    groups = axis.rows(base)
    measures = BRIEF_MEASURES if brief else TABLE_MEASURES
    shown = {name: title for name, title in measures.items() if any(_cell(group, name) != ABSENT for group in groups)}
    columns = [
        Column(axis.name),
        Column("n", "right"),
        Column("k-NN", "right"),
        Column("difference" if brief else f"difference [{100 * CONFIDENCE:g} %]", "right"),
        *(Column(title, "right") for title in shown.values()),
        *([] if brief else [Column("state", "right")]),
    ]
    rows = []
    for group in groups:
        difference = ABSENT if group is base else with_interval(effect(group, base), 1)
        state = group.states() if group.runs else "not run"
        label = axis.name_of(group, base)
        cells = [label if state == "finished" or not brief else f"{label} ({state})"]
        cells += [str(len(group.lasting)), _cell(group, KNN), difference]
        cells += [_cell(group, name, deviation=not brief) for name in shown]
        rows.append(TableRow(tuple(cells if brief else [*cells, state])))
    caption, remarks = (axis.title, ()) if brief else ("", (REMARK,))
    return Table(tuple(columns), (Section(tuple(rows)),), caption, remarks=remarks)


def _cell(group: Group, measure: str, *, deviation: bool = True) -> str:
    """Mean and deviation of a measure; speeds and entropies without."""
    if measure == "teacher_entropy":
        share = entropy_share(group)
        return ABSENT if share is None else number(share, 2)
    found = over_seeds(list(group.values(measure).values()))
    if found is None:
        return ABSENT
    if measure in _WHOLE:
        return number(found.mean, 0 if found.mean >= 10 else 1)
    return with_deviation(found, 1) if deviation else number(found.mean, 1)


def csv_rows(result: AblationResult) -> Iterator[tuple[str, ...]]:
    """Every run, unrounded, in the order of the result; what was not measured is empty."""
    for run in result.runs:
        yield (
            run.variant.axis,
            run.variant.label,
            json.dumps(dict(run.variant.settings), sort_keys=True, default=str),
            str(run.seed),
            run.state,
            run.diagnosis,
            *(repr(float(run.metrics[name])) if name in run.metrics else "" for name in MEASURES),
            run.folder,
        )
