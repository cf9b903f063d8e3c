"""Tables as Markdown, LaTeX (booktabs) and CSV. Cells are plain text; what is special in a format is escaped here."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence

from dinoscope.tables import Table, TableRow, joined_sections, without_empty_columns
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
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "≈": r"$\approx$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\rightarrow$",
    "µ": r"$\mu$",
    "…": r"\ldots{}",
    "“": r"\textquotedblleft{}",
    "”": r"\textquotedblright{}",
    "–": "--",
    "—": "---",
}
"""What pdfLaTeX does not set as it is. It knows the letters of Latin scripts; others need XeLaTeX or LuaLaTeX."""


def escape_markdown(text: str) -> str:
    """Return the text as it is to be read, on one line, within a line of Markdown."""
    return _MARKDOWN_SPECIAL.sub(r"\\\1", " ".join(text.split()))


def markdown_paragraph(text: str) -> str:
    """Return the same for the beginning of a paragraph, where it must not begin a list, a rule or a heading."""
    escaped = re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", escape_markdown(text))
    return re.sub(r"^([-+=])", r"\\\1", escaped)


def escape_latex(text: str) -> str:
    """Return the text as it is to be set, on one line."""
    parts: list[str] = []
    for character in " ".join(text.split()):
        part = _LATEX.get(character, character)
        joins = part[0] == "-" and parts and parts[-1][-1] == "-"  # hyphens that meet would become a dash
        parts.append("{}" * bool(joins) + part)
    return "".join(parts)


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


# A folder may have spaces in its name, unless a word of it is one that joins the path to the sentence, or ends another.
_JOINS = r"(?:and|or|at|with|of|in|to|on|for|as|from)\b"
_FOLDER = rf"[^\s/\\,;]+(?:(?<![.:)]) (?!{_JOINS})[^\s/\\,;]+)*[\\/]"
_PATH = re.compile(rf"(?<![\w.:/])(?:[A-Za-z]:[\\/]|~?/)(?:{_FOLDER})*([^\s/\\,;]*[^\s/\\,;)])")
_SPLITS = ("train", "val", "test")


def without_places(text: str) -> str:
    """Return the text with the last part of each absolute path in it, of a split with its folder: cifar10/train."""

    def name(path: re.Match[str]) -> str:
        parts = re.split(r"[\\/]", path[0])
        return "/".join(filter(None, parts[-2:])) if parts[-1] in _SPLITS else path[1]

    return _PATH.sub(name, text)


def latex(table: Table, label: str = "") -> str:
    """Return a `table` environment with booktabs' rules; needs \\usepackage{booktabs}.

    It has no columns without values, and of paths only names. label: for \\ref{tab:LABEL}.
    """
    table = without_empty_columns(table)
    sides = "".join("r" if column.align == "right" else "l" for column in table.columns)
    lines = [r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering"]
    if table.caption:
        lines.append(rf"\caption{{{_latex_text(table.caption)}}}")
    if label:
        lines.append(rf"\label{{tab:{label}}}")
    lines += [rf"\begin{{tabular}}{{{sides}}}", r"\toprule"]
    lines.append(_latex_line([escape_latex(column.title) for column in table.columns]))
    for section in joined_sections(table.sections):
        lines.append(r"\midrule")
        if section.title:
            lines.append(rf"\multicolumn{{{len(sides)}}}{{l}}{{\emph{{{_latex_text(section.title)}}}}} \\")
        rows = (_cells(row, _latex_text, r"\textbf{{{}}}", r"\textsuperscript{{{}}}") for row in section.rows)
        lines += map(_latex_line, rows)
    lines += [r"\bottomrule", r"\end{tabular}"]
    if table.notes or table.remarks:
        notes = [rf"\textsuperscript{{{n}}} {_latex_text(note)}\par" for n, note in enumerate(table.notes, 1)]
        notes += [rf"{_latex_text(remark)}\par" for remark in table.remarks]
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


def _latex_text(text: str) -> str:
    return escape_latex(without_places(text))


def _latex_line(cells: Sequence[str]) -> str:
    # Braces keep a cell that begins with a bracket from being taken for an argument of the \\ before it.
    return " & ".join(f"{{{cell}}}" if cell.startswith(("[", "*")) else cell for cell in cells) + r" \\"
