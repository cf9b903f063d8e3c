"""The section of curves: what was logged while the runs were trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dinoscope.methods import METHODS
from dinoscope.methods.method import DEVIATION_READING, FEATURES, LOSS_PARTS, SCHEDULES, TEACHER_AND_STUDENT, Curve
from dinoscope.report.charts import line_chart, looks, svg
from dinoscope.report.page import Figure, Gallery, Notice, Section
from dinoscope.report.runs import Material, RunRecord
from dinoscope.tables import Line, LineChart, LinePanel
from dinoscope.text import Phrase, joined, listed

_SIZE = (3.1, 1.7)  # inches of a panel: on paper three stand in a row, at three quarters of it
Levels = tuple[tuple[str, float], ...]


def _ln_k(runs: Sequence[RunRecord]) -> Levels:
    """The maximum of an entropy, for every number of outputs that there is."""
    numbers = sorted({outputs for run in runs if (outputs := run.config.method.outputs)})
    return tuple((f"ln K = {math.log(number):.2f} (K = {number:,})", math.log(number)) for number in numbers)


def _guessing(runs: Sequence[RunRecord]) -> Levels:
    """The accuracy of guessing among classes of one size, for every number of classes that there is."""
    numbers = sorted({run.classes for run in runs if run.classes})
    return tuple((Phrase("guessing: {share:.3g} %", share=100 / number), 100 / number) for number in numbers)


@dataclass(frozen=True)
class _Value:
    """A panel: its title, the unit, and the names in metrics.jsonl of which a run has one.

    levels: gives the lines across; the panel begins at 0 then. scale: values are divided by it. reading: how to read
    the panel. optional: not every run has it, which needs no mention.
    """

    title: str
    unit: str
    names: tuple[str, ...]
    levels: Callable[[Sequence[RunRecord]], Levels] | None = None
    scale: float = 1.0
    reading: str = ""
    optional: bool = False


LOSS = "Loss and accuracy"
_FIGURES: dict[str, tuple[_Value, ...]] = {
    LOSS: (
        _Value("Loss", "loss", ("loss",)),
        _Value(
            "Online k-NN",
            "top-1 (%)",
            ("knn_top1",),
            _guessing,
            reading="Online k-NN (k = 20) is measured during training on the run's own images at {sizes} px.",
        ),
        _Value(
            "Gradient norm",
            "norm",
            ("gradient_norm",),
            reading="The gradient is that of the network before clipping.",
        ),
    ),
    LOSS_PARTS: (),
    TEACHER_AND_STUDENT: (),
    FEATURES: (
        _Value("Deviation of features", "std. deviation", ("feature_spread",), reading=DEVIATION_READING),
        _Value(
            "RankMe",
            "directions",
            ("rank_me",),
            reading="RankMe: the effective rank, how many directions the features use.",
        ),
    ),
    SCHEDULES: (
        _Value("Learning rate", "rate", ("learning_rate",)),
        _Value("Weight decay", "decay", ("weight_decay",)),
    ),
    "Speed": (
        _Value(
            "Training speed",
            "images/s",
            ("images_per_second",),
            reading="Means over the last 50 steps. Other work of the machine at the time shows here too.",
        ),
        _Value("Waiting for data", "% of the time", ("waiting_for_data",), scale=0.01),
    ),
}
"""Title of a figure -> the panels of what every run logs; those of the methods follow."""


def _figures(runs: Sequence[RunRecord]) -> dict[str, tuple[_Value, ...]]:
    """Add the panels that the methods of the runs describe."""
    curves = dict.fromkeys(curve for run in runs for curve in METHODS[run.method_key].curves)
    shared: dict[tuple[str, str], list[Curve]] = {}
    for curve in curves:
        shared.setdefault((curve.figure, curve.title), []).append(curve)
    figures = dict(_FIGURES)
    for (figure, title), group in shared.items():
        first, names = group[0], tuple(curve.name for curve in group)
        levels = _ln_k if first.entropy else None
        panel = _Value(title, first.unit, names, levels, reading=first.reading, optional=first.optional)
        figures[figure] = (*figures.get(figure, ()), panel)
    return figures


def section(material: Material) -> Section | None:
    runs = material.runs
    if not runs:
        return None
    with material.context.watch("drawing curves") as progress:
        blocks = galleries(runs, progress) or [Notice("Nothing was logged: metrics.jsonl is empty or missing.")]
    return Section("Curves", "curves", "How training went, epoch by epoch.", tuple(blocks))


def galleries(
    runs: Sequence[RunRecord],
    progress: Callable[[int, int], None],
    titles: Sequence[str] | None = None,
    say: Callable[[str], str] = str,
) -> list[Gallery]:
    """Draw the figures that any run has values for.

    titles: draw these alone. say: gives the texts, which are `Phrase`s, in the language of the reader.
    """
    strokes = {line.label: line for line in looks([(run.label, run.method) for run in runs])}
    figures = {title: values for title, values in _figures(runs).items() if titles is None or title in titles}
    drawn: list[Gallery] = []
    for done, (title, values) in enumerate(figures.items(), 1):
        drawings, notes = _drawings(values, runs, strokes, say)
        if drawings:
            caption = say(joined([Phrase("{title}.", title=title), *notes]))
            legend = tuple(strokes.values()) if len(runs) > 1 else ()
            drawn.append(Gallery(tuple(drawings), caption, min_width=205, columns=3, legend=legend))
        progress(done, len(figures))
    return drawn


def _drawings(
    values: Sequence[_Value], runs: Sequence[RunRecord], strokes: dict[str, Line], say: Callable[[str], str]
) -> tuple[list[Figure], list[str]]:
    """Return the panels that any run has values for, and how to read them."""
    drawings: list[Figure] = []
    readings: list[str] = []
    lacking: dict[tuple[str, ...], list[str]] = {}
    is_hidden = False
    for value in values:
        lines = {run.label: line for run in runs if (line := _line(run, value, strokes[run.label]))}
        having = [run for run in runs if run.label in lines]
        if len(having) < len(runs) and not (value.optional and not having):
            lacking.setdefault(_without(having, runs), []).append(value.title)
        if not lines:
            continue
        sizes = listed([str(size) for size in sorted({run.image_size for run in having})])
        readings += [Phrase(value.reading, sizes=sizes)] if value.reading else []
        levels, limits = (value.levels(having), (0, None)) if value.levels else ((), (None, None))
        levels, title = tuple((say(name), height) for name, height in levels), say(value.title)
        panel = LinePanel(title, tuple(lines.values()), say("epoch"), say(value.unit), levels, limits=limits)
        drawing = svg(line_chart(LineChart("", title, (panel,)), _SIZE, legend=False)).decode("utf-8")
        drawings.append(Figure(drawing, "", say(Phrase("{title} over the epochs", title=value.title))))
        is_hidden = is_hidden or len({(line.x, line.y) for line in lines.values()}) < len(lines)
    if len({run.method for run in runs}) > 1 and any(value.title == "Loss" for value in values):
        readings.insert(0, "Losses of different methods are different quantities: only their course can be compared.")
    notes = [
        *dict.fromkeys(readings),
        *(_not_logged(names, joined(titles, ", ")) for names, titles in lacking.items()),
    ]
    return drawings, notes + ["Lines of runs with the same values lie on each other; the last is seen."] * is_hidden


def _line(run: RunRecord, value: _Value, look: Line) -> Line | None:
    for name in value.names:
        points = [(x, y / value.scale) for x, y in zip(*run.series(name), strict=True) if math.isfinite(y)]
        if points:
            x, y = zip(*points, strict=True)
            return replace(look, x=x, y=y)
    return None


def _not_logged(names: Sequence[str], titles: str) -> Phrase:
    if names:
        return Phrase("Not logged by {names}: {titles}.", names=listed(names), titles=titles)
    return Phrase("Not logged: {titles}.", titles=titles)


def _without(having: Sequence[RunRecord], runs: Sequence[RunRecord]) -> tuple[str, ...]:
    """The runs that lack a value, by method if none of its runs has it; nothing if that is all of them."""
    if not having:
        return ()
    methods, lacking = {run.method for run in having}, [run for run in runs if run not in having]
    names = [run.method for run in lacking if run.method not in methods]
    names += [run.label for run in lacking if run.method in methods]
    return tuple(dict.fromkeys(names))
