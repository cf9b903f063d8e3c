"""What a study is going to do, checked before it starts, and how long that may take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dinoscope.data.folder import ImageFolder
from dinoscope.errors import UserError
from dinoscope.study.state import Standing, standing
from dinoscope.training.config import RunConfig, check, total_steps
from dinoscope.training.device import pick_device
from dinoscope.training.images import scanned_images, trained_on
from dinoscope.training.trainer import Trainer

PROBE_STEPS = 3
"""Optimiser steps that are timed, after a first one that warms up."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PlannedRun:
    """A run that can be started: its training images, its optimiser steps in all, and where it stands."""

    config: RunConfig
    images: ImageFolder
    steps: int
    standing: Standing

    @property
    def steps_left(self) -> int:
        """Optimiser steps still to be made."""
        return 0 if self.standing.state == "finished" else self.steps - self.standing.steps


def plan(configs: Sequence[RunConfig], progress: Progress = lambda done, total: None) -> list[PlannedRun]:
    """Check every run against its images, its labels and its folder, so that nothing fails for that after hours.

    progress: told of the check of the image files (done, total).
    Raises UserError naming the run and what is wrong with it.
    """
    scanned: dict[Path, tuple[ImageFolder, set[str]]] = {}
    fingerprints: dict[tuple[Path, float], str] = {}
    planned: list[PlannedRun] = []
    for config in configs:
        if config.data not in scanned:
            folder, report = scanned_images(config, progress)
            scanned[config.data] = folder, {fault.path for fault in report.unreadable}
        try:
            images = trained_on(config, *scanned[config.data])
            check(config, len(images), processes=1, classes=len(images.classes))
        except UserError as error:
            raise UserError(f"run {config.out.name}: {error}") from error
        found = standing(config)
        if found.fingerprint is not None:
            part = config.data, config.fraction
            fingerprint = fingerprints.setdefault(part, "") or images.fingerprint()
            fingerprints[part] = fingerprint
            if found.fingerprint != fingerprint:
                raise UserError(
                    f"{config.out} was trained on other images than {images.root} holds now: give the same --data, "
                    "or another --out"
                )
        planned.append(PlannedRun(config, images, total_steps(config, len(images)), found))
    return planned


def seconds_per_step(run: PlannedRun, steps: int = PROBE_STEPS) -> float:
    """Time a few real optimiser steps of this run in this process; nothing is written.

    Views are made, and waited for, as in training. Evaluations and start-up are not in it.
    """
    config = run.config
    per_epoch = len(run.images) // config.batch_size
    longer = replace(config, epochs=max(config.epochs, math.ceil((steps + 1) / per_epoch)))
    device, threads = pick_device(config.device), torch.get_num_threads()
    if config.threads:
        torch.set_num_threads(config.threads)
    try:
        trainer = Trainer(longer, run.images, device)
        batches = trainer.batches()
        trainer.make_step(next(batches))
        begin = time.perf_counter()
        for _ in range(steps):
            trainer.make_step(next(batches))  # its loss goes to the CPU: on a GPU, the clock sees finished work
        return (time.perf_counter() - begin) / steps
    finally:
        torch.set_num_threads(threads)
