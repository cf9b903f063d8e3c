"""What the loop tells the world, and the world's side of it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from dinoscope.methods.health import Verdict
from dinoscope.methods.method import Method
from dinoscope.models.backbone import Backbone
from dinoscope.training.config import RunConfig
from dinoscope.types import Step

logger = logging.getLogger("dinoscope")

T = TypeVar("T")


@dataclass(frozen=True)
class RunStart:
    """A run that begins or goes on: its settings, the first step to come, and facts worth a line.

    backbone: the one that is evaluated, as it is before that step, in evaluation mode while the listeners hear of it.
    """

    config: RunConfig
    step: Step
    images: int
    parameters: int
    facts: Mapping[str, str]
    backbone: Backbone


@dataclass(frozen=True)
class Evaluation:
    """What a listener measured: named scalars, and pictures, uint8 [height, width, 3]."""

    values: Mapping[str, float] = field(default_factory=dict[str, float])
    pictures: Mapping[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])


@dataclass(frozen=True)
class StepRecord:
    """Scalars (loss, learning rate, entropy, images/s…) and pictures that belong to one optimiser step."""

    step: Step
    values: Mapping[str, float]
    pictures: Mapping[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])


class Listener:
    """Hears of a run; every method may be left as it is. Only the main process has listeners.

    essential: whether the run ends if this fails, because it keeps the run's own records; see `each`.
    """

    essential = False
    faults: frozenset[str] = frozenset()
    """What it failed with, each once."""

    def started(self, start: RunStart) -> None:
        """The run begins or goes on."""

    def scanned(self, done: int, total: int) -> None:
        """So many of the image files were checked, before the run begins; (0, 0): they are being listed."""

    def stepped(self, record: StepRecord) -> None:
        """An optimiser step was made."""

    def diagnosed(self, step: Step, verdict: Verdict) -> None:
        """The method has collapsed or stands still; told once for each kind, after `stepped`."""

    def evaluate(self, step: Step, method: Method) -> Evaluation:
        """An evaluation is due, with the networks in evaluation mode; what is returned is logged."""
        return Evaluation()

    def logged(self, record: StepRecord) -> None:
        """Scalars to keep: of every so many steps, and of every evaluation."""

    def said(self, message: str) -> None:
        """Something that the person should read."""

    def closed(self) -> None:
        """The run ended, was stopped or failed."""


def each(listeners: Sequence[Listener], call: Callable[[Listener], T]) -> list[T]:
    """Call every listener, and return what they answer. One that fails is logged, and neither ends the run.

    The same failure is logged once, for it may come with every step. An essential listener's is raised.
    """
    answers: list[T] = []
    for listener in listeners:
        try:
            answers.append(call(listener))
        except Exception as error:
            fault = f"{type(listener).__name__} failed, and the run goes on: {type(error).__name__}: {error}"
            known, listener.faults = listener.faults, listener.faults | {fault}
            if listener.essential:
                raise
            if fault not in known:
                logger.warning("%s", fault, exc_info=error)
    return answers


@contextlib.contextmanager
def closing(listeners: Sequence[Listener]) -> Iterator[None]:
    """Close every listener, those that came meanwhile too, however the block ends and whatever another one raises.

    Raises the first error of the essential ones that could not be closed; others are logged. Where the block has failed
    before, that is what is raised, and theirs are noted on it.
    """
    try:
        yield
    except BaseException as error:
        for fault in _close(listeners):
            error.add_note(f"and while closing: {fault}")
        raise
    if faults := _close(listeners):
        raise faults[0]


def _close(listeners: Sequence[Listener]) -> list[Exception]:
    faults: list[Exception] = []
    for listener in listeners:
        try:
            each([listener], lambda listener: listener.closed())
        except Exception as error:  # whatever it is, the others must be closed
            faults.append(error)
    return faults
