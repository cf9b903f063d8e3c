"""Folders of model hubs: the weights in them, and the settings beside those."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dinoscope.errors import UserError
from dinoscope.model_names import load_model
from dinoscope.models.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone
from dinoscope.models.pretrained import Choices, import_file
from tests.official_files import hugging_face, random_network, register_tiny, weights

HALF = (0.5, 0.5, 0.5)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Backbone:
    register_tiny(monkeypatch)
    return random_network("tiny")


@pytest.fixture
def hub(network: Backbone, tmp_path: Path) -> Path:
    """As transformers' `save_pretrained` writes a ViTModel."""
    folder = tmp_path / "hub"
    folder.mkdir()
    save_file(hugging_face(weights(network), "", dinov2=False), folder / "model.safetensors")
    return folder


def test_the_weights_in_a_folder(hub: Path, network: Backbone) -> None:
    assert torch.equal(import_file(hub)[0].net.cls_token, network.net.cls_token)
    model = load_model(str(hub))
    assert (model.label, model.weights) == ("hub", str(hub / "model.safetensors"))
    assert torch.equal(model.backbone.net.cls_token, network.net.cls_token)
    (hub / "model.safetensors").unlink()
    torch.save(weights(network), hub / "pytorch_model.bin")
    assert torch.equal(load_model(str(hub)).backbone.net.cls_token, network.net.cls_token)
    (hub / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match=r"hub is a folder without model\.safetensors or pytorch_model\.bin"):
        import_file(hub)
    with pytest.raises(UserError, match=r"hub holds no model: expected .*model\.safetensors"):
        load_model(str(hub))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("preprocessor_config.json", {"image_mean": HALF, "image_std": HALF, "size": 224}),
        ("config.json", {"architecture": "tiny", "pretrained_cfg": {"mean": HALF, "std": HALF}}),
    ],
)
def test_the_settings_say_how_images_are_normalised(name: str, content: object, hub: Path) -> None:
    (hub / name).write_text(json.dumps(content))
    backbone, found = import_file(hub)
    assert (backbone.config.mean, backbone.config.std) == (HALF, HALF)
    assert f"Normalised as {name} says: mean 0.5, 0.5, 0.5; std 0.5, 0.5, 0.5" in found.line()
    assert load_model(str(hub)).backbone.config.mean == HALF
    chosen, found = import_file(hub, Choices(mean=IMAGENET_MEAN, std=IMAGENET_STD))
    assert (chosen.config.mean, chosen.config.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert "Normalised" not in found.note


def test_settings_that_say_nothing_of_it(hub: Path) -> None:
    (hub / "config.json").write_text(json.dumps({"model_type": "vit", "hidden_size": 64}))
    backbone, found = import_file(hub)
    assert (backbone.config.mean, backbone.config.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert "Normalised" not in found.line()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read"),
        (json.dumps({"image_mean": [0.5], "image_std": HALF}), r"image_mean is \[0\.5\], not 3 numbers"),
        (json.dumps({"image_mean": [127.5] * 3, "image_std": HALF}), r"each must lie in \[0, 1\]"),
        (json.dumps({"image_mean": HALF, "image_std": [0, 1, 1]}), "each must be above 0"),
    ],
)
def test_settings_that_cannot_be(text: str, said: str, hub: Path) -> None:
    (hub / "preprocessor_config.json").write_text(text)
    with pytest.raises(UserError, match=rf"preprocessor_config\.json.*{said}.*both --mean and --std"):
        import_file(hub)
    chosen = import_file(hub, Choices(mean=HALF, std=HALF))[0]  # as the message says
    assert chosen.config.mean == HALF
