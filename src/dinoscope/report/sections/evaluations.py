"""A section for each evaluation that models have results of: tables, curves, the best and the worst examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from dinoscope.config import identity
from dinoscope.errors import UserError
from dinoscope.evaluation import EVALUATIONS
from dinoscope.evaluation.base import Column, Evaluation, metrics_table
from dinoscope.evaluation.results import OF_THE_MODEL, conditions, kept, kept_names
from dinoscope.model_names import Model
from dinoscope.pictures import webp
from dinoscope.report.charts import line_chart, svg
from dinoscope.report.page import Block, Figure, Folded, Group, Notice, Paragraph, Section, folded_rest
from dinoscope.report.runs import Material, told_apart
from dinoscope.tables import Column as TableColumn
from dinoscope.tables import Section as Rows
from dinoscope.tables import Table, TableRow
from dinoscope.text import count
from dinoscope.types import Items, Result

ENDS = 3
"""So many of the best, and of the worst, are drawn."""
MAX_ITEMS = 100
"""Items up to which the score of each is listed."""
_OPEN = 6  # items that are listed without a click


@dataclass(frozen=True)
class Kept:
    """A result of a model. title: of the model."""

    model: Model
    title: str
    result: Result


@dataclass(frozen=True)
class Best:
    """Names of items with the mean over the models, best first; and what each model scored."""

    names: tuple[str, ...]
    means: tuple[float, ...]
    scores: tuple[tuple[float, ...], ...]


def section(material: Material) -> tuple[Section, ...]:
    """Show every evaluation that has results; those of the comparison are shown there."""
    sections: list[Section] = []
    for evaluation in EVALUATIONS.values():
        if evaluation.default:
            continue
        groups, notices = kept_groups(material.titled, evaluation)
        blocks = [block for group in groups for block in _group(group, evaluation, material, titled=len(groups) > 1)]
        if blocks or notices:
            sections.append(Section(evaluation.title, evaluation.name, evaluation.summary, (*blocks, *notices)))
    return tuple(sections)


def kept_groups(
    titled: Sequence[tuple[Model, str]], evaluation: Evaluation
) -> tuple[list[list[Kept]], tuple[Notice, ...]]:
    """Return results that were measured under one protocol, together, the largest groups first; and what is wrong.

    A result of other weights than the model's is left out with a notice, and so is one whose protocol lacks an entry.
    """
    groups: dict[str, list[Kept]] = {}
    notices: list[Notice] = []
    for model, title in titled:
        names = kept_names(model.home, evaluation.prefix or evaluation.name) if model.home else []
        for name in names:
            try:
                result = _usable(model, name, evaluation)
            except UserError as error:
                notices.append(Notice(f"{title}: {error}", "warning"))
                continue
            if result is not None:
                groups.setdefault(identity(conditions(result)), []).append(Kept(model, title, result))
    return sorted(groups.values(), key=lambda group: -len(group)), tuple(notices)


def _usable(model: Model, name: str, evaluation: Evaluation) -> Result | None:
    """The result, if it is of this evaluation. Raises UserError if it is damaged or cannot be shown."""
    assert model.home is not None
    result = kept(model.home, name)
    if result is None or result.evaluation != evaluation.name:
        return None
    try:
        evaluation.protocol_line(result.protocol)
    except KeyError as error:
        text = f"its {name} does not state its {error.args[0]}, and is left out. Measure it again."
        raise UserError(text) from error
    if result.protocol.get("weights_hash", model.weights_hash) != model.weights_hash:
        raise UserError(f"its {name} was measured with other weights than it has now, and is left out. Measure again.")
    return result


def elsewhere(material: Material) -> tuple[Block, ...]:
    """Return the tables of the default evaluations that the comparison does not show: of other data or settings."""
    blocks: list[Block] = []
    rows = material.comparison.rows if material.comparison else ()
    shown = {
        identity(conditions(result)) for row in rows for entry in row.entries for result in entry.measurements.values()
    }
    for evaluation in EVALUATIONS.values():
        if not evaluation.default:
            continue
        groups, notices = kept_groups(material.titled, evaluation)
        others = [group for group in groups if identity(conditions(group[0].result)) not in shown]
        if others:
            number = f"{len(others)} more {'result' if len(others) == 1 else 'results'}"
            tables = [table for group in others for table in _tables(group, evaluation)]
            blocks.append(Folded(f"{evaluation.title} on other data or otherwise: {number}", tuple(tables)))
        blocks += notices
    return tuple(blocks)


def _group(group: Sequence[Kept], evaluation: Evaluation, material: Material, *, titled: bool) -> list[Block]:
    blocks: list[Block] = [*_tables(group, evaluation), *_charts(group, evaluation)]
    column = next((column for column in evaluation.columns if _has_items(group, column)), None)
    best = None if column is None else best_first(group, column.metric)
    if column is not None and best is not None:
        blocks += _items(group, column, best)
        if material.pictures and evaluation.examples:
            blocks += _examples(group, evaluation, material, best)
    elif evaluation.examples:
        blocks.append(Paragraph("The scores of single items were not kept, so no best and worst can be shown."))
    if not titled:
        return blocks
    return [Group(_protocol(group, evaluation), tuple(blocks))]


def _protocol(group: Sequence[Kept], evaluation: Evaluation) -> str:
    """What the results of a group share."""
    protocol = group[0].result.protocol
    return evaluation.protocol_line({name: value for name, value in protocol.items() if name not in OF_THE_MODEL})


def _tables(group: Sequence[Kept], evaluation: Evaluation) -> list[Table]:
    labelled = [(entry.title, entry.result) for entry in group]
    if evaluation.tables:
        return evaluation.tables(labelled, True)
    (table,) = metrics_table(labelled)
    return [replace(table, remarks=(*table.remarks, _protocol(group, evaluation)))]


def _charts(group: Sequence[Kept], evaluation: Evaluation) -> Iterator[Figure]:
    if evaluation.charts:
        for chart in evaluation.charts([(entry.title, entry.result) for entry in group]):
            caption = f"{chart.title}. {chart.note}".strip()
            yield Figure(svg(line_chart(chart)).decode("utf-8"), caption, chart.title)


def _items(group: Sequence[Kept], column: Column, best: Best) -> list[Block]:
    """What each item scored; nothing if there are too many."""
    if len(best.names) > MAX_ITEMS:
        return []
    titles = [entry.title for entry in group if _values(entry, column.metric) is not None]
    columns = (TableColumn("Item"), *(TableColumn(title, "right") for title in titles))
    rows = tuple(
        TableRow((name, *(f"{value:.{column.digits}f}" for value in values)))
        for name, values in zip(best.names, best.scores, strict=True)
    )
    unit = f" in {column.unit}" if column.unit else ""
    table = Table(columns, (Rows(rows),), f"{column.title} of each item{unit}, best first")
    return [table] if len(rows) <= _OPEN else [Folded(f"All {count(len(rows))} items, best first", (table,))]


def _examples(group: Sequence[Kept], evaluation: Evaluation, material: Material, best: Best) -> list[Block]:
    """The best and the worst items: drawn if they are still there, else named."""
    assert evaluation.examples is not None
    having = [entry for entry in group if entry.result.items is not None]
    titles = told_apart([entry.title for entry in having])
    models = [replace(entry.model, label=title) for entry, title in zip(having, titles, strict=True)]
    try:
        sheets = evaluation.examples([entry.result for entry in having], models, ENDS, material.measuring.context)
    except UserError as error:
        ends = list(dict.fromkeys([*range(min(ENDS, len(best.names))), *range(len(best.names))[-ENDS:]]))
        named = "; ".join(f"{best.names[place]} ({best.means[place]:.1f})" for place in ends)
        return [Notice(f"The best and the worst are named and not drawn: {error}. Best to worst: {named}.")]
    figures = [Figure(webp(sheet.pixels()), sheet.caption, f"Examples of {evaluation.title}") for sheet in sheets]
    return [Group("Best to worst", folded_rest("Further examples", figures, 2))] if figures else []


def best_first(group: Sequence[Kept], metric: str) -> Best | None:
    """Return the items that all results of a group have, by the mean of a metric; None if there are none.

    Results without items, which earlier versions did not keep, do not count.
    """
    found = [values for entry in group if (values := _values(entry, metric)) is not None]
    common = [name for name in found[0] if all(name in values for values in found)] if found else []
    if not common:
        return None
    scores = {name: tuple(values[name] for values in found) for name in common}
    means = {name: sum(values) / len(values) for name, values in scores.items()}
    order = sorted(common, key=lambda name: (-means[name], name))
    return Best(tuple(order), tuple(means[name] for name in order), tuple(scores[name] for name in order))


def _values(entry: Kept, metric: str) -> dict[str, float] | None:
    items: Items | None = entry.result.items
    if items is None or metric not in items.figures:
        return None
    return dict(zip(items.names, items.figures[metric], strict=True))


def _has_items(group: Sequence[Kept], column: Column) -> bool:
    return any(_values(entry, column.metric) is not None for entry in group)
