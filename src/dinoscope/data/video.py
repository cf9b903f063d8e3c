"""Frames of a video file or of a folder of images, one at a time."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
from jaxtyping import UInt8
from numpy import ndarray

from dinoscope.data.grey_range import Window
from dinoscope.data.images import UnreadableImage, decode, extensions
from dinoscope.data.sources import images_within
from dinoscope.errors import UserError

_log = logging.getLogger(__name__)

VIDEO_EXTENSIONS = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
MAX_FRAME_PIXELS = 2**25
"""Height times width above which a frame of a video file is refused: 8K (7680 x 4320 px) is read. FFmpeg keeps up to 16
frames that others refer to, at 1.5 bytes a pixel."""
_LARGE_FRAME = 2**23
"""Height times width above which one thread decodes: each of several threads would hold a frame more."""
MAX_FRAMES = 100_000
"""Above an hour at 24 frames a second; what is longer is to be cut first."""
FOLDER_FPS = 24.0
"""Taken for a folder of images, which has no speed: that of DAVIS."""


@dataclass(frozen=True)
class Video:
    """A video to iterate over, as often as needed; it is read again each time.

    files: the images if `path` is a folder, else empty.
    size: height and width of every frame, in pixels.
    frames: how many; what a file says of itself may be off by a few, and is 0 if it says nothing.
    window: grey range of images of more than 8 bits, the model's; None takes that of each image.
    """

    path: Path
    files: tuple[Path, ...]
    size: tuple[int, int]
    frames: int
    fps: float
    window: Window | None = None

    @property
    def seconds(self) -> float:
        """How long it plays; 0 if the number of frames is unknown."""
        return self.frames / self.fps

    def __length_hint__(self) -> int:
        """Return the number of frames, as far as it is known beforehand."""
        return self.frames

    def __iter__(self) -> Iterator[UInt8[ndarray, "h w 3"]]:
        """Yield RGB frames in order. Raises UserError for one that is unreadable, of another size, or one too many."""
        number = 0
        images = ((str(file), _image(file, self.window)) for file in self.files)
        for number, (name, frame) in enumerate(images if self.files else _decoded(self.path), start=1):
            if frame.shape[:2] != self.size:
                raise UserError(
                    f"{name} is {frame.shape[1]} x {frame.shape[0]} px, and the first frame of {self.path} is "
                    f"{self.size[1]} x {self.size[0]}: all frames of a video must be of one size"
                )
            if number > MAX_FRAMES:
                raise UserError(f"{self.path} has more than {MAX_FRAMES} frames: cut it into shorter parts")
            yield frame
        if number < 0.9 * self.frames:
            _log.warning(
                "%s says it has %d frames, and %d could be read: is it cut off?", self.path, self.frames, number
            )


def open_video(path: Path) -> Video:
    """Open a video file, or a folder whose images are the frames: by name, numbers in names by value.

    Images in folders below it are not taken. The first frame is read for its size.

    Raises UserError for what is missing, is no video, cannot be read, has no frames, too many, or too large ones.
    """
    if path.is_dir():
        files = tuple(images_within(path))
        if not files:
            raise UserError(f"{path}: no frames in this folder. Looked for {' '.join(extensions())}")
        frame, video = _image(files[0]), Video(path, files, (0, 0), len(files), FOLDER_FPS)
    else:
        with _capture(path) as capture:
            video = _header(path, capture)
            is_read, frame = capture.read()
        if not is_read:
            raise UserError(f"{path}: no frame of this video can be read; is it damaged or cut off?")
    if video.frames > MAX_FRAMES:
        raise UserError(f"{path} has {video.frames} frames, and the limit is {MAX_FRAMES}: cut it into shorter parts")
    return replace(video, size=frame.shape[:2])


def read_header(path: Path) -> Video:
    """Return what a video file says of itself, and read no frame. The size is that before the video is turned.

    Raises UserError if it is no video, or too large.
    """
    with _capture(path) as capture:
        return _header(path, capture)


def _header(path: Path, capture: cv2.VideoCapture) -> Video:
    frames, fps = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), capture.get(cv2.CAP_PROP_FPS)
    height, width = (int(capture.get(at)) for at in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
    if height * width > MAX_FRAME_PIXELS:
        raise UserError(f"{path}: frames of {width} x {height} px, and the limit is {MAX_FRAME_PIXELS} pixels")
    return Video(path, (), (height, width), max(0, frames), fps if 0 < fps <= 1000 else FOLDER_FPS)


def _image(file: Path, window: Window | None = None) -> UInt8[ndarray, "_ _ 3"]:
    try:
        return decode(file, window=window)
    except UnreadableImage as error:
        raise UserError(f"{file}: {error}") from error


def _decoded(path: Path) -> Iterator[tuple[str, UInt8[ndarray, "_ _ 3"]]]:
    """Yield each frame of a video file with a name."""
    with _capture(path) as capture:
        number = 0
        while (read := capture.read())[0]:
            yield f"{path}, frame {number}", cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB)
            number += 1


@contextmanager
def _capture(path: Path) -> Iterator[cv2.VideoCapture]:
    """Open a video file. What OpenCV and FFmpeg print of a damaged one is held back: a person gets one line."""
    if not path.exists():
        raise UserError(f"there is no video {path}")
    if path.suffix.lower() not in VIDEO_EXTENSIONS:
        raise UserError(
            f"{path} does not look like a video: give one of {' '.join(VIDEO_EXTENSIONS)}, or a folder of frames"
        )
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # FFmpeg's AV_LOG_QUIET; read when it is first used
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        # the whole path and no other backend: a name like "http:x" or "a%d.avi" is a file here and nothing else
        name = str(path.resolve())
        capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG)
        if capture.get(cv2.CAP_PROP_FRAME_HEIGHT) * capture.get(cv2.CAP_PROP_FRAME_WIDTH) > _LARGE_FRAME:
            capture.release()
            capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    finally:
        cv2.utils.logging.setLogLevel(level)
    try:
        if not capture.isOpened():
            raise UserError(f"{path} is not a video that can be read; is it damaged or cut off?")
        yield capture
    finally:
        capture.release()
