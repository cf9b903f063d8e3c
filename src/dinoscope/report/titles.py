"""What models are called in the sections of the report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from dinoscope.model_names import Model, distinct, short_name
from dinoscope.text import printable

_BETWEEN = "-_/. "
_WORDS = re.compile(rf"[^{re.escape(_BETWEEN)}]+[{re.escape(_BETWEEN)}]*|[{re.escape(_BETWEEN)}]+")


def titles_of(subjects: Sequence[Model]) -> list[str]:
    """Short names of models, of which no two are the same."""
    return distinct([(_short(each), each.path) for each in subjects])


def told_apart(titles: Sequence[str]) -> list[str]:
    """What tells titles apart, for where there is little room: without the words that all begin or end with."""
    words = [_WORDS.findall(title) for title in titles]
    least = min(map(len, words), default=0)
    if len(words) < 2 or least < 2:
        return list(titles)
    first = next((at for at in range(least) if len({each[at] for each in words}) > 1), least - 1)
    last = next((at for at in range(1, least - first) if len({each[-at] for each in words}) > 1), least - first)
    short = ["".join(each[first : len(each) - last + 1]).strip(_BETWEEN) for each in words]
    return short if all(short) and len(set(short)) == len(short) else list(titles)


def _short(subject: Model) -> str:
    """A name of random or released weights is no path, though it may look like one."""
    given = Path(subject.name)
    return printable(short_name(given) if subject.path == given else subject.name)
