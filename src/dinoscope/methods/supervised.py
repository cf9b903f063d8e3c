"""Supervised training with cross-entropy: the upper baseline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from dinoscope.losses.dino import at_least_float32
from dinoscope.methods.method import Outputs, RunShape
from dinoscope.methods.online import OnlineMethod, by_view, view_features
from dinoscope.models.backbone import BackboneConfig, build_backbone
from dinoscope.types import Step, StepOutput, Views


@dataclass(frozen=True)
class SupervisedConfig:
    """Settings of supervised training.

    label_smoothing: share of the target that is spread over all classes (Szegedy et al. 2016; DeiT uses 0.1).
    """

    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in 0 to 1 (1 excluded), not {self.label_smoothing}")

    def faults(self, run: RunShape) -> Iterator[str]:
        """See `MethodConfig.faults`."""
        if run.classes < 2:
            yield "supervised training needs labels: give --data a folder with one sub-folder per class, two or more"


class Supervised(OnlineMethod):
    """A linear classifier on the image feature, trained together with the network; every view is a sample."""

    def __init__(self, config: SupervisedConfig, backbone: BackboneConfig, classes: int) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(backbone)
        self.classifier = nn.Linear(self.backbone.dim, classes)
        nn.init.trunc_normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def encode(self, views: Views) -> Outputs:
        """Logits and features of all views, [views, batch, ...], and the labels, [1, batch].

        Raises ValueError where the views have no labels; `SupervisedConfig.faults` refuses such data before.
        """
        if views.labels is None:
            raise ValueError("supervised training needs views with labels")
        features = view_features(self.backbone, views)
        outputs = by_view({"logits": self.classifier(features), "features": features}, views)
        return outputs | {"labels": views.labels[None]}

    def loss(self, outputs: Outputs, step: Step) -> StepOutput:
        """Cross-entropy with smoothed labels, mean over images and views."""
        logits = at_least_float32(outputs["logits"])
        target = outputs["labels"].expand(len(logits), -1)
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), label_smoothing=self.config.label_smoothing)
        correct = (logits.detach().argmax(dim=-1) == target).float().mean()
        return StepOutput(loss, {"training_top1": 100 * correct})
