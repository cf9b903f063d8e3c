"""One pass gives the maps of every block, as the slow way does that runs the network for each."""

from __future__ import annotations

import pytest
import torch

from dinoscope.explain.attention import energy_of_patches
from dinoscope.explain.gradcam import gradcam_maps
from dinoscope.explain.maps import (
    MAPS,
    attention_of_pass,
    gradcam_of_pass,
    patches_of_pass,
    rollout_of_pass,
    single_pass,
)
from dinoscope.explain.patches import patch_features
from dinoscope.explain.rollout import rollout_maps
from dinoscope.models.backbone import Backbone, BackboneConfig, build_backbone
from dinoscope.models.vit import ViTBackbone


def network(name: str, size: int) -> tuple[Backbone, torch.Tensor]:
    torch.manual_seed(3)
    backbone = build_backbone(BackboneConfig(name, image_size=size)).eval()
    for parameter in backbone.parameters():  # fresh weights attend almost evenly: make them differ
        parameter.data += 0.05 * torch.randn_like(parameter)
    return backbone, torch.randn(2, 3, size, size + 16)


NETWORKS = [("vit_micro_conv8", 32), ("vit_tiny_patch16_224", 64), ("resnet_micro", 32)]


@pytest.mark.parametrize(("name", "size"), NETWORKS)
def test_all_maps_are_those_of_the_plain_way(name: str, size: int) -> None:
    backbone, images = network(name, size)
    passed = single_pass(backbone, images)
    blocks = range(len(backbone.net.blocks)) if isinstance(backbone, ViTBackbone) else [-1]
    gradcams = gradcam_of_pass(backbone, passed)
    assert len(gradcams) == len(blocks)
    for block, gradcam in zip(blocks, gradcams, strict=True):
        close(attention_of_pass(backbone, passed, block), MAPS["attention"](backbone, images, block))
        close(gradcam, gradcam_maps(backbone, images, block))
        if isinstance(backbone, ViTBackbone):
            close(rollout_of_pass(backbone, passed, block), rollout_maps(backbone, images, block))
    patches = patches_of_pass(backbone, passed)
    close(patches, patch_features(backbone, images))
    close(energy_of_patches(patches), MAPS["energy"](backbone, images, -1))


@pytest.mark.parametrize("name", ["vit_small_patch14_reg4_dinov2"])
def test_registers_and_layer_scale(name: str) -> None:
    backbone, images = network(name, 56)
    images = images[:, :, :, :56]
    passed = single_pass(backbone, images)
    for block in (0, 5, -1):
        close(attention_of_pass(backbone, passed, block), MAPS["attention"](backbone, images, block))
    close(gradcam_of_pass(backbone, passed)[4], gradcam_maps(backbone, images, 4))
    close(patches_of_pass(backbone, passed), patch_features(backbone, images))


def close(ours: torch.Tensor, plain: torch.Tensor) -> None:
    assert ours.shape == plain.shape
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)
