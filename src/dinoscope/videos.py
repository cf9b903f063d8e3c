"""Masks of objects over the frames of a video, and the writing of both: PNG, and MP4, WebM or GIF."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from dinoscope.data.benchmarks import encode_indices
from dinoscope.errors import UserError
from dinoscope.files import replacing
from dinoscope.objects import objects_overlay

_GIF_SIDE = 640  # pixels: the longer side of a GIF is at most this, as its frames are held until the end
CODECS = ("vp09", "mp4v")
"""VP9, which OpenCV's wheels can write and browsers play, then MPEG-4 part 2, which browsers do not."""
QUICK_CODECS = ("mp4v", "vp09")
"""MPEG-4 part 2 first: OpenCV writes it 100 times faster than VP9, whose speed it lets nobody set."""
WEBM_CODECS = ("VP80", "VP90")
"""VP8, which browsers play too and OpenCV writes five times faster than VP9, then VP9."""

AddFrame = Callable[[UInt8[ndarray, "h w 3"]], None]


def write_mask(path: Path, ids: UInt8[ndarray, "h w"]) -> None:
    """Write a palette PNG whose values are the ids, whole or not at all. Raises UserError if that fails."""
    try:
        with replacing(path) as partial:
            partial.write_bytes(encode_indices(ids))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def write_followed(
    masks: Iterable[UInt8[ndarray, "h w"]],
    frames: Iterable[UInt8[ndarray, "h w 3"]],
    fps: float,
    folder: Path,
    overlay: Path,
) -> Iterator[UInt8[ndarray, "h w 3"]]:
    """Write each mask as it comes as FOLDER/00000.png..., and the overlay; yield each of its frames once it is written.

    The overlay is there at the end; if that is not reached, only masks are. No more than one frame is held. Raises
    UserError if something cannot be written.
    """
    with video_writer(overlay, fps) as add:
        # the mask first: where a frame is in error, the propagation has more to say about it
        for count, (mask, frame) in enumerate(zip(masks, frames, strict=False)):
            write_mask(folder / f"{count:05d}.png", mask)
            picture = objects_overlay(frame, mask)
            add(picture)
            yield picture


@contextmanager
def video_writer(path: Path, fps: float, codecs: Sequence[str] | None = None) -> Iterator[AddFrame]:
    """Give a function that takes the frames of a video (RGB, all of one size); the file is there afterwards, whole.

    path: ends in .mp4, .webm or .gif. Of a GIF, the longer side is at most 640 px and the speed at most 50 frames a
    second. The others have even sides: the last row or column is repeated where that is needed.
    codecs: the first that OpenCV can write is taken; by default of `CODECS`, or of `WEBM_CODECS` for a WebM.

    Raises UserError if no frame was given, or the file cannot be written.
    """
    kind = path.suffix.lower()
    codecs = codecs or (WEBM_CODECS if kind == ".webm" else CODECS)
    try:
        with replacing(path) as partial, _gif(partial, fps) if kind == ".gif" else _film(partial, fps, codecs) as add:
            yield add
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


@contextmanager
def _film(path: Path, fps: float, codecs: Sequence[str]) -> Iterator[AddFrame]:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    writer, written = cv2.VideoWriter(), 0

    def add(frame: UInt8[ndarray, "h w 3"]) -> None:
        nonlocal written
        height, width = frame.shape[:2]
        even = cv2.copyMakeBorder(frame, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        if not written:
            with _without_stderr():  # where OpenCV warns of any codec in a WebM, also of those it writes
                fourccs = (cv2.VideoWriter.fourcc(*codec) for codec in codecs)
                size = even.shape[1::-1]
                opened = any(writer.open(str(path), cv2.CAP_FFMPEG, fourcc, fps, size) for fourcc in fourccs)
            if not opened:
                raise OSError(f"this OpenCV writes neither of {', '.join(codecs)}; a GIF may do instead")
        writer.write(cv2.cvtColor(even, cv2.COLOR_RGB2BGR))
        written += 1

    try:
        yield add
    finally:
        writer.release()
    # OpenCV tells nothing if the disk is full or the codec is missing
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else -1
        if count != written or not capture.read()[0]:
            raise OSError("OpenCV wrote no video that can be opened again; is the disk full? A GIF may do instead")
    finally:
        capture.release()


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Drop what is written to the file descriptor of stderr, for a moment: all threads share it."""
    try:
        stderr = os.dup(2)
    except OSError:  # there is none
        yield
        return
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


@contextmanager
def _gif(path: Path, fps: float) -> Iterator[AddFrame]:
    frames: list[Image.Image] = []

    def add(frame: UInt8[ndarray, "h w 3"]) -> None:
        picture = Image.fromarray(frame)
        picture.thumbnail((_GIF_SIDE, _GIF_SIDE), Image.Resampling.BILINEAR)
        frames.append(picture.quantize(method=Image.Quantize.MEDIANCUT))  # a byte a pixel while it is held

    yield add
    if not frames:
        raise OSError("there are no frames")
    # in hundredths of a second, of which browsers take no fewer than 2
    duration = 10 * max(2, round(100 / fps))
    frames[0].save(path, format="GIF", save_all=True, append_images=frames[1:], duration=duration, loop=0)
