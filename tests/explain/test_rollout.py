"""Attention rollout: the row that is carried along equals that of the product of whole matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dinoscope.errors import UserError
from dinoscope.explain import rollout
from dinoscope.explain.attention import attention_of_blocks
from dinoscope.explain.maps import MAPS, count_maps, map_title
from dinoscope.explain.rollout import FUSIONS, RolloutConfig, class_rollout, fuse_heads, rollout_maps
from dinoscope.models.backbone import BackboneConfig, build_backbone
from dinoscope.models.resnet import ResNetBackbone
from dinoscope.models.vit import ViTBackbone
from tests.largest_tensor import largest_tensor
from tests.official_files import micro_registers


@pytest.fixture(scope="module", params=["without registers", "with registers and layer scale"])
def vit(request: pytest.FixtureRequest) -> ViTBackbone:
    torch.manual_seed(0)
    plain = request.param == "without registers"
    network = build_backbone(BackboneConfig("vit_micro_conv8", 32)) if plain else micro_registers()
    network = network.double().eval()
    assert isinstance(network, ViTBackbone)
    assert network.net.num_prefix_tokens == (1 if plain else 5)
    for block in network.net.blocks:  # fresh weights attend evenly, which would hide mistakes
        block.attn.qkv.weight.data *= 20
    return network


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@torch.no_grad()
def product(vit: ViTBackbone, images: Tensor, config: RolloutConfig, last: int) -> Tensor:
    """The textbook: A_last ... A_start of whole matrices, [b, n, n]."""
    tokens, _ = vit.embed(images)
    result = torch.eye(tokens.shape[1], dtype=torch.float64).expand(len(images), -1, -1)
    for index, block in enumerate(vit.net.blocks):
        if config.start <= index <= last:
            b, n, _ = tokens.shape
            projected = block.attn.qkv(block.norm1(tokens)).reshape(b, n, 3, block.attn.num_heads, -1)
            query, key, _ = projected.permute(2, 0, 3, 1, 4)
            heads = (query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5).softmax(dim=-1)
            fused = {"mean": heads.mean(1), "min": heads.min(1).values, "max": heads.max(1).values}[config.fusion]
            ranks = fused.argsort(dim=-1).argsort(dim=-1)
            fused = fused * (ranks >= int(config.discard * n))
            fused = fused / fused.sum(dim=-1, keepdim=True)
            result = (config.residual * torch.eye(n, dtype=torch.float64) + (1 - config.residual) * fused) @ result
        tokens = block(tokens)
    return result


@pytest.mark.parametrize(
    ("config", "last"),
    [
        (RolloutConfig(), 2),
        (RolloutConfig(), 0),
        (RolloutConfig(start=1), 2),
        (RolloutConfig(start=2), 2),
        (RolloutConfig("min", 0.3), 2),
        (RolloutConfig("max", discard=0.5), 1),
        (RolloutConfig(residual=0.0, discard=0.9), 2),
    ],
)
@pytest.mark.parametrize("entries", [1, 100, 10**9])
def test_the_row_is_that_of_the_product_of_whole_matrices(
    config: RolloutConfig, last: int, entries: int, vit: ViTBackbone, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pieces of one row, of a few rows, and whole."""
    monkeypatch.setattr(rollout, "MAX_ENTRIES", entries)
    expected = product(vit, images, config, last)[:, 0]
    with torch.no_grad():
        row = class_rollout(vit, *vit.embed(images), last, config)
    torch.testing.assert_close(row, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(row.sum(dim=1), torch.ones(2, dtype=torch.float64))
    maps, prefix = rollout_maps(vit, images, last - 3, config), vit.net.num_prefix_tokens
    torch.testing.assert_close(maps, expected[:, None, prefix:].unflatten(-1, (4, 6)), atol=1e-12, rtol=0)


def test_one_block_without_residual_is_the_mean_attention(vit: ViTBackbone, images: Tensor) -> None:
    alone = rollout_maps(vit, images, 1, RolloutConfig(start=1, residual=0.0))
    torch.testing.assert_close(alone[:, 0], vit.class_attention(images, 1).mean(dim=1).detach())


def test_fusing_by_hand() -> None:
    heads = torch.tensor([[[[0.5, 0.3, 0.2]], [[0.1, 0.3, 0.6]]]])
    expected = {"mean": [0.3, 0.3, 0.4], "min": [0.1, 0.3, 0.2], "max": [0.5, 0.3, 0.6]}
    assert set(FUSIONS) == set(expected)
    for fusion in FUSIONS:
        values = torch.tensor(expected[fusion])
        torch.testing.assert_close(fuse_heads(heads, RolloutConfig(fusion))[0, 0], values / values.sum())
    kept = fuse_heads(heads, RolloutConfig("max", discard=0.4))[0, 0]
    torch.testing.assert_close(kept, torch.tensor([0.5, 0.0, 0.6]) / 1.1)


def largest_in_rollout(vit: ViTBackbone, side: int) -> int:
    return largest_tensor(lambda: rollout_maps(vit, torch.zeros(1, 3, side, side, dtype=torch.float64)))


def test_memory_does_not_grow_with_the_square(vit: ViTBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the side, four times the tokens: the whole matrix of a block would be sixteen times as large."""
    monkeypatch.setattr(rollout, "MAX_ENTRIES", 10_000)
    small, large = largest_in_rollout(vit, 160), largest_in_rollout(vit, 320)
    assert large <= 4.1 * small
    assert large < (40 * 40 + 1) ** 2 / 3


@pytest.mark.parametrize(
    ("block", "config", "message"),
    [
        (3, RolloutConfig(), "no block 3"),
        (-1, RolloutConfig(start=-4), "no block -4"),
        (0, RolloutConfig(start=1), "from block 1 cannot end at block 0"),
        (-1, RolloutConfig(residual=1.5), "not 1.5"),
        (-1, RolloutConfig(discard=1.0), "and 1.0"),
    ],
)
def test_settings_out_of_range(
    block: int, config: RolloutConfig, message: str, vit: ViTBackbone, images: Tensor
) -> None:
    with pytest.raises(UserError, match=message):
        rollout_maps(vit, images, block, config)


def test_a_resnet_has_nothing_to_roll_out() -> None:
    resnet = build_backbone(BackboneConfig("resnet_micro", 32)).eval()
    assert isinstance(resnet, ResNetBackbone)
    with pytest.raises(UserError, match="attention rollout needs attention blocks, and resnet_micro has none"):
        rollout_maps(resnet, torch.zeros(1, 3, 32, 32))
    assert map_title("attention", resnet) == "feature energy"


@pytest.mark.parametrize("kind", list(MAPS))
def test_every_kind_of_map_has_the_number_of_maps_it_says(kind: str, vit: ViTBackbone, images: Tensor) -> None:
    maps = MAPS[kind](vit, images, -1)
    assert maps.shape == (2, count_maps(kind, vit), 4, 6)
    assert (maps >= 0).all()
    assert map_title(kind, vit)


@torch.no_grad()
def test_all_blocks_in_one_pass_are_each_block_alone(vit: ViTBackbone, images: Tensor) -> None:
    every = list(attention_of_blocks(vit, images))
    assert len(every) == 3
    for block, maps in enumerate(every):
        torch.testing.assert_close(maps, vit.class_attention(images, block))
