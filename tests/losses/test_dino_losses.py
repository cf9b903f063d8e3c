"""The losses and the balancing of DINO's ablations: by hand, and against what they are said to equal."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dinoscope.losses.dino import dino_loss, entropy, kl_loss, reverse_kl_loss, softmax_mse_loss
from dinoscope.losses.sinkhorn import batch_softmax, sinkhorn
from dinoscope.schedules import epoch_warmup

UNIFORM_STUDENT = torch.zeros(2, 1, 2, dtype=torch.float64)
"""Two views, one image, two outputs: q = (1/2, 1/2) at any temperature."""

EDGE = torch.tensor([[[1.0, 0.0]], [[0.25, 0.75]]], dtype=torch.float64)
INSIDE = torch.tensor([[[0.5, 0.5]], [[0.25, 0.75]]], dtype=torch.float64)


def random_case(students: int = 4) -> tuple[Tensor, Tensor]:
    """Logits of that many views and probabilities of two, three images, seven outputs."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(students, 3, 7, dtype=torch.float64, generator=generator)
    return logits, torch.randn(2, 3, 7, dtype=torch.float64, generator=generator).softmax(dim=-1)


def over_pairs(student: Tensor, teacher: Tensor, term) -> float:
    """Mean of term(q, p) over images and pairs of different views, as two loops; student: logits over temperature."""
    found = [
        term(student[s].softmax(dim=-1), teacher[t]).mean()
        for s in range(len(student))
        for t in range(len(teacher))
        if s != t
    ]
    return torch.stack(found).mean().item()


def test_kl_by_hand() -> None:
    """The pairs cost ln 2 each, less the entropies 0 and -(1/4 ln 1/4 + 3/4 ln 3/4) = 0.5623351."""
    assert kl_loss(UNIFORM_STUDENT, EDGE, 0.1).item() == pytest.approx(math.log(2) - 0.5623351 / 2, abs=1e-7)


def test_reverse_kl_by_hand() -> None:
    """Against (1/2, 1/2) nothing; against (1/4, 3/4) it is 1/2 ln 2 + 1/2 ln 2/3."""
    expected = (0 + 0.5 * math.log(2) + 0.5 * math.log(2 / 3)) / 2
    assert reverse_kl_loss(UNIFORM_STUDENT, INSIDE, 0.1).item() == pytest.approx(expected, abs=1e-12)


def test_reverse_kl_is_finite_where_the_teacher_is_certain() -> None:
    student = UNIFORM_STUDENT.clone().requires_grad_()
    loss = reverse_kl_loss(student, EDGE, 0.1)
    loss.backward()
    assert student.grad is not None
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_softmax_mse_by_hand() -> None:
    """(1/2)^2 + (1/2)^2 against (1, 0), and (1/4)^2 + (1/4)^2 against (1/4, 3/4)."""
    assert softmax_mse_loss(UNIFORM_STUDENT, EDGE, 0.1).item() == pytest.approx((0.5 + 0.125) / 2, abs=1e-12)


@pytest.mark.parametrize(
    ("loss", "term"),
    [
        (dino_loss, lambda q, p: -(p * q.log()).sum(dim=-1)),
        (kl_loss, lambda q, p: (p * (p / q).log()).sum(dim=-1)),
        (reverse_kl_loss, lambda q, p: (q * (q / p).log()).sum(dim=-1)),
        (softmax_mse_loss, lambda q, p: (p - q).square().sum(dim=-1)),
    ],
)
def test_each_is_the_plain_double_sum(loss, term) -> None:
    student, teacher = random_case()
    assert loss(student, teacher, 0.5).item() == pytest.approx(over_pairs(student / 0.5, teacher, term), abs=1e-12)


@pytest.mark.parametrize("student_views", [1, 2, 5])
def test_the_gradient_that_is_taken_view_by_view_is_that_of_the_whole(student_views: int) -> None:
    """Also with fewer views of the student than of the teacher (SwAV's crops with codes are chosen)."""
    student, teacher = random_case()
    student = student[:1].repeat(student_views, 1, 1) + torch.randn(student_views, 1, student.shape[-1]).double()
    assert torch.autograd.gradcheck(lambda logits: dino_loss(logits, teacher, 0.3), student.requires_grad_())


def test_kl_has_the_gradient_of_the_cross_entropy_and_is_less_by_the_entropy() -> None:
    student, teacher = random_case()
    first, second = student.clone().requires_grad_(), student.clone().requires_grad_()
    difference = dino_loss(first, teacher, 0.1) - kl_loss(second, teacher, 0.1)
    difference.backward()
    assert first.grad is not None
    assert second.grad is not None
    torch.testing.assert_close(first.grad, -second.grad)
    assert difference.item() == pytest.approx(entropy(teacher).mean().item(), abs=1e-12)


@pytest.mark.parametrize("loss", [kl_loss, reverse_kl_loss, softmax_mse_loss])
def test_a_student_that_gives_the_answers_has_none(loss) -> None:
    """All views alike, so that every pair agrees; and no gradient is left."""
    logits = torch.randn(1, 3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).repeat(3, 1, 1)
    student = logits.clone().requires_grad_()
    found = loss(student, (logits[:2] / 0.3).softmax(dim=-1), 0.3)
    found.backward()
    assert student.grad is not None
    assert found.item() == pytest.approx(0, abs=1e-12)
    assert student.grad.abs().max() < 1e-12


# Balancing


def test_batch_softmax_by_hand() -> None:
    """exp gives (1, 3; 1, 1); the columns, with sums 2 and 4, (1/2, 3/4; 1/2, 1/4); the rows have sums 5/4, 3/4."""
    shares = batch_softmax(torch.tensor([[1.0, 3.0], [1.0, 1.0]], dtype=torch.float64).log(), 1.0)
    torch.testing.assert_close(shares, torch.tensor([[0.4, 0.6], [2 / 3, 1 / 3]], dtype=torch.float64))


def test_batch_softmax_is_the_papers_two_lines_and_one_iteration_of_sinkhorn() -> None:
    logits = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain = (logits / 0.3).softmax(dim=0)
    shares = batch_softmax(logits, 0.3)
    torch.testing.assert_close(shares, plain / plain.sum(dim=1, keepdim=True))
    torch.testing.assert_close(shares, sinkhorn(logits, 0.3, iterations=1))


def test_batch_softmax_survives_what_underflows() -> None:
    """The second sample is the best of no output: its column shares are below the smallest float."""
    shares = batch_softmax(torch.tensor([[500.0, 0.0], [0.0, -500.0]]), 0.05)
    assert shares.isfinite().all()
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(2))


def test_batch_softmax_takes_a_constant_away_as_a_centre_does() -> None:
    logits = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    shift = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(batch_softmax(logits + shift, 0.3), batch_softmax(logits, 0.3))
    alike = batch_softmax(logits[:1].repeat(6, 1), 0.3)
    torch.testing.assert_close(alike, torch.full_like(alike, 1 / 5))


@pytest.mark.parametrize("epochs", range(5))
def test_the_temperature_warms_up_as_in_the_reference(epochs: int) -> None:
    """np.linspace(start, end, epochs), then the end: a warm-up of one epoch is spent at its start."""
    wanted = [*np.linspace(0.02, 0.07, epochs), *[0.07] * 3]
    assert [epoch_warmup(epoch, epochs, 0.02, 0.07) for epoch in range(epochs + 3)] == pytest.approx(wanted)
