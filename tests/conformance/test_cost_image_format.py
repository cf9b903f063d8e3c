"""What a change costs: an image format is one reader and one line of the registry, and everything reads it."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch

from dinoscope import checkpoint, cli
from dinoscope.data import images
from dinoscope.data.images import decode
from dinoscope.data.reader import Header, RawImage, Reader, Stream, too_large
from dinoscope.training.loop import train
from tests.conformance import cases

# The reader: a file is "TILE", height and width as two shorts, then the bytes of RGB.


def read_header(stream: Stream, max_pixels: int) -> Header:
    height, width = struct.unpack(">HH", stream.read(8)[4:])
    if height * width > max_pixels:
        raise too_large(height, width, max_pixels)
    return Header("Tile", height, width)


def read(content: BytesIO, max_pixels: int) -> RawImage:
    header = read_header(content, max_pixels)
    return RawImage(np.frombuffer(content.read(), np.uint8).reshape(header.height, header.width, 3))


READER = Reader((".tile",), lambda start: start.startswith(b"TILE"), read_header, read)


@pytest.fixture
def folders(picture_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The same pictures as PNG and as tiles, in train and val."""
    monkeypatch.setitem(images.READERS, "Tile", READER)
    picture_folder(24, split="train")
    pictures = picture_folder(6, split="val")
    tiles = pictures.with_name("tiles")
    for file in sorted(pictures.rglob("*.png")):
        pixels = decode(file)
        tile = (tiles / file.relative_to(pictures)).with_suffix(".tile")
        tile.parent.mkdir(parents=True, exist_ok=True)
        tile.write_bytes(b"TILE" + struct.pack(">HH", *pixels.shape[:2]) + pixels.tobytes())
    return pictures, tiles


def test_scan_counts_them_and_names_what_is_damaged(folders: tuple[Path, Path], capsys: pytest.CaptureFixture) -> None:
    _, tiles = folders
    damaged = tiles / "train/class0/0000.tile"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    (tiles / "train/class0/0002.tile").write_bytes(b"TILE" + struct.pack(">HH", 60_000, 60_000))
    assert cli.main(["scan", str(tiles / "train"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["images"]
    assert report["formats"] == {"Tile": 22}
    assert report["widths"]["median"] == 40
    reasons = {fault["path"]: fault["reason"].partition(":")[0] for fault in report["unreadable"]}
    assert reasons == {"class0/0000.tile": "damaged", "class0/0002.tile": "too large"}


def test_training_and_knn_give_what_they_give_for_the_same_pictures_as_png(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    weights, accuracies = [], []
    for data in folders:
        run = tmp_path / f"run-{data.name}"
        train(cases.run_config("dino", data, run, epochs=1, workers=1))
        weights.append(checkpoint.load(checkpoint.step_path(run / "checkpoints", 3)).tensors)
        capsys.readouterr()
        assert cli.main(f"knn --model {run} --data {data} --ks 3 --device cpu --json".split()) == 0
        result = json.loads(capsys.readouterr().out)
        accuracies.append([metric["value"] for metric in result["metrics"]])
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=0, atol=0, equal_nan=True)
    assert accuracies[0] == accuracies[1]
    assert accuracies[0]
