"""Contrastive losses: NT-Xent (SimCLR, Chen et al. 2020) and InfoNCE (MoCo, He et al. 2020).

Rows may have any length; `temperature` (tau) divides their cosines. `gather` joins the rows of all processes in rank
order, with gradients; `offset` is the position of this process's first row among them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dinoscope.losses.dino import at_least_float32
from dinoscope.losses.sinkhorn import Reduction, one_process


def nt_xent(
    first: Float[Tensor, "n d"],
    second: Float[Tensor, "n d"],
    temperature: float,
    *,
    gather: Reduction = one_process,
    offset: int = 0,
) -> Float[Tensor, ""]:
    """Return the normalised-temperature cross-entropy between two views of the same n images (SimCLR, Eq. 1).

    Each of the 2n embeddings has to find its twin among all others of the batch, itself excluded; mean over the 2n.
    """
    first, second = _unit(first, second)
    candidates = torch.cat([gather(first), gather(second)])
    batch = len(candidates) // 2
    own = torch.arange(len(first), device=first.device) + offset
    logits = torch.cat([first, second]) @ candidates.T / temperature
    # Rows: n of the first view, n of the second. Columns: all images' first view, then all images' second.
    itself, twin = torch.cat([own, own + batch]), torch.cat([own + batch, own])
    return F.cross_entropy(logits.scatter(1, itself[:, None], -torch.inf), twin)


def info_nce(
    query: Float[Tensor, "n d"], key: Float[Tensor, "n d"], queue: Float[Tensor, "m d"], temperature: float
) -> Float[Tensor, ""]:
    """Return the cross-entropy of finding each query's key among that key and the queue (MoCo, Eq. 1).

    Keys carry no gradient; the queue holds L2-normalised keys of earlier batches.
    """
    query, key = _unit(query, key)
    positive = (query * key).sum(dim=-1, keepdim=True)
    logits = torch.cat([positive, query @ queue.T.to(query.dtype)], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.int64, device=query.device))


def batch_info_nce(
    query: Float[Tensor, "n d"],
    key: Float[Tensor, "n d"],
    temperature: float,
    *,
    gather: Reduction = one_process,
    offset: int = 0,
) -> Float[Tensor, ""]:
    """Return the same among the keys of the whole batch, without a queue (MoCo v3, Chen et al. 2021, Eq. 1).

    Multiply by 2 tau for the paper's scale.
    """
    query, key = _unit(query, key)
    target = torch.arange(len(query), device=query.device) + offset
    return F.cross_entropy(query @ gather(key).T / temperature, target)


def _unit(*views: Tensor) -> Iterator[Tensor]:
    return (F.normalize(at_least_float32(view), dim=-1) for view in views)
