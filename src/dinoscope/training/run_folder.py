"""The folder that a run leaves behind: settings, metrics, log, checkpoints, exports, evaluations."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from dinoscope import __version__
from dinoscope.config import flat, from_dict, to_dict
from dinoscope.errors import UserError
from dinoscope.files import GO_ON, locked, unwritable, write_text, writing
from dinoscope.model_names import RANDOM
from dinoscope.models.pretrained.released import CATALOGUE
from dinoscope.text import PrintableFormatter
from dinoscope.training.config import RunConfig
from dinoscope.training.listener import Listener, StepRecord

CONFIG = "config.json"
METRICS = "metrics.jsonl"
_HALF_WRITTEN = f".{CONFIG}.partial-*"
"""What `files.replacing` works in until the settings are whole."""


class RunFolder:
    """Paths of a run, and the rules about existing ones."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.exported = path / "exported"
        self.metrics = path / METRICS
        self.log = path / "train.log"
        self.tensorboard = path / "tensorboard"
        self.unreadable = path / "unreadable.json"

    def check(self, config: RunConfig, *, resume: bool, overwrite: bool) -> None:
        """Refuse a folder that the run cannot be written to; nothing is changed.

        Raises UserError where the folder holds something and neither `resume` nor `overwrite` was given, where
        there is nothing to resume, where `overwrite` would delete what is not a run, or where its place is no folder
        or read-only.
        """
        if resume:
            self._check_same_settings(config)
            return
        nearest = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())
        if not nearest.is_dir() and nearest != self.path:
            raise UserError(f"{self.path} cannot be written: {nearest} is no folder; choose another --out")
        if nearest.is_dir() and not os.access(nearest, os.W_OK | os.X_OK):
            raise UserError(f"{self.path} cannot be written: {nearest} is read-only; choose another --out")
        if self._vacant():
            return
        is_run = (self.path / CONFIG).is_file()
        if not overwrite:
            hint = "--resume goes on with it, --overwrite starts again" if is_run else "choose another --out"
            raise UserError(f"{self.path} exists already: {hint}")
        if not is_run:
            raise UserError(f"{self.path} is not a run folder; --overwrite will not delete it: choose another --out")

    @contextlib.contextmanager
    def claimed(self, config: RunConfig, *, resume: bool, overwrite: bool) -> Iterator[None]:
        """Be the only process that writes to the folder, and refuse it as `check` does.

        Raises UserError as `check` does, and if another process holds it.
        """
        self.check(config, resume=resume, overwrite=overwrite)

        def busy() -> None:
            raise UserError(
                f"another process is training in {self.path}: wait until it ends or stop it, or choose another --out"
            )

        with run_lock(self.path, busy):
            yield

    def prepare(self, config: RunConfig, *, resume: bool, overwrite: bool) -> None:
        """Create the folder, empty one that is to be overwritten, or enter one that is to be resumed.

        The settings are what makes a folder a run's. They come first and, of an old run, leave last: a folder that
        a kill left in between is either taken for an empty one or for a run without a checkpoint.

        Raises UserError as `check` does, and where the folder cannot be written.
        """
        self.check(config, resume=resume, overwrite=overwrite)
        with writing(self.path, GO_ON if resume else "Nothing was begun: free space, or choose another --out"):
            if not resume:
                self.path.mkdir(parents=True, exist_ok=True)
                self._clear()
                self._write_settings(config)
            self.checkpoints.mkdir(exist_ok=True)

    def has_vanished(self) -> bool:
        """Whether the folder was moved or deleted. A network drive that does not answer is no sign of that."""
        try:
            (self.path / CONFIG).stat()
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False
        return False

    def make_again(self, config: RunConfig) -> None:
        """Make the folder anew if it has vanished, so that the run can be resumed from a checkpoint in it."""
        if self.has_vanished():
            self.path.mkdir(parents=True, exist_ok=True)
            self._write_settings(config)

    def _write_settings(self, config: RunConfig) -> None:
        values = {"version": __version__, "run": to_dict(portable(config))}
        write_text(self.path / CONFIG, json.dumps(values, indent=2) + "\n")

    def _vacant(self) -> bool:
        """Whether nothing is there but what a kill may leave of a run that was about to be created."""
        if not self.path.exists():
            return True
        return self.path.is_dir() and all(path.match(_HALF_WRITTEN) for path in self.path.iterdir())

    def _clear(self) -> None:
        """Delete everything but the settings."""
        for path in self.path.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != CONFIG:
                path.unlink()

    def _check_same_settings(self, config: RunConfig) -> None:
        saved = read_config(self.path)
        changed = changed_settings(saved, config)
        if changed:
            raise UserError(
                f"{self.path} was begun with other settings and cannot be resumed with these: {'; '.join(changed)}"
            )


