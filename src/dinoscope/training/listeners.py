"""What the loop reports to the world, and the listeners that keep a run's own records."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import os
import platform
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from dinoscope import __version__, distributed
from dinoscope.config import to_dict
from dinoscope.data.sources import ImageSource
from dinoscope.errors import UserError
from dinoscope.files import unwritable, write_text, writing
from dinoscope.methods.health import Verdict
from dinoscope.methods.method import Method
from dinoscope.models.backbone import Backbone
from dinoscope.system import MemoryWatch, commit, machine
from dinoscope.text import PrintableFormatter
from dinoscope.training.config import RunConfig
from dinoscope.training.run_folder import MACHINE, Provenance, Session, read_sessions, whole_lines
from dinoscope.training.trainer import Trainer
from dinoscope.types import Step

logger = logging.getLogger("dinoscope")

T = TypeVar("T")


@dataclass(frozen=True)
class RunStart:
    """A run that begins or continues: its settings, the first step to come, and facts worth a line.

    backbone: the one that is evaluated, as it is before that step, in evaluation mode while the listeners are told.
    """

    config: RunConfig
    step: Step
    images: int
    parameters: int
    facts: Mapping[str, str]
    backbone: Backbone


@dataclass(frozen=True)
class Observation:
    """Named scalars, and pictures (uint8 [height, width, 3]), that a listener measured."""

    values: Mapping[str, float] = field(default_factory=dict[str, float])
    pictures: Mapping[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])


@dataclass(frozen=True)
class StepRecord:
    """Scalars (loss, learning rate, entropy, images/s…) and pictures that belong to one optimiser step."""

    step: Step
    values: Mapping[str, float]
    pictures: Mapping[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])


class Listener:
    """Receives the events of a run; every method is optional. Only the main process has listeners.

    essential: whether the run ends if this fails, because it keeps the run's own records; see `each`.
    """

    essential = False
    faults: frozenset[str] = frozenset()
    """Its failures so far, each once."""

    def started(self, start: RunStart) -> None:
        """The run begins or continues."""

    def scanned(self, done: int, total: int) -> None:
        """So many of the image files were checked, before the run begins; (0, 0): they are being listed."""

    def tried(self, seconds: float, limit: float) -> None:
        """A trial makes steps, before the run begins, to choose its length: so many seconds of about so many."""

    def evaluated(self, config: RunConfig, images: ImageSource) -> int:
        """Return how many images `evaluate` will show to the network, to foresee its time. images: of the training."""
        return 0

    def stepped(self, record: StepRecord) -> None:
        """An optimiser step was made."""

    def diagnosed(self, step: Step, verdict: Verdict) -> None:
        """The method has collapsed or stands still: called once for each kind, after `stepped`."""

    def evaluate(self, step: Step, method: Method) -> Observation:
        """An evaluation is due, with the networks in evaluation mode; what is returned is logged."""
        return Observation()

    def logged(self, record: StepRecord) -> None:
        """Scalars to keep: of every so many steps, and of every evaluation."""

    def said(self, message: str) -> None:
        """Something that the person should read."""

    def closed(self) -> None:
        """The run ended, was stopped or failed."""


def each(listeners: Sequence[Listener], call: Callable[[Listener], T]) -> list[T]:
    """Call every listener, and return their answers. A failure is logged and does not end the run.

    The same failure is logged once, since it may come with every step. An essential listener's is raised.
    """
    answers: list[T] = []
    for listener in listeners:
        try:
            answers.append(call(listener))
        except Exception as error:
            fault = f"{type(listener).__name__} failed, and the run continues: {type(error).__name__}: {error}"
            is_new = fault not in listener.faults
            listener.faults |= {fault}
            if listener.essential:
                raise
            if is_new:
                logger.warning("%s", fault, exc_info=error)
    return answers


@contextlib.contextmanager
def closing(listeners: Sequence[Listener]) -> Iterator[None]:
    """Close every listener, also those added meanwhile, however the block ends and whatever another one raises.

    Raises the first error of the essential ones that could not be closed; others are logged. If the block has failed,
    that is what is raised, and theirs are noted on it.
    """

    def close() -> list[Exception]:
        faults: list[Exception] = []
        for listener in listeners:
            try:
                each([listener], lambda listener: listener.closed())
            except Exception as error:  # whatever it is, the others must be closed
                faults.append(error)
        return faults

    try:
        yield
    except BaseException as error:
        for fault in close():
            error.add_note(f"and while closing: {fault}")
        raise
    for fault in close()[:1]:
        raise fault


class MetricsFile(Listener):
    """Appends one JSON object per logged step and per evaluation to metrics.jsonl."""

    essential = True

    def __init__(self, path: Path, first_step: int) -> None:
        """Drop lines from `first_step` on: those steps will be made again."""
        self.path = path
        try:
            kept = [line for line in whole_lines(path) if json.loads(line)["step"] < first_step]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged: a line of it is no record of a step; fix or delete it") from error
        with writing(path):
            write_text(path, "".join(f"{line}\n" for line in kept))
            self.file = path.open("a", encoding="utf-8", buffering=1)

    def logged(self, record: StepRecord) -> None:
        values = {"step": record.step.index, "epoch": record.step.epoch, **record.values}
        with writing(self.path):
            self.file.write(json.dumps(values) + "\n")

    def closed(self) -> None:
        with writing(self.path):
            self.file.close()


class LogFile(Listener):
    """Writes log messages to train.log, with the time."""

    essential = True

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing(path):
            self.handler = _LogHandler(path, encoding="utf-8")
        self.handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(self.handler)
        logger.setLevel(logging.INFO)

    def logged(self, record: StepRecord) -> None:
        """End the run if a line could not be written: only now, since giving a warning must not raise."""
        if self.handler.failure is not None:
            raise unwritable(self.path, self.handler.failure)

    def closed(self) -> None:
        logger.removeHandler(self.handler)
        with writing(self.path):
            self.handler.close()


class _LogHandler(logging.FileHandler):
    """Remembers that a line could not be written, instead of printing a traceback."""

    failure: OSError | None = None

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exception()
        if isinstance(error, OSError):
            self.failure = error
        else:
            super().handleError(record)


class TensorBoard(Listener):
    """Writes every logged scalar and picture to an event file, at once.

    Torch's SummaryWriter writes in a thread: on a full disk that thread prints a traceback, and the run learns of it at
    some later step or never. So the records are written here, by TensorBoard's own encoder.
    """

    essential = True

    def __init__(self, folder: Path, first_step: int) -> None:
        """Make TensorBoard drop `first_step` and later ones of earlier event files: those are made again."""
        # a second's import, only for training
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        # the name that TensorBoard looks for; files are read in the order of their names
        self.path = folder / f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        protocol: Any = event_pb2  # protobuf makes the classes at import
        self.event, log = protocol.Event, protocol.SessionLog
        with writing(self.path):
            folder.mkdir(exist_ok=True)
            self.records = RecordWriter(self.path.open("ab"))
            self._add(0, file_version="brain.Event:2")
            self._add(first_step, session_log=log(status=log.START))
            self.records.flush()

    def logged(self, record: StepRecord) -> None:
        from torch.utils.tensorboard.summary import image, scalar

        with writing(self.path):
            for name, value in record.values.items():
                self._add(record.step.index, summary=scalar(name, value))
            for name, picture in record.pictures.items():
                self._add(record.step.index, summary=image(name, picture, dataformats="HWC"))
            self.records.flush()

    def closed(self) -> None:
        with writing(self.path):
            self.records.close()

    def _add(self, step: int, **content: object) -> None:
        event = self.event(wall_time=time.time(), step=step, **content)
        self.records.write(event.SerializeToString())


_PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "opencv-python-headless", "safetensors")


class MachineFile(Listener):
    """Adds a record to machine.json when the run begins or continues, and its time and memory when it ends.

    memory: made before the run took memory.
    """

    essential = True

    def __init__(self, run: Path, trainer: Trainer, memory: MemoryWatch) -> None:
        self.file, self.memory, self.begun = run / MACHINE, memory, time.monotonic()
        self.earlier: tuple[Session, ...] = ()
        with contextlib.suppress(UserError):  # a damaged record is no reason not to train: a new one is begun
            self.earlier = read_sessions(run)
        device, where = trainer.device, machine(trainer.device)
        versions = {"python": platform.python_version(), "dinoscope": __version__}
        for package in _PACKAGES:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                versions[package] = importlib.metadata.version(package)
        self.session = Session(
            started=datetime.now().astimezone().isoformat(timespec="seconds"),
            seconds=None,
            first_step=trainer.next_step,
            total_steps=trainer.total,
            steps_per_epoch=trainer.per_epoch,
            device=device.type,
            machine=where.name,
            threads=where.threads,
            memory_gib=torch.cuda.get_device_properties(device).total_memory / 2**30 if device.type == "cuda" else None,
            system=f"{platform.system()} {platform.release()}, {platform.machine()}",
            precision=trainer.precision,
            processes=distributed.world_size(),
            images=len(trainer.images),
            classes=len(trainer.images.classes),
            parameters=sum(parameter.numel() for parameter in trainer.method.evaluated_backbone.parameters()),
            commit=commit(),
            versions=versions,
        )
        self._write()

    def closed(self) -> None:
        memory, seconds = self.memory.read(), time.monotonic() - self.begun
        self.session = replace(self.session, seconds=seconds, peak_memory=memory.peak, memory=memory.meaning)
        self._write()

    def _write(self) -> None:
        values = to_dict(Provenance((*self.earlier, self.session)))
        with writing(self.file):
            write_text(self.file, json.dumps(values, indent=2) + "\n")
