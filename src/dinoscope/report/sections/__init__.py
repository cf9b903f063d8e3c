"""The sections of a report, each a function of what the report is made of: a new one is a file and a line here."""

from __future__ import annotations

from collections.abc import Callable

from dinoscope.report.page import Section
from dinoscope.report.runs import Material
from dinoscope.report.sections import (
    attention,
    comparison,
    curves,
    embedding,
    evaluations,
    health,
    reconstruction,
    settings,
    summary,
)

SECTIONS: tuple[Callable[[Material], Section | tuple[Section, ...] | None], ...] = (
    summary.section,
    curves.section,
    comparison.section,
    embedding.section,
    attention.section,
    reconstruction.section,
    evaluations.section,
    health.section,
    settings.section,
)
"""In the order of the page; a function returns None if there is nothing to show."""
