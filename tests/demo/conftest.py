"""Tiny models and pictures for the tests of the page."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest
import torch

from dinoscope.demo.engine import Engine
from dinoscope.demo.pictures import Limits
from dinoscope.model_names import Model
from dinoscope.models.backbone import BackboneConfig, build_backbone
from tests.conftest import draw_picture


@pytest.fixture(scope="session", autouse=True)
def _undisturbed_servers() -> Iterator[None]:
    """Each test process has a hundred ports of its own: a port that is free may else be taken by another in the time
    in which the page is built. And Gradio gives a server that starts not five seconds, but as long as it takes."""
    patch = pytest.MonkeyPatch()
    try:
        from gradio import http_server
    except ImportError:
        pass
    else:
        patch.setattr(http_server, "INITIAL_PORT_VALUE", 10_000 + 100 * (os.getpid() % 200))
        patch.setattr(http_server, "time", SimpleNamespace(time=lambda: 0.0, sleep=time.sleep))
    yield
    patch.undo()


def named(network: str, label: str, seed: int = 0) -> Model:
    torch.manual_seed(seed)
    backbone = build_backbone(BackboneConfig(network, image_size=32)).eval()
    for parameter in backbone.parameters():  # fresh weights attend almost evenly: make them differ
        parameter.data += 0.05 * torch.randn_like(parameter)
    return Model(label, label, backbone, None)


@pytest.fixture
def engine() -> Engine:
    models = [named("vit_micro_conv8", "vit"), named("vit_micro_conv8", "other", 1), named("resnet_micro", "resnet")]
    return Engine(models, Limits())


@pytest.fixture
def picture_file(tmp_path: Path) -> Path:
    file = tmp_path / "picture.png"
    cv2.imwrite(str(file), draw_picture(5, (48, 64)))
    return file
