"""All runs of a study become one result: what each came to, what was measured of it, and under what circumstances."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from dinoscope.ablation.definition import BASE
from dinoscope.ablation.evaluations import Evaluating, evaluate
from dinoscope.ablation.listeners import read_circumstances
from dinoscope.ablation.outcome import Outcome, outcome
from dinoscope.ablation.planning import PlannedStudy
from dinoscope.ablation.records import AblationResult, AblationRun, Variant
from dinoscope.ablation.study_file import label_of
from dinoscope.errors import UserError
from dinoscope.training.config import RunConfig


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
        plan: what was to be run; none of it is under way.
        evaluating: what is measured.
        failures: name of a run folder -> why the run failed.
        facts: command, data and the like; circumstances of the runs are added.
        measuring: told, before each run that is measured, its name and that it is number so and so of so many.

    Raises UserError where a run is unfinished without a reason, or a folder is damaged.
    """
    outcomes = {config.out: outcome(config, failures.get(config.out.name)) for config in plan.configs}
    early = next((run for run, found in outcomes.items() if found.state == "unfinished"), None)
    if early is not None:
        raise UserError(f"{early} has not come to its end: start the study again, and it goes on")
    remarks: list[str] = []
    ended = [run for run, found in outcomes.items() if found.state in ("finished", "collapsed")]
    for number, run in enumerate(ended, 1):
        measuring(run.name, number, len(ended))
        measured, missing = evaluate(run, evaluating)
        outcomes[run] = replace(outcomes[run], metrics={**outcomes[run].metrics, **measured})
        remarks += missing
    runs = tuple(
        _record(cell.variant, cell.seed, cell.config, outcomes[cell.config.out])
        for cell in sorted(plan.cells, key=lambda cell: cell.variant.axis != BASE.axis)
    )
    study = plan.definition
    result = AblationResult(
        name=study.name,
        title=study.title,
        base=plan.base,
        axes=dict(plan.axes),
        runs=runs,
        outputs=getattr(plan.cells[0].config.method, "out_dim", None),
        facts={**facts, **_study_facts(plan), **_circumstances(plan.configs)},
        base_values=dict(plan.base_values),
    )
    return Gathered(result, tuple(dict.fromkeys(remarks)))


def _record(variant: Variant, seed: int, config: RunConfig, found: Outcome) -> AblationRun:
    assert found.state != "unfinished"
    return AblationRun(
        variant, seed, found.state, found.diagnosis, dict(found.metrics), dict(found.curves), str(config.out)
    )


def _study_facts(plan: PlannedStudy) -> dict[str, str]:
    study = plan.definition
    changes = ", ".join(f"{name} = {label_of(value)}" for name, value in study.changes.items())
    base = plan.cells[0].config
    return {
        "recipe": study.recipe + (f" with {changes}" if changes else ""),
        "network": f"{base.backbone}, trained on views of {base.views.global_size} px, evaluated at "
        f"{base.backbone_config.image_size} px",
        "budget": f"{base.epochs:g} epochs, batch {base.batch_size} (the base)",
        "seeds": ", ".join(map(str, study.seeds)),
    }


def _circumstances(configs: Iterable[RunConfig]) -> dict[str, str]:
    """Code and machines of all runs; where there are several, figures of speed and small differences are in doubt."""
    known = [read_circumstances(config.out) for config in configs]
    code = dict.fromkeys(version for each in known for version in each.code)
    machines = dict.fromkeys(name for each in known for name in each.machines)
    facts: dict[str, str] = {}
    if code:
        mixed = " (the runs mix versions of the code: small differences may come from that)" if len(code) > 1 else ""
        facts["code"] = "; ".join(code) + mixed
    if machines:
        mixed = " (the runs mix machines: speeds do not compare)" if len(machines) > 1 else ""
        facts["machine"] = "; ".join(machines) + mixed
    memory = dict.fromkeys(each.memory for each in known if each.memory)
    if memory:
        facts["peak memory"] = "; ".join(memory)
    return facts
