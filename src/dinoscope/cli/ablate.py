"""`dinoscope ablate`: which parts of a method matter, from many runs that differ in one thing each."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from dinoscope.cli.command import Command, command_line
from dinoscope.cli.study import (
    Execution,
    check_execution,
    make_runner,
    placed,
    run_all,
    say,
    show_plan,
    tell_failures,
)
from dinoscope.errors import UserError, lookup

if TYPE_CHECKING:
    from dinoscope.study.definition import StudyDefinition
    from dinoscope.study.effects import AblationResult
    from dinoscope.study.evaluations import Evaluating
    from dinoscope.study.plan import PlannedRun, PlannedStudy
    from dinoscope.study.run import RunStatus, Watch


@dataclass(frozen=True)
class Options:
    """An ablation study: a baseline, and runs that differ from it in one thing each (or as a file says).

    STUDY is a TOML file (docs/ablation.md), or a name, as of the paper's studies; without it the names are listed.
    Started again with the same options, a study goes on where it was stopped or killed; finished runs and what was
    measured of them are kept. Writes ablation.md, .csv, .json and .html to OUT, and run folders to OUT/runs.
    """

    study: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="STUDY")] = ""
    """NAME or FILE.toml."""
    data: Path | None = None
    """Folder of images; with train/CLASS/... and val/CLASS/... for accuracy."""
    out: Path | None = None
    """Folder of the study."""
    show: bool = False
    """Print the study as TOML, to be copied and changed; nothing is run."""
    recipe: str = ""
    """Settings of the baseline, instead of the study's; named studies take their values at its scale."""
    axes: tuple[str, ...] = ()
    """Only these axes of the study."""
    seeds: tuple[int, ...] = ()
    """Instead of the study's; differences are judged by their spread over seeds: three or more are worth having."""
    epochs: float | None = None
    """Instead of the recipe's, for every run."""
    masks: Path | None = None
    """Masks of the val images, or a VOC layout: adds the Jaccard of attention with the objects."""
    evaluations: tuple[str, ...] = ()
    """Measured of every run besides k-NN, the linear probe and RankMe: names of evaluations."""
    stop_on_collapse: bool = False
    """Stop a run when its method says that it has collapsed; it is a result, and not begun again."""
    stop_median: bool = False
    """Stop a run whose online k-NN falls behind the median of the others'; never the baseline."""
    execution: tyro.conf.OmitArgPrefixes[Execution] = field(default_factory=Execution)


def run(options: tyro.conf.OmitArgPrefixes[Options]) -> int:
    """Run a study; return 0 when all runs came to their end, 1 where some failed, 130 where a signal stopped it."""
    if not options.study:
        print(_listing())
        return 0
    study = find_study(options)
    if options.show:
        from dinoscope.study.definition import to_toml

        print(to_toml(study), end="")
        return 0
    check_execution(options.execution)
    data, out = _places(options)
    _check_same_study(study, out)
    plan, evaluating = _planned(study, options, data, out), _evaluating(options, data)
    runs = _checked(plan, options, evaluating)
    if options.execution.dry_run:
        show_plan(runs, options.execution.jobs)
        images = sum(run.steps_left * run.config.batch_size for run in runs)
        print(f"{len(runs)} runs, {images:,} images still to be seen.")
        return 0
    return _run(plan, runs, evaluating, options, command_line())


def find_study(options: Options) -> StudyDefinition:
    """The study of a file or a name, with what the options change. Raises UserError."""
    from dinoscope.study.definition import DEFAULT_RECIPE, named_study, read_study

    file = Path(options.study)
    if file.suffix == ".toml" or file.is_file():
        study = read_study(file)
        study = replace(study, recipe=options.recipe or study.recipe)
    else:
        study = named_study(options.study, options.recipe or DEFAULT_RECIPE)
    if options.axes:
        study = replace(study, axes=tuple(study.axis(name) for name in dict.fromkeys(options.axes)))
    return replace(study, seeds=options.seeds or study.seeds)


def _listing() -> str:
    from dinoscope.study.definition import named_studies

    studies = named_studies()
    width = max(map(len, studies))
    lines = [f"  {name:<{width}}  {title}" for name, title in studies.items()]
    usage = "usage: dinoscope ablate NAME|FILE.toml --data DIR --out DIR [options]   (dinoscope ablate --help)"
    hint = "dinoscope ablate NAME --show prints a study as a file, to be copied and changed."
    heading = "Studies by name, of the paper (Caron et al. 2021) where nothing else is said:"
    return "\n".join([usage, "", heading, *lines, "", hint])


def _places(options: Options) -> tuple[Path, Path]:
    if options.data is None or options.out is None:
        missing = "--data, the folder of images," if options.data is None else "--out, the folder of the study,"
        raise UserError(f"{missing} is missing")
    return options.data, options.out


def _check_same_study(study: StudyDefinition, out: Path) -> None:
    """Refuse to write over the result of another study. Raises UserError."""
    from dinoscope.study.results import FILE, read_result

    try:
        held = read_result(out).name if (out / FILE).is_file() else study.name
    except UserError:  # damaged, or of another version: it can be made again
        return
    if held != study.name:
        raise UserError(f"{out} holds the result of the study {held!r}, not of {study.name!r}: choose another --out")


