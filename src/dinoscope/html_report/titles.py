"""What models are called in the sections of the report, and who hears of the progress where nobody listens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dinoscope.model_names import distinct
from dinoscope.study.subjects import Subject


def titles_of(subjects: Sequence[Subject]) -> list[str]:
    """Short names of models, of which no two are the same."""
    # a name of random or released weights is no path, though it may look like one
    return distinct([(each.name if each.path is None else Path(each.name).name, each.path) for each in subjects])


@contextlib.contextmanager
def quiet(what: str) -> Iterator[Callable[[int, int], None]]:
    """A `Watch` that says nothing."""
    yield lambda done, total: None
