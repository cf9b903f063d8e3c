"""On what, with what and when a run was trained: machine.json in its folder, a record for each time it was started."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import platform
import time
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import torch

from dinoscope import __version__, distributed
from dinoscope.config import from_dict, to_dict
from dinoscope.errors import UserError
from dinoscope.files import write_text, writing
from dinoscope.system import commit, machine
from dinoscope.training.listener import Listener
from dinoscope.training.trainer import Trainer

MACHINE = "machine.json"
PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "opencv-python-headless", "safetensors")
"""Whose versions may change what comes out."""


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
            write_text(self.file, json.dumps(values, indent=2) + "\n")


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
