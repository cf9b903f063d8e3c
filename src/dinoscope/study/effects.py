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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import numpy as np
from scipy.special import stdtrit
from scipy.stats import rankdata

from dinoscope.errors import UserError
from dinoscope.evaluation import EVALUATIONS
from dinoscope.evaluation.base import Column
from dinoscope.evaluation.statistics import over_seeds
from dinoscope.methods.health import ONE_HOT_SHARE, UNIFORM_ENTROPY_SHARE, UNIFORM_LOSS_SHARE
from dinoscope.study.definition import TIMES, Variant

T = TypeVar("T")

KNN, RANK = "knn", "rank"
"""Keys of `AblationRun.metrics` that the reading is about."""

LOGGED = {
    "teacher_entropy": Column("teacher_entropy", "teacher entropy", "teacher_entropy", unit="nats", ranked=False),
    "kl_teacher_student": Column(
        "kl_teacher_student", "KL teacher to student", "kl_teacher_student", unit="nats", ranked=False
    ),
    "images_per_second": Column("images_per_second", "training speed", "images_per_second", unit="images/s"),
    "peak_memory": Column("peak_memory", "peak memory", "peak_memory", unit="MB"),
    "seconds": Column("seconds", "training time", "seconds", unit="s"),
}
"""key of `AblationRun.metrics` -> what a run logged of its training."""

Points = tuple[tuple[int, float], ...]
"""(Optimiser step, value) in order; steps count from 1."""

CURVES = {
    "knn_top1": ("online k-NN top-1", "%"),
    "teacher_entropy": ("teacher entropy", "nats"),
    "teacher_marginal_entropy": ("marginal entropy", "nats"),
    "kl_teacher_student": ("KL, teacher to student", "nats"),
    "loss": ("loss", ""),
}
"""Name of a curve -> title, unit; in the order of the panels."""

ENTROPIES = ("teacher_entropy", "teacher_marginal_entropy")
"""Curves that ln K bounds."""

MIN_STEADY_POINTS = 3
"""So many logged values in a row, to the end of the run, make a collapse."""

CONFIDENCE = 0.95
MIN_RANKED = 3
"""Below that, two orders agree or not by a coin's throw."""
_MAX_EXACT_ORDERS = 7
"""Up to so many values, every order is tried (5,040); of more, `_DRAWN_ORDERS` are drawn."""
_DRAWN_ORDERS = 10_000
_ROUNDING = 1e-9
"""Below that, differences in points are alike: 25.6 - 24.2 and 23.4 - 22.0 differ by 5e-15 as floats."""


@dataclass(frozen=True)
class AblationRun:
    """What came of one variant with one seed.

    state: "stopped" was ended by a rule of early stopping; "collapsed" and "failed" are results too; an "unfinished"
        run is in no result and can be continued.
    diagnosis: in words, why it is not simply finished; "" if it is.
    metrics: by key of `measures()`; what was not measured is absent.
    curves: values logged while it trained (loss, teacher_entropy, ...).
    folder: the run folder.
    """

    variant: Variant
    seed: int
    state: Literal["finished", "collapsed", "stopped", "failed", "unfinished"]
    diagnosis: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
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


def measures() -> dict[str, Column]:
    """Return key of `AblationRun.metrics` -> what it is: the columns of every evaluation, then what runs log."""
    return {column.name: column for one in EVALUATIONS.values() for column in one.columns} | LOGGED


# Groups and axes


@dataclass(frozen=True)
class Group:
    """A variant with its runs, one for each seed. outputs: K of DINO's head; None if it is not known."""

    variant: Variant
    runs: tuple[AblationRun, ...]
    outputs: int | None = None

    @property
    def label(self) -> str:
        """The variant's label, as it stands in a table."""
        return self.variant.label

    @property
    def lasting(self) -> tuple[AblationRun, ...]:
        """The runs that did not fail."""
        return tuple(run for run in self.runs if run.state != "failed")

    @property
    def failed(self) -> tuple[AblationRun, ...]:
        """The runs that failed."""
        return tuple(run for run in self.runs if run.state == "failed")

    def values(self, measure: str) -> dict[int, float]:
        """Return seed -> value, of runs that did not fail and have a finite one."""
        values = {run.seed: run.metrics[measure] for run in self.lasting if measure in run.metrics}
        return {seed: value for seed, value in values.items() if math.isfinite(value)}

    def mean(self, measure: str) -> float | None:
        """Return the mean over the runs that have the measure, or None."""
        summary = over_seeds(list(self.values(measure).values()))
        return None if summary is None else summary.mean

    def curves(self, name: str) -> list[Points]:
        """Return what the runs that did not fail logged under a name: finite values, without empty curves."""
        curves = [run.curves.get(name, ()) for run in self.lasting]
        finite = [tuple((step, value) for step, value in curve if math.isfinite(value)) for curve in curves]
        return [curve for curve in finite if curve]

    def states(self) -> str:
        """Return how the runs ended: "finished", or "2 collapsed, 1 finished"."""
        counts = Counter(run.state for run in self.runs)
        if len(counts) == 1:
            return next(iter(counts))
        return ", ".join(f"{number} {state}" for state, number in counts.most_common())


