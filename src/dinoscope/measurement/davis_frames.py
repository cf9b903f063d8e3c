"""A few masks of each sequence of DAVIS, kept beside the figures: so a report can draw what would take hours to redo.

HOME/evaluations/davis-2017.frames.npz holds a mask of ids for each SEQUENCE/FRAME, and the protocol of the
measurement that it belongs to. It is read without running anything in it.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from dinoscope.errors import UserError
from dinoscope.files import replacing
from dinoscope.training.run_folder import CONFIG
from dinoscope.types import Result

FRAMES = 3
"""Masks of each sequence; the first frame's is given, and is not among them."""

Frames = Mapping[tuple[str, int], UInt8[ndarray, "_ _"]]
"""(name of the sequence, number of the frame) -> the number of the object at each pixel."""

_PROTOCOL = "protocol"


def kept_places(frames: int) -> list[int]:
    """Numbers of the frames that are kept, of a sequence of so many: a third in, two thirds in, and the last."""
    return sorted({round((frames - 1) * (place + 1) / FRAMES) for place in range(FRAMES)} - {0})


def keep_frames(run: Path, name: str, frames: Frames, measurement: Result) -> None:
    """Write them beside the result of that name, if it is a run folder. Raises UserError where that fails."""
    if not (run / CONFIG).is_file():
        return
    arrays: dict[str, ndarray] = {f"{sequence}/{index}": mask for (sequence, index), mask in frames.items()}
    arrays[_PROTOCOL] = np.array(_text(measurement))
    file = _file(run, name)
    try:
        file.parent.mkdir(exist_ok=True)
        with replacing(file) as partial, partial.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # pyright: ignore[reportArgumentType] (none is called allow_pickle)
    except OSError as error:
        raise UserError(f"the masks could not be written to {file}: {error}") from error


def kept_frames(home: Path, name: str, measurement: Result) -> Frames:
    """What was kept with this measurement; empty where nothing was, or only with another one.

    Raises UserError where the file is damaged.
    """
    file = _file(home, name)
    if not file.is_file():
        return {}
    try:
        if not zipfile.is_zipfile(file):
            raise zipfile.BadZipFile("no archive")
        with np.load(file, allow_pickle=False) as found:
            if str(found[_PROTOCOL]) != _text(measurement):
                return {}
            masks = {key: found[key] for key in found.files if key != _PROTOCOL}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{file} is damaged ({error}): delete it and measure again") from error
    kept: dict[tuple[str, int], ndarray] = {}
    for key, mask in masks.items():
        sequence, _, index = key.rpartition("/")
        if not index.isdecimal() or mask.dtype != np.uint8 or mask.ndim != 2:
            raise UserError(f"{file} is damaged ({key} is no mask): delete it and measure again")
        kept[sequence, int(index)] = mask
    return kept


def _text(measurement: Result) -> str:
    return json.dumps(measurement.protocol, sort_keys=True)


def _file(home: Path, name: str) -> Path:
    return home / "evaluations" / f"{name}.frames.npz"
