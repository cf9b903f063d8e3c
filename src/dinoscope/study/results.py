"""What a study's runs came to: read from their folders, measured, and gathered into one result."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from dinoscope.errors import UserError
from dinoscope.methods import build_method
from dinoscope.study.definition import BASELINE, Variant, label_of
from dinoscope.study.evaluations import Evaluating, evaluate
from dinoscope.study.plan import PlannedStudy
from dinoscope.study.state import run_state
from dinoscope.study.stopping import read_circumstances, stopped_early
from dinoscope.training.config import RunConfig
from dinoscope.training.monitor import patience
from dinoscope.training.run_folder import read_metrics

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
"""Logged values that are kept of every run, if its method logs them.

Not RankMe while training: it looks at the images since the process began, so that a kill would show in the result.
"""

FINAL = ("teacher_entropy", "kl_teacher_student")
"""Measures that are the mean of a logged value at the end."""

END = 0.1
"""Share of the steps, the last ones, over which values at the end are means."""

MAX_POINTS = 1000
"""Of a curve; longer ones are thinned evenly, the last point kept."""

CLOCK_STEPS = 50
"""Steps over which a logged speed is a mean: in that of the first ones is the slow first step."""

OF_TARGETS = ("cross_entropy", "teacher_entropy", "teacher_marginal_entropy", "kl_teacher_student")
"""Logged values that mean what they say only if the student learns probabilities, not under DINO's loss mse."""

Points = tuple[tuple[int, float], ...]
"""(Optimiser step, value) in order; steps count from 1."""


@dataclass(frozen=True)
class AblationRun:
    """What came of one variant with one seed.

    state: "stopped" was ended by a rule of early stopping; "collapsed" and "failed" are results too.
    diagnosis: in words, why it is not simply finished; "" if it is.
    metrics: by key of `MEASURES`; what was not measured is absent.
    curves: values logged while it trained (loss, teacher_entropy, ...).
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
class Outcome:
    """What a run folder holds. state: as `AblationRun` has it, or unfinished: the run can be continued."""

    state: Literal["finished", "collapsed", "stopped", "failed", "unfinished"]
    diagnosis: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Points] = field(default_factory=dict)


# One run, from its folder


def outcome(config: RunConfig, failure: str | None = None) -> Outcome:
    """Return what became of a run that no process is at.

    failure: why it failed, if it did. Raises UserError if its folder holds another run, or is damaged.
    """
    lines = read_metrics(config.out)
    if getattr(config.method, "loss", "") == "mse":
        lines = [{name: value for name, value in line.items() if name not in OF_TARGETS} for line in lines]
    curves, costs = curves_of(lines), cost(config, lines)
    if run_state(config).name == "finished":
        verdict = collapse(config, lines)
        return Outcome("collapsed" if verdict else "finished", verdict, {**costs, **final_values(lines)}, curves)
    costs.pop("seconds", None)  # of a part of the run
    if (mark := stopped_early(config)) is not None:
        return Outcome("stopped", mark.diagnosis, {**costs, **final_values(lines)}, curves)
    if failure is not None:
        return Outcome("failed", failure, costs, curves)
    return Outcome("unfinished", "", costs, curves)


def curves_of(lines: Sequence[Mapping[str, float]]) -> dict[str, Points]:
    """Return everything in `CURVES` that was logged."""
    curves: dict[str, Points] = {}
    for name in CURVES:
        points = tuple((int(line["step"]) + 1, float(line[name])) for line in lines if name in line)
        if points:
            stride = -(-len(points) // MAX_POINTS)
            curves[name] = points[::-1][::stride][::-1]
    return curves


def final_values(lines: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the means of `FINAL` at the end."""
    means = end_means(lines)
    return {name: means[name] for name in FINAL if name in means}


