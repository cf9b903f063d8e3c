"""The progress line of a run, and the table of a study's runs."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from dinoscope.cli.console import Console, TimeLeft
from dinoscope.study.run import RunStatus
from dinoscope.study.state import MetricsTail
from dinoscope.text import duration
from dinoscope.training.listeners import Listener, RunStart, StepRecord

LISTING_SECONDS = 2.0
PLAIN_SECONDS = 15
"""Between lines if the output is no terminal (a log file, CI)."""


class ConsoleProgress(Listener):
    """One live line with epoch, step, ETA, images/s, wait for data, loss and learning rate; plain lines in a log."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.live = self.console.is_terminal
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total}"),
            TimeLeft(),
            TextColumn("{task.fields[scalars]}", style="cyan", markup=False),
            console=self.console,
            disable=not self.live,
        )
        self.task: TaskID | None = None
        self.begun = self.printed = time.monotonic()
        self.first = self.image_size = 0
        self.checking = self.trying = False
        self.listing: threading.Timer | None = None

    def scanned(self, done: int, total: int) -> None:
        """Show the check of the files. Without a terminal: a line at first and now and then.

        total: 0 while the files are listed; a line is printed only if that takes long, because it may end in a mistake.
        """
        what = f"checking {total} images" if total else "listing the images"
        if self.live:
            if self.task is None:
                self.progress.start()
                self.task = self.progress.add_task(what, total=total, scalars="")
            self.progress.update(self.task, description=what, completed=done, total=total)
        elif not total:
            self.listing = threading.Timer(LISTING_SECONDS, self.console.print, [what])
            self.listing.daemon = True
            self.listing.start()
        elif not self.checking or time.monotonic() - self.printed > PLAIN_SECONDS:
            self._end_listing()
            self.console.print(f"{what}: {done} done" if self.checking else what)
            self.checking, self.printed = True, time.monotonic()

    def tried(self, seconds: float, limit: float) -> None:
        """Show the trial. Without a terminal: a line at first."""
        what = f"timing steps, for about {duration(limit)}"
        if self.live:
            if self.task is None:
                self.progress.start()
                self.task = self.progress.add_task(what, scalars="")
            self.progress.update(self.task, description=what, completed=round(seconds), total=round(limit))
        elif not self.trying:
            self._end_listing()
            self.console.print(what)
            self.trying = True

    def started(self, start: RunStart) -> None:
        config = start.config
        self.image_size = start.backbone.config.image_size
        if self.task is not None:
            self.progress.remove_task(self.task)
        self.console.print_line(
            f"[bold]{config.backbone}[/] ({start.parameters / 1e6:.2f} M parameters) on {start.images} "
            f"image{'s' * (start.images != 1)}, {config.epochs:g} epoch{'s' * (config.epochs != 1)}",
            markup=True,
        )
        for name, text in start.facts.items():
            self.console.print_line(f"  {name}: {text}")
        self.first, self.begun = start.step.index, time.monotonic()
        self.progress.start()
        self.task = self.progress.add_task("training", total=start.step.total, completed=self.first, scalars="")

    def stepped(self, record: StepRecord) -> None:
        step, values, done = record.step, record.values, record.step.index + 1
        epoch = f"epoch {step.epoch + 1}/{step.epochs}"
        scalars = (
            f"{values['images_per_second']:.0f} im/s  data {values['waiting_for_data']:.0%}  "
            f"loss {values['loss']:.3f}  lr {values['learning_rate']:.1e}"
        )
        if self.live and self.task is not None:
            self.progress.update(self.task, completed=done, description=epoch, scalars=scalars)
        elif time.monotonic() - self.printed > PLAIN_SECONDS:
            self.printed = time.monotonic()
            left = (self.printed - self.begun) / max(done - self.first, 1) * (step.total - done)
            self.console.print_line(f"{epoch}  step {done}/{step.total}  {duration(left)} left  {scalars}")

    def logged(self, record: StepRecord) -> None:
        values = record.values
        if "knn_top1" in values:
            knn = f"k-NN {values['knn_top1']:.1f} % at {self.image_size} px"
            self.console.print_line(f"  epoch {record.step.epoch + 1}: {knn}, RankMe {values['rank_me']:.0f}")

    def said(self, message: str) -> None:
        self.console.print(f"[bold yellow]{escape(message)}[/]", highlight=False)

    def closed(self) -> None:
        self._end_listing()
        self.progress.stop()
        sys.stderr.flush()

    def _end_listing(self) -> None:
        if self.listing is not None:
            self.listing.cancel()


