"""A study's runs put together: seeds of a variant, variants of an axis, and what each does to k-NN.

Collapse. The target's cross-entropy is its entropy h plus the KL divergence from it. Without centering one output
takes all and the entropy of the mean output goes to 0; without sharpening every output is uniform and h goes to ln K
(Caron et al. 2021, section 5.3).

Statistics. Intervals are Student's. The bootstrap of `evaluation` is left out on purpose: from three seeds it can draw
ten different samples, none of them wider than the three values, and its intervals come out far too narrow.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from scipy.special import stdtrit
from scipy.stats import rankdata

from dinoscope.errors import UserError
from dinoscope.evaluation import EVALUATIONS
from dinoscope.evaluation.base import Column
from dinoscope.evaluation.statistics import OverSeeds, over_seeds
from dinoscope.methods.health import ONE_HOT_SHARE, UNIFORM_ENTROPY_SHARE, UNIFORM_LOSS_SHARE
from dinoscope.study.definition import TIMES, Variant

KNN, RANK = "knn", "rank"
"""Keys of `AblationRun.metrics` that the reading is about."""
LOGGED = ("teacher_entropy", "kl_teacher_student", "images_per_second", "peak_memory", "seconds")
"""Keys of `AblationRun.metrics` that a run logs itself: two in nats, images/s, MB (10^6 bytes), and s of training."""
Points = tuple[tuple[int, float], ...]
"""(Optimiser step, value) in order; steps count from 1."""
MIN_STEADY_POINTS = 3
"""So many logged values in a row, to the end of the run, make a collapse."""
CONFIDENCE = 0.95
MIN_RANKED = 3
"""Fewer values agree in their order or not by the toss of a coin."""
_MAX_EXACT_ORDERS = 7
"""Up to so many values, every order is tried (5,040); of more, `_DRAWN_ORDERS` are drawn."""
_DRAWN_ORDERS = 10_000
_ROUNDING = 1e-9
"""A smaller deviation of differences in points counts as 0: 25.6 - 24.2 and 23.4 - 22.0 differ by 5e-15 as floats."""


@dataclass(frozen=True)
class AblationRun:
    """The result of one variant with one seed.

    state: "stopped" was ended by a rule; an "unfinished" run is in no result and can be continued.
    diagnosis: in words, why it is not simply finished; "" if it is.
    metrics: names of columns of evaluations, and of `LOGGED`; what was not measured is absent.
    curves: values logged while it trained (loss, teacher_entropy, ...).
    folder: the run folder.
    """

    variant: Variant
    seed: int
    state: Literal["finished", "collapsed", "stopped", "failed", "unfinished"]
    diagnosis: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Points] = field(default_factory=dict)
    folder: str = ""


@dataclass(frozen=True)
class AblationResult:
    """All runs of a study, the baseline's first.

    axes: name -> title with the paper's table that it answers, in the order of the study.
    outputs: K, the number of outputs of the baseline's head; a variant of another K has it in its settings. ln K is the
        entropy of a uniform output.
    facts: what a reader needs to trust it: command, data, recipe, machine, versions, commit.
    baseline_values: axis -> the baseline as a value of it, with what it has of the axis's settings; label "" if it has
        no name there.
    """

    name: str
    title: str
    baseline: Variant
    axes: Mapping[str, str]
    runs: tuple[AblationRun, ...]
    outputs: int | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    baseline_values: Mapping[str, Variant] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """How much larger values are than the baseline's of the same seeds.

    mean: of the differences.
    low, high: its interval; None for one pair, or if all pairs differ by the same: a deviation of 0 from a few values
        that are counted in images is chance and no certainty.
    pairs: number of seeds that both have.
    value, baseline: means over these seeds.
    """

    mean: float
    low: float | None
    high: float | None
    pairs: int
    value: float
    baseline: float

    @property
    def shown(self) -> bool:
        """Whether there is an interval, and 0 lies outside of it."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Collapse:
    """How a run collapsed.

    kind: one-hot (one class for all images), uniform, or "marked": the run's state says so, its curves do not.
    step: the first logged one from which on it stayed there; None if marked.
    first: whether it was there from the first logged value.
    value: the entropy at the end, in nats.
    """

    kind: Literal["one-hot", "uniform", "marked"]
    step: int | None = None
    first: bool = False
    value: float = math.nan


