"""A film of the colours of patches, in one colour space for all frames, so that a part of the scene keeps its colour.

The video is decoded twice, frame by frame: once for a sample of frames, evenly spaced, of which the colour space is
made, and once to colour every frame. No more than the sample is held, as small as the network is given it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from dinoscope.data.video import Video
from dinoscope.explain.attention import patch_grid, prepare
from dinoscope.explain.patches import color_space
from dinoscope.features import Progress
from dinoscope.model_names import Model
from dinoscope.pictures import color_picture
from dinoscope.report.pages import ModelInput
from dinoscope.videos import CODECS, QUICK_CODECS, video_writer

SAMPLE_FRAMES = 32
"""Frames that a colour space is made of, at most."""
SAMPLE_PATCHES = 2**15
"""Their patches, at most, but for two frames: with features of 384 numbers 100 MB in float64, a few times."""

FILM_SUFFIXES = (".mp4", ".gif")

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class ColorsFilm:
    """What was written.

    frames: how many. sampled: how many of them made the colour space. share: of their variance, in three components.
    """

    frames: int
    sampled: int
    share: float


def write_colors_film(
    model: Model,
    video: Video,
    out: Path,
    size: int,
    *,
    foreground: bool = False,
    side_by_side: bool = False,
    vp9: bool = False,
    progress: Progress = lambda done, total: None,
) -> ColorsFilm:
    """Write a film (.mp4 or .gif) of the frames' size and speed in which each patch has the colour of its features.

    model: on the device where it runs. size: short side of a frame as it is given to the network, in pixels.
    foreground: colour only what is foreground of the sample's first component (`explain.patches.joint_foreground`).
    side_by_side: the frame on the left, its colours on the right. vp9: an .mp4 for browsers, slow to write.

    Raises UserError if the video cannot be read or the film not written, and for features that are not finite.
    """
    backbone = model.backbone

    def prepared(frame: UInt8[ndarray, "_ _ 3"]) -> UInt8[Tensor, "c s t"]:
        return prepare(frame, size, backbone.patch_size)

    def features(pixels: UInt8[Tensor, "c s t"]) -> Float[Tensor, "rows columns d"]:
        return ModelInput(model, size, backbone.normalize(pixels[None].to(backbone.mean.device))).patches()

    def told(frames: Iterable[T], before: int) -> Iterable[T]:
        for number, frame in enumerate(frames):
            yield frame
            count = max(number + 1, operator.length_hint(video))
            progress(before * count + number + 1, 2 * count)

    rows, columns = patch_grid(video.size, size, backbone.patch_size)
    limit = min(SAMPLE_FRAMES, max(2, SAMPLE_PATCHES // (rows * columns)))
    chosen = evenly_spaced(told(video, 0), limit, prepared)
    space, written = color_space([features(pixels) for pixels in chosen], foreground=foreground), 0
    with video_writer(out, video.fps, CODECS if vp9 else QUICK_CODECS) as add:
        for frame in told(video, 1):
            colors = space.colors(features(prepared(frame))).colors
            picture = color_picture(colors.numpy(), (frame.shape[0], frame.shape[1]))
            add(np.hstack([frame, picture]) if side_by_side else picture)
            written += 1
    return ColorsFilm(written, len(chosen), 0.0 if space.components is None else space.components.share.sum().item())


def evenly_spaced(items: Iterable[T], limit: int, take: Callable[[T], R]) -> list[R]:
    """Return what `take` makes of the first item and of every 2nd, 4th, 8th... after it: of at most `limit`.

    How many items there are need not be known; no more than `limit` + 1 results are held.
    """
    taken, step = list[R](), 1
    for number, item in enumerate(items):
        if number % step == 0:
            taken.append(take(item))
            if len(taken) > limit:
                taken, step = taken[::2], 2 * step
    return taken