def end_means(lines: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return means of the values of steps over the last tenth of the steps; the last logged step always counts."""
    steps = [line for line in lines if "loss" in line]
    if not steps:
        return {}
    begin = (1 - END) * (steps[-1]["step"] + 1)
    last = [line for line in steps if line["step"] >= begin] or steps[-1:]
    return {name: statistics.fmean(line[name] for line in last) for name in last[0] if all(name in e for e in last)}


def cost(config: RunConfig, lines: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return speed, time and memory, by key of `MEASURES`.

    The time is that of the steps that count: no start-up, no evaluation, no step that was made twice after a kill.
    Peak memory is in MB (10^6 bytes).
    """
    costs: dict[str, float] = {}
    timed = [line for line in lines if line.get("images_per_second", 0) > 0]
    rates = [line["images_per_second"] for line in [e for e in timed if e["step"] >= CLOCK_STEPS] or timed]
    if rates:
        costs["images_per_second"] = statistics.harmonic_mean(rates)
        steps = max(int(line["step"]) for line in lines) + 1
        costs["seconds"] = steps * config.batch_size / costs["images_per_second"]
    peak = read_circumstances(config.out).peak_memory
    if peak is not None:
        costs["peak_memory"] = peak / 1e6
    return costs


def collapse(config: RunConfig, lines: Sequence[Mapping[str, float]]) -> str:
    """Return why the method finds a finished run collapsed, by its values at the end, or "" for healthy."""
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
    return verdict.text + (early if verdict.kind == "uniform" else "")


# All runs


@dataclass(frozen=True)
class Gathered:
    """The result, and remarks on what could not be measured."""

    result: AblationResult
    remarks: tuple[str, ...]


def gather(
    plan: PlannedStudy,
    evaluating: Evaluating,
    failures: Mapping[str, str],
    facts: Mapping[str, str],
    measuring: Callable[[str, int, int], None] = lambda name, number, total: None,
) -> Gathered:
    """Measure what is missing of the runs that came to their end, and put everything together.

    Args:
        plan: what was to be run; no process is at any of it.
        evaluating: what is measured.
        failures: name of a run folder -> why the run failed.
        facts: command, data and the like; circumstances of the runs are added.
        measuring: told, before each run that is measured, its name, its number and how many there are.

    Raises UserError if a run is unfinished without a reason, or a folder is damaged.
    """
    outcomes = {config.out: outcome(config, failures.get(config.out.name)) for config in plan.configs}
    early = next((run for run, one in outcomes.items() if one.state == "unfinished"), None)
    if early is not None:
        raise UserError(f"{early} has not come to its end: start the study again, and it continues")
    remarks: list[str] = []
    ended = [run for run, one in outcomes.items() if one.state in ("finished", "collapsed")]
    for number, run in enumerate(ended, 1):
        measuring(run.name, number, len(ended))
        measured, missing = evaluate(run, evaluating)
        outcomes[run] = replace(outcomes[run], metrics={**outcomes[run].metrics, **measured})
        remarks += missing
    runs = tuple(
        AblationRun(cell.variant, cell.seed, **_fields(outcomes[cell.config.out]), folder=str(cell.config.out))
        for cell in sorted(plan.cells, key=lambda cell: cell.variant.axis != BASELINE.axis)
    )
    study = plan.definition
    result = AblationResult(
        name=study.name,
        title=study.title,
        baseline=plan.baseline,
        axes=dict(plan.axes),
        runs=runs,
        outputs=getattr(plan.cells[0].config.method, "out_dim", None),
        facts={**facts, **_study_facts(plan), **_circumstances(plan.configs)},
        baseline_values=dict(plan.baseline_values),
    )
    return Gathered(result, tuple(dict.fromkeys(remarks)))


def _fields(one: Outcome) -> dict[str, Any]:
    assert one.state != "unfinished"
    return {"state": one.state, "diagnosis": one.diagnosis, "metrics": dict(one.metrics), "curves": dict(one.curves)}


def _study_facts(plan: PlannedStudy) -> dict[str, str]:
    study = plan.definition
    changes = ", ".join(f"{name} = {label_of(value)}" for name, value in study.changes.items())
    baseline = plan.cells[0].config
    return {
        "recipe": study.recipe + (f" with {changes}" if changes else ""),
        "network": f"{baseline.backbone}, trained on views of {baseline.views.global_size} px, evaluated at "
        f"{baseline.backbone_config.image_size} px",
        "budget": f"{baseline.epochs:g} epochs, batch {baseline.batch_size} (the baseline)",
        "seeds": ", ".join(map(str, study.seeds)),
    }


def _circumstances(configs: Iterable[RunConfig]) -> dict[str, str]:
    """Return code and machines of all runs; if there are several, speeds and small differences are in doubt."""
    known = [read_circumstances(config.out) for config in configs]
    code = dict.fromkeys(version for one in known for version in one.code)
    machines = dict.fromkeys(name for one in known for name in one.machines)
    facts: dict[str, str] = {}
    if code:
        mixed = " (the runs mix versions of the code: small differences may come from that)" if len(code) > 1 else ""
        facts["code"] = "; ".join(code) + mixed
    if machines:
        mixed = " (the runs mix machines: speeds do not compare)" if len(machines) > 1 else ""
        facts["machine"] = "; ".join(machines) + mixed
    memory = dict.fromkeys(one.memory for one in known if one.memory)
    if memory:
        facts["peak memory"] = "; ".join(memory)
    return facts
