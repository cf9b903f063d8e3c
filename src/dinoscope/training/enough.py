"""Whether a run is long enough for its data to be worth its time, by what short runs reached here.

The rule: a run without labels and from random weights is too short if all its epochs together see fewer than `SEEN`
images, or make fewer than `STEPS` steps. With 20,000 images in 156 steps, DINO had 22.1 % k-NN on the drawn scenes,
below the 31.8 % of raw pixels (docs/results/ablations.md). With 34,560 images in 270 steps
SimDINO, and with 45,440 in 355 EMP-SSL, were above raw pixels on CIFAR-10 (docs/results/photographs.md); with 60,000
in 468, DINO was on the scenes (docs/results/README.md). The bounds lie between, and below what `auto` takes.
"""

from __future__ import annotations

import math

from dinoscope.methods import METHODS, method_name
from dinoscope.training.config import RunConfig, total_steps

SEEN, STEPS = 22_000, 160
"""Images seen in all epochs, each as often as it is, and optimiser steps."""


def too_short(config: RunConfig, images: int) -> dict[str, str]:
    """Return a hint, by what it is about, if the run is too short to learn much from so many images; else nothing.

    images: that the run trains on. Runs with labels, and those that begin from a model, are never too short.
    """
    steps, seen = total_steps(config, images), round(config.epochs * images)
    if config.init is not None or METHODS[method_name(config.method)].labels or (seen >= SEEN and steps >= STEPS):
        return {}
    epochs = math.ceil(max(SEEN / images, STEPS / max(images // config.batch_size, 1)))
    return {
        "short": f"{seen:,} images seen in {steps:,} steps; with fewer than {SEEN:,} or {STEPS}, runs stayed below raw "
        "pixels (docs/choosing.md)",
        "instead": f"--epochs {epochs:,} or more; --init NAME, to begin from released weights; or these as they are "
        "(`dinoscope models`)",
    }
