"""Jaccard of one mask against the truth: does the attention lie on the object?

`evaluation.voc` has the protocols that choose among heads.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor


def jaccard(
    mask: Bool[Tensor, "rows columns"], truth: Bool[Tensor, "h w"], valid: Bool[Tensor, "h w"] | None = None
) -> float:
    """Intersection over union, over the valid pixels (VOC's void border is not valid).

    The mask may be coarser than the truth: a patch stands for all of its pixels. Two empty masks agree: 1, as in
    DAVIS.
    """
    prediction = F.interpolate(mask[None, None].float(), truth.shape, mode="nearest-exact")[0, 0].bool()
    if valid is not None:
        prediction, truth = prediction & valid, truth & valid
    union = int((prediction | truth).sum())
    return int((prediction & truth).sum()) / union if union else 1.0
