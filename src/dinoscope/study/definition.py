"""An ablation study: a recipe, changes to it, and axes of values; as TOML, and resolved into the settings of its runs.

The studies by name are TOML files too, in `studies/`. They differ from a user's file in three things: a table
`{ paper = ..., small = ... }` holds what is taken with a recipe at the paper's scale and with any other recipe;
`{ times = 0.5, of = SETTING }` is a multiple of the baseline's own value; and an axis with `switches = true` lists ways
to differ from the baseline, without those whose first setting is the baseline's own already.
"""

from __future__ import annotations

import itertools
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import tomli_w

from dinoscope.config import changed, flat, leaves, short
from dinoscope.errors import UserError, lookup
from dinoscope.models.backbone import BACKBONES
from dinoscope.recipes import run_config
from dinoscope.training.config import RunConfig

DEFAULT_RECIPE = "quickstart"
"""Takes minutes for each run on a CPU."""

PAPER_RECIPES = ("dino_deit_small_100ep", "dino_deit_small_300ep", "dino_resnet50")
"""Recipes at the scale of the paper; with all others, the named studies take their small values."""

MAX_RUNS = 10_000
"""Limit for a grid. More runs are a mistake, and would fill the memory before the first one starts."""

TIMES = " x "
"""Between the axes, and between the labels, of a variant of several axes."""

LABEL = "label"
"""Key of a value's label, next to the settings that it changes."""

ELSEWHERE = {
    "data": "--data gives the images",
    "out": "--out gives the folder of the study",
    "seed": "`seeds` lists the seeds of every variant",
    "device": "--device gives it, for every run",
}
"""Settings that a study cannot change -> what decides them."""

Mode = Literal["one-at-a-time", "grid", "listed"]
MODES: tuple[Mode, ...] = get_args(Mode)

KEYS = ("title", "recipe", "seeds", "mode", "baseline", "axes", "combinations", "base")
"""Of a file; `base` is an earlier name of `baseline`."""
AXIS_KEYS = ("title", "setting", "values")


@dataclass(frozen=True)
class Variant:
    """One way of training that a study compares.

    axis: name of what is varied; "" for the baseline, and the names joined by " x " in a grid.
    label: the value, as it stands in a table ("128", "no centring").
    settings: dotted name of a setting -> value where it differs from the baseline ("method.balance": "none").
    """

    axis: str
    label: str
    settings: Mapping[str, Any] = field(default_factory=dict)


BASELINE = Variant("", "baseline")


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
        """Return the value with this label. Raises UserError if there is none."""
        return lookup(f"value of the axis {self.name}", label, {variant.label: variant for variant in self.variants})