def _planned(study: StudyDefinition, options: Options, data: Path, out: Path) -> PlannedStudy:
    from dinoscope.study.plan import plan_study

    plan = plan_study(study, data, out, epochs=options.epochs, placed=lambda config: placed(config, options.execution))
    for name in plan.idle_axes:
        say(f"the axis {name} has no runs: it has no value but the baseline's own")
    return plan


def _evaluating(options: Options, data: Path) -> Evaluating:
    """What is measured after the runs. Raises UserError where masks were named and there are none."""
    from dinoscope.cli.console import progress_bar
    from dinoscope.evaluation import EVALUATIONS
    from dinoscope.evaluation.base import Context
    from dinoscope.model_names import unwatched
    from dinoscope.study.evaluations import Evaluating, attention_on_objects
    from dinoscope.system import pick_device

    # a bar for each computation moves on a terminal; elsewhere it would be a line for each, of every run
    watch = progress_bar if sys.stderr.isatty() else unwatched
    given = {} if options.masks is None else attention_on_objects(data, options.masks)
    context = Context(pick_device(options.execution.device), watch=watch)
    for name in options.evaluations:
        lookup("evaluation", name, EVALUATIONS)
    return Evaluating(data, options.evaluations, given, context)


def _checked(plan: PlannedStudy, options: Options, evaluating: Evaluating) -> list[PlannedRun]:
    """The runs that may still have something to do; those that a rule stopped before are named. Raises UserError."""
    from dinoscope.cli.console import progress_bar
    from dinoscope.study import plan as planning
    from dinoscope.study.evaluations import is_labelled
    from dinoscope.study.state import stopped_early

    configs = plan.configs
    if options.stop_median and not (is_labelled(evaluating.data) and all(c.evaluate_every for c in configs)):
        raise UserError(
            "--stop-median compares online k-NN: it needs --data with train/CLASS/... and val/CLASS/..., and "
            "evaluate_every above 0"
        )
    with progress_bar("checking files") as progress:
        runs = planning.plan_runs(configs, progress)
    stopped = {run.config.out for run in runs if run.state.name != "finished" and stopped_early(run.config) is not None}
    if stopped:
        say(f"stopped early before, and not begun again: {', '.join(sorted(path.name for path in stopped))}")
    return [run for run in runs if run.config.out not in stopped]


def _run(plan: PlannedStudy, runs: Sequence[PlannedRun], evaluating: Evaluating, options: Options, command: str) -> int:
    """Bring all runs to their end, measure them, write and print the result."""
    from dinoscope.cli.ablation_worker import command as worker
    from dinoscope.study.results import gather
    from dinoscope.study.run import MedianRule
    from dinoscope.study.state import stopped_early

    assert options.out is not None
    runner = make_runner(worker(stop_on_collapse=options.stop_on_collapse), options.out, options.execution)
    earlier = [config.out for config in plan.configs]
    rule: Watch = MedianRule(plan.baseline_runs, earlier) if options.stop_median else lambda _: None
    result = run_all(runs, runner, rule)
    tell_failures(result)
    unfinished = [run for run in result.named("new", "stopped") if stopped_early(run.config) is None]
    if unfinished:
        say(f"go on with the runs that are not finished: {command}")
        return 130 if result.interrupted else 1
    failures = {run.name: _last_line(run) for run in result.named("failed")}
    facts = _facts(runs, options, command)
    gathered = gather(plan, evaluating, failures, facts, _say_measuring)
    for remark in gathered.remarks:
        say(remark)
    _show(gathered.result, options.out)
    return 1 if failures else 0


def _say_measuring(name: str, number: int, total: int) -> None:
    """A line for each run where there is no terminal, on which a bar for each computation moves instead."""
    if not sys.stderr.isatty():
        say(f"{name}: measuring ({number} of {total})")


def _last_line(run: RunStatus) -> str:
    """Of what a run printed before it failed: the error, in one line of a table."""
    return next((line.strip() for line in reversed(run.diagnosis.splitlines()) if line.strip()), "")


def _facts(runs: Sequence[PlannedRun], options: Options, command: str) -> dict[str, str]:
    facts = {"command": command, "data": str(options.data)}
    if runs:
        images = runs[0].images
        facts["images"] = f"{len(images)} for training, fingerprint {images.fingerprint()}"
    if options.masks is not None:
        facts["masks"] = str(options.masks)
    if options.execution.executor == "local" and options.execution.jobs > 1:
        facts["at once"] = f"{options.execution.jobs} runs shared the machine: speeds do not compare"
    return facts


def _show(result: AblationResult, out: Path) -> None:
    """Write the files, print the tables, and name the runs that are not simply finished."""
    from dinoscope.cli.ablation_table import show
    from dinoscope.cli.console import Console, progress_bar
    from dinoscope.report.ablation import write_result

    with progress_bar("drawing figures") as progress:
        files = write_result(result, out, overwrite=True, watch=progress)
    console = Console()
    show(result, console)
    told = {run.folder: f"{Path(run.folder).name} {run.state}: {run.diagnosis}" for run in result.runs if run.diagnosis}
    for line in told.values():
        say(line)
    names = ", ".join(str(path.relative_to(out)) for path in files if path.parent == out)
    console.print(f"written to {out}: {names}", highlight=False, markup=False, soft_wrap=True)


run.__doc__ = Options.__doc__
COMMANDS = {
    "ablate": Command("which parts of a method matter: the paper's ablation studies, or your own; resumable", run)
}
