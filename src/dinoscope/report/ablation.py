"""An ablation study as files: table and reading as Markdown, values as CSV and JSON, one HTML page, figures."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from matplotlib.figure import Figure as Drawing

from dinoscope import files
from dinoscope.evaluation.statistics import over_seeds
from dinoscope.files import write_all
from dinoscope.report.charts import COLUMN, PAGE, Bar, Effect, bars, effects, line_chart, pdf, png, svg
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
from dinoscope.report.tables import csv_text, escape_markdown, markdown, markdown_paragraph
from dinoscope.study.effects import (
    CONFIDENCE,
    CURVES,
    ENTROPIES,
    KNN,
    AblationResult,
    Axis,
    Band,
    Group,
    Study,
    arrange,
    band,
    collapses,
    importances,
)
from dinoscope.study.reading import axis_reading, axis_table, csv_header, csv_rows, study_reading
from dinoscope.study.results import FILE, to_json
from dinoscope.tables import Column, Line, LineChart, LinePanel, Table, TableRow
from dinoscope.tables import Section as Rows

FIGURES = "figures"
"""Folder of the figures, within the result's."""

KINDS: dict[str, Callable[[Drawing], bytes]] = {"svg": svg, "pdf": pdf, "png": png}

FILES = (FILE, "ablation.md", "ablation.csv", "ablation.html")
"""Always written, next to the figures. The JSON first: all others can be made from it again."""

KNN_TITLE = "k-NN top-1 (%)"
COMMAND = "command"
"""Key of the fact that is set as text to be copied."""

_OURS = re.compile(rf"(ranking|(bars|curves)-[\w-]+)\.({'|'.join(KINDS)})")
_COLUMN, _PAGE = 480, 1040  # CSS pixels that a figure of a column's and of a page's width is shown at


def write_result(
    result: AblationResult, out: Path, overwrite: bool, watch: Callable[[int, int], None] | None = None
) -> list[Path]:
    """Write all files, each whole or not at all, and return them. Figures of an earlier study in `out` are deleted.

    watch: is told how many of how many figures are drawn.

    Raises UserError if `out` holds a result and is not to be overwritten, if it cannot be written, or if the result
    has two runs of one variant and seed.
    """
    claim(out, overwrite=overwrite)
    study = arrange(result)
    names = file_names([axis.name for axis in study.axes])
    figures = {name: figure for name, figure in every_figure(study, names).items() if figure is not None}
    written = write_all(out, [(FILE, _bytes(to_json(result)))])
    if figures or (out / FIGURES).is_dir():
        written += write_all(out / FIGURES, _pictures(out / FIGURES, figures, watch))
    texts = {
        "ablation.md": markdown_text(study, list(figures), names),
        "ablation.csv": csv_text(csv_header(result), csv_rows(result)),
        "ablation.html": page(study, figures, names),
    }
    return written + write_all(out, ((name, _bytes(text)) for name, text in texts.items()))


def claim(out: Path, *, overwrite: bool) -> None:
    """Raise UserError, before a study is run, for a folder that cannot be made or holds the result of one."""
    files.claim(out, FILES, overwrite=overwrite)
    files.claim(out / FIGURES, (), overwrite=overwrite)


def file_names(axes: Iterable[str]) -> dict[str, str]:
    """Return axis -> its part in the names of files: small letters, digits and hyphens, different for all."""
    names: dict[str, str] = {}
    for axis in axes:
        name = re.sub(r"[^a-z0-9]+", "-", axis.lower()).strip("-")[:60] or "axis"
        number = 1
        while (numbered := name if number == 1 else f"{name}-{number}") in names.values():
            number += 1
        names[axis] = numbered
    return names


