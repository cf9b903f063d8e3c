"""Networks that dinoscope does not define: timm's, modules of the user's, and the pixels alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import squeezenet1_1

from dinoscope import checkpoint, cli
from dinoscope.data.finding import find_images
from dinoscope.data.views import ViewsConfig
from dinoscope.errors import UserError
from dinoscope.evaluation import EVALUATIONS
from dinoscope.evaluation.base import Context, measure
from dinoscope.explain.maps import MAPS, count_maps
from dinoscope.features import ExtractConfig, extract
from dinoscope.methods.dino import DINOConfig
from dinoscope.model_names import Model, load_model, load_models, wrap
from dinoscope.models.backbone import BackboneConfig, build_backbone, network, network_title
from dinoscope.report import build, comparison
from dinoscope.training.config import OptimizerConfig, RunConfig
from dinoscope.training.loop import train
from dinoscope.types import Tokens

CONVNEXT = "timm:test_convnext"
SIDE = 32


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise around one grey for each class, in train/ and val/."""
    root, generator = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for label in range(2):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(90 * label, 90 * label + 80, (SIDE, SIDE, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DINO, trained for two steps on timm's smallest ConvNeXt."""
    out = tmp_path_factory.mktemp("runs") / "convnext"
    train(
        RunConfig(
            data,
            out,
            DINOConfig(out_dim=16, hidden_dim=16, bottleneck_dim=8, freeze_last_layer_epochs=0),
            CONVNEXT,
            views=ViewsConfig(global_size=SIDE, num_local=0),
            optimizer=OptimizerConfig(warmup_epochs=0),
            epochs=1,
            batch_size=8,
            device="cpu",
            workers=0,
            evaluate_every=0,
        )
    )
    return out


def images(size: int = 64) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_features_of_a_timm_network_are_timms() -> None:
    torch.manual_seed(0)
    net = timm.create_model("test_convnext", num_classes=0).eval()
    backbone = build_backbone(BackboneConfig(CONVNEXT, 64)).eval()
    backbone.net.load_state_dict(net.state_dict())
    with torch.no_grad():
        tokens = backbone(images())
        torch.testing.assert_close(tokens.feature, net(images()), rtol=0, atol=0)
        cells = net.forward_features(images())
    assert tokens.grid == (2, 2)
    torch.testing.assert_close(tokens.patches, cells.flatten(2).transpose(1, 2), rtol=0, atol=0)
    assert (backbone.dim, backbone.patch_size, backbone.probe_dim) == (64, 32, 64)


@pytest.mark.parametrize(
    ("name", "size", "grid"),
    [("test_vit", 160, (10, 10)), ("test_resnet", 64, (2, 2)), ("test_efficientnet", 64, (2, 2))],
)
def test_any_kind_of_timm_network_gives_tokens(name: str, size: int, grid: tuple[int, int]) -> None:
    backbone = build_backbone(BackboneConfig(f"timm:{name}", size)).eval()
    with torch.no_grad():
        tokens = backbone(images(size))
    assert tokens.grid == grid
    assert tokens.patches.shape[1] == grid[0] * grid[1]
    assert tokens.feature.shape == (2, backbone.dim)
    assert network_title(f"timm:{name}") == name


def test_a_timm_vit_takes_images_of_another_shape() -> None:
    backbone = build_backbone(BackboneConfig("timm:test_vit", 160)).eval()
    with torch.no_grad():
        assert backbone(torch.zeros(1, 3, 64, 96)).grid == (4, 6)


def test_an_unknown_timm_network_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean convnext_atto"):
        network("timm:convnext_atoo")
    with pytest.raises(UserError, match="drop-path 0"):
        build_backbone(BackboneConfig("timm:vgg11", 64, drop_path=0.1))


def test_a_run_on_a_timm_network_is_loaded_strictly(run: Path, tmp_path: Path) -> None:
    backbone = checkpoint.load_backbone(run)
    assert backbone.config.name == CONVNEXT
    checkpoint.export_backbone(tmp_path / "out", backbone)
    again = checkpoint.load_backbone(tmp_path / "out")
    assert checkpoint.weights_hash(again) == checkpoint.weights_hash(backbone)
    file = tmp_path / "out" / checkpoint.BACKBONE_WEIGHTS
    held = checkpoint.load(file)
    tensors = dict(list(held.tensors.items())[1:])
    checkpoint.save(file, tensors, {"backbone": held.metadata["backbone"]})
    with pytest.raises(UserError, match="missing"):
        checkpoint.load_backbone(file)


def test_a_run_on_a_timm_network_goes_through_the_commands(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--data", str(data), "--device", "cpu", "--workers", "0"]
    for command in ("knn", "linear"):
        assert cli.main([command, "--model", str(run), *options]) == 0
    assert cli.main(["embed", "--model", str(run), *options, "--out", "features.npz"]) == 0
    assert np.load("features.npz")["features"].shape[1] == 64
    assert cli.main(["compare", str(run), "--skip", "throughput", *options, "--out", "out"]) == 0
    assert "test_convnext" in (tmp_path / "out" / "comparison.csv").read_text()
    assert cli.main(["report", str(run), "--no-pictures", *options, "--out", "report.html"]) == 0
    assert "test_convnext" in (tmp_path / "report.html").read_text()


class Map(nn.Module):
    """Features of a grid, as a plain torch module gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 16, stride=16)

    def forward(self, images: Tensor) -> Tensor:
        return self.convolution(images)


class Vector(Map):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).mean(dim=(2, 3))


class Whole(Map):
    def forward(self, images: Tensor) -> Tokens:
        cells = super().forward(images)
        return Tokens(None, cells.flatten(2).transpose(1, 2), (cells.shape[-2], cells.shape[-1]))


class Odd(Map):
    def forward(self, images: Tensor) -> list[Tensor]:
        return [images]


@pytest.mark.parametrize("kind", [Map, Vector, Whole])
def test_a_module_that_gives_features_maps_or_tokens_can_be_wrapped(kind: type[Map]) -> None:
    module = kind()
    model = wrap(module.train(), image_size=64)
    backbone = model.backbone
    assert not module.training
    assert (model.name, backbone.config.image_size, backbone.dim) == (kind.__name__, 64, 8)
    assert backbone.has_patches is (kind is not Vector)
    with torch.no_grad():
        expected = module.convolution(images()).mean(dim=(2, 3))
        torch.testing.assert_close(backbone(images()).feature, expected)
    assert wrap(backbone).backbone is backbone


def test_a_module_that_gives_anything_else_is_refused() -> None:
    with pytest.raises(UserError, match="Odd gives list"):
        wrap(Odd(), image_size=64)
    with pytest.raises(UserError, match="cannot be run on an image"):
        wrap(nn.Linear(5, 3))


def test_maps_need_patches_and_rollout_needs_attention() -> None:
    vector, grid = wrap(Vector(), image_size=64).backbone, wrap(Map(), image_size=64).backbone
    for kind in ("attention", "energy", "gradcam"):
        with pytest.raises(UserError, match="Vector gives one feature for an image"):
            MAPS[kind](vector, images(), -1)
        assert MAPS[kind](grid, images(), -1).shape == (2, count_maps(kind, grid), 4, 4)
    with pytest.raises(UserError, match="needs attention blocks, and Map has none"):
        MAPS["rollout"](grid, images(), -1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: wrap(squeezenet1_1(num_classes=8), image_size=SIDE),
        lambda: wrap(squeezenet1_1().features, "squeezenet", image_size=SIDE),
        lambda: load_model(f"random:{CONVNEXT}"),
    ],
)
def test_foreign_models_are_measured(make: Callable[[], Model], data: Path) -> None:
    model = replace(make(), keeps_results=False)
    context = Context(workers=0, cached=False, image_size=64)
    for name in ("knn", "linear"):
        evaluation = EVALUATIONS[name]
        (result,) = measure(evaluation, [model], data, evaluation.config(), context)
        assert result.metrics[0].value > 0
    bank = extract(model.backbone, find_images(data / "val"), ExtractConfig(workers=0, image_size=64))
    assert bank.features.shape == (8, model.backbone.dim)


def test_a_wrapped_module_is_compared_and_reported(data: Path, tmp_path: Path) -> None:
    model = wrap(squeezenet1_1(num_classes=8), "squeezenet", image_size=SIDE)
    context = Context(torch.device("cpu"), workers=0, image_size=64)
    models, skip = (model, f"random:{CONVNEXT}"), ("throughput",)
    compared, _, _ = comparison.compare_runs(models, tmp_path / "out", data, skip=skip, context=context)
    assert {row.architecture for row in compared.rows} == {"squeezenet", "test_convnext"}
    assert all(row.cell(name) for row in compared.rows for name in ("knn", "linear"))
    out = tmp_path / "report.html"
    build.write_report((model,), out, data, skip=skip, context=context, pictures=False)
    assert "squeezenet" in out.read_text()


def test_pixels_are_a_model(data: Path) -> None:
    model, random = load_models(["pixels", f"random:{CONVNEXT}"])
    assert (model.method, model.label, random.method) == ("pixels", "raw pixels", "random")
    folder = find_images(data / "val")
    bank = extract(model.backbone, folder, ExtractConfig(workers=0))
    pixels = torch.stack([torch.from_numpy(folder.read(i).rgb(None)).permute(2, 0, 1).float() / 255 for i in range(8)])
    pixels = pixels.flatten(1)
    expected = pixels - pixels.mean(dim=1, keepdim=True)
    assert torch.equal(bank.features, expected)


def test_weights_of_timm_are_loaded_strictly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = timm.create_model("test_convnext", num_classes=1000)
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    create = timm.create_model
    overlay = {"file": str(tmp_path / "weights.pth"), "num_classes": 1000}

    def from_disk(name: str, pretrained: bool = False, **settings: object) -> nn.Module:
        return create(name, pretrained, **({"pretrained_cfg_overlay": overlay} if pretrained else {}), **settings)

    monkeypatch.setattr(timm, "create_model", from_disk)
    model = load_model("timm:test_convnext.r160_in1k")
    assert (model.backbone.config.name, model.backbone.config.image_size) == (CONVNEXT, 160)
    assert model.origin is not None
    assert model.origin["licence"] == "apache-2.0"
    net.reset_classifier(0)
    with torch.no_grad():
        torch.testing.assert_close(model.backbone(images()).feature, net.eval()(images()), rtol=0, atol=0)
    monkeypatch.setenv("DINOSCOPE_OFFLINE", "1")
    with pytest.raises(UserError, match="switched off"):
        load_model("timm:test_convnext.r160_in1k")
