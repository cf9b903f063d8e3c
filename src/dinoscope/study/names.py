"""What methods and architectures are called in tables, and what is said of a method that is not its paper's."""

from __future__ import annotations

from typing import Any

METHOD_NAMES = {
    "pixels": "Raw pixels",
    "random": "Random",
    "supervised": "Supervised",
    "simclr": "SimCLR",
    "moco": "MoCo v2",
    "moco_v3": "MoCo v3",
    "byol": "BYOL",
    "swav": "SwAV",
    "dino": "DINO",
}
"""name of a method or baseline -> as the field writes it, in the order of the rows."""

ARCHITECTURE_NAMES = {
    "vit_micro_conv8": "ViT-micro/8",
    "vit_micro_patch4_64": "ViT-micro/4 (linear)",
    "vit_micro_patch8_64": "ViT-micro/8 (linear)",
    "vit_micro_patch16_64": "ViT-micro/16 (linear)",
    "vit_tiny_patch4_32": "ViT-Ti/4",
    "vit_tiny_patch8_64": "ViT-Ti/8",
    "vit_tiny_patch8_224": "ViT-Ti/8",
    "vit_tiny_patch16_224": "ViT-Ti/16",
    "vit_small_patch4_32": "ViT-S/4",
    "vit_small_patch8_64": "ViT-S/8",
    "vit_small_patch8_224": "ViT-S/8",
    "vit_small_patch16_224": "ViT-S/16",
    "vit_base_patch8_224": "ViT-B/8",
    "vit_base_patch16_224": "ViT-B/16",
    "deit_tiny_patch16_224": "ViT-Ti/16",
    "deit_small_patch16_224": "ViT-S/16",
    "deit_base_patch16_224": "ViT-B/16",
    "resnet_micro": "RN-micro",
    "resnet18": "RN18",
    "resnet18_small": "RN18 (3x3 stem)",
    "resnet50": "RN50",
    "resnet50_small": "RN50 (3x3 stem)",
}
"""name in `BACKBONES` -> as the field writes it; any other keeps its own name."""

ADDITIONS: dict[str, tuple[Any, str]] = {
    "method.balance": ("center", "its teacher is balanced otherwise than by the paper's centring"),
    "method.loss": ("cross_entropy", "trained with another loss than its paper's"),
    "method.teacher": ("ema", "its teacher is not a moving average"),
    "method.predictor": ("none", "with a predictor, which its paper does not have"),
    "method.head_activation": ("gelu", "another activation in its head than its paper's"),
    "method.head_l2": (True, "its bottleneck is not brought to length 1"),
    "method.head_weight_norm": (True, "its last layer is a plain linear map"),
    "method.koleo": (0.0, "with the KoLeo loss, which its paper does not have"),
}
"""Setting -> its value in the method's paper, and what is said of a row that has another: not the plain method."""
