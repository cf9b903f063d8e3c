"""Coding rates of a batch and the alignment that they are weighed against: SimDINO and EMP-SSL.

The coding rate (Ma et al. 2007; Yu et al. 2020, Eq. 2) counts the nats that describe rows of length at most 1 up to a
distortion eps: it is large if they fill all dimensions evenly, and smallest if they are all alike. To maximise it is
what keeps both methods from collapse. It is not additive: it must see the rows of the whole batch.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dinoscope.losses.dino import at_least_float32


def coding_rate(rows: Float[Tensor, "*batch n d"], eps: float) -> Float[Tensor, "*batch"]:
    """Return R = 1/2 ln det(I + d / (n eps) Z^T Z) in nats, of each batch of n rows (EMP-SSL, Tong et al. 2023, Eq. 1).

    eps: the squared distortion, which papers write as eps^2 and their code as eps.

    By Sylvester's identity the determinant with Z^T Z, [d, d], is that with Z Z^T, [n, n]: the smaller one is taken. It
    is 1 or more, computed in float32 (float64 stays) by Cholesky without a check, which would make the host wait.
    """
    rows = at_least_float32(rows)
    n, d = rows.shape[-2:]
    gram = rows.mT @ rows if d <= n else rows @ rows.mT
    identity = torch.eye(min(n, d), dtype=rows.dtype, device=rows.device)
    factor = cast(Tensor, torch.linalg.cholesky_ex(identity + d / (n * eps) * gram)[0])  # pyright: ignore
    return factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)


def max_coding_rate(n: int, d: int, eps: float) -> float:
    """Return the largest coding rate of n rows of length at most 1 in d dimensions.

    The trace of Z^T Z is at most n; shared evenly among min(n, d) eigenvalues, it has the largest determinant.
    """
    rank = min(n, d)
    return rank / 2 * math.log1p(d / (rank * eps))


def alignment_to_mean(views: Float[Tensor, "v b d"]) -> Float[Tensor, ""]:
    """Return the mean cosine of each view's L2-normalised row with the mean of its image's rows (EMP-SSL, Eq. 3).

    Gradients pass through the mean too.
    """
    unit = F.normalize(at_least_float32(views), dim=-1)
    return F.cosine_similarity(unit, unit.mean(dim=0), dim=-1).mean()
