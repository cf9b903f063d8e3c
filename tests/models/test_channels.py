"""Networks for 1 to 16 channels: every family takes them, and a first layer is adapted to them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from dinoscope import checkpoint, cli
from dinoscope.config import from_dict, to_dict
from dinoscope.errors import UserError
from dinoscope.models.airbench import haar_filters
from dinoscope.models.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone, BackboneConfig, build_backbone
from dinoscope.models.foreign import PixelsBackbone
from dinoscope.models.network import usual_normalisation
from dinoscope.models.pretrained import Choices, import_file
from dinoscope.training.start import adapted

FAMILIES = {
    "vit_micro_conv8": 32,
    "vit_micro_patch4_64": 32,
    "vit_small_patch16_dinov3": 32,
    "resnet_micro": 32,
    "resnet18": 64,
    "convnext_tiny_dinov3": 64,
    "swin_micro": 32,
    "airbench_micro": 32,
    "timm:resnet10t": 64,
}
"""A network of each family, and of each of its first layers -> an image size."""


def network(name: str, channels: int, seed: int = 0) -> Backbone:
    torch.manual_seed(seed)
    mean, std = usual_normalisation(channels)
    return build_backbone(BackboneConfig(name, FAMILIES[name], mean=mean, std=std))


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_built_for_the_channels(name: str, channels: int) -> None:
    backbone, size = network(name, channels), FAMILIES[name]
    images = torch.randint(256, (2, channels, size, size), dtype=torch.uint8)
    pixels = backbone.normalize(images).requires_grad_()
    feature = backbone(pixels).feature
    assert feature.shape == (2, backbone.dim)
    feature.square().sum().backward()
    assert pixels.grad is not None
    assert pixels.grad.shape == (2, channels, size, size)
    assert all(pixels.grad[:, channel].abs().sum() > 0 for channel in range(channels))  # none is left out


@pytest.mark.parametrize("channels", [0, 17])
def test_there_are_1_to_16_channels(channels: int) -> None:
    config = BackboneConfig("vit_micro_conv8", 32, mean=(0.5,) * channels, std=(0.5,) * channels)
    with pytest.raises(UserError, match=f"images of {channels} channels; allowed: 1 to 16"):
        build_backbone(config)


def test_mean_and_deviation_are_of_as_many_channels() -> None:
    with pytest.raises(UserError, match="mean of 2 channels and a std of 3"):
        build_backbone(BackboneConfig("vit_micro_conv8", 32, mean=(0.5, 0.5)))


def test_filters_of_three_channels_stay_those_of_colours() -> None:
    """And are, but for a sign, the cosine transform that other channels have."""
    transform = torch.cos(torch.pi / 3 * torch.arange(3)[:, None] * (torch.arange(3) + 0.5))
    transform = torch.nn.functional.normalize(transform, dim=1) * torch.tensor([1, 1, -1])[:, None]
    torch.testing.assert_close(haar_filters()[::4, :, 0, 0] * 2, transform)
    for channels in (1, 2, 5, 16):
        flat = haar_filters(channels).flatten(1)
        torch.testing.assert_close(flat @ flat.T, torch.eye(4 * channels))


# What is given in other channels


def test_a_network_of_three_channels_repeats_grey() -> None:
    backbone, grey = network("vit_micro_conv8", 3), torch.randint(256, (2, 1, 32, 32), dtype=torch.uint8)
    assert torch.equal(backbone.normalize(grey), backbone.normalize(grey.expand(-1, 3, -1, -1)))


def test_a_network_of_one_channel_takes_the_luma_that_pillow_gives() -> None:
    backbone = build_backbone(BackboneConfig("vit_micro_conv8", 32, mean=(0.0,), std=(1.0,)))
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    given = backbone.normalize(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0, 0]
    np.testing.assert_array_equal((255 * given).round(), np.asarray(Image.fromarray(pixels).convert("L")))


def test_other_channels_are_refused_with_both_numbers() -> None:
    with pytest.raises(UserError, match="takes images of 5 channels, and these have 3"):
        network("vit_micro_conv8", 5).normalize(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(UserError, match="takes images of 3 channels, and these have 5"):
        PixelsBackbone().normalize(torch.zeros(1, 5, 32, 32, dtype=torch.uint8))


# Files


def test_a_model_keeps_its_channels(tmp_path: Path) -> None:
    backbone = network("resnet_micro", 5).eval()
    checkpoint.export_backbone(tmp_path / "model", backbone)
    loaded = checkpoint.load_backbone(tmp_path / "model")
    assert loaded.config == backbone.config
    assert loaded.config.channels == 5
    images = torch.randn(2, 5, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(images).feature, backbone(images).feature)


def test_settings_from_before_there_were_channels_are_of_three() -> None:
    values = to_dict(BackboneConfig("vit_micro_conv8", 32))
    assert "channels" not in values
    config = from_dict(BackboneConfig, values | {"mean": list(IMAGENET_MEAN)}, "file")
    assert config == BackboneConfig("vit_micro_conv8", 32)
    assert config.channels == 3


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_timm_builds_it_and_a_plain_file_is_recognised(name: str, channels: int, tmp_path: Path) -> None:
    mean, std = (0.4,) * channels, (0.3,) * channels
    backbone = build_backbone(BackboneConfig(name, 64, mean=mean, std=std)).eval()
    checkpoint.export_backbone(tmp_path / "model", backbone)
    export = ["export", "--model", str(tmp_path / "model"), "--out", str(tmp_path / "out"), "--format", "huggingface"]
    assert cli.main(export) == 0
    net = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    images = torch.randn(2, channels, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net(images), backbone(images).feature, rtol=1e-4, atol=1e-4)
    assert tuple(timm.data.resolve_model_data_config(net)["mean"]) == mean
    torch.save(net.state_dict(), tmp_path / "plain.pth")
    imported, _ = import_file(tmp_path / "plain.pth", Choices(mean=mean, std=std))
    assert (imported.config.name, imported.config.mean) == (name, mean)
    with torch.no_grad():
        torch.testing.assert_close(imported(images).feature, backbone(images).feature)
    unknown, _ = import_file(tmp_path / "plain.pth")
    assert (unknown.config.mean, unknown.config.std) == usual_normalisation(channels)
    with pytest.raises(UserError, match=f"takes {channels} channels, and its normalisation has 3"):
        import_file(tmp_path / "plain.pth", Choices(mean=IMAGENET_MEAN, std=IMAGENET_STD))


# Adaptation


def give(backbone: Backbone, initial: Backbone) -> Backbone:
    weights = adapted(initial.weights_for(backbone.config), initial.config, backbone, "--init MODEL")
    checkpoint.load_strictly(backbone.net, weights, Path("model"))
    return backbone.eval()


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("name", [name for name in FAMILIES if not name.startswith("airbench")])
def test_an_image_of_equal_channels_has_the_features_of_its_rgb(name: str, channels: int) -> None:
    size = FAMILIES[name]
    grey = BackboneConfig(name, size, mean=(0.4,) * 3, std=(0.3,) * 3)
    initial = build_backbone(grey).eval()
    backbone = give(build_backbone(replace(grey, mean=(0.4,) * channels, std=(0.3,) * channels)), initial)
    images = torch.randint(256, (2, 1, size, size), dtype=torch.uint8)
    with torch.no_grad():
        expected = initial(initial.normalize(images)).feature
        actual = backbone(backbone.normalize(images.expand(-1, channels, -1, -1))).feature
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


def test_every_channel_gets_the_mean_kernel_times_three_over_the_channels() -> None:
    initial = network("resnet18", 3)
    kernel = give(network("resnet18", 6, seed=1), initial).net.conv1.weight
    for channel in range(6):
        torch.testing.assert_close(kernel[:, channel], initial.net.conv1.weight.mean(dim=1) * 3 / 6)


def test_a_fixed_first_layer_is_not_adapted() -> None:
    with pytest.raises(UserError, match="airbench_micro cannot be adapted from 3 to 1 channels"):
        give(network("airbench_micro", 1), network("airbench_micro", 3))
