"""A section for each evaluation that models have results of: tables, curves, the best and the worst examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from dinoscope.config import identity
from dinoscope.errors import UserError
from dinoscope.evaluation import EVALUATIONS
from dinoscope.evaluation.base import Evaluation, best_first, metrics_table
from dinoscope.evaluation.results import OF_THE_MODEL, conditions, kept, kept_names
from dinoscope.model_names import Model
from dinoscope.pictures import webp
from dinoscope.report.charts import line_chart, svg
from dinoscope.report.page import Block, Figure, Folded, Group, Notice, Paragraph, Section, folded_rest
from dinoscope.report.runs import Material, told_apart
from dinoscope.tables import Column, Table, TableRow
from dinoscope.tables import Section as Rows
from dinoscope.text import count
from dinoscope.types import Result

ENDS = 3
"""So many of the best, and of the worst, are drawn."""
MAX_ITEMS = 100
"""Items up to which the score of each is listed."""
_OPEN = 6  # items that are listed without a click

Results = Sequence[tuple[Model, Result]]


def section(material: Material) -> tuple[Section, ...]:
    """Show every evaluation that has results; those of the comparison are shown there."""
    sections: list[Section] = []
    for evaluation in EVALUATIONS.values():
        if evaluation.default:
            continue
        groups, notices = _groups(material.models, evaluation)
        blocks: list[Block] = []
        for group in groups:
            shown = [*_tables(group, evaluation), *_drawings(group, evaluation), *_items(group, evaluation, material)]
            blocks += shown if len(groups) == 1 else [Group(_protocol(group, evaluation), tuple(shown))]
        if blocks or notices:
            sections.append(Section(evaluation.title, evaluation.name, evaluation.summary, (*blocks, *notices)))
    return tuple(sections)


def elsewhere(material: Material) -> tuple[Block, ...]:
    """Return the tables of the default evaluations that the comparison does not show: of other data or settings."""
    rows = material.comparison.rows if material.comparison else ()
    shown = {
        identity(conditions(result)) for row in rows for entry in row.entries for result in entry.measurements.values()
    }
    blocks: list[Block] = []
    for evaluation in EVALUATIONS.values():
        if not evaluation.default:
            continue
        groups, notices = _groups(material.models, evaluation)
        others = [group for group in groups if identity(conditions(group[0][1])) not in shown]
        if others:
            number = f"{len(others)} more {'result' if len(others) == 1 else 'results'}"
            tables = tuple(table for group in others for table in _tables(group, evaluation))
            blocks.append(Folded(f"{evaluation.title} on other data or otherwise: {number}", tables))
        blocks += notices
    return tuple(blocks)


def _groups(models: Sequence[Model], evaluation: Evaluation) -> tuple[list[Results], list[Notice]]:
    """Results that were measured under one protocol, together, the largest groups first; and what is wrong.

    A result of other weights than the model's is left out with a notice, and so is one whose protocol lacks an entry.
    """
    groups: dict[str, list[tuple[Model, Result]]] = {}
    notices: list[Notice] = []
    for model in models:
        if model.home is None:
            continue
        for name in kept_names(model.home, evaluation.prefix or evaluation.name):
            result, fault = None, ""
            try:
                result = kept(model.home, name)
                if result is None or result.evaluation != evaluation.name:
                    continue
                evaluation.protocol_line(result.protocol)
                if result.protocol.get("weights_hash", model.weights_hash) != model.weights_hash:
                    fault = (
                        f"its {name} was measured with other weights than it has now, and is left out. Measure again."
                    )
            except KeyError as error:
                fault = f"its {name} does not state its {error.args[0]}, and is left out. Measure it again."
            except UserError as error:
                fault = str(error)
            if fault or result is None:
                notices.append(Notice(f"{model.label}: {fault}", "warning"))
            else:
                groups.setdefault(identity(conditions(result)), []).append((model, result))
    return sorted(groups.values(), key=len, reverse=True), notices


def _protocol(group: Results, evaluation: Evaluation) -> str:
    protocol = group[0][1].protocol
    return evaluation.protocol_line({name: value for name, value in protocol.items() if name not in OF_THE_MODEL})


def _labelled(group: Results) -> list[tuple[str, Result]]:
    return [(model.label, result) for model, result in group]


def _tables(group: Results, evaluation: Evaluation) -> list[Table]:
    if evaluation.tables:
        return evaluation.tables(_labelled(group), True)
    (table,) = metrics_table(_labelled(group))
    return [replace(table, remarks=(*table.remarks, _protocol(group, evaluation)))]


def _drawings(group: Results, evaluation: Evaluation) -> list[Figure]:
    charts = evaluation.charts(_labelled(group)) if evaluation.charts else []
    drawn = ((chart, svg(line_chart(chart)).decode("utf-8")) for chart in charts)
    return [Figure(drawing, f"{chart.title}. {chart.note}".strip(), chart.title) for chart, drawing in drawn]


def _items(group: Results, evaluation: Evaluation, material: Material) -> list[Block]:
    """What each item scored, unless there are too many, and the best and the worst: drawn, or else named."""
    scored = (
        (column, dict(best_first([result for _, result in group], column.metric))) for column in evaluation.columns
    )
    column, scores = next(((column, scores) for column, scores in scored if scores), (None, {}))
    if column is None:
        text = "The scores of single items were not kept, so no best and worst can be shown."
        return [Paragraph(text)] if evaluation.examples else []
    blocks: list[Block] = []
    if len(scores) <= MAX_ITEMS:
        having = [model.label for model, result in group if result.items and column.metric in result.items.figures]
        rows = [TableRow((name, *(f"{value:.{column.digits}f}" for value in own))) for name, own in scores.items()]
        columns = (Column("Item"), *(Column(title, "right") for title in having))
        unit = f" in {column.unit}" if column.unit else ""
        table = Table(columns, (Rows(tuple(rows)),), f"{column.title} of each item{unit}, best first")
        blocks.append(table if len(rows) <= _OPEN else Folded(f"All {count(len(rows))} items, best first", (table,)))
    if not (material.pictures and evaluation.examples):
        return blocks
    results, models = zip(*((result, model) for model, result in group if result.items is not None), strict=True)
    titles = told_apart([model.label for model in models])
    models = [replace(model, label=title) for model, title in zip(models, titles, strict=True)]
    try:
        sheets = evaluation.examples(results, models, ENDS, material.context, None)
    except UserError as error:
        ends = dict.fromkeys([*list(scores)[:ENDS], *list(scores)[-ENDS:]])
        named = "; ".join(f"{name} ({fmean(scores[name]):.1f})" for name in ends)
        return [*blocks, Notice(f"The best and the worst are named and not drawn: {error}. Best to worst: {named}.")]
    figures = [Figure(webp(sheet.pixels()), sheet.caption, f"Examples of {evaluation.title}") for sheet in sheets]
    return [*blocks, Group("Best to worst", folded_rest("Further examples", figures, 2))] if figures else blocks
