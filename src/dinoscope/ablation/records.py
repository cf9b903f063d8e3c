"""What an ablation study leaves: one record for each run, and what all have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

MEASURES = {
    "knn_top1": ("k-NN top-1", "%", True),
    "linear_top1": ("linear top-1", "%", True),
    "jaccard": ("attention Jaccard", "%", True),
    "rankme": ("RankMe", "", True),
    "teacher_entropy": ("teacher entropy", "nats", None),
    "kl_teacher_student": ("KL teacher to student", "nats", None),
    "images_per_second": ("training speed", "images/s", True),
    "peak_memory": ("peak memory", "MB", False),
    "seconds": ("training time", "s", False),
}
"""key of `AblationRun.metrics` -> title, unit, whether higher is better (None: neither)."""


TIMES = " x "
"""Between the axes, and the labels, of a variant of several axes."""


@dataclass(frozen=True)
class Variant:
    """One way of training that a study compares.

    axis: name of what is varied; "" for the base, and the names joined by " x " in a grid.
    label: the value, as it stands in a table ("128", "no centring").
    settings: dotted names of settings -> values, where they differ from the base ("method.balance": "none").
    """

    axis: str
    label: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AblationRun:
    """What came of one variant with one seed.

    state: "stopped" was ended by a rule of early stopping; "collapsed" and "failed" are results too.
    diagnosis: in words, why it is not simply finished; "" where it is.
    metrics: by key of `MEASURES`; what was not measured is absent.
    curves: values logged while it trained (loss, teacher_entropy, ...) -> (optimiser step, value) in order.
    folder: the run folder.
    """

    variant: Variant
    seed: int
    state: Literal["finished", "collapsed", "stopped", "failed"]
    diagnosis: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    folder: str = ""


@dataclass(frozen=True)
class AblationResult:
    """All runs of a study, the base's first.

    axes: name -> title with the paper's table that it answers, in the order of the study.
    outputs: K, the number of outputs of the base's DINO head; a variant of another says so in its settings. ln K is
        what an even output has.
    facts: what a reader needs to trust it: command, data, recipe, machine, versions, commit.
    base_values: axis -> the base as a value of it, with what it has of the axis's settings; label "" where it has no
        name there.
    """

    name: str
    title: str
    base: Variant
    axes: Mapping[str, str]
    runs: tuple[AblationRun, ...]
    outputs: int | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    base_values: Mapping[str, Variant] = field(default_factory=dict)
