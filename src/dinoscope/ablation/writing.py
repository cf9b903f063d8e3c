"""From a study's result to a folder: table and reading as Markdown, values as CSV and JSON, a page, figures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from matplotlib.figure import Figure

from dinoscope import files
from dinoscope.ablation.axis_table import CSV_HEADER, axis_table, csv_rows
from dinoscope.ablation.figures import every_figure
from dinoscope.ablation.grouping import Axis, Study, arrange
from dinoscope.ablation.page import page
from dinoscope.ablation.reading import axis_reading, study_reading
from dinoscope.ablation.records import AblationResult
from dinoscope.ablation.storing import FILE, to_json
from dinoscope.files import write_all
from dinoscope.report.charts import pdf, png, svg
from dinoscope.report.tables import csv_text, escape_markdown, markdown, markdown_paragraph

FIGURES = "figures"
"""Folder of the figures, within the result's."""

KINDS: dict[str, Callable[[Figure], bytes]] = {"svg": svg, "pdf": pdf, "png": png}

FILES = (FILE, "ablation.md", "ablation.csv", "ablation.html")
"""Always written, beside the figures. The JSON first: all others can be made from it again."""

_OURS = re.compile(rf"(ranking|(bars|curves)-[\w-]+)\.({'|'.join(KINDS)})")


def write_result(
    result: AblationResult, out: Path, overwrite: bool, watch: Callable[[int, int], None] | None = None
) -> list[Path]:
    """Write all files, each whole or not at all, and return them. Figures of an earlier study in `out` go.

    watch: is told how many of how many figures are drawn.

    Raises UserError where `out` holds a result and is not to be overwritten, where it cannot be written, or where
    the result has two runs of one variant and seed.
    """
    claim(out, overwrite=overwrite)
    study = arrange(result)
    names = file_names([axis.name for axis in study.axes])
    figures = every_figure(study, names)
    drawn = {name: figure for name, figure in figures.items() if figure is not None}
    written = write_all(out, [(FILE, _bytes(to_json(result)))])
    if drawn or (out / FIGURES).is_dir():
        written += write_all(out / FIGURES, _pictures(out / FIGURES, drawn, watch))
    texts = {
        "ablation.md": markdown_text(study, list(drawn), names),
        "ablation.csv": csv_text(CSV_HEADER, csv_rows(result)),
        "ablation.html": page(study, drawn, names),
    }
    return written + write_all(out, ((name, _bytes(text)) for name, text in texts.items()))


def claim(out: Path, *, overwrite: bool) -> None:
    """Refuse, before a study is run, a folder that cannot be made or holds the result of one.

    Raises UserError.
    """
    files.claim(out, FILES, overwrite=overwrite)
    files.claim(out / FIGURES, (), overwrite=overwrite)


def file_names(axes: Iterable[str]) -> dict[str, str]:
    """Axis -> its part in the names of files: small letters, digits and hyphens, different for all."""
    names: dict[str, str] = {}
    for axis in axes:
        name = re.sub(r"[^a-z0-9]+", "-", axis.lower()).strip("-")[:60] or "axis"
        number = 1
        while (numbered := name if number == 1 else f"{name}-{number}") in names.values():
            number += 1
        names[axis] = numbered
    return names


def markdown_text(study: Study, figures: Iterable[str], names: Mapping[str, str]) -> str:
    """`ablation.md`: the reading, a table for each axis, the figures, and the facts. figures: those there are."""
    drawn = set(figures)
    parts = [f"# {escape_markdown(study.result.title or study.result.name)}", _bullets(study_reading(study))]
    parts += _picture("ranking", "Largest effect of each axis on k-NN top-1", drawn)
    for axis in study.axes:
        parts += _axis(axis, study, names[axis.name], drawn)
    if study.result.facts:
        facts = [f"{name}: {value}" for name, value in study.result.facts.items()]
        parts += ["## How it was made", _bullets(facts)]
    return "\n\n".join(parts) + "\n"


def _axis(axis: Axis, study: Study, name: str, drawn: set[str]) -> list[str]:
    return [
        f"## {escape_markdown(axis.title)}",
        markdown(axis_table(axis, study.base)).strip(),
        _bullets(axis_reading(axis, study.base)),
        *_picture(f"bars-{name}", f"k-NN top-1: {axis.name}", drawn),
        *_picture(f"curves-{name}", f"While training: {axis.name}", drawn),
    ]


def _picture(name: str, title: str, drawn: set[str]) -> list[str]:
    return [f"![{escape_markdown(title)}]({FIGURES}/{name}.png)"] if name in drawn else []


def _bullets(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {markdown_paragraph(sentence)}" for sentence in sentences)


def _pictures(
    folder: Path, drawn: Mapping[str, Figure], watch: Callable[[int, int], None] | None
) -> Iterator[tuple[str, bytes | None]]:
    """Every figure in every format; None for what an earlier study left."""
    new = {f"{name}.{kind}" for name in drawn for kind in KINDS}
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    yield from ((name, None) for name in there if _OURS.fullmatch(name) and name not in new)
    for number, (name, figure) in enumerate(drawn.items(), 1):
        yield from ((f"{name}.{kind}", make(figure)) for kind, make in KINDS.items())
        if watch is not None:
            watch(number, len(drawn))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogateescape")
