"""Attention rollout: what the class token has gathered over all blocks, not in one alone (Abnar & Zuidema 2020).

The effect of a block on the tokens is taken as W = r I + (1 - r) A, with A the attention fused over the heads and r the
residual's share; neither the length of the values nor layer scale enters. The rollout is the product of these matrices.
Only its class token's row is needed, so each N x N matrix is made and used a few rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from dinoscope.errors import UserError
from dinoscope.models.network import AttentionBlock, Backbone, Transformer, require_transformer
from dinoscope.models.vit import attention_rows, block_index

MAX_ENTRIES = 2**22
"""Entries of the attention of all heads that are held at once: 16 MiB in float32, and a few times that in passing."""

Fusion = Literal["mean", "min", "max"]
FUSIONS: dict[Fusion, Callable[[Tensor], Tensor]] = {
    "mean": lambda heads: heads.mean(dim=1),
    "min": lambda heads: heads.amin(dim=1),
    "max": lambda heads: heads.amax(dim=1),
}


@dataclass(frozen=True)
class RolloutConfig:
    """How the blocks are joined; the defaults are the paper's.

    fusion: of the heads. Rows are then made to sum to 1 again.
    residual: share r of the residual stream, 0 to 1.
    discard: share of each token's attention entries, the lowest ones, that is set to 0; at least 0 and below 1.
    start: first block that counts; the class token gathers from the tokens as they enter it. Negative counts from the
        end.
    """

    fusion: Fusion = "mean"
    residual: float = 0.5
    discard: float = 0.0
    start: int = 0


PAPER = RolloutConfig()


@torch.no_grad()
def rollout_maps(
    backbone: Backbone, images: Float[Tensor, "b c h w"], block: int = -1, config: RolloutConfig = PAPER
) -> Float[Tensor, "b 1 rows columns"]:
    """Return the class token's rollout over the patches, from `config.start` up to and including `block`.

    A map sums to 1 less what stays with the class token (and registers, if any).

    Raises UserError for a network without attention, and as `class_rollout` does.
    """
    transformer = require_transformer(backbone, "attention rollout")
    tokens, grid = transformer.embed(images)
    row = class_rollout(transformer, tokens, grid, block, config)
    return row[:, None, transformer.prefix :].unflatten(-1, grid)


def class_rollout(
    transformer: Transformer,
    tokens: Float[Tensor, "b n d"],
    grid: tuple[int, int],
    block: int = -1,
    config: RolloutConfig = PAPER,
) -> Float[Tensor, "b n"]:
    """Return the class token's row of the rollout; it sums to 1. `tokens` and `grid` are those of `transformer.embed`.

    Raises UserError for blocks that the network does not have, a start after the end, or a share out of range.
    """
    first, last = block_index(transformer, config.start), block_index(transformer, block)
    if first > last:
        raise UserError(f"a rollout from block {first} cannot end at block {last}")
    if not 0 <= config.residual <= 1 or not 0 <= config.discard < 1:
        raise UserError(
            "the residual's share is 0 to 1 and the discarded share at least 0 and below 1, "
            f"not {config.residual} and {config.discard}"
        )
    blocks = transformer.blocks_on(grid)
    for each in blocks[:first]:
        tokens = each(tokens)
    entering = [tokens]  # n x d for each block: what the way back needs
    for each in blocks[first:last]:
        entering.append(each(entering[-1]))
    return rollout_row(blocks[first : last + 1], entering, config)


def rollout_row(
    blocks: Sequence[AttentionBlock], entering: Sequence[Float[Tensor, "b n d"]], config: RolloutConfig = PAPER
) -> Float[Tensor, "b n"]:
    """Return the class token's row of the product over `blocks`, each with its `entering` tokens. It sums to 1."""
    row = torch.zeros_like(entering[0][:, :, 0])
    row[:, 0] = 1
    filled = 1  # of the last block only the class token's own row counts: all other entries of `row` are 0
    for block, tokens in zip(reversed(blocks), reversed(entering), strict=True):
        normed = block.norm1(tokens)
        keys = block.keys(normed)
        at_once = max(1, MAX_ENTRIES // keys[..., 0].numel())
        gathered = torch.zeros_like(row)
        for begin in range(0, filled, at_once):
            part = slice(begin, min(begin + at_once, filled))
            heads = attention_rows(block.queries(normed, part), keys)
            gathered += torch.einsum("bm,bmn->bn", row[:, part], fuse_heads(heads, config))  # m tokens ask, n answer
        row = config.residual * row + (1 - config.residual) * gathered
        filled = row.shape[1]
    return row


def fuse_heads(heads: Float[Tensor, "b heads m n"], config: RolloutConfig) -> Float[Tensor, "b m n"]:
    """Return one row of attention for each token: heads fused, the lowest share discarded, scaled to sum to 1 again."""
    fused = FUSIONS[config.fusion](heads)
    if dropped := int(config.discard * fused.shape[-1]):
        fused = fused.scatter(-1, fused.topk(dropped, dim=-1, largest=False).indices, 0.0)
    # the smallest of many heads may underflow to 0 everywhere
    return fused / fused.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(fused.dtype).tiny)
