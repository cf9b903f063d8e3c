"""An ablation study as files: table and reading as Markdown, values as CSV and JSON, one HTML page, figures."""

from __future__ import annotations

import itertools
import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure as Drawing

from dinoscope import files
from dinoscope.evaluation.statistics import over_seeds
from dinoscope.report import charts, page
from dinoscope.report.charts import COLUMN, PAGE, Bar, Effect, bars, effects, line_chart, svg
from dinoscope.report.tables import csv_text, escape_markdown, latex, markdown, markdown_paragraph
from dinoscope.study.effects import CONFIDENCE, KNN, AblationResult, Axis, Group, Study, arrange, largest_effects
from dinoscope.study.reading import axis_reading, axis_table, csv_table, study_reading
from dinoscope.study.results import FILE, to_json
from dinoscope.tables import Column, Line, LineChart, LinePanel, Section, Table, TableRow

FIGURES = "figures"
"""Folder of the figures, within the result's."""
FILES = (FILE, "ablation.md", "ablation.csv", "ablation.tex", "ablation.html")
"""Always written, next to the figures. The JSON first: all others can be made from it again."""
CURVES = {
    "knn_top1": "online k-NN top-1 (%)",
    "teacher_entropy": "teacher entropy (nats)",
    "teacher_marginal_entropy": "marginal entropy (nats)",
    "kl_teacher_student": "KL, teacher to student (nats)",
    "loss": "loss",
}
"""Name of a curve -> title of its panel, in order."""
ENTROPIES = ("teacher_entropy", "teacher_marginal_entropy")
"""Curves that ln K bounds."""
COMMAND = "command"
"""Key of the fact that is set as text to be copied."""

_OURS = re.compile(rf"(ranking|(bars|curves)-[\w-]+)\.({'|'.join(charts.FILES)})")
_COLUMN, _PAGE = 480, 1040  # CSS pixels that a figure of a column's and of a page's width is shown at
_RANKING = "Largest effect of each axis on k-NN top-1"


def write_result(
    result: AblationResult, out: Path, *, overwrite: bool, watch: Callable[[int, int], None] = lambda done, total: None
) -> list[Path]:
    """Write all files, each whole or not at all, and return them. Figures of an earlier study in `out` are deleted.

    watch: called with (figures drawn, figures in all).

    Raises UserError if `out` holds a result and is not to be overwritten, if it cannot be written, or if the result
    has two runs of one variant and seed.
    """
    claim(out, overwrite=overwrite)
    study, folder = arrange(result), out / FIGURES
    names = file_names(axis.name for axis in study.axes)
    figures = every_figure(study, names)

    def pictures() -> Iterator[tuple[str, bytes | None]]:
        wanted = {file for name in figures for file in charts.file_names(name)}
        present = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        yield from ((name, None) for name in present if _OURS.fullmatch(name) and name not in wanted)
        for number, (name, figure) in enumerate(figures.items(), 1):
            yield from charts.figure_files(name, figure)
            watch(number, len(figures))

    def encoded(texts: Mapping[str, str]) -> list[tuple[str, bytes]]:
        return [(name, text.encode("utf-8", errors="surrogateescape")) for name, text in texts.items()]

    written = files.write_all(out, encoded({FILE: to_json(result)}))
    if figures or folder.is_dir():
        written += files.write_all(folder, pictures())
    header, *rows = csv_table(result)
    texts = {
        "ablation.md": markdown_text(study, figures, names),
        "ablation.csv": csv_text(header, rows),
        "ablation.tex": latex_text(study, names),
        "ablation.html": html_text(study, figures, names),
    }
    return written + files.write_all(out, encoded(texts))


def claim(out: Path, *, overwrite: bool) -> None:
    """Raise UserError, before a study is run, for a folder that cannot be made or holds the result of one."""
    files.claim(out, FILES, overwrite=overwrite)
    files.claim(out / FIGURES, (), overwrite=overwrite)


def file_names(axes: Iterable[str]) -> dict[str, str]:
    """Return axis -> its part in the names of files: small letters, digits and hyphens, different for all."""
    names: dict[str, str] = {}
    for axis in axes:
        name = re.sub(r"[^a-z0-9]+", "-", axis.lower()).strip("-")[:60] or "axis"
        numbered = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
        names[axis] = next(one for one in numbered if one not in names.values())
    return names


# Figures


