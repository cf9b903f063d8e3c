"""What a backbone attends to: the class token's attention, or its feature energy. Arrays out, never plots.

Also how the heads of one block differ, and how an image is resized to a grid of patches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from torch import Tensor

from dinoscope.errors import UserError
from dinoscope.models.network import Backbone, Transformer, require_patches
from dinoscope.models.vit import class_row

MAX_PATCHES = 2**16
"""Patches above which `prepare` refuses an image: time grows with their square. 1024 x 4096 px at patch 8."""


@torch.no_grad()
def attention_maps(
    backbone: Backbone, images: Float[Tensor, "b c h w"], block: int = -1
) -> Float[Tensor, "b heads rows columns"]:
    """Return the attention of the class token to the patches in a block (DINO, Fig. 1); -1 is the last.

    A map sums to 1 less what the class token gives to itself (and to registers, if any). A network without class
    attention (ResNet) gives one map, the feature energy of its last stage, scaled to sum to 1. `images` are normalised.

    Raises UserError for a block that the network does not have; without class attention there is only -1.
    """
    if backbone.class_attention is not None:
        return backbone.class_attention(images, block)
    require_last_block(block, f"{backbone.config.name} has no attention blocks")
    return energy_maps(backbone, images)


def require_last_block(block: int, reason: str) -> None:
    """Raise UserError, with the reason, for another block than -1."""
    if block != -1:
        raise UserError(f"{reason}: leave the block at -1, not {block}")


def attention_of_blocks(
    transformer: Transformer, images: Float[Tensor, "b c h w"]
) -> Iterator[Float[Tensor, "b heads rows columns"]]:
    """Yield the class attention of every block, from the first to the last, in one pass through the network."""
    tokens, grid = transformer.embed(images)
    for block in transformer.blocks_on(grid):
        yield class_row(block, tokens)[:, :, transformer.prefix :].unflatten(-1, grid)
        tokens = block(tokens)


@torch.no_grad()
def energy_maps(
    backbone: Backbone, images: Float[Tensor, "b c h w"], block: int = -1
) -> Float[Tensor, "b 1 rows columns"]:
    """Return `energy_of_patches` after the last block, for every backbone with patches.

    Raises UserError for another block than the last, or without patches.
    """
    require_patches(backbone, "a map of the feature energy")
    require_last_block(block, "the feature energy is that of the last block")
    tokens = backbone(images)
    return energy_of_patches(tokens.patches.unflatten(1, tokens.grid))


def energy_of_patches(patches: Float[Tensor, "b rows columns d"]) -> Float[Tensor, "b 1 rows columns"]:
    """Return the L2 norm of each patch's features, where a network responds, scaled to sum to 1."""
    energy = patches.norm(dim=-1)
    return F.normalize(energy.flatten(1), p=1.0).view_as(energy)[:, None]


def mass_mask(attention: Float[Tensor, "*batch n"], mass: float) -> Bool[Tensor, "*batch n"]:
    """Return the smallest set of patches that holds at least the share `mass` of the attention (DINO, Fig. 4).

    Of equal patches at the edge of the set, the earlier are taken. Attention that sums to 0 gives an empty set. Sums
    are in float32, or in float64 if the attention is.

    Raises UserError if mass is not in (0, 1].
    """
    return mass_masks(attention, (mass,))[0]


def mass_masks(attention: Float[Tensor, "*batch n"], masses: Sequence[float]) -> Bool[Tensor, "masses *batch n"]:
    """Return `mass_mask` for each of several masses, with the patches ranked once. Raises UserError as it does."""
    for mass in masses:
        if not 0 < mass <= 1:
            raise UserError(f"the mass that a mask holds is a share above 0 and at most 1, not {mass:g}")
    values = attention.to(torch.promote_types(attention.dtype, torch.float32))
    ranked, order = values.sort(dim=-1, descending=True, stable=True)
    total = ranked.cumsum(dim=-1)
    # a patch belongs to the set while those ranked before it do not hold enough
    before = F.pad(total[..., :-1], (1, 0))
    chosen = torch.stack([before < mass * total[..., -1:] for mass in masses])
    return torch.zeros_like(chosen).scatter(-1, order.expand_as(chosen), chosen)


def map_masks(maps: Float[Tensor, "*batch rows columns"], mass: float) -> Bool[Tensor, "*batch rows columns"]:
    """Return `mass_mask` of each map."""
    return mass_mask(maps.flatten(-2), mass).view_as(maps)


