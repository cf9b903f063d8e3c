"""Scores of an image feature: what a gradient may point towards, and what a perturbed image may lose.

Every score takes features [b, dim] and gives [b], is differentiable, and needs no trained classifier.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from dinoscope.errors import UserError

Score = Callable[[Float[Tensor, "b d"]], Float[Tensor, " b"]]


def own_direction(features: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """Length of each feature along its own direction, held fixed: similarity to itself, without labels.

    The inner product, not the cosine: that one is at its maximum, where its gradient is zero.
    """
    return (features * F.normalize(features.detach(), dim=-1)).sum(dim=-1)


def cosine_to(features: Float[Tensor, "b d"], reference: Float[Tensor, "*b d"]) -> Float[Tensor, " b"]:
    """Cosine of each feature with the reference, one for all or one for each."""
    return F.cosine_similarity(features, reference.expand_as(features), dim=-1)


def vote_shares(
    features: Float[Tensor, "b d"],
    gallery: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
) -> Float[Tensor, "b classes"]:
    """Share of each class in the weighted vote of the k nearest gallery images (Wu et al. 2018, section 3.4).

    A neighbour's vote is exp(cosine / temperature); the shares sum to 1 and serve as probabilities. A k above
    the size of the gallery is lowered to it.

    Raises UserError where k is below 1 or the temperature not above 0.
    """
    if k < 1 or not temperature > 0:
        raise UserError(f"k must be at least 1 and the temperature above 0; got {k} and {temperature}")
    similarities = F.normalize(features, dim=-1) @ F.normalize(gallery, dim=-1).T
    nearest, index = similarities.topk(min(k, len(gallery)), dim=-1)
    weights = (nearest / temperature).softmax(dim=-1)
    return weights.new_zeros(len(features), num_classes).scatter_add(1, labels[index], weights)


def log_vote(
    features: Float[Tensor, "b d"],
    members: Float[Tensor, "m d"],
    k: int = 20,
    temperature: float = 0.07,
) -> Float[Tensor, " b"]:
    """Log of the vote that a class has from its own k nearest gallery images (`members`).

    Not divided by the votes of the other classes: where a class has all of them, the share is 1 whatever the
    image looks like, and its gradient zero.
    """
    similarities = F.normalize(features, dim=-1) @ F.normalize(members, dim=-1).T
    return torch.logsumexp(similarities.topk(min(k, len(members)), dim=-1).values / temperature, dim=-1)
