"""Does a map lie on the object? The pointing game and the share of energy, each beside its chance level.

A map may be coarser than the truth; it is enlarged to it (bilinear, cell centres aligned). Pixels that are not
valid (VOC's void) count neither for nor against. A map has no class here, so all objects of an image are one.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from dinoscope.errors import UserError

TOLERANCE = 15.0
"""Pixels of the original image by which a map's maximum may miss the object (Zhang et al. 2016, the pointing game)."""
_EQUAL = 1e-6
"""Values closer than this, relative to the largest, are equal: enlarging rounds."""


def pointing_hit(
    values: Float[Tensor, "rows columns"],
    truth: Bool[Tensor, "h w"],
    valid: Bool[Tensor, "h w"] | None = None,
    tolerance: float = TOLERANCE,
) -> float:
    """1 where the maximum of the map lies within `tolerance` px of an object, else 0 (Zhang et al. 2016).

    Of several equal maxima, the share that hits: what one of them, drawn by lot, would score on average. So an
    even map, or one of zeros, scores `pointing_chance`.

    Raises UserError where no valid pixel belongs to an object, or the tolerance is negative.
    """
    near, counted = _near(truth, valid, tolerance), _counted(truth, valid)
    enlarged = _enlarged(values, truth).masked_fill(~counted, -torch.inf)
    highest = enlarged.max()
    return near[enlarged >= highest - _EQUAL * highest.abs()].double().mean().item()


def pointing_chance(
    truth: Bool[Tensor, "h w"], valid: Bool[Tensor, "h w"] | None = None, tolerance: float = TOLERANCE
) -> float:
    """What a pixel drawn by lot scores in the pointing game. Raises UserError as `pointing_hit` does."""
    return _near(truth, valid, tolerance)[_counted(truth, valid)].double().mean().item()


def energy_inside(
    values: Float[Tensor, "rows columns"], truth: Bool[Tensor, "h w"], valid: Bool[Tensor, "h w"] | None = None
) -> float:
    """Share of a non-negative map that lies on objects (Wang et al. 2020, Score-CAM).

    A map of zeros prefers nothing and scores as an even one, `area_share`.

    Raises UserError where no valid pixel belongs to an object.
    """
    share, counted = area_share(truth, valid), _counted(truth, valid)
    enlarged = _enlarged(values, truth).double()
    total = enlarged[counted].sum()
    return (enlarged[counted & truth].sum() / total).item() if total > 0 else share


def area_share(truth: Bool[Tensor, "h w"], valid: Bool[Tensor, "h w"] | None = None) -> float:
    """Share of the valid pixels that belong to objects: the energy inside, of an even map.

    Raises UserError where there is none.
    """
    counted = _counted(truth, valid)
    objects = int((truth & counted).sum())
    if not objects:
        raise UserError("no pixel of this image belongs to an object")
    return objects / int(counted.sum())


def _counted(truth: Bool[Tensor, "h w"], valid: Bool[Tensor, "h w"] | None) -> Bool[Tensor, "h w"]:
    return torch.ones_like(truth) if valid is None else valid


def _near(truth: Bool[Tensor, "h w"], valid: Bool[Tensor, "h w"] | None, tolerance: float) -> Bool[Tensor, "h w"]:
    """Pixels at most `tolerance` from an object, by the Euclidean distance of their centres."""
    if not tolerance >= 0:
        raise UserError(f"the tolerance of the pointing game is a distance in pixels, 0 or more; not {tolerance}")
    area_share(truth, valid)  # refuses an image without objects
    elsewhere = (~(truth & _counted(truth, valid))).cpu().numpy().astype(np.uint8)
    distance = cv2.distanceTransform(elsewhere, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return torch.as_tensor(distance <= tolerance, device=truth.device)


def _enlarged(values: Float[Tensor, "rows columns"], truth: Bool[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    return F.interpolate(values[None, None].float(), truth.shape, mode="bilinear")[0, 0]