@dataclass(frozen=True)
class Group:
    """A variant with its runs, one for each seed.

    outputs: K of DINO's head; None if it is not known.
    difference: of its k-NN from the baseline's; None for the baseline itself, and without a seed in common.
    """

    variant: Variant
    runs: tuple[AblationRun, ...]
    outputs: int | None = None
    difference: Difference | None = None

    @property
    def label(self) -> str:
        return self.variant.label

    @cached_property
    def usable(self) -> tuple[AblationRun, ...]:
        return tuple(run for run in self.runs if run.state != "failed")

    @cached_property
    def failed(self) -> tuple[AblationRun, ...]:
        return tuple(run for run in self.runs if run.state == "failed")

    @cached_property
    def collapses(self) -> tuple[Collapse, ...]:
        return tuple(one for run in self.runs if (one := collapse_of(run, self.outputs)) is not None)

    def values(self, measure: str) -> dict[int, float]:
        """Return seed -> value, of runs that did not fail and have a finite one."""
        values = {run.seed: run.metrics[measure] for run in self.usable if measure in run.metrics}
        return {seed: value for seed, value in values.items() if math.isfinite(value)}

    def over_seeds(self, measure: str) -> OverSeeds | None:
        return over_seeds(list(self.values(measure).values()))

    def entropy_share(self) -> float | None:
        """Return the teacher's entropy as a share of ln K: 0 for one output, 1 for a uniform one."""
        entropy = self.over_seeds("teacher_entropy")
        return None if entropy is None or self.outputs is None else entropy.mean / math.log(self.outputs)


@dataclass(frozen=True)
class Axis:
    """What is varied.

    title: with the paper's table that it answers.
    groups: the variants, by size if they set one number (`ordered`), else in the order of the study.
    baseline_label: the baseline's own value on this axis, marked as the baseline.
    place: how many groups come before the baseline: those of smaller values; 0 without an order.
    """

    name: str
    title: str
    groups: tuple[Group, ...]
    baseline: Group
    baseline_label: str
    place: int = 0
    ordered: bool = False

    @property
    def rows(self) -> list[tuple[str, Group]]:
        rows = [(group.label, group) for group in self.groups]
        return [*rows[: self.place], (self.baseline_label, self.baseline), *rows[self.place :]]


@dataclass(frozen=True)
class Study:
    """A result in order: the baseline, and the axes that have runs."""

    result: AblationResult
    baseline: Group
    axes: tuple[Axis, ...]

    @property
    def trainings(self) -> tuple[Group, ...]:
        """The baseline, then the variants, without those that share their runs with a group before."""
        groups: dict[object, Group] = {}
        for group in (self.baseline, *(group for axis in self.axes for group in axis.groups)):
            groups.setdefault(tuple(map(run_identity, group.runs)), group)
        return tuple(groups.values())


def run_identity(run: AblationRun) -> tuple[object, ...]:
    """Return what is equal for two records of one training: two axes may have a variant in common."""
    return (run.folder,) if run.folder else (run.variant.axis, run.variant.label, run.seed)


def columns() -> dict[str, Column]:
    """Return key of `AblationRun.metrics` -> column, of every evaluation."""
    return {column.name: column for one in EVALUATIONS.values() for column in one.columns}


# Groups and axes


