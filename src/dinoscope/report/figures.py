"""Pictures of attention: pixels in, pixels out (uint8 RGB, channels last)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from PIL import Image
from torch import Tensor

from dinoscope.explain.attention import map_masks, mean_and_heads
from dinoscope.files import replacing
from dinoscope.report.layout import Legend, Pixels, Row, Tile, page, page_width, tile_width

COLORS = matplotlib.colormaps["inferno"]  # perceptually even, and readable in grey
OUTLINE = (255, 214, 64)
OPACITY = 0.85
"""Of the strongest patches of an overlay."""

PANEL_WIDTH = 1198
"""Of a page, in pixels: three and six columns of whole pixels."""
TILES_PER_ROW = 6
"""The most that are set beside each other."""
_TALLEST = 1.5  # height over width above which a picture is made narrower than its column


def overlay(
    image: UInt8[ndarray, "h w 3"],
    values: Float[ndarray, "rows columns"],
    *,
    opacity: float = OPACITY,
    smooth: bool = True,
) -> UInt8[ndarray, "h w 3"]:
    """Lay a map over the image: colour and opacity rise with the value, from the map's mean upwards.

    Patches with the mean attention or less stay as they are: even attention shows nothing, preference shows.
    The scale ends at the 99.5% quantile, lest a few patches of a peaked map leave all others without colour, but
    never below twice the mean: faint preference stays faint.

    opacity: of the strongest patches, 0 to 1. smooth: else each patch has one colour and its edges are seen.
    """
    height, width = image.shape[:2]
    between = cv2.INTER_CUBIC if smooth else cv2.INTER_NEAREST_EXACT
    strength = cv2.resize(_above_mean(values), (width, height), interpolation=between).clip(0, 1)
    return colored(muted(image), strength, opacity)


def mask_overlay(image: UInt8[ndarray, "h w 3"], mask: Bool[ndarray, "rows columns"]) -> UInt8[ndarray, "h w 3"]:
    """Dim what lies outside of the mask and draw a thin line around what lies inside."""
    height, width = image.shape[:2]
    inside = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    drawn = np.where(inside[..., None] > 0, image, np.rint(0.3 * muted(image)).astype(np.uint8))
    contours, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, contours, -1, OUTLINE, thickness=max(1, round(min(height, width) / 200)))
    return drawn


def attention_panel(
    image: UInt8[ndarray, "h w 3"],
    maps: Float[Tensor, "heads rows columns"],
    mass: float,
    title: str = "",
    note: str = "",
    what: str = "attention",
) -> Pixels:
    """One page about one image: itself, the mean over the heads, the mask that holds `mass`, then every head.

    maps: of a kind of `explain.maps`. what: it shows, such as "feature energy"; names a map that stands alone.
    title, note: set above, left and right.
    Raises UserError where mass is not in (0, 1].
    """
    every = mean_and_heads(maps[None])[0].float().cpu()
    values, masks = every.numpy(), map_masks(every, mass).numpy()
    rows = [_summary_row(image, values, masks, what)]
    if len(maps) > 1:
        rows += _head_rows(image, values[1:], masks[1:])
    return page(rows, PANEL_WIDTH, title, note, mass_legend(mass, what))


def mass_legend(mass: float, what: str) -> Legend:
    """The scale of `overlay`, and what a mask is that holds `mass` of the maps."""
    text = f"masks: the fewest patches that hold {mass:.0%} of the {what}"
    return Legend(color_scale(), "average patch", "strongest", text)


def contact_sheet(rows: Sequence[Sequence[Pixels]], titles: Sequence[str], tile: int = 240) -> Pixels:
    """A table of pictures with a title over each column, each picture made to fit a column of `tile` pixels.

    Enlarge a small image with `fitted` before laying a map over it, for a map as smooth as the tile.
    """
    captions = [titles, *[[""] * len(titles)] * (len(rows) - 1)]
    table = [
        Row([Tile(fitted(image, tile), name) for image, name in zip(row, names, strict=True)], tile)
        for row, names in zip(rows, captions, strict=True)
    ]
    return page(table, page_width(len(titles), tile))


def fitted(image: UInt8[ndarray, "h w 3"], width: int) -> Pixels:
    """Enlarge or reduce an image to `width` pixels, or to 1.5 times as much in height, its aspect kept."""
    scale = min(width / image.shape[1], _TALLEST * width / image.shape[0])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def write_png(path: Path, pixels: UInt8[ndarray, "h w *c"]) -> None:
    """Write a PNG, whole or not at all: grey [h, w], RGB or RGBA. Its folder must be there."""
    with replacing(path) as partial:
        Image.fromarray(pixels).save(partial, "png")


def _summary_row(
    image: UInt8[ndarray, "h w 3"],
    values: Float[ndarray, "maps rows columns"],
    masks: Bool[ndarray, "maps rows columns"],
    what: str,
) -> Row:
    """The image, the mean over the heads, which is the first map, and its mask."""
    maps, rows, columns = values.shape
    width = tile_width(PANEL_WIDTH, 3)
    pixels = fitted(image, width)
    name = f"mean of {maps - 1} heads" if maps > 2 else what
    tiles = [
        Tile(pixels, "image", f"{image.shape[1]} × {image.shape[0]} px"),
        Tile(overlay(pixels, values[0]), name, f"{columns} × {rows} patches"),
        Tile(mask_overlay(pixels, masks[0]), "mask", f"{masks[0].mean():.0%} of the image"),
    ]
    return Row(tiles, width)


def _head_rows(
    image: UInt8[ndarray, "h w 3"],
    values: Float[ndarray, "heads rows columns"],
    masks: Bool[ndarray, "heads rows columns"],
) -> list[Row]:
    """Overlays of up to six heads, their masks below them, and so on; as many heads in each row as can be."""
    heads = range(len(values))
    per_row = per_band(len(heads))
    width = tile_width(PANEL_WIDTH, max(3, per_row))
    pixels = fitted(image, width)
    overlays = [Tile(overlay(pixels, values[h]), f"head {h}", f"mask {masks[h].mean():.0%}") for h in heads]
    below = [Tile(mask_overlay(pixels, mask)) for mask in masks]
    return [Row(tiles[begin : begin + per_row], width) for begin in heads[::per_row] for tiles in (overlays, below)]


def per_band(count: int, most: int = TILES_PER_ROW) -> int:
    """How many of `count` to set beside each other, so that the rows are as few and as even as can be."""
    return math.ceil(count / math.ceil(count / most))


def _above_mean(values: Float[ndarray, "rows columns"]) -> Float[ndarray, "rows columns"]:
    """0 at the mean, 1 at the 99.5% quantile, or at twice the mean where that is larger; negative below the mean."""
    mean = max(float(values.mean()), float(np.finfo(np.float32).tiny))
    excess = values.astype(np.float32) / mean - 1
    return excess / max(float(np.quantile(excess, 0.995, method="higher")), 1.0)


def muted(image: UInt8[ndarray, "h w 3"]) -> Float[ndarray, "h w 3"]:
    """The image with half of its colour: a ground on which the colours of a map stand out."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    return (0.5 * image + 0.5 * grey).astype(np.float32)


def colored(
    ground: Float[ndarray, "h w 3"], strength: Float[ndarray, "h w"], most: float = OPACITY
) -> UInt8[ndarray, "h w 3"]:
    """Lay the colour of each strength, 0 to 1, over the ground; the strongest hides the share `most` of it."""
    opacity = most * strength[..., None] ** 0.7
    # both ends of inferno are left out: near black and near white hardly show on a photograph
    colors = 255 * COLORS(0.3 + 0.65 * strength)[..., :3]
    return np.rint(ground * (1 - opacity) + colors * opacity).astype(np.uint8)


def color_scale() -> UInt8[ndarray, "12 160 3"]:
    """The colours of an overlay on light grey, from weak to strong."""
    strength = np.tile(np.linspace(0, 1, 160, dtype=np.float32), (12, 1))
    return colored(np.full((12, 160, 3), 225, np.float32), strength)
