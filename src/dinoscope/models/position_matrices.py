"""Resized position embeddings as matrix products, for programs whose image size is known only when they run.

`torch.nn.functional.interpolate` with a scale factor is frozen to one size when a network is traced; products with
matrices that are made of the grid's size are not.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

REFERENCE_CUBIC, ANTIALIASED_CUBIC = -0.75, -0.5
"""The cubic's parameter a (Keys 1981) in torch's bicubic interpolation, without and with antialiasing."""


def resized_by_matrices(embedding: Tensor, prefix: int, grid: tuple[int, int], *, antialias: bool = False) -> Tensor:
    """`resized_position_embedding`, for a grid of unknown size: embedding [1, n, d] to [1, prefix + rows * columns, d].

    At the trained grid the embedding is given back exactly.
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
    """Weights [count, trained] of a bicubic resize by (count + 0.1) / trained; cells beyond the edge are the edge's."""
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
    """Weights [count, trained] of a bicubic resize whose kernel is as wide as the coarser grid; rows sum to 1."""
    trained = own.shape[0]
    scale = trained / number.shape[0]
    width = torch.ones((), dtype=dtype, device=number.device).mul(scale).clamp(min=1)
    place = (number.to(dtype) + 0.5) * scale
    weights = _cubic((own.to(dtype) + 0.5 - place[:, None]) / width, ANTIALIASED_CUBIC)
    return weights / weights.sum(dim=1, keepdim=True)


def _cubic(distance: Tensor, a: float) -> Tensor:
    """The cubic convolution kernel (Keys 1981, Eq. 15); 0 from a distance of 2."""
    x = distance.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
