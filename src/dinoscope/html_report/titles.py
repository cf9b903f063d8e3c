"""What models are called in the sections of the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dinoscope.model_names import distinct, short_name
from dinoscope.report.html_text import printable
from dinoscope.study.subjects import Subject


def titles_of(subjects: Sequence[Subject]) -> list[str]:
    """Short names of models, of which no two are the same."""
    return distinct([(_short(each), each.path) for each in subjects])


def _short(subject: Subject) -> str:
    """A name of random or released weights is no path, though it may look like one."""
    given = Path(subject.name)
    return printable(short_name(given) if subject.path == given else subject.name)
