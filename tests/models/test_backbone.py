"""The backbones: parity with the DINO reference, any image size, and errors for the person."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from dinoscope.errors import UserError
from dinoscope.model_names import random_backbone
from dinoscope.models import backbone as backbones
from dinoscope.models.backbone import BACKBONES, BackboneConfig, build_backbone, build_baseline, zero_residual_branches
from dinoscope.models.vit import ViTBackbone, ViTShape, resized_position_embedding
from tests.official_files import random_network, register_tiny

GOLDEN = Path(__file__).parents[1] / "data" / "golden_backbone.safetensors"
SMALL = [name for name in BACKBONES if "tiny" in name or "micro" in name or "resnet18" in name]


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN)


@pytest.fixture
def reference(golden: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> ViTBackbone:
    """The network that the numbers were recorded from."""
    return build_golden(golden, monkeypatch)


def build_golden(golden: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> ViTBackbone:
    monkeypatch.setitem(backbones.BACKBONES, "golden", ViTShape(patch=16, width=64, depth=3, heads=4))
    network = build_backbone(BackboneConfig("golden")).eval()
    assert isinstance(network, ViTBackbone)
    weights = {name.removeprefix("backbone."): value for name, value in golden.items() if "backbone." in name}
    network.net.load_state_dict(weights, strict=True)
    return network


@pytest.mark.parametrize("name", ["square224", "local96", "wide", "tall"])
@torch.no_grad()
def test_tokens_equal_the_reference(name: str, reference: ViTBackbone, golden: dict[str, Tensor]) -> None:
    images = golden[f"vit.{name}.input"].float()
    tokens = reference(images)
    assert tokens.cls is not None
    torch.testing.assert_close(tokens.cls, golden[f"vit.{name}.cls"], atol=1e-4, rtol=0)
    torch.testing.assert_close(tokens.patches, golden[f"vit.{name}.patch_tokens_last"], atol=1e-4, rtol=0)
    assert tokens.grid == (images.shape[2] // 16, images.shape[3] // 16)


@torch.no_grad()
def test_class_tokens_of_the_last_blocks_equal_the_reference(reference: ViTBackbone, golden: dict[str, Tensor]) -> None:
    tokens, _ = reference.embed(golden["vit.square224.input"].float())
    features = [reference.net.norm(reference.run_blocks(tokens, stop))[:, 0] for stop in (1, 2, 3)]
    recorded = golden["vit.square224.linear_features_4blocks"]
    torch.testing.assert_close(torch.cat(features, dim=1), recorded, atol=1e-4, rtol=0)
    ours = reference.probe_features(golden["vit.square224.input"].float())
    torch.testing.assert_close(ours, recorded, atol=1e-4, rtol=0)
    assert reference.probe_dim == recorded.shape[1] == 3 * 64


@torch.no_grad()
def test_linear_features_of_each_family(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(2, 3, 32, 32)
    monkeypatch.setitem(backbones.BACKBONES, "deep", ViTShape(patch=16, width=24, depth=6, heads=2))
    monkeypatch.setitem(backbones.BACKBONES, "wide", ViTShape(patch=16, width=768, depth=2, heads=12))
    deep = build_backbone(BackboneConfig("deep", 32)).eval()
    assert isinstance(deep, ViTBackbone)
    last_four = [deep.net.norm(deep.run_blocks(deep.embed(images)[0], stop))[:, 0] for stop in (3, 4, 5, 6)]
    torch.testing.assert_close(deep.probe_features(images), torch.cat(last_four, dim=1))
    wide = build_backbone(BackboneConfig("wide", 32)).eval()
    tokens = wide(images)
    assert tokens.cls is not None
    expected = torch.cat([tokens.cls, tokens.patches.mean(dim=1)], dim=1)
    torch.testing.assert_close(wide.probe_features(images), expected)
    resnet = build_backbone(BackboneConfig("resnet18_small", 32)).eval()
    torch.testing.assert_close(resnet.probe_features(images), resnet(images).patches.mean(dim=1))
    assert [network.probe_dim for network in (deep, wide, resnet)] == [4 * 24, 2 * 768, 512]


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_every_small_backbone_takes_images_that_are_not_square(name: str) -> None:
    network = build_backbone(BackboneConfig(name, image_size=64)).eval()
    rows, columns = 3, 5
    tokens = network(torch.randn(2, 3, rows * network.patch_size, columns * network.patch_size))
    assert tokens.grid == (rows, columns)
    assert tokens.patches.shape == (2, rows * columns, network.dim)
    assert tokens.feature.shape == (2, network.dim)
    assert (tokens.cls is None) == name.startswith(("resnet", "airbench"))


def test_the_micro_networks_differ_in_the_patch_alone() -> None:
    """Parameters: those of the patch projection and of one position a cell; the blocks are the same."""
    sizes = {patch: build_backbone(BackboneConfig(f"vit_micro_patch{patch}_64", 64)) for patch in (4, 8, 16)}
    shapes = {
        patch: {name: tuple(value.shape) for name, value in network.net.state_dict().items()}
        for patch, network in sizes.items()
    }
    outside = ("patch_embed.proj.weight", "pos_embed")
    for patch, network in sizes.items():
        assert network.patch_size == patch
        assert shapes[patch]["patch_embed.proj.weight"] == (96, 3, patch, patch)
        assert shapes[patch]["pos_embed"] == (1, 1 + (64 // patch) ** 2, 96)
        assert {name: shape for name, shape in shapes[patch].items() if name not in outside} == {
            name: shape for name, shape in shapes[8].items() if name not in outside
        }


@torch.no_grad()
def test_the_small_stem_keeps_sixteen_times_as_many_cells() -> None:
    image = torch.randn(1, 3, 32, 32)
    assert build_backbone(BackboneConfig("resnet18", 32)).eval()(image).grid == (1, 1)
    assert build_backbone(BackboneConfig("resnet18_small", 32)).eval()(image).grid == (4, 4)


@torch.no_grad()
def test_activation_checkpointing_changes_neither_tokens_nor_gradients(reference: ViTBackbone) -> None:
    images = torch.randn(2, 3, 32, 48)
    gradients: list[Tensor] = []
    for reference.checkpoint_activations in (False, True):
        with torch.enable_grad():
            reference(images).feature.square().sum().backward()
        gradients.append(reference.net.cls_token.grad.clone())
        reference.zero_grad()
    torch.testing.assert_close(gradients[0], gradients[1])


def test_normalize_by_hand() -> None:
    network = build_backbone(BackboneConfig("vit_micro_conv8", 32, mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25)))
    image = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    # 0 -> (0 - 0) / 1; 255 -> (1 - 0.5) / 0.5; 51 -> (0.2 - 1) / 0.25
    expected = torch.tensor([0.0, 1.0, -3.2]).view(1, 3, 1, 1)
    torch.testing.assert_close(network.normalize(image), expected)


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(UserError, match="vit_small_patch16_224"):
        build_backbone(BackboneConfig("vit_smal_patch16"))


def test_an_image_size_beside_the_patch_is_told_the_nearest() -> None:
    with pytest.raises(UserError, match=r"multiple of its patch of 16 px; 100 is not \(nearest: 96\)"):
        build_backbone(BackboneConfig("vit_tiny_patch16_224", image_size=100))


@pytest.mark.parametrize("name", ["vit_micro_conv8", "tiny_dinov2", "tiny_registers"])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_class_token_alone_equals_the_whole_forward(size, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values, gradients and the random numbers of stochastic depth."""
    register_tiny(monkeypatch)
    image_size = 32 if name == "vit_micro_conv8" else 28
    backbone = random_network(name, image_size, drop_path=0.5).double().train()
    images = torch.randn(6, 3, *size, dtype=torch.float64)
    results = []
    for run in (lambda: backbone(images).feature, lambda: backbone.feature(images)):
        backbone.zero_grad()
        torch.manual_seed(1)
        feature = run()
        feature.square().sum().backward()
        results.append([feature, *(parameter.grad for parameter in backbone.parameters())])
    for whole, alone in zip(*results, strict=True):
        torch.testing.assert_close(alone, whole, atol=1e-10, rtol=1e-8)


