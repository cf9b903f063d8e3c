"""`dinoscope export --format ...`: what other programs load gives what the network gives."""

from __future__ import annotations

import importlib.util
import json
import resource
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F

from dinoscope import checkpoint, cli
from dinoscope.checkpoint import weights_hash
from dinoscope.config import to_dict
from dinoscope.evaluation.results import to_json
from dinoscope.export import programs
from dinoscope.export.programs import Program
from dinoscope.model_names import load_model
from dinoscope.models.backbone import BACKBONES, Backbone
from dinoscope.models.vit import ViTBackbone, ViTShape, resized_by_matrices, resized_position_embedding
from dinoscope.types import Metric, Result
from tests.cli.test_export import model
from tests.conformance import cases
from tests.official_files import register_tiny


@pytest.fixture
def traced() -> Iterator[None]:
    """Sizes that are not known yet are no numbers to the checks of shapes, which every call passes in the tests."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def export(format: str, source: Path, out: Path, *options: str) -> int:
    return cli.main(["export", "--model", str(source), "--out", str(out), "--format", format, *options])


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err.strip()
    assert error.startswith("dinoscope export: ")
    assert "\n" not in error
    return error


# Position embeddings


@pytest.mark.parametrize("grid", [(4, 4), (4, 6), (6, 4), (2, 3), (1, 1), (13, 9)])
def test_matrices_resize_as_the_interpolation_does(grid: tuple[int, int]) -> None:
    embedding = torch.randn(1, 17, 5, generator=torch.Generator().manual_seed(0)).double()
    ours, wanted = resized_by_matrices(embedding, 1, grid), resized_position_embedding(embedding, 1, grid)
    torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-12)
    if grid == (4, 4):
        assert torch.equal(ours, embedding)


@pytest.mark.parametrize("grid", [(4, 6), (2, 3), (13, 9)])
def test_matrices_resize_with_antialiasing(grid: tuple[int, int]) -> None:
    embedding = torch.randn(1, 16, 5, generator=torch.Generator().manual_seed(0)).double()
    cells = embedding.unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    wanted = F.interpolate(cells, grid, mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    torch.testing.assert_close(resized_by_matrices(embedding, 0, grid, antialias=True), wanted, rtol=0, atol=1e-12)


# Programs


def expected(backbone: Backbone, images: torch.Tensor) -> list[np.ndarray]:
    """The network's own outputs, each by its own way."""
    with torch.no_grad():
        tokens = backbone(images)
        outputs = [backbone.feature(images), tokens.patches]
        if isinstance(backbone, ViTBackbone):
            outputs.append(backbone.class_attention(images, -1).flatten(2))
    return [output.numpy() for output in outputs]


