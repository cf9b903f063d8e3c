"""The progress line of a run, and the table of a study's runs."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dinoscope.cli.console import Console
from dinoscope.study.run import RunStatus
from dinoscope.study.state import MetricsTail
from dinoscope.text import duration
from dinoscope.training.listeners import Listener, RunStart, StepRecord

LISTING_SECONDS = 2.0
PLAIN_SECONDS = 15
"""Between lines where the output is no terminal (a log file, CI)."""


class _Scalars(ProgressColumn):
    """Right-hand side of the line: what a person wants to know while waiting."""

    def render(self, task: Task) -> Text:
        return Text(task.fields.get("scalars", ""), style="cyan")


class ConsoleProgress(Listener):
    """One live line with epoch, step, ETA, images/s, wait for data, loss and learning rate; plain lines in a log."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.live = self.console.is_terminal
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total}"),
            TimeRemainingColumn(),
            _Scalars(),
            console=self.console,
            disable=not self.live,
        )
        self.task: TaskID | None = None
        self.begun = self.printed = time.monotonic()
        self.first = self.image_size = 0
        self.checking = False
        self.listing: threading.Timer | None = None

    def scanned(self, done: int, total: int) -> None:
        """Progress of the check of the files. Without a terminal: a line at first and now and then.

        total: 0 while the files are listed; a line is printed only if that takes long, because it may end in a mistake.
        """
        what = f"checking {total} images" if total else "listing the images"
        if self.live:
            if self.task is None:
                self.progress.start()
                self.task = self.progress.add_task(what, total=total)
            self.progress.update(self.task, description=what, completed=done, total=total)
        elif not total:
            self.listing = threading.Timer(LISTING_SECONDS, self.console.print, [what])
            self.listing.daemon = True
            self.listing.start()
        elif not self.checking or time.monotonic() - self.printed > PLAIN_SECONDS:
            self._listed()
            self.console.print(f"{what}: {done} done" if self.checking else what)
            self.checking, self.printed = True, time.monotonic()

    def started(self, start: RunStart) -> None:
        """Say what begins."""
        config = start.config
        self.image_size = start.backbone.config.image_size
        if self.task is not None:
            self.progress.remove_task(self.task)
        self.console.print(
            f"[bold]{config.backbone}[/] ({start.parameters / 1e6:.2f} M parameters) on {start.images} "
            f"image{'s' * (start.images != 1)}, {config.epochs:g} epoch{'s' * (config.epochs != 1)}",
            highlight=False,
            soft_wrap=True,
        )
        for name, text in start.facts.items():
            self.console.print(f"  {name}: {text}", markup=False, highlight=False, soft_wrap=True)
        self.first, self.begun = start.step.index, time.monotonic()
        self.progress.start()
        self.task = self.progress.add_task("training", total=start.step.total, completed=start.step.index)

    def stepped(self, record: StepRecord) -> None:
        """Move the line."""
        step, values = record.step, record.values
        scalars = (
            f"{values['images_per_second']:.0f} im/s  data {values['waiting_for_data']:.0%}  "
            f"loss {values['loss']:.3f}  lr {values['learning_rate']:.1e}"
        )
        if self.live and self.task is not None:
            description = f"epoch {step.epoch + 1}/{step.epochs}"
            self.progress.update(self.task, completed=step.index + 1, description=description, scalars=scalars)
        elif time.monotonic() - self.printed > PLAIN_SECONDS:
            self.printed = time.monotonic()
            done = step.index + 1
            left = (self.printed - self.begun) / max(done - self.first, 1) * (step.total - done)
            self.console.print(
                f"epoch {step.epoch + 1}/{step.epochs}  step {done}/{step.total}  {left:.0f} s left  {scalars}",
                highlight=False,
                soft_wrap=True,
            )

    def logged(self, record: StepRecord) -> None:
        """Say the k-NN accuracy of an evaluation."""
        if "knn_top1" in record.values:
            values = record.values
            self.console.print(
                f"  epoch {record.step.epoch + 1}: k-NN {values['knn_top1']:.1f} % at {self.image_size} px, "
                f"RankMe {values['rank_me']:.0f}",
                highlight=False,
            )

    def said(self, message: str) -> None:
        """Print a verdict so that it is seen."""
        self.console.print(f"[bold yellow]{escape(message)}[/]", highlight=False)

    def closed(self) -> None:
        """Leave the terminal as it was."""
        self._listed()
        self.progress.stop()
        sys.stderr.flush()

    def _listed(self) -> None:
        if self.listing is not None:
            self.listing.cancel()


LIVE_SECONDS, STUDY_SECONDS = 0.5, 30
"""Between two looks at the runs under way: on a terminal, and elsewhere."""

STYLES = {"new": "dim", "running": "cyan", "finished": "green", "failed": "bold red", "stopped": "yellow"}
ORDER = ("running", "failed", "stopped", "new", "finished")
"""Which states are shown first where the terminal has too few lines for all runs."""


class StudyTable:
    """Call it with the runs as often as you like: it shows them now and then.

    Args:
        steps: optimiser steps in all of each run, by name.
        console: where to; stderr by default.
    """

    def __init__(self, steps: Mapping[str, int], console: Console | None = None) -> None:
        self.steps, self.console = steps, console or Console(stderr=True)
        self.tails: dict[str, MetricsTail] = {}
        self.told: dict[str, str] = {}
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
        """Show the runs, if it is time."""
        if self.live is None:
            self._tell_changes(runs)
        if time.monotonic() - self.shown < (LIVE_SECONDS if self.live else STUDY_SECONDS):
            return
        self.shown = time.monotonic()
        if self.live:
            self.live.update(self.table(runs, most=self.console.height - 6), refresh=True)
            return
        for run in runs:
            if run.state == "running":
                self._say(f"{run.name}: {self._line(run)}")

    def table(self, runs: Sequence[RunStatus], most: int | None = None) -> Table:
        """One row per run; of more than `most`, those that matter most, and a line with the counts."""
        table = Table(title_justify="left", caption=counts(runs), caption_justify="left")
        table.add_column("run", overflow="fold")
        table.add_column("state")
        for name in ("epoch", "step", "loss", "k-NN %", "images/s", "time"):
            table.add_column(name, justify="right")
        shown = runs if most is None else sorted(runs, key=lambda run: ORDER.index(run.state))[: max(most, 1)]
        for run in runs:
            if any(run is one for one in shown):
                state = f"[{STYLES[run.state]}]{run.state}[/]"
                table.add_row(escape(run.name), state, *self._cells(run))
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

    def _tell_changes(self, runs: Sequence[RunStatus]) -> None:
        for run in runs:
            if run.state in ("new", self.told.get(run.name)):
                continue
            self.told[run.name] = run.state
            if run.before:
                self._say(f"{run.name}: finished before")
            elif run.state == "running":
                self._say(f"{run.name}: started")
            else:
                self._say(f"{run.name}: {run.state}  {self._line(run)}")

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def counts(runs: Sequence[RunStatus]) -> str:
    """How many runs are in each state."""
    number = Counter(run.state for run in runs)
    return ", ".join(f"{number[state]} {state}" for state in STYLES if number[state])
