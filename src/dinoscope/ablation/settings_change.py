"""Settings of a run changed by dotted name ("method.out_dim"), each checked against the type of its field."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from dinoscope.errors import UserError, lookup
from dinoscope.models.backbone import BACKBONES
from dinoscope.training.config import RunConfig

T = TypeVar("T")

ELSEWHERE = {
    "data": "--data gives the images",
    "out": "--out gives the folder of the study",
    "seed": "`seeds` lists the seeds of every variant",
    "device": "--device gives it, for every run",
}
"""Settings that a study cannot change -> what decides them."""


def with_settings(config: RunConfig, settings: Mapping[str, Any], where: str) -> RunConfig:
    """The run with these settings, all set at once.

    Args:
        config: what is changed.
        settings: dotted name -> plain value, as from TOML (a list for a tuple).
        where: file and place, for the error.

    Raises UserError, beginning with `where`, for a name that is none (the nearest is offered), a value of the wrong
    type or out of range, and settings that a study does not decide.
    """
    names = setting_names(config)
    try:
        for name in settings:
            if name in ELSEWHERE:
                raise UserError(f"{name} cannot be set here: {ELSEWHERE[name]}")
            lookup("setting", name, names)
        return _changed(config, _nested(settings), "")
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def setting_names(config: RunConfig) -> dict[str, Any]:
    """Dotted name -> value of every setting that a study may change."""
    return {name: value for name, value in _leaves(config, "") if name not in ELSEWHERE}


def _leaves(settings: Any, prefix: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for field in fields(settings):
        value = getattr(settings, field.name)
        inner = is_dataclass(value)
        found += _leaves(value, f"{prefix}{field.name}.") if inner else [(f"{prefix}{field.name}", value)]
    return found


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as dictionaries in each other; the names are known to be leaves."""
    nested: dict[str, Any] = {}
    for name, value in settings.items():
        *groups, last = name.split(".")
        inner = nested
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return nested


def _changed(settings: T, changes: Mapping[str, Any], prefix: str) -> T:
    """A dataclass with these changes: groups first, then all at once, so that its own check sees them together."""
    hints = get_type_hints(type(settings))
    values: dict[str, Any] = {}
    for name, value in changes.items():
        present = getattr(settings, name)
        if is_dataclass(present):
            values[name] = _changed(present, value, f"{prefix}{name}.")
        else:
            values[name] = _typed(value, hints[name], f"{prefix}{name}")
    try:
        return replace(settings, **values)  # pyright: ignore[reportArgumentType] (a dataclass, as `fields` saw)
    except ValueError as error:
        raise UserError(str(error)) from error


def _typed(value: Any, hint: Any, name: str) -> Any:
    """The value as the field holds it. Raises UserError where it is of another type."""
    if name == "backbone" and isinstance(value, str):
        lookup("backbone", value, BACKBONES)
    origin = get_origin(hint)
    if origin is Literal:
        allowed = {choice: choice for choice in get_args(hint)}
        return lookup(f"value of {name}", value, allowed) if isinstance(value, str) else _refuse(value, hint, name)
    if origin in (Union, types.UnionType):
        return _typed(value, next(kind for kind in get_args(hint) if kind is not type(None)), name)
    if origin is tuple:
        kinds = get_args(hint)
        if not isinstance(value, list | tuple) or len(value) != len(kinds):
            _refuse(value, hint, name)
        return tuple(_typed(each, kind, name) for each, kind in zip(value, kinds, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return _finite(value, name)
    if type(value) is not hint:
        _refuse(value, hint, name)
    return _finite(value, name) if hint is float else value


def _finite(value: Any, name: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise UserError(
            f"{name} must be a finite number, not {value if isinstance(value, float) else 'so large a one'}"
        )
    return number


def _refuse(value: Any, hint: Any, name: str) -> Any:
    raise UserError(f"{name} must be {_kind_text(hint)}, not {short(value)}")


def _kind_text(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        return f"a list of {len(kinds)} values, each {_kind_text(kinds[0])}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text in quotes"}
    return words.get(hint, str(hint))


def plain(value: Any) -> Any:
    """As TOML has it: a list, where settings hold a tuple."""
    return list(value) if isinstance(value, tuple) else value


def short(value: Any) -> str:
    """A value for an error, in at most 60 characters."""
    try:
        text = repr(value)
    except ValueError:  # Python does not write whole numbers of thousands of digits
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."
