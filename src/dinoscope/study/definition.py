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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import tomli_w

from dinoscope.config import changed, current_name, flat, leaves, short
from dinoscope.errors import UserError, located, lookup
from dinoscope.models.backbone import BACKBONES
from dinoscope.recipes import run_config
from dinoscope.training.config import RunConfig, fitted_channels

T = TypeVar("T")

DEFAULT_RECIPE = "quickstart"
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
"""Keys of a study's file; `base` is an earlier name of `baseline`."""
_KINDS = {list: "a list", Mapping: "a table of names and values", str: "a text in quotes"}


@dataclass(frozen=True)
class Variant:
    """One way of training that a study compares.

    axis: name of what is varied; "" for the baseline, and the names joined by " x " in a grid.
    label: the value, as it stands in a table ("128", "no centring").
    settings: dotted name of a setting -> value where it differs from the baseline ("method.centering": "none").
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
        return self.source or f"study {self.name}"

    def axis(self, name: str) -> Axis:
        return lookup("axis", name, {axis.name: axis for axis in self.axes})


# From a definition to settings


def resolve(study: StudyDefinition, data: Path, out: Path) -> list[tuple[Variant, RunConfig]]:
    """Return the baseline's and every variant's settings, checked; seed and run folder are still those of the recipe.

    Raises UserError naming the file, the axis and the value, for anything that is not a setting or not its value.
    """
    _check(study)
    with located(study.place):
        recipe = replace(study.settings, data=data, out=out) if study.settings else run_config(study.recipe, data, out)
    baseline = with_settings(recipe, study.changes, f"{study.place}, baseline")
    for axis in study.axes:  # every value on its own, so that an error names the smallest thing that is wrong
        for variant in axis.variants:
            with_settings(baseline, variant.settings, f"{study.place}, axis {axis.name}, value {variant.label!r}")
    resolved = [(BASELINE, baseline)]
    for variant in variants_of(study):
        place = f"{study.place}, {variant.axis} = {variant.label}"
        resolved.append((variant, with_settings(baseline, variant.settings, place)))
    return resolved


def with_settings(config: RunConfig, settings: Mapping[str, Any], place: str) -> RunConfig:
    """Set all at once. Raises UserError as `config.changed` does, and for settings that a study does not decide."""
    with located(place):
        for name, value in settings.items():
            if name in ELSEWHERE:
                raise UserError(f"{name} cannot be set here: {ELSEWHERE[name]}")
            lookup("setting", name, setting_names(config))
            if name == "backbone" and isinstance(value, str):
                lookup("backbone", value, BACKBONES)
        return fitted_channels(changed(config, settings), settings)


def setting_names(config: RunConfig) -> dict[str, Any]:
    """Return dotted name -> value of every setting that a study may change."""
    return {name: value for name, value in leaves(config).items() if name not in ELSEWHERE}


def variants_of(study: StudyDefinition) -> list[Variant]:
    """Return all variants but the baseline, in order. Raises UserError for a combination that contradicts itself."""
    if study.mode == "one-at-a-time":
        return [variant for axis in study.axes for variant in axis.variants]
    if study.mode == "grid":
        count = math.prod(len(axis.variants) for axis in study.axes) * len(study.seeds)
        if count > MAX_RUNS:
            raise UserError(
                f"{study.place}: the grid has {count:,} runs; at most {MAX_RUNS:,} are taken. Leave axes out"
            )
        return [_joined(study, choice) for choice in itertools.product(*(axis.variants for axis in study.axes))]
    variants: list[Variant] = []
    for number, labels in enumerate(study.combinations, 1):
        with located(f"{study.place}, combination {number}"):
            for name in labels:
                study.axis(name)
            named = {axis.name: {one.label: one for one in axis.variants} for axis in study.axes if axis.name in labels}
            chosen = [lookup(f"value of the axis {axis}", labels[axis], values) for axis, values in named.items()]
        variants.append(_joined(study, chosen))
    return variants


def axis_titles(study: StudyDefinition) -> dict[str, str]:
    titles = {axis.name: axis.title for axis in study.axes}
    if study.mode == "one-at-a-time":
        return titles
    joined = dict.fromkeys(variant.axis for variant in variants_of(study))
    return {name: TIMES.join(titles[part] for part in name.split(TIMES)) for name in joined}


def _joined(study: StudyDefinition, variants: Sequence[Variant]) -> Variant:
    settings: dict[str, Any] = {}
    for variant in variants:
        twice = next((name for name in variant.settings if name in settings), None)
        if twice is not None:
            raise UserError(f"{study.place}: two of the axes that are combined set {twice}; let one of them do it")
        settings |= variant.settings
    return Variant(TIMES.join(v.axis for v in variants), TIMES.join(v.label for v in variants), settings)


def _check(study: StudyDefinition) -> None:
    if not study.axes:
        raise UserError(f"{study.place}: there is no axis, so there is nothing to vary")
    if (study.mode == "listed") != bool(study.combinations):
        raise UserError(f"{study.place}: mode = 'listed' and combinations go together")
    _check_different(study.place, "seed", [str(seed) for seed in study.seeds])
    _check_different(study.place, "axis", [axis.name for axis in study.axes])
    if not study.seeds or min(study.seeds) < 0:
        raise UserError(f"{study.place}: seeds must be one or more whole numbers from 0 up")
    for axis in study.axes:
        place = f"{study.place}, axis {axis.name}"
        if TIMES in axis.name:
            raise UserError(f"{place}: {TIMES!r} stands between the names of axes that are combined, not in one")
        if not axis.variants:
            raise UserError(f"{place}: it has no values")
        _check_different(place, "label", [variant.label for variant in axis.variants])


def _check_different(place: str, kind: str, names: Sequence[str]) -> None:
    """Refuse names that are equal, or whose folders would be."""
    seen: dict[str, str] = {}
    for name in names:
        folder = slug(name)
        if not folder:
            raise UserError(f"{place}: the {kind} {name!r} has neither letters nor digits")
        earlier = seen.setdefault(folder, name)
        if earlier == name and names.count(name) > 1:
            raise UserError(f"{place}: the {kind} {name!r} is given twice")
        if earlier != name:
            raise UserError(f"{place}: the {kind}s {earlier!r} and {name!r} are too alike for names of folders")


def slug(text: str) -> str:
    """Return a part of a folder's name: letters, digits, dots and dashes, at most 60."""
    return re.sub(r"[^\w.]+", "-", text.lower()).strip("-._")[:60].rstrip("-._")


