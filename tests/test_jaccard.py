"""Jaccard of attention masks, against numbers derived by hand."""

from __future__ import annotations

import pytest
import torch

from dinoscope.evaluation.voc import jaccard

GROUND_TRUTH = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0]], dtype=torch.bool)


def test_by_hand() -> None:
    prediction = torch.tensor([[0, 1, 1, 0], [0, 1, 1, 0]], dtype=torch.bool)
    assert jaccard(prediction, GROUND_TRUTH) == pytest.approx(2 / 6)
    assert jaccard(GROUND_TRUTH, GROUND_TRUTH) == 1
    assert jaccard(~GROUND_TRUTH, GROUND_TRUTH) == 0


def test_pixels_that_are_not_valid_do_not_count() -> None:
    prediction = torch.tensor([[0, 1, 1, 0], [0, 1, 1, 0]], dtype=torch.bool)
    valid = torch.tensor([[1, 1, 0, 1], [1, 1, 1, 1]], dtype=torch.bool)
    assert jaccard(prediction, GROUND_TRUTH, valid) == pytest.approx(2 / 5)


def test_two_empty_masks_agree() -> None:
    empty = torch.zeros_like(GROUND_TRUTH)
    assert jaccard(empty, empty) == 1
    assert jaccard(GROUND_TRUTH, GROUND_TRUTH, valid=empty) == 1
    assert jaccard(GROUND_TRUTH, empty) == 0


def test_a_patch_stands_for_all_of_its_pixels() -> None:
    for mask, expected in (([1, 0], 1.0), ([1, 1], 0.5), ([0, 1], 0.0)):
        assert jaccard(torch.tensor([mask], dtype=torch.bool), GROUND_TRUTH) == expected
