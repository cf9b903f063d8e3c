"""What a few seeds can say, against numbers derived by hand and against scipy."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr, ttest_rel

from dinoscope.errors import UserError
from dinoscope.evaluation.statistics import over_seeds
from dinoscope.study.effects import (
    AblationResult,
    agreement,
    arrange,
    label_free,
    largest_effects,
    paired_difference,
)
from dinoscope.study.reading import study_reading
from tests.study.studies import BASE, Variant, run, study


def test_mean_and_deviation_of_a_sample() -> None:
    found = over_seeds([1.0, 2.0, 3.0, 4.0])
    assert found is not None
    assert found.mean == 2.5
    assert found.deviation == pytest.approx(math.sqrt(5 / 3))  # (2.25 + 0.25) * 2 / 3
    alone = over_seeds([7.0])
    assert (alone.mean, alone.deviation) == (7.0, None)
    assert over_seeds([]) is None


def test_differences_are_paired_by_seed() -> None:
    # differences 2, 3, 4: mean 3, deviation 1, t(0.975; 2) = 4.302653
    found = paired_difference({0: 3.0, 1: 5.0, 2: 7.0, 9: 100.0}, {2: 3.0, 1: 2.0, 0: 1.0, 8: 0.0})
    assert (found.mean, found.pairs, found.value, found.baseline) == (3.0, 3, 5.0, 2.0)
    assert found.low == pytest.approx(3 - 4.302653 / math.sqrt(3), abs=1e-6)
    assert found.high == pytest.approx(3 + 4.302653 / math.sqrt(3), abs=1e-6)
    assert found.shown
    # two seeds that differ by 1 and 3: t(0.975; 1) = 12.7062 times 1 reaches over 0
    assert not paired_difference({0: 1.0, 1: 3.0}, {0: 0.0, 1: 0.0}).shown


def test_the_interval_is_that_of_the_paired_t_test() -> None:
    values, base = [30.1, 29.4, 31.0, 28.2], [33.0, 34.1, 33.2, 32.9]
    found = paired_difference(dict(enumerate(values)), dict(enumerate(base)))
    theirs = ttest_rel(values, base).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))


@pytest.mark.parametrize("values", [{0: 3.0}, {0: 3.0, 1: 4.0}])
def test_no_interval_of_one_pair_or_of_pairs_that_are_all_alike(values: dict[int, float]) -> None:
    found = paired_difference(values, {0: 2.0, 1: 3.0})
    assert (found.mean, found.low, found.high, found.shown) == (1.0, None, None, False)


def test_differences_alike_but_for_rounding_give_no_interval() -> None:
    values, base = {0: 25.6, 1: 23.4}, {0: 24.2, 1: 22.0}
    assert values[0] - base[0] != values[1] - base[1]
    found = paired_difference(values, base)
    assert (found.low, found.high, found.shown) == (None, None, False)


def test_no_difference_without_a_common_seed() -> None:
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_equal_values_share_their_ranks() -> None:
    assert agreement([(20.0, 2.5), (10.0, 1.0), (20.0, 2.5), (30.0, 4.0)]).rho == pytest.approx(1)


def test_spearman_by_hand() -> None:
    # rank differences 1, 1, 1, 1, 0: rho = 1 - 6 * 4 / (5 * 24); 16 of 120 orders are as far from 0
    found = agreement([(1, 2), (2, 1), (3, 4), (4, 3), (5, 5)])
    assert found.rho == pytest.approx(0.8)
    assert found.p == pytest.approx(16 / 120)
    assert agreement([(1, 1), (2, 2)]) is None
    assert agreement([(1, 1), (1, 2), (1, 3), (1, 4)]) is None
    backwards = agreement([(1, 4), (2, 3), (3, 2), (4, 1)])
    assert (backwards.rho, backwards.p) == (pytest.approx(-1), pytest.approx(2 / 24))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=7))
def test_spearman_equals_scipys(pairs: list[tuple[int, int]]) -> None:
    x, y = zip(*pairs, strict=True)
    found = agreement(pairs)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert found is None
    else:
        assert found.rho == pytest.approx(spearmanr(x, y).statistic)
        assert 0 < found.p <= 1


def test_many_variants_are_judged_by_drawn_orders() -> None:
    same = agreement([(number, number) for number in range(12)])
    assert (same.rho, same.n) == (pytest.approx(1), 12)
    assert 0 < same.p < 0.001
    assert agreement(list(enumerate([0, 11, 1, 10, 2, 9, 3, 8, 4, 7, 5, 6]))).p > 0.3


def test_the_largest_effect_of_an_axis_ranks_it() -> None:
    result = study(
        [30.0, 32.0],
        {
            ("small", "a"): [29.0, 30.0],
            ("large", "b"): [31.0, 33.5],
            ("large", "c"): [20.0, 23.0],
            ("large", "d"): [None, None],
            ("gone", "e"): [None, None],
        },
    )
    (axis, largest, healthy), (small, *_), (gone, *nothing) = largest_effects(arrange(result))
    assert [axis.name, small.name, gone.name] == ["large", "small", "gone"]
    assert (largest.label, largest.difference.mean, healthy, nothing) == ("c", -9.5, None, [None, None])
    assert "Failed, and in no ranking: large d and gone e." in study_reading(arrange(result))


def test_a_large_difference_that_is_none_does_not_hide_one_that_is() -> None:
    wide, sure = [20.0, 31.0, 33.0], [27.0, 28.1, 29.0]
    result = study([30.0, 31.0, 32.0], {("x", "wide"): wide, ("x", "sure"): sure})
    ((_, largest, _),) = largest_effects(arrange(result))
    assert (largest.label, largest.difference.shown) == ("sure", True)


def test_a_collapsed_variant_is_flagged_and_the_next_one_named() -> None:
    runs = [run(BASE, 0, 34.0), run(Variant("x", "bad"), 0, 11.0, "collapsed"), run(Variant("x", "fair"), 0, 30.0)]
    ((_, largest, healthy),) = largest_effects(arrange(AblationResult("s", "", BASE, {"x": "X"}, tuple(runs))))
    assert (largest.label, len(largest.collapses)) == ("bad", 1)
    assert (healthy.label, healthy.difference.mean) == ("fair", -4.0)


def test_label_free_measures_are_ranked_over_means_of_variants() -> None:
    runs = [run(BASE, 0, 4.0, metrics={"rank": 40.0})]
    runs += [run(Variant("x", str(n)), 0, float(n), metrics={"rank": 10.0 * n}) for n in (1, 2, 3, 5)]
    runs.append(run(Variant("x", "unmeasured"), 0, 9.0))
    rank_me, entropy = label_free(arrange(AblationResult("s", "", BASE, {"x": "X"}, tuple(runs))))
    title, variants, agreed, among_healthy = rank_me
    assert (title, variants, agreed.rho, agreed.n, among_healthy) == ("RankMe", 5, pytest.approx(1), 5, None)
    assert entropy == ("the teacher's entropy", 0, None, None)


def test_a_variant_of_two_axes_counts_once() -> None:
    runs = [run(BASE, 0, 4.0, metrics={"rank": 40.0}, folder="runs/base")]
    for axis, labels in (("x", (1, 2)), ("y", (2, 3))):  # 2 is one training
        runs += [
            run(Variant(axis, str(n)), 0, float(n), metrics={"rank": 10.0 * n}, folder=f"runs/{n}") for n in labels
        ]
    found = arrange(AblationResult("s", "", BASE, {}, tuple(runs)))
    assert [len(axis.groups) for axis in found.axes] == [2, 2]
    assert [group.label for group in found.trainings] == ["DINO", "1", "2", "3"]
    assert label_free(found)[0][2].n == 4
    assert "4 variants on 2 axes next to the baseline; 1 seed; 4 runs: 4 finished." in study_reading(found)


def test_entropy_is_a_share_of_each_variants_own_ln_k() -> None:
    wide = Variant("outputs", "16", {"method.out_dim": 16})
    runs = (run(BASE, 0, 1.0), run(wide, 0, 1.0, metrics={"teacher_entropy": math.log(4)}))
    result = AblationResult("s", "", BASE, {}, runs, 256)
    assert arrange(result).axes[0].groups[0].entropy_share() == pytest.approx(0.5)


def test_two_runs_of_one_seed_are_refused() -> None:
    runs = (run(BASE, 1, 1.0), run(BASE, 1, 2.0))
    with pytest.raises(UserError, match="more than one run of DINO with seed 1"):
        arrange(AblationResult("s", "", BASE, {}, runs))
