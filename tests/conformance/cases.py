"""The methods under test, small enough for a CPU; a new method is added here and nowhere else in this folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from dinoscope.data.folder import find_images
from dinoscope.data.views import ViewsConfig
from dinoscope.methods.dino import DINOConfig
from dinoscope.training.config import OptimizerConfig, RunConfig, SavingConfig
from dinoscope.training.trainer import Trainer
from dinoscope.types import Views

SETTINGS = {
    "dino": DINOConfig(out_dim=64, hidden_dim=32, bottleneck_dim=16, freeze_last_layer_epochs=0, teacher_momentum=0.9),
}
SETTINGS["dino-sinkhorn-koleo"] = replace(SETTINGS["dino"], balance="sinkhorn", koleo=0.5)
"""case -> settings; without batch norm, to which a batch that is cut up is another batch."""

OVERFITTING = {
    name: replace(settings, teacher_momentum=0.95, head_batch_norm=True) for name, settings in SETTINGS.items()
}
"""case -> settings with which eight images are learned by heart in a hundred steps."""

VIEWS = ViewsConfig(global_size=32, local_size=16, num_local=2, blur_probability=(0.0, 0.0, 0.0))


def run_config(name: str, data: Path, out: Path, **changes: object) -> RunConfig:
    """A run of a few steps on a few pictures."""
    config = RunConfig(
        data=data,
        out=out,
        method=SETTINGS[name],
        backbone="vit_micro_conv8",
        drop_path=0.0,
        views=VIEWS,
        optimizer=OptimizerConfig(learning_rate=2e-2, warmup_epochs=0),
        saving=SavingConfig(every_steps=0),
        epochs=3,
        batch_size=8,
        workers=0,
        device="cpu",
        log_every=1,
        evaluate_every=0,
    )
    return replace(config, **changes)


def trainer(config: RunConfig, *, double: bool = False) -> Trainer:
    """A trainer on the CPU, in float64 if asked, so that only real differences show."""
    torch.set_default_dtype(torch.float64 if double else torch.float32)
    try:
        return Trainer(config, find_images(config.data), torch.device("cpu"))
    finally:
        torch.set_default_dtype(torch.float32)


def batch(config: RunConfig, step: int = 0) -> Views:
    """The views of one step."""
    batches = trainer(config).batches()
    for _ in range(step):
        next(batches)
    return next(batches)
