"""LiDAR: by hand, what it ignores, and views that depend on nothing but seed, image and number."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dinoscope.data.views import VIEWS
from dinoscope.errors import UserError
from dinoscope.evaluation.base import Context
from dinoscope.evaluation.lidar import EVALUATION, LiDARConfig, lidar, views_of
from dinoscope.evaluation.results import conditions
from dinoscope.methods.health import rank_me
from dinoscope.model_names import load_model
from tests.pictures import draw_picture

CPU = Context(torch.device("cpu"), workers=0, cached=False)


def test_two_directions_by_hand() -> None:
    """Means at (±2, 0) and (0, ±1), views at ±1 in both directions: W = I, B = diag(8, 2) / 3, shares 0.8 and 0.2."""
    means = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    views = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]])
    features = means[:, None] + views
    expected = math.exp(-(0.8 * math.log(0.8) + 0.2 * math.log(0.2)))
    assert lidar(features, delta=0, epsilon=0) == pytest.approx(expected)
    assert lidar(3 * features + 5, delta=0, epsilon=0) == pytest.approx(expected)  # neither scale nor place matter
    weak = features * torch.tensor([1.0, 0.1])  # a direction counts by its share of differences between images
    assert lidar(weak, delta=0, epsilon=0) == pytest.approx(expected)


def test_it_is_the_definition_with_square_roots_of_matrices_and_wide_features() -> None:
    generator = torch.Generator().manual_seed(0)
    for n, q, width in ((30, 4, 6), (5, 3, 40)):
        features = torch.randn(n, 1, width, generator=generator) + 0.5 * torch.randn(n, q, width, generator=generator)
        exact = features.double()
        means = exact.mean(dim=1)
        within = sum(torch.cov(own.T, correction=0) for own in exact) / n + 1e-4 * torch.eye(width).double()
        values, vectors = torch.linalg.eigh(within)
        root = vectors @ torch.diag(values**-0.5) @ vectors.T
        found = torch.linalg.eigvalsh(root @ torch.cov(means.T) @ root).clamp(min=0)
        shares = found[-min(n - 1, width) :] / found.sum() + 1e-8
        assert lidar(features) == pytest.approx(float(torch.exp(-(shares * shares.log()).sum())), rel=1e-6)


def test_directions_of_the_augmentation_alone_count_for_rankme_only() -> None:
    generator = torch.Generator().manual_seed(0)
    of_images = torch.zeros(200, 1, 16)
    of_images[..., :4] = torch.randn(200, 1, 4, generator=generator)
    features = of_images + torch.randn(200, 10, 16, generator=generator) * torch.tensor([0.1] * 4 + [1.0] * 12)
    assert lidar(features) == pytest.approx(4, abs=0.3)
    assert rank_me(features[:, 0]) > 12


def test_features_without_differences_give_one_and_bad_ones_are_refused() -> None:
    assert lidar(torch.ones(4, 3, 5)) == 1
    with pytest.raises(ValueError, match="two images"):
        lidar(torch.ones(1, 3, 5))
    with pytest.raises(UserError):
        lidar(torch.full((4, 3, 5), math.nan))
    wrong: dict[str, Any]
    for wrong in ({"limit": 1}, {"views": 1}, {"seed": -1}, {"augmentation": "none"}):
        with pytest.raises(UserError):
            LiDARConfig(**wrong)


def test_views_are_a_pure_function_of_seed_image_and_number() -> None:
    image, config = draw_picture(0), replace(VIEWS["simclr"], global_size=24)
    views = views_of(image, config, 4, 0, 7)
    assert views.shape == (4, 24, 24, 3)
    assert (views_of(image, config, 2, 0, 7) == views[:2]).all()
    assert not (views_of(image, config, 4, 1, 7) == views).all()
    assert not (views_of(image, config, 4, 0, 8) == views).all()
    assert len({view.tobytes() for view in views}) == 4


def test_batches_do_not_matter_and_unreadable_images_are_left_out(picture_folder: Callable[..., Path]) -> None:
    folder = picture_folder(9)
    model, config = load_model("random:vit_micro_patch4_64"), LiDARConfig(views=3)
    (one,), (other,) = (EVALUATION.run([model], folder, config, replace(CPU, batch_size=size)) for size in (4, 100))
    assert one.metrics[0].value == pytest.approx(other.metrics[0].value, rel=1e-3)
    assert conditions(one) == conditions(other)
    for path in sorted(folder.iterdir())[1:]:
        path.write_bytes(b"no image")
    with pytest.raises(UserError):
        list(EVALUATION.run([model], folder, config, CPU))


def test_grey_images_of_one_channel() -> None:
    grey = np.ascontiguousarray(draw_picture(1)[..., :1])
    assert views_of(grey, replace(VIEWS["xray"], global_size=16), 2, 0, 0).shape == (2, 16, 16, 1)
