"""A backbone family is one file and one line of `BACKBONES`: here the file is this one."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dinoscope import checkpoint, cli
from dinoscope.methods.dino import DINO, DINOConfig
from dinoscope.model_names import load_model
from dinoscope.models.backbone import BACKBONES, build_backbone
from dinoscope.models.network import Backbone, BackboneConfig
from dinoscope.types import Tokens


@dataclass(frozen=True)
class PoolNetwork:
    """The file of the family: patches are projected, and nothing else."""

    patch: int
    width: int
    title: str = "Pool"
    size: int = 32
    transformer = False
    family = "Pool"
    about = "Cells without any block"

    def check(self, config: BackboneConfig) -> None:
        """Accept every image size."""

    def baseline(self) -> PoolNetwork:
        """Return the network itself."""
        return self

    def build(self, config: BackboneConfig) -> PoolBackbone:
        """Build it."""
        return PoolBackbone(config, self)


class PoolBackbone(Backbone):
    """One strided convolution."""

    def __init__(self, config: BackboneConfig, shape: PoolNetwork) -> None:
        super().__init__(config, shape.width, shape.patch)
        self.net = nn.Conv2d(3, shape.width, shape.patch, stride=shape.patch)

    def forward(self, images: Tensor) -> Tokens:
        """Return the cells."""
        cells = self.net(images)
        return Tokens(None, cells.flatten(2).transpose(1, 2), (cells.shape[-2], cells.shape[-1]))


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line."""
    monkeypatch.setitem(BACKBONES, "pool8", PoolNetwork(8, 16))


def test_it_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["backbones"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^ pool8 +Pool +0\.0 +8 +32 *$", printed, re.MULTILINE)
    assert "Pool: Cells without any block" in printed.splitlines()
    assert cli.main(["backbones", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows.keys() == BACKBONES.keys()
    assert rows["vit_small_patch16_224"]["parameters"] == 21.7
    assert (rows["vit_tiny_patch4_32"]["patch"], rows["vit_tiny_patch4_32"]["image_size"]) == (4, 32)


def test_methods_and_checkpoints_take_it(tmp_path: Path) -> None:
    method = DINO(DINOConfig(out_dim=16, hidden_dim=16, bottleneck_dim=8), BackboneConfig("pool8", 32))
    assert any(isinstance(module, PoolBackbone) for module in method.modules())
    backbone = build_backbone(BackboneConfig("pool8", 32))
    checkpoint.export_backbone(tmp_path, backbone)
    assert checkpoint.weights_hash(load_model(str(tmp_path)).backbone) == checkpoint.weights_hash(backbone)


def test_commands_take_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in range(2):
            folder = tmp_path / "data" / split / str(label)
            folder.mkdir(parents=True)
            for index in range(4):
                pixels = generator.integers(90 * label, 90 * label + 80, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    torch.manual_seed(0)
    checkpoint.export_backbone(Path("model"), build_backbone(BackboneConfig("pool8", 32)))
    options = ["--data", "data", "--device", "cpu", "--workers", "0"]
    assert cli.main(["compare", "model", "random:pool8", "--skip", "throughput", *options, "--out", "out"]) == 0
    assert (tmp_path / "out" / "comparison.md").read_text().count("| Pool |") == 2
    assert cli.main(["report", "model", "--no-pictures", *options, "--out", "report.html"]) == 0
    assert "Pool" in (tmp_path / "report.html").read_text()
    picture = str(next((tmp_path / "data").rglob("*.png")))
    assert cli.main(["attention", "--model", "model", "--out", "maps", "--device", "cpu", picture]) == 0
