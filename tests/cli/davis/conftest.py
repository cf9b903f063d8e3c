"""`dinoscope davis` on one drawn sequence of five frames of 60 x 100 px."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from dinoscope import checkpoint, cli
from dinoscope.models.backbone import BackboneConfig, build_backbone
from dinoscope.scenes import ScenesConfig, write_scenes

FRAMES = [f"{index:05d}.png" for index in range(5)]
NAMES = ["jf_mean", "j_mean", "j_recall", "j_decay", "f_mean", "f_recall", "f_decay"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = ScenesConfig(0, 16, 0, 0, 0, davis_sequences=1, davis_frames=5, davis_size=(60, 100))
    return write_scenes(tmp_path_factory.mktemp("drawn") / "scenes", config) / "DAVIS"


@pytest.fixture
def data(drawn: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(drawn, tmp_path / "DAVIS"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder, as far as this command looks into it."""
    torch.manual_seed(0)
    run_folder = tmp_path_factory.mktemp("runs") / "mine"
    checkpoint.export_backbone(run_folder / "exported", build_backbone(BackboneConfig("vit_micro_conv8", 32)))
    (run_folder / "config.json").write_text('{"run": {}}')
    return run_folder


def run(data: Path, *options: object) -> int:
    return cli.main(["davis", "--data", str(data), *map(str, options)])


def follow(data: Path, model: Path, *options: object) -> int:
    return run(data, "--size", 64, "--device", "cpu", "--model", model, *options)


def figures(capsys: pytest.CaptureFixture[str]) -> list[dict[str, float]]:
    record = json.loads(capsys.readouterr().out)
    return [{m["name"]: m["value"] for m in each["metrics"] if "parameters" not in m} for each in record["models"]]
