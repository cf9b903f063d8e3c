"""Signs of collapse and stagnation that methods share, as pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from dinoscope.losses.dino import at_least_float32
from dinoscope.text import Phrase

COLLAPSED_DEVIATION = 0.02
"""Below this `feature_standard_deviation`, embeddings count as constant."""

COLLAPSED_DIMENSIONS = 2.0
"""Below this `participation_ratio`, embeddings count as dimensionally collapsed."""

ONE_HOT_SHARE = 0.02
"""One-hot collapse: the entropy of the mean output is below this share of ln K."""

UNIFORM_ENTROPY_SHARE, UNIFORM_LOSS_SHARE = 0.98, 0.995
"""Uniform collapse: the mean entropy of the targets and the cross-entropy with them are above these shares of ln K."""

CONSTANT_INFORMATION_SHARE = 0.001
"""Constant outputs: they tell less than this share of ln K about the image."""

COLLAPSED_RATE_SHARE = 0.1
"""Dimensional collapse: the coding rate is below this share of the largest that the batch can have."""


UNEXPLAINED_SHARE = 0.02
"""Stagnation: a reconstruction explains less than this share of what it is to predict."""


@dataclass(frozen=True)
class Verdict:
    """A kind of collapse, reported once a run, and the sentence for the person: figures, and what to change."""

    kind: str
    text: str


@torch.no_grad()
def feature_standard_deviation(features: Float[Tensor, "*batch d"]) -> Float[Tensor, ""]:
    """Return the standard deviation of L2-normalised features times sqrt(d): 0 if all are equal, 1 if isotropic."""
    unit = torch.nn.functional.normalize(features.float(), dim=-1).flatten(0, -2)
    return unit.std(dim=0, correction=0).mean() * math.sqrt(features.shape[-1])


@torch.no_grad()
def moments(features: Float[Tensor, "*batch d"]) -> Float[Tensor, "2 d"]:
    """Return means of L2-normalised features and of their squares: those of equal parts can be averaged."""
    unit = torch.nn.functional.normalize(at_least_float32(features), dim=-1).flatten(0, -2)
    return torch.stack([unit.mean(dim=0), unit.square().mean(dim=0)])


def standard_deviation_of(moments: Float[Tensor, "2 d"]) -> Float[Tensor, ""]:
    """Return the `feature_standard_deviation` of features with these moments."""
    mean, square = moments
    return (square - mean.square()).clamp_min(0).sqrt().mean() * math.sqrt(len(mean))


@torch.no_grad()
def participation_ratio(rows: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Return (sum of l)^2 / (sum of l^2) of the eigenvalues l of the covariance: how many dimensions the rows fill.

    It ranges from 1 (all rows on a line) to min(n - 1, d); equal rows give 0. Traces are enough for it: unlike
    `rank_me` it decomposes nothing, so that a step can log it without waiting for a GPU.
    """
    centered = at_least_float32(rows) - at_least_float32(rows).mean(dim=0)
    products = centered.T @ centered if rows.shape[1] <= rows.shape[0] else centered @ centered.T
    smallest = torch.finfo(products.dtype).tiny
    return products.diagonal().sum().square() / products.square().sum().clamp_min(smallest)


def rank_me(features: Float[Tensor, "n d"]) -> float:
    """Return RankMe (Garrido et al. 2023, Eq. 1): exp of the entropy of the normalised singular values.

    It ranges from 1 (all features on a line) to min(n, d).
    """
    singular = cast(Tensor, torch.linalg.svdvals(features.float()))  # pyright: ignore[reportUnknownMemberType]
    shares = singular / singular.sum().clamp_min(1e-12) + 1e-7
    return float(torch.exp(-(shares * shares.log()).sum()))


def complete_collapse(deviation: float, advice: str) -> Verdict | None:
    """Return a verdict if all images have the same embedding. deviation: `feature_standard_deviation` of them."""
    if deviation >= COLLAPSED_DEVIATION:
        return None
    text = Phrase(
        "collapsed: all images have the same embedding (standard deviation {deviation:.4f}, healthy runs are well "
        "above {limit}). {advice}",
        deviation=deviation,
        limit=COLLAPSED_DEVIATION,
        advice=advice,
    )
    return Verdict("complete collapse", text)


