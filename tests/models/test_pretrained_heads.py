"""The number of a ViT's heads, which no shape tells: from the file, from the settings next to it, or assumed aloud."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dinoscope.errors import UserError
from dinoscope.model_names import load_model
from dinoscope.models import backbone as backbones
from dinoscope.models.backbone import Backbone
from dinoscope.models.pretrained import Choices, Found, import_file
from dinoscope.models.vit import ViTShape
from tests.models.test_pretrained import load
from tests.official_files import dino_checkpoint, hugging_face, random_network, register_tiny, weights

ASSUMED = "does not say how many heads its attention has: 2 are assumed"


@pytest.fixture(autouse=True)
def _networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small networks, two of which differ in their heads alone: 2 of 64 channels, and 4 of 32."""
    register_tiny(monkeypatch)
    monkeypatch.setitem(backbones.BACKBONES, "two_heads", ViTShape(16, 128, 2, 2))
    monkeypatch.setitem(backbones.BACKBONES, "four_heads", ViTShape(16, 128, 2, 4))


def table(rows_first: bool, width: int = 96, side: int = 2) -> Tensor:
    """Sines and cosines of the row and of the column of each patch at width / 4 frequencies; 0 for the class token."""
    frequencies = [10000 ** -(index / (width // 4)) for index in range(width // 4)]

    def wave(place: int) -> list[float]:
        return [math.sin(place * f) for f in frequencies] + [math.cos(place * f) for f in frequencies]

    cells = [(row, column) for row in range(side) for column in range(side)]
    patches = [wave(a) + wave(b) for row, column in cells for a, b in [(row, column) if rows_first else (column, row)]]
    return torch.tensor([[0.0] * width, *patches])[None]


def with_table(rows_first: bool) -> Backbone:
    network = random_network("tiny_heads", 32)
    network.net.pos_embed.data = table(rows_first)  # pyright: ignore
    return network


def linear_probe(network: Backbone) -> dict[str, Any]:
    """As main_lincls.py of MoCo v3 saves it."""
    classifier = {"module.head.weight": torch.randn(10, 96), "module.head.bias": torch.randn(10)}
    optimizer = {"state": {}, "param_groups": [{"params": [0, 1]}]}
    return {
        "epoch": 90,
        "arch": "vit_small",
        "state_dict": weights(network, "module.") | classifier,
        "optimizer": optimizer,
    }


def solo_learn(network: Backbone) -> dict[str, Any]:
    tensors = weights(network, "backbone.") | weights(network, "momentum_backbone.")
    return {"state_dict": tensors | {"classifier.weight": torch.randn(4, 96), "projector.0.weight": torch.randn(4, 96)}}


def heads(backbone: Backbone) -> int:
    return backbone.net.blocks[-1].attn.num_heads  # pyright: ignore


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [linear_probe, solo_learn])
@torch.no_grad()
def test_moco_v3_is_known_by_its_fixed_positions(make, dtype: torch.dtype, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(backbones.BACKBONES, "one_head", ViTShape(16, 96, 2, 1))  # what 96 // 64 would give
    network = with_table(rows_first=True)
    content = make(network)
    content["state_dict"] = {name: tensor.to(dtype) for name, tensor in content["state_dict"].items()}
    loaded, found = load(tmp_path, content)
    assert (found.architecture, found.method, heads(loaded)) == ("tiny_heads", "MoCo v3", 12)
    assert "assumed" not in found.note
    if dtype == torch.float32:
        images = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(loaded.feature(images), network.feature(images))


def test_a_network_of_moco_v3_that_is_not_known_here_is_not_taken_for_another(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(backbones.BACKBONES, "one_head", ViTShape(16, 96, 2, 1))
    content = weights(with_table(rows_first=True))
    monkeypatch.delitem(backbones.BACKBONES, "tiny_heads")
    with pytest.raises(UserError, match=r"width 96, 2 blocks, 12 heads") as refusal:
        load(tmp_path, content)
    assert "one_head" not in str(refusal.value)
    loaded, found = load(tmp_path, content, Choices(architecture="one_head"))
    assert heads(loaded) == 1
    assert "one_head has 1 heads, and by all signs the network in the file has 12" in found.note


def test_mae_is_known_by_its_positions_and_its_heads_from_solo_learn_alone(tmp_path: Path, monkeypatch) -> None:
    network = with_table(rows_first=False)
    loaded, found = load(tmp_path, solo_learn(network))
    assert (found.method, heads(loaded), "assumed" in found.note) == ("MAE", 12, False)
    monkeypatch.setitem(backbones.BACKBONES, "one_head", ViTShape(16, 96, 2, 1))
    loaded, found = load(tmp_path, {"model": weights(network)})
    assert (found.method, heads(loaded), "1 are assumed" in found.note) == ("MAE", 1, True)


def load_two(tmp_path: Path, content: Any, choices: Choices | None = None) -> Found:
    loaded, found = load(tmp_path, content, choices)
    assert found.architecture == ("two_heads" if choices is None else choices.architecture)
    assert heads(loaded) == backbones.BACKBONES[found.architecture].heads  # pyright: ignore
    return found


def test_what_is_assumed_is_said_and_what_is_known_is_not(tmp_path: Path) -> None:
    network = random_network("two_heads")
    classifier = {"head.weight": torch.randn(10, 128)}
    for content in (weights(network), weights(network) | classifier, hugging_face(weights(network), "", False)):
        assert ASSUMED in load_two(tmp_path, content).note
    for content in (dino_checkpoint(network, network), {"model": weights(network) | classifier}):
        assert load_two(tmp_path, content).note == ""
    assert load_two(tmp_path, weights(network), Choices(architecture="two_heads")).note == ""


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"num_attention_heads": 4}, "four_heads"),
        ({"architecture": "four_heads"}, "four_heads"),
        ({"num_attention_heads": "4"}, None),
        ({"architecture": ["four_heads"]}, None),
        ([], None),
        ("{", None),
    ],
)
def test_the_settings_of_a_model_hub_say_it(settings: Any, expected: str | None, tmp_path: Path) -> None:
    torch.save(weights(random_network("four_heads")), tmp_path / "pytorch_model.bin")
    text = settings if isinstance(settings, str) else json.dumps(settings)
    (tmp_path / "config.json").write_text(text)
    color = (0.5, 0.5, 0.5)  # a damaged config.json is not asked for the normalisation
    _, found = import_file(tmp_path, Choices(mean=color, std=color))
    assert (found.architecture, ASSUMED in found.note) == (expected or "two_heads", expected is None)


def test_commands_that_take_a_file_print_what_is_assumed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(weights(random_network("two_heads")), tmp_path / "other.pth")
    with caplog.at_level(logging.WARNING, logger="dinoscope"):
        load_model(str(tmp_path / "other.pth"))
    assert ASSUMED in caplog.text
