"""The baseline of whitened patches: its arithmetic against plain NumPy, and what it is fitted to."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import dinoscope as ds
from dinoscope import checkpoint, features
from dinoscope.cli import main
from dinoscope.data.finding import find_images
from dinoscope.errors import UserError
from dinoscope.evaluation import EVALUATIONS
from dinoscope.evaluation.base import Context, measure
from dinoscope.files import cache_folder
from dinoscope.model_names import Model, load_model
from dinoscope.models import dictionary, whitened
from dinoscope.models.baselines import BASELINES
from dinoscope.models.dictionary import Dictionary, DictionaryBackbone, DictionarySettings
from tests.pictures import write_pictures

SMALL = DictionarySettings(size=32, patch=6, centroids=7, patches=2_000, iterations=3)
CPU = Context(torch.device("cpu"), workers=0)


def noise(count: int, seed: int = 0, side: int = 32) -> Tensor:
    """Images with patches of low and of high contrast."""
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randint(256, (count, 3, side, side), generator=generator)
    return torch.where(torch.arange(side) < side // 2, flat, flat // 64 + 100).to(torch.uint8)


def learned(images: Tensor, settings: DictionarySettings = SMALL, batch: int = 4) -> dict[str, Tensor]:
    fit = DictionaryBackbone(settings).fit
    assert fit is not None
    return fit.learn(images.split(batch), lambda done, total: None)


def fitted(images: Tensor, settings: DictionarySettings = SMALL) -> DictionaryBackbone:
    backbone = DictionaryBackbone(settings).eval()
    backbone.load_state_dict(learned(images, settings))
    return backbone


# The arithmetic


def plain_feature(image: np.ndarray, backbone: DictionaryBackbone) -> np.ndarray:
    """Coates, Lee and Ng 2011, one patch at a time, in float64. image: [3, 32, 32] from 0 to 255."""
    net = {name: tensor.double().numpy() for name, tensor in backbone.net.state_dict().items()}
    sums = np.zeros((2, 2, len(net["centroids"])))
    for row in range(27):
        for column in range(27):
            patch = image[:, row : row + 6, column : column + 6].astype(np.float64).ravel()
            patch = (patch - patch.mean()) / np.sqrt(patch.var(ddof=1) + 10)
            white = (patch - net["offset"]) @ net["whitening"]
            distances = np.sqrt(((white - net["centroids"]) ** 2).sum(axis=1))
            sums[row // 14, column // 14] += np.maximum(0, distances.mean() - distances)
    return (sums.ravel() - net["mean"]) / net["deviation"]


def test_features_are_those_of_plain_numpy() -> None:
    images = noise(12)
    backbone = fitted(images)
    with torch.inference_mode():
        found = backbone(backbone.normalize(images)).feature
    for image, feature in zip(images[:3], found, strict=False):
        np.testing.assert_allclose(feature.numpy(), plain_feature(image.numpy(), backbone), rtol=1e-4, atol=1e-4)
    # Standardised on the images it was fitted to: mean 0, and variance v / (v + 0.01).
    torch.testing.assert_close(found.mean(dim=0), torch.zeros(28), atol=1e-4, rtol=0)
    total = backbone.net.deviation.square()
    torch.testing.assert_close(found.var(dim=0, correction=0) * total, total - 0.01, rtol=1e-3, atol=1e-4)


def test_patches_are_contrast_normalised_and_whitened() -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, generator=generator)
    patches = torch.randn(500, 6, generator=generator) @ mixing
    covariance = np.cov(patches.double().numpy().T)
    values, vectors = np.linalg.eigh(covariance)
    expected = vectors @ np.diag(1 / np.sqrt(values + 0.1)) @ vectors.T
    np.testing.assert_allclose(whitened.zca(patches, 0.1).numpy(), expected, rtol=1e-5, atol=1e-6)
    # (1, 2, 3, 6): mean 3, variance 14 / 3
    small = torch.tensor([[1.0, 2.0, 3.0, 6.0]]) / 255
    root = (14 / 3 + 10) ** 0.5
    expected = torch.tensor([[-2.0, -1.0, 0.0, 3.0]]) / root
    torch.testing.assert_close(whitened.normalize_contrast(small), expected)


def test_quadrants_share_out_all_places() -> None:
    assert dictionary.quadrants(3).view(4, 3, 3).tolist() == [
        [[1, 1, 0], [1, 1, 0], [0, 0, 0]],
        [[0, 0, 1], [0, 0, 1], [0, 0, 0]],
        [[0, 0, 0], [0, 0, 0], [1, 1, 0]],
        [[0, 0, 0], [0, 0, 0], [0, 0, 1]],
    ]


def test_the_same_images_and_seed_give_the_same_dictionary() -> None:
    images = noise(10)
    first, again = learned(images), learned(images, batch=7)
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = learned(images, DictionarySettings(**{**vars(SMALL), "seed": 1}))
    assert not torch.equal(first["net.centroids"], other["net.centroids"])
    assert int(first["net.images"]) == 10


def test_images_of_other_sizes_are_resized_and_precision_makes_no_difference() -> None:
    images = noise(6)
    backbone = fitted(images)
    large = images.repeat_interleave(3, dim=2).repeat_interleave(3, dim=3)
    with torch.inference_mode():
        exact = backbone(backbone.normalize(images)).feature
        assert backbone(backbone.normalize(large)).feature.shape == exact.shape
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(backbone(backbone.normalize(images)).feature, exact)


def test_few_patches_and_images_of_one_colour_do_not_break_it() -> None:
    flat = torch.full((1, 3, 32, 32), 7, dtype=torch.uint8)
    backbone = fitted(flat, DictionarySettings(centroids=900, iterations=2))
    assert backbone(backbone.normalize(flat)).feature.isfinite().all()


# What it is fitted to, and how often


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for split, count in (("train", 24), ("val", 8)):
        write_pictures(tmp_path / "data", count, classes=2, split=split, size=(40, 36))
    return tmp_path / "data"


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of images of all fits; dictionaries are small."""
    seen: list[int] = []
    learn = DictionaryBackbone.learned

    def counted(self: DictionaryBackbone, images: Tensor, progress: Callable[[int, int], None]) -> Dictionary:
        seen.append(len(images))
        return learn(self, images, progress)

    monkeypatch.setattr(DictionaryBackbone, "learned", counted)
    small = functools.partial(DictionaryBackbone, DictionarySettings(centroids=40, patches=4_000, iterations=3))
    monkeypatch.setitem(BASELINES, "patches", ("whitened patches", small))
    return seen


