"""What is similar to a clicked patch, and the colours of patches, as pictures made of the engine's results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from dinoscope.demo.engine import Engine, Gaze
from dinoscope.demo.image_view import shrunk
from dinoscope.demo.pictures import Picture
from dinoscope.explain.similarity import patch_at, patch_box
from dinoscope.pictures import color_picture, cosine_overlay, marked

Pixels = UInt8[ndarray, "_ _ 3"]

_SHOWN = 480  # longest side of a picture, in pixels


@dataclass(frozen=True)
class Likeness:
    """What the page shows of one model: in the first picture, then in the second if there is one.

    low: lowest cosine in either picture. best: the highest in the second. share: of the variance that the colours hold.
    """

    similar: tuple[Pixels, ...]
    colors: tuple[Pixels, ...]
    low: float
    best: float | None
    share: float


def compare(
    engine: Engine, gazes: tuple[Gaze, ...], point: tuple[float, float], *, joint: bool, stretch: bool
) -> Likeness:
    """Cosines with the patch at `point` = (x, y) as shares of the first picture's width and height, 0 to 1; colours.

    joint: colours of both pictures together, else of each. stretch: dark is the least alike patch of both pictures, and
    bright the most alike; else dark is a cosine of 0 or less, and bright 1, whatever the model. Raises Refused as
    `Engine.look` does.
    """
    rows, columns = engine.patches(gazes[0]).shape[:2]
    patch = patch_at(pixel(gazes[0].picture, point), gazes[0].picture.size, (rows, columns))
    cosines = [engine.similarity(gazes[0], patch, gaze) for gaze in gazes]
    colors = engine.colors(gazes) if joint else [engine.colors([gaze])[0] for gaze in gazes]
    shown = [shrunk(gaze.picture.pixels, _SHOWN) for gaze in gazes]
    laid = stretched(cosines) if stretch else cosines
    similar = [cosine_overlay(image, each.numpy()) for image, each in zip(shown, laid, strict=True)]
    similar[0] = _marked(gazes[0].picture, similar[0], point, (rows, columns))
    return Likeness(
        tuple(similar),
        tuple(
            color_picture(each.colors.numpy(), (image.shape[0], image.shape[1]))
            for image, each in zip(shown, colors, strict=True)
        ),
        min(each.min().item() for each in cosines),
        cosines[1].max().item() if len(cosines) > 1 else None,
        colors[0].share,
    )


def stretched(cosines: Sequence[Float[Tensor, "_ _"]]) -> list[Float[Tensor, "_ _"]]:
    """The same with the lowest of all at 0 and the highest at 1; zeros where they are all equal."""
    low, high = min(each.min() for each in cosines), max(each.max() for each in cosines)
    return [(each - low) / (high - low) if high > low else torch.zeros_like(each) for each in cosines]


def with_mark(picture: Picture, point: tuple[float, float]) -> Pixels:
    """The picture with a cross on the point."""
    return _marked(picture, shrunk(picture.pixels, _SHOWN), point, picture.size)


def pixel(picture: Picture, point: tuple[float, float]) -> tuple[int, int]:
    """The pixel (x, y) at shares of width and height."""
    height, width = picture.size
    return min(width - 1, max(0, int(point[0] * width))), min(height - 1, max(0, int(point[1] * height)))


def _marked(picture: Picture, shown: Pixels, point: tuple[float, float], grid: tuple[int, int]) -> Pixels:
    place = pixel(picture, point)
    box = patch_box(patch_at(place, picture.size, grid), picture.size, grid)
    return marked(shown, place, box, shown.shape[1] / picture.size[1])
