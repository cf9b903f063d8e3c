"""`dinoscope compare`: the table of the field, of one's own runs and of the models of others."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from dinoscope.cli.command import WHAT_MAY_BE_NAMED, Command
from dinoscope.cli.console import emit
from dinoscope.cli.measuring_options import MeasuringOptions
from dinoscope.errors import UserError

if TYPE_CHECKING:
    from dinoscope.report.comparison import Compared, Request


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


def run(options: tyro.conf.OmitArgPrefixes[Options]) -> int:
    """Measure, write, print. Raises UserError."""
    from dinoscope.report.comparison import compare_runs

    result = compare_runs(request(options))
    emit(None, [result.table], [_where(result)], json=False)
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


def _where(result: Compared) -> str:
    folder = result.files[0].parent
    return f"written to {folder}: {', '.join(path.name for path in result.files)}"


run.__doc__ = Options.__doc__
COMMANDS = {
    "compare": Command("the table and the figures of several models: accuracy, size and speed, method by method", run)
}
