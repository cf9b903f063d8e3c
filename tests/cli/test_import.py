"""`dinoscope import` and `models`, and released names wherever a run goes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import dinoscope
from dinoscope import checkpoint, model_names
from dinoscope.cli import call, main
from dinoscope.evaluation.knn import KNNConfig
from dinoscope.model_names import load_model
from dinoscope.models.backbone import Backbone
from dinoscope.models.pretrained import CATALOGUE, Release
from dinoscope.models.pretrained.released import cached_file
from dinoscope.scenes import ScenesConfig, write_scenes
from tests.official_files import dino_checkpoint, random_network, register_tiny, weights

TINY_SCENES = ScenesConfig(0, 32, 1, 1, 2, davis_sequences=1, davis_frames=3, davis_size=(48, 64))


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    register_tiny(monkeypatch)


@pytest.fixture
def official(tmp_path: Path) -> Path:
    content = dino_checkpoint(random_network("tiny"), random_network("tiny"))
    torch.save(content, tmp_path / "dino_tiny.full.pth")
    return tmp_path / "dino_tiny.full.pth"


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """An entry "tiny_dino" of the catalogue whose file is in the cache."""
    release = Release("tiny", "DINO", "pictures", "MIT", "https://example.org/tiny.pth", "nobody", 70.0)
    monkeypatch.setitem(CATALOGUE, "tiny_dino", release)
    network = random_network("tiny")
    cached_file(release).parent.mkdir(parents=True)
    torch.save(weights(network), cached_file(release))
    return network


def test_import_writes_a_model_with_its_origin(official: Path, tmp_path: Path, capsys) -> None:
    assert main(["import", str(official), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "DINO, full checkpoint (DINO), its teacher: tiny, 32 px; left out: head" in printed
    assert f"dinoscope.load('{tmp_path / 'out'}')" in printed
    loaded = checkpoint.load_backbone(tmp_path / "out")
    assert torch.equal(loaded.net.cls_token, random_network("tiny").net.cls_token)
    settings = json.loads((tmp_path / "out" / checkpoint.BACKBONE_SETTINGS).read_text())
    assert settings["origin"]["file"] == "dino_tiny.full.pth"
    assert (settings["origin"]["method"], settings["origin"]["part"]) == ("DINO", "teacher")
    assert main(["import", str(official), "--out", str(tmp_path / "out")]) == 2
    assert "holds a model already" in capsys.readouterr().err
    assert main(["import", str(official), "--out", str(tmp_path / "out"), "--overwrite", "--part", "student"]) == 0


def test_a_model_of_others_is_given_a_grey_range(official: Path, tmp_path: Path, capsys) -> None:
    assert main(["import", str(official), "--out", str(tmp_path / "out"), "--window", "-600,1500"]) == 0
    assert checkpoint.load_backbone(tmp_path / "out").config.window == (-600.0, 1500.0)
    assert main(["import", str(official), "--out", str(tmp_path / "other"), "--window", "1,0"]) == 2
    assert "a width above 0" in capsys.readouterr().err


def test_import_alone_only_says_what_it_found(official: Path, tmp_path: Path, capsys) -> None:
    assert main(["import", str(official)]) == 0
    assert "nothing was written" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == [official.name]
    assert main(["import", str(tmp_path / "absent.pth")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["import", str(official), "--std", "0", "1", "1"]) == 2
    assert "--std must be above 0" in capsys.readouterr().err


def test_models_lists_the_catalogue(released: Backbone, capsys) -> None:
    assert main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows.keys() == {"shipped", *CATALOGUE}
    assert rows["tiny_dino"]["cached"]
    assert (rows["shipped"]["cached"], rows["shipped"]["parameters"]) == (True, 0.3)
    assert not rows["dino_vits16"]["cached"]
    assert (rows["dino_vits16"]["knn"], rows["dino_vits16"]["parameters"]) == (74.5, 21.7)
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in CATALOGUE)
    by_name = {line.split()[0]: line for line in printed.splitlines()[1:]}
    assert "≥ 87" in by_name["dino_vits16"]  # 21.7 million weights of 4 bytes
    assert " 102 " in by_name["supervised_resnet50"]


def test_a_released_name_goes_wherever_a_run_goes(released: Backbone, picture_folder, tmp_path: Path, capsys) -> None:
    picture_folder(6, classes=2, split="train")
    data = picture_folder(4, classes=2, split="val")
    image, common = str(next(data.rglob("*.png"))), ["--model", "tiny_dino", "--device", "cpu"]
    folder = ["--data", str(data), "--workers", "0"]
    assert main(["knn", *common, *folder, "--ks", "1", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["protocol"]["weights"] == "tiny_dino"
    top1 = dinoscope.knn("tiny_dino", data, KNNConfig(ks=(1,)), device="cpu")[0]
    assert measured["metrics"][0]["value"] == top1.value
    assert main(["linear", *common, *folder, "--epochs", "1", "--learning-rate", "0.1"]) == 0
    assert main(["embed", *common, *folder, "--out", str(tmp_path / "x.csv")]) == 0
    assert main(["attention", image, *common, "--out", str(tmp_path / "pictures")]) == 0
    assert main(["throughput", *common, "--image-size", "32", "--batch-size", "1", "--repeats", "1"]) == 0
    assert main(["export", "--model", "tiny_dino", "--out", str(tmp_path / "out")]) == 0
    origin = json.loads((tmp_path / "out" / checkpoint.BACKBONE_SETTINGS).read_text())["origin"]
    assert (origin["name"], origin["licence"], origin["architecture"]) == ("tiny_dino", "MIT", "tiny")
    assert torch.equal(dinoscope.load("tiny_dino").net.cls_token, released.net.cls_token)
    assert torch.equal(dinoscope.load(tmp_path / "out").net.cls_token, released.net.cls_token)


FETCHING = "fetching tiny_dino from https://example.org/tiny.pth, in MB (85)"


@pytest.fixture
def not_here_yet(released: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of "tiny_dino" comes from the cache, but as if over a wire, with progress."""

    def fetched(name: str, release: Release, progress: Callable[[int, int], None]) -> Path:
        progress(1, 85)
        return cached_file(release)

    monkeypatch.setattr(model_names, "is_cached", lambda release: False)
    monkeypatch.setattr(model_names, "fetch", fetched)


