"""Jaccard of attention masks against the truth: does the attention lie on the object?

Which head? The published protocol takes, for every image, the one that fits the truth best (IPViT), which
nobody without the truth can do. Here a head is chosen on one split and reported on another, beside the mean
over the heads, which needs no choice.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from dinoscope.types import Metric


def jaccard(
    prediction: Bool[Tensor, "h w"], truth: Bool[Tensor, "h w"], valid: Bool[Tensor, "h w"] | None = None
) -> float:
    """Intersection over union of two masks, over the valid pixels (VOC's void border is not valid).

    Two empty masks agree: 1, as in DAVIS.
    """
    return jaccard_per_map(prediction[None], truth, valid).item()


def jaccard_per_map(
    masks: Bool[Tensor, "maps rows columns"],
    truth: Bool[Tensor, "h w"],
    valid: Bool[Tensor, "h w"] | None = None,
) -> Float[Tensor, " maps"]:
    """`jaccard` of each mask, which may be coarser than the truth: a patch stands for all of its pixels."""
    predictions = F.interpolate(masks[None].float(), truth.shape, mode="nearest-exact")[0].bool()
    if valid is not None:
        predictions, truth = predictions & valid, truth & valid
    intersection = (predictions & truth).sum(dim=(1, 2))
    union = (predictions | truth).sum(dim=(1, 2))
    return (intersection / union).where(union > 0, 1.0)


def attention_jaccard(selection: Float[Tensor, "m maps"], reported: Float[Tensor, "n maps"]) -> Iterator[Metric]:
    """Mean Jaccard in % over the reported images: of the mean over heads, and of one head fixed beforehand.

    Both arguments hold, for each image, `jaccard_per_map` of the mean over the heads (first) and each head.
    The head is the best of `selection`, which must be other images: else it is chosen by what measures it.
    """
    scores = 100 * reported.mean(dim=0)
    head = best_head(selection)
    yield Metric("attention_jaccard_mean", scores[0].item())
    yield Metric("attention_jaccard_head", scores[1 + head].item())


def best_head(selection: Float[Tensor, "m maps"]) -> int:
    """The head, from 0, that fits best on average; the first column, the mean of all, is no candidate."""
    return int(selection.mean(dim=0)[1:].argmax())
