"""In which order the values of an axis stand, and where the base stands among them."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from dinoscope.ablation.records import Variant
from dinoscope.ablation.settings_change import plain
from dinoscope.ablation.study_file import label_of

T = TypeVar("T")


def subject(variants: Iterable[Variant]) -> str | None:
    """The setting that all of them are about, which is the first one of each; None where they have none in common."""
    first = {next(iter(variant.settings), None) for variant in variants}
    return first.pop() if len(first) == 1 else None


def by_value(items: Sequence[tuple[Variant, T]]) -> list[tuple[Variant, T]] | None:
    """Items from the smallest number to the largest, in what their variants are about; None where that is no number."""
    name = subject(variant for variant, _ in items)
    numbers = [number(variant, name) for variant, _ in items]
    if name is None or None in numbers:
        return None
    return sorted(items, key=lambda item: item[0].settings[name])


def place_among(ordered: Sequence[Variant], own: Variant | None) -> int:
    """How many of these, which `by_value` has ordered, the base's own value comes after; 0 where it has no number."""
    name = subject(ordered)
    mine = None if own is None else number(own, name)
    return 0 if name is None or mine is None else bisect_left([each.settings[name] for each in ordered], mine)


def number(variant: Variant, name: str | None) -> float | None:
    """What it sets this setting to, where that is a finite number; True and False are none."""
    value = variant.settings.get(name or "")
    return value if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def own_value(axis: str, variants: Sequence[Variant], present: Mapping[str, Any]) -> Variant:
    """The base as a value of an axis.

    Args:
        axis: its name.
        variants: its values, the base's own among them or not.
        present: dotted name -> value of every setting of the base.

    Its label is that of the value which changes nothing; else the base's value of the one setting that is varied; and
    "" where neither makes sense.
    """
    names = dict.fromkeys(name for variant in variants for name in variant.settings)
    settings = {name: present[name] for name in names}
    same = [each.label for each in variants if all(plain(v) == plain(present[n]) for n, v in each.settings.items())]
    if same:
        return Variant(axis, same[0], settings)
    values = list(settings.values())
    return Variant(axis, label_of(values[0]) if len(values) == 1 and values[0] is not None else "", settings)