def label_of(value: Any) -> str:
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

    every: list[Axis] = []
    for name, values in axes.items():
        if isinstance(values, Mapping):
            variants = tuple(Variant(name, label, dotted_settings(table, label)) for label, table in values.items())
        else:
            variants = tuple(Variant(name, label_of(value), {current_name(name): plain(value)}) for value in values)
        every.append(Axis(name, name, variants))
    chosen = range(seeds) if isinstance(seeds, int) else seeds
    title = ", ".join(axes)
    return StudyDefinition("ablation", title, "that of a run", {}, tuple(every), seeds=tuple(chosen), settings=config)


# Studies by name


def study_files() -> dict[str, dict[str, Any]]:
    """Return name -> values of every file in `studies/`."""
    files = sorted((Path(__file__).parent / "studies").glob("*.toml"))
    return {file.stem: tomllib.loads(file.read_text(encoding="utf-8")) for file in files}


STUDY_NAMES = tuple(study_files())
"""Of ablations and of comparisons."""


def named_studies(key: str = "axes") -> dict[str, str]:
    """Return name -> title of every file in `studies/` that has this key: of ablations; "backbones" of comparisons."""
    return {name: values["title"] for name, values in study_files().items() if key in values}


def named_study(name: str, recipe: str = DEFAULT_RECIPE) -> StudyDefinition:
    """Return a study by name at the recipe's scale, with the values that follow from the recipe.

    Raises UserError for an unknown study or recipe, and for a recipe whose network the study is not for.
    """
    lookup("ablation study", name, named_studies())
    config = run_config(recipe, Path(), Path())
    scale, words = ("paper", "values of the paper") if recipe in PAPER_RECIPES else ("small", "values for small data")
    values = _at_scale(study_files()[name], scale)
    networks = values.pop("networks", [config.backbone])
    if config.backbone not in networks:
        raise UserError(
            f"{name} varies networks like {' or '.join(networks)}, and --recipe {recipe} trains "
            f"{config.backbone}: write the networks into a file of your own (dinoscope ablate {name} --show)"
        )
    own = {**setting_names(config), **flat(values.get("baseline", {}))}
    for axis in values["axes"].values():
        axis["values"] = _multiplied(axis.get("values", []), own)
        if axis.pop("switches", False):
            axis["values"] = [value for value in axis["values"] if not _is_own(value, own)]
    axes = {axis: body for axis, body in values["axes"].items() if body["values"]}
    return _study({**values, "title": f"{values['title']}, {words}", "recipe": recipe, "axes": axes}, name, "")


def _at_scale(value: Any, scale: str) -> Any:
    """Replace every table of scales by what it holds for this one, and leave out what it does not hold."""
    if not isinstance(value, dict):
        return value
    taken: dict[str, Any] = {}
    for name, inner in value.items():
        if not isinstance(inner, dict) or not inner or not inner.keys() <= {"paper", "small"}:
            taken[name] = _at_scale(inner, scale)
        elif scale in inner:
            taken[name] = inner[scale]
    return taken


def _multiplied(value: Any, own: Mapping[str, Any]) -> Any:
    """Replace every multiple of a setting of the baseline by the number."""
    if isinstance(value, list):
        return [_multiplied(one, own) for one in value]
    if not isinstance(value, dict):
        return value
    if value.keys() != {"times", "of"}:
        return {name: _multiplied(inner, own) for name, inner in value.items()}
    product = value["times"] * own[value["of"]]
    return max(round(product), 1) if isinstance(own[value["of"]], int) else float(f"{product:.6g}")


