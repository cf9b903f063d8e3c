"""How many images a second a method trains on, and how much memory that takes.

Whole optimiser steps: views from host memory to the device, forward, loss, backward, clipping, update, and
what the method moves (teacher, queue, prototypes).
Making the views is left out; `waiting_for_data` in a run's metrics says whether that would hold training up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from dinoscope.data.sources import ImageFolder
from dinoscope.errors import UserError
from dinoscope.methods import method_name
from dinoscope.system import WARM_UP_CALLS, Machine, MemoryWatch, machine, time_calls
from dinoscope.training.config import RunConfig, check
from dinoscope.training.trainer import Trainer
from dinoscope.types import Metric, Views

_CLASSES = 10  # of the made-up labels
_LEAST_STEPS = 1000  # of the made-up run; the steps that are made stand in its middle, where nothing is frozen


@dataclass(frozen=True)
class TrainingThroughputProtocol:
    """The circumstances.

    views: number and size of the views, as "2 x 224 + 8 x 96".
    memory: what the figure of memory is, or why there is none.
    """

    method: str
    backbone: str
    views: str
    batch_size: int
    accumulate: int
    precision: str
    repeats: int
    steps_per_repeat: int
    warm_up_steps: int
    memory: str
    machine: Machine

    def line(self) -> str:
        """In one line for a person."""
        return (
            f"training {self.backbone} with {self.method}, {self.views} px, batch {self.batch_size}, "
            f"{self.precision}, median of {self.repeats} repeats; {self.machine.line()}; "
            f"memory: {self.memory}"
        )


def training_throughput(
    config: RunConfig, device: torch.device, repeats: int = 5, progress: Callable[[int, int], None] | None = None
) -> tuple[tuple[Metric, ...], TrainingThroughputProtocol]:
    """Measure optimiser steps of a run's settings on made-up views; no image is read, nothing is written.

    Returns `training_images_per_second` (images, not views; median; `_slowest` and `_fastest` next to it) and
    `training_peak_memory` (MiB) where it can be known.

    Raises UserError if the settings contradict each other, or `repeats` is below 1.
    """
    if repeats < 1:
        raise UserError(f"--repeats must be at least 1, not {repeats}")
    if config.threads:
        torch.set_num_threads(config.threads)
    config = replace(config, epochs=max(config.epochs, 1))
    images = _unread_images(config.batch_size, math.ceil(_LEAST_STEPS / config.epochs))
    check(config, len(images), processes=1, classes=_CLASSES)
    watch = MemoryWatch(device)
    trainer = Trainer(config, images, device)
    views = made_up_views(config)
    middle = trainer.total // 2

    def step() -> None:
        trainer.next_step = middle  # always the same step, however many are made
        trainer.make_step(views)

    timing, memory = time_calls(step, device, repeats, progress), watch.read()
    protocol = TrainingThroughputProtocol(
        method=method_name(config.method),
        backbone=config.backbone,
        views=describe_views(config),
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        precision=trainer.precision,
        repeats=repeats,
        steps_per_repeat=timing.calls,
        warm_up_steps=WARM_UP_CALLS,
        memory=memory.meaning,
        machine=machine(device),
    )
    metrics = timing.metrics("training_images_per_second", config.batch_size)
    return (*metrics, *memory.metrics("training_peak_memory")), protocol


def made_up_views(config: RunConfig) -> Views:
    """Random views of one batch, in the number and sizes of the settings, with labels."""
    generator = torch.Generator().manual_seed(0)

    def pixels(count: int, size: int) -> Tensor:
        shape = (count, config.batch_size, 3, size, size)
        return torch.randint(256, shape, dtype=torch.uint8, generator=generator)

    views, index = config.views, torch.arange(config.batch_size)
    return Views(
        pixels(views.num_global, views.global_size),
        pixels(views.num_local, views.local_size) if views.num_local else None,
        index,
        index % _CLASSES,
    )


def describe_views(config: RunConfig) -> str:
    """Number and size in pixels of the views: "2 x 224 + 8 x 96"."""
    views = config.views
    local = f" + {views.num_local} x {views.local_size}" if views.num_local else ""
    return f"{views.num_global} x {views.global_size}{local}"


def _unread_images(batch_size: int, steps: int) -> ImageFolder:
    """Names of images that do not exist, labelled, enough for so many steps an epoch."""
    count = batch_size * steps
    labels = tuple(number % _CLASSES for number in range(count))
    return ImageFolder(Path("made-up-images"), tuple(map(str, range(count))), labels, tuple(map(str, range(_CLASSES))))
