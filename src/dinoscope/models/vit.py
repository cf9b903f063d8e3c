"""Vision Transformers of DINO, DeiT, MoCo v3 and DINOv2 (layer scale, registers), at any image size.

Position embeddings are resized to another grid than the trained one as the released weights were trained with.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dinoscope.errors import UserError
from dinoscope.models.layers import ConvStem
from dinoscope.models.network import (
    AttentionBlock,
    Backbone,
    BackboneConfig,
    ClassAttention,
    Depths,
    MaskedForward,
    Transformer,
    VisibleForward,
    depths_by_block,
)
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
    layer_scale: first value of the factors of each residual branch; 0 if there are none.
    registers: tokens between the class token and the patches that stand for no part of the image; they also
        decide how position embeddings are resized, see `resized_position_embedding`.
    token_std: standard deviation that class token and registers are drawn with.
    title: as the field writes it; "" for the name itself.
    size: side in pixels of the images that it is made for.
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
    title: str = ""
    size: int = field(default=224, compare=False)
    transformer = True
    family = "ViT"
    about = "Vision Transformers of DINO, DeiT, MoCo v3 and DINOv2: attention of a class token, which maps show"

    def check(self, config: BackboneConfig) -> None:
        check_patches(config, self.patch)

    def baseline(self) -> ViTShape:
        """Return the network whose residual branches count in full from the start.

        Training may start from branches of nearly 0 (DINOv2's layer scale of 1e-5), which would leave the patch
        projection and the positions alone.
        """
        return replace(self, layer_scale=1.0 if self.layer_scale else 0.0, token_std=ViTShape.token_std)

    def build(self, config: BackboneConfig) -> ViTBackbone:
        net = VisionTransformer(
            img_size=config.layout_size,
            patch_size=self.patch,
            in_chans=config.channels,
            embed_dim=self.width,
            depth=self.depth,
            num_heads=self.heads,
            mlp_ratio=self.mlp_ratio,
            num_classes=0,
            init_values=self.layer_scale or None,
            reg_tokens=self.registers,
            no_embed_class=self.registers > 0,
            drop_path_rate=config.drop_path,
            norm_layer=cast(Callable[..., nn.Module], lambda width, **kwargs: nn.LayerNorm(width, eps=1e-6, **kwargs)),
        )
        with torch.no_grad():
            # Scaled instead of drawn again, so that the random numbers after them stay the same.
            for token in (net.cls_token, net.reg_token):
                if token is not None:
                    token.mul_(self.token_std / TIMM_TOKEN_STD)
        stem = ConvStem(self.patch, self.width, config.channels) if self.stem == "conv" else net.patch_embed.proj
        net.patch_embed = nn.Sequential()
        net.patch_embed.proj = stem
        return ViTBackbone(config, net, self)


@dataclass(frozen=True)
class PlainBlock:
    """A block of timm's as `AttentionBlock`: queries and keys have no positions of their own."""

    block: Block

    def __call__(self, tokens: Float[Tensor, "b n d"], /) -> Float[Tensor, "b n d"]:
        return cast(Tensor, self.block(tokens))

    def norm1(self, tokens: Float[Tensor, "b m d"], /) -> Float[Tensor, "b m d"]:
        return self.block.norm1(tokens)

    def queries(self, normed: Float[Tensor, "b n d"], part: slice) -> Float[Tensor, "b heads m e"]:
        attention = cast(Attention, self.block.attn)
        return attention.q_norm(_project(attention, normed[:, part], part=0)) * attention.scale

    def keys(self, normed: Float[Tensor, "b n d"]) -> Float[Tensor, "b heads n e"]:
        attention = cast(Attention, self.block.attn)
        return attention.k_norm(_project(attention, normed, part=1))

    def with_class_row(
        self, tokens: Float[Tensor, "b n d"]
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b heads n"]]:
        """See `AttentionBlock`; both come from one projection."""
        block, attention = self.block, cast(Attention, self.block.attn)
        fused = attention.qkv(block.norm1(tokens)).unflatten(-1, (3, attention.num_heads, -1))
        query, key, value = fused.permute(2, 0, 3, 1, 4)  # part, image, head, token, width
        query, key = attention.q_norm(query), attention.k_norm(key)
        row = attention_rows(query[:, :, :1] * attention.scale, key).squeeze(-2)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        tokens = tokens + block.ls1(attention.proj(mixed))
        return tokens + block.ls2(block.mlp(block.norm2(tokens))), row


class ViTBackbone(Backbone):
    """A Vision Transformer with a class token, followed by the registers if it has any.

    With registers, only patches have a position: that of the class token is part of the token itself, as in timm.
    """

    net: VisionTransformer

    def __init__(self, config: BackboneConfig, net: VisionTransformer, shape: ViTShape) -> None:
        super().__init__(config, net.embed_dim, shape.patch)
        self.net, self.shape = net, shape

    @property
    def patch_projection(self) -> nn.Module:
        return cast(nn.Module, self.net.patch_embed)

    @property
    def transformer(self) -> ViTBackbone:
        return self

    @property
    def blocks(self) -> Sequence[Block]:
        return cast("list[Block]", list(self.net.blocks))

    def blocks_on(self, grid: tuple[int, int]) -> Sequence[PlainBlock]:
        return [PlainBlock(block) for block in self.blocks]

    @property
    def compiled_parts(self) -> Sequence[Block]:
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

    def weights_for(self, config: BackboneConfig) -> dict[str, Tensor]:
        """Return the weights with position embeddings resized to the layout of `config`, as `embed` resizes them."""
        side = config.layout_size // self.patch_size
        return self.net.state_dict() | {"pos_embed": self.positions((side, side))}

    def embed(
        self,
        images: Float[Tensor, "b c h w"],
        mask: Bool[Tensor, "b m"] | None = None,
        mask_token: Float[Tensor, "1 d"] | None = None,
    ) -> tuple[Float[Tensor, "b n d"], tuple[int, int]]:
        """Return the input of the first block (prefix tokens, then patch tokens, positions added), and the patch grid.

        Pixels beyond the last whole patch are left out, as the strided convolution does. With a mask, the mask token
        takes the place of the masked patches (BEiT, Bao et al. 2022, section 2.3).
        """
        cells = self.net.patch_embed(images)
        rows, columns = cells.shape[-2:]
        patches, grid = cells.flatten(2).transpose(1, 2), (rows, columns)
        if mask is not None and mask_token is not None:
            patches = torch.where(mask[:, :, None], mask_token.to(patches.dtype), patches)
        class_token = cast(Tensor, self.net.cls_token).expand(images.shape[0], -1, -1)  # len() would fix it in a trace
        if not self.shape.registers:
            return torch.cat([class_token, patches], dim=1) + self.positions(grid), grid
        registers = cast(Tensor, self.net.reg_token).expand(images.shape[0], -1, -1)
        return torch.cat([class_token, registers, patches + self.positions(grid)], dim=1), grid

    def positions(self, grid: tuple[int, int]) -> Float[Tensor, "1 m d"]:
        """Return the position embedding resized to `grid`: of class token and patches; with registers, of patches."""
        registers = self.shape.registers > 0
        embedding = cast(Tensor, self.net.pos_embed)
        return resized_position_embedding(embedding, 0 if registers else 1, grid, antialias=registers)

    def run_blocks(self, tokens: Float[Tensor, "b n d"], stop: int | None = None) -> Float[Tensor, "b n d"]:
        """Return the tokens after the blocks before `stop` (all by default; negative counts from the end)."""
        return run_blocks(self, self.net.blocks[:stop], tokens)

    def feature(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Return `forward(images).cls`, without what the last block computes for the patches."""
        tokens, _ = self.embed(images)
        last = cast(Block, self.net.blocks[-1])
        return self.net.norm(class_token_after(last, self.run_blocks(tokens, stop=-1)))[:, 0]

    @property
    def probe_dim(self) -> int:
        return self.dim * (2 if self.dim >= WIDE else min(LINEAR_BLOCKS, len(self.net.blocks)))

    @property
    def probe_title(self) -> str:
        if self.dim >= WIDE:
            return "class token and mean patch token of the last block"
        blocks = self.probe_dim // self.dim
        return f"class tokens of the last {blocks} blocks" if blocks > 1 else "class token of the last block"

    def probe_features(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Return the class tokens of the last four blocks (of all, if there are fewer), each after the final norm.

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

    @property
    def masked_forward(self) -> MaskedForward:
        """See `Backbone`."""
        return self.forward

    @property
    def visible_forward(self) -> VisibleForward:
        """See `Backbone`; tokens after the final norm. A patch keeps the position that it has in the whole image."""
        return self._forward_visible

    def _forward_visible(self, images: Float[Tensor, "b c h w"], visible: Int[Tensor, "b v"]) -> Float[Tensor, "b m d"]:
        if self.shape.stem == "conv":
            images = self._without_others(images, visible)
        tokens, _ = self.embed(images)
        prefix, patches = tokens[:, : self.prefix], tokens[:, self.prefix :]
        chosen = patches.gather(1, visible[:, :, None].expand(-1, -1, patches.shape[-1]))
        return self.net.norm(self.run_blocks(torch.cat([prefix, chosen], dim=1)))

    def _without_others(
        self, images: Float[Tensor, "b c h w"], visible: Int[Tensor, "b v"]
    ) -> Float[Tensor, "b c h w"]:
        """Return the images with the mean colour in all other patches: the cells of a stem see their neighbours."""
        side, (rows, columns) = self.patch_size, (size // self.patch_size for size in images.shape[-2:])
        shown = images.new_zeros(len(images), rows * columns).scatter(1, visible, 1.0).view(-1, 1, rows, columns)
        return images * shown.repeat_interleave(side, dim=2).repeat_interleave(side, dim=3)

    def forward(
        self,
        images: Float[Tensor, "b c h w"],
        mask: Bool[Tensor, "b m"] | None = None,
        mask_token: Float[Tensor, "1 d"] | None = None,
    ) -> Tokens:
        tokens, grid = self.embed(images, mask, mask_token)
        tokens = self.net.norm(self.run_blocks(tokens))
        return Tokens(tokens[:, 0], tokens[:, self.prefix :], grid)


def check_patches(config: BackboneConfig, patch: int) -> None:
    """Raise UserError if images of the config's layout are not made of whole patches."""
    size = config.layout_size
    if size % patch:
        raise UserError(
            f"{config.name} needs an image size that is a multiple of its patch of {patch} px; "
            f"{size} is not (nearest: {round(size / patch) * patch})"
        )


def run_blocks(
    backbone: Backbone, blocks: Iterable[Callable[[Tensor], Tensor]], tokens: Float[Tensor, "b n d"]
) -> Float[Tensor, "b n d"]:
    """Return the tokens after the blocks, whose activations are recomputed if the backbone is told to."""
    for block in blocks:
        if backbone.checkpoint_activations and torch.is_grad_enabled():
            tokens = cast(Tensor, checkpoint(block, tokens, use_reentrant=False))
        else:
            tokens = block(tokens)
    return tokens


def class_map(
    transformer: Transformer, images: Float[Tensor, "b c h w"], block: int
) -> Float[Tensor, "b heads rows columns"]:
    """Return the attention of the class token to the patches in a block, for each head (`ClassAttention`)."""
    tokens, grid = transformer.embed(images)
    *before, last = transformer.blocks_on(grid)[: block_index(transformer, block) + 1]
    for each in before:
        tokens = each(tokens)
    return class_row(last, tokens)[:, :, transformer.prefix :].unflatten(-1, grid)


def block_index(transformer: Transformer, block: int) -> int:
    """Return the block's number from the first one, which is 0; negative counts from the end.

    Raises UserError for a block that the network does not have.
    """
    depth = len(transformer.blocks)
    if not -depth <= block < depth:
        raise UserError(
            f"{transformer.config.name} has no block {block}: "
            f"its blocks are 0 to {depth - 1}, or, from the end, -1 to {-depth}"
        )
    return block % depth


def class_row(block: AttentionBlock, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b heads n"]:
    """Return the class token's row of attention: softmax(q k / sqrt(d)) for its q alone, never an N x N matrix."""
    normed = block.norm1(tokens)
    return attention_rows(block.queries(normed, slice(1)), block.keys(normed)).squeeze(-2)


def attention_rows(
    queries: Float[Tensor, "b heads m e"], keys: Float[Tensor, "b heads n e"]
) -> Float[Tensor, "b heads m n"]:
    """Return what each of the queries' tokens attends to; a row sums to 1."""
    return (queries @ keys.transpose(-2, -1)).softmax(dim=-1)


def _project(attention: Attention, tokens: Float[Tensor, "b n d"], part: int) -> Float[Tensor, "b heads n e"]:
    # One third of timm's fused projection: queries (0), keys (1) or values (2). Heads come first, as timm's q_norm and
    # k_norm work on the width of a head.
    weight = attention.qkv.weight.chunk(3)[part]
    bias = None if attention.qkv.bias is None else attention.qkv.bias.chunk(3)[part]
    return F.linear(tokens, weight, bias).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)


def class_token_after(block: Block, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b 1 d"]:
    """Return the class token after a block: keys and values of all tokens, everything else for that one only.

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


def sine_cosine_positions(width: int, side: int) -> Float[Tensor, "1 n d"]:
    """Return fixed positions of a square grid: sines and cosines of row, then of column (MoCo v3, section 5).

    width: a multiple of 4; wavelengths go from 2 pi to nearly 10,000 * 2 pi cells.
    """
    frequencies = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float32) / (width // 4))
    cells = torch.arange(side, dtype=torch.float32)
    rows, columns = torch.meshgrid(cells, cells, indexing="ij")
    angles = [place.flatten()[:, None] * frequencies for place in (rows, columns)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)[None]


@torch.no_grad()
def fix_positions(backbone: Backbone) -> None:
    """Set the positions to `sine_cosine_positions`, those of prefix tokens to 0, and train them no more."""
    positions = cast(Tensor, backbone.net.pos_embed)
    fixed = sine_cosine_positions(backbone.dim, backbone.config.layout_size // backbone.patch_size)
    prefix = positions.shape[1] - fixed.shape[1]
    positions.copy_(torch.cat([torch.zeros(1, prefix, backbone.dim), fixed], dim=1))
    positions.requires_grad_(False)


def resized_position_embedding(
    embedding: Float[Tensor, "1 n d"], prefix: int, grid: tuple[int, int], *, antialias: bool = False
) -> Float[Tensor, "1 m d"]:
    """Resize the patch positions (bicubic) to `grid` = (rows, columns); prefix positions stay.

    Without antialiasing, and with scale factor (cells + 0.1) / trained cells: DINO, and DINOv2 without registers,
    were trained with this, so a cleaner resize would give other features. With `antialias`, and exactly to the grid:
    DINOv2 with registers.
    """
    if any(isinstance(cells, torch.SymInt) for cells in grid):  # traced for images of any size
        return resized_by_matrices(embedding, prefix, grid, antialias=antialias)
    trained = math.isqrt(embedding.shape[1] - prefix)
    if grid == (trained, trained):
        return embedding
    cells = embedding[:, prefix:].reshape(1, trained, trained, -1).permute(0, 3, 1, 2)
    if antialias:
        resized = F.interpolate(cells, grid, mode="bicubic", antialias=True)
        return torch.cat([embedding[:, :prefix], resized.flatten(2).transpose(1, 2)], dim=1)
    scale = ((grid[0] + 0.1) / trained, (grid[1] + 0.1) / trained)
    resized = F.interpolate(cells, scale_factor=scale, mode="bicubic")
    return torch.cat([embedding[:, :prefix], resized.flatten(2).transpose(1, 2)], dim=1)


REFERENCE_CUBIC, ANTIALIASED_CUBIC = -0.75, -0.5
"""The cubic's parameter a (Keys 1981) in torch's bicubic interpolation, without and with antialiasing."""


def resized_by_matrices(embedding: Tensor, prefix: int, grid: tuple[int, int], *, antialias: bool = False) -> Tensor:
    """Return `resized_position_embedding` for a grid whose size is known only when the program runs.

    `torch.nn.functional.interpolate` with a scale factor is frozen to one size when a network is traced; products with
    matrices made of the grid's size are not. embedding [1, n, d] becomes [1, prefix + rows * columns, d]. At the
    trained grid the embedding is returned exactly.
    """
    trained = math.isqrt(embedding.shape[1] - prefix)
    cells = embedding[0, prefix:].unflatten(0, (trained, trained))
    make = _antialiased if antialias else _interpolating
    numbers = [torch.arange(count, device=embedding.device) for count in grid]
    as_trained = (numbers[0].sum() == trained * (trained - 1) // 2) & (numbers[1].sum() == trained * (trained - 1) // 2)
    own = torch.arange(trained, device=embedding.device)
    vertical, horizontal = (
        torch.where(as_trained, (number[:, None] == own).to(embedding.dtype), make(number, count, own, embedding.dtype))
        for number, count in zip(numbers, grid, strict=True)
    )
    # r rows, c columns of the new grid; t, u of the trained one; d width
    resized = torch.einsum("rt,tud,cu->rcd", vertical, cells, horizontal)
    return torch.cat([embedding[0, :prefix], resized.flatten(0, 1)])[None]


def _interpolating(number: Tensor, count: int, own: Tensor, dtype: torch.dtype) -> Tensor:
    # Weights [count, trained] of a bicubic resize by (count + 0.1) / trained; cells beyond the edge repeat the edge.
    trained = own.shape[0]
    place = (number.to(dtype) + 0.5) * (trained / (count + 0.1)) - 0.5
    before = place.floor()
    weights = torch.zeros(1, dtype=dtype, device=number.device)
    for offset in (-1, 0, 1, 2):
        taken = (before + offset).clamp(0, trained - 1)
        weight = _cubic(place - before - offset, REFERENCE_CUBIC)
        weights = weights + weight[:, None] * (taken[:, None] == own.to(dtype))
    return weights


def _antialiased(number: Tensor, count: int, own: Tensor, dtype: torch.dtype) -> Tensor:
    # Weights [count, trained] of a bicubic resize whose kernel is as wide as the coarser grid; rows sum to 1.
    trained = own.shape[0]
    scale = trained / number.shape[0]
    width = torch.ones((), dtype=dtype, device=number.device).mul(scale).clamp(min=1)
    place = (number.to(dtype) + 0.5) * scale
    weights = _cubic((own.to(dtype) + 0.5 - place[:, None]) / width, ANTIALIASED_CUBIC)
    return weights / weights.sum(dim=1, keepdim=True)


def _cubic(distance: Tensor, a: float) -> Tensor:
    # The cubic convolution kernel (Keys 1981, Eq. 15); 0 from a distance of 2.
    x = distance.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


NETWORKS: dict[str, ViTShape] = {
    "vit_micro_conv8": ViTShape(8, 96, 3, 3, stem="conv", mlp_ratio=2.0, title="ViT-micro/8", size=64),
    "vit_micro_patch4_64": ViTShape(4, 96, 3, 3, mlp_ratio=2.0, title="ViT-micro/4 (linear)", size=64),
    "vit_micro_patch8_64": ViTShape(8, 96, 3, 3, mlp_ratio=2.0, title="ViT-micro/8 (linear)", size=64),
    "vit_micro_patch16_64": ViTShape(16, 96, 3, 3, mlp_ratio=2.0, title="ViT-micro/16 (linear)", size=64),
    "vit_tiny_patch4_32": ViTShape(4, 192, 12, 3, title="ViT-Ti/4", size=32),
    "vit_tiny_patch8_64": ViTShape(8, 192, 12, 3, title="ViT-Ti/8", size=64),
    "vit_tiny_patch8_224": ViTShape(8, 192, 12, 3, title="ViT-Ti/8"),
    "vit_tiny_patch16_224": ViTShape(16, 192, 12, 3, title="ViT-Ti/16"),
    "vit_small_patch4_32": ViTShape(4, 384, 12, 6, title="ViT-S/4", size=32),
    "vit_small_patch8_64": ViTShape(8, 384, 12, 6, title="ViT-S/8", size=64),
    "vit_small_patch8_224": ViTShape(8, 384, 12, 6, title="ViT-S/8"),
    "vit_small_patch16_224": ViTShape(16, 384, 12, 6, title="ViT-S/16"),
    "vit_base_patch8_224": ViTShape(8, 768, 12, 12, title="ViT-B/8"),
    "vit_base_patch16_224": ViTShape(16, 768, 12, 12, title="ViT-B/16"),
    "deit_tiny_patch16_224": ViTShape(16, 192, 12, 3, title="ViT-Ti/16"),
    "deit_small_patch16_224": ViTShape(16, 384, 12, 6, title="ViT-S/16"),
    "deit_base_patch16_224": ViTShape(16, 768, 12, 12, title="ViT-B/16"),
    "vit_tiny_heads12_patch16_224": ViTShape(16, 192, 12, 12),  # solo-learn's ViT-Ti of MoCo v3
    "vit_small_heads12_patch16_224": ViTShape(16, 384, 12, 12, title="ViT-S/16 (12 heads)"),  # MoCo v3's ViT-S
    "vit_small_patch14_dinov2": ViTShape(14, 384, 12, 6, layer_scale=1e-5, token_std=1e-6),
    "vit_base_patch14_dinov2": ViTShape(14, 768, 12, 12, layer_scale=1e-5, token_std=1e-6),
    "vit_large_patch14_dinov2": ViTShape(14, 1024, 24, 16, layer_scale=1e-5, token_std=1e-6),
    "vit_large_patch16_dinov2": ViTShape(16, 1024, 24, 16, layer_scale=1e-5, token_std=1e-6, title="ViT-L/16"),
    "vit_small_patch14_reg4_dinov2": ViTShape(14, 384, 12, 6, registers=4, layer_scale=1e-5, token_std=1e-6),
    "vit_base_patch14_reg4_dinov2": ViTShape(14, 768, 12, 12, registers=4, layer_scale=1e-5, token_std=1e-6),
    "vit_large_patch14_reg4_dinov2": ViTShape(14, 1024, 24, 16, registers=4, layer_scale=1e-5, token_std=1e-6),
}
