"""Few labels: draws, classifiers against scikit-learn and by hand, intervals, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from torch.nn.functional import normalize

from dinoscope.errors import UserError
from dinoscope.evaluation.fewshot import (
    EVALUATION,
    Amount,
    FewshotConfig,
    few_labels,
    fit_centroids,
    fit_logistic,
    priorities,
    usable_amounts,
)
from dinoscope.evaluation.statistics import crossed_metrics, share_metrics, wilson
from dinoscope.types import FeatureBank, Result


def clouds(count: int, *, seed: int, classes: int = 3, dim: int = 8, distance: float = 0.7) -> FeatureBank:
    centres = distance * torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(count) % classes
    features = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) + centres[labels]
    names = tuple(f"class{number}" for number in range(classes))
    return FeatureBank(features, labels, tuple(f"{seed}-{i:03d}.png" for i in range(count)), names)


def values(known: FeatureBank, queries: FeatureBank, config: FewshotConfig) -> dict[str, float]:
    return {metric.title: metric.value for metric in few_labels(known, queries, config)[0]}


def numbers(bank: FeatureBank) -> np.ndarray:
    assert bank.labels is not None
    return bank.labels.numpy()


# Draws


def test_draws_are_the_same_in_any_order_and_differ_by_seed_and_number() -> None:
    bank = clouds(60, seed=1)
    places = priorities(bank, numbers(bank), 0, 0)
    for label in range(3):
        assert sorted(places[numbers(bank) == label]) == list(range(20))
    order = np.random.default_rng(0).permutation(60)
    shuffled = replace(bank, paths=tuple(bank.paths[place] for place in order))
    assert (priorities(shuffled, numbers(bank)[order], 0, 0) == places[order]).all()
    assert not (priorities(bank, numbers(bank), 0, 1) == places).all()
    assert not (priorities(bank, numbers(bank), 1, 0) == places).all()


def test_images_that_are_missing_change_no_other_places() -> None:
    bank = clouds(30, seed=1)
    fewer = FeatureBank(bank.features[3:], bank.labels[3:], bank.paths[3:]) if bank.labels is not None else bank
    before, after = priorities(bank, numbers(bank), 0, 0)[3:], priorities(fewer, numbers(fewer), 0, 0)
    for label in range(3):
        rows = numbers(fewer) == label
        assert (np.argsort(before[rows]) == np.argsort(after[rows])).all()


def test_first_labels_of_a_class_are_of_distinct_groups() -> None:
    bank = clouds(24, seed=1, classes=2)  # twelve images of each class, in groups of 5, 4, 2 and 1
    groups = np.empty(24, dtype=np.int64)
    for label in range(2):
        groups[numbers(bank) == label] = [0] * 5 + [1] * 4 + [2] * 2 + [3]
    for draw in range(5):
        places = priorities(replace(bank, groups=torch.tensor(groups)), numbers(bank), 0, draw)
        for label in range(2):
            own = groups[(numbers(bank) == label)][np.argsort(places[numbers(bank) == label])].tolist()
            # one of each, then a second of the three that have one, then of the two that are left, and the last
            parts = [sorted(own[a:b]) for a, b in pairwise((0, 4, 7, 9, 11, 12))]
            assert parts == [[0, 1, 2, 3], [0, 1, 2], [0, 1], [0, 1], [0]]


def test_amounts_by_hand() -> None:
    sizes = np.array([3, 40, 260])
    assert Amount("labels", 5).of_classes(sizes).tolist() == [3, 5, 5]
    assert Amount("percent", 1).of_classes(sizes).tolist() == [1, 1, 3]
    assert Amount("percent", 10).of_classes(sizes).tolist() == [1, 4, 26]
    assert Amount("percent", 100).of_classes(sizes).tolist() == [3, 40, 260]
    config = FewshotConfig(counts=(500, 2, 260, 2), percents=())
    assert [amount.value for amount in usable_amounts(config, sizes)] == [2, 260]
    with pytest.raises(UserError, match="260"):
        usable_amounts(FewshotConfig(counts=(261,), percents=()), sizes)


# Classifiers


def test_logistic_regressions_side_by_side_are_those_of_scikit_learn() -> None:
    bank = clouds(120, seed=1, classes=4)
    features = normalize(bank.features.double(), dim=1).view(3, 40, 8)
    labels = torch.as_tensor(numbers(bank)).view(3, 40)
    weights, is_solved = fit_logistic(features, labels, 4, 0.1 / 40)
    assert is_solved.all()
    for draw in range(3):
        theirs = LogisticRegression(C=10, fit_intercept=False, tol=1e-10, max_iter=10_000)
        theirs.fit(features[draw].numpy(), labels[draw].numpy())
        assert weights[draw].T.numpy() == pytest.approx(theirs.coef_, abs=1e-2)
        ours = (features[draw] @ weights[draw]).softmax(dim=1).numpy()
        assert ours == pytest.approx(theirs.predict_proba(features[draw].numpy()), abs=1e-3)


def test_nearest_centroids_are_those_of_scikit_learn() -> None:
    bank, others = clouds(90, seed=1), normalize(clouds(200, seed=2).features, dim=1)
    features, labels = normalize(bank.features, dim=1)[None], torch.as_tensor(numbers(bank))[None]
    weights, biases = fit_centroids(features, labels, 3)
    theirs = NearestCentroid().fit(features[0].numpy(), labels[0].numpy()).predict(others.numpy())
    assert ((others @ weights[0] + biases[0]).argmax(dim=1).numpy() == theirs).all()


def test_accuracy_by_hand() -> None:
    # On the unit circle, at 0, 10 and 90 degrees; all labels are known, so all draws are alike.
    angles = torch.deg2rad(torch.tensor([0.0, 10.0, 90.0, 100.0]))
    known = FeatureBank(7 * torch.stack([angles.cos(), angles.sin()], dim=1), torch.tensor([0, 0, 1, 1]))
    angles = torch.deg2rad(torch.tensor([-5.0, 40.0, 60.0, 95.0, 20.0]))
    queries = FeatureBank(torch.stack([angles.cos(), angles.sin()], dim=1), torch.tensor([0, 0, 1, 1, 1]))
    found = values(known, queries, FewshotConfig(counts=(2,), percents=(100.0,), draws=3))
    assert set(found.values()) == {
        80.0
    }  # the boundary is at 50 degrees for all, and only the last is on its wrong side
    assert set(found) == {
        f"fewshot_{name} ({amount})"
        for name in ("centroid", "knn", "logistic")
        for amount in ("labels = 2", "percent = 100")
    }


def test_one_label_of_each_class_makes_neighbours_and_centroids_alike() -> None:
    known, queries = clouds(300, seed=1), clouds(200, seed=2)
    found = values(known, queries, FewshotConfig(counts=(1, 20), percents=()))
    assert found["fewshot_knn (labels = 1)"] == found["fewshot_centroid (labels = 1)"]
    assert all(found[f"fewshot_{n} (labels = 20)"] > found[f"fewshot_{n} (labels = 1)"] for n in ("knn", "logistic"))


def test_memory_changes_no_figure() -> None:
    known, queries = clouds(90, seed=1), clouds(50, seed=2)
    config = FewshotConfig(counts=(2, 5), percents=(10,), draws=5)
    assert values(known, queries, config) == values(known, queries, replace(config, max_bytes=1))


def test_labels_are_matched_by_the_name_of_the_class() -> None:
    known, queries = clouds(90, seed=1), clouds(50, seed=2)
    assert queries.labels is not None
    turned = replace(queries, labels=2 - queries.labels, classes=queries.classes[::-1])
    config = FewshotConfig(counts=(5,), percents=(), draws=2)
    assert values(known, turned, config) == values(known, queries, config)


# Intervals


def test_crossed_intervals_by_hand() -> None:
    # Eight images in two draws: means of images 1, 1, 1, 1, 1/2, 1/2, 1/2, 1/2 and of draws 6/8, 6/8.
    hits = torch.ones(8, 2, 1, dtype=torch.bool)
    hits[[4, 5], 0] = hits[[6, 7], 1] = False
    (metric,) = crossed_metrics([("a", {})], hits)
    # Variance of images 8 x 1/16 / 7 = 1/14, of their mean 1/112; of draws 0: 7 degrees of freedom, t = 2.3646.
    assert (metric.value, metric.n) == (75, 8)
    assert metric.low == pytest.approx(75 - 236.46 / math.sqrt(112), abs=1e-3)
    assert metric.high == pytest.approx(75 + 236.46 / math.sqrt(112), abs=1e-3)
    # Ten images in four draws.
    hits = torch.zeros(10, 4, 1, dtype=torch.bool)
    hits[:5, [0, 1]] = hits[5:, [2, 3]] = True
    hits[:5, 2] = True
    # Means of images 3/4 and 1/2 (variance 1/64 x 10/9, of the mean 1/576), of draws 1/2, 1/2, 1, 1/2 (1/16, 1/64).
    (metric,) = crossed_metrics([("a", {})], hits)
    freedom = (1 / 576 + 1 / 64) ** 2 / ((1 / 576) ** 2 / 9 + (1 / 64) ** 2 / 3)
    half = 100 * stats.t.ppf(0.975, freedom) * math.sqrt(1 / 576 + 1 / 64)
    assert metric.value == 62.5
    assert metric.low == pytest.approx(62.5 - half)
    (same,) = crossed_metrics([("a", {})], torch.ones(7, 3, 1, dtype=torch.bool))
    assert same.low == pytest.approx(100 * wilson(1, 7)[0])
    one = torch.rand(50, 1, 2, generator=torch.Generator().manual_seed(0)) < 0.6
    named = [("a", {}), ("b", {"k": 1.0})]
    assert crossed_metrics(named, one) == share_metrics(named, one[:, 0])


def test_crossed_intervals_hold_the_truth_as_often_as_they_promise() -> None:
    generator = torch.Generator().manual_seed(0)
    inside, trials = 0, 400
    for _ in range(trials):
        of_images = torch.rand(200, 1, generator=generator) - 0.5  # both move the chance of a hit around 1/2
        of_draws = 0.3 * (torch.rand(1, 20, generator=generator) - 0.5)
        chances = 0.5 + 0.6 * of_images + of_draws
        hits = torch.rand(200, 20, generator=generator) < chances
        (metric,) = crossed_metrics([("a", {})], hits[:, :, None])
        assert metric.low is not None
        assert metric.high is not None
        inside += metric.low <= 50 <= metric.high
    assert 0.93 <= inside / trials <= 0.995


def test_intervals_over_groups_are_wider() -> None:
    hits = (torch.arange(40) // 10 % 2 == 0)[:, None, None].expand(40, 5, 1).clone()
    hits[0, 0] = False
    (alone,), (grouped,) = (crossed_metrics([("a", {})], hits, g) for g in (None, torch.arange(40) // 10))
    assert grouped.n == 4
    assert alone.low is not None
    assert grouped.low is not None
    assert grouped.low < alone.low


# What is shown, and what is refused


def test_numbers_that_classes_do_not_have_are_told() -> None:
    protocol = {"counts": [2, 5, 50], "percents": [1.0], "draws": 2, "classifiers": ["knn"], "classes": 2}
    protocol |= {"smallest_class": 3, "largest_class": 9, "labels": {"2": 4, "5": 8, "1 %": 2}}
    assert EVALUATION.tables is not None
    (table,) = EVALUATION.tables([("m", Result("fewshot", protocol, ()))], True)
    assert [column.title for column in table.columns] == ["Model", "2", "5", "1 %"]
    assert any("50" in remark and "left out" in remark for remark in table.remarks)
    assert any("5" in remark and "smallest has 3" in remark for remark in table.remarks)
    assert [section.title for section in table.sections] == ["Weighted k-NN"]  # published figures are of ImageNet


@pytest.mark.parametrize(
    "settings",
    [
        {"counts": (), "percents": ()},
        {"counts": (0,)},
        {"percents": (101.0,)},
        {"draws": 0},
        {"seed": -1},
        {"classifiers": ()},
        {"regularisation": 0.0},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UserError):
        FewshotConfig(**settings)  # pyright: ignore[reportArgumentType]


def test_broken_features_and_missing_labels_are_refused() -> None:
    known, queries = clouds(30, seed=1), clouds(20, seed=2)
    broken = replace(known, features=known.features.index_fill(0, torch.tensor([4]), float("nan")))
    config = FewshotConfig(counts=(10,), percents=(), draws=1)
    with pytest.raises(UserError, match="NaN"):
        few_labels(broken, queries, config)
    with pytest.raises(UserError, match="labelled"):
        few_labels(replace(known, labels=None), queries, config)
