"""`dinoscope reproduce`, end to end on drawn data and weights that tests make, in the official layouts."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

from dinoscope import checkpoint, features
from dinoscope.cli import main
from dinoscope.data.sources import ImageFolder
from dinoscope.evaluation import EVALUATIONS
from dinoscope.models.pretrained import CATALOGUE
from dinoscope.models.pretrained.released import cached_file, first_digest
from dinoscope.scenes import ScenesConfig, write_scenes
from dinoscope.study.reproduce import FILES
from dinoscope.types import Metric
from tests.conftest import draw_picture
from tests.official_files import dino_checkpoint, random_network, register_tiny, release, weights

SCENES = ScenesConfig(0, 16, 0, 0, 3, davis_sequences=2, davis_frames=4, davis_size=(48, 64))
SMALL = ("--device", "cpu", "--image-size", "32")
FAST = (*SMALL, "--workers", "0", "--linear", "none")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes") / "drawn", SCENES)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training and 6 validation pictures of two classes, in ImageNet's layout and with its ending."""
    root = tmp_path_factory.mktemp("imagenet")
    for split, count in (("train", 24), ("val", 6)):
        for number in range(count):
            file = root / split / f"n0000000{number % 2}" / f"{number}.JPEG"
            file.parent.mkdir(parents=True, exist_ok=True)
            _, encoded = cv2.imencode(".jpg", draw_picture(number + 100 * (split == "val")))
            file.write_bytes(encoded.tobytes())
    return root


