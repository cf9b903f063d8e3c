"""Correspondence with networks of which the answer is known, and the geometry of pairs by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dinoscope.data.finding import find_images
from dinoscope.data.views import ViewParameters
from dinoscope.errors import UserError
from dinoscope.evaluation.base import Context
from dinoscope.evaluation.correspondence import (
    EVALUATION,
    CorrespondenceConfig,
    chance,
    hits,
    pair_of_views,
    true_regions,
)
from dinoscope.model_names import Model, wrap
from dinoscope.types import Result

CPU = Context(torch.device("cpu"), workers=0, cached=False)
PLAIN: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def measured(model: Model, folder: Path, **settings: int) -> Result:
    images = find_images(folder)
    return next(iter(EVALUATION.run([model], (images, None), CorrespondenceConfig(**settings), CPU)))


def values(result: Result) -> dict[str, float]:
    return {metric.name: metric.value for metric in result.metrics}


# Geometry


def test_true_regions_by_hand() -> None:
    whole = ViewParameters(0, 0, 40, 40, 16)
    mirrored = ViewParameters(0, 0, 40, 40, 16, horizontal_flip=True)
    rows, columns = true_regions(whole, mirrored, (2, 4))
    assert rows.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert columns.tolist() == [3, 2, 1, 0, 3, 2, 1, 0]
    # Columns 10 to 30, rows 20 to 40: centres at 12.5, 17.5, 22.5, 27.5 and at 25, 35, of cells of 10 and 20.
    crop = ViewParameters(20, 10, 20, 20, 16)
    rows, columns = true_regions(crop, whole, (2, 4))
    assert (rows.tolist(), columns.tolist()) == ([1] * 8, [1, 1, 2, 2] * 2)
    flipped = ViewParameters(20, 10, 20, 20, 16, horizontal_flip=True)
    assert true_regions(flipped, whole, (2, 4))[1].tolist() == [2, 2, 1, 1] * 2
    assert true_regions(flipped, mirrored, (2, 4))[1].tolist() == [1, 1, 2, 2] * 2
    assert (
        true_regions(whole, crop, (2, 4))[1].tolist() == [-1, 1, 3, 5] * 2
    )  # 5, 15, 25, 35 are -1, 1, 3, 5 cells of 5


def test_hits_and_chance_by_hand() -> None:
    true = (torch.tensor([0, 1]), torch.tensor([2, 0]))  # of 2 x 3 regions
    matches = torch.tensor([2, 4])  # row 0, column 2: right; row 1, column 1: one column off
    assert hits(matches, true, 3, 0).tolist() == [True, False]
    assert hits(matches, true, 3, 1).tolist() == [True, True]
    assert chance(true, (2, 3), 0) == pytest.approx(1 / 6)
    assert chance(true, (2, 3), 1) == pytest.approx(4 / 6)  # both rows, and two columns of three at either edge


def test_the_whole_image_is_its_centre_square_and_a_crop_lies_in_it() -> None:
    first, second = pair_of_views("photometric", 30, 50, 16, 0, 7)
    for view in (first, second):
        assert (view.top, view.left, view.height, view.width, view.size) == (0, 10, 30, 30, 16)
    assert not first.horizontal_flip
    assert not first.grayscale
    assert second.horizontal_flip
    assert second.grayscale
    for index in range(20):
        crop, whole = pair_of_views("geometric", 30, 50, 16, 0, index)
        assert (whole.left, whole.width) == (10, 30)
        assert 10 <= crop.left <= crop.left + crop.width <= 40
        assert 0.3 * 900 < crop.height * crop.width <= 900
        assert not crop.jitter
        assert not crop.grayscale
    assert pair_of_views("geometric", 30, 50, 16, 0, 3) == pair_of_views("geometric", 30, 50, 16, 0, 3)
    assert pair_of_views("geometric", 30, 50, 16, 1, 3) != pair_of_views("geometric", 30, 50, 16, 0, 3)


# Networks


class Cells(nn.Module):
    """The mean colour of cells of 8 px, [b, 3, rows, columns], and what is made of it."""

    def forward(self, images: Tensor) -> Tensor:
        return self.describe(nn.functional.avg_pool2d(images, 8))

    def describe(self, cells: Tensor) -> Tensor:
        raise NotImplementedError


class Nothing(Cells):
    """Every region is like every other."""

    def describe(self, cells: Tensor) -> Tensor:
        return torch.ones_like(cells)


class Greys(Cells):
    """The grey of a cell among those of its image, whatever brightness and contrast, as an angle."""

    def describe(self, cells: Tensor) -> Tensor:
        grey = cells.mean(dim=1, keepdim=True)
        angle = torch.pi / 2 + (grey - grey.mean(dim=(2, 3), keepdim=True)) / grey.std(dim=(2, 3), keepdim=True) / 2
        return torch.cat([angle.cos(), angle.sin()], dim=1)


class Places(Cells):
    """Red and green as places on a sphere, on which nearer ones have the higher cosine."""

    def describe(self, cells: Tensor) -> Tensor:
        red, green = (cells[:, channel] - 0.5 for channel in (0, 1))
        return torch.stack([red, green, torch.full_like(red, 20.0)], dim=1)


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    """Images of 4 x 4 cells of 8 px, each with a grey of its own, in an order of its own."""
    for number in range(6):
        greys = np.random.default_rng(number).permutation(16).reshape(4, 4) * 5 + 60
        pixels = np.repeat(np.repeat(greys, 8, axis=0), 8, axis=1).astype(np.uint8)
        Image.fromarray(pixels).convert("RGB").save(tmp_path / f"{number}.png")
    return tmp_path


@pytest.fixture
def ramps(tmp_path: Path) -> Path:
    """Images whose red tells the column, and whose green tells the row, linearly."""
    for number in range(6):
        place = np.linspace(0, 255, 128)
        pixels = np.stack([np.tile(place, (128, 1)), np.tile(place[:, None], (1, 128)), np.zeros((128, 128))], axis=-1)
        Image.fromarray(pixels.round().astype(np.uint8)).save(tmp_path / f"{number}.png")
    return tmp_path


def test_a_network_that_tells_nothing_finds_what_chance_does(steps: Path) -> None:
    found = values(measured(wrap(Nothing(), image_size=32, **PLAIN), steps))
    assert found["photometric"] == found["photometric_chance"] == found["geometric_chance"] == pytest.approx(100 / 16)
    # All cosines are equal, so that the first region is everyone's match.
    assert found["photometric_most_similar"] == pytest.approx(10)


def test_a_network_that_knows_each_region_by_its_grey_finds_all_of_them(steps: Path) -> None:
    result = measured(wrap(Greys(), image_size=32, **PLAIN), steps)
    assert values(result)["photometric"] == values(result)["photometric_most_similar"] == 100
    assert result.protocol["grid"] == [4, 4]
    assert result.items is not None
    assert result.items.figures["photometric"] == (100.0,) * 6
    assert set(result.items.figures) == {"photometric", "photometric_most_similar", "geometric"}


def test_a_network_that_knows_places_finds_regions_of_crops(ramps: Path) -> None:
    """All but those whose centre is next to an edge, which the rounding of colours may move across it."""
    model = wrap(Places(), image_size=64, **PLAIN)
    found = values(measured(model, ramps))
    assert found["geometric"] > 85
    assert values(measured(model, ramps, tolerance=1))["geometric"] == 100
    assert values(measured(model, ramps, tolerance=1))["geometric_chance"] > 5 * found["geometric_chance"]
    assert found["photometric"] < 50  # without colours there are no places


def test_the_protocol_line_tells_pairs_grid_and_tolerance(steps: Path) -> None:
    result = measured(wrap(Greys(), image_size=32, **PLAIN), steps, limit=2, tolerance=1)
    line = EVALUATION.protocol_line(result.protocol)
    for part in (
        "2 images of",
        "32 px",
        "4 x 4 regions",
        "at most 1 rows and columns off",
        "mirror image",
        "40 to 100 %",
    ):
        assert part in line
    assert result.items is not None
    assert len(result.items.names) == 2


def test_what_cannot_be_measured_is_refused_in_one_line(steps: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="correspondence needs features of patches"):
        measured(wrap(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), image_size=32, **PLAIN), steps)
    with pytest.raises(UserError, match="--tolerance at least 0"):
        CorrespondenceConfig(tolerance=-1)
    for file in list(steps.glob("*.png"))[1:]:
        file.write_bytes(file.read_bytes()[:100])
    result = measured(wrap(Greys(), image_size=32, **PLAIN), steps)
    assert result.items is not None
    assert len(result.items.names) == 1
    assert len(result.items.left_out) == 5
