"""`dinoscope compare` end to end, on runs of one or two steps."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest
from PIL import Image

from dinoscope import api, checkpoint, system
from dinoscope.cli import main
from dinoscope.errors import UserError
from dinoscope.evaluation.compare import LABEL, PUBLISHED
from dinoscope.evaluation.results import keep, kept, kept_names
from dinoscope.model_names import load_models
from dinoscope.report.comparison import FILES
from dinoscope.types import Result
from tests.conformance import cases
from tests.conftest import draw_picture

FAST = ["--throughput-image-size", "32", "--throughput-batch-size", "2", "--device", "cpu", "--workers", "0"]


def draw(root: Path, first: int) -> Path:
    """Twelve training and six validation pictures of three classes."""
    for split, count in (("train", 12), ("val", 6)):
        for number in range(count):
            file = root / split / f"class{number % 3}" / f"{number:02d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), draw_picture(first + number))
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of one run (a0, a1), one of two epochs (b), one of SimCLR (c), and images (data, other)."""
    root = tmp_path_factory.mktemp("trained")
    data = draw(root / "data", 0)
    draw(root / "other", 100)
    for name, changes in {
        "a0": {},
        "a1": {"seed": 1},
        "b": {"epochs": 2, "method": replace(cases.SETTINGS["dino"], teacher_momentum=0.8)},
        "c": {"method": cases.SETTINGS["simclr"], "backbone": "resnet_micro"},
    }.items():
        config = cases.run_config("dino", data, root / name, epochs=1, evaluate_every=1)
        api.train(replace(config, **changes))
    return root


