"""Batch norm over the rows of all processes, on the CPU too: torch's own needs a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dinoscope import distributed


def synchronize(module: nn.Module, device: torch.device) -> None:
    """Let every batch norm below `module` take its statistics over all processes; in place, weights and names stay."""
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(module)  # exchanges the children in place
        return
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm) and not isinstance(child, GlobalBatchNorm):
                parent.add_module(name, GlobalBatchNorm.like(child))


@contextlib.contextmanager
def statistics_held(module: nn.Module) -> Iterator[None]:
    """Leave the running statistics of every batch norm below `module` alone, in one of two equal forward passes.

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


class GlobalBatchNorm(_BatchNorm):
    """`nn.BatchNorm1d` and `2d` with mean and variance of all processes' rows, of which each has as many."""

    @classmethod
    def like(cls, source: _BatchNorm) -> GlobalBatchNorm:
        """The same layer, sharing weights and statistics."""
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
        count = input.numel() // input.shape[1] * distributed.world_size()
        shape = (1, -1, *[1] * (input.ndim - 2))
        values = input.double() if input.dtype == torch.float64 else input.float()
        mean = distributed.sum_with_gradient(values.sum(dim=rest)) / count
        centred = values - mean.view(shape)
        variance = distributed.sum_with_gradient(centred.square().sum(dim=rest)) / count
        self._remember(mean.detach(), variance.detach() * (count / max(count - 1, 1)))
        normed = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normed = normed * self.weight.view(shape) + self.bias.view(shape)
        return normed.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Float[Tensor, " c"], variance: Float[Tensor, " c"]) -> None:
        """Move the running statistics, which evaluation uses."""
        if not self.track_running_stats:
            return
        cast(Tensor, self.num_batches_tracked).add_(1)
        cast(Tensor, self.running_mean).lerp_(mean, self.momentum or 0.0)
        cast(Tensor, self.running_var).lerp_(variance, self.momentum or 0.0)
