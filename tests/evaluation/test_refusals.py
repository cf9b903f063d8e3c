"""What can be refused before a model is loaded is refused before a model is loaded, and fetched, and fitted."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import cv2
import pytest
import torch

from dinoscope import api
from dinoscope.cli import main
from dinoscope.errors import UserError
from dinoscope.evaluation import EVALUATIONS
from dinoscope.evaluation.base import Context, measure
from dinoscope.model_names import load_model
from tests.conftest import draw_picture


class Loaded(Exception):
    pass


def loading(*_: object) -> NoReturn:
    raise Loaded


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two images without labels; and no model can be loaded."""
    for place in ("cli.evaluate", "report.comparison", "report.build", "api"):
        monkeypatch.setattr(f"dinoscope.{place}.load_models", loading)
    folder = tmp_path / "plain"
    folder.mkdir()
    for number in range(2):
        cv2.imwrite(str(folder / f"{number}.png"), draw_picture(number))
    return folder


@pytest.mark.parametrize("name", [name for name, each in EVALUATIONS.items() if each.needs != "nothing"])
def test_every_evaluation_refuses_its_data_first(
    name: str, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    needs_images_alone = EVALUATIONS[name].needs == "images" and name != "copies"
    data = tmp_path / "empty" if needs_images_alone else plain
    assert main([name, "--model", "shipped", "--data", str(data), "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert str(data) in error
    assert error.count("\n") == 1
    with pytest.raises(UserError, match=str(data)):
        api.evaluate("shipped", name, data, device="cpu")


@pytest.mark.parametrize("command", ["compare", "report"])
def test_comparison_and_report_refuse_them_first(
    command: str, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [command, "shipped", "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*arguments, "--data", str(plain)]) == 2
    assert "outside of any class folder" in capsys.readouterr().err
    assert main([*arguments, "--data", str(plain), "--skip", "knn", "linear", "--evaluations", f"voc={plain}"]) == 2
    assert str(plain) in capsys.readouterr().err
    with pytest.raises(Loaded):  # nothing that is skipped is looked at
        main([*arguments, "--data", str(plain), "--skip", "knn", "linear"])


def test_a_split_of_the_run_is_not_missed_before_the_run_is_read(plain: Path) -> None:
    """Without --split, images with classes and no val split may be split as the run that is loaded was."""
    for number, name in enumerate(("hat", "shoe", "hat", "shoe")):
        (plain / name).mkdir(exist_ok=True)
        cv2.imwrite(str(plain / name / f"{number}.png"), draw_picture(number))
    for file in plain.glob("*.png"):
        file.unlink()
    with pytest.raises(Loaded):
        main(["linear", "--model", "shipped", "--data", str(plain), "--device", "cpu"])


def test_a_baseline_is_not_fitted_to_images_that_are_refused(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dinoscope.features.fitted", loading)
    knn = EVALUATIONS["knn"]
    with pytest.raises(UserError, match="outside of any class folder"):
        measure(knn, [load_model("patches")], plain, knn.config(), Context(torch.device("cpu")))
