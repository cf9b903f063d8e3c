"""How far a run is, read from its folder alone, and what brings it to its end from wherever it stands."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from dinoscope import checkpoint
from dinoscope.errors import UserError
from dinoscope.training.config import RunConfig
from dinoscope.training.loop import RunResult
from dinoscope.training.run_folder import CONFIG, RunFolder, changed_settings, read_config, run_lock

logger = logging.getLogger("dinoscope")


@dataclass(frozen=True)
class Standing:
    """What a run folder says.

    state: new (nothing that could be gone on with), begun (has a checkpoint) or finished (has its export).
    steps: optimiser steps that the newest checkpoint holds; 0 without one.
    fingerprint: of the images that it was trained on; None without a checkpoint.
    """

    state: Literal["new", "begun", "finished"]
    steps: int = 0
    fingerprint: str | None = None


@runtime_checkable
class Train(Protocol):
    """`dinoscope.training.loop.train`, or one that adds listeners to it."""

    def __call__(self, config: RunConfig, *, resume: bool) -> RunResult:
        """Train, or go on training."""
        ...


def standing(config: RunConfig) -> Standing:
    """Look at the run's folder; nothing is changed.

    Raises UserError where the folder was begun with settings that give another result (each is named), or is not
    a run's.
    """
    run = RunFolder(config.out)
    if not (run.path / CONFIG).is_file():
        _check_nothing_is_lost(run)
        return Standing("new")
    saved = read_config(run.path)
    newest = checkpoint.newest_metadata(run.checkpoints)
    exported = all(
        (run.exported / name).is_file() for name in (checkpoint.BACKBONE_WEIGHTS, checkpoint.BACKBONE_SETTINGS)
    )
    if newest is None and not exported:
        return Standing("new")
    require_same_settings(saved, config)
    if newest is None:  # somebody made room: an export is only ever written by a run that reached its end
        return Standing("finished")
    done = exported and newest["step"] >= newest["total"]
    return Standing("finished" if done else "begun", newest["step"], newest["data_fingerprint"])


def require_same_settings(saved: RunConfig, wanted: RunConfig) -> None:
    """Refuse a run folder that was begun with settings that give another result; each is named in the UserError."""
    changed = changed_settings(saved, wanted)
    if changed:
        raise UserError(
            f"{wanted.out} was begun with other settings: {'; '.join(changed)}. Give the same ones, or another --out"
        )


def bring_to_end(config: RunConfig, train: Train) -> bool:
    """Begin the run, go on with it, or find it finished: safe to call again after any kind of death.

    Waits where another process is still at this run. Returns whether it is finished (False: a signal stopped it).
    Raises UserError as `standing` and `train` do.
    """
    with run_lock(config.out, lambda: logger.warning("waiting for the process that is at %s", config.out)):
        found = standing(config)
        if found.state == "finished":
            return True
        if found.state == "new":
            _clear(config.out)
        else:
            for partial in config.out.rglob(".*.partial-*"):  # half-written files of the process that was killed
                shutil.rmtree(partial, ignore_errors=True)
        return not train(config, resume=found.state == "begun").interrupted


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


def _clear(folder: Path) -> None:
    """Remove a run that cannot be gone on with. The rename comes first: a kill leaves no half-deleted run folder."""
    if folder.exists():
        folder.rename(folder.with_name(f".{folder.name}.discarded-{os.getpid()}"))
    for discarded in folder.parent.glob(f".{_literal(folder.name)}.discarded-*"):
        shutil.rmtree(discarded)


def _literal(name: str) -> str:
    """A file name for glob, without wildcards."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
