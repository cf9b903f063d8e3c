"""Deletion and insertion on networks whose answer is known by hand."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dinoscope.errors import UserError
from dinoscope.explain.faithfulness import (
    PerturbationConfig,
    patch_order,
    perturbation_curves,
    step_counts,
    substitute,
)
from dinoscope.explain.maps import centre_map, centre_maps
from dinoscope.models.backbone import BackboneConfig, build_backbone

GRID = (2, 3)
MEAN = PerturbationConfig(steps=6, orders=20, fill="mean")


def picture() -> Tensor:
    """2 x 3 patches of 4 px, black but for the red of patch (1, 2), at 240; the mean red is 40."""
    image = torch.zeros(3, 8, 12, dtype=torch.uint8)
    image[0, 4:, 8:] = 240
    return image


def red_of_the_last_patch(images: Tensor) -> Tensor:
    """(1, 0) where the lower right patch is as in `picture`, and (0, 1) where it has the mean colour."""
    red = images[:, 0, 4:, 8:].float().mean(dim=(1, 2))
    present = (red - 40) / 200
    return torch.stack([present, 1 - present], dim=1)


def pointing_at(patch: int) -> Tensor:
    """A map that ranks this patch first, the others in reading order."""
    values = torch.arange(6, 0, -1.0)
    values[patch] = 7
    return values.view(GRID)


def test_the_map_that_points_at_what_counts_by_hand() -> None:
    curves = perturbation_curves(red_of_the_last_patch, picture(), pointing_at(5), MEAN)
    assert curves.share.tolist() == pytest.approx([step / 6 for step in range(7)])
    assert curves.deletion.tolist() == pytest.approx([1, 0, 0, 0, 0, 0, 0])
    assert curves.insertion.tolist() == pytest.approx([0, 1, 1, 1, 1, 1, 1])
    deletion, insertion, random = curves.areas
    assert deletion == pytest.approx(1 / 12)  # a triangle under the first step
    assert insertion == pytest.approx(11 / 12)
    assert deletion < random < insertion
    assert curves.range == pytest.approx(1)


@pytest.mark.parametrize("patch", range(5))
def test_every_other_map_has_a_larger_deletion_and_a_smaller_insertion(patch: int) -> None:
    """The patch that counts comes last in each: the curve stays up until the last step."""
    curves = perturbation_curves(red_of_the_last_patch, picture(), pointing_at(patch), MEAN)
    assert curves.deletion.tolist() == pytest.approx([1, 1, 1, 1, 1, 1, 0])
    deletion, insertion, random = curves.areas
    assert deletion == pytest.approx(11 / 12)
    assert insertion == pytest.approx(1 / 12)
    assert insertion < random < deletion


def test_random_orders_average_to_what_all_orders_give() -> None:
    """The patch that counts is equally likely at each of six places: areas 1/12, 3/12 … 11/12, 1/2 on average."""
    config = PerturbationConfig(steps=6, orders=400, fill="mean")
    curves = perturbation_curves(red_of_the_last_patch, picture(), pointing_at(0), config)
    assert curves.areas[2] == pytest.approx(0.5, abs=0.05)  # 3.5 standard errors of 400 orders
    places = {tuple(round(value) for value in curve.tolist()) for curve in curves.random}
    assert places == {tuple(int(step < place) for step in range(7)) for place in range(1, 7)}


def test_steps_are_at_most_the_patches_and_end_at_all_of_them() -> None:
    assert step_counts(6, 20).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert step_counts(10, 4).tolist() == [0, 2, 5, 8, 10]
    assert step_counts(1, 1).tolist() == [0, 1]
    coarse = perturbation_curves(
        red_of_the_last_patch, picture(), pointing_at(5), PerturbationConfig(steps=2, fill="mean")
    )
    assert coarse.share.tolist() == [0, 0.5, 1]
    assert coarse.deletion.tolist() == pytest.approx([1, 0, 0])
    assert coarse.areas[0] == pytest.approx(1 / 4)


def test_one_patch_has_nothing_to_rank() -> None:
    curves = perturbation_curves(red_of_the_last_patch, picture(), torch.ones(1, 1), MEAN)
    assert curves.areas == pytest.approx((0.5, 0.5, 0.5))


def test_with_a_score_of_its_own() -> None:
    curves = perturbation_curves(
        red_of_the_last_patch, picture(), pointing_at(5), MEAN, lambda features: 0.25 + features[:, 0] / 2
    )
    assert curves.deletion.tolist() == pytest.approx([0.75, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25])
    assert curves.range == pytest.approx(0.5)
    scaled = curves.scaled(curves.range)
    assert scaled is not None
    assert scaled.deletion.tolist() == pytest.approx([1, 0, 0, 0, 0, 0, 0])
    assert scaled.insertion.tolist() == pytest.approx([0, 1, 1, 1, 1, 1, 1])
    assert scaled.areas[0] == pytest.approx(1 / 12)
    by_others = curves.scaled(0.25)  # the mean fall over images, of which this one falls by twice as much
    assert by_others is not None
    assert by_others.deletion.tolist() == pytest.approx([2, 0, 0, 0, 0, 0, 0])
    assert curves.scaled(0.0005) is None


def test_a_network_that_sees_no_difference_has_no_scaled_curves() -> None:
    curves = perturbation_curves(lambda images: torch.ones(len(images), 2), picture(), pointing_at(5), MEAN)
    assert curves.areas == pytest.approx((1, 1, 1))
    assert curves.scaled(curves.range) is None


@given(st.permutations(range(6)), st.integers(1, 8), st.integers(1, 7))
def test_deletion_is_insertion_of_the_reverse_order_and_batches_do_not_matter(
    ranks: list[int], steps: int, batch_size: int
) -> None:
    torch.manual_seed(0)
    image = torch.randint(0, 256, (3, 8, 12), dtype=torch.uint8)
    describe = lambda images: images.float().flatten(1)[:, ::7]
    values = torch.tensor(ranks, dtype=torch.float32).view(GRID)
    forward = perturbation_curves(describe, image, values, PerturbationConfig(steps, 1, batch_size=batch_size))
    backward = perturbation_curves(describe, image, -values, PerturbationConfig(steps, 1))
    if all(int(a + b) == 6 for a, b in zip(step_counts(6, steps), step_counts(6, steps).flip(0), strict=True)):
        torch.testing.assert_close(forward.insertion, backward.deletion.flip(0))
    assert forward.deletion[0] == pytest.approx(1)
    assert forward.insertion[-1] == forward.deletion[0]
    assert forward.insertion[0] == forward.deletion[-1] == forward.random[0, -1]
    torch.testing.assert_close(forward.random, backward.random)  # the control does not look at the map


def test_equal_patches_are_ranked_by_lot_and_the_lot_is_seeded() -> None:
    values = torch.tensor([[0.0, 5.0, 0.0], [0.0, 0.0, 9.0]])
    orders = {tuple(patch_order(values, seed).tolist()) for seed in range(200)}
    assert all(order[:2] == (5, 1) for order in orders)
    assert {order[2:] for order in orders} == set(permutations((0, 2, 3, 4)))
    assert torch.equal(patch_order(values, 3), patch_order(values, 3))


def test_what_replaces_a_patch() -> None:
    assert substitute(picture(), MEAN)[:, 0, 0].tolist() == [40, 0, 0]
    blurred = substitute(picture(), PerturbationConfig(blur=0.25))
    assert blurred.shape == picture().shape
    assert 0 < int(blurred[0, 4, 7]) < 240  # red leaks over the edge of the patch
    assert int(blurred[1].max()) == 0
    assert int(substitute(picture(), PerturbationConfig(blur=1.0))[0].float().std()) < int(blurred[0].float().std())


@pytest.mark.parametrize("values", [{"steps": 0}, {"orders": 0}, {"batch_size": 0}, {"blur": 0.0}, {"blur": 1.5}])
def test_settings_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"at least 1|share of the short side"):
        PerturbationConfig(**values)


def test_a_broken_map_is_refused() -> None:
    with pytest.raises(UserError, match="not finite"):
        perturbation_curves(red_of_the_last_patch, picture(), torch.full(GRID, torch.nan), MEAN)


# The map that looks at nothing


def test_the_centred_blob() -> None:
    blob = centre_map(5, 7)
    assert blob.sum().item() == pytest.approx(1)
    assert int(blob.argmax()) == 2 * 7 + 3
    torch.testing.assert_close(blob, blob.flip(0, 1))
    # one patch from the middle down is a fifth of the side: exp(-(0.2 / 0.25)^2 / 2)
    assert (blob[1, 3] / blob[2, 3]).item() == pytest.approx(0.726149, rel=1e-5)


def test_the_centred_blob_fits_every_network_and_sees_no_image() -> None:
    backbone = build_backbone(BackboneConfig("resnet_micro", 64)).eval()
    maps = centre_maps(backbone, torch.randn(2, 3, 32, 64))
    assert maps.shape == (2, 1, *backbone(torch.randn(1, 3, 32, 64)).grid)
    assert torch.equal(maps[0], maps[1])
