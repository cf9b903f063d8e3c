"""Tables: what is special in Markdown, LaTeX and CSV comes out as it went in."""

from __future__ import annotations

import csv
import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from dinoscope.report.page import Document, render
from dinoscope.report.page import Section as Part
from dinoscope.report.tables import csv_text, escape_latex, latex, markdown, without_places
from dinoscope.tables import Column, Section, Table, TableRow, best_marked
from dinoscope.text import spreadsheet_cell

TEXT = st.text(
    st.sampled_from("ab1 .,-+=()|\\`*_{}[]<>#~&!$%^'\"\n\t;:/@±×–—−↓…é世") | st.characters(codec="utf-8"), max_size=24
)
MACROS = {
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"$\pm$": "±",
    r"$\times$": "×",
    "---": "—",
    "--": "–",
    "{}": "",  # between hyphens, which would become a dash
    r"\textbar{}": "|",
    r"\ldots{}": "…",
    r"\textquotedblleft{}": "“",
    r"\textquotedblright{}": "”",
    "$-$": "−",
    r"$\mu$": "µ",
    **{f"$\\{name}$": sign for name, sign in zip(("approx", "leq", "geq"), "≈≤≥", strict=True)},
    **{f"$\\{name}arrow$": sign for name, sign in zip(("up", "down", "right"), "↑↓→", strict=True)},
    **{f"\\{character}": character for character in "&%$#_{}"},
}


def one_line(text: str) -> str:
    return " ".join(text.split())


def simple(*rows: tuple[str, ...], **settings: object) -> Table:
    columns = tuple(Column(f"c{number}", "right" if number else "left") for number in range(len(rows[0])))
    return Table(columns, (Section(tuple(TableRow(row) for row in rows)),), **settings)


def rendered_cells(text: str) -> list[list[str]]:
    """Texts of the cells of all tables, by a Markdown parser that is not ours."""
    rows: list[list[str]] = []
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    for token, following in zip(tokens, [*tokens[1:], tokens[-1]], strict=True):
        if token.type == "tr_open":
            rows.append([])
        elif token.type in ("td_open", "th_open"):
            rows[-1].append(plain(following))
    return rows


def plain(token) -> str:
    """What is read of an inline token; nothing in it may be markup."""
    assert {child.type for child in token.children or []} <= {"text", "text_special", "softbreak"}, token.children
    return "".join(child.content for child in token.children or [])


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4))
@settings(max_examples=150)
def test_markdown_cells_are_read_as_they_were_written(rows: list[tuple[str, str]]) -> None:
    found = rendered_cells(markdown(simple(*rows)))
    # the parser takes NUL for the replacement character, as CommonMark says
    wanted = [[one_line(cell).replace("\0", "\ufffd") for cell in row] for row in rows]
    assert found == [["c0", "c1"], *wanted]


@given(TEXT)
@settings(max_examples=150)
def test_a_markdown_note_is_one_item_of_a_list(note: str) -> None:
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown(simple(("a",), notes=("first", note))))
    kinds = [token.type for token in tokens[[token.type for token in tokens].index("ordered_list_open") :]]
    assert kinds.count("list_item_open") == 2
    assert set(kinds) <= {
        "ordered_list_open",
        "list_item_open",
        "paragraph_open",
        "inline",
        "paragraph_close",
        "list_item_close",
        "ordered_list_close",
    }


@given(TEXT)
@settings(max_examples=150)
def test_latex_is_undone_by_reading_the_macros_back(text: str) -> None:
    escaped = escape_latex(text)
    pattern = "|".join(re.escape(macro) for macro in sorted(MACROS, key=len, reverse=True))
    left_over = re.sub(pattern, "", escaped)
    assert not set(left_over) & set("\\&%$#_{}~^<>±×—–−≈≤≥↑↓→…“”|\n")
    assert re.sub(pattern, lambda macro: MACROS[macro[0]], escaped) == one_line(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("deletion ↓ (%)", r"deletion $\downarrow$ (\%)"),
        ("two − one", "two $-$ one"),
        ("--data A--B", "-{}-data A-{}-B"),
        ("–-—", "--{}-{}---"),
        ("niñas, 3 µm ≥ 2", r"niñas, 3 $\mu$m $\geq$ 2"),
        ("a_b & c#1", r"a\_b \& c\#1"),
    ],
)
def test_what_latex_would_set_otherwise_is_escaped(text: str, expected: str) -> None:
    assert escape_latex(text) == expected


@given(st.lists(st.lists(TEXT, min_size=2, max_size=2), max_size=5))
@settings(max_examples=150)
def test_csv_is_read_back_as_it_was_written(rows: list[list[str]]) -> None:
    text = csv_text(["a", "b"], rows)
    read = list(csv.reader(io.StringIO(text, newline="")))
    assert read == [["a", "b"], *[[spreadsheet_cell(cell) for cell in row] for row in rows]]


