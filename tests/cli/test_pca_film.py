"""`dinoscope pca VIDEO --out film.mp4`: one colour space for all frames, made of a sample of bounded size."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy import ndarray
from PIL import Image

from dinoscope.cli import main
from dinoscope.data.video import open_video
from dinoscope.explain.attention import network_input
from dinoscope.explain.patches import color_space, patch_features
from dinoscope.model_names import load_model
from dinoscope.pictures import color_picture
from dinoscope.report import films
from dinoscope.report.films import evenly_spaced
from tests.pictures import draw_picture

MODEL = "random:vit_micro_conv8"
COUNT, SIZE = 7, (48, 64)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A video without loss: a disk that moves."""
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"FFV1"), 12, SIZE[::-1])
    ground = draw_picture(0, SIZE)
    for number in range(COUNT):
        writer.write(cv2.circle(ground.copy(), (12 + 6 * number, 24), 10, (240, 60, 30), -1))
    writer.release()
    return path


def run(*words: object, model: str = MODEL) -> int:
    return main(["pca", *map(str, words), "--model", model, "--size", "48", "--device", "cpu"])


def written(path: Path) -> list[ndarray]:
    """The frames of a film, RGB."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    frames: list[ndarray] = []
    while (read := capture.read())[0]:
        frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    return frames


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> list[ndarray]:
    """The frames that are given to the writer, before they are encoded."""
    frames: list[ndarray] = []
    write = films.video_writer

    def noting(*given: object) -> object:
        @contextlib.contextmanager
        def writer() -> Iterator[object]:
            with write(*given) as add:  # pyright: ignore[reportArgumentType]

                def both(frame: ndarray) -> None:
                    frames.append(frame.copy())
                    add(frame)

                yield both

        return writer()

    monkeypatch.setattr(films, "video_writer", noting)
    return frames


@pytest.mark.parametrize("foreground", [False, True])
def test_every_frame_has_the_colours_of_one_space(
    foreground: bool, clip: Path, tmp_path: Path, added: list[ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(clip, "--out", tmp_path / "film.mp4", *["--foreground"] * foreground) == 0
    backbone = load_model(MODEL).backbone
    frames = list(open_video(clip))
    features = [patch_features(backbone, network_input(backbone, frame, 48))[0] for frame in frames]
    space = color_space(features, foreground=foreground)  # fewer frames than a sample: all of them
    assert len(added) == COUNT
    for picture, values in zip(added, features, strict=True):
        assert np.array_equal(picture, color_picture(space.colors(values).colors.numpy(), SIZE))
    assert f"{COUNT} frames" in capsys.readouterr().out
    film = open_video(tmp_path / "film.mp4")
    assert (film.size, film.frames, film.fps) == (SIZE, COUNT, 12)
    assert np.mean([np.abs(a.astype(int) - b) for a, b in zip(written(film.path), added, strict=True)]) < 8


def test_a_still_film_has_equal_frames(tmp_path: Path, added: list[ndarray]) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(5):
        Image.fromarray(draw_picture(3, SIZE)).save(folder / f"{number}.png")
    assert run(folder, "--out", tmp_path / "film.gif") == 0
    assert len(added) == 5
    assert all(np.array_equal(frame, added[0]) for frame in added)
    assert added[0].std() > 10


def test_a_film_is_the_same_each_time_and_as_of_its_frames_as_images(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for number, frame in enumerate(open_video(clip)):
        Image.fromarray(frame).save(tmp_path / "frames" / f"{number}.png")
    for source, name in ((clip, "a.gif"), (clip, "b.gif"), (tmp_path / "frames", "c.gif")):
        assert run(source, "--out", tmp_path / name) == 0
    pictures = [[np.array(frame) for frame in gif_frames(tmp_path / name)] for name in ("a.gif", "b.gif", "c.gif")]
    assert np.array_equal(pictures[0], pictures[1])
    assert np.array_equal(pictures[0], pictures[2])


def gif_frames(path: Path) -> Iterator[Image.Image]:
    with Image.open(path) as image:
        for number in range(image.n_frames):  # pyright: ignore[reportAttributeAccessIssue]
            image.seek(number)
            yield image.convert("RGB")


def test_side_by_side(clip: Path, tmp_path: Path, added: list[ndarray]) -> None:
    assert run(clip, "--out", tmp_path / "film.mp4", "--side-by-side", "--vp9", model="random:resnet_micro") == 0
    for frame, original in zip(added, open_video(clip), strict=True):
        assert frame.shape == (SIZE[0], 2 * SIZE[1], 3)
        assert np.array_equal(frame[:, : SIZE[1]], original)


# The sample


@pytest.mark.parametrize(
    ("count", "limit", "expected"),
    [
        (3, 4, [0, 1, 2]),
        (4, 4, [0, 1, 2, 3]),
        (5, 4, [0, 2, 4]),
        (9, 4, [0, 4, 8]),
        (100, 4, [0, 32, 64, 96]),
        (5, 1, [0]),
        (0, 4, []),
    ],
)
def test_a_sample_is_evenly_spaced(count: int, limit: int, expected: list[int]) -> None:
    assert evenly_spaced(range(count), limit, lambda number: number) == expected


class Held:
    """Counts how many of its kind there are."""

    alive = most = 0

    def __init__(self) -> None:
        Held.alive += 1
        Held.most = max(Held.most, Held.alive)

    def __del__(self) -> None:
        Held.alive -= 1


def test_no_more_than_a_sample_is_held() -> None:
    taken = evenly_spaced(range(1000), 8, lambda number: Held())
    assert len(taken) == 8  # 0, 128, ... 896
    assert Held.most == 9


def test_the_colours_of_frames_outside_of_the_sample(
    clip: Path, tmp_path: Path, added: list[ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(films, "SAMPLE_FRAMES", 4)
    assert run(clip, "--out", tmp_path / "film.mp4") == 0
    backbone = load_model(MODEL).backbone
    features = [patch_features(backbone, network_input(backbone, frame, 48))[0] for frame in open_video(clip)]
    space = color_space(features[::2])
    for picture, values in zip(added, features, strict=True):
        assert np.array_equal(picture, color_picture(space.colors(values).colors.numpy(), SIZE))


# Mistakes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["clip.avi"], "must end in .mp4 or .gif"),
        (["clip.avi", "--out", "film.avi"], "must end in .mp4 or .gif"),
        (["clip.avi", "clip.avi", "--out", "film.mp4"], "not of 2"),
        (["none.mp4", "--out", "film.mp4"], "none.mp4: no such file"),
        (["clip.avi", "--out", "film.mp4", "--joint"], "--joint"),
        (["frames", "--out", "pictures", "--side-by-side"], "for a film"),
        (["clip.avi", "--out", "taken.mp4"], "exists already"),
        (["taken.mp4", "--out", "taken.mp4", "--overwrite"], "not a video"),
        (["broken", "--out", "film.mp4"], "1.png"),
    ],
)
def test_mistakes_are_told_in_one_line(
    words: list[str],
    message: str,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.mp4").write_bytes(b"mine")
    for name in ("frames", "broken"):
        (tmp_path / name).mkdir()
        Image.fromarray(draw_picture(0, SIZE)).save(tmp_path / name / "0.png")
    (tmp_path / "broken" / "1.png").write_bytes(b"no image")
    before = sorted(path for path in tmp_path.rglob("*"))
    assert run(*words) == 2
    told = capsys.readouterr().err.splitlines()
    assert message in told[-1]
    assert sorted(path for path in tmp_path.rglob("*") if path.name != ".dinoscope") == before
    assert (tmp_path / "taken.mp4").read_bytes() == b"mine"


def test_the_video_itself_is_not_replaced(tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(clip, "--out", tmp_path / "film.mp4") == 0
    before = (tmp_path / "film.mp4").read_bytes()
    assert run(tmp_path / "film.mp4", "--out", tmp_path / "film.mp4", "--overwrite") == 2
    assert "is what is to be read" in capsys.readouterr().err
    assert (tmp_path / "film.mp4").read_bytes() == before