SHAPES = ((1, 3, 32, 32), (3, 3, 40, 64), (2, 3, 33, 47))


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
def test_onnx(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setitem(BACKBONES, "vit_two_blocks", ViTShape(8, 32, 2, 2))
    backbone = model(tmp_path / "model", "vit_two_blocks", 32)
    assert export("onnx", tmp_path / "model", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "compared with the network in onnxruntime" in printed
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    assert [output.name for output in session.get_outputs()] == ["feature", "patches", "attention"]
    for shape in SHAPES:
        images = torch.randn(shape)
        for ours, theirs in zip(expected(backbone, images), session.run(None, {"images": images.numpy()}), strict=True):
            np.testing.assert_allclose(theirs, ours, atol=1e-4)
    held = json.loads(session.get_modelmeta().custom_metadata_map["dinoscope"])
    assert held["backbone"] == json.loads(json.dumps(to_dict(backbone.config)))


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    "name", ["resnet_micro", "tiny_registers", pytest.param("vit_micro_conv8", marks=pytest.mark.slow)]
)
def test_torch_export(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register_tiny(monkeypatch)
    sizes = (28, 56) if name == "tiny_registers" else (32, None)  # evaluated at 28 px, positions for 56 px
    backbone = model(tmp_path / "model", name, *sizes)
    assert export("torch-export", tmp_path / "model", tmp_path / "out") == 0
    net = torch.export.load(tmp_path / "out" / "model.pt2").module()
    for shape in SHAPES:
        images = torch.randn(shape)
        for ours, theirs in zip(expected(backbone, images), net(images), strict=True):
            np.testing.assert_allclose(theirs.detach().numpy(), ours, atol=1e-4)


@pytest.mark.usefixtures("traced")
def test_a_program_that_differs_is_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = model(tmp_path / "model", "resnet_micro", 32)

    trace = programs.trace

    def trace_another(program: Program) -> torch.export.ExportedProgram:
        torch.nn.init.zeros_(next(program.backbone.parameters()))
        result = trace(program)
        program.backbone = backbone
        return result

    monkeypatch.setattr("dinoscope.export.programs.trace", trace_another)
    assert export("torch-export", tmp_path / "model", tmp_path / "out") == 2
    assert "another feature than the network" in one_line(capsys)
    assert list((tmp_path / "out").iterdir()) == []


def test_without_its_packages_onnx_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model(tmp_path / "model", "vit_micro_conv8", 32)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert export("onnx", tmp_path / "model", tmp_path / "out") == 2
    assert "pip install 'dinoscope[onnx]'" in one_line(capsys)


# timm and model hubs


def test_timm_loads_the_state_dict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    backbone = model(tmp_path / "model", "vit_tiny_patch16_224", 64)
    assert export("timm", tmp_path / "model", tmp_path / "out") == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  net")]
    names = {"timm": timm, "safetensors": safetensors}
    exec("\n".join(lines), names)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(names["net"].eval()(images), backbone(images).feature, rtol=1e-4, atol=1e-4)  # pyright: ignore
    again = checkpoint.load_backbone(tmp_path / "out" / "model.safetensors")
    assert weights_hash(again) == weights_hash(backbone)


@pytest.mark.parametrize(
    ("name", "image_size", "size"),
    [
        ("vit_tiny_patch16_224", 64, 64),
        ("resnet18", 64, 64),
        ("vit_small_patch14_dinov2", 28, 70),
        ("vit_small_patch14_reg4_dinov2", 28, 70),
    ],
)
def test_timm_builds_a_network_from_the_folder(name: str, image_size: int, size: int, tmp_path: Path) -> None:
    """Where positions are laid out for another size than the evaluated one, timm takes that."""
    backbone = model(tmp_path / "model", name, image_size, None if size == image_size else size)
    assert export("huggingface", tmp_path / "model", tmp_path / "out") == 0
    net = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(net(images), backbone(images).feature, rtol=1e-4, atol=1e-4)
    data = timm.data.resolve_model_data_config(net)
    assert tuple(data["input_size"]) == (3, size, size)
    assert tuple(data["mean"]) == backbone.config.mean
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"Image size {size} px. How it was trained is not known" in card
    assert "license: other  # to fill in" in card
    assert ("Images of" in card) == ("vit" in name)


@pytest.mark.parametrize("format", ["safetensors", "timm", "huggingface"])
def test_where_the_weights_are_from_comes_along(format: str, tmp_path: Path) -> None:
    """Through an import and every export after it."""
    origin = {"name": "dino_x", "method": "DINO", "licence": "Apache-2.0", "url": "https://example.org/x.pth"}
    backbone = model(tmp_path / "model", "vit_tiny_patch16_224", 64)
    checkpoint.export_backbone(tmp_path / "imported", backbone, origin)
    out = tmp_path / "out"
    assert export(format, tmp_path / "imported", out) == 0
    file = next(out.glob("*.safetensors"))
    assert load_model(str(file)).origin == origin
    assert load_model(str(tmp_path / "model")).origin is None
    if format == "huggingface":
        card = (out / "README.md").read_text()
        assert "# DINO vit_tiny_patch16_224" in card
        assert "license: apache-2.0\n" in card
        assert "| released at | https://example.org/x.pth |" in card


def test_the_model_card_holds_settings_and_figures_of_the_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    backbone = model(run / "exported", "vit_tiny_patch16_224", 64)
    config = cases.run_config("dino", Path("/somewhere/secret/flowers"), run, backbone="vit_tiny_patch16_224")
    (run / "evaluations").mkdir()
    (run / "config.json").write_text(json.dumps({"run": to_dict(config)}))
    place = {"queries": "/somewhere/secret/flowers/val", "query_images": 12}
    for name, protocol, value in (
        ("knn", {"weights_hash": weights_hash(backbone), **place}, 61.25),
        ("linear", {"weights_hash": "of another step", **place}, 99.0),
    ):
        text = to_json(Result("knn", protocol, (Metric("top1", value),)))
        (run / "evaluations" / f"{name}.json").write_text(text)
    assert export("huggingface", run, tmp_path / "out") == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| knn | top1 | 61.25 | % | flowers/val (12 images) |" in card
    assert "left out: linear" in card
    assert "99" not in card
    assert "secret" not in card
    assert "| training images | flowers |" in card
    assert "license: other" in card


@pytest.mark.parametrize("format", ["timm", "huggingface"])
def test_a_network_that_timm_has_not_is_refused(
    format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model(tmp_path / "model", "vit_micro_conv8", 32)
    assert export(format, tmp_path / "model", tmp_path / "out") == 2
    assert "timm has no network vit_micro_conv8" in one_line(capsys)
    assert not (tmp_path / "out").exists()


def test_any_file_of_the_format_that_is_there_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model(tmp_path / "model", "resnet18", 32)
    out = tmp_path / "out"
    out.mkdir()
    (out / "README.md").write_text("mine")
    assert export("huggingface", tmp_path / "model", out) == 2
    assert "README.md" in one_line(capsys)
    assert [path.name for path in out.iterdir()] == ["README.md"]
    assert export("huggingface", tmp_path / "model", out, "--overwrite") == 0
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "config.json", "model.safetensors"]


@pytest.mark.parametrize("format", ["safetensors", "torch-export"])
@pytest.mark.usefixtures("traced")
def test_a_full_disk_is_one_line_and_leaves_nothing(
    format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model(tmp_path / "model", "resnet_micro", 32)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, before[1]))  # no file may be larger
    try:
        assert export(format, tmp_path / "model", tmp_path / "out") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.count("could not be written") == 1
    assert list((tmp_path / "out").iterdir()) == []