@pytest.fixture
def runs(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copies of the runs without evaluations, in the current folder."""
    for name in ("a0", "a1", "b", "c"):
        shutil.copytree(trained / name, tmp_path / name)
    monkeypatch.setattr(system, "_LEAST_SECONDS", 0.005)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def compared(*arguments: object) -> dict[str, Any]:
    """Run the command into `out`; the content of comparison.json."""
    assert main(["compare", *map(str, arguments), "--out", "out", *FAST]) == 0
    return json.loads(Path("out/comparison.json").read_text())


def figures(values: dict[str, Any], name: str) -> dict[str, Any]:
    """Figure of each row, by its first run."""
    return {row["entries"][0]["run"]: row["figures"][name] for row in values["rows"]}


def notes(values: dict[str, Any]) -> dict[str, list[str]]:
    return {row["entries"][0]["run"]: [values["notes"][mark - 1] for mark in row["notes"]] for row in values["rows"]}


def test_everything_that_is_missing_is_measured_kept_and_shown(runs: Path, trained: Path, capsys, caplog) -> None:
    values = compared("a0", "a1", "b", "--data", trained / "data", "--published")
    shown = capsys.readouterr()
    assert "added as baselines: raw pixels" in caplog.text

    methods = [(row["method"], row["architecture"], len(row["entries"])) for row in values["rows"]]
    assert methods == [
        ("Raw pixels", "–", 1),
        ("Whitened patches", "–", 1),
        ("Random", "ViT-micro/8", 2),
        ("DINO", "ViT-micro/8", 2),
        ("DINO", "ViT-micro/8", 1),
    ]
    for name, metric_name, parameters in (
        ("knn", "knn_top1", {"k": 12}),
        ("linear", "linear_top1", {}),
    ):  # 12 images: no k = 20
        cell = figures(values, name)["a0"]
        singles = [
            metric.value
            for run in ("a0", "a1")
            if (found := kept(runs / run, name)) and (metric := found.metric(metric_name, **parameters))
        ]
        assert cell["values"] == singles
        assert cell["n"] == 2
        assert cell["mean"] == pytest.approx(sum(singles) / 2)
        assert cell["deviation"] == pytest.approx(abs(singles[0] - singles[1]) / 2**0.5)
    assert figures(values, "throughput")["a0"]["mean"] > 0
    assert values["rows"][3]["entries"][1]["seed"] == 1
    assert values["rows"][3]["entries"][0]["measurements"]["knn"]["protocol"]["gallery"] == str(trained / "data/train")
    # Trained with another momentum for another number of epochs; neither value is that of most rows.
    assert "epochs 2 (rows differ)" in notes(values)["b"]
    assert any("method.teacher_momentum 0.8" in note for note in notes(values)["b"])

    # The gallery has twelve images, so that there are no 20 neighbours; the table says so.
    assert values["titles"]["knn"] == "k-NN (k = 12)"
    assert "k-NN (k = 12)" in Path("out/comparison.md").read_text()
    assert "DINO a0 (n = 2)" in Path("out/comparison.md").read_text()
    assert "batch 2 of 32 px, fp32" in shown.out
    assert "a0: features of the gallery (12)" in shown.err


def test_all_files_are_written_and_agree(runs: Path, trained: Path, capsys) -> None:
    values = compared("a0", "b", "c", "--data", trained / "data", "--published", "--skip", "linear")
    assert [(row["method"], row["architecture"]) for row in values["rows"]] == [
        ("Raw pixels", "–"),
        ("Whitened patches", "–"),
        ("Random", "RN-micro"),
        ("SimCLR", "RN-micro"),
        ("Random", "ViT-micro/8"),
        ("DINO", "ViT-micro/8"),
        ("DINO", "ViT-micro/8"),
    ]
    assert {path.name for path in Path("out").iterdir()} == {*FILES, ".dinoscope"}
    with Path("out/comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    measured = [row for row in rows if row["source"] == "measured"]
    assert [row["method"] for row in measured] == [row["method"] for row in values["rows"]]
    dino = next(row for row in measured if row["folders"] == "b")
    assert float(dino["knn_top1_mean"]) == figures(values, "knn")["b"]["mean"]
    assert dino["linear_top1_mean"] == ""
    assert (dino["knn_image_size"], dino["knn_images"]) == ("32", str(trained / "data/val"))
    assert (measured[0]["method"], measured[0]["knn_image_size"]) == ("Raw pixels", "32")
    assert "epochs 2" in dino["notes"]
    published = [row for row in rows if row["source"] == LABEL]
    assert len(published) == len(values["published"]["rows"]) == len(PUBLISHED)
    by_other_protocols = {
        (row["method"], row["architecture"]) for row in published if "is its own paper's" in row["notes"]
    }
    assert by_other_protocols == {(name, "RN50") for name in ("SimCLR", "MoCo v2", "BYOL", "SwAV")}
    for name in ("comparison.png", "curves.png"):
        with Image.open(f"out/{name}") as picture:
            assert picture.width > 400
            assert len(picture.convert("RGB").getcolors(2**24) or []) > 20
    for name in ("comparison.md", "comparison.tex"):
        assert LABEL in Path(f"out/{name}").read_text()
        assert "accuracy of the network's own classifier" in Path(f"out/{name}").read_text()
    assert "Raw pixels" in capsys.readouterr().out


def test_what_is_kept_is_not_measured_again(runs: Path, trained: Path, monkeypatch) -> None:
    first = compared("a0", "b", "--data", trained / "data", "--no-baselines")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("dinoscope.evaluation.base.Context.features", never)
    monkeypatch.setattr("dinoscope.evaluation.throughput.throughput", never)
    again = compared("a0", "b", "--data", trained / "data", "--no-baselines", "--overwrite")
    assert figures(again, "knn") == figures(first, "knn")
    assert figures(again, "throughput") == figures(first, "throughput")
    without = compared("a0", "b", "--overwrite")
    assert figures(without, "linear") == figures(first, "linear")
    assert LABEL not in Path("out/comparison.md").read_text()


def test_results_on_other_images_are_measured_again_with_data_and_marked_without(runs: Path, trained: Path) -> None:
    knn = ["--ks", "20", "--device", "cpu", "--workers", "0"]
    assert main(["knn", "--model", "a0", "--data", str(trained / "other"), *knn]) == 0
    assert main(["knn", "--model", "a1", "--data", str(trained / "data"), *knn]) == 0
    assert main(["knn", "--model", "b", "--data", str(trained / "data"), *knn]) == 0
    marked = compared("a0", "a1", "b", "--skip", "linear", "throughput")
    # The two seeds must not become one row, since they were measured on different images.
    assert [len(row["entries"]) for row in marked["rows"]] == [1, 1, 1]
    assert any(f"gallery {trained / 'other/train'} (most rows: " in note for note in notes(marked)["a0"])
    assert not any("measured with" in note for note in notes(marked)["a1"])

    arguments = ["--skip", "linear", "throughput", "--data", trained / "data", "--no-baselines", "--overwrite"]
    again = compared("a0", "a1", "b", *arguments)
    assert [len(row["entries"]) for row in again["rows"]] == [2, 1]
    assert not any("measured with" in note for every in notes(again).values() for note in every)
    # what was measured first is still there, beside the new one
    both = [kept(runs / "a0", name) for name in kept_names(runs / "a0", "knn")]
    assert [found and found.protocol["gallery"] for found in both] == [
        str(trained / "other/train"),
        str(trained / "data/train"),
    ]
    assert kept_names(runs / "a1", "knn") == ["knn"]


def test_of_results_on_two_data_sets_all_models_show_the_same(runs: Path, trained: Path) -> None:
    """Whatever was measured last of each; and the model's own image size before another that was asked for."""
    data, other, knn = (
        str(trained / "data"),
        str(trained / "other"),
        ["--ks", "20", "--device", "cpu", "--workers", "0"],
    )
    for run, order in (("a0", (data, other)), ("b", (other, data))):
        for place in order:
            assert main(["knn", "--model", run, "--data", place, *knn]) == 0
    both = compared("a0", "b", "--skip", "linear", "throughput")
    assert not any("measured with" in note for every in notes(both).values() for note in every)

    assert main(["knn", "--model", "a0", "--data", data, "--image-size", "16", *knn]) == 0
    (row,) = compared("a0", "--skip", "linear", "throughput", "--overwrite")["rows"]
    assert row["entries"][0]["measurements"]["knn"]["protocol"]["image_size"] == 32


def test_columns_of_different_data_are_named(runs: Path, trained: Path) -> None:
    """What was kept of other data is shown if nothing else was asked for, and the table says so."""
    other = str(trained / "other")
    assert main(["knn", "--model", "a0", "--data", other, "--ks", "20", "--device", "cpu", "--workers", "0"]) == 0
    linear = ["--epochs", "2", "--device", "cpu", "--workers", "0"]
    assert main(["linear", "--model", "a0", "--data", str(trained / "data"), *linear]) == 0
    values = compared("a0", "--skip", "throughput")
    (line,) = [line for line in values["remarks"] if "different data" in line]
    assert f"Linear of {trained / 'data'}; k-NN (k = 12) of {other}." in line

    arguments = ["--skip", "throughput", "--data", other, "--no-baselines", "--overwrite"]
    assert not any("different data" in line for line in compared("a0", *arguments)["remarks"])


def test_missing_results_are_measured_where_the_others_were(runs: Path, trained: Path) -> None:
    assert main(["knn", "--model", "a0", "--data", str(trained / "other"), "--ks", "20", "--workers", "0"]) == 0
    compared("a0", "b", "--skip", "linear", "throughput")
    found = kept(runs / "b", "knn")
    assert found is not None
    assert found.protocol["gallery"] == str(trained / "other/train")


def test_results_of_other_weights_do_not_count(runs: Path) -> None:
    values = compared("a0", "--skip", "linear", "throughput")
    held = kept(runs / "a0", "knn")
    assert held is not None
    lie = tuple(replace(metric, value=99.9) for metric in held.metrics)
    keep(runs / "a0", "knn", Result("knn", {**held.protocol, "weights_hash": "of before"}, lie))
    again = compared("a0", "--skip", "linear", "throughput", "--overwrite")
    assert figures(again, "knn") == figures(values, "knn")


def test_a_run_that_was_stopped_is_marked(runs: Path) -> None:
    shutil.rmtree(runs / "a0" / "exported")
    newest = checkpoint.latest(runs / "a0" / "checkpoints")
    assert newest is not None
    saved = checkpoint.load(newest)
    checkpoint.save(newest, saved.tensors, {**saved.metadata, "total": 9})
    result = compared("a0", "--skip", "linear", "throughput")
    assert notes(result)["a0"] == ["a0: stopped at step 1 of 9"]


def test_images_without_labels_leave_the_cells_empty_and_say_why(runs: Path, tmp_path: Path) -> None:
    for run in ("a0", "b"):
        path = runs / run / "config.json"
        values = json.loads(path.read_text())
        values["run"]["data"] = str(tmp_path / "flat")
        path.write_text(json.dumps(values))
    (tmp_path / "flat").mkdir()
    cv2.imwrite(str(tmp_path / "flat" / "one.png"), draw_picture(1))
    values = compared("a0", "b", "--baselines")
    assert set(figures(values, "knn").values()) == {None}
    assert any("k-NN not measured: " in note and "outside of any class folder" in note for note in notes(values)["a0"])
    assert not Path("out/comparison.png").exists()
    assert "comparison.png" not in Path("out/comparison.md").read_text()


def test_a_fraction_of_the_labels_is_a_result_of_its_own(runs: Path, trained: Path) -> None:
    arguments = ["a0", "--data", trained / "data", "--skip", "linear", "throughput", "--label-fraction", "0.5"]
    values = compared(*arguments)
    found = kept(runs / "a0", "knn-50")
    assert found is not None
    assert found.protocol["gallery_images"] == 6
    assert kept(runs / "a0", "knn") is None
    assert "50 % of the labels" in " ".join(values["remarks"])
    assert values["rows"][0]["entries"][0]["measurements"]["knn"]["protocol"]["gallery_images"] == 6  # raw pixels


def test_an_existing_comparison_is_replaced_only_when_asked(runs: Path, capsys) -> None:
    compared("a0", "--skip", "linear", "throughput")
    before = Path("out/comparison.json").read_bytes()
    assert main(["compare", "b", "--out", "out", *FAST]) == 2
    assert "holds comparison.md already" in capsys.readouterr().err
    assert Path("out/comparison.json").read_bytes() == before
    assert not (runs / "b" / "evaluations").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a0", "--baselines", "--no-baselines"], "exclude each other"),
        (["nowhere"], "there is no file or folder nowhere"),
        (["a0", "../{name}/a0"], "given twice"),
        (["a0", "--data", "nowhere"], "nowhere: no such folder"),
        (["a0", "--data", "valonly"], "no training folder found next to val"),
        (["a0", "--data", "oneclass"], "all 4 images are of one class (hat)"),
        (["a0", "--label-fraction", "2"], "--label-fraction must be above 0 and at most 1, not 2"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(runs: Path, arguments: list[str], words: str, capsys) -> None:
    for folder in ("valonly/val/hat", "valonly/val/shoe", "oneclass/train/hat", "oneclass/val/hat"):
        (runs / folder).mkdir(parents=True)
        for number in range(4):
            cv2.imwrite(str(runs / folder / f"{number}.png"), draw_picture(number))
    arguments = [argument.format(name=runs.name) for argument in arguments]
    assert main(["compare", *arguments, "--out", "out", *FAST]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not Path("out").exists()


def test_a_folder_of_runs_stands_for_those_with_weights(runs: Path, capsys) -> None:
    """So it does for every command that takes models, and in Python."""
    Path("all/waiting").mkdir(parents=True)
    for name in ("a0", "a1", "b"):
        shutil.move(name, f"all/{name}")
    shutil.copy("all/a0/config.json", "all/waiting")  # just begun
    values = compared("all", "c")
    entries = [entry["run"] for row in values["rows"] for entry in row["entries"]]
    assert sorted(entries) == ["all/a0", "all/a1", "all/b", "c"]
    assert main(["compare", "all", "all/b", "--out", "twice"]) == 2
    assert "the same model was given twice: all/b and all/b" in capsys.readouterr().err
    assert [model.name for model in load_models(["all"])] == ["all/a0", "all/a1", "all/b"]
    with pytest.raises(UserError, match="all holds 3 runs"):
        api.load("all")
    written = api.report(["all"], "report.html", pictures=False)
    assert "4 runs of DINO" in written.read_text()  # the one that has no weights yet is in it, too
    for name in ("a0", "a1", "b"):
        shutil.rmtree(f"all/{name}")
    with pytest.raises(UserError, match="no run in all has saved weights yet"):
        load_models(["all"])
