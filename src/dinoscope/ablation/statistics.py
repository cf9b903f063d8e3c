"""What a few seeds can say: means, differences paired by seed, and whether two orders agree. Pure functions.

Intervals are Student's. The bootstrap of `evaluation.bootstrap` is left out on purpose: from three seeds it can draw
ten different samples, none of them wider than the three values, and its intervals come out far too narrow.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from dinoscope.evaluation.statistics import over_seeds

CONFIDENCE = 0.95
FEWEST_RANKED = 3
"""Below that, two orders agree or not by a coin's throw."""
_ALL_ORDERS = 7
"""Up to so many values, every order is tried (5,040); of more, `_DRAWN_ORDERS` are drawn."""
_DRAWN_ORDERS = 10_000
_ROUNDING = 1e-9
"""Below that, differences in points are alike: 25.6 - 24.2 and 23.4 - 22.0 differ by 5e-15 as floats."""


@dataclass(frozen=True)
class Difference:
    """By how much values differ from the base's of the same seeds.

    mean: of the differences.
    low, high: ends of the interval; None where there is none: of one pair, or where all pairs differ by the same,
        for a deviation of 0 from a few values that are counted in images is chance and no certainty.
    pairs: seeds that both have.
    value, base: means over these seeds.
    """

    mean: float
    low: float | None
    high: float | None
    pairs: int
    value: float
    base: float

    @property
    def shown(self) -> bool:
        """Whether there is an interval, and 0 lies outside of it."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Agreement:
    """Spearman's rho of n pairs, and how often chance alone gives one as far from 0 (two-sided)."""

    rho: float
    p: float
    n: int


def paired_difference(
    values: Mapping[int, float], base: Mapping[int, float], confidence: float = CONFIDENCE
) -> Difference | None:
    """Mean difference of the seeds that both have, with Student's interval of n - 1 degrees of freedom.

    None where no seed is in both.
    """
    seeds = [seed for seed in values if seed in base]
    found = over_seeds([values[seed] - base[seed] for seed in seeds])
    if found is None:
        return None
    half = None
    if found.deviation is not None and found.deviation > _ROUNDING:
        half = float(stdtrit(len(seeds) - 1, 0.5 + confidence / 2)) * found.deviation / math.sqrt(len(seeds))
    return Difference(
        found.mean,
        None if half is None else found.mean - half,
        None if half is None else found.mean + half,
        len(seeds),
        sum(values[seed] for seed in seeds) / len(seeds),
        sum(base[seed] for seed in seeds) / len(seeds),
    )


def ranks(values: Sequence[float]) -> list[float]:
    """1 for the smallest; equal values share the mean of their ranks."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2 for value in values
    ]


def agreement(x: Sequence[float], y: Sequence[float]) -> Agreement | None:
    """Spearman's rank correlation (1904) with a permutation test.

    None of fewer than `FEWEST_RANKED` pairs, or where all values of a side are equal.
    """
    if len(x) < FEWEST_RANKED:
        return None
    left, right = (np.array(ranks(values)) - (len(values) + 1) / 2 for values in (x, y))
    size = math.sqrt(left @ left) * math.sqrt(right @ right)
    if size == 0:
        return None
    rho = float(left @ right) / size
    chance = _orders(right) @ left / size
    # the least difference of two rhos of so few ranks is far above what rounding makes of equal ones
    as_far = int((np.abs(chance) >= abs(rho) - 1e-9).sum())
    exact = len(left) <= _ALL_ORDERS
    return Agreement(rho, as_far / len(chance) if exact else (as_far + 1) / (len(chance) + 1), len(left))


def _orders(values: np.ndarray) -> np.ndarray:
    """All orders of the values, or many drawn ones, [orders, n]."""
    if len(values) <= _ALL_ORDERS:
        return np.array(list(itertools.permutations(values)))
    generator = np.random.default_rng(0)
    return generator.permuted(np.tile(values, (_DRAWN_ORDERS, 1)), axis=1)
