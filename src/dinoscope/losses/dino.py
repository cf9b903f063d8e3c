"""The maths of DINO (Caron et al. 2021, "Emerging properties in self-supervised vision transformers")."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def teacher_probabilities(
    logits: Float[Tensor, "t b k"], center: Float[Tensor, " k"], temperature: float
) -> Float[Tensor, "t b k"]:
    """Centre, then sharpen: softmax((logits - center) / temperature), in float32 (or float64) (Sec. 3.1)."""
    return torch.softmax((at_least_float32(logits) - center) / temperature, dim=-1)


def dino_loss(
    student_logits: Float[Tensor, "s b k"], teacher: Float[Tensor, "t b k"], student_temperature: float
) -> Float[Tensor, ""]:
    """Cross-entropy averaged over images and over pairs of different views (Eq. 3).

    The first t student views are the teacher's own, in the same order; a view is never paired with itself.
    As every row of `teacher` sums to 1, H(p, q) = logsumexp(z) - <p, z>: no softmax of the student is kept.

    Args:
        student_logits: unscaled student outputs, global views first.
        teacher: probabilities of the global views, without gradient.
        student_temperature: divides the student's logits.
    """
    scaled = at_least_float32(student_logits) / student_temperature
    log_partition = torch.logsumexp(scaled, dim=-1)
    # s: student view, t: teacher view, b: image, k: output dimension
    agreement = torch.einsum("sbk,tbk->stb", scaled, teacher)
    cross_entropy = log_partition[:, None, :] - agreement
    return cross_entropy[different_views(len(student_logits), len(teacher), teacher.device)].mean()


def kl_loss(
    student_logits: Float[Tensor, "s b k"], teacher: Float[Tensor, "t b k"], student_temperature: float
) -> Float[Tensor, ""]:
    """KL(teacher || student), averaged as `dino_loss` is, and less than it by the teacher's entropy (section 5.3).

    The student does not move the teacher's entropy, so the gradient is that of the cross-entropy.
    """
    return dino_loss(student_logits, teacher, student_temperature) - entropy(teacher).mean()


def reverse_kl_loss(
    student_logits: Float[Tensor, "s b k"], teacher: Float[Tensor, "t b k"], student_temperature: float
) -> Float[Tensor, ""]:
    """KL(student || teacher), averaged as `dino_loss` is: it punishes outputs that the teacher has not.

    A teacher's probability below the smallest normal number counts as that number: its logarithm stays finite.
    """
    log_student = torch.log_softmax(at_least_float32(student_logits) / student_temperature, dim=-1)
    student = log_student.exp()
    log_teacher = teacher.clamp_min(torch.finfo(teacher.dtype).tiny).log()
    # s: student view, t: teacher view, b: image, k: output dimension
    divergence = (student * log_student).sum(dim=-1)[:, None] - torch.einsum("sbk,tbk->stb", student, log_teacher)
    return divergence[different_views(len(student_logits), len(teacher), teacher.device)].mean()


def softmax_mse_loss(
    student_logits: Float[Tensor, "s b k"], teacher: Float[Tensor, "t b k"], student_temperature: float
) -> Float[Tensor, ""]:
    """Squared distance |p - q|^2 of the two probability vectors, summed over outputs, averaged as `dino_loss` is.

    Not the paper's mean squared error, which is that of BYOL (`losses.byol`).
    """
    student = torch.softmax(at_least_float32(student_logits) / student_temperature, dim=-1)
    # |p - q|^2 = |p|^2 + |q|^2 - 2 <p, q>: no [s, t, b, k] tensor. Letters as above.
    agreement = torch.einsum("sbk,tbk->stb", student, teacher)
    squared = student.square().sum(dim=-1)[:, None] + teacher.square().sum(dim=-1)[None] - 2 * agreement
    return squared[different_views(len(student_logits), len(teacher), teacher.device)].mean()


def different_views(students: int, teachers: int, device: torch.device) -> Bool[Tensor, "s t"]:
    """Mask of the (student view, teacher view) pairs that enter the loss: all but equal indices."""
    return ~torch.eye(students, teachers, dtype=torch.bool, device=device)


def updated_center(
    center: Float[Tensor, " k"], batch_mean: Float[Tensor, " k"], momentum: float
) -> Float[Tensor, " k"]:
    """Exponential moving average of the teacher's mean output (Eq. 4)."""
    return center * momentum + batch_mean * (1 - momentum)


def entropy(probabilities: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch"]:
    """Shannon entropy in nats along the last dimension; 0 ln 0 counts as 0."""
    return -torch.xlogy(probabilities, probabilities).sum(dim=-1)


def at_least_float32(logits: Tensor) -> Tensor:
    """Half precision overflows in exp; float64 is left alone for exact tests."""
    return logits if logits.dtype == torch.float64 else logits.float()
