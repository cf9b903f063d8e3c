"""What `dinoscope davis` writes: videos, names, masks that are taken up again or replaced, and nothing unasked."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from dinoscope.data.benchmarks import encode_indices, read_indices
from dinoscope.evaluation import propagation
from dinoscope.model_names import folder_names
from tests.cli.davis.conftest import FRAMES, figures, follow


@pytest.mark.parametrize("kind", ["mp4", "gif"])
def test_overlays(kind: str, data: Path, model: Path, tmp_path: Path) -> None:
    """Five frames, as large as those of the data; made anew from the masks where only the video is missing."""
    out, gif = tmp_path / "out", ["--gif"] if kind == "gif" else []
    follow(data, model, "--out", out, *gif)
    video = out / f"mine/overlays/scene-00.{kind}"
    first = frames(video)
    assert first.shape == (5, 60, 100, 3)
    image = cv2.imread(str(data / "JPEGImages/480p/scene-00/00000.jpg"))
    background = read_indices(out / "mine/scene-00/00000.png") == 0
    eroded = cv2.erode(background.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    shown, truth = first[0].astype(int), image.astype(int)
    assert np.abs(shown - truth)[eroded].mean() < 15 < np.abs(shown - truth)[~background].mean()
    for path in (video, *(out / name for name in ("davis.csv", "davis.json", "davis.tex", "scores.csv", "table.md"))):
        path.unlink()
    follow(data, model, "--out", out, *gif)
    assert np.array_equal(frames(video), first)


def frames(video: Path) -> np.ndarray:
    """BGR."""
    capture = cv2.VideoCapture(str(video))
    read = []
    while (got := capture.read())[0]:
        read.append(got[1])
    return np.stack(read)


def test_a_run_that_was_broken_off_goes_on(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Complete sequences are only scored: the network is not asked again."""
    out = tmp_path / "out"
    follow(data, model, "--out", out, "--no-overlay", "--json")
    (first,) = figures(capsys)
    (out / "davis.csv").unlink()
    (out / "scores.csv").unlink()
    (out / "davis.json").unlink()
    (out / "table.md").unlink()
    (out / "davis.tex").unlink()
    asked: list[int] = []
    real = propagation.cell_features
    monkeypatch.setattr(propagation, "cell_features", lambda *a: asked.append(1) or real(*a))
    follow(data, model, "--out", out, "--no-overlay", "--json")
    assert figures(capsys) == [first]
    assert not asked
    (out / "mine/scene-00/00003.png").unlink()
    follow(data, model, "--out", out, "--no-overlay", "--json", "--overwrite")
    assert figures(capsys) == [first]
    assert len(asked) == 5


def test_nothing_is_replaced_unasked(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    follow(data, model, "--out", out, "--no-overlay")
    assert follow(data, model, "--out", out) == 2
    assert "holds table.md already" in capsys.readouterr().err
    for name in ("davis.csv", "davis.json", "davis.tex", "scores.csv", "table.md"):
        (out / name).unlink()
    before = (out / "mine/scene-00/00002.png").read_bytes()
    assert follow(data, model, "--out", out, "--top-k", 1, "--no-overlay") == 2
    assert "masks made with other settings" in capsys.readouterr().err
    assert (out / "mine/scene-00/00002.png").read_bytes() == before
    assert follow(data, model, "--out", out, "--top-k", 1, "--no-overlay", "--overwrite") == 0
    (out / "file").touch()
    assert follow(data, model, "--out", out / "file" / "deeper") == 2


def test_masks_of_other_settings_or_frames_are_never_taken_up(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each sequence is held to its own settings, whatever another one was made with later."""
    for kind in ("JPEGImages", "Annotations"):
        shutil.copytree(data / kind / "480p/scene-00", data / kind / "480p/other")
    out = tmp_path / "out"

    def broken_off(*options: object) -> int:
        code = follow(data, model, "--out", out, "--no-overlay", *options)
        for name in ("davis.csv", "davis.json", "davis.tex", "scores.csv", "table.md"):
            (out / name).unlink(missing_ok=True)
        return code

    assert broken_off("--sequences", "scene-00") == 0
    assert broken_off("--sequences", "other", "--top-k", 1) == 0
    capsys.readouterr()
    assert broken_off("--sequences", "scene-00", "other", "--top-k", 1) == 2
    assert "other settings or of other frames, such as 00000.png of scene-00" in capsys.readouterr().err
    assert broken_off("--sequences", "scene-00") == 0
    image = data / "JPEGImages/480p/scene-00/00001.jpg"
    cv2.imwrite(str(image), 255 - cv2.imread(str(image)))
    assert broken_off("--sequences", "scene-00") == 2
    assert broken_off("--sequences", "scene-00", "--limit-frames", 3, "--overwrite") == 0
    assert sorted(path.name for path in (out / "mine/scene-00").iterdir()) == FRAMES[:3]


def test_videos_of_masks_that_are_replaced_do_not_stay(data: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    follow(data, model, "--out", out)
    abandoned = out / "mine/overlays/.scene-00.mp4.partial-1"
    abandoned.mkdir()
    follow(data, model, "--out", out, "--top-k", 1, "--no-overlay", "--overwrite")
    assert not list((out / "mine/overlays").iterdir())


def test_masks_of_a_sequence_begun_are_those_that_are_scored(data: Path, model: Path, tmp_path: Path) -> None:
    """Masks from before the end may be of another device or version: they are not left beside new figures."""
    out = tmp_path / "out"
    follow(data, model, "--out", out, "--no-overlay")
    file = out / "mine/scene-00/00002.png"
    expected = file.read_bytes()
    file.write_bytes(encode_indices(np.zeros((60, 100), np.uint8)))
    for path in (
        out / "mine/scene-00/00003.png",
        *(out / name for name in ("davis.csv", "davis.json", "davis.tex", "scores.csv", "table.md")),
    ):
        path.unlink()
    follow(data, model, "--out", out, "--no-overlay")
    assert file.read_bytes() == expected


def test_folders_for_any_label() -> None:
    assert folder_names(["a/b", "a b", "random vit (2)", "..", "A-B"]) == [
        "a-b",
        "a-b-2",
        "random-vit-2",
        "model",
        "A-B-3",
    ]
