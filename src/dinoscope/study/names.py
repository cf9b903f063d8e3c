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
    "vit_small_heads12_patch16_224": "ViT-S/16 (12 heads)",
    "resnet_micro": "RN-micro",
    "resnet18": "RN18",
    "resnet18_small": "RN18 (3x3 stem)",
    "resnet50": "RN50",
    "resnet50_small": "RN50 (3x3 stem)",
}
"""name in `BACKBONES` -> as the field writes it; any other keeps its own name."""

_HEAD_BATCH_NORM = {"method.head_batch_norm": (True, "without the batch norm in its head that its code has")}

ADDITIONS: dict[str, dict[str, tuple[Any, str]]] = {
    "simclr": _HEAD_BATCH_NORM,
    "moco": {
        "method.symmetric": (False, "each view is query and key in turn, as in MoCo v3"),
        "method.prediction_head": (False, "with a prediction head, as in MoCo v3"),
        "method.head_batch_norm": (False, "with batch norm in its head, as in MoCo v3"),
        "method.final_key_momentum": (0.999, "its key momentum ends elsewhere than at its paper's 0.999"),
    },
    "moco_v3": {
        "method.symmetric": (True, "only the second view is a key, as in MoCo v2"),
        "method.prediction_head": (True, "without the prediction head of its paper"),
        **_HEAD_BATCH_NORM,
    },
    "byol": _HEAD_BATCH_NORM,
    "swav": _HEAD_BATCH_NORM,
    "dino": {
        "method.balance": ("center", "its teacher is balanced otherwise than by the paper's centring"),
        "method.loss": ("cross_entropy", "trained with another loss than its paper's"),
        "method.teacher": ("ema", "its teacher is not a moving average"),
        "method.predictor": ("none", "with a predictor, which its paper does not have"),
        "method.head_activation": ("gelu", "another activation in its head than its paper's"),
        "method.head_l2": (True, "its bottleneck is not brought to length 1"),
        "method.head_weight_norm": (True, "its last layer is a plain linear map"),
        "method.koleo": (0.0, "with the KoLeo loss, which its paper does not have"),
    },
}
"""Method -> setting -> its value in the method's paper, and what is said of a row that has another."""
