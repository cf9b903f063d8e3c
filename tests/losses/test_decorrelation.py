"""VICReg and Barlow Twins: recorded values and gradients, plain NumPy versions, examples by hand."""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dinoscope.losses.decorrelation import barlow_terms, pairs_with_global, vicreg_terms

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent.parent / "data/golden_decorrelation.json").read_text())
SHAPES = {"more images than dimensions": (12, 5), "fewer": (4, 9)}
"""The squared matrix [d, d] is computed by another way if it is larger than [n, n]."""


def recorded_input(images: int, dim: int) -> Tensor:
    """The two views of the recorded numbers; dimensions differ in scale, views in mean."""
    draw = np.random.RandomState(100 * images + dim)
    first = draw.standard_normal((images, dim))
    second = 0.7 * first + 0.5 * draw.standard_normal((images, dim)) + 0.3
    return torch.tensor(np.stack([first * np.linspace(0.3, 1.5, dim), second])).requires_grad_()


def several_views(images: int, dim: int, count: int) -> np.ndarray:
    draw = np.random.RandomState(7)
    shared = draw.standard_normal((images, dim))
    return np.stack([shared * (0.5 + view / 4) + 0.6 * draw.standard_normal((images, dim)) for view in range(count)])


@pytest.mark.parametrize("shape", SHAPES)
def test_vicreg_equals_the_recorded_terms_and_gradient(shape) -> None:
    images, dim = SHAPES[shape]
    recorded, views = GOLDEN[f"{images}x{dim}"], recorded_input(images, dim)
    terms = vicreg_terms(views, num_global=2)
    for name in ("invariance", "variance", "covariance"):
        assert getattr(terms, name).item() == pytest.approx(recorded[f"vicreg_{name}"], abs=1e-10)
    loss = 25 * terms.invariance + 25 * terms.variance + terms.covariance
    assert loss.item() == pytest.approx(recorded["vicreg"], abs=1e-9)
    (gradient,) = torch.autograd.grad(loss, views)
    wanted = [recorded["vicreg_grad_first"], recorded["vicreg_grad_second"]]
    torch.testing.assert_close(gradient, torch.tensor(wanted, dtype=torch.float64), atol=1e-9, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_barlow_twins_equals_the_recorded_terms_and_gradient(shape) -> None:
    images, dim = SHAPES[shape]
    recorded, views = GOLDEN[f"{images}x{dim}"], recorded_input(images, dim)
    terms = barlow_terms(views, num_global=2)
    for name in ("on_diagonal", "off_diagonal"):
        assert getattr(terms, name).item() == pytest.approx(recorded[f"barlow_{name}"], abs=1e-10)
    loss = terms.on_diagonal + 0.0051 * terms.off_diagonal
    assert loss.item() == pytest.approx(recorded["barlow"], abs=1e-10)
    (gradient,) = torch.autograd.grad(loss, views)
    wanted = [recorded["barlow_grad_first"], recorded["barlow_grad_second"]]
    torch.testing.assert_close(gradient, torch.tensor(wanted, dtype=torch.float64), atol=1e-9, rtol=0)


def vicreg_as_loops(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Eq. 1, 4 and 5 in loops, with the scales of the released code."""
    images, dim = first.shape
    invariance = sum((first[n, j] - second[n, j]) ** 2 for n in range(images) for j in range(dim)) / (images * dim)
    variance = covariance = 0.0
    for view in (first, second):
        means = [sum(view[:, j]) / images for j in range(dim)]
        for i in range(dim):
            for j in range(dim):
                shared = sum((view[n, i] - means[i]) * (view[n, j] - means[j]) for n in range(images)) / (images - 1)
                if i == j:
                    variance += max(0.0, 1 - math.sqrt(shared + 1e-4)) / dim / 2
                else:
                    covariance += shared**2 / dim
    return invariance, variance, covariance


def barlow_as_loops(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Eq. 1 and 2 in loops."""
    images, dim = first.shape
    scaled = [(view - view.mean(axis=0)) / np.sqrt(view.var(axis=0) + 1e-5) for view in (first, second)]
    on_diagonal = off_diagonal = 0.0
    for i in range(dim):
        for j in range(dim):
            correlation = sum(scaled[0][n, i] * scaled[1][n, j] for n in range(images)) / images
            on_diagonal += (correlation - 1) ** 2 if i == j else 0.0
            off_diagonal += correlation**2 if i != j else 0.0
    return on_diagonal, off_diagonal


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("count", "num_global"), [(2, 2), (2, 1), (5, 2)])
def test_the_losses_are_means_over_pairs_of_the_published_ones(shape, count, num_global) -> None:
    """Against loops over images, dimensions and pairs: one of two global views, and each global with each local."""
    views = several_views(*SHAPES[shape], count)
    pairs = [(i, j) for i, j in combinations(range(count), 2) if i < num_global]
    terms = vicreg_terms(torch.tensor(views), num_global)
    wanted = np.mean([vicreg_as_loops(views[i], views[j]) for i, j in pairs], axis=0)
    assert [term.item() for term in terms[:3]] == pytest.approx(wanted.tolist(), abs=1e-12)
    terms = barlow_terms(torch.tensor(views), num_global)
    wanted = np.mean([barlow_as_loops(views[i], views[j]) for i, j in pairs], axis=0)
    assert [term.item() for term in terms[:2]] == pytest.approx(wanted.tolist(), abs=1e-12)


def test_pairs_have_a_global_view_first() -> None:
    assert pairs_with_global(4, 2) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)]
    assert pairs_with_global(2, 2) == [(0, 1)]


