"""The results of a study's runs: read from their folders, measured, gathered into one, and kept as JSON."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from dinoscope import __version__
from dinoscope.config import from_dict, to_dict
from dinoscope.errors import UserError
from dinoscope.methods import build_method
from dinoscope.study.definition import BASELINE, label_of
from dinoscope.study.effects import AblationResult, AblationRun, Points, Study, arrange, label_free, largest_effects
from dinoscope.study.evaluations import Evaluating, evaluate
from dinoscope.study.plan import PlannedStudy
from dinoscope.study.state import run_state, stopped_early
from dinoscope.training.config import RunConfig
from dinoscope.training.loop import patience
from dinoscope.training.run_folder import read_circumstances, read_metrics

FILE = "ablation.json"
FORMAT = 3
_NOT_FINITE = "not_finite"
"""JSON has no NaN and no infinity: they are written as {"not_finite": "nan"}."""

OF_TARGETS = ("cross_entropy", "teacher_entropy", "teacher_marginal_entropy", "kl_teacher_student")
"""Logged values that mean what they say only if the student learns probabilities, not under DINO's loss mse."""
CURVES = ("loss", *OF_TARGETS, "embedding_spread", "learning_rate", "knn_top1")
"""Logged values that are kept of every run, if its method logs them. Not RankMe while training: it looks at the images
since the process began, so that a kill would show in the result."""
FINAL = ("teacher_entropy", "kl_teacher_student")
"""Measures that are the mean of a logged value at the end."""
END = 0.1
"""Share of the steps, the last ones, over which values at the end are means."""
MAX_POINTS = 1000
"""Points of a curve; longer curves are thinned evenly and keep their last point."""
CLOCK_STEPS = 50
"""Steps over which a logged speed is a mean: in that of the first ones is the slow first step."""

Lines = Sequence[Mapping[str, float]]
"""Lines of a run's metrics file."""


# One run, from its folder


def outcome(config: RunConfig, failure: str | None = None) -> AblationRun:
    """Return the result, as one of the baseline, of a run that no process is at.

    failure: why it failed, if it did. Raises UserError if its folder holds another run, or is damaged.
    """
    lines = read_metrics(config.out)
    if getattr(config.method, "loss", "") == "mse":
        lines = [{name: value for name, value in line.items() if name not in OF_TARGETS} for line in lines]
    metrics, means = cost(config, lines), end_means(lines)
    final = {name: means[name] for name in FINAL if name in means}
    if run_state(config).name == "finished":
        diagnosis = collapse(config, lines)
        state = "collapsed" if diagnosis else "finished"
        metrics |= final
    else:
        metrics.pop("seconds", None)  # of a part of the run
        if (mark := stopped_early(config)) is not None:
            state, diagnosis = "stopped", mark.diagnosis
            metrics |= final
        else:
            state, diagnosis = ("unfinished", "") if failure is None else ("failed", failure)
    return AblationRun(BASELINE, config.seed, state, diagnosis, metrics, curves_of(lines), str(config.out))


