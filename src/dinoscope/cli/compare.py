"""`dinoscope compare`: the table of the field, of one's own runs and of the models of others."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from dinoscope.cli.build import parse
from dinoscope.cli.measuring_options import MeasuringOptions
from dinoscope.cli.model_option import WHAT_MAY_BE_NAMED
from dinoscope.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from dinoscope.report.comparison import Compared, Request
    from dinoscope.tables import Table


@dataclass(frozen=True)
class Options:
    """Set models beside each other: accuracy, size and speed, method by method, as tables and figures.

    Runs, and beside them whatever else can be named as a model; such models need --data. What was measured before is
    taken from the run folders (evaluations/), of other models from the cache; what is missing is measured and kept
    there. With --data, what was measured on other images or otherwise is measured again; without, its row is marked.
    Runs that differ in the seed alone are one row. Rows that differ from most in data, epochs, views or batch size
    are marked, with the difference. Writes comparison.md, .csv, .tex, .json, .png, .svg and curves.png, .svg.
    """

    runs: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="MODEL...", help=f"One or more. {WHAT_MAY_BE_NAMED}"),
    ]

    out: Path
    """Folder to write to."""

    baselines: bool = False
    """Add raw pixels, and each network with random weights; done without asking where --data is given."""

    published: bool = False
    """Add published figures on ImageNet, in a section of their own."""

    throughput_image_size: int = 224
    """Side of the images on which speed is measured, in pixels."""

    throughput_batch_size: int | None = None
    """Images per forward while speed is measured; by default 128 on a GPU and 16 on a CPU."""

    overwrite: bool = False
    """Replace the comparison in --out."""

    measuring: tyro.conf.OmitArgPrefixes[MeasuringOptions] = field(default_factory=MeasuringOptions)


def main(argv: list[str]) -> int:
    """Measure, write, print. Raises UserError."""
    from rich.markup import escape

    from dinoscope.cli.console import Console

    options = parse(
        Options,
        args=argv,
        prog="dinoscope compare",
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
    )
    from dinoscope.report.comparison import compare_runs

    result = compare_runs(request(options))
    console = Console()
    console.print(rich_table(result.table))
    for number, note in enumerate(result.table.notes, 1):
        console.print(f"[bold]{number}[/bold] {escape(note)}", highlight=False, soft_wrap=True)
    for remark in result.table.remarks:
        console.print(escape(remark), highlight=False, soft_wrap=True, style="dim")
    console.print(_where(result), highlight=False, markup=False, soft_wrap=True)
    return 0


def request(options: Options) -> Request:
    """What `compare_runs` is asked for. Raises UserError where options exclude each other, or for the device."""
    from dinoscope.report.comparison import Request

    without = options.measuring.no_baselines
    if options.baselines and without:
        raise UserError("--baselines and --no-baselines exclude each other")
    measuring = options.measuring.measuring(options.throughput_image_size, options.throughput_batch_size)
    baselines = (options.baselines or measuring.data is not None) and not without
    return Request(options.runs, options.out, measuring, baselines, options.published, options.overwrite)


_NAME_WIDTH = 20
"""Letters of a name that stand on one line in any case."""


def rich_table(table: Table) -> RichTable:
    """The same table on the terminal. Where that is narrow, names are folded last: figures are short anyway."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table as RichTable

    shown = RichTable(title=escape(table.caption), title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    longest = max((len(row.cells[0]) for section in table.sections for row in section.rows), default=0)
    for number, column in enumerate(table.columns):
        least = min(longest, _NAME_WIDTH) if number == 0 else None
        shown.add_column(escape(column.title), justify=column.align, overflow="fold", min_width=least)
    for section in table.sections:
        if section.title:
            shown.add_row(f"[italic]{escape(section.title)}[/italic]")
        for row in section.rows:
            marks = "".join(f" [{mark}]" for mark in row.marks)
            cells = [
                f"[bold]{escape(cell)}[/bold]" if at in row.best else escape(cell) for at, cell in enumerate(row.cells)
            ]
            shown.add_row(cells[0] + escape(marks), *cells[1:])
        shown.add_section()
    return shown


def _where(result: Compared) -> str:
    folder = result.files[0].parent
    return f"written to {folder}: {', '.join(path.name for path in result.files)}"
