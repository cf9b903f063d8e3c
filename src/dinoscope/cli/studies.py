"""The commands of many runs: `study`, `ablate` and `reproduce`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from rich.markup import escape
from rich.padding import Padding
from rich.text import Text

from dinoscope.cli.command import Command, command_line
from dinoscope.cli.console import Console, emit, progress_bar, rich_table, say, stdout
from dinoscope.cli.progress import StudyTable
from dinoscope.errors import UserError, lookup
from dinoscope.evaluation import EVALUATIONS
from dinoscope.evaluation.base import Context, labelled_images
from dinoscope.files import write_all
from dinoscope.model_names import unwatched
from dinoscope.report.ablation import write_result
from dinoscope.report.tables import csv_text, markdown
from dinoscope.study import definition, reading, reproduce, results
from dinoscope.study.comparison import comparison, of_equal_time
from dinoscope.study.effects import AblationResult, arrange
from dinoscope.study.evaluations import Evaluating, attention_on_objects
from dinoscope.study.plan import PlannedRun, plan_runs, plan_study, plan_table
from dinoscope.study.run import WORKER, LocalRunner, MedianRule, Runner, RunStatus, StudyResult, Watch, execute
from dinoscope.study.slurm import SlurmConfig, SlurmRunner
from dinoscope.study.state import stopped_early
from dinoscope.system import pick_device
from dinoscope.training.config import RunConfig


@dataclass(frozen=True)
class Execution:
    """How the runs are made; none of it changes their results, except --threads, in the last digits."""

    executor: Literal["local", "slurm"] = "local"
    """local: processes on this machine; slurm: jobs of a cluster (pip install 'dinoscope[slurm]')."""
    jobs: int = 1
    """Runs at the same time."""
    threads: int = 0
    """CPU threads of each run; 0 takes the recipe's choice, or a fair share of the cores if it has none."""
    device: str = "auto"
    """cpu, cuda, mps or auto, for every run."""
    scan: Literal["auto", "full", "headers", "sample", "none"] | None = None
    """What is looked at of each image before the runs begin; by default the recipe's choice (full)."""
    max_unreadable: float | None = None
    """Share of the images that may be unreadable, and are left out; by default the recipe's choice (0.05)."""
    dry_run: bool = False
    """Only list the runs, with the time that each may take, measured on a few steps."""
    slurm: SlurmConfig = field(default_factory=SlurmConfig)


@dataclass(frozen=True)
class StudyOptions:
    """Many trainings as one.

    Started again with the same options, a study continues where it was stopped; finished runs are not repeated. Each
    run leaves a run folder OUT/runs/NAME and, next to it, NAME.log with what it printed.
    """

    study: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="STUDY")] = ""
    """A study by name (equal-time, esvit, small-comparison), or a file like theirs (docs/comparing.md)."""
    data: Path | None = None
    """Folder of images, with train/CLASS/... and val/CLASS/... for k-NN and supervised training."""
    out: Path | None = None
    """Folder of the study."""
    methods: tuple[str, ...] = ()
    """Names, instead of the study's methods."""
    backbones: tuple[str, ...] = ()
    """Names, instead of the study's networks, which a CPU trains in minutes. For a GPU: resnet18_small
    vit_tiny_patch4_32."""
    views: str = ""
    """Preset of the views (see `dinoscope train --help`), instead of the study's, which suits CIFAR. scenes suits the
    embedded data set."""
    epochs: float | None = None
    """Instead of the study's."""
    minutes: float | None = None
    """Minutes of training per run, in place of epochs. A short trial of each method and network finds how many epochs
    fit."""
    seeds: tuple[int, ...] = ()
    """Each gives runs of its own; the table has mean and deviation. By default 0 alone."""
    group: Annotated[str | None, tyro.conf.arg(metavar="PATTERN")] = None
    """As of `dinoscope train`, for every run and what is measured of it."""
    split: float | None = None
    """Share of the images to train on, if there is no val split; the runs are compared on the rest."""
    execution: tyro.conf.OmitArgPrefixes[Execution] = field(default_factory=Execution)