def every_figure(study: Study, names: Mapping[str, str]) -> dict[str, Drawing]:
    """Return name of a file, without its suffix -> figure, in the order of a reader, without those of no values.

    names: axis -> its part of the name.
    """
    figures = {"ranking": _ranking(study)}
    for axis in study.axes:
        figures[f"bars-{names[axis.name]}"] = axis_bars(axis)
        figures[f"curves-{names[axis.name]}"] = axis_curves(axis)
    return {name: figure for name, figure in figures.items() if figure is not None}


def _ranking(study: Study) -> Drawing | None:
    shown: list[Effect] = []
    for axis, group, _ in largest_effects(study):
        if group is not None and (found := group.difference) is not None:
            mark = "collapsed" if group.collapses else ""
            shown.append(Effect(f"{axis.name}: {group.label}", found.mean, found.low, found.high, mark))
    if not shown:
        return None
    note = f"Largest effect of each axis, {100 * CONFIDENCE:g} % interval over seeds. Hollow: 0 is not excluded."
    return effects(shown, "Largest effects on k-NN top-1", "difference (points)", note)


def axis_bars(axis: Axis) -> Drawing | None:
    variants = [_bar(group.label, group) for group in axis.groups]
    if all(bar.value is None for bar in variants):
        return None
    own = _bar(axis.baseline_label, axis.baseline)
    several = any(len(bar.values) > 1 for bar in variants)
    seeds = "Bars: mean, one standard deviation; dots: seeds." if several else "One seed."
    baseline = None if own.value is None else own
    note = f"{seeds} Dashed: the baseline."
    return bars(variants, baseline, axis.title, "k-NN top-1 (%)", note, place=axis.place)


def _bar(label: str, group: Group) -> Bar:
    summary = group.over_seeds(KNN)
    mark = "failed" if group.runs and not group.usable else "collapsed" if group.collapses else ""
    if summary is None:
        return Bar(label, None, mark=mark or "not measured")
    return Bar(label, summary.mean, summary.deviation, summary.values, mark)


def axis_curves(axis: Axis) -> Drawing | None:
    every = [_panel(name, axis) for name in CURVES]
    panels = [panel for panel in every if any(not line.baseline for line in panel.lines)]
    if not panels:
        return None
    several = any(len(group.usable) > 1 for _, group in axis.rows)
    note = f"{axis.title}. " + ("Mean over seeds; band: one standard deviation." if several else "One seed.")
    chart = LineChart("curves", axis.title, tuple(panels), note, ordered=axis.ordered and len(axis.groups) > 2)
    width = COLUMN if len(panels) == 1 else PAGE / min(len(panels), 3)
    return line_chart(chart, (width, 2.2), small=True)


def _panel(name: str, axis: Axis) -> LinePanel:
    lines: list[Line] = []
    for label, group in axis.rows:
        curves = [run.curves.get(name, ()) for run in group.usable]
        finite = [[(step, value) for step, value in curve if math.isfinite(value)] for curve in curves]
        lines += mean_lines(label, finite, baseline=group is axis.baseline)
    outputs = {group.outputs for _, group in axis.rows}
    shared = outputs.pop() if len(outputs) == 1 else None
    levels = (("ln K", math.log(shared)),) if name in ENTROPIES and shared else ()
    limits = (0, None) if levels else (None, None)
    return LinePanel(CURVES[name], tuple(lines), "step", levels=levels, limits=limits)


def mean_lines(label: str, curves: Iterable[Sequence[tuple[int, float]]], *, baseline: bool) -> list[Line]:
    """Return the mean of one variant's curves at the steps of the longest, as lines that break where it is of others.

    Around the mean of several there is a band of one sample deviation to either side. A curve that was logged or
    thinned at other steps is interpolated, never beyond its ends. A step logged twice counts as logged last.
    """
    ordered = [sorted(dict(curve).items()) for curve in curves if curve]
    points = []
    for step, _ in max(ordered, key=len, default=[]):
        summary = over_seeds([value for curve in ordered if (value := _value_at(curve, step)) is not None])
        if summary is not None:
            points.append((step, summary))
    lines: list[Line] = []
    for count, stretch in itertools.groupby(points, key=lambda point: len(point[1].values)):
        steps, summaries = zip(*stretch, strict=True)
        mean = tuple(one.mean for one in summaries)
        low, high = (
            tuple(one.mean + side * (one.deviation or 0) for one in summaries) if count > 1 else () for side in (-1, 1)
        )
        lines.append(Line(label, steps, mean, low, high, baseline=baseline))
    return lines


