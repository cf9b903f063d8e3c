"""VICReg: variance-invariance-covariance regularisation (Bardes et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from dinoscope import distributed
from dinoscope.losses.decorrelation import vicreg_terms
from dinoscope.methods import method
from dinoscope.methods.health import Verdict, complete_collapse, few_dimensions, moments, participation_ratio
from dinoscope.methods.method import MethodConfig, Outputs, Projected, Recipe, RunShape, all_projections, settings
from dinoscope.models.backbone import BackboneConfig
from dinoscope.models.heads import projector
from dinoscope.types import Step, StepOutput


@dataclass(frozen=True)
class VICRegConfig(MethodConfig):
    """Settings of VICReg; the defaults are the paper's.

    invariance, variance, covariance: weights of the loss's terms. The first two should be equal: others, and 1, 1, 1,
        collapse (the paper's ablation). Only plain SGD and clipping depend on their common factor.
    hidden_dim, projection_dim, head_layers: the expander's MLP. Wider embeddings are better: with 256, 2048 and 8192
        the paper has 55.9, 65.1 and 68.6 (linear, 100 epochs).
    head_batch_norm: batch norm before each ReLU of that MLP.
    """

    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0
    hidden_dim: int = 8192
    projection_dim: int = 8192
    head_layers: int = 3
    head_batch_norm: bool = True

    def __post_init__(self) -> None:
        self.check_range(0, math.inf, "invariance", "variance", "covariance")
        self.check_range(1, math.inf, "hidden_dim", "projection_dim", "head_layers")

    def faults(self, run: RunShape) -> Iterator[str]:
        if run.num_global + run.num_local < 2:
            yield f"VICReg {method.TOO_FEW_VIEWS}"
        if run.batch_size < 2:
            yield "VICReg needs a variance over the batch: --batch-size must be 2 or more"


class VICReg(Projected):
    """One network: views of an image are alike, each dimension varies over the images, no two dimensions together."""

    additive = False

    def __init__(self, config: VICRegConfig, backbone: BackboneConfig) -> None:
        def head(width: int) -> nn.Module:
            hidden, out, norm = config.hidden_dim, config.projection_dim, config.head_batch_norm
            return projector(width, hidden, out, layers=config.head_layers, batch_norm=norm, last_bias=False)

        super().__init__(backbone, head)
        self.config = config

    def loss(self, outputs: Outputs, step: Step) -> StepOutput:
        """Return Eq. 6: the weighted sum of the three terms over the images of all processes."""
        views, config = distributed.gather_views(all_projections(outputs)), self.config
        terms = vicreg_terms(views, num_global=len(outputs["projection"]))
        loss = (
            config.invariance * terms.invariance
            + config.variance * terms.variance
            + config.covariance * terms.covariance
        )
        # Of the whole batch, as the loss is: every process has the same figures.
        logged = {
            "invariance": terms.invariance.detach(),
            "variance": terms.variance.detach(),
            "covariance": terms.covariance.detach(),
            "embedding_deviation": terms.deviation,
            "participation_ratio": participation_ratio(views[0]),
        }
        return StepOutput(loss, logged, {"embedding_moments": moments(outputs["projection"])})

    def diagnose(self, recent: Mapping[str, float]) -> Verdict | None:
        advice = "Give --method.variance the value of --method.invariance, or lower the learning rate."
        return (
            complete_collapse(min(recent["embedding_deviation"], recent["embedding_spread"]), advice)
            # Copies of one dimension have variance, too.
            or few_dimensions(recent["participation_ratio"], "Raise --method.covariance.")
        )


METHOD = method.MethodEntry(
    config=VICRegConfig,
    build=VICReg,
    display=method.Display("VICReg", deviations=method.HEAD_BATCH_NORM),
    year=2021,
    curves=(
        method.Curve("Invariance", "squared distance", "invariance", "Invariance: 0 if the views of an image agree."),
        method.Curve("Variance", "hinge", "variance", "Variance: 0 if every dimension has its target deviation of 1."),
        method.Curve("Covariance", "squares", "covariance", "Covariance: 0 if no two dimensions vary together."),
        method.Curve("Deviation of a dimension", "std. deviation", "embedding_deviation", figure=method.FEATURES),
        method.DIMENSIONS,
        method.EMBEDDING_DEVIATION,
    ),
    recipes={
        "vicreg_resnet50": Recipe(
            """ImageNet, ResNet-50, VICReg with LARS at batch 2048, 1000 epochs.

As in the released code. For 100 epochs at batch 512: --epochs 100 --batch-size 512 --optimizer.learning-rate 0.3
--optimizer.min-learning-rate 0.0006.
Published: linear 73.2 (Bardes et al. 2022, Table 1), by its own protocol.""",
            settings(
                method.RESNET50 | {"zero_init_residual": True, "views": "byol", "epochs": 1000, "batch_size": 2048},
                optimizer=method.optimizer("lars", 0.2, 1e-6) | {"min_learning_rate": 0.0016},
            ),
        ),
        "vicreg_deit_small": Recipe(
            """ImageNet, ViT-S/16, VICReg with DINO's optimiser and schedules, 300 epochs.

Not run yet, and nothing is published of these settings.""",
            method.VIT_SMALL_300 | {"views": "byol"},
        ),
    },
    # A wide embedding matters more than the rest; 2048 as in the zoo. The weights' common factor is for SGD's rate.
    small=lambda views, transformer: settings(
        method={"hidden_dim": 2048, "projection_dim": 2048, "invariance": 1.0, "variance": 1.0, "covariance": 0.04}
    ),
    small_about=method.SOLO_LEARN.format(92.1),
)
