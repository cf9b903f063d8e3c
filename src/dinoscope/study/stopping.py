"""Runs that a rule ends before their time: on collapse, or when they fall behind; and the mark that they bear."""

from __future__ import annotations

import functools
import json
import signal
import statistics
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import dinoscope
from dinoscope import system
from dinoscope.config import from_dict
from dinoscope.errors import UserError
from dinoscope.files import write_text
from dinoscope.methods.health import Verdict
from dinoscope.study.run import Handle, Runner, RunStatus
from dinoscope.study.state import require_same_settings
from dinoscope.training.config import RunConfig
from dinoscope.training.listener import Listener, RunStart
from dinoscope.training.run_folder import CONFIG, read_config, read_metrics
from dinoscope.types import Step

MARK = "stopped.json"
"""In the folder of a run that a rule stopped: as long as it is there, the run is not continued."""

COLLAPSE, MEDIAN = "stop-on-collapse", "stop-median"

WARM_UP = 0.25
"""Share of its epochs in which the median rule leaves a run alone: first places of learning curves cross often."""

MIN_OTHERS = 3
"""Runs that must have come as far, for their median to mean anything."""

LOOK_SECONDS = 5.0
"""Between two looks of the median rule at the metrics files."""

Curve = Mapping[int, float]
"""Epoch -> online k-NN top-1 in %, of every evaluation."""


@dataclass(frozen=True)
class Stopped:
    """Why a run was stopped: the rule's name, after how many optimiser steps, and in words."""

    rule: str
    steps: int
    reason: str

    @property
    def diagnosis(self) -> str:
        """The reason, for a table."""
        return f"stopped early after {self.steps} steps: {self.reason}"


def mark_stopped(run: Path, stopped: Stopped) -> None:
    """Leave the mark."""
    write_text(run / MARK, json.dumps(asdict(stopped), indent=2) + "\n")


def stopped_early(config: RunConfig) -> Stopped | None:
    """Return the mark that the run bears, if any.

    Raises UserError if the mark is damaged, or the run was begun with settings that give another result.
    """
    file = config.out / MARK
    if not file.is_file():
        return None
    if (config.out / CONFIG).is_file():
        require_same_settings(read_config(config.out), config)
    try:
        return from_dict(Stopped, json.loads(file.read_text(encoding="utf-8")), str(file))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}. Delete it to continue the run") from error


class StopOnCollapse(Listener):
    """Ends the run, as SIGTERM does, when its method finds that it has collapsed or stands still."""

    essential = True

    def started(self, start: RunStart) -> None:
        """Remember the run folder."""
        self.run = start.config.out

    def diagnosed(self, step: Step, verdict: Verdict) -> None:
        """Mark the run as stopped first: what comes after may be killed."""
        mark_stopped(self.run, Stopped(COLLAPSE, step.index + 1, verdict.text))
        signal.raise_signal(signal.SIGTERM)


class KeepingHandles:
    """A runner that remembers the handle of every run it started, by the name of the run folder."""

    def __init__(self, runner: Runner) -> None:
        self.runner, self.at_once = runner, runner.at_once
        self.handles: dict[str, Handle] = {}

    def start(self, configs: Sequence[RunConfig]) -> Sequence[Handle]:
        """Start these, and remember."""
        handles = self.runner.start(configs)
        self.handles |= {config.out.name: handle for config, handle in zip(configs, handles, strict=True)}
        return handles


class MedianRule:
    """Stops runs that fall behind the others (Golovin et al. 2017, Vizier, section 3.2.2); a `Watch` of `execute`.

    Vizier compares with completed trials at the same step; here with all others that have come as far, at the same
    epoch, since batch sizes differ. What is stopped depends on the order in which runs advance.

    Args:
        handles: of the runs under way.
        spared: names of runs that are never stopped (the baseline, with which all others are compared).
        earlier: folders of runs that had ended before.
    """

    def __init__(self, handles: Mapping[str, Handle], spared: Collection[str], earlier: Sequence[Path] = ()) -> None:
        self.handles, self.spared = handles, spared
        self.curves: dict[str, Curve] = {run.name: knn_curve(run) for run in earlier}
        self.stopped: set[str] = set()
        self.looked = float("-inf")

    def __call__(self, runs: Sequence[RunStatus]) -> None:
        """Look, if it is time."""
        if time.monotonic() - self.looked < LOOK_SECONDS:
            return
        self.looked = time.monotonic()
        for run in runs:
            if run.state == "running" or (run.state == "finished" and run.name not in self.curves):
                self.curves[run.name] = knn_curve(run.config.out)
        for run in runs:
            if run.state == "running" and run.name not in {*self.spared, *self.stopped}:
                self._judge(run)

    def _judge(self, run: RunStatus) -> None:
        others = [curve for name, curve in self.curves.items() if name != run.name]
        verdict = behind(self.curves[run.name], others, WARM_UP * run.config.epochs)
        if verdict is None:
            return
        self.stopped.add(run.name)
        steps = int(read_metrics(run.config.out)[-1]["step"]) + 1
        mark_stopped(run.config.out, Stopped(MEDIAN, steps, verdict))
        self.handles[run.name].stop()


