"""`dinoscope study`: many runs, resumable, here or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from dinoscope.cli.command import Command, command_line
from dinoscope.errors import UserError, lookup

if TYPE_CHECKING:
    from dinoscope.study.plan import PlannedRun
    from dinoscope.study.run import Runner, RunStatus, StudyResult, Watch
    from dinoscope.training.config import RunConfig


@dataclass(frozen=True)
class SlurmOptions:
    """Only with --executor slurm; each run is a job of one array."""

    partition: str = ""
    """Where empty, the cluster's default."""
    account: str = ""
    """Where empty, the cluster's default."""
    qos: str = ""
    """Where empty, the cluster's default."""
    timeout_minutes: int = 24 * 60
    """Of one job; a run that needs more is queued again and goes on."""
    gpus: int = 1
    """GPUs of each run, 0 or 1."""
    cpus: int = 8
    """CPU cores of each run."""


@dataclass(frozen=True)
class Execution:
    """How the runs are made; none of it changes their results, but --threads in the last digits.

    Unreadable images are left out, however many may be.
    """

    executor: Literal["local", "slurm"] = "local"
    """local: processes on this machine; slurm: jobs of a cluster (pip install 'dinoscope[slurm]')."""
    jobs: int = 1
    """Runs at the same time."""
    threads: int = 0
    """CPU threads of each run; 0 takes the recipe's choice, or where it has none a fair share of the cores."""
    device: str = "auto"
    """cpu, cuda, mps or auto, for every run."""
    scan: Literal["full", "headers"] | None = None
    """What is looked at of each image before the runs begin; where left out, the recipe's choice (full)."""
    max_unreadable: float | None = None
    """Share of the images that may be unreadable, and are left out; where left out, the recipe's choice (0.05)."""
    dry_run: bool = False
    """Only list the runs, with the time that each may take, measured on a few steps."""
    slurm: SlurmOptions = field(default_factory=SlurmOptions)


@dataclass(frozen=True)
class SmallComparison:
    """Options of the small comparison."""

    data: Path | None = None
    """Folder of images, with train/CLASS/... and val/CLASS/... for k-NN and supervised training."""
    out: Path | None = None
    """Folder of the study."""
    methods: tuple[str, ...] = ()
    """Names; all methods where left out."""
    backbones: tuple[str, ...] = ()
    """Names; where left out, resnet_micro and vit_micro_conv8, which a CPU trains in minutes. For a GPU:
    resnet18_small vit_tiny_patch4_32."""
    views: str = "two_views_32"
    """Preset of the views (see `dinoscope train --help`): two_views_32 suits CIFAR, scenes the embedded data set."""
    epochs: float | None = None
    """Instead of the recipe's."""
    seeds: tuple[int, ...] = (0,)
    """Each gives runs of its own; the table has mean and deviation."""
    execution: tyro.conf.OmitArgPrefixes[Execution] = field(default_factory=Execution)


@dataclass(frozen=True)
class Options(SmallComparison):
    """Many trainings as one.

    Started again with the same options, a study goes on where it was stopped or killed; finished runs are not repeated.
    Each run leaves a run folder OUT/runs/NAME and, beside it, NAME.log with what it printed.
    """

    study: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")] = ""
    """Name of the study: small-comparison."""


@dataclass(frozen=True)
class Study:
    """A named study: its options (with data, out and execution), its runs, what follows them, and a line of help."""

    options: Any
    configs: Callable[[Any], list[RunConfig]]
    finish: Callable[[Sequence[Path], Any], None]
    help: str


def small_comparison_configs(options: SmallComparison) -> list[RunConfig]:
    """The runs of the small comparison. Raises UserError where the data cannot be compared on: before any training."""
    from dinoscope.evaluation.base import gallery_and_queries
    from dinoscope.study.plan import small_comparison

    gallery_and_queries(options.data)
    return small_comparison(
        options.data,
        options.out,
        views=options.views,
        methods=options.methods,
        backbones=options.backbones,
        epochs=options.epochs,
        seeds=options.seeds,
    )


def compare_all(runs: Sequence[Path], options: SmallComparison) -> None:
    """Measure all runs on the study's data and write the table to OUT/comparison, in place of an earlier one."""
    from dinoscope.cli import call

    places = ["--data", str(options.data), "--out", str(options.out / "comparison"), "--overwrite"]
    call("compare", [*map(str, runs), *places, "--device", options.execution.device])


STUDIES = {
    "small-comparison": Study(
        SmallComparison,
        small_comparison_configs,
        compare_all,
        "every method on the same small images: same networks, budget and seeds, then compared",
    ),
}


def run(options: tyro.conf.OmitArgPrefixes[Options]) -> int:
    """Run a study; return 0 when all runs are finished, 1 where some failed, 130 where a signal stopped it."""
    if not options.study:
        width = max(map(len, STUDIES))
        lines = [f"  {name:<{width}}  {study.help}" for name, study in STUDIES.items()]
        print("usage: dinoscope study NAME --data DIR --out DIR [options]   (dinoscope study NAME --help)\n")
        print("\n".join(lines))
        return 0
    study = lookup("study", options.study, STUDIES)
    if options.data is None or options.out is None:
        raise UserError(f"{'--data, the folder of images,' if options.data is None else '--out'} is missing")
    execution: Execution = options.execution
    check_execution(execution)
    from dinoscope.cli.console import progress_bar
    from dinoscope.study.plan import plan_runs

    configs = [placed(config, execution) for config in study.configs(options)]
    with progress_bar("checking files") as progress:
        runs = plan_runs(configs, progress)
    if execution.dry_run:
        show_plan(runs, execution.jobs)
        return 0
    from dinoscope.cli.worker import COMMAND

    result = run_all(runs, make_runner(COMMAND, options.out, execution))
    return conclude(result, study, options, command_line())


