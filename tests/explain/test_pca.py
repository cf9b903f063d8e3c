"""Principal components of patches: against numpy, with signs that are decided, and colours that are shared."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dinoscope.explain.patches import (
    away_from_border,
    border_patches,
    foreground_masks,
    otsu_threshold,
    patch_colors,
    patch_features,
    principal_components,
    scores,
)
from dinoscope.models.backbone import BackboneConfig, build_backbone


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("n", "d"), [(50, 8), (8, 50)])
def test_components_are_those_of_numpy(n: int, d: int) -> None:
    features = torch.randn(n, d, generator=seeded()) * torch.linspace(3, 1, d)
    found = principal_components(features)
    centred = features.double().numpy() - features.double().numpy().mean(axis=0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(found.axes.abs(), np.abs(axes[:3]), atol=1e-9)
    np.testing.assert_allclose(found.share, singular[:3] ** 2 / (singular**2).sum(), atol=1e-12)
    np.testing.assert_allclose(scores(found, features).var(dim=0, unbiased=False), singular[:3] ** 2 / n, rtol=1e-9)
    largest = found.axes.gather(1, found.axes.abs().argmax(dim=1, keepdim=True))
    assert (largest > 0).all()


def test_features_that_vary_in_one_way_have_one_component() -> None:
    features = torch.arange(6.0)[:, None] * torch.tensor([[0.0, -3.0, 4.0, 0.0]])
    found = principal_components(features)
    torch.testing.assert_close(found.axes[0], torch.tensor([0, -0.6, 0.8, 0], dtype=torch.float64))
    assert found.axes[1:].abs().max() == 0
    torch.testing.assert_close(found.share, torch.tensor([1.0, 0, 0], dtype=torch.float64))


@pytest.mark.parametrize(("n", "d"), [(1, 5), (2, 5), (5, 2)])
def test_too_few_patches_or_dimensions_leave_components_empty(n: int, d: int) -> None:
    found = principal_components(torch.randn(n, d, generator=seeded()))
    assert found.axes.shape == (3, d)
    assert found.axes.isfinite().all()
    assert (found.axes.norm(dim=1) > 0.5).sum() == min(n - 1, d)


def image_with_object(flip: float = 1.0, seed: int = 0) -> Tensor:
    """6 x 8 patches of 16 features; an object in the middle."""
    image = 0.05 * torch.randn(6, 8, 16, generator=seeded(seed))
    image[2:5, 3:6] += flip * torch.linspace(1, 2, 16)
    return image


@pytest.mark.parametrize("flip", [1.0, -1.0])
def test_the_foreground_is_what_differs_from_the_border(flip: float) -> None:
    mask = foreground_masks([image_with_object(flip)])[0]
    expected = torch.zeros(6, 8, dtype=torch.bool)
    expected[2:5, 3:6] = True
    assert torch.equal(mask, expected)


@pytest.mark.parametrize("flip", [1.0, -1.0])
def test_the_first_component_points_away_from_the_border(flip: float) -> None:
    image = image_with_object(flip)
    components = away_from_border(principal_components(image.flatten(0, 1)), [image])
    first = scores(components, image)[..., 0]
    assert first[border_patches(6, 8)].mean() < first[2:5, 3:6].mean()


def test_border_by_hand() -> None:
    assert border_patches(3, 4).int().tolist() == [[1, 1, 1, 1], [1, 0, 0, 1], [1, 1, 1, 1]]
    assert border_patches(1, 1).all()
    assert border_patches(2, 5).all()


def test_equal_patches_have_no_foreground_and_one_colour() -> None:
    image = torch.ones(3, 4, 5)
    assert not foreground_masks([image])[0].any()
    plain = patch_colors([image])[0]
    assert (plain.colors == 0.5).all()
    assert plain.share == 0
    assert (patch_colors([image], foreground=True)[0].colors == 0).all()


def test_threshold_by_hand() -> None:
    assert otsu_threshold(torch.tensor([1.0, 2.0, 10.0, 11.0])) == 6
    assert otsu_threshold(torch.tensor([5.0, 0.0, 0.0, 0.0])) == 2.5
    assert otsu_threshold(torch.tensor([3.0, 3.0])) == 3
    assert otsu_threshold(torch.tensor([7.0])) == 7


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=30))
def test_no_other_threshold_parts_better(numbers: list[int]) -> None:
    values = torch.tensor(numbers, dtype=torch.float64)

    def between(threshold: float) -> float:
        low, high = values[values <= threshold], values[values > threshold]
        return 0.0 if not len(high) or not len(low) else len(low) * len(high) * (low.mean() - high.mean()).item() ** 2

    best = max(between(number) for number in numbers)
    assert between(otsu_threshold(values)) == pytest.approx(best, rel=1e-9, abs=1e-9)


def test_jointly_like_parts_get_like_colours_and_alone_they_need_not() -> None:
    one, other = image_with_object(seed=1), image_with_object(seed=2).flip(1)
    joint = patch_colors([one, other])
    mirrored = joint[1].colors.flip(1)
    assert (joint[0].colors[..., 0] - mirrored[..., 0]).abs().max() < 0.15  # red is the object; green and blue noise
    assert joint[0].share == joint[1].share
    # an image that holds half of the features' range fills the scale alone, but not jointly with the other
    weak = 0.5 * one
    assert patch_colors([weak])[0].colors[2:5, 3:6, 0].mean() > 0.8
    assert patch_colors([one, weak])[1].colors[2:5, 3:6, 0].mean() < 0.7


def test_colours_fill_the_scale_and_the_background_is_black() -> None:
    colors = patch_colors([image_with_object()], foreground=True)[0]
    assert (colors.colors[~colors.foreground] == 0).all()
    inside = colors.colors[colors.foreground]
    assert inside.min() == 0
    assert inside.max() == 1
    assert 0 < colors.share <= 1


def test_the_same_features_give_the_same_colours() -> None:
    images = [torch.randn(5, 7, 9, generator=seeded(seed)) for seed in (1, 2)]
    first, again = patch_colors(images), patch_colors([image.clone() for image in images])
    assert all(torch.equal(a.colors, b.colors) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize(("name", "grid"), [("vit_micro_conv8", (4, 6)), ("resnet_micro", (2, 3))])
def test_patches_of_both_kinds_of_networks(name: str, grid: tuple[int, int]) -> None:
    backbone = build_backbone(BackboneConfig(name, 32)).eval()
    features = patch_features(backbone, torch.randn(2, 3, 32, 48, generator=seeded()))
    assert features.shape == (2, *grid, backbone.dim)
    assert not features.requires_grad
    torch.testing.assert_close(features.flatten(1, 2), backbone(torch.randn(2, 3, 32, 48, generator=seeded())).patches)
