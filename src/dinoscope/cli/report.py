"""`dinoscope report`: one HTML file about runs, to read, print and mail."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from dinoscope.cli.command import WHAT_MAY_BE_NAMED, Command
from dinoscope.cli.measuring_options import MeasuringOptions

if TYPE_CHECKING:
    from dinoscope.report.build import Request


@dataclass(frozen=True)
class Options:
    """Write one HTML file about runs: what was trained, curves, comparison, pictures, health, and how to do it again.

    The file holds all that it shows and fetches nothing. Without --data, it shows what was measured before; with
    --data, what is missing is measured and kept in the run folders.
    """

    runs: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="RUN...", help=f"Run folders, and beside them other models. {WHAT_MAY_BE_NAMED}"),
    ]

    out: Path
    """File to write, such as report.html."""

    no_pictures: bool = False
    """Leave out the sections that show images."""

    title: str = ""
    """Above the report; by default the names of the runs."""

    overwrite: bool = False
    """Replace the file in --out."""

    measuring: tyro.conf.OmitArgPrefixes[MeasuringOptions] = field(default_factory=MeasuringOptions)


def run(options: tyro.conf.OmitArgPrefixes[Options]) -> int:
    """Read, measure, write, say where it is. Raises UserError."""
    from dinoscope.cli.console import Console
    from dinoscope.report.build import write_report

    written = write_report(request(options))
    text = f"written to {written.path} ({written.size / 1e6:.1f} MB): {', '.join(written.sections)}"
    Console().print(text, highlight=False, markup=False, soft_wrap=True)
    return 0


def request(options: Options) -> Request:
    """What `write_report` is asked for. Raises UserError where options do not fit, or for the device."""
    from dinoscope.report.build import Request

    return Request(
        options.runs,
        options.out,
        options.measuring.measuring(),
        not options.measuring.no_baselines,
        not options.no_pictures,
        options.title,
        options.overwrite,
    )


run.__doc__ = Options.__doc__
COMMANDS = {
    "report": Command(
        "one HTML file about runs, to read, print and mail: curves, comparison, pictures, health, commands", run
    )
}
