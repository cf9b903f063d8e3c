"""In what one of several records of settings differs from the others, in words."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

_MOST_NAMED = 6  # settings in one text


def difference(
    own: Mapping[str, Any],
    every: Sequence[Mapping[str, Any]],
    titles: Mapping[str, str] | None = None,
    shorten: str = "",
) -> str:
    """The values in which `own` differs from most of `every`, or from any where most do not agree; "" for none.

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
    """The first few, and how many there are beyond."""
    more = len(texts) - _MOST_NAMED
    return ", ".join(texts[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def text(value: Any) -> str:
    """A value of a setting for a person."""
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return (" to " if len(value) == 2 else ", ").join(map(text, value))
    return str(value)


def identity(value: Any) -> str:
    """Equal for equal plain values only; JSON."""
    return json.dumps(value, sort_keys=True)
