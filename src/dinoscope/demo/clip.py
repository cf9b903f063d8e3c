"""A short clip: read within limits; objects marked on its first frame by a few clicks or a brush; and followed.

With f(x) a cell's feature of length 1, an object has at a cell x the score

    s(x) = like(x, its clicks) - max(like(x, the edge), like(x, its clicks that take away)) + reach

like(x, clicks) is the mean of the largest cosines of f(x) with the cells around the clicks, like(x, the edge) the mean
of the largest with the cells at the edge of the picture, which is mostly background. The region is what is connected to
a click through cells of a score above 0. Nothing is trained, and the same clicks give the same region.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from dinoscope.data.benchmarks import read_objects
from dinoscope.data.video import Video, open_video, read_header
from dinoscope.demo.pictures import MB, Limits, Refused, check_picture, fitted_size
from dinoscope.errors import UserError
from dinoscope.evaluation.propagation import PropagationConfig, cell_features, propagate
from dinoscope.models.backbone import Backbone
from dinoscope.objects import COLORS
from dinoscope.scenes import ScenesConfig, write_scenes
from dinoscope.videos import write_followed

Taking = Literal["spread", "start"]
"""Which frames of a clip with too many are followed: every second, third..., or the first ones."""

OBJECTS = len(COLORS)
"""Objects that may be marked: as many colours are easily told apart."""

BRUSH_OPACITY = 0.5
"""Opacity of the brush, 0 to 1: the picture shows through the paint, and a later stroke replaces an earlier one."""

_SAMPLE = ScenesConfig(
    train_per_class=0, val_per_class=0, voc_images=0, davis_sequences=1, davis_frames=36, davis_size=(240, 426)
)
_SAMPLE_FPS = 12.0
_EDGE_SHARE = 1 / 8  # of the edge's cells that count: an object may lie at the edge and not be taken for background
_SEED_CELLS = 3  # of the cells around clicks that count: a texture's light or dark part
_NOWHERE = -1.0  # a score below that of any cell of a region
_PAINT = round(255 * BRUSH_OPACITY / 2)  # paint that covers less of a pixel is the soft edge of a stroke


@dataclass(frozen=True)
class Clip:
    """Frames of a video, read again at each iteration; several iterations may run at once.

    name: the file's, as the person knows it. size: height and width that frames are shrunk to, in pixels.
    total: frames of the whole video. step: every so many frames one is taken. count: frames that are taken.
    """

    video: Video
    name: str
    size: tuple[int, int]
    total: int
    count: int
    step: int = 1

    @property
    def fps(self) -> float:
        """Frames per second at which the frames taken play as fast as the video."""
        return self.video.fps / self.step

    def __length_hint__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[UInt8[ndarray, "h w 3"]]:
        """Yield RGB frames of `size`. Raises UserError as a video does."""
        for number, frame in enumerate(self.video):
            if number % self.step == 0:
                shrinks = frame.shape[:2] != self.size
                yield cv2.resize(frame, self.size[::-1], interpolation=cv2.INTER_AREA) if shrinks else frame
            if number >= self.step * (self.count - 1):
                return

    def taking(self, how: Taking, max_frames: int) -> Clip:
        """Return the same clip with at most `max_frames` frames: evenly spaced over the whole video, or its first."""
        step = -(-self.total // max_frames) if how == "spread" else 1
        return replace(self, step=step, count=min(max_frames, -(-self.total // step)))


def open_clip(path: Path, name: str, limits: Limits) -> Clip:
    """Return the clip in a file, with all its frames, which may be more than are followed (`limits.video_frames`).

    Size in bytes and length are checked first, in the file's header. The frames of a file that does not say its length
    are counted, but no further than is allowed. Then all frames are decoded once, for a process with a deadline: what
    ends here in time ends in time again.

    Raises Refused if the file is too large, the video too long, damaged or no video.
    """

    def refuse_long(seconds: float) -> None:
        if seconds > limits.video_seconds:
            minutes, rest = divmod(round(seconds), 60)
            hours, minutes = divmod(minutes, 60)
            length = f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
            raise Refused("video_too_long", name=name, length=length, most=f"{limits.video_seconds:g}")

    if not path.is_file():
        raise Refused("video_gone")
    megabytes = path.stat().st_size / MB
    if megabytes > limits.video_mb:
        raise Refused("video_too_large", name=name, megabytes=f"{megabytes:.0f}", most=f"{limits.video_mb:g}")
    try:
        refuse_long(read_header(path).seconds)
        video = open_video(path)
    except UserError as error:
        raise Refused("video_unreadable", name=name) from error
    total = video.frames
    if not total:
        for total, _ in enumerate(video, start=1):
            refuse_long((total - 1) / video.fps)
    with contextlib.suppress(UserError):  # damage in the middle is reported when that frame is used
        for _ in video:
            pass
    return Clip(video, name, fitted_size(video.size, limits.video_side), total, total)


def sample_clip(folder: Path, name: str, limits: Limits) -> Clip:
    """Return drawn scenes that move, turn and cover each other; they are drawn into the folder unless they exist."""
    frames = write_scenes(folder, _SAMPLE) / "DAVIS" / "JPEGImages" / "480p" / "scene-00"
    video = replace(open_video(frames), fps=_SAMPLE_FPS)
    return Clip(video, name, fitted_size(video.size, limits.video_side), video.frames, video.frames)


def read_mask(path: Path, clip: Clip, limits: Limits) -> UInt8[ndarray, "h w"]:
    """Return the objects of the first frame, of `clip.size`, from a mask as large as that or as the video's own frames.

    Raises Refused if the file is no mask, of another size, or holds no objects or more than `OBJECTS`.
    """
    check_picture(path, limits)
    try:
        ids = read_objects(path)
    except UserError as error:
        raise Refused("video_mask_none") from error
    allowed = list(dict.fromkeys([clip.video.size, clip.size]))
    if ids.shape not in allowed:
        mask, *sizes = (f"{width} × {height}" for height, width in (ids.shape, *allowed))
        key = "video_mask_size" if len(sizes) == 1 else "video_mask_sizes"
        raise Refused(key, mask=mask, frame=sizes[0], shown=sizes[-1])
    ids = cv2.resize(ids, clip.size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    count = len(np.unique(ids[ids > 0]))
    if not count:
        raise Refused("video_mask_empty")
    if count > OBJECTS:
        raise Refused("video_mask_objects", count=count, most=OBJECTS)
    return ids


@dataclass(frozen=True)
class Click:
    """A click on object `number`, from 1; row and column are shares of the picture's height and width, in [0, 1).

    adds: the object is here; False: it is not.
    """

    number: int
    row: float
    column: float
    adds: bool = True

    def cell(self, rows: int, columns: int) -> tuple[int, int]:
        """Return the clicked cell of a grid."""
        return min(rows - 1, int(self.row * rows)), min(columns - 1, int(self.column * columns))


Mark = Click | UInt8[ndarray, "h w"]
"""A click, or what was painted with a brush or comes from a mask file: the object of each pixel, 0 for none."""


def clip_cells(backbone: Backbone, clip: Clip, size: int) -> Float[Tensor, "rows columns d"]:
    """Return the features of the first frame's cells, on the CPU, computed at the short side `size`.

    Raises UserError if the frame cannot be read, or as `cell_features` does.
    """
    features, grid = cell_features(backbone, next(iter(clip)), size)
    return features.cpu().view(*grid, -1)


def object_ids(
    marks: Sequence[Mark], cells: Float[Tensor, "rows columns d"] | None, size: tuple[int, int], reach: float = 0.0
) -> UInt8[ndarray, "h w"]:
    """Return the object of each pixel of a picture of `size`, 0 for none: regions of clicks, then paint over them.

    Where regions overlap, the object with the highest score counts.

    cells: features of length 1 of the cells that cover the picture; may be None if there are no clicks.
    reach: added to the scores of all regions: above 0 they grow, below they shrink.
    """
    ids, best = np.zeros(size, np.uint8), np.zeros(size, np.float32)
    clicks = [mark for mark in marks if isinstance(mark, Click)]
    if cells is not None and clicks:
        inner = torch.zeros(cells.shape[:2], dtype=torch.bool)
        inner[1:-1, 1:-1] = True
        edge = cells[~inner]
        against = _likeness(cells, edge, max(1, round(_EDGE_SHARE * len(edge))))
        for number in sorted({click.number for click in clicks if click.adds}):
            own = [click for click in clicks if click.number == number]
            score = _score(own, cells, against) + reach
            inside = score > 0
            _, parts = cv2.connectedComponents(inside.astype(np.uint8), connectivity=4)
            clicked = {int(parts[click.cell(*parts.shape)]) for click in own if click.adds} - {0}
            region = np.isin(parts, list(clicked))
            # similar cells that are not connected would bleed into the region's border where scores are interpolated
            score = np.where(region | ~inside, score, _NOWHERE).astype(np.float32)
            pixels = cv2.resize(score, size[::-1], interpolation=cv2.INTER_LINEAR)
            ids[pixels > best] = number
            best = np.maximum(best, pixels)
    for mark in marks:
        if not isinstance(mark, Click):
            ids = np.where(mark > 0, mark, ids)
    return ids


def _score(
    clicks: Sequence[Click], cells: Float[Tensor, "rows columns d"], against: Float[Tensor, "rows columns"]
) -> Float[ndarray, "rows columns"]:
    """s(x) of one object, without the reach. Clicked cells are in it, or out of it, whatever they look like."""
    near = _likeness(cells, _around([click for click in clicks if click.adds], cells), _SEED_CELLS)
    if away := [click for click in clicks if not click.adds]:
        against = torch.maximum(against, _likeness(cells, _around(away, cells), _SEED_CELLS))
    score = (near - against).numpy()
    for click in clicks:  # in order: the last click on a cell counts
        place = click.cell(*score.shape)
        score[place] = max(score[place], 1.0) if click.adds else _NOWHERE
    return score


def _likeness(
    cells: Float[Tensor, "rows columns d"], seeds: Float[Tensor, "n d"], count: int
) -> Float[Tensor, "rows columns"]:
    """Mean of the `count` largest cosines of each cell with the seeds."""
    return (cells @ seeds.T).topk(min(count, len(seeds)), dim=2).values.mean(dim=2)


def _around(clicks: Sequence[Click], cells: Float[Tensor, "rows columns d"]) -> Float[Tensor, "n d"]:
    """The clicked cells and their neighbours, corners too."""
    places = [click.cell(*cells.shape[:2]) for click in clicks]
    return torch.cat(
        [cells[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].flatten(0, 1) for row, column in places]
    )


def painted(layers: Sequence[UInt8[ndarray, "_ _ 4"]], size: tuple[int, int]) -> UInt8[ndarray, "h w"]:
    """Return the object of each painted pixel, by the nearest of their colours; 0 without paint.

    layers: RGBA, the lowest first, of the picture's aspect.
    """
    ids = np.zeros(size, np.uint8)
    colors = np.asarray(COLORS, np.int64)
    for layer in layers:
        if layer.shape[:2] != size:
            layer = cv2.resize(layer, size[::-1], interpolation=cv2.INTER_NEAREST)
        covered = layer[..., 3] >= _PAINT
        distance = ((layer[covered][:, None, :3].astype(np.int64) - colors) ** 2).sum(axis=2)
        ids[covered] = 1 + distance.argmin(axis=1)
    return ids


class Followed(NamedTuple):
    """A frame, RGB, with its objects; and the seconds that the model took up to it, without drawing and encoding."""

    picture: UInt8[ndarray, "h w 3"]
    seconds: float


def follow(
    backbone: Backbone, clip: Clip, mask: UInt8[ndarray, "h w"], config: PropagationConfig, folder: Path
) -> Generator[Followed, None, None]:
    """Propagate the objects of the first frame's mask through the clip; yield each frame once it is written.

    folder: is made, with overlay.webm and masks.zip (palette PNGs 00000.png..., values as in the mask) at the end.
    If the iterator is closed before the end, or anything fails, it is removed with everything in it.

    Raises Refused if nothing is marked, UserError as `propagate` does, or OSError if something cannot be written.
    """
    if not mask.any():
        raise Refused("video_nothing_marked")
    masks, seconds = folder / "masks", 0.0

    def timed(results: Iterable[UInt8[ndarray, "h w"]]) -> Iterator[UInt8[ndarray, "h w"]]:
        nonlocal seconds
        begin = time.perf_counter()
        for result in results:
            seconds += time.perf_counter() - begin
            yield result
            begin = time.perf_counter()

    try:
        masks.mkdir(parents=True)
        results = timed(propagate(backbone, clip, {0: mask}, config))
        for picture in write_followed(results, clip, clip.fps, masks, folder / "overlay.webm"):
            yield Followed(picture, seconds)
        shutil.make_archive(str(masks), "zip", masks)
        shutil.rmtree(masks)
    except BaseException:  # GeneratorExit too: whoever cancels closes the iterator
        shutil.rmtree(folder, ignore_errors=True)
        raise
