"""The result of an ablation study on the terminal: a table for each axis, and what it says in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.padding import Padding
from rich.text import Text

from dinoscope.cli.console import Console

if TYPE_CHECKING:
    from dinoscope.study.effects import AblationResult


def show(result: AblationResult, console: Console) -> None:
    """Print it; a table of eight columns fits 80 columns.

    Raises UserError where a variant has two runs of one seed.
    """
    from dinoscope.cli.console import rich_table
    from dinoscope.study.effects import arrange
    from dinoscope.study.reading import axis_reading, axis_table, study_reading

    study = arrange(result)
    for axis in study.axes:
        console.print(rich_table(axis_table(axis, study.baseline, brief=True)))
        for sentence in axis_reading(axis, study.baseline):
            console.print(Padding(Text(sentence, style="dim"), (0, 0, 0, 2)))
        console.print()
    console.print(f"[bold]{escape(result.title or result.name)}[/bold]", highlight=False)
    for sentence in study_reading(study):
        console.print(escape(sentence), highlight=False)
