"""BYOL's loss (Grill et al. 2020, "Bootstrap your own latent")."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dinoscope.losses.dino import at_least_float32, mean_over_pairs


def byol_loss(prediction: Float[Tensor, "s b d"], target: Float[Tensor, "t b d"]) -> Float[Tensor, ""]:
    """Return 2 - 2 cos(prediction, target), averaged as `dino_loss` is (Eq. 2).

    The paper adds the two terms of a symmetric pair of views; this is their mean, half of it.
    """
    prediction, target = (F.normalize(at_least_float32(rows), dim=-1) for rows in (prediction, target))
    # s: online view, t: target view, b: image, d: dimension
    return 2 - 2 * mean_over_pairs(torch.einsum("sbd,tbd->stb", prediction, target))
