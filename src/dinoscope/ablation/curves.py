"""Curves of a variant: mean over its seeds at each step, and how far the seeds lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dinoscope.ablation.grouping import Curve
from dinoscope.ablation.statistics import spread

CURVES = {
    "knn_top1": ("online k-NN top-1", "%"),
    "teacher_entropy": ("teacher entropy", "nats"),
    "teacher_marginal_entropy": ("marginal entropy", "nats"),
    "kl_teacher_student": ("KL, teacher to student", "nats"),
    "loss": ("loss", ""),
}
"""Name of a curve -> title, unit; in the order of the panels."""

ENTROPIES = ("teacher_entropy", "teacher_marginal_entropy")
"""Those that ln K bounds."""


@dataclass(frozen=True)
class Band:
    """Mean of the seeds that logged each step, one sample deviation to either side (none of one seed).

    runs: how many they are. Where that changes, the mean is of others, and no line should be drawn across.
    """

    steps: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    runs: tuple[int, ...]


def band(curves: Sequence[Curve]) -> Band | None:
    """Over the curves of one variant; None where nothing was logged. A step logged twice counts as logged last."""
    every = [dict(curve) for curve in curves]
    steps = sorted({step for curve in every for step in curve})
    found = [spread([curve[step] for curve in every if step in curve]) for step in steps]
    points = [point for point in found if point is not None]
    if not points:
        return None
    return Band(
        tuple(steps),
        tuple(point.mean for point in points),
        tuple(point.mean - (point.deviation or 0) for point in points),
        tuple(point.mean + (point.deviation or 0) for point in points),
        tuple(len(point.values) for point in points),
    )
