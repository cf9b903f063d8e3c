"""What the axes of a study do to k-NN, which of them matters most, and whether it could be known without labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dinoscope.ablation.collapse import collapses
from dinoscope.ablation.grouping import Axis, Group, Study
from dinoscope.ablation.statistics import Agreement, Difference, agreement, paired_difference
from dinoscope.evaluation.statistics import over_seeds

KNN = "knn_top1"


@dataclass(frozen=True)
class Effect:
    """A variant and its difference from the base. collapsed: in any of its runs."""

    group: Group
    difference: Difference
    collapsed: bool


@dataclass(frozen=True)
class Importance:
    """The largest effect of an axis on k-NN top-1.

    largest: of all its variants, those first whose interval excludes 0: one that varies much would hide them. None
        where none was measured beside the base.
    healthy: of those that did not collapse, where the largest is of one that did.
    failed: labels of variants of which no run is left; they have no effect.
    """

    axis: Axis
    largest: Effect | None
    healthy: Effect | None
    failed: tuple[str, ...]


@dataclass(frozen=True)
class LabelFree:
    """Whether a measure without labels orders the variants as k-NN does. None: too few, or all alike.

    every: base and all variants; healthy: those that did not collapse.
    """

    title: str
    every: Agreement | None
    healthy: Agreement | None
    variants: int


def effect(group: Group, base: Group, measure: str = KNN) -> Difference | None:
    """The difference of a variant's measure from the base's, paired by seed."""
    return paired_difference(group.values(measure), base.values(measure))


def importances(study: Study) -> tuple[Importance, ...]:
    """Axes from the largest effect to the smallest; those without any last."""
    found = [_importance(axis, study.base) for axis in study.axes]
    return tuple(sorted(found, key=lambda one: -abs(one.largest.difference.mean) if one.largest else math.inf))


def _importance(axis: Axis, base: Group) -> Importance:
    effects = [
        Effect(group, difference, bool(collapses(group)))
        for group in axis.groups
        if (difference := effect(group, base)) is not None
    ]
    largest = _largest(effects)
    healthy = _largest([one for one in effects if not one.collapsed]) if largest and largest.collapsed else None
    return Importance(axis, largest, healthy, tuple(group.label for group in axis.groups if not group.lasting))


def _largest(effects: Sequence[Effect]) -> Effect | None:
    return max(effects, key=lambda one: (one.difference.shown, abs(one.difference.mean)), default=None)


def mean(group: Group, measure: str) -> float | None:
    """Of the runs that have it."""
    found = over_seeds(list(group.values(measure).values()))
    return None if found is None else found.mean


def entropy_share(group: Group) -> float | None:
    """The teacher's entropy as a share of ln K: 0 for one output, 1 for none that stands out."""
    found = mean(group, "teacher_entropy")
    return None if found is None or group.outputs is None else found / math.log(group.outputs)


def label_free(study: Study) -> tuple[LabelFree, ...]:
    """RankMe (Garrido et al. 2023) and the teacher's entropy, each beside k-NN, over means of the variants."""
    return (
        _label_free("RankMe", study, lambda group: mean(group, "rankme")),
        _label_free("the teacher's entropy", study, entropy_share),
    )


def _label_free(title: str, study: Study, score: Callable[[Group], float | None]) -> LabelFree:
    pairs = [
        (one, other, bool(collapses(group)))
        for group in study.trainings
        if (one := score(group)) is not None and (other := mean(group, KNN)) is not None
    ]
    healthy = [pair for pair in pairs if not pair[2]]
    every = agreement([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    rest = (
        agreement([pair[0] for pair in healthy], [pair[1] for pair in healthy]) if len(healthy) < len(pairs) else None
    )
    return LabelFree(title, every, rest, len(pairs))
