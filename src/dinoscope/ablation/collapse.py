"""DINO's two collapses, told from what was logged: one class for all images, or none that says anything.

The target's cross-entropy is its entropy h plus the KL divergence from it. Without centring one output takes all and
the entropy of the mean output goes to 0; without sharpening every output is even and h goes to ln K (DINO, Sec. 5.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dinoscope.ablation.grouping import Curve, Group
from dinoscope.ablation.records import AblationRun
from dinoscope.methods.health import ONE_HOT_SHARE, UNIFORM_ENTROPY_SHARE, UNIFORM_LOSS_SHARE

MARGINAL, ENTROPY, CROSS_ENTROPY = "teacher_marginal_entropy", "teacher_entropy", "cross_entropy"
"""Names of curves: the entropy of the teacher's mean output, the mean entropy of its outputs, and the student's
cross-entropy with them. Judged by the shares of ln K at which training warns."""
FEWEST_POINTS = 3
"""So many logged values in a row, to the end of the run, make a collapse."""


@dataclass(frozen=True)
class Collapse:
    """kind: "told": the run's state says so, its curves do not.

    step: the first logged one from which on it stayed there; None where told.
    first: whether it was there from the first logged value.
    value: the entropy at the end, in nats.
    """

    kind: Literal["one class", "even", "told"]
    step: int | None = None
    first: bool = False
    value: float = math.nan


def collapse_of(run: AblationRun, outputs: int | None) -> Collapse | None:
    """What the curves of a run show, else what its state says; None of a healthy or failed run."""
    if run.state == "failed":
        return None
    told = Collapse("told") if run.state == "collapsed" else None
    if outputs is not None:
        most = math.log(outputs)
        return (
            _stayed("one class", run.curves.get(MARGINAL, ()), -math.inf, ONE_HOT_SHARE * most)
            or _even(run, most)
            or told
        )
    return told


def _even(run: AblationRun, most: float) -> Collapse | None:
    """Since both the outputs and what the student makes of them have been; the latter where it was logged."""
    found = _stayed("even", run.curves.get(ENTROPY, ()), UNIFORM_ENTROPY_SHARE * most, math.inf)
    loss = run.curves.get(CROSS_ENTROPY, ())
    if found is None or not loss:
        return found
    student = _stayed("even", loss, UNIFORM_LOSS_SHARE * most, math.inf)
    if student is None:
        return None
    return replace(found, step=max(found.step or 0, student.step or 0), first=found.first and student.first)


def _stayed(kind: Literal["one class", "even"], curve: Curve, low: float, high: float) -> Collapse | None:
    found = stayed(curve, low, high)
    return None if found is None else Collapse(kind, found[0], found[0] == curve[0][0], found[1])


def stayed(curve: Curve, low: float, high: float) -> tuple[int, float] | None:
    """The first step from which on all values lie between low and high, and the last value.

    None where fewer than `FEWEST_POINTS` values at the end do. A value that is not finite does not.
    """
    since = len(curve)
    while since and low <= curve[since - 1][1] <= high and math.isfinite(curve[since - 1][1]):
        since -= 1
    return (curve[since][0], curve[-1][1]) if len(curve) - since >= FEWEST_POINTS else None


def collapses(group: Group) -> list[Collapse]:
    """Of the runs that did."""
    return [found for run in group.runs if (found := collapse_of(run, group.outputs)) is not None]


def kinds(found: Sequence[Collapse]) -> list[str]:
    """The kinds there are, without repetition."""
    return list(dict.fromkeys(each.kind for each in found))
