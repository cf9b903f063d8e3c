"""timm's own networks with random weights, saved as the official files are, imported, and compared at native size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from dinoscope.models.pretrained import import_file


def randomised(name: str) -> Any:
    """timm's network with weights that are not at their initial values."""
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=0).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
        for key, buffer in net.named_buffers():
            if "running_" in key:
                buffer += 0.1 * torch.rand_like(buffer)
    return net


def official_registers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """dinov2's file: the class token has a position, and the registers another name; timm folds the first."""
    own = torch.randn_like(tensors["cls_token"])
    official = tensors | {
        "register_tokens": tensors["reg_token"],
        "cls_token": tensors["cls_token"] - own,
        "pos_embed": torch.cat([own, tensors["pos_embed"]], dim=1),
        "mask_token": torch.zeros(1, 384),
    }
    del official["reg_token"]
    return official


@pytest.mark.parametrize(
    ("name", "size"),
    [
        pytest.param("vit_small_patch14_dinov2", 518, marks=pytest.mark.slow),
        ("vit_small_patch14_reg4_dinov2", 518),
        ("deit_small_patch16_224", 224),
        ("resnet50", 224),
    ],
)
@torch.no_grad()
def test_features_equal_timms(name: str, size: int, tmp_path: Path) -> None:
    net = randomised(name)
    tensors = net.state_dict()
    if "reg4" in name:
        tensors = official_registers(tensors)
    elif "dinov2" in name:
        tensors = tensors | {"mask_token": torch.zeros(1, 384)}
    content = {"model": tensors | {"head.weight": torch.zeros(10, 384)}} if name.startswith("deit") else tensors
    torch.save(content, tmp_path / "official.pth")
    ours, found = import_file(tmp_path / "official.pth")
    assert found.architecture == name
    assert ours.config.layout_size == size
    images = torch.randn(1, 3, size, size)
    hidden, tokens = net.forward_features(images), ours(images)
    expected = net.forward_head(hidden)
    scale = expected.abs().max()
    torch.testing.assert_close(tokens.feature / scale, expected / scale, atol=1e-5, rtol=0)
    if tokens.cls is not None:
        patches = hidden[:, net.num_prefix_tokens :]
        torch.testing.assert_close(tokens.patches / scale, patches / scale, atol=1e-5, rtol=0)
