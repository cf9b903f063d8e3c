"""The section of curves: what was logged while the runs were trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dinoscope.report.charts import line_chart, looks, svg
from dinoscope.report.page import Figure, Gallery, Notice, Section
from dinoscope.report.runs import Material, RunRecord
from dinoscope.tables import Line, LineChart, LinePanel
from dinoscope.text import listed

_SIZE = (3.1, 1.7)  # inches of a panel: on paper three stand in a row, at three quarters of it
Levels = tuple[tuple[str, float], ...]


def _ln_k(runs: Sequence[RunRecord]) -> Levels:
    """The maximum of an entropy, for every number of outputs that there is."""
    numbers = sorted({outputs for run in runs if (outputs := run.config.method.outputs)})
    return tuple((f"ln K = {math.log(number):.2f} (K = {number:,})", math.log(number)) for number in numbers)


def _guessing(runs: Sequence[RunRecord]) -> Levels:
    """The accuracy of guessing among classes of one size, for every number of classes that there is."""
    numbers = sorted({run.classes for run in runs if run.classes})
    return tuple((f"guessing: {100 / number:.3g} %", 100 / number) for number in numbers)


@dataclass(frozen=True)
class _Value:
    """A panel: its title, the unit, and the names in metrics.jsonl of which a run has one.

    levels: gives the lines across; the panel begins at 0 then. scale: values are divided by it. reading: how to read
    the panel.
    """

    title: str
    unit: str
    names: tuple[str, ...]
    levels: Callable[[Sequence[RunRecord]], Levels] | None = None
    scale: float = 1.0
    reading: str = ""


_DEVIATION = (
    "Standard deviation of embeddings, which the loss sees, and of features, which are kept, times the root of their "
    "length: 1 if they point in all directions alike, 0 if all images have the same one, which is complete collapse."
)

_FIGURES: dict[str, tuple[_Value, ...]] = {
    "Loss and accuracy": (
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
    "Teacher and student": (
        _Value(
            "Entropy of the targets",
            "nats",
            ("teacher_entropy", "code_entropy"),
            _ln_k,
            reading="Targets are the teacher's outputs in DINO, the codes in SwAV. Healthy: the entropy of each falls "
            "well below ln K, its maximum. If it stays there, the outputs do not distinguish images.",
        ),
        _Value(
            "Entropy of their mean",
            "nats",
            ("teacher_marginal_entropy",),
            _ln_k,
            reading="Healthy: the entropy of their mean stays close to ln K. If it falls towards 0, all images get one "
            "output.",
        ),
        _Value(
            "KL(teacher, student)",
            "nats",
            ("kl_teacher_student",),
            reading="KL divergence: how far the student's outputs are from the teacher's.",
        ),
    ),
    "What the features use": (
        _Value("Deviation of embeddings", "std. deviation", ("embedding_spread",), reading=_DEVIATION),
        _Value("Deviation of features", "std. deviation", ("feature_spread",), reading=_DEVIATION),
        _Value(
            "RankMe",
            "directions",
            ("rank_me",),
            reading="RankMe: the effective rank, how many directions the features use.",
        ),
    ),
    "Schedules": (
        _Value("Learning rate", "rate", ("learning_rate",)),
        _Value("Weight decay", "decay", ("weight_decay",)),
        _Value(
            "Teacher momentum",
            "momentum",
            ("teacher_momentum",),
            reading="Momentum: of the moving average that the teacher (MoCo's key network, BYOL's target network) is.",
        ),
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
"""Title of a figure -> its panels."""


def section(material: Material) -> Section | None:
    runs = material.runs
    if not runs:
        return None
    strokes = {line.label: line for line in looks([(run.label, run.method) for run in runs])}
    galleries: list[Gallery] = []
    with material.context.watch("drawing curves") as progress:
        for done, (title, values) in enumerate(_FIGURES.items(), 1):
            drawings, notes = _drawings(values, runs, strokes)
            if drawings:
                caption = " ".join([f"{title}.", *notes])
                legend = tuple(strokes.values()) if len(runs) > 1 else ()
                galleries.append(Gallery(tuple(drawings), caption, min_width=205, columns=3, legend=legend))
            progress(done, len(_FIGURES))
    blocks = tuple(galleries) or (Notice("Nothing was logged: metrics.jsonl is empty or missing."),)
    return Section("Curves", "curves", "How training went, epoch by epoch.", blocks)


def _drawings(
    values: Sequence[_Value], runs: Sequence[RunRecord], strokes: dict[str, Line]
) -> tuple[list[Figure], list[str]]:
    """Return the panels that any run has values for, and how to read them."""
    drawings: list[Figure] = []
    readings: list[str] = []
    lacking: dict[str, list[str]] = {}
    is_hidden = False
    for value in values:
        lines = {run.label: line for run in runs if (line := _line(run, value, strokes[run.label]))}
        having = [run for run in runs if run.label in lines]
        if len(having) < len(runs):
            lacking.setdefault(_without(having, runs), []).append(value.title)
        if not lines:
            continue
        sizes = listed([str(size) for size in sorted({run.image_size for run in having})])
        readings += [value.reading.format(sizes=sizes)] if value.reading else []
        levels, limits = (value.levels(having), (0, None)) if value.levels else ((), (None, None))
        panel = LinePanel(value.title, tuple(lines.values()), "epoch", value.unit, levels, limits=limits)
        drawing = svg(line_chart(LineChart("", value.title, (panel,)), _SIZE, legend=False)).decode("utf-8")
        drawings.append(Figure(drawing, "", f"{value.title} over the epochs"))
        is_hidden = is_hidden or len({(line.x, line.y) for line in lines.values()}) < len(lines)
    if len({run.method for run in runs}) > 1 and any(value.title == "Loss" for value in values):
        readings.insert(0, "Losses of different methods are different quantities: only their course can be compared.")
    notes = [
        *dict.fromkeys(readings),
        *(f"Not logged{names}: {', '.join(titles)}." for names, titles in lacking.items()),
    ]
    return drawings, notes + ["Lines of runs with the same values lie on each other; the last is seen."] * is_hidden


def _line(run: RunRecord, value: _Value, look: Line) -> Line | None:
    for name in value.names:
        points = [(x, y / value.scale) for x, y in zip(*run.series(name), strict=True) if math.isfinite(y)]
        if points:
            x, y = zip(*points, strict=True)
            return replace(look, x=x, y=y)
    return None


def _without(having: Sequence[RunRecord], runs: Sequence[RunRecord]) -> str:
    """The runs that lack a value, by method if none of its runs has it; nothing if that is all of them."""
    if not having:
        return ""
    methods, lacking = {run.method for run in having}, [run for run in runs if run not in having]
    names = [run.method for run in lacking if run.method not in methods]
    names += [run.label for run in lacking if run.method in methods]
    return f" by {listed(list(dict.fromkeys(names)))}"
