"""Supervised training with cross-entropy: the upper baseline."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from dinoscope.data.mixing import Mixing, mixed, partners, shares
from dinoscope.losses.dino import at_least_float32
from dinoscope.methods import method
from dinoscope.methods.method import Method, MethodConfig, Outputs, Recipe, RunShape, by_view, settings, view_features
from dinoscope.models.backbone import BackboneConfig, build_backbone
from dinoscope.types import Step, StepOutput, Views


@dataclass(frozen=True)
class SupervisedConfig(MethodConfig):
    """Settings of supervised training.

    label_smoothing: share of the target that is spread over all classes (Szegedy et al. 2016; DeiT uses 0.1).
    mixup: alpha of the Beta distribution from which the share of an image is drawn that is blended with another one,
        labels too (Zhang et al. 2018); 0 for none. DeiT takes 0.8.
    cutmix: the same for a box of another image that is put in its place (Yun et al. 2019). DeiT takes 1.
    mix_probability: of a view being mixed.
    mix_switch: probability of CutMix, if both are on.
    head_std: standard deviation of the classifier's first weights; biases are 0. MAE's fine-tuning takes 2e-5.
    """

    label_smoothing: float = 0.1
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_probability: float = 1.0
    mix_switch: float = 0.5
    head_std: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be from 0 to 1 (1 excluded), not {self.label_smoothing}")
        for name in ("mix_probability", "mix_switch"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, not {getattr(self, name)}")
        for name in ("mixup", "cutmix", "head_std"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")

    @property
    def mixing(self) -> Mixing | None:
        """How views are mixed; None if they are not."""
        if not (self.mixup or self.cutmix) or not self.mix_probability:
            return None
        return Mixing(self.mixup, self.cutmix, self.mix_probability, self.mix_switch)

    def faults(self, run: RunShape) -> Iterator[str]:
        if run.classes < 2:
            yield "supervised training needs labels: give --data a folder with one sub-folder per class, two or more"
        if self.mixing is not None and run.micro_batch % 2:
            yield (
                f"--method.mixup and --method.cutmix mix pairs of images, and --batch-size {run.batch_size} leaves "
                f"{run.micro_batch} for a forward: choose one that leaves an even number"
            )


class Supervised(Method):
    """A linear classifier on the image feature, trained together with the network; every view is a sample."""

    def __init__(self, config: SupervisedConfig, backbone: BackboneConfig, classes: int) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(backbone)
        self.classifier = nn.Linear(self.backbone.dim, classes)
        nn.init.trunc_normal_(self.classifier.weight, std=config.head_std)
        nn.init.zeros_(self.classifier.bias)
        self.mixing = config.mixing

    @property
    def classifier_prefix(self) -> str:
        return "classifier."

    def encode(self, views: Views) -> Outputs:
        """Return logits and features of all views, [views, batch, ...], and the labels, [1, batch].

        Of mixed views also the labels of the other images, [1, batch], and the shares of the own, [views, batch].
        """
        assert views.labels is not None, "`SupervisedConfig.faults` refuses images without labels"
        mixes = views.mixes
        features = view_features(self.backbone, views) if mixes is None else self._mixed_features(views, mixes)
        outputs = by_view({"logits": self.classifier(features), "features": features}, views)
        outputs |= {"labels": views.labels[None]}
        if mixes is None:
            return outputs
        sizes = [group.shape[-1] for group in _groups(views) for _ in group]
        own = torch.cat([shares(mixes[view : view + 1], size) for view, size in enumerate(sizes)])
        return outputs | {"other_labels": partners(views.labels[None]), "shares": own}

    def _mixed_features(self, views: Views, mixes: Float[Tensor, "v b 5"]) -> Float[Tensor, "rows d"]:
        rows, first = list[Tensor](), 0
        for group in _groups(views):
            images = mixed(self.backbone.normalize(group), mixes[first : first + len(group)])
            rows.append(self.backbone.feature(images.flatten(0, 1)))
            first += len(group)
        return torch.cat(rows)

    def loss(self, outputs: Outputs, step: Step) -> StepOutput:
        """Return cross-entropy with smoothed labels, mean over images and views.

        The target of a mixed view is the mean of two smoothed labels by their shares, so the loss is that of the two.
        Accuracy is of the label with the larger share.
        """
        logits, smoothing = at_least_float32(outputs["logits"]), self.config.label_smoothing
        target = outputs["labels"].expand(len(logits), -1)
        if "shares" in outputs:
            other, own = outputs["other_labels"].expand(len(logits), -1), outputs["shares"].to(logits.dtype)
            rows = [
                F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none", label_smoothing=smoothing)
                for labels in (target, other)
            ]
            loss = (own.flatten() * rows[0] + (1 - own.flatten()) * rows[1]).mean()
            target = torch.where(own >= 0.5, target, other)
        else:
            loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), label_smoothing=smoothing)
        correct = (logits.detach().argmax(dim=-1) == target).float().mean()
        return StepOutput(loss, {"training_top1": 100 * correct})


def _groups(views: Views) -> list[UInt8[Tensor, "g b c h w"]]:
    return [views.global_views] if views.local_views is None else [views.global_views, views.local_views]


MIXED = {"mixup": 0.8, "cutmix": 1.0}
"""DeiT's."""

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
Published: 79.8, with mixed and erased images: `deit_small`.""",
            settings(
                method.VIT_SMALL_300 | {"views": "supervised"},
                views={"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "jitter_probability": 0.8},
                optimizer=method.optimizer("adamw", 2.5e-4, 0.05, warmup_epochs=5)
                | {"start_learning_rate": 1e-6, "min_learning_rate": 1e-5, "decayed": "not_tokens"},
            ),
        ),
        "deit_small": Recipe(
            """ImageNet, ViT-S/16 with labels, 300 epochs: DeiT (Touvron et al. 2021), the fair opponent in tables.

