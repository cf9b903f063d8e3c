"""Tables as Markdown, LaTeX (booktabs) and CSV. Cells are plain text; what is special in a format is escaped here."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

from dinoscope.tables import Table, TableRow, joined_sections
from dinoscope.text import spreadsheet_cell

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
