"""The package in Python: the lines that the README shows, on small images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

import dinoscope as ds

TINY = {
    "backbone": "vit_micro_conv8",
    "image_size": 32,
    "batch_size": 8,
    "device": "cpu",
    "workers": 0,
    "method.out_dim": 16,
    "method.hidden_dim": 16,
    "method.bottleneck_dim": 8,
    "log_every": 1,
    "optimizer.warmup_epochs": 0,
    "method.freeze_last_layer_epochs": 0,
}


class Pictures(Dataset):
    """A map-style dataset of (image, label)."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return np.random.default_rng(index).integers(0, 256, (40, 36, 3), np.uint8), index % 2


class Means(nn.Module):
    """Somebody's network: the mean colour of an image."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3))


@pytest.fixture
def labelled(picture_folder: Callable[..., Path]) -> Path:
    """Pictures of two classes with both splits."""
    picture_folder(12, classes=2, split="train")
    return picture_folder(6, classes=2, split="val")


def test_the_lines_of_the_readme(labelled: Path, tmp_path: Path) -> None:
    run = ds.train(labelled, method="dino", epochs=1, out=tmp_path / "run", **TINY, **{"method.koleo": 0.1})
    assert (run.steps, run.interrupted) == (1, False)
    assert (run.config.epochs, run.config.method.koleo) == (1, 0.1)

    model = ds.load(tmp_path / "run")
    bank = ds.embed(model, labelled / "val", device="cpu")
    assert bank.features.shape == (6, 96)
    assert bank.labels is not None
    assert len(bank.paths) == 6

    table = ds.evaluate([run, ds.wrap(Means())], ["knn", "linear"], data=labelled, device="cpu", cached=False)
    assert {row.model for row in table} == {"run", "Means"}
    (top1,) = [row for row in table if (row.model, row.metric, row.parameters) == ("run", "knn_top1", {"k": 10})]
    assert top1.low is not None
    assert top1.low <= top1.value
    assert top1.n == 6
    assert "\\toprule" in table.latex()
    assert "Means" in str(table)

    picture = tmp_path / "cat.jpg"
    Image.new("RGB", (50, 40), "red").save(picture)
    seen = ds.attention(model, picture)
    assert seen.maps.ndim == 3
    seen.save(tmp_path / "cat.png")
    assert Image.open(tmp_path / "cat.png").width > 50

    report = ds.report([run, model], out=tmp_path / "report.html", pictures=False)
    assert "<html" in report.read_text(encoding="utf-8")


def test_an_ablation_around_a_run(labelled: Path, tmp_path: Path) -> None:
    config = ds.train(labelled, epochs=1, out=tmp_path / "run", **TINY).config
    study = ds.ablate(config, {"method.teacher_temperature": [0.02, 0.04]}, out=tmp_path / "study")
    assert {run.state for run in study.runs} == {"finished"}
    assert (tmp_path / "study" / "ablation.json").is_file()


@pytest.mark.parametrize("kind", ["array", "image", "tensor", "path"])
def test_images_of_every_kind_give_the_same_maps(kind: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    path = tmp_path / "x.png"
    Image.fromarray(pixels).save(path)
    images = {
        "array": pixels,
        "image": Image.fromarray(pixels),
        "tensor": torch.from_numpy(pixels).permute(2, 0, 1),
        "path": path,
    }
    model = ds.load("random:vit_micro_conv8")
    np.testing.assert_array_equal(ds.attention(model, images[kind]).maps, ds.attention(model, pixels).maps)


def test_a_dataset_is_trained_on_embedded_and_resumed(tmp_path: Path) -> None:
    data = Pictures(16)
    run = ds.train(data, epochs=1, out=tmp_path / "run", **TINY)
    assert run.steps == 2
    records = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert any("knn_top1" in record for record in records)
    assert ds.train(data, epochs=1, out=tmp_path / "run", resume=True, **TINY).steps == 2
    bank = ds.embed(run, data, device="cpu")
    assert bank.labels is not None
    assert bank.labels.tolist() == [index % 2 for index in range(16)]
    with pytest.raises(ds.UserError):
        ds.train(Pictures(8), epochs=1, out=tmp_path / "run", resume=True, **TINY)


def test_a_dataset_is_evaluated_as_a_folder_is(tmp_path: Path, picture_folder: Callable[..., Path]) -> None:
    model = ds.load("random:vit_micro_conv8")
    found = ds.evaluate(model, ["knn", "linear", "rank"], (Pictures(24), Pictures(8)), device="cpu")
    assert {row.evaluation: row.n for row in found if row.metric.endswith(("top1", "rankme"))} == {
        "knn": 8,
        "linear": 8,
        "rank": None,
    }
    (alone,) = ds.evaluate(model, "knn", Pictures(24), device="cpu").results
    assert alone.protocol["queries"] is None
    other = ds.evaluate(model, "knn", Pictures(22), device="cpu").results[0].protocol["gallery"]
    assert alone.protocol["gallery"].startswith("dataset:")
    assert alone.protocol["gallery"] != other


def test_pandas_is_needed_by_its_own_method_alone(monkeypatch: pytest.MonkeyPatch, labelled: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pandas", None)
    bank = ds.embed("random:vit_micro_conv8", labelled, device="cpu", cached=False)
    with pytest.raises(ds.UserError, match="pip install pandas"):
        bank.to_pandas()


def test_mistakes_name_what_there_is(labelled: Path, tmp_path: Path) -> None:
    with pytest.raises(ds.UserError, match="knn"):
        ds.evaluate("random:vit_micro_conv8", "knm", data=labelled)
    with pytest.raises(ds.UserError, match=r"queue_size"):
        ds.train(labelled, out=tmp_path / "run", **{"method.queue_size": 8})
    with pytest.raises(ds.UserError, match="no val split"):
        ds.evaluate("random:vit_micro_conv8", "linear", data=Pictures(4))
    with pytest.raises(ds.UserError, match="dino"):
        ds.train(labelled, out=tmp_path / "run", method="dyno")