def test_marks_notes_sections_and_caption() -> None:
    table = Table(
        (Column("Method"), Column("k-NN (%)", "right")),
        (
            Section((TableRow(("DINO", "74.5 ± 0.2"), (1, 2)),)),
            Section((TableRow(("BYOL", "66.6")),)),
            Section((), "nothing"),
            Section((TableRow(("DINO", "67.5")),), "Published"),
        ),
        "Ours & theirs",
        ("fewer epochs", "other_data"),
    )
    assert markdown(table) == (
        "Ours \\& theirs\n\n"
        "| Method | k-NN (%) |\n| --- | ---: |\n| DINO<sup>1, 2</sup> | 74.5 ± 0.2 |\n| BYOL | 66.6 |\n\n"
        "**Published**\n\n"
        "| Method | k-NN (%) |\n| --- | ---: |\n| DINO | 67.5 |\n\n"
        "1. fewer epochs\n2. other\\_data\n"
    )
    set_table = latex(table)
    assert "\\caption{Ours \\& theirs}" in set_table
    assert "\\begin{tabular}{lr}\n\\toprule\nMethod & k-NN (\\%) \\\\\n\\midrule\n" in set_table
    assert "DINO\\textsuperscript{1, 2} & 74.5 $\\pm$ 0.2 \\\\\nBYOL & 66.6 \\\\\n\\midrule\n" in set_table
    assert "\\multicolumn{2}{l}{\\emph{Published}} \\\\\nDINO & 67.5 \\\\\n\\bottomrule\n" in set_table
    assert "\\textsuperscript{2} other\\_data\\par" in set_table
    assert "nothing" not in set_table


def test_a_latex_cell_that_begins_with_a_bracket_is_no_argument() -> None:
    assert "{[a]} & {*} \\\\" in latex(simple(("[a]", "*")))


def test_rows_and_marks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="3 cells does not fit 2"):
        Table((Column("a"), Column("b")), (Section((TableRow(("1", "2", "3")),)),))
    with pytest.raises(ValueError, match="notes"):
        Table((Column("a"),), (Section((TableRow(("1",), (1,)),)),))


def test_the_best_of_each_column_is_bold_and_what_may_be_as_good():
    cells = [("a_", "1.0", "5.0"), ("b", "2.0", "–"), ("c", "2.0", "–")]
    values = [[None, 1.04, 5.0], [None, 2.01, None], [None, 1.99, None]]
    rows = best_marked([TableRow(each) for each in cells], values, lambda _, top, row: (top, row) == (1, 0))
    assert [row.best for row in rows] == [(), (1,), (1,)]  # the only figure of a column is no best
    untested = best_marked([TableRow(each) for each in cells], values, lambda *_: None)
    assert [row.best for row in untested] == [(), (), ()]
    table = Table((Column("m"), Column("x"), Column("y")), (Section(rows),))
    assert "| b | **2.0** | – |" in markdown(table)
    assert r"b & \textbf{2.0} & --" in latex(table)
    page = render(Document("t", (Part("p", "p", "", (table,)),)))
    assert page.count("<strong>2.0</strong>") == 2
    with pytest.raises(ValueError, match="best"):
        Table((Column("m"),), (Section((TableRow(("a",), best=(1,)),)),))


def test_a_table_for_a_thesis_has_a_label_and_neither_empty_columns_nor_places_of_this_machine() -> None:
    rows = (
        TableRow(("/home/ana/runs/mine", "–", "5.0", ""), (1,), (2,)),
        TableRow((r"C:\Users\ana\runs\other", "", "4.0", "–")),
    )
    notes = (
        "data /home/ana/cifar10/train (most: /home/ana/few/train) and /home/ana/cifar10/val, "
        "im/s and top-1/top-5 at https://a.org/b",
    )
    columns = tuple(Column(title) for title in ("Model", "Linear", "k-NN", "VOC"))
    set_table = latex(Table(columns, (Section(rows),), "All", notes), "voc-2")
    assert "\\caption{All}\n\\label{tab:voc-2}\n\\begin{tabular}{ll}" in set_table
    assert "Model & k-NN \\\\" in set_table
    assert "mine\\textsuperscript{1} & \\textbf{5.0} \\\\\nother & 4.0 \\\\" in set_table
    assert "data cifar10/train (most: few/train) and cifar10/val, im/s and top-1/top-5 at https://a.org/b" in set_table


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("/home/Ana María/my runs/mine", "mine"),
        (r"C:\Users\Ana María\my data\cifar10\val", "cifar10/val"),
        ("data /mnt/my  disk/x", "data my  disk/x"),  # no path: two spaces
        (
            "data /mnt/my disk/a b c/train and /mnt/my disk/val, 3 classes",
            "data a b c/train and my disk/val, 3 classes",
        ),
        ("of /data/train at 300 images/s and top-1/top-5", "of data/train at 300 images/s and top-1/top-5"),
        (
            "weights /runs/a. See k-NN and/or linear/probe (/mnt/my disk/b)",
            "weights a. See k-NN and/or linear/probe (b)",
        ),
        ("/data/train and cifar10/val; ~/my runs/last run", "data/train and cifar10/val; last run"),
    ],
)
def test_a_path_with_spaces_is_shortened_to_its_name(text: str, short: str) -> None:
    assert without_places(text) == short
