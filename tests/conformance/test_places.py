"""The same images on a server, or shared out among places, train to the same weights as in a folder, and resume."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dinoscope import cli
from dinoscope.data.finding import find_images
from dinoscope.places import joined, parse_place
from dinoscope.training.loop import train
from tests.conformance import cases
from tests.conformance.test_containers import Stop, weights
from tests.containers import write_tar, write_zip
from tests.servers import WebServer, web_server

pytest.importorskip("aiohttp", reason="needs aiohttp (extra remote)")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WebServer]:
    (tmp_path / "served").mkdir()
    with web_server(tmp_path / "served") as serving:
        yield serving


def test_identical_weights(picture_folder, tmp_path: Path, server: WebServer) -> None:
    folder = picture_folder(24)
    train(cases.run_config("dino", folder, tmp_path / "folder"))
    expected = weights(tmp_path / "folder")
    write_tar(folder, server.folder / "made")
    paths = find_images(folder).keys
    for number, name in enumerate(("one", "two", "three")):
        for path in paths[number::3]:
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(folder / path, tmp_path / name / path)
    write_zip(tmp_path / "three", server.folder / "three")
    places = {
        "remote": parse_place(f"{server.address}/made.tar"),
        "joined": joined(
            [
                tmp_path / "one",
                write_tar(tmp_path / "two", tmp_path / "two"),
                parse_place(f"{server.address}/three.zip"),
            ]
        ),
    }
    for name, place in places.items():
        config = cases.run_config("dino", place, tmp_path / f"run-{name}", workers=1)
        assert train(config, listeners=[Stop()]).interrupted
        train(config, resume=True)
        actual = weights(tmp_path / f"run-{name}")
        assert expected.keys() == actual.keys()
        for key, tensor in expected.items():
            assert torch.equal(tensor, actual[key]), (name, key)


def run(*words: object) -> int:
    return cli.main(list(map(str, words)))


def test_commands_take_an_address(picture_folder, tmp_path: Path, server: WebServer, capsys, monkeypatch) -> None:
    picture_folder(12, classes=2, split="train")
    write_zip(picture_folder(6, classes=2, split="val"), server.folder / "made")
    place, out = f"{server.address}/made.zip", tmp_path / "run"
    train(cases.run_config("dino", parse_place(place), out, epochs=1))
    assert json.loads((out / "config.json").read_text())["run"]["data"] == place
    monkeypatch.chdir(tmp_path)
    for words in (
        ("train", "--out", out, "--resume"),
        ("scan", f"{place}/train"),
        ("knn", "--model", out, "--data", place, "--ks", 3, "--device", "cpu", "--json"),
        ("embed", "--model", out, "--data", f"{place}/val", "--out", "features.npz", "--device", "cpu"),
    ):
        assert run(*words) == 0, words
        printed = capsys.readouterr().out
        if words[0] == "knn":
            assert json.loads(printed)["protocol"]["gallery"] == f"{place}/train"
    assert run("train", "--data", f"{place}x", "--out", tmp_path / "none") == 2
    assert "folders are not read from a server" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    assert run("train", "--data", place, "--out", place) == 2
    assert "must be on this machine" in capsys.readouterr().err


def test_commands_take_several_places(picture_folder, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        picture_folder(8, classes=2, split="train", name=name)
        picture_folder(4, classes=2, split="val", name=name)
    write_zip(tmp_path / "two", tmp_path / "two")
    both, out = ("--data", "one", "--data", "two.zip"), tmp_path / "run"
    train(cases.run_config("dino", joined([Path("one"), Path("two.zip")]), out, epochs=1))
    data = f"{tmp_path}/one + {tmp_path}/two.zip"
    assert json.loads((out / "config.json").read_text())["run"]["data"] == data
    for words in (
        ("train", "--out", out, "--resume"),
        ("scan", "one", "two.zip"),
        ("knn", "--model", out, *both, "--ks", 3, "--device", "cpu", "--json"),
        ("knn", "--model", out, "--data", data, "--ks", 3, "--device", "cpu", "--json"),
        ("embed", "--model", out, *both, "--out", "features.npz", "--device", "cpu"),
        ("report", out, "--out", "report.html", "--device", "cpu"),
    ):
        assert run(*words) == 0, words
        printed = capsys.readouterr().out
        if words[0] == "knn":
            protocol = json.loads(printed)["protocol"]
            assert protocol["gallery"] == f"{tmp_path}/one/train + {tmp_path}/two.zip/train"
            assert protocol["gallery_images"] == 16
    assert run("knn", "--model", out, "--data", "one", "--data", "one") == 2
    assert "given twice" in capsys.readouterr().err
    assert run("voc", "--model", out, *both) == 2
    assert "a single folder on this machine" in capsys.readouterr().err
