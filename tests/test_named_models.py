"""Released weights by name, files and exports go wherever a run goes: every command that takes a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

from dinoscope import checkpoint, model_names, system
from dinoscope.cli import main
from dinoscope.files import cache_folder
from dinoscope.scenes import ScenesConfig, write_scenes
from tests.conftest import draw_picture
from tests.official_files import dino_checkpoint, random_network, register_tiny, release

SCENES = ScenesConfig(0, 32, 1, 1, 2, davis_sequences=1, davis_frames=3, davis_size=(48, 64))
FOLDER = ("--data", "{folder}", "--workers", "0", "--device", "cpu")
VOC = ("--data", "{drawn}/VOCdevkit", "--limit", "1", "--device", "cpu")
DAVIS = "{drawn}/DAVIS"

COMMANDS: dict[str, tuple[str, ...]] = {
    "knn": (*FOLDER, "--ks", "1"),
    "linear": (*FOLDER, "--epochs", "1", "--learning-rate", "0.1"),
    "voc": (*VOC, "--size", "32", "--square", "32", "--resamples", "10"),
    "davis": ("--data", DAVIS, "--size", "32", "--device", "cpu"),
    "explain": (*VOC, "--steps", "1", "--random-orders", "1", "--out", "{out}"),
    "attention": ("{image}", "--out", "{out}"),
    "pca": ("{image}", "--out", "{out}"),
    "similarity": ("{image}", "--at", "1,1", "--out", "{out}"),
    "segment": ("{image}", "--out", "{out}"),
    "track": (
        f"{DAVIS}/JPEGImages/480p/scene-00",
        "--mask",
        f"{DAVIS}/Annotations/480p/scene-00/00000.png",
        "--size",
        "32",
        "--out",
        "{out}",
    ),
    "embed": (*FOLDER, "--out", "{out}.csv"),
    "throughput": ("--image-size", "32", "--batch-size", "1", "--repeats", "1", "--device", "cpu"),
    "export": ("--out", "{out}"),
    "compare": (
        *FOLDER,
        "--out",
        "{out}",
        "--skip",
        "throughput",
        "linear",
    ),
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes") / "drawn", SCENES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("labelled")
    for split in ("train", "val"):
        for number in range(6):
            file = root / split / f"class{number % 2}" / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), draw_picture(number + 10 * (split == "val")))
    return root


@pytest.fixture(autouse=True)
def _released(monkeypatch: pytest.MonkeyPatch) -> None:
    register_tiny(monkeypatch)
    release(monkeypatch, "tiny_dino")
    monkeypatch.setattr(system, "_LEAST_SECONDS", 0.005)


def command(name: str, model: str, drawn: Path, folder: Path, out: Path) -> list[str]:
    image = next((drawn / "VOCdevkit").rglob("*.jpg"))
    options = [part.format(drawn=drawn, folder=folder, image=image, out=out) for part in COMMANDS[name]]
    return [name, model, *options] if name == "compare" else [name, *options, "--model", model]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_a_released_name_and_refuses_a_wrong_one(
    name: str, drawn: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(name, "tiny_dinno", drawn, folder, tmp_path / "out")) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"dinoscope {name}: ")
    assert "did you mean the released tiny_dino?" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert main(command(name, "tiny_dino", drawn, folder, tmp_path / "out")) == 0


# compare


def compared(folder: Path | None, *arguments: object) -> dict[str, Any]:
    fast = ["--throughput-image-size", "32", "--throughput-batch-size", "2", "--device", "cpu", "--workers", "0"]
    data = [] if folder is None else ["--data", str(folder)]
    assert main(["compare", *map(str, arguments), "--out", "out", "--overwrite", *data, *fast]) == 0
    return json.loads(Path("out/comparison.json").read_text())


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """One of every kind, in the current folder."""
    monkeypatch.chdir(tmp_path)
    release(monkeypatch, "tiny_deit", "tiny_heads", method="supervised")
    torch.save(dino_checkpoint(random_network("tiny", 48), random_network("tiny", 48)), "official.pth")
    checkpoint.export_backbone(Path("mine"), random_network("resnet_micro"))
    return "tiny_dino", "tiny_deit", "official.pth", "mine", "random:resnet_micro"


def test_models_of_every_kind_stand_beside_each_other(
    models: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = compared(folder, *models, "--skip", "linear")
    printed = capsys.readouterr().out
    rows = {row["entries"][0]["run"]: row for row in values["rows"]}
    assert {run: row["method"] for run, row in rows.items() if run in models} == {
        "tiny_dino": "DINO",
        "tiny_deit": "Supervised",
        "official.pth": "DINO",
        "mine": "mine",
        "random:resnet_micro": "Random",
    }
    # With --data come baselines: pixels, patches, and random weights of each network and size that has none yet.
    baselines = [row["method"] for run, row in rows.items() if run not in models]
    assert sorted(baselines) == ["Random", "Random", "Random", "Raw pixels", "Whitened patches"]
    assert all(row["figures"]["knn"]["mean"] >= 0 for row in rows.values())
    notes = {run: [values["notes"][mark - 1] for mark in row["notes"]] for run, row in rows.items()}
    assert any("not compared" in note for note in notes["tiny_dino"])
    assert not any("epochs" in note for every in notes.values() for note in every)
    assert not any("not compared" in note for note in notes["random:resnet_micro"])
    assert "DINO tiny_dino" in printed
    assert "DINO official.pth" in printed


def test_their_measurements_are_kept_in_the_cache_and_not_beside_them(
    models: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compared(folder, *models, "--skip", "linear", "--no-baselines")
    assert not list(Path("mine").glob("evaluations"))
    assert len(list(cache_folder("measurements").glob("*/evaluations/knn.json"))) == len(models)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("dinoscope.evaluation.base.Context.features", never)
    monkeypatch.setattr("dinoscope.evaluation.throughput.throughput", never)
    again = compared(folder, *models, "--skip", "linear", "--no-baselines")
    assert [row["figures"] for row in again["rows"]] == [row["figures"] for row in first["rows"]]
    # The images that the others were measured on are known now.
    without = compared(None, *models, "--skip", "linear")
    assert [row["figures"]["knn"] for row in without["rows"]] == [row["figures"]["knn"] for row in first["rows"]]


def test_without_data_a_model_that_is_no_run_is_refused(
    models: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *models, "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "tiny_dino and tiny_deit" in error
    assert "give --data FOLDER" in error
    assert main(["compare", "tiny_dino", "tiny_dino", "--out", "out"]) == 2
    assert "given twice: tiny_dino and tiny_dino" in capsys.readouterr().err
    assert not Path("out").exists()


def test_beside_a_run_they_break_no_footnote(models: tuple[str, ...], folder: Path) -> None:
    from dataclasses import replace

    from dinoscope import api
    from tests.conformance import cases

    for name, epochs in (("a", 1), ("b", 2)):
        config = cases.run_config("dino", folder, Path(name), epochs=1, batch_size=4, evaluate_every=0)
        api.train(replace(config, epochs=epochs))
    values = compared(folder, "a", "b", "tiny_dino", "mine", "--skip", "linear", "throughput", "--no-baselines")
    notes = {row["entries"][0]["run"]: [values["notes"][n - 1] for n in row["notes"]] for row in values["rows"]}
    assert "epochs 2 (rows differ)" in notes["b"]
    assert not any("most rows: none" in note or "epochs none" in note for each in notes.values() for note in each)
    assert [note for note in notes["tiny_dino"] if "epochs" in note] == []
    assert (Path("a") / "evaluations" / "knn.json").is_file()


def test_random_names_offer_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(model_names.UserError, match="Did you mean tiny_dino"):
        model_names.load_model("random:tiny_dinno")
