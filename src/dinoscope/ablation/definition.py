"""What an ablation study varies: a recipe, changes to it, and axes of values. Resolved into runs before any starts."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dinoscope.ablation.records import TIMES, Variant
from dinoscope.ablation.settings_change import with_settings
from dinoscope.errors import UserError, lookup
from dinoscope.recipes import run_config
from dinoscope.training.config import RunConfig

DEFAULT_RECIPE = "quickstart"
"""Minutes a run on a CPU."""

MAX_RUNS = 10_000
"""Limit for a grid. More runs are a mistake, and would fill the memory before the first one starts."""

Mode = Literal["one-at-a-time", "grid", "listed"]

BASE = Variant("", "base")


@dataclass(frozen=True)
class Axis:
    """One thing that is varied.

    title: in words, with the table of a paper that it answers.
    variants: its values; their `axis` is this one's name.
    """

    name: str
    title: str
    variants: tuple[Variant, ...]

    def variant(self, label: str) -> Variant:
        """By its label. Raises UserError where there is none."""
        return lookup(f"value of the axis {self.name}", label, {each.label: each for each in self.variants})


@dataclass(frozen=True)
class StudyDefinition:
    """A study, before it is known where the images are.

    recipe: a name in `RECIPES`.
    changes: dotted name of a setting -> value, where the base differs from the recipe.
    mode: one-at-a-time changes the base along one axis; grid combines every value of every axis; listed takes
        `combinations`.
    combinations: each axis name -> label, for the axes that it takes from the base.
    seeds: every variant is trained once with each.
    source: file or name, for errors.
    """

    name: str
    title: str
    recipe: str = DEFAULT_RECIPE
    changes: Mapping[str, Any] = field(default_factory=dict)
    axes: tuple[Axis, ...] = ()
    mode: Mode = "one-at-a-time"
    combinations: tuple[Mapping[str, str], ...] = ()
    seeds: tuple[int, ...] = (0,)
    source: str = field(default="", compare=False)

    @property
    def place(self) -> str:
        """What an error begins with."""
        return self.source or f"study {self.name}"

    def axis(self, name: str) -> Axis:
        """By its name. Raises UserError where there is none."""
        return lookup("axis", name, {axis.name: axis for axis in self.axes})


@dataclass(frozen=True)
class ResolvedStudy:
    """Settings of the base and of every variant; seed and run folder are still those of the recipe.

    axes: name, as `Variant.axis` has it -> title.
    """

    base: RunConfig
    variants: tuple[tuple[Variant, RunConfig], ...]
    axes: Mapping[str, str]


def resolve(study: StudyDefinition, data: Path, out: Path) -> ResolvedStudy:
    """Every variant's settings, checked.

    Raises UserError naming the file, the axis and the value, for anything that is not a setting or not its value.
    """
    _check(study)
    try:
        recipe = run_config(study.recipe, data, out)
    except UserError as error:
        raise UserError(f"{study.place}: {error}") from error
    base = with_settings(recipe, study.changes, f"{study.place}, base")
    for axis in study.axes:  # every value on its own, so that an error names the smallest thing that is wrong
        for variant in axis.variants:
            with_settings(base, variant.settings, f"{study.place}, axis {axis.name}, value {variant.label!r}")
    variants = tuple(
        (variant, with_settings(base, variant.settings, f"{study.place}, {variant.axis} = {variant.label}"))
        for variant in variants_of(study)
    )
    return ResolvedStudy(base, variants, axis_titles(study))


def variants_of(study: StudyDefinition) -> tuple[Variant, ...]:
    """All variants but the base, in order. Raises UserError for a combination that contradicts itself."""
    if study.mode == "grid":
        count = math.prod(len(axis.variants) for axis in study.axes) * len(study.seeds)
        if count > MAX_RUNS:
            raise UserError(
                f"{study.place}: the grid has {count:,} runs; at most {MAX_RUNS:,} are taken. Leave axes out"
            )
        return tuple(_joined(study, choice) for choice in itertools.product(*(axis.variants for axis in study.axes)))
    if study.mode == "listed":
        return tuple(_joined(study, _listed(study, number)) for number in range(len(study.combinations)))
    return tuple(variant for axis in study.axes for variant in axis.variants)


def axis_titles(study: StudyDefinition) -> dict[str, str]:
    """Name of every axis as variants have it -> title, in the order of the study."""
    titles = {axis.name: axis.title for axis in study.axes}
    if study.mode == "one-at-a-time":
        return titles
    joined = dict.fromkeys(variant.axis for variant in variants_of(study))
    return {name: " x ".join(titles[part] for part in name.split(TIMES)) for name in joined}


def _listed(study: StudyDefinition, number: int) -> tuple[Variant, ...]:
    chosen = study.combinations[number]
    try:
        for name in chosen:
            study.axis(name)
        return tuple(axis.variant(chosen[axis.name]) for axis in study.axes if axis.name in chosen)
    except UserError as error:
        raise UserError(f"{study.place}, combination {number + 1}: {error}") from error


def _joined(study: StudyDefinition, chosen: Sequence[Variant]) -> Variant:
    """One variant that sets what all of them set."""
    if len(chosen) == 1:
        return chosen[0]
    settings: dict[str, Any] = {}
    for variant in chosen:
        twice = next((name for name in variant.settings if name in settings), None)
        if twice is not None:
            raise UserError(f"{study.place}: two of the axes that are combined set {twice}; let one of them do it")
        settings |= variant.settings
    return Variant(TIMES.join(v.axis for v in chosen), TIMES.join(v.label for v in chosen), settings)


def _check(study: StudyDefinition) -> None:
    """Refuse a study that varies nothing, or says something twice. Raises UserError."""
    if not study.axes:
        raise UserError(f"{study.place}: there is no axis, so there is nothing to vary")
    if (study.mode == "listed") != bool(study.combinations):
        raise UserError(f"{study.place}: mode = 'listed' and combinations go together")
    _check_apart(study.place, "seed", [str(seed) for seed in study.seeds])
    _check_apart(study.place, "axis", [axis.name for axis in study.axes])
    if not study.seeds or min(study.seeds) < 0:
        raise UserError(f"{study.place}: seeds must be one or more whole numbers from 0 up")
    for axis in study.axes:
        place = f"{study.place}, axis {axis.name}"
        if TIMES in axis.name:
            raise UserError(f"{place}: {TIMES!r} stands between the names of axes that are combined, not in one")
        if not axis.variants:
            raise UserError(f"{place}: it has no values")
        _check_apart(place, "label", [variant.label for variant in axis.variants])


def _check_apart(place: str, kind: str, names: Sequence[str]) -> None:
    """Names must differ, and so must the folders that are called after them. Raises UserError."""
    seen: dict[str, str] = {}
    for name in names:
        short = slug(name)
        if not short:
            raise UserError(f"{place}: the {kind} {name!r} has neither letters nor digits")
        if short in seen:
            alike = f"the {kind}s {seen[short]!r} and {name!r} are too alike for names of folders"
            raise UserError(f"{place}: {f'the {kind} {name!r} is given twice' if seen[short] == name else alike}")
        seen[short] = name


def slug(text: str) -> str:
    """A part of a folder's name: letters, digits, dots and dashes, at most 60."""
    return re.sub(r"[^\w.]+", "-", text.lower()).strip("-._")[:60].rstrip("-._")
