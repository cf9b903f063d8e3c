"""Jaccard of attention masks on PASCAL VOC: the published protocol, and a strict one beside it.

published (Caron et al. 2021, Fig. 4; Naseer et al. 2021 and their public evaluation): each class of an image is
compared with the mask of every head, the best head counts; mean over the classes of the image, then over images.
The truth chooses the head, anew for each class of each image, and void pixels count as not belonging to the class.

strict: all objects of an image against one mask, void pixels left out, and nothing chosen by the truth of the
images that are reported: the mean over the heads, and one head that was chosen on other images.

A mask consists of whole cells (patches). With the pixels of each class counted once in each cell, the Jaccard of
any number of masks is a matrix product, and exactly what comparing pixel by pixel gives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

from dinoscope.data.benchmarks import BACKGROUND, VOID


@dataclass(frozen=True)
class CellCounts:
    """Pixels of a mask in each cell of a grid of (rows, columns), row by row, float64.

    classes: of the objects, ascending; row i of `objects` counts the pixels of `classes[i]`.
    pixels: all of them, void ones (`void`) and background included.
    """

    grid: tuple[int, int]
    classes: tuple[int, ...]
    objects: Float[Tensor, "classes cells"]
    void: Float[Tensor, " cells"]
    pixels: Float[Tensor, " cells"]


def count_cells(mask: UInt8[ndarray, "h w"], grid: tuple[int, int]) -> CellCounts:
    """Count the pixels of a VOC mask (0 background, 255 void, else a class) in each cell.

    A pixel belongs to the cell that nearest upsampling to the size of the mask shows there ("nearest-exact").
    """
    rows, columns = grid
    cells = rows * columns
    present = np.flatnonzero(np.bincount(mask.reshape(-1), minlength=256))
    place = np.zeros(256, np.int64)
    place[present] = cells * np.arange(len(present))
    cell_of = columns * nearest_cells(mask.shape[0], rows)[:, None] + nearest_cells(mask.shape[1], columns)
    counts = np.bincount((place[mask] + cell_of).reshape(-1), minlength=cells * len(present))
    per_value = torch.as_tensor(counts.reshape(len(present), cells)).double()
    objects = np.flatnonzero((present != BACKGROUND) & (present != VOID))
    void = per_value[-1] if present[-1] == VOID else torch.zeros(cells, dtype=torch.float64)
    classes = tuple(int(value) for value in present[objects])
    return CellCounts(grid, classes, per_value[torch.as_tensor(objects)], void, per_value.sum(dim=0))


def nearest_cells(pixels: int, cells: int) -> Int[ndarray, " pixels"]:
    """The cell of each pixel along one side, by torch's own arithmetic."""
    numbers = torch.arange(cells, dtype=torch.float32)[None, None]
    return F.interpolate(numbers, pixels, mode="nearest-exact")[0, 0].long().numpy()


def cell_jaccard(
    masks: Bool[Tensor, "*batch cells"], truth: Float[Tensor, "k cells"], counted: Float[Tensor, " cells"]
) -> Float[Tensor, "*batch k"]:
    """Jaccard of each mask with each of k truths. truth: pixels of it in each cell; counted: pixels that count.

    Two empty masks agree: 1, as in `jaccard`.
    """
    chosen = masks.double()
    intersection = chosen @ truth.T
    union = (chosen @ counted)[..., None] + truth.sum(dim=-1) - intersection
    return (intersection / union).where(union > 0, 1.0)


def published_scores(
    masks: Bool[Tensor, "*batch heads cells"], counts: CellCounts
) -> tuple[Float[Tensor, "*batch classes"], Int[Tensor, "*batch classes"]]:
    """Jaccard of each class of an image with the head that fits it best, and which head that is."""
    best = cell_jaccard(masks, counts.objects, counts.pixels).max(dim=-2)
    return best.values, best.indices


def strict_scores(masks: Bool[Tensor, "*batch maps cells"], counts: CellCounts) -> Float[Tensor, "*batch maps"]:
    """Jaccard of each mask with all objects together; void pixels count neither for nor against."""
    return cell_jaccard(masks, counts.objects.sum(dim=0, keepdim=True), counts.pixels - counts.void)[..., 0]


def whole_image_scores(counts: CellCounts) -> tuple[float, float]:
    """What a mask of the whole image would score, published and strict: what looking nowhere in particular gives."""
    everything = torch.ones(1, len(counts.pixels), dtype=torch.bool)
    published, _ = published_scores(everything, counts)
    return published.mean().item(), strict_scores(everything, counts).item()


@dataclass(frozen=True)
class FixedHead:
    """Each image's Jaccard with a head that was chosen on the other half of the images.

    heads: the head, from 0, for each mass (last dimension), chosen on the second half for the first (row 0), and
        the other way round (row 1).
    """

    scores: Float[Tensor, "n masses"]
    heads: Int[Tensor, "2 masses"]


def two_halves(images: int, seed: int) -> Bool[Tensor, " images"]:
    """Which images are in the first of two halves, drawn at random; of an odd number the second has one more."""
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
    first = torch.zeros(images, dtype=torch.bool)
    first[order[: images // 2]] = True
    return first


def fixed_head(scores: Float[Tensor, "n masses heads"], first: Bool[Tensor, " n"]) -> FixedHead | None:
    """Choose the head with the best mean on one half, report it on the other, and the other way round.

    first: the images of the first half. None where a half is empty: then there is nothing to choose on.
    """
    if first.all() or not first.any():
        return None
    chosen = torch.stack([scores[~first].mean(dim=0).argmax(dim=-1), scores[first].mean(dim=0).argmax(dim=-1)])
    head_of = torch.where(first[:, None], chosen[0], chosen[1])
    return FixedHead(scores.gather(-1, head_of[..., None])[..., 0], chosen)
