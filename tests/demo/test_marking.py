"""Marking objects: a click finds what is around it; what takes away and undo do; paint is read by its colour."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dinoscope.demo.clip import BRUSH_OPACITY, OBJECTS, Click, clip_cells, object_ids, painted
from dinoscope.evaluation.propagation import working_size
from dinoscope.model_names import load_model, shipped_model
from dinoscope.objects import COLORS
from tests.demo.clips import SIZE, scene

PATCH = 8


def middle(mask: np.ndarray) -> tuple[float, float]:
    """The place deepest inside, as shares of height and width."""
    depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return (row + 0.5) / mask.shape[0], (column + 0.5) / mask.shape[1]


def agreement(mask: np.ndarray, truth: np.ndarray) -> float:
    return (mask & truth).sum() / (mask | truth).sum()


def test_one_click_finds_drawn_objects(tmp_path: Path) -> None:
    """Far more than the patches around the click, and more than half of what object and region cover together."""
    backbone = load_model(str(shipped_model())).backbone
    found, around = [], []
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    for number in range(4):
        clip, truth = scene(tmp_path / "scenes", number, 1)
        cells = clip_cells(backbone, clip, SIZE[0])
        for each in np.unique(truth)[1:]:
            row, column = middle(truth == each)
            found.append(agreement(object_ids([Click(1, row, column)], cells, SIZE) == 1, truth == each))
            near = np.maximum(abs(rows - row * SIZE[0]), abs(columns - column * SIZE[1])) <= 1.5 * PATCH
            around.append(agreement(near, truth == each))
    assert len(found) >= 8
    assert np.mean(found) > 0.5
    assert np.mean(found) > np.mean(around) + 0.1


def two_halves() -> torch.Tensor:
    """A ground of one feature [8, 12, 3] with two like squares on it, which are not connected."""
    cells = torch.zeros(8, 12, 3)
    cells[..., 0] = 1
    for columns in (slice(2, 5), slice(7, 10)):
        cells[2:6, columns] = torch.tensor([0.0, 1.0, 0.0])
    return cells


def test_a_region_ends_where_it_is_no_longer_connected() -> None:
    ids = object_ids([Click(3, 3.5 / 8, 3.5 / 12)], two_halves(), (8, 12))
    expected = np.zeros((8, 12), np.uint8)
    expected[2:6, 2:5] = 3
    assert np.array_equal(ids, expected)
    both = object_ids([Click(3, 3.5 / 8, 3.5 / 12), Click(1, 3.5 / 8, 8.5 / 12)], two_halves(), (8, 12))
    assert (both == 3).sum() == (both == 1).sum() == 12


def test_a_click_that_takes_away_empties_what_looks_like_it() -> None:
    add, away = Click(1, 3.5 / 8, 3.5 / 12), Click(1, 4.5 / 8, 3.5 / 12, adds=False)
    before = object_ids([add], two_halves(), (8, 12))
    after = object_ids([add, away], two_halves(), (8, 12))
    assert before[4, 3] == 1
    assert after[4, 3] == 0
    assert after.sum() < before.sum()
    assert not object_ids([away], two_halves(), (8, 12)).any()
    assert not object_ids([], None, (8, 12)).any()


def test_a_larger_reach_never_shrinks_a_region(tmp_path: Path) -> None:
    clip, truth = scene(tmp_path / "scenes", 0, 1)
    cells = clip_cells(load_model("random:vit_micro_conv8").backbone, clip, 64)
    click = Click(1, *middle(truth == 1))
    sizes = [int(object_ids([click], cells, SIZE, reach).sum()) for reach in (-0.3, -0.1, 0.0, 0.1, 0.3)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_the_same_clicks_give_the_same_region(tmp_path: Path) -> None:
    clip, _ = scene(tmp_path / "scenes", 1, 1)
    backbone = load_model("random:vit_micro_conv8").backbone
    clicks = [Click(2, 0.4, 0.3), Click(4, 0.6, 0.7), Click(2, 0.1, 0.1, adds=False)]
    height, width = working_size(*SIZE, 64, PATCH)
    first, second = clip_cells(backbone, clip, 64), clip_cells(backbone, clip, 64)
    assert first.shape[:2] == (height // PATCH, width // PATCH)
    assert np.array_equal(object_ids(clicks, first, SIZE), object_ids(clicks, second, SIZE))


@pytest.mark.parametrize("place", [(0.0, 0.0), (0.999, 0.999), (1.0, 1.0)])
def test_clicks_at_the_very_edge_count(place: tuple[float, float]) -> None:
    assert object_ids([Click(1, *place)], two_halves(), (80, 120)).any()


def test_paint_is_read_by_its_colour_at_any_size_and_lies_over_regions() -> None:
    layer = np.zeros((16, 24, 4), np.uint8)
    for number, color in enumerate(COLORS, start=1):
        layer[2 * number, 4:12] = (*color, int(255 * BRUSH_OPACITY))
        layer[2 * number, 12:16] = (*color, 60)  # the soft edge of a stroke
    ids = painted([layer], (16, 24))
    assert [int(ids[2 * number, 5]) for number in range(1, OBJECTS + 1)] == list(range(1, OBJECTS + 1))
    assert not ids[:, 12:].any()
    assert painted([layer], (8, 12)).shape == (8, 12)
    marks = [Click(1, 3.5 / 8, 3.5 / 12), np.full((8, 12), 5, np.uint8)]
    assert set(np.unique(object_ids(marks, two_halves(), (8, 12)))) == {5}
    assert not painted([], (4, 4)).any()
