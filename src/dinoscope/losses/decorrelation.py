"""Losses that decorrelate dimensions: VICReg (Bardes et al. 2022) and Barlow Twins (Zbontar et al. 2021).

Views are embeddings [v, n, d] of the whole batch, global views first: variances, covariances and correlations of a part
of it are other numbers. They are computed in float32 at least. v: view, n: image, d: dimension.
Both papers define a loss of two views. With more, a loss here is the mean over `pairs_with_global`; with two views it
is the published one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dinoscope.losses.dino import at_least_float32

VARIANCE_EPSILON = 1e-4
"""Added to a variance before its root (VICReg, Eq. 2), whose gradient is infinite at 0."""

BATCH_NORM_EPSILON = 1e-5
"""Epsilon of the batch norm that standardises embeddings in the released code of Barlow Twins."""

Pairs = Sequence[tuple[int, int]]


def pairs_with_global(views: int, num_global: int) -> Pairs:
    """Return the pairs (i, j), i < j, of different views of which the first is global: never two local views."""
    return [(i, j) for i, j in combinations(range(views), 2) if i < num_global]


class VICRegTerms(NamedTuple):
    """The three terms, unweighted, and the mean standard deviation of a dimension, without gradient."""

    invariance: Float[Tensor, ""]
    variance: Float[Tensor, ""]
    covariance: Float[Tensor, ""]
    deviation: Float[Tensor, ""]


def vicreg_terms(views: Float[Tensor, "v n d"], num_global: int) -> VICRegTerms:
    """Return VICReg's terms of n >= 2 images, as its released code scales them.

    Of a pair of views: the invariance (Eq. 5) is the mean over images and dimensions of the squared difference; the
    variance term (Eq. 1) is half the sum over both of the mean over dimensions of max(0, 1 - standard deviation); the
    covariance term (Eq. 4) is the sum over both of the squared covariances of different dimensions, divided by d.
    Variances and covariances are unbiased.
    """
    views = at_least_float32(views)
    images, dim = views.shape[1:]
    pairs = pairs_with_global(len(views), num_global)
    invariance = torch.stack([F.mse_loss(views[i], views[j]) for i, j in pairs]).mean()
    centered = views - views.mean(dim=1, keepdim=True)
    variances = centered.square().sum(dim=1) / (images - 1)
    deviations = torch.sqrt(variances + VARIANCE_EPSILON)
    hinges = F.relu(1 - deviations).mean(dim=1)
    squares = [_off_diagonal(view, view) for view in centered / (images - 1) ** 0.5]
    variance = torch.stack([(hinges[i] + hinges[j]) / 2 for i, j in pairs]).mean()
    covariance = torch.stack([(squares[i] + squares[j]) / dim for i, j in pairs]).mean()
    return VICRegTerms(invariance, variance, covariance, deviations.detach().mean())


class BarlowTerms(NamedTuple):
    """The two terms, unweighted, and the mean of the diagonal, without gradient."""

    on_diagonal: Float[Tensor, ""]
    off_diagonal: Float[Tensor, ""]
    correlation: Float[Tensor, ""]


def barlow_terms(views: Float[Tensor, "v n d"], num_global: int) -> BarlowTerms:
    """Return the terms of Barlow Twins (Eq. 1 and 2): sums over dimensions of (C_ii - 1)^2 and of C_ij^2, i != j.

    C is the cross-correlation between the dimensions of two views. Each dimension is standardised over the images by
    its biased variance plus 1e-5, as in the released code.
    """
    views = at_least_float32(views)
    images = views.shape[1]
    centered = views - views.mean(dim=1, keepdim=True)
    deviations = torch.sqrt(centered.square().mean(dim=1, keepdim=True) + BATCH_NORM_EPSILON)
    scaled = centered / deviations / images**0.5
    on_diagonal, off_diagonal, correlations = list[Tensor](), list[Tensor](), list[Tensor]()
    for i, j in pairs_with_global(len(views), num_global):
        correlation = (scaled[i] * scaled[j]).sum(dim=0)
        on_diagonal.append((correlation - 1).square().sum())
        off_diagonal.append(_off_diagonal(scaled[i], scaled[j]))
        correlations.append(correlation.detach().mean())
    return BarlowTerms(*(torch.stack(terms).mean() for terms in (on_diagonal, off_diagonal, correlations)))


def _off_diagonal(first: Float[Tensor, "n d"], second: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Return the sum of the squares of the elements of C = first^T second that are off the diagonal."""
    images, dim = first.shape
    if dim <= images:
        cross = first.T @ second
        return (cross - torch.diag(cross.diagonal())).square().sum()
    # |first^T second|^2 = <first first^T, second second^T>: products [n, n] instead of [d, d], which for the published
    # d of 8192 is 268 MB. So many dimensions of so few images are correlated: no difference of nearly equal numbers.
    gram = first @ first.T
    other = gram if second is first else second @ second.T
    return (gram * other).sum() - (first * second).sum(dim=0).square().sum()