def _is_own(value: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    first, setting = next(iter(flat({name: inner for name, inner in value.items() if name != LABEL}).items()))
    return plain(own.get(first)) == setting


# TOML


def read_study(file: Path) -> StudyDefinition:
    """Return the study of a TOML file, named after it. Raises UserError as `parse_study` does, or if it is no text."""
    return parse_study(read_text(file), file.stem, str(file))


def read_text(file: Path) -> str:
    """Return the text of a file. Raises UserError if it cannot be read, or is not UTF-8."""
    try:
        return file.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error


def parse_study(text: str, name: str, source: str) -> StudyDefinition:
    """Return the study of a TOML text; `resolve` finds out whether its settings exist.

    Raises UserError, beginning with `source`, for what is not TOML, an unknown key (the nearest is offered), or a value
    of the wrong kind.
    """
    return built(text, source, lambda values: _study(values, name, source))


def built(text: str, source: str, build: Callable[[Mapping[str, Any]], T]) -> T:
    """Return what `build` makes of the values of a TOML text. Its UserErrors begin with `source`, as do those here."""
    try:
        with located(source):
            return build(tomllib.loads(text))
    except (ValueError, RecursionError) as error:  # tomllib's own, and numbers or nesting beyond Python's limits
        raise UserError(f"{source} is not valid TOML: {error}") from error


def to_toml(study: StudyDefinition) -> str:
    """Return the study as the text of a file; `parse_study` gives the same study back."""
    text: dict[str, Any] = {"title": study.title, "recipe": study.recipe, "seeds": study.seeds, "mode": study.mode}
    if study.combinations:
        text["combinations"] = [dict(combination) for combination in study.combinations]
    text["baseline"] = dict(study.changes)
    text["axes"] = {}
    for axis in study.axes:
        values = [{LABEL: variant.label, **variant.settings} for variant in axis.variants]
        text["axes"][axis.name] = {"title": axis.title, "values": values}
    return tomli_w.dumps(text)


def _study(values: Mapping[str, Any], name: str, source: str) -> StudyDefinition:
    check_keys(values, KEYS)
    baseline = typed(values.get("baseline", values.get("base", {})), Mapping, "baseline")
    axes = typed(values.get("axes", {}), Mapping, "axes")
    combinations = []
    for number, one in enumerate(typed(values.get("combinations", []), list, "combinations"), 1):
        if not typed(one, Mapping, f"combination {number}"):
            raise UserError(f"combination {number} names no axis")
        combinations.append({a: typed(label, str, f"combination {number}, {a}") for a, label in one.items()})
    return StudyDefinition(
        name,
        title=typed(values.get("title", name), str, "title"),
        recipe=typed(values.get("recipe", DEFAULT_RECIPE), str, "recipe"),
        changes=dotted_settings(baseline, "baseline"),
        axes=tuple(_axis(axis, body) for axis, body in axes.items()),
        mode=lookup("mode", typed(values.get("mode", MODES[0]), str, "mode"), {mode: mode for mode in MODES}),
        combinations=tuple(combinations),
        seeds=seeds_of(values),
        source=source,
    )


def seeds_of(values: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the seeds of a file, 0 alone by default. Raises UserError for what is not a seed."""
    seeds = typed(values.get("seeds", [0]), list, "seeds")
    for seed in seeds:
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
            raise UserError(f"a seed is a whole number from 0 up, not {short(seed)}")
    return tuple(seeds)


def _axis(name: str, body: Any) -> Axis:
    with located(f"[axes.{name}]"):
        table = typed(body, Mapping, f"axes.{name}")
        check_keys(table, ("title", "setting", "values"))
        setting = typed(table["setting"], str, "setting") if "setting" in table else None
        if "values" not in table:
            raise UserError("values are missing: list what the axis takes")
        values = enumerate(typed(table["values"], list, "values"), 1)
        variants = tuple(_variant(name, setting, value, number) for number, value in values)
        return Axis(name, typed(table.get("title", name), str, "title"), variants)


def _variant(axis: str, setting: str | None, value: Any, number: int) -> Variant:
    if not isinstance(value, Mapping):
        if setting is None:
            raise UserError(f"value {number} is {short(value)}: name the `setting` that it is for, or give a table")
        return Variant(axis, label_of(value), {setting: value})
    settings = dotted_settings({name: inner for name, inner in value.items() if name != LABEL}, f"value {number}")
    if not settings:
        raise UserError(f"value {number} sets nothing")
    label = value.get(LABEL, ", ".join(map(label_of, settings.values())))
    return Variant(axis, typed(label, str, f"label of value {number}"), settings)


def dotted_settings(table: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return dotted names -> values, however the tables were nested."""
    settings = {current_name(name): value for name, value in flat(table).items()}
    if "" in settings:
        raise UserError(f"{place}: a setting without a name")
    return settings


def typed(value: Any, kind: type, what: str) -> Any:
    """Return the value. Raises UserError naming `what` if it is of another kind, or an empty text."""
    if not isinstance(value, kind) or (kind is str and not value.strip()):
        raise UserError(f"{what} must be {_KINDS[kind]}, not {short(value)}")
    return value


def check_keys(table: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    """Raise UserError for a key that is none of these, with the nearest."""
    for name in table:
        lookup("key", name, dict.fromkeys(keys))