def study(options: StudyOptions) -> int:
    """Run a comparison of methods; return 0 if all runs are finished, 1 if some failed, 130 if a signal stopped it."""
    from dinoscope.cli import call  # what this module is part of

    if not options.study:
        print("usage: dinoscope study NAME|FILE.toml --data DIR --out DIR [options]   (dinoscope study --help)\n")
        print(_listing(definition.named_studies("backbones")))
        return 0
    data, out = _places(options)
    if options.minutes is not None and options.epochs is not None:
        raise UserError("--minutes and --epochs exclude each other: each sets the length of the runs")
    given = {name: getattr(options, name) for name in ("methods", "backbones", "views", "seeds", "minutes")}
    compared = comparison(options.study, **given)
    configs = [as_given(config, options) for config in compared.configs(data, out, options.epochs)]
    if len({(config.group, config.split) for config in configs}) > 1:
        raise UserError(f"{options.study} changes group or split for some runs alone: they could not be compared")
    # refuse data that the runs cannot be compared on
    labelled_images(data, Context(group=configs[0].group, split=configs[0].split))
    if compared.minutes is not None and options.epochs is None:
        with progress_bar("timing each run") as progress:
            configs = of_equal_time(configs, compared.minutes, out, progress, keep=not options.execution.dry_run)
    runs = _checked(configs)
    if options.execution.dry_run:
        show_plan(runs, options.execution.jobs)
        return 0
    result = run_all(runs, make_runner(WORKER, out, options.execution))
    code = conclude(result, "new", "stopped", "failed")
    if code == 0:
        folders = [str(run.config.out) for run in result.runs]
        places = ["--data", str(data), "--out", str(out / "comparison"), "--overwrite"]
        call("compare", [*folders, *places, "--device", options.execution.device])
    return code


def _listing(studies: Mapping[str, str]) -> str:
    width = max(map(len, studies))
    return "\n".join(f"  {name:<{width}}  {title}" for name, title in studies.items())


def _places(options: StudyOptions | AblateOptions) -> tuple[Path, Path]:
    if options.data is None or options.out is None:
        missing = "--data, the folder of images," if options.data is None else "--out, the folder of the study,"
        raise UserError(f"{missing} is missing")
    if options.execution.jobs < 1:
        raise UserError(f"--jobs must be at least 1, not {options.execution.jobs}")
    return options.data, options.out


def _checked(configs: Sequence[RunConfig]) -> list[PlannedRun]:
    with progress_bar("checking files") as progress:
        return plan_runs(configs, progress)


def run_all(runs: Sequence[PlannedRun], runner: Runner, watch: Watch = lambda _: None) -> StudyResult:
    with StudyTable({run.config.out.name: run.steps for run in runs}) as table:

        def both(statuses: Sequence[RunStatus]) -> None:
            table(statuses)
            watch(statuses)

        result = execute([run.config for run in runs], runner, both)
    Console().print(table.table(result.runs))
    return result


def conclude(result: StudyResult, *states: str) -> int:
    """Report what failed, and how to continue if a run is in one of these states; return the exit code, 0 if none is.

    A run that a rule stopped early is at its end.
    """
    failed = result.named("failed")
    for run in failed:
        lines = "".join(f"\n    {line}" for line in run.diagnosis.splitlines())
        say(f"{run.name} failed:{lines}\n    all of it: {run.config.out}.log")
    if failed:
        say(f"{len(failed)} of {len(result.runs)} runs failed: {', '.join(run.name for run in failed)}")
    if all(stopped_early(run.config) is not None for run in result.named(*states)):
        return 0
    say(f"continue with the runs that are not finished: {command_line()}")
    return 130 if result.interrupted else 1


def show_plan(runs: Sequence[PlannedRun], jobs: int) -> None:
    with progress_bar("timing a few steps of each run") as progress:
        table = plan_table(runs, jobs, progress)
    emit(None, [table], json=False)


def as_given(config: RunConfig, options: StudyOptions | AblateOptions) -> RunConfig:
    """Return the settings of a run with what the options say for all runs."""
    split = config.split if options.split is None else options.split
    return replace(placed(config, options.execution), group=options.group or config.group, split=split)


