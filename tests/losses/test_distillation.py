"""The losses of distillation against figures by hand, and against slow NumPy in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dinoscope.losses.distillation import (
    DISTANCES,
    cosine_distance,
    resized_patches,
    view_distances,
    whitened_squared_error,
)

SEED = torch.Generator().manual_seed(0)


def test_the_cosine_of_known_angles() -> None:
    student = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [1.0, 1.0]])
    teacher = torch.tensor([[5.0, 0.0], [1.0, 0.0], [4.0, 0.0], [7.0, 0.0]])
    expected = torch.tensor([0.0, 1.0, 2.0, 1 - math.sqrt(0.5)])
    torch.testing.assert_close(cosine_distance(student, teacher), expected)


def test_the_squared_error_is_to_the_whitened_target() -> None:
    # (1, 3, 5, 7): mean 4, variance 5, so the whitened target is (-3, -1, 1, 3) / sqrt(5); 1e-5 is torch's epsilon.
    target = torch.tensor([[1.0, 3.0, 5.0, 7.0]], dtype=torch.float64)
    white = np.array([-3.0, -1.0, 1.0, 3.0]) / math.sqrt(5 + 1e-5)
    prediction = torch.tensor([[0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    expected = np.mean((np.array([0.0, 0.0, 1.0, 1.0]) - white) ** 2)
    assert whitened_squared_error(prediction, target).item() == pytest.approx(expected, rel=1e-12)
    assert whitened_squared_error(prediction, 100 * target - 7).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", DISTANCES)
def test_pairs_of_views_are_those_of_slow_numpy(name: str) -> None:
    """Two global views with themselves, three local ones with both: eight pairs."""
    student = torch.randn(5, 4, 6, generator=SEED, dtype=torch.float64)
    teacher = torch.randn(2, 4, 6, generator=SEED, dtype=torch.float64)

    def distance(p: np.ndarray, t: np.ndarray) -> float:
        if name == "cosine":
            return 1 - p @ t / (np.linalg.norm(p) * np.linalg.norm(t))
        return float(np.mean((p - (t - t.mean()) / np.sqrt(t.var() + 1e-5)) ** 2))

    pairs = [(0, 0), (1, 1), *((view, taught) for view in (2, 3, 4) for taught in (0, 1))]
    rows = [distance(student[v, b].numpy(), teacher[t, b].numpy()) for v, t in pairs for b in range(4)]
    assert view_distances(student, teacher, DISTANCES[name]).item() == pytest.approx(np.mean(rows), rel=1e-12)


def test_without_local_views_each_view_has_one_teacher() -> None:
    student, teacher = torch.eye(2)[:, None], torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]])
    assert view_distances(student, teacher, cosine_distance).item() == pytest.approx(0.5)


def test_patches_keep_their_places_on_another_grid() -> None:
    ramp = torch.arange(4.0).repeat(4, 1)  # columns 0 1 2 3 in each row
    patches = torch.stack([ramp, ramp.T], dim=-1).reshape(1, 16, 2)
    assert resized_patches(patches, (4, 4), (4, 4)) is patches
    half = resized_patches(patches, (4, 4), (2, 2))
    torch.testing.assert_close(half[0], torch.tensor([[0.5, 0.5], [2.5, 0.5], [0.5, 2.5], [2.5, 2.5]]))
    assert resized_patches(patches, (4, 4), (3, 5)).shape == (1, 15, 2)


def test_half_precision_is_compared_in_single() -> None:
    features = torch.randn(3, 8, generator=SEED).to(torch.bfloat16)
    for distance in DISTANCES.values():
        assert distance(features, features).dtype == torch.float32
