"""`dinoscope embed`."""

from __future__ import annotations

import csv
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dinoscope import checkpoint, features
from dinoscope.cli import call
from dinoscope.data.finding import find_images
from dinoscope.errors import UserError
from dinoscope.features import ExtractConfig, extract
from dinoscope.models.backbone import BackboneConfig, build_backbone
from dinoscope.types import FeatureBank

MakeFolder = Callable[..., Path]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported folder of a tiny network with random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    checkpoint.export_backbone(folder, build_backbone(BackboneConfig("vit_micro_conv8", image_size=32)))
    return folder


def run(model: Path, data: Path, out: Path, *options: str) -> FeatureBank:
    """Embed, and return what should be in the file."""
    paths = ["--model", str(model), "--data", str(data), "--out", str(out)]
    assert call("embed", [*paths, "--device", "cpu", *options]) == 0
    return extract(checkpoint.load_backbone(model), find_images(data), ExtractConfig(workers=0))


def test_npz_opens_without_pickle(model: Path, picture_folder: MakeFolder, tmp_path: Path) -> None:
    bank = run(model, picture_folder(5, classes=2), tmp_path / "f.npz")
    with np.load(tmp_path / "f.npz", allow_pickle=False) as arrays:
        assert sorted(arrays) == ["features", "label", "path"]
        assert arrays["path"].tolist() == list(bank.paths)
        assert arrays["label"].tolist() == ["class0"] * 3 + ["class1"] * 2
        assert arrays["features"].dtype == np.float32
        assert np.array_equal(arrays["features"], bank.features.numpy())


def test_classes_below_splits_are_labels(model: Path, picture_folder: MakeFolder, tmp_path: Path) -> None:
    picture_folder(3, classes=2, split="train")
    run(model, picture_folder(2, classes=2, split="val"), tmp_path / "f.npz")
    with np.load(tmp_path / "f.npz", allow_pickle=False) as arrays:
        assert arrays["label"].tolist() == ["class0", "class0", "class1", "class0", "class1"]


def test_npz_without_labels(model: Path, picture_folder: MakeFolder, tmp_path: Path) -> None:
    run(model, picture_folder(3), tmp_path / "f.npz")
    with np.load(tmp_path / "f.npz", allow_pickle=False) as arrays:
        assert sorted(arrays) == ["features", "path"]


def test_csv_gives_every_float_back(model: Path, picture_folder: MakeFolder, tmp_path: Path) -> None:
    bank = run(model, picture_folder(5, classes=2), tmp_path / "f.csv")
    with (tmp_path / "f.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["path", "label", *(f"feature_{index}" for index in range(bank.features.shape[1]))]
    assert [row[0] for row in rows] == list(bank.paths)
    assert [row[1] for row in rows] == ["class0"] * 3 + ["class1"] * 2
    values = np.array([[float(value) for value in row[2:]] for row in rows], dtype=np.float32)
    assert np.array_equal(values, bank.features.numpy())


def test_csv_without_labels(model: Path, picture_folder: MakeFolder, tmp_path: Path) -> None:
    run(model, picture_folder(2), tmp_path / "f.csv")
    rows = (tmp_path / "f.csv").read_text().splitlines()
    assert rows[1].startswith("0000.png,,")


@pytest.mark.parametrize("classes", [0, 2])
def test_parquet(model: Path, picture_folder: MakeFolder, tmp_path: Path, classes: int) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    bank = run(model, picture_folder(5, classes=classes), tmp_path / "f.parquet")
    table = parquet.read_table(tmp_path / "f.parquet")
    columns = [f"feature_{index}" for index in range(bank.features.shape[1])]
    assert table.column_names == ["path", "label", *columns]
    assert table["path"].to_pylist() == list(bank.paths)
    assert table["label"].to_pylist() == (["class0"] * 3 + ["class1"] * 2 if classes else [None] * 5)
    features = np.stack([table[column].to_numpy() for column in columns], axis=1)
    assert np.array_equal(features, bank.features.numpy())


def test_parquet_without_pyarrow_is_refused_at_once(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (tmp_path / "nothing is read").mkdir()
    with pytest.raises(UserError, match=r"pip install 'dinoscope\[parquet\]'"):
        run(model, tmp_path / "nothing is read", tmp_path / "f.parquet")


def test_an_existing_file_is_replaced_only_on_request(model: Path, picture_folder: MakeFolder, tmp_path: Path) -> None:
    data, out = picture_folder(2), tmp_path / "f.csv"
    out.write_text("precious")
    with pytest.raises(UserError, match="exists already"):
        run(model, data, out)
    assert out.read_text() == "precious"
    run(model, data, out, "--overwrite")
    assert len(out.read_text().splitlines()) == 3


def test_a_failure_leaves_the_previous_file_whole(
    model: Path, picture_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, bank: FeatureBank) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(features.WRITERS, ".csv", full)
    out = tmp_path / "out" / "f.csv"
    out.parent.mkdir()
    out.write_text("precious")
    with pytest.raises(UserError, match="No space left on device"):
        run(model, picture_folder(2), out, "--overwrite")
    assert out.read_text() == "precious"
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("name", ["f.txt", "f"])
def test_an_unknown_kind_of_file(model: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"\.npz.*\.csv.*\.parquet"):
        run(model, tmp_path, tmp_path / name)


def test_a_folder_for_a_file(model: Path, tmp_path: Path) -> None:
    (tmp_path / "f.csv").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        run(model, tmp_path, tmp_path / "f.csv")


def test_unreadable_images_have_no_row(model: Path, picture_folder: MakeFolder, tmp_path: Path) -> None:
    data = picture_folder(3)
    (data / "0001.png").write_bytes(b"no image")
    run(model, data, tmp_path / "new" / "f.csv")
    rows = (tmp_path / "new" / "f.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["0000.png", "0002.png"]


@pytest.mark.parametrize("name", ["f.csv", "f.npz"])
def test_names_that_are_not_utf8(model: Path, picture_folder: MakeFolder, tmp_path: Path, name: str) -> None:
    data = picture_folder(2)
    try:
        (data / "0001.png").rename(data / os.fsdecode(b"\xff.png"))
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    run(model, data, tmp_path / name)
    assert (tmp_path / name).stat().st_size > 0