@dataclass(frozen=True)
class StudyDefinition:
    """A study, before it is known where the images are.

    recipe: a name in `RECIPES`; or `settings`, if they are given: those of a run.
    changes: dotted name of a setting -> value where the baseline differs from the recipe.
    mode: one-at-a-time changes the baseline along one axis; grid combines every value of every axis; listed takes
        `combinations`.
    combinations: each axis name -> label; an axis that is left out keeps the baseline's value.
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
    settings: RunConfig | None = None
    source: str = field(default="", compare=False)

    @property
    def place(self) -> str:
        """What an error begins with."""
        return self.source or f"study {self.name}"

    def axis(self, name: str) -> Axis:
        """Return the axis of this name. Raises UserError if there is none."""
        return lookup("axis", name, {axis.name: axis for axis in self.axes})


@dataclass(frozen=True)
class ResolvedStudy:
    """Settings of the baseline and of every variant; seed and run folder are still those of the recipe.

    axes: name, as `Variant.axis` has it -> title.
    """

    baseline: RunConfig
    variants: tuple[tuple[Variant, RunConfig], ...]
    axes: Mapping[str, str]


# From a definition to settings


def resolve(study: StudyDefinition, data: Path, out: Path) -> ResolvedStudy:
    """Return every variant's settings, checked.

    Raises UserError naming the file, the axis and the value, for anything that is not a setting or not its value.
    """
    _check(study)
    if study.settings is not None:
        recipe = replace(study.settings, data=data, out=out)
    else:
        try:
            recipe = run_config(study.recipe, data, out)
        except UserError as error:
            raise UserError(f"{study.place}: {error}") from error
    baseline = with_settings(recipe, study.changes, f"{study.place}, baseline")
    for axis in study.axes:  # every value on its own, so that an error names the smallest thing that is wrong
        for variant in axis.variants:
            with_settings(baseline, variant.settings, f"{study.place}, axis {axis.name}, value {variant.label!r}")
    variants = tuple(
        (variant, with_settings(baseline, variant.settings, f"{study.place}, {variant.axis} = {variant.label}"))
        for variant in variants_of(study)
    )
    return ResolvedStudy(baseline, variants, axis_titles(study))


def with_settings(config: RunConfig, settings: Mapping[str, Any], where: str) -> RunConfig:
    """Return the run with these settings (dotted name -> plain value), all set at once.

    Raises UserError, beginning with `where`, as `config.changed` does and for settings that a study does not decide.
    """
    try:
        for name, value in settings.items():
            if name in ELSEWHERE:
                raise UserError(f"{name} cannot be set here: {ELSEWHERE[name]}")
            lookup("setting", name, setting_names(config))
            if name == "backbone" and isinstance(value, str):
                lookup("backbone", value, BACKBONES)
        return changed(config, settings)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def setting_names(config: RunConfig) -> dict[str, Any]:
    """Return dotted name -> value of every setting that a study may change."""
    return {name: value for name, value in leaves(config).items() if name not in ELSEWHERE}


def variants_of(study: StudyDefinition) -> tuple[Variant, ...]:
    """Return all variants but the baseline, in order. Raises UserError for a combination that contradicts itself."""
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
    """Return name of every axis, as variants have it -> title, in the order of the study."""
    titles = {axis.name: axis.title for axis in study.axes}
    if study.mode == "one-at-a-time":
        return titles
    joined = dict.fromkeys(variant.axis for variant in variants_of(study))
    return {name: TIMES.join(titles[part] for part in name.split(TIMES)) for name in joined}


def _listed(study: StudyDefinition, number: int) -> tuple[Variant, ...]:
    combination = study.combinations[number]
    try:
        for name in combination:
            study.axis(name)
        return tuple(axis.variant(combination[axis.name]) for axis in study.axes if axis.name in combination)
    except UserError as error:
        raise UserError(f"{study.place}, combination {number + 1}: {error}") from error


def _joined(study: StudyDefinition, variants: Sequence[Variant]) -> Variant:
    """Return one variant that sets what all of them set."""
    if len(variants) == 1:
        return variants[0]
    settings: dict[str, Any] = {}
    for variant in variants:
        twice = next((name for name in variant.settings if name in settings), None)
        if twice is not None:
            raise UserError(f"{study.place}: two of the axes that are combined set {twice}; let one of them do it")
        settings |= variant.settings
    return Variant(TIMES.join(v.axis for v in variants), TIMES.join(v.label for v in variants), settings)


def _check(study: StudyDefinition) -> None:
    """Refuse a study that varies nothing, or names something twice."""
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
    """Refuse names that are equal, or whose folders would be."""
    seen: dict[str, str] = {}
    for name in names:
        short_name = slug(name)
        if not short_name:
            raise UserError(f"{place}: the {kind} {name!r} has neither letters nor digits")
        if short_name in seen:
            alike = f"the {kind}s {seen[short_name]!r} and {name!r} are too alike for names of folders"
            raise UserError(f"{place}: {f'the {kind} {name!r} is given twice' if seen[short_name] == name else alike}")
        seen[short_name] = name


def slug(text: str) -> str:
    """Return a part of a folder's name: letters, digits, dots and dashes, at most 60."""
    return re.sub(r"[^\w.]+", "-", text.lower()).strip("-._")[:60].rstrip("-._")


