"""BYOL: bootstrap your own latent (Grill et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from dinoscope.losses.dino import byol_loss
from dinoscope.methods import method
from dinoscope.methods.health import moments
from dinoscope.methods.method import Method, MethodConfig, Outputs, Recipe, RunShape, by_view, settings, view_features
from dinoscope.models.backbone import Backbone, BackboneConfig, build_backbone, without_drop_path
from dinoscope.models.heads import copy_parameters, follow, projector
from dinoscope.schedules import cosine
from dinoscope.types import Step, StepOutput, Views


@dataclass(frozen=True)
class BYOLConfig(MethodConfig):
    """Settings of BYOL; the defaults are the paper's.

    hidden_dim, projection_dim: of projector and predictor, MLPs of two linear maps.
    head_batch_norm: batch norm before each ReLU of both. Without it BYOL needs careful tuning (its appendix F.3).
    target_momentum: of the target network's weights at the start; rises to 1 by a cosine. 0.99 for 300 epochs,
        0.996 for 1000.
    """

    hidden_dim: int = 4096
    projection_dim: int = 256
    head_batch_norm: bool = True
    target_momentum: float = 0.99

    def __post_init__(self) -> None:
        self.check_range(1, math.inf, "hidden_dim", "projection_dim")
        self.check_range(0, 1, "target_momentum")

    def faults(self, run: RunShape) -> Iterator[str]:
        if run.num_global + run.num_local < 2:
            yield f"BYOL {method.TOO_FEW_VIEWS}"


class BYOL(Method):
    """The online network predicts the projection that the target network, its moving average, gives another view."""

    advice = "Raise --method.target-momentum, keep --method.head-batch-norm, train in fp32."

    def __init__(self, config: BYOLConfig, backbone: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(backbone)
        self.target_backbone = build_backbone(without_drop_path(backbone))
        dim, hidden, out, norm = self.backbone.dim, config.hidden_dim, config.projection_dim, config.head_batch_norm
        self.projector = projector(dim, hidden, out, batch_norm=norm)
        self.target_projector = projector(dim, hidden, out, batch_norm=norm)
        self.predictor = projector(out, hidden, out, batch_norm=norm)
        copy_parameters(self.backbone, self.target_backbone)
        copy_parameters(self.projector, self.target_projector)

    def encode(self, views: Views) -> Outputs:
        """Return predictions and online features of all views, targets of the global ones: [views, batch, dim]."""
        features = view_features(self.backbone, views)
        prediction = self.predictor(self.projector(features))
        with torch.no_grad():
            target = self.target_projector(view_features(self.target_backbone, views, local=False))
        return by_view({"prediction": prediction, "target": target, "features": features}, views)

    def loss(self, outputs: Outputs, step: Step) -> StepOutput:
        """Return Eq. 2, symmetric, over all pairs of different views."""
        target = outputs["target"].detach()
        logged = {"teacher_momentum": torch.tensor(self._momentum(step))}
        return StepOutput(byol_loss(outputs["prediction"], target), logged, {"embedding_moments": moments(target)})

    def after_step(self, step: Step, output: StepOutput) -> None:
        follow(self.target_backbone, self.backbone, self._momentum(step))
        follow(self.target_projector, self.projector, self._momentum(step))

    def _momentum(self, step: Step) -> float:
        return cosine(self.config.target_momentum, 1.0, step.progress)

    @property
    def backbones(self) -> tuple[Backbone, ...]:
        return (self.backbone, self.target_backbone)


METHOD = method.MethodEntry(
    config=BYOLConfig,
    build=BYOL,
    display=method.Display("BYOL", "#009e73", method.HEAD_BATCH_NORM),
    year=2020,
    curves=(method.EMBEDDING_DEVIATION, method.TEACHER_MOMENTUM),
    recipes={
        "byol_resnet50": Recipe(
            """ImageNet, ResNet-50, BYOL with LARS at batch 4096, 1000 epochs.

Published: linear 74.4*, k-NN 64.8 (Caron et al. 2021, Table 2; linear: Grill et al. 2020).""",
            settings(
                method.RESNET50 | {"zero_init_residual": True, "views": "byol", "epochs": 1000, "batch_size": 4096},
                method={"target_momentum": 0.996},
                optimizer=method.optimizer("lars", 0.2, 1.5e-6),
            ),
        ),
        "byol_deit_small": Recipe(
            """ImageNet, ViT-S/16, BYOL, 300 epochs.

Published: linear 71.4, k-NN 66.6 (Caron et al. 2021, Table 2).""",
            method.VIT_SMALL_300 | {"views": "byol"},
        ),
    },
    small_about=method.SOLO_LEARN.format(92.6),
)
