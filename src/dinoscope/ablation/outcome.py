"""What became of a run, read from its folder alone: curves, where they ended, cost, and whether it collapsed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from dinoscope.ablation.early_stopping import stopped_early
from dinoscope.ablation.listeners import read_circumstances
from dinoscope.methods import build_method
from dinoscope.study.state import standing
from dinoscope.training.config import RunConfig
from dinoscope.training.loop import patience
from dinoscope.training.run_folder import read_metrics

CURVES = (
    "loss",
    "cross_entropy",
    "teacher_entropy",
    "teacher_marginal_entropy",
    "kl_teacher_student",
    "embedding_spread",
    "learning_rate",
    "knn_top1",
)
"""Logged values that are kept of every run, where its method logs them.

Not RankMe while training: it looks at the images since the process began, so that a kill would show in the result.
"""

FINAL = {"teacher_entropy": "teacher_entropy", "kl_teacher_student": "kl_teacher_student"}
"""Key of `MEASURES` -> logged value whose mean at the end it is."""

END = 0.1
"""Share of the steps, the last ones, over which values at the end are means."""

MOST_POINTS = 1000
"""Of a curve; longer ones are thinned evenly, the last point kept."""

CLOCK_STEPS = 50
"""Steps over which a logged speed is a mean: in that of the first ones is the slow first step."""

OF_TARGETS = ("cross_entropy", "teacher_entropy", "teacher_marginal_entropy", "kl_teacher_student")
"""Logged values that mean what they say only where the student learns probabilities, not under DINO's loss mse."""

Points = tuple[tuple[int, float], ...]
State = Literal["finished", "collapsed", "stopped", "failed", "unfinished"]


@dataclass(frozen=True)
class Outcome:
    """What a run folder says. state: as `AblationRun` has it, or unfinished: it may be gone on with."""

    state: State
    diagnosis: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Points] = field(default_factory=dict)


def outcome(config: RunConfig, failure: str | None = None) -> Outcome:
    """Of a run that is not under way.

    failure: why it failed, where it did. Raises UserError where its folder holds another run, or is damaged.
    """
    lines = read_metrics(config.out)
    if getattr(config.method, "loss", "") == "mse":
        lines = [{name: value for name, value in line.items() if name not in OF_TARGETS} for line in lines]
    curves, costs = curves_of(lines), cost(config, lines)
    if standing(config).state == "finished":
        verdict = collapse(config, lines)
        metrics = {**costs, **final_values(lines)}
        return Outcome("finished" if not verdict else "collapsed", verdict, metrics, curves)
    costs.pop("seconds", None)  # of a part of the run
    if (mark := stopped_early(config)) is not None:
        return Outcome("stopped", mark.diagnosis, {**costs, **final_values(lines)}, curves)
    if failure is not None:
        return Outcome("failed", failure, costs, curves)
    return Outcome("unfinished", "", costs, curves)


def curves_of(lines: Sequence[Mapping[str, float]]) -> dict[str, Points]:
    """(Optimiser step, value) of everything in `CURVES` that was logged; steps count from 1."""
    found: dict[str, Points] = {}
    for name in CURVES:
        points = tuple((int(line["step"]) + 1, float(line[name])) for line in lines if name in line)
        if points:
            stride = -(-len(points) // MOST_POINTS)
            found[name] = points[::-1][::stride][::-1]
    return found


def final_values(lines: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means of `FINAL` at the end."""
    means = end_means(lines)
    return {key: means[name] for key, name in FINAL.items() if name in means}


def end_means(lines: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means of the values of steps over the last tenth of the steps; the last logged step is always among them."""
    steps = [line for line in lines if "loss" in line]
    if not steps:
        return {}
    begin = (1 - END) * (steps[-1]["step"] + 1)
    last = [line for line in steps if line["step"] >= begin] or steps[-1:]
    return {name: statistics.fmean(line[name] for line in last) for name in last[0] if all(name in e for e in last)}


def cost(config: RunConfig, lines: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Speed, time and memory, by key of `MEASURES`.

    The time is that of the steps that count: no start-up, no evaluation, no step that was made twice after a kill.
    Peak memory is in MB (10^6 bytes).
    """
    found: dict[str, float] = {}
    timed = [line for line in lines if line.get("images_per_second", 0) > 0]
    rates = [line["images_per_second"] for line in [e for e in timed if e["step"] >= CLOCK_STEPS] or timed]
    if rates:
        found["images_per_second"] = statistics.harmonic_mean(rates)
        steps = max(int(line["step"]) for line in lines) + 1
        found["seconds"] = steps * config.batch_size / found["images_per_second"]
    peak = read_circumstances(config.out).peak_memory
    if peak is not None:
        found["peak_memory"] = peak / 1e6
    return found


def collapse(config: RunConfig, lines: Sequence[Mapping[str, float]]) -> str:
    """What the method says of the values at the end of a finished run: why it has collapsed, or "" for healthy."""
    means = end_means(lines)
    if not means:
        return ""
    with torch.device("meta"):  # only its judgement is asked: no weights are made
        method = build_method(config.method, config.backbone_config, classes=2)
    try:
        verdict = method.diagnose(means)
    except KeyError:  # logged by an older version, or another
        return ""
    if verdict is None:
        return ""
    steps = int(lines[-1]["step"]) + 1
    early = f" It had only {steps} steps, and every run starts there." if steps < patience(steps) else ""
    return verdict.text + (early if verdict.kind == "uniform collapse" else "")
