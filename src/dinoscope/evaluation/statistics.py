"""How sure a figure is: intervals of means over images, of shares, and the deviation over seeds.

Means have percentile intervals of the bootstrap (Efron 1979), seeded and vectorised. Fewer than ten items have
Student's interval, because the bootstrap's is far too narrow (2, 3 and 5 items cover 48, 77 and 83 % instead of 95 %).

A share (an accuracy) over images of known groups has the bootstrap's interval over the groups, any other Wilson's.

Images, or videos with all that is in them, are drawn with replacement. Columns of `values` share their draws, and so do
calls with as many images and the same config. The difference of two models on the same images is the mean of each
image's difference (paired), and `paired_test` gives the probability of one as large if both are equally good.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.special import bdtr, stdtrit  # pyright: ignore[reportMissingTypeStubs]
from torch import Tensor

from dinoscope.errors import UserError
from dinoscope.types import Metric

CONFIDENCE = 0.95
FEWEST_ITEMS = 10
"""The smallest number of images or groups that is bootstrapped."""
_ROUNDING = 1e-9
"""A smaller deviation, as a share of the mean (or of 1, if that is larger), counts as 0."""
_MAX_DRAWS = 2**22
"""Image numbers drawn at a time: 32 MB of them."""
_COLUMNS = 64
"""Columns whose quantiles are computed at a time: torch refuses quantiles of more than 16 million values."""


@dataclass(frozen=True)
class BootstrapConfig:
    """How often images are resampled, and what share of the means lies within an interval.

    Raises UserError if a value is out of range.
    """

    resamples: int = 10_000
    confidence: float = CONFIDENCE
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 1:
            raise UserError(f"there must be at least 1 resample, not {self.resamples}")
        if not 0 < self.confidence < 1:
            raise UserError(f"the confidence of an interval lies between 0 and 1, not at {self.confidence:g}")


@dataclass(frozen=True)
class Estimate:
    """A mean over images, and the ends of its interval, in the unit of the values.

    low, high: None if they are unknown: for one item, or for fewer than `FEWEST_ITEMS` items that are all equal.
    """

    mean: float
    low: float | None
    high: float | None


Limits = Sequence[tuple[float, float]]
"""The min and the max that each column's figure can have; Student's interval is clipped to them."""


def mean_intervals(
    values: Float[Tensor, "n k"], config: BootstrapConfig = BootstrapConfig(), limits: Limits | None = None
) -> list[Estimate]:
    """Return the mean of each of k columns over n images, with its interval. Raises ValueError if there is no image."""
    if not len(values):
        raise ValueError("there is no mean of no images")
    middle = values.double().mean(dim=0)
    if len(values) < FEWEST_ITEMS:
        return _student(middle, values.double() - middle, config, limits)
    return _percentiles(middle, resampled_means(values, config), config)


def pooled_intervals(
    sums: Float[Tensor, "n k"],
    counts: Float[Tensor, " n"],
    config: BootstrapConfig = BootstrapConfig(),
    limits: Limits | None = None,
) -> list[Estimate]:
    """Return the mean over all members of n groups, of each of k columns, where groups are drawn and not their members.

    Members of one group (objects of one video) are alike, so that drawing them one by one would promise too much:
    the cluster bootstrap (Davison and Hinkley 1997, section 3.8). A group brings all of its members with it. The
    deviation of few groups is that of a ratio of means (Cochran 1977, section 6.4).

    sums, counts: of each group's members, at least 1.

    Raises ValueError if there is no group.
    """
    if not len(sums):
        raise ValueError("there is no mean of no groups")
    middle = sums.double().sum(dim=0) / counts.sum()
    if len(sums) < FEWEST_ITEMS:
        deviations = (sums.double() - middle * counts.double()[:, None]) / counts.double().mean()
        return _student(middle, deviations, config, limits)
    *means, sizes = resampled_means(torch.cat([sums.double(), counts.double()[:, None]], dim=1), config).unbind(dim=1)
    return _percentiles(middle, torch.stack(means, dim=1) / sizes[:, None], config)


def interval_kind(items: int) -> str:
    """Return the kind of interval that a mean over so many items has: "bootstrap", "student" or "none"."""
    return "bootstrap" if items >= FEWEST_ITEMS else "student" if items > 1 else "none"


def interval_line(items: int, what: str, config: BootstrapConfig) -> str:
    """Return a footnote on how intervals over so many items were made. what: the name of one item."""
    if items == 1:
        return f"No intervals: one {what} does not tell how much the figures vary."
    percent = f"{100 * config.confidence:g} %"
    if items < FEWEST_ITEMS:
        return (
            f"Intervals: {percent}, Student's, over {items} {what}s. A bootstrap over fewer than {FEWEST_ITEMS} would "
            f"be too narrow. A figure that is the same for every {what} has none."
        )
    return f"Intervals: {percent}, bootstrap over the {what}s, {config.resamples} resamples."


def _student(
    middle: Float[Tensor, " k"], deviations: Float[Tensor, "n k"], config: BootstrapConfig, limits: Limits | None
) -> list[Estimate]:
    items, estimates = len(deviations), list[Estimate]()
    for column in range(len(middle)):
        mean = middle[column].item()
        deviation = math.sqrt(deviations[:, column].square().sum().item() / max(items - 1, 1))
        if items < 2 or deviation <= _ROUNDING * max(abs(mean), 1):
            estimates.append(Estimate(mean, None, None))
            continue
        half = float(stdtrit(items - 1, 0.5 + config.confidence / 2)) * deviation / math.sqrt(items)
        low, high = (-math.inf, math.inf) if limits is None else limits[column]
        estimates.append(Estimate(mean, max(low, mean - half), min(high, mean + half)))
    return estimates


def _percentiles(
    middle: Float[Tensor, " k"], means: Float[Tensor, "resamples k"], config: BootstrapConfig
) -> list[Estimate]:
    outside = (1 - config.confidence) / 2
    levels = torch.tensor([outside, 1 - outside], dtype=means.dtype)
    low, high = torch.cat([torch.quantile(part, levels, dim=0) for part in torch.split(means, _COLUMNS, dim=1)], dim=1)
    return [Estimate(*(each[column].item() for each in (middle, low, high))) for column in range(len(middle))]


def resampled_means(values: Float[Tensor, "n k"], config: BootstrapConfig) -> Float[Tensor, "resamples k"]:
    """Return means of n images drawn with replacement from n, again and again, float64."""
    images, exact = len(values), values.double()
    means = torch.empty(config.resamples, values.shape[1], dtype=torch.float64)  # small tensors would pin large ones
    generator = torch.Generator().manual_seed(config.seed)
    at_once = max(1, _MAX_DRAWS // images)
    for begin in range(0, config.resamples, at_once):
        rows = min(at_once, config.resamples - begin)
        drawn = torch.randint(images, (rows, images), generator=generator)
        places = drawn + images * torch.arange(rows)[:, None]
        times_drawn = torch.bincount(places.flatten(), minlength=rows * images).view(rows, images).double()
        means[begin : begin + rows] = times_drawn @ exact
    return means / images


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % score interval of a share of `count` independent trials (Wilson 1927), within 0 and 1.

    It knows the trials alone, not that another seed would have trained another model.

    Raises ValueError for a share outside of [0, 1], or no trials.
    """
    if not 0 <= share <= 1 or count < 1:
        raise ValueError(f"a share in [0, 1] of at least one trial is needed, not {share:g} of {count}")
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    scale = 1 + z * z / count
    middle = (share + z * z / (2 * count)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def estimate_metric(
    name: str, estimate: Estimate, items: int, parameters: Mapping[str, float] | None = None, *, scale: float = 100
) -> Metric:
    """Return a mean over so many items as a metric in % (`scale` 1: the values are in % already)."""
    low, high = (None if end is None else scale * end for end in (estimate.low, estimate.high))
    n = None if low is None else items
    return Metric(name, scale * estimate.mean, "%", True, low, high, n, parameters or {})


def share_metric(name: str, percent: float, count: int, parameters: Mapping[str, float] | None = None) -> Metric:
    """Return an accuracy over `count` images with its 95 % interval (Wilson)."""
    low, high = wilson(percent / 100, count)
    return Metric(name, percent, "%", True, 100 * low, 100 * high, count, parameters or {})


def share_metrics(
    named: Sequence[tuple[str, Mapping[str, float]]], hits: Bool[Tensor, "n k"], groups: Int[Tensor, " n"] | None = None
) -> list[Metric]:
    """Return the share of hits in each of k columns as accuracies in %, with 95 % intervals.

    Without groups they are Wilson's. Images of one group are no independent trials: with groups, these are drawn
    (`pooled_intervals`). If all groups have the same share, drawing them shows no variation, and the interval is
    Wilson's with each group as one trial. One group alone has none.

    named: name and parameters of each metric.
    """
    shares = [float(share) for share in hits.double().mean(dim=0)]
    if groups is None:
        counted = zip(named, shares, strict=True)
        return [share_metric(name, 100 * share, len(hits), parameters) for (name, parameters), share in counted]
    sums, counts = by_group(hits.double(), groups)
    estimates = pooled_intervals(sums, counts, limits=[(0.0, 1.0)] * hits.shape[1])
    alike = (sums * counts[0] == sums[:1] * counts[:, None]).all(dim=0)
    metrics: list[Metric] = []
    for (name, parameters), share, estimate, same in zip(named, shares, estimates, alike, strict=True):
        low, high = wilson(share, len(counts)) if same and len(counts) > 1 else (estimate.low, estimate.high)
        metrics.append(estimate_metric(name, Estimate(share, low, high), len(counts), parameters))
    return metrics


def crossed_metrics(
    named: Sequence[tuple[str, Mapping[str, float]]],
    hits: Bool[Tensor, "n draws k"],
    groups: Int[Tensor, " n"] | None = None,
) -> list[Metric]:
    """Return the share of hits in each of k columns as accuracies in %, with 95 % intervals over images and draws.

    Every image is classified in every draw (of training images), so that the mean varies with both: its variance is
    that of the mean over images, each averaged over the draws, and that of the mean over draws. The interval is
    Student's, with Satterthwaite's degrees of freedom (1946), within 0 and 100. It counts what images and draws have in
    common twice, and so is a little wide. With groups these are drawn and not images, as in `pooled_intervals`.

    Of one draw, or if there is no variation, it is as in `share_metrics`; n of a metric counts images or groups.

    named: name and parameters of each metric.
    """
    images, draws, _ = hits.shape
    if draws == 1:
        return share_metrics(named, hits[:, 0], groups)
    per_image, per_draw = hits.double().mean(dim=1).cpu(), hits.double().mean(dim=0).cpu()
    sums, counts = per_image, torch.ones(images, dtype=torch.float64)
    if groups is not None:
        sums, counts = by_group(per_image, groups)
    items, middle, metrics = len(counts), per_image.mean(dim=0), list[Metric]()
    if items > 1:
        deviations = (sums - middle * counts[:, None]) / counts.mean()
        of_images = deviations.square().sum(dim=0) / (items - 1) / items
    else:
        of_images = torch.zeros_like(middle)
    of_draws = per_draw.var(dim=0) / draws
    for column, (name, parameters) in enumerate(named):
        mean, first, second = (float(values[column]) for values in (middle, of_images, of_draws))
        low = high = None
        if items > 1 and first + second > _ROUNDING**2:
            freedom = (first + second) ** 2 / (first**2 / (items - 1) + second**2 / (draws - 1))
            half = float(stdtrit(freedom, 0.5 + CONFIDENCE / 2)) * math.sqrt(first + second)
            low, high = max(0.0, mean - half), min(1.0, mean + half)
        elif items > 1:
            low, high = wilson(min(1.0, mean), items)
        metrics.append(estimate_metric(name, Estimate(mean, low, high), items, parameters))
    return metrics


_MAX_ENUMERATED = 16
"""Items with a difference up to which all signs are tried; more are counted or drawn."""
_FLIPS = 20_000
"""Draws of signs otherwise."""


def by_group(
    values: Float[Tensor, "n k"], groups: Int[Tensor, " n"]
) -> tuple[Float[Tensor, "g k"], Float[Tensor, " g"]]:
    """Return the sums over the members of each group, in the order of the groups' numbers, and how many they are."""
    numbers, places, sizes = np.unique(groups.cpu().numpy(), return_inverse=True, return_counts=True)
    sums = torch.zeros(len(numbers), values.shape[1], dtype=torch.float64)
    sums.index_add_(0, torch.as_tensor(places), values.double().cpu())
    return sums, torch.as_tensor(sizes).double()


def paired_test(differences: Float[Tensor, " n"], seed: int = 0) -> float:
    """Return the two-sided probability of a sum at least this far from 0 if every difference could as well be reversed.

    That is so if two models are equally good. Differences of single answers (-1, 0, 1) have the exact binomial
    probability (McNemar 1947, in its exact form). Others, such as sums over groups, have Fisher's randomisation test
    of signs (1935): over all signs of up to 16 differences that are not 0, else over 20,000 draws, where the smallest
    possible probability is 1 in 20,001.
    """
    values = differences.double()
    values = values[values != 0]
    if not len(values):
        return 1.0
    if bool((values.abs() == values[0].abs()).all()):
        ahead = int((values > 0).sum())
        few = min(ahead, len(values) - ahead)
        return min(1.0, 2 * float(bdtr(few, len(values), 0.5)))
    reached = abs(float(values.sum())) - _ROUNDING * float(values.abs().sum())
    if len(values) <= _MAX_ENUMERATED:
        signs = 1.0 - 2 * (torch.arange(2 ** len(values))[:, None] >> torch.arange(len(values)) & 1).double()
        return float(((signs @ values).abs() >= reached).double().mean())
    generator, count = torch.Generator().manual_seed(seed), 0
    at_once = max(1, _MAX_DRAWS // len(values))
    for begin in range(0, _FLIPS, at_once):
        rows = min(at_once, _FLIPS - begin)
        signs = 1.0 - 2 * torch.randint(2, (rows, len(values)), generator=generator).double()
        count += int(((signs @ values).abs() >= reached).sum())
    return (1 + count) / (1 + _FLIPS)


def holm(probabilities: Sequence[float]) -> list[float]:
    """Return probabilities of tests, corrected for their number (Holm 1979).

    Whichever of the hypotheses are true, one of them is rejected at level a with a probability of at most a.
    """
    adjusted, largest = [1.0] * len(probabilities), 0.0
    order = sorted(range(len(probabilities)), key=probabilities.__getitem__)
    for rank, place in enumerate(order):
        largest = max(largest, (len(probabilities) - rank) * probabilities[place])
        adjusted[place] = min(1.0, largest)
    return adjusted


@dataclass(frozen=True)
class OverSeeds:
    """Mean and standard deviation of a sample (n - 1; None for one value) over runs that differ in the seed."""

    mean: float
    deviation: float | None
    values: tuple[float, ...]


def over_seeds(values: Sequence[float]) -> OverSeeds | None:
    """Return mean and deviation; None without values. Values that are not finite give figures that are not."""
    if not values:
        return None
    mean = sum(values) / len(values)
    if len(values) == 1:
        return OverSeeds(mean, None, tuple(values))
    squares = sum((value - mean) * (value - mean) for value in values)
    return OverSeeds(mean, math.sqrt(squares / (len(values) - 1)), tuple(values))
