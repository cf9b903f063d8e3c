"""`dinoscope voc`, end to end on drawn scenes."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dinoscope import checkpoint, cli
from dinoscope.cli import call
from dinoscope.errors import UserError
from dinoscope.files import MARK
from dinoscope.models.backbone import BackboneConfig, build_backbone
from dinoscope.scenes import ScenesConfig, write_scenes

SMALL = ("--size", "64", "--square", "64", "--device", "cpu", "--resamples", "200")
BOTH = ("random:vit_micro_conv8", "random:resnet_micro")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = ScenesConfig(size=16, train_per_class=0, val_per_class=1, voc_images=6, davis_sequences=0)
    return write_scenes(tmp_path_factory.mktemp("scenes") / "drawn", config)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    folder = tmp_path / "run"
    checkpoint.export_backbone(folder / "exported", build_backbone(BackboneConfig("vit_micro_conv8", image_size=32)))
    (folder / "config.json").write_text('{"run": {}}')
    return folder


def run(data: Path, *options: object, models: tuple[object, ...] = BOTH) -> int:
    return call("voc", ["--model", *map(str, models), "--data", str(data), *SMALL, *map(str, options)])


def test_everything_at_once(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, masks = tmp_path / "deep" / "out", tmp_path / "masks"
    options = ("--out", out, "--save-masks", masks, "--pictures", 3, "--masses", 0.5, 0.9, "--published")
    assert run(data / "VOCdevkit", *options) == 0
    printed = capsys.readouterr().out
    assert "The ground truth chooses the head" in printed
    assert "Void pixels count as not belonging to the class" in printed
    assert "At 64 px instead of 512 it does not compare with published figures" in printed
    assert "Without heads, the one map" in printed
    assert "(the whole" in printed
    assert "45.9" in printed  # as published
    assert "Caron et al. 2021" in printed
    assert "The best mass was not chosen" in printed
    assert "table.md, voc.json, voc.tex, voc.csv, sweep.png, sweep.svg, sweep.pdf, pictures-01.png" in printed
    assert sorted(path.name for path in out.iterdir()) == [
        MARK,
        "pictures-01.png",
        "sweep.pdf",
        "sweep.png",
        "sweep.svg",
        "table.md",
        "voc.csv",
        "voc.json",
        "voc.tex",
    ]
    check_values(out)
    check_masks(masks, data)
    table = (out / "table.md").read_text()
    assert "random resnet\\_micro − random vit\\_micro\\_conv8" in table
    assert "| 50 % | 60 % | 90 % |" in table
    sheet = cv2.imread(str(out / "pictures-01.png"))
    assert sheet is not None
    assert sheet.shape[1] > 4 * 300  # image, truth, two models


def check_values(out: Path) -> None:
    """The mean over the rows of voc.csv is the figure of voc.json, and lies in its interval and its sweep."""
    with (out / "voc.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 * 2
    values = json.loads((out / "voc.json").read_text())
    for model in values["models"]:
        metrics = {metric["name"]: metric for metric in reversed(model["metrics"])}
        for name in ("published", "strict_mean", "strict_head"):
            mean = 100 * np.mean([float(row[name]) for row in rows if row["model"] == model["model"]])
            assert metrics[f"voc_jaccard_{name}"]["value"] == pytest.approx(mean, abs=1e-3)
            assert metrics[f"voc_jaccard_{name}"]["low"] <= mean <= metrics[f"voc_jaccard_{name}"]["high"]
            swept = {
                each["parameters"]["mass"]: each["value"]
                for each in model["metrics"]
                if each["name"] == f"voc_jaccard_{name}" and "class" not in each["parameters"]
            }
            assert sorted(swept) == [0.5, 0.6, 0.9]
            assert swept[0.6] == pytest.approx(mean, abs=1e-3)
        protocol = model["protocol"]
        assert (protocol["weights"], protocol["images"], protocol["mass"]) == ("random", 6, 0.6)
        assert protocol["published"]["head"].endswith("chosen by the truth that it is measured by")
    assert len(values["differences"]) == 2


def check_masks(masks: Path, data: Path) -> None:
    """A mask as large as its image for each image and model, of two values."""
    assert sorted(path.name for path in masks.iterdir()) == ["random-resnet_micro", "random-vit_micro_conv8"]
    for image in sorted((data / "VOCdevkit/VOC2012/JPEGImages").iterdir()):
        for model in masks.iterdir():
            mask = cv2.imread(str(model / f"{image.stem}.png"), cv2.IMREAD_UNCHANGED)
            assert mask is not None
            assert mask.shape == cv2.imread(str(image)).shape[:2]
            assert np.unique(mask).tolist() == [0, 255]


def times(folder: str) -> dict[Path, int]:
    """When each file was written."""
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*.*") if path.name != MARK}


def test_nothing_is_replaced_unasked(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["voc", "--model", BOTH[1], "--data", str(data / "VOCdevkit"), *SMALL, "--protocol", "strict"]
    for place in ("--out", "--save-masks"):
        folder = str(tmp_path / place[2:])
        assert cli.main([*options, place, folder]) == 0
        before = times(folder)
        assert cli.main([*options, place, folder]) == 2
        assert "already: name another folder with --out, or add --overwrite" in capsys.readouterr().err
        assert times(folder) == before
        assert cli.main([*options, place, folder, "--overwrite"]) == 0
        assert {path.stat().st_mtime_ns for path in Path(folder).rglob("*.*") if path.name != MARK}.isdisjoint(
            before.values()
        )


def test_pages_of_an_earlier_longer_series_go(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("pictures-01.png", "pictures-02.png", "pictures-of-me.png"):
        (out / name).write_bytes(b"")
    options = ["voc", "--model", BOTH[1], "--data", str(data / "VOCdevkit"), *SMALL, "--out", str(out)]
    assert cli.main(options) == 2
    assert cli.main([*options, "--overwrite", "--pictures", "1"]) == 0
    assert [path.name for path in sorted(out.glob("pictures*"))] == ["pictures-01.png", "pictures-of-me.png"]


def test_two_labels_never_share_a_folder_of_masks(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    for name in ("a b", "a-b"):
        checkpoint.export_backbone(tmp_path / name, build_backbone(BackboneConfig("resnet_micro", image_size=32)))
    options = ("--limit", 1, "--save-masks", tmp_path / "masks", "--protocol", "strict")
    assert run(data / "VOCdevkit", *options, models=(tmp_path / "a b", tmp_path / "a-b")) == 0
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["a-b", "a-b-2"]


def test_a_run_folder_keeps_its_figures_and_a_part_of_the_images_not_in_their_place(
    data: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data / "VOCdevkit", "--json", models=(run_folder,)) == 0
    shown = json.loads(capsys.readouterr().out)["models"][0]
    kept = json.loads((run_folder / "evaluations" / "voc.json").read_text())
    examples = kept["items"]
    assert kept == {"evaluation": "voc", "protocol": shown["protocol"], "metrics": shown["metrics"], "items": examples}
    assert len(examples["names"]) == kept["protocol"]["images"] == 6
    assert kept["protocol"]["strict"]["void"] == "left out"
    assert len(kept["protocol"]["fixed_heads"]) == 2
    monkeypatch.chdir(data)
    assert run(Path("VOCdevkit"), "--limit", 2, models=(run_folder,)) == 0
    assert "Only 2 of the images, evenly spaced (--limit 2)" in capsys.readouterr().out
    part = json.loads((run_folder / "evaluations" / "voc-2.json").read_text())
    assert (part["protocol"]["limit"], part["protocol"]["images"]) == (2, 2)
    assert part["protocol"]["data"] == kept["protocol"]["data"]  # absolute, wherever the command ran
    assert json.loads((run_folder / "evaluations" / "voc.json").read_text()) == kept


def test_a_folder_of_masks(data: Path, tmp_path: Path) -> None:
    options = ("--masks", data / "folder-masks" / "val", "--limit", 3, "--out", tmp_path / "out", "--pictures", 2)
    assert run(data / "folder" / "val", *options, "--protocol", "published", "--save-masks", tmp_path / "m") == 0
    assert len(list((tmp_path / "m").rglob("*.png"))) == 6
    values = json.loads((tmp_path / "out" / "voc.json").read_text())
    assert {each["name"] for each in values["models"][0]["metrics"]} == {"voc_jaccard_published"}
    assert values["models"][0]["protocol"]["strict"] is None


def test_what_is_left_out_is_said(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoilt = tmp_path / "VOCdevkit"
    shutil.copytree(data / "VOCdevkit", spoilt)
    (spoilt / "VOC2012/SegmentationClass/2012_000001.png").unlink()
    (spoilt / "VOC2012/JPEGImages/2012_000003.jpg").write_bytes(b"")
    assert run(spoilt, "--protocol", "strict", "--out", tmp_path / "out", models=BOTH[1:]) == 0
    said = "2 of 6 images are left out: 1 mask missing, 1 image unreadable. The first: 2012_000001 has no mask."
    assert said in capsys.readouterr().out
    left_out = json.loads((tmp_path / "out" / "voc.json").read_text())["left_out"]
    assert list(left_out["random resnet_micro"]) == ["2012_000001", "2012_000003"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--limit", "0"), "--limit must be at least 1"),
        (("--pictures", "2"), "add --out"),
        (("--pictures", "-1"), "must be 0 or more"),
        (("--mass", "2"), "at most 1, not 2"),
        (("--split", "train"), "train.txt: No such file"),
        (("--block", "7"), "has no block 7"),
    ],
)
def test_options_out_of_range(data: Path, options: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError, match=said):
        run(data / "VOCdevkit", *options)


def test_a_folder_that_is_no_voc_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["voc", "--model", BOTH[0], "--data", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"dinoscope voc: {tmp_path} is not laid out like PASCAL VOC 2012")
    assert captured.err.count("\n") == 1


def test_a_folder_that_is_not_there_is_said_to_be_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["voc", "--data", "/no/such/folder", "--model", "random:vit_micro_conv8"]) == 2
    assert capsys.readouterr().err.startswith("dinoscope voc: /no/such/folder: no such folder.")
