"""Cosines of patches, and the way from a pixel to its patch at any size."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dinoscope.errors import UserError
from dinoscope.explain.patches import patch_at, patch_box, similarity_maps, stretched

sides, cells = st.integers(1, 3000), st.integers(1, 200)


@given(st.data(), sides, sides, cells, cells)
def test_the_centre_of_a_pixel_lies_in_its_patch(
    data: st.DataObject, height: int, width: int, rows: int, columns: int
) -> None:
    """At any size: images with more pixels than patches, and with fewer."""
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    row, column = patch_at((x, y), (height, width), (rows, columns))
    assert 0 <= row < rows
    assert 0 <= column < columns
    left, top, right, bottom = patch_box((row, column), (height, width), (rows, columns))
    slack = 1e-9 * max(height, width)
    assert left - slack <= x + 0.5 < right + slack
    assert top - slack <= y + 0.5 < bottom + slack


@given(sides, cells)
def test_patches_follow_each_other_from_the_first_to_the_last(width: int, columns: int) -> None:
    along = [patch_at((x, 0), (1, width), (1, columns))[1] for x in range(width)]
    assert along == sorted(along)
    assert along == [columns - 1 - column for column in reversed(along)] or any(  # mirrored, but for centres on an edge
        (2 * x + 1) * columns % (2 * width) == 0 for x in range(width)
    )
    if width >= columns:
        assert set(along) == set(range(columns))


def test_patches_by_hand() -> None:
    # 100 x 50 px on 4 columns and 3 rows: patches of 25 x 16.7 px
    size, grid = (50, 100), (3, 4)
    assert patch_at((0, 0), size, grid) == (0, 0)
    assert patch_at((24, 16), size, grid) == (0, 0)
    assert patch_at((25, 17), size, grid) == (1, 1)
    assert patch_at((99, 49), size, grid) == (2, 3)
    assert patch_box((1, 3), (60, 100), grid) == (75, 20, 100, 40)


@pytest.mark.parametrize("point", [(-1, 0), (0, -1), (100, 0), (0, 50)])
def test_a_point_outside_of_the_image_is_refused(point: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=r"outside of the image, which is 100 x 50 px: x is 0 to 99, y is 0 to 49"):
        patch_at(point, (50, 100), (3, 4))


def test_cosines_by_hand() -> None:
    patches = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]], [[1.0, 1.0], [0.0, 0.0], [3.0, 4.0]]])
    maps = similarity_maps(torch.tensor([[5.0, 0.0], [0.0, 0.0]]), patches)
    expected = torch.tensor([[1.0, 0.0, -1.0], [0.5**0.5, 0.0, 0.6]])
    torch.testing.assert_close(maps[0], expected)
    assert (maps[1] == 0).all()


def test_stretched_maps_share_one_range_and_even_maps_are_dark() -> None:
    first, second = stretched([torch.tensor([[0.8, 0.9]]), torch.tensor([[1.0, 0.85]])])
    torch.testing.assert_close(first, torch.tensor([[0.0, 0.5]]))
    torch.testing.assert_close(second, torch.tensor([[1.0, 0.25]]))
    assert not stretched([torch.full((2, 2), 0.7)])[0].any()
