"""`dinoscope export`: what is written loads strictly, here and into timm."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from dinoscope import checkpoint
from dinoscope.cli import call
from dinoscope.errors import UserError
from dinoscope.export.formats import timm_arguments
from dinoscope.models.backbone import BACKBONES, Backbone, BackboneConfig, build_backbone

NOT_IN_TIMM = (
    "vit_large_patch16_dinov2",
    "vit_tiny_patch8_224",
    "vit_small_heads12_patch16_224",
    "vit_tiny_heads12_patch16_224",
)


def model(folder: Path, name: str, image_size: int, position_size: int | None = None) -> Backbone:
    """Write a model with random weights that are not at their initial values, and return it."""
    torch.manual_seed(0)
    backbone = build_backbone(BackboneConfig(name, image_size, position_size=position_size)).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
        for buffer in backbone.buffers():
            if buffer.dtype.is_floating_point and buffer.ndim == 1:  # batch norm statistics
                buffer += 0.1 * torch.rand_like(buffer)
    checkpoint.export_backbone(folder, backbone)
    return backbone


def run(model: Path, out: Path, *options: str) -> int:
    return call("export", ["--model", str(model), "--out", str(out), *options])


@pytest.mark.parametrize(
    ("name", "image_size"),
    [
        ("vit_tiny_patch16_224", 224),
        ("vit_small_patch16_224", 32),
        ("resnet18", 64),
        ("swin_tiny_patch4_window7_224", 64),
    ],
)
def test_timm_loads_it_strictly_and_gives_the_same_feature(
    name: str, image_size: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = model(tmp_path / "model", name, image_size)
    assert run(tmp_path / "model", tmp_path / "out") == 0
    # The lines that the person is shown are those that are tested.
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  net")]
    assert len(lines) == 2
    names = {"timm": timm, "safetensors": safetensors}
    exec("\n".join(lines), names)
    images = torch.randn(2, 3, image_size, image_size)
    with torch.no_grad():
        theirs = names["net"].eval()(images)  # pyright: ignore
        ours = backbone(images).feature
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_network_that_timm_has_fits(name: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(BackboneConfig(name, image_size=70 if "patch14" in name else 64))
        arguments = timm_arguments(backbone.config)
        if arguments is None:
            assert (
                name.endswith(("conv8", "_32", "_64", "_small", "_micro"))
                or name.startswith(("convnext_", "airbench"))
                or name in NOT_IN_TIMM
            )
            return
        theirs = timm.create_model(**arguments).state_dict()
    ours = backbone.net.state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


def test_our_own_network_comes_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    backbone = model(tmp_path / "model", "vit_micro_conv8", 32)
    assert run(tmp_path / "model", tmp_path / "deep" / "out") == 0
    assert "timm" not in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "deep" / "out").iterdir()) == [
        checkpoint.BACKBONE_SETTINGS,
        checkpoint.BACKBONE_WEIGHTS,
    ]
    loaded = checkpoint.load_backbone(tmp_path / "deep" / "out")
    assert loaded.config == backbone.config
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(images).feature, backbone(images).feature)


def test_a_model_is_replaced_only_on_request(tmp_path: Path) -> None:
    model(tmp_path / "first", "vit_micro_conv8", 32)
    model(tmp_path / "second", "vit_micro_conv8", 64)
    with pytest.raises(UserError, match="holds a model already"):
        run(tmp_path / "first", tmp_path / "second")
    assert checkpoint.load_backbone(tmp_path / "second").config.image_size == 64
    run(tmp_path / "first", tmp_path / "second", "--overwrite")
    assert checkpoint.load_backbone(tmp_path / "second").config.image_size == 32


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    model(tmp_path / "model", "vit_micro_conv8", 32)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="could not be written"):
        run(tmp_path / "model", tmp_path / "file" / "out")
