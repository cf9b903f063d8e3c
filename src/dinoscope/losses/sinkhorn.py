"""Sinkhorn-Knopp: soft assignments that use every output equally (Cuturi 2013; SwAV, Caron et al. 2020, Eq. 3-5)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

OverProcesses = Callable[[Tensor], Tensor]
"""A sum, a maximum or the joined rows of all processes."""


def alone(value: Tensor) -> Tensor:
    """Any of them on one process."""
    return value


def sinkhorn(
    logits: Float[Tensor, "n k"],
    temperature: float,
    iterations: int = 3,
    *,
    total: OverProcesses = alone,
    largest: OverProcesses = alone,
) -> Float[Tensor, "n k"]:
    """Scale exp(logits / temperature) until all outputs have the same mass over the batch; rows sum to 1.

    Args:
        logits: one row per sample of this process.
        temperature: epsilon of the papers.
        iterations: of normalising outputs, then samples; it always ends with the samples.
        total, largest: sum and maximum over all processes, where the batch is spread over several.
    """
    scaled = logits / temperature
    shares = torch.exp(scaled - largest(scaled.max()))
    for _ in range(iterations):
        shares = shares / total(shares.sum(dim=0)).clamp_min(torch.finfo(shares.dtype).tiny)
        shares = shares / shares.sum(dim=1, keepdim=True)
    return shares


def batch_softmax(
    logits: Float[Tensor, "n k"],
    temperature: float,
    *,
    total: OverProcesses = alone,
    largest: OverProcesses = alone,
) -> Float[Tensor, "n k"]:
    """Softmax over the batch for each output, then rows brought to sum 1 (DINO, Caron et al. 2021, appendix B).

    It is one iteration of `sinkhorn`, written so that nothing underflows: a softmax over the outputs of the logits
    less the logarithm of each output's mass, softmax(z - ln sum_batch exp z). So it too subtracts a centre, the
    batch's soft maximum in place of its mean.

    Args:
        logits: one row per sample of this process.
        temperature: divides the logits.
        total, largest: sum and maximum over all processes, where the batch is spread over several.
    """
    scaled = logits / temperature
    most = largest(scaled.amax(dim=0))
    mass = most + torch.log(total(torch.exp(scaled - most).sum(dim=0)))
    return torch.softmax(scaled - mass, dim=1)
