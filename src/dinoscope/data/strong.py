"""RandAugment and random erasing of a view, for training with labels; a pure function of the view's random stream.

RandAugment (Cubuk et al. 2020) is timm's. Its operations draw from the generators of Python and numpy that a process
shares, so these are seeded for one view at a time and set back. Random erasing (Zhong et al. 2020) has timm's
distribution, drawn here. The defaults of both are DeiT's.
"""

from __future__ import annotations

import contextlib
import functools
import math
import random
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from dinoscope.data.views import Interpolation, ViewsConfig, view_generator

_STRONG = 4  # stream of `view_generator`
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's: of the noise, and of what is moved in
_TRANSLATE = 0.45  # of the side, at the highest magnitude
_AREA = (0.02, 1 / 3)  # of the box, as a share of the view
_ASPECT_RATIO = (0.3, 1 / 0.3)  # height / width; log-uniform
_TRIES = 10


def strengthened(
    pixels: UInt8[ndarray, "s s c"], config: ViewsConfig, seed: int, epoch: int, index: int, view: int
) -> UInt8[ndarray, "s s c"]:
    """Return the view after RandAugment and random erasing, as the settings ask for them.

    config: of an image that is not RGB, as `views.for_channels` gives it.
    """
    rng = view_generator(seed, epoch, index, view, _STRONG)
    number, draw = int(rng.integers(2**32)), float(rng.random())
    if config.randaugment:
        transform = _randaugment(config.randaugment, pixels.shape[0], config.interpolation)
        with _seeded(number):
            pixels = np.asarray(transform(Image.fromarray(pixels)))
    return erased(pixels, rng) if draw < config.erasing else pixels


@functools.lru_cache(maxsize=16)
def _randaugment(magnitude: int, size: int, interpolation: Interpolation) -> Callable[[Image.Image], Image.Image]:
    """Return two operations of a magnitude that deviates by 0.5, each applied with probability 0.5."""
    from timm.data.auto_augment import rand_augment_transform

    settings = {
        "translate_const": int(_TRANSLATE * size),
        "img_mean": tuple(round(255 * value) for value in _MEAN),
        "interpolation": {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}[interpolation],
    }
    return rand_augment_transform(f"rand-m{magnitude}-mstd0.5-inc1", settings)


@contextlib.contextmanager
def _seeded(number: int) -> Iterator[None]:
    """Seed the generators of Python and numpy, and set them back afterwards."""
    states = random.getstate(), np.random.get_state()
    random.seed(number)
    np.random.seed(number)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def erased(pixels: UInt8[ndarray, "s s c"], rng: np.random.Generator) -> UInt8[ndarray, "s s c"]:
    """Return the view with normal noise in a box; ten boxes are drawn until one fits, else nothing is erased."""
    height, width, channels = pixels.shape
    logs = tuple(map(math.log, _ASPECT_RATIO))
    for _ in range(_TRIES):
        area, ratio, row, column = rng.random(4).tolist()
        area = (_AREA[0] + (_AREA[1] - _AREA[0]) * area) * height * width
        ratio = math.exp(logs[0] + (logs[1] - logs[0]) * ratio)
        tall, wide = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < tall < height and 0 < wide < width:
            top, left = int(row * (height - tall + 1)), int(column * (width - wide + 1))
            mean, std = (_MEAN, _STD) if channels == 3 else (0.449, 0.226)
            noise = 255 * (np.asarray(mean) + np.asarray(std) * rng.standard_normal((tall, wide, channels)))
            pixels = pixels.copy()
            pixels[top : top + tall, left : left + wide] = np.rint(noise).clip(0, 255)
            return pixels
    return pixels
