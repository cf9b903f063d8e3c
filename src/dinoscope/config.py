"""Frozen dataclasses to plain JSON values and back, strictly: an unknown or missing key is an error.

A field that may hold one of several dataclasses is written with the class's name under "kind". Its type is a base class
with a class method `choices`, which returns the dataclasses by name.
"""

from __future__ import annotations

import functools
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from cattrs import ClassValidationError, Converter, transform_error
from cattrs.v import format_exception

from dinoscope.errors import UserError, lookup
from dinoscope.places import parse_place

T = TypeVar("T")

EARLIER = {"balance": "centering"}
"""Names of settings of an earlier version, which are still read for one release -> the setting."""


def to_dict(settings: Any) -> dict[str, Any]:
    """Return the plain values (dict, list, str, number, None) of a settings dataclass."""
    return _converter().unstructure(settings)


def from_dict(cls: type[T], values: Any, source: str) -> T:
    """Build `cls` from plain values; `source` names the file for the error.

    Raises UserError if a key is unknown or missing, or a value has the wrong type.
    """
    if not isinstance(values, dict):
        raise UserError(f"{source} is not a valid {cls.__name__}: it holds no names and values")
    try:
        return _converter().structure(values, cls)
    except ClassValidationError as error:
        raise UserError(
            f"{source} is not a valid {cls.__name__}: {'; '.join(transform_error(error, format_exception=_said))}"
        ) from error


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values under dotted names; sequences are values."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{name}.")
        else:
            result[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value
    return result


def leaves(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Return dotted name -> value of every field of a dataclass and of the dataclasses within it."""
    result: dict[str, Any] = {}
    for field in fields(settings):
        value, name = getattr(settings, field.name), f"{prefix}{field.name}"
        result |= leaves(value, f"{name}.") if is_dataclass(value) else {name: value}
    return result


def changed(settings: T, changes: Mapping[str, Any], prefix: str = "") -> T:
    """Return the dataclass with other values, given by dotted name and plain, as TOML has them (a list for a tuple).

    All changes of a dataclass are made at once, so that its own checks see them together.

    Raises UserError for a name that does not exist (the nearest is offered), a value of the wrong type, or one that the
    dataclass refuses.
    """
    changes = {current_name(name): value for name, value in changes.items()}
    for name in changes:
        lookup("setting", name, leaves(settings))
    hints = get_type_hints(type(settings))
    groups: dict[str, dict[str, Any]] = {}
    values: dict[str, Any] = {}
    for name, value in changes.items():
        group, _, rest = name.partition(".")
        if rest:
            groups.setdefault(group, {})[rest] = value
        else:
            values[name] = _typed(value, hints[name], f"{prefix}{name}")
    values |= {group: changed(getattr(settings, group), inner, f"{prefix}{group}.") for group, inner in groups.items()}
    try:
        return replace(settings, **values)  # pyright: ignore[reportArgumentType] (a dataclass, as `leaves` saw)
    except ValueError as error:
        raise UserError(str(error)) from error


def current_name(name: str) -> str:
    """Return the dotted name of a setting that may have an earlier one."""
    group, dot, last = name.rpartition(".")
    return f"{group}{dot}{EARLIER.get(last, last)}"


def _typed(value: Any, hint: Any, name: str) -> Any:
    """Return the value as a field of this type holds it. Raises UserError if it is of another type."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind is Literal and isinstance(value, str):
        return lookup(f"value of {name}", value, {choice: choice for choice in inner})
    if kind in (Union, UnionType):
        return _typed(value, next(member for member in inner if member is not type(None)), name)
    if kind is tuple and isinstance(value, list | tuple):
        if inner[-1] is Ellipsis:  # of any length
            return tuple(_typed(one, inner[0], name) for one in value)
        if len(value) != len(inner):
            raise UserError(f"{name} must be {_kind_text(hint)}, not {short(value)}")
        return tuple(_typed(one, member, name) for one, member in zip(value, inner, strict=True))
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            raise UserError(f"{name} is too large a number") from None
        if not math.isfinite(number):
            raise UserError(f"{name} must be a finite number, not {value}")
        return number
    if type(value) is not hint:
        raise UserError(f"{name} must be {_kind_text(hint)}, not {short(value)}")
    return value


def _kind_text(hint: Any) -> str:
    kind, inner = get_origin(hint), get_args(hint)
    if kind is Literal:
        return "one of " + ", ".join(map(str, inner))
    if kind is tuple:
        count = "" if inner[-1] is Ellipsis else f"{len(inner)} "
        return f"a list of {count}values, each {_kind_text(inner[0])}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text in quotes"}
    return words.get(hint, str(hint))


def short(value: Any) -> str:
    """Return a value for an error, in at most 60 characters."""
    try:
        text = repr(value)
    except ValueError:  # Python does not write whole numbers of thousands of digits
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."


RANGES = {"workers": (-1, 1024), "threads": (0, 1024), "seed": (0, 2**63 - 1), "seeds": (0, 2**63 - 1)}
"""Settings of these names, in any dataclass -> what they may be; beyond it machines or libraries give up."""


def check_numbers(settings: Any, prefix: str = "--") -> None:
    """Raise UserError for a number in a dataclass, or in one within it, that is not finite or outside of `RANGES`."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        if is_dataclass(value):
            hidden = "OmitArgPrefixes" in str(field.type)  # the command line leaves the name out
            check_numbers(value, prefix if hidden else f"{prefix}{field.name}.")
            continue
        lowest, highest = RANGES.get(field.name, (-math.inf, math.inf))
        for number in value if isinstance(value, tuple | list) else [value]:
            option = f"{prefix}{field.name}".replace("_", "-")
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"{option} must be a finite number, not {number}")
            if isinstance(number, int) and not lowest <= number <= highest:
                raise UserError(f"{option} must be from {lowest} to {highest}, not {number}")


KIND = "kind"
"""Key of a dataclass's name, if several are possible."""


def _said(error: BaseException, kind: Any) -> str:
    return str(error) if isinstance(error, UserError) else format_exception(error, kind)


@functools.cache
def _converter() -> Converter:
    converter = Converter(forbid_extra_keys=True)
    converter.register_unstructure_hook_func(lambda kind: isinstance(kind, type) and issubclass(kind, Path), str)
    converter.register_structure_hook(Path, lambda value, _: parse_place(value))
    converter.register_unstructure_hook_factory(_is_choice, _write_choice)
    converter.register_structure_hook_factory(_is_choice, _read_choice)
    return converter


def _is_choice(kind: Any) -> bool:
    return isinstance(kind, type) and "choices" in vars(kind)


def _write_choice(_: Any, converter: Converter) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {KIND: type(value).__name__, **converter.unstructure(value)}


def _read_choice(base: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    def read(values: Any, _: Any) -> Any:
        members = base.choices()
        # Files from before there was a choice name none: they are of the first.
        kind = values.get(KIND, next(iter(members))) if isinstance(values, dict) else None
        if kind not in members:
            raise UserError(f"{KIND} is {kind!r}; allowed: {', '.join(members)}")
        own = {current_name(name): value for name, value in values.items() if name != KIND}
        return converter.structure(own, members[kind])

    return read


_MOST_NAMED = 6  # settings in one text


def difference(
    own: Mapping[str, Any],
    every: Sequence[Mapping[str, Any]],
    titles: Mapping[str, str] | None = None,
    shorten: str = "",
) -> str:
    """Return the values in which `own` differs from most of `every`, or from any if most do not agree; "" for none.

    every: the same of all rows, this one included.
    titles: name -> what it is called; others by their name, without the prefix `shorten`.
    """
    counts = Counter(map(identity, every))
    key, most = counts.most_common(1)[0]
    if most == len(every) or (2 * most > len(every) and key == identity(own)):
        return ""
    usual = json.loads(key) if 2 * most > len(every) else None
    differing: list[str] = []
    for name in sorted({name for each in every for name in each} | own.keys()):
        value, title = own.get(name), (titles or {}).get(name, name.removeprefix(shorten))
        if usual is not None and identity(value) != identity(usual.get(name)):
            differing.append(f"{title} {text(value)} (most rows: {text(usual.get(name))})")
        elif usual is None and len({identity(each.get(name)) for each in every}) > 1:
            differing.append(f"{title} {text(value)} (rows differ)")
    return some(differing)


def some(texts: Sequence[str]) -> str:
    """Return the first few, and the number of the others."""
    more = len(texts) - _MOST_NAMED
    return ", ".join(texts[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def text(value: Any) -> str:
    """Return the value of a setting for a person."""
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return (" to " if len(value) == 2 else ", ").join(map(text, value))
    return str(value)


def identity(value: Any) -> str:
    """Return JSON that is equal for equal plain values only."""
    return json.dumps(value, sort_keys=True)
