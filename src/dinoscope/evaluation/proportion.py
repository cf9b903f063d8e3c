"""How sure a share of successes is, from their number alone."""

from __future__ import annotations

import math
from statistics import NormalDist

from dinoscope.evaluation.bootstrap import Interval

CONFIDENCE = 0.95


def wilson(share: float, count: int, confidence: float = CONFIDENCE) -> Interval:
    """Score interval of a share of `count` independent trials (Wilson 1927): within 0 and 1, and honest at both ends.

    It knows of the trials alone: not that another seed would have trained another model.

    Raises ValueError for a share outside of [0, 1], or no trials.
    """
    if not 0 <= share <= 1 or count < 1:
        raise ValueError(f"a share in [0, 1] of at least one trial is needed, not {share:g} of {count}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    scale = 1 + z * z / count
    middle = (share + z * z / (2 * count)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))
