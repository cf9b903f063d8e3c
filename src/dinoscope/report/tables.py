"""Tables as Markdown, LaTeX (booktabs) and CSV. Cells are plain text; what is special in a format is escaped here."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence

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
    """Return the text as it is to be read, on one line, within a line of Markdown."""
    return _MARKDOWN_SPECIAL.sub(r"\\\1", " ".join(text.split()))


def markdown_paragraph(text: str) -> str:
    """Return the same for the beginning of a paragraph, where it must not begin a list, a rule or a heading."""
    escaped = re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", escape_markdown(text))
    return re.sub(r"^([-+=])", r"\\\1", escaped)


def escape_latex(text: str) -> str:
    """Return the text as it is to be set, on one line."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def markdown(table: Table) -> str:
    """Return GitHub's tables: caption, one table for each section that has a title, notes as a numbered list."""
    parts = [markdown_paragraph(table.caption)] if table.caption else []
    for section in joined_sections(table.sections):
        if section.title:
            parts.append(f"**{escape_markdown(section.title)}**")
        rows = [[escape_markdown(column.title) for column in table.columns]]
        rows.append(["---:" if column.align == "right" else "---" for column in table.columns])
        rows += [_cells(row, escape_markdown, "**{}**", "<sup>{}</sup>") for row in section.rows]
        parts.append("\n".join(f"| {' | '.join(cells)} |" for cells in rows))
    if table.notes:
        parts.append("\n".join(f"{number}. {markdown_paragraph(note)}" for number, note in enumerate(table.notes, 1)))
    parts += map(markdown_paragraph, table.remarks)
    return "\n\n".join(parts) + "\n"


def latex(table: Table) -> str:
    """Return a `table` environment with booktabs' rules; needs \\usepackage{booktabs}."""
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
        rows = (_cells(row, escape_latex, r"\textbf{{{}}}", r"\textsuperscript{{{}}}") for row in section.rows)
        lines += map(_latex_line, rows)
    lines += [r"\bottomrule", r"\end{tabular}"]
    if table.notes or table.remarks:
        notes = [rf"\textsuperscript{{{n}}} {escape_latex(note)}\par" for n, note in enumerate(table.notes, 1)]
        notes += [rf"{escape_latex(remark)}\par" for remark in table.remarks]
        lines += [r"", r"\smallskip", r"\begin{minipage}{\linewidth}\footnotesize", *notes, r"\end{minipage}"]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def csv_text(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return RFC 4180, with plain newlines between the rows. What a spreadsheet would run becomes text."""
    # All cells are quoted: of those with a carriage return alone, Python's writer would quote none.
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerows([header, *([spreadsheet_cell(cell) for cell in row] for row in rows)])
    return text.getvalue()


def _cells(row: TableRow, escape: Callable[[str], str], bold: str, marks: str) -> list[str]:
    cells = [bold.format(escape(cell)) if at in row.best else escape(cell) for at, cell in enumerate(row.cells)]
    cells[0] += marks.format(", ".join(map(str, row.marks))) if row.marks else ""
    return cells


def _latex_line(cells: Sequence[str]) -> str:
    # Braces keep a cell that begins with a bracket from being taken for an argument of the \\ before it.
    return " & ".join(f"{{{cell}}}" if cell.startswith(("[", "*")) else cell for cell in cells) + r" \\"
