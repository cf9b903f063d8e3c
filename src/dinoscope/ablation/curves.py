"""Curves of a variant: mean over its seeds at each step, and how far the seeds lie apart."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from dinoscope.ablation.grouping import Curve
from dinoscope.evaluation.statistics import over_seeds

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
    """Over the curves of one variant, at the steps of the longest; None where nothing was logged.

    A curve that was logged or thinned at other steps is interpolated, never beyond its ends. A step logged twice
    counts as logged last.
    """
    every = [sorted(dict(curve).items()) for curve in curves if curve]
    if not every:
        return None
    steps = [step for step, _ in max(every, key=len)]
    found = [over_seeds([value for curve in every if (value := _value_at(curve, step)) is not None]) for step in steps]
    points = [point for point in found if point is not None]
    return Band(
        tuple(steps),
        tuple(point.mean for point in points),
        tuple(point.mean - (point.deviation or 0) for point in points),
        tuple(point.mean + (point.deviation or 0) for point in points),
        tuple(len(point.values) for point in points),
    )


def _value_at(curve: Sequence[tuple[int, float]], step: int) -> float | None:
    """Linear between what was logged; None before it and beyond."""
    after = bisect_left(curve, step, key=lambda point: point[0])
    if after == len(curve) or (after == 0 and curve[0][0] != step):
        return None
    (right, value), (left, before) = curve[after], curve[max(after - 1, 0)]
    return value if right == step else before + (value - before) * (step - left) / (right - left)
