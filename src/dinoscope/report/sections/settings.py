"""The section on settings: what would be needed to do it again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from dinoscope.config import flat, to_dict
from dinoscope.report.page import Block, Code, Folded, Group, KeyValues, Notice, Paragraph, Section
from dinoscope.report.runs import RunRecord
from dinoscope.report.sections.command import command
from dinoscope.tables import Column, Table, TableRow
from dinoscope.tables import Section as Rows
from dinoscope.text import count, duration, figure
from dinoscope.training.run_folder import Session

MOST_OPEN = 2
"""Runs up to which the settings of each stand open; of more they are folded."""
MOST_BESIDE = 4
"""Runs up to which their settings are set beside each other."""
NOT_RECORDED = "not recorded: the run is from before machine and versions were"


def settings_section(runs: Sequence[RunRecord]) -> Section:
    """What tells the runs apart, then of each run: what its recipe has otherwise, command, machine, all settings."""
    blocks: list[Block] = []
    if 1 < len(runs) <= MOST_BESIDE and (apart := _apart(runs)):
        blocks.append(apart)
    for run in runs:
        inside = _of(run)
        blocks.append(Group(run.label, inside) if len(runs) <= MOST_OPEN else Folded(run.label, inside))
    lead = "How each run was made, and the command that makes it again."
    return Section("Settings", "settings", lead, tuple(blocks))


def _apart(runs: Sequence[RunRecord]) -> Table | None:
    """Settings that all runs have and in which they differ, apart from where they lie."""
    own = [flat(to_dict(run.config)) for run in runs]
    names = [name for name in own[0] if name != "out" and all(name in each for each in own)]
    rows = [
        TableRow((name, *(shown(each[name]) for each in own)))
        for name in names
        if len({json.dumps(each[name]) for each in own}) > 1
    ]
    if not rows:
        return None
    columns = (Column("Setting"), *(Column(run.label) for run in runs))
    return Table(columns, (Rows(tuple(rows)),), "Where the runs differ")


def _of(run: RunRecord) -> tuple[Block, ...]:
    made = command(run.config, run.sessions[0].processes if run.sessions else 1)
    blocks: list[Block] = []
    if made.differences:
        rows = tuple(TableRow((each.name, shown(each.value), shown(each.recipe))) for each in made.differences)
        columns = (Column("Setting"), Column("This run"), Column(f"Recipe {made.recipe}"))
        blocks.append(Table(columns, (Rows(rows),), "Other than in the recipe that is nearest"))
    else:
        blocks.append(Paragraph(f"All settings are those of the recipe {made.recipe}."))
    blocks += [Paragraph("The command that trains it again:"), Code(made.text)]
    blocks += _machine(run)
    every = tuple((name, shown(value)) for name, value in flat(to_dict(run.config)).items())
    blocks.append(Folded("All settings", (KeyValues(every, dense=True),)))
    return tuple(blocks)


def _machine(run: RunRecord) -> list[Block]:
    """Of the run's first start; that others were elsewhere is said."""
    if not run.sessions:
        pairs = [("Machine, versions, commit", NOT_RECORDED), ("Seed", str(run.config.seed))]
        if run.started:
            pairs.append(("Begun", run.started))
        return [KeyValues(tuple(pairs))]
    first = run.sessions[0]
    pairs = [
        ("Begun", _moment(first.started)),
        ("Machine", _machine_line(first)),
        ("System", first.system),
        ("Precision", f"{first.precision}, {first.processes} process{'es' * (first.processes != 1)}"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in first.versions.items())),
        ("Commit of dinoscope", first.commit or "not known: installed without its git history"),
        ("Seed", str(run.config.seed)),
    ]
    if len(run.sessions) > 1:
        starts = "; ".join(
            f"{_moment(each.started)} at step {count(each.first_step)}, {duration(each.seconds)}"
            for each in run.sessions
        )
        pairs.append(("Sessions", starts))
    blocks: list[Block] = [KeyValues(tuple(pairs))]
    changed = [
        name
        for name, values in {
            "machine": {_machine_line(each) for each in run.sessions},
            "versions": {json.dumps(each.versions) for each in run.sessions},
            "commit of dinoscope": {each.commit for each in run.sessions},
        }.items()
        if len(values) > 1
    ]
    if changed:
        blocks.append(Notice(f"It was resumed with another {' and another '.join(changed)}; the first is shown."))
    return blocks


def _machine_line(session: Session) -> str:
    memory = f" with {figure(session.memory_gib, 0)} GiB" if session.memory_gib else ""
    threads = f"{session.threads} CPU thread{'s' * (session.threads != 1)}"
    return f"{session.machine}{memory} ({session.device}), {threads}"


def _moment(iso: str) -> str:
    """2026-11-24T08:59:39+01:00 for people."""
    return iso.replace("T", " ", 1)


def shown(value: Any) -> str:
    """A setting's value."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)
