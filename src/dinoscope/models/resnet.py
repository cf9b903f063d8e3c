"""ResNets. The last feature map is given as patches; the image feature is their mean (global pooling)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, cast

import torch
from jaxtyping import Float
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from dinoscope.models.layers import keep_gradients_of_single_cells, recomputed
from dinoscope.models.network import Backbone, BackboneConfig, Depths, depths_by_block
from dinoscope.types import Tokens


@dataclass(frozen=True)
class ResNetShape:
    """Sizes of a ResNet.

    width: channels of the first stage; doubled at each of the others.
    stem_stride: of a 3x3 convolution without pooling, for images of 32 to 64 px; 0 is ImageNet's stem of stride 4.
    title: as the field writes it; "" for the name itself.
    """

    block: type[BasicBlock] | type[Bottleneck]
    layers: tuple[int, int, int, int]
    width: int = 64
    stem_stride: int = 0
    title: str = ""
    transformer = False
    family = "ResNet"
    about = "ResNets with ImageNet's stem, or with one of 3x3 pixels for small images; no class token"

    @property
    def patch(self) -> int:
        return 8 * (self.stem_stride or 4)

    @property
    def size(self) -> int:
        return 32 if self.stem_stride else 224

    def check(self, config: BackboneConfig) -> None:
        """Accept every image size."""

    def baseline(self) -> ResNetShape:
        return self

    def build(self, config: BackboneConfig) -> ResNetBackbone:
        """Build the network with fresh weights; every residual branch counts in full, as in torchvision."""
        net = ResNet(
            cast(Any, self.block),
            self.layers,
            num_classes=0,
            in_chans=config.channels,
            channels=tuple(self.width * 2**stage for stage in range(4)),
            drop_path_rate=config.drop_path,
            zero_init_last=False,
        )
        if self.stem_stride:
            # SimCLR, appendix B.9: for 32 px images the first convolution keeps the resolution, without pooling.
            net.conv1 = nn.Conv2d(config.channels, 64, kernel_size=3, stride=self.stem_stride, padding=1, bias=False)
            nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
            net.maxpool = nn.Identity()
        keep_gradients_of_single_cells(net)
        return ResNetBackbone(config, net, self.patch)


class ResNetBackbone(Backbone):
    """A ResNet without class token and attention."""

    net: ResNet

    def __init__(self, config: BackboneConfig, net: ResNet, patch_size: int) -> None:
        super().__init__(config, cast(int, net.num_features), patch_size)
        self.net = net

    @property
    def compiled_parts(self) -> Sequence[nn.Module]:
        return self.blocks

    @property
    def depths(self) -> Depths:
        return depths_by_block(self.net, self.blocks)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        stages = [self.net.layer1, self.net.layer2, self.net.layer3, self.net.layer4]
        return list(chain.from_iterable(cast("list[nn.Sequential]", stages)))

    def forward(self, images: Float[Tensor, "b c h w"]) -> Tokens:
        if self.checkpoint_activations and torch.is_grad_enabled():
            cells = self._recomputed_features(images)
        else:
            cells = self.net.forward_features(images)
        return Tokens(None, cells.flatten(2).transpose(1, 2), (cells.shape[-2], cells.shape[-1]))

    def _recomputed_features(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d rows columns"]:
        # `net.forward_features`, each block run again in the backward pass (timm's way moves statistics twice).
        cells = self.net.maxpool(self.net.act1(self.net.bn1(self.net.conv1(images))))
        for block in self.blocks:
            cells = recomputed(block, cells)
        return cells


def zero_residual_branches(module: nn.Module) -> None:
    """Make every block of the ResNets in `module` its shortcut: its last batch norm's factor 0 (Goyal et al. 2017)."""
    for block in module.modules():
        if isinstance(block, (BasicBlock, Bottleneck)):
            block.zero_init_last()


NETWORKS: dict[str, ResNetShape] = {
    "resnet_micro": ResNetShape(BasicBlock, (1, 1, 1, 1), width=32, stem_stride=2, title="RN-micro"),
    "resnet18": ResNetShape(BasicBlock, (2, 2, 2, 2), title="RN18"),
    "resnet18_small": ResNetShape(BasicBlock, (2, 2, 2, 2), stem_stride=1, title="RN18 (3x3 stem)"),
    "resnet50": ResNetShape(Bottleneck, (3, 4, 6, 3), title="RN50"),
    "resnet50_small": ResNetShape(Bottleneck, (3, 4, 6, 3), stem_stride=1, title="RN50 (3x3 stem)"),
}
