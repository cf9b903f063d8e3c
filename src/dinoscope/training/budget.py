"""`--minutes`: how many epochs fit into a time, from a trial of real steps before the run.

The trial makes steps on the run's own batches, from the loader on, and everything that it takes counts as part of the
time. Its networks are thrown away: the run is the one that `--epochs` with the chosen number would be, bit for bit.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dinoscope import distributed
from dinoscope.config import changed, leaves
from dinoscope.data.sources import ImageSource, first_to_last
from dinoscope.errors import UserError
from dinoscope.features import ExtractConfig, extract
from dinoscope.training.config import RunConfig, check, total_steps, with_epochs
from dinoscope.training.listeners import Listener, each
from dinoscope.training.trainer import Trainer

OPEN_END = 1e6
"""Epochs of a run whose length is not known yet."""

TRIAL_SHARE, MIN_TRIAL, MAX_TRIAL = 0.1, 2.0, 60.0
"""Length of the trial: a share of the time, within these seconds. Half of it warms up, the other half is timed."""

MIN_TRIED = 2
"""Steps of each half, however long they take."""

MIN_STEPS = 10
"""Steps of the shortest run."""

EVALUATION_SHARE = 0.05
"""What an evaluation may take of the steps since the one before, unless the person sets `evaluate_every`."""

MAX_EVALUATED = 64
"""Images whose evaluation is timed."""

now: Callable[[], float] = time.monotonic


@dataclass(frozen=True)
class Budget:
    """The time that a person gives to a run.

    minutes: from `began` to the end of the run, whose last steps are the last of its schedules.
    given: dotted names of the settings that the person set: they are not fitted to the length.
    began: when the time began to run, on the clock `now`.
    """

    minutes: float
    given: Collection[str] = ()
    began: float = 0.0

    def __post_init__(self) -> None:
        if not (self.minutes > 0 and math.isfinite(self.minutes)):
            raise UserError(f"--minutes must be above 0, not {self.minutes:g}")
        if "epochs" in self.given:
            raise UserError("--minutes and --epochs exclude each other: each sets the length of the run")


@dataclass(frozen=True)
class Costs:
    """Seconds of the parts of a run.

    step: from one step to the next, with the wait for its batch. start: of making networks, optimiser and loader
    processes, and what the first steps take beyond the others. evaluation, checkpoint: each time.
    """

    step: float
    start: float = 0.0
    evaluation: float = 0.0
    checkpoint: float = 0.0

    def of_run(self, steps: int, per_epoch: int, config: RunConfig) -> float:
        """Return the seconds of a run of so many steps."""
        every, seconds = config.evaluate_every * per_epoch, self.start + steps * self.step
        evaluations = math.ceil(steps / every) if every else 0
        saved = seconds // (60 * config.saving.every_minutes) if config.saving.every_minutes > 0 else steps
        saved += steps // config.saving.every_steps if config.saving.every_steps else 0
        # At the end a checkpoint and the exported network.
        return seconds + evaluations * self.evaluation + (saved + 2) * self.checkpoint

    def steps_within(self, seconds: float, per_epoch: int, config: RunConfig) -> int:
        """Return the most steps of a run that takes no longer than this; 0 if there are none."""
        low, high = 0, max(math.ceil(seconds / self.step), 1)
        while low < high:
            middle = (low + high + 1) // 2
            if self.of_run(middle, per_epoch, config) <= seconds:
                low = middle
            else:
                high = middle - 1
        return low


@dataclass(frozen=True)
class Length:
    """The chosen length: the settings of the run, what was measured, and both in words, for the log."""

    config: RunConfig
    costs: Costs
    facts: dict[str, str]


def open_ended(config: RunConfig) -> RunConfig:
    """Return settings that fit themselves and the images if they do for a run that is long enough."""
    return replace(config, epochs=OPEN_END)


def fit(
    config: RunConfig,
    images: ImageSource,
    device: torch.device,
    budget: Budget,
    listeners: Sequence[Listener] = (),
) -> Length:
    """Measure, and return the settings of a run that ends when the time does. All processes of a group call this.

    config: with the epochs that its other settings are meant for: of a shorter run, those that count epochs shrink in
        proportion (`with_epochs`), but for those that the person gave.
    listeners: of the run: what they evaluate takes time.
    Raises UserError if there is no time for `MIN_STEPS` steps, or memory does not suffice.
    """
    limit = min(max(60 * budget.minutes * TRIAL_SHARE, MIN_TRIAL), MAX_TRIAL)
    evaluated = sum(each(listeners, lambda listener: listener.evaluated(config, images)))
    try:
        costs = measured(open_ended(config), images, device, limit, evaluated, listeners)
    except torch.OutOfMemoryError as error:
        raise UserError(
            "memory is exhausted by the trial: take a smaller --batch-size, or cut it by --accumulate"
        ) from error
    left = 60 * budget.minutes - (now() - budget.began)
    chosen = ""
    if distributed.is_main():
        chosen = json.dumps([*chosen_length(config, len(images) // config.batch_size, costs, left, budget)])
    distributed.barrier()
    epochs, every = json.loads(distributed.from_main(chosen, device))
    settings = settled(config, epochs, every, budget.given)
    check(settings, len(images), distributed.world_size(), len(images.classes))
    return Length(settings, costs, facts(config, settings, costs, budget, len(images)))


def chosen_length(config: RunConfig, per_epoch: int, costs: Costs, left: float, budget: Budget) -> tuple[float, int]:
    """Return the epochs that end after `left` seconds, and the epochs between evaluations.

    The epochs have four digits, so that they can be given again.
    Raises UserError if there is no time for `MIN_STEPS` steps.
    """
    every = config.evaluate_every
    if every and "evaluate_every" not in budget.given:
        every = max(every, math.ceil(costs.evaluation / (EVALUATION_SHARE * per_epoch * costs.step)))
    config = replace(config, evaluate_every=every)
    steps = costs.steps_within(left, per_epoch, config)
    if steps < MIN_STEPS:
        needed = 60 * budget.minutes - left + costs.of_run(MIN_STEPS, per_epoch, config)
        enough = math.ceil(11 * needed / 60) / 10
        raise UserError(
            f"--minutes {budget.minutes:g} leaves time for {steps} step{'s' * (steps != 1)} of {costs.step:.3g} s, and "
            f"a run needs {MIN_STEPS}: give {enough:g} minutes or more, or take a smaller network, fewer views or a "
            "smaller --batch-size"
        )
    return float(f"{steps / per_epoch:.4g}"), every


def settled(config: RunConfig, epochs: float, evaluate_every: int, given: Collection[str]) -> RunConfig:
    """Return the settings for this length. What counts epochs shrinks with it, unless it is one of the given names."""
    shorter = replace(with_epochs(config, epochs), evaluate_every=evaluate_every)
    before, after = leaves(config), leaves(shorter)
    kept = {name: before[name] for name in given if name in before and before[name] != after[name]}
    return changed(shorter, kept)


def facts(before: RunConfig, after: RunConfig, costs: Costs, budget: Budget, images: int) -> dict[str, str]:
    """Return what was chosen, in words, by what it is about."""
    text = (
        f"{total_steps(after, images):,} steps of {costs.step:.3g} s by a trial, the same as --epochs {after.epochs:g}"
    )
    told = {f"{budget.minutes:g} minutes": text}
    old, new = leaves(before), leaves(after)
    at_the_end_only = min(before.evaluate_every, after.evaluate_every) >= after.epochs
    untold = {"epochs", "evaluate_every"} if at_the_end_only else {"epochs"}
    fitted = [name for name in old if name not in untold and old[name] != new[name]]
    if fitted:
        told["fitted to it"] = ", ".join(f"{name} {_number(old[name])} -> {_number(new[name])}" for name in fitted)
    return told


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def measured(
    config: RunConfig,
    images: ImageSource,
    device: torch.device,
    limit: float,
    evaluated: int = 0,
    listeners: Sequence[Listener] = (),
) -> Costs:
    """Make steps for about `limit` seconds, and return what the parts of a run cost.

    evaluated: images that an evaluation during the run shows to the network. listeners: are told of the progress.
    """
    costs = _measured(config, images, device, limit, evaluated, listeners)
    gc.collect()  # the networks of the trial, before those of the run are made
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return costs


def _measured(
    config: RunConfig,
    images: ImageSource,
    device: torch.device,
    limit: float,
    evaluated: int,
    listeners: Sequence[Listener],
) -> Costs:
    began = now()
    trainer = Trainer(config, images, device)
    batches = trainer.batches()

    def steps(seconds: float) -> tuple[int, float]:
        """Make steps for so long; return how many, and the time when the device has finished them."""
        count, start, is_over = 0, now(), False
        while not is_over:
            trainer.make_step(next(batches))
            count += 1
            each(listeners, lambda listener: listener.tried(now() - began, limit))
            enough = count >= MIN_TRIED and now() - start >= seconds
            is_over = distributed.totals(distributed.is_main() and enough, device=device)[0] > 0
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return count, now()

    try:
        # The loader works ahead: in the first half its queue runs full, or empty if it is what the steps wait for.
        warming, warm = steps(limit / 2)
        timed, end = steps(limit / 2)
    finally:
        batches.close()
    step = max((end - warm) / timed, 1e-6)
    return Costs(
        step,
        start=max(warm - began - warming * step, 0.0),
        evaluation=evaluated * _seconds_per_evaluated(trainer, evaluated) if config.evaluate_every else 0.0,
        checkpoint=_seconds_of_checkpoint(trainer, config.out),
    )


def _seconds_per_evaluated(trainer: Trainer, evaluated: int) -> float:
    """Return the seconds of an image in an evaluation: reading it, and its features."""
    method, count = trainer.whole_method(), min(evaluated, MAX_EVALUATED, len(trainer.images))
    if not count or not distributed.is_main():
        return 0.0
    method.eval()
    with trainer.uncompiled():
        for size in (min(count, 2), count):  # the first is slower
            chosen, start = trainer.images.subset(first_to_last(len(trainer.images), size)), now()
            extract(method.evaluated_backbone, chosen, ExtractConfig(workers=0))
    return (now() - start) / count


def _seconds_of_checkpoint(trainer: Trainer, out: Path) -> float:
    """Return the seconds of writing one on the disk of the run; 0 if it cannot be written."""
    snapshot = trainer.snapshot() if trainer.sharded else None  # by all processes
    if not distributed.is_main():
        return 0.0
    place, start = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir()), now()
    with contextlib.suppress(OSError), tempfile.TemporaryDirectory(prefix=".trial-", dir=place) as folder:
        trainer.save(Path(folder, "checkpoint"), snapshot)
        return now() - start
    return 0.0
