"""Pages that explain an image: heads, models next to each other, blocks, colours of patches, similarity. Pixels out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from torch import Tensor

from dinoscope.explain.attention import map_masks, mean_and_heads
from dinoscope.pictures import (
    GAP,
    MAX_COLUMNS,
    PAGE_WIDTH,
    Legend,
    Pixels,
    Row,
    Tile,
    bands,
    color_picture,
    cosine_overlay,
    fitted,
    marked,
    mask_overlay,
    mass_legend,
    overlay,
    overlay_legend,
    page,
    page_width,
    per_band,
    sheet,
    tile_width,
)

_MIN_TILE = 272  # four columns of a page; more columns make the page wider instead
_MIN_COLUMN, _MAX_COLUMN, _COLUMNS_WIDTH = 150, 190, 1130  # of `maps_page`


@dataclass(frozen=True)
class Heading:
    """Line above a page: what it is about at the left, and how it was made at the right."""

    title: str = ""
    note: str = ""


def attention_panel(
    image: UInt8[ndarray, "h w 3"],
    maps: Float[Tensor, "heads rows columns"],
    mass: float,
    title: str = "",
    note: str = "",
    what: str = "attention",
) -> Pixels:
    """Draw one image, the mean over its heads and the mask that holds `mass` of it, then every head with its mask.

    maps: of a kind of `explain.maps`. what: names the kind of a map that has no heads, such as "feature energy".
    title, note: above the page, left and right.

    Raises UserError if mass is not in (0, 1].
    """
    every = mean_and_heads(maps[None])[0].float().cpu()
    values, masks = every.numpy(), map_masks(every, mass).numpy()
    heads, rows, columns = maps.shape
    width = tile_width(PAGE_WIDTH, 3)
    pixels, name = fitted(image, width), f"mean of {heads} heads" if heads > 1 else what
    summary = [
        Tile(pixels, "image", f"{image.shape[1]} × {image.shape[0]} px"),
        Tile(overlay(pixels, values[0]), name, f"{columns} × {rows} patches"),
        Tile(mask_overlay(pixels, masks[0]), "mask", f"{masks[0].mean():.0%} of the image"),
    ]
    lines = [Row(summary, width)]
    if heads > 1:
        per_row = per_band(heads)
        width = tile_width(PAGE_WIDTH, max(3, per_row))
        pixels = fitted(image, width)
        of_heads = list(zip(values[1:], masks[1:], strict=True))
        maps_row = [
            Tile(overlay(pixels, value), f"head {head}", f"mask {mask.mean():.0%}")
            for head, (value, mask) in enumerate(of_heads)
        ]
        masks_row = [Tile(mask_overlay(pixels, mask)) for _, mask in of_heads]
        pairs = zip(bands(maps_row, per_row, width), bands(masks_row, per_row, width), strict=True)
        lines += [row for pair in pairs for row in pair]
    return page(lines, PAGE_WIDTH, title, note, mass_legend(mass, what))


def contact_sheet(rows: Sequence[Sequence[Pixels]], titles: Sequence[str], tile: int = 240) -> Pixels:
    """Set pictures in a table with a title over each column, each picture fitted to a column of `tile` pixels.

    Enlarge a small image with `fitted` before laying a map over it, for a map as smooth as the tile.
    """
    captions = [titles, *[[""] * len(titles)] * (len(rows) - 1)]
    return sheet(
        [
            [Tile(fitted(image, tile), title) for image, title in zip(row, names, strict=True)]
            for row, names in zip(rows, captions, strict=True)
        ],
        tile,
    )


@dataclass(frozen=True)
class MapColumn:
    """The map of each image: a title above, and quieter what the maps show, or how they came about."""

    title: str
    detail: str
    maps: Sequence[Float[ndarray, "_ _"]]


def maps_page(images: Sequence[UInt8[ndarray, "_ _ 3"]], columns: Sequence[MapColumn], text: str) -> Pixels:
    """Set each image next to its maps, in bands of at most six columns. text: at the right of the legend."""
    per_row = per_band(len(columns), MAX_COLUMNS)
    width = int(np.clip(_COLUMNS_WIDTH // (1 + per_row) - GAP, _MIN_COLUMN, _MAX_COLUMN))
    grounds = [fitted(image, width) for image in images]
    rows: list[list[Tile]] = []
    for begin in range(0, len(columns), per_row):
        for place, ground in enumerate(grounds):
            first = place == 0
            rows.append([Tile(ground, "image" if first else "")])
            for column in columns[begin : begin + per_row]:
                texts = (column.title, column.detail) if first else ()
                rows[-1].append(Tile(overlay(ground, column.maps[place]), *texts))
    return sheet(rows, width, legend=overlay_legend(text))


@dataclass(frozen=True)
class ModelMap:
    """What one model shows of an image.

    label: the title of its column. what: the kind of map, such as "attention".
    jaccard: of the mask against the ground truth, 0 to 1, if that is known.
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
    """Set the image next to the maps of several models, and the true mask, if known, next to their masks below.

    mass: what the masks hold, for the legend.
    """
    per_row = per_band(len(shown), MAX_COLUMNS - 1)
    width = _page_tile(1 + per_row)
    pixels = fitted(image, width)
    below = Tile(np.full_like(pixels, 255))
    if truth is not None:
        resized = cv2.resize(truth.astype(np.uint8), pixels.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        below = Tile(mask_overlay(pixels, resized > 0), "truth", f"{truth.mean():.0%} of the image")
    alike = len({model.what for model in shown}) == 1
    rows: list[Row] = []
    for begin in range(0, len(shown), per_row):
        band = shown[begin : begin + per_row]
        maps = [Tile(overlay(pixels, model.values), model.label) for model in band]
        masks = [Tile(mask_overlay(pixels, model.mask), *_mask_texts(model, alike=alike)) for model in band]
        rows += [Row([Tile(pixels, "image"), *maps], width), Row([below, *masks], width)]
    return _page(rows, heading, mass_legend(mass, shown[0].what if alike else "map"))


def blocks_page(
    image: UInt8[ndarray, "h w 3"],
    models: Sequence[tuple[str, Sequence[Float[ndarray, "_ _"]]]],
    heading: Heading,
) -> Pixels:
    """Draw the image, then the mean map of every block of each model, given as (label, maps)."""
    rows: list[Row] = []
    for label, maps in models:
        per_row = per_band(1 + len(maps))
        width = _page_tile(per_row)
        pixels = fitted(image, width)
        tiles = [Tile(pixels, label if len(models) > 1 else "image")]
        tiles += [Tile(overlay(pixels, values), f"block {block}") for block, values in enumerate(maps)]
        rows += bands(tiles, per_row, width)
    return _page(rows, heading, overlay_legend("mean over the heads of each block"))


@dataclass(frozen=True)
class ColoredImage:
    """An image, the colours of its patches (0 to 1), and its foreground if that was asked for."""

    name: str
    image: UInt8[ndarray, "h w 3"]
    colors: Float[ndarray, "rows columns 3"]
    foreground: Bool[ndarray, "rows columns"] | None = None


def colors_page(images: Sequence[ColoredImage], heading: Heading, share: float) -> Pixels:
    """Draw images with the foreground and the colours of their patches: below, or next to a single image.

    share: of the variance that the colours hold, for the legend.
    """
    if len(images) == 1:
        width = tile_width(PAGE_WIDTH, 3 if images[0].foreground is not None else 2)
        rows = [Row(_colored_tiles(images[0], width, "image"), width)]
    else:
        per_row = per_band(len(images))
        width = _page_tile(per_row)
        columns = [_colored_tiles(image, width, image.name) for image in images]
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
    """Draw, for each point, the first image with the point, then its cosines in every image, 0 to 1 in colour.

    size: (height, width) of the first image in the pixels of the points; it may be given smaller or larger.
    """
    per_row = per_band(1 + len(images))
    width = _page_tile(per_row)
    grounds = [fitted(image, width) for image in images]
    scale = grounds[0].shape[1] / size[1]
    rows: list[Row] = []
    for patch in points:
        x, y = patch.point
        tiles = [Tile(marked(grounds[0], patch.point, patch.box, scale), f"patch at {x}, {y}")]
        for index, (ground, cosines, name) in enumerate(zip(grounds, patch.maps, names, strict=True)):
            drawn = cosine_overlay(ground, cosines)
            if index == 0:
                drawn = marked(drawn, patch.point, patch.box, scale)
            tiles.append(Tile(drawn, name, f"mean {cosines.mean():.2f}"))
        rows += bands(tiles, per_row, width)
    text = "cosine of the patch's features with those of every other patch"
    return _page(rows, heading, overlay_legend(text, "0 or less", "1"))


def segment_page(
    image: UInt8[ndarray, "h w 3"],
    middle: Tile,
    mask: Bool[ndarray, "rows columns"],
    heading: Heading,
    legend: Legend | None,
) -> Pixels:
    """Draw the image, what its mask was made from, and the mask."""
    width = tile_width(PAGE_WIDTH, 3)
    pixels = fitted(image, width)
    tiles = [
        Tile(pixels, "image", f"{image.shape[1]} × {image.shape[0]} px"),
        Tile(fitted(middle.pixels, width), middle.caption, middle.detail),
        Tile(mask_overlay(pixels, mask), "foreground", f"{mask.mean():.0%} of the image"),
    ]
    return _page([Row(tiles, width)], heading, legend)


def _page_tile(columns: int) -> int:
    """Width of a tile on a page of at least three columns, so that no picture fills it alone."""
    return max(tile_width(PAGE_WIDTH, max(3, columns)), _MIN_TILE)


def _page(rows: Sequence[Row], heading: Heading, legend: Legend | None) -> Pixels:
    width = max(PAGE_WIDTH, *(page_width(len(row.tiles), row.tile_width) for row in rows))
    return page(rows, width, heading.title, heading.note, legend)


def _mask_texts(shown: ModelMap, *, alike: bool) -> tuple[str, str]:
    """Caption and detail of a mask; if the columns show different kinds of maps, the caption names the kind."""
    name, share = "mask" if alike else f"{shown.what} mask", f"{shown.mask.mean():.0%}"
    if shown.jaccard is None:
        return name, f"{share} of the image"
    return f"{name} {share}", f"Jaccard {shown.jaccard:.2f}"


def _colored_tiles(colored: ColoredImage, width: int, name: str) -> list[Tile]:
    pixels = fitted(colored.image, width)
    rows, columns, _ = colored.colors.shape
    colors = Tile(color_picture(colored.colors, pixels.shape[:2]), "components", f"{columns} × {rows}")
    if colored.foreground is None:
        return [Tile(pixels, name), colors]
    mask = Tile(mask_overlay(pixels, colored.foreground), "foreground", f"{colored.foreground.mean():.0%}")
    return [Tile(pixels, name), mask, colors]
