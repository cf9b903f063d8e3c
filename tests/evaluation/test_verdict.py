"""The verdict: the rule on made answers, the words of every case, and how often the rule is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from dinoscope.evaluation.statistics import BootstrapConfig
from dinoscope.evaluation.verdict import (
    Candidate,
    Decision,
    further_images,
    images_to_tell,
    judge,
    leaked_sentence,
    measure_for,
    sentence,
    unlabelled_sentence,
)

QUICK = BootstrapConfig(200)
MINE, OTHER = Candidate("runs/mine", parameters=5.0, speed=100.0), Candidate("dino_vits16", parameters=21.0, speed=30.0)
PIXELS = Candidate("raw pixels", is_baseline=True)


def answers(images: int, *right: Sequence[tuple[int, int]]) -> Tensor:
    """Return answers of models, each right on these ranges of images."""
    made = torch.zeros(images, len(right), dtype=torch.bool)
    for model, ranges in enumerate(right):
        for begin, end in ranges:
            made[begin:end, model] = True
    return made


def classes(images: int, of: int = 10) -> Tensor:
    return torch.arange(images) % of


def decide(candidates: Sequence[Candidate], made: Tensor, **options: object) -> Decision:
    return judge(candidates, made, classes(len(made)), bootstrap=QUICK, **options)  # type: ignore[arg-type]


# The rule


def test_few_images_of_each_class_are_judged_by_logistic_regression() -> None:
    assert [measure_for(images, 10) for images in (50, 199, 200, 5000)] == ["logistic", "logistic", "knn", "knn"]


def test_a_clear_winner() -> None:
    decision = decide([PIXELS, MINE], answers(1000, [(0, 640)], [(0, 600), (700, 812)]))
    assert (decision.kind, decision.take, decision.second) == ("winner", "runs/mine", "raw pixels")
    (pair,) = decision.pairs
    assert pair.difference == pytest.approx(7.2)
    assert pair.probability == pytest.approx(stats.binomtest(112, 152).pvalue)
    assert pair.low is not None
    assert 0 < pair.low < 7.2
    assert list(decision.accuracies) == ["runs/mine", "raw pixels"]
    assert sentence(decision) == (
        "Take runs/mine: k-NN 71.2 % against 64.0 % of raw pixels, on 1,000 test images. If the two were equally good, "
        "fewer than 1 of 1,000 sets of test images would show such a difference."
    )


def test_a_tie_takes_the_cheaper_one_and_tells_how_many_labels_would_do() -> None:
    made = answers(60, [(0, 38)], [(0, 36), (40, 46)])
    decision = decide([MINE, OTHER], made)
    assert (decision.kind, decision.take, decision.reason) == ("tie", "runs/mine", "cheaper")
    assert (decision.first, decision.second) == ("dino_vits16", "runs/mine")
    difference, error = 4 / 60, float((made[:, 1].double() - made[:, 0].double()).std()) / 60**0.5
    assert decision.further == further_images(difference, error, 60)
    pair = decision.pairs[0]
    assert sentence(decision) == (
        "These 60 test images cannot tell dino_vits16 from runs/mine (k-NN 70.0 % and 63.3 % of runs/mine, difference "
        f"6.7 points, interval {pair.low:.1f} to {pair.high:.1f}): take the cheaper one, runs/mine, or label about "
        f"{decision.further} more images."
    )
    ahead = decide([replace(MINE, speed=None), replace(OTHER, parameters=5.2, speed=None)], made)
    assert (ahead.take, ahead.reason) == ("dino_vits16", "ahead")
    assert "take dino_vits16, which is ahead here and costs no more" in sentence(ahead)


def test_equal_models_are_a_tie_that_no_labels_would_end() -> None:
    decision = decide([MINE, OTHER], answers(50, [(0, 40)], [(10, 50)]))
    assert (decision.kind, decision.further) == ("tie", None)
    assert decision.take == "runs/mine"  # of equal accuracy the cheaper is first, and both is said
    assert "more labels will hardly tell them apart" in sentence(decision)


def test_a_baseline_that_is_better_or_not_beaten_is_said_plainly() -> None:
    wins = decide([MINE, OTHER, PIXELS], answers(1000, [(0, 582)], [(0, 500)], [(0, 640)]))
    assert (wins.kind, wins.take, wins.second) == ("baseline", None, "runs/mine")
    assert sentence(wins) == (
        "None of your models beats raw pixels: k-NN 64.0 % against 58.2 % of runs/mine, the best of them, on 1,000 "
        "test images. If the two were equally good, fewer than 1 of 1,000 sets of test images would show such a "
        "difference, corrected for 3 comparisons. Take none of them, and train on images like these."
    )
    for own in (38, 34):  # above and below the baseline
        close = decide([MINE, PIXELS], answers(60, [(0, own)], [(24, 60)]))
        assert (close.kind, close.take, close.first, close.second) == ("no better", None, "runs/mine", "raw pixels")
        text = sentence(close)
        assert text.startswith("None of your models is shown to beat raw pixels: k-NN ")
        assert f"difference {(own - 36) / 0.6:.1f} points" in text


def test_what_is_cheaper_but_not_above_every_baseline_is_not_taken() -> None:
    """OTHER 73 %, MINE 67 % and pixels 56 % of 100 images: MINE differs significantly from neither."""
    made = answers(100, [(0, 44), (60, 73), (80, 83), (86, 93)], [(0, 73)], [(0, 50), (80, 86)])
    decision = decide([MINE, OTHER, PIXELS], made)
    assert not decision.pair("runs/mine").is_significant
    assert decision.pair("raw pixels").is_significant
    assert (decision.kind, decision.take, decision.reason) == ("tie", "dino_vits16", "above baselines")
    assert "take dino_vits16, which is shown to beat every baseline" in sentence(decision)


def test_without_trained_models_baselines_are_judged_like_models() -> None:
    random = Candidate("random", is_baseline=True, parameters=5.0, speed=100.0)
    decision = decide([PIXELS, random], answers(1000, [(0, 640)], [(0, 300)]))
    assert (decision.kind, decision.take) == ("winner", "raw pixels")


def test_one_model_alone() -> None:
    decision = decide([MINE], answers(100, [(0, 70)]))
    assert (decision.kind, decision.take, decision.pairs) == ("single", None, ())
    assert sentence(decision).startswith("There is one model alone, runs/mine: k-NN 70.0 % (interval 60.4 to 78.1) on ")


def test_accuracies_of_guessing_are_said_to_be_such() -> None:
    made = answers(100, [(0, 55)], [(0, 40)])
    labels = (torch.arange(100) >= 52).long()
    decision = judge([MINE, OTHER], made, labels, bootstrap=QUICK)
    assert decision.largest_class == 52
    assert sentence(decision).endswith(
        "But no model is shown to be better than naming the largest class every time, which is right for 52.0 %."
    )


def test_groups_are_the_units_and_their_images_are_alike() -> None:
    """40 points apart, but all in 4 of 5 groups: signs of 4 differences, of which 2 in 16 reach as far."""
    groups = torch.arange(100) // 20
    made = answers(100, [(0, 80)], [])
    made[:, 1] = torch.arange(100) % 20 < 10
    made[80:] = True
    decision = decide([MINE, OTHER], made, groups=groups)
    assert (decision.groups, decision.kind) == (5, "tie")
    assert decision.pairs[0].probability == pytest.approx(2 / 16)
    assert "100 test images of 5 groups" in sentence(decision)
    assert "more images in whole groups" in sentence(decision)
    assert decide([MINE, OTHER], made).kind == "winner"


def test_every_pair_counts_as_a_comparison() -> None:
    made = answers(200, [(0, 130)], [(0, 116)], [(0, 100)])
    third = Candidate("third", parameters=5.0, speed=100.0)
    decision = decide([MINE, OTHER, third], made)
    assert decision.comparisons == 3
    # by Holm: the smallest three times, then that of the second and the third twice, then the largest once
    assert [pair.probability for pair in decision.pairs] == pytest.approx([2 * 0.5**14, 3 * 2 * 0.5**30], abs=1e-15)


# Further labels


def test_further_labels_by_hand() -> None:
    """An error of 5 points, a difference of 7 on 100 images: (1.960 + 0.842)^2 x 25 / 49 = 4.004 times as many."""
    assert further_images(0.07, 0.05, 100) == 310  # 300.4, two digits, rounded up
    assert further_images(0.07, 0.05, 100, split=0.5) == 610
    assert further_images(0.07, 0.05, 100, comparisons=6) == 520  # (2.638 + 0.842)^2 x 25 / 49 = 6.178 times
    assert further_images(0.2, 0.05, 100) == 10  # a tenth at least
    assert further_images(0.001, 0.05, 100) is None
    assert further_images(0.0, 0.05, 100) is None


def test_images_that_tell_models_apart_do_so_with_the_power_that_is_promised() -> None:
    images = images_to_tell(10)
    assert images == 393  # 7.849 x 0.5 / 0.01
    rng, significant = np.random.default_rng(0), 0
    for _ in range(2000):
        ahead, behind, _ = rng.multinomial(images, [0.3, 0.2, 0.5])
        significant += stats.binomtest(ahead, ahead + behind).pvalue < 0.05 if ahead > behind else 0
    assert 0.76 < significant / 2000 < 0.84


# How often it is wrong


def drawn(rng: np.random.Generator, images: int, shares: Sequence[float]) -> Tensor:
    """Return answers of models that find the same images hard, as models do."""
    hard = rng.normal(size=(images, 1)) + rng.normal(size=(images, len(shares)))
    return torch.tensor(hard < np.array([np.sqrt(2) * stats.norm.ppf(share) for share in shares]))


def test_of_equal_models_a_winner_is_named_in_at_most_5_percent_of_data_sets() -> None:
    rng = np.random.default_rng(0)
    for images, models, groups in ((60, 2, 0), (300, 2, 0), (200, 4, 0), (200, 2, 20)):
        named = {Candidate(f"model {number}"): None for number in range(models)}
        wrong, better = 0, 0
        for _ in range(400):
            made = drawn(rng, images, [0.6] * models)
            numbers = torch.arange(images) % groups if groups else None
            decision = judge(list(named), made, classes(images), numbers, bootstrap=BootstrapConfig(20))
            wrong += decision.kind == "winner"
            better += any(pair.is_significant for pair in decision.pairs)  # chosen by the same images
        assert wrong <= 20, (images, models, groups)
        assert better <= 20 + 13, (images, models, groups)  # 5 %, and three deviations of 400 draws


def test_ten_points_on_a_thousand_images_are_significant_in_at_least_95_percent() -> None:
    rng = np.random.default_rng(0)
    right = 0
    for _ in range(400):
        decision = judge([MINE, OTHER], drawn(rng, 1000, (0.6, 0.7)), classes(1000), bootstrap=BootstrapConfig(20))
        right += decision.kind == "winner" and decision.take == "dino_vits16"
        assert decision.take != "runs/mine" or decision.kind == "tie"
    assert right >= 380


# Other sentences


def test_a_leak_forbids_trust_and_names_an_example() -> None:
    text = leaked_sentence(12, 300, ("val/a.png", "train/b.png"), "Take x.")
    assert text == (
        "Do not trust these figures until 12 of 300 test images are removed: they are in the training images, too, or "
        "share a group with them (as val/a.png with train/b.png). Without them: Take x."
    )
    assert leaked_sentence(3, 3, ("a", "b"), "").endswith("(as a with b).")


def test_without_labels_nothing_is_recommended() -> None:
    text = unlabelled_sentence("runs/mine", 61.23, 2)
    assert text.startswith(
        "Without labels, nothing tells which model is better for your task. By LiDAR runs/mine is first"
    )
    assert "400 images" in text
    assert "By LiDAR" not in unlabelled_sentence("runs/mine", 61.2, 1)
    assert "By LiDAR" not in unlabelled_sentence("runs/mine", None, 2)
