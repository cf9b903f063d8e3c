"""The section on settings: what would be needed to do it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dinoscope.config import KIND, flat, text, to_dict
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
"""Runs up to which the settings of each are open; of more they are folded."""
MAX_COLUMNS = 4
"""Runs up to which a table compares their settings."""


def section(material: Material) -> Section | None:
    runs = material.runs
    if not runs:
        return None
    blocks: list[Block] = []
    if 1 < len(runs) <= MAX_COLUMNS and (rows := _differences(runs)):
        blocks.append(_table(("Setting", *(run.label for run in runs)), rows, "Where the runs differ"))
    for run in runs:
        blocks.append((Group if len(runs) <= MAX_OPEN else Folded)(run.label, _blocks(run)))
    lead = "How each run was made, and the command that makes it again."
    return Section("Settings", "settings", lead, tuple(blocks))


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> Table:
    return Table(tuple(map(Column, titles)), (Rows(tuple(TableRow(tuple(row)) for row in rows)),), caption)


def _differences(runs: Sequence[RunRecord]) -> list[tuple[str, ...]]:
    """Settings that all runs have and in which they differ, apart from their folders."""
    own = [flat(to_dict(run.config)) for run in runs]
    return [
        (name, *(text(settings[name]) for settings in own))
        for name in own[0]
        if name != "out"
        and all(name in settings for settings in own)
        and len({json.dumps(settings[name]) for settings in own}) > 1
    ]


def _blocks(run: RunRecord) -> tuple[Block, ...]:
    again = command(run.config, run.sessions[0].processes if run.sessions else 1)
    nearest: Block = Paragraph(f"All settings are those of the recipe {again.recipe}.")
    if again.differences:
        rows = [(name, text(own), text(usual)) for name, (own, usual) in again.differences.items()]
        titles = ("Setting", "This run", f"Recipe {again.recipe}")
        nearest = _table(titles, rows, "What differs from the nearest recipe")
    every = tuple((name, text(value)) for name, value in flat(to_dict(run.config)).items())
    return (
        nearest,
        Paragraph("The command that trains it again:"),
        Code(again.text),
        *_machine(run),
        Folded("All settings", (KeyValues(every, dense=True),)),
    )


def _machine(run: RunRecord) -> list[Block]:
    """The circumstances of the run's first start, and whether later ones were different."""
    seed = ("Seed", str(run.config.seed))
    if not run.sessions:
        started = (("Started", run.started),) if run.started else ()
        missing = ("Machine, versions, commit", "not recorded: the run is from before machine and versions were")
        return [KeyValues((missing, seed, *started))]
    first = run.sessions[0]
    pairs = [
        ("Started", _moment(first)),
        ("Machine", _machine_line(first)),
        ("System", first.system),
        ("Precision", f"{first.precision}, {first.processes} process{'es' * (first.processes != 1)}"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in first.versions.items())),
        ("Commit of dinoscope", first.commit or "not known: installed without its git history"),
        seed,
    ]
    if len(run.sessions) > 1:
        starts = [f"{_moment(one)} at step {count(one.first_step)}, {duration(one.seconds)}" for one in run.sessions]
        pairs.append(("Sessions", "; ".join(starts)))
    different = {
        "machine": {_machine_line(session) for session in run.sessions},
        "versions": {json.dumps(session.versions) for session in run.sessions},
        "commit of dinoscope": {session.commit for session in run.sessions},
    }
    changed = " and another ".join(name for name, values in different.items() if len(values) > 1)
    notice = [Notice(f"It was resumed with another {changed}; the first is shown.")] if changed else []
    return [KeyValues(tuple(pairs)), *notice]


def _machine_line(session: Session) -> str:
    memory = f" with {figure(session.memory_gib, 0)} GiB" if session.memory_gib else ""
    threads = f"{session.threads} CPU thread{'s' * (session.threads != 1)}"
    return f"{session.machine}{memory} ({session.device}), {threads}"


def _moment(session: Session) -> str:
    return session.started.replace("T", " ", 1)  # 2026-11-24T08:59:39+01:00


# --- the command ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """What trains a run again.

    recipe: a name in `RECIPES`. differences: dotted name of a setting -> its value in the run and in the recipe.
    words: of the command, unquoted.
    """

    recipe: str
    differences: Mapping[str, tuple[Any, Any]]
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        groups: list[list[str]] = [[]]
        for word in self.words:
            if word.startswith("--") and word not in ("--nproc-per-node", "--recipe"):
                groups.append([])
            groups[-1].append(word)
        return " \\\n    ".join(map(shlex.join, groups))


def command(config: RunConfig, processes: int = 1) -> Command:
    """Return how `dinoscope train` gives these settings, in the fewest words. processes: started by torchrun."""
    torchrun = ("torchrun", "--nproc-per-node", str(processes), "-m") if processes > 1 else ()
    own, commands = flat(to_dict(config)), list[Command]()
    for name in RECIPES:
        recipe = run_config(name, config.data, config.out)
        if type(recipe.method) is not type(config.method):
            continue
        usual = flat(to_dict(recipe))
        differences = {
            key: (value, usual[key])
            for key, value in own.items()
            if key not in ("data", "out") and not key.endswith(f".{KIND}") and not _same(value, usual[key])
        }
        start = (
            *torchrun,
            "dinoscope",
            "train",
            "--recipe",
            name,
            "--data",
            str(config.data),
            "--out",
            str(config.out),
        )
        commands.append(Command(name, differences, (*start, *_options(config, differences))))
    return min(commands, key=lambda each: len(each.words))


def _same(one: Any, other: Any) -> bool:
    """Whether values are equal as the command line gives them: 1 and 1.0 are one number."""
    return json.dumps(one) == json.dumps(other) or (one == other and not isinstance(one, bool))


def _options(config: RunConfig, differences: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """Options for all differences; views that are a preset are named if that is shorter."""
    preset = next((name for name, views in VIEWS.items() if views == config.views), None)
    is_named = preset is not None and sum(name.startswith("views.") for name in differences) > 1
    words = ["--views", preset] if is_named and preset else []
    for name, (value, _) in differences.items():
        *rooms, last = name.replace("_", "-").split(".")
        if is_named and rooms == ["views"]:
            continue
        if isinstance(value, bool):
            words.append(f"--{'.'.join([*rooms, last if value else f'no-{last}'])}")
            continue
        values: list[Any] = value if isinstance(value, list) else [value]
        if config.window and name == "window":
            values = [window_text(config.window)]
        words.append(f"--{'.'.join([*rooms, last])}")
        # a float so that it is read back as the same one, 3 for 3.0
        words += [repr(one).removesuffix(".0") if isinstance(one, float) else str(one) for one in values]
    return words
