"""What the page shows when no model is named."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from dinoscope.api import recipe
from dinoscope.checkpoint import export_backbone
from dinoscope.cli.demo import default_models
from dinoscope.config import to_dict
from dinoscope.methods.simclr import SimCLRConfig
from dinoscope.methods.supervised import SupervisedConfig
from dinoscope.model_names import shipped_model
from dinoscope.models import pretrained
from tests.demo.conftest import named

SHIPPED = str(shipped_model())


def make_run(runs: Path, name: str, method: object, age: int) -> str:
    """A run folder as training leaves it, as far as it is looked at."""
    folder = runs / name
    config = recipe("dino_folder", "data", folder)
    if method is not None:
        config = replace(config, method=method)
    export_backbone(folder / "exported", named("vit_micro_conv8", "x").backbone)
    (folder / "config.json").write_text(json.dumps({"version": "0", "run": to_dict(config)}))
    os.utime(folder / "config.json", (1_000_000 - age, 1_000_000 - age))
    return str(folder)


def test_without_runs_the_shipped_model_beside_random_weights(tmp_path: Path) -> None:
    assert default_models(tmp_path / "runs") == [SHIPPED, f"random:{SHIPPED}"]


def test_one_run_beside_random_weights(tmp_path: Path) -> None:
    run = make_run(tmp_path, "quickstart", None, 0)
    assert default_models(tmp_path) == [run, f"random:{run}", SHIPPED]


def test_supervised_beside_dino_though_others_are_newer(tmp_path: Path) -> None:
    make_run(tmp_path, "simclr", SimCLRConfig(), 0)
    dino = make_run(tmp_path, "dino", None, 10)
    make_run(tmp_path, "older-dino", None, 20)
    supervised = make_run(tmp_path, "supervised", SupervisedConfig(), 30)
    assert default_models(tmp_path) == [supervised, dino, SHIPPED]


def test_else_the_newest_two(tmp_path: Path) -> None:
    make_run(tmp_path, "old", None, 30)
    simclr = make_run(tmp_path, "simclr", SimCLRConfig(), 0)
    dino = make_run(tmp_path, "dino", None, 10)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").write_text("{}")
    assert default_models(tmp_path) == [simclr, dino, SHIPPED]


def test_released_weights_that_are_here_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path, "dino", None, 0)
    monkeypatch.setattr(pretrained, "is_cached", lambda _: True)
    assert default_models(tmp_path) == ["deit_small", "dino_vits16", SHIPPED]


def test_the_page_tells_the_size_of_the_shipped_model() -> None:
    from dinoscope.demo.languages import data_file
    from dinoscope.model_names import load_model

    count = sum(parameter.numel() for parameter in load_model(SHIPPED).backbone.parameters())
    assert f"({count / 1e6:.1f} million parameters)" in data_file("en.toml")
