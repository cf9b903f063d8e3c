"""What a study is going to do, checked before it starts, and how long that may take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from dinoscope.data.sources import ImageFolder, counted
from dinoscope.errors import UserError
from dinoscope.study.state import Standing, standing
from dinoscope.system import pick_device
from dinoscope.training.config import RunConfig, check, total_steps
from dinoscope.training.run_folder import RunFolder
from dinoscope.training.start import begun_images, scanned_images
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
    scanned: dict[tuple[object, ...], ImageFolder] = {}
    fingerprints: dict[tuple[object, ...], str] = {}
    planned: list[PlannedRun] = []
    for config in configs:
        part = config.data, config.fraction, config.scan, config.max_unreadable
        try:
            if part not in scanned:
                scanned[part], _, _ = scanned_images(config, progress)
            images = scanned[part]
            check(config, len(images), 1, len(images.classes), counted(images.passed_over))
        except UserError as error:
            raise UserError(f"run {config.out.name}: {error}") from error
        found = standing(config)
        if found.fingerprint is not None:
            if part not in fingerprints:
                fingerprints[part] = images.fingerprint()
            if found.fingerprint != fingerprints[part]:
                images = _as_begun(config, found.fingerprint)
        planned.append(PlannedRun(config, images, total_steps(config, len(images)), found))
    return planned


def _as_begun(config: RunConfig, fingerprint: str) -> ImageFolder:
    """The images that a run began with: files may have become readable, or have been counted by other rules.

    Raises UserError if they are not there any more.
    """
    images = begun_images(config, RunFolder(config.out), fingerprint)
    if images.fingerprint() == fingerprint:
        return images
    raise UserError(
        f"{config.out} was trained on other images than {config.data} holds now: give the same --data, or another --out"
    )


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
