"""Supervised training with cross-entropy: the upper baseline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from dinoscope.losses.dino import at_least_float32
from dinoscope.methods import method
from dinoscope.methods.method import Method, MethodConfig, Outputs, Recipe, RunShape, by_view, settings, view_features
from dinoscope.models.backbone import BackboneConfig, build_backbone
from dinoscope.types import Step, StepOutput, Views


@dataclass(frozen=True)
class SupervisedConfig(MethodConfig):
    """Settings of supervised training.

    label_smoothing: share of the target that is spread over all classes (Szegedy et al. 2016; DeiT uses 0.1).
    """

    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be from 0 to 1 (1 excluded), not {self.label_smoothing}")

    def faults(self, run: RunShape) -> Iterator[str]:
        if run.classes < 2:
            yield "supervised training needs labels: give --data a folder with one sub-folder per class, two or more"


class Supervised(Method):
    """A linear classifier on the image feature, trained together with the network; every view is a sample."""

    def __init__(self, config: SupervisedConfig, backbone: BackboneConfig, classes: int) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(backbone)
        self.classifier = nn.Linear(self.backbone.dim, classes)
        nn.init.trunc_normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def encode(self, views: Views) -> Outputs:
        """Return logits and features of all views, [views, batch, ...], and the labels, [1, batch]."""
        assert views.labels is not None, "`SupervisedConfig.faults` refuses images without labels"
        features = view_features(self.backbone, views)
        outputs = by_view({"logits": self.classifier(features), "features": features}, views)
        return outputs | {"labels": views.labels[None]}

    def loss(self, outputs: Outputs, step: Step) -> StepOutput:
        """Return cross-entropy with smoothed labels, mean over images and views."""
        logits = at_least_float32(outputs["logits"])
        target = outputs["labels"].expand(len(logits), -1)
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), label_smoothing=self.config.label_smoothing)
        correct = (logits.detach().argmax(dim=-1) == target).float().mean()
        return StepOutput(loss, {"training_top1": 100 * correct})


METHOD = method.MethodEntry(
    config=SupervisedConfig,
    build=Supervised,
    display=method.Display("Supervised", "#000000"),
    year=2012,
    curves=(method.Curve("Training accuracy", "top-1 (%)", "training_top1", "Accuracy on the views of each batch."),),
    labels=True,
    recipes={
        "supervised_resnet50": Recipe(
            """ImageNet, ResNet-50 with labels: crop and flip, SGD 0.1, 100 epochs: the upper baseline.

Published: 79.3 with a longer recipe (Caron et al. 2021, Table 2); 76 to 77 is usual for this one.""",
            settings(
                method.RESNET50 | {"views": "supervised", "epochs": 100, "batch_size": 256},
                optimizer=method.optimizer("sgd", 0.1, 1e-4, warmup_epochs=5),
            ),
        ),
        "supervised_deit_small": Recipe(
            """ImageNet, ViT-S/16 with labels, 300 epochs: DeiT's optimiser (Touvron et al. 2021, Table 9).

No clipping, and no weight decay on class token and positions, as in its code.
Published: 79.8. DeiT also mixes images (mixup, CutMix) and repeats and erases them; none of this is here.""",
            settings(
                method.VIT_SMALL_300 | {"views": "supervised"},
                views={"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "jitter_probability": 0.8},
                optimizer=method.optimizer("adamw", 2.5e-4, 0.05, warmup_epochs=5)
                | {"start_learning_rate": 1e-6, "min_learning_rate": 1e-5, "decayed": "not_tokens"},
            ),
        ),
    },
    # One view with crop and flip alone, of the same size and scale as the others' views.
    small=lambda views, transformer: settings(
        {"views": "supervised"}, views={"global_size": views.global_size, "global_scale": views.global_scale}
    ),
)
