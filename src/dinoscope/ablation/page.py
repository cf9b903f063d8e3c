"""A study as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure as Drawing

from dinoscope.ablation.axis_table import axis_table
from dinoscope.ablation.collapse import collapses
from dinoscope.ablation.grouping import Axis, Study
from dinoscope.ablation.reading import axis_reading, study_reading
from dinoscope.report.charts import svg
from dinoscope.report.page import (
    Block,
    Bullets,
    Code,
    Document,
    Figure,
    Folded,
    KeyValues,
    Notice,
    Paragraph,
    Section,
    render,
)
from dinoscope.tables import Column, Table, TableRow
from dinoscope.tables import Section as Rows

COMMAND = "command"
"""Key of the fact that is set as text to be copied."""

_COLUMN, _PAGE = 480, 1040  # CSS pixels that a figure of a column's and of a page's width is shown at


def page(study: Study, figures: Mapping[str, Drawing | None], names: Mapping[str, str]) -> str:
    """The page's text. figures, names: as `figures.every_figure` has them."""
    result = study.result
    overview: list[Block] = [Bullets(tuple(study_reading(study)))]
    overview += _figure(figures, "ranking", "Largest effect of each axis on k-NN top-1", _COLUMN)
    sections = [
        Section("Overview", "overview", blocks=tuple(overview)),
        *(
            Section(
                axis.name,
                f"axis-{names[axis.name]}",
                axis.title if axis.title != axis.name else "",
                _axis(axis, study, figures, names),
            )
            for axis in study.axes
        ),
        Section("Every run", "runs", "", (_runs(study),)),
    ]
    if result.facts:
        sections.append(Section("How it was made", "facts", "", _facts(result.facts)))
    return render(Document(result.title or result.name, tuple(sections), f"Ablation study “{result.name}”"))


def _axis(
    axis: Axis, study: Study, figures: Mapping[str, Drawing | None], names: Mapping[str, str]
) -> tuple[Block, ...]:
    collapsed = [group.label for group in axis.groups if collapses(group)]
    failed = [group.label for group in axis.groups if group.failed]
    blocks: list[Block] = []
    if collapsed:
        blocks.append(Notice(f"Collapsed: {', '.join(collapsed)}.", "warning"))
    if failed:
        blocks.append(Notice(f"With failed runs: {', '.join(failed)}.", "warning"))
    blocks += [Bullets(tuple(axis_reading(axis, study.base))), axis_table(axis, study.base)]
    blocks += _figure(figures, f"bars-{names[axis.name]}", f"k-NN top-1, {axis.title}", _COLUMN)
    blocks += _figure(figures, f"curves-{names[axis.name]}", f"While training, {axis.title}", _PAGE)
    return tuple(blocks)


def _figure(figures: Mapping[str, Drawing | None], name: str, caption: str, width: int) -> list[Block]:
    found = figures.get(name)
    if found is None:
        return []
    return [Figure(svg(found).decode("utf-8"), f"{caption}.", caption, width)]


def _runs(study: Study) -> Folded:
    """What every run came to, for those who want to look."""
    columns = (
        Column("axis"),
        Column("value"),
        Column("seed", "right"),
        Column("state"),
        Column("why"),
        Column("folder"),
    )
    rows = tuple(
        TableRow((run.variant.axis, run.variant.label, str(run.seed), run.state, run.diagnosis, run.folder))
        for run in study.result.runs
    )
    return Folded(f"{len(rows)} runs", (Table(columns, (Rows(rows),)),))


def _facts(facts: Mapping[str, str]) -> tuple[Block, ...]:
    pairs = tuple((name, value) for name, value in facts.items() if name != COMMAND)
    blocks: list[Block] = [Paragraph("To run it again:"), Code(facts[COMMAND])] if COMMAND in facts else []
    return (*blocks, *([KeyValues(pairs)] if pairs else []))