@pytest.mark.usefixtures("not_here_yet")
def test_every_command_that_makes_pictures_or_figures_shows_the_progress_of_fetching(tmp_path: Path, capsys) -> None:
    drawn = write_scenes(tmp_path / "drawn", TINY_SCENES)
    davis, voc = drawn / "DAVIS", ["--data", str(drawn / "VOCdevkit"), "--limit", "1"]
    image = str(next((drawn / "VOCdevkit").rglob("*.jpg")))
    frames, mask = (str(next(davis.glob(f"{part}/480p/scene-00"))) for part in ("JPEGImages", "Annotations"))
    for command in (
        ["attention", image],
        ["pca", image],
        ["similarity", image, "--at", "1,1"],
        ["segment", image],
        ["voc", *voc, "--size", "32", "--square", "32", "--resamples", "10"],
        ["explain", *voc, "--steps", "1", "--random-orders", "1"],
        ["davis", "--data", str(davis), "--size", "32", "--no-overlay"],
        ["track", frames, "--mask", f"{mask}/00000.png", "--size", "32"],
        ["export"],
    ):
        assert main([*command, "--model", "tiny_dino", "--out", str(tmp_path / command[0])]) == 0, command
        assert FETCHING in capsys.readouterr().err, command


@pytest.mark.usefixtures("not_here_yet")
def test_a_run_that_begins_from_a_released_model_shows_it_too(tmp_path: Path, capsys) -> None:
    (tmp_path / "nowhere").mkdir()  # without images
    options = ["--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out"), "--init", "tiny_dino"]
    with pytest.raises(dinoscope.api.UserError, match="nowhere"):
        call("train", options)
    assert FETCHING in capsys.readouterr().err


def test_a_local_official_file_goes_there_too(official: Path, picture_folder) -> None:
    data = picture_folder(6, classes=2)
    options = ["--model", str(official), "--data", str(data), "--ks", "1", "--device", "cpu", "--workers", "0"]
    assert main(["knn", *options]) == 0
    model = load_model(str(official))
    assert (model.label, model.path) == ("dino_tiny", official)


def test_a_cached_file_of_another_network_is_refused(released: Backbone) -> None:
    torch.save(weights(random_network("resnet18")), cached_file(CATALOGUE["tiny_dino"]))
    with pytest.raises(dinoscope.api.UserError, match=r"is no tiny: it has no 'pos_embed'\. Delete .*fetched again"):
        load_model("tiny_dino")


def test_offline_and_misspelt_names_are_one_line(capsys, tmp_path: Path) -> None:
    export = ["export", "--out", str(tmp_path / "out"), "--model"]
    assert main(["--offline", *export, "dino_vits16"]) == 2
    first = capsys.readouterr().err
    assert main([*export, "dino_vits16", "--offline"]) == 2
    said = capsys.readouterr().err
    assert said == first
    assert said.count("\n") == 1
    assert "dino_deitsmall16_pretrain.pth" in said
    assert main([*export, "dino_vits61"]) == 2
    assert "did you mean the released dino_vits16" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_random_weights_of_a_released_network() -> None:
    model = load_model("random:dinov2_vits14_reg")
    assert (model.backbone.config.name, model.backbone.config.position_size) == ("vit_small_patch14_reg4_dinov2", 518)
    assert model.path is None
