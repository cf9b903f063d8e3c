"""Mean and standard deviation of each channel, by which images that are not 8-bit RGB are normalised."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from dinoscope.data.grey_range import Window
from dinoscope.data.reader import UnreadableImage
from dinoscope.data.sources import ImageSource, evenly
from dinoscope.files import write_text
from dinoscope.system import available_cores

logger = logging.getLogger(__name__)

MAX_IMAGES = 10_000
"""Images that are measured, evenly spaced: more change no digit that matters."""

MIN_STD = 1 / 255
"""One grey level: a channel of one value everywhere is divided by it."""

_CHUNK = 32

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, of values in [0, 1]."""


def measured(
    images: ImageSource,
    channels: int,
    window: Window | None,
    *,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Normalisation | None:
    """Return mean and standard deviation over all pixels as a network of so many channels is given them.

    With four decimals, from at most `MAX_IMAGES` images. None if no image can be read.

    window: the grey range of the images. cache: folder in which to remember the figures. progress: called with the
    numbers of images measured and of all.
    """
    chosen = images.subset(evenly(len(images), MAX_IMAGES))
    stamps = [chosen.stamp(index) for index in range(len(chosen))]
    content = f"{chosen.fingerprint()} {stamps} {channels} {window}"
    content += f" {images.slices} slices" if images.slices > 1 else ""
    content += f" {context}" if (context := chosen.neighbours_fingerprint()) else ""
    key = hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
    # What has neither size nor time of change may hold other pixels under the same name.
    file = None if cache is None or None in stamps else cache / f"{key}-normalisation.json"
    if file is not None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            values = json.loads(file.read_text(encoding="utf-8"))
            mean, std = (tuple(float(value) for value in values[name]) for name in ("mean", "std"))
            if len(mean) == len(std) == channels:
                return mean, std
    counts = np.zeros((channels, 256), np.int64)

    def counted(start: int) -> Int64[ndarray, "c 256"]:
        own = np.zeros_like(counts)
        for index in range(start, min(start + _CHUNK, len(chosen))):
            with contextlib.suppress(UnreadableImage):
                pixels = chosen.read(index).pixels(channels, window)
                own += [np.bincount(plane.ravel(), minlength=256) for plane in np.moveaxis(pixels, 2, 0)]
        return own

    with ThreadPoolExecutor(available_cores()) as pool:
        for number, part in enumerate(pool.map(counted, range(0, len(chosen), _CHUNK)), start=1):
            counts += part
            if progress is not None:
                progress(min(number * _CHUNK, len(chosen)), len(chosen))
    if not counts.any():
        return None
    mean, std = _moments(counts)
    if file is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps({"mean": mean, "std": std}))
        except OSError as error:
            logger.warning("the normalisation could not be cached in %s: %s", file, error)
    return mean, std


def _moments(counts: Int64[ndarray, "c 256"]) -> Normalisation:
    """Return mean and deviation of the values 0 to 255, each seen so often, over 255."""
    levels = np.arange(256)
    totals = counts.sum(axis=1)
    mean = counts @ levels / totals
    variance = counts @ levels**2 / totals - mean**2
    std = np.maximum(np.sqrt(np.maximum(variance, 0)) / 255, MIN_STD)
    return tuple(round(float(value), 4) for value in mean / 255), tuple(round(float(value), 4) for value in std)
