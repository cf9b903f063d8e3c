"""The map that looks at no image: a blob in the middle. Photographs are centred, so this is the bar to clear."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dinoscope.errors import UserError
from dinoscope.models.backbone import Backbone

SPREAD = 0.25
"""Standard deviation of the blob along each side, as a share of that side. Our choice, not tuned to any data."""


def centre_map(rows: int, columns: int, spread: float = SPREAD) -> Float[Tensor, "rows columns"]:
    """A Gaussian about the middle of the grid, taken at the middle of each patch, that sums to 1."""
    down, across = (
        torch.exp(-0.5 * (((torch.arange(side) + 0.5) / side - 0.5) / spread) ** 2) for side in (rows, columns)
    )
    blob = down[:, None] * across
    return blob / blob.sum()


def centre_maps(
    backbone: Backbone, images: Float[Tensor, "b 3 h w"], block: int = -1
) -> Float[Tensor, "b 1 rows columns"]:
    """`centre_map` on the grid of the network's patches, the same for every image.

    Raises UserError for another block than the last.
    """
    if block != -1:
        raise UserError(f"a centred blob is of no block: leave the block at -1, not {block}")
    rows, columns = (side // backbone.patch_size for side in images.shape[-2:])
    return centre_map(rows, columns).to(images).expand(len(images), 1, -1, -1)
