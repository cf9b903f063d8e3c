"""A convolutional network for images of 24 to 64 px, made for training within minutes, after airbench (Jordan 2024).

Like it: a fixed first layer of 2x2 pixels that takes out what neighbouring pixels and colours have in common, three
blocks of (3x3 convolution, max pool, batch norm, GELU, 3x3 convolution, batch norm, GELU), and convolutions that start
as the identity. Different: the filters of the first layer are Haar wavelets of opponent colours (of other channels,
their cosine transform), each scaled by a batch norm, where airbench whitens with the training images; widths for a CPU;
the image feature is the mean of the last cells; and no pixel is left out, so that the cells cover the image.

Source: K. Jordan 2024, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, sections 3.1 to 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dinoscope.models.layers import recomputed
from dinoscope.models.network import Backbone, BackboneConfig, Depths, depths_by_block
from dinoscope.types import Tokens


@dataclass(frozen=True)
class AirbenchShape:
    """Sizes of the network.

    widths: channels of the three blocks. title: as the field writes it; "" for the name itself.
    size: side in pixels of the images that it is made for.
    """

    widths: tuple[int, int, int]
    title: str = ""
    patch: int = 8
    size: int = 32
    transformer = False
    family = "airbench"
    about = "Convolutional networks for images of 24 to 64 px, trained within minutes on a CPU; no class token"

    def check(self, config: BackboneConfig) -> None:
        """Accept every image size."""

    def baseline(self) -> AirbenchShape:
        return self

    def build(self, config: BackboneConfig) -> AirbenchBackbone:
        return AirbenchBackbone(config, Airbench(self.widths, config.channels), self.patch)


class WhiteningStem(nn.Module):
    """The fixed filters of 2x2 pixels, each scaled to variance 1, with both signs: 8 a channel, before a GELU."""

    filters: Tensor

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.register_buffer("filters", haar_filters(channels), persistent=False)
        self.norm = nn.BatchNorm2d(len(self.filters), affine=False)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """Filter the images; the last row and column are repeated."""
        padded = F.pad(images, (0, 1, 0, 1), mode="replicate")
        cells = self.norm(F.conv2d(padded, self.filters.to(images.dtype)))
        return F.gelu(torch.cat([cells, -cells], dim=1))


class Block(nn.Module):
    """Two convolutions with batch norm and GELU; after the first one the resolution is halved."""

    def __init__(self, incoming: int, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _convolution(incoming, width), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = _convolution(width, width), nn.BatchNorm2d(width)

    def forward(self, cells: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Apply the block. A side of one cell is kept."""
        cells = self.conv1(cells)
        sides = [min(side, 2) for side in cells.shape[-2:]]
        cells = F.gelu(self.norm1(F.max_pool2d(cells, sides)))
        return F.gelu(self.norm2(self.conv2(cells)))


class Airbench(nn.Module):
    """Stem and blocks."""

    def __init__(self, widths: tuple[int, int, int], channels: int = 3) -> None:
        super().__init__()
        self.stem = WhiteningStem(channels)
        self.blocks = nn.ModuleList(Block(*pair) for pair in pairwise((2 * len(self.stem.filters), *widths)))


class AirbenchBackbone(Backbone):
    """The network as a backbone, without class token and attention."""

    net: Airbench

    def __init__(self, config: BackboneConfig, net: Airbench, patch_size: int) -> None:
        super().__init__(config, net.blocks[-1].conv2.out_channels, patch_size)  # pyright: ignore
        self.net = net

    @property
    def compiled_parts(self) -> Sequence[nn.Module]:
        return [self.net.stem, *self.net.blocks]

    @property
    def depths(self) -> Depths:
        return depths_by_block(self.net, list(self.net.blocks))

    def forward(self, images: Float[Tensor, "b c h w"]) -> Tokens:
        cells = images
        for part in self.compiled_parts:
            again = self.checkpoint_activations and torch.is_grad_enabled()
            cells = recomputed(part, cells) if again else part(cells)
        return Tokens(None, cells.flatten(2).transpose(1, 2), (cells.shape[-2], cells.shape[-1]))


def haar_filters(channels: int = 3) -> Float[Tensor, "f c 2 2"]:
    """Return the orthonormal filters: (mean, horizontal, vertical, diagonal) of (grey, red - blue, green - the others).

    They are close to the principal components of 2x2 patches of photographs, of which each colour's differences
    between neighbours have a small variance. Of other channels than RGB, they are of the discrete cosine transform
    (DCT-II) over the channels, which for three is the same but for a sign: their mean first, then their differences.
    """
    pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / 2**0.5
    wavelets = torch.einsum("ab,cd->acbd", pair, pair).reshape(4, 2, 2)
    if channels == 3:
        colors = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 2.0, -1.0]])
    else:
        places = torch.arange(channels)
        colors = torch.cos(torch.pi / channels * places[:, None] * (places + 0.5))
    return torch.einsum("cr,phw->cprhw", F.normalize(colors, dim=1), wavelets).reshape(-1, channels, 2, 2)


def _convolution(incoming: int, width: int) -> nn.Conv2d:
    layer = nn.Conv2d(incoming, width, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(layer.weight[:incoming])
    return layer


NETWORKS: dict[str, AirbenchShape] = {
    "airbench_micro": AirbenchShape((32, 128, 256), title="airbench-micro"),
    "airbench_small": AirbenchShape((64, 128, 256), title="airbench-small"),
    "airbench": AirbenchShape((64, 256, 256), title="airbench"),
}
