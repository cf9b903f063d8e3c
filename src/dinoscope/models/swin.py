"""Swin Transformers (Liu et al. 2021), which EsViT trains, at any image size.

The network is timm's, so that its weights are named, and exported, as timm has them. timm builds windows and masks for
one size; here they follow each feature map, as in timm's network built for images of that size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from timm.layers import PatchEmbed, resize_rel_pos_bias_table
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock, SwinTransformerStage
from torch import Tensor, nn

from dinoscope.models.network import Backbone, BackboneConfig, Depths, depths_by_block
from dinoscope.models.vit import check_patches
from dinoscope.types import Tokens

PROBE_BLOCKS = 4
"""Blocks whose mean cells make the feature for linear probes (EsViT's evaluation)."""
MASKED = -100.0
"""What is added to the attention between cells that the shift made neighbours (Swin's code)."""


@dataclass(frozen=True)
class SwinShape:
    """Sizes of a Swin Transformer.

    first_patch: side in pixels of the cells of the first stage; each further stage halves rows and columns.
    width: of the first stage; doubled at each of the others. depths, heads: of each stage.
    window: side in cells of the windows that attention is limited to.
    title: as the field writes it; "" for the name itself. size: side in pixels of the images that it is made for.
    timm_arguments: what `timm.create_model` needs besides for the same feature.
    """

    first_patch: int
    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int = 7
    title: str = ""
    size: int = 224
    transformer = True
    family = "Swin"
    about = "Swin Transformers, which EsViT trains: attention within windows; no class token"
    timm_arguments = {"global_pool": "avg"}  # noqa: RUF012 (the same for all)

    @property
    def patch(self) -> int:
        return self.first_patch * 2 ** (len(self.depths) - 1)

    def check(self, config: BackboneConfig) -> None:
        """Raise UserError if images of the config's layout are not made of whole cells of the first stage."""
        check_patches(config, self.first_patch)

    def baseline(self) -> SwinShape:
        return self

    def build(self, config: BackboneConfig) -> SwinBackbone:
        """Build timm's network for the layout of `config`: stages smaller than a window have a smaller one."""
        net = SwinTransformer(
            img_size=config.layout_size,
            patch_size=self.first_patch,
            in_chans=config.channels,
            num_classes=0,
            embed_dim=self.width,
            depths=self.depths,
            num_heads=self.heads,
            window_size=self.window,
            strict_img_size=False,
            drop_path_rate=config.drop_path,
        )
        cast(PatchEmbed, net.patch_embed).dynamic_img_pad = True
        for block in _blocks(net):
            block.__class__ = AnySizeBlock  # timm's constructor takes no other class of blocks
        return SwinBackbone(config, net, self)


def _blocks(net: SwinTransformer) -> list[SwinTransformerBlock]:
    return cast("list[SwinTransformerBlock]", list(chain.from_iterable(stage.blocks for stage in _stages(net))))


def _stages(net: SwinTransformer) -> list[SwinTransformerStage]:
    return cast("list[SwinTransformerStage]", list(net.layers))


class AnySizeBlock(SwinTransformerBlock):
    """timm's block for feature maps of any size.

    A window is no larger than the map, and is shifted only along a side that it does not cover. The bias of a pair of
    cells depends on their offset, so that a smaller window takes a part of the table.
    """

    def _attn(self, x: Float[Tensor, "b rows columns d"]) -> Float[Tensor, "b rows columns d"]:
        rows, columns = x.shape[1:3]
        most = cast("tuple[int, int]", self.attn.window_size)
        tall, wide = window = (min(most[0], rows), min(most[1], columns))
        shifts = any(self.target_shift_size)
        down, right = (
            side // 2 if shifts and side < of else 0 for side, of in zip(window, (rows, columns), strict=True)
        )
        cells = torch.roll(x, (-down, -right), dims=(1, 2)) if down or right else x
        # Cells of 0 fill up the last windows, and are attended to: as in timm and in Swin's code.
        cells = F.pad(cells, (0, 0, 0, -columns % wide, 0, -rows % tall))
        windows = cells.unflatten(1, (-1, tall)).unflatten(3, (-1, wide)).transpose(2, 3)
        grid = windows.shape[1:3]
        added = self._bias(window)
        if down or right:
            apart = _apart(windows.shape[1:5], (down, right), x.device)
            added = added + MASKED * apart[:, None].to(added.dtype)
        mixed = self._within(windows.flatten(1, 2).flatten(2, 3), added)
        cells = mixed.unflatten(2, window).unflatten(1, grid).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        cells = cells[:, :rows, :columns]
        return torch.roll(cells, (down, right), dims=(1, 2)) if down or right else cells

    def _bias(self, window: tuple[int, int]) -> Float[Tensor, "heads t t"]:
        (tall, wide), most = window, cast("tuple[int, int]", self.attn.window_size)
        index = cast(Tensor, self.attn.relative_position_index).view(*most, *most)
        index = index[:tall, :wide, :tall, :wide].flatten(2, 3).flatten(0, 1)
        return self.attn.relative_position_bias_table[index].permute(2, 0, 1)

    def _within(
        self, windows: Float[Tensor, "b n t d"], added: Float[Tensor, "*n heads t t"]
    ) -> Float[Tensor, "b n t d"]:
        qkv = self.attn.qkv(windows).unflatten(-1, (3, self.attn.num_heads, -1))
        query, key, value = qkv.permute(3, 0, 1, 4, 2, 5)  # part, image, window, head, cell, width
        attention = torch.softmax((query * self.attn.scale) @ key.transpose(-2, -1) + added, dim=-1)
        return self.attn.proj((attention.to(value.dtype) @ value).transpose(2, 3).flatten(3))


def _apart(windows: Sequence[int], shift: tuple[int, int], device: torch.device) -> Bool[Tensor, "n t t"]:
    """Return which cells of a window were no neighbours before the map was rolled.

    windows: rows and columns of windows, then of the cells of one.
    """
    sides = list[Tensor]()
    for count, side, by in zip(windows[:2], windows[2:], shift, strict=True):
        places = torch.arange(count * side, device=device)
        sides.append((places >= count * side - by).view(count, side))  # what was rolled round to the end
    down, right = sides
    part = (2 * down[:, None, :, None] + 1 * right[None, :, None, :]).flatten(2, 3).flatten(0, 1)
    return part[:, :, None] != part[:, None, :]


class SwinBackbone(Backbone):
    """A Swin Transformer without class token; its attention stays within windows, so that there is no map of it.

    The image feature is the mean of the last stage's cells after the final norm, the cells are the patches.
    """

    net: SwinTransformer
    traced_at_one_size = True

    def __init__(self, config: BackboneConfig, net: SwinTransformer, shape: SwinShape) -> None:
        super().__init__(config, net.num_features, shape.patch)
        self.net, self.shape = net, shape

    @property
    def patch_projection(self) -> nn.Module:
        return self.net.patch_embed

    @property
    def compiled_parts(self) -> Sequence[nn.Module]:
        return _blocks(self.net)

    @property
    def depths(self) -> Depths:
        return depths_by_block(self.net, self.compiled_parts)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Tokens:
        """Run the network; an image whose sides are no multiples of the first patch is padded with zeros."""
        if self.checkpoint_activations:
            self.net.set_grad_checkpointing()
        cells = self.net.forward_features(images)
        return Tokens(cells.mean(dim=(1, 2)), cells.flatten(1, 2), (cells.shape[1], cells.shape[2]))

    @property
    def _probe_widths(self) -> list[int]:
        widths = [self.shape.width * 2**stage for stage, depth in enumerate(self.shape.depths) for _ in range(depth)]
        return widths[-PROBE_BLOCKS:]

    @property
    def probe_dim(self) -> int:
        return sum(self._probe_widths)

    @property
    def probe_title(self) -> str:
        return f"mean cells of the last {len(self._probe_widths)} blocks"

    def probe_features(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Return mean cells of the last four blocks, those of the last stage after the final norm (EsViT)."""
        cells, means = self.net.patch_embed(images), list[Tensor]()
        for number, stage in enumerate(stages := _stages(self.net), start=1):
            cells = stage.downsample(cells)
            for block in cast("list[SwinTransformerBlock]", list(stage.blocks)):
                cells = block(cells)
                means.append((self.net.norm(cells) if number == len(stages) else cells).mean(dim=(1, 2)))
        return torch.cat(means[-PROBE_BLOCKS:], dim=1)

    def weights_for(self, config: BackboneConfig) -> dict[str, Tensor]:
        """Return the weights with tables of relative positions for the windows of that layout.

        A smaller window takes a part of the table, with which this network gives the same; for a larger one the table
        is resized as timm does.
        """
        config = replace(config, mean=self.config.mean, std=self.config.std)  # the channels are no part of the layout
        with torch.device("meta"):
            shapes = {name: tensor.shape for name, tensor in self.shape.build(config).net.state_dict().items()}
        return {
            name: tensor if tensor.shape == shapes[name] else _for_window(tensor, shapes[name])
            for name, tensor in self.net.state_dict().items()
        }


def _for_window(table: Float[Tensor, "offsets heads"], shape: torch.Size) -> Float[Tensor, "offsets2 heads"]:
    """Return the table of offsets from -(w - 1) to w - 1, row by row, for another window."""
    side, wanted = round(table.shape[0] ** 0.5), round(shape[0] ** 0.5)
    if wanted > side:
        old, new = (side + 1) // 2, (wanted + 1) // 2
        return resize_rel_pos_bias_table(table, (new, new), (shape[0], shape[1]), (old, old))
    edge = slice((side - wanted) // 2, (side + wanted) // 2)
    return table.unflatten(0, (side, side))[edge, edge].flatten(0, 1)


NETWORKS: dict[str, SwinShape] = {
    # As small as vit_micro_conv8, with as wide cells of 8 px at the end, for images of 32 to 64 px on a CPU.
    "swin_micro": SwinShape(4, 48, (2, 2), (2, 4), window=4, title="Swin-micro", size=64),
    "swin_tiny_patch4_window7_224": SwinShape(4, 96, (2, 2, 6, 2), (3, 6, 12, 24), title="Swin-T"),
    "swin_small_patch4_window7_224": SwinShape(4, 96, (2, 2, 18, 2), (3, 6, 12, 24), title="Swin-S"),
    "swin_base_patch4_window7_224": SwinShape(4, 128, (2, 2, 18, 2), (4, 8, 16, 32), title="Swin-B"),
}
