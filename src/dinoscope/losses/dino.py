"""Losses between views of an image: DINO's (Caron et al. 2021), which is also SwAV's, BYOL's, and KoLeo.

Students are unscaled logits of all views, global views first; teachers are probabilities of the global views, without
gradient. Losses are means over images and over pairs of different views.
In the einsums, s: student view, t: teacher view, b: image, k: output.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def teacher_probabilities(
    logits: Float[Tensor, "t b k"], center: Float[Tensor, " k"], temperature: float
) -> Float[Tensor, "t b k"]:
    """Return softmax((logits - center) / temperature): centred, then sharpened (Sec. 3.1)."""
    return torch.softmax((at_least_float32(logits) - center) / temperature, dim=-1)


def dino_loss(
    student: Float[Tensor, "s b k"], teacher: Float[Tensor, "t b k"], temperature: float
) -> Float[Tensor, ""]:
    """Return the cross-entropy (Eq. 3). With codes as teacher it is SwAV's swapped prediction (Eq. 2 and 6 there).

    Every row of `teacher` sums to 1, so H(p, q) = logsumexp(z) - <p, z>: no softmax of the student is kept.
    """
    return cast(Tensor, _CrossEntropy.apply(student, teacher, temperature))


class _CrossEntropy(torch.autograd.Function):
    # One view of the student at a time, backward too: beyond the logits and their gradient, in their own dtype, only
    # one view's [b, k] is held. Written with torch's operations the loss holds five tensors of the logits' size.

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        ctx.save_for_backward(student, teacher)
        ctx.temperature = temperature
        rows = list[Tensor]()
        for logits in student:
            scaled = at_least_float32(logits) / temperature
            rows.append(torch.logsumexp(scaled, dim=-1) - torch.einsum("bk,tbk->tb", scaled, teacher))
        return mean_over_pairs(torch.stack(rows))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        student, teacher = ctx.saved_tensors
        views, images, teachers = *student.shape[:2], len(teacher)
        pairs = views * teachers - min(views, teachers)
        scale = gradients[0] / (pairs * images * ctx.temperature)
        every, result = teacher.sum(dim=0), torch.empty_like(student)
        for view, logits in enumerate(student):  # d H(p, q) / d z = q - p, for every teacher of another view
            paired, count = (every - teacher[view], teachers - 1) if view < teachers else (every, teachers)
            share = torch.softmax(at_least_float32(logits) / ctx.temperature, dim=-1)
            result[view] = scale * (share * count - paired)
        return result, None, None


def kl_loss(student: Float[Tensor, "s b k"], teacher: Float[Tensor, "t b k"], temperature: float) -> Float[Tensor, ""]:
    """Return KL(teacher || student) (section 5.3): `dino_loss` less the teacher's entropy, with the same gradient."""
    return dino_loss(student, teacher, temperature) - entropy(teacher).mean()


def reverse_kl_loss(
    student: Float[Tensor, "s b k"], teacher: Float[Tensor, "t b k"], temperature: float
) -> Float[Tensor, ""]:
    """Return KL(student || teacher), which punishes outputs that the teacher does not have.

    Probabilities of the teacher below the smallest normal number count as that number: their logarithm stays finite.
    """
    log_student = torch.log_softmax(at_least_float32(student) / temperature, dim=-1)
    probabilities = log_student.exp()
    log_teacher = teacher.clamp_min(torch.finfo(teacher.dtype).tiny).log()
    negative_entropy = (probabilities * log_student).sum(dim=-1)
    return mean_over_pairs(negative_entropy[:, None] - torch.einsum("sbk,tbk->stb", probabilities, log_teacher))


def softmax_mse_loss(
    student: Float[Tensor, "s b k"], teacher: Float[Tensor, "t b k"], temperature: float
) -> Float[Tensor, ""]:
    """Return |p - q|^2 of the two probability vectors, summed over outputs.

    Not the paper's mean squared error, which is `byol_loss`.
    """
    probabilities = torch.softmax(at_least_float32(student) / temperature, dim=-1)
    # |p - q|^2 = |p|^2 + |q|^2 - 2 <p, q>: no [s, t, b, k] tensor
    agreement = torch.einsum("sbk,tbk->stb", probabilities, teacher)
    return mean_over_pairs(
        probabilities.square().sum(dim=-1)[:, None] + teacher.square().sum(dim=-1)[None] - 2 * agreement
    )


def byol_loss(prediction: Float[Tensor, "s b d"], target: Float[Tensor, "t b d"]) -> Float[Tensor, ""]:
    """Return 2 - 2 cos(prediction, target) (BYOL, Grill et al. 2020, Eq. 2).

    The paper adds the two terms of a symmetric pair of views; this is their mean, half of it.
    """
    return 2 - 2 * mean_cosine(prediction, target)


def mean_cosine(prediction: Float[Tensor, "s b d"], target: Float[Tensor, "t b d"]) -> Float[Tensor, ""]:
    """Return the cosine between views of an image, which SimDINO maximises (Wu et al. 2025)."""
    prediction, target = (F.normalize(at_least_float32(rows), dim=-1) for rows in (prediction, target))
    return mean_over_pairs(torch.einsum("sbd,tbd->stb", prediction, target))  # d: dimension


def koleo_loss(features: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Return the mean of -log(distance to the nearest other L2-normalised feature) (DINOv2, Oquab et al. 2024).

    KoLeo covers the sphere evenly (Sablayrolles et al. 2019, "Spreading vectors for similarity search").
    """
    unit = F.normalize(features, dim=-1)
    with torch.no_grad():
        nearest = (unit @ unit.T).fill_diagonal_(-2.0).argmax(dim=1)
    # 1e-4: two equal features would cost infinity, and give no usable gradient
    return -torch.log(F.pairwise_distance(unit, unit[nearest]) + 1e-4).mean()


def mean_over_pairs(values: Float[Tensor, "s t b"]) -> Float[Tensor, ""]:
    """Return the mean over images and over pairs of different views.

    The first t views of the student are the teacher's own, in the same order; a view is never paired with itself.
    """
    # The pairs are listed on the host: a boolean mask would make it wait for a GPU to count them.
    pairs = (~torch.eye(*values.shape[:2], dtype=torch.bool)).nonzero().to(values.device, non_blocking=True)
    return values[pairs[:, 0], pairs[:, 1]].mean()


def updated_center(
    center: Float[Tensor, " k"], batch_mean: Float[Tensor, " k"], momentum: float
) -> Float[Tensor, " k"]:
    """Return the exponential moving average of the teacher's mean output (Eq. 4)."""
    return center * momentum + batch_mean * (1 - momentum)


def entropy(probabilities: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch"]:
    """Return the Shannon entropy in nats along the last dimension, with 0 ln 0 = 0."""
    return -torch.xlogy(probabilities, probabilities).sum(dim=-1)


def at_least_float32(logits: Tensor) -> Tensor:
    """Return float32, since half precision overflows in exp; float64 stays, for exact tests."""
    return logits if logits.dtype == torch.float64 else logits.float()
