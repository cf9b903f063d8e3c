"""The command `verdict`, from folders with labels and without to the sentence, the page and the file for programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import dinoscope as ds
from dinoscope.cli import main
from dinoscope.report.verdict import FILES
from tests.html_checks import Page
from tests.pictures import write_pictures

MODELS = ("--models", "random:vit_micro_patch4_64", "pixels")
QUICK = ("--skip", "linear", "throughput", "lidar", "--workers", "0", "--device", "cpu")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a folder of two classes with 12 training images and 8 test images."""
    folder = write_pictures(tmp_path / "data", 12, classes=2, split="train")
    for number, kind in enumerate(("class0", "class1")):
        own = write_pictures(tmp_path / f"more{number}", 30 + 4 * number)
        (folder / "val" / kind).mkdir(parents=True)
        for path in sorted(own.glob("*.png"))[-4:]:
            path.rename(folder / "val" / kind / path.name)
    return folder


def test_from_a_folder_to_a_verdict(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["verdict", "--data", str(data), *MODELS, *QUICK, "--out", str(out)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    values = json.loads((out / "verdict.json").read_text())
    assert " ".join(values["sentence"].split()) in " ".join(printed.split())
    assert {path.name for path in out.iterdir() if not path.name.startswith(".")} == set(FILES)
    assert values["trusted"]
    assert (values["train_images"], values["test_images"]) == (12, 8)
    assert [model["model"] for model in values["models"]] == ["random vit_micro_patch4_64", "raw pixels"]
    assert values["take"] == values["decision"]["take"]
    assert set(values["decision"]["accuracies"]) == {"random vit_micro_patch4_64", "raw pixels"}
    page = Page((out / "verdict.html").read_text())
    assert values["sentence"] in page.text
    assert page.text.index(values["sentence"]) < page.text.index("The rule was fixed before anything was measured")
    assert len(page.images()) == 1  # few labels
    assert main(command) == 2  # it is there already
    assert "--overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sentence"] == values["sentence"]


def test_a_folder_without_labels(picture_folder: Callable[..., Path], tmp_path: Path) -> None:
    out, folder = tmp_path / "out", picture_folder(10)
    quick = [option for option in QUICK if option not in ("linear", "lidar")]
    assert main(["verdict", "--data", str(folder), *MODELS, *quick, "--out", str(out)]) == 0
    values = json.loads((out / "verdict.json").read_text())
    assert (values["decision"], values["take"]) == (None, None)
    assert values["sentence"].startswith("Without labels, nothing tells which model is better")
    assert {path.name for path in out.iterdir()} == {"verdict.html", "verdict.json", "verdict.md"}
    assert values["sentence"] in Page((out / "verdict.html").read_text()).text


@pytest.mark.parametrize(
    "arguments",
    [
        ("--data", "missing", *MODELS),
        ("--data", "data", "--models", "nothing_of_that_name"),
        ("--data", "data", *MODELS, "pixels"),
        ("--data", "data", *MODELS, "--skip", "everything"),
        ("--data", "data", *MODELS, "--group", "(nowhere)"),
        ("--data", "one", *MODELS),
        ("--data", "data", *MODELS, "--split", "0.5"),
    ],
)
def test_a_mistake_costs_one_line_and_writes_nothing(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
) -> None:
    write_pictures(tmp_path / "one", 4, classes=1)
    monkeypatch.chdir(data.parent)
    assert main(["verdict", *arguments, "--out", "out", "--workers", "0", "--device", "cpu"]) == 2
    captured = capsys.readouterr().err.strip().splitlines()
    assert captured[-1].startswith("dinoscope verdict: ")
    assert not Path("out").exists()


def test_the_same_in_python(data: Path) -> None:
    found = ds.verdict(
        ["random:vit_micro_patch4_64", "pixels"], data, skip=("linear", "throughput", "lidar", "fewshot")
    )
    assert found.sentence
    assert found.decision is not None
    assert found.images == 8
