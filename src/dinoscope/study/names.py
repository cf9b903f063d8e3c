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
