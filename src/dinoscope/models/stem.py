"""A convolutional stem for small Vision Transformers (Xiao et al. 2021, "Early convolutions help...")."""

from __future__ import annotations

import math
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn


class ConvStem(nn.Sequential):
    """3x3 convolutions of stride 2 down to one cell per `patch` pixels, then a 1x1 projection to `width`.

    Batch-independent (GroupNorm), so that teacher and student, one process or many, see the same function.
    """

    def __init__(self, patch: int, width: int) -> None:
        stages = int(math.log2(patch))
        if 2**stages != patch:
            raise ValueError(f"a convolutional stem needs a patch that is a power of two, not {patch}")
        channels = [3, *(max(width // 2 ** (stages - stage), 16) for stage in range(1, stages + 1))]
        layers: list[nn.Module] = []
        for incoming, outgoing in pairwise(channels):
            layers += [
                nn.Conv2d(incoming, outgoing, 3, stride=2, padding=1, bias=False),
                nn.GroupNorm(1, outgoing),
                nn.GELU(),
            ]
        super().__init__(*layers, nn.Conv2d(channels[-1], width, 1))

    def forward(self, input: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d rows columns"]:
        """Cells of `patch` pixels."""
        return super().forward(input)
