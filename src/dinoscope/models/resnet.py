"""ResNets, whose last feature map stands for patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from jaxtyping import Float
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from dinoscope.models.network import Backbone, BackboneConfig
from dinoscope.models.strided_convolution import keep_gradients_of_single_cells
from dinoscope.types import Tokens


@dataclass(frozen=True)
class ResNetShape:
    """Sizes of a ResNet.

    width: channels of the first stage; doubled at each of the others.
    stem_stride: of a 3x3 convolution without pooling, for images of 32 to 64 px; 0 is ImageNet's stem of stride 4.
    """

    block: type[BasicBlock] | type[Bottleneck]
    layers: tuple[int, int, int, int]
    width: int = 64
    stem_stride: int = 0

    @property
    def patch(self) -> int:
        """Side of the square, in pixels, that one place of the last feature map stands for."""
        return 8 * (self.stem_stride or 4)


class ResNetBackbone(Backbone):
    """A ResNet; its last feature map is given as patches, its image feature is their mean (global pooling)."""

    net: ResNet

    def __init__(self, config: BackboneConfig, net: ResNet, patch_size: int) -> None:
        super().__init__(config, cast(int, net.num_features), patch_size)
        self.net = net

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Tokens:
        """The last feature map, row by row."""
        self.net.set_grad_checkpointing(self.checkpoint_activations)
        cells = self.net.forward_features(images)
        return Tokens(None, cells.flatten(2).transpose(1, 2), (cells.shape[-2], cells.shape[-1]))


def build_resnet(config: BackboneConfig, shape: ResNetShape) -> ResNetBackbone:
    """Build the network with fresh weights."""
    channels = tuple(shape.width * 2**stage for stage in range(4))
    net = ResNet(
        cast(Any, shape.block), shape.layers, num_classes=0, channels=channels, drop_path_rate=config.drop_path
    )
    if shape.stem_stride:
        # SimCLR, appendix B.9: for 32 px images the first convolution keeps the resolution, pooling is dropped.
        net.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=shape.stem_stride, padding=1, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        net.maxpool = nn.Identity()
    keep_gradients_of_single_cells(net)
    return ResNetBackbone(config, net, shape.patch)