def label_of(value: Any) -> str:
    """Return a value as a table has it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " to ".join(map(label_of, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def plain(value: Any) -> Any:
    """Return a value as TOML has it: a list where settings hold a tuple."""
    return list(value) if isinstance(value, tuple) else value


def study_of(
    config: RunConfig, axes: Mapping[str, Sequence[Any] | Mapping[str, Mapping[str, Any]]], seeds: int | Sequence[int]
) -> StudyDefinition:
    """Return a study whose baseline is a run.

    axes: dotted name of a setting -> its values; or name of an axis -> label -> settings.
    seeds: how many, from 0 on, or which.
    """
    every = tuple(
        Axis(
            name,
            name,
            tuple(Variant(name, label, dict(settings)) for label, settings in values.items())
            if isinstance(values, Mapping)
            else tuple(Variant(name, label_of(value), {name: plain(value)}) for value in values),
        )
        for name, values in axes.items()
    )
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    return StudyDefinition("ablation", ", ".join(axes), "that of a run", axes=every, seeds=chosen, settings=config)


# Studies by name


def named_studies() -> dict[str, str]:
    """Return name -> title of every study in `studies/`."""
    return {name: tomllib.loads(file.read_text(encoding="utf-8"))["title"] for name, file in _named_files().items()}


def named_study(name: str, recipe: str = DEFAULT_RECIPE) -> StudyDefinition:
    """Return a study by name at the recipe's scale, with the values that follow from the recipe.

    Raises UserError for an unknown study or recipe, and for a recipe whose network the study is not for.
    """
    text = lookup("ablation study", name, _named_files()).read_text(encoding="utf-8")
    config = run_config(recipe, Path(), Path())
    scale, words = ("paper", "values of the paper") if recipe in PAPER_RECIPES else ("small", "values for small data")
    values = _at_scale(tomllib.loads(text), scale)
    networks = values.pop("networks", [config.backbone])
    if config.backbone not in networks:
        raise UserError(
            f"{name} varies networks like {' or '.join(networks)}, and --recipe {recipe} trains "
            f"{config.backbone}: write the networks into a file of your own (dinoscope ablate {name} --show)"
        )
    present = {**setting_names(config), **flat(values.get("baseline", {}))}
    axes = {axis: _on_baseline(body, present) for axis, body in values["axes"].items() if "values" in body}
    return _study({**values, "title": f"{values['title']}, {words}", "recipe": recipe, "axes": axes}, name, "")


def _named_files() -> dict[str, Path]:
    return {file.stem: file for file in sorted((Path(__file__).parent / "studies").glob("*.toml"))}


def _at_scale(value: Any, scale: str) -> Any:
    """Replace every table of scales by what it holds for this one, and leave out what it does not hold."""
    if not isinstance(value, dict):
        return value
    fitting = {
        name: inner[scale] if _of_scales(inner) else _at_scale(inner, scale)
        for name, inner in value.items()
        if not _of_scales(inner) or scale in inner
    }
    return fitting


def _of_scales(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and value.keys() <= {"paper", "small"}


def _on_baseline(axis: Mapping[str, Any], present: Mapping[str, Any]) -> dict[str, Any]:
    """Return the axis of a file: multiples as numbers, and no switch that the baseline has already."""
    values = _multiplied(axis["values"], present)
    if axis.get("switches", False):
        values = [value for value in values if not _is_own(value, present)]
    return {**{name: value for name, value in axis.items() if name != "switches"}, "values": values}


def _multiplied(value: Any, present: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_multiplied(one, present) for one in value]
    if not isinstance(value, dict):
        return value
    if value.keys() != {"times", "of"}:
        return {name: _multiplied(inner, present) for name, inner in value.items()}
    own = present[value["of"]]
    product = value["times"] * own
    return max(round(product), 1) if isinstance(own, int) else float(f"{product:.6g}")


def _is_own(value: Mapping[str, Any], present: Mapping[str, Any]) -> bool:
    settings = flat({name: inner for name, inner in value.items() if name != LABEL})
    about = next(iter(settings))
    return plain(present.get(about)) == settings[about]


# TOML


def read_study(file: Path) -> StudyDefinition:
    """Return the study of a TOML file, named after it. Raises UserError as `parse_study` does, or if it is no text."""
    try:
        text = file.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    return parse_study(text, file.stem, str(file))


def parse_study(text: str, name: str, source: str) -> StudyDefinition:
    """Return the study of a TOML text; `resolve` finds out whether its settings exist.

    Raises UserError, beginning with `source`, for what is not TOML, an unknown key (the nearest is offered), or a value
    of the wrong kind.
    """
    try:
        return _study(tomllib.loads(text), name, source)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    except (ValueError, RecursionError) as error:  # tomllib's own, and numbers or nesting beyond Python's limits
        raise UserError(f"{source} is not valid TOML: {error}") from error


def to_toml(study: StudyDefinition) -> str:
    """Return the study as the text of a file; `parse_study` gives the same study back."""
    values = {
        "title": study.title,
        "recipe": study.recipe,
        "seeds": list(study.seeds),
        "mode": study.mode,
        "combinations": [dict(combination) for combination in study.combinations],
        "baseline": {name: plain(value) for name, value in study.changes.items()},
        "axes": {
            axis.name: {"title": axis.title, "values": [_variant_table(variant) for variant in axis.variants]}
            for axis in study.axes
        },
    }
    if not study.combinations:
        del values["combinations"]
    return tomli_w.dumps(values)


def _variant_table(variant: Variant) -> dict[str, Any]:
    return {LABEL: variant.label, **{name: plain(value) for name, value in variant.settings.items()}}


def _study(values: Mapping[str, Any], name: str, source: str) -> StudyDefinition:
    _check_known(values, KEYS)
    axes = _table(values.get("axes", {}), "axes")
    return StudyDefinition(
        name,
        title=_text(values.get("title", name), "title"),
        recipe=_text(values.get("recipe", DEFAULT_RECIPE), "recipe"),
        changes=_settings(_table(values.get("baseline", values.get("base", {})), "baseline"), "baseline"),
        axes=tuple(_axis(axis, body) for axis, body in axes.items()),
        mode=lookup("mode", _text(values.get("mode", MODES[0]), "mode"), {mode: mode for mode in MODES}),
        combinations=tuple(_combination(one, number) for number, one in _numbered(values, "combinations")),
        seeds=tuple(_seed(seed) for _, seed in _numbered({"seeds": [0], **values}, "seeds")),
        source=source,
    )


def _axis(name: str, body: Any) -> Axis:
    place = f"axes.{name}"
    try:
        table = _table(body, place)
        _check_known(table, AXIS_KEYS)
        setting = None if "setting" not in table else _text(table["setting"], "setting")
        if "values" not in table:
            raise UserError("values are missing: list what the axis takes")
        variants = tuple(_variant(name, setting, value, number) for number, value in _numbered(table, "values"))
        return Axis(name, _text(table.get("title", name), "title"), variants)
    except UserError as error:
        raise UserError(f"[{place}] {error}") from error


def _variant(axis: str, setting: str | None, value: Any, number: int) -> Variant:
    if not isinstance(value, Mapping):
        if setting is None:
            raise UserError(f"value {number} is {short(value)}: name the `setting` that it is for, or give a table")
        return Variant(axis, label_of(value), {setting: value})
    settings = _settings({name: inner for name, inner in value.items() if name != LABEL}, f"value {number}")
    if not settings:
        raise UserError(f"value {number} sets nothing")
    label = value.get(LABEL, ", ".join(map(label_of, settings.values())))
    return Variant(axis, _text(label, f"label of value {number}"), settings)


def _combination(value: Any, number: int) -> dict[str, str]:
    table = _table(value, f"combination {number}")
    if not table:
        raise UserError(f"combination {number} names no axis")
    return {axis: _text(label, f"combination {number}, {axis}") for axis, label in table.items()}


def _settings(table: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return dotted names -> values, however the tables were nested."""
    settings = flat(table)
    if any(not name for name in settings):
        raise UserError(f"{place}: a setting without a name")
    return settings


def _numbered(values: Mapping[str, Any], key: str) -> list[tuple[int, Any]]:
    """Return the entries of a list with their numbers, from 1; none if there is no such key."""
    entries = values.get(key, [])
    if not isinstance(entries, list):
        raise UserError(f"{key} must be a list, not {short(entries)}")
    return list(enumerate(entries, 1))


def _table(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{what} must be a table of names and values, not {short(value)}")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{what} must be a text in quotes, not {short(value)}")
    return value


def _seed(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise UserError(f"a seed is a whole number from 0 up, not {short(value)}")
    return value


def _check_known(table: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    for name in table:
        lookup("key", name, dict.fromkeys(keys))
