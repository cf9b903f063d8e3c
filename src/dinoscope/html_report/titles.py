"""What models are called in the sections of the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dinoscope.model_names import distinct
from dinoscope.study.gather import Subject


def titles_of(subjects: Sequence[Subject]) -> list[str]:
    """Short names of models, of which no two are the same."""
    return distinct([(Path(subject.name).name, subject.path) for subject in subjects])