def placed(config: RunConfig, execution: Execution) -> RunConfig:
    return replace(
        config,
        device=execution.device,
        threads=execution.threads or config.threads,
        scan=execution.scan or config.scan,
        max_unreadable=config.max_unreadable if execution.max_unreadable is None else execution.max_unreadable,
    )


def make_runner(command: Sequence[str], out: Path, execution: Execution) -> Runner:
    """Return what starts the runs, each by this command and its settings file. Raises UserError as `SlurmRunner`."""
    if execution.executor == "slurm":
        return SlurmRunner(command, execution.slurm, execution.jobs, out / "slurm")
    return LocalRunner(command, execution.jobs, _gpus() if execution.device in ("auto", "cuda") else ())


def _gpus() -> tuple[str, ...]:
    """Return the GPUs that runs are distributed over, if there are several."""
    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = tuple(visible.split(",")[:count]) if visible else tuple(map(str, range(count)))
    return names if len(names) > 1 else ()


@dataclass(frozen=True)
class AblateOptions:
    """An ablation study: a baseline, and runs that differ from it in one thing each (or as a file says).

    STUDY is a TOML file (docs/ablation.md), or a name, as of the paper's studies; without it the names are listed.
    Started again with the same options, a study continues where it was stopped or killed; finished runs and what was
    measured of them are kept. Writes ablation.md, .tex, .csv, .json and .html to OUT, and run folders to
    OUT/runs.
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
    """Instead of the study's; differences are judged by their deviation over seeds: three or more are worth having."""
    epochs: float | None = None
    """Instead of the recipe's, for every run."""
    group: Annotated[str | None, tyro.conf.arg(metavar="PATTERN")] = None
    """As of `dinoscope train`, for every run and what is measured of it."""
    split: float | None = None
    """Share of the images to train on, if there is no val split; the runs are measured on the rest."""
    masks: Path | None = None
    """Masks of the val images, or a VOC layout: adds the Jaccard of attention with the objects."""
    evaluations: Annotated[tuple[str, ...], tyro.conf.arg(metavar="EVALUATION...")] = ()
    """Names of evaluations to measure on every run besides k-NN, the linear probe and RankMe."""
    stop_on_collapse: bool = False
    """Stop a run when its method finds that it has collapsed; it is a result, and not begun again."""
    stop_median: bool = False
    """Stop a run whose online k-NN falls behind the median of the others'; never the baseline."""
    execution: tyro.conf.OmitArgPrefixes[Execution] = field(default_factory=Execution)


