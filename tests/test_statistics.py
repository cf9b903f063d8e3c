"""Bootstrap intervals: against what is known of the binomial and the normal distribution."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dinoscope.errors import UserError
from dinoscope.evaluation.statistics import (
    FEWEST_ITEMS,
    BootstrapConfig,
    Estimate,
    by_group,
    holm,
    interval_kind,
    interval_line,
    mean_intervals,
    paired_test,
    pooled_intervals,
    resampled_means,
    share_metric,
    share_metrics,
    wilson,
)


@settings(max_examples=25)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(0, 1000))
def test_an_interval_holds_the_mean(values: list[float], seed: int) -> None:
    column = torch.tensor(values, dtype=torch.float64)[:, None]
    interval = mean_intervals(column, BootstrapConfig(1000, seed=seed))[0]
    assert interval.mean == pytest.approx(sum(values) / len(values))
    if len(values) < FEWEST_ITEMS:  # Student's, which may reach beyond the values, or none
        assert (interval.low is None) == (interval.high is None)
        assert interval.low is None or interval.low <= interval.mean
        return
    assert interval.low is not None
    assert interval.high is not None
    assert min(values) - 1e-9 <= interval.low <= interval.mean + 1e-9
    assert interval.mean - 1e-9 <= interval.high <= max(values) + 1e-9


def test_fewer_than_ten_items_have_students_interval_within_the_limits() -> None:
    """1, 2 and 3: 2 ± 4.303 / sqrt(3). Between 0 and 1, of 0.8, 1 and 1: 0.933 ± 4.303 x 0.1155 / sqrt(3) ends at 1."""
    (found,) = mean_intervals(torch.tensor([[1.0], [2.0], [3.0]]))
    assert (found.mean, found.low, found.high) == pytest.approx((2, 2 - 2.4841, 2 + 2.4841), abs=1e-3)
    (share,) = mean_intervals(torch.tensor([[0.8], [1.0], [1.0]]), limits=[(0.0, 1.0)])
    assert (share.mean, share.low, share.high) == pytest.approx((0.9333, 0.9333 - 0.2869, 1), abs=1e-3)
    (wide,) = mean_intervals(torch.tensor([[1.0], [3.0]]), BootstrapConfig(confidence=0.5))
    assert (wide.low, wide.high) == pytest.approx((1, 3))  # Student's with one degree of freedom at 3/4: 1
    values = torch.rand(9, 1, generator=torch.Generator().manual_seed(0)).double()
    assert mean_intervals(values, BootstrapConfig(10)) == mean_intervals(values)  # nothing is drawn


def test_one_item_and_items_that_are_all_alike_have_no_interval() -> None:
    assert mean_intervals(torch.tensor([[0.5]])) == [Estimate(0.5, None, None)]
    (alike,) = mean_intervals(torch.full((9, 1), 100.0))
    assert (alike.low, alike.high) == (None, None)
    (group,) = pooled_intervals(torch.tensor([[3.0]]), torch.tensor([4.0]))
    assert (group.mean, group.low, group.high) == (0.75, None, None)
    assert "No intervals: one sequence" in interval_line(1, "sequence", BootstrapConfig())


@pytest.mark.parametrize("items", [2, 3, 5])
def test_intervals_of_few_items_cover_what_they_promise(items: int) -> None:
    """Of 2,000 samples from a normal distribution 95 % cover the mean; a tenth of a point is a deviation of 0.5 %."""
    samples = torch.randn(items, 2000, generator=torch.Generator().manual_seed(items)).double()
    found = mean_intervals(samples)
    covered = sum(each.low is not None and each.high is not None and each.low <= 0 <= each.high for each in found)
    assert covered / 2000 == pytest.approx(0.95, abs=0.015)
    assert "Student's, over" in interval_line(items, "image", BootstrapConfig())
    assert interval_kind(items) == "student"


def test_the_bootstrap_of_two_images() -> None:
    """Of 0 and 1, half of the means are 1/2, a quarter each 0 and 1 (binomial); 0.02 is four deviations and more."""
    means = resampled_means(torch.tensor([[0.0], [1.0]]), BootstrapConfig(10_000, seed=1))[:, 0]
    shares = [(means == value).double().mean().item() for value in (0, 0.5, 1)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.02)


def test_the_bootstrap_has_the_width_of_the_normal_interval() -> None:
    values = torch.randn(400, 1, generator=torch.Generator().manual_seed(0)).double()
    interval = mean_intervals(values)[0]
    half = 1.96 * values.std(correction=0).item() / 20
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.05)
    assert mean_intervals(values) == mean_intervals(values)


def test_columns_share_their_draws() -> None:
    """So the mean of a difference is the difference of the means, draw by draw, however many columns there are."""
    values = torch.rand(30, 200, generator=torch.Generator().manual_seed(0)).double()
    means = resampled_means(values, BootstrapConfig(100))
    torch.testing.assert_close(
        resampled_means(values[:, :1] - values[:, 1:2], BootstrapConfig(100))[:, 0], means[:, 0] - means[:, 1]
    )
    alone = mean_intervals(values[:, 150:151], BootstrapConfig(100))[0]
    among = mean_intervals(values, BootstrapConfig(100))[150]
    assert (alone.mean, alone.low, alone.high) == pytest.approx((among.mean, among.low, among.high))


def test_draws_in_several_parts_are_as_many_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dinoscope.evaluation.statistics._MAX_DRAWS", 70)
    means = resampled_means(torch.ones(30, 1), BootstrapConfig(101))
    assert means.shape == (101, 1)
    assert means.unique().tolist() == [1.0]


def test_no_images_have_no_mean() -> None:
    with pytest.raises(ValueError, match="no images"):
        mean_intervals(torch.zeros(0, 2))


@pytest.mark.parametrize("values", [{"resamples": 0}, {"confidence": 1.0}])
def test_bootstraps_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(UserError):
        BootstrapConfig(**values)  # pyright: ignore[reportArgumentType]


def test_groups_of_one_member_are_single_images() -> None:
    for count in (20, 5):
        values = torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
        expected = mean_intervals(values)
        for pooled, single in zip(pooled_intervals(values, torch.ones(count)), expected, strict=True):
            assert (pooled.mean, pooled.low, pooled.high) == pytest.approx((single.mean, single.low, single.high))


def test_groups_bring_all_their_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """One member of value 1, and three of 0. Drawn are twice the first (1/4), one each (1/2), twice the last (1/4)."""
    monkeypatch.setattr("dinoscope.evaluation.statistics.FEWEST_ITEMS", 2)
    (found,) = pooled_intervals(torch.tensor([[1.0], [0.0]]), torch.tensor([1.0, 3.0]))
    assert (found.mean, found.low, found.high) == (0.25, 0, 1)
    (half,) = pooled_intervals(
        torch.tensor([[1.0], [0.0]]), torch.tensor([1.0, 3.0]), BootstrapConfig(confidence=0.4)
    )  # between the quantiles 0.3 and 0.7 lie the draws of one each
    assert (half.low, half.high) == (0.25, 0.25)


def test_few_groups_of_different_sizes_have_the_deviation_of_a_ratio() -> None:
    """Sums 4, 2, 3 of 2, 1, 3 members: 9 / 6 = 1.5, from it 1, 0.5 and -1.5 apart, in members of 2 on average.

    Deviation sqrt((0.25 + 0.0625 + 0.5625) / 2) = 0.6614, half 4.3027 x 0.6614 / sqrt(3) = 1.6431.
    """
    (found,) = pooled_intervals(torch.tensor([[4.0], [2.0], [3.0]]), torch.tensor([2.0, 1.0, 3.0]))
    assert (found.mean, found.low, found.high) == pytest.approx((1.5, 1.5 - 1.6431, 1.5 + 1.6431), abs=1e-3)


def test_members_of_a_group_that_are_alike_make_a_mean_less_sure() -> None:
    """100 groups of 4 equal members: as wide as of 100 images, and so twice as wide as of 400."""
    values = torch.randn(100, 1, generator=torch.Generator().manual_seed(0))
    (pooled,) = pooled_intervals(4 * values, torch.full((100,), 4.0))
    (alone,) = mean_intervals(values.repeat(4, 1))
    assert (pooled.high - pooled.low) / (alone.high - alone.low) == pytest.approx(2, rel=0.05)


def test_no_groups_have_no_mean() -> None:
    with pytest.raises(ValueError, match="no groups"):
        pooled_intervals(torch.zeros(0, 1), torch.zeros(0))


def test_half_of_a_hundred_by_hand():
    # z = 1.959964: middle (0.5 + 0.019207) / 1.038415; half 1.959964 / 1.038415 * sqrt(0.0025 + 0.000096) = 0.0962
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)


def test_at_the_ends_it_stays_within_and_is_not_empty():
    none, every = wilson(0.0, 10), wilson(1.0, 10)
    assert none == (pytest.approx(0, abs=1e-12), pytest.approx(0.2775, abs=1e-4))  # z^2 / (n + z^2)
    assert every == pytest.approx((1 - none[1], 1.0))


def test_shares_without_groups_have_the_interval_of_wilson() -> None:
    hits = torch.arange(200).view(100, 2) % 4 < 2
    (first, second) = share_metrics([("a", {}), ("b", {"k": 3})], hits)
    assert first == share_metric("a", 50.0, 100)
    assert second == share_metric("b", 50.0, 100, {"k": 3})


def test_a_share_that_all_groups_have_has_the_interval_of_so_many_trials() -> None:
    groups = torch.arange(90) // 3 * 10**17
    (metric,) = share_metrics([("a", {})], torch.ones(90, 1, dtype=torch.bool), groups)
    assert (metric.low, metric.high) == tuple(100 * end for end in wilson(1.0, 30))
    assert metric.n == 30
    (metric,) = share_metrics([("a", {})], torch.ones(9, 1, dtype=torch.bool), torch.zeros(9, dtype=torch.int64))
    assert (metric.value, metric.low, metric.high, metric.n) == (100, None, None, None)


def test_intervals_over_groups_cover_what_they_promise_and_plain_ones_do_not() -> None:
    # 40 patients of 2 to 20 images, the accuracy of each drawn from Beta(2, 2): images of one patient are alike.
    draw = np.random.default_rng(0)
    covered = {"plain": 0, "grouped": 0}
    rounds = 300
    for _ in range(rounds):
        sizes = draw.integers(2, 21, size=40)
        groups = torch.from_numpy(np.repeat(np.arange(40), sizes))
        hits = torch.from_numpy(draw.random(len(groups)) < np.repeat(draw.beta(2, 2, size=40), sizes))[:, None]
        for name, own in (("plain", None), ("grouped", groups)):
            (metric,) = share_metrics([("a", {})], hits, own)
            assert metric.low is not None
            assert metric.high is not None
            covered[name] += metric.low <= 50 <= metric.high
    assert 0.91 <= covered["grouped"] / rounds <= 0.98
    assert covered["plain"] / rounds < 0.75


@pytest.mark.parametrize(("share", "count"), [(1.1, 10), (-0.1, 10), (0.5, 0)])
def test_what_is_no_share_is_refused(share, count):
    with pytest.raises(ValueError, match="share"):
        wilson(share, count)


def test_a_paired_test_of_answers_is_the_exact_mcnemar_test() -> None:
    for ahead, behind, alike in ((9, 1, 40), (5, 5, 0), (1, 0, 3), (60, 30, 910)):
        differences = torch.tensor([1.0] * ahead + [-1.0] * behind + [0.0] * alike)
        assert paired_test(differences) == pytest.approx(stats.binomtest(ahead, ahead + behind).pvalue)
        assert paired_test(-differences) == paired_test(differences)
    assert paired_test(torch.zeros(5)) == 1
    assert paired_test(torch.tensor([1.0] * 9 + [-1.0])) == pytest.approx(22 / 1024)  # 2 (1 + 10) of 2^10


def test_a_paired_test_of_groups_tries_all_signs_or_draws_them() -> None:
    sums = torch.tensor([3.0, 2.0, 1.0, -1.0, 0.0])
    by_hand = [
        abs(sum(s * v for s, v in zip(signs, (3, 2, 1, 1), strict=True))) >= 5 for signs in product((1, -1), repeat=4)
    ]
    assert paired_test(sums) == sum(by_hand) / 16 == 6 / 16
    many = torch.tensor([1.0, 2, 3, 1, 2, 3, 1, 2, 3, -1, -2, -3] * 3)
    ways = np.ones(1)  # of each sum, from the smallest
    for value in many.abs().int().tolist():
        ways = np.convolve(ways, [1, *[0] * (2 * value - 1), 1])
    far = np.abs(np.arange(len(ways)) - len(ways) // 2) >= many.sum().item()
    exact = ways[far].sum() / ways.sum()
    assert paired_test(many) == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 20_000) ** 0.5)
    assert paired_test(torch.arange(1.0, 41.0)) == 1 / 20_001  # the smallest there is


def test_groups_are_summed_in_the_order_of_their_numbers() -> None:
    sums, counts = by_group(torch.tensor([[1.0], [0.0], [1.0], [1.0]]), torch.tensor([7, 3, 7, 3]))
    assert (sums.tolist(), counts.tolist()) == ([[1.0], [2.0]], [2.0, 2.0])


def test_holm_by_hand() -> None:
    """Smallest first: 3 x 0.01; then 2 x 0.02 = 0.04; then 0.03, which is not below the one before."""
    assert holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []
