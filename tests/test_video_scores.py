"""J and F: equal to the official scorer's figures, to the definition written out plainly, and to numbers by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import load_file

from dinoscope.errors import UserError
from dinoscope.evaluation.davis import (
    contour,
    contour_accuracy,
    region_similarity,
    score_object,
    score_sequence,
    statistics,
    summarise,
    tolerance_radius,
)

DATA = Path(__file__).parent / "data"
Mask = np.ndarray


# The definition, pixel by pixel. Nothing here is shared with the sources.


def plain_contour(mask: list[list[bool]]) -> set[tuple[int, int]]:
    """Pixels of which a neighbour to the right, below or diagonally below has another value."""
    height, width = len(mask), len(mask[0])
    return {
        (y, x)
        for y in range(height)
        for x in range(width)
        for dy, dx in ((0, 1), (1, 0), (1, 1))
        if y + dy < height and x + dx < width and mask[y][x] != mask[y + dy][x + dx]
    }


def plain_f(prediction: Mask, ground_truth: Mask, radius: float) -> float:
    ours, theirs = plain_contour(prediction.tolist()), plain_contour(ground_truth.tolist())
    if not ours and not theirs:
        return 1.0
    if not ours or not theirs:
        return 0.0
    precision = sum(min(math.dist(a, b) for b in theirs) <= radius for a in ours) / len(ours)
    recall = sum(min(math.dist(a, b) for b in ours) <= radius for a in theirs) / len(theirs)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def plain_j(prediction: Mask, ground_truth: Mask) -> float:
    pairs = list(zip(prediction.ravel().tolist(), ground_truth.ravel().tolist(), strict=True))
    union = sum(a or b for a, b in pairs)
    return sum(a and b for a, b in pairs) / union if union else 1.0


@st.composite
def mask_pairs(draw: st.DrawFn) -> tuple[Mask, Mask]:
    """Two masks of one size: noise, empty, full, one pixel, or a rectangle that may touch the borders."""
    shape = draw(st.tuples(st.integers(2, 12), st.integers(2, 14)))

    def one() -> Mask:
        kind = draw(st.sampled_from(("noise", "empty", "full", "pixel", "rectangle")))
        if kind == "noise":
            return draw(arrays(np.bool_, shape))
        mask = np.full(shape, kind == "full")
        if kind in ("pixel", "rectangle"):
            y, x = (draw(st.integers(0, side - 1)) for side in shape)
            height, width = (1, 1) if kind == "pixel" else (draw(st.integers(1, side)) for side in shape)
            mask[y : y + height, x : x + width] = True
        return mask

    return one(), one()


@settings(max_examples=300)
@given(pair=mask_pairs(), radius=st.integers(1, 4))
def test_equal_to_the_plain_definition(pair: tuple[Mask, Mask], radius: int) -> None:
    prediction, ground_truth = pair
    assert {(int(y), int(x)) for y, x in np.argwhere(contour(ground_truth))} == plain_contour(ground_truth.tolist())
    assert contour_accuracy(prediction, ground_truth, radius) == plain_f(prediction, ground_truth, radius)
    assert region_similarity(prediction, ground_truth) == plain_j(prediction, ground_truth)


@settings(max_examples=300)
@given(pair=mask_pairs(), above=st.integers(0, 150), left=st.integers(0, 150), pad=st.booleans())
def test_the_crop_changes_nothing(pair: tuple[Mask, Mask], above: int, left: int, pad: bool) -> None:
    """Of objects anywhere in a larger frame, touching its lower and right border or not."""
    margin = ((above, 5 * pad), (left, 7 * pad))
    prediction, ground_truth = (np.pad(mask, margin) for mask in pair)
    ids = [np.where(mask, np.uint8(3), np.uint8(1)) for mask in (prediction, ground_truth)]
    expected = (
        plain_j(prediction, ground_truth),
        plain_f(prediction, ground_truth, math.ceil(0.008 * math.hypot(*ground_truth.shape))),
    )
    assert score_object(*ids, 3) == expected


def test_one_pixel_by_hand() -> None:
    """The contour of a pixel is it and its three neighbours up and left; two pixels further, half of it is in reach."""
    ground_truth, prediction = np.zeros((9, 9), np.bool_), np.zeros((9, 9), np.bool_)
    ground_truth[4, 4] = prediction[4, 6] = True
    assert np.argwhere(contour(ground_truth)).tolist() == [[3, 3], [3, 4], [4, 3], [4, 4]]
    assert contour_accuracy(prediction, ground_truth, 1) == 0.5
    assert contour_accuracy(prediction, ground_truth, 2) == 1
    assert region_similarity(prediction, ground_truth) == 0
    corner = np.zeros((3, 3), np.bool_)
    corner[2, 2] = True
    assert np.argwhere(contour(corner)).tolist() == [[1, 1], [1, 2], [2, 1]]


def test_tolerance() -> None:
    assert tolerance_radius(480, 854) == 8  # 7.84
    assert tolerance_radius(300, 400) == 4  # exactly 4
    assert tolerance_radius(1080, 1920) == 18  # 17.6


def test_statistics_by_hand() -> None:
    """Five values: quarters are the pairs (1, 2), ..., (4, 5). Seven: cuts at 1, 2.5 -> 3, 4, 5.5 -> 6 and 7."""
    assert statistics([1.0, 0.8, 0.6, 0.5, 0.1]) == pytest.approx((0.6, 3 / 5, 0.9 - 0.3))
    assert statistics([0.9, 0.6, 0.3, 0, 0, 0.4, 0.2])[2] == pytest.approx(0.6 - 0.3)
    assert statistics([0.7])[2] == 0


def test_statistics_of_a_long_sequence() -> None:
    """More frames than a byte counts."""
    values = np.linspace(1, 0, 601)
    assert statistics(values.tolist())[2] == pytest.approx(0.75)


@pytest.mark.parametrize("sequence", [0, 1, 2])
def test_equal_to_the_official_scorer(sequence: int) -> None:
    masks, figures = load_file(DATA / "golden_davis.safetensors"), json.loads((DATA / "golden_davis.json").read_text())
    score = score_sequence(masks[f"{sequence}.prediction"], masks[f"{sequence}.ground_truth"])
    assert len(score.objects) == 2
    assert score.frames == tuple(range(1, 13))
    for number, each in enumerate(score.objects, start=1):
        expected = figures[f"{sequence}.object{number}"]
        for values, name in zip(each, "JF", strict=True):
            np.testing.assert_allclose(values, expected[f"{name}_per_frame"], atol=1e-12)
            theirs = [expected[name][key] for key in ("mean", "recall", "decay")]
            assert statistics(values) == pytest.approx(theirs, abs=1e-12)


def test_summary_is_over_objects() -> None:
    scores = [
        ((1.0, 0.8), (0.4, 0.4)),
        ((0.0, 0.2), (0.6, 1.0)),
        ((0.3,), (0.3,)),
    ]
    found = {metric.name: metric.value for metric in summarise(scores)}
    assert found["j_mean"] == pytest.approx(100 * (0.9 + 0.1 + 0.3) / 3)
    assert found["f_mean"] == pytest.approx(100 * (0.4 + 0.8 + 0.3) / 3)
    assert found["jf_mean"] == pytest.approx((found["j_mean"] + found["f_mean"]) / 2)
    assert found["j_recall"] == pytest.approx(100 / 3)
    assert found["f_recall"] == pytest.approx(100 / 3)
    assert not next(metric for metric in summarise(scores) if metric.name == "j_decay").higher_is_better


def square(number: int, left: int = 2, size: tuple[int, int] = (12, 20)) -> Mask:
    mask = np.zeros(size, np.uint8)
    mask[3:9, left : left + 6] = number
    return mask


def test_frames_without_ground_truth_are_counted_and_not_scored() -> None:
    """Of the annotated frames 0, 2, 3 and 5 the first and the last are left out."""
    ground_truths = [square(1), None, square(1), square(1, 4), None, square(1), None]
    score = score_sequence([square(1)] * 7, ground_truths)
    assert score.not_annotated == 3
    assert score.frames == (2, 3)
    assert score.objects[0][0] == (1.0, 24 / 48)


def test_objects_are_those_that_the_first_frame_numbers() -> None:
    """Up to its highest number, also where one below is missing, as officially; what comes later is only counted."""
    first = square(3) + square(1, 12)
    ground_truths = [first, first, np.maximum(square(5), square(2, 12)), first]
    score = score_sequence([first] * 4, ground_truths)
    assert len(score.objects) == 3
    assert score.later == (5,)
    assert score.objects[1][0] == (1.0, 0.0)


@pytest.mark.parametrize(
    ("predictions", "ground_truths", "message"),
    [
        ([square(1)] * 4, [None, *[square(1)] * 3], "first frame is not annotated"),
        ([square(1)] * 4, [square(0), *[square(1)] * 3], "first frame has no object"),
        ([square(1)] * 2, [square(1)] * 2, "at least 3 annotated frames"),
        ([square(2)] * 4, [square(1)] * 4, "frame 1: the mask holds object 2, and the first frame has 1"),
        (
            [square(1, size=(12, 21))] * 4,
            [square(1)] * 4,
            "frame 1: the mask and its ground truth differ in size, 21 x 12 px",
        ),
    ],
)
def test_what_cannot_be_scored(predictions: list[Mask], ground_truths: list[Mask | None], message: str) -> None:
    with pytest.raises(UserError, match=message):
        score_sequence(predictions, ground_truths)
