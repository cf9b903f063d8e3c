"""Coding rates by hand and by eigenvalues in NumPy; SimDINO's and EMP-SSL's losses against their code's numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from dinoscope.losses.coding_rate import alignment_to_mean, coding_rate, max_coding_rate
from dinoscope.losses.dino import mean_cosine
from dinoscope.methods.emp import EMP, EMPConfig
from dinoscope.methods.simdino import SimDINO, SimDINOConfig
from dinoscope.models.backbone import BackboneConfig
from dinoscope.types import Step, StepOutput

DATA = Path(__file__).parent.parent / "data"
VIT = BackboneConfig("vit_micro_conv8", image_size=32)
START = Step(0, 10, 5)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(DATA / "golden_coding.safetensors")


@pytest.fixture(scope="module")
def numbers() -> dict[str, dict[str, float]]:
    return json.loads((DATA / "golden_coding.json").read_text())


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_eigenvalues(rows: np.ndarray, eps: float) -> float:
    """Half the sum of ln(1 + d / (n eps) s^2) over the singular values s: no determinant, no Gram matrix."""
    n, d = rows.shape
    return float(0.5 * np.log1p(d / (n * eps) * np.linalg.svd(rows, compute_uv=False) ** 2).sum())


@pytest.mark.parametrize(("n", "d"), [(5, 8), (12, 6), (7, 7), (1, 4), (4, 1)])
@pytest.mark.parametrize("eps", [0.05, 0.2, 3.0])
def test_the_rate_is_that_of_the_singular_values(n, d, eps) -> None:
    batches = drawn(n, 2, 3, n, d)
    rates = coding_rate(batches, eps)
    assert rates.shape == (2, 3)
    for index in np.ndindex(2, 3):
        assert rates[index].item() == pytest.approx(by_eigenvalues(batches[index].numpy(), eps), rel=1e-12)


def test_both_gram_matrices_have_the_same_rate_and_gradient() -> None:
    """Sylvester: the larger matrix, which is not taken, gives the same."""
    for n, d in ((4, 9), (9, 4)):
        rows = drawn(1, n, d).requires_grad_()
        gram = rows @ rows.T if n > d else rows.T @ rows
        other = 0.5 * torch.logdet(torch.eye(max(n, d)) + d / (n * 0.2) * gram)
        rate = coding_rate(rows, 0.2)
        assert rate.item() == pytest.approx(other.item(), rel=1e-12)
        torch.testing.assert_close(*(torch.autograd.grad(value, rows)[0] for value in (rate, other)))


def test_the_gradient_by_hand() -> None:
    """d R / d Z = a Z (I + a Z^T Z)^-1 with a = d / (n eps)."""
    rows, scale = drawn(2, 6, 3).requires_grad_(), 3 / (6 * 0.2)
    (gradient,) = torch.autograd.grad(coding_rate(rows, 0.2), rows)
    plain = rows.detach().numpy()
    by_hand = scale * plain @ np.linalg.inv(np.eye(3) + scale * plain.T @ plain)
    np.testing.assert_allclose(gradient.numpy(), by_hand, rtol=1e-10)


def test_orthonormal_and_equal_rows_by_hand() -> None:
    """Orthonormal: n / 2 ln(1 + d / (n eps)), the largest. Equal: one singular value, sqrt(n): 1/2 ln(1 + d / eps)."""
    assert coding_rate(torch.eye(4, 8), 0.5).item() == pytest.approx(2 * math.log(1 + 8 / 2), rel=1e-6)
    assert max_coding_rate(4, 8, 0.5) == pytest.approx(2 * math.log(5))
    assert coding_rate(torch.eye(8)[:1].repeat(4, 1), 0.5).item() == pytest.approx(0.5 * math.log(17), rel=1e-6)
    twice = torch.cat([torch.eye(4), -torch.eye(4)])  # n > d: the trace 8 is shared by 4 eigenvalues
    assert coding_rate(twice, 0.5).item() == pytest.approx(max_coding_rate(8, 4, 0.5), rel=1e-6)


def test_no_rows_of_length_one_exceed_the_largest_rate() -> None:
    for n, d in ((5, 20), (20, 5), (12, 12)):
        rates = coding_rate(F.normalize(drawn(3, 50, n, d), dim=-1), 0.1)
        assert rates.max() < max_coding_rate(n, d, 0.1)


def test_the_published_run_ends_near_its_bound() -> None:
    """64 orthonormal rows of 256, eps 0.4, gamma 1/256 + 1/512: 0.4496; its log's expansion settles at 0.424."""
    bound = (1 / 256 + 1 / 512) * max_coding_rate(64, 256, 0.4)
    assert bound == pytest.approx((1 / 256 + 1 / 512) * 32 * math.log(11))
    assert bound == pytest.approx(0.4496, abs=5e-5)


def test_half_precision_is_computed_in_float32() -> None:
    """In bf16 the diagonal 1 + 51.2 s would have three digits, and its determinant none."""
    rows = F.normalize(drawn(4, 40, 64), dim=-1).to(torch.bfloat16)
    rate = coding_rate(rows, 0.05)
    assert rate.dtype == torch.float32
    assert rate.item() == pytest.approx(by_eigenvalues(rows.double().numpy(), 0.05), rel=1e-5)


def test_alignment_to_the_mean_written_as_loops() -> None:
    views = drawn(5, 4, 3, 6).numpy()
    unit = views / np.linalg.norm(views, axis=-1, keepdims=True)
    terms = list[float]()
    for image in range(3):
        mean = sum(unit[view, image] for view in range(4)) / 4
        terms += [float(unit[view, image] @ mean / np.linalg.norm(mean)) for view in range(4)]
    assert alignment_to_mean(torch.from_numpy(views)).item() == pytest.approx(np.mean(terms), rel=1e-12)


