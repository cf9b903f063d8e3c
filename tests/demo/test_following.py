"""Following: masks and overlay at the end, nothing at all where it was cancelled or failed."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from dinoscope import videos
from dinoscope.demo import clip
from dinoscope.demo.clip import follow
from dinoscope.demo.pictures import Refused
from dinoscope.errors import UserError
from dinoscope.evaluation.propagation import PropagationConfig, propagate
from dinoscope.model_names import load_model
from tests.demo.clips import SIZE, scene

CONFIG = PropagationConfig(size=48, context=2)


@pytest.fixture
def backbone() -> torch.nn.Module:
    return load_model("random:vit_micro_conv8").backbone


def test_masks_and_overlay_are_those_of_the_propagation(tmp_path: Path, backbone: torch.nn.Module) -> None:
    clip, truth = scene(tmp_path / "scenes", 0)
    frames = list(follow(backbone, clip, truth, CONFIG, tmp_path / "out"))
    assert [frame.picture.shape for frame in frames] == [(*SIZE, 3)] * 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["masks.zip", "overlay.webm"]
    capture = cv2.VideoCapture(str(tmp_path / "out" / "overlay.webm"), cv2.CAP_FFMPEG)
    assert (capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)) == (3, clip.fps)
    with zipfile.ZipFile(tmp_path / "out" / "masks.zip") as archive:
        names = sorted(archive.namelist())
        assert names == ["00000.png", "00001.png", "00002.png"]
        masks = [np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in names]
    expected = list(propagate(backbone, clip, {0: truth}, CONFIG))
    assert all(np.array_equal(mask, each) for mask, each in zip(masks, expected, strict=True))
    assert np.array_equal(masks[0], truth)


def test_the_seconds_are_the_models_without_drawing_and_encoding(
    tmp_path: Path, backbone: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, truth = SimpleNamespace(now=50.0), np.ones(SIZE, np.uint8)
    made, _ = scene(tmp_path / "scenes", 0)

    def propagated(*_: object) -> Iterator[np.ndarray]:
        for seconds in (3, 1, 2):
            clock.now += seconds
            yield truth

    def drawn(frame: np.ndarray, _: np.ndarray) -> np.ndarray:
        clock.now += 10
        return frame

    monkeypatch.setattr(clip, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(clip, "propagate", propagated)
    monkeypatch.setattr(videos, "objects_overlay", drawn)
    steps = clip.follow(backbone, made, truth, CONFIG, tmp_path / "out")
    assert [step.seconds for step in steps] == [3, 4, 6]


def test_who_cancels_finds_nothing_left(tmp_path: Path, backbone: torch.nn.Module) -> None:
    clip, truth = scene(tmp_path / "scenes", 0)
    steps = follow(backbone, clip, truth, CONFIG, tmp_path / "out")
    next(steps)
    assert (tmp_path / "out" / "masks" / "00000.png").is_file()
    steps.close()
    assert not (tmp_path / "out").exists()
    with pytest.raises(StopIteration):
        next(steps)


def test_results_stay_when_the_iterator_is_closed_after_the_end(tmp_path: Path, backbone: torch.nn.Module) -> None:
    clip, truth = scene(tmp_path / "scenes", 0)
    steps = follow(backbone, clip, truth, CONFIG, tmp_path / "out")
    assert len(list(steps)) == 3
    steps.close()
    assert (tmp_path / "out" / "overlay.webm").is_file()


def test_what_fails_leaves_nothing(tmp_path: Path, backbone: torch.nn.Module) -> None:
    clip, truth = scene(tmp_path / "scenes", 0)
    clip.video.files[2].write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"00002\.jpg"):
        list(follow(backbone, clip, truth, CONFIG, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(Refused) as caught:
        list(follow(backbone, clip, np.zeros(SIZE, np.uint8), CONFIG, tmp_path / "out"))
    assert caught.value.key == "video_nothing_marked"
