"""KoLeo: even coverage of the sphere (Sablayrolles et al. 2019, "Spreading vectors for similarity search")."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def koleo_loss(features: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Return the mean of -log(distance to the nearest other L2-normalised feature) (DINOv2, Oquab et al. 2024)."""
    unit = F.normalize(features, dim=-1)
    with torch.no_grad():
        nearest = (unit @ unit.T).fill_diagonal_(-2.0).argmax(dim=1)
    # 1e-4: two equal features would cost infinity, and give no usable gradient
    return -torch.log(F.pairwise_distance(unit, unit[nearest]) + 1e-4).mean()
