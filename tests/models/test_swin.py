"""Swin Transformers: timm's own network built for each size, maps that they have, and those that they refuse."""

from __future__ import annotations

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor

from dinoscope.errors import UserError
from dinoscope.explain.maps import energy_maps
from dinoscope.explain.patches import patch_colors, patch_features
from dinoscope.explain.rollout import rollout_maps
from dinoscope.export.programs import Program, check, trace
from dinoscope.models import backbone as backbones
from dinoscope.models.backbone import BackboneConfig, build_backbone
from dinoscope.models.swin import SwinBackbone, SwinShape

TINY = SwinShape(2, 8, (2, 2, 2), (1, 2, 2), window=5)
"""A window that divides no map, so that all of them are padded."""


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backbones.BACKBONES, "swin_test", TINY)


def built(size: int, seed: int = 0, name: str = "swin_test") -> SwinBackbone:
    """Weights far from the first ones, so that positions count."""
    torch.manual_seed(seed)
    backbone = build_backbone(BackboneConfig(name, size)).double().eval()
    assert isinstance(backbone, SwinBackbone)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return backbone


def cut(table: Tensor, window: int, rows: int, columns: int) -> Tensor:
    """The rows of a table of relative positions for a smaller window, one offset at a time."""
    whole = 2 * window - 1
    return torch.stack(
        [
            table[(down + window - 1) * whole + right + window - 1]
            for down in range(1 - rows, rows)
            for right in range(1 - columns, columns)
        ]
    )


@pytest.mark.parametrize("size", [(40, 40), (32, 32), (36, 52), (16, 16), (12, 40), (8, 4), (80, 80)])
@torch.no_grad()
def test_any_size_equals_timms_network_built_for_it(size: tuple[int, int]) -> None:
    backbone = built(40)  # maps of 20, 10 and 5 cells: each window is whole
    theirs = SwinTransformer(
        size, 2, num_classes=0, embed_dim=8, depths=TINY.depths, num_heads=TINY.heads, window_size=5
    ).double()
    weights = backbone.net.state_dict()
    for name, tensor in theirs.state_dict().items():
        if name.endswith("bias_table"):
            stage = int(name.split(".")[1])
            sides = [-(-(side // 2) // 2**stage) for side in size]
            weights[name] = cut(weights[name], 5, min(sides[0], 5), min(sides[1], 5))
            assert weights[name].shape == tensor.shape
    theirs.load_state_dict(weights, strict=True)
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    cells, tokens = theirs.eval().forward_features(images), backbone(images)
    torch.testing.assert_close(tokens.patches, cells.flatten(1, 2), atol=1e-10, rtol=0)
    assert tokens.grid == cells.shape[1:3]
    torch.testing.assert_close(tokens.feature, theirs.forward_head(cells, pre_logits=True), atol=1e-10, rtol=0)


@torch.no_grad()
def test_weights_for_a_smaller_layout_give_the_same_there() -> None:
    large = built(40)
    small = built(12, seed=1)
    small.net.load_state_dict(large.weights_for(small.config), strict=True)
    assert small.net.layers[2].blocks[0].attn.window_size == (2, 2)  # pyright: ignore
    for size in (12, 8):
        images = torch.randn(2, 3, size, size, dtype=torch.float64)
        torch.testing.assert_close(small(images).patches, large(images).patches, atol=1e-10, rtol=0)
    larger = small.weights_for(large.config)
    assert {name: value.shape for name, value in larger.items()} == {
        name: value.shape for name, value in large.net.state_dict().items()
    }


@torch.no_grad()
def test_an_image_beside_the_first_patch_is_padded_with_zeros() -> None:
    backbone, images = built(40), torch.randn(1, 3, 23, 31, dtype=torch.float64)
    padded = torch.zeros(1, 3, 24, 32, dtype=torch.float64)
    padded[:, :, :23, :31] = images
    torch.testing.assert_close(backbone(images).patches, backbone(padded).patches)
    with pytest.raises(UserError, match="multiple of its patch of 2 px"):
        build_backbone(BackboneConfig("swin_test", 31))


def test_gradients_with_recomputed_activations_are_the_same() -> None:
    backbone, images = built(40), torch.randn(2, 3, 24, 24, dtype=torch.float64)
    gradients: list[Tensor] = []
    for backbone.checkpoint_activations in (False, True):
        backbone.zero_grad()
        backbone(images).patches.square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in backbone.parameters() if p.grad is not None]))
    assert gradients[0].norm() > 0
    torch.testing.assert_close(gradients[0], gradients[1])


@torch.no_grad()
def test_the_linear_feature_is_the_mean_cells_of_the_last_four_blocks() -> None:
    backbone, images = built(40), torch.randn(2, 3, 40, 40, dtype=torch.float64)
    stages = list(backbone.net.layers)
    cells = stages[0](backbone.net.patch_embed(images))
    third = stages[1].blocks[0](stages[1].downsample(cells))  # pyright: ignore
    second = stages[1].blocks[1](third)  # pyright: ignore
    first = stages[2].blocks[0](stages[2].downsample(second))  # pyright: ignore
    last = backbone.net.norm(stages[2].blocks[1](first))  # pyright: ignore
    expected = [third, second, backbone.net.norm(first), last]
    feature = backbone.probe_features(images)
    torch.testing.assert_close(feature, torch.cat([each.mean(dim=(1, 2)) for each in expected], dim=1))
    assert feature.shape[1] == backbone.probe_dim == 16 + 16 + 32 + 32
    assert backbone.probe_title == "mean cells of the last 4 blocks"


@torch.no_grad()
def test_maps_that_need_no_attention() -> None:
    backbone, images = build_backbone(BackboneConfig("swin_micro", 32)).eval(), torch.randn(1, 3, 32, 48)
    assert patch_colors(list(patch_features(backbone, images)))[0].colors.shape[:2] == (4, 6)
    assert energy_maps(backbone, images).shape[-2:] == (4, 6)
    assert backbone.class_attention is None
    with pytest.raises(UserError, match="attention rollout needs attention blocks, and swin_micro has none"):
        rollout_maps(backbone, images)


def test_parameters_are_the_published_ones() -> None:
    """Millions without a classifier: Liu et al. 2021, Table 1 has 29, 50 and 88 with one of 1000 classes."""
    counted = {}
    with torch.device("meta"):
        for size in ("tiny", "small", "base"):
            backbone = build_backbone(BackboneConfig(f"swin_{size}_patch4_window7_224"))
            assert backbone.patch_size == 32
            classifier = 1000 * (backbone.dim + 1)
            counted[size] = round((sum(each.numel() for each in backbone.parameters()) + classifier) / 1e6)
    assert counted == {"tiny": 28, "small": 50, "base": 88}


def test_a_traced_program_takes_batches_of_the_networks_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backbones.BACKBONES, "swin_short", SwinShape(4, 8, (2, 1), (1, 2), window=3))
    program = Program(build_backbone(BackboneConfig("swin_short", 32)).eval())
    traced = trace(program).module()
    check(program, lambda images: [output.numpy() for output in traced(torch.from_numpy(images))])
    assert program.line("net(images)").endswith("of 32 px")