def run_all(runs: Sequence[PlannedRun], runner: Runner, watch: Watch = lambda _: None) -> StudyResult:
    """All runs, with the table while it lasts, and printed once at the end. watch: looks at them as well."""
    from dinoscope.cli.console import Console
    from dinoscope.cli.progress import StudyTable
    from dinoscope.study.run import execute

    with StudyTable({run.config.out.name: run.steps for run in runs}) as table:

        def both(statuses: Sequence[RunStatus]) -> None:
            table(statuses)
            watch(statuses)

        result = execute([run.config for run in runs], runner, both)
    Console().print(table.table(result.runs))
    return result


def conclude(result: StudyResult, study: Study, options: Any, command: str) -> int:
    """Say what failed and how to go on, or hand the finished runs over; return the exit code."""
    tell_failures(result)
    if len(result.named("finished")) == len(result.runs):
        study.finish([run.config.out for run in result.runs], options)
        return 0
    say(f"go on with the runs that are not finished: {command}")
    return 130 if result.interrupted else 1


def tell_failures(result: StudyResult) -> None:
    """Which runs failed, with the last lines of each."""
    for run in result.named("failed"):
        lines = "".join(f"\n    {line}" for line in run.diagnosis.splitlines())
        say(f"{run.name} failed:{lines}\n    all of it: {run.config.out}.log")
    failed = [run.name for run in result.named("failed")]
    if failed:
        say(f"{len(failed)} of {len(result.runs)} runs failed: {', '.join(failed)}")


def say(text: str) -> None:
    """A line on stderr."""
    from dinoscope.cli.console import Console

    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)


def show_plan(runs: Sequence[PlannedRun], jobs: int) -> None:
    """Print the runs with images, steps and estimated time."""
    from rich.markup import escape
    from rich.table import Table

    from dinoscope.cli.console import Console
    from dinoscope.text import duration

    seconds = [rate * run.steps_left for rate, run in zip(_rates(runs), runs, strict=True)]
    table = Table(title="runs, in this order", title_justify="left")
    table.add_column("run", overflow="fold")
    table.add_column("state")
    for name in ("images", "epochs", "steps left", "time, about"):
        table.add_column(name, justify="right")
    for run, time in zip(runs, seconds, strict=True):
        state = "finished before" if run.state.name == "finished" else run.state.name
        cells = (f"{len(run.images)}", f"{run.config.epochs:g}", f"{run.steps_left}", duration(time, coarse=True))
        table.add_row(escape(run.config.out.name), state, *cells)
    text = f"together about {duration(sum(seconds), coarse=True)}, one after the other"
    if jobs > 1:
        text += (
            f"; {jobs} at once take {duration(sum(seconds) / jobs, coarse=True)} at best, less where they share cores"
        )
    console = Console()
    console.print(table)
    console.print(f"{text}. Evaluations and start-up are not counted. Nothing was started.", soft_wrap=True)


def _rates(runs: Sequence[PlannedRun]) -> list[float]:
    """Seconds per step of each run; runs that differ only in their seed are measured once."""
    from dinoscope.cli.console import progress_bar
    from dinoscope.config import to_dict
    from dinoscope.study.plan import seconds_per_step

    known: dict[str, float] = {}
    rates: list[float] = []
    with progress_bar("timing a few steps of each run") as progress:
        for number, run in enumerate(runs):
            progress(number, len(runs))
            key = repr(to_dict(replace(run.config, seed=0, out=Path())))
            if run.steps_left and key not in known:
                known[key] = seconds_per_step(run)
            rates.append(known.get(key, 0.0))
    return rates


def placed(config: RunConfig, execution: Execution) -> RunConfig:
    """The run on the study's device, with its threads, its scan and its limit of unreadable images."""
    return replace(
        config,
        device=execution.device,
        threads=execution.threads or config.threads,
        scan=execution.scan or config.scan,
        max_unreadable=config.max_unreadable if execution.max_unreadable is None else execution.max_unreadable,
    )


def make_runner(command: Sequence[str], out: Path, execution: Execution) -> Runner:
    """What starts the runs, each by this command and its settings file. Raises UserError as `SlurmRunner` does."""
    if execution.executor == "slurm":
        from dinoscope.study.slurm import SlurmConfig, SlurmRunner

        return SlurmRunner(command, SlurmConfig(**vars(execution.slurm)), execution.jobs, out / "slurm")
    from dinoscope.study.run import LocalRunner

    return LocalRunner(command, execution.jobs, _gpus() if execution.device in ("auto", "cuda") else ())


def _gpus() -> tuple[str, ...]:
    """The GPUs to spread runs over, where there are several."""
    import os

    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = tuple(visible.split(",")[:count]) if visible else tuple(map(str, range(count)))
    return names if len(names) > 1 else ()


def check_execution(execution: Execution) -> None:
    """Raises UserError for options out of range."""
    if execution.jobs < 1:
        raise UserError(f"--jobs must be at least 1, not {execution.jobs}")


run.__doc__ = Options.__doc__
COMMANDS = {"study": Command("many trainings as one: compare the methods; resumable, here or on SLURM", run)}
