"""Clips: refused from their header, thinned or cut only as is said, shrunk, and never decoded further than allowed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dinoscope.data import video
from dinoscope.demo.clip import open_clip, sample_clip
from dinoscope.demo.pictures import Limits, Refused
from tests.demo.clips import write_clip

LIMITS = Limits()


def refusal(path: Path, limits: Limits = LIMITS) -> Refused:
    with pytest.raises(Refused) as caught:
        open_clip(path, "clip.mp4", limits)
    return caught.value


def test_a_clip_is_read_whole_and_in_order(tmp_path: Path) -> None:
    clip = open_clip(write_clip(tmp_path / "a.mp4", 6), "mine.mp4", LIMITS)
    assert (clip.name, clip.total, clip.count, clip.step, clip.size, clip.fps) == ("mine.mp4", 6, 6, 1, (48, 64), 12)
    frames = list(clip)
    assert len(frames) == 6
    assert np.array_equal(frames[0], next(iter(clip)))


def test_two_hours_are_refused_before_a_frame_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real header: few frames, each of which stands for minutes."""
    path = write_clip(tmp_path / "film.mp4", 15, fps=1 / 500)

    def forbidden(_: Path) -> None:
        raise AssertionError("a frame was decoded")

    monkeypatch.setattr("dinoscope.demo.clip.open_video", forbidden)
    error = refusal(path)
    assert error.key == "video_too_long"
    assert error.values["length"] == "2:05:00"


def test_large_files_are_refused_before_they_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "a.mp4")
    monkeypatch.setattr("dinoscope.demo.clip.read_header", lambda _: pytest.fail("the file was opened"))
    assert refusal(path, replace(LIMITS, video_mb=path.stat().st_size / 2e6)).key == "video_too_large"


@pytest.mark.parametrize("content", [b"", b"no video at all", None])
def test_what_is_no_video_is_told_plainly(tmp_path: Path, content: bytes | None) -> None:
    whole = write_clip(tmp_path / "whole.mp4", 12).read_bytes()
    path = tmp_path / "a.mp4"
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert refusal(path).key == "video_unreadable"
    (tmp_path / "a.txt").write_bytes(whole)
    assert refusal(tmp_path / "a.txt").key == "video_unreadable"
    assert refusal(tmp_path / "gone.mp4").key == "video_gone"


def test_a_video_that_does_not_say_its_length_is_counted_no_further_than_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_clip(tmp_path / "a.mp4", 40)
    header = video._header
    monkeypatch.setattr(video, "_header", lambda *a: replace(header(*a), frames=0))
    assert open_clip(path, "a.mp4", LIMITS).total == 40
    assert refusal(path, replace(LIMITS, video_seconds=1)).key == "video_too_long"


def test_too_many_frames_are_spread_or_cut_as_the_person_says(tmp_path: Path) -> None:
    clip = open_clip(write_clip(tmp_path / "a.mp4", 20), "a.mp4", LIMITS)
    frames = list(clip)
    spread, start = clip.taking("spread", 8), clip.taking("start", 8)
    assert (spread.step, spread.count, spread.fps) == (3, 7, 4)
    assert (start.step, start.count, start.fps) == (1, 8, 12)
    assert all(np.array_equal(a, b) for a, b in zip(spread, frames[::3], strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(start, frames[:8], strict=True))
    assert clip.taking("spread", 100).step == 1
    assert len(list(clip.taking("spread", 1))) == 1


def test_large_frames_are_shrunk_with_their_aspect(tmp_path: Path) -> None:
    clip = open_clip(write_clip(tmp_path / "a.mp4", 2, (120, 200)), "a.mp4", replace(LIMITS, video_side=50))
    assert clip.size == (30, 50)
    assert all(frame.shape == (30, 50, 3) for frame in clip)


def test_the_sample_is_drawn_once(tmp_path: Path) -> None:
    first = sample_clip(tmp_path / "sample", "sample", LIMITS)
    times = [file.stat().st_mtime_ns for file in first.video.files]
    again = sample_clip(tmp_path / "sample", "sample", LIMITS)
    assert first == again
    assert [file.stat().st_mtime_ns for file in again.video.files] == times
    assert first.count == len(first.video.files) <= LIMITS.video_frames
