"""What a backbone looks at: the class token's attention, or its feature energy. Arrays out, never plots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block
from torch import Tensor

from dinoscope.errors import UserError
from dinoscope.models.backbone import Backbone, ViTBackbone
from dinoscope.types import Tokens

MAX_PATCHES = 2**16
"""Patches above which `prepare` refuses an image: time grows with their square. 1024 x 4096 px at patch 8."""


@torch.no_grad()
def attention_maps(
    backbone: Backbone, images: Float[Tensor, "b 3 h w"], block: int = -1
) -> Float[Tensor, "b heads rows columns"]:
    """What every picture is made of, for every kind of backbone; `images` are normalised.

    A Vision Transformer gives the attention of its class token (`class_attention`). A ResNet has
    neither class token nor heads: it gives one map, the feature energy of its last stage, scaled to sum to 1.

    Raises UserError for a block that the network does not have; a ResNet has only -1.
    """
    if isinstance(backbone, ViTBackbone):
        return class_attention(backbone, images, block)
    if block != -1:
        raise UserError(f"{backbone.config.name} has no attention blocks: leave the block at -1, not {block}")
    return energy_maps(backbone, images)


def count_heads(backbone: Backbone) -> int:
    """Number of maps that `attention_maps` gives for each image."""
    if not isinstance(backbone, ViTBackbone):
        return 1
    return cast(Attention, cast(Block, backbone.net.blocks[-1]).attn).num_heads


def class_attention(
    backbone: ViTBackbone, images: Float[Tensor, "b 3 h w"], block: int = -1
) -> Float[Tensor, "b heads rows columns"]:
    """Attention of the class token to the patches in a block (DINO, Fig. 1); -1 is the last block.

    A map sums to 1 less what the class token gives to itself (and to registers, if any).
    Raises UserError for a block that the network does not have.
    """
    tokens, grid = backbone.embed(images)
    row = _attention_row(backbone, tokens, block)
    return row[:, :, backbone.net.num_prefix_tokens :].unflatten(-1, grid)


def class_attention_row(
    backbone: ViTBackbone, images: Float[Tensor, "b 3 h w"], block: int = -1
) -> Float[Tensor, "b heads n"]:
    """The class token's whole row of a block's attention: to itself, to registers if any, to the patches.

    Raises UserError for a block that the network does not have.
    """
    return _attention_row(backbone, backbone.embed(images)[0], block)


def attention_of_blocks(
    backbone: ViTBackbone, images: Float[Tensor, "b 3 h w"]
) -> Iterator[Float[Tensor, "b heads rows columns"]]:
    """`class_attention` of every block, from the first to the last, in one pass through the network."""
    tokens, grid = backbone.embed(images)
    for block in cast("list[Block]", list(backbone.net.blocks)):
        yield class_row(block, tokens)[:, :, backbone.net.num_prefix_tokens :].unflatten(-1, grid)
        tokens = block(tokens)


def block_index(backbone: ViTBackbone, block: int) -> int:
    """The block's number from the first one, which is 0; negative counts from the end.

    Raises UserError for a block that the network does not have.
    """
    depth = len(backbone.net.blocks)
    if not -depth <= block < depth:
        raise UserError(
            f"{backbone.config.name} has no block {block}: "
            f"its blocks are 0 to {depth - 1}, or, from the end, -1 to {-depth}"
        )
    return block % depth


def _attention_row(backbone: ViTBackbone, tokens: Float[Tensor, "b n d"], block: int) -> Float[Tensor, "b heads n"]:
    index = block_index(backbone, block)
    return class_row(cast(Block, backbone.net.blocks[index]), backbone.run_blocks(tokens, stop=index))


def class_row(block: Block, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b heads n"]:
    """softmax(q k / sqrt(d)) for the class token's q alone, so that no N x N matrix is ever held."""
    attention, normed = cast(Attention, block.attn), block.norm1(tokens)
    return attention_rows(scaled_queries(attention, normed[:, :1]), head_keys(attention, normed)).squeeze(-2)


def attention_rows(
    queries: Float[Tensor, "b heads m e"], keys: Float[Tensor, "b heads n e"]
) -> Float[Tensor, "b heads m n"]:
    """What each of the queries' tokens attends to; a row sums to 1."""
    return (queries @ keys.transpose(-2, -1)).softmax(dim=-1)


def scaled_queries(attention: Attention, normed: Float[Tensor, "b m d"]) -> Float[Tensor, "b heads m e"]:
    """Queries of tokens behind the block's first norm, scaled by 1 / sqrt(e)."""
    return attention.q_norm(_project(attention, normed, part=0)) * attention.scale


def head_keys(attention: Attention, normed: Float[Tensor, "b n d"]) -> Float[Tensor, "b heads n e"]:
    """Keys of tokens behind the block's first norm."""
    return attention.k_norm(_project(attention, normed, part=1))


