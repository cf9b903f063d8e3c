"""What the commands share on the terminal: progress on stderr, results on stdout."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from json import dumps
from typing import TYPE_CHECKING, Any

from rich import box
from rich import console as rich_console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.segment import Segment
from rich.table import Table as RichTable
from rich.text import Text

from dinoscope.text import duration, printable

if TYPE_CHECKING:
    from dinoscope.tables import Table
    from dinoscope.types import Metric


class Console(rich_console.Console):
    """Rich's console, on which names of files and classes are text and never escape codes; see `printable`."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)

    def render(
        self, renderable: rich_console.RenderableType, options: rich_console.ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)

    def print_line(self, text: str, *, markup: bool = False, style: str | None = None) -> None:
        """Print a line as it is: not wrapped, nothing highlighted."""
        self.print(text, markup=markup, style=style, highlight=False, soft_wrap=True)


class TimeLeft(ProgressColumn):
    """The time until a task is done, as `duration` writes it; nothing while it is not known."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        seconds = None if task.finished else task.time_remaining
        return Text("" if seconds is None else f"{duration(seconds)} left", style="progress.remaining")


@contextlib.contextmanager
def progress_bar(
    description: str, console: Console | None = None, after: float = 0
) -> Iterator[Callable[[int, int], None]]:
    """Give a function to call with (done, total): a line that moves and is gone afterwards, on stderr.

    Nothing is shown before the first call, nor in the first seconds (`after`). If stderr is no terminal, one line is
    printed instead.
    """
    console = console or Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeLeft())
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = progress.add_task(escape(description), total=None, visible=False)
    begun = time.monotonic()

    def advance(done: int, total: int) -> None:
        if time.monotonic() - begun < after:
            return
        is_first = not progress.tasks[task].visible
        progress.update(task, completed=done, total=total, visible=True)
        if is_first and not console.is_terminal:
            console.print_line(f"{description} ({total})" if total else description)

    with progress:
        yield advance


def stdout(shown: object) -> None:
    if isinstance(shown, str):
        Console().print_line(shown)
    else:
        Console().print(shown, highlight=False)


def say(text: str) -> None:
    Console(stderr=True).print_line(text)


def emit(values: Any, tables: Iterable[Table], lines: Iterable[str] = (), *, json: bool) -> None:
    """Print a result: as JSON, or as tables with their notes and footnotes, and then lines."""
    if json:
        print(dumps(values, indent=2))
        return
    console = Console()
    for table in tables:
        console.print(rich_table(table))
        for number, note in enumerate(table.notes, 1):
            console.print_line(f"[bold]{number}[/bold] {escape(note)}", markup=True)
        for remark in table.remarks:
            console.print_line(remark, style="dim")
    for line in lines:
        console.print_line(line)


_NAME_WIDTH = 20
"""Letters of a name that are on one line in any case."""


def rich_table(table: Table) -> RichTable:
    """Return a table for the terminal. If that is narrow, names are folded last: figures are short anyway."""
    shown = RichTable(title=escape(table.caption), title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    longest = max((len(row.cells[0]) for section in table.sections for row in section.rows), default=0)
    for number, column in enumerate(table.columns):
        width = min(longest, _NAME_WIDTH) if number == 0 else None
        shown.add_column(escape(column.title), justify=column.align, overflow="fold", min_width=width)
    for section in table.sections:
        if section.title:
            shown.add_row(f"[italic]{escape(section.title)}[/italic]")
        for row in section.rows:
            cells = [escape(cell) for cell in row.cells]
            name, *figures = (f"[bold]{cell}[/bold]" if at in row.best else cell for at, cell in enumerate(cells))
            shown.add_row(name + escape("".join(f" [{mark}]" for mark in row.marks)), *figures)
        shown.add_section()
    return shown


def metric_table(title: str, metrics: Iterable[Metric]) -> RichTable:
    table = RichTable(title=escape(title), title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("unit")
    for metric in metrics:
        table.add_row(escape(metric.title), escape(metric.text(2)), escape(metric.unit))
    return table
