"""A folder in timm's layout for model hubs, which `timm.create_model` also reads from a disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dinoscope.exporting.model_card import model_card
from dinoscope.exporting.subject import Subject
from dinoscope.exporting.timm_model import WEIGHTS, twin_arguments, write_weights
from dinoscope.features import default_crop_fraction
from dinoscope.files import write_text
from dinoscope.models.backbone import Backbone

CONFIG = "config.json"
CARD = "README.md"


def write_huggingface(folder: Path, subject: Subject) -> list[str]:
    """Write config.json, model.safetensors and README.md; return the line of Python that loads them.

    Nothing is sent anywhere. Raises UserError where timm has no such network or a file of the run is damaged,
    OSError where the folder cannot be written.
    """
    config, card = timm_config(subject.backbone), model_card(subject)
    write_weights(folder / WEIGHTS, subject)
    write_text(folder / CARD, card)
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")
    return [
        f"net = timm.create_model({f'local-dir:{folder}'!r}, pretrained=True)",
        f"# {CARD} is a model card: fill in the licence; upload with `hf upload OWNER/NAME {folder}` if you wish",
    ]


def timm_config(backbone: Backbone) -> dict[str, Any]:
    """timm's config.json: which network, and what its images must be like.

    Raises UserError where timm has no such network.
    """
    import timm

    config, arguments = backbone.config, twin_arguments(backbone.config)
    known = timm.get_pretrained_cfg(config.name)
    layers = {} if known is None else {"first_conv": known.first_conv, "classifier": known.classifier}
    transformer = "img_size" in arguments
    return {
        "architecture": config.name,
        "num_classes": 0,
        "num_features": backbone.dim,
        "global_pool": "token" if transformer else "avg",
        **({"model_args": {"img_size": config.layout_size}} if transformer else {}),
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [3, config.layout_size, config.layout_size],
            "fixed_input_size": transformer,
            "interpolation": "bicubic",
            "crop_pct": default_crop_fraction(config.layout_size),
            "crop_mode": "center",
            "mean": list(config.mean),
            "std": list(config.std),
            "num_classes": 0,
            "pool_size": None,
            **layers,
        },
    }
