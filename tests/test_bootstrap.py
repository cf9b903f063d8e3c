"""Bootstrap intervals: against what is known of the binomial and the normal distribution."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinoscope.errors import UserError
from dinoscope.evaluation.bootstrap import BootstrapConfig, mean_intervals, pooled_intervals, resampled_means


@settings(max_examples=25)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(0, 1000))
def test_an_interval_holds_the_mean(values: list[float], seed: int) -> None:
    column = torch.tensor(values, dtype=torch.float64)[:, None]
    interval = mean_intervals(column, BootstrapConfig(1000, seed=seed))[0]
    assert interval.mean == pytest.approx(sum(values) / len(values))
    assert min(values) - 1e-9 <= interval.low <= interval.mean + 1e-9
    assert interval.mean - 1e-9 <= interval.high <= max(values) + 1e-9


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
    monkeypatch.setattr("dinoscope.evaluation.bootstrap._MAX_DRAWS", 70)
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
    values = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    expected = mean_intervals(values)
    for pooled, single in zip(pooled_intervals(values, torch.ones(20)), expected, strict=True):
        assert (pooled.mean, pooled.low, pooled.high) == pytest.approx((single.mean, single.low, single.high))


def test_groups_bring_all_their_members() -> None:
    """One member of value 1, and three of 0. Drawn are twice the first (1/4), one each (1/2), twice the last (1/4)."""
    (found,) = pooled_intervals(torch.tensor([[1.0], [0.0]]), torch.tensor([1.0, 3.0]))
    assert (found.mean, found.low, found.high) == (0.25, 0, 1)
    (half,) = pooled_intervals(
        torch.tensor([[1.0], [0.0]]), torch.tensor([1.0, 3.0]), BootstrapConfig(confidence=0.4)
    )  # between the quantiles 0.3 and 0.7 lie the draws of one each
    assert (half.low, half.high) == (0.25, 0.25)


def test_members_of_a_group_that_are_alike_make_a_mean_less_sure() -> None:
    """100 groups of 4 equal members: as wide as of 100 images, and so twice as wide as of 400."""
    values = torch.randn(100, 1, generator=torch.Generator().manual_seed(0))
    (pooled,) = pooled_intervals(4 * values, torch.full((100,), 4.0))
    (alone,) = mean_intervals(values.repeat(4, 1))
    assert (pooled.high - pooled.low) / (alone.high - alone.low) == pytest.approx(2, rel=0.05)


def test_no_groups_have_no_mean() -> None:
    with pytest.raises(ValueError, match="no groups"):
        pooled_intervals(torch.zeros(0, 1), torch.zeros(0))