def test_a_resnet_gives_its_pooled_feature() -> None:
    backbone = build_backbone(BackboneConfig("resnet18_small", image_size=32)).eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(backbone.feature(images), backbone(images).feature)


# Fresh weights


def last_norms(network: torch.nn.Module) -> list[Tensor]:
    """The factors of the last batch norm of every block of resnet_micro, which has basic blocks."""
    return [tensor for name, tensor in network.named_parameters() if name.endswith("bn2.weight")]


@torch.no_grad()
def test_the_residual_branches_of_a_fresh_resnet_count_unless_zeroed() -> None:
    network = build_backbone(BackboneConfig("resnet_micro", 32)).eval()
    images = torch.randn(2, 3, 32, 32)
    feature = network.feature(images)
    assert all((factor == 1).all() for factor in last_norms(network))
    network.net.layer4[0].conv1.weight.mul_(2)  # pyright: ignore
    assert not torch.allclose(network.feature(images), feature)
    zero_residual_branches(network)
    assert len(last_norms(network)) == 4
    assert not any(factor.any() for factor in last_norms(network))


@torch.no_grad()
def test_a_random_baseline_counts_every_branch_whatever_training_starts_from(monkeypatch: pytest.MonkeyPatch) -> None:
    register_tiny(monkeypatch)
    config, images = BackboneConfig("tiny_registers", 28), torch.rand(4, 3, 28, 28)
    monkeypatch.setitem(
        backbones.BACKBONES, config.name, ViTShape(14, 64, 2, 1, layer_scale=1e-5, registers=4, token_std=1e-6)
    )
    trained, baseline = build_backbone(config).eval(), build_baseline(config).eval()
    assert isinstance(trained, ViTBackbone)
    assert isinstance(baseline, ViTBackbone)
    assert (trained.net.blocks[0].ls1.gamma == 1e-5).all()  # pyright: ignore
    assert (baseline.net.blocks[0].ls1.gamma == 1).all()  # pyright: ignore
    assert trained.net.cls_token.std() < 2e-6  # pyright: ignore
    # The standard deviation over 64 and 256 numbers is within 4 standard errors of 0.02.
    assert baseline.net.cls_token.std().item() == pytest.approx(0.02, rel=4 / 128**0.5)  # pyright: ignore
    assert baseline.net.reg_token.std().item() == pytest.approx(0.02, rel=4 / 512**0.5)  # pyright: ignore
    apart, together = (torch.pdist(network.feature(images)) for network in (random_backbone(config), trained))
    assert apart.min() > 100 * together.max()