def _value_at(curve: Sequence[tuple[int, float]], step: int) -> float | None:
    after = bisect_left(curve, step, key=lambda point: point[0])
    if after == len(curve) or (after == 0 and curve[0][0] != step):
        return None
    (right, value), (left, before) = curve[after], curve[max(after - 1, 0)]
    return value if right == step else before + (value - before) * (step - left) / (right - left)


# Markdown


def markdown_text(study: Study, figures: Iterable[str], names: Mapping[str, str]) -> str:
    drawn = set(figures)

    def picture(name: str, title: str) -> list[str]:
        return [f"![{escape_markdown(title)}]({FIGURES}/{name}.png)"] if name in drawn else []

    parts = [f"# {escape_markdown(study.result.title or study.result.name)}", _bullets(study_reading(study))]
    parts += picture("ranking", _RANKING)
    for axis in study.axes:
        parts += [
            f"## {escape_markdown(axis.title)}",
            markdown(axis_table(axis)).strip(),
            _bullets(axis_reading(axis)),
            *picture(f"bars-{names[axis.name]}", f"k-NN top-1: {axis.name}"),
            *picture(f"curves-{names[axis.name]}", f"While training: {axis.name}"),
        ]
    if study.result.facts:
        parts += ["## How it was made", _bullets(f"{name}: {value}" for name, value in study.result.facts.items())]
    return "\n\n".join(parts) + "\n"


def _bullets(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {markdown_paragraph(sentence)}" for sentence in sentences)


def latex_text(study: Study, names: Mapping[str, str]) -> str:
    """Return a table for each axis, with its title as the caption, to be referred to as tab:ablation-NAME."""
    tables = ((axis.name, replace(axis_table(axis), caption=axis.title)) for axis in study.axes)
    return "\n".join(latex(table, f"ablation-{names[name]}") for name, table in tables)


# HTML


def html_text(study: Study, figures: Mapping[str, Drawing], names: Mapping[str, str]) -> str:
    result = study.result

    def drawn(name: str, caption: str, width: int) -> list[page.Block]:
        if name not in figures:
            return []
        return [page.Figure(svg(figures[name]).decode("utf-8"), f"{caption}.", caption, width)]

    overview = (page.Bullets(tuple(study_reading(study))), *drawn("ranking", _RANKING, _COLUMN))
    sections = [page.Section("Overview", "overview", blocks=overview)]
    for axis in study.axes:
        name = names[axis.name]
        warnings = {
            "Collapsed": ", ".join(group.label for group in axis.groups if group.collapses),
            "With failed runs": ", ".join(group.label for group in axis.groups if group.failed),
        }
        blocks: tuple[page.Block, ...] = (
            *(page.Notice(f"{what}: {labels}.", "warning") for what, labels in warnings.items() if labels),
            page.Bullets(tuple(axis_reading(axis))),
            axis_table(axis),
            *drawn(f"bars-{name}", f"k-NN top-1, {axis.title}", _COLUMN),
            *drawn(f"curves-{name}", f"While training, {axis.title}", _PAGE),
        )
        sections.append(page.Section(axis.name, f"axis-{name}", axis.title if axis.title != axis.name else "", blocks))
    titles = ("axis", "value", "seed", "state", "why", "folder")
    columns = tuple(Column(title, "right" if title == "seed" else "left") for title in titles)
    rows = tuple(
        TableRow((run.variant.axis, run.variant.label, str(run.seed), run.state, run.diagnosis, run.folder))
        for run in result.runs
    )
    runs = page.Folded(f"{len(rows)} runs", (Table(columns, (Section(rows),)),))
    sections.append(page.Section("Every run", "runs", "", (runs,)))
    if result.facts:
        command = [text for name, text in result.facts.items() if name == COMMAND]
        again = [block for text in command for block in (page.Paragraph("To run it again:"), page.Code(text))]
        pairs = tuple((name, value) for name, value in result.facts.items() if name != COMMAND)
        facts = (*again, page.KeyValues(pairs)) if pairs else (*again,)
        sections.append(page.Section("How it was made", "facts", "", facts))
    return page.render(page.Document(result.title or result.name, tuple(sections), f"Ablation study “{result.name}”"))
