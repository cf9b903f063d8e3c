"""A run whose folder or images were moved or renamed is used, resumed and reported from any folder."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from dinoscope import api, checkpoint
from dinoscope.cli import main
from dinoscope.training.run_folder import read_config
from tests.conformance import cases
from tests.training.test_loop import Stop


def test_a_moved_run_and_moved_images(
    picture_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pictures = picture_folder(12)
    whole = api.train(cases.run_config("dino", pictures, tmp_path / "whole", epochs=2))
    monkeypatch.chdir(pictures.parent)
    config = cases.run_config(
        "dino", Path(pictures.name), tmp_path / "run", epochs=2
    )  # the same images, as a relative path
    assert api.train(config, listeners=[Stop(0, signal.SIGINT)]).interrupted
    assert read_config(tmp_path / "run").data == read_config(whole.out).data

    (tmp_path / "other" / "inner").mkdir(parents=True)
    moved = (tmp_path / "run").rename(tmp_path / "other" / "renamed")
    images = pictures.rename(tmp_path / "other" / "photos")
    monkeypatch.chdir(moved.parent / "inner")
    resume = ["train", "--out", "../renamed", "--resume"]
    capsys.readouterr()
    assert main(resume) == 2
    assert capsys.readouterr().err == (
        f"dinoscope train: {pictures}, the images of the run, is not there any more: --resume --data NEW names where "
        "it is now\n"
    )
    assert main([*resume, "--data", "../photos"]) == 0
    monkeypatch.chdir("/")
    one, other = (checkpoint.load_backbone(folder / "exported") for folder in (moved, whole.out))
    assert checkpoint.weights_hash(one) == checkpoint.weights_hash(other)
    assert main(["attention", "--model", str(moved), str(images), "--limit", "1", "--out", str(tmp_path / "maps")]) == 0
    out = str(tmp_path / "report.html")
    assert main(["report", str(moved.parent), "--no-pictures", "--device", "cpu", "--out", out]) == 0
    assert "renamed" in Path(out).read_text()
