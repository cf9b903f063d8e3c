"""The runs of a study put together: seeds of one variant, variants of one axis."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dinoscope.ablation.ordering import by_value, place_among
from dinoscope.ablation.records import TIMES, AblationResult, AblationRun, Variant
from dinoscope.errors import UserError

Curve = tuple[tuple[int, float], ...]
"""(optimiser step, value) in order."""


@dataclass(frozen=True)
class Group:
    """A variant with its runs, one for each seed. outputs: K of DINO's head; None where it is not known."""

    variant: Variant
    runs: tuple[AblationRun, ...]
    outputs: int | None = None

    @property
    def label(self) -> str:
        """The variant's, as it stands in a table."""
        return self.variant.label

    @property
    def lasting(self) -> tuple[AblationRun, ...]:
        """The runs that did not fail."""
        return tuple(run for run in self.runs if run.state != "failed")

    @property
    def failed(self) -> tuple[AblationRun, ...]:
        """The runs that did."""
        return tuple(run for run in self.runs if run.state == "failed")

    def values(self, measure: str) -> dict[int, float]:
        """Seed -> value, of runs that did not fail and have a finite one."""
        found = {run.seed: run.metrics[measure] for run in self.lasting if measure in run.metrics}
        return {seed: value for seed, value in found.items() if math.isfinite(value)}

    def curves(self, name: str) -> list[Curve]:
        """What was logged under a name by the runs that did not fail; finite values only, empty curves left out."""
        every = [run.curves.get(name, ()) for run in self.lasting]
        finite = [tuple((step, value) for step, value in curve if math.isfinite(value)) for curve in every]
        return [curve for curve in finite if curve]

    def states(self) -> str:
        """How the runs ended: "finished", or "2 collapsed, 1 finished"."""
        counts = Counter(run.state for run in self.runs)
        if len(counts) == 1:
            return next(iter(counts))
        return ", ".join(f"{number} {state}" for state, number in counts.most_common())


@dataclass(frozen=True)
class Axis:
    """What is varied.

    title: with the paper's table that it answers.
    groups: the variants, by value where they are about one number, else in the order of the study.
    ordered: whether they are by value.
    own: the base as a value of this axis, where that is known.
    """

    name: str
    title: str
    groups: tuple[Group, ...]
    ordered: bool = False
    own: Variant | None = None

    @property
    def base_place(self) -> int:
        """How many variants stand before the base: those of smaller values; none where there is no such order."""
        return place_among([group.variant for group in self.groups], self.own) if self.ordered else 0

    def rows(self, base: Group) -> tuple[Group, ...]:
        """The variants, and the base in its place."""
        return (*self.groups[: self.base_place], base, *self.groups[self.base_place :])

    def name_of(self, group: Group, base: Group) -> str:
        """Of a row or a line: the variant's value; the base says that it is one."""
        if group is not base:
            return group.label
        label = self.own.label if self.own is not None and self.own.label else group.label
        return "base" if label in ("", "base") else f"{label} (base)"


@dataclass(frozen=True)
class Study:
    """A result in order: the base, and the axes that have runs."""

    result: AblationResult
    base: Group
    axes: tuple[Axis, ...]

    @property
    def groups(self) -> tuple[Group, ...]:
        """The base, then all variants."""
        return (self.base, *(group for axis in self.axes for group in axis.groups))

    @property
    def trainings(self) -> tuple[Group, ...]:
        """The base, then the variants, without those that an axis before has as well: their runs are the same."""
        found: dict[object, Group] = {}
        for group in self.groups:
            found.setdefault(tuple(map(_identity, group.runs)), group)
        return tuple(found.values())

    @property
    def runs(self) -> tuple[AblationRun, ...]:
        """Every run once."""
        return tuple({_identity(run): run for run in self.result.runs}.values())


def _identity(run: AblationRun) -> tuple[object, ...]:
    """Equal for two records of one training: two axes may have a variant in common."""
    return (run.folder,) if run.folder else (run.variant.axis, run.variant.label, run.seed)


def arrange(result: AblationResult) -> Study:
    """Put runs together by axis and label, in the order of the study; values of an axis that are numbers by size.

    Raises UserError where a variant has two runs of one seed: which of them counts cannot be known.
    """
    every: dict[tuple[str, str], list[AblationRun]] = {}
    for run in result.runs:
        every.setdefault((run.variant.axis, run.variant.label), []).append(run)
    for (axis, label), runs in every.items():
        _check_seeds(f"{axis} {label}".strip(), runs)
    base = Group(
        result.base, tuple(every.pop((result.base.axis, result.base.label), ())), _outputs(result.base, result.outputs)
    )
    names = dict.fromkeys([*result.axes, *(axis for axis, _ in every)])
    axes = [_axis(name, result, _groups(name, every.items(), result.outputs)) for name in names]
    return Study(result, base, tuple(axis for axis in axes if axis.groups))


def _axis(name: str, result: AblationResult, groups: tuple[Group, ...]) -> Axis:
    """In order of value where that is a number, unless values of several axes are combined."""
    ordered = None if TIMES in name else by_value([(group.variant, group) for group in groups])
    arranged = groups if ordered is None else tuple(group for _, group in ordered)
    own = result.base_values.get(name)
    return Axis(name, result.axes.get(name, name), arranged, ordered=ordered is not None, own=own)


def _groups(
    name: str, every: Iterable[tuple[tuple[str, str], Sequence[AblationRun]]], outputs: int | None
) -> tuple[Group, ...]:
    return tuple(
        Group(runs[0].variant, tuple(runs), _outputs(runs[0].variant, outputs))
        for (axis, _), runs in every
        if axis == name
    )


def _outputs(variant: Variant, shared: int | None) -> int | None:
    """A variant of another K says so in its settings. Of one output there is no entropy to speak of."""
    own = variant.settings.get("method.out_dim", shared)
    return own if isinstance(own, int) and own > 1 else None


def _check_seeds(name: str, runs: Sequence[AblationRun]) -> None:
    seeds = Counter(run.seed for run in runs)
    twice = [str(seed) for seed, number in seeds.items() if number > 1]
    if twice:
        raise UserError(f"the study has more than one run of {name or 'the base'} with seed {', '.join(twice)}")
