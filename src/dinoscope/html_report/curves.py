"""The section of curves: what was logged while the runs were trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dinoscope.html_report.runs import RunRecord
from dinoscope.html_report.words import listed
from dinoscope.methods.dino import DINOConfig
from dinoscope.methods.swav import SwAVConfig
from dinoscope.report.comparison_figure import svg
from dinoscope.report.html import Block, Figure, Notice, Section
from dinoscope.report.training_figure import Line, Look, Panel, looks, training_curves


@dataclass(frozen=True)
class _Value:
    """A panel: its title, the axis, the names in metrics.jsonl of which a run has one, and what it is divided by."""

    title: str
    unit: str
    names: tuple[str, ...]
    scale: float = 1.0
    bounded: bool = False
    """Whether the logarithm of the number of outputs is the most that it can be."""


@dataclass(frozen=True)
class _Figure:
    title: str
    values: tuple[_Value, ...]
    reading: str


_FIGURES = (
    _Figure(
        "Loss and accuracy",
        (_Value("Loss", "loss", ("loss",)), _Value("Online k-NN", "top-1 (%)", ("knn_top1",))),
        "Losses of different methods are different quantities: only their course can be compared. Online k-NN is "
        "measured during training on the run's own images (k = 20): to see how a run went, not to compare.",
    ),
    _Figure(
        "Teacher and student",
        (
            _Value("Entropy of the targets", "nats", ("teacher_entropy", "code_entropy"), bounded=True),
            _Value("Entropy of their mean", "nats", ("teacher_marginal_entropy",), bounded=True),
            _Value("KL from student to teacher", "nats", ("kl_teacher_student",)),
        ),
        "What the targets say (the teacher's outputs in DINO, the codes in SwAV). Healthy: the entropy of each target "
        "falls well below ln K, the entropy of their mean stays close to it, and the KL divergence falls. If the first "
        "stays at ln K, no image is told from another; if the second falls towards 0, all images get one answer.",
    ),
    _Figure(
        "Spread of what is learned",
        (
            _Value("Spread of the embeddings", "1 = isotropic", ("embedding_spread",)),
            _Value("RankMe of the features", "directions", ("rank_me",)),
            _Value("Spread of the features", "1 = isotropic", ("feature_spread",)),
        ),
        "Spread is 0 where all images have one embedding, which is collapse. RankMe counts the directions that "
        "features use, as an effective rank.",
    ),
    _Figure(
        "Schedules",
        (
            _Value("Learning rate", "rate", ("learning_rate",)),
            _Value("Weight decay", "decay", ("weight_decay",)),
            _Value("Teacher momentum", "momentum", ("teacher_momentum",)),
            _Value("Gradient norm", "norm, before clipping", ("gradient_norm",)),
        ),
        "Teacher momentum: of the moving average that the teacher (MoCo's key network, BYOL's target) is.",
    ),
    _Figure(
        "Speed",
        (
            _Value("Training speed", "images/s", ("images_per_second",)),
            _Value("Time spent waiting for data", "%", ("waiting_for_data",), scale=0.01),
        ),
        "Means over the last 50 steps. What else the machine did at the time shows here too.",
    ),
)


def curves_section(runs: Sequence[RunRecord], watch: Callable[[int, int], None]) -> Section:
    """One figure for each group of values that any run has. watch: told of figures done, of all."""
    styles = dict(zip((run.label for run in runs), looks([(run.label, run.method) for run in runs]), strict=True))
    blocks: list[Block] = []
    for done, figure in enumerate(_FIGURES):
        watch(done, len(_FIGURES))
        blocks += _figure(figure, runs, styles)
    watch(len(_FIGURES), len(_FIGURES))
    if not blocks:
        blocks = [Notice("Nothing was logged: metrics.jsonl is empty or missing.")]
    return Section("Curves", "curves", "How training went, epoch by epoch.", tuple(blocks))


def _figure(figure: _Figure, runs: Sequence[RunRecord], styles: dict[str, Look]) -> list[Block]:
    """The figure, without the panels that no run has values for; and whose values a panel lacks."""
    panels: list[Panel] = []
    missing: list[str] = []
    for value in figure.values:
        lines = {run.label: found for run in runs if (found := _line(run, value, styles[run.label]))}
        if not lines:
            continue
        having = [run for run in runs if run.label in lines]
        panels.append(Panel(value.title, value.unit, tuple(lines.values()), _levels(having) if value.bounded else ()))
        without = [run for run in runs if run.label not in lines]
        if without:
            missing.append(f"{value.title.lower()} ({_named(without, runs)})")
    if not panels:
        return []
    note = f" Not logged: {'; '.join(missing)}." if missing else ""
    named = f"{figure.title}. {figure.reading}{note}"
    titles = listed([panel.title.lower() for panel in panels])
    return [Figure(svg(training_curves(panels)).decode("utf-8"), named, f"{titles} over the epochs")]


def _line(run: RunRecord, value: _Value, look: Look) -> Line | None:
    for name in value.names:
        x, y = run.series(name)
        kept = [(at, each / value.scale) for at, each in zip(x, y, strict=True) if math.isfinite(each)]
        if kept:
            return Line(look, tuple(at for at, _ in kept), tuple(each for _, each in kept))
    return None


def _levels(runs: Sequence[RunRecord]) -> tuple[tuple[str, float], ...]:
    """ln K for every K that there is."""
    numbers = sorted({outputs for run in runs if (outputs := _outputs(run))})
    return tuple((f"ln K = {math.log(number):.2f} (K = {number:,})", math.log(number)) for number in numbers)


def _outputs(run: RunRecord) -> int | None:
    """K: outputs of DINO's head, or SwAV's prototypes."""
    method = run.config.method
    if isinstance(method, DINOConfig):
        return method.out_dim
    return method.num_prototypes if isinstance(method, SwAVConfig) else None


def _named(without: Sequence[RunRecord], runs: Sequence[RunRecord]) -> str:
    """Methods of which no run has it, and single runs of others."""
    lacking = {run.label for run in without}
    whole = [
        method
        for method in dict.fromkeys(run.method for run in without)
        if all(run.label in lacking for run in runs if run.method == method)
    ]
    return listed(whole + [run.label for run in without if run.method not in whole])
