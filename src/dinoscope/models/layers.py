"""Layers that torch lacks: a convolutional stem, strided convolutions with exact gradients, global batch norm."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import cast

import torch
from jaxtyping import Float
from timm.layers.attention import Attention
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from dinoscope import distributed
from dinoscope.models.network import modules_of


class ConvStem(nn.Sequential):
    """3x3 convolutions of stride 2 down to one cell per `patch` pixels, then a 1x1 projection to `width`.

    For small Vision Transformers (Xiao et al. 2021, "Early convolutions help...").

    Batch-independent (GroupNorm), so that teacher and student, one process or many, see the same function.
    """

    def __init__(self, patch: int, width: int, channels: int = 3) -> None:
        stages = int(math.log2(patch))
        if 2**stages != patch:
            raise ValueError(f"a convolutional stem needs a patch that is a power of two, not {patch}")
        widths = [channels, *(max(width // 2 ** (stages - stage), 16) for stage in range(1, stages + 1))]
        layers: list[nn.Module] = []
        for incoming, outgoing in pairwise(widths):
            layers += [
                nn.Conv2d(incoming, outgoing, 3, stride=2, padding=1, bias=False),
                nn.GroupNorm(1, outgoing),
                nn.GELU(),
            ]
        super().__init__(*layers, nn.Conv2d(widths[-1], width, 1))

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d rows columns"]:
        """Return cells of `patch` pixels."""
        return super().forward(input)


class StridedConv2d(nn.Conv2d):
    """`nn.Conv2d` with a stride, and as much padding as keeps the size without one (kernel = 2 padding + 1).

    For an input that is one cell wide, in bf16 on the CPU, oneDNN does not write the gradients of weights that fall on
    the padding: they are what the memory held before (seen with torch 2.14). Over one cell such a kernel makes a
    single step, so the stride has no effect there and is left out.
    """

    @classmethod
    def like(cls, source: nn.Conv2d) -> StridedConv2d:
        """Return the same layer, sharing the weights. Draws no random numbers."""
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
        """Convolve."""
        # This condition comes first, so that a trace for an export fixes no size.
        if not (input.device.type == "cpu" and torch.is_autocast_enabled("cpu")):
            return super().forward(input)
        stride = [1 if side == 1 else step for side, step in zip(input.shape[-2:], self.stride, strict=True)]
        return functional.conv2d(input, self.weight, self.bias, stride, self.padding, self.dilation, self.groups)


def keep_gradients_of_single_cells(network: nn.Module) -> None:
    """Replace every convolution with a stride by a `StridedConv2d`, in place; weights and names stay."""
    for parent, name, child in modules_of(network):
        if isinstance(child, nn.Conv2d) and not isinstance(child, StridedConv2d) and max(child.stride) > 1:
            parent.add_module(name, StridedConv2d.like(child))


def choose_kernels(network: nn.Module, device: torch.device, precision: str) -> None:
    """Choose the memory layout of convolutions and the kernel of attention for training, in place.

    Results are the same to rounding, and the choice depends on nothing but the arguments, so a resumed run repeats it.

    Layout: channels last if there are several convolutions, except in fp32 on a GPU, which has not been measured. A
    ViT's single convolution does not matter.
    Attention: torch's fused kernel, except in bf16 on a CPU, since its backward pass is several times slower there.
    benchmarks/README.md has the figures of both.
    """
    is_measured = device.type == "cpu" or precision != "fp32"
    if is_measured and sum(isinstance(module, nn.Conv2d) for module in network.modules()) > 1:
        network.to(memory_format=torch.channels_last)
    if device.type == "cpu" and precision == "bf16":
        for module in network.modules():
            if isinstance(module, Attention):
                module.fused_attn = False  # pyright: ignore[reportAttributeAccessIssue] (timm means it to be constant)


def synchronize(module: nn.Module, device: torch.device) -> None:
    """Let every batch norm below `module` take its statistics over all processes, in place."""
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(module)  # exchanges the children in place
        return
    for parent, name, child in modules_of(module):
        if isinstance(child, _BatchNorm) and not isinstance(child, GlobalBatchNorm):
            parent.add_module(name, GlobalBatchNorm.like(child))


@contextlib.contextmanager
def statistics_held(module: nn.Module) -> Iterator[None]:
    """Keep the running statistics of every batch norm below `module` fixed, in one of two equal forward passes.

    In training mode each still normalises by its batch. Not by `track_running_stats`: a recomputed block must save as
    many tensors as it did the first time.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    before = [(layer, layer.momentum, cast(Tensor, layer.num_batches_tracked).clone()) for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum, batches in before:
            layer.momentum = momentum
            cast(Tensor, layer.num_batches_tracked).copy_(batches)


def recomputed(block: nn.Module, input: Tensor) -> Tensor:
    """Return `block(input)`, which is run again in the backward pass; its batch statistics move the first time only."""

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return contextlib.nullcontext(), statistics_held(block)

    return cast(Tensor, checkpoint(block, input, use_reentrant=False, context_fn=contexts))


class GlobalBatchNorm(_BatchNorm):
    """`nn.BatchNorm1d` and `2d` over the rows of all processes, on the CPU too."""

    @classmethod
    def like(cls, source: _BatchNorm) -> GlobalBatchNorm:
        """Return the same layer, sharing weights and statistics."""
        layer = cls(source.num_features, source.eps, source.momentum, source.affine, source.track_running_stats)
        layer.weight, layer.bias = source.weight, source.bias
        layer.running_mean, layer.running_var = source.running_mean, source.running_var
        layer.num_batches_tracked = source.num_batches_tracked
        return layer.train(source.training)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"batch norm needs [batch, channels, ...], not {tuple(input.shape)}")

    def forward(self, input: Float[Tensor, "b c *space"]) -> Float[Tensor, "b c *space"]:
        """Normalise each channel over all but dimension 1 (Ioffe & Szegedy 2015)."""
        if not self.training or distributed.world_size() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        rest = [0, *range(2, input.ndim)]
        shape = (1, -1, *[1] * (input.ndim - 2))
        values = input.double() if input.dtype == torch.float64 else input.float()
        # Processes may have different numbers of rows (masked patches).
        own = values.new_full((1,), input.numel() // input.shape[1])
        total = distributed.sum_with_gradient(torch.cat([values.sum(dim=rest), own]))
        count = total[-1].detach()
        mean = total[:-1] / count
        centred = values - mean.view(shape)
        variance = distributed.sum_with_gradient(centred.square().sum(dim=rest)) / count
        self._remember(mean.detach(), variance.detach() * (count / (count - 1).clamp_min(1)))
        normed = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normed = normed * self.weight.view(shape) + self.bias.view(shape)
        return normed.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Float[Tensor, " c"], variance: Float[Tensor, " c"]) -> None:
        if not self.track_running_stats:
            return
        cast(Tensor, self.num_batches_tracked).add_(1)
        cast(Tensor, self.running_mean).lerp_(mean, self.momentum or 0.0)
        cast(Tensor, self.running_var).lerp_(variance, self.momentum or 0.0)
