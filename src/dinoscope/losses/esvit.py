"""EsViT's loss of regions (Li et al. 2021, section 3.2): each region learns from the teacher's most similar one.

In the shapes, s: student view, t: teacher view, b: image, n: region of a student view, m: of a teacher view, k: output.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from dinoscope.losses.dino import at_least_float32


def cosines(first: Float[Tensor, "*batch n d"], second: Float[Tensor, "*batch m d"]) -> Float[Tensor, "*batch n m"]:
    """Return the cosine of each row of `first` with each of `second`; 0 for a row of 0."""
    first, second = (F.normalize(at_least_float32(rows), dim=-1) for rows in (first, second))
    return first @ second.transpose(-2, -1)


@torch.no_grad()
def best_matches(student: Float[Tensor, "*batch n d"], teacher: Float[Tensor, "*batch m d"]) -> Int[Tensor, "*batch n"]:
    """Return which row of `teacher` has the highest cosine with each row of `student`; of equal ones the first.

    In EsViT the rows are features of the backbones, before any head, and several regions may have the same match.
    """
    return cosines(student, teacher).argmax(dim=-1)


def region_loss(
    student: Sequence[Float[Tensor, "b _ k"]],
    student_features: Sequence[Float[Tensor, "b _ d"]],
    teacher: Float[Tensor, "t b m k"],
    teacher_features: Float[Tensor, "t b m d"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Return the cross-entropy of each region with its best match, the mean over regions, images and pairs of views.

    Every pair of different views counts as much, however many regions the student's view has.

    student: unscaled logits of each view, global views first. teacher: probabilities of the global views' regions.
    """
    terms, pairs = list[Tensor](), 0
    for view, (logits, features) in enumerate(zip(student, student_features, strict=True)):
        targets = [
            probabilities.take_along_dim(best_matches(features, rows)[:, :, None], dim=1)
            for other, (probabilities, rows) in enumerate(zip(teacher, teacher_features, strict=True))
            if other != view
        ]
        if not targets:  # the only global view
            continue
        # The sum of H(p, q) = logsumexp(z) - <p, z> over the teachers p, each of which sums to 1.
        scaled = at_least_float32(logits) / temperature
        agreement = torch.einsum("bnk,bnk->bn", torch.stack(targets).sum(dim=0), scaled)
        terms.append((len(targets) * torch.logsumexp(scaled, dim=-1) - agreement).mean())
        pairs += len(targets)
    return torch.stack(terms).sum() / pairs