def dimensional_collapse(rate_share: float, advice: str) -> Verdict | None:
    """Return a verdict if embeddings fill few dimensions. rate_share: their coding rate over the largest possible."""
    if rate_share >= COLLAPSED_RATE_SHARE:
        return None
    text = Phrase(
        "collapsed to few dimensions: the coding rate of the embeddings is {share:.3f} of the largest possible. "
        "{advice}",
        share=rate_share,
        advice=advice,
    )
    return Verdict("dimensional collapse", text)


def few_dimensions(ratio: float, advice: str) -> Verdict | None:
    """Return a verdict if embeddings differ along hardly more than a line. ratio: `participation_ratio` of them."""
    if ratio >= COLLAPSED_DIMENSIONS:
        return None
    text = Phrase(
        "collapsed to few dimensions: the embeddings of all images lie near a line (participation ratio {ratio:.2f}, "
        "healthy runs are well above {limit:g}). {advice}",
        ratio=ratio,
        limit=COLLAPSED_DIMENSIONS,
        advice=advice,
    )
    return Verdict("dimensional collapse", text)


def one_hot_collapse(marginal_entropy: float, outputs: int, advice: str) -> Verdict | None:
    """Return a verdict if all images have the same one of `outputs` outputs, by the entropy in nats of their mean."""
    if marginal_entropy >= ONE_HOT_SHARE * math.log(outputs):
        return None
    text = Phrase(
        "collapsed to one output: the teacher gives every image the same answer (entropy of its mean output "
        "{entropy:.3f} of {limit:.2f} nats). {advice}",
        entropy=marginal_entropy,
        limit=math.log(outputs),
        advice=advice,
    )
    return Verdict("one-hot collapse", text)


def constant_output(marginal_entropy: float, target_entropy: float, outputs: int, advice: str) -> Verdict | None:
    """Return a verdict if all images have the same output, which may be any: many runs drift between one and uniform.

    marginal_entropy: of the mean output. target_entropy: mean of that of each, in nats. Their difference is the mutual
    information of image and output. The kind is that of the nearer end.
    """
    information, limit = marginal_entropy - target_entropy, math.log(outputs)
    if information >= CONSTANT_INFORMATION_SHARE * limit:
        return None
    kind, end = ("uniform", "the uniform output") if target_entropy > limit / 2 else ("one-hot", "one output")
    text = Phrase(
        "collapsed: the teacher gives every image the same answer, nearer to {end} (its entropy is {entropy:.3f} of "
        "{limit:.2f} nats, of which {information:.4f} tell images apart). {advice}",
        end=end,
        entropy=target_entropy,
        limit=limit,
        information=max(information, 0.0),
        advice=advice,
    )
    return Verdict(f"{kind} collapse", text)


def uniform_collapse(cross_entropy: float, target_entropy: float, outputs: int, advice: str) -> Verdict | None:
    """Return a verdict if the outputs carry no information, by means over the images in nats."""
    limit = math.log(outputs)
    if cross_entropy <= UNIFORM_LOSS_SHARE * limit or target_entropy <= UNIFORM_ENTROPY_SHARE * limit:
        return None
    text = Phrase(
        "stuck at the uniform output: the cross-entropy is {entropy:.3f}, ln K is {limit:.3f}. {advice}",
        entropy=cross_entropy,
        limit=limit,
        advice=advice,
    )
    return Verdict("uniform collapse", text)


def no_reconstruction(explained: float, advice: str) -> Verdict | None:
    """Return a verdict if predicted pixels are no better than one grey. explained: 1 - error / mean squared target."""
    if explained >= UNEXPLAINED_SHARE:
        return None
    text = Phrase(
        "nothing is reconstructed: hidden patches are predicted as one grey ({share:.1f} % of them explained). "
        "{advice}",
        share=100 * explained,
        advice=advice,
    )
    return Verdict("stagnation", text)
