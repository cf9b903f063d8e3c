"""Intervals of shares against figures worked out by hand."""

from __future__ import annotations

import pytest

from dinoscope.evaluation.proportion import wilson


def test_half_of_a_hundred_by_hand():
    # z = 1.959964: middle (0.5 + 0.019207) / 1.038415; half 1.959964 / 1.038415 * sqrt(0.0025 + 0.000096) = 0.0962
    found = wilson(0.5, 100)
    assert (found.low, found.mean, found.high) == pytest.approx((0.4038, 0.5, 0.5962), abs=1e-4)


def test_at_the_ends_it_stays_within_and_is_not_empty():
    none, every = wilson(0.0, 10), wilson(1.0, 10)
    assert none.low == pytest.approx(0, abs=1e-12)
    assert none.high == pytest.approx(0.2775, abs=1e-4)  # z^2 / (n + z^2)
    assert (every.low, every.high) == pytest.approx((1 - none.high, 1.0))


@pytest.mark.parametrize(("share", "count"), [(1.1, 10), (-0.1, 10), (0.5, 0)])
def test_what_is_no_share_is_refused(share, count):
    with pytest.raises(ValueError, match="share"):
        wilson(share, count)
