"""Jaccard of attention masks, against numbers derived by hand."""

from __future__ import annotations

import pytest
import torch

from dinoscope.evaluation.jaccard import attention_jaccard, best_head, jaccard, jaccard_per_map

TRUTH = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0]], dtype=torch.bool)


def test_by_hand() -> None:
    prediction = torch.tensor([[0, 1, 1, 0], [0, 1, 1, 0]], dtype=torch.bool)
    assert jaccard(prediction, TRUTH) == pytest.approx(2 / 6)
    assert jaccard(TRUTH, TRUTH) == 1
    assert jaccard(~TRUTH, TRUTH) == 0


def test_pixels_that_are_not_valid_do_not_count() -> None:
    prediction = torch.tensor([[0, 1, 1, 0], [0, 1, 1, 0]], dtype=torch.bool)
    valid = torch.tensor([[1, 1, 0, 1], [1, 1, 1, 1]], dtype=torch.bool)
    assert jaccard(prediction, TRUTH, valid) == pytest.approx(2 / 5)


def test_two_empty_masks_agree() -> None:
    empty = torch.zeros_like(TRUTH)
    assert jaccard(empty, empty) == 1
    assert jaccard(TRUTH, TRUTH, valid=empty) == 1
    assert jaccard(TRUTH, empty) == 0


def test_a_patch_stands_for_all_of_its_pixels() -> None:
    masks = torch.tensor([[[1, 0]], [[1, 1]], [[0, 1]]], dtype=torch.bool)
    torch.testing.assert_close(jaccard_per_map(masks, TRUTH), torch.tensor([1.0, 0.5, 0.0]))


def test_the_head_is_chosen_on_other_images_than_it_is_reported_on() -> None:
    # columns: the mean over the heads, head 0, head 1
    selection = torch.tensor([[0.9, 0.2, 0.3], [0.9, 0.3, 0.5]])
    reported = torch.tensor([[0.4, 0.8, 0.1], [0.6, 0.8, 0.3]])
    assert best_head(selection) == 1
    metrics = {metric.name: metric.value for metric in attention_jaccard(selection, reported)}
    assert metrics == pytest.approx({"attention_jaccard_mean": 50.0, "attention_jaccard_head": 20.0})
