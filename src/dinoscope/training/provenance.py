"""On what, with what and when a run was trained: machine.json in its folder, a record for each time it was started."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import platform
import subprocess
import time
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import torch

import dinoscope
from dinoscope import __version__, checkpoint, distributed
from dinoscope.errors import UserError
from dinoscope.settings import from_dict, to_dict
from dinoscope.timing import machine
from dinoscope.training.listener import Listener
from dinoscope.training.trainer import Trainer
from dinoscope.training.writing import writing

MACHINE = "machine.json"
PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "opencv-python-headless", "safetensors")
"""Whose versions may change what comes out."""
_PATIENCE = 10  # seconds for git, which may stand on a network drive


@dataclass(frozen=True)
class Session:
    """One start of a run, up to its end or a stop.

    started: local time with its offset from UTC (ISO 8601).
    seconds: up to its orderly end; None while it goes on, and where it was killed.
    first_step: 0, or the step that it was resumed at. total_steps, steps_per_epoch: of the whole run.
    device, machine, threads: as `timing.Machine` has them. memory_gib: of the GPU; None elsewhere.
    precision: fp32, bf16 or fp16. processes: how many train together.
    images, classes: readable training images (0 classes: no labels).
    parameters: of the backbone.
    commit: of dinoscope's sources, with -changed where they differ from it; None where it is not known.
    versions: python, dinoscope and `PACKAGES`.
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


@dataclass(frozen=True)
class Provenance:
    """What machine.json holds."""

    sessions: tuple[Session, ...]


class ProvenanceFile(Listener):
    """Adds a record when the run begins or goes on, and its time when it ends."""

    essential = True

    def __init__(self, run: Path, trainer: Trainer) -> None:
        self.file, self.begun = run / MACHINE, time.monotonic()
        self.earlier: tuple[Session, ...] = ()
        with contextlib.suppress(UserError):  # a damaged record is no reason not to train: it begins anew
            self.earlier = read_sessions(run)
        self.session = _session(trainer)
        self._write()

    def closed(self) -> None:
        """Write how long it took."""
        self.session = replace(self.session, seconds=time.monotonic() - self.begun)
        self._write()

    def _write(self) -> None:
        values = to_dict(Provenance((*self.earlier, self.session)))
        with writing(self.file):
            checkpoint.write_text(self.file, json.dumps(values, indent=2) + "\n")


def read_sessions(run: Path) -> tuple[Session, ...]:
    """All starts of a run, the first one first; none for a run from before they were recorded.

    Raises UserError where the file is damaged.
    """
    file = run / MACHINE
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    return from_dict(Provenance, values, str(file)).sessions


def commit() -> str | None:
    """The commit of the sources that run: of the git folder that holds them, else the one that pip installed."""
    folder = Path(dinoscope.__file__).parent
    # A package within somebody's project (a virtual environment) is not of that project's commit.
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return _installed_commit()
    head = _git(folder, "rev-parse", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".")
    return head and head + ("-changed" if changed else "")


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says of a folder, or None where it fails or is not there."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=_PATIENCE, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _installed_commit() -> str | None:
    """The commit that pip noted for a package installed from git (PEP 610)."""
    try:
        noted = json.loads(importlib.metadata.distribution("dinoscope").read_text("direct_url.json") or "{}")
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None
    return noted.get("vcs_info", {}).get("commit_id")


def _session(trainer: Trainer) -> Session:
    device, where = trainer.device, machine(trainer.device)
    backbone = trainer.method.evaluated_backbone
    return Session(
        started=datetime.now().astimezone().isoformat(timespec="seconds"),
        seconds=None,
        first_step=trainer.next_step,
        total_steps=trainer.total,
        steps_per_epoch=trainer.per_epoch,
        device=device.type,
        machine=where.name,
        threads=where.threads,
        memory_gib=_gpu_memory(device),
        system=f"{platform.system()} {platform.release()}, {platform.machine()}",
        precision=trainer.precision,
        processes=distributed.world_size(),
        images=len(trainer.images),
        classes=len(trainer.images.classes),
        parameters=sum(parameter.numel() for parameter in backbone.parameters()),
        commit=commit(),
        versions=_versions(),
    )


def _gpu_memory(device: torch.device) -> float | None:
    """Of an NVIDIA GPU, in GiB."""
    if device.type != "cuda":
        return None
    return torch.cuda.get_device_properties(device).total_memory / 2**30


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "dinoscope": __version__}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