LIVE_SECONDS, STUDY_SECONDS = 0.5, 30
"""Between two looks at the runs under way: on a terminal, and elsewhere."""
STYLES = {"new": "dim", "running": "cyan", "finished": "green", "failed": "bold red", "stopped": "yellow"}
ORDER = ("running", "failed", "stopped", "new", "finished")
"""Which states are shown first if the terminal has too few lines for all runs."""


class StudyTable:
    """Call it with the runs as often as you like: it shows them now and then.

    Args:
        steps: optimiser steps in all of each run, by name.
        console: where to; stderr by default.
    """

    def __init__(self, steps: Mapping[str, int], console: Console | None = None) -> None:
        self.steps, self.console = steps, console or Console(stderr=True)
        self.tails: dict[str, MetricsTail] = {}
        self.states: dict[str, str] = {}
        self.shown = time.monotonic()
        self.live = Live(console=self.console, auto_refresh=False, transient=True) if self.console.is_terminal else None

    def __enter__(self) -> StudyTable:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def __call__(self, runs: Sequence[RunStatus]) -> None:
        is_due = time.monotonic() - self.shown >= (LIVE_SECONDS if self.live else STUDY_SECONDS)
        if is_due:
            self.shown = time.monotonic()
        if self.live:
            if is_due:
                self.live.update(self.table(runs, self.console.height - 6), refresh=True)
            return
        for run in runs:
            is_changed = run.state not in ("new", self.states.get(run.name))
            if is_changed:
                self.states[run.name] = run.state
                text = "finished before" if run.before else "started" if run.state == "running" else ""
                self.console.print_line(f"{run.name}: {text or f'{run.state}  {self._line(run)}'}")
            if is_due and run.state == "running":
                self.console.print_line(f"{run.name}: {self._line(run)}")

    def table(self, runs: Sequence[RunStatus], max_rows: int | None = None) -> Table:
        """Return one row for each run; of more than `max_rows`, those that matter most, and a line with the counts."""
        table = Table(title_justify="left", caption=counts(runs), caption_justify="left")
        table.add_column("run", overflow="fold")
        table.add_column("state")
        for name in ("epoch", "step", "loss", "k-NN %", "images/s", "time"):
            table.add_column(name, justify="right")
        shown = sorted(runs, key=lambda run: ORDER.index(run.state))
        shown = shown if max_rows is None else shown[: max(max_rows, 1)]
        for run in runs:
            if any(run is one for one in shown):
                table.add_row(escape(run.name), f"[{STYLES[run.state]}]{run.state}[/]", *self._cells(run))
        return table

    def _cells(self, run: RunStatus) -> list[str]:
        if run.state == "new":
            return [""] * 6
        values = self.tails.setdefault(run.name, MetricsTail(run.config.out)).read()
        return [
            f"{values['epoch'] + 1}/{run.config.epochs:g}" if "epoch" in values else "",
            f"{values['step'] + 1}/{self.steps.get(run.name, '?')}" if "step" in values else "",
            f"{values['loss']:.3f}" if "loss" in values else "",
            f"{values['knn_top1']:.1f}" if "knn_top1" in values else "",
            f"{values['images_per_second']:.0f}" if "images_per_second" in values else "",
            "before" if run.before else "" if run.seconds is None else duration(run.seconds, coarse=True),
        ]

    def _line(self, run: RunStatus) -> str:
        names = ("epoch", "step", "loss", "k-NN", "images/s", "after")
        return "  ".join(f"{name} {cell}" for name, cell in zip(names, self._cells(run), strict=True) if cell)


def counts(runs: Sequence[RunStatus]) -> str:
    number = Counter(run.state for run in runs)
    return ", ".join(f"{number[state]} {state}" for state in STYLES if number[state])
