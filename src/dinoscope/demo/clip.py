"""A short clip: refused from its header where it is too much; its frames thinned and shrunk as they are read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import cv2
from jaxtyping import UInt8
from numpy import ndarray

from dinoscope.data.video import Video, open_video, read_header
from dinoscope.demo.limits import MB, Limits
from dinoscope.demo.pictures import Refused
from dinoscope.errors import UserError
from dinoscope.scenes import ScenesConfig, write_scenes

Taking = Literal["spread", "start"]
"""Which frames are taken where a clip has too many: every second, third... or those it begins with."""

_SAMPLE = ScenesConfig(
    train_per_class=0, val_per_class=0, voc_images=0, davis_sequences=1, davis_frames=36, davis_size=(240, 426)
)
_SAMPLE_FPS = 12.0


@dataclass(frozen=True)
class Clip:
    """Frames of a video, read anew each time they are gone through; it may be gone through several times at once.

    name: the file's, as the person knows it.
    total: frames of the whole video. step: every so many are taken. count: so many frames are taken.
    size: height and width that frames are shrunk to, in pixels.
    """

    video: Video
    name: str
    total: int
    step: int
    count: int
    size: tuple[int, int]

    @property
    def fps(self) -> float:
        """Frames a second at which what was taken plays as fast as the video."""
        return self.video.fps / self.step

    @property
    def seconds(self) -> float:
        """How long the whole video plays."""
        return self.total / self.video.fps

    def __length_hint__(self) -> int:
        """Number of frames that are taken."""
        return self.count

    def __iter__(self) -> Iterator[UInt8[ndarray, "h w 3"]]:
        """RGB frames of `size`. Raises UserError as a video does."""
        for number, frame in enumerate(self.video):
            if number % self.step == 0:
                shrinks = frame.shape[:2] != self.size
                yield cv2.resize(frame, self.size[::-1], interpolation=cv2.INTER_AREA) if shrinks else frame
            if number >= self.step * (self.count - 1):
                return

    def taking(self, how: Taking, most: int) -> Clip:
        """The same with at most `most` frames: spread over the whole video, or its first ones."""
        step = -(-self.total // most) if how == "spread" else 1
        return replace(self, step=step, count=min(most, -(-self.total // step)))


def open_clip(path: Path, name: str, limits: Limits) -> Clip:
    """The clip in a file, with all its frames, which may be more than are followed (`limits.video_frames`).

    Size in bytes and length are looked at first, in the file's header. A file that does not say its length is
    gone through, but no further than is allowed.

    Raises Refused for a file too large, a video too long, and what is no video or damaged.
    """
    if not path.is_file():
        raise Refused("video_gone")
    megabytes = path.stat().st_size / MB
    if megabytes > limits.video_mb:
        raise Refused("video_too_large", name=name, megabytes=f"{megabytes:.0f}", most=f"{limits.video_mb:g}")
    try:
        _refuse_long(name, read_header(path).seconds, limits)
        video = open_video(path)
    except UserError as error:
        raise Refused("video_unreadable", name=name) from error
    total = video.frames or _counted(video, name, limits)
    return Clip(video, name, total, 1, total, _shrunk(video.size, limits.video_side))


def open_stranger_clip(path: Path, name: str, limits: Limits) -> Clip:
    """Return `open_clip` of a file that nobody has vouched for, after all frames were decoded once.

    For a process with a deadline: what ends here in time ends in time again. Raises Refused as `open_clip` does.
    """
    clip = open_clip(path, name, limits)
    with contextlib.suppress(UserError):  # damage in the middle is reported when that frame is used
        for _ in clip:
            pass
    return clip


def sample_clip(folder: Path, name: str, limits: Limits) -> Clip:
    """Drawn scenes that move, turn and cover each other; drawn into the folder unless they are there."""
    frames = write_scenes(folder, _SAMPLE) / "DAVIS" / "JPEGImages" / "480p" / "scene-00"
    video = replace(open_video(frames), fps=_SAMPLE_FPS)
    return Clip(video, name, video.frames, 1, video.frames, _shrunk(video.size, limits.video_side))


def first_frame(clip: Clip) -> UInt8[ndarray, "h w 3"]:
    """The frame on which objects are marked. Raises UserError as a video does."""
    return next(iter(clip))


def _refuse_long(name: str, seconds: float, limits: Limits) -> None:
    if seconds > limits.video_seconds:
        raise Refused("video_too_long", name=name, length=_minutes(seconds), most=f"{limits.video_seconds:g}")


def _counted(video: Video, name: str, limits: Limits) -> int:
    """Frames of a video that does not say how many it has."""
    most = limits.video_seconds * video.fps
    count = 0
    for count, _ in enumerate(video, start=1):
        _refuse_long(name, count / video.fps if count > most + 1 else 0, limits)
    return count


def _minutes(seconds: float) -> str:
    """7384 s as 2:03:04, 93 s as 1:33."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _shrunk(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Height and width with a longer side of at most `side`, and neither below 1."""
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
