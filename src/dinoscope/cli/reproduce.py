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

    from dinoscope.study.reproduce import Bench, Reproduction
    from dinoscope.study.reproduce import Options as Settings
    from dinoscope.study.targets import Target
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
    from dinoscope.study import reproduce
    from dinoscope.system import pick_device

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
        _show(reproduce.plan_table(targets, bench, settings))
        return 0
    return 1 if _reproduce(options, targets, bench, settings).failed else 0


def _reproduce(options: Options, targets: Sequence[Target], bench: Bench, settings: Settings) -> Reproduction:
    from dinoscope.cli.console import Console
    from dinoscope.files import write_all
    from dinoscope.report.tables import csv_text, markdown
    from dinoscope.study import reproduce
    from dinoscope.study.targets import fetch_all

    assert options.out is not None
    chosen, errors = reproduce.TABLES[options.table], Console(stderr=True)
    _claim(options.out, options.table, targets, overwrite=options.overwrite)
    if not options.overwrite:
        reproduce.require_same(reproduce.jobs_of(options.out, targets), bench)
    fetch_all([target.weights for target in targets], settings.watch)
    for caution in bench.cautions:
        errors.print(f"{reproduce.NOT_COMPARABLE}: {caution}", markup=False, highlight=False, soft_wrap=True)
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
    _show(table)
    Console().print(f"written to {options.out}", markup=False, highlight=False, soft_wrap=True)
    return result


def _claim(out: Path, table: str, targets: Sequence[Target], *, overwrite: bool) -> None:
    """Refuse an --out whose table is another one, or has rows that this one would not have.

    Raises UserError.
    """
    from dinoscope.files import claim
    from dinoscope.study.reproduce import FILES

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