@dataclass(frozen=True)
class Axis:
    """What is varied.

    title: with the paper's table that it answers.
    groups: the variants, by value if they are about one number, else in the order of the study.
    ordered: whether they are by value.
    own: the baseline as a value of this axis, if that is known.
    """

    name: str
    title: str
    groups: tuple[Group, ...]
    ordered: bool = False
    own: Variant | None = None

    @property
    def baseline_place(self) -> int:
        """How many variants stand before the baseline: those of smaller values; none without such an order."""
        return place_among([group.variant for group in self.groups], self.own) if self.ordered else 0

    def rows(self, baseline: Group) -> tuple[Group, ...]:
        """Return the variants, and the baseline in its place."""
        return (*self.groups[: self.baseline_place], baseline, *self.groups[self.baseline_place :])

    def name_of(self, group: Group, baseline: Group) -> str:
        """Return the name of a row or a line: the variant's value; the baseline is marked as one."""
        if group is not baseline:
            return group.label
        label = self.own.label if self.own is not None and self.own.label else group.label
        return "baseline" if label in ("", "baseline") else f"{label} (baseline)"


@dataclass(frozen=True)
class Study:
    """A result in order: the baseline, and the axes that have runs."""

    result: AblationResult
    baseline: Group
    axes: tuple[Axis, ...]

    @property
    def groups(self) -> tuple[Group, ...]:
        """The baseline, then all variants."""
        return (self.baseline, *(group for axis in self.axes for group in axis.groups))

    @property
    def trainings(self) -> tuple[Group, ...]:
        """The baseline, then the variants, without those that share their runs with a group before."""
        groups: dict[object, Group] = {}
        for group in self.groups:
            groups.setdefault(tuple(map(_identity, group.runs)), group)
        return tuple(groups.values())

    @property
    def runs(self) -> tuple[AblationRun, ...]:
        """Every run once."""
        return tuple({_identity(run): run for run in self.result.runs}.values())


def _identity(run: AblationRun) -> tuple[object, ...]:
    """Equal for two records of one training: two axes may have a variant in common."""
    return (run.folder,) if run.folder else (run.variant.axis, run.variant.label, run.seed)


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
    own = tuple(runs_of.pop((result.baseline.axis, result.baseline.label), ()))
    baseline = Group(result.baseline, own, _outputs(result.baseline, result.outputs))
    groups: dict[str, list[Group]] = {name: [] for name in result.axes}
    for (axis, _), runs in runs_of.items():
        group = Group(runs[0].variant, tuple(runs), _outputs(runs[0].variant, result.outputs))
        groups.setdefault(axis, []).append(group)
    return Study(result, baseline, tuple(_axis(name, result, some) for name, some in groups.items() if some))


def _axis(name: str, result: AblationResult, groups: Sequence[Group]) -> Axis:
    """Order the groups by value if that is a number, unless values of several axes are combined."""
    by_size = None if TIMES in name else by_value([(group.variant, group) for group in groups])
    arranged = tuple(groups if by_size is None else (group for _, group in by_size))
    return Axis(name, result.axes.get(name, name), arranged, by_size is not None, result.baseline_values.get(name))


def _outputs(variant: Variant, shared: int | None) -> int | None:
    """Return K; a variant of another K has it in its settings. Of one output there is no entropy to speak of."""
    own = variant.settings.get("method.out_dim", shared)
    return own if isinstance(own, int) and own > 1 else None


def subject(variants: Iterable[Variant]) -> str | None:
    """Return the setting that all variants are about, the first of each; None if they have none in common."""
    first = {next(iter(variant.settings), None) for variant in variants}
    return first.pop() if len(first) == 1 else None


def by_value(items: Sequence[tuple[Variant, T]]) -> list[tuple[Variant, T]] | None:
    """Return items from the smallest number to the largest, in what their variants are about; None if no number."""
    name = subject(variant for variant, _ in items)
    if name is None or any(_number(variant, name) is None for variant, _ in items):
        return None
    return sorted(items, key=lambda item: item[0].settings[name])


def place_among(ordered: Sequence[Variant], own: Variant | None) -> int:
    """Return how many of these, in order of value, the baseline's own value comes after; 0 if it has no number."""
    name = subject(ordered)
    if own is None or name is None or (number := _number(own, name)) is None:
        return 0
    return bisect_left([variant.settings[name] for variant in ordered], number)


