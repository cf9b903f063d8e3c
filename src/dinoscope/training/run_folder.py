"""The folder that a run leaves behind: settings, metrics, log, checkpoints, exports, evaluations."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

from dinoscope import __version__, checkpoint
from dinoscope.errors import UserError
from dinoscope.settings import flat, from_dict, to_dict
from dinoscope.training.config import RunConfig
from dinoscope.training.listener import Listener, StepRecord

CONFIG = "config.json"
METRICS = "metrics.jsonl"


class RunFolder:
    """Paths of a run, and the rules about existing ones."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.exported = path / "exported"
        self.metrics = path / METRICS
        self.log = path / "train.log"
        self.tensorboard = path / "tensorboard"
        self.unreadable = path / "unreadable.txt"

    def prepare(self, config: RunConfig, *, resume: bool, overwrite: bool) -> None:
        """Create the folder, or enter an existing one if that was asked for.

        Raises UserError where the folder holds something and neither `resume` nor `overwrite` was given, where
        there is nothing to resume, or where `overwrite` would delete what is not a run.
        """
        exists = self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir()))
        is_run = (self.path / CONFIG).is_file()
        if resume:
            self._check_same_settings(config)
            return
        if exists and not overwrite:
            hint = "--resume goes on with it, --overwrite starts again" if is_run else "choose another --out"
            raise UserError(f"{self.path} exists already: {hint}")
        if exists and not is_run:
            raise UserError(f"{self.path} is not a run folder; --overwrite will not delete it: choose another --out")
        if exists:
            shutil.rmtree(self.path)
        self.checkpoints.mkdir(parents=True)
        values = {"version": __version__, "run": to_dict(config)}
        checkpoint.write_text(self.path / CONFIG, json.dumps(values, indent=2) + "\n")

    def _check_same_settings(self, config: RunConfig) -> None:
        saved = read_config(self.path)
        changed = changed_settings(saved, config)
        if changed:
            raise UserError(
                f"{self.path} was begun with other settings and cannot be resumed with these: {'; '.join(changed)}"
            )


FREE_ON_RESUME = {"out", "data", "saving", "workers", "device", "log_every", "evaluate_every", "accumulate"}
"""What may differ between a run and its resumption: it does not decide the result (data: the place, not the files)."""


def changed_settings(saved: RunConfig, wanted: RunConfig) -> list[str]:
    """Settings that decide the result and differ, as "name: saved -> wanted"."""
    old, new = flat(to_dict(saved)), flat(to_dict(wanted))
    return [
        f"{name}: {old.get(name)} -> {new.get(name)}"
        for name in sorted(old.keys() | new.keys())
        if name.split(".")[0] not in FREE_ON_RESUME and old.get(name) != new.get(name)
    ]


def read_config(run: Path) -> RunConfig:
    """The settings of a run folder, with `out` as the folder is called now.

    Raises UserError where the folder has none or they are damaged.
    """
    file = run / CONFIG
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{run} is not a run folder: it has no {CONFIG}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    if not isinstance(values, dict) or "run" not in values:
        raise UserError(f"{file} does not hold the settings of a run")
    return replace(from_dict(RunConfig, values["run"], str(file)), out=run)


class MetricsFile(Listener):
    """Appends one JSON object per logged step and per evaluation to metrics.jsonl."""

    def __init__(self, path: Path, first_step: int) -> None:
        """Lines from `first_step` on belong to steps that will be made again; they are dropped."""
        kept = [line for line in _lines(path) if json.loads(line)["step"] < first_step]
        checkpoint.write_text(path, "".join(f"{line}\n" for line in kept))
        self.file = path.open("a", encoding="utf-8", buffering=1)

    def logged(self, record: StepRecord) -> None:
        """Write one line."""
        values = {"step": record.step.index, "epoch": record.step.epoch, **record.values}
        self.file.write(json.dumps(values) + "\n")

    def closed(self) -> None:
        """Close the file."""
        self.file.close()


def read_metrics(run: Path) -> list[dict[str, float]]:
    """All lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in _lines(run / METRICS)]


def _lines(path: Path) -> list[str]:
    """Whole lines; a last one that was cut off by a kill is left out."""
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8").split("\n")[:-1] if line]


class LogFile(Listener):
    """Keeps what is said in train.log, with the time."""

    def __init__(self, path: Path) -> None:
        self.handler = logging.FileHandler(path, encoding="utf-8")
        self.handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self.logger = logging.getLogger("dinoscope")
        self.logger.addHandler(self.handler)
        self.logger.setLevel(logging.INFO)

    def closed(self) -> None:
        """Let go of the file."""
        self.logger.removeHandler(self.handler)
        self.handler.close()
