"""The commands of many runs: `study`, `ablate` and `reproduce`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dinoscope.cli.command import Command, command_line
from dinoscope.cli.console import Console, emit, progress_bar, rich_table, say
from dinoscope.cli.progress import StudyTable
from dinoscope.cli.worker import worker
from dinoscope.config import to_dict
from dinoscope.errors import UserError, lookup
from dinoscope.evaluation import EVALUATIONS
from dinoscope.evaluation.base import Context, labelled_images
from dinoscope.files import claim, write_all
from dinoscope.model_names import unwatched
from dinoscope.report.ablation import write_result
from dinoscope.report.tables import csv_text, markdown
from dinoscope.study import reproduce
from dinoscope.study.definition import DEFAULT_RECIPE, StudyDefinition, named_studies, named_study, read_study
from dinoscope.study.effects import AblationResult, arrange
from dinoscope.study.evaluations import Evaluating, attention_on_objects, is_labelled
from dinoscope.study.plan import PlannedRun, PlannedStudy, plan_runs, plan_study, seconds_per_step, small_comparison
from dinoscope.study.reading import axis_reading, axis_table, study_reading
from dinoscope.study.results import FILE, gather, read_result
from dinoscope.study.run import LocalRunner, MedianRule, Runner, RunStatus, StudyResult, Watch, execute
from dinoscope.study.slurm import SlurmConfig
from dinoscope.study.state import stopped_early
from dinoscope.study.targets import Target, fetch_all
from dinoscope.system import pick_device
from dinoscope.text import duration
from dinoscope.training.config import RunConfig


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
    slurm: SlurmConfig = field(default_factory=SlurmConfig)


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
class StudyOptions(SmallComparison):
    """Many trainings as one.

    Started again with the same options, a study continues where it was stopped; finished runs are not repeated. Each
    run leaves a run folder OUT/runs/NAME and, next to it, NAME.log with what it printed.
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
    """The runs of the small comparison. Raises UserError if the data cannot be compared on: before any training."""
    assert options.data is not None
    assert options.out is not None
    labelled_images(options.data)
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
    from dinoscope.cli import call  # what this module is part of

    assert options.out is not None
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


def study(options: StudyOptions) -> int:
    """Run a study; return 0 when all runs are finished, 1 where some failed, 130 where a signal stopped it."""
    if not options.study:
        width = max(map(len, STUDIES))
        lines = [f"  {name:<{width}}  {study.help}" for name, study in STUDIES.items()]
        print("usage: dinoscope study NAME --data DIR --out DIR [options]   (dinoscope study NAME --help)\n")
        print("\n".join(lines))
        return 0
    chosen = lookup("study", options.study, STUDIES)
    if options.data is None or options.out is None:
        raise UserError(f"{'--data, the folder of images,' if options.data is None else '--out'} is missing")
    execution: Execution = options.execution
    check_execution(execution)
    configs = [placed(config, execution) for config in chosen.configs(options)]
    with progress_bar("checking files") as progress:
        runs = plan_runs(configs, progress)
    if execution.dry_run:
        show_plan(runs, execution.jobs)
        return 0
    result = run_all(runs, make_runner(worker(), options.out, execution))
    return conclude(result, chosen, options, command_line())


def run_all(runs: Sequence[PlannedRun], runner: Runner, watch: Watch = lambda _: None) -> StudyResult:
    """All runs, with the table while it lasts, and printed once at the end. watch: looks at them as well."""
    with StudyTable({run.config.out.name: run.steps for run in runs}) as table:

        def both(statuses: Sequence[RunStatus]) -> None:
            table(statuses)
            watch(statuses)

        result = execute([run.config for run in runs], runner, both)
    Console().print(table.table(result.runs))
    return result


def conclude(result: StudyResult, study: Study, options: Any, command: str) -> int:
    """Say what failed and how to continue, or hand the finished runs over; return the exit code."""
    tell_failures(result)
    if len(result.named("finished")) == len(result.runs):
        study.finish([run.config.out for run in result.runs], options)
        return 0
    say(f"continue with the runs that are not finished: {command}")
    return 130 if result.interrupted else 1


