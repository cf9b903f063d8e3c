"""What a named study is made of, and how it becomes the definition of a study on a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dinoscope.ablation.definition import Axis, StudyDefinition
from dinoscope.ablation.records import Variant
from dinoscope.ablation.settings_change import plain, setting_names
from dinoscope.ablation.study_file import label_of
from dinoscope.errors import UserError
from dinoscope.recipes import run_config

Scale = Literal["paper", "small"]

PAPER_RECIPES = ("dino_deit_small_100ep", "dino_deit_small_300ep", "dino_resnet50")
"""Recipes at the scale of the paper; all others take the small values."""


@dataclass(frozen=True)
class Times:
    """A value that is found from the base's: `factor` times the setting; a whole number stays one, at least 1."""

    setting: str
    factor: float


@dataclass(frozen=True)
class Value:
    """A value of an axis. The first setting is the one that it is about."""

    label: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class NamedAxis:
    """An axis of a named study.

    switches: its values are ways to differ from the base; one whose first setting is the base's own is left out.
    """

    title: str
    values: tuple[Value, ...]
    switches: bool = False


@dataclass(frozen=True)
class AtScale:
    """What a study takes at one scale. base: changes to the recipe. networks: that the recipe may have; empty: any."""

    axes: Mapping[str, NamedAxis]
    base: Mapping[str, Any] = field(default_factory=dict)
    networks: tuple[str, ...] = ()


@dataclass(frozen=True)
class NamedStudy:
    """title: what it answers, with the paper's table or figure."""

    title: str
    scales: Mapping[Scale, AtScale]


def on_recipe(name: str, study: NamedStudy, recipe: str) -> StudyDefinition:
    """The study at the recipe's scale; values that follow from the recipe are found.

    Raises UserError for an unknown recipe, or one whose network the study is not for.
    """
    base = run_config(recipe, Path(), Path())
    scale: Scale = "paper" if recipe in PAPER_RECIPES else "small"
    chosen = study.scales[scale]
    if chosen.networks and base.backbone not in chosen.networks:
        raise UserError(
            f"{name} varies networks like {' or '.join(chosen.networks)}, and --recipe {recipe} trains "
            f"{base.backbone}: write the networks into a file of your own (dinoscope ablate {name} --show)"
        )
    present = {**setting_names(base), **chosen.base}
    return StudyDefinition(
        name,
        f"{study.title}, {'values of the paper' if scale == 'paper' else 'values for small data'}",
        recipe,
        chosen.base,
        tuple(_axis(axis, body, present) for axis, body in chosen.axes.items()),
    )


def _axis(name: str, body: NamedAxis, present: Mapping[str, Any]) -> Axis:
    variants: list[Variant] = []
    for value in body.values:
        settings = {setting: _found(each, present) for setting, each in value.settings.items()}
        about = next(iter(settings))
        if not (body.switches and plain(present.get(about)) == settings[about]):
            variants.append(Variant(name, value.label or label_of(settings[about]), settings))
    return Axis(name, body.title, tuple(variants))


def _found(value: Any, present: Mapping[str, Any]) -> Any:
    if not isinstance(value, Times):
        return value
    found = value.factor * present[value.setting]
    return max(round(found), 1) if isinstance(present[value.setting], int) else float(f"{found:.6g}")
