"""Position embeddings at another grid than the trained one, resized as the released weights were trained with."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dinoscope.models.position_matrices import resized_by_matrices


def sine_cosine_positions(width: int, side: int) -> Float[Tensor, "1 n d"]:
    """Fixed positions of a square grid of `side` cells: sines and cosines of row, then of column (MoCo v3, section 5).

    width: a multiple of 4; wavelengths go from 2 pi to nearly 10,000 * 2 pi cells.
    """
    frequencies = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float32) / (width // 4))
    cells = torch.arange(side, dtype=torch.float32)
    rows, columns = torch.meshgrid(cells, cells, indexing="ij")
    angles = [place.flatten()[:, None] * frequencies for place in (rows, columns)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)[None]


def resized_position_embedding(
    embedding: Float[Tensor, "1 n d"], prefix: int, grid: tuple[int, int], *, antialias: bool = False
) -> Float[Tensor, "1 m d"]:
    """Bicubic resize of the patch positions to `grid` = (rows, columns); prefix positions are kept.

    Without antialiasing, and with scale factor (cells + 0.1) / trained cells: DINO, and DINOv2 without registers,
    were trained with this, so a cleaner resize would give other features. With `antialias`, and exactly to the grid:
    DINOv2 with registers.
    """
    if any(isinstance(cells, torch.SymInt) for cells in grid):  # traced for images of any size
        return resized_by_matrices(embedding, prefix, grid, antialias=antialias)
    trained = math.isqrt(embedding.shape[1] - prefix)
    if grid == (trained, trained):
        return embedding
    cells = embedding[:, prefix:].reshape(1, trained, trained, -1).permute(0, 3, 1, 2)
    if antialias:
        resized = F.interpolate(cells, grid, mode="bicubic", antialias=True)
        return torch.cat([embedding[:, :prefix], resized.flatten(2).transpose(1, 2)], dim=1)
    scale = ((grid[0] + 0.1) / trained, (grid[1] + 0.1) / trained)
    resized = F.interpolate(cells, scale_factor=scale, mode="bicubic")
    return torch.cat([embedding[:, :prefix], resized.flatten(2).transpose(1, 2)], dim=1)
