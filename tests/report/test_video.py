"""Videos read frame by frame, from files and folders; masks laid over frames; videos written whole or not at all."""

from __future__ import annotations

import logging
import operator
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dinoscope.data import video as videos
from dinoscope.data.video import open_video
from dinoscope.errors import UserError
from dinoscope.videos import video_writer


def grey(value: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    return np.full((*size, 3), value, np.uint8)


def write_video(path: Path, code: str, count: int = 6, size: tuple[int, int] = (48, 64)) -> Path:
    """Blue rises from frame to frame; red is always high: a mix-up of channels or order would show."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*code), 12, size[::-1])
    for number in range(count):
        writer.write(np.full((*size, 3), (20 * number, 0, 200), np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize(("name", "code"), [("clip.mp4", "mp4v"), ("clip.AVI", "MJPG"), ("clip.webm", "VP80")])
def test_frames_of_a_file_come_in_order_as_rgb(tmp_path: Path, name: str, code: str) -> None:
    video = open_video(write_video(tmp_path / name, code))
    assert (video.size, video.fps, operator.length_hint(video)) == ((48, 64), 12, 6)
    for _ in range(2):  # again from the start
        frames = list(video)
        assert len(frames) == 6
        for number, frame in enumerate(frames):
            assert np.abs(frame[24, 32].astype(int) - (200, 0, 20 * number)).max() < 12


def test_frames_of_a_gif(tmp_path: Path) -> None:
    first, *others = [Image.fromarray(grey(40 * number)) for number in range(5)]
    first.save(tmp_path / "clip.gif", save_all=True, append_images=others, duration=50)
    video = open_video(tmp_path / "clip.gif")
    assert video.fps == 20
    assert [int(frame[0, 0, 0]) for frame in video] == pytest.approx([0, 40, 80, 120, 160], abs=4)


def test_frames_of_a_folder_come_by_the_numbers_in_their_names(tmp_path: Path) -> None:
    for value, name in enumerate(["f2.png", "f10.jpg", "f9.PNG", "f010.png"]):
        Image.fromarray(grey(50 * value)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no frame")
    (tmp_path / ".hidden.png").write_bytes(b"no frame")
    (tmp_path / "below").mkdir()
    video = open_video(tmp_path)
    assert operator.length_hint(video) == 4
    assert [round(frame[0, 0, 0] / 50) for frame in video] == [0, 2, 1, 3]


def test_only_one_frame_is_decoded_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        Image.fromarray(grey(number)).save(tmp_path / f"{number}.png")
    video, decoded, decode = open_video(tmp_path), [], videos.decode
    monkeypatch.setattr(videos, "decode", lambda file, **options: decoded.append(file.name) or decode(file, **options))
    frames = iter(video)
    next(frames)
    assert decoded == ["0.png"]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip.webm"])
@pytest.mark.parametrize("content", [b"", b"no video at all" * 50])
def test_damaged_files_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is not a video that can be read"):
        open_video(tmp_path / name)


def test_what_ffmpeg_has_to_say_of_a_damaged_file_is_held_back(tmp_path: Path) -> None:
    """In a process of its own: FFmpeg is told once, before its first use."""
    (tmp_path / "clip.mp4").write_bytes(b"no video at all" * 50)
    program = """
import sys
from pathlib import Path
from dinoscope.data.video import open_video
from dinoscope.errors import UserError
try:
    open_video(Path(sys.argv[1]))
except UserError as error:
    print(error, file=sys.stderr)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "clip.mp4")]
    error = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert error.count("\n") == 1
    assert "clip.mp4 is not a video that can be read" in error


def test_a_file_that_ends_too_soon_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = write_video(tmp_path / "clip.avi", "MJPG", count=40, size=(240, 320)).read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) * 7 // 10])
    with caplog.at_level(logging.WARNING):
        count = len(list(videos.Video(tmp_path / "cut.avi", (), (240, 320), 40, 12.0)))
    assert 0 < count < 36
    assert f"says it has 40 frames, and {count} could be read" in caplog.text


