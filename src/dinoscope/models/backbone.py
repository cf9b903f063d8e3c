"""timm's networks behind one surface: normalised images in, `Tokens` out, at any image size.

The key names of the state dicts are those of timm, which are also those of the official DINO and DeiT files.
"""

from __future__ import annotations

from dataclasses import replace

from timm.models.resnet import BasicBlock, Bottleneck

from dinoscope.errors import UserError, lookup
from dinoscope.models.network import IMAGENET_MEAN, IMAGENET_STD, Backbone, BackboneConfig
from dinoscope.models.resnet import ResNetBackbone, ResNetShape, build_resnet, zero_residual_branches
from dinoscope.models.vit import LINEAR_BLOCKS, WIDE, ViTBackbone, ViTShape, build_vit, class_token_after

__all__ = [
    "BACKBONES",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "LINEAR_BLOCKS",
    "WIDE",
    "Backbone",
    "BackboneConfig",
    "ResNetBackbone",
    "ResNetShape",
    "ViTBackbone",
    "ViTShape",
    "build_backbone",
    "build_baseline",
    "check_backbone",
    "class_token_after",
    "without_drop_path",
    "zero_residual_branches",
]

MAX_IMAGE_SIZE = 4096
"""Side in pixels: a file of weights may claim any, and evaluations show the images at the size that it names."""

BACKBONES: dict[str, ViTShape | ResNetShape] = {
    "vit_micro_conv8": ViTShape(8, 96, 3, 3, stem="conv", mlp_ratio=2.0),
    "vit_micro_patch4_64": ViTShape(4, 96, 3, 3, mlp_ratio=2.0),
    "vit_micro_patch8_64": ViTShape(8, 96, 3, 3, mlp_ratio=2.0),
    "vit_micro_patch16_64": ViTShape(16, 96, 3, 3, mlp_ratio=2.0),
    "vit_tiny_patch4_32": ViTShape(4, 192, 12, 3),
    "vit_tiny_patch8_64": ViTShape(8, 192, 12, 3),
    "vit_tiny_patch8_224": ViTShape(8, 192, 12, 3),
    "vit_tiny_patch16_224": ViTShape(16, 192, 12, 3),
    "vit_small_patch4_32": ViTShape(4, 384, 12, 6),
    "vit_small_patch8_64": ViTShape(8, 384, 12, 6),
    "vit_small_patch8_224": ViTShape(8, 384, 12, 6),
    "vit_small_patch16_224": ViTShape(16, 384, 12, 6),
    "vit_base_patch8_224": ViTShape(8, 768, 12, 12),
    "vit_base_patch16_224": ViTShape(16, 768, 12, 12),
    "deit_tiny_patch16_224": ViTShape(16, 192, 12, 3),
    "deit_small_patch16_224": ViTShape(16, 384, 12, 6),
    "deit_base_patch16_224": ViTShape(16, 768, 12, 12),
    "vit_tiny_heads12_patch16_224": ViTShape(16, 192, 12, 12),  # solo-learn's ViT-Ti of MoCo v3
    "vit_small_heads12_patch16_224": ViTShape(16, 384, 12, 12),  # MoCo v3's ViT-S
    "vit_small_patch14_dinov2": ViTShape(14, 384, 12, 6, layer_scale=1e-5, token_std=1e-6),
    "vit_base_patch14_dinov2": ViTShape(14, 768, 12, 12, layer_scale=1e-5, token_std=1e-6),
    "vit_large_patch14_dinov2": ViTShape(14, 1024, 24, 16, layer_scale=1e-5, token_std=1e-6),
    "vit_small_patch14_reg4_dinov2": ViTShape(14, 384, 12, 6, layer_scale=1e-5, registers=4, token_std=1e-6),
    "vit_base_patch14_reg4_dinov2": ViTShape(14, 768, 12, 12, layer_scale=1e-5, registers=4, token_std=1e-6),
    "vit_large_patch14_reg4_dinov2": ViTShape(14, 1024, 24, 16, layer_scale=1e-5, registers=4, token_std=1e-6),
    "resnet_micro": ResNetShape(BasicBlock, (1, 1, 1, 1), width=32, stem_stride=2),
    "resnet18": ResNetShape(BasicBlock, (2, 2, 2, 2)),
    "resnet18_small": ResNetShape(BasicBlock, (2, 2, 2, 2), stem_stride=1),
    "resnet50": ResNetShape(Bottleneck, (3, 4, 6, 3)),
    "resnet50_small": ResNetShape(Bottleneck, (3, 4, 6, 3), stem_stride=1),
}


def build_backbone(config: BackboneConfig) -> Backbone:
    """Build the network with fresh weights.

    Raises UserError for a name that is not in `BACKBONES`, naming the nearest ones.
    """
    shape = check_backbone(config)
    return build_vit(config, shape) if isinstance(shape, ViTShape) else build_resnet(config, shape)


def build_baseline(config: BackboneConfig) -> Backbone:
    """Build the network with fresh weights to compare trained ones with: every residual branch counts in full.

    Training may start from branches of nearly 0 (DINOv2's layer scale of 1e-5), which would leave the patch projection
    and the positions alone. Raises UserError as `build_backbone` does.
    """
    shape = check_backbone(config)
    if isinstance(shape, ViTShape):
        layer_scale = 1.0 if shape.layer_scale else 0.0
        return build_vit(config, replace(shape, layer_scale=layer_scale, token_std=ViTShape.token_std))
    return build_resnet(config, shape)


def check_backbone(config: BackboneConfig) -> ViTShape | ResNetShape:
    """Return the shape of the network, or refuse what cannot be built without building anything.

    Raises UserError for a name that is not in `BACKBONES`, an image size that its patches do not fill, or one outside
    of 1 to `MAX_IMAGE_SIZE`.
    """
    shape = lookup("backbone", config.name, BACKBONES)
    for size in (config.image_size, config.layout_size):
        if not 1 <= size <= MAX_IMAGE_SIZE:
            raise UserError(f"{config.name} for images of {size} px; allowed: 1 to {MAX_IMAGE_SIZE} px")
    if isinstance(shape, ViTShape) and config.layout_size % shape.patch:
        raise UserError(
            f"{config.name} needs an image size that is a multiple of its patch of {shape.patch} px; "
            f"{config.layout_size} is not (nearest: {round(config.layout_size / shape.patch) * shape.patch})"
        )
    return shape


def without_drop_path(config: BackboneConfig) -> BackboneConfig:
    """Return the same network without stochastic depth: the teacher's, and what is exported."""
    return replace(config, drop_path=0.0)
