"""A run on a map-style dataset gives the weights of a run on a folder of the same images, and is resumed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dinoscope import checkpoint
from dinoscope.data.finding import find_images
from dinoscope.data.images import decode
from dinoscope.data.sources import DatasetImages, dataset_images
from dinoscope.errors import UserError
from dinoscope.evaluation.online import AttentionSnapshots, OnlineKNN
from dinoscope.training.listeners import Listener, StepRecord
from dinoscope.training.loop import train
from tests.conformance import cases
from tests.data.test_datasets import Items


class Stop(Listener):
    """Asks the run to end after its fourth step."""

    def stepped(self, record: StepRecord) -> None:
        if record.step.index == 3:
            os.kill(os.getpid(), signal.SIGINT)


def images_of(folder: Path, changed: int | None = None) -> DatasetImages:
    """The images of a folder as arrays with labels; `changed` is turned upside down."""
    found = find_images(folder)
    pixels = [decode(found.path(index)) for index in range(len(found))]
    if changed is not None:
        pixels[changed] = pixels[changed][::-1].copy()
    return dataset_images(Items([(image, found.labels[index]) for index, image in enumerate(pixels)]))


def weights(run: Path) -> dict[str, Tensor]:
    return checkpoint.load(checkpoint.step_path(run / "checkpoints", 9)).tensors


def test_a_run_on_a_dataset(picture_folder: Callable[..., Path], tmp_path: Path) -> None:
    data = picture_folder(24)
    train(cases.run_config("dino", data, tmp_path / "folder"))
    config = cases.run_config("dino", tmp_path / "nothing", tmp_path / "dataset", workers=1)
    assert train(config, source=images_of(data), listeners=[Stop()]).interrupted
    with pytest.raises(UserError, match="not those that the run began with"):
        train(config, resume=True, source=images_of(data, changed=0))
    train(config, resume=True, source=images_of(data))
    expected, actual = weights(tmp_path / "folder"), weights(tmp_path / "dataset")
    assert expected.keys() == actual.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, actual[name]), name


def test_a_run_on_a_dataset_is_watched(picture_folder: Callable[..., Path], tmp_path: Path) -> None:
    source = images_of(picture_folder(24))
    config = cases.run_config("dino", tmp_path / "nothing", tmp_path / "run", epochs=1, evaluate_every=1)
    train(config, source=source, listeners=[OnlineKNN(source=source), AttentionSnapshots(2, source=source)])
    metrics = (tmp_path / "run/metrics.jsonl").read_text()
    assert "knn_top1" in metrics
    assert len(list((tmp_path / "run/attention").glob("image-*.png"))) == 2
