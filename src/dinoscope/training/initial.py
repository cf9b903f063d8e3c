"""Continued training: a run that begins from the weights of another model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from dinoscope import checkpoint
from dinoscope.errors import UserError
from dinoscope.model_names import Model, Watch, load_model, say_once
from dinoscope.models.backbone import Backbone, BackboneConfig
from dinoscope.training.config import RunConfig

GENTLE_PEAK = 1e-4
"""Peak learning rate of AdamW, scaled to the batch, above which a run that goes on from trained weights is warned.

A rule of thumb, not a measurement. With the peak of 3.1e-4 that the log of facebookresearch/dino issue 284 shows, the
model ended below the one that it began with; issue 207 there and facebookresearch/dinov2 issue 204 (k-NN from 80 % to
25 % within 10 000 images) report the same of the default rates. Fine-tuning was reported to work at 1e-5 and below
(dinov2 issue 252). 1e-4 is a third of the lowest of these rates that did harm.
"""


def beginning_from(config: RunConfig, name: str, watch: Watch = say_once) -> RunConfig:
    """The settings with `name` as the initial model, and its network and normalisation in place of their own.

    So is its grey range, unless they have one.
    watch: sees the progress of what must be fetched. Raises UserError where there is no such model.
    """
    found = load_model(name, watch).backbone.config
    window = found.window if config.window is None else config.window
    return replace(config, init=name, backbone=found.name, mean=found.mean, std=found.std, window=window)


def load_initial(config: RunConfig) -> Backbone | None:
    """The network that the run begins from, with its position embeddings laid out for the run; None for random weights.

    Raises UserError where there is no such model, or it is not of the run's network and normalisation.
    """
    if config.init is None:
        return None
    model, wanted = load_model(config.init), config.backbone_config
    _check_inside(config, model)
    found = model.backbone.config
    if found.name != wanted.name:
        raise UserError(
            f"--init {config.init} is a {found.name}, and the run's network is {wanted.name}: leave --backbone out to "
            f"take the model's, or give a model of {wanted.name}"
        )
    if (found.mean, found.std) != (wanted.mean, wanted.std):
        raise UserError(
            f"--init {config.init} was trained on images normalised with mean {found.mean} and std {found.std}, and "
            f"the run's are {wanted.mean} and {wanted.std}: give --mean and --std as the model has them"
        )
    return model.backbone


def _check_inside(config: RunConfig, model: Model) -> None:
    """--overwrite deletes the run folder: the model must not be in it."""
    if model.path is not None and model.path.resolve().is_relative_to(config.out.resolve()):
        raise UserError(f"--init {config.init} lies in --out {config.out}, which the run would write: choose another")


@torch.no_grad()
def give_weights(initial: Backbone, method: nn.Module, source: str) -> None:
    """Load the weights of `initial` into every backbone of the method: student and teacher, query and key.

    Position embeddings are resized to the layout of the method's as `initial` itself resizes them, so that the
    features of images of the run's size are the same. Raises UserError where anything else does not fit.
    """
    for module in method.modules():
        if isinstance(module, Backbone):
            checkpoint.load_strictly(module.net, initial.weights_for(module.config), Path(source))


def facts_of(initial: BackboneConfig, config: RunConfig) -> str:
    """What the run begins from, for the person."""
    before, size = initial.layout_size, config.backbone_config.layout_size
    resized = "" if before == size else f", laid out for {before} px and now for {size} px"
    return f"weights of {config.init}, whose network ({initial.name}{resized}) is the run's; the head is fresh"


def washes_out(config: RunConfig) -> str | None:
    """A warning where the learning rate would lose what the initial model knows (`GENTLE_PEAK`); else None.

    Only for AdamW: of SGD and LARS no such figure is known.
    """
    scale, peak = config.optimizer.scale(config.batch_size), config.optimizer.peak(config.batch_size)
    if config.init is None or config.optimizer.name != "adamw" or peak <= GENTLE_PEAK:
        return None
    return (
        f"the learning rate rises to {peak:.1e} (scaled to the batch), and rates of 3e-04 and more are reported to "
        f"wash out what trained weights know: --optimizer.learning-rate {GENTLE_PEAK / scale:.1e} "
        f"keeps it at {GENTLE_PEAK:.0e}"
    )
