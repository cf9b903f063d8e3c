"""Runs that are ended before their time by a rule: the mark they bear, and the median rule."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dinoscope.config import from_dict
from dinoscope.errors import UserError
from dinoscope.files import write_text
from dinoscope.study.executor import Handle, Runner, RunStatus
from dinoscope.study.state import require_same_settings
from dinoscope.training.config import RunConfig
from dinoscope.training.run_folder import CONFIG, read_config, read_metrics

MARK = "stopped.json"
"""In the folder of a run that a rule stopped: as long as it is there, the run is not gone on with."""

COLLAPSE, MEDIAN = "stop-on-collapse", "stop-median"

WARM_UP = 0.25
"""Share of its epochs in which the median rule leaves a run alone: first places of learning curves cross often."""

LEAST_OTHERS = 3
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
        """For a table."""
        return f"stopped early after {self.steps} steps: {self.reason}"


def mark_stopped(run: Path, stopped: Stopped) -> None:
    """Leave the mark."""
    write_text(run / MARK, json.dumps(asdict(stopped), indent=2) + "\n")


def stopped_early(config: RunConfig) -> Stopped | None:
    """The mark that the run bears, if any.

    Raises UserError where the mark is damaged, or the run was begun with settings that give another result.
    """
    file = config.out / MARK
    if not file.is_file():
        return None
    if (config.out / CONFIG).is_file():
        require_same_settings(read_config(config.out), config)
    try:
        return from_dict(Stopped, json.loads(file.read_text(encoding="utf-8")), str(file))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}. Delete it to go on with the run") from error


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
        spared: names of runs that are never stopped (the base, with which all others are compared).
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
    """Of the run's metrics file."""
    return {int(line["epoch"]): line["knn_top1"] for line in read_metrics(run) if "knn_top1" in line}


def behind(own: Curve, others: Sequence[Curve], warm_up: float) -> str | None:
    """Whether a run's best value so far is below the median of the others' mean values so far; in words, or None.

    own: of the run. others: of all other runs, of which those count that have come as far. warm_up: epochs.
    """
    if not own or (epoch := max(own)) + 1 < warm_up:
        return None
    means = [
        statistics.fmean(value for at, value in curve.items() if at <= epoch)
        for curve in others
        if curve and max(curve) >= epoch and min(curve) <= epoch
    ]
    if len(means) < LEAST_OTHERS:
        return None
    best, median = max(own.values()), statistics.median(means)
    if best >= median:
        return None
    return (
        f"its best k-NN until epoch {epoch + 1} is {best:.1f} %, below {median:.1f} %, the median of the means of "
        f"{len(means)} other runs until then"
    )
