"""The loss of masked patches: iBOT's (Zhou et al. 2022, Eq. 2), which is also DINOv2's (Oquab et al. 2024, section 4).

Rows are padded: of every image and view as many places as a mask may have, of which those with weight 0 are empty. In
the einsums, v: view, b: image, m: place of a masked patch, k: output.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dinoscope.losses.dino import at_least_float32


def masked_patch_cross_entropy(
    student: Float[Tensor, "v b m k"], teacher: Float[Tensor, "v b m k"], temperature: float
) -> Float[Tensor, "v b m"]:
    """Return the cross-entropy of each masked patch: H(p, q) = logsumexp(z) - <p, z>, z the logits over `temperature`.

    student: logits of the masked patches, which the network did not see. teacher: probabilities of the same patches of
    the same view, from the whole image; a row of 0 gives logsumexp(z).
    """
    scaled = at_least_float32(student) / temperature
    return torch.logsumexp(scaled, dim=-1) - torch.einsum("vbmk,vbmk->vbm", scaled, teacher)


def mean_over_masked(values: Float[Tensor, "v b m"], weights: Float[Tensor, "v b m"], views: int) -> Float[Tensor, ""]:
    """Return the mean over the patches of each mask, then over images and all `views` of an image, masked or not.

    weights: 1 / (patches of the mask), 0 in empty places. A view without a mask counts as 0, as in the authors' code:
    so the loss of a batch is the mean of those of its parts.
    """
    return (values * weights).sum() / (values.shape[1] * views)
