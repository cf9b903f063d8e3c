"""Convolutions with a stride whose gradients hold for feature maps of one cell too, in bf16 on the CPU."""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class StridedConv2d(nn.Conv2d):
    """`nn.Conv2d` with a stride, and as much padding as keeps the size without one (kernel = 2 padding + 1).

    In bf16 on the CPU, of an input that is one cell wide, oneDNN leaves those gradients of the weights unwritten that
    fall on the padding: they are what the memory held before (seen with torch 2.14). Over one cell such a kernel makes
    a single step, so there the stride is nothing, and it is left away.
    """

    @classmethod
    def like(cls, source: nn.Conv2d) -> StridedConv2d:
        """The same layer, sharing the weights. Draws no random numbers."""
        layer = cls(
            source.in_channels,
            source.out_channels,
            cast(tuple[int, int], source.kernel_size),
            cast(tuple[int, int], source.stride),
            cast(tuple[int, int], source.padding),
            cast(tuple[int, int], source.dilation),
            source.groups,
            source.bias is not None,
            device="meta",
        )
        layer.weight, layer.bias = source.weight, source.bias
        return layer.train(source.training)

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """The convolution."""
        # Asked for first, so that a trace for an export fixes no size.
        if not (input.device.type == "cpu" and torch.is_autocast_enabled("cpu")):
            return super().forward(input)
        stride = [1 if side == 1 else step for side, step in zip(input.shape[-2:], self.stride, strict=True)]
        return functional.conv2d(input, self.weight, self.bias, stride, self.padding, self.dilation, self.groups)


def keep_gradients_of_single_cells(network: nn.Module) -> None:
    """Put a `StridedConv2d` for every convolution with a stride below `network`; in place, weights and names stay."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Conv2d) and not isinstance(child, StridedConv2d) and max(child.stride) > 1:
                parent.add_module(name, StridedConv2d.like(child))
