"""Losses of distillation: a student's projected features against those of a frozen teacher.

Cosine: 1 - cos, for features whose direction is compared, as k-NN does. MSE: with targets whitened by a layer norm
without scale and shift, so that its size does not depend on the teacher (Wei et al. 2022, arXiv:2205.14141, section 3).
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dinoscope.losses.dino import at_least_float32

Distance = Callable[[Float[Tensor, "*batch d"], Float[Tensor, "*batch d"]], Float[Tensor, "*batch"]]
"""(prediction, target) -> a number for each vector: 0 if they agree. Leading dimensions are broadcast."""


def cosine_distance(prediction: Float[Tensor, "*#batch d"], target: Float[Tensor, "*#batch d"]) -> Tensor:
    """Return 1 - cos of each pair of vectors, in [0, 2]."""
    return 1 - F.cosine_similarity(at_least_float32(prediction), at_least_float32(target), dim=-1)


def whitened_squared_error(prediction: Float[Tensor, "*#batch d"], target: Float[Tensor, "*#batch d"]) -> Tensor:
    """Return the mean over the d entries of (p - LN(t))^2, where LN has neither scale nor shift."""
    target = at_least_float32(target)
    return (at_least_float32(prediction) - F.layer_norm(target, target.shape[-1:])).square().mean(dim=-1)


DISTANCES: dict[str, Distance] = {"cosine": cosine_distance, "mse": whitened_squared_error}


def view_distances(
    prediction: Float[Tensor, "v b d"], target: Float[Tensor, "g b d"], distance: Distance
) -> Float[Tensor, ""]:
    """Return the mean distance of the pairs that a teacher of g global views teaches, over the b images.

    A student's global view is paired with the same view; each of its other v - g views with all g of the teacher's.
    """
    shared = len(target)
    same = distance(prediction[:shared], target).mean(dim=-1)  # [g]
    # v - g rows of the student, g columns of the teacher
    others = distance(prediction[shared:, None], target[None]).mean(dim=-1)
    return (same.sum() + others.sum()) / (same.numel() + others.numel())


def resized_patches(
    patches: Float[Tensor, "n p d"], grid: tuple[int, int], wanted: tuple[int, int]
) -> Float[Tensor, "n q d"]:
    """Return the features of a grid of patches, in row-major order, interpolated bilinearly to another grid."""
    if grid == wanted:
        return patches
    cells = patches.transpose(1, 2).reshape(len(patches), -1, *grid)
    resized = F.interpolate(cells, size=wanted, mode="bilinear", align_corners=False)
    return resized.flatten(2).transpose(1, 2)
