"""Pointing game and energy on objects, by hand and at their chance level."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dinoscope.errors import UserError
from dinoscope.evaluation.explain import on_objects


def square(size: int, rows: slice, columns: slice) -> torch.Tensor:
    truth = torch.zeros(size, size, dtype=torch.bool)
    truth[rows, columns] = True
    return truth


def peak(row: int, column: int, size: int = 5) -> torch.Tensor:
    values = torch.ones(size, size)
    values[row, column] = 2
    return values


@pytest.mark.parametrize(
    ("place", "tolerance", "hit"),
    [
        ((0, 0), 0.0, 1.0),  # on the object, which is the upper left 2 x 2
        ((0, 4), 0.0, 0.0),
        ((0, 4), 2.9, 0.0),  # 3 px from its last column
        ((0, 4), 3.0, 1.0),
        ((3, 3), 2.8, 0.0),  # 2 px down and 2 px across: 2.83
        ((3, 3), 2.9, 1.0),
    ],
)
def test_pointing_by_hand(place: tuple[int, int], tolerance: float, hit: float) -> None:
    truth = square(5, slice(0, 2), slice(0, 2))
    assert on_objects(peak(*place), truth, tolerance=tolerance)["pointing"] == hit


def test_a_maximum_in_the_void_is_passed_over_for_the_highest_valid_one() -> None:
    truth = square(5, slice(0, 2), slice(0, 2))
    values, valid = peak(4, 4), torch.ones(5, 5, dtype=torch.bool)
    values[0, 1] = 1.5
    assert on_objects(values, truth, valid, tolerance=0)["pointing"] == 0
    valid[4, 4] = False
    assert on_objects(values, truth, valid, tolerance=0)["pointing"] == 1


def test_equal_maxima_share_the_hit() -> None:
    truth, values = square(5, slice(0, 2), slice(0, 2)), peak(0, 0)
    values[4, 4] = values[4, 0] = values[0, 4] = 2
    assert on_objects(values, truth, tolerance=0)["pointing"] == 0.25


def test_pointing_chance_by_hand() -> None:
    truth, values = square(4, slice(0, 1), slice(0, 1)), torch.ones(1, 1)
    assert on_objects(values, truth, tolerance=0)["pointing_chance"] == 1 / 16
    assert on_objects(values, truth, tolerance=1)["pointing_chance"] == 3 / 16  # itself, below, to the right
    valid = torch.ones(4, 4, dtype=torch.bool)
    valid[2:] = False
    assert on_objects(values, truth, valid, tolerance=1)["pointing_chance"] == 3 / 8


def test_energy_by_hand() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    truth = torch.tensor([[False, True], [False, True]])
    scores = on_objects(values, truth)
    assert scores["energy"] == pytest.approx(0.6)
    assert scores["area"] == 0.5
    scores = on_objects(values, truth, torch.tensor([[True, True], [False, True]]))  # without the 3
    assert scores["energy"] == pytest.approx(6 / 7)
    assert scores["area"] == pytest.approx(2 / 3)


def test_a_coarse_map_is_enlarged_in_register() -> None:
    """One patch of four: bilinear leaves its outer corner alone and fades towards its neighbours."""
    values = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    truth = square(8, slice(0, 4), slice(0, 4))
    # along a side of 8: 1, 1, 7/8, 5/8 | 3/8, 1/8, 0, 0, sums 3.5 and 0.5; the map is their product
    scores = on_objects(values, truth, tolerance=0)
    assert scores["energy"] == pytest.approx((3.5 / 4) ** 2)
    assert scores["pointing"] == 1


maps = st.tuples(st.integers(1, 4), st.integers(1, 4))


@given(maps, st.integers(0, 2**31), st.sampled_from([0.0, 1.0, 2.5]), st.booleans())
def test_an_even_map_and_one_of_zeros_score_chance(
    grid: tuple[int, int], seed: int, tolerance: float, zeros: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(9, 7, generator=generator) < 0.3
    valid = torch.rand(9, 7, generator=generator) < 0.9
    truth[4, 4] = valid[4, 4] = True
    values = torch.zeros(grid) if zeros else torch.full(grid, 0.37)
    scores = on_objects(values, truth, valid, tolerance)
    assert scores["energy"] == pytest.approx(scores["area"])
    assert scores["pointing"] == pytest.approx(scores["pointing_chance"])


@given(st.integers(0, 2**31))
def test_energy_is_a_share_and_scale_free(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values, truth = torch.rand(3, 5, generator=generator) + 0.01, torch.rand(12, 10, generator=generator) < 0.5
    truth[0, 0], truth[1, 1] = True, False
    inside = on_objects(values, truth)["energy"]
    assert 0 < inside < 1
    assert inside + on_objects(values, ~truth)["energy"] == pytest.approx(1)
    assert on_objects(1000 * values, truth)["energy"] == pytest.approx(inside)


def test_without_an_object_there_is_nothing_to_score() -> None:
    nothing = torch.zeros(4, 4, dtype=torch.bool)
    object_in_void = torch.ones(4, 4, dtype=torch.bool)
    for truth, valid in ((nothing, None), (object_in_void, nothing)):
        with pytest.raises(UserError, match="no pixel of this image belongs to an object"):
            on_objects(torch.ones(2, 2), truth, valid)
