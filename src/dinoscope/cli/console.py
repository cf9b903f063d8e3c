"""What the commands share on the terminal: progress on stderr, results on stdout."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from rich import console as rich_console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from dinoscope.text import printable

if TYPE_CHECKING:
    from dinoscope.types import Metric, Result


class Console(rich_console.Console):
    """Rich's console, on which names of files and classes are text and never escape codes."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Render a string; see `printable`."""
        return super().render_str(printable(text), **options)

    def render(
        self, renderable: rich_console.RenderableType, options: rich_console.ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Render anything else; see `printable`."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


@contextlib.contextmanager
def progress_bar(description: str, console: Console | None = None) -> Iterator[Callable[[int, int], None]]:
    """Give a function to call with (done, total): a line that moves and is gone afterwards, on stderr.

    Nothing is shown before the first call. Where stderr is no terminal, the first call prints one line.
    """
    console = console or Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = progress.add_task(escape(description), total=None, visible=False)

    def advance(done: int, total: int) -> None:
        first = not progress.tasks[task].visible
        progress.update(task, completed=done, total=total, visible=True)
        if first and not console.is_terminal:
            console.print(f"{description} ({total})" if total else description, markup=False, highlight=False)

    with progress:
        yield advance


def show(measurement: Result, title: str, line: str, *, as_json: bool) -> None:
    """Print figures on stdout: as JSON, or as a table with how they came about in one line."""
    if as_json:
        from dinoscope.evaluation.results import to_json

        print(to_json(measurement), end="")
        return
    console = Console()
    console.print(metric_table(title, measurement.metrics))
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def metric_table(title: str, metrics: Iterable[Metric]) -> Table:
    """One row per metric: name with parameters, value with its interval, unit."""
    table = Table(title=escape(title), title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("unit")
    for metric in metrics:
        table.add_row(escape(metric.title), escape(metric.text(2)), escape(metric.unit))
    return table
