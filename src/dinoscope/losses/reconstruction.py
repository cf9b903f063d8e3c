"""The loss of masked autoencoders (He et al. 2022, section 3): pixels of hidden patches."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dinoscope.losses.dino import at_least_float32

EPSILON = 1e-6
"""Added to the variance of a patch, so that one of a single colour becomes 0."""


def patch_pixels(images: Float[Tensor, "b c h w"], patch: int) -> Float[Tensor, "b n p"]:
    """Return the pixels of each patch of `patch` x `patch` in row-major order, values by row, column, channel."""
    cells = images.unfold(2, patch, patch).unfold(3, patch, patch)  # image, channel, row, column, then within a patch
    return cells.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


def image_of(patches: Float[Tensor, "b n p"], grid: tuple[int, int], patch: int) -> Float[Tensor, "b c h w"]:
    """Return the images that `patch_pixels` cut."""
    cells = patches.reshape(len(patches), *grid, patch, patch, -1)
    return cells.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def pixel_scale(patches: Float[Tensor, "*batch p"]) -> tuple[Float[Tensor, "*batch 1"], Float[Tensor, "*batch 1"]]:
    """Return mean and standard deviation of each patch's values, the latter as sqrt(unbiased variance + 1e-6)."""
    variance, mean = torch.var_mean(at_least_float32(patches), dim=-1, keepdim=True)
    return mean, (variance + EPSILON).sqrt()


def normalized_pixels(patches: Float[Tensor, "*batch p"]) -> Float[Tensor, "*batch p"]:
    """Return each patch with mean 0 and deviation 1 (section 4.1, "Reconstruction target")."""
    mean, deviation = pixel_scale(patches)
    return (at_least_float32(patches) - mean) / deviation


def patch_errors(prediction: Float[Tensor, "*batch p"], target: Float[Tensor, "*batch p"]) -> Float[Tensor, "*batch"]:
    """Return the mean squared error over the values of each patch."""
    return (at_least_float32(prediction) - at_least_float32(target)).square().mean(dim=-1)
