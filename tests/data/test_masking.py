"""Masks of patches: allowed sizes, blocks, a pure function, and the share of views that are masked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dinoscope.data.finding import find_images
from dinoscope.data.loader import StepSampler, ViewsDataset, view_loader
from dinoscope.data.masking import PatchMasking
from dinoscope.data.views import VIEWS

IMAGES = 400


def masks(masking: PatchMasking, views: int = 2, seed: int = 0) -> np.ndarray:
    """[images, views, patches] of one epoch."""
    return np.stack([masking.sample(seed, 3, index, views) for index in range(IMAGES)])


@pytest.mark.parametrize("shape", ["block", "random"])
@pytest.mark.parametrize("side", [2, 4, 8, 14])
def test_a_masked_view_hides_at_least_one_patch_and_never_more_than_allowed(shape, side) -> None:
    masking = PatchMasking(side, side, shape=shape)
    counts = masks(masking).sum(axis=-1)
    assert counts.max() <= masking.max_patches == max(1, int(0.5 * side * side))
    assert counts[counts > 0].min() >= 1
    if side >= 8:
        assert counts[counts > 0].mean() / side**2 == pytest.approx(0.3, abs=0.03)


def test_single_patches_are_the_share_exactly() -> None:
    counts = masks(PatchMasking(10, 10, ratio=(0.37, 0.37), shape="random", probability=1.0)).sum(axis=-1)
    assert set(counts.flatten()) == {37}


def test_blocks_reach_their_share_but_for_what_does_not_fit() -> None:
    counts = masks(PatchMasking(14, 14, ratio=(0.4, 0.4), probability=1.0)).sum(axis=-1)
    assert counts.max() == int(0.4 * 196)
    assert counts.mean() > 0.95 * 0.4 * 196


def test_blocks_hang_together() -> None:
    """A hidden patch has more hidden neighbours than among single patches."""

    def neighbours(shape: str) -> float:
        masking = PatchMasking(14, 14, ratio=(0.3, 0.3), probability=1.0, shape=shape)
        grid = masks(masking).reshape(-1, 14, 14)
        return float((grid[:, :, 1:] & grid[:, :, :-1]).sum() / grid.sum())

    assert neighbours("block") > 0.7
    assert neighbours("random") == pytest.approx(0.3 * 13 / 14, abs=0.02)


def test_masks_are_a_pure_function_of_seed_epoch_image_and_view() -> None:
    masking = PatchMasking(8, 8, probability=1.0)
    first = masking.sample(1, 2, 3, 2)
    assert (masking.sample(1, 2, 3, 2) == first).all()
    assert (masking.sample(1, 2, 3, 3)[:2] == first).all()  # a view's mask does not depend on how many there are
    others = [masking.sample(*words, 2) for words in ((0, 2, 3), (1, 0, 3), (1, 2, 0))]
    assert all((other != first).any() for other in others)
    assert (first[0] != first[1]).any()


def test_views_are_masked_independently_or_half_of_them_exactly() -> None:
    """Of two views of an image: none, one or both (iBOT); or always one, so half of any batch (DINOv2)."""
    independent = masks(PatchMasking(8, 8)).any(axis=-1).sum(axis=1)
    assert np.bincount(independent) / IMAGES == pytest.approx([0.25, 0.5, 0.25], abs=0.08)
    masked = masks(PatchMasking(8, 8, views="exact")).any(axis=-1)
    assert (masked.sum(axis=1) == 1).all()
    assert masked[:, 0].mean() == pytest.approx(0.5, abs=0.08)
    three = masks(PatchMasking(8, 8, views="exact"), views=3).any(axis=-1).sum(axis=1)
    assert set(three) == {1, 2}
    assert three.mean() == pytest.approx(1.5, abs=0.08)


@pytest.mark.parametrize("views", ["independent", "exact"])
def test_bounds_on_the_masked_views_of_an_image(views) -> None:
    masking = PatchMasking(4, 4, views=views)
    for count in (1, 2, 3):
        found = masks(masking, count).any(axis=-1).sum(axis=1)
        assert masking.min_views(count) == found.min()
        assert masking.max_views(count) == found.max()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_masks_come_with_the_views_and_change_none(device, picture_folder) -> None:
    images, masking = find_images(picture_folder(6)), PatchMasking(8, 8)
    plain, masked = (
        ViewsDataset(images, replace(VIEWS["small_32"], device=device), 5, masking=given) for given in (None, masking)
    )
    batches = [
        next(view_loader(dataset, StepSampler(6, 4, 5, range(1, 2), rank=0, processes=1), 0, pin=False))
        for dataset in (plain, masked)
    ]
    before, after = (batch.to(torch.device("cpu")) for batch in batches)
    assert before.masks is None
    assert (before.global_views == after.global_views).all()
    expected = masking.sample_batch(5, 1, after.index.tolist(), 2)
    assert (after.masks == expected).all()
    halves = after.split(2)
    assert (halves[1].masks == expected[:, 2:]).all()