def test_vicreg_by_hand() -> None:
    """Two images, embeddings (a, a) and (-a, -a), once with a = 1, once with a = 1/2.

    Unbiased variances are 2 a^2 = 2 and 1/2, and so are the covariances of the two dimensions.
    """
    image = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    terms = vicreg_terms(torch.stack([image, image / 2]), num_global=2)
    assert terms.invariance.item() == pytest.approx(1 / 4)
    assert terms.variance.item() == pytest.approx((0 + 1 - math.sqrt(0.5 + 1e-4)) / 2)
    assert terms.covariance.item() == pytest.approx(2**2 + 0.5**2)  # two elements off the diagonal, divided by d = 2
    assert terms.deviation.item() == pytest.approx((math.sqrt(2 + 1e-4) + math.sqrt(0.5 + 1e-4)) / 2)


def test_vicregs_gradient_by_hand() -> None:
    """One dimension, images at a and -a in both views: only the variance term, whose deviation is s = sqrt(2 a^2 + e).

    d/da of 1 - s is -2 a / s, shared by the two images of each view: -a / s for the first, of both views' half: / 2.
    """
    a = 0.3
    views = torch.tensor([[[a], [-a]]] * 2, dtype=torch.float64).requires_grad_()
    vicreg_terms(views, num_global=2).variance.backward()
    slope = -a / math.sqrt(2 * a**2 + 1e-4) / 2
    assert views.grad.flatten().tolist() == pytest.approx([slope, -slope, slope, -slope])


def test_barlow_twins_by_hand() -> None:
    """Four images at the corners of a square: dimensions are uncorrelated. Exchanged in the second view, they are wrong
    in all four elements of C; equal, in none."""
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64) * 1e3
    same = barlow_terms(torch.stack([corners, 5 * corners + 7]), num_global=2)
    assert [term.item() for term in same] == pytest.approx([0, 0, 1], abs=1e-9)
    exchanged = barlow_terms(torch.stack([corners, corners.flip(1)]), num_global=2)
    assert [term.item() for term in exchanged] == pytest.approx([2, 2, 0], abs=1e-9)


@pytest.mark.parametrize("terms", [vicreg_terms, barlow_terms])
@pytest.mark.parametrize("shape", SHAPES)
def test_both_ways_to_the_squares_have_the_right_gradient(terms, shape) -> None:
    views = torch.tensor(several_views(*SHAPES[shape], 3)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sum(terms(x, 2)[:-1]), views)


@pytest.mark.parametrize("terms", [vicreg_terms, barlow_terms])
@pytest.mark.parametrize("shape", [(64, 16), (16, 64)])
def test_statistics_of_half_precision_are_in_single(terms, shape) -> None:
    views = torch.tensor(several_views(*shape, 2), dtype=torch.float32).bfloat16()
    wanted = terms(views.double(), 2)
    for value, exact in zip(terms(views, 2), wanted, strict=True):
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("terms", [vicreg_terms, barlow_terms])
def test_constant_embeddings_have_a_finite_loss_and_gradient(terms) -> None:
    views = torch.ones(2, 6, 4).requires_grad_()
    values = terms(views, 2)
    sum(values[:-1]).backward()
    assert all(math.isfinite(value.item()) for value in values)
    assert views.grad.isfinite().all()
