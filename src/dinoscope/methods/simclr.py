"""SimCLR: a simple framework for contrastive learning of visual representations (Chen et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import nn

from dinoscope import distributed
from dinoscope.losses.contrastive import nt_xent
from dinoscope.methods import method
from dinoscope.methods.health import moments
from dinoscope.methods.method import MethodConfig, Outputs, Projected, Recipe, RunShape, all_projections, settings
from dinoscope.models.backbone import BackboneConfig
from dinoscope.models.heads import projector
from dinoscope.types import Step, StepOutput


@dataclass(frozen=True)
class SimCLRConfig(MethodConfig):
    """Settings of SimCLR; the defaults are the paper's for ImageNet.

    temperature: tau of NT-Xent; 0.1 for large batches (the paper's Table 5), 0.2 or more for small ones.
    hidden_dim, projection_dim, head_layers: the projection head's MLP.
    head_batch_norm: batch norm before each ReLU of that MLP.
    """

    temperature: float = 0.1
    hidden_dim: int = 2048
    projection_dim: int = 128
    head_layers: int = 2
    head_batch_norm: bool = True

    def __post_init__(self) -> None:
        self.check_above_0("temperature")
        self.check_range(1, math.inf, "hidden_dim", "projection_dim", "head_layers")

    def faults(self, run: RunShape) -> Iterator[str]:
        if run.num_global + run.num_local < 2:
            yield f"SimCLR {method.TOO_FEW_VIEWS}"
        if run.batch_size < 2:
            yield "SimCLR contrasts an image with the others of its batch: --batch-size must be 2 or more"


class SimCLR(Projected):
    """One network that makes two views of an image alike, and unlike all other images of the batch."""

    additive = False
    advice = "Lower the learning rate or --method.temperature."

    def __init__(self, config: SimCLRConfig, backbone: BackboneConfig) -> None:
        def head(width: int) -> nn.Module:
            hidden, out, norm = config.hidden_dim, config.projection_dim, config.head_batch_norm
            return projector(width, hidden, out, layers=config.head_layers, batch_norm=norm)

        super().__init__(backbone, head)
        self.config = config

    def loss(self, outputs: Outputs, step: Step) -> StepOutput:
        """Return NT-Xent (Eq. 1), averaged over the pairs of views of which at least one is global."""
        of_global = outputs["projection"]
        embeddings = all_projections(outputs)
        offset = distributed.rank() * embeddings.shape[1]
        losses = [
            nt_xent(embeddings[i], embeddings[j], self.config.temperature, gather=distributed.gather, offset=offset)
            for i, j in combinations(range(len(embeddings)), 2)
            if i < len(of_global)
        ]
        return StepOutput(torch.stack(losses).mean(), statistics={"embedding_moments": moments(of_global)})


METHOD = method.MethodEntry(
    config=SimCLRConfig,
    build=SimCLR,
    display=method.Display("SimCLR", "#e69f00", method.HEAD_BATCH_NORM),
    year=2020,
    curves=(method.EMBEDDING_DEVIATION,),
    recipes={
        "simclr_resnet50": Recipe(
            """ImageNet, ResNet-50, SimCLR with LARS at batch 4096, 1000 epochs.

Published: linear 69.3* (Chen et al. 2020, Table 6); k-NN 60.7 (Caron et al. 2021, Table 2).""",
            settings(
                method.RESNET50 | {"zero_init_residual": True, "views": "simclr", "epochs": 1000, "batch_size": 4096},
                optimizer=method.optimizer("lars", 0.3, 1e-6),
            ),
        )
    },
    small=lambda views, transformer: settings(method={"temperature": 0.2}),
    small_about=method.SOLO_LEARN.format(90.7),
)
