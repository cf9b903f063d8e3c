"""Graphs of similar images: pairs of images whose features are alike, and the groups that such pairs connect.

As in DINOv2 (Oquab et al. 2023, appendix A.3): each image is joined to those of its 64 nearest neighbours whose cosine
similarity reaches a threshold, and the connected components of the graph are the groups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from scipy.sparse import coo_array  # pyright: ignore[reportMissingTypeStubs]
from scipy.sparse.csgraph import connected_components  # pyright: ignore
from torch import Tensor

from dinoscope.errors import UserError
from dinoscope.evaluation import knn

NEAREST = 64
"""Neighbours of an image that it may be joined to, in DINOv2."""

_STRIP = 4096
"""Rows that are searched at a time. The arithmetic of a strip depends on nothing but the features."""

Progress = Callable[[int, int], None]


class Pairs(NamedTuple):
    """Pairs of images, in the order of `left`, then of `right`, each once.

    cosine: cosine similarity of their features.
    """

    left: Int64[np.ndarray, " p"]
    right: Int64[np.ndarray, " p"]
    cosine: Float32[np.ndarray, " p"]


def similar_pairs(
    features: Float[Tensor, "n d"],
    threshold: float,
    *,
    others: Float[Tensor, "m d"] | None = None,
    nearest: int = NEAREST,
    progress: Progress = lambda done, total: None,
) -> Pairs:
    """Return the pairs of images whose cosine similarity is at least `threshold`, in [-1, 1].

    Without `others`, both are rows of `features`, left < right, and a pair is one if either is among the `nearest`
    neighbours of the other. With `others`, `right` is a row of it, among the `nearest` of `left`. Exact in float32,
    in blocks whose bounds depend on the number of rows alone; features need not be normalised, and a zero feature is
    at similarity 0 to all. Of n x d features the memory is that of a normalised copy and of n x `nearest` pairs.

    progress: called with (rows done, rows in all).

    Raises UserError if the threshold or `nearest` is out of range, or a feature is not finite.
    """
    if not -1 <= threshold <= 1:
        raise UserError(f"the threshold is {threshold}; a cosine similarity lies between -1 and 1")
    if nearest < 1:
        raise UserError(f"the number of neighbours is {nearest}; it must be at least 1")
    gallery = knn.unit(features if others is None else others)
    queries = gallery if others is None else knn.unit(features)
    count, itself = len(queries), others is None
    lefts, rights = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    values = [np.zeros(0, np.float32)]
    k = min(nearest, len(gallery) - itself)
    for start in range(0, count if k > 0 else 0, _STRIP):
        rows = torch.arange(start, min(start + _STRIP, count), device=queries.device)
        exclude = rows if itself else None
        cosines, neighbours = knn.nearest(gallery, queries[rows], k, exclude=exclude)
        row, rank = (cosines >= threshold).nonzero(as_tuple=True)
        lefts.append(rows[row].cpu().numpy())
        rights.append(neighbours[row, rank].cpu().numpy())
        values.append(cosines[row, rank].cpu().numpy())
        progress(start + len(rows), count)
    left, right, cosine = np.concatenate(lefts), np.concatenate(rights), np.concatenate(values)
    if itself:
        left, right = np.minimum(left, right), np.maximum(left, right)
    return _each_once(left, right, cosine, len(gallery))


def _each_once(
    left: Int64[np.ndarray, " c"], right: Int64[np.ndarray, " c"], cosine: Float32[np.ndarray, " c"], width: int
) -> Pairs:
    """Sort pairs; one that both of its images name has the larger cosine of the two, which may differ by rounding."""
    keys = left * width + right
    order = np.argsort(keys, kind="stable")
    keys, cosine = keys[order], cosine[order]
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    if len(first):
        cosine = np.maximum.reduceat(cosine, first)
    return Pairs(*np.divmod(keys[first], max(width, 1)), cosine)


def components(n: int, left: Int64[np.ndarray, " p"], right: Int64[np.ndarray, " p"]) -> Int64[np.ndarray, " n"]:
    """Return the group of each of n images that these pairs connect: the smallest index in the group."""
    graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(n, n))
    labels = np.asarray(connected_components(graph, directed=False)[1], np.int64)  # pyright: ignore
    first, inverse = np.unique(labels, return_index=True, return_inverse=True)[1:]
    return first[inverse].astype(np.int64)
