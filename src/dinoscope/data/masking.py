"""Which patches of an image's global views are hidden: a pure function of (seed, epoch, image, view), as the views are.

iBOT (Zhou et al. 2022) and DINOv2 (Oquab et al. 2024) hide blocks of patches, in the manner of BEiT
(Bao et al. 2022, Algorithm 1).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool
from numpy import ndarray
from torch import Tensor

from dinoscope.data.views import view_generator

MaskShape = Literal["block", "random"]
MaskedViews = Literal["independent", "exact"]

_MASKS, _MASKED_VIEWS = 1, 2  # streams of `view_generator`
_TRIES = 10  # of a block, before the mask stays as it is
_ASPECT_RATIO = (0.3, 1 / 0.3)  # smallest and largest height / width of a block; log-uniform


@dataclass(frozen=True)
class PatchMasking:
    """How the hidden patches of the global views are chosen.

    rows, columns: the grid of patches of a global view.
    ratio: smallest and largest share of its patches that a masked view hides; uniform in between.
    probability: of a view being masked at all.
    views: "independent", each view by itself (iBOT); "exact", so many of each image's views as the probability says,
        chosen at random: one of two at 0.5. So exactly half of the views of any batch are masked, as in DINOv2,
        whichever images it has and however it is cut.
    shape: "block" places blocks, which may overlap, until the share is reached or ten in a row do not fit: a mask may
        fall short. "random" takes single patches, of the share exactly.
    min_block: smallest area that is drawn for a block, in patches; 0 is iBOT's, a third of the shorter side squared.
    """

    rows: int
    columns: int
    ratio: tuple[float, float] = (0.1, 0.5)
    probability: float = 0.5
    views: MaskedViews = "independent"
    shape: MaskShape = "block"
    min_block: int = 0

    @property
    def max_patches(self) -> int:
        """The most patches that are hidden of a view; a masked view hides at least one."""
        return max(1, math.floor(self.ratio[1] * self.rows * self.columns))

    def min_views(self, count: int) -> int:
        """Return the fewest of the `count` global views of an image that are masked."""
        return math.floor(self.probability * count) if self.views == "exact" else 0

    def max_views(self, count: int) -> int:
        """Return the most of the `count` global views of an image that are masked."""
        return math.ceil(self.probability * count) if self.views == "exact" else count

    def sample(self, seed: int, epoch: int, index: int, views: int) -> Bool[ndarray, "v n"]:
        """Return the masks of the global views of an image, patches in row-major order; True is hidden.

        index: the image's position in its data set.
        """
        draws = view_generator(seed, epoch, index, 0, _MASKED_VIEWS).random(1 + views)
        if self.views == "exact":
            chosen = np.argsort(draws[1:])[: math.floor(self.probability * views + draws[0])]
        else:
            chosen = np.flatnonzero(draws[1:] < self.probability)
        masks = np.zeros((views, self.rows * self.columns), dtype=bool)
        for view in chosen:
            masks[view] = self._mask(view_generator(seed, epoch, index, int(view), _MASKS))
        return masks

    def sample_batch(self, seed: int, epoch: int, indices: Iterable[int], views: int) -> Bool[Tensor, "v b n"]:
        """Return the masks of these images."""
        return torch.from_numpy(np.stack([self.sample(seed, epoch, index, views) for index in indices], axis=1))

    def _mask(self, rng: np.random.Generator) -> Bool[ndarray, " n"]:
        low, high = self.ratio
        share = (low + (high - low) * rng.random()) * self.rows * self.columns
        mask = np.zeros((self.rows, self.columns), dtype=bool)
        if self.shape == "block":
            self._place_blocks(mask, share, rng)
            hidden = 0 if mask.any() else 1  # so that a masked view always has something to predict
        else:
            hidden = max(1, math.floor(share))
        mask.ravel()[rng.permutation(mask.size)[:hidden]] = True
        return mask.ravel()

    def _place_blocks(self, mask: Bool[ndarray, "h w"], share: float, rng: np.random.Generator) -> None:
        smallest = self.min_block or (min(self.rows, self.columns) // 3) ** 2
        logs, count, tries = tuple(map(math.log, _ASPECT_RATIO)), 0, 0
        while count < share and tries < _TRIES:
            tries += 1
            first, second, third, fourth = rng.random(4).tolist()
            # Below the smallest block the range is turned round, as in the authors' code: what does not fit is refused.
            area = smallest + (share - count - smallest) * first
            ratio = math.exp(logs[0] + (logs[1] - logs[0]) * second)
            height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if height >= self.rows or width >= self.columns:
                continue
            top, left = int(third * (self.rows - height + 1)), int(fourth * (self.columns - width + 1))
            block = mask[top : top + height, left : left + width]
            new = block.size - int(block.sum())
            if 0 < new <= share - count:
                block[:] = True
                count, tries = count + new, 0
