"""The progress line of a run."""

from __future__ import annotations

import sys
import threading
import time

from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from dinoscope.cli.console import Console
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
