"""ConvNeXts (Liu et al. 2022) as DINOv3 distils them: the final norm is applied to the mean of the cells and to each.

The network is timm's; its patches are normalised here as in DINOv3, while timm leaves its feature map as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.models.convnext import ConvNeXt
from torch import Tensor, nn

from dinoscope.models.network import Backbone, BackboneConfig, Depths, depths_by_block
from dinoscope.types import Tokens


@dataclass(frozen=True)
class ConvNeXtShape:
    """Sizes of a ConvNeXt.

    depths: blocks of each stage. width: channels of the first stage; doubled at each of the others.
    layer_scale: first value of the factors of each residual branch.
    title: as the field writes it; "" for the name itself. size: side in pixels of the images that it is made for.
    """

    depths: tuple[int, int, int, int]
    width: int
    layer_scale: float = 1e-6
    title: str = ""
    patch: int = 32
    size: int = 224
    transformer = False
    family = "ConvNeXt"
    about = "ConvNeXts as DINOv3 distils them; no class token"

    def check(self, config: BackboneConfig) -> None:
        """Accept every image size."""

    def baseline(self) -> ConvNeXtShape:
        """Return the network whose residual branches count in full from the start; see `ViTShape.baseline`."""
        return replace(self, layer_scale=1.0)

    def build(self, config: BackboneConfig) -> ConvNeXtBackbone:
        net = ConvNeXt(
            in_chans=config.channels,
            num_classes=0,
            depths=self.depths,
            dims=tuple(self.width * 2**stage for stage in range(4)),
            ls_init_value=self.layer_scale,
            drop_path_rate=config.drop_path,
        )
        return ConvNeXtBackbone(config, net, self.patch)


class ConvNeXtBackbone(Backbone):
    """A ConvNeXt without attention. Its image feature is the mean of the last feature map after the final norm."""

    net: ConvNeXt

    def __init__(self, config: BackboneConfig, net: ConvNeXt, patch_size: int) -> None:
        super().__init__(config, net.num_features, patch_size)
        self.net = net

    @property
    def compiled_parts(self) -> Sequence[nn.Module]:
        return list(chain.from_iterable(cast(Any, stage).blocks for stage in self.net.stages))

    @property
    def depths(self) -> Depths:
        return depths_by_block(self.net, self.compiled_parts)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Tokens:
        if self.checkpoint_activations:
            self.net.set_grad_checkpointing()
        cells = self.net.forward_features(images)
        tokens = torch.cat([cells.mean(dim=(2, 3))[:, None], cells.flatten(2).transpose(1, 2)], dim=1)
        norm = cast(nn.LayerNorm, self.net.head.norm)
        tokens = F.layer_norm(tokens, (self.dim,), norm.weight, norm.bias, norm.eps)
        return Tokens(tokens[:, 0], tokens[:, 1:], (cells.shape[-2], cells.shape[-1]))


NETWORKS: dict[str, ConvNeXtShape] = {
    "convnext_tiny_dinov3": ConvNeXtShape((3, 3, 9, 3), 96, title="ConvNeXt-T (DINOv3)"),
    "convnext_small_dinov3": ConvNeXtShape((3, 3, 27, 3), 96, title="ConvNeXt-S (DINOv3)"),
    "convnext_base_dinov3": ConvNeXtShape((3, 3, 27, 3), 128, title="ConvNeXt-B (DINOv3)"),
    "convnext_large_dinov3": ConvNeXtShape((3, 3, 27, 3), 192, title="ConvNeXt-L (DINOv3)"),
}
