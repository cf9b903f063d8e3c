"""What the methods share: features of all views, and the answers of one that trains a single network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dinoscope.methods.health import Verdict, spread_of
from dinoscope.methods.method import Outputs
from dinoscope.models.backbone import Backbone
from dinoscope.types import Step, StepOutput, Views


def view_features(backbone: Backbone, views: Views, *, local: bool = True) -> Float[Tensor, "rows d"]:
    """Image features of all global views, then (unless left out) all local ones: rows ordered (view, image)."""
    features = [backbone.feature(backbone.normalize(views.global_views.flatten(0, 1)))]
    if local and views.local_views is not None:
        features.append(backbone.feature(backbone.normalize(views.local_views.flatten(0, 1))))
    return torch.cat(features)


def by_view(outputs: Mapping[str, Float[Tensor, "rows _"]], views: Views) -> dict[str, Float[Tensor, "v b _"]]:
    """Rows ordered (view, image) as [views, batch, ...], each output under its name."""
    return {name: rows.reshape(-1, views.batch_size, rows.shape[-1]) for name, rows in outputs.items()}


class OnlineMethod(nn.Module, ABC):
    """A method whose trained and evaluated network is `self.backbone`; it has no state but its weights.

    Every answer may be given anew by a subclass. The defaults are those of `dinoscope.methods.method.Method`.
    """

    additive: bool = True
    backbone: Backbone

    @abstractmethod
    def encode(self, views: Views) -> Outputs:
        """See `Method.encode`."""

    @abstractmethod
    def loss(self, outputs: Outputs, step: Step) -> StepOutput:
        """See `Method.loss`."""

    def forward(self, views: Views) -> Outputs:
        """`encode`, so that DistributedDataParallel can stand around the method."""
        return self.encode(views)

    def health(self, statistics: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """How far apart the embeddings are, where `loss` returned their moments."""
        if "embedding_moments" not in statistics:
            return {}
        return {"embedding_spread": spread_of(statistics["embedding_moments"])}

    def before_update(self, step: Step) -> None:
        """Leave the gradients as they are."""

    def after_step(self, step: Step, output: StepOutput) -> None:
        """Nothing moves but the weights."""

    def diagnose(self, recent: Mapping[str, float]) -> Verdict | None:
        """Healthy."""
        return None

    def trained_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Parameters that have a gradient."""
        return [(name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad]

    @property
    def evaluated_backbone(self) -> Backbone:
        """The trained network itself."""
        return self.backbone

    @property
    def evaluated_prefix(self) -> str:
        """Prefix of its weights in the state dict."""
        return "backbone."