def arrange(result: AblationResult) -> Study:
    """Put runs together by axis and label, in the order of the study; values of an axis that are numbers by size.

    Raises UserError if a variant has two runs of one seed: which of them counts cannot be known.
    """
    runs_of: dict[tuple[str, str], list[AblationRun]] = {}
    for run in result.runs:
        runs_of.setdefault((run.variant.axis, run.variant.label), []).append(run)
    for (axis, label), runs in runs_of.items():
        twice = [str(seed) for seed, number in Counter(run.seed for run in runs).items() if number > 1]
        if twice:
            name = f"{axis} {label}".strip() or "the baseline"
            raise UserError(f"the study has more than one run of {name} with seed {', '.join(twice)}")
    baseline = _group(result.baseline, runs_of.pop((result.baseline.axis, result.baseline.label), []), result)
    groups: dict[str, list[Group]] = {name: [] for name in result.axes}
    for (axis, _), runs in runs_of.items():
        group = _group(runs[0].variant, runs, result)
        difference = paired_difference(group.values(KNN), baseline.values(KNN))
        groups.setdefault(axis, []).append(replace(group, difference=difference))
    return Study(result, baseline, tuple(_axis(name, result, some, baseline) for name, some in groups.items() if some))


def _group(variant: Variant, runs: Sequence[AblationRun], result: AblationResult) -> Group:
    outputs = variant.settings.get("method.out_dim", result.outputs)
    known = isinstance(outputs, int) and outputs > 1  # one output has no entropy to speak of
    return Group(variant, tuple(runs), outputs if known else None)


def _axis(name: str, result: AblationResult, groups: Sequence[Group], baseline: Group) -> Axis:
    """Order the groups by size if the first setting of all is the same and a number; not if axes are combined."""
    own, place = result.baseline_values.get(name), 0
    setting = next(iter(groups[0].variant.settings), "")
    numbers = [group.variant.settings.get(setting) for group in groups]
    same = all(next(iter(group.variant.settings), "") == setting for group in groups)
    ordered = TIMES not in name and same and all(map(_is_finite, numbers))
    if ordered:
        groups = sorted(groups, key=lambda group: group.variant.settings[setting])
        if own is not None and _is_finite(own.settings.get(setting)):
            place = bisect_left(sorted(numbers), own.settings[setting])
    label = own.label if own is not None and own.label else baseline.label
    label = "baseline" if label in ("", "baseline") else f"{label} (baseline)"
    return Axis(name, result.axes.get(name, name), tuple(groups), baseline, label, place, ordered)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# Collapse


def collapse_of(run: AblationRun, outputs: int | None) -> Collapse | None:
    """Return the collapse in the curves of a run, else in its state; None for a healthy or failed run."""
    if run.state == "failed":
        return None
    if outputs is not None:
        max_entropy = math.log(outputs)
        marginal = run.curves.get("teacher_marginal_entropy", ())
        if (one_hot := stayed(marginal, -math.inf, ONE_HOT_SHARE * max_entropy)) is not None:
            return Collapse("one-hot", *one_hot)
        teacher = stayed(run.curves.get("teacher_entropy", ()), UNIFORM_ENTROPY_SHARE * max_entropy, math.inf)
        loss = run.curves.get("cross_entropy", ())
        student = stayed(loss, UNIFORM_LOSS_SHARE * max_entropy, math.inf) if loss else teacher
        if teacher is not None and student is not None:
            return Collapse("uniform", max(teacher[0], student[0]), teacher[1] and student[1], teacher[2])
    return Collapse("marked") if run.state == "collapsed" else None


def stayed(curve: Points, low: float, high: float) -> tuple[int, bool, float] | None:
    """Return the step from which on all values lie between low and high, whether it is the first, and the last value.

    None if fewer than `MIN_STEADY_POINTS` values at the end do. A value that is not finite does not.
    """
    since = len(curve)
    while since and low <= curve[since - 1][1] <= high and math.isfinite(curve[since - 1][1]):
        since -= 1
    if len(curve) - since < MIN_STEADY_POINTS:
        return None
    return curve[since][0], curve[since][0] == curve[0][0], curve[-1][1]


# Effects on k-NN


