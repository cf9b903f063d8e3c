"""`dinoscope explain` from end to end, on drawn scenes and on folders that are not as they should be."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dinoscope import checkpoint
from dinoscope.cli import main
from dinoscope.evaluation.results import kept
from dinoscope.files import MARK
from dinoscope.models.backbone import BackboneConfig, build_backbone
from dinoscope.scenes import ScenesConfig, write_scenes

FILES = ["curves.pdf", "curves.png", "curves.svg", "explain.csv", "explain.json", "explain.tex", "table.md"]
QUICK = ["--steps", "4", "--random-orders", "1", "--size", "32"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = ScenesConfig(
        size=32, train_per_class=2, val_per_class=1, voc_images=2, davis_sequences=0, davis_size=(48, 64)
    )
    return write_scenes(tmp_path_factory.mktemp("scenes") / "all", config)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """Just enough of a run folder for `keep` and for loading."""
    torch.manual_seed(0)
    run = tmp_path / "my-run"
    checkpoint.export_backbone(run / "exported", build_backbone(BackboneConfig("vit_micro_conv8", 32)))
    (run / "config.json").write_text('{"run": {}}')
    return run


def explain(out: Path, *arguments: object) -> int:
    return main(["explain", "--out", str(out), *QUICK, *map(str, arguments)])


def with_masks(scenes: Path) -> tuple[str, ...]:
    return "--data", str(scenes / "folder/val"), "--masks", str(scenes / "folder-masks/val")


def values(out: Path) -> dict[str, dict[str, float]]:
    models = json.loads((out / "explain.json").read_text())["models"]
    return {model["model"]: {metric["name"]: metric["value"] for metric in model["metrics"]} for model in models}


def test_two_families_beside_chance_and_the_centre(
    scenes: Path, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    models = ("--model", run_folder, "random:resnet_micro")
    assert explain(out, *models, *with_masks(scenes), "--limit", 4, "--tolerance", 0) == 0
    assert sorted(path.name for path in out.iterdir()) == [MARK, *FILES]
    table = (out / "table.md").read_text()
    objects, network = (
        {line.split(" | ")[0].strip("| "): line.split(" | ") for line in half.splitlines() if "|" in line}
        for half in table.split("What the maps are worth")[1:]
    )
    rows = objects
    assert [*rows][2:] == ["my-run", "random resnet\\_micro", "centre bias", "chance"]
    assert rows["my-run"][1] == "attention"
    assert rows["random resnet\\_micro"][1] == "feature energy"
    assert network["random resnet\\_micro"][-1] == "– |"  # one map agrees with nothing
    assert "centre bias" not in network

    found = values(out)
    for label in ("my-run", "random resnet_micro", "centre bias"):
        figures = found[label]
        assert figures["explain_lift"] == pytest.approx(figures["explain_energy"] / figures["explain_area"])
        assert figures["explain_area"] == pytest.approx(found["my-run"]["explain_area"])
    assert 0 <= found["my-run"]["explain_agreement"] <= 1
    for area in ("deletion", "insertion"):  # scaling by the mean fall keeps what is gained over random orders
        figures = found["my-run"]
        gained = figures[f"explain_{area}_plain"] - figures["explain_random_plain"]
        assert figures[f"explain_{area}_gain"] == pytest.approx(gained / figures["explain_range"])
    assert "explain_agreement" not in found["random resnet_micro"]
    assert "explain_deletion_plain" not in found["centre bias"]

    with (out / "explain.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["model"] for line in lines] == [*["my-run"] * 4, *["random resnet_micro"] * 4, *["centre bias"] * 4]
    mean = np.mean([float(line["jaccard"]) for line in lines[:4]])
    assert found["my-run"]["explain_jaccard"] == pytest.approx(mean, rel=1e-4)
    assert cv2.imread(str(out / "curves.png")).shape[2] == 3

    measurement = kept(run_folder, "explain-4")
    assert measurement is not None
    energy = measurement.metric("explain_energy")
    assert energy is not None
    assert energy.low is not None
    assert energy.high is not None
    assert energy.low <= energy.value <= energy.high
    assert energy.n == 4
    assert {m.name: m.value for m in measurement.metrics} == found["my-run"]
    assert measurement.protocol["images"] == 4
    assert measurement.protocol["perturbation"]["steps"] == 4
    shown = capsys.readouterr().out
    assert "centre bias" in shown
    assert "written to" in shown


def test_a_second_run_says_the_same_and_replaces_nothing_unasked(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--model", "random:vit_micro_conv8", *with_masks(scenes), "--limit", 2)
    assert explain(tmp_path / "out", *arguments) == 0
    first = (tmp_path / "out/explain.json").read_text()
    assert explain(tmp_path / "out", *arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert explain(tmp_path / "out", *arguments, "--overwrite", "--json") == 0
    assert capsys.readouterr().out == first == (tmp_path / "out/explain.json").read_text()


def test_without_masks_there_are_no_columns_about_objects(
    picture_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = picture_folder(3)
    (folder / "broken.png").write_bytes(b"not a picture")
    assert explain(tmp_path / "out", "--model", "random:vit_micro_conv8", "--data", folder) == 0
    table = (tmp_path / "out/table.md").read_text()
    assert "delete ↓" in table
    assert all(word not in table for word in ("Jaccard", "pointing", "chance", "centre bias"))
    assert "1 of 4 images could not be used, such as" in table
    assert "broken.png" in capsys.readouterr().out
    assert not any(name.startswith("explain_energy") for name in values(tmp_path / "out")["random vit_micro_conv8"])


def test_voc_layouts_hold_their_own_masks(scenes: Path, tmp_path: Path) -> None:
    arguments = ("--model", "random:vit_micro_conv8", "--data", scenes / "VOCdevkit", "--map", "energy")
    assert explain(tmp_path / "out", *arguments) == 0
    found = values(tmp_path / "out")["random vit_micro_conv8"]
    assert 0 < found["explain_energy"] < 100
    assert "explain_agreement" not in found


@pytest.mark.parametrize("network", ["vit_micro_conv8", "resnet_micro"])
def test_a_gallery_gives_grad_cam_and_the_curves_a_class(scenes: Path, tmp_path: Path, network: str) -> None:
    arguments = ("--model", f"random:{network}", *with_masks(scenes), "--limit", 2, "--map", "gradcam")
    assert explain(tmp_path / "own", *arguments) == 0
    assert explain(tmp_path / "class", *arguments, "--gallery", scenes / "folder/train") == 0
    own, towards_class = (values(tmp_path / name)[f"random {network}"] for name in ("own", "class"))
    assert own["explain_energy"] != towards_class["explain_energy"]
    assert towards_class["explain_deletion"] == towards_class["explain_deletion_plain"]  # a share is not scaled
    assert 0 <= towards_class["explain_deletion"] <= 1
    assert "share of the vote of 20 neighbours" in (tmp_path / "class/table.md").read_text()


def test_images_without_object_or_with_an_unfit_mask_are_counted(scenes: Path, tmp_path: Path) -> None:
    data, masks = tmp_path / "data", tmp_path / "masks"
    shutil.copytree(scenes / "folder/val", data)
    shutil.copytree(scenes / "folder-masks/val", masks)
    empty, unfit, missing = sorted(masks.rglob("*.png"))[-3:]
    cv2.imwrite(str(empty), np.zeros((32, 32), np.uint8))
    cv2.imwrite(str(unfit), np.full((16, 32), 255, np.uint8))
    missing.unlink()
    arguments = ("--model", "random:resnet_micro", "--data", data, "--masks", masks)
    assert explain(tmp_path / "out", *arguments) == 0
    kept_values = json.loads((tmp_path / "out/explain.json").read_text())
    protocol = kept_values["models"][0]["protocol"]
    assert (protocol["images"], protocol["images_left_out"], protocol["images_without_object"]) == (8, 1, 1)
    assert "is 32 x 16 px, its image 32 x 32" in next(iter(kept_values["left_out"]["random resnet_micro"].values()))
    reasons = list(kept_values["left_out"]["random resnet_micro"].values())
    assert reasons.count("without a mask") == 1
    table = (tmp_path / "out/table.md").read_text()
    assert "in the columns that need none: 1 of 8 images" in table
    assert "Without a mask, and left out: 1 images" in table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--map", "gradcan", "--model", "nowhere", "--data", "nowhere"),  # before anything is loaded or looked at
            "there is no kind of map 'gradcan'; did you mean gradcam? "
            "there are: attention, rollout, energy, gradcam, centre",
        ),
        (("--mass", "0"), "mass that a mask holds"),
        (("--tolerance", "-1"), "tolerance of the pointing game"),
        (("--steps", "0"), "must be at least 1"),
        (("--blur", "0"), "share of the short side"),
        (("--limit", "0"), "--limit must be at least 1"),
        (("--size", "4"), "at least one patch of vit_micro_conv8, 8 px"),
        (("--block", "7"), "no block 7"),
        (("--block", "0", "--map", "centre"), "leave the block at -1"),
        (
            ("--model", "random:vit_micro_conv8", "random:resnet_micro", "--map", "rollout"),
            "needs attention blocks",
        ),
        (("--block", "0", "--map", "energy"), "leave the block at -1"),
        (("--masks", "nowhere"), "--masks nowhere: no such folder"),
        (("--gallery", "GALLERY"), "outside of any class folder"),
        (("--data", "nowhere"), "no such folder"),
        (("--model", "random:vit_micro"), "neither a network nor a model"),
    ],
)
def test_mistakes_are_told_in_one_line(
    arguments: tuple[str, ...],
    message: str,
    picture_folder: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = picture_folder(2)
    given = [str(folder) if argument == "GALLERY" else argument for argument in arguments]
    required = {"--model": "random:vit_micro_conv8", "--data": str(folder)}
    rest = [part for name, value in required.items() if name not in given for part in (name, value)]
    assert main(["explain", "--out", str(tmp_path / "out"), *rest, *given]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_nothing_readable_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.png").write_bytes(b"not a picture")
    arguments = ("--model", "random:vit_micro_conv8", "--data", tmp_path / "data")
    assert explain(tmp_path / "out", *arguments) == 2
    assert "no image could be measured" in capsys.readouterr().err


def test_weights_that_give_no_numbers_are_named(
    picture_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = build_backbone(BackboneConfig("vit_micro_conv8", 32))
    with torch.no_grad():
        next(backbone.parameters()).fill_(torch.nan)
    checkpoint.export_backbone(tmp_path / "diverged", backbone)
    assert explain(tmp_path / "out", "--model", tmp_path / "diverged", "--data", picture_folder(1)) == 2
    assert "diverged: a map is not finite" in capsys.readouterr().err


def test_features_that_are_no_numbers_are_named_though_the_map_is_sound(
    picture_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = build_backbone(BackboneConfig("vit_micro_conv8", 32))
    with torch.no_grad():
        backbone.net.norm.weight.fill_(torch.nan)  # behind all attention
    checkpoint.export_backbone(tmp_path / "diverged", backbone)
    assert explain(tmp_path / "out", "--model", tmp_path / "diverged", "--data", picture_folder(1)) == 2
    assert "diverged: a feature is not finite" in capsys.readouterr().err


def test_a_network_that_gives_every_image_one_feature_has_no_areas(
    picture_folder: Callable[..., Path], tmp_path: Path
) -> None:
    backbone = build_backbone(BackboneConfig("vit_micro_conv8", 32))
    with torch.no_grad():
        backbone.net.norm.weight.zero_()
        backbone.net.norm.bias.fill_(1)
    checkpoint.export_backbone(tmp_path / "collapsed", backbone)
    assert explain(tmp_path / "out", "--model", tmp_path / "collapsed", "--data", picture_folder(2)) == 0
    table = (tmp_path / "out/table.md").read_text()
    assert "| collapsed | attention | – | – | – | – |" in table
    assert "collapsed: its features hardly change" in table
    assert not (tmp_path / "out/curves.png").exists()


def test_random_orders_differ_from_image_to_image_and_the_rest_does_not(
    picture_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = picture_folder(1, size=(32, 32))
    shutil.copy(folder / "0000.png", folder / "copy.png")
    assert explain(tmp_path / "out", "--model", "random:vit_micro_conv8", "--data", folder) == 0
    with (tmp_path / "out/explain.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert first["deletion_plain"] == second["deletion_plain"]
    assert first["random_plain"] != second["random_plain"]
