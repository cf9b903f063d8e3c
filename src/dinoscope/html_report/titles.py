"""What models are called in the sections of the report, and who hears of the progress where nobody listens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dinoscope.model_names import distinct, short_name
from dinoscope.report.html_text import printable
from dinoscope.study.subjects import Subject


def titles_of(subjects: Sequence[Subject]) -> list[str]:
    """Short names of models, of which no two are the same."""
    return distinct([(_short(each), each.path) for each in subjects])


def _short(subject: Subject) -> str:
    """A name of random or released weights is no path, though it may look like one."""
    given = subject.path is not None and Path(subject.name).exists()
    return printable(short_name(Path(subject.name)) if given else subject.name)


@contextlib.contextmanager
def quiet(what: str) -> Iterator[Callable[[int, int], None]]:
    """A `Watch` that says nothing."""
    yield lambda done, total: None
