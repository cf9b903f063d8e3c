"""The commands before and around a training: `train`, `recipes`, `scan` and `scenes`."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import tyro
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from dinoscope import api
from dinoscope.choosing import AUTO, chosen
from dinoscope.cli.command import Command, build
from dinoscope.cli.console import Console, emit, progress_bar, stdout
from dinoscope.cli.options import Given
from dinoscope.cli.progress import ConsoleProgress
from dinoscope.config import leaves
from dinoscope.data.finding import find_images, find_split
from dinoscope.data.grey_range import describe
from dinoscope.data.normalisation import measured
from dinoscope.data.overlap import MAX_DISTANCE, Prints, Shared, shared_images
from dinoscope.data.scan import Extent, ScanReport, scan_with_prints
from dinoscope.data.scan import scan as scan_images
from dinoscope.data.sources import ImageSource, counted
from dinoscope.data.views import VIEWS
from dinoscope.errors import UserError, lookup
from dinoscope.evaluation.online import AttentionSnapshots, OnlineKNN
from dinoscope.files import cache_folder
from dinoscope.mammograms import MammogramsConfig, write_mammograms
from dinoscope.methods import METHODS
from dinoscope.places import parse_place
from dinoscope.recipes import RECIPES, run_config
from dinoscope.scenes import ScenesConfig, write_scenes
from dinoscope.tables import Column, Section, TableRow
from dinoscope.tables import Table as TextTable
from dinoscope.text import duration
from dinoscope.training.budget import Budget, now
from dinoscope.training.config import RunConfig, fitted_channels, fitted_warm_up
from dinoscope.training.enough import too_short
from dinoscope.training.plan import Plan, plan
from dinoscope.training.run_folder import RunFolder, read_config, read_sessions
from dinoscope.training.start import beginning_from

QUIET_SECONDS = 2.0
"""How long a scan may take before a progress bar appears."""

MAX_FILES, MAX_CLASSES = 20, 30
"""How many are printed before "and N more"."""


@dataclass(frozen=True)
class Choices:
    """Train on a folder of images, labelled or not. What is not set here comes from the recipe.

    Without a recipe, method, network and views are chosen by the images and the machine, and why is printed.

    Ctrl-C or SIGTERM ends the step under way and writes a checkpoint.
    Many GPUs: torchrun --nproc-per-node N -m dinoscope train ...
    """

    recipe: str = AUTO
    """Named settings to begin with; `dinoscope recipes` lists them. auto chooses by the images and the machine."""

    method: str = ""
    """dino, simclr, moco, byol, swav, barlow, vicreg, emp, simdino, ibot, esvit, mae, distill or supervised, with its
    default settings instead of the recipe's."""

    views: str = ""
    """Preset of the views instead of the recipe's: imagenet, two_views, simclr, moco, byol, swav, patches, supervised
    (224 px); small_64, small_32, two_views_32, patches_32, scenes."""

    resume: bool = False
    """Continue the run in --out; nothing else need be given."""

    minutes: float | None = None
    """Train for so long, all in all, instead of --epochs: a short trial of real steps chooses the epochs, so that the
    schedules end when the time does."""

    overwrite: bool = False
    """Delete the run in --out and begin again."""

    plan: bool = False
    """Print the memory, the arithmetic and the hours that the run would take, from a trial of a few steps, and start
    nothing. --out is not needed."""

    json: bool = False
    """With --plan: print JSON instead of a table."""


def train(given: Given) -> int:
    """Train, and print what to do next."""
    resume, overwrite, planned, json = (
        given.take(name) is not None for name in ("resume", "overwrite", "plan", "json")
    )
    if json and not planned:
        raise UserError("--json needs --plan")
    began, minutes = now(), given.take("minutes")
    names = [option.name.replace("-", "_") for option, _, _ in given.entries]
    limit = None if minutes in (None, "None") else Budget(float(minutes), names, began)
    config = settings(given, resume=resume, overwrite=overwrite)
    if planned:
        listeners = [OnlineKNN(), AttentionSnapshots()]
        costs = plan(config, functools.partial(progress_bar, after=QUIET_SECONDS), limit, listeners)
        show_plan(config, costs, json=json)
        return 0
    with one_line(config.out):
        result = api.train(config, resume=resume, overwrite=overwrite, minutes=limit, listeners=[ConsoleProgress()])
    if not result.is_main:
        return 130 if result.interrupted else 0
    if result.interrupted:
        stdout(f"stopped after step {result.steps}; continue: dinoscope train --out {quote(str(result.out))} --resume")
        return 130
    stdout("\n".join([f"done: {result.out}", *next_steps(result.out, config.data)]))
    return 0