def fitted_to(data: Path, context: Context = CPU) -> Model:
    return context.fitted(load_model("patches"), data)


def test_it_is_fitted_to_training_images_without_their_labels(data: Path, fits: list[int], tmp_path: Path) -> None:
    model = fitted_to(data)
    assert fits == [24]
    assert (model.method, model.label) == ("patches", "whitened patches")
    assert "from 24 training images without labels" in model.backbone.made_of
    shutil.rmtree(data / "val")
    write_pictures(data, 6, classes=2, split="val", size=(80, 20))
    assert fitted_to(data, Context(workers=0, cached=False)).weights_hash == model.weights_hash
    train = find_images(data / "train")
    flat = find_images(data / "train", labelled=False)
    assert train.labels is not None
    for images in (train, flat):
        again = CPU.fitted(load_model("patches"), (images, None))
        assert again.weights_hash == model.weights_hash
    assert fits == [24, 24]  # the second without the cache, the others from it


def test_two_evaluations_share_one_fit_and_one_set_of_features(
    data: Path, fits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    extracted: list[int] = []
    readable = features.readable_features

    def counted(backbone: object, images: list[object], *rest: object) -> object:
        extracted.append(len(images))
        return readable(backbone, images, *rest)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(features, "readable_features", counted)
    for name in ("knn", "linear"):
        evaluation = EVALUATIONS[name]
        (result,) = measure(evaluation, [load_model("patches")], data, evaluation.config(), CPU)
        assert "24 training images without labels" in evaluation.protocol_line(result.protocol)
    assert fits == [24]
    assert extracted == [24, 8]
    assert ds.evaluate("patches", "knn", data, device="cpu", workers=0).models == ("whitened patches",)
    assert len(fits) == 1


def test_a_changed_image_or_a_damaged_cache_means_another_fit(data: Path, fits: list[int], caplog) -> None:
    first = fitted_to(data)
    (file,) = cache_folder("fitted").iterdir()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert fitted_to(data).weights_hash == first.weights_hash
    assert len(fits) == 2
    assert "is fitted again" in caplog.text
    shutil.rmtree(data / "train")
    write_pictures(data, 20, classes=2, split="train", size=(30, 44))
    assert fitted_to(data).weights_hash != first.weights_hash
    assert fits == [24, 24, 20]


def test_no_feature_comes_from_a_dictionary_that_saw_nothing(data: Path) -> None:
    model = load_model("patches")
    with pytest.raises(UserError, match="seen none"):
        CPU.features(model.backbone, find_images(data / "val"), "features")
    assert model.home is None
    assert model.backbone.has_patches is False


def test_an_exported_hash_covers_whitening_and_centroids(data: Path, fits: list[int]) -> None:
    model = fitted_to(data)
    before = model.weights_hash
    with torch.no_grad():
        model.backbone.get_parameter("net.whitening")[0, 0] += 1
    assert checkpoint.weights_hash(model.backbone) != before


# The command line


def test_commands_take_it_where_they_take_models(
    data: Path, fits: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shared = ["--data", str(data), "--device", "cpu", "--workers", "0"]
    assert main(["knn", "--model", "patches", "pixels", *shared]) == 0
    assert main(["linear", "--model", "patches", *shared]) == 0
    assert "40 centroids of whitened 6 px patches" in capsys.readouterr().out
    parts = ["--gallery", str(data / "train"), "--query", str(data / "val")]
    assert main(["knn", "--model", "patches", *parts, *shared[2:]]) == 0
    assert main(["rank", "--model", "patches", *shared]) == 0
    assert main(["embed", "--model", "patches", "--out", "features.npz", *shared]) == 0
    assert np.load("features.npz")["features"].shape == (32, 160)
    assert fits == [24]
    assert main(["throughput", "--model", "patches", "--image-size", "32", "--repeats", "1", "--device", "cpu"]) == 0
    assert main(["attention", "--model", "patches", str(next((data / "val").rglob("*.png")))]) == 2
    capsys.readouterr()
    fast = ["--throughput-image-size", "32", "--throughput-batch-size", "2", "--workers", "0", "--device", "cpu"]
    assert main(["compare", "random:resnet_micro", "--data", str(data), "--out", "out", *fast]) == 0
    assert "Whitened patches" in capsys.readouterr().out
    rows = {row["method"]: row for row in json.loads(Path("out/comparison.json").read_text())["rows"]}
    assert list(rows) == ["Raw pixels", "Whitened patches", "Random"]
    row = rows["Whitened patches"]
    assert all(row["figures"][name]["mean"] > 0 for name in ("knn", "linear", "throughput"))
    assert row["entries"][0]["parameters"] == pytest.approx((108 + 108**2 + 40 * 108) / 1e6)
    assert main(["compare", "patches", "random:resnet_micro", "--data", str(data), "--out", "two", *fast]) == 0
    rows = json.loads(Path("two/comparison.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["Raw pixels", "Whitened patches", "Random"]
    assert len(fits) == 1
    assert main(["report", "patches", "--data", str(data), "--out", "report.html", "--no-pictures", *fast[4:]]) == 0
    assert "Whitened patches" in Path("report.html").read_text()
