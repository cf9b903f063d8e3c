"""What runs that differ in the seed alone say together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation of a sample (n - 1; None for one value), and the values."""

    mean: float
    deviation: float | None
    values: tuple[float, ...]


def spread(values: Sequence[float]) -> Spread | None:
    """Mean and deviation; None of no values. Values that are not finite give figures that are not."""
    if not values:
        return None
    middle = sum(values) / len(values)
    if len(values) == 1:
        return Spread(middle, None, tuple(values))
    squares = sum((value - middle) * (value - middle) for value in values)
    return Spread(middle, math.sqrt(squares / (len(values) - 1)), tuple(values))
