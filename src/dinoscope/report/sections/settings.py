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
    names = [name for name in own[0] if name != "out" and all(name in settings for settings in own)]
    rows = [
        TableRow((name, *(text(settings[name]) for settings in own)))
        for name in names
        if len({json.dumps(settings[name]) for settings in own}) > 1
    ]
    if not rows:
        return None
    columns = (Column("Setting"), *(Column(run.label) for run in runs))
    return Table(columns, (Rows(tuple(rows)),), "Where the runs differ")


def _of(run: RunRecord) -> tuple[Block, ...]:
    again = command(run.config, run.sessions[0].processes if run.sessions else 1)
    blocks: list[Block] = [Paragraph(f"All settings are those of the recipe {again.recipe}.")]
    if again.differences:
        rows = tuple(TableRow((name, text(own), text(usual))) for name, (own, usual) in again.differences.items())
        columns = (Column("Setting"), Column("This run"), Column(f"Recipe {again.recipe}"))
        blocks = [Table(columns, (Rows(rows),), "What differs from the nearest recipe")]
    blocks += [Paragraph("The command that trains it again:"), Code(again.text), *_machine(run)]
    every = tuple((name, text(value)) for name, value in flat(to_dict(run.config)).items())
    return (*blocks, Folded("All settings", (KeyValues(every, dense=True),)))


def _machine(run: RunRecord) -> list[Block]:
    """The circumstances of the run's first start, and whether later ones were different."""
    sessions, seed = run.sessions, ("Seed", str(run.config.seed))
    if not sessions:
        begun = (("Begun", run.started),) if run.started else ()
        return [KeyValues((("Machine, versions, commit", NOT_RECORDED), seed, *begun))]
    first = sessions[0]
    pairs = [
        ("Begun", _moment(first.started)),
        ("Machine", _machine_line(first)),
        ("System", first.system),
        ("Precision", f"{first.precision}, {first.processes} process{'es' * (first.processes != 1)}"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in first.versions.items())),
        ("Commit of dinoscope", first.commit or "not known: installed without its git history"),
        seed,
    ]
    if len(sessions) > 1:
        starts = (
            f"{_moment(one.started)} at step {count(one.first_step)}, {duration(one.seconds)}" for one in sessions
        )
        pairs.append(("Sessions", "; ".join(starts)))
    values = {
        "machine": {_machine_line(session) for session in sessions},
        "versions": {json.dumps(session.versions) for session in sessions},
        "commit of dinoscope": {session.commit for session in sessions},
    }
    changed = [name for name, different in values.items() if len(different) > 1]
    text = f"It was resumed with another {' and another '.join(changed)}; the first is shown."
    return [KeyValues(tuple(pairs)), *([Notice(text)] if changed else [])]


def _machine_line(session: Session) -> str:
    memory = f" with {figure(session.memory_gib, 0)} GiB" if session.memory_gib else ""
    threads = f"{session.threads} CPU thread{'s' * (session.threads != 1)}"
    return f"{session.machine}{memory} ({session.device}), {threads}"


def _moment(iso: str) -> str:
    """2026-11-24T08:59:39+01:00 for people."""
    return iso.replace("T", " ", 1)


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
        """The command to be pasted into a shell: one option a line."""
        groups: list[list[str]] = [[]]
        for word in self.words:
            if word.startswith("--") and word not in ("--nproc-per-node", "--recipe"):
                groups.append([])
            groups[-1].append(word)
        return " \\\n    ".join(" ".join(map(shlex.quote, group)) for group in groups)


def command(config: RunConfig, processes: int = 1) -> Command:
    """Return how `dinoscope train` gives these settings, in the fewest words. processes: started by torchrun."""
    start = ["dinoscope", "train"]
    if processes > 1:
        start = ["torchrun", "--nproc-per-node", str(processes), "-m", "dinoscope", "train"]
    own, found = flat(to_dict(config)), list[Command]()
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
        places = ["--recipe", name, "--data", str(config.data), "--out", str(config.out)]
        found.append(Command(name, differences, (*start, *places, *_options(config, differences))))
    return min(found, key=lambda each: len(each.words))


def _same(one: Any, other: Any) -> bool:
    """Whether values are equal as the command line gives them: 1 and 1.0 are one number."""
    return json.dumps(one) == json.dumps(other) or (one == other and not isinstance(one, bool))


def _options(config: RunConfig, differences: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """Options for all differences; views that are a preset are named if that is shorter."""
    preset = next((name for name, views in VIEWS.items() if views == config.views), None)
    named = preset is not None and sum(name.startswith("views.") for name in differences) > 1
    words = ["--views", preset] if named and preset else []
    for name, (value, _) in differences.items():
        if not (named and name.startswith("views.")):
            words += _option(name, value)
    return words


def _option(name: str, value: Any) -> list[str]:
    """A setting as the command line takes it; a number so that it is read back as the same one, 3 for 3.0."""
    *rooms, last = name.replace("_", "-").split(".")
    if isinstance(value, bool):
        return [f"--{'.'.join([*rooms, last if value else f'no-{last}'])}"]
    values = [window_text((value[0], value[1]))] if name == "window" else value if isinstance(value, list) else [value]
    words = (repr(one).removesuffix(".0") if isinstance(one, float) else str(one) for one in values)
    return [f"--{'.'.join([*rooms, last])}", *words]