@contextlib.contextmanager
def run_lock(run: Path, busy: Callable[[], object]) -> Iterator[None]:
    """Hold the lock of a run folder, which need not exist yet; see `locked`.

    The lock is next to the folder, because a study moves a run away that cannot be resumed. Links to a folder share it.
    """
    folder = run.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = folder.with_name(f".{folder.name}.lock")
    with locked(lock, busy):
        try:
            yield
        finally:
            if not folder.exists():  # a mistake, found before anything began, leaves nothing
                with contextlib.suppress(OSError):
                    lock.unlink()


FREE_ON_RESUME = {
    *("out", "data", "scan", "max_unreadable", "saving", "workers", "device", "log_every", "evaluate_every"),
    "accumulate",
}
"""What may differ between a run and its resumption: it does not decide the result (data: the place, not the files).

`accumulate` does where there is batch norm; memory may leave no choice, so `accumulate.cut_differently` warns."""


def changed_settings(saved: RunConfig, wanted: RunConfig) -> list[str]:
    """Settings that decide the result and differ, as "name: saved -> wanted".

    A grey range that is not wanted in particular is the one that was found then.
    """
    if wanted.window is None:
        wanted = replace(wanted, window=saved.window)
    old, new = (flat(to_dict(portable(config))) for config in (saved, wanted))
    return [
        f"{name}: {old.get(name)} -> {new.get(name)}"
        for name in sorted(old.keys() | new.keys())
        if name.split(".")[0] not in FREE_ON_RESUME and old.get(name) != new.get(name)
    ]


def portable(config: RunConfig) -> RunConfig:
    """The settings with absolute paths to the images and to the initial model, so that they hold in any folder."""
    init = config.init
    if init is not None and init not in CATALOGUE and not init.startswith(RANDOM):
        init = str(Path(init).absolute())
    return replace(config, data=config.data.absolute(), init=init)


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

    essential = True

    def __init__(self, path: Path, first_step: int) -> None:
        """Lines from `first_step` on belong to steps that will be made again; they are dropped."""
        self.path = path
        try:
            kept = [line for line in _lines(path) if json.loads(line)["step"] < first_step]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged: a line of it is no record of a step; mend or delete it") from error
        with writing(path):
            write_text(path, "".join(f"{line}\n" for line in kept))
            self.file = path.open("a", encoding="utf-8", buffering=1)

    def logged(self, record: StepRecord) -> None:
        """Write one line."""
        values = {"step": record.step.index, "epoch": record.step.epoch, **record.values}
        with writing(self.path):
            self.file.write(json.dumps(values) + "\n")

    def closed(self) -> None:
        """Close the file."""
        with writing(self.path):
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

    essential = True

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing(path):
            self.handler = _LogHandler(path, encoding="utf-8")
        self.handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(message)s"))
        self.logger = logging.getLogger("dinoscope")
        self.logger.addHandler(self.handler)
        self.logger.setLevel(logging.INFO)

    def logged(self, record: StepRecord) -> None:
        """End the run where a line could not be written: only now, since a warning must not raise where it is given."""
        if self.handler.failure is not None:
            raise unwritable(self.path, self.handler.failure)

    def closed(self) -> None:
        """Let go of the file."""
        self.logger.removeHandler(self.handler)
        with writing(self.path):
            self.handler.close()


class _LogHandler(logging.FileHandler):
    """Remembers that a line could not be written, where logging would print a traceback."""

    failure: OSError | None = None

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exception()
        if isinstance(error, OSError):
            self.failure = error
        else:
            super().handleError(record)
