"""Pages that explain: models beside each other, blocks, colours of patches, similarity, foreground. Pixels out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray

from dinoscope.report.figures import (
    OUTLINE,
    PANEL_WIDTH,
    TILES_PER_ROW,
    color_scale,
    colored,
    fitted,
    mask_overlay,
    mass_legend,
    muted,
    overlay,
    per_band,
)
from dinoscope.report.layout import Legend, Pixels, Row, Tile, page, page_width, tile_width

_SMALLEST_FRAME = 8  # pixels of a patch on the page; a frame would cover what is smaller
_SMALLEST_TILE = 272  # pixels; four columns of a page. More columns make the page wider instead


@dataclass(frozen=True)
class Heading:
    """Line above a page: what it is about at the left, and how it was made at the right."""

    title: str = ""
    note: str = ""


@dataclass(frozen=True)
class ModelMap:
    """What one model shows of an image.

    label: the title of its column. what: the map shows, such as "attention".
    jaccard: of the mask against the truth, 0 to 1, where that is known.
    """

    label: str
    what: str
    values: Float[ndarray, "rows columns"]
    mask: Bool[ndarray, "rows columns"]
    jaccard: float | None = None


def comparison_page(
    image: UInt8[ndarray, "h w 3"],
    shown: Sequence[ModelMap],
    mass: float,
    heading: Heading,
    truth: Bool[ndarray, "h w"] | None = None,
) -> Pixels:
    """The image beside the maps of several models, and below them the true mask, if known, beside their masks.

    mass: what the masks hold, for the legend.
    """
    per_row = per_band(len(shown), TILES_PER_ROW - 1)
    width = _tile_width(1 + per_row)
    pixels = fitted(image, width)
    if truth is None:
        below = Tile(np.full_like(pixels, 255))
    else:
        below = Tile(_full_mask_overlay(image, truth, width), "truth", f"{truth.mean():.0%} of the image")
    alike = len({each.what for each in shown}) == 1
    rows: list[Row] = []
    for begin in range(0, len(shown), per_row):
        band = shown[begin : begin + per_row]
        maps = [Tile(overlay(pixels, each.values), each.label) for each in band]
        masks = [Tile(mask_overlay(pixels, each.mask), *_about_mask(each, alike=alike)) for each in band]
        rows += [Row([Tile(pixels, "image"), *maps], width), Row([below, *masks], width)]
    what = shown[0].what if alike else "map"
    return _page(rows, heading, mass_legend(mass, what))


def blocks_page(
    image: UInt8[ndarray, "h w 3"],
    models: Sequence[tuple[str, Sequence[Float[ndarray, "_ _"]]]],
    heading: Heading,
) -> Pixels:
    """The image, then the mean map of every block of each model, given as (label, maps)."""
    rows: list[Row] = []
    for label, maps in models:
        per_row = per_band(1 + len(maps))
        width = _tile_width(per_row)
        pixels = fitted(image, width)
        caption = label if len(models) > 1 else "image"
        tiles = [Tile(pixels, caption)]
        tiles += [Tile(overlay(pixels, values), f"block {block}") for block, values in enumerate(maps)]
        rows += _bands(tiles, per_row, width)
    legend = Legend(color_scale(), "average patch", "strongest", "mean over the heads of each block")
    return _page(rows, heading, legend)


@dataclass(frozen=True)
class ColoredImage:
    """An image, the colours of its patches (0 to 1), and its foreground, where it was asked for."""

    name: str
    image: UInt8[ndarray, "h w 3"]
    colors: Float[ndarray, "rows columns 3"]
    foreground: Bool[ndarray, "rows columns"] | None = None


def colors_page(images: Sequence[ColoredImage], heading: Heading, share: float) -> Pixels:
    """Images, and below or (for a single one) beside them the foreground and the colours of their patches.

    share: of the variance that the colours hold, for the legend.
    """
    if len(images) == 1:
        width = tile_width(PANEL_WIDTH, 3 if images[0].foreground is not None else 2)
        rows = [Row(_colored_tiles(images[0], width, "image"), width)]
    else:
        per_row = per_band(len(images))
        width = _tile_width(per_row)
        columns = [_colored_tiles(each, width, each.name) for each in images]
        rows = [
            Row([tiles[line] for tiles in columns[begin : begin + per_row]], width)
            for begin in range(0, len(images), per_row)
            for line in range(len(columns[0]))
        ]
    text = f"red, green, blue: the first three principal components, {share:.0%} of the variance"
    swatches = np.repeat(np.array([[(255, 0, 0), (0, 160, 0), (0, 0, 255)]], np.uint8), 16, axis=1).repeat(12, axis=0)
    return _page(rows, heading, Legend(swatches, "", "", text))


@dataclass(frozen=True)
class SimilarPatches:
    """What is like one patch of the first image.

    point: (x, y) in its pixels. box: edges (left, top, right, bottom) of the patch that holds the point.
    maps: cosines, one map for each image; the first is that of the image with the point.
    """

    point: tuple[int, int]
    box: tuple[float, float, float, float]
    maps: Sequence[Float[ndarray, "_ _"]]


def similarity_page(
    images: Sequence[UInt8[ndarray, "_ _ 3"]],
    names: Sequence[str],
    points: Sequence[SimilarPatches],
    size: tuple[int, int],
    heading: Heading,
) -> Pixels:
    """A row for each point: the first image with the point, then its cosines in every image, 0 to 1 in colour.

    size: (height, width) of the first image in the pixels of the points; it may be given smaller or larger.
    """
    per_row = per_band(1 + len(images))
    width = _tile_width(per_row)
    grounds = [fitted(image, width) for image in images]
    rows: list[Row] = []
    for each in points:
        scale = grounds[0].shape[1] / size[1]
        tiles = [Tile(marked(grounds[0], each.point, each.box, scale), f"patch at {each.point[0]}, {each.point[1]}")]
        for index, (ground, cosines, name) in enumerate(zip(grounds, each.maps, names, strict=True)):
            drawn = cosine_overlay(ground, cosines)
            if index == 0:
                drawn = marked(drawn, each.point, each.box, scale)
            tiles.append(Tile(drawn, name, f"mean {cosines.mean():.2f}"))
        rows += _bands(tiles, per_row, width)
    legend = Legend(color_scale(), "0 or less", "1", "cosine of the patch's features with those of every other patch")
    return _page(rows, heading, legend)


def segment_page(
    image: UInt8[ndarray, "h w 3"],
    middle: Tile,
    mask: Bool[ndarray, "rows columns"],
    heading: Heading,
    legend: Legend | None,
) -> Pixels:
    """The image, what its mask was made from, and the mask."""
    width = tile_width(PANEL_WIDTH, 3)
    pixels = fitted(image, width)
    shown = Tile(fitted(middle.pixels, width), middle.caption, middle.detail)
    last = Tile(mask_overlay(pixels, mask), "foreground", f"{mask.mean():.0%} of the image")
    size = f"{image.shape[1]} × {image.shape[0]} px"
    return _page([Row([Tile(pixels, "image", size), shown, last], width)], heading, legend)


def color_picture(colors: Float[ndarray, "rows columns 3"], size: tuple[int, int]) -> Pixels:
    """Colours of patches, 0 to 1, at `size` = (height, width) pixels; every patch is a rectangle of one colour."""
    return cv2.resize(np.rint(255 * colors).astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def cosine_overlay(image: UInt8[ndarray, "h w 3"], cosines: Float[ndarray, "rows columns"]) -> Pixels:
    """Lay cosines over an image: nothing at 0 or less, full colour at 1; the same scale for every picture."""
    height, width = image.shape[:2]
    resized = cv2.resize(cosines.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return colored(muted(image), resized.clip(0, 1))


def marked(
    image: UInt8[ndarray, "h w 3"], point: tuple[int, int], box: tuple[float, float, float, float], scale: float
) -> Pixels:
    """The image with a crosshair on the point, a frame around its patch if that is large enough to be seen inside.

    Point and box are in pixels before `scale`.
    """
    drawn = image.copy()
    left, top, right, bottom = (round(edge * scale) for edge in box)
    x, y = (round((each + 0.5) * scale) for each in point)
    reach, gap = max(10, round(0.05 * image.shape[1])), 3
    # on a small picture of fine patches the arms keep off, so that the patch shows between them
    inner_x, inner_y = max(gap, x - left + gap, right - x + gap), max(gap, y - top + gap, bottom - y + gap)
    arms = [((x + side * inner_x, y), (x + side * (inner_x + reach), y)) for side in (-1, 1)]
    arms += [((x, y + side * inner_y), (x, y + side * (inner_y + reach))) for side in (-1, 1)]
    framed = min(right - left, bottom - top) >= _SMALLEST_FRAME
    # first thick and dark, then thin and bright: it shows on any ground
    for color, thickness in (((0, 0, 0), 4), (OUTLINE, 2)):
        if framed:
            cv2.rectangle(drawn, (left, top), (right - 1, bottom - 1), color, thickness)
        for begin, end in arms:
            cv2.line(drawn, begin, end, color, thickness)
    return drawn


def _tile_width(columns: int) -> int:
    """Of a page with at least three columns, so that no picture fills it alone."""
    return max(tile_width(PANEL_WIDTH, max(3, columns)), _SMALLEST_TILE)


def _page(rows: Sequence[Row], heading: Heading, legend: Legend | None) -> Pixels:
    """A page as wide as every other, or as its widest row."""
    width = max(PANEL_WIDTH, *(page_width(len(row.tiles), row.tile_width) for row in rows))
    return page(rows, width, heading.title, heading.note, legend)


def _about_mask(shown: ModelMap, *, alike: bool) -> tuple[str, str]:
    """Caption and detail of a mask; where the columns show different kinds of maps, the caption says which."""
    name, share = "mask" if alike else f"{shown.what} mask", f"{shown.mask.mean():.0%}"
    return (
        (name, f"{share} of the image")
        if shown.jaccard is None
        else (f"{name} {share}", f"Jaccard {shown.jaccard:.2f}")
    )


def _full_mask_overlay(image: UInt8[ndarray, "h w 3"], mask: Bool[ndarray, "h w"], width: int) -> Pixels:
    """`mask_overlay` of a mask that is as fine as the image, made at the size of the page."""
    pixels = fitted(image, width)
    resized = cv2.resize(mask.astype(np.uint8), pixels.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return mask_overlay(pixels, resized > 0)


def _colored_tiles(each: ColoredImage, width: int, name: str) -> list[Tile]:
    pixels = fitted(each.image, width)
    rows, columns, _ = each.colors.shape
    colors = Tile(color_picture(each.colors, pixels.shape[:2]), "components", f"{columns} × {rows}")
    if each.foreground is None:
        return [Tile(pixels, name), colors]
    mask = Tile(mask_overlay(pixels, each.foreground), "foreground", f"{each.foreground.mean():.0%}")
    return [Tile(pixels, name), mask, colors]


def _bands(tiles: Sequence[Tile], per_row: int, width: int) -> list[Row]:
    return [Row(tiles[begin : begin + per_row], width) for begin in range(0, len(tiles), per_row)]