def tell_failures(result: StudyResult) -> None:
    """Which runs failed, with the last lines of each."""
    for run in result.named("failed"):
        lines = "".join(f"\n    {line}" for line in run.diagnosis.splitlines())
        say(f"{run.name} failed:{lines}\n    all of it: {run.config.out}.log")
    failed = [run.name for run in result.named("failed")]
    if failed:
        say(f"{len(failed)} of {len(result.runs)} runs failed: {', '.join(failed)}")


def show_plan(runs: Sequence[PlannedRun], jobs: int) -> None:
    """Print the runs with images, steps and estimated time."""
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
        from dinoscope.study.slurm import SlurmRunner

        return SlurmRunner(command, execution.slurm, execution.jobs, out / "slurm")
    return LocalRunner(command, execution.jobs, _gpus() if execution.device in ("auto", "cuda") else ())


def _gpus() -> tuple[str, ...]:
    """The GPUs to spread runs over, if there are several."""
    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = tuple(visible.split(",")[:count]) if visible else tuple(map(str, range(count)))
    return names if len(names) > 1 else ()


def check_execution(execution: Execution) -> None:
    """Raises UserError for options out of range."""
    if execution.jobs < 1:
        raise UserError(f"--jobs must be at least 1, not {execution.jobs}")


@dataclass(frozen=True)
class AblateOptions:
    """An ablation study: a baseline, and runs that differ from it in one thing each (or as a file says).

    STUDY is a TOML file (docs/ablation.md), or a name, as of the paper's studies; without it the names are listed.
    Started again with the same options, a study continues where it was stopped or killed; finished runs and what was
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


def ablate(options: AblateOptions) -> int:
    """Run a study; return 0 when all runs came to their end, 1 where some failed, 130 where a signal stopped it."""
    if not options.study:
        print(_ablations())
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
    return _run_ablation(plan, runs, evaluating, options, command_line())


def find_study(options: AblateOptions) -> StudyDefinition:
    """The study of a file or a name, with what the options change. Raises UserError."""
    file = Path(options.study)
    if file.suffix == ".toml" or file.is_file():
        study = read_study(file)
        study = replace(study, recipe=options.recipe or study.recipe)
    else:
        study = named_study(options.study, options.recipe or DEFAULT_RECIPE)
    if options.axes:
        study = replace(study, axes=tuple(study.axis(name) for name in dict.fromkeys(options.axes)))
    return replace(study, seeds=options.seeds or study.seeds)


def _ablations() -> str:
    studies = named_studies()
    width = max(map(len, studies))
    lines = [f"  {name:<{width}}  {title}" for name, title in studies.items()]
    usage = "usage: dinoscope ablate NAME|FILE.toml --data DIR --out DIR [options]   (dinoscope ablate --help)"
    hint = "dinoscope ablate NAME --show prints a study as a file, to be copied and changed."
    heading = "Studies by name, of the paper (Caron et al. 2021) where nothing else is said:"
    return "\n".join([usage, "", heading, *lines, "", hint])


def _places(options: AblateOptions) -> tuple[Path, Path]:
    if options.data is None or options.out is None:
        missing = "--data, the folder of images," if options.data is None else "--out, the folder of the study,"
        raise UserError(f"{missing} is missing")
    return options.data, options.out


def _check_same_study(study: StudyDefinition, out: Path) -> None:
    """Refuse to write over the result of another study. Raises UserError."""
    try:
        held = read_result(out).name if (out / FILE).is_file() else study.name
    except UserError:  # damaged, or of another version: it can be made again
        return
    if held != study.name:
        raise UserError(f"{out} holds the result of the study {held!r}, not of {study.name!r}: choose another --out")


def _planned(study: StudyDefinition, options: AblateOptions, data: Path, out: Path) -> PlannedStudy:
    plan = plan_study(study, data, out, epochs=options.epochs, placed=lambda config: placed(config, options.execution))
    for name in plan.idle_axes:
        say(f"the axis {name} has no runs: it has no value but the baseline's own")
    return plan


def _evaluating(options: AblateOptions, data: Path) -> Evaluating:
    """What is measured after the runs. Raises UserError if masks were named and there are none."""
    # a bar for each computation moves on a terminal; elsewhere it would be a line for each, of every run
    watch = progress_bar if sys.stderr.isatty() else unwatched
    given = {} if options.masks is None else attention_on_objects(data, options.masks)
    context = Context(pick_device(options.execution.device), watch=watch)
    for name in options.evaluations:
        lookup("evaluation", name, EVALUATIONS)
    return Evaluating(data, options.evaluations, given, context)


def _checked(plan: PlannedStudy, options: AblateOptions, evaluating: Evaluating) -> list[PlannedRun]:
    """The runs that may still have something to do; those that a rule stopped before are named. Raises UserError."""
    configs = plan.configs
    if options.stop_median and not (is_labelled(evaluating.data) and all(c.evaluate_every for c in configs)):
        raise UserError(
            "--stop-median compares online k-NN: it needs --data with train/CLASS/... and val/CLASS/..., and "
            "evaluate_every above 0"
        )
    with progress_bar("checking files") as progress:
        runs = plan_runs(configs, progress)
    stopped = {run.config.out for run in runs if run.state.name != "finished" and stopped_early(run.config) is not None}
    if stopped:
        say(f"stopped early before, and not begun again: {', '.join(sorted(path.name for path in stopped))}")
    return [run for run in runs if run.config.out not in stopped]


def _run_ablation(
    plan: PlannedStudy, runs: Sequence[PlannedRun], evaluating: Evaluating, options: AblateOptions, command: str
) -> int:
    """Bring all runs to their end, measure them, write and print the result."""
    assert options.out is not None
    runner = make_runner(worker(stop_on_collapse=options.stop_on_collapse), options.out, options.execution)
    earlier = [config.out for config in plan.configs]
    rule: Watch = MedianRule(plan.baseline_runs, earlier) if options.stop_median else lambda _: None
    result = run_all(runs, runner, rule)
    tell_failures(result)
    unfinished = [run for run in result.named("new", "stopped") if stopped_early(run.config) is None]
    if unfinished:
        say(f"continue with the runs that are not finished: {command}")
        return 130 if result.interrupted else 1
    failures = {run.name: _last_line(run) for run in result.named("failed")}
    facts = _facts(runs, options, command)
    gathered = gather(plan, evaluating, failures, facts, _say_measuring)
    for remark in gathered.remarks:
        say(remark)
    _show_ablation(gathered.result, options.out)
    return 1 if failures else 0


def _say_measuring(name: str, number: int, total: int) -> None:
    """A line for each run if there is no terminal, on which a bar for each computation moves instead."""
    if not sys.stderr.isatty():
        say(f"{name}: measuring ({number} of {total})")


def _last_line(run: RunStatus) -> str:
    """Of what a run printed before it failed: the error, in one line of a table."""
    return next((line.strip() for line in reversed(run.diagnosis.splitlines()) if line.strip()), "")


def _facts(runs: Sequence[PlannedRun], options: AblateOptions, command: str) -> dict[str, str]:
    facts = {"command": command, "data": str(options.data)}
    if runs:
        images = runs[0].images
        facts["images"] = f"{len(images)} for training, fingerprint {images.fingerprint()}"
    if options.masks is not None:
        facts["masks"] = str(options.masks)
    if options.execution.executor == "local" and options.execution.jobs > 1:
        facts["at once"] = f"{options.execution.jobs} runs shared the machine: speeds do not compare"
    return facts


def _show_ablation(result: AblationResult, out: Path) -> None:
    """Write the files, print the tables, and name the runs that are not simply finished."""
    with progress_bar("drawing figures") as progress:
        files = write_result(result, out, overwrite=True, watch=progress)
    console = Console()
    show_ablation(result, console)
    told = {run.folder: f"{Path(run.folder).name} {run.state}: {run.diagnosis}" for run in result.runs if run.diagnosis}
    for line in told.values():
        say(line)
    names = ", ".join(str(path.relative_to(out)) for path in files if path.parent == out)
    console.print(f"written to {out}: {names}", highlight=False, markup=False, soft_wrap=True)


def show_ablation(result: AblationResult, console: Console) -> None:
    """Print it; a table of eight columns fits 80 columns.

    Raises UserError if a variant has two runs of one seed.
    """
    arranged = arrange(result)
    for axis in arranged.axes:
        console.print(rich_table(axis_table(axis, arranged.baseline, brief=True)))
        for sentence in axis_reading(axis, arranged.baseline):
            console.print(Padding(Text(sentence, style="dim"), (0, 0, 0, 2)))
        console.print()
    console.print(f"[bold]{escape(result.title or result.name)}[/bold]", highlight=False)
    for sentence in study_reading(arranged):
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
    """Images at a time; lower it where memory is short. The figures do not depend on it."""

    workers: int = -1
    """imagenet-table: processes that read images; -1 chooses. The figures do not depend on it."""


def run_table(options: ReproduceOptions) -> int:
    """Check, fetch, measure, write, print. Raises UserError."""
    chosen, device = lookup("table", options.table, reproduce.TABLES), pick_device(options.device)
    if options.out is None and not options.dry_run:
        raise UserError("give --out FOLDER to write to, or --dry-run")
    if options.batch_size is not None and options.batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, not {options.batch_size}")
    probe = reproduce.PROBES[options.linear]
    targets = chosen.targets(options.models, probe)
    settings = reproduce.Options(options.image_size, device, options.batch_size, options.workers, progress_bar)
    bench = chosen.bench(options.data, settings, probe)
    if options.dry_run:
        emit(None, [reproduce.plan_table(targets, bench, settings)], json=False)
        return 0
    return 1 if _reproduce(options, targets, bench, settings).failed else 0


def _reproduce(
    options: ReproduceOptions, targets: Sequence[Target], bench: reproduce.Bench, settings: reproduce.Options
) -> reproduce.Reproduction:
    assert options.out is not None
    chosen = reproduce.TABLES[options.table]
    _claim(options.out, options.table, targets, overwrite=options.overwrite)
    if not options.overwrite:
        reproduce.require_same(reproduce.jobs_of(options.out, targets), bench)
    fetch_all([target.weights for target in targets], settings.watch)
    for caution in bench.cautions:
        say(f"{reproduce.NOT_COMPARABLE}: {caution}")
    outcomes = tuple(reproduce.run(targets, bench, settings, options.out, overwrite=options.overwrite))
    missing = "" if options.models else chosen.missing()
    result = reproduce.Reproduction(options.table, chosen.title, bench, outcomes, missing)
    table = reproduce.table(result)
    texts = (
        f"# {result.name}\n\n{markdown(table)}",
        csv_text(reproduce.CSV_HEADER, reproduce.csv_rows(result)),
        json.dumps(reproduce.json_values(result), indent=2) + "\n",
    )
    write_all(options.out, zip(reproduce.FILES, (text.encode(errors="surrogateescape") for text in texts), strict=True))
    emit(None, [table], [f"written to {options.out}"], json=False)
    return result


def _claim(out: Path, table: str, targets: Sequence[Target], *, overwrite: bool) -> None:
    """Refuse an --out whose table is another one, or has rows that this one would not have.

    Raises UserError.
    """
    wanted = {target.weights.name for target in targets}
    held = _held(out)
    same = held is not None and held[0] == table and held[1] <= wanted
    claim(out, reproduce.FILES, overwrite=overwrite or same)


def _held(out: Path) -> tuple[str, set[str]] | None:
    """Table and models of an earlier start, or None if there is none that can be read."""
    try:
        values = json.loads((out / "reproduce.json").read_text(encoding="utf-8"))
        return values["table"], {model["model"] for model in values["models"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
