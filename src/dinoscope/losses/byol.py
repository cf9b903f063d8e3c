"""The maths of BYOL (Grill et al. 2020, "Bootstrap your own latent")."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dinoscope.losses.dino import at_least_float32, different_views


def byol_loss(prediction: Float[Tensor, "s b d"], target: Float[Tensor, "t b d"]) -> Float[Tensor, ""]:
    """2 - 2 cos(prediction, target), averaged over images and over pairs of different views (Eq. 2).

    The paper adds the two terms of a symmetric pair of views; this is their mean, half of it. The first t views of
    the online network are the target network's own, in the same order; a view is never paired with itself.

    Args:
        prediction: the predictor's outputs, global views first.
        target: the target network's projections of the global views, without gradient.
    """
    prediction, target = (F.normalize(at_least_float32(rows), dim=-1) for rows in (prediction, target))
    # s: online view, t: target view, b: image, d: dimension
    cosine = torch.einsum("sbd,tbd->stb", prediction, target)
    return 2 - 2 * cosine[different_views(len(prediction), len(target), target.device)].mean()