def test_alignment_to_the_mean_by_hand() -> None:
    """Two patches at right angles: each is at 45 degrees to their mean. Equal ones, of any length: 1."""
    assert alignment_to_mean(torch.eye(2)[:, None]).item() == pytest.approx(math.sqrt(0.5), rel=1e-6)
    assert alignment_to_mean(torch.tensor([[[3.0, 4.0]], [[30.0, 40.0]]])).item() == pytest.approx(1)


def simdino(outputs: dict[str, Tensor], **settings) -> StepOutput:
    return SimDINO(SimDINOConfig(hidden_dim=8, **settings), VIT).loss(outputs, START)


@pytest.mark.parametrize("rows", ["wide", "tall"])
@pytest.mark.parametrize("expanded", ["mean", "student"])
@pytest.mark.parametrize("eps", [0.05, 0.5])
def test_simdino_equals_the_recorded_value_and_gradient(rows, expanded, eps, golden, numbers) -> None:
    """RobinWu218/SimDINO: two global and two local views, more dimensions than images and fewer."""
    name = f"simdino.{rows}.{expanded}.eps{eps}"
    student = golden[f"simdino.{rows}.student"].clone().requires_grad_()
    output = simdino({"student": student, "teacher": golden[f"simdino.{rows}.teacher"]}, expanded=expanded, eps=eps)
    output.loss.backward()
    _equal_on_the_sphere(output, student, numbers[name], golden[f"{name}.gradient"])


def test_groups_are_the_processes_of_the_released_code(golden, numbers) -> None:
    """Each of two processes there has the rate of its own images divided by all: eps is multiplied by two."""
    name, student = "simdino.two_processes.eps0.05", golden["simdino.tall.student"].clone().requires_grad_()
    outputs = {"student": student, "teacher": golden["simdino.tall.teacher"]}
    output = simdino(outputs, eps=0.1, rate_images=6)
    output.loss.backward()
    _equal_on_the_sphere(output, student, numbers[name], golden[f"{name}.gradient"])


def _equal_on_the_sphere(output: StepOutput, student: Tensor, wanted: dict[str, float], gradient: Tensor) -> None:
    assert output.loss.item() == pytest.approx(wanted["loss"], abs=2e-6)
    assert output.logged["alignment"].item() == pytest.approx(wanted["alignment"], abs=1e-6)
    n, d = student.shape[1:]
    expansion = (1 / d + 1 / n) * output.logged["coding_rate"].item()
    assert expansion == pytest.approx(wanted["expansion"], abs=2e-6)
    # The recorded gradient is by rows of length 1; ours, through that scaling, lacks its part along the rows.
    unit = student.detach()
    tangential = gradient - (gradient * unit).sum(dim=-1, keepdim=True) * unit
    torch.testing.assert_close(student.grad, tangential, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("rows", ["wide", "tall"])
def test_emp_equals_the_recorded_value_and_gradient(rows, golden, numbers) -> None:
    """tsb0601/EMP-SSL: projections before they are scaled to length 1."""
    projection, wanted = golden[f"emp.{rows}.raw"].clone().requires_grad_(), numbers[f"emp.{rows}"]
    output = EMP(EMPConfig(hidden_dim=8), VIT).loss(
        {"projection": projection, "local_projection": projection[:0]}, START
    )
    output.loss.backward()
    assert output.loss.item() == pytest.approx(wanted["loss"], rel=1e-6)
    assert output.logged["alignment"].item() == pytest.approx(wanted["alignment"], abs=1e-6)
    assert output.logged["coding_rate"].item() == pytest.approx(wanted["coding_rate"], abs=1e-5)
    torch.testing.assert_close(projection.grad, golden[f"emp.{rows}.gradient"], atol=2e-5, rtol=1e-4)


def test_simdino_is_its_equation_in_numpy() -> None:
    """Float64, with the groups' rates and the pairs of views written as loops."""
    student, teacher = drawn(6, 3, 8, 5), drawn(7, 2, 8, 5)
    output = simdino({"student": student, "teacher": teacher}, eps=0.3, rate_images=4, alignment_weight=2.5)
    s, t = (rows.numpy() / np.linalg.norm(rows.numpy(), axis=-1, keepdims=True) for rows in (student, teacher))
    cosines = [(t[i] * s[j]).sum(axis=-1).mean() for i in range(2) for j in range(3) if i != j]
    means = (s[:2] + t) / 2
    rates = [by_eigenvalues(means[view, start : start + 4], 0.3) for view in range(2) for start in (0, 4)]
    assert output.loss.item() == pytest.approx(-2.5 * np.mean(cosines) - (1 / 5 + 1 / 8) * np.mean(rates), rel=1e-12)
    assert output.logged["coding_rate_share"].item() == pytest.approx(np.mean(rates) / max_coding_rate(4, 5, 0.3))


def test_the_cosine_of_pairs_is_byols_loss_turned_round() -> None:
    """With one view on each side there is no pair of different views but (student 1, teacher 0)."""
    student, teacher = drawn(8, 2, 3, 4), drawn(9, 1, 3, 4)
    by_hand = F.cosine_similarity(student[1], teacher[0], dim=-1).mean()
    assert mean_cosine(student, teacher).item() == pytest.approx(by_hand.item(), rel=1e-12)
