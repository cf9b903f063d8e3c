"""Tables as Markdown, LaTeX (booktabs) and CSV. Cells are plain text; what is special in a format is escaped here."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dinoscope.text import spreadsheet_cell


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
"""What it says below tables whose best are marked."""

Settled = Callable[[int, int, int], bool | None]
"""Given the numbers of a column, of its best row and of another: whether the first is above by more than chance."""


def best_marked(
    rows: Sequence[TableRow], values: Sequence[Sequence[float | None]], settled: Settled
) -> tuple[TableRow, ...]:
    """Return the rows with the best figures of each column in bold: the highest, and those that may be as good.

    Nothing is marked in a column of one figure, or of figures of which `settled` returns None: they have no test.

    values: the figures of each row's cells, None for a cell that holds none or is not ranked.
    """
    best: list[tuple[int, ...]] = [() for _ in rows]
    for column in range(len(values[0]) if values else 0):
        figures = {row: value for row, own in enumerate(values) if (value := own[column]) is not None}
        if len(figures) < 2:
            continue
        top = max(figures, key=lambda row: figures[row])
        tests = {row: False if row == top else settled(column, top, row) for row in figures}
        if None in tests.values():
            continue
        for row, apart in tests.items():
            best[row] += () if apart else (column,)
    return tuple(replace(row, best=marked) for row, marked in zip(rows, best, strict=True))


_MARKDOWN_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#~|&!$])")
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "–": "--",
    "—": "---",
}


def escape_markdown(text: str) -> str:
    """The text as it is to be read, on one line, within a line of Markdown."""
    return _MARKDOWN_SPECIAL.sub(r"\\\1", _one_line(text))


def markdown_paragraph(text: str) -> str:
    """The same where it begins a paragraph, and must not begin a list, a rule or a heading."""
    escaped = escape_markdown(text)
    escaped = re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", escaped)
    return re.sub(r"^([-+=])", r"\\\1", escaped)


def escape_latex(text: str) -> str:
    """The text as it is to be set, on one line."""
    return "".join(_LATEX.get(character, character) for character in _one_line(text))


def markdown(table: Table) -> str:
    """GitHub's tables: caption, one table for each section that has a title, notes as a numbered list."""
    parts = [markdown_paragraph(table.caption)] if table.caption else []
    for section in joined_sections(table.sections):
        if section.title:
            parts.append(f"**{escape_markdown(section.title)}**")
        lines = [_markdown_line([escape_markdown(column.title) for column in table.columns])]
        lines.append(_markdown_line(["---:" if column.align == "right" else "---" for column in table.columns]))
        for row in section.rows:
            cells = _bold(row, [escape_markdown(cell) for cell in row.cells], "**{}**")
            lines.append(_markdown_line([cells[0] + _marks(row.marks, "<sup>{}</sup>"), *cells[1:]]))
        parts.append("\n".join(lines))
    if table.notes:
        parts.append("\n".join(f"{number}. {markdown_paragraph(note)}" for number, note in enumerate(table.notes, 1)))
    parts += [markdown_paragraph(remark) for remark in table.remarks]
    return "\n\n".join(parts) + "\n"


def latex(table: Table) -> str:
    """A `table` environment with booktabs' rules; needs \\usepackage{booktabs}."""
    sides = "".join("r" if column.align == "right" else "l" for column in table.columns)
    lines = [r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering"]
    if table.caption:
        lines.append(rf"\caption{{{escape_latex(table.caption)}}}")
    lines += [rf"\begin{{tabular}}{{{sides}}}", r"\toprule"]
    lines.append(_latex_line([escape_latex(column.title) for column in table.columns]))
    for section in joined_sections(table.sections):
        lines.append(r"\midrule")
        if section.title:
            lines.append(rf"\multicolumn{{{len(sides)}}}{{l}}{{\emph{{{escape_latex(section.title)}}}}} \\")
        for row in section.rows:
            cells = _bold(row, [escape_latex(cell) for cell in row.cells], r"\textbf{{{}}}")
            lines.append(_latex_line([cells[0] + _marks(row.marks, r"\textsuperscript{{{}}}"), *cells[1:]]))
    lines += [r"\bottomrule", r"\end{tabular}"]
    if table.notes or table.remarks:
        lines += [r"", r"\smallskip", r"\begin{minipage}{\linewidth}\footnotesize"]
        lines += [
            rf"\textsuperscript{{{number}}} {escape_latex(note)}\par" for number, note in enumerate(table.notes, 1)
        ]
        lines += [rf"{escape_latex(remark)}\par" for remark in table.remarks]
        lines.append(r"\end{minipage}")
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def csv_text(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return RFC 4180, with plain newlines between the rows. What a spreadsheet would run becomes text."""
    # All cells are quoted: of those with a carriage return alone, Python's writer would quote none.
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerows([header, *([spreadsheet_cell(cell) for cell in row] for row in rows)])
    return text.getvalue()


def joined_sections(sections: Sequence[Section]) -> list[Section]:
    """Sections without a title become one with those before them; those without rows are left out."""
    joined: list[Section] = []
    for section in sections:
        if not section.rows:
            continue
        if joined and not section.title and not joined[-1].title:
            joined[-1] = Section(joined[-1].rows + section.rows)
        else:
            joined.append(section)
    return joined


def _bold(row: TableRow, cells: Sequence[str], form: str) -> list[str]:
    return [form.format(cell) if place in row.best else cell for place, cell in enumerate(cells)]


def _marks(marks: Sequence[int], form: str) -> str:
    return form.format(", ".join(map(str, marks))) if marks else ""


def _markdown_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _latex_line(cells: Sequence[str]) -> str:
    # Braces keep a cell that begins with a bracket from being taken for an argument of the \\ before it.
    return " & ".join(f"{{{cell}}}" if cell.startswith(("[", "*")) else cell for cell in cells) + r" \\"


def _one_line(text: str) -> str:
    return " ".join(text.split())