Mixup 0.8, CutMix 1, RandAugment 9, erasing 0.25, label smoothing 0.1. Published: 79.8.
Without its three repetitions of each image; --views.num-global 3 --batch-size 342 comes close to them.""",
            settings(
                method.VIT_SMALL_300 | {"views": "supervised"},
                method=MIXED,
                views={"randaugment": 9, "erasing": 0.25},
                optimizer=method.optimizer("adamw", 2.5e-4, 0.05, warmup_epochs=5)
                | {"start_learning_rate": 1e-6, "min_learning_rate": 1e-5, "decayed": "not_tokens"},
            ),
        ),
        "finetune": Recipe(
            """All weights of a trained model on few labelled images, 20 epochs, layer-wise decay 0.75.

dinoscope finetune --model MODEL --data FOLDER --out OUT""",
            settings(
                {"views": "supervised", "epochs": 20, "batch_size": 64, "drop_path": 0.0},
                views={"global_scale": (0.3, 1.0)},
                optimizer=method.optimizer("adamw", 2e-3, 0.05, warmup_epochs=2) | {"layer_decay": 0.75},
            ),
        ),
        "finetune_dino": Recipe(
            """CIFAR and other transfers, ViT-S/16, 1000 epochs: as DINO's authors fine-tune (issue 81), by DeiT's code.

dinoscope finetune --recipe finetune_dino --model dino_vits16 --data cifar10 --image-size 224 --out OUT
AdamW at 7.5e-6 for a batch of 768, mixup 0.8, CutMix 1, RandAugment 9, drop path 0.1, no layer-wise decay.
Published: 99.0 on CIFAR-10, 90.5 on CIFAR-100 (Caron et al. 2021, Table 6).""",
            settings(
                {"views": "supervised", "epochs": 1000, "batch_size": 768},
                method=MIXED,
                views={"randaugment": 9},
                optimizer=method.optimizer("adamw", 7.5e-6, 0.05, warmup_epochs=5)
                | {"scaling": "none", "start_learning_rate": 1e-6, "min_learning_rate": 1e-6, "decayed": "not_tokens"},
            ),
        ),
        "finetune_mae": Recipe(
            """ImageNet, ViT-B/16, 100 epochs, layer decay 0.65: as MAE's authors fine-tune (He et al. 2022, Table 9).

dinoscope finetune --recipe finetune_mae --model MODEL --data imagenet --out OUT
Here the class token is classified, in MAE the mean of the patches after a norm of its own: 83.6.""",
            settings(
                {"backbone": "vit_base_patch16_224", "views": "supervised", "epochs": 100, "batch_size": 1024},
                method=MIXED | {"head_std": 2e-5},
                views={"randaugment": 9, "erasing": 0.25},
                optimizer=method.optimizer("adamw", 5e-4, 0.05, warmup_epochs=5)
                | {"min_learning_rate": 1e-6, "layer_decay": 0.65},
            ),
        ),
    },
    # One view with crop and flip alone, of the same size and scale as the others' views.
    small=lambda views, transformer: settings(
        {"views": "supervised"}, views={"global_size": views.global_size, "global_scale": views.global_scale}
    ),
)
