"""Vision Transformers of DINO, DeiT, MoCo v3 and DINOv2 (layer scale, registers), at any image size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dinoscope.models.network import Backbone, BackboneConfig
from dinoscope.models.position import resized_position_embedding
from dinoscope.models.stem import ConvStem
from dinoscope.types import Tokens

LINEAR_BLOCKS = 4
"""Blocks whose class tokens make the feature for linear probes (DINO's evaluation of ViT-S)."""
WIDE = 768
"""Width from which that feature is the last class token and the mean patch token instead (its ViT-B)."""
TIMM_TOKEN_STD = 1e-6
"""Standard deviation that timm draws class token and registers with, as DINOv2 does; DINO and DeiT take 0.02."""


@dataclass(frozen=True)
class ViTShape:
    """Sizes of a Vision Transformer.

    stem: "patch" (one strided convolution) or "conv" (see `ConvStem`).
    layer_scale: first value of the factors of each residual branch; 0 where there are none.
    registers: tokens between the class token and the patches that stand for no part of the image; they also
        decide how position embeddings are resized, see `resized_position_embedding`.
    token_std: standard deviation that class token and registers are drawn with.
    """

    patch: int
    width: int
    depth: int
    heads: int
    stem: str = "patch"
    mlp_ratio: float = 4.0
    layer_scale: float = 0.0
    registers: int = 0
    token_std: float = 0.02


class ViTBackbone(Backbone):
    """A Vision Transformer with a class token and, in a network with registers, those behind it.

    With registers, only patches have a position: that of the class token is part of the token itself, as in timm.
    """

    net: VisionTransformer

    def __init__(self, config: BackboneConfig, net: VisionTransformer, shape: ViTShape) -> None:
        super().__init__(config, net.embed_dim, shape.patch)
        self.net, self.shape = net, shape

    @property
    def patch_projection(self) -> nn.Module:
        """What turns pixels into patch tokens."""
        return cast(nn.Module, self.net.patch_embed)

    def embed(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b n d"], tuple[int, int]]:
        """Input of the first block: prefix tokens, then patch tokens, positions added; and the patch grid.

        Pixels beyond the last whole patch are left out, as the strided convolution does.
        """
        cells = self.net.patch_embed(images)
        rows, columns = cells.shape[-2:]
        patches, grid = cells.flatten(2).transpose(1, 2), (rows, columns)
        class_token = cast(Tensor, self.net.cls_token).expand(images.shape[0], -1, -1)  # len() would fix it in a trace
        if not self.shape.registers:
            return torch.cat([class_token, patches], dim=1) + self.positions(grid), grid
        registers = cast(Tensor, self.net.reg_token).expand(images.shape[0], -1, -1)
        return torch.cat([class_token, registers, patches + self.positions(grid)], dim=1), grid

    def positions(self, grid: tuple[int, int]) -> Float[Tensor, "1 m d"]:
        """The position embedding resized to `grid`: of class token and patches, or with registers of the patches."""
        registers = self.shape.registers > 0
        embedding = cast(Tensor, self.net.pos_embed)
        return resized_position_embedding(embedding, 0 if registers else 1, grid, antialias=registers)

    def run_blocks(self, tokens: Float[Tensor, "b n d"], stop: int | None = None) -> Float[Tensor, "b n d"]:
        """Tokens after the blocks before `stop` (all of them by default; negative counts from the end)."""
        for block in self.net.blocks[:stop]:
            if self.checkpoint_activations and torch.is_grad_enabled():
                tokens = cast(Tensor, checkpoint(block, tokens, use_reentrant=False))
            else:
                tokens = block(tokens)
        return tokens

    def feature(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """The class token alone: equal to `forward(images).cls`, without what the last block does for the patches."""
        tokens, _ = self.embed(images)
        last = cast(Block, self.net.blocks[-1])
        return self.net.norm(class_token_after(last, self.run_blocks(tokens, stop=-1)))[:, 0]

    @property
    def linear_dim(self) -> int:
        """Width of `linear_feature`."""
        return self.dim * (2 if self.dim >= WIDE else min(LINEAR_BLOCKS, len(self.net.blocks)))

    def linear_feature(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b f"]:
        """The class tokens of the last four blocks in order (of all, if there are fewer), each after the final norm.

        From a width of 768: the class token and the mean patch token of the last block, after the norm.
        """
        if self.dim >= WIDE:
            tokens = self(images)
            return torch.cat([tokens.feature, tokens.patches.mean(dim=1)], dim=1)
        hidden, _ = self.embed(images)
        *earlier, last = cast("list[Block]", list(self.net.blocks))
        start = max(0, len(earlier) + 1 - LINEAR_BLOCKS)
        hidden, class_tokens = self.run_blocks(hidden, stop=start), list[Tensor]()
        for block in earlier[start:]:
            hidden = block(hidden)
            class_tokens.append(hidden[:, 0])
        class_tokens.append(class_token_after(last, hidden)[:, 0])
        return self.net.norm(torch.stack(class_tokens, dim=1)).flatten(1)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Tokens:
        """Class and patch tokens after the final LayerNorm."""
        tokens, grid = self.embed(images)
        tokens = self.net.norm(self.run_blocks(tokens))
        return Tokens(tokens[:, 0], tokens[:, self.net.num_prefix_tokens :], grid)


def class_token_after(block: Block, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b 1 d"]:
    """The class token behind a block: keys and values of all tokens, everything else for that one only.

    Saves ten twelfths of the block's multiplications, and draws the same random numbers for stochastic depth.
    """
    attention = cast(Attention, block.attn)
    normed, (weight, bias) = block.norm1(tokens), (attention.qkv.weight, attention.qkv.bias)
    width = weight.shape[0] // 3
    query = F.linear(normed[:, :1], weight[:width], bias[:width]).unflatten(-1, (attention.num_heads, -1))
    key, value = (
        F.linear(normed, weight[width:], bias[width:]).unflatten(-1, (2, attention.num_heads, -1)).unbind(dim=2)
    )
    query, key = attention.q_norm(query.transpose(1, 2)), attention.k_norm(key.transpose(1, 2))
    mixed = F.scaled_dot_product_attention(query, key, value.transpose(1, 2)).transpose(1, 2).flatten(2)
    token = tokens[:, :1] + block.drop_path1(block.ls1(attention.proj(mixed)))
    return token + block.drop_path2(block.ls2(block.mlp(block.norm2(token))))


def build_vit(config: BackboneConfig, shape: ViTShape) -> ViTBackbone:
    """Build the network with fresh weights."""
    net = VisionTransformer(
        img_size=config.layout_size,
        patch_size=shape.patch,
        embed_dim=shape.width,
        depth=shape.depth,
        num_heads=shape.heads,
        mlp_ratio=shape.mlp_ratio,
        num_classes=0,
        init_values=shape.layer_scale or None,
        reg_tokens=shape.registers,
        no_embed_class=shape.registers > 0,
        drop_path_rate=config.drop_path,
        norm_layer=cast(Callable[..., nn.Module], lambda width, **kwargs: nn.LayerNorm(width, eps=1e-6, **kwargs)),
    )
    with torch.no_grad():
        # Scaled instead of drawn again: the random numbers behind them stay the same.
        for token in (net.cls_token, net.reg_token):
            if token is not None:
                token.mul_(shape.token_std / TIMM_TOKEN_STD)
    stem = ConvStem(shape.patch, shape.width) if shape.stem == "conv" else net.patch_embed.proj
    net.patch_embed = nn.Sequential()
    net.patch_embed.proj = stem
    return ViTBackbone(config, net, shape)
