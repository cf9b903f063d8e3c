"""From a model to the classes of images: `dinoscope finetune` and `dinoscope predict`, and `api.predict`."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
import torch

from dinoscope import api, checkpoint
from dinoscope.cli import call, main
from dinoscope.errors import UserError
from dinoscope.models.backbone import BackboneConfig, build_backbone
from dinoscope.prediction import Classifier, Predictions, write_csv
from tests.conformance import cases
from tests.evaluation.test_finetune import write_colours


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, labelled images, and the model tuned by the command."""
    root = tmp_path_factory.mktemp("tuned")
    torch.manual_seed(0)
    checkpoint.export_backbone(root / "model", build_backbone(BackboneConfig("vit_micro_conv8", image_size=32)))
    write_colours(root / "data")
    options = ["--model", str(root / "model"), "--data", str(root / "data"), "--out", str(root / "out")]
    short = ["--epochs", "4", "--batch-size", "8", "--device", "cpu", "--workers", "0"]
    assert call("finetune", [*options, *short]) == 0
    return root


def predicted(place: Path, out: Path, *words: str) -> list[dict[str, str]]:
    model = ["--model", str(place / "out" / "runs" / "model"), "--out", str(out)]
    assert call("predict", [*words, *model, "--device", "cpu", "--workers", "0", "--no-cache"]) == 0
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


def test_finetune_writes_a_table_and_the_run(place: Path) -> None:
    assert "Fine-tuning" in (place / "out" / "table.md").read_text()
    assert (place / "out" / "runs" / "model" / "config.json").exists()


def test_the_file_names_classes_with_probabilities(place: Path, tmp_path: Path) -> None:
    rows = predicted(place, tmp_path / "new" / "p.csv", str(place / "data" / "val"))
    assert list(rows[0]) == ["file", "class", "probability", "class_2", "probability_2"]
    assert [row["file"] for row in rows] == [f"{kind}/{n}.png" for kind in ("blue", "red") for n in range(6)]
    assert sum(row["class"] == row["file"].split("/")[0] for row in rows) > 10
    for row in rows:
        assert {row["class"], row["class_2"]} == {"blue", "red"}
        assert float(row["probability"]) + float(row["probability_2"]) == pytest.approx(1, abs=2e-6)
        assert float(row["probability"]) >= 0.5


def test_files_and_folders_are_joined_and_top_limits_the_columns(place: Path, tmp_path: Path) -> None:
    val = place / "data" / "val"
    rows = predicted(place, tmp_path / "p.csv", str(val / "red" / "3.png"), str(val / "blue"), "--top", "1")
    assert len(rows) == 7
    assert list(rows[0]) == ["file", "class", "probability"]
    assert "3.png" in {row["file"] for row in predicted(place, tmp_path / "q.csv", str(val / "red" / "3.png"))}


def test_an_unreadable_image_is_named_and_has_an_empty_row(place: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(place / "data" / "val" / "red", tmp_path / "images")
    (tmp_path / "images" / "2.png").write_bytes(b"no image")
    (tmp_path / "images" / "4.png").write_bytes(b"no image")
    rows = predicted(place, tmp_path / "p.csv", str(tmp_path / "images"))
    empty = [row for row in rows if not row["class"]]
    assert [row["file"] for row in empty] == ["2.png", "4.png"]
    assert all(value == "" for row in empty for name, value in row.items() if name != "file")
    assert len([row for row in rows if row["class"]]) == 4
    assert "2 of 6 images cannot be read: 2.png, 4.png" in capsys.readouterr().err


def fault(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["predict", *words, "--device", "cpu", "--workers", "0"]) == 2
    text = capsys.readouterr().err.strip()
    assert "Traceback" not in text
    return text.splitlines()[-1]


def test_a_run_without_labels_is_told_to_be_tuned_first(place: Path, picture_folder, tmp_path: Path, capsys) -> None:
    config = cases.run_config("simclr", picture_folder(8), tmp_path / "run")
    cases.trainer(config).save(tmp_path / "step-000000000.safetensors")
    for model in (tmp_path / "step-000000000.safetensors", place / "model", "pixels"):
        text = fault(capsys, str(place / "data"), "--model", str(model), "--out", str(tmp_path / "p.csv"))
        assert "dinoscope finetune --model" in text
    assert not (tmp_path / "p.csv").exists()


def test_an_output_that_cannot_be_written_is_refused_before_the_work(place: Path, tmp_path: Path, capsys) -> None:
    model, images = ["--model", str(place / "out" / "runs" / "model")], str(place / "data" / "val")
    (tmp_path / "file").write_text("")
    (tmp_path / "p.csv").write_text("mine")
    for out, words in {"file/p.csv": "cannot be written", "p.csv": "exists already", ".": "is a folder"}.items():
        assert words in fault(capsys, images, *model, "--out", str(tmp_path / out))
    assert (tmp_path / "p.csv").read_text() == "mine"
    assert "--top must be at least 1" in fault(capsys, images, *model, "--out", str(tmp_path / "q.csv"), "--top", "0")
    assert "no such folder" in fault(capsys, str(tmp_path / "nowhere"), *model, "--out", str(tmp_path / "q.csv"))


def test_the_python_function_gives_the_same(place: Path, tmp_path: Path) -> None:
    val = place / "data" / "val"
    found = api.predict(place / "out" / "runs" / "model", val, device="cpu", workers=0, cached=False)
    rows = predicted(place, tmp_path / "p.csv", str(val))
    assert [row[:2] for row in found.rows()] == [[row["file"], row["class"]] for row in rows]
    one = api.predict(place / "out" / "runs" / "model", [val / "red" / "0.png"], device="cpu", workers=0, cached=False)
    assert one.paths == ("0.png",)
    assert one.unreadable == ()
    with pytest.raises(UserError, match="finetune"):
        api.predict(place / "model", val, device="cpu", workers=0)


def test_probabilities_are_the_softmax_by_hand() -> None:
    classifier = Classifier(torch.eye(3), torch.tensor([0.0, 0.0, 1.0]), ("a", "b", "c"))
    values, places = classifier.top(torch.tensor([[2.0, 0.0, 0.0]]), 2)
    total = torch.tensor([2.0, 0.0, 1.0]).exp().sum()
    torch.testing.assert_close(values, torch.tensor([[2.0, 1.0]]).exp() / total)
    assert places.tolist() == [[0, 2]]
    hits = classifier.hits(torch.tensor([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]]), torch.tensor([0, 1]))
    assert hits.tolist() == [[True, True], [False, True]]


def test_names_that_a_spreadsheet_would_run_are_text(tmp_path: Path) -> None:
    found = Predictions(("=1+1.png",), (True,), torch.tensor([[1.0]]), torch.tensor([[0]]), ("@class",))
    write_csv(tmp_path / "p.csv", found)
    assert (tmp_path / "p.csv").read_text().splitlines()[1].startswith("'=1+1.png,'@class,1.0")
