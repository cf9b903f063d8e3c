"""One pass through a network that leaves behind whatever the maps of all blocks need, for who looks again and again.

The maps of `explain.maps`, block by block, without running the network for each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block
from torch import Tensor

from dinoscope.explain.attention import attention_rows, block_index, class_row
from dinoscope.explain.gradcam import class_activation
from dinoscope.explain.rollout import PAPER, RolloutConfig, rollout_row
from dinoscope.explain.targets import Score, own_direction
from dinoscope.models.backbone import Backbone, ViTBackbone
from dinoscope.types import Tokens


@dataclass(frozen=True)
class SinglePass:
    """What a pass leaves behind; the images' patches lie on `grid` = (rows, columns).

    entering: of a ViT, the tokens that enter each block. rows: the class token's row of attention in each block.
    last: of a ResNet, its last feature map as patches.
    """

    grid: tuple[int, int]
    entering: tuple[Float[Tensor, "b n d"], ...] = ()
    rows: tuple[Float[Tensor, "b heads n"], ...] = ()
    last: Float[Tensor, "b m d"] | None = None


@torch.inference_mode()
def single_pass(backbone: Backbone, images: Float[Tensor, "b 3 h w"]) -> SinglePass:
    """Run the network once; of a ViT's last block only the class token's row is computed. `images` are normalised."""
    if not isinstance(backbone, ViTBackbone):
        tokens = backbone(images)
        return SinglePass(tokens.grid, last=tokens.patches)
    hidden, grid = backbone.embed(images)
    *earlier, last = cast("list[Block]", list(backbone.net.blocks))
    entering, rows = [hidden], list[Tensor]()
    for block in earlier:
        hidden, row = _through(block, hidden)
        entering.append(hidden)
        rows.append(row)
    rows.append(class_row(last, hidden))
    return SinglePass(grid, tuple(entering), tuple(rows))


def attention_of_pass(backbone: Backbone, passed: SinglePass, block: int = -1) -> Float[Tensor, "b heads rows columns"]:
    """`attention.attention_maps` of any block; a ResNet's is its feature energy. Raises UserError as `block_index`."""
    if not isinstance(backbone, ViTBackbone):
        return energy_of_patches(patches_of_pass(backbone, passed))
    row = passed.rows[block_index(backbone, block)]
    return row[:, :, backbone.net.num_prefix_tokens :].unflatten(-1, passed.grid)


@torch.inference_mode()
def patches_of_pass(backbone: Backbone, passed: SinglePass) -> Float[Tensor, "b rows columns d"]:
    """Features of the patches as `backbone(images).patches`: what the pass left out of a ViT's last block."""
    if not isinstance(backbone, ViTBackbone):
        assert passed.last is not None
        return passed.last.unflatten(1, passed.grid)
    last = cast(Block, backbone.net.blocks[-1])
    hidden = backbone.net.norm(last(passed.entering[-1]))
    return hidden[:, backbone.net.num_prefix_tokens :].unflatten(1, passed.grid)


def energy_of_patches(patches: Float[Tensor, "b rows columns d"]) -> Float[Tensor, "b 1 rows columns"]:
    """`attention.energy_maps` of features that are there already."""
    energy = patches.norm(dim=-1)
    return F.normalize(energy.flatten(1), p=1.0).view_as(energy)[:, None]


@torch.inference_mode()
def rollout_of_pass(
    backbone: ViTBackbone, passed: SinglePass, block: int = -1, config: RolloutConfig = PAPER
) -> Float[Tensor, "b 1 rows columns"]:
    """`rollout.rollout_maps` from the first block on; raises UserError as `block_index` does."""
    last = block_index(backbone, block)
    blocks = cast("list[Block]", list(backbone.net.blocks))[: last + 1]
    row = rollout_row(blocks, passed.entering[: last + 1], config)
    return row[:, None, backbone.net.num_prefix_tokens :].unflatten(-1, passed.grid)


def gradcam_of_pass(
    backbone: Backbone, passed: SinglePass, score: Score = own_direction
) -> list[Float[Tensor, "b 1 rows columns"]]:
    """`gradcam.gradcam_maps` of every block, first to last (a ResNet has one), by one walk back through the network.

    The gradient goes from block to block, each run again from the tokens that entered it, so that no more than one
    block's graph is held.
    """
    with torch.inference_mode(False):
        if not isinstance(backbone, ViTBackbone):
            assert passed.last is not None
            patches, grid = passed.last.clone(), passed.grid
            pull = _gradient(patches, lambda each: score(Tokens(None, each, grid).feature).sum())
            return [_scaled(class_activation(patches, pull), grid)]
        *earlier, last = cast("list[Block]", list(backbone.net.blocks))
        entering = [tokens.clone() for tokens in passed.entering]  # of inference tensors, autograd takes only copies
        pull = _gradient(entering[-1], lambda each: score(backbone.net.norm(last(each))[:, 0]).sum())
        pulls = [pull]
        for block, tokens in zip(reversed(earlier), reversed(entering[:-1]), strict=True):
            pull = _gradient(tokens, lambda each, block=block, pull=pull: (block(each) * pull).sum())
            pulls.insert(0, pull)
        prefix = backbone.net.num_prefix_tokens
        activations = zip(entering, pulls, strict=True)
        return [
            _scaled(class_activation(each[:, prefix:], pull[:, prefix:]), passed.grid) for each, pull in activations
        ]


def _through(block: Block, tokens: Float[Tensor, "b n d"]) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b heads n"]]:
    """The block, and the class token's row of its attention from the same projection."""
    attention = cast(Attention, block.attn)
    fused = attention.qkv(block.norm1(tokens)).unflatten(-1, (3, attention.num_heads, -1))
    query, key, value = fused.permute(2, 0, 3, 1, 4)  # part, image, head, token, width
    query, key = attention.q_norm(query), attention.k_norm(key)
    row = attention_rows(query[:, :, :1] * attention.scale, key).squeeze(-2)
    mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    tokens = tokens + block.ls1(attention.proj(mixed))
    return tokens + block.ls2(block.mlp(block.norm2(tokens))), row


def _gradient(values: Tensor, total: Callable[[Tensor], Tensor]) -> Tensor:
    with torch.enable_grad():
        values = values.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(total(values), values)
    return gradient


def _scaled(maps: Float[Tensor, "b n"], grid: tuple[int, int]) -> Float[Tensor, "b 1 rows columns"]:
    return F.normalize(maps, p=1.0).unflatten(-1, grid)[:, None]
