"""Vision Transformers of DINOv3 (Siméoni et al. 2025): rotary positions and registers, at any image size.

The network is timm's, so that its weights are named, and exported, as timm has them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import LayerNorm
from timm.layers.pos_embed_sincos import apply_rot_embed_cat
from timm.models.eva import Eva, EvaAttention, EvaBlock
from torch import Tensor, nn

from dinoscope.models.network import Backbone, BackboneConfig, ClassAttention, Depths, depths_by_block
from dinoscope.models.vit import check_patches, class_map, class_row, run_blocks
from dinoscope.types import Tokens

BASE = 100.0
"""The periods of the rotations grow from 1 to nearly this (facebookresearch/dinov3, rope_position_encoding.py)."""
EPS = 1e-5
"""Epsilon of every layer norm."""


@dataclass(frozen=True)
class RotaryShape:
    """Sizes of a Vision Transformer with rotary positions.

    hidden: width within the MLP. gated: whether the MLP is a SwiGLU.
    bias: whether queries and values have a bias; keys have none.
    layer_scale: first value of the factors of each residual branch.
    title: as the field writes it; "" for the name itself. size: side in pixels of the images that it is made for,
        by timm and by the official preprocessing.
    timm_arguments: what `timm.create_model` needs besides for the same feature; its default is the mean of the patches.
    """

    patch: int
    width: int
    depth: int
    heads: int
    hidden: int
    gated: bool = False
    bias: bool = False
    registers: int = 4
    layer_scale: float = 1e-5
    title: str = ""
    size: int = 256
    transformer = True
    family = "DINOv3 ViT"
    about = "Vision Transformers of DINOv3: rotary positions and registers"
    timm_arguments = {"global_pool": "token"}  # noqa: RUF012 (the same for all)

    def check(self, config: BackboneConfig) -> None:
        check_patches(config, self.patch)

    def baseline(self) -> RotaryShape:
        """Return the network whose residual branches count in full from the start; see `ViTShape.baseline`."""
        return replace(self, layer_scale=1.0)

    def build(self, config: BackboneConfig) -> RotaryBackbone:
        net = Eva(
            img_size=config.layout_size,
            patch_size=self.patch,
            in_chans=config.channels,
            num_classes=0,
            global_pool="token",
            embed_dim=self.width,
            depth=self.depth,
            num_heads=self.heads,
            qkv_bias=self.bias,
            mlp_ratio=self.hidden / self.width,
            swiglu_mlp=self.gated,
            swiglu_align_to=8 if self.gated else 0,
            drop_path_rate=config.drop_path,
            norm_layer=cast(Callable[..., nn.Module], functools.partial(LayerNorm, eps=EPS)),
            init_values=self.layer_scale,
            num_reg_tokens=self.registers,
            use_abs_pos_emb=False,
            use_rot_pos_emb=True,
            rope_type="dinov3",
            rope_temperature=BASE,
            rope_rotate_half=True,
            use_fc_norm=False,
            dynamic_img_size=True,
        )
        return RotaryBackbone(config, net, self)


def rotary_periods(width: int, device: torch.device | None = None) -> Float[Tensor, " p"]:
    """Return the width / 4 periods 100^(4i / width) of a head of that width, in float32."""
    return BASE ** (4 * torch.arange(width // 4, device=device, dtype=torch.float32) / width)


def rotary_table(
    grid: tuple[int, int], width: int, prefix: int, device: torch.device | None = None
) -> Float[Tensor, "n twice"]:
    """Return sine, then cosine, of the angles by which each token's query and key are turned.

    A patch at (y, x), each in [-1, 1] along its own side, is turned by 2 pi y / period, then by 2 pi x / period, for
    the `rotary_periods`. These width / 2 angles stand twice: channel c is turned together with channel c + width / 2.
    Tokens before the patches are not turned. In float32.

    width: of a head, a multiple of 4; the table is twice as wide.
    """
    periods = rotary_periods(width, device)
    sides = [2 * ((torch.arange(side, device=device, dtype=torch.float32) + 0.5) / side) - 1 for side in grid]
    places = torch.stack(torch.meshgrid(*sides, indexing="ij"), dim=-1).flatten(0, 1)
    angles = F.pad((2 * math.pi * places[:, :, None] / periods).flatten(1), (0, 0, prefix, 0)).repeat(1, 2)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


@dataclass(frozen=True)
class RotaryBlock:
    """A block of timm's as `AttentionBlock`, with the table of its grid."""

    block: EvaBlock
    table: Float[Tensor, "n twice"]

    @property
    def attention(self) -> EvaAttention:
        return cast(EvaAttention, self.block.attn)

    def __call__(self, tokens: Float[Tensor, "b n d"], /) -> Float[Tensor, "b n d"]:
        return cast(Tensor, self.block(tokens, rope=self.table[self.attention.num_prefix_tokens :]))

    def norm1(self, tokens: Float[Tensor, "b m d"], /) -> Float[Tensor, "b m d"]:
        return self.block.norm1(tokens)

    def queries(self, normed: Float[Tensor, "b n d"], part: slice) -> Float[Tensor, "b heads m e"]:
        projected = self._project(normed[:, part], 0, cast("Tensor | None", self.attention.q_bias))
        return self._turned(projected, self.table[part]) * self.attention.scale

    def keys(self, normed: Float[Tensor, "b n d"]) -> Float[Tensor, "b heads n e"]:
        return self._turned(self._project(normed, 1, None), self.table)

    def with_class_row(
        self, tokens: Float[Tensor, "b n d"]
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b heads n"]]:
        return self(tokens), class_row(self, tokens)

    def _project(self, normed: Tensor, part: int, bias: Tensor | None) -> Float[Tensor, "b heads m e"]:
        weight = cast(nn.Linear, self.attention.qkv).weight.chunk(3)[part]
        return F.linear(normed, weight, bias).unflatten(-1, (self.attention.num_heads, -1)).transpose(1, 2)

    def _turned(self, heads: Tensor, table: Tensor) -> Tensor:
        return apply_rot_embed_cat(heads, table, half=True)


class RotaryBackbone(Backbone):
    """A Vision Transformer with a class token and registers, whose patches get their positions in every attention.

    The image feature is the class token, as DINOv3 evaluates (timm takes the mean of the patches by default).
    """

    net: Eva
    probe_title = "class token and mean patch token of the last block"

    def __init__(self, config: BackboneConfig, net: Eva, shape: RotaryShape) -> None:
        super().__init__(config, net.embed_dim, shape.patch)
        self.net, self.shape = net, shape

    @property
    def patch_projection(self) -> nn.Module:
        return self.net.patch_embed

    @property
    def transformer(self) -> RotaryBackbone:
        return self

    @property
    def blocks(self) -> Sequence[EvaBlock]:
        return cast("list[EvaBlock]", list(self.net.blocks))

    def blocks_on(self, grid: tuple[int, int]) -> Sequence[RotaryBlock]:
        width = self.shape.width // self.shape.heads
        table = rotary_table(grid, width, self.prefix, cast(Tensor, self.net.cls_token).device)
        return [RotaryBlock(block, table) for block in self.blocks]

    @property
    def compiled_parts(self) -> Sequence[EvaBlock]:
        return self.blocks

    @property
    def depths(self) -> Depths:
        return depths_by_block(self.net, self.blocks)

    @property
    def prefix(self) -> int:
        return self.net.num_prefix_tokens

    @property
    def heads(self) -> int:
        return self.shape.heads

    @property
    def class_attention(self) -> ClassAttention:
        """See `Backbone`; -1 is the last block. A map sums to 1 less what the class token gives to prefix tokens."""
        return functools.partial(class_map, self)

    def norm(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return self.net.norm(tokens)

    def embed(self, images: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b n d"], tuple[int, int]]:
        """Return the input of the first block (class token, registers, patches), and the patch grid.

        Pixels beyond the last whole patch are left out, as the strided convolution does.
        """
        cells = self.net.patch_embed.proj(images)
        prefix = [cast(Tensor, token) for token in (self.net.cls_token, self.net.reg_token) if token is not None]
        tokens = [token.expand(images.shape[0], -1, -1) for token in prefix]
        return torch.cat([*tokens, cells.flatten(2).transpose(1, 2)], dim=1), (cells.shape[-2], cells.shape[-1])

    @property
    def probe_dim(self) -> int:
        return 2 * self.dim

    def probe_features(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Return the class token and the mean patch token of the last block, after the norm."""
        tokens = self(images)
        return torch.cat([tokens.feature, tokens.patches.mean(dim=1)], dim=1)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Tokens:
        tokens, grid = self.embed(images)
        tokens = self.net.norm(run_blocks(self, self.blocks_on(grid), tokens))
        return Tokens(tokens[:, 0], tokens[:, self.prefix :], grid)


SMALL = RotaryShape(16, 384, 12, 6, 1536, title="ViT-S/16 (DINOv3)")
SMALL_PLUS = RotaryShape(16, 384, 12, 6, 1536, gated=True, title="ViT-S+/16 (DINOv3)")
BASE_SIZE = RotaryShape(16, 768, 12, 12, 3072, title="ViT-B/16 (DINOv3)")
LARGE = RotaryShape(16, 1024, 24, 16, 4096, title="ViT-L/16 (DINOv3)")
HUGE_PLUS = RotaryShape(16, 1280, 32, 20, 5120, gated=True, title="ViT-H+/16 (DINOv3)")

NETWORKS: dict[str, RotaryShape] = {
    "vit_small_patch16_dinov3": SMALL,
    "vit_small_plus_patch16_dinov3": SMALL_PLUS,
    "vit_base_patch16_dinov3": BASE_SIZE,
    "vit_large_patch16_dinov3": LARGE,
    "vit_huge_plus_patch16_dinov3": HUGE_PLUS,
    "vit_7b_patch16_dinov3": RotaryShape(16, 4096, 40, 32, 8192, gated=True, title="ViT-7B/16 (DINOv3)"),
    "vit_small_patch16_dinov3_qkvb": replace(SMALL, bias=True),
    "vit_small_plus_patch16_dinov3_qkvb": replace(SMALL_PLUS, bias=True),
    "vit_base_patch16_dinov3_qkvb": replace(BASE_SIZE, bias=True),
    "vit_large_patch16_dinov3_qkvb": replace(LARGE, bias=True),
    "vit_huge_plus_patch16_dinov3_qkvb": replace(HUGE_PLUS, bias=True),
}
"""In timm's names; qkvb: with a bias of queries and values, as DINOv3's own files and Hugging Face's have it."""
