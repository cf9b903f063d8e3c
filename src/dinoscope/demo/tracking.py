"""Following marked objects through a clip, and what is left of it: an overlay to look at, masks to take away."""

from __future__ import annotations

import shutil
import time
import zipfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from dinoscope.demo.clip import Clip, first_frame
from dinoscope.demo.pictures import Refused
from dinoscope.errors import UserError
from dinoscope.evaluation.propagation import cell_features, propagate
from dinoscope.evaluation.window import PropagationConfig
from dinoscope.models.backbone import Backbone
from dinoscope.report.video import write_followed


@dataclass(frozen=True, eq=False)
class Step:
    """A frame that is done: how many are of how many, the seconds so far, and the objects over it (RGB)."""

    done: int
    total: int
    seconds: float
    picture: UInt8[ndarray, "h w 3"]


@dataclass(frozen=True)
class Followed:
    """What was written, over how many frames, in how many seconds."""

    overlay: Path
    masks: Path
    frames: int
    seconds: float


def clip_cells(backbone: Backbone, clip: Clip, size: int) -> Float[Tensor, "rows columns d"]:
    """Features of the cells of a clip's first frame, on the CPU, seen at the short side `size`.

    Raises UserError where the frame cannot be read, or as `cell_features` does.
    """
    features, grid = cell_features(backbone, first_frame(clip), size)
    return features.cpu().view(*grid, -1)


def follow(
    backbone: Backbone, clip: Clip, mask: UInt8[ndarray, "h w"], config: PropagationConfig, folder: Path
) -> Generator[Step | Followed, None, None]:
    """Hand the objects of the first frame's mask on through the clip: a `Step` for each frame, then `Followed`.

    folder: is made, with overlay.mp4 and masks.zip (palette PNGs 00000.png..., values as in the mask) at the end.
    Where the iterator is closed before, or anything fails, it is removed with all that is in it.

    Raises Refused where nothing is marked, else UserError as `propagate` does or where something cannot be written.
    """
    if not mask.any():
        raise Refused("video_nothing_marked")
    overlay, masks = folder / "overlay.mp4", folder / "masks"
    begin, done = time.perf_counter(), 0
    try:
        _make(masks)
        results = propagate(backbone, clip, {0: mask}, config)
        for done, picture in enumerate(write_followed(results, clip, clip.fps, masks, overlay), start=1):
            yield Step(done, clip.count, time.perf_counter() - begin, picture)
        archive = _zipped(masks)
    except BaseException:  # GeneratorExit too: whoever cancels closes the iterator
        shutil.rmtree(folder, ignore_errors=True)
        raise
    yield Followed(overlay, archive, done, time.perf_counter() - begin)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {error.strerror}") from error


def _zipped(folder: Path) -> Path:
    """The files of a folder in a ZIP beside it, which takes their place."""
    file = folder.with_suffix(".zip")
    try:
        with zipfile.ZipFile(file, "w") as archive:  # PNGs are compressed as they are
            for mask in sorted(folder.iterdir()):
                archive.write(mask, mask.name)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from error
    shutil.rmtree(folder)
    return file
