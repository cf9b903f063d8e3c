"""Pages that explain an image: heads, models next to each other, blocks, colours of patches, similarity, foreground."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from torch import Tensor

from dinoscope import pictures
from dinoscope.data.benchmarks import VOID, object_pixels
from dinoscope.errors import UserError
from dinoscope.evaluation.voc import jaccard
from dinoscope.explain import patches
from dinoscope.explain.attention import attention_of_blocks, map_masks, mean_and_heads
from dinoscope.explain.maps import MAPS, map_title
from dinoscope.model_names import Model
from dinoscope.models.network import require_transformer
from dinoscope.pictures import Page, Pixels, Row, Tile, bands, fitted, layout, mask_overlay, overlay, per_band, scale_of

_MIN_TILE = 272  # four columns of a page; more columns make the page wider instead
_MIN_COLUMN, _MAX_COLUMN, _COLUMNS_WIDTH = 150, 190, 1130  # of `maps_page`


ImageFeatures = tuple[str, UInt8[ndarray, "_ _ 3"], Float[Tensor, "_ _ d"]]
"""Name, pixels and features of the patches of an image."""


@dataclass(frozen=True)
class ModelInput:
    """A model on its device, and an image as it is given, with a short side of `size` pixels; see `network_input`."""

    model: Model
    size: int
    images: Float[Tensor, "1 c s t"]

    def maps(self, kind: str, block: int) -> Float[Tensor, "maps rows columns"]:
        """Return the maps of a kind, on the CPU. Raises UserError as `MAPS` do, or if they are not finite."""
        return self._finite(MAPS[kind](self.model.backbone, self.images, block), map_title(kind, self.model.backbone))

    def maps_of_blocks(self) -> list[Float[Tensor, "rows columns"]]:
        """Return the mean attention in every block, on the CPU. Raises UserError as `maps` does."""
        transformer = require_transformer(self.model.backbone, "--block all")
        with torch.no_grad():
            every = [maps.mean(dim=1) for maps in attention_of_blocks(transformer, self.images)]
        return [self._finite(mean, "attention") for mean in every]

    def patches(self) -> Float[Tensor, "rows columns d"]:
        """Return the features of the patches, on the CPU. Raises UserError if they are not finite."""
        return self._finite(patches.patch_features(self.model.backbone, self.images), "features")

    def _finite(self, result: Float[Tensor, "1 ..."], what: str) -> Tensor:
        if not result.isfinite().all():
            raise UserError(
                f"the {what} of {self.model.label} is not finite: "
                "the weights of this model are broken (did its training diverge?)"
            )
        return result[0].float().cpu()


def model_note(model: Model, size: int) -> str:
    """Return the model, its network and the size at which it is given images, in a few words."""
    network = model.backbone.config.name
    return f"{model.label}, {size} px" if network in model.label else f"{model.label}: {network}, {size} px"


@dataclass(frozen=True)
class Shown:
    """An image, what each model is given of it, and its mask (0 background, 255 void), if there is one."""

    name: str
    image: UInt8[ndarray, "h w 3"]
    inputs: tuple[ModelInput, ...]
    mask: UInt8[ndarray, "h w"] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def sizes(self) -> str:
        """The sizes at which models are given the image."""
        return " and ".join(map(str, sorted({given.size for given in self.inputs}))) + " px"


def attention_panel(
    image: UInt8[ndarray, "h w 3"],
    maps: Float[Tensor, "heads rows columns"],
    mass: float,
    title: str = "",
    note: str = "",
    what: str = "attention",
    *,
    dpi: int | None = None,
) -> Page:
    """Draw one image, the mean over its heads and the mask that holds `mass` of it, then every head with its mask.

    maps: of a kind of `explain.maps`. what: names the kind of a map that has no heads, such as "feature energy".
    title, note: above the page, left and right. dpi: dots an inch, for print; of all pages as of `pictures.layout`.

    Raises UserError if mass is not in (0, 1], or dpi is out of range.
    """
    every = mean_and_heads(maps[None])[0].float().cpu()
    (mean, *values), (whole, *masks) = every.numpy(), map_masks(every, mass).numpy()
    heads, rows, columns = maps.shape
    width = pictures.tile_width(3)
    ground, name = _ground(image, width, dpi), f"mean of {heads} heads" if heads > 1 else what
    map_tile = Tile(overlay(ground, mean), name, f"{columns} × {rows} patches")
    lines = [Row([_image_tile(image, ground), map_tile, _mask_tile(ground, whole, "mask")], width)]
    if heads > 1:
        per_row = per_band(heads)
        width = pictures.tile_width(max(3, per_row))
        ground = _ground(image, width, dpi)
        of_heads = [
            (Tile(overlay(ground, value), f"head {head}", f"mask {mask.mean():.0%}"), Tile(mask_overlay(ground, mask)))
            for head, (value, mask) in enumerate(zip(values, masks, strict=True))
        ]
        lines += bands(of_heads, per_row, width)
    return layout(lines, title, note, pictures.mass_legend(mass, what), dpi=dpi)


@dataclass(frozen=True)
class MapColumn:
    """The map of each image: a title above, and quieter what the maps show, or how they came about."""

    title: str
    detail: str
    maps: Sequence[Float[ndarray, "_ _"]]


def maps_page(images: Sequence[UInt8[ndarray, "_ _ 3"]], columns: Sequence[MapColumn], text: str) -> Page:
    """Set each image next to its maps, in bands of at most six columns. text: at the right of the legend."""
    per_row = per_band(len(columns))
    width = int(np.clip(_COLUMNS_WIDTH // (1 + per_row) - pictures.GAP, _MIN_COLUMN, _MAX_COLUMN))
    grounds = [fitted(image, width) for image in images]
    tiles: list[list[Tile]] = []
    for column in columns:
        texts = [(column.title, column.detail), *[("", "")] * (len(images) - 1)]
        drawn = zip(grounds, column.maps, texts, strict=True)
        tiles.append([Tile(overlay(ground, values), *text) for ground, values, text in drawn])
    first = [Tile(ground, "" if place else "image") for place, ground in enumerate(grounds)]
    return layout(bands(tiles, per_row, width, first), legend=pictures.overlay_legend(text), min_width=0)


def comparison_page(
    shown: Shown, kind: str, block: int, mass: float, *, dpi: int | None = None
) -> tuple[Page, list[float] | None]:
    """Set the image next to each model's mean map, and the true mask, if there is one, next to their masks below.

    Returns the page and each mask's Jaccard, 0 to 1, without void pixels; None if there is no object.

    Raises UserError as `ModelInput.maps` does, or if mass is not in (0, 1].
    """
    per_row = per_band(len(shown.inputs), pictures.MAX_COLUMNS - 1)
    width = _tile_width(1 + per_row)
    ground, objects = _ground(shown.image, width, dpi), None if shown.mask is None else object_pixels(shown.mask)
    below = Tile(np.full_like(ground, 255)) if objects is None else _mask_tile(ground, objects, "ground truth")
    kinds = [map_title(kind, given.model.backbone) for given in shown.inputs]
    alike = len(set(kinds)) == 1
    columns: list[tuple[Tile, Tile]] = []
    scores: list[float] = []
    for given, what in zip(shown.inputs, kinds, strict=True):
        mean = given.maps(kind, block).mean(dim=0)
        mask, name = map_masks(mean, mass), "mask" if alike else f"{what} mask"
        below_map = _mask_tile(ground, mask.numpy(), name)
        if shown.mask is not None and objects is not None and objects.any():
            scores.append(jaccard(mask, torch.from_numpy(objects), torch.from_numpy(shown.mask != VOID)))
            caption = f"{name} {mask.numpy().mean():.0%}"
            below_map = Tile(below_map.pixels, caption, f"Jaccard {scores[-1]:.2f}")
        columns.append((Tile(overlay(ground, mean.numpy()), given.model.label), below_map))
    rows = bands(columns, per_row, width, (Tile(ground, "image"), below))
    where = "the last block" if block == -1 else f"block {block}"
    note = f"{'rollout to ' * (kind == 'rollout')}{where}, {shown.sizes}"
    drawn = layout(rows, shown.name, note, pictures.mass_legend(mass, kinds[0] if alike else "map"), dpi=dpi)
    return drawn, scores or None


def blocks_page(shown: Shown, *, dpi: int | None = None) -> Page:
    """Draw the image, then the mean attention in every block of each model. Raises UserError as `ModelInput` does."""
    alone = shown.inputs[0] if len(shown.inputs) == 1 else None
    rows: list[Row] = []
    for given in shown.inputs:
        maps = given.maps_of_blocks()
        per_row = per_band(1 + len(maps))
        width = _tile_width(per_row)
        ground = _ground(shown.image, width, dpi)
        tiles = [Tile(ground, given.model.label if alone is None else "image")]
        tiles += [Tile(overlay(ground, mean.numpy()), f"block {block}") for block, mean in enumerate(maps)]
        rows += bands([[tile] for tile in tiles], per_row, width)
    note = shown.sizes if alone is None else model_note(alone.model, alone.size)
    return layout(rows, shown.name, note, pictures.overlay_legend("mean over the heads of each block"), dpi=dpi)


def colors_page(
    images: Sequence[ImageFeatures],
    title: str,
    note: str,
    *,
    foreground: bool = False,
    dpi: int | None = None,
) -> Page:
    """Colour the patches of images (name, pixels, features) jointly by three principal components.

    Foreground and colours are drawn below each image, or next to a single one.
    """
    found = patches.patch_colors([features for *_, features in images], foreground=foreground)
    alone = len(images) == 1
    per_row = per_band(len(images))
    width = pictures.tile_width(3 if foreground else 2) if alone else _tile_width(per_row)
    columns: list[list[Tile]] = []
    for (name, image, _), colored in zip(images, found, strict=True):
        ground, (rows, columns_of, _) = _ground(image, width, dpi), colored.colors.shape
        tiles = [Tile(ground, "image" if alone else name)]
        if foreground:
            tiles.append(_mask_tile(ground, colored.foreground.numpy(), "foreground", ""))
        drawn = pictures.color_picture(colored.colors.numpy(), ground.shape[:2])
        columns.append([*tiles, Tile(drawn, "components", f"{columns_of} × {rows}")])
    lines = [Row(columns[0], width)] if alone else bands(columns, per_row, width)
    text = f"red, green, blue: the first three principal components, {found[0].share:.0%} of the variance"
    swatches = np.repeat(np.array([[(255, 0, 0), (0, 160, 0), (0, 0, 255)]], np.uint8), 16, axis=1).repeat(12, axis=0)
    return layout(lines, title, note, pictures.Legend(swatches, "", "", text), dpi=dpi)


def similarity_page(
    images: Sequence[ImageFeatures],
    points: Sequence[tuple[int, int]],
    size: tuple[int, int],
    note: str,
    *,
    stretch: bool = False,
    dpi: int | None = None,
) -> Page:
    """Draw, for each point, the first image with the point, then the cosines of its patch in every image.

    images: names, pixels and features. points: (x, y) in the first image when its (height, width) is `size`, though
        its pixels may be fewer or more. stretch: the least similar patch of a row is dark and the most similar bright;
        else a cosine of 0 or less is dark, and 1 bright, whatever the model.

    Raises UserError for a point outside of it.
    """
    title, _, features = images[0]
    grid = (features.shape[0], features.shape[1])
    chosen = [patches.patch_at(point, size, grid) for point in points]
    queries = torch.stack([features[patch] for patch in chosen])
    cosines = [patches.similarity_maps(queries, of_image) for *_, of_image in images]
    per_row = per_band(1 + len(images))
    width = _tile_width(per_row)
    grounds = [_ground(image, width, dpi) for _, image, _ in images]
    rows: list[Row] = []
    for number, (point, patch) in enumerate(zip(points, chosen, strict=True)):
        mark = partial(
            pictures.marked,
            point=point,
            box=patches.patch_box(patch, size, grid),
            scale=grounds[0].shape[1] / size[1],
            stroke=scale_of(dpi),
        )
        of_point = [maps[number] for maps in cosines]
        shown = patches.stretched(of_point) if stretch else of_point
        drawn = [pictures.cosine_overlay(ground, each.numpy()) for ground, each in zip(grounds, shown, strict=True)]
        drawn[0] = mark(drawn[0])
        tiles = [Tile(mark(grounds[0]), f"patch at {point[0]}, {point[1]}")]
        for picture, (name, *_), maps in zip(drawn, images, cosines, strict=True):
            tiles.append(Tile(picture, name, f"mean {maps[number].mean():.2f}"))
        rows += bands([[tile] for tile in tiles], per_row, width)
    text = "cosine of the patch's features with those of every other patch"
    ends = ("lowest in the row", "highest in the row") if stretch else ("0 or less", "1")
    return layout(rows, f"patches of {title}", note, pictures.overlay_legend(text, *ends), dpi=dpi)


def segment_page(
    shown: Shown, by: str, block: int, mass: float, *, dpi: int | None = None
) -> tuple[Page, Bool[Tensor, "rows columns"]]:
    """Draw the image, what its foreground was made from, and the foreground, which is returned too.

    by: "pca", or a kind of map, of which the foreground holds `mass`. Raises UserError as `ModelInput` does.
    """
    width = pictures.tile_width(3)
    ground, given = _ground(shown.image, width, dpi), shown.inputs[0]
    if by == "pca":
        found = patches.patch_colors([given.patches()], foreground=True)[0]
        mask, what, legend = found.foreground, "principal components", None
        middle = pictures.color_picture(found.colors.numpy(), ground.shape[:2])
    else:
        mean, what = given.maps(by, block).mean(dim=0), map_title(by, given.model.backbone)
        mask, legend = map_masks(mean, mass), pictures.mass_legend(mass, what)
        middle = overlay(ground, mean.numpy())
    tiles = [
        _image_tile(shown.image, ground),
        Tile(middle, what, f"{mask.shape[1]} × {mask.shape[0]} patches"),
        _mask_tile(ground, mask.numpy(), "foreground"),
    ]
    return layout([Row(tiles, width)], shown.name, model_note(given.model, given.size), legend, dpi=dpi), mask


def _tile_width(columns: int) -> int:
    """Width of a tile on a page of at least three columns, so that no picture fills it alone."""
    return max(pictures.tile_width(max(3, columns)), _MIN_TILE)


def _ground(image: UInt8[ndarray, "h w 3"], width: int, dpi: int | None) -> Pixels:
    """Return the image as wide as a tile, in the pixels of the page."""
    return fitted(image, round(width * scale_of(dpi)))


def _image_tile(image: UInt8[ndarray, "h w 3"], ground: Pixels) -> Tile:
    return Tile(ground, "image", f"{image.shape[1]} × {image.shape[0]} px")


def _mask_tile(ground: Pixels, mask: Bool[ndarray, "_ _"], name: str, of: str = " of the image") -> Tile:
    return Tile(mask_overlay(ground, mask), name, f"{mask.mean():.0%}{of}")