def settings(given: Given, *, resume: bool = False, overwrite: bool = False) -> RunConfig:
    """Return the settings of a command line: a recipe's, or those of the run to resume, and what it changes.

    Raises UserError for what is wrong or unknown.
    """
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other")
    recipe, method, views = given.take("recipe"), given.take("method"), given.take("views")
    init, out = given.word("init"), given.word("out")
    automatic = not resume and (recipe or AUTO) == AUTO
    data = parse_place(given.word("data") or "")
    if resume:
        if out is None:
            raise UserError("--resume needs --out, the folder of the run to continue")
        config = read_config(Path(out))
    else:
        config = RunConfig(data, Path(out or "")) if automatic else run_config(recipe or "", data, Path(out or ""))
        if init is not None and init != "None":
            config = beginning_from(config, init, progress_bar)
    usual = config
    if method:
        config = replace(config, method=lookup("method", method, METHODS).config())
    if views:
        config = replace(config, views=lookup("preset of views", views, VIEWS))
    names = {option.name.replace("-", "_") for option, _, _ in given.entries}
    config = build(RunConfig, given.argv(), default=config, config=(tyro.conf.AvoidSubcommands,))()
    config = fitted_channels(config, names)
    if not automatic:
        config, shortened = (config, "") if resume else fitted_warm_up(config, usual, names)
        if shortened and os.environ.get("RANK", "0") == "0":  # of the processes that torchrun started
            Console(stderr=True).print_line(shortened)
        return config
    if out is not None:
        RunFolder(config.out).check(config, resume=False, overwrite=overwrite)
    names |= {"method"} if method else set()
    names |= {name for name in leaves(usual) if views and name.startswith("views.")}
    names |= {"backbone", "mean", "std", "window"} if config.init is not None else set()
    with progress_bar("looking over the images", after=QUIET_SECONDS) as progress:
        choice = chosen(config, names, progress)
    if os.environ.get("RANK", "0") == "0":
        for line in choice.reasons:
            Console(stderr=True).print_line(line)
    return choice.config


PARTS = {
    "weights": "weights that are trained",
    "teacher": "teacher, and all else without gradient",
    "optimizer": "state of the optimiser",
    "gradients": "gradients",
    "activations": "activations, and all other tensors",
    "overhead": "gaps between tensors, code, buffers of kernels",
}
"""Parts of `Plan.memory`, as they are printed."""


def show_plan(config: RunConfig, plan: Plan, *, json: bool) -> None:
    """Print what a run would cost."""
    peak, seconds, views = sum(plan.memory.values()), plan.steps * plan.seconds_per_step, config.views
    if json:
        emit(asdict(plan) | {"peak": peak, "seconds": seconds}, (), json=True)
        return
    notes = {
        "weights": f"{plan.parameters / 1e6:.2f} M parameters",
        "teacher": f"{plan.other_parameters / 1e6:.2f} M parameters",
        "gradients": "" if plan.memory["gradients"] else "none yet at the peak",
    }
    rows = [TableRow((PARTS[part], decimal(size), notes.get(part, ""))) for part, size in plan.memory.items()]
    sections = Section(tuple(rows)), Section((TableRow(("together", decimal(peak), "")),))
    columns = Column("memory at the peak of a step"), Column("", "right"), Column("")
    local = f" + {views.num_local} x {views.local_size}" if views.num_local else ""
    cut = f", cut into {config.accumulate} of {plan.micro_batch}" if config.accumulate > 1 else ""
    hints = too_short(replace(config, epochs=plan.epochs), plan.images)
    lines = [f"{what}: {text}" for what, text in {**plan.length, **hints}.items()]
    lines += [
        f"{plan.flops_per_image / 1e9:,.1f} GFLOP an image; {plan.steps:,} steps of {plan.seconds_per_step:.3g} s: "
        f"about {duration(seconds, coarse=True)}, without evaluations"
    ]
    if plan.trial < plan.micro_batch:
        lines.append(
            f"Extrapolated from at most {plan.trial} images in a forward; the run has {plan.micro_batch}. On a CPU the "
            "memory may be a fifth more."
        )
    if plan.device_memory is not None and peak > plan.device_memory:
        lines.append(
            f"It does not fit into the {decimal(plan.device_memory)} of {plan.device}: raise --accumulate, which cuts "
            "the batch, or add --checkpoint-activations."
        )
    stdout(
        f"{config.backbone}, {views.num_global} x {views.global_size}{local} px, batch {config.batch_size}{cut}, "
        f"{plan.images:,} images; {plan.precision} on {plan.device}"
    )
    emit(None, [TextTable(columns, sections)], [*lines, "Nothing was started."], json=False)