@pytest.fixture(autouse=True)
def _released(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    register_tiny(monkeypatch)
    release(monkeypatch, "tiny_dino", linear=75.0)
    release(monkeypatch, "tiny_deit", "tiny_heads", method="supervised", knn=None, own=80.0)
    monkeypatch.chdir(tmp_path)


def reproduce(table: str, data: Path, *options: object) -> int:
    return main(["reproduce", table, "--data", str(data), "--out", "out", *map(str, options)])


def faults(error: str) -> int:
    """Lines but those of progress."""
    return sum(not line.startswith("listing ") for line in error.splitlines())


def values() -> dict[str, dict[str, Any]]:
    """Figures of each model by title, from reproduce.json."""
    read = json.loads(Path("out/reproduce.json").read_text())
    return {each["model"]: {figure["title"]: figure for figure in each["figures"]} for each in read["models"]}


BOTH = ("--models", "tiny_dino", "tiny_deit")


def test_imagenet(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce("imagenet-table", images, *BOTH, *SMALL, "--workers", "0") == 0
    shown = capsys.readouterr()
    found = values()
    assert main(["knn", "--model", "tiny_dino", "--data", str(images), *SMALL, "--workers", "0", "--json"]) == 0
    alone = {Metric(**metric).title: metric["value"] for metric in json.loads(capsys.readouterr().out)["metrics"]}
    assert main(["linear", "--model", "tiny_dino", "--data", str(images), *SMALL, "--workers", "0", "--json"]) == 0
    probe = {metric["name"]: metric["value"] for metric in json.loads(capsys.readouterr().out)["metrics"]}
    knn, linear = found["tiny_dino"]["k-NN (k = 20)"], found["tiny_dino"]["linear"]
    assert knn["measured"] == alone["knn_top1 (k = 20)"]
    assert linear["measured"] == probe["linear_top1"]
    assert (knn["published"], knn["source"]) == (70.0, "nobody")
    assert knn["difference"] == pytest.approx(alone["knn_top1 (k = 20)"] - 70)
    assert found["tiny_deit"]["k-NN (k = 20)"]["published"] is None
    assert found["tiny_deit"]["k-NN (k = 20)"]["difference"] is None
    assert "listing train, in classes (2)\n" in shown.err
    said = "not ImageNet-1k: 2 classes, 24 training and 6 validation images instead of 1,000, 1,281,167 and 50,000"
    assert said in shown.out
    assert said in shown.err
    assert f"{knn['measured']:.1f}" in shown.out
    assert f"{knn['difference']:+.1f}" in shown.out
    assert "the fast protocol" in shown.out
    assert "No digests are published of the files of DINO, supervised: they are taken as they are" in shown.out
    table = shown.out.partition("\n1 ")[0].partition("Not comparable")[0]
    assert max(map(len, table.splitlines())) <= 80
    check_files(knn)


def check_files(knn: dict[str, Any]) -> None:
    """The three files say the same."""
    assert sorted(path.name for path in Path("out").iterdir()) == sorted((*FILES, "tiny_deit", "tiny_dino"))
    with Path("out/reproduce.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["figure"]) for row in rows] == [
        (model, figure) for model in ("tiny_dino", "tiny_deit") for figure in ("k-NN (k = 20)", "linear")
    ]
    assert float(rows[0]["measured"]) == knn["measured"]
    assert float(rows[0]["difference"]) == knn["difference"]
    assert rows[0]["weights"] == "tiny_dino"
    assert rows[2]["published"] == rows[2]["difference"] == ""
    text = Path("out/reproduce.md").read_text()
    assert text.startswith("# imagenet-table\n")
    assert f"| {knn['measured']:.1f} | 70.0 | {knn['difference']:+.1f} |" in text


def test_what_is_kept_is_not_measured_again(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that was broken off within the second model goes on there."""
    measure, seen = EVALUATIONS["knn"].run, list[str]()

    def until(*arguments: Any, **options: Any) -> Any:
        seen.append(arguments[0][0].label)
        if seen == ["tiny_dino", "tiny_deit"]:
            raise KeyboardInterrupt
        return measure(*arguments, **options)

    monkeypatch.setitem(EVALUATIONS, "knn", replace(EVALUATIONS["knn"], run=until))
    assert reproduce("imagenet-table", images, *BOTH, *FAST) == 130
    assert not Path("out/reproduce.md").exists()
    assert reproduce("imagenet-table", images, *BOTH, *FAST) == 0
    assert seen == ["tiny_dino", "tiny_deit", "tiny_deit"]
    first = values()
    assert reproduce("imagenet-table", images, *BOTH, *FAST) == 0
    assert len(seen) == 3
    assert values() == first
    assert reproduce("imagenet-table", images, *BOTH, *FAST, "--overwrite") == 0
    assert seen[3:] == ["tiny_dino", "tiny_deit"]


def test_features_of_what_was_broken_off_are_not_computed_again(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while the validation images are read: the training images are not read again."""
    compute, seen = features.readable_features, list[str]()

    def until(backbone: Any, folder: ImageFolder, *rest: Any) -> Any:
        seen.append(folder.root.name)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return compute(backbone, folder, *rest)

    monkeypatch.setattr(features, "readable_features", until)
    assert reproduce("imagenet-table", images, "--models", "tiny_dino", *FAST) == 130
    assert len(list(Path("out/tiny_dino/features").iterdir())) == 1
    assert reproduce("imagenet-table", images, "--models", "tiny_dino", *FAST) == 0
    assert seen == ["train", "val", "val"]
    assert [path.name for path in Path("out/tiny_dino").iterdir()] == ["evaluations"]


def test_a_model_that_fails_is_a_row_with_its_reason(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = cached_file(CATALOGUE["tiny_deit"])
    right = file.read_bytes()
    torch.save(weights(random_network("resnet_micro")), file)
    assert reproduce("imagenet-table", images, *BOTH, *FAST) == 1
    shown = capsys.readouterr().out
    assert "failed" in shown
    assert "tiny_deit: knn failed" in shown
    assert "is no tiny_heads" in shown
    assert values()["tiny_dino"]["k-NN (k = 20)"]["measured"] is not None
    assert values()["tiny_deit"]["k-NN (k = 20)"]["measured"] is None
    file.write_bytes(right)
    first_digest(file).unlink()
    assert reproduce("imagenet-table", images, *BOTH, *FAST) == 0
    assert values()["tiny_deit"]["k-NN (k = 20)"]["measured"] is not None


def test_nothing_is_replaced_unasked(images: Path, drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce("imagenet-table", images, *BOTH, *FAST) == 0
    before = {path: path.read_bytes() for path in Path("out").rglob("*.*") if path.is_file()}
    capsys.readouterr()
    for table, data, options, words in (
        ("imagenet-table", images, (*BOTH, *FAST, "--image-size", "48"), "measured otherwise (other image_size)"),
        ("imagenet-table", images, ("--models", "tiny_dino", *FAST), "holds reproduce.md already"),
        ("voc-table", drawn / "VOCdevkit", (*BOTH, *SMALL), "holds reproduce.md already"),
    ):
        assert reproduce(table, data, *options) == 2
        error = capsys.readouterr().err
        assert words in error
        assert faults(error) == 1
    assert {path: path.read_bytes() for path in Path("out").rglob("*.*") if path.is_file()} == before
    torch.save(weights(random_network("tiny", 48)), cached_file(CATALOGUE["tiny_dino"]))
    first_digest(cached_file(CATALOGUE["tiny_dino"])).unlink()
    assert reproduce("imagenet-table", images, *BOTH, *FAST) == 1
    assert "was measured of other weights" in capsys.readouterr().out


def test_missing_weights_are_one_line_before_anything_is_measured(
    images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("absent_a", "absent_b"):
        release(monkeypatch, name, cached=False)
    models = ("--models", "tiny_dino", "absent_a", "absent_b", "--offline")
    assert reproduce("imagenet-table", images, *models, *FAST) == 2
    error = capsys.readouterr().err
    assert faults(error) == 1
    assert "absent_a is not here, and fetching is switched off" in error
    assert str(cached_file(CATALOGUE["absent_a"])) in error
    assert "absent_b (https://example.org/absent_b.pth)" in error
    assert not Path("out").exists()


def test_a_dry_run_needs_no_weights_and_writes_nothing(
    images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    release(monkeypatch, "absent", cached=False, megabytes=12.0)
    options = ["--models", "tiny_dino", "absent", "--dry-run", "--offline", *SMALL]
    assert main(["reproduce", "imagenet-table", "--data", str(images), *options]) == 0
    shown = capsys.readouterr().out
    here, absent = (
        next(line.split() for line in shown.splitlines() if name in line) for name in ("tiny_dino", "absent")
    )
    size = cached_file(CATALOGUE["tiny_dino"]).stat().st_size / 1e6
    assert here[:4] == ["tiny_dino", "tiny_dino.pth", f"{size:.0f}", "yes"]
    assert absent[:4] == ["absent", "absent.pth", "12", "no"]
    assert "On 24 training and 6 validation images; in all" in shown
    assert "To be fetched: 1 files, 12 MB" in shown
    assert not Path("out").exists()


@pytest.fixture
def vit_small() -> Path:
    """A file as dino_vits16's, from random weights, in the folder of the test."""
    file = Path("dino_deitsmall16_pretrain.pth").absolute()
    torch.save(weights(random_network("vit_small_patch16_224", 224)), file)
    return file


def test_voc_with_a_file_that_is_called_as_the_released_one(
    vit_small: Path, drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = ("--models", "random:dino_vits16", vit_small, "tiny_dino")
    data = drawn / "VOCdevkit"
    assert reproduce("voc-table", data, *models, *SMALL) == 0
    shown, found = capsys.readouterr().out, values()
    for mass, title in (("0.6", "Jaccard, 60 %"), ("0.9", "Jaccard, 90 %")):
        voc = ["voc", "--model", str(vit_small), "--data", str(data), "--protocol", "published", "--square", "32"]
        assert main([*voc, "--mass", mass, "--device", "cpu", "--json"]) == 0
        (alone,) = json.loads(capsys.readouterr().out)["models"]
        alike = [each["value"] for each in alone["metrics"] if each["parameters"] == {"mass": float(mass)}]
        assert alike == [found["dino_vits16"][title]["measured"]]
    assert found["dino_vits16"]["Jaccard, 60 %"]["published"] == 45.9
    assert found["random:dino_vits16"]["Jaccard, 60 %"]["published"] == 22.0
    assert "seed 0" in found["random:dino_vits16"]["Jaccard, 60 %"]["notes"][0]
    assert found["dino_vits16"]["Jaccard, 90 %"]["published"] is None
    assert found["tiny_dino"]["Jaccard, 60 %"]["published"] is None
    assert "not VOC 2012 val: 3 images with masks instead of 1,449" in shown
    assert "squares of 32 px instead of 512" in shown


def test_davis(vit_small: Path, drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce("davis-table", drawn / "DAVIS", "--models", f"dino_vits16={vit_small}", *SMALL) == 0
    shown, found = capsys.readouterr().out, values()["dino_vits16"]
    davis = ["davis", "--model", str(vit_small), "--data", str(drawn / "DAVIS"), "--size", "32", "--device", "cpu"]
    assert main([*davis, "--json"]) == 0
    (alone,) = json.loads(capsys.readouterr().out)["models"]
    metrics = {metric["name"]: metric["value"] for metric in alone["metrics"] if not metric.get("parameters")}
    assert [found[title]["measured"] for title in ("J&F", "J", "F")] == [
        metrics[name] for name in ("jf_mean", "j_mean", "f_mean")
    ]
    assert [found[title]["published"] for title in ("J&F", "J", "F")] == [61.8, 60.2, 63.4]
    assert found["J"]["difference"] == pytest.approx(metrics["j_mean"] - 60.2)
    assert "0.228" in shown
    assert "not DAVIS 2017 val: 2 sequences instead of 30" in shown


def test_ones_own_files_and_folders(
    images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    release(monkeypatch, "checked", cached=False, digest="sha256:00000000")
    torch.save(dino_checkpoint(random_network("tiny"), random_network("tiny")), "mine.pth")
    checkpoint.export_backbone(Path("exported"), random_network("tiny"))
    assert reproduce("imagenet-table", images, "--models", "checked=mine.pth", "tiny_dino=exported", *FAST) == 0
    notes = values()["checked"]["k-NN (k = 20)"]["notes"]
    assert notes == ["checked: mine.pth is not the released file: its digest is not sha256:00000000"]
    assert values()["tiny_dino"]["k-NN (k = 20)"]["notes"] == []
    checkpoint.export_backbone(Path("other"), random_network("resnet_micro"))
    assert reproduce("imagenet-table", images, "--models", "tiny_dino=other", *FAST, "--overwrite") == 1
    assert "holds a resnet_micro, and tiny_dino is a tiny" in capsys.readouterr().out


def _empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _flat_val(folder: Path) -> Path:
    for name in ("train/a/1.JPEG", "train/b/2.JPEG", "val/3.JPEG"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("table", "make", "words"),
    [
        ("imagenet-table", _empty, "has no folder train and no folder val: expected is ImageNet as train/CLASS/"),
        ("imagenet-table", _flat_val, "lies outside of any class folder"),
        ("voc-table", _empty, "is not laid out like PASCAL VOC 2012"),
        ("davis-table", _empty, "is not laid out like DAVIS"),
    ],
)
def test_a_wrong_layout_is_one_line_before_anything_is_fetched(
    table: str, make: Callable[[Path], Path], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make(tmp_path / "data")
    assert reproduce(table, data, "--offline", "--device", "cpu") == 2
    error = capsys.readouterr().err
    assert words in error
    assert faults(error) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--models", "dino_vits61"), "there is no released model 'dino_vits61'; did you mean dino_vits16"),
        (("--models", "tiny_dino", "tiny_dino"), "--models names tiny_dino twice"),
        (("--models", "random:tiny_dino"), "nothing is published of random weights"),
        (("--models", "tiny_dino=nowhere.pth"), "there is no file or folder nowhere.pth"),
        (("--models", "{images}"), "no released file is called"),
        (("--batch-size", "0"), "--batch-size must be at least 1"),
    ],
)
def test_mistakes_are_one_line(
    options: tuple[str, ...], words: str, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce("imagenet-table", images, *(option.format(images=images) for option in options), *FAST) == 2
    error = capsys.readouterr().err
    assert words in error
    assert faults(error) == 1
    assert not Path("out").exists()


def test_a_table_of_another_name_and_no_out(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce("davis-tabel", images) == 2
    assert "did you mean davis-table" in capsys.readouterr().err
    assert main(["reproduce", "voc-table", "--data", str(images)]) == 2
    assert "give --out FOLDER" in capsys.readouterr().err
