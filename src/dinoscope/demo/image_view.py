"""What one model sees in one image, as pictures and figures: made of the engine's results, never by the network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, UInt8
from numpy import ndarray
from torch import Tensor

from dinoscope.demo.engine import OF_BLOCKS, Engine, Gaze
from dinoscope.demo.pictures import Truth
from dinoscope.evaluation.jaccard import jaccard
from dinoscope.explain.attention import map_masks, mean_and_heads
from dinoscope.pictures import OPACITY, mask_overlay, overlay

Pixels = UInt8[ndarray, "_ _ 3"]

SHOWN = 720
"""Longest side, in pixels, of a picture on the page."""
THUMBNAIL = 240
"""Likewise in the gallery of heads."""
_SMALLEST = 320  # px; a map laid over less than that looks coarse once the browser enlarges it


@dataclass(frozen=True)
class Controls:
    """What a person has set.

    kind: of map, in `explain.maps.MAPS`. head: None is the mean of all. block: from 0, and the last where the network
    has fewer. mass: share of the map that the mask holds. opacity: of the overlay. size: see `Gaze`.
    """

    kind: str = "attention"
    head: int | None = None
    block: int = 10**6
    mass: float = 0.6
    opacity: float = OPACITY
    size: int | None = None
    smooth: bool = True


@dataclass(frozen=True)
class Head:
    """One head's map. share: of the image in its mask. jaccard: of the mask with the truth, 0 to 1."""

    number: int
    picture: Pixels
    share: float
    jaccard: float | None


@dataclass(frozen=True)
class View:
    """What the page shows of a model.

    head: whose map it is; None is the mean, also where the network has no such head. block: of how many; None for
    kinds that are of the whole network. share, jaccard: as of a `Head`. grid: (rows, columns) of patches.
    """

    overlay: Pixels
    mask: Pixels
    heads: tuple[Head, ...]
    head: int | None
    block: tuple[int, int] | None
    share: float
    jaccard: float | None
    grid: tuple[int, int]
    size: int


def see(engine: Engine, gaze: Gaze, controls: Controls, truth: Truth | None) -> View:
    """Draw what a model sees. Raises Refused as `Engine.maps` does."""
    maps, masks = _maps_and_masks(engine, gaze, controls)
    head = chosen_head(controls, len(maps) - 1)
    place = 0 if head is None else head + 1
    shown, small = shrunk(gaze.picture.pixels, SHOWN), shrunk(gaze.picture.pixels, THUMBNAIL, THUMBNAIL)
    scores = [None if truth is None else score(mask, truth) for mask in masks]
    heads = [
        Head(number, _overlay(small, maps[number + 1], controls), share(masks[number + 1]), scores[number + 1])
        for number in range(len(maps) - 1)
        if len(maps) > 2
    ]
    depth = engine.depth(gaze.model)
    return View(
        overlay=_overlay(shown, maps[place], controls),
        mask=mask_overlay(shown, masks[place].numpy()),
        heads=tuple(heads),
        head=head,
        block=(min(controls.block, depth - 1), depth) if controls.kind in OF_BLOCKS and depth > 1 else None,
        share=share(masks[place]),
        jaccard=scores[place],
        grid=(maps.shape[1], maps.shape[2]),
        size=engine.size(gaze),
    )


def full_size(engine: Engine, gaze: Gaze, controls: Controls) -> Iterator[tuple[str, UInt8[ndarray, "h w *c"]]]:
    """Every picture at the image's own size, with a name: overlay, mask (0 or 255) and outline, of mean and heads,
    which are counted from 1 as on the page."""
    maps, masks = _maps_and_masks(engine, gaze, controls)
    pixels = gaze.picture.pixels
    names = ["mean", *(f"head{number}" for number in range(1, len(maps)))] if len(maps) > 2 else [controls.kind]
    for name, values, mask in zip(names, maps, masks, strict=False):
        yield name, _overlay(pixels, values, controls)
        yield f"{name}_mask", full_mask(mask, gaze.picture.size)
        yield f"{name}_outline", mask_overlay(pixels, mask.numpy())


def full_mask(mask: Bool[Tensor, "rows columns"], size: tuple[int, int]) -> UInt8[ndarray, "h w"]:
    """A mask of patches as 0 and 255, at `size` = (height, width) pixels."""
    return cv2.resize(mask.numpy().astype(np.uint8) * 255, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def chosen_head(controls: Controls, heads: int) -> int | None:
    """The head whose map is shown, or None for the mean: where it was asked for, or there is no such head."""
    return controls.head if controls.head is not None and heads > 1 and controls.head < heads else None


def score(mask: Bool[Tensor, "rows columns"], truth: Truth) -> float | None:
    """Jaccard of a mask with the truth, 0 to 1; None where the truth shows no object: there is nothing to lie on."""
    if not truth.objects.any():
        return None
    return jaccard(mask, torch.from_numpy(truth.objects), torch.from_numpy(truth.valid))


def share(mask: Bool[Tensor, "rows columns"]) -> float:
    """Share of the image that a mask covers."""
    return mask.float().mean().item()


def shrunk(pixels: Pixels, longest: int, least: int = _SMALLEST) -> Pixels:
    """The image with its longest side at most `longest` and at least `least` pixels, its aspect kept."""
    side = max(pixels.shape[:2])
    wanted = min(max(side, least), longest)
    if wanted == side:
        return pixels
    height, width = (max(1, round(each * wanted / side)) for each in pixels.shape[:2])
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if wanted < side else cv2.INTER_CUBIC)


def _maps_and_masks(engine: Engine, gaze: Gaze, controls: Controls) -> tuple[Tensor, Tensor]:
    """The mean map, then each head's, [1 + heads, rows, columns], and the mask of each."""
    maps = mean_and_heads(engine.maps(gaze, controls.kind, controls.block)[None])[0]
    return maps, map_masks(maps, controls.mass)


def _overlay(pixels: Pixels, values: Tensor, controls: Controls) -> Pixels:
    return overlay(pixels, values.numpy(), opacity=controls.opacity, smooth=controls.smooth)
