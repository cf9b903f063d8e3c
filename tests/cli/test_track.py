"""`dinoscope track`: masks and an overlay for a video; nothing replaced unasked; mistakes told in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dinoscope import cli
from dinoscope import videos as video
from dinoscope.cli import video as command
from dinoscope.data.benchmarks import encode_indices, read_indices, voc_palette
from dinoscope.files import MARK

MODEL = "random:vit_micro_conv8"
COUNT, SIZE = 6, (64, 96)


def truth(number: int) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    cv2.circle(mask, (24 + 6 * number, 24), 14, 3, -1)
    return mask


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """A bright disk that moves over a pattern."""
    folder = tmp_path / "frames"
    folder.mkdir()
    ground = cv2.resize(np.random.default_rng(0).integers(0, 120, (8, 12, 3), dtype=np.uint8), SIZE[::-1])
    for number in range(COUNT):
        frame = ground.copy()
        frame[truth(number) > 0] = (240, 60, 30)
        Image.fromarray(frame).save(folder / f"{number:05d}.png")
    return folder


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    return saved(tmp_path / "first.png", truth(0))


@pytest.fixture
def run(frames: Path, mask: Path, tmp_path: Path) -> Callable[..., int]:
    def call(*arguments: object, video: Path = frames, mask: Path = mask, model: str = MODEL) -> int:
        options = ["--mask", mask, "--model", model, "--out", tmp_path / "out", "--size", 64, "--device", "cpu"]
        return cli.main(["track", str(video), *map(str, [*options, *arguments])])

    return call


def saved(path: Path, ids: np.ndarray) -> Path:
    path.write_bytes(encode_indices(ids))
    return path


def test_masks_and_overlay_of_a_folder_of_frames(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == 0
    out = tmp_path / "out"
    files = sorted((out / "masks").iterdir())
    assert [file.name for file in files] == [f"{number:05d}.png" for number in range(COUNT)]
    masks = [read_indices(file) for file in files]
    assert np.array_equal(masks[0], truth(0))
    assert all(mask.shape == SIZE and set(np.unique(mask)) == {0, 3} for mask in masks)
    assert Image.open(files[1]).getpalette()[:12] == voc_palette()[:12]
    capture = cv2.VideoCapture(str(out / "overlay.mp4"), cv2.CAP_FFMPEG)
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == COUNT
    assert f"6 masks in {out / 'masks'}" in capsys.readouterr().out


def test_a_video_file_and_a_gif_of_it(run: Callable[..., int], tmp_path: Path) -> None:
    writer = cv2.VideoWriter(
        str(tmp_path / "clip.avi"), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 12, SIZE[::-1]
    )
    for number in range(3):
        writer.write(np.full((*SIZE, 3), 40 * number, np.uint8))
    writer.release()
    assert run("--gif", video=tmp_path / "clip.avi") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [MARK, "masks", "overlay.gif"]
    assert Image.open(tmp_path / "out" / "overlay.gif").n_frames == 3


def test_nothing_is_replaced_unasked_and_nothing_old_is_left_over(
    run: Callable[..., int], frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == 0
    (tmp_path / "out" / "masks" / "notes.txt").write_text("the person's")
    (tmp_path / "out" / "masks" / "00000-mine.png").write_text("the person's")
    (frames / "00005.png").unlink()
    assert run("--gif") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run("--gif", "--overwrite") == 0
    masks = sorted(path.name for path in (tmp_path / "out" / "masks").iterdir())
    assert masks == ["00000-mine.png", *(f"{number:05d}.png" for number in range(5)), "notes.txt"]
    assert not (tmp_path / "out" / "overlay.mp4").exists()


def test_what_is_read_is_never_replaced(
    run: Callable[..., int], frames: Path, mask: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder of frames named "masks", or a mask that an earlier call wrote, in the folder for the results."""
    folder = frames.rename(tmp_path / "masks")
    assert run("--out", tmp_path, "--overwrite", video=folder) == 2
    assert "is what is to be read: name another folder" in capsys.readouterr().err
    assert len(list(folder.iterdir())) == COUNT
    (tmp_path / "out" / "masks").mkdir(parents=True)
    earlier = mask.rename(tmp_path / "out" / "masks" / "00000.png")
    assert run("--overwrite", video=folder, mask=earlier) == 2
    assert earlier.is_file()


def test_an_object_may_be_given_at_a_later_frame(run: Callable[..., int], tmp_path: Path) -> None:
    late = np.zeros(SIZE, np.uint8)
    late[40:60, 60:90] = 8
    assert run("--mask-at", f"3:{saved(tmp_path / 'late.png', late)}") == 0
    masks = [read_indices(tmp_path / "out" / "masks" / f"{number:05d}.png") for number in range(COUNT)]
    assert [8 in mask for mask in masks] == [False, False, False, True, True, True]
    assert np.array_equal(masks[3] == 8, late == 8)
    assert 3 in masks[5]