def _pictures(
    folder: Path, drawn: Mapping[str, Drawing], watch: Callable[[int, int], None] | None
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


# --- figures ----------------------------------------------------------------------------------------------------------


def every_figure(study: Study, names: Mapping[str, str]) -> dict[str, Drawing | None]:
    """Return name of a file, without its suffix -> figure, in the order of a reader.

    names: axis -> its part of the name.
    """
    found: dict[str, Drawing | None] = {"ranking": ranking(study)}
    for axis in study.axes:
        found[f"bars-{names[axis.name]}"] = axis_bars(axis, study.baseline)
        found[f"curves-{names[axis.name]}"] = axis_curves(axis, study.baseline)
    return found


def ranking(study: Study) -> Drawing | None:
    """Draw the largest effect of each axis; None if there is none."""
    every = [
        Effect(
            f"{one.axis.name}: {one.largest.group.label}",
            one.largest.difference.mean,
            one.largest.difference.low,
            one.largest.difference.high,
            "collapsed" if one.largest.collapsed else "",
        )
        for one in importances(study)
        if one.largest is not None
    ]
    if not every:
        return None
    note = f"Largest effect of each axis, {100 * CONFIDENCE:g} % interval over seeds. Hollow: 0 is not excluded."
    return effects(every, "Largest effects on k-NN top-1", "difference (points)", note)


def axis_bars(axis: Axis, baseline: Group) -> Drawing | None:
    """Draw k-NN top-1 of an axis's variants next to the baseline; None if none was measured."""
    every = [_bar(group) for group in axis.groups]
    if all(bar.value is None for bar in every):
        return None
    own = _bar(baseline, axis.name_of(baseline, baseline))
    several = any(len(bar.values) > 1 for bar in every)
    seeds = "Bars: mean, one standard deviation; dots: seeds." if several else "One seed."
    shown = None if own.value is None else own
    return bars(every, shown, axis.title, KNN_TITLE, f"{seeds} Dashed: the baseline.", place=axis.baseline_place)


def _bar(group: Group, label: str = "") -> Bar:
    found = over_seeds(list(group.values(KNN).values()))
    mark = "failed" if group.runs and not group.lasting else "collapsed" if collapses(group) else ""
    if found is None:
        return Bar(label or group.label, None, mark=mark or "not measured")
    return Bar(label or group.label, found.mean, found.deviation, found.values, mark)


def axis_curves(axis: Axis, baseline: Group) -> Drawing | None:
    """Draw what was logged of an axis's variants and the baseline; None if nothing was."""
    groups = axis.rows(baseline)
    panels = [_panel(name, axis, baseline) for name in CURVES]
    panels = [panel for panel in panels if any(not line.baseline for line in panel.lines)]
    if not panels:
        return None
    several = any(len(group.lasting) > 1 for group in groups)
    note = f"{axis.title}. " + ("Mean over seeds; band: one standard deviation." if several else "One seed.")
    chart = LineChart("curves", axis.title, tuple(panels), note, ordered=axis.ordered and len(axis.groups) > 2)
    width = COLUMN if len(panels) == 1 else PAGE / min(len(panels), 3)
    return line_chart(chart, (width, 2.2), small=True)


def _panel(name: str, axis: Axis, baseline: Group) -> LinePanel:
    title, unit = CURVES[name]
    lines = [
        line
        for group in axis.rows(baseline)
        if (found := band(group.curves(name))) is not None
        for line in stretches(axis.name_of(group, baseline), found, baseline=group is baseline)
    ]
    outputs = {group.outputs for group in (baseline, *axis.groups)}
    shared = outputs.pop() if len(outputs) == 1 else None
    levels = (("ln K", math.log(shared)),) if name in ENTROPIES and shared else ()
    limits = (0, None) if levels else (None, None)
    return LinePanel(f"{title} ({unit})" if unit else title, tuple(lines), "step", levels=levels, limits=limits)


def stretches(label: str, curve: Band, *, baseline: bool) -> list[Line]:
    """Return the curve as lines that break where the mean is of other runs, with a band where it is of several."""
    counts = curve.runs
    begins = [at for at in range(len(counts)) if at == 0 or counts[at] != counts[at - 1]]
    lines: list[Line] = []
    for begin, end in zip(begins, [*begins[1:], len(counts)], strict=True):
        several = counts[begin] > 1
        low, high = (curve.low[begin:end], curve.high[begin:end]) if several else ((), ())
        lines.append(Line(label, curve.steps[begin:end], curve.mean[begin:end], low, high, baseline=baseline))
    return lines


# --- Markdown ---------------------------------------------------------------------------------------------------------


def markdown_text(study: Study, figures: Iterable[str], names: Mapping[str, str]) -> str:
    """Return `ablation.md`: the reading, a table for each axis, the figures that were drawn, and the facts."""
    drawn = set(figures)

    def picture(name: str, title: str) -> list[str]:
        return [f"![{escape_markdown(title)}]({FIGURES}/{name}.png)"] if name in drawn else []

    parts = [f"# {escape_markdown(study.result.title or study.result.name)}", _bullets(study_reading(study))]
    parts += picture("ranking", "Largest effect of each axis on k-NN top-1")
    for axis in study.axes:
        parts += [
            f"## {escape_markdown(axis.title)}",
            markdown(axis_table(axis, study.baseline)).strip(),
            _bullets(axis_reading(axis, study.baseline)),
            *picture(f"bars-{names[axis.name]}", f"k-NN top-1: {axis.name}"),
            *picture(f"curves-{names[axis.name]}", f"While training: {axis.name}"),
        ]
    if study.result.facts:
        parts += ["## How it was made", _bullets(f"{name}: {value}" for name, value in study.result.facts.items())]
    return "\n\n".join(parts) + "\n"


def _bullets(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {markdown_paragraph(sentence)}" for sentence in sentences)


# --- HTML -------------------------------------------------------------------------------------------------------------


def page(study: Study, figures: Mapping[str, Drawing | None], names: Mapping[str, str]) -> str:
    """Return the text of one self-contained HTML page. figures, names: as of `every_figure`."""

    def drawn(name: str, caption: str, width: int) -> list[Block]:
        found = figures.get(name)
        return [] if found is None else [Figure(svg(found).decode("utf-8"), f"{caption}.", caption, width)]

    sections = [
        Section(
            "Overview",
            "overview",
            blocks=(
                Bullets(tuple(study_reading(study))),
                *drawn("ranking", "Largest effect of each axis on k-NN top-1", _COLUMN),
            ),
        )
    ]
    for axis in study.axes:
        name = names[axis.name]
        collapsed = [group.label for group in axis.groups if collapses(group)]
        failed = [group.label for group in axis.groups if group.failed]
        warnings = [f"Collapsed: {', '.join(collapsed)}."] * bool(collapsed)
        warnings += [f"With failed runs: {', '.join(failed)}."] * bool(failed)
        blocks: list[Block] = [
            *(Notice(text, "warning") for text in warnings),
            Bullets(tuple(axis_reading(axis, study.baseline))),
            axis_table(axis, study.baseline),
            *drawn(f"bars-{name}", f"k-NN top-1, {axis.title}", _COLUMN),
            *drawn(f"curves-{name}", f"While training, {axis.title}", _PAGE),
        ]
        lead = axis.title if axis.title != axis.name else ""
        sections.append(Section(axis.name, f"axis-{name}", lead, tuple(blocks)))
    sections.append(Section("Every run", "runs", "", (_runs(study),)))
    if facts := study.result.facts:
        again = (Paragraph("To run it again:"), Code(facts[COMMAND])) if COMMAND in facts else ()
        pairs = tuple((name, value) for name, value in facts.items() if name != COMMAND)
        sections.append(Section("How it was made", "facts", "", (*again, *((KeyValues(pairs),) if pairs else ()))))
    title = study.result.title or study.result.name
    return render(Document(title, tuple(sections), f"Ablation study “{study.result.name}”"))


def _runs(study: Study) -> Folded:
    columns = tuple(Column(title, "right" if title == "seed" else "left") for title in _RUN_COLUMNS)
    rows = tuple(
        TableRow((run.variant.axis, run.variant.label, str(run.seed), run.state, run.diagnosis, run.folder))
        for run in study.result.runs
    )
    return Folded(f"{len(rows)} runs", (Table(columns, (Rows(rows),)),))


_RUN_COLUMNS = ("axis", "value", "seed", "state", "why", "folder")