def mean_and_heads(maps: Float[Tensor, "b heads rows columns"]) -> Float[Tensor, "b maps rows columns"]:
    """Return the mean over the heads, then each head: 1 + heads maps."""
    return torch.cat([maps.mean(dim=1, keepdim=True), maps], dim=1)


def patch_grid(size: tuple[int, int], short: int | None, patch: int) -> tuple[int, int]:
    """Return rows and columns of the patches that `prepare` makes of an image of `size` = (height, width)."""
    scale = 1.0 if short is None else short / min(size)
    rows, columns = (max(1, round(side * scale / patch)) for side in size)
    return rows, columns


def prepare(
    image: UInt8[ndarray, "h w c"], size: int | None, patch: int, *, square: bool = False
) -> UInt8[Tensor, "c s t"]:
    """Resize an image of any size to what a backbone takes: sides that are multiples of `patch`.

    The short side becomes `size` pixels (None keeps the image's own) and the long side follows. Each side is then
    rounded to the nearest multiple of the patch, at least one. Nothing is cropped, so that a map covers the whole
    image; the aspect may be off by half a patch per side. Bicubic, antialiased. square: both sides become `size`.

    Raises UserError if that would be more than `MAX_PATCHES`.
    """
    height, width = image.shape[:2]
    rows, columns = patch_grid((1, 1) if square else (height, width), size, patch)
    if rows * columns > MAX_PATCHES:
        raise UserError(
            f"{width} x {height} px would become {columns} x {rows} patches, and the limit is {MAX_PATCHES}: "
            "choose a smaller size"
        )
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    return F.interpolate(pixels, (rows * patch, columns * patch), mode="bicubic", antialias=True)[0]


def network_input(
    backbone: Backbone, image: UInt8[ndarray, "h w c"], size: int | None = None
) -> Float[Tensor, "1 c s t"]:
    """Return an image as a network takes it: `prepare`d, by default at the size that it stores, and normalised."""
    pixels = prepare(image, backbone.config.image_size if size is None else size, backbone.patch_size)
    return backbone.normalize(pixels[None].to(backbone.mean.device))


def entropy(maps: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch"]:
    """Return the entropy of each map in nats, divided by that of an even map (log of the number of patches): 0 to 1.

    0: all on one patch. 1: even, as is a map of one patch or of zeros. A map is scaled to sum to 1 first, so that what
    a class token gives to itself does not count.
    """
    patches = maps.flatten(-2)
    if patches.shape[-1] == 1:
        return torch.ones_like(patches[..., 0])
    return _nats(_shares(patches)) / math.log(patches.shape[-1])


def pair_agreement(maps: Float[Tensor, "*batch heads rows columns"]) -> Float[Tensor, "*batch"]:
    """Return the mean over all pairs of heads of 1 - Jensen-Shannon divergence / log 2 (Lin 1991): 0 to 1.

    1: all heads attend alike. 0: no two heads share a patch. It needs no threshold.

    Raises UserError with fewer than two heads.
    """
    first, second = map(_shares, _pairs(maps.flatten(-2)))
    divergence = _nats((first + second) / 2) - (_nats(first) + _nats(second)) / 2
    return (1 - divergence / math.log(2)).clamp(0, 1).mean(dim=-1)


def mask_overlap(maps: Float[Tensor, "*batch heads rows columns"], mass: float) -> Float[Tensor, "*batch"]:
    """Return the mean over all pairs of heads of the Jaccard of their masks that hold the share `mass` of attention.

    Independent masks that each cover the share s of an image overlap by s / (2 - s).

    Raises UserError with fewer than two heads, or if mass is not in (0, 1].
    """
    first, second = _pairs(map_masks(maps, mass).flatten(-2))
    union = (first | second).sum(dim=-1)
    overlap = (first & second).sum(dim=-1) / union
    return overlap.where(union > 0, 1.0).mean(dim=-1)


def _pairs(heads: Tensor) -> tuple[Tensor, Tensor]:
    count = heads.shape[-2]
    if count < 2:
        raise UserError("one map agrees with nothing: agreement needs a block with two heads or more")
    first, second = torch.triu_indices(count, count, offset=1, device=heads.device)
    return heads[..., first, :], heads[..., second, :]


def _shares(patches: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """Scale to a sum of 1 in float64; zeros become even."""
    patches = patches.double()
    total = patches.sum(dim=-1, keepdim=True)
    return (patches / total).where(total > 0, 1 / patches.shape[-1])


def _nats(shares: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    return torch.special.entr(shares).sum(dim=-1)
