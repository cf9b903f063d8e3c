"""SimCLR: a simple framework for contrastive learning of visual representations (Chen et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import torch

from dinoscope import distributed
from dinoscope.losses.contrastive import nt_xent
from dinoscope.methods.health import Verdict, moments, one_point
from dinoscope.methods.method import Outputs, RunShape, too_few_views
from dinoscope.methods.online import OnlineMethod, by_view, view_features
from dinoscope.models.backbone import BackboneConfig, build_backbone
from dinoscope.models.heads import projector
from dinoscope.types import Step, StepOutput, Views


@dataclass(frozen=True)
class SimCLRConfig:
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
        if self.temperature <= 0:
            raise ValueError(f"temperature must be above 0, not {self.temperature}")
        if min(self.hidden_dim, self.projection_dim, self.head_layers) < 1:
            raise ValueError("hidden_dim, projection_dim and head_layers must be at least 1")

    def faults(self, run: RunShape) -> Iterator[str]:
        """See `MethodConfig.faults`."""
        yield from too_few_views("SimCLR", run)
        if run.batch_size < 2:
            yield "SimCLR tells an image from the others of its batch: --batch-size must be 2 or more"


class SimCLR(OnlineMethod):
    """One network; two views of an image are to be alike, and unlike all else in the batch."""

    additive = False

    def __init__(self, config: SimCLRConfig, backbone: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(backbone)
        self.head = projector(
            self.backbone.dim,
            config.hidden_dim,
            config.projection_dim,
            layers=config.head_layers,
            batch_norm=config.head_batch_norm,
        )

    def encode(self, views: Views) -> Outputs:
        """Projections of the global and of the local views, and all features: [views, batch, dim]."""
        features = view_features(self.backbone, views)
        outputs = by_view({"projection": self.head(features), "features": features}, views)
        large, small = outputs["projection"].tensor_split([len(views.global_views)])
        return {"projection": large, "local_projection": small, "features": outputs["features"]}

    def loss(self, outputs: Outputs, step: Step) -> StepOutput:
        """NT-Xent (Eq. 1) averaged over the pairs of views of which at least one is global."""
        large = outputs["projection"]
        projections = torch.cat([large, outputs["local_projection"]])
        offset = distributed.rank() * projections.shape[1]
        losses = [
            nt_xent(projections[i], projections[j], self.config.temperature, gather=distributed.gather, offset=offset)
            for i, j in combinations(range(len(projections)), 2)
            if i < len(large)
        ]
        return StepOutput(torch.stack(losses).mean(), statistics={"embedding_moments": moments(large)})

    def diagnose(self, recent: Mapping[str, float]) -> Verdict | None:
        """All images at one point."""
        return one_point(recent["embedding_spread"], "Lower the learning rate or --method.temperature.")
