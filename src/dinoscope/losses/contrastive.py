"""Contrastive losses: NT-Xent (SimCLR, Chen et al. 2020) and InfoNCE (MoCo, He et al. 2020)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dinoscope.losses.dino import at_least_float32
from dinoscope.losses.sinkhorn import OverProcesses, alone


def nt_xent(
    first: Float[Tensor, "n d"],
    second: Float[Tensor, "n d"],
    temperature: float,
    *,
    gather: OverProcesses = alone,
    offset: int = 0,
) -> Float[Tensor, ""]:
    """Normalised-temperature cross-entropy between two views of the same n images (SimCLR, Eq. 1).

    Each of the 2n embeddings is to find its twin among all others of the batch, itself left out; mean over the 2n.

    Args:
        first, second: embeddings of this process's images, of any length; row i of both is image i.
        temperature: tau, divides the cosines.
        gather: rows of all processes, in rank order, with gradients.
        offset: place of this process's first row among the gathered ones.
    """
    first, second = (F.normalize(at_least_float32(view), dim=-1) for view in (first, second))
    everyone = torch.cat([gather(first), gather(second)])
    batch = len(everyone) // 2
    own = torch.arange(len(first), device=first.device) + offset
    logits = torch.cat([first, second]) @ everyone.T / temperature
    # Rows: n of the first view, n of the second. Columns: all images' first view, then all images' second.
    itself, twin = torch.cat([own, own + batch]), torch.cat([own + batch, own])
    logits = logits.scatter(1, itself[:, None], -torch.inf)
    return F.cross_entropy(logits, twin)


def info_nce(
    query: Float[Tensor, "n d"], key: Float[Tensor, "n d"], queue: Float[Tensor, "m d"], temperature: float
) -> Float[Tensor, ""]:
    """Each query is to find its key among that key and the m of the queue (MoCo, Eq. 1).

    Args:
        query, key: embeddings of two views of the same images, of any length. Keys carry no gradient.
        queue: L2-normalised keys of earlier batches.
        temperature: tau, divides the cosines.
    """
    query, key = (F.normalize(at_least_float32(view), dim=-1) for view in (query, key))
    positive = (query * key).sum(dim=-1, keepdim=True)
    logits = torch.cat([positive, query @ queue.T.to(query.dtype)], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.int64, device=query.device))


def batch_info_nce(
    query: Float[Tensor, "n d"],
    key: Float[Tensor, "n d"],
    temperature: float,
    *,
    gather: OverProcesses = alone,
    offset: int = 0,
) -> Float[Tensor, ""]:
    """Each query is to find its key among the keys of the whole batch: no queue (MoCo v3, Chen et al. 2021, Eq. 1).

    The arguments are those of `nt_xent`; multiply by 2 tau for the paper's scale.
    """
    query, key = (F.normalize(at_least_float32(view), dim=-1) for view in (query, key))
    target = torch.arange(len(query), device=query.device) + offset
    return F.cross_entropy(query @ gather(key).T / temperature, target)
