"""The maths of SwAV (Caron et al. 2020, "Unsupervised learning of visual features by contrasting cluster assignments").

Codes come from `dinoscope.losses.sinkhorn`.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from dinoscope.losses.dino import dino_loss


def swav_loss(scores: Float[Tensor, "v b k"], codes: Float[Tensor, "g b k"], temperature: float) -> Float[Tensor, ""]:
    """Swapped prediction: from each view the code of every other global view (Eq. 2, with multi-crop Eq. 6).

    It is DINO's cross-entropy over pairs of different views with codes in place of the teacher's outputs.

    Args:
        scores: cosines between embeddings and prototypes, global views first.
        codes: soft assignments of the g global views; rows sum to 1, no gradient.
        temperature: tau, divides the scores.
    """
    return dino_loss(scores, codes, temperature)