def ablate(options: AblateOptions) -> int:
    """Run an ablation study; return 0 if all runs came to their end, 1 if some failed, 130 if a signal stopped it."""
    if not options.study:
        print("usage: dinoscope ablate NAME|FILE.toml --data DIR --out DIR [options]   (dinoscope ablate --help)\n")
        print("Studies by name, of the paper (Caron et al. 2021) unless marked otherwise:")
        print(_listing(definition.named_studies()))
        print("\ndinoscope ablate NAME --show prints a study as a file, to be copied and changed.")
        return 0
    study, execution = _definition(options), options.execution
    if options.show:
        print(definition.to_toml(study), end="")
        return 0
    data, out = _places(options)
    _check_same_study(study.name, out)
    plan = plan_study(study, data, out, epochs=options.epochs, placed=lambda config: as_given(config, options))
    for name in plan.idle_axes:
        say(f"the axis {name} has no runs: it has no value but the baseline's own")
    for name in options.evaluations:
        lookup("evaluation", name, EVALUATIONS)
    masks = {} if options.masks is None else attention_on_objects(data, options.masks)
    # a bar for each computation moves on a terminal; elsewhere it would be a line for each, of every run
    watch = progress_bar if sys.stderr.isatty() else unwatched
    first, device = plan.configs[0], pick_device(execution.device)
    context = Context(device, watch=watch, group=first.group, split=first.split)
    evaluating = Evaluating(data, options.evaluations, masks, context)
    if options.stop_median and not (evaluating.labelled[0] and all(config.evaluate_every for config in plan.configs)):
        raise UserError(
            "--stop-median compares online k-NN: it needs --data with train/CLASS/... and val/CLASS/..., and "
            "evaluate_every above 0"
        )
    runs = _checked(plan.configs)
    stopped = {run.config.out for run in runs if run.state.name != "finished" and stopped_early(run.config) is not None}
    if stopped:
        say(f"stopped early before, and not begun again: {', '.join(sorted(path.name for path in stopped))}")
        runs = [run for run in runs if run.config.out not in stopped]
    if execution.dry_run:
        show_plan(runs, execution.jobs)
        images = sum(run.steps_left * run.config.batch_size for run in runs)
        print(f"{len(runs)} runs, {images:,} images still to be seen.")
        return 0
    earlier = [config.out for config in plan.configs]
    rule: Watch = MedianRule(plan.baseline_runs, earlier) if options.stop_median else lambda _: None
    worker = (*WORKER, "--stop-on-collapse") if options.stop_on_collapse else WORKER
    result = run_all(runs, make_runner(worker, out, execution), rule)
    if (code := conclude(result, "new", "stopped")) != 0:
        return code
    facts = {"command": command_line(), "data": str(data)}
    if runs:
        facts["images"] = f"{len(runs[0].images)} for training, fingerprint {runs[0].images.fingerprint()}"
    if options.masks is not None:
        facts["masks"] = str(options.masks)
    if execution.executor == "local" and execution.jobs > 1:
        facts["at once"] = f"{execution.jobs} runs shared the machine: speeds do not compare"
    # of what a run printed before it failed: the error, in one line of a table
    failures = {run.name: run.diagnosis.strip().rpartition("\n")[2].strip() for run in result.named("failed")}
    gathered, remarks = results.gather(plan, evaluating, failures, facts, _say_measuring)
    for remark in remarks:
        say(remark)
    with progress_bar("drawing figures") as progress:
        files = write_result(gathered, out, overwrite=True, watch=progress)
    show_ablation(gathered, Console())
    diagnoses = {run.folder: f"{run.state}: {run.diagnosis}" for run in gathered.runs if run.diagnosis}
    for folder, diagnosis in diagnoses.items():
        say(f"{Path(folder).name} {diagnosis}")
    stdout(f"written to {out}: {', '.join(path.name for path in files if path.parent == out)}")
    return 1 if failures else 0


def _definition(options: AblateOptions) -> definition.StudyDefinition:
    file = Path(options.study)
    if file.suffix == ".toml" or file.is_file():
        study = definition.read_study(file)
        study = replace(study, recipe=options.recipe or study.recipe)
    else:
        study = definition.named_study(options.study, options.recipe or definition.DEFAULT_RECIPE)
    if options.axes:
        study = replace(study, axes=tuple(study.axis(name) for name in dict.fromkeys(options.axes)))
    return replace(study, seeds=options.seeds or study.seeds)


def _check_same_study(name: str, out: Path) -> None:
    if not (out / results.FILE).is_file():
        return
    try:
        held = results.read_result(out).name
    except UserError:  # damaged, or of another version: it can be made again
        return
    if held != name:
        raise UserError(f"{out} holds the result of the study {held!r}, not of {name!r}: choose another --out")


def _say_measuring(name: str, number: int, total: int) -> None:
    """Print a line for each run if there is no terminal, on which a bar for each computation moves instead."""
    if not sys.stderr.isatty():
        say(f"{name}: measuring ({number} of {total})")


def show_ablation(result: AblationResult, console: Console) -> None:
    """Print it, in 80 columns. Raises UserError if a variant has two runs of one seed."""
    arranged = arrange(result)
    for axis in arranged.axes:
        console.print(rich_table(reading.axis_table(axis, brief=True)))
        for sentence in reading.axis_reading(axis):
            console.print(Padding(Text(sentence, style="dim"), (0, 0, 0, 2)))
        console.print()
    console.print(f"[bold]{escape(result.title or result.name)}[/bold]", highlight=False)
    for sentence in reading.study_reading(arranged):
        console.print(escape(sentence), highlight=False)


