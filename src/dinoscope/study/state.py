"""The state of a run, read from its folder alone, and what brings it to its end from there."""

from __future__ import annotations

import glob
import json
import logging
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from dinoscope import checkpoint
from dinoscope.config import from_dict
from dinoscope.errors import UserError
from dinoscope.files import write_text
from dinoscope.methods.health import Verdict
from dinoscope.training.config import RunConfig
from dinoscope.training.listeners import Listener, RunStart
from dinoscope.training.loop import RunResult
from dinoscope.training.run_folder import CONFIG, METRICS, RunFolder, changed_settings, read_config, run_lock
from dinoscope.types import Step

logger = logging.getLogger("dinoscope")

STOPPED = "stopped.json"
"""In the folder of a run that a rule stopped: as long as it is there, the run is not continued."""


@dataclass(frozen=True)
class RunState:
    """What a run folder holds.

    name: new (nothing that could be continued), running (has a checkpoint, whether or not a process is at it) or
        finished (has its export).
    steps: optimiser steps that the newest checkpoint holds; 0 without one.
    fingerprint: of the images that it was trained on; None without a checkpoint.
    """

    name: Literal["new", "running", "finished"]
    steps: int = 0
    fingerprint: str | None = None


def run_state(config: RunConfig) -> RunState:
    """Look at the run's folder. Raises UserError if it has other settings (each is named), or is not a run's."""
    run = RunFolder(config.out)
    if not (run.path / CONFIG).is_file():
        _check_nothing_is_lost(run)
        return RunState("new")
    saved = read_config(run.path)
    newest = checkpoint.newest_metadata(run.checkpoints)
    exported = all(
        (run.exported / name).is_file() for name in (checkpoint.BACKBONE_WEIGHTS, checkpoint.BACKBONE_SETTINGS)
    )
    if newest is None and not exported:
        return RunState("new")
    _require_same_settings(saved, config)
    if newest is None:  # somebody made room: an export is only ever written by a run that reached its end
        return RunState("finished")
    done = exported and newest["step"] >= newest["total"]
    return RunState("finished" if done else "running", newest["step"], newest["data_fingerprint"])


def _require_same_settings(saved: RunConfig, wanted: RunConfig) -> None:
    changed = changed_settings(saved, wanted)
    if changed:
        raise UserError(
            f"{wanted.out} was begun with other settings: {'; '.join(changed)}. Give the same ones, or another --out"
        )


def bring_to_end(config: RunConfig, train: Callable[..., RunResult]) -> bool:
    """Begin the run, continue it, or find it finished: safe to call again after any kind of death.

    Waits while another process is at this run. Returns whether it is finished (False: a signal stopped it).

    train: `dinoscope.training.loop.train`, or one that adds listeners to it.

    Raises UserError as `run_state` and `train` do.
    """
    out = config.out
    with run_lock(out, lambda: logger.warning("waiting for the process that is at %s", out)):
        state = run_state(config)
        if state.name == "finished":
            return True
        if state.name == "new":
            if out.exists():  # the rename comes first: a kill leaves no half-deleted run folder
                out.rename(out.with_name(f".{out.name}.discarded-{os.getpid()}"))
            for discarded in out.parent.glob(f".{glob.escape(out.name)}.discarded-*"):
                shutil.rmtree(discarded)
        for partial in out.rglob(".*.partial-*"):  # half-written files of a process that was killed
            shutil.rmtree(partial, ignore_errors=True)
        return not train(config, resume=state.name == "running").interrupted


def _check_nothing_is_lost(run: RunFolder) -> None:
    """A folder without settings may only hold what a run makes before it writes them."""
    if not run.path.exists():
        return
    if run.path.is_dir() and all(
        entry.name.startswith(f".{CONFIG}.partial-") or (entry == run.checkpoints and not any(entry.iterdir()))
        for entry in run.path.iterdir()
    ):
        return
    raise UserError(f"{run.path} is in the way of a run and is not a run folder: move it, or choose another --out")


# Stopped by a rule


@dataclass(frozen=True)
class Stopped:
    """Why a run was stopped: the rule's name, after how many optimiser steps, and in words."""

    rule: str
    steps: int
    reason: str

    @property
    def diagnosis(self) -> str:
        return f"stopped early after {self.steps} steps: {self.reason}"


def mark_stopped(run: Path, stopped: Stopped) -> None:
    write_text(run / STOPPED, json.dumps(asdict(stopped), indent=2) + "\n")


def stopped_early(config: RunConfig) -> Stopped | None:
    """Return the mark that the run bears. Raises UserError if it is damaged, or of a run with other settings."""
    file = config.out / STOPPED
    if not file.is_file():
        return None
    if (config.out / CONFIG).is_file():
        _require_same_settings(read_config(config.out), config)
    try:
        return from_dict(Stopped, json.loads(file.read_text(encoding="utf-8")), str(file))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}. Delete it to continue the run") from error


class StopOnCollapse(Listener):
    """Ends the run, as SIGTERM does, when its method finds that it has collapsed or stands still."""

    essential = True

    def started(self, start: RunStart) -> None:
        self.run = start.config.out

    def diagnosed(self, step: Step, verdict: Verdict) -> None:
        """Mark the run as stopped first: what comes after may be killed."""
        mark_stopped(self.run, Stopped("stop-on-collapse", step.index + 1, verdict.text))
        signal.raise_signal(signal.SIGTERM)


class MetricsTail:
    """Reads what was added to a run's metrics.jsonl since the last look, so that looking often is cheap.

    values: the newest value of everything that was logged.
    """

    def __init__(self, run: Path) -> None:
        self.path = run / METRICS
        self.inode = self.offset = 0
        self.values: dict[str, float] = {}

    def read(self) -> dict[str, float]:
        """Return the newest values. A run that continues writes a new file, without the steps that it makes again."""
        try:
            with self.path.open("rb") as file:
                status = self.path.stat()
                if status.st_ino != self.inode or status.st_size < self.offset:
                    self.inode, self.offset, self.values = status.st_ino, 0, {}
                file.seek(self.offset)
                added = file.read()
        except FileNotFoundError:
            return self.values
        whole = added[: added.rfind(b"\n") + 1]
        self.offset += len(whole)
        for line in whole.splitlines():
            self.values |= json.loads(line)
        return self.values
