"""How sure a mean over images is: percentile intervals of the bootstrap (Efron 1979), seeded and vectorised.

Images (or videos, with all that is in them) are drawn with replacement. Columns of `values` share their draws, and so
do calls with as many images and the same config. The difference of two models on the same images is the mean of each
image's difference (paired).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dinoscope.errors import UserError

_MAX_DRAWS = 2**22
"""Image numbers drawn at a time: 32 MB of them."""
_COLUMNS = 64
"""Whose quantiles are computed at a time."""


@dataclass(frozen=True)
class BootstrapConfig:
    """How often images are drawn anew, and what share of the means lies within an interval.

    Raises UserError where a value is out of range.
    """

    resamples: int = 10_000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 1:
            raise UserError(f"there must be at least 1 resample, not {self.resamples}")
        if not 0 < self.confidence < 1:
            raise UserError(f"the confidence of an interval lies between 0 and 1, not at {self.confidence:g}")


@dataclass(frozen=True)
class Interval:
    """A mean over images, and the ends of its interval, in the unit of the values."""

    mean: float
    low: float
    high: float


def mean_intervals(values: Float[Tensor, "n k"], config: BootstrapConfig = BootstrapConfig()) -> list[Interval]:
    """The mean of each of k columns over n images, with its percentile interval.

    Raises ValueError where there is no image.
    """
    if not len(values):
        raise ValueError("there is no mean of no images")
    return _percentiles(values.double().mean(dim=0), resampled_means(values, config), config)


def pooled_intervals(
    sums: Float[Tensor, "n k"], counts: Float[Tensor, " n"], config: BootstrapConfig = BootstrapConfig()
) -> list[Interval]:
    """The mean over all members of n groups, of each of k columns, where groups are drawn and not their members.

    Members of one group (objects of one video) are alike, so that drawing them one by one would promise too much:
    the cluster bootstrap (Davison and Hinkley 1997, section 3.8). A group brings all of its members with it.

    Args:
        sums: of each group's members.
        counts: of each group's members, at least 1.

    Raises ValueError where there is no group.
    """
    if not len(sums):
        raise ValueError("there is no mean of no groups")
    *means, sizes = resampled_means(torch.cat([sums.double(), counts.double()[:, None]], dim=1), config).unbind(dim=1)
    return _percentiles(sums.double().sum(dim=0) / counts.sum(), torch.stack(means, dim=1) / sizes[:, None], config)


def _percentiles(
    middle: Float[Tensor, " k"], means: Float[Tensor, "resamples k"], config: BootstrapConfig
) -> list[Interval]:
    """Of each column, with the share of the means that the config asks for between its ends."""
    outside = (1 - config.confidence) / 2
    levels = torch.tensor([outside, 1 - outside], dtype=means.dtype)
    # in parts, for torch refuses quantiles of more than 16 million values
    parts = [means[:, begin : begin + _COLUMNS] for begin in range(0, means.shape[1], _COLUMNS)]
    low, high = torch.cat([torch.quantile(part, levels, dim=0) for part in parts], dim=1)
    return [Interval(*(each[column].item() for each in (middle, low, high))) for column in range(len(middle))]


def resampled_means(values: Float[Tensor, "n k"], config: BootstrapConfig) -> Float[Tensor, "resamples k"]:
    """Means of n images drawn with replacement from n, again and again, float64."""
    exact = values.double()
    return torch.cat([weights @ exact for weights in _weights(len(values), config)]) / len(values)


def _weights(images: int, config: BootstrapConfig) -> Iterator[Float[Tensor, "r n"]]:
    """How often each image was drawn in each of r resamples, until there are enough."""
    generator = torch.Generator().manual_seed(config.seed)
    at_once = max(1, _MAX_DRAWS // images)
    for begin in range(0, config.resamples, at_once):
        rows = min(at_once, config.resamples - begin)
        drawn = torch.randint(images, (rows, images), generator=generator)
        places = drawn + images * torch.arange(rows)[:, None]
        yield torch.bincount(places.flatten(), minlength=rows * images).view(rows, images).double()
