"""The section on settings: what would be needed to do it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dinoscope.config import KIND, flat, to_dict
from dinoscope.data.grey_range import window_text
from dinoscope.data.views import VIEWS
from dinoscope.recipes import RECIPES, run_config
from dinoscope.report.page import Block, Code, Folded, Group, KeyValues, Notice, Paragraph, Section
from dinoscope.report.runs import Material, RunRecord
from dinoscope.tables import Column, Table, TableRow
from dinoscope.tables import Section as Rows
from dinoscope.text import count, duration, figure
from dinoscope.training.config import RunConfig
from dinoscope.training.run_folder import Session

MAX_OPEN = 2
"""Runs up to which the settings of each stand open; of more they are folded."""
MAX_BESIDE = 4
"""Runs up to which their settings are set next to each other."""
NOT_RECORDED = "not recorded: the run is from before machine and versions were"


def section(material: Material) -> Section | None:
    """Show what tells the runs apart, then how each was made; None without runs."""
    runs = material.runs
    if not runs:
        return None
    blocks: list[Block] = []
    if 1 < len(runs) <= MAX_BESIDE and (apart := _apart(runs)):
        blocks.append(apart)
    for run in runs:
        inside = _of(run)
        blocks.append(Group(run.label, inside) if len(runs) <= MAX_OPEN else Folded(run.label, inside))
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


# --- the command ------------------------------------------------------------------------------------------------------


_PLACES = ("data", "out")  # which every command must give


@dataclass(frozen=True)
class Difference:
    """A setting by its dotted name, as the run has it and as the recipe has it."""

    name: str
    value: Any
    recipe: Any


@dataclass(frozen=True)
class Command:
    """recipe: a name in `RECIPES`. differences: from it. words: of the command, unquoted."""

    recipe: str
    differences: tuple[Difference, ...]
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        """To be pasted into a shell: one option a line."""
        lines = [" ".join(map(shlex.quote, group)) for group in _by_option(self.words)]
        return " \\\n    ".join(lines)


def command(config: RunConfig, processes: int = 1) -> Command:
    """How `dinoscope train` gives these settings, in the fewest words. processes: started together by torchrun."""
    start = ["dinoscope", "train"]
    if processes > 1:
        start = ["torchrun", "--nproc-per-node", str(processes), "-m", "dinoscope", "train"]
    found: list[Command] = []
    for name in RECIPES:
        differences = _differences(config, name)
        if differences is None:
            continue
        options = [*_views(config, differences)]
        words = [*start, "--recipe", name, "--data", str(config.data), "--out", str(config.out), *options]
        found.append(Command(name, differences, tuple(words)))
    return min(found, key=lambda each: len(each.words))


def _differences(config: RunConfig, recipe: str) -> tuple[Difference, ...] | None:
    """From a recipe; None where that is of another method."""
    base = run_config(recipe, config.data, config.out)
    if type(base.method) is not type(config.method):
        return None
    own, theirs = flat(to_dict(config)), flat(to_dict(base))
    return tuple(
        Difference(name, own[name], theirs[name])
        for name in own
        if name not in _PLACES and not name.endswith(f".{KIND}") and not _same(own[name], theirs[name])
    )


def _same(one: Any, other: Any) -> bool:
    """Equal as the command line gives them: 1 and 1.0 are one number."""
    return json.dumps(one) == json.dumps(other) or (one == other and not isinstance(one, bool))


def _views(config: RunConfig, differences: Sequence[Difference]) -> list[str]:
    """Options for all differences; views that are a preset are named, where that is shorter."""
    of_views = [each for each in differences if each.name.startswith("views.")]
    preset = next((name for name, views in VIEWS.items() if views == config.views), None)
    if preset is None or len(of_views) < 2:
        return [word for each in differences for word in _option(each)]
    others = [each for each in differences if each not in of_views]
    return ["--views", preset, *(word for each in others for word in _option(each))]


def _option(difference: Difference) -> list[str]:
    """A setting as the command line takes it."""
    *rooms, last = difference.name.replace("_", "-").split(".")
    value = difference.value
    if isinstance(value, bool):
        return [f"--{'.'.join([*rooms, last if value else f'no-{last}'])}"]
    name = f"--{'.'.join([*rooms, last])}"
    if difference.name == "window":
        return [name, window_text((value[0], value[1]))]
    if isinstance(value, list):
        return [name, *map(_word, value)]
    return [name, _word(value)]


def _word(value: Any) -> str:
    """A number so that it is read back as the same one; 3 for 3.0."""
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _by_option(words: Sequence[str]) -> list[list[str]]:
    """Words up to the first option, then each option with its values."""
    groups: list[list[str]] = [[]]
    for word in words:
        if word.startswith("--") and word != "--nproc-per-node" and groups[0]:
            groups.append([])
        groups[-1].append(word)
    # The recipe stands on the first line.
    return [groups[0] + groups[1], *groups[2:]] if len(groups) > 1 else groups