def curves_of(lines: Lines) -> dict[str, Points]:
    curves: dict[str, Points] = {}
    for name in CURVES:
        points = tuple((int(line["step"]) + 1, float(line[name])) for line in lines if name in line)
        if points:
            stride = -(-len(points) // MAX_POINTS)
            curves[name] = points[::-1][::stride][::-1]
    return curves


def end_means(lines: Lines) -> dict[str, float]:
    """Return means of the values of steps over the last tenth of the steps; the last logged step always counts."""
    steps = [line for line in lines if "loss" in line]
    if not steps:
        return {}
    begin = (1 - END) * (steps[-1]["step"] + 1)
    last = [line for line in steps if line["step"] >= begin] or steps[-1:]
    return {name: statistics.fmean(line[name] for line in last) for name in last[0] if all(name in e for e in last)}


def cost(config: RunConfig, lines: Lines) -> dict[str, float]:
    """Return speed, time and memory; without start-up, evaluations and steps made twice after a kill."""
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


def collapse(config: RunConfig, lines: Lines) -> str:
    """Return why the method finds a finished run collapsed, by its values at the end, or "" for healthy."""
    means = end_means(lines)
    with torch.device("meta"):  # only its judgement is asked: no weights are made
        method = build_method(config.method, config.backbone_config, classes=2)
    try:
        verdict = method.diagnose(means)
    except KeyError:  # nothing was logged, or by an older version
        return ""
    if verdict is None:
        return ""
    steps = int(lines[-1]["step"]) + 1
    early = f" It had only {steps} steps, and every run starts there." if steps < patience(steps) else ""
    return verdict.text + (early if verdict.kind == "uniform collapse" else "")


# All runs


def gather(
    plan: PlannedStudy,
    evaluating: Evaluating,
    failures: Mapping[str, str],
    facts: Mapping[str, str],
    measuring: Callable[[str, int, int], None] = lambda name, number, total: None,
) -> tuple[AblationResult, list[str]]:
    """Measure what is missing of the runs that came to their end, and put everything together.

    failures: name of a run folder -> why the run failed. facts: command, data and the like; circumstances of the runs
    are added. measuring: told, before each run that is measured, its name, its number and how many there are.

    Returns the result, and remarks on what could not be measured. Raises UserError if a run is unfinished without a
    reason, or a folder is damaged.
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
    runs = sorted(plan.runs, key=lambda run: run[0].axis != BASELINE.axis)
    result = AblationResult(
        name=plan.definition.name,
        title=plan.definition.title,
        baseline=plan.baseline,
        axes=dict(plan.axes),
        runs=tuple(replace(outcomes[config.out], variant=variant) for variant, config in runs),
        outputs=plan.configs[0].method.outputs,
        facts={**facts, **_facts(plan)},
        baseline_values=dict(plan.baseline_values),
    )
    return result, list(dict.fromkeys(remarks))


def _facts(plan: PlannedStudy) -> dict[str, str]:
    """Return what was trained, and the code and machines of all runs; several put figures in doubt."""
    study, baseline = plan.definition, plan.configs[0]
    changes = ", ".join(f"{name} = {label_of(value)}" for name, value in study.changes.items())
    known = [read_circumstances(config.out) for config in plan.configs]
    code = dict.fromkeys(version for one in known for version in one.code)
    machines = dict.fromkeys(name for one in known for name in one.machines)
    mixed_code = " (the runs mix versions of the code: small differences may come from that)" if len(code) > 1 else ""
    mixed_machines = " (the runs mix machines: speeds do not compare)" if len(machines) > 1 else ""
    facts = {
        "recipe": study.recipe + (f" with {changes}" if changes else ""),
        "network": f"{baseline.backbone}, trained on views of {baseline.views.global_size} px, evaluated at "
        f"{baseline.backbone_config.image_size} px",
        "budget": f"{baseline.epochs:g} epochs, batch {baseline.batch_size} (the baseline)",
        "seeds": ", ".join(map(str, study.seeds)),
        "code": "; ".join(code) + mixed_code,
        "machine": "; ".join(machines) + mixed_machines,
        "peak memory": "; ".join(dict.fromkeys(one.memory for one in known if one.memory)),
    }
    return {name: value for name, value in facts.items() if value}


# Files


def to_json(result: AblationResult) -> str:
    """Return the text of `ablation.json`: the result, unrounded, and what was computed of it, for other programs.

    Raises UserError if a variant has two runs of one seed, or a value is none that JSON has.
    """
    values = {
        "format": FORMAT,
        "dinoscope": __version__,
        "result": to_dict(result),
        "statistics": _statistics(arrange(result)),
    }
    try:
        return json.dumps(_written(values), indent=1, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise UserError(f"a value of the study cannot be written as JSON: {error}") from error


def from_json(text: str, source: str) -> AblationResult:
    """Return the result that `to_json` wrote, in this version or an earlier one; a tuple in a setting is a list then.

    Raises UserError, naming `source`, for a text that is not exactly what was written. Statistics are not looked at.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise UserError(f"{source} is damaged: it is not JSON ({error})") from error
    keys = {"format", "dinoscope", "result", "statistics"}
    if not isinstance(values, dict) or values.keys() != keys or not isinstance(values["result"], dict):
        raise UserError(f"{source} is no result of an ablation study")
    if values["format"] not in list(range(1, FORMAT + 1)):  # a list also takes what cannot be hashed
        raise UserError(
            f"{source} has format {values['format']!r}; this version of dinoscope reads formats 1 to {FORMAT}"
        )
    try:
        stored = _upgraded(values["format"], values["result"])
        result = from_dict(AblationResult, _read(stored), source)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise UserError(f"{source} is damaged: {error}") from error
    # What was left out, or was converted ("3" to 3, 3.7 to 3), would not be written like that again.
    if json.loads(json.dumps(_written(to_dict(result)))) != stored:
        raise UserError(f"{source} is damaged: a value is missing or of the wrong kind")
    arrange(result)
    return result


def read_result(path: Path) -> AblationResult:
    """Return the result in a study's folder or its `ablation.json`. Raises UserError if it is missing or damaged."""
    file = path / FILE if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"there is no result of an ablation study at {file}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    return from_json(text, str(file))


_RENAMED = {
    "base": "baseline",
    "base_values": "baseline_values",
    "knn_top1": "knn",
    "linear_top1": "linear",
    "jaccard": "voc",
    "rankme": "rank",
}
"""Names in formats 1 and 2 -> in this one."""


def _upgraded(number: int, values: dict[str, Any]) -> dict[str, Any]:
    """Return a result as this format has it: format 1 had no values of the baseline."""
    if number == FORMAT:
        return values

    def renamed(names: dict[str, Any]) -> dict[str, Any]:
        return {_RENAMED.get(name, name): value for name, value in names.items()}

    def upgraded(variant: dict[str, Any]) -> dict[str, Any]:
        is_base = variant["axis"] == BASELINE.axis and variant["label"] == "base"
        return {**variant, "label": BASELINE.label} if is_base else variant

    values = renamed({"base_values": {}, **values} if number == 1 else values)
    runs = [{**run, "variant": upgraded(run["variant"]), "metrics": renamed(run["metrics"])} for run in values["runs"]]
    return {**values, "baseline": upgraded(values["baseline"]), "runs": runs}


def _statistics(study: Study) -> dict[str, Any]:
    return {
        "differences": [
            {"axis": axis.name, "label": group.label, "knn": group.difference and asdict(group.difference)}
            for axis in study.axes
            for group in axis.groups
        ],
        "ranking": [
            {
                "axis": axis.name,
                "largest": largest and largest.label,
                "collapsed": largest is not None and bool(largest.collapses),
                "largest_not_collapsed": healthy and healthy.label,
                "failed": [group.label for group in axis.groups if not group.usable],
            }
            for axis, largest, healthy in largest_effects(study)
        ],
        "without_labels": [
            {"title": title, "every": every and asdict(every), "healthy": among and asdict(among), "variants": variants}
            for title, variants, every, among in label_free(study)
        ],
    }


def _written(values: Any) -> Any:
    """Return plain values with what JSON lacks replaced."""
    if isinstance(values, float) and not math.isfinite(values):
        return {_NOT_FINITE: str(values)}
    if isinstance(values, dict):
        return {key: _written(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_written(value) for value in values]
    return values


def _read(values: Any) -> Any:
    """Return plain values with what JSON lacks put back."""
    if isinstance(values, dict):
        if values.keys() == {_NOT_FINITE} and values[_NOT_FINITE] in ("nan", "inf", "-inf"):
            return float(values[_NOT_FINITE])
        return {key: _read(value) for key, value in values.items()}
    return [_read(value) for value in values] if isinstance(values, list) else values
