"""Attention maps of a few fixed images, kept in a run's folder while it is trained: RUN/attention.

image-0.png and so on are the images, small; step-000000123.safetensors holds the mean map of each after so many steps,
in units of its own mean. Snapshots are thinned evenly, so that the folder stays below a megabyte however long a run is.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from numpy import ndarray
from PIL import Image

from dinoscope import checkpoint
from dinoscope.data.images import UnreadableImage, decode
from dinoscope.errors import UserError
from dinoscope.files import replacing

FOLDER = "attention"
MAX_SNAPSHOTS = 16
"""More are not shown next to each other; 16 of 6 images are at most 0.5 MB."""

_PICTURE_SIDE = 128  # pixels, of the longer side: six PNGs are at most 0.3 MB
_MAP_SIDE = 48  # cells, of the longer side; a finer map is averaged


@dataclass(frozen=True)
class Snapshot:
    """What the network attended to after `steps` optimiser steps; 0 is before training.

    what: the kind of the maps, such as "attention". images: names of the files. maps: one for each, its mean being 1.
    """

    steps: int
    epoch: float
    what: str
    images: tuple[str, ...]
    maps: tuple[Float[ndarray, "_ _"], ...]


@dataclass(frozen=True)
class AttentionHistory:
    """Snapshots of the same images in the order of their steps, and the images, as small as they are kept."""

    pictures: tuple[UInt8[ndarray, "_ _ 3"], ...]
    snapshots: tuple[Snapshot, ...]


def begin(run: Path, pictures: Sequence[UInt8[ndarray, "_ _ 3"]], first_step: int) -> None:
    """Write the images, and delete snapshots of steps after `first_step`, which are about to be made again.

    Raises OSError if that is not possible.
    """
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    for abandoned in folder.glob(".*.partial-*"):
        shutil.rmtree(abandoned)
    for number, picture in enumerate(pictures):
        with replacing(folder / f"image-{number}.png") as partial:
            Image.fromarray(small(picture)).save(partial, "png", optimize=True)
    for steps, file in _snapshots(folder).items():
        if steps > first_step:
            file.unlink()


def keep_snapshot(run: Path, snapshot: Snapshot) -> None:
    """Write a snapshot, replacing one of the same step; then thin all evenly down to `MAX_SNAPSHOTS`.

    Raises OSError if that is not possible.
    """
    folder = run / FOLDER
    tensors: dict[str, torch.Tensor] = {}
    for number, given in enumerate(snapshot.maps):
        values = _limited(given.astype(np.float32), _MAP_SIDE)
        # in units of the mean: attention over many patches is below what 16 bits hold
        values = values / values.mean() if values.mean() > 0 else values
        tensors[f"map-{number}"] = torch.from_numpy(values.astype(np.float16))
    facts = {"steps": snapshot.steps, "epoch": snapshot.epoch, "what": snapshot.what, "images": list(snapshot.images)}
    checkpoint.save(checkpoint.step_path(folder, snapshot.steps), tensors, facts)
    files = _snapshots(folder)
    for steps in files.keys() - thinned(list(files), MAX_SNAPSHOTS):
        files[steps].unlink()


def thinned(steps: Sequence[int], limit: int) -> list[int]:
    """Return at most `limit` (2 or more) of ascending steps: the first, the last, and others evenly spaced between.

    The step whose neighbours lie closest is removed first, the earliest of equal ones. So it may be done after every
    step, without knowing how many will come.
    """
    kept = list(steps)
    while len(kept) > limit:
        gaps = [after - before for before, after in zip(kept, kept[2:], strict=False)]
        del kept[1 + gaps.index(min(gaps))]
    return kept


def read_history(run: Path) -> AttentionHistory | None:
    """Return what a run's folder holds, or None if it holds no snapshots.

    Snapshots of other images than the newest's are left out. Raises UserError if a file is damaged.
    """
    folder = run / FOLDER
    snapshots = [_read(file) for file in _snapshots(folder).values()]
    if not snapshots:
        return None
    alike = tuple(each for each in snapshots if each.images == snapshots[-1].images)
    try:
        pictures = tuple(decode(folder / f"image-{number}.png") for number in range(len(alike[-1].maps)))
    except UnreadableImage as error:
        raise UserError(f"{folder}: an image of the attention snapshots cannot be read: {error}") from error
    return AttentionHistory(pictures, alike)


def small(image: UInt8[ndarray, "h w 3"]) -> UInt8[ndarray, "_ _ 3"]:
    """Return the image, reduced to at most 128 pixels."""
    return _limited(image, _PICTURE_SIDE)


def _limited(values: Shaped[ndarray, "h w *c"], side: int) -> Shaped[ndarray, "_ _ *c"]:
    """Average down so that the longer side is at most `side`."""
    height, width = values.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(values, size, interpolation=cv2.INTER_AREA) if scale < 1 else values


def _read(file: Path) -> Snapshot:
    found = checkpoint.load(file)
    facts = found.metadata
    with contextlib.suppress(KeyError, TypeError, ValueError):
        images = tuple(map(str, facts["images"]))
        maps = tuple(found.tensors[f"map-{number}"].float().numpy() for number in range(len(images)))
        if all(each.ndim == 2 for each in maps):
            return Snapshot(int(facts["steps"]), float(facts["epoch"]), str(facts["what"]), images, maps)
    raise UserError(f"{file} is no attention snapshot, or of another version: delete it")


def _snapshots(folder: Path) -> dict[int, Path]:
    """Return the files by their steps, ascending."""
    files = {file.stem.removeprefix("step-"): file for file in folder.glob("step-*.safetensors")}
    return dict(sorted((int(number), file) for number, file in files.items() if number.isdecimal()))
