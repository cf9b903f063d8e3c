"""What a person is shown, as plain values: tables with notes and footnotes, and charts of lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dinoscope.text import ABSENT


@dataclass(frozen=True)
class Column:
    """A column's title, and the side that its cells are set to."""

    title: str
    align: Literal["left", "right"] = "left"


@dataclass(frozen=True)
class TableRow:
    """Cells as text; `marks`: numbers of notes, set behind the first cell; `best`: places of cells set in bold."""

    cells: tuple[str, ...]
    marks: tuple[int, ...] = ()
    best: tuple[int, ...] = ()


@dataclass(frozen=True)
class Section:
    """Rows below a title of their own; without a title they simply follow."""

    rows: tuple[TableRow, ...]
    title: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its caption; note number n of `TableRow.marks` is `notes[n - 1]`.

    remarks: paragraphs below the notes, about all rows.

    Raises ValueError for a row whose cells do not fit the columns, a mark without a note, or a best cell of none.
    """

    columns: tuple[Column, ...]
    sections: tuple[Section, ...]
    caption: str = ""
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for row in (row for section in self.sections for row in section.rows):
            if len(row.cells) != len(self.columns):
                raise ValueError(f"a row of {len(row.cells)} cells does not fit {len(self.columns)} columns")
            if any(not 1 <= mark <= len(self.notes) for mark in row.marks):
                raise ValueError(f"the notes {row.marks} are not all among the {len(self.notes)} there are")
            if any(not 0 <= place < len(row.cells) for place in row.best):
                raise ValueError(f"the best cells {row.best} are not all among the {len(row.cells)} there are")


BOLD = "Bold: the highest that was measured here, and those whose difference from it may be chance (95 % intervals)"
"""Remark below tables whose best are marked."""


def best_marked(
    rows: Sequence[TableRow],
    values: Sequence[Sequence[float | None]],
    settled: Callable[[int, int, int], bool | None],
) -> tuple[TableRow, ...]:
    """Return the rows with the best figures of each column in bold: the highest, and those that may be as good.

    Nothing is marked in a column of one figure, or of figures of which `settled` returns None: they have no test.

    values: the figures of each row's cells, None for a cell that holds none or is not ranked.
    settled: given the numbers of a column, of its best row and of another: whether the first is above by more than
        chance.
    """
    best: list[tuple[int, ...]] = [() for _ in rows]
    for column in range(len(values[0]) if values else 0):
        figures = {row: value for row, own in enumerate(values) if (value := own[column]) is not None}
        top = max(figures, key=lambda row: figures[row], default=0)
        tests = {row: row != top and settled(column, top, row) for row in figures}
        for row, is_apart in tests.items() if len(figures) > 1 and None not in tests.values() else ():
            best[row] += () if is_apart else (column,)
    return tuple(replace(row, best=marked) for row, marked in zip(rows, best, strict=True))


def joined_sections(sections: Sequence[Section]) -> list[Section]:
    """Join neighbours without a title; leave out those without rows."""
    joined: list[Section] = []
    for section in filter(lambda section: section.rows, sections):
        if joined and not section.title and not joined[-1].title:
            joined[-1] = Section(joined[-1].rows + section.rows)
        else:
            joined.append(section)
    return joined


def without_empty_columns(table: Table) -> Table:
    """Return the table without the columns in which no row has a value; the first column stays."""
    rows = [row for section in table.sections for row in section.rows]
    empty = {"", ABSENT}
    places = [at for at in range(len(table.columns)) if not at or not all(row.cells[at] in empty for row in rows)]

    def narrowed(row: TableRow) -> TableRow:
        best = tuple(new for new, at in enumerate(places) if at in row.best)
        return replace(row, cells=tuple(row.cells[at] for at in places), best=best)

    sections = tuple(replace(section, rows=tuple(map(narrowed, section.rows))) for section in table.sections)
    return replace(table, columns=tuple(table.columns[at] for at in places), sections=sections)


@dataclass(frozen=True)
class Line:
    """One line of a chart. Lines with one label share their look and their entry in the legend: seeds, or stretches.

    low, high: a band around it, or empty.
    color: as CSS has it ("#rrggbb"); "" for the next of the palette.
    style: as matplotlib has it: "-", "--", ":" or "-.".
    marker: likewise, set on a few points of the line however many it has; "" for dots on lines of few points.
    baseline: drawn in black, over the others.
    """

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    color: str = ""
    style: str = ""
    marker: str = ""
    baseline: bool = False


@dataclass(frozen=True)
class LinePanel:
    """Lines under one title.

    levels: name and height of horizontal lines.
    at: x of a vertical line, such as the setting that a table is of.
    limits: of y; None if the values decide.
    log_x: whether x is on a logarithmic axis.
    """

    title: str
    lines: tuple[Line, ...]
    x_title: str = ""
    y_title: str = ""
    levels: tuple[tuple[str, float], ...] = ()
    at: float | None = None
    limits: tuple[float | None, float | None] = (None, None)
    log_x: bool = False


@dataclass(frozen=True)
class LineChart:
    """Panels next to each other with one legend; `report.charts` draws it.

    name: stem of its file. ordered: the labels have an order, and so have their colours.
    """

    name: str
    title: str
    panels: tuple[LinePanel, ...]
    note: str = ""
    ordered: bool = False