def test_the_class_token_is_drawn_as_dino_draws_it_and_moves_no_other_weight() -> None:
    """0.02 (its vision_transformer.py); timm's 1e-6 is DINOv2's."""
    torch.manual_seed(0)
    network = build_backbone(BackboneConfig("vit_tiny_patch16_224", 32))
    after = torch.rand(1)
    torch.manual_seed(0)
    timm_s = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32).state_dict()
    ours = network.net.state_dict()
    assert torch.equal(ours["pos_embed"], timm_s["pos_embed"])
    torch.testing.assert_close(ours["cls_token"], timm_s["cls_token"] * 2e4)
    assert torch.equal(ours["blocks.11.mlp.fc2.weight"], timm_s["blocks.11.mlp.fc2.weight"])
    assert torch.equal(after, torch.rand(1))


# Registers and layer scale


@torch.no_grad()
def test_registers_are_no_patches_and_have_no_position(monkeypatch: pytest.MonkeyPatch) -> None:
    register_tiny(monkeypatch)
    backbone = random_network("tiny_registers", 56)
    assert isinstance(backbone, ViTBackbone)
    images = torch.randn(2, 3, 42, 70)
    hidden, grid = backbone.embed(images)
    assert (hidden.shape, grid) == ((2, 1 + 4 + 3 * 5, 64), (3, 5))
    torch.testing.assert_close(hidden[0, 0], backbone.net.cls_token[0, 0])
    torch.testing.assert_close(hidden[1, 1:5], backbone.net.reg_token[0])
    assert backbone(images).patches.shape == (2, 15, 64)
    backbone.net.reg_token.add_(1.0)
    assert not torch.allclose(backbone.embed(images)[0], hidden)


def test_positions_are_resized_by_the_rule_they_were_trained_with() -> None:
    """Antialiased, exactly to the grid: on a ramp the cell centres' own values, away from the edges."""
    ramp = (torch.arange(16.0) + 0.5).view(1, 1, 16).expand(1, 16, 16).reshape(1, 256, 1)
    half = resized_position_embedding(ramp, 0, (16, 8), antialias=True).view(16, 8)
    torch.testing.assert_close(half[8, 2:6], torch.tensor([5.0, 7.0, 9.0, 11.0]))
    # DINO's rule scales by (8 + 0.1) / 16 instead: cell i is read at (i + 0.5) * 16 / 8.1
    dino = resized_position_embedding(ramp, 0, (16, 8)).view(16, 8)
    expected = (torch.arange(2, 6) + 0.5) * 16 / 8.1
    torch.testing.assert_close(dino[8, 2:6], expected, atol=0.05, rtol=0)
    assert (dino[8, 2:6] - half[8, 2:6]).abs().min() > 0.02
    torch.testing.assert_close(resized_position_embedding(ramp, 0, (16, 16), antialias=True), ramp)


def test_positions_may_be_laid_out_for_another_size_than_the_evaluated_one(monkeypatch: pytest.MonkeyPatch) -> None:
    register_tiny(monkeypatch)
    assert random_network("tiny_dinov2", 28, position_size=56).net.pos_embed.shape == (1, 17, 64)
    with pytest.raises(UserError, match="multiple of its patch of 14 px; 60 is not"):
        build_backbone(BackboneConfig("tiny_dinov2", 28, position_size=60))