def test_an_object_too_small_to_be_followed_is_named_with_its_mask(
    run: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    speck = truth(0)
    speck[0, 0] = 9
    assert run("--mask-at", f"2:{saved(tmp_path / 'speck.png', speck)}") == 0
    assert f"{tmp_path / 'speck.png'}: object 9 is smaller than a patch" in caplog.text
    assert "first.png" not in caplog.text


@pytest.mark.parametrize(("other", "expected"), [(0, {0, 1}), (4, {0, 4})])
def test_255_is_the_object_where_there_is_no_other(
    run: Callable[..., int], tmp_path: Path, other: int, expected: set[int]
) -> None:
    values = np.zeros(SIZE, np.uint8)
    values[:32, :40], values[32:, :40] = 255, other
    Image.fromarray(values).save(tmp_path / "grey.png")
    assert run(mask=tmp_path / "grey.png") == 0
    assert set(np.unique(read_indices(tmp_path / "out" / "masks" / "00000.png"))) == expected


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--mask-at", "dog.png"], "give the number of a frame and a file, as in 40:dog.png"),
        (["--mask-at", "x:dog.png"], "give the number of a frame and a file"),
        (["--mask-at", "2:none.png"], "none.png: "),
        (["--mask-at", "0:dog.png"], "there is a mask for frame 0 already"),
        (["--mask-at", "6:dog.png"], "has 6 frames, counted from 0"),
        (["--size", "4"], "at least one patch of 8 px, not 4"),
        (["--radius", "-1"], "radius must be at least 0"),
        (["--temperature", "0"], "temperature must be above 0"),
        (["--temperature", "1e-40"], "temperature must be above 0"),
        (["--model", "random:vit_nano"], "vit_nano"),
        (["--mask", "none.png"], "none.png: "),
    ],
)
def test_mistakes_are_told_in_one_line_and_nothing_is_made(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_masks_and_videos_that_do_not_fit_are_refused(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(mask=saved(tmp_path / "small.png", np.ones((32, 48), np.uint8))) == 2
    assert "small.png is 48 x 32 px, and the frames of" in capsys.readouterr().err
    assert run(mask=saved(tmp_path / "empty.png", np.zeros(SIZE, np.uint8))) == 2
    assert "empty.png holds no object" in capsys.readouterr().err
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(tmp_path / "colour.png")
    assert run(mask=tmp_path / "colour.png") == 2
    assert "one index a pixel" in capsys.readouterr().err
    (tmp_path / "nothing").mkdir()
    assert run(video=tmp_path / "nothing") == 2
    assert "no frames in this folder" in capsys.readouterr().err
    assert run(video=tmp_path / "none.mp4") == 2
    assert "none.mp4: no such file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_frame_that_cannot_be_read_is_named_and_no_overlay_is_left(
    run: Callable[..., int], frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (frames / "00003.png").write_bytes(b"no picture")
    assert run() == 2
    assert "00003.png" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [MARK, "masks"]


def test_a_stop_leaves_whole_masks_and_says_which(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, out = video.write_mask, tmp_path / "out"

    def interrupted(path: Path, ids: np.ndarray) -> None:
        if path.name == "00003.png":
            raise KeyboardInterrupt
        write(path, ids)

    with monkeypatch.context() as patches:
        patches.setattr(video, "write_mask", interrupted)
        assert run() == 130
    assert f"stopped; 3 masks in {out / 'masks'}, each whole, and no overlay" in capsys.readouterr().err
    assert sorted(path.name for path in out.iterdir()) == [MARK, "masks"]
    assert all(read_indices(file).shape == SIZE for file in (out / "masks").iterdir())

    (out / ".overlay.mp4.partial-123").mkdir()  # as a kill leaves it
    assert run("--overwrite") == 0
    assert sorted(path.name for path in out.iterdir()) == [MARK, "masks", "overlay.mp4"]
    assert len(list((out / "masks").iterdir())) == COUNT


def test_a_stop_before_the_first_mask_spares_an_earlier_result(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    assert run() == 0
    monkeypatch.setattr(command, "load_model", interrupted)
    assert run("--overwrite") == 130
    assert "stopped; nothing was written" in capsys.readouterr().err
    assert len(list((tmp_path / "out" / "masks").iterdir())) == COUNT


def test_a_painted_mask_with_soft_edges_is_its_object(run: Callable[..., int], tmp_path: Path) -> None:
    painted = cv2.GaussianBlur(85 * truth(0), (5, 5), 1)
    Image.fromarray(painted).save(tmp_path / "soft.png")
    assert run(mask=tmp_path / "soft.png") == 0
    assert np.array_equal(read_indices(tmp_path / "out" / "masks" / "00000.png"), painted >= 128)
