"""Values that change during a run, as pure functions of the step, without state."""

from __future__ import annotations

import math


def linear(start: float, end: float, position: float) -> float:
    """Return the value at `position` in [0, 1] on the straight line from `start` to `end`; clamped outside."""
    return start + (end - start) * min(max(position, 0.0), 1.0)


def cosine(start: float, end: float, position: float) -> float:
    """Return the value at `position` in [0, 1] on the half cosine from `start` to `end`; clamped outside."""
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * min(max(position, 0.0), 1.0)))


def warmup_cosine(step: int, total: int, warmup: int, peak: float, end: float, start: float = 0.0) -> float:
    """Return the learning rate of DINO and SwAV: from `start` to `peak` in `warmup` steps, then a cosine to `end`.

    The last warm-up step and the first cosine step are both at the peak, as in the reference; the value at the run's
    last step is one step short of `end`. `step` is from 0 to `total` - 1.
    """
    if step < warmup:
        return linear(start, peak, step / (warmup - 1)) if warmup > 1 else start
    return cosine(peak, end, (step - warmup) / (total - warmup))


def epoch_warmup(position: float, warmup_epochs: float, start: float, end: float) -> float:
    """Return the teacher temperature of DINO: a step per epoch, reaching `end` in epoch `warmup_epochs` - 1.

    A warm-up of one epoch has only its start value in it: `end` follows in epoch 1. One that is no whole number of
    epochs, which the reference does not have, is a straight line over its optimiser steps.
    position: in the run, in epochs from 0; of the run's first step 0.
    """
    if warmup_epochs != int(warmup_epochs):
        return linear(start, end, position / warmup_epochs)
    epoch = int(position)
    if warmup_epochs > 1:
        return linear(start, end, epoch / (warmup_epochs - 1))
    return start if epoch < warmup_epochs else end
