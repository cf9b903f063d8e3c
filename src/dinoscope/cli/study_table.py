"""A study on the terminal: a live table of its runs, or plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from rich.live import Live
from rich.markup import escape
from rich.table import Table

from dinoscope.cli.console import Console
from dinoscope.study.run import RunStatus
from dinoscope.study.state import MetricsTail, Reading
from dinoscope.text import duration

LIVE_SECONDS, PLAIN_SECONDS = 0.5, 30
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
        if time.monotonic() - self.shown < (LIVE_SECONDS if self.live else PLAIN_SECONDS):
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

    def reading(self, run: RunStatus) -> Reading:
        """What the run's metrics say now."""
        return self.tails.setdefault(run.name, MetricsTail(run.config.out)).read()

    def _cells(self, run: RunStatus) -> list[str]:
        if run.state == "new":
            return [""] * 6
        reading = self.reading(run)
        return [
            "" if reading.epoch is None else f"{reading.epoch + 1}/{run.config.epochs:g}",
            "" if reading.step is None else f"{reading.step + 1}/{self.steps.get(run.name, '?')}",
            "" if reading.loss is None else f"{reading.loss:.3f}",
            "" if reading.knn is None else f"{reading.knn:.1f}",
            "" if reading.images_per_second is None else f"{reading.images_per_second:.0f}",
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
