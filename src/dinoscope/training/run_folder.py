"""The folder that a run leaves behind: settings, metrics, log, checkpoints, exports, evaluations, and who made it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from dinoscope import __version__
from dinoscope.config import flat, from_dict, to_dict
from dinoscope.data.groups import settled
from dinoscope.errors import UserError
from dinoscope.files import GO_ON, locked, write_text, writing
from dinoscope.files import RUN_SETTINGS as CONFIG
from dinoscope.model_names import RANDOM
from dinoscope.models.network import IMAGENET_MEAN, IMAGENET_STD
from dinoscope.models.pretrained.released import CATALOGUE
from dinoscope.system import Machine
from dinoscope.training.config import RunConfig

METRICS, MACHINE = "metrics.jsonl", "machine.json"
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

        Raises UserError if the folder holds something and neither `resume` nor `overwrite` was given, if there is
        nothing to resume, if `overwrite` would delete what is not a run, or if its place is no folder or read-only.
        """
        path = self.path
        if resume:
            if changed := changed_settings(read_config(path), config):
                text = "was begun with other settings and cannot be resumed with these"
                raise UserError(f"{path} {text}: {'; '.join(changed)}")
            return
        nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        if not nearest.is_dir() and nearest != path:
            raise UserError(f"{path} cannot be written: {nearest} is no folder; choose another --out")
        if nearest.is_dir() and not os.access(nearest, os.W_OK | os.X_OK):
            raise UserError(f"{path} cannot be written: {nearest} is read-only; choose another --out")
        # a kill may leave a folder with the half-written settings of a run
        if not path.exists() or (path.is_dir() and all(entry.match(_HALF_WRITTEN) for entry in path.iterdir())):
            return
        is_run = (path / CONFIG).is_file()
        if not overwrite:
            hint = "--resume continues it, --overwrite starts again" if is_run else "choose another --out"
            raise UserError(f"{path} exists already: {hint}")
        if not is_run:
            raise UserError(f"{path} is not a run folder; --overwrite will not delete it: choose another --out")

    @contextlib.contextmanager
    def claimed(self, config: RunConfig, *, resume: bool, overwrite: bool) -> Iterator[None]:
        """Be the only process that writes to the folder.

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

        The settings are what makes a folder a run's. They are written first and, of an old run, deleted last: a folder
        that a kill left in between is taken either for an empty one or for a run without a checkpoint.

        Raises UserError as `check` does, and if the folder cannot be written.
        """
        self.check(config, resume=resume, overwrite=overwrite)
        with writing(self.path, GO_ON if resume else "Nothing was begun: free space, or choose another --out"):
            if not resume:
                self.path.mkdir(parents=True, exist_ok=True)
                for entry in self.path.iterdir():
                    if entry.is_dir() and not entry.is_symlink():
                        shutil.rmtree(entry)
                    elif entry.name != CONFIG:
                        entry.unlink()
                self._write_settings(config)
            self.checkpoints.mkdir(exist_ok=True)

    def has_vanished(self) -> bool:
        """Return whether the folder was moved or deleted. A network drive that does not answer is no sign of that."""
        try:
            (self.path / CONFIG).stat()
        except OSError as error:
            return isinstance(error, FileNotFoundError | NotADirectoryError)
        return False

    def make_again(self, config: RunConfig) -> None:
        """Make the folder again if it has vanished, so that the run can be resumed from a checkpoint in it."""
        if self.has_vanished():
            self.path.mkdir(parents=True, exist_ok=True)
            self._write_settings(config)

    def _write_settings(self, config: RunConfig) -> None:
        values = {"version": __version__, "run": to_dict(portable(config))}
        write_text(self.path / CONFIG, json.dumps(values, indent=2) + "\n")


@contextlib.contextmanager
def run_lock(run: Path, busy: Callable[[], object]) -> Iterator[None]:
    """Hold the lock of a run folder, which need not exist yet; see `locked`.

    The lock is next to the folder, because a study moves a run away that cannot be resumed. Links to a folder share it.
    """
    folder, lock = run.resolve(), _lock_file(run)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(lock, busy):
        try:
            yield
        finally:
            if not folder.exists():  # a mistake, found before anything began, leaves nothing
                with contextlib.suppress(OSError):
                    lock.unlink()


def _lock_file(run: Path) -> Path:
    folder = run.resolve()
    return folder.with_name(f".{folder.name}.lock")


def is_in_training(run: Path) -> bool:
    """Return whether a process holds the lock of a run folder, without waiting; False if that cannot be found out."""
    from filelock import FileLock, Timeout  # not needed to print help

    lock = _lock_file(run)
    try:
        if lock.is_file():
            with FileLock(lock, blocking=False, fallback_to_soft=False, preserve_lock_file=True):
                return False
    except Timeout:
        return True
    except OSError:
        return False
    return False


FREE_ON_RESUME = {
    *("out", "data", "scan", "max_unreadable", "max_megapixels", "saving", "workers", "device", "log_every"),
    *("evaluate_every", "accumulate", "compile", "sharding"),
}
"""What may differ between a run and its resumption: it does not decide the result (data: the place, not the files).

`accumulate` does with batch norm; memory may leave no choice, so the loop warns."""


