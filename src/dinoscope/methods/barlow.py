"""Barlow Twins: self-supervised learning via redundancy reduction (Zbontar et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from dinoscope import distributed
from dinoscope.losses.decorrelation import barlow_terms
from dinoscope.methods import method
from dinoscope.methods.health import Verdict, few_dimensions, moments, participation_ratio
from dinoscope.methods.method import MethodConfig, Outputs, Projected, Recipe, RunShape, all_projections, settings
from dinoscope.models.backbone import BackboneConfig
from dinoscope.models.heads import projector
from dinoscope.types import Step, StepOutput


@dataclass(frozen=True)
class BarlowConfig(MethodConfig):
    """Settings of Barlow Twins; the defaults are those of its code.

    off_diagonal: lambda, the weight of the redundancy reduction term (the paper: 0.005).
    scale: factor of the whole loss, which is a sum over dimensions. Only plain SGD and clipping depend on it.
    hidden_dim, projection_dim, head_layers: the projector's MLP. Wider embeddings are better (the paper, Fig. 4).
    head_batch_norm: batch norm before each ReLU of that MLP. The loss standardises the embeddings in any case.
    """

    off_diagonal: float = 0.0051
    scale: float = 1.0
    hidden_dim: int = 8192
    projection_dim: int = 8192
    head_layers: int = 3
    head_batch_norm: bool = True

    def __post_init__(self) -> None:
        self.check_above_0("scale")
        self.check_range(0, math.inf, "off_diagonal")
        self.check_range(1, math.inf, "hidden_dim", "projection_dim", "head_layers")

    def faults(self, run: RunShape) -> Iterator[str]:
        if run.num_global + run.num_local < 2:
            yield f"Barlow Twins {method.TOO_FEW_VIEWS}"
        if run.batch_size < 2:
            yield "Barlow Twins needs a correlation over the batch: --batch-size must be 2 or more"


class BarlowTwins(Projected):
    """One network: each dimension is the same in two views of an image and carries no information about another."""

    additive = False
    advice = "Lower the learning rate, keep --method.head-batch-norm."

    def __init__(self, config: BarlowConfig, backbone: BackboneConfig) -> None:
        def head(width: int) -> nn.Module:
            hidden, out, norm = config.hidden_dim, config.projection_dim, config.head_batch_norm
            return projector(width, hidden, out, layers=config.head_layers, batch_norm=norm, last_bias=False)

        super().__init__(backbone, head)
        self.config = config

    def loss(self, outputs: Outputs, step: Step) -> StepOutput:
        """Return Eq. 1, of the cross-correlation over the images of all processes."""
        views = distributed.gather_views(all_projections(outputs))
        terms = barlow_terms(views, num_global=len(outputs["projection"]))
        loss = self.config.scale * (terms.on_diagonal + self.config.off_diagonal * terms.off_diagonal)
        # Of the whole batch, as the loss is: every process has the same figures.
        logged = {
            "on_diagonal": terms.on_diagonal.detach(),
            "off_diagonal": terms.off_diagonal.detach(),
            "view_correlation": terms.correlation,
            "participation_ratio": participation_ratio(views[0]),
        }
        return StepOutput(loss, logged, {"embedding_moments": moments(outputs["projection"])})

    def diagnose(self, recent: Mapping[str, float]) -> Verdict | None:
        return super().diagnose(recent) or few_dimensions(recent["participation_ratio"], "Raise --method.off-diagonal.")


METHOD = method.MethodEntry(
    config=BarlowConfig,
    build=BarlowTwins,
    display=method.Display("Barlow Twins", deviations=method.HEAD_BATCH_NORM),
    year=2021,
    curves=(
        method.Curve("On the diagonal", "squares", "on_diagonal", "On the diagonal: 0 if views of an image agree."),
        method.Curve("Off the diagonal", "squares", "off_diagonal", "Off it: 0 if no two dimensions are correlated."),
        method.Curve("Correlation of views", "correlation", "view_correlation", "Correlation: mean of the diagonal."),
        method.DIMENSIONS,
        method.EMBEDDING_DEVIATION,
    ),
    recipes={
        "barlow_resnet50": Recipe(
            """ImageNet, ResNet-50, Barlow Twins with LARS at batch 2048, 1000 epochs.

As in the released code, except that there biases and batch norms have their own learning rate (0.0048; here 0.2).
Published: linear 73.5 (the released code; Zbontar et al. 2021, Table 1: 73.2), by its own protocol.""",
            settings(
                method.RESNET50 | {"zero_init_residual": True, "views": "byol", "epochs": 1000, "batch_size": 2048},
                optimizer=method.optimizer("lars", 0.2, 1e-6) | {"min_learning_rate": 0.0016},
            ),
        ),
        "barlow_deit_small": Recipe(
            """ImageNet, ViT-S/16, Barlow Twins with DINO's optimiser and schedules, 300 epochs.

Not run yet, and nothing is published of these settings.""",
            method.VIT_SMALL_300 | {"views": "byol"},
        ),
    },
    # 2048 as in the zoo. The scale makes the loss a mean over dimensions, for SGD's rate.
    small=lambda views, transformer: settings(method={"hidden_dim": 2048, "projection_dim": 2048, "scale": 1 / 2048}),
    small_about=method.SOLO_LEARN.format(92.1),
)
