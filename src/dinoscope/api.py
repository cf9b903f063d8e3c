"""The package in Python: `dinoscope.train`, `load`, `knn`, `linear`, `attention`; what the command line calls too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dinoscope.data.views import VIEWS
from dinoscope.errors import UserError
from dinoscope.evaluation import EVALUATIONS
from dinoscope.evaluation.base import Context, train_and_val
from dinoscope.evaluation.knn import KNNConfig
from dinoscope.evaluation.linear import LinearConfig
from dinoscope.evaluation.online import AttentionSnapshots, OnlineKNN
from dinoscope.explain.attention import attention_maps, prepare
from dinoscope.methods import METHODS
from dinoscope.model_names import load_model
from dinoscope.models.backbone import Backbone
from dinoscope.recipes import RECIPES, run_config
from dinoscope.system import pick_device
from dinoscope.training.config import RunConfig
from dinoscope.training.listeners import Listener
from dinoscope.training.loop import RunResult
from dinoscope.training.loop import train as run_training
from dinoscope.training.run_folder import read_config
from dinoscope.training.start import beginning_from
from dinoscope.types import Metric

__all__ = [
    "METHODS",
    "RECIPES",
    "VIEWS",
    "RunConfig",
    "UserError",
    "attention",
    "beginning_from",
    "knn",
    "linear",
    "load",
    "read_config",
    "recipe",
    "run_config",
    "train",
]


def recipe(name: str, data: Path | str, out: Path | str, **changes: Any) -> RunConfig:
    """Settings by name, with changes: `recipe("dino_small_images", "cifar10", "runs/c", epochs=20)`.

    With init=MODEL, the network is that of the model to begin from, unless backbone=NAME says otherwise.
    Raises UserError for an unknown name, or no such model.
    """
    config = run_config(name, Path(data), Path(out))
    if changes.get("init") is not None:
        config = beginning_from(config, changes["init"])
    return replace(config, **changes)


def train(
    config: RunConfig, *, resume: bool = False, overwrite: bool = False, listeners: Sequence[Listener] = ()
) -> RunResult:
    """Train, with online k-NN and attention snapshots at every evaluation; see `dinoscope.training.loop.train`."""
    watching = [OnlineKNN(), AttentionSnapshots(), *listeners]
    return run_training(config, resume=resume, overwrite=overwrite, listeners=watching)


def load(model: Path | str) -> Backbone:
    """The backbone of a run folder, an exported folder, a weights file, or released weights by name.

    A module that returns `Tokens`, in evaluation mode, on the CPU: with `net = load(...)`, uint8 RGB images
    [batch, 3, height, width] are described by `net(net.normalize(images))`.

    Raises UserError where there is no model, or released weights cannot be fetched.
    """
    return load_model(str(model)).backbone


def knn(model: Path | str, data: Path | str, config: KNNConfig | None = None, device: str = "auto") -> list[Metric]:
    """k-NN accuracy: gallery is the `train` split of `data`, queries its `val` split; both need labels.

    In a folder without splits each image is asked of all others.
    Raises UserError where one split alone is there, or the labels are missing.
    """
    context = Context(pick_device(device))
    (result,) = EVALUATIONS["knn"].run([load_model(str(model))], Path(data), config or KNNConfig(), context)
    return list(result.metrics)


def linear(
    model: Path | str,
    data: Path | str,
    config: LinearConfig | None = None,
    device: str = "auto",
    fraction: float = 1.0,
) -> list[Metric]:
    """Accuracy of a linear classifier on frozen features, trained on the `train` split of `data`, measured on `val`.

    config: decides the protocol; see `dinoscope.evaluation.linear`.
    fraction: share of each class's training images that is used, in (0, 1].

    Raises UserError where a split or the labels are missing, or there is a single class.
    """
    train_and_val(Path(data))
    settings = replace(config or LinearConfig(), label_fraction=fraction)
    (result,) = EVALUATIONS["linear"].run([load_model(str(model))], Path(data), settings, Context(pick_device(device)))
    return list(result.metrics)


def attention(
    model: Path | str | Backbone, image: UInt8[np.ndarray, "h w 3"], size: int | None = None, block: int = -1
) -> Float[Tensor, "heads rows columns"]:
    """Attention of the class token to the patches of one RGB image, head by head (a ResNet: feature energy).

    size: the short side is resized to it; None takes the image size that the model stores.
    """
    backbone = model if isinstance(model, Backbone) else load(model)
    pixels = prepare(image, backbone.config.image_size if size is None else size, backbone.patch_size)
    with torch.no_grad():
        return attention_maps(backbone, backbone.normalize(pixels[None].to(backbone.mean.device)), block)[0]
