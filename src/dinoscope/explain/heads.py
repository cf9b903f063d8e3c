"""How the heads of one block differ: how spread each head's attention is, and how alike the heads are."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from dinoscope.errors import UserError
from dinoscope.explain.attention import map_masks


def entropy(maps: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch"]:
    """Entropy of each map in nats, divided by that of an even map (log of the number of patches): 0 to 1.

    0: all on one patch. 1: even, as is a map of one patch or of zeros. A map is scaled to sum to 1 first, so
    that what a class token gives to itself does not count.
    """
    patches = maps.flatten(-2)
    if patches.shape[-1] == 1:
        return torch.ones_like(patches[..., 0])
    return _nats(_shares(patches)) / math.log(patches.shape[-1])


def pair_agreement(maps: Float[Tensor, "*batch heads rows columns"]) -> Float[Tensor, "*batch"]:
    """Mean over all pairs of heads of 1 - Jensen-Shannon divergence / log 2 (Lin 1991): 0 to 1.

    1: all heads attend alike. 0: no two heads share a patch. It needs no threshold.

    Raises UserError with fewer than two heads, where there is nothing to agree with.
    """
    first, second = _pairs(maps.flatten(-2))
    first, second = _shares(first), _shares(second)
    divergence = _nats((first + second) / 2) - (_nats(first) + _nats(second)) / 2
    return (1 - divergence / math.log(2)).clamp(0, 1).mean(dim=-1)


def mask_overlap(maps: Float[Tensor, "*batch heads rows columns"], mass: float) -> Float[Tensor, "*batch"]:
    """Mean over all pairs of heads of the Jaccard of their masks that hold the share `mass` of the attention.

    Masks that each cover the share s of an image, and know nothing of each other, overlap by s / (2 - s).

    Raises UserError with fewer than two heads, or where mass is not in (0, 1].
    """
    first, second = _pairs(map_masks(maps, mass).flatten(-2))
    union = (first | second).sum(dim=-1)
    overlap = (first & second).sum(dim=-1) / union
    return overlap.where(union > 0, 1.0).mean(dim=-1)


def _pairs(heads: Tensor) -> tuple[Tensor, Tensor]:
    """Both members of every pair of heads, [*batch, pairs, n] each."""
    count = heads.shape[-2]
    if count < 2:
        raise UserError("one map agrees with nothing: agreement needs a block with two heads or more")
    first, second = torch.triu_indices(count, count, offset=1, device=heads.device)
    return heads[..., first, :], heads[..., second, :]


def _shares(patches: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """Scaled to sum to 1 in float64; zeros become even."""
    patches = patches.double()
    total = patches.sum(dim=-1, keepdim=True)
    return (patches / total).where(total > 0, 1 / patches.shape[-1])


def _nats(shares: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    return torch.special.entr(shares).sum(dim=-1)