def changed_settings(saved: RunConfig, wanted: RunConfig) -> list[str]:
    """Return settings that decide the result and differ, as "name: saved -> wanted".

    A grey range that is not given is the one that was found then, and so are slices, the normalisation and what the
    method finds.
    """
    if wanted.window is None:
        wanted = replace(wanted, window=saved.window)
    if wanted.slices in (None, saved.slices or 1):
        wanted = replace(wanted, slices=saved.slices)
    is_default = (wanted.mean, wanted.std) == (IMAGENET_MEAN, IMAGENET_STD)
    is_open = wanted.is_normalisation_open or len(wanted.mean) == 3 != len(saved.mean)
    is_measured = saved.window is not None or (saved.slices or 1) > 1
    if is_open or (is_default and is_measured):
        wanted = replace(wanted, mean=saved.mean, std=saved.std)
    found = {name: getattr(saved.method, name, "") for name in wanted.method.found if not getattr(wanted.method, name)}
    wanted = replace(wanted, method=replace(cast(Any, wanted.method), **found)) if found else wanted
    old, new = (flat(to_dict(portable(config))) for config in (saved, wanted))
    return [
        f"{name}: {old.get(name)} -> {new.get(name)}"
        for name in sorted(old.keys() | new.keys())
        if name.split(".")[0] not in FREE_ON_RESUME and old.get(name) != new.get(name)
    ]


def portable(config: RunConfig) -> RunConfig:
    """Return the settings with absolute paths to images and initial model, so that they hold in any folder.

    Groups from headers get the name of their key.
    """
    init = config.init
    if init is not None and init not in CATALOGUE and not init.startswith(RANDOM):
        init = str(Path(init).absolute())
    data, group, method = config.data.absolute(), settled(config.group), config.method.portable()
    return replace(config, data=data, group=group, init=init, method=method)


def read_config(run: Path) -> RunConfig:
    """Return the settings of a run folder, with `out` as the folder is called now.

    Raises UserError if the folder has none or they are damaged.
    """
    file = run / CONFIG
    if (values := _read_json(file)) is None:
        raise UserError(f"{run} is not a run folder: it has no {CONFIG}")
    if not isinstance(values, dict) or "run" not in values:
        raise UserError(f"{file} does not hold the settings of a run")
    return replace(from_dict(RunConfig, values["run"], str(file)), out=run)


def read_metrics(run: Path) -> list[dict[str, float]]:
    """Return all lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in whole_lines(run / METRICS)]


def whole_lines(path: Path) -> list[str]:
    """Return the lines of a file without a last one that a kill cut off; none if there is no file."""
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8").split("\n")[:-1] if line]


@dataclass(frozen=True)
class Session:
    """One start of a run, up to its end or a stop.

    started: local time with its offset from UTC (ISO 8601).
    seconds: up to its orderly end; None while it runs, and if it was killed.
    first_step: 0, or the step that it was resumed at. total_steps, steps_per_epoch: of the whole run.
    device, machine, threads: as `system.Machine` has them. memory_gib: of the GPU; None for other devices.
    precision: fp32, bf16 or fp16. processes: how many train together.
    images, classes: readable training images (0 classes: no labels).
    parameters: of the backbone.
    commit: of dinoscope's sources, with -changed if they differ from it; None if it is not known.
    versions: of python, dinoscope and the packages that may change what comes out.
    peak_memory: bytes, of the main process; None if it is not known. memory: what that figure is, or why it is missing.
    """

    started: str
    seconds: float | None
    first_step: int
    total_steps: int
    steps_per_epoch: int
    device: str
    machine: str
    threads: int
    memory_gib: float | None
    system: str
    precision: str
    processes: int
    images: int
    classes: int
    parameters: int
    commit: str | None
    versions: dict[str, str]
    peak_memory: int | None = None
    memory: str = ""


@dataclass(frozen=True)
class Provenance:
    """The content of machine.json."""

    sessions: tuple[Session, ...]


def read_sessions(run: Path) -> tuple[Session, ...]:
    """Return all starts of a run, in order; none for a run from before they were recorded.

    Raises UserError if the file is damaged.
    """
    values = _read_json(run / MACHINE)
    return () if values is None else from_dict(Provenance, values, str(run / MACHINE)).sessions


@dataclass(frozen=True)
class Circumstances:
    """What made a run; several versions or machines if it was resumed with other code or elsewhere.

    code: versions in words. machines: in words.
    peak_memory: bytes, the largest of its sessions; None if it is not known. memory: what that figure is.
    """

    code: tuple[str, ...] = ()
    machines: tuple[str, ...] = ()
    peak_memory: int | None = None
    memory: str = ""


def read_circumstances(run: Path) -> Circumstances:
    """Return code, machines and memory of all sessions of a run.

    Version 0.1 kept those of the runs of an ablation in circumstances.json, and no memory in machine.json.
    Raises UserError if a file is damaged.
    """
    file, sessions, known = run / "circumstances.json", read_sessions(run), Circumstances()
    if (earlier := _read_json(file)) is not None:
        known = from_dict(Circumstances, earlier, str(file))
        sessions = tuple(session for session in sessions if session.memory)
    code, machines = list(known.code), list(known.machines)
    for session in sessions:
        version, commit = session.versions.get("dinoscope", ""), session.commit or ""
        changed = " with changes" if commit.endswith("-changed") else ""
        code.append(f"{version}, commit {commit.removesuffix('-changed')[:12]}{changed}" if commit else version)
        torch = session.versions.get("torch", "")
        machines.append(Machine(session.device, session.machine, session.threads, torch).line())
        if session.peak_memory is not None and session.peak_memory > (known.peak_memory or 0):
            known = replace(known, peak_memory=session.peak_memory, memory=session.memory)
    return replace(known, code=tuple(dict.fromkeys(code)), machines=tuple(dict.fromkeys(machines)))


def _read_json(file: Path) -> Any:
    """Return what a JSON file holds, or None if it does not exist."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
