"""EMP-SSL: extreme multi-patch self-supervised learning (Tong et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import nn

from dinoscope import distributed
from dinoscope.losses.coding_rate import alignment_to_mean, coding_rate, max_coding_rate
from dinoscope.losses.dino import at_least_float32
from dinoscope.methods import method
from dinoscope.methods.health import Verdict, dimensional_collapse, moments
from dinoscope.methods.method import MethodConfig, Outputs, Projected, Recipe, RunShape, all_projections, settings
from dinoscope.models.backbone import BackboneConfig
from dinoscope.models.heads import projector
from dinoscope.types import Step, StepOutput


@dataclass(frozen=True)
class EMPConfig(MethodConfig):
    """Settings of EMP-SSL; the defaults are the paper's.

    hidden_dim, projection_dim, head_layers: the projection head's MLP. The paper evaluates its first hidden layer.
    head_batch_norm: batch norm before each ReLU of that MLP.
    eps: squared distortion of the coding rate.
    alignment_weight: of the cosine of patches with the mean of their image.
    rate_weight: of the coding rate. With AdamW only the ratio of the two weights matters.
    """

    hidden_dim: int = 4096
    projection_dim: int = 1024
    head_layers: int = 3
    head_batch_norm: bool = True
    eps: float = 0.2
    alignment_weight: float = 200.0
    rate_weight: float = 1.0

    def __post_init__(self) -> None:
        self.check_above_0("eps")
        self.check_range(1, math.inf, "hidden_dim", "projection_dim", "head_layers")
        self.check_range(0, math.inf, "alignment_weight", "rate_weight")

    def faults(self, run: RunShape) -> Iterator[str]:
        if run.num_global + run.num_local < 2:
            yield f"EMP-SSL {method.TOO_FEW_VIEWS}"
        if run.batch_size < 2:
            yield "a coding rate needs 2 images or more: raise --batch-size"


class EMP(Projected):
    """One network; the patches of an image are near their mean, and a coding rate keeps images apart."""

    additive = False
    advice = "Lower --method.alignment-weight or the learning rate."

    def __init__(self, config: EMPConfig, backbone: BackboneConfig) -> None:
        def head(width: int) -> nn.Module:
            hidden, out, norm = config.hidden_dim, config.projection_dim, config.head_batch_norm
            return projector(width, hidden, out, layers=config.head_layers, batch_norm=norm)

        super().__init__(backbone, head)
        self.config = config

    def loss(self, outputs: Outputs, step: Step) -> StepOutput:
        """Return Eq. 4, with the coding rate of each patch number over the images of the batch (Eq. 2)."""
        config, projections = self.config, all_projections(outputs)
        alignment = alignment_to_mean(projections)
        unit = F.normalize(at_least_float32(projections), dim=-1)
        rows = distributed.gather_views(unit)  # [views, batch, d]
        rate = coding_rate(rows, config.eps).mean()
        logged = {
            "alignment": alignment.detach(),
            "coding_rate": rate.detach(),
            "coding_rate_share": rate.detach() / max_coding_rate(rows.shape[1], rows.shape[2], config.eps),
        }
        loss = -config.alignment_weight * alignment - config.rate_weight * rate
        return StepOutput(loss, logged, {"embedding_moments": moments(unit)})

    def diagnose(self, recent: Mapping[str, float]) -> Verdict | None:
        return super().diagnose(recent) or dimensional_collapse(recent["coding_rate_share"], self.advice)


_PUBLISHED: dict[str, Any] = settings(
    {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "drop_path": 0.0, "batch_size": 100},
    optimizer=method.optimizer("larc", 0.3, 1e-4, warmup_epochs=0) | {"trust": 0.005, "scaling": "none"},
)

METHOD = method.MethodEntry(
    config=EMPConfig,
    build=EMP,
    display=method.Display("EMP-SSL", "#b8a600", method.HEAD_BATCH_NORM),
    year=2023,
    curves=method.CODING_CURVES,
    recipes={
        "emp_resnet18_cifar": Recipe(
            """CIFAR, ResNet-18 with a 3x3 stem, EMP-SSL with 20 patches of 16 px enlarged to 32, 30 epochs.

dinoscope train --recipe emp_resnet18_cifar --data cifar10 --out RUN
Evaluated on whole images at 64 px, so that objects are as large as in a patch. Published on CIFAR-10,
linear on another feature (docs/methods/emp.md): 80.6 after 1 epoch, 90.7 after 10, 93.1 after 30 (its README).""",
            _PUBLISHED | {"backbone": "resnet18_small", "views": "patches_32", "image_size": 64, "epochs": 30},
        ),
        "emp_resnet18": Recipe(
            """ImageNet-100, ResNet-18, EMP-SSL with 20 patches of a quarter of the image, 2 epochs.

Published: linear 58.5 on another feature after the first epoch (its README).""",
            _PUBLISHED | {"backbone": "resnet18", "views": "patches", "epochs": 2},
        ),
    },
    # The others' rates are made for losses of about 1. The largest coding rate is 57 with the CPU's settings, and 229
    # with the GPU's, in place of 198.
    small=lambda views, transformer: settings(method={"alignment_weight": 1.0, "rate_weight": 0.01}),
)
