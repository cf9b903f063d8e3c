"""The command that trains a run again: the recipe that is nearest to its settings, and all that differs from it."""

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
from dinoscope.training.config import RunConfig

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
        return [name, *map(_text, value)]
    return [name, _text(value)]


def _text(value: Any) -> str:
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