def test_other_mistakes_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="there is no video"):
        open_video(tmp_path / "none.mp4")
    (tmp_path / "notes.txt").write_text("words")
    with pytest.raises(UserError, match=r"notes\.txt does not look like a video: give one of \.avi"):
        open_video(tmp_path / "notes.txt")
    with pytest.raises(UserError, match="no frames in this folder"):
        open_video(tmp_path)
    (tmp_path / "0.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"0\.png: "):
        open_video(tmp_path)
    clip = write_video(tmp_path / "clip.mp4", "mp4v")
    monkeypatch.setattr(videos, "MAX_FRAMES", 5)
    with pytest.raises(UserError, match="has 6 frames, and the limit is 5"):
        open_video(clip)
    monkeypatch.setattr(videos, "MAX_FRAME_PIXELS", 1000)
    with pytest.raises(UserError, match="64 x 48 px, and the limit is 1000 pixels"):
        open_video(clip)


def test_one_thread_decodes_large_frames_and_they_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = write_video(tmp_path / "clip.mp4", "mp4v")
    expected = list(open_video(clip))
    calls, capture = [], videos.cv2.VideoCapture
    monkeypatch.setattr(videos.cv2, "VideoCapture", lambda *given: (calls.append(given[2:]), capture(*given))[1])
    monkeypatch.setattr(videos, "_LARGE_FRAME", 64 * 48 - 1)
    np.testing.assert_array_equal(list(open_video(clip)), expected)
    assert calls[-1] == ([videos.cv2.CAP_PROP_N_THREADS, 1],)
    calls.clear()
    monkeypatch.setattr(videos, "_LARGE_FRAME", 64 * 48)
    list(open_video(clip))
    assert not any(calls)


def test_a_folder_of_frames_of_different_sizes_is_refused(tmp_path: Path) -> None:
    Image.fromarray(grey(0)).save(tmp_path / "0.png")
    Image.fromarray(grey(0, (48, 60))).save(tmp_path / "1.png")
    with pytest.raises(UserError, match=r"1\.png is 60 x 48 px, and the first frame .* 64 x 48"):
        list(open_video(tmp_path))


@pytest.mark.parametrize("size", [(48, 64), (33, 41)])
@pytest.mark.parametrize("name", ["out.mp4", "out.webm", "out.gif"])
def test_what_is_written_can_be_read_again(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    with video_writer(tmp_path / name, 20) as add:
        for number in range(4):
            add(grey(60 * number, size))
    video = open_video(tmp_path / name)
    assert video.fps == 20
    assert video.size == ((size[0] + 1) // 2 * 2, (size[1] + 1) // 2 * 2) if name != "out.gif" else size
    assert [round(frame.mean() / 60) for frame in video] == [0, 1, 2, 3]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_webm_is_vp8_close_to_what_was_drawn_and_opened_in_silence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows, columns = np.mgrid[:96, :128]
    frames = [
        np.stack([128 + 100 * np.sin((columns + 5 * number) / 9), 2 * rows, columns + rows], axis=-1).astype(np.uint8)
        for number in range(6)
    ]
    with video_writer(tmp_path / "out.webm", 12) as add:
        for frame in frames:
            add(frame)
    assert capfd.readouterr().err == ""
    assert b"V_VP8" in (tmp_path / "out.webm").read_bytes()
    for frame, decoded in zip(frames, open_video(tmp_path / "out.webm"), strict=True):
        error = np.square(frame.astype(float) - decoded).mean()
        assert 10 * np.log10(255**2 / error) > 32  # dB


def test_a_large_gif_is_made_smaller(tmp_path: Path) -> None:
    with video_writer(tmp_path / "out.gif", 24) as add:
        add(grey(100, (360, 1280)))
    assert Image.open(tmp_path / "out.gif").size == (640, 180)


@pytest.mark.parametrize("name", ["out.mp4", "out.webm", "out.gif"])
def test_an_interrupted_video_leaves_what_was_there(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"earlier")

    def interrupted() -> None:
        with video_writer(tmp_path / name, 24) as add:
            add(grey(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / name).read_bytes() == b"earlier"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["out.mp4", "out.webm", "out.gif"])
def test_a_video_without_frames_is_not_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"{name} cannot be written"), video_writer(tmp_path / name, 24):
        pass
    assert not list(tmp_path.iterdir())
