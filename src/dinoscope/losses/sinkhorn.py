"""Soft assignments that use every output equally (Cuturi 2013; SwAV, Caron et al. 2020, Eq. 3-5).

Logits are the rows of this process; `total` and `largest` are the sum and the maximum over all processes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Reduction = Callable[[Tensor], Tensor]
"""The sum, the maximum or the joined rows of all processes."""


def one_process(value: Tensor) -> Tensor:
    """Reduce over one process."""
    return value


def sinkhorn(
    logits: Float[Tensor, "n k"],
    temperature: float,
    iterations: int = 3,
    *,
    total: Reduction = one_process,
    largest: Reduction = one_process,
    present: Float[Tensor, " n"] | None = None,
) -> Float[Tensor, "n k"]:
    """Scale exp(logits / temperature) until all outputs have the same mass over the batch; rows sum to 1.

    An iteration normalises outputs, then samples. The temperature is the papers' epsilon.
    present: 0 for rows that are empty places, which have no mass and stay 0, and 1 for all others.
    """
    scaled, empty = logits / temperature, None
    if present is not None:
        empty = 1 - present[:, None]
        # No lower than any number, so that nothing is subtracted from itself when all rows are empty.
        scaled = scaled.masked_fill(empty > 0, torch.finfo(scaled.dtype).min)
    shares = torch.exp(scaled - largest(scaled.max()))
    shares = shares if present is None else shares * present[:, None]
    for _ in range(iterations):
        shares = shares / total(shares.sum(dim=0)).clamp_min(torch.finfo(shares.dtype).tiny)
        rows = shares.sum(dim=1, keepdim=True)
        shares = shares / (rows if empty is None else rows + empty)
    return shares


def batch_softmax(
    logits: Float[Tensor, "n k"],
    temperature: float,
    *,
    total: Reduction = one_process,
    largest: Reduction = one_process,
) -> Float[Tensor, "n k"]:
    """Return a softmax over the batch for each output, with rows scaled to sum 1 (Caron et al. 2021, appendix B).

    It is one iteration of `sinkhorn`, written so that nothing underflows: softmax(z - ln sum_batch exp z) over the
    outputs. So it subtracts a centre too: the batch's soft maximum instead of its mean.
    """
    scaled = logits / temperature
    maximum = largest(scaled.amax(dim=0))
    mass = maximum + torch.log(total(torch.exp(scaled - maximum).sum(dim=0)))
    return torch.softmax(scaled - mass, dim=1)
