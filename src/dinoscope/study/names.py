"""What methods and architectures are called in tables."""

from __future__ import annotations

from dinoscope.methods import DISPLAY

METHOD_NAMES = {
    "pixels": "Raw pixels",
    "random": "Random",
    **{key: display.title for key, display in DISPLAY.items()},
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
