"""What is watched while a model is trained: images of any shape, and whatever fails."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from dinoscope.data.finding import find_images
from dinoscope.evaluation.online import MAX_ASPECT, AttentionSnapshots, OnlineKNN, readable_images
from dinoscope.explain.history import read_history
from dinoscope.training.loop import RunResult, train
from tests.conformance import cases


def banner(path: Path, height: int, width: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def test_banners_among_the_watched_images_neither_end_nor_stall_a_run(picture_folder, tmp_path) -> None:
    """1 x 10,000 px was too many patches, which ended the run; 10 x 10,000 px took twenty minutes."""
    data, out = picture_folder(22, classes=2), tmp_path / "run"
    first = sorted(path for path in data.iterdir() if path.is_dir())[0]
    banner(first / "0-thin.png", 1, 10_000)
    banner(first / "0-tall.png", 10_000, 10)
    shapes = [image.shape[:2] for _, image in readable_images(find_images(data), window=None)][:2]
    assert shapes == [(MAX_ASPECT * 10, 10), (1, MAX_ASPECT)]

    config = cases.run_config("dino", data, out, epochs=1, evaluate_every=1)
    watching = [OnlineKNN(), AttentionSnapshots(24)]
    assert train(config, listeners=watching) == RunResult(out, 3, interrupted=False)
    history = read_history(out)
    assert history is not None
    assert [len(snapshot.maps) for snapshot in history.snapshots] == [24, 24]
    assert max(values.size for values in history.snapshots[0].maps) <= MAX_ASPECT * 16
    assert "failed" not in (out / "train.log").read_text()


def test_observers_that_find_nothing_do_not_end_a_run(picture_folder, tmp_path) -> None:
    """The val split holds no images: there is no k-NN, and the run goes on."""
    data, out = picture_folder(24, classes=2, split="train"), tmp_path / "run"
    (data / "val" / "empty").mkdir(parents=True)
    config = cases.run_config("dino", data, out, epochs=1, evaluate_every=1)
    assert train(config, listeners=[OnlineKNN()]) == RunResult(out, 3, interrupted=False)
    assert "OnlineKNN failed, and the run continues: UserError" in (out / "train.log").read_text()
