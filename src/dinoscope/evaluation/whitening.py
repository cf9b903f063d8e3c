"""PCA whitening of features: less their mean, on their principal axes, with all axes at variance 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dinoscope.errors import UserError

_MIN_VARIANCE = 1e-5  # of an axis, as a share of the largest; others are noise, or all zero with few images


@dataclass(frozen=True)
class Whitening:
    """mean: [d] that is taken off features. axes: [d, k], the principal axes, scaled so that features spread evenly."""

    mean: Float[Tensor, " d"]
    axes: Float[Tensor, "d k"]

    def __call__(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Return features, less the mean, on the axes."""
        return (features.double() - self.mean) @ self.axes


def pca_whitening(features: Float[Tensor, "n d"], ridge: float = 0.0) -> Whitening:
    """Return the whitening (Jegou and Chum 2012) of features [n, d], after which their covariance is 1.

    ridge: added to the variance of each axis, as a share of the largest, so that axes of little variance stay small.
    Axes with less than 1e-5 of the largest variance are left out. Raises UserError if all features are the same.
    """
    vectors = features.double().cpu().numpy()
    mean = vectors.mean(axis=0)
    variances, axes = np.linalg.eigh((vectors - mean).T @ (vectors - mean) / len(vectors))
    largest = variances.max()
    if largest <= _MIN_VARIANCE**2:
        raise UserError("whitening needs images whose features differ: two at the very least, and better thousands")
    is_wide = variances > _MIN_VARIANCE * largest
    scaled = axes[:, is_wide] / np.sqrt(variances[is_wide] + ridge * largest)
    return Whitening(torch.as_tensor(mean), torch.as_tensor(scaled))
