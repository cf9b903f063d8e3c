"""`dinoscope scan`: look over a folder of images before training on it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table

    from dinoscope.cli.console import Console
    from dinoscope.data.scan import Extent, ScanReport

QUIET_SECONDS = 2.0
"""How long a scan may take before a progress bar appears."""

LISTED_FILES = 20
LISTED_CLASSES = 30
"""How many are printed before "and N more"."""


def main(argv: list[str]) -> int:
    """Run `dinoscope scan`; return the exit code. Raises UserError for a folder that cannot be read."""
    import tyro

    return tyro.cli(scan_folder, args=argv, prog="dinoscope scan")


def scan_folder(
    folder: Path, /, workers: int = 0, headers_only: bool = False, all: bool = False, json: bool = False
) -> int:
    """Report what a folder of images holds: counts, formats, sizes, classes, unreadable files, and what is passed over.

    Splits (train, val) are reported side by side.

    Args:
        folder: folder of images, nested or not, with a folder for each class or not.
        workers: threads; 0 takes one per core.
        headers_only: faster, but damaged pixels are not found.
        all: list every unreadable file and every class, instead of the first ones.
        json: print everything as JSON instead of tables.
    """
    from dinoscope.cli.console import Console
    from dinoscope.data.scan import scan
    from dinoscope.data.sources import find_images
    from dinoscope.files import cache_folder

    cache = cache_folder("scan")
    reports: dict[str, ScanReport] = {}
    for name, root in _parts(folder).items():
        images = find_images(root)
        with LateProgress(f"{name}: reading", Console(stderr=True)) as progress:
            reports[name] = scan(images, workers=workers, full=not headers_only, cache=cache, progress=progress.update)
    if json:
        print(dumps({name: report.as_dict() for name, report in reports.items()}, indent=2))
    else:
        _print(Console(), folder, reports, shortened=not all)
    return 0


class LateProgress:
    """A progress bar that appears on a terminal after `QUIET_SECONDS`, and vanishes when the work is done.

    Elsewhere one line then says what is done.
    """

    def __init__(self, description: str, console: Console) -> None:
        self.description = description
        self.console = console
        self.started = time.monotonic()
        self.bar: Progress | None = None

    def __enter__(self) -> LateProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def update(self, done: int, total: int) -> None:
        """Show that `done` of `total` images have been read."""
        if self.bar is None and time.monotonic() - self.started > QUIET_SECONDS:
            if not self.console.is_terminal:
                self.console.print(f"{self.description} ({total})", markup=False, highlight=False)
            self.bar = _bar(self.console)
            self.bar.start()
            self.bar.add_task(self.description, total=total)
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=done)


def _bar(console: Console) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _parts(folder: Path) -> dict[str, Path]:
    """Return the splits by name, or the folder itself as "images" where it has no `train`."""
    from dinoscope.data.sources import find_split

    train, val = find_split(folder, "train"), find_split(folder, "val")
    if train is None:
        return {"images": folder}
    return {"train": train} if val is None else {"train": train, "val": val}


def _print(console: Console, folder: Path, reports: dict[str, ScanReport], *, shortened: bool) -> None:
    console.print(_summary(folder, reports))
    if any(report.classes for report in reports.values()):
        console.print(_class_table(reports, LISTED_CLASSES if shortened else None))
    for report in reports.values():
        _print_unreadable(console, report, LISTED_FILES if shortened else None)
    if not all(report.complete for report in reports.values()):
        console.print("Only headers were read: damage to the pixels was not looked for.", style="yellow")


def _summary(folder: Path, reports: dict[str, ScanReport]) -> Table:
    from rich.table import Table

    table = Table(title=_shown(folder), title_justify="left", title_style="bold")
    table.add_column("")
    for name in reports:
        table.add_column(name, justify="right")
    columns = [_facts(report) for report in reports.values()]
    for row in columns[0]:
        table.add_row(row, *(column[row] for column in columns))
    return table


def _facts(report: ScanReport) -> dict[str, str]:
    """Return the rows of the summary for one folder, the same rows for every report."""
    from rich.filesize import decimal

    from dinoscope.data.grey_range import describe
    from dinoscope.data.sources import counted as listed_counts

    def listed(counts: Sequence[tuple[str, int]]) -> str:
        return ", ".join(f"{name} {count:,}" for name, count in counts if count) or "none"

    unusual = [
        ("grey", report.grey),
        ("with transparency", report.alpha),
        ("over 8 bits", report.over_8_bit),
        ("CMYK", report.cmyk),
        ("EXIF-rotated", report.rotated),
        ("animated", report.animated),
    ]
    ratios = report.aspect_ratios
    count = len(report.unreadable)
    return {
        "images": f"{report.images:,}",
        "unreadable": f"[red]{count:,}[/red]" if count else "[green]0[/green]",
        "passed over": _shown(listed_counts(list(report.passed_over.items())) or "nothing"),
        "on disk": decimal(report.bytes),
        "formats": listed(list(report.formats.items())),
        "width: smallest, median, largest": _extent(report.widths),
        "height: smallest, median, largest": _extent(report.heights),
        "width / height": "-" if ratios is None else f"{ratios[0]:.2f} to {ratios[1]:.2f}",
        "unusual": listed(unusual),
        "grey range over 8 bits": "-" if report.values is None else describe(report.values.window),
        "classes": f"{len(report.classes):,}" if report.classes else "no labels",
    }


def _extent(extent: Extent | None) -> str:
    return "-" if extent is None else f"{extent.minimum}, {extent.median}, {extent.maximum} px"


def _class_table(reports: dict[str, ScanReport], most: int | None) -> Table:
    from rich.table import Table

    names = list(dict.fromkeys(name for report in reports.values() for name in report.classes))
    table = Table()
    table.add_column("class")
    for part in reports:
        table.add_column(part, justify="right")
    for name in names[:most]:
        table.add_row(_shown(name), *(f"{report.classes.get(name, 0):,}" for report in reports.values()))
    if rest := len(names[most:] if most else ()):
        table.add_row(f"and {rest:,} more (--all lists them)", *("" for _ in reports))
    return table


def _print_unreadable(console: Console, report: ScanReport, most: int | None) -> None:
    if not report.unreadable:
        return
    console.print(f"[red]Unreadable[/red] in {_shown(report.root)}:", highlight=False)
    for fault in report.unreadable[:most]:
        console.print(f"  {_shown(fault.path)}  [dim]{_shown(fault.reason)}[/dim]", highlight=False, soft_wrap=True)
    if rest := len(report.unreadable[most:] if most else ()):
        console.print(f"  and {rest:,} more (--all lists them)", highlight=False)


def _shown(text: object) -> str:
    """Return text for rich: no markup in file names, and no bytes that are not UTF-8."""
    from rich.markup import escape

    return escape(str(text).encode("utf-8", "replace").decode("utf-8"))
