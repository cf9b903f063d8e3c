"""Maps of attention: parity with the DINO reference, exactness, and the masks that hold a mass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from dinoscope.errors import UserError
from dinoscope.explain.attention import (
    MAX_PATCHES,
    attention_maps,
    energy_of_patches,
    map_masks,
    mass_mask,
    mean_and_heads,
    prepare,
)
from dinoscope.models.backbone import BackboneConfig, build_backbone
from dinoscope.models.resnet import ResNetBackbone
from dinoscope.models.vit import ViTBackbone, block_index, class_row
from tests.largest_tensor import largest_tensor
from tests.models.test_backbone import GOLDEN, build_golden
from tests.official_files import random_network, register_tiny

MASSES = Path(__file__).parents[1] / "data" / "golden_mass.safetensors"


def class_attention_row(vit: ViTBackbone, images: Tensor, block: int = -1) -> Tensor:
    """The class token's whole row: to itself, to registers if any, to the patches."""
    index = block_index(vit, block)
    tokens, grid = vit.embed(images)
    return class_row(vit.blocks_on(grid)[index], vit.run_blocks(tokens, stop=index))


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN)


@pytest.fixture
def vit(golden: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> ViTBackbone:
    return build_golden(golden, monkeypatch)


@pytest.fixture(scope="module")
def resnet() -> ResNetBackbone:
    torch.manual_seed(0)
    network = build_backbone(BackboneConfig("resnet18_small", 32)).eval()
    assert isinstance(network, ResNetBackbone)
    return network


# The class token's attention


@pytest.mark.parametrize("name", ["square224", "local96", "wide", "tall"])
@torch.no_grad()
def test_attention_equals_the_reference(name: str, vit: ViTBackbone, golden: dict[str, Tensor]) -> None:
    images, recorded = golden[f"vit.{name}.input"].float(), golden[f"vit.{name}.last_selfattention_cls"]
    torch.testing.assert_close(class_attention_row(vit, images), recorded, atol=1e-4, rtol=1e-3)
    maps = vit.class_attention(images, -1)
    assert maps.shape == (2, 4, images.shape[2] // 16, images.shape[3] // 16)
    torch.testing.assert_close(maps.flatten(2), recorded[:, :, 1:], atol=1e-4, rtol=1e-3)


def full_attention(vit: ViTBackbone, images: Tensor, block: int) -> Tensor:
    """The textbook: every token's q with every token's k, [b, heads, n, n], from timm's own projection."""
    tokens, _ = vit.embed(images)
    for each in vit.net.blocks[:block]:
        tokens = each(tokens)
    attention = vit.net.blocks[block].attn
    projected = attention.qkv(vit.net.blocks[block].norm1(tokens))
    b, n, _ = tokens.shape
    query, key, _ = projected.reshape(b, n, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key = attention.q_norm(query), attention.k_norm(key)
    return (query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5).softmax(dim=-1)


@pytest.mark.parametrize("block", [0, 1, 2])
@torch.no_grad()
def test_the_row_is_that_of_the_whole_matrix(block: int, vit: ViTBackbone) -> None:
    vit.double()
    images = torch.randn(2, 3, 48, 32, dtype=torch.float64)
    expected = full_attention(vit, images, block)[:, :, 0]
    torch.testing.assert_close(class_attention_row(vit, images, block), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(class_attention_row(vit, images, block - 3), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["tiny_dinov2", "tiny_registers", "tiny_heads"])
@torch.no_grad()
def test_layer_scale_registers_and_heads_are_honoured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    register_tiny(monkeypatch)
    network = random_network(name, 224).double()
    assert isinstance(network, ViTBackbone)
    patch, registers = network.patch_size, network.shape.registers
    images = torch.randn(2, 3, 3 * patch, 2 * patch, dtype=torch.float64)
    expected = full_attention(network, images, 1)[:, :, 0]
    assert expected.shape == (2, network.shape.heads, 1 + registers + 6)
    torch.testing.assert_close(class_attention_row(network, images), expected, atol=1e-12, rtol=0)
    maps = attention_maps(network, images)
    torch.testing.assert_close(maps.flatten(2), expected[:, :, 1 + registers :])
    assert maps.shape == (2, network.shape.heads, 3, 2)


@torch.no_grad()
def test_normalised_queries_and_keys_are_honoured(vit: ViTBackbone) -> None:
    attention = vit.net.blocks[-1].attn
    attention.q_norm, attention.k_norm = nn.LayerNorm(16), nn.LayerNorm(16)
    nn.init.normal_(attention.q_norm.weight)
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(class_attention_row(vit, images), full_attention(vit, images, -1)[:, :, 0])


@pytest.mark.parametrize("block", [0, -1])
@torch.no_grad()
def test_the_whole_matrix_is_never_built(block: int, vit: ViTBackbone) -> None:
    """A block's row at 640 x 640 px: 1,601 tokens, whose full matrix of 4 heads would be 41 MB.

    Nor is it by the blocks before it, which timm runs through PyTorch's fused attention.
    """
    largest = largest_tensor(lambda: class_attention_row(vit, torch.zeros(1, 3, 640, 640), block))
    assert largest <= 3 * 640 * 640  # the image itself


@pytest.mark.parametrize("block", [3, -4])
def test_a_block_that_is_not_there_is_refused(block: int, vit: ViTBackbone) -> None:
    with pytest.raises(UserError, match=rf"no block {block}: its blocks are 0 to 2.*-1 to -3"):
        attention_maps(vit, torch.zeros(1, 3, 32, 32), block)


# Maps of both kinds of backbone


def test_maps_of_a_transformer_are_its_attention(vit: ViTBackbone) -> None:
    images = torch.randn(2, 3, 32, 48)
    maps = attention_maps(vit, images)
    assert not maps.requires_grad
    assert maps.shape == (2, vit.heads, 2, 3)
    torch.testing.assert_close(maps, vit.class_attention(images, -1).detach())
    row = class_attention_row(vit, images).detach()
    torch.testing.assert_close(maps.sum(dim=(2, 3)), 1 - row[:, :, 0])


def test_the_map_of_a_resnet_is_its_feature_energy(resnet: ResNetBackbone) -> None:
    images = torch.randn(2, 3, 32, 48)
    maps = attention_maps(resnet, images)
    assert maps.shape == (2, 1, 4, 6)
    torch.testing.assert_close(maps.sum(dim=(1, 2, 3)), torch.ones(2))
    tokens = resnet(images)
    energy = tokens.patches.detach().norm(dim=-1).unflatten(1, tokens.grid)
    torch.testing.assert_close(maps[:, 0], energy / energy.sum(dim=(1, 2), keepdim=True))


def test_a_resnet_has_no_blocks(resnet: ResNetBackbone) -> None:
    with pytest.raises(UserError, match="resnet18_small has no attention blocks"):
        attention_maps(resnet, torch.zeros(1, 3, 32, 32), block=0)


def test_feature_energy_by_hand() -> None:
    patches = torch.tensor([[[[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]], [[0.0, -2.0], [6.0, 8.0], [5.0, 12.0]]]])
    expected = torch.tensor([[[[5.0, 0.0, 1.0], [2.0, 10.0, 13.0]]]]) / 31
    torch.testing.assert_close(energy_of_patches(patches), expected)


# Masks


@pytest.mark.parametrize("mass", [0.6, 0.9])
def test_masks_equal_the_reference(mass: float) -> None:
    recorded = load_file(MASSES)
    assert torch.equal(mass_mask(recorded["mass.attention"], mass), recorded[f"mass.mask_{mass}"].bool())


@pytest.mark.parametrize(
    ("mass", "kept"),
    [
        # of 4 + 3 + 2 + 1 = 10
        (0.4, [False, True, False, False]),  # 4 is enough
        (0.41, [False, True, True, False]),  # 4 is not, 4 + 3 is
        (0.7, [False, True, True, False]),
        (0.71, [True, True, True, False]),
        (1.0, [True, True, True, True]),
    ],
)
def test_mask_by_hand(mass: float, kept: list[bool]) -> None:
    attention = torch.tensor([2.0, 4.0, 3.0, 1.0], dtype=torch.float64)
    assert mass_mask(attention, mass).tolist() == kept


def test_equal_patches_are_taken_in_order_and_none_of_nothing() -> None:
    assert mass_mask(torch.ones(4), 0.5).tolist() == [True, True, False, False]
    assert mass_mask(torch.zeros(4), 0.5).tolist() == [False] * 4
    assert mass_mask(torch.tensor([0.0, 1.0]), 1.0).tolist() == [False, True]


def test_half_precision_is_summed_in_float32() -> None:
    """4,096 equal patches: a bfloat16 sum would stop growing at 256 of them."""
    attention = torch.full((4096,), 2.0**-12, dtype=torch.bfloat16)
    assert mass_mask(attention, 0.5).sum() == 2048


@pytest.mark.parametrize("mass", [0.0, -0.1, 1.01, float("nan")])
def test_a_mass_out_of_range_is_refused(mass: float) -> None:
    with pytest.raises(UserError, match=r"above 0 and at most 1, not"):
        mass_mask(torch.ones(3), mass)


attentions = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40).map(
    lambda values: torch.tensor(values, dtype=torch.float64)
)
masses = st.floats(0.001, 1)


@given(attentions, masses)
def test_a_mask_holds_the_mass_and_no_patch_too_many(attention: Tensor, mass: float) -> None:
    mask = mass_mask(attention, mass)
    total, held = attention.sum().item(), attention[mask].sum().item()
    rounding = 1e-12 * total
    assert held >= mass * total - rounding
    if mask.any():
        assert held - attention[mask].min().item() < mass * total + rounding
        assert attention[mask].min() >= attention[~mask].max() if not mask.all() else True


@given(attentions, masses, masses)
def test_a_larger_mass_keeps_what_a_smaller_one_keeps(attention: Tensor, one: float, other: float) -> None:
    small, large = mass_mask(attention, min(one, other)), mass_mask(attention, max(one, other))
    assert not (small & ~large).any()


def test_masks_of_maps_are_taken_map_by_map() -> None:
    maps = torch.rand(2, 3, 4, 5)
    masks = map_masks(maps, 0.6)
    assert masks.shape == maps.shape
    assert torch.equal(masks[1, 2].flatten(), mass_mask(maps[1, 2].flatten(), 0.6))


def test_the_mean_comes_before_the_heads() -> None:
    maps = torch.rand(2, 3, 4, 5)
    every = mean_and_heads(maps)
    torch.testing.assert_close(every[:, 0], maps.mean(dim=1))
    assert torch.equal(every[:, 1:], maps)


# Sizes


@pytest.mark.parametrize(
    ("height", "width", "size", "patch", "expected"),
    [
        (333, 500, 224, 16, (224, 336)),  # 224 x 336.3
        (500, 333, 224, 16, (336, 224)),
        (32, 32, 224, 16, (224, 224)),
        (100, 131, None, 16, (96, 128)),  # 6.25 and 8.19 patches
        (104, 120, None, 16, (96, 128)),  # 6.5 to the even 6, 7.5 to the even 8
        (5, 3, None, 8, (8, 8)),  # at least one patch
        (224, 224, 224, 16, (224, 224)),
    ],
)
def test_prepared_sizes(height: int, width: int, size: int | None, patch: int, expected: tuple[int, int]) -> None:
    image = np.full((height, width, 3), 77, np.uint8)
    prepared = prepare(image, size, patch)
    assert prepared.shape == (3, *expected)
    assert (prepared == 77).all()


def test_an_image_of_the_right_size_is_not_changed() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    assert np.array_equal(prepare(image, None, 16).permute(1, 2, 0).numpy(), image)
    assert np.array_equal(prepare(image[:, ::-1], None, 16).permute(1, 2, 0).numpy(), image[:, ::-1])


def test_too_many_patches_are_refused_before_anything_is_made() -> None:
    strip = np.zeros((1, MAX_PATCHES + 1, 3), np.uint8)
    with pytest.raises(UserError, match=f"the limit is {MAX_PATCHES}"):
        prepare(strip, 16, 16)
