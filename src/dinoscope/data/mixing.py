"""Mixup and CutMix: how each view is mixed with that of another image, a pure function of (seed, epoch, image, view).

The partner of an image is its neighbour in the batch, as the order of an epoch has them: 0 and 1, 2 and 3, and so on.
So it is a random image, it is decoded already, and it is the same however a batch is cut into parts of even size.

Sources: Zhang et al. 2018 (mixup), Yun et al. 2019 (CutMix), timm's `data/mixup.py`, with which DeiT trains. Different
here: timm takes the reversed batch for partners, which depends on how it is cut, and by default one share for all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Shaped
from numpy import ndarray
from torch import Tensor

from dinoscope.data.views import view_generator

_MIXING = 3  # stream of `view_generator`


@dataclass(frozen=True)
class Mixing:
    """How views are mixed.

    mixup, cutmix: alpha of the Beta distribution that the share of the view itself is drawn from; 0: not this way.
    probability: of a view being mixed at all.
    switch: probability of CutMix, if both ways are on.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0
    switch: float = 0.5

    def sample(self, seed: int, epoch: int, index: int, sizes: Sequence[int]) -> Float32[ndarray, "v 5"]:
        """Return for each view of an image its weight outside of the box, and the box (top, bottom, left, right).

        Within the box is the partner. Mixup has an empty box, CutMix a weight of 1, a view that is not mixed both.
        index: the image's position in its data set. sizes: side in pixels of each view.
        """
        rows = [self._draw(view_generator(seed, epoch, index, view, _MIXING), size) for view, size in enumerate(sizes)]
        return np.array(rows, dtype=np.float32)

    def _draw(self, rng: np.random.Generator, size: int) -> tuple[float, ...]:
        whether, which, row, column = rng.random(4).tolist()
        if whether >= self.probability or not (self.mixup or self.cutmix):
            return 1.0, 0, 0, 0, 0
        cuts = self.cutmix > 0 and (self.mixup == 0 or which < self.switch)
        alpha = self.cutmix if cuts else self.mixup
        share = float(rng.beta(alpha, alpha))
        if not cuts:
            return share, 0, 0, 0, 0
        half = int(size * math.sqrt(1 - share)) // 2
        middles = int(row * size), int(column * size)
        top, left = (max(middle - half, 0) for middle in middles)
        bottom, right = (min(middle + half, size) for middle in middles)
        return 1.0, top, bottom, left, right


def partners(values: Shaped[Tensor, "v b *rest"]) -> Shaped[Tensor, "v b *rest"]:
    """Return the values of the partner of each image. Raises ValueError for an odd number of images."""
    if values.shape[1] % 2:
        raise ValueError(f"{values.shape[1]} images cannot be paired")
    return values.unflatten(1, (-1, 2)).flip(2).flatten(1, 2)


def mixed(images: Float[Tensor, "v b c h w"], mixes: Float[Tensor, "v b 5"]) -> Float[Tensor, "v b c h w"]:
    """Return the views mixed with those of their partners. mixes: of `Mixing.sample`."""
    weight, top, bottom, left, right = mixes.to(images.dtype)[..., None, None, None].unbind(dim=2)
    rows = torch.arange(images.shape[-2], device=images.device)[:, None]
    columns = torch.arange(images.shape[-1], device=images.device)
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    weight = torch.where(inside, 0, weight)
    return weight * images + (1 - weight) * partners(images)


def shares(mixes: Float[Tensor, "v b 5"], size: int) -> Float[Tensor, "v b"]:
    """Return the share of each view of so many pixels of side that is its own: that of its label in the target."""
    weight, top, bottom, left, right = mixes.unbind(dim=2)
    return weight * (1 - (bottom - top) * (right - left) / size**2)
