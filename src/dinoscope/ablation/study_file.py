"""An ablation study as a TOML file: read with errors that name the place, and written so that it can be changed."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from dinoscope.ablation.definition import DEFAULT_RECIPE, Axis, Mode, StudyDefinition
from dinoscope.ablation.records import Variant
from dinoscope.ablation.settings_change import short
from dinoscope.config import flat
from dinoscope.errors import UserError, lookup

MODES: tuple[Mode, ...] = get_args(Mode)
KEYS = ("title", "recipe", "seeds", "mode", "base", "axes", "combinations")
AXIS_KEYS = ("title", "setting", "values")
LABEL = "label"


def read_study(file: Path) -> StudyDefinition:
    """The study of a TOML file, called after it. Raises UserError as `parse_study` does, or where it cannot be read."""
    try:
        text = file.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    return parse_study(text, file.stem, str(file))


def parse_study(text: str, name: str, source: str) -> StudyDefinition:
    """The study of a TOML text; whether its settings exist is found out by `definition.resolve`.

    Raises UserError, beginning with `source`, for what is not TOML, a key that there is not (the nearest is offered),
    or a value of another kind than it must be.
    """
    try:
        values = tomllib.loads(text)
        _known(values, KEYS, "key")
        axes = _table(values.get("axes", {}), "axes")
        return StudyDefinition(
            name,
            title=_text(values.get("title", name), "title"),
            recipe=_text(values.get("recipe", DEFAULT_RECIPE), "recipe"),
            changes=_settings(_table(values.get("base", {}), "base"), "base"),
            axes=tuple(_axis(axis, body) for axis, body in axes.items()),
            mode=lookup("mode", _text(values.get("mode", MODES[0]), "mode"), {mode: mode for mode in MODES}),
            combinations=tuple(_combination(each, number) for number, each in _numbered(values, "combinations")),
            seeds=tuple(_seed(seed) for _, seed in _numbered({"seeds": [0], **values}, "seeds")),
            source=source,
        )
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    except (ValueError, RecursionError) as error:  # tomllib's own, and numbers or nesting beyond Python's limits
        raise UserError(f"{source} is not valid TOML: {error}") from error


def _axis(name: str, body: Any) -> Axis:
    place = f"axes.{name}"
    try:
        table = _table(body, place)
        _known(table, AXIS_KEYS, "key")
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
    settings = _settings({name: each for name, each in value.items() if name != LABEL}, f"value {number}")
    if not settings:
        raise UserError(f"value {number} sets nothing")
    label = value.get(LABEL, ", ".join(map(label_of, settings.values())))
    return Variant(axis, _text(label, f"label of value {number}"), settings)


def label_of(value: Any) -> str:
    """How a value is written in a table."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " to ".join(map(label_of, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _combination(value: Any, number: int) -> dict[str, str]:
    table = _table(value, f"combination {number}")
    if not table:
        raise UserError(f"combination {number} names no axis")
    return {axis: _text(label, f"combination {number}, {axis}") for axis, label in table.items()}


def _settings(table: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Dotted names -> values, however the tables were nested."""
    if any(not name for name in flat(table)):
        raise UserError(f"{place}: a setting without a name")
    return flat(table)


def _numbered(values: Mapping[str, Any], key: str) -> list[tuple[int, Any]]:
    """The entries of a list with their numbers, from 1; none where there is no such key."""
    found = values.get(key, [])
    if not isinstance(found, list):
        raise UserError(f"{key} must be a list, not {short(found)}")
    return list(enumerate(found, 1))


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


def _known(table: Mapping[str, Any], keys: tuple[str, ...], kind: str) -> None:
    for name in table:
        lookup(kind, name, dict.fromkeys(keys))


def to_toml(study: StudyDefinition) -> str:
    """The study as the text of a file; `parse_study` gives the same study back."""
    lines = [
        f"title = {_written(study.title)}",
        f"recipe = {_written(study.recipe)}",
        f"seeds = {_written(list(study.seeds))}",
        f"mode = {_written(study.mode)}",
        "",
        "[base]  # where it differs from the recipe",
        *(f"{_key(name)} = {_written(value)}" for name, value in study.changes.items()),
    ]
    for axis in study.axes:
        lines += ["", f"[axes.{_quoted(axis.name)}]", f"title = {_written(axis.title)}"]
        lines += ["values = [", *(f"    {_variant_text(variant)}," for variant in axis.variants), "]"]
    for chosen in study.combinations:
        pairs = (f"{_quoted(axis)} = {_written(label)}" for axis, label in chosen.items())
        lines += ["", "[[combinations]]", *pairs]
    return "\n".join(lines) + "\n"


def _variant_text(variant: Variant) -> str:
    pairs = [f"{_key(name)} = {_written(value)}" for name, value in variant.settings.items()]
    return "{ " + ", ".join([f"{LABEL} = {_written(variant.label)}", *pairs]) + " }"


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):  # a JSON text is a TOML text, but for DEL, which TOML wants escaped
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_written, value)) + "]"
    return repr(value)


def _key(dotted: str) -> str:
    return ".".join(map(_quoted, dotted.split(".")))


def _quoted(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _written(key)