def _number(variant: Variant, name: str) -> float | None:
    """Return what it sets this setting to, if that is a finite number; True and False are none."""
    value = variant.settings.get(name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


# Collapse


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


def collapse_of(run: AblationRun, outputs: int | None) -> Collapse | None:
    """Return what the curves of a run show, else what its state says; None of a healthy or failed run."""
    if run.state == "failed":
        return None
    marked = Collapse("marked") if run.state == "collapsed" else None
    if outputs is None:
        return marked
    max_entropy = math.log(outputs)
    marginal = run.curves.get("teacher_marginal_entropy", ())
    one_hot = _stayed("one-hot", marginal, -math.inf, ONE_HOT_SHARE * max_entropy)
    return one_hot or _uniform(run, max_entropy) or marked


def collapses(group: Group) -> list[Collapse]:
    """Return the collapses of the runs that did."""
    return [collapse for run in group.runs if (collapse := collapse_of(run, group.outputs)) is not None]


def _uniform(run: AblationRun, max_entropy: float) -> Collapse | None:
    """Both the outputs and what the student makes of them have been uniform; the latter if it was logged."""
    entropy, loss = run.curves.get("teacher_entropy", ()), run.curves.get("cross_entropy", ())
    teacher = _stayed("uniform", entropy, UNIFORM_ENTROPY_SHARE * max_entropy, math.inf)
    if teacher is None or not loss:
        return teacher
    student = _stayed("uniform", loss, UNIFORM_LOSS_SHARE * max_entropy, math.inf)
    if student is None:
        return None
    return replace(teacher, step=max(teacher.step or 0, student.step or 0), first=teacher.first and student.first)


def _stayed(kind: Literal["one-hot", "uniform"], curve: Points, low: float, high: float) -> Collapse | None:
    steady = stayed(curve, low, high)
    return None if steady is None else Collapse(kind, steady[0], steady[0] == curve[0][0], steady[1])


def stayed(curve: Points, low: float, high: float) -> tuple[int, float] | None:
    """Return the first step from which on all values lie between low and high, and the last value.

    None if fewer than `MIN_STEADY_POINTS` values at the end do. A value that is not finite does not.
    """
    since = len(curve)
    while since and low <= curve[since - 1][1] <= high and math.isfinite(curve[since - 1][1]):
        since -= 1
    return (curve[since][0], curve[-1][1]) if len(curve) - since >= MIN_STEADY_POINTS else None


# Effects on k-NN


@dataclass(frozen=True)
class Difference:
    """By how much values differ from the baseline's of the same seeds.

    mean: of the differences.
    low, high: the interval; None if there is none: of one pair, or if all pairs differ by the same, for a deviation of
        0 from a few values that are counted in images is chance and no certainty.
    pairs: seeds that both have.
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
class Effect:
    """A variant and its difference from the baseline. collapsed: in any of its runs."""

    group: Group
    difference: Difference
    collapsed: bool


@dataclass(frozen=True)
class Importance:
    """The largest effect of an axis on k-NN top-1.

    largest: of all its variants, those first whose interval excludes 0: one that varies much would hide them. None
        if none was measured next to the baseline.
    healthy: of those that did not collapse, if the largest is of one that did.
    failed: labels of variants of which no run is left; they have no effect.
    """

    axis: Axis
    largest: Effect | None
    healthy: Effect | None
    failed: tuple[str, ...]


def effect(group: Group, baseline: Group, measure: str = KNN) -> Difference | None:
    """Return the difference of a variant's measure from the baseline's, paired by seed."""
    return paired_difference(group.values(measure), baseline.values(measure))


def importances(study: Study) -> tuple[Importance, ...]:
    """Return axes from the largest effect to the smallest; those without any last."""
    every = [_importance(axis, study.baseline) for axis in study.axes]
    return tuple(sorted(every, key=lambda one: -abs(one.largest.difference.mean) if one.largest else math.inf))


def _importance(axis: Axis, baseline: Group) -> Importance:
    effects = [
        Effect(group, difference, bool(collapses(group)))
        for group in axis.groups
        if (difference := effect(group, baseline)) is not None
    ]
    largest = _largest(effects)
    healthy = _largest([one for one in effects if not one.collapsed]) if largest and largest.collapsed else None
    return Importance(axis, largest, healthy, tuple(group.label for group in axis.groups if not group.lasting))


def _largest(effects: Sequence[Effect]) -> Effect | None:
    return max(effects, key=lambda one: (one.difference.shown, abs(one.difference.mean)), default=None)


def paired_difference(
    values: Mapping[int, float], baseline: Mapping[int, float], confidence: float = CONFIDENCE
) -> Difference | None:
    """Return the mean difference of the seeds that both have, with Student's interval of n - 1 degrees of freedom.

    None if no seed is in both.
    """
    seeds = [seed for seed in values if seed in baseline]
    summary = over_seeds([values[seed] - baseline[seed] for seed in seeds])
    if summary is None:
        return None
    half = None
    if summary.deviation is not None and summary.deviation > _ROUNDING:
        half = float(stdtrit(len(seeds) - 1, 0.5 + confidence / 2)) * summary.deviation / math.sqrt(len(seeds))
    return Difference(
        summary.mean,
        None if half is None else summary.mean - half,
        None if half is None else summary.mean + half,
        len(seeds),
        sum(values[seed] for seed in seeds) / len(seeds),
        sum(baseline[seed] for seed in seeds) / len(seeds),
    )


# Choice without labels


@dataclass(frozen=True)
class Agreement:
    """Spearman's rho of n pairs, and how often chance alone gives one as far from 0 (two-sided)."""

    rho: float
    p: float
    n: int


@dataclass(frozen=True)
class LabelFree:
    """Whether a measure without labels orders the variants as k-NN does. None: too few, or all alike.

    every: baseline and all variants; healthy: those that did not collapse.
    """

    title: str
    every: Agreement | None
    healthy: Agreement | None
    variants: int


def entropy_share(group: Group) -> float | None:
    """Return the teacher's entropy as a share of ln K: 0 for one output, 1 for none that stands out."""
    entropy = group.mean("teacher_entropy")
    return None if entropy is None or group.outputs is None else entropy / math.log(group.outputs)


def label_free(study: Study) -> tuple[LabelFree, ...]:
    """Return RankMe (Garrido et al. 2023) and the teacher's entropy, each next to k-NN, over means of the variants."""
    return (
        _label_free("RankMe", study, lambda group: group.mean(RANK)),
        _label_free("the teacher's entropy", study, entropy_share),
    )


def _label_free(title: str, study: Study, score: Callable[[Group], float | None]) -> LabelFree:
    pairs = [
        (own, knn, bool(collapses(group)))
        for group in study.trainings
        if (own := score(group)) is not None and (knn := group.mean(KNN)) is not None
    ]
    healthy = [pair for pair in pairs if not pair[2]]
    every = agreement([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    among = [pair[0] for pair in healthy], [pair[1] for pair in healthy]
    return LabelFree(title, every, agreement(*among) if len(healthy) < len(pairs) else None, len(pairs))


def agreement(x: Sequence[float], y: Sequence[float]) -> Agreement | None:
    """Return Spearman's rank correlation (1904) with a permutation test.

    None of fewer than `MIN_RANKED` pairs, or if all values of a side are equal.
    """
    if len(x) < MIN_RANKED:
        return None
    left, right = (rankdata(values) - (len(values) + 1) / 2 for values in (x, y))
    size = math.sqrt(left @ left) * math.sqrt(right @ right)
    if size == 0:
        return None
    rho = float(left @ right) / size
    chance = _orders(right) @ left / size
    # the smallest difference of two rhos of so few ranks is far above what rounding makes of equal ones
    as_far = int((np.abs(chance) >= abs(rho) - 1e-9).sum())
    exact = len(left) <= _MAX_EXACT_ORDERS
    return Agreement(rho, as_far / len(chance) if exact else (as_far + 1) / (len(chance) + 1), len(left))


def _orders(values: np.ndarray) -> np.ndarray:
    """Return all orders of the values, or many drawn ones, [orders, n]."""
    if len(values) <= _MAX_EXACT_ORDERS:
        return np.array(list(itertools.permutations(values)))
    generator = np.random.default_rng(0)
    return generator.permuted(np.tile(values, (_DRAWN_ORDERS, 1)), axis=1)


# Curves


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


def band(curves: Sequence[Points]) -> Band | None:
    """Summarise the curves of one variant at the steps of the longest; None if nothing was logged.

    A curve that was logged or thinned at other steps is interpolated, never beyond its ends. A step logged twice
    counts as logged last.
    """
    every = [sorted(dict(curve).items()) for curve in curves if curve]
    if not every:
        return None
    steps = [step for step, _ in max(every, key=len)]
    summaries = [over_seeds([v for curve in every if (v := _value_at(curve, step)) is not None]) for step in steps]
    points = [point for point in summaries if point is not None]
    return Band(
        tuple(steps),
        tuple(point.mean for point in points),
        tuple(point.mean - (point.deviation or 0) for point in points),
        tuple(point.mean + (point.deviation or 0) for point in points),
        tuple(len(point.values) for point in points),
    )


def _value_at(curve: Sequence[tuple[int, float]], step: int) -> float | None:
    """Interpolate linearly between what was logged; None before it and beyond."""
    after = bisect_left(curve, step, key=lambda point: point[0])
    if after == len(curve) or (after == 0 and curve[0][0] != step):
        return None
    (right, value), (left, before) = curve[after], curve[max(after - 1, 0)]
    return value if right == step else before + (value - before) * (step - left) / (right - left)
