"""`dinoscope reproduce`: published tables run again with the released weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from dinoscope.cli.command import Command
from dinoscope.errors import UserError, lookup

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from dinoscope.reproduction.bench import Bench
    from dinoscope.reproduction.presentation import Reproduction
    from dinoscope.reproduction.targets import Target
    from dinoscope.tables import Table


@dataclass(frozen=True)
class Options:
    """Run a published table again with the released weights, and set what is measured beside what was published.

    imagenet-table: k-NN (k = 20) and linear top-1, after DINO's Table 2. --data: train/CLASS/... and val/CLASS/...
    voc-table: Jaccard of attention masks, after DINO's Fig. 4. --data: VOCdevkit.
    davis-table: J&F, J and F of DAVIS 2017 val, after DINO's Table 5. --data: DAVIS.

    All weights are fetched first. Each measurement is kept in OUT/MODEL/evaluations, and until it is made the features
    that it needs in OUT/MODEL/features; the same command started again goes on from there. Writes reproduce.md, .csv
    and .json. Exits with 1 where a model failed.
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


def run_table(options: tyro.conf.OmitArgPrefixes[Options]) -> int:
    """Check, fetch, measure, write, print. Raises UserError."""
    from dinoscope.cli.console import progress_bar
    from dinoscope.reproduction.bench import Settings
    from dinoscope.reproduction.plan import plan, plan_table
    from dinoscope.reproduction.tables import PROBES, TABLES
    from dinoscope.system import pick_device

    chosen, device = lookup("table", options.table, TABLES), pick_device(options.device)
    if options.out is None and not options.dry_run:
        raise UserError("give --out FOLDER to write to, or --dry-run")
    if options.batch_size is not None and options.batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, not {options.batch_size}")
    probe = PROBES[options.linear]
    targets = chosen.targets(options.models, probe)
    settings = Settings(options.image_size, device, options.batch_size, options.workers, progress_bar)
    bench = chosen.bench(options.data, settings, probe)
    if options.dry_run:
        _show(plan_table(plan(targets, bench, device, progress_bar), bench))
        return 0
    result = _reproduce(options, targets, bench, device)
    return 1 if result.failed else 0


def _reproduce(options: Options, targets: Sequence[Target], bench: Bench, device: torch.device) -> Reproduction:
    from dinoscope.cli.console import Console, progress_bar
    from dinoscope.files import write_all
    from dinoscope.reproduction.presentation import NOT_COMPARABLE, Reproduction, contents, table
    from dinoscope.reproduction.running import Work, require_same, run
    from dinoscope.reproduction.tables import TABLES
    from dinoscope.reproduction.weights import fetch_all

    assert options.out is not None
    chosen, said = TABLES[options.table], Console(stderr=True)
    _claim(options.out, options.table, targets, overwrite=options.overwrite)
    if not options.overwrite:
        require_same(options.out, targets, bench)
    fetch_all([target.weights for target in targets], progress_bar)
    for caution in bench.cautions:
        said.print(f"{NOT_COMPARABLE}: {caution}", markup=False, highlight=False, soft_wrap=True)
    work = Work(bench, device, progress_bar, options.overwrite)
    outcomes = tuple(run(targets, work, options.out))
    result = Reproduction(options.table, chosen.title, bench, outcomes, "" if options.models else chosen.missing())
    write_all(options.out, contents(result).items())
    _show(table(result))
    Console().print(f"written to {options.out}", markup=False, highlight=False, soft_wrap=True)
    return result


def _claim(out: Path, table: str, targets: Sequence[Target], *, overwrite: bool) -> None:
    """Refuse an --out whose table is another one, or has rows that this one would not have.

    Raises UserError.
    """
    from dinoscope.files import claim
    from dinoscope.reproduction.presentation import FILES

    wanted = {target.weights.name for target in targets}
    held = _held(out)
    same = held is not None and held[0] == table and held[1] <= wanted
    claim(out, FILES, overwrite=overwrite or same)


def _held(out: Path) -> tuple[str, set[str]] | None:
    """Table and models of an earlier start, or None where there is none that can be read."""
    try:
        values = json.loads((out / "reproduce.json").read_text(encoding="utf-8"))
        return values["table"], {model["model"] for model in values["models"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _show(table: Table) -> None:
    from rich.markup import escape

    from dinoscope.cli.console import Console, rich_table

    console = Console()
    console.print(rich_table(table))
    for number, note in enumerate(table.notes, 1):
        console.print(f"[bold]{number}[/bold] {escape(note)}", highlight=False, soft_wrap=True)
    for remark in table.remarks:
        console.print(escape(remark), highlight=False, soft_wrap=True, style="dim")


run_table.__doc__ = Options.__doc__
COMMANDS = {
    "reproduce": Command(
        "run published tables (ImageNet, VOC, DAVIS) again with the released weights, on your data", run_table
    )
}