@contextlib.contextmanager
def one_line(out: Path) -> Iterator[None]:
    """Make one line of the error that ended a run; the traceback is in the log of the run, which it names."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        notes = getattr(error, "__notes__", ())
        if not notes:  # the loop has neither logged it nor noted what there is to continue from
            raise
        lines = str(error).strip().splitlines() or ["no message"]
        line = lines[-1] if lines[0].startswith("Caught ") else lines[0]  # torch's words on an error in a worker
        what = ". ".join([f"{type(error).__name__}: {line}", *notes])
        raise UserError(f"{what}. The traceback is in {out / 'train.log'}") from error


def next_steps(out: Path, data: Path) -> list[str]:
    """Return commands to continue with, to be copied into a shell; k-NN only if there are labels to compare with."""
    run, images, report, board = (quote(str(path)) for path in (out, data, out / "report.html", out / "tensorboard"))
    learned = f"dinoscope map --model {run} --data {images} --out {quote(str(out / 'map.png'))}"
    if read_sessions(out)[-1].classes:
        learned = f"dinoscope knn --model {run} --data {images}"
    return [
        f"  what it learned     {learned}",
        f"  what it looks at    dinoscope attention --model {run} IMAGE...",
        f"  how training went   dinoscope report {run} --out {report}",
        f"                      tensorboard --logdir {board}",
    ]


def recipes() -> None:
    """List the named settings of `train`."""
    table = Table("recipe", "what it is for", box=None, header_style="bold", padding=(0, 2, 1, 0))
    table.add_row(AUTO, "What `train` takes without a recipe: chosen by the images and the machine (docs/choosing.md).")
    for name, recipe in RECIPES.items():
        table.add_row(name, recipe.about)
    stdout(table)


def scan(
    folder: Annotated[Path, tyro.conf.arg(metavar="FOLDER")],
    /,
    headers_only: bool = False,
    all: bool = False,
    json: bool = False,
    workers: int = 0,
    group: Annotated[str | None, tyro.conf.arg(metavar="PATTERN")] = None,
) -> None:
    """Report what a folder of images holds: counts, formats, sizes, classes, unreadable files, and what is passed over.

    Splits (train, val) are reported side by side, with a warning if they share groups, files or pixels, and a hint if
    they share pictures that look nearly the same.

    Args:
        folder: Folder, archive or list of images, nested or not, with a folder for each class or not. Several are
            joined.
        headers_only: Faster, but damaged pixels are not found.
        all: List every unreadable file and every class, instead of the first ones.
        json: Print everything as JSON instead of tables.
        workers: Threads; 0 takes one per core.
        group: Regular expression that finds the patient, slide or video in the path of each image; or header:patient,
            header:study or header:series, of DICOM files.
    """
    train, val = find_split(folder, "train"), find_split(folder, "val")
    parts = {"images": folder} if train is None else {"train": train, "val": val}
    sources = {name: find_images(root) for name, root in parts.items() if root is not None}
    if group is not None:
        with progress_bar("reading groups", after=QUIET_SECONDS) as progress:
            sources = {name: images.grouped_by(group, progress) for name, images in sources.items()}
    reports: dict[str, ScanReport] = {}
    prints: dict[str, list[Prints | None]] = {}
    for name, images in sources.items():
        with progress_bar(f"{name}: reading", after=QUIET_SECONDS) as progress:
            cache = cache_folder("scan")
            if headers_only or len(sources) < 2:
                full = not headers_only
                reports[name] = scan_images(images, workers=workers, full=full, cache=cache, progress=progress)
            else:
                reports[name], prints[name] = scan_with_prints(images, workers=workers, cache=cache, progress=progress)
        if not headers_only:
            reports[name] = _with_normalisation(name, images, reports[name])
    shared: list[Shared] | None = None
    if len(sources) == 2:
        with progress_bar("comparing train and val", after=QUIET_SECONDS) as progress:
            both = (prints["train"], prints["val"]) if prints else None
            shared = shared_images(sources["train"], sources["val"], both, progress)
    if json:
        values: dict[str, Any] = {name: asdict(report) for name, report in reports.items()}
        emit(values if shared is None else values | {"shared": [asdict(own) for own in shared]}, (), json=True)
        return
    console, columns = Console(), [_facts(report) for report in reports.values()]
    table = _table("", reports, {row: [column[row] for column in columns] for row in columns[0]})
    table.title = _printable(folder)
    console.print(table)
    classes = dict.fromkeys(name for report in reports.values() for name in report.classes)
    if classes:
        counts = {n: [f"{report.classes.get(n, 0):,}" for report in reports.values()] for n in classes}
        table = _table("class", reports, dict(list(counts.items())[: None if all else MAX_CLASSES]))
        if table.row_count < len(counts):
            table.add_row(f"and {len(counts) - table.row_count:,} more (--all lists them)")
        console.print(table)
    for report in reports.values():
        faults = report.unreadable if all else report.unreadable[:MAX_FILES]
        if faults:
            console.print(f"[red]Unreadable[/red] in {_printable(report.root)}:", highlight=False)
        for fault in faults:
            line = f"  {_printable(fault.path)}  [dim]{_printable(fault.reason)}[/dim]"
            console.print(line, highlight=False, soft_wrap=True)
        if rest := len(report.unreadable) - len(faults):
            console.print(f"  and {rest:,} more (--all lists them)", highlight=False)
    for own in shared or ():
        console.print_line(SHARED[own.kind].format(own, images=_images(own.images)), style="yellow")
        for pair in own.pairs:
            console.print_line("  {} (val)  {} (train)".format(*map(_shown, pair)))
        if len(own.pairs) < own.images:
            console.print_line(f"  and {own.images - len(own.pairs):,} more")
    if headers_only:
        console.print("Only headers were read: damaged pixels were not looked for.", style="yellow")


SHARED = {
    "group": "Groups in both splits: {0.groups:,}, with {images} of val. Figures on val are too good.",
    "bytes": "The same files in both splits: {images} of val. Figures on val are too good.",
    "pixels": "The same pixels in both splits, in other files: {images} of val. Figures on val are too good.",
    "picture": (
        f"A hint: nearly the same picture in both splits, by a hash of 64 bits of which at most {MAX_DISTANCE} differ: "
        "{images} of val."
    ),
}
"""Kind of what two splits share -> how it is reported."""


def _images(count: int) -> str:
    return f"{count:,} image{'s' if count != 1 else ''}"


def _with_normalisation(name: str, images: ImageSource, report: ScanReport) -> ScanReport:
    """Return the report with mean and deviation of each channel, if the images are not 8-bit RGB."""
    if not report.channels or report.is_8_bit_rgb:
        return report
    window, cache = None if report.values is None else report.values.window, cache_folder("scan")
    with progress_bar(f"{name}: measuring channels", after=QUIET_SECONDS) as progress:
        found = measured(images, report.most_channels, window, cache=cache, progress=progress)
    mean, std = found or (None, None)
    return replace(report, mean=mean, std=std)


def _table(corner: str, columns: Iterable[str], rows: Mapping[str, Iterable[str]]) -> Table:
    table = Table(corner, title_justify="left", title_style="bold")
    for name in columns:
        table.add_column(name, justify="right")
    for name, cells in rows.items():
        table.add_row(_printable(name), *cells)
    return table


def _facts(report: ScanReport) -> dict[str, str]:
    """Return the rows of the summary for one folder, the same rows for every report."""

    def listed(counts: Mapping[str, int]) -> str:
        return ", ".join(f"{name} {count:,}" for name, count in counts.items() if count) or "none"

    def extent(sizes: Extent | None) -> str:
        return "-" if sizes is None else f"{sizes.minimum}, {sizes.median}, {sizes.maximum} px"

    def numbers(values: tuple[float, ...] | None) -> str:
        return "-" if values is None else " ".join(f"{value:g}" for value in values)

    unusual = {
        "grey": report.grey,
        "with transparency": report.alpha,
        "over 8 bits": report.over_8_bit,
        "CMYK": report.cmyk,
        "EXIF-rotated": report.rotated,
        "animated": report.animated,
    }
    ratios, count = report.aspect_ratios, len(report.unreadable)
    return {
        "images": f"{report.images:,}",
        "unreadable": f"[red]{count:,}[/red]" if count else "[green]0[/green]",
        "passed over": _printable(counted(list(report.passed_over.items())) or "nothing"),
        "on disk": decimal(report.bytes),
        "formats": listed(report.formats),
        "width: smallest, median, largest": extent(report.widths),
        "height: smallest, median, largest": extent(report.heights),
        "width / height": "-" if ratios is None else f"{ratios[0]:.2f} to {ratios[1]:.2f}",
        "unusual": listed(unusual),
        "channels": listed({str(channels): count for channels, count in report.channels.items()}),
        "mean of each channel": numbers(report.mean),
        "deviation of each channel": numbers(report.std),
        "grey range over 8 bits": "-" if report.values is None else describe(report.values.window),
        "windows in headers": "; ".join(f"{text} in {count:,}" for text, count in report.windows.items()) or "none",
        "classes": f"{len(report.classes):,}" if report.classes else "no labels",
        **({} if report.groups is None else {"groups": f"{report.groups:,}"}),
    }


def _shown(text: object) -> str:
    return str(text).encode("utf-8", "replace").decode("utf-8")


def _printable(text: object) -> str:
    """Return text for rich: no markup in file names, and no bytes that are not UTF-8."""
    return escape(_shown(text))


SCENES = ScenesConfig()


def scenes(out: Path, config: tyro.conf.OmitArgPrefixes[ScenesConfig] = SCENES) -> None:
    """Write the embedded data set: drawn scenes in the layouts of ImageFolder, PASCAL VOC 2012 and DAVIS 2017.

    Args:
        out: Folder to write; it must not exist, or hold the same data set.
    """
    with progress_bar("drawing scenes") as progress:
        write_scenes(out, config, progress)
    stdout(f"{out}/folder        train/ and val/, a folder per class; masks of val/ in folder-masks/")
    stdout(f"{out}/VOCdevkit     PASCAL VOC 2012 layout")
    stdout(f"{out}/DAVIS         DAVIS 2017 layout")


MAMMOGRAMS = MammogramsConfig()


def mammograms(out: Path, config: tyro.conf.OmitArgPrefixes[MammogramsConfig] = MAMMOGRAMS) -> None:
    """Write the embedded medical data set: drawn mammograms of six kinds of finding, as DICOM files with masks.

    Args:
        out: Folder to write; it must not exist, or hold the same data set.
    """
    with progress_bar("drawing mammograms") as progress:
        write_mammograms(out, config, progress)
    stdout(f"{out}/folder        train/ and val/, a folder per finding; masks of val/ in folder-masks/")


COMMANDS = {
    "train": Command("train on a folder of images, labelled or not", train, raw=True),
    "recipes": Command("list the named settings of `train`", recipes),
    "scan": Command("look over a folder: counts, formats, sizes, classes, unreadable files", scan),
    "scenes": Command("write the embedded data set in the layouts of ImageNet, VOC 2012 and DAVIS 2017", scenes),
    "mammograms": Command("write the embedded medical data set: DICOM files with findings and their masks", mammograms),
}