def knn_curve(run: Path) -> Curve:
    """Read the curve from the run's metrics file."""
    return {int(line["epoch"]): line["knn_top1"] for line in read_metrics(run) if "knn_top1" in line}


def behind(own: Curve, others: Sequence[Curve], warm_up: float) -> str | None:
    """Return in words that a run's best value so far is below the median of the others' mean values so far, or None.

    own: of the run. others: of all other runs, of which those count that have come as far. warm_up: epochs.
    """
    if not own or (epoch := max(own)) + 1 < warm_up:
        return None
    means = [
        statistics.fmean(value for at, value in curve.items() if at <= epoch)
        for curve in others
        if curve and max(curve) >= epoch and min(curve) <= epoch
    ]
    if len(means) < MIN_OTHERS:
        return None
    best, median = max(own.values()), statistics.median(means)
    if best >= median:
        return None
    return (
        f"its best k-NN until epoch {epoch + 1} is {best:.1f} %, below {median:.1f} %, the median of the means of "
        f"{len(means)} other runs until then"
    )


# Circumstances

CIRCUMSTANCES = "circumstances.json"


@dataclass(frozen=True)
class Circumstances:
    """Under what a run was made; several if it was continued elsewhere or by other code.

    code: as `code_version` has it. machines: in words.
    peak_memory: bytes, the largest of its processes; None if it is not known. memory: what that figure is.
    """

    code: tuple[str, ...] = ()
    machines: tuple[str, ...] = ()
    peak_memory: int | None = None
    memory: str = ""


def read_circumstances(run: Path) -> Circumstances:
    """Return what `RunCircumstances` wrote; nothing is known of a run without. Raises UserError for a damaged file."""
    file = run / CIRCUMSTANCES
    try:
        return from_dict(Circumstances, json.loads(file.read_text(encoding="utf-8")), str(file))
    except FileNotFoundError:
        return Circumstances()
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error


@functools.cache
def code_version() -> str:
    """Return the package's version and commit: "0.5.0, commit 1a2b3c4d5e6f with changes"."""
    commit = system.commit()
    if commit is None:
        return dinoscope.__version__
    head, _, changed = commit.partition("-")
    return f"{dinoscope.__version__}, commit {head[:12]}{' with changes' if changed else ''}"


class RunCircumstances(Listener):
    """Keeps code, machine and peak memory of a run in its folder.

    Made before the run takes memory. device: as `pick_device` takes it.
    """

    def __init__(self, device: str) -> None:
        self.device = system.pick_device(device)
        self.memory = system.MemoryWatch(self.device)
        self.run: Path | None = None

    def started(self, start: RunStart) -> None:
        """Add this code and machine."""
        self.run = start.config.out
        known = read_circumstances(self.run)
        words = system.machine(self.device).line()
        self._write(
            replace(
                known,
                code=tuple(dict.fromkeys((*known.code, code_version()))),
                machines=tuple(dict.fromkeys((*known.machines, words))),
            )
        )

    def closed(self) -> None:
        """Add the peak of this process."""
        if self.run is None:
            return
        known, memory = read_circumstances(self.run), self.memory.read()
        if memory.peak is not None and memory.peak > (known.peak_memory or 0):
            self._write(replace(known, peak_memory=memory.peak, memory=memory.meaning))

    def _write(self, values: Circumstances) -> None:
        assert self.run is not None
        write_text(self.run / CIRCUMSTANCES, json.dumps(asdict(values), indent=2) + "\n")