def paired_difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """Return the difference over the seeds that both have, with Student's interval; None if no seed is in both."""
    seeds = [seed for seed in values if seed in baseline]
    summary = over_seeds([values[seed] - baseline[seed] for seed in seeds])
    if summary is None:
        return None
    low = high = None
    if summary.deviation is not None and summary.deviation > _ROUNDING:
        half = float(stdtrit(len(seeds) - 1, 0.5 + CONFIDENCE / 2)) * summary.deviation / math.sqrt(len(seeds))
        low, high = summary.mean - half, summary.mean + half
    means = (sum(one[seed] for seed in seeds) / len(seeds) for one in (values, baseline))
    return Difference(summary.mean, low, high, len(seeds), *means)


def largest_effects(study: Study) -> list[tuple[Axis, Group | None, Group | None]]:
    """Return each axis with the variant of the largest effect on k-NN, from the largest to the smallest.

    Variants whose interval excludes 0 come first: one that varies much would hide them. The second variant is the
    largest of those that did not collapse, if the first one did. None if no variant has a seed in common with the
    baseline; these axes are last.
    """
    rows = []
    for axis in study.axes:
        measured = [group for group in axis.groups if group.difference is not None]
        largest = max(measured, key=_effect_size, default=None)
        healthy = None
        if largest is not None and largest.collapses:
            healthy = max((group for group in measured if not group.collapses), key=_effect_size, default=None)
        rows.append((axis, largest, healthy))
    return sorted(rows, key=lambda row: -_effect_size(row[1])[1] if row[1] is not None else math.inf)


def _effect_size(group: Group) -> tuple[bool, float]:
    assert group.difference is not None
    return group.difference.shown, abs(group.difference.mean)


# Choice without labels


@dataclass(frozen=True)
class Agreement:
    """Spearman's rho of n pairs, and how often chance alone gives one as far from 0 (two-sided)."""

    rho: float
    p: float
    n: int


def label_free(study: Study) -> list[tuple[str, int, Agreement | None, Agreement | None]]:
    """Return how well measures without labels order the variants, by their means, as k-NN does.

    Of RankMe (Garrido et al. 2023) and of the teacher's entropy: the name, the number of variants that have both, the
    agreement of all of them, and if some collapsed that of the others.
    """

    def rank(group: Group) -> float | None:
        summary = group.over_seeds(RANK)
        return None if summary is None else summary.mean

    rows = []
    for title, score_of in {"RankMe": rank, "the teacher's entropy": Group.entropy_share}.items():
        pairs: list[tuple[float, float]] = []
        healthy: list[tuple[float, float]] = []
        for group in study.trainings:
            knn, score = group.over_seeds(KNN), score_of(group)
            if score is not None and knn is not None:
                pairs.append((score, knn.mean))
                healthy += [] if group.collapses else [pairs[-1]]
        among = agreement(healthy) if len(healthy) < len(pairs) else None
        rows.append((title, len(pairs), agreement(pairs), among))
    return rows


def agreement(pairs: Sequence[tuple[float, float]]) -> Agreement | None:
    """Return Spearman's rank correlation (1904) with a permutation test; None for too few pairs or a constant."""
    if len(pairs) < MIN_RANKED:
        return None
    left, right = (rankdata(values) - (len(values) + 1) / 2 for values in zip(*pairs, strict=True))
    size = math.sqrt(left @ left) * math.sqrt(right @ right)
    if size == 0:
        return None
    exact = len(left) <= _MAX_EXACT_ORDERS
    if exact:
        orders = np.array(list(itertools.permutations(right)))
    else:
        orders = np.random.default_rng(0).permuted(np.tile(right, (_DRAWN_ORDERS, 1)), axis=1)
    rho, chance = float(left @ right) / size, orders @ left / size
    # the smallest difference of two rhos of so few ranks is far above what rounding makes of equal ones
    as_far = int((np.abs(chance) >= abs(rho) - 1e-9).sum())
    return Agreement(rho, as_far / len(chance) if exact else (as_far + 1) / (len(chance) + 1), len(left))