def _project(attention: Attention, tokens: Float[Tensor, "b n d"], part: int) -> Float[Tensor, "b heads n e"]:
    """One third of timm's fused projection: queries (0), keys (1) or values (2).

    Heads come first, as timm's q_norm and k_norm work on the width of a head.
    """
    weight = attention.qkv.weight.chunk(3)[part]
    bias = None if attention.qkv.bias is None else attention.qkv.bias.chunk(3)[part]
    return F.linear(tokens, weight, bias).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)


def energy_maps(
    backbone: Backbone, images: Float[Tensor, "b 3 h w"], block: int = -1
) -> Float[Tensor, "b 1 rows columns"]:
    """`feature_energy` scaled to sum to 1, of every kind of backbone.

    Raises UserError for another block than the last.
    """
    if block != -1:
        raise UserError(f"the feature energy is that of the last block: leave the block at -1, not {block}")
    energy = feature_energy(backbone(images))
    return F.normalize(energy.flatten(1), p=1.0).view_as(energy)[:, None]


def feature_energy(tokens: Tokens) -> Float[Tensor, "b rows columns"]:
    """L2 norm of each patch's features: where a network without a class token responds."""
    return tokens.patches.norm(dim=-1).unflatten(-1, tokens.grid)


def mass_mask(attention: Float[Tensor, "*batch n"], mass: float) -> Bool[Tensor, "*batch n"]:
    """The smallest set of patches that holds at least the share `mass` of the attention (DINO, Fig. 4).

    Of equal patches at the edge of the set, the earlier are taken. Attention that sums to 0 gives an empty
    set. Sums are in float32, or in float64 where the attention is.

    Raises UserError where mass is not in (0, 1].
    """
    return mass_masks(attention, (mass,))[0]


def mass_masks(attention: Float[Tensor, "*batch n"], masses: Sequence[float]) -> Bool[Tensor, "masses *batch n"]:
    """`mass_mask` for each of several masses, with the patches ranked once. Raises UserError as it does."""
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


def mean_and_heads(maps: Float[Tensor, "b heads rows columns"]) -> Float[Tensor, "b maps rows columns"]:
    """The mean over the heads, then each head: 1 + heads maps."""
    return torch.cat([maps.mean(dim=1, keepdim=True), maps], dim=1)


def map_masks(maps: Float[Tensor, "*batch rows columns"], mass: float) -> Bool[Tensor, "*batch rows columns"]:
    """`mass_mask` of each map."""
    return mass_mask(maps.flatten(-2), mass).view_as(maps)


def upsample(
    maps: Float[Tensor, "*batch rows columns"], size: tuple[int, int], mode: Literal["nearest", "bilinear"]
) -> Float[Tensor, "*batch h w"]:
    """Maps at `size` = (height, width). nearest keeps the patches visible, bilinear is smooth.

    Cell centres are aligned, so that a map stays in register with an image of any size.
    """
    if mode == "nearest":  # torch's "nearest" is off by up to half a cell; at whole factors the two are equal
        resized = F.interpolate(maps.reshape(1, -1, *maps.shape[-2:]), size, mode="nearest-exact")
    else:
        resized = F.interpolate(maps.reshape(1, -1, *maps.shape[-2:]), size, mode="bilinear")
    return resized.view(*maps.shape[:-2], *size)


def patch_grid(size: tuple[int, int], short: int | None, patch: int) -> tuple[int, int]:
    """Rows and columns of patches that `prepare` makes of an image of `size` = (height, width), at the short side."""
    scale = 1.0 if short is None else short / min(size)
    rows, columns = (max(1, round(side * scale / patch)) for side in size)
    return rows, columns


def prepare(image: UInt8[ndarray, "h w 3"], size: int | None, patch: int) -> UInt8[Tensor, "3 s t"]:
    """Resize an image of any size to what a backbone takes: sides that are multiples of `patch`.

    The short side becomes `size` pixels (None keeps the image's own) and the long side follows. Each side is
    then rounded to the nearest multiple of the patch, at least one. Nothing is cropped, so a map covers the
    whole image; the price is an aspect that is off by up to half a patch per side. Bicubic, antialiased.

    Raises UserError where that would be more than `MAX_PATCHES`.
    """
    height, width = image.shape[:2]
    rows, columns = patch_grid((height, width), size, patch)
    if rows * columns > MAX_PATCHES:
        raise UserError(
            f"{width} x {height} px would become {columns} x {rows} patches, and {MAX_PATCHES} is the most: "
            "choose a smaller size"
        )
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    target = (rows * patch, columns * patch)
    return F.interpolate(pixels, target, mode="bicubic", antialias=True)[0]