@dataclass(frozen=True)
class ReproduceOptions:
    """Run a published table again with the released weights, and set what is measured next to what was published.

    imagenet-table: k-NN (k = 20) and linear top-1, after DINO's Table 2. --data: train/CLASS/... and val/CLASS/...
    voc-table: Jaccard of attention masks, after DINO's Fig. 4. --data: VOCdevkit.
    davis-table: J&F, J and F of DAVIS 2017 val, after DINO's Table 5. --data: DAVIS.

    All weights are fetched first. Each measurement is kept in OUT/MODEL/evaluations, and until it is made the features
    that it needs in OUT/MODEL/features; the same command started again continues from there. Writes reproduce.md, .csv
    and .json. Exits with 1 if a model failed.
    """

    table: Annotated[
        str, tyro.conf.Positional, tyro.conf.arg(metavar="TABLE", help="imagenet-table, voc-table or davis-table.")
    ]
    data: Path
    """Folder of the data set, unpacked; see above."""
    out: Path | None = None
    """Folder to write to."""
    models: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")] = ()
    """Released weights (`dinoscope models`) instead of the table's; NAME=PATH takes a file of your own for them, and
    PATH alone one that is called as the released file. voc-table takes random:NAME too."""
    linear: Literal["fast", "reference", "none"] = "fast"
    """imagenet-table: fast extracts features once; reference is DINO's own evaluation, 100 epochs of augmented
    images."""
    image_size: int | None = None
    """Other than the published one, in pixels: the side of the square (imagenet-table 224, voc-table 512), or the
    short side (davis-table 480)."""
    dry_run: bool = False
    """Measure nothing: list models, files, sizes, images, and a rough time from a short probe."""
    overwrite: bool = False
    """Measure again what is kept in --out, and replace its tables."""
    device: str = "auto"
    """cpu, cuda, cuda:N or mps; auto takes the best there is."""
    batch_size: int | None = None
    """Images at a time; lower it if memory is short. The figures do not depend on it."""
    workers: int = -1
    """imagenet-table: processes that read images; -1 chooses. The figures do not depend on it."""


def run_table(options: ReproduceOptions) -> int:
    lookup("table", options.table, reproduce.TABLES)
    if options.batch_size is not None and options.batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, not {options.batch_size}")
    context = Context(
        pick_device(options.device),
        batch_size=options.batch_size,
        workers=options.workers,
        image_size=options.image_size,
        watch=progress_bar,
    )
    if options.out is None and not options.dry_run:
        raise UserError("give --out FOLDER to write to, or --dry-run")
    linear = reproduce.PROBES[options.linear]
    reproduction = reproduce.prepare(options.table, options.data, context, options.models, linear)
    if options.out is None or options.dry_run:
        emit(None, [reproduce.plan_table(reproduction)], json=False)
        return 0
    failed = reproduce.run(reproduction, options.out, overwrite=options.overwrite, warn=say)
    table, (header, *rows) = reproduce.result_table(reproduction), reproduce.csv_rows(reproduction)
    texts = (
        f"# {options.table}\n\n{markdown(table)}",
        csv_text(header, rows),
        json.dumps(reproduce.json_values(reproduction), indent=2) + "\n",
    )
    write_all(options.out, zip(reproduce.FILES, (text.encode(errors="surrogateescape") for text in texts), strict=True))
    emit(None, [table], [f"written to {options.out}"], json=False)
    return 1 if failed else 0


COMMANDS = {
    "ablate": Command(
        "which parts of a method matter: the paper's ablation studies, or your own; resumable",
        ablate,
        options=AblateOptions,
    ),
    "study": Command(
        "many trainings as one: compare the methods; resumable, here or on SLURM", study, options=StudyOptions
    ),
    "reproduce": Command(
        "run published tables (ImageNet, VOC, DAVIS) again with the released weights, on your data",
        run_table,
        options=ReproduceOptions,
    ),
}
