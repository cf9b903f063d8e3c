"""The section of curves: what was logged while the runs were trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dinoscope.report.charts import line_chart, looks, svg
from dinoscope.report.page import Block, Figure, Gallery, Notice, Section
from dinoscope.report.runs import Material, RunRecord
from dinoscope.tables import Line, LineChart, LinePanel
from dinoscope.text import listed

_SIZE = (3.1, 1.7)  # inches of a panel: on paper three stand in a row, at three quarters of it


@dataclass(frozen=True)
class _Value:
    """A panel: its title, the unit, the names in metrics.jsonl of which a run has one, and how to read it.

    scale: what values are divided by. bounded: ln K is the maximum. accuracy: guessing is marked.
    of_several: how to read it matters only with several methods.
    """

    title: str
    unit: str
    names: tuple[str, ...]
    reading: str = ""
    scale: float = 1.0
    bounded: bool = False
    accuracy: bool = False
    of_several: bool = False


_FIGURES: dict[str, tuple[_Value, ...]] = {
    "Loss and accuracy": (
        _Value(
            "Loss",
            "loss",
            ("loss",),
            "Losses of different methods are different quantities: only their course can be compared.",
            of_several=True,
        ),
        _Value(
            "Online k-NN",
            "top-1 (%)",
            ("knn_top1",),
            "Online k-NN (k = 20) is measured during training on the run's own images at {sizes} px.",
            accuracy=True,
        ),
        _Value("Gradient norm", "norm", ("gradient_norm",), "The gradient is that of the network before clipping."),
    ),
    "Teacher and student": (
        _Value(
            "Entropy of the targets",
            "nats",
            ("teacher_entropy", "code_entropy"),
            "Targets are the teacher's outputs in DINO, the codes in SwAV. Healthy: the entropy of each falls well "
            "below ln K, the most that it can be. If it stays at ln K, no image is told from another.",
            bounded=True,
        ),
        _Value(
            "Entropy of their mean",
            "nats",
            ("teacher_marginal_entropy",),
            "Healthy: the entropy of their mean stays close to ln K. If it falls towards 0, all images get one answer.",
            bounded=True,
        ),
        _Value(
            "KL(teacher, student)",
            "nats",
            ("kl_teacher_student",),
            "KL divergence: how far the student's answers are from the teacher's.",
        ),
    ),
    "What the features use": (
        _Value(
            "Deviation of embeddings",
            "std. deviation",
            ("embedding_spread",),
            "Standard deviation of embeddings, which the loss sees, times the root of their length: 1 if they "
            "point in all directions alike, 0 if all images have the same one, which is complete collapse.",
        ),
        _Value(
            "Deviation of features",
            "std. deviation",
            ("feature_spread",),
            "Standard deviation of features, which are what is kept: likewise.",
        ),
        _Value(
            "RankMe",
            "directions",
            ("rank_me",),
            "RankMe: how many directions the features use, as an effective rank.",
        ),
    ),
    "Schedules": (
        _Value("Learning rate", "rate", ("learning_rate",)),
        _Value("Weight decay", "decay", ("weight_decay",)),
        _Value(
            "Teacher momentum",
            "momentum",
            ("teacher_momentum",),
            "Momentum: of the moving average that the teacher (MoCo's key network, BYOL's target network) is.",
        ),
    ),
    "Speed": (
        _Value("Training speed", "images/s", ("images_per_second",), "Means over the last 50 steps."),
        _Value(
            "Waiting for data",
            "% of the time",
            ("waiting_for_data",),
            "Other work of the machine at the time shows here too.",
            scale=0.01,
        ),
    ),
}


def section(material: Material) -> Section | None:
    """Draw one figure for each group of values that any run has; None without runs."""
    runs = material.runs
    if not runs:
        return None
    strokes = {line.label: line for line in looks([(run.label, run.method) for run in runs])}
    blocks: list[Block] = []
    with material.measuring.watch("drawing curves") as progress:
        for done, (title, values) in enumerate(_FIGURES.items(), 1):
            blocks += _figure(title, values, runs, strokes)
            progress(done, len(_FIGURES))
    if not blocks:
        blocks = [Notice("Nothing was logged: metrics.jsonl is empty or missing.")]
    return Section("Curves", "curves", "How training went, epoch by epoch.", tuple(blocks))


def _figure(title: str, values: Sequence[_Value], runs: Sequence[RunRecord], strokes: dict[str, Line]) -> list[Block]:
    """The panels that any run has values for; the caption tells how to read them, and which runs lack what."""
    drawings: list[Figure] = []
    readings: list[str] = []
    lacking: dict[str, list[str]] = {}
    hidden = False
    for value in values:
        lines = {run.label: found for run in runs if (found := _line(run, value, strokes[run.label]))}
        if without := [run for run in runs if run.label not in lines]:
            lacking.setdefault(_named(without, runs), []).append(value.title)
        if not lines:
            continue
        having = [run for run in runs if run.label in lines]
        levels = _ln_k(having) if value.bounded else _guessing(having) if value.accuracy else ()
        limits = (0, None) if value.bounded or value.accuracy else (None, None)
        panel = LinePanel(value.title, tuple(lines.values()), "epoch", value.unit, levels, limits=limits)
        drawing = svg(line_chart(LineChart("", value.title, (panel,)), _SIZE, legend=False))
        drawings.append(Figure(drawing.decode("utf-8"), "", f"{value.title} over the epochs"))
        hidden = hidden or len({(line.x, line.y) for line in lines.values()}) < len(lines)
        if value.reading and (not value.of_several or len({run.method for run in runs}) > 1):
            sizes = listed([str(size) for size in sorted({run.image_size for run in having})])
            readings.append(value.reading.format(sizes=sizes))
    if not drawings:
        return []
    notes = [f"Not logged{names}: {', '.join(titles)}." for names, titles in lacking.items()]
    notes += ["Lines of runs with the same values lie on each other; the last is seen."] if hidden else []
    caption = " ".join([f"{title}.", *readings, *notes])
    legend = tuple(strokes.values()) if len(runs) > 1 else ()
    return [Gallery(tuple(drawings), caption, min_width=205, columns=3, legend=legend)]


def _line(run: RunRecord, value: _Value, look: Line) -> Line | None:
    for name in value.names:
        points = [(x, y / value.scale) for x, y in zip(*run.series(name), strict=True) if math.isfinite(y)]
        if points:
            return replace(look, x=tuple(x for x, _ in points), y=tuple(y for _, y in points))
    return None


def _ln_k(runs: Sequence[RunRecord]) -> tuple[tuple[str, float], ...]:
    numbers = sorted({outputs for run in runs if (outputs := run.config.method.outputs)})
    return tuple((f"ln K = {math.log(number):.2f} (K = {number:,})", math.log(number)) for number in numbers)


def _guessing(runs: Sequence[RunRecord]) -> tuple[tuple[str, float], ...]:
    """The accuracy of guessing among classes of one size, for every number of classes that there is."""
    numbers = sorted({run.classes for run in runs if run.classes})
    return tuple((f"guessing: {100 / number:.3g} %", 100 / number) for number in numbers)


def _named(without: Sequence[RunRecord], runs: Sequence[RunRecord]) -> str:
    """By the methods of which no run has it, and single runs of others; nothing if that is all."""
    if len(without) == len(runs):
        return ""
    lacking = {run.label for run in without}
    whole = [
        method
        for method in dict.fromkeys(run.method for run in without)
        if all(run.label in lacking for run in runs if run.method == method)
    ]
    return " by " + listed(whole + [run.label for run in without if run.method not in whole])
