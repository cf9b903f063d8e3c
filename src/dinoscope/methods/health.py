"""How a run shows that it has collapsed or stands still: the rules that methods share, as pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dinoscope.losses.dino import at_least_float32

COLLAPSED_SPREAD = 0.02
"""Below this `spread`, embeddings count as one point."""

ONE_OUTPUT_SHARE = 0.02
"""One output: the entropy of the mean answer is below this share of ln K."""

UNIFORM_ENTROPY_SHARE, UNIFORM_LOSS_SHARE = 0.98, 0.995
"""Uniform: the mean entropy of the targets, and the cross-entropy with them, are above these shares of ln K."""


@dataclass(frozen=True)
class Verdict:
    """A kind of collapse, said once a run, and the sentence for the person: figures, and what to change."""

    kind: str
    text: str


@torch.no_grad()
def spread(features: Float[Tensor, "*batch d"]) -> Float[Tensor, ""]:
    """Standard deviation of L2-normalised features times sqrt(d): 0 when all are equal, 1 when isotropic."""
    unit = torch.nn.functional.normalize(features.float(), dim=-1).flatten(0, -2)
    return unit.std(dim=0, correction=0).mean() * math.sqrt(features.shape[-1])


@torch.no_grad()
def moments(features: Float[Tensor, "*batch d"]) -> Float[Tensor, "2 d"]:
    """Means of L2-normalised features and of their squares: unlike `spread`, those of equal parts can be averaged."""
    unit = torch.nn.functional.normalize(at_least_float32(features), dim=-1).flatten(0, -2)
    return torch.stack([unit.mean(dim=0), unit.square().mean(dim=0)])


def spread_of(moments: Float[Tensor, "2 d"]) -> Float[Tensor, ""]:
    """`spread` of the features that have these moments."""
    mean, square = moments
    return (square - mean.square()).clamp_min(0).sqrt().mean() * math.sqrt(len(mean))


def one_point(embedding_spread: float, advice: str) -> Verdict | None:
    """All images have the same embedding."""
    if embedding_spread >= COLLAPSED_SPREAD:
        return None
    return Verdict(
        "one point",
        f"collapsed to one point: all images have the same embedding (spread {embedding_spread:.4f}, healthy runs are "
        f"well above {COLLAPSED_SPREAD}). {advice}",
    )


def one_output(marginal_entropy: float, outputs: int, advice: str) -> Verdict | None:
    """All images have the same answer among `outputs` ones. marginal_entropy: of the mean answer, in nats."""
    if marginal_entropy >= ONE_OUTPUT_SHARE * math.log(outputs):
        return None
    return Verdict(
        "one output",
        f"collapsed to one output: the teacher gives every image the same answer (entropy of its mean output "
        f"{marginal_entropy:.3f} of {math.log(outputs):.2f} nats). {advice}",
    )


def uniform(cross_entropy: float, target_entropy: float, outputs: int, advice: str) -> Verdict | None:
    """Answers carry no information. Both in nats; target_entropy: mean entropy of the targets."""
    most = math.log(outputs)
    if cross_entropy <= UNIFORM_LOSS_SHARE * most or target_entropy <= UNIFORM_ENTROPY_SHARE * most:
        return None
    return Verdict(
        "uniform",
        f"stuck at the uniform output: the cross-entropy is {cross_entropy:.3f}, ln K is {most:.3f}. {advice}",
    )
