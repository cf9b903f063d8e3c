"""k-means (Lloyd 1982) in blocks of rows, and hierarchies of clusters (Vo et al. 2024).

Points are taken in blocks of `BLOCK` rows. What a block contributes depends on its rows and the centroids alone, and
contributions are added in float64, in the order of the blocks. So it does not matter where a block is computed:
processes of a group, which all have the points, share the distances, and each has the result of one process.

Source of the hierarchy: H. V. Vo et al. 2024, Automatic Data Curation for Self-Supervised Learning: A Clustering-Based
Approach (arXiv 2405.15613), written from the paper. Level 1 clusters the points, and every further level the centroids
of the level below. Plain k-means puts most centroids where most points are; resampling evens this out: k-means is run
again on the members nearest to each centroid, as many of each cluster, and all points are assigned to the result.

Deviations from the paper: centroids are drawn several at a time (`seeds`), and k-means ends before its last iteration
if it hardly improves (`TOLERANCE`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor
from torch.nn import functional as F

from dinoscope import distributed

BLOCK = 2**14
"""Rows that are computed together."""
TOLERANCE = 1e-3
"""Share of the mean squared distance by which an iteration must lower it, or a k-means of a hierarchy ends."""

_CPU_BYTES, _GPU_BYTES = 2**24, 2**28
_PER_ROUND = 8
"""A round of seeding draws one centroid for so many that there are already."""


def rows_at_a_time(device: torch.device, width: int) -> int:
    """Return how many rows of `width` float32 values to compute together: on a CPU they stay in the last cache."""
    return max(1, (_CPU_BYTES if device.type == "cpu" else _GPU_BYTES) // (4 * width))


# k-means


def nearest_centroids(
    points: Float[Tensor, "p v"], centroids: Float[Tensor, "k v"]
) -> tuple[Int[Tensor, " p"], Float[Tensor, " p"]]:
    """Return which centroid is nearest to each point (of equally near ones, the first), and how near.

    The latter is the squared Euclidean distance less the squared length of the point.
    """
    lengths = centroids.square().sum(dim=-1)
    nearest, reduced = list[Tensor](), list[Tensor]()
    for part in points.split(rows_at_a_time(points.device, len(centroids))):
        distances = torch.addmm(lengths, part, centroids.T, alpha=-2)
        nearest.append(distances.argmin(dim=1))
        reduced.append(distances.gather(1, nearest[-1][:, None])[:, 0])
    return torch.cat(nearest), torch.cat(reduced)


def _nearest_by_block(
    points: Float[Tensor, "p v"], centroids: Float[Tensor, "k v"], block: int = BLOCK
) -> tuple[Int64[Tensor, " p"], Float[Tensor, " p"]]:
    """Return `nearest_centroids` of all points. Processes of a group share the blocks."""
    nearest, reduced = points.new_zeros(len(points), dtype=torch.int64), points.new_zeros(len(points))
    starts = range(0, len(points), block)
    for number in distributed.own_share(len(starts)):
        rows = slice(starts[number], starts[number] + block)
        nearest[rows], reduced[rows] = nearest_centroids(points[rows], centroids)
    return distributed.sum_reduce(nearest), distributed.sum_reduce(reduced)


def kmeans(
    points: Float[Tensor, "p v"],
    starts: Float[Tensor, "k v"],
    iterations: int,
    progress: Callable[[int], None] = lambda _: None,
    *,
    tolerance: float = 0.0,
    block: int = BLOCK,
    dtype: torch.dtype = torch.float64,
) -> Float[Tensor, "k v"]:
    """Return centroids after so many of Lloyd's iterations from `starts`; one without any point stays where it is.

    tolerance: end after an iteration that lowers the mean squared distance by no more than this share of it.
    block: rows at a time. dtype: of the sums, which are made in the order of the points.
    progress: called with the number of iterations done.
    """
    means, before = starts.clone(), math.inf
    for iteration in range(iterations):
        sums, counts = means.new_zeros(means.shape, dtype=dtype), means.new_zeros(len(means), dtype=torch.int64)
        total = points.new_zeros((), dtype=torch.float64)
        of_blocks = (whole.split(block) for whole in (points, *_nearest_by_block(points, means, block)))
        for part, nearest, reduced in zip(*of_blocks, strict=True):
            own = nearest.bincount(minlength=len(means))
            order, begins = nearest.argsort(stable=True), own.cumsum(0) - own
            sums += F.embedding_bag(order, part.to(dtype), begins, mode="sum")
            counts += own
            if tolerance:
                total += (part.square().sum(dim=-1) + reduced).clamp(min=0).double().sum()
        new = (sums / counts.clamp(min=1)[:, None]).to(means.dtype)
        means = torch.where(counts[:, None] > 0, new, means)
        progress(iteration + 1)
        if tolerance:
            after = float(total)
            if before - after <= tolerance * before < math.inf or after == 0:
                break
            before = after
    return means


def assigned(
    points: Float[Tensor, "p v"], centroids: Float[Tensor, "k v"]
) -> tuple[Int64[Tensor, " p"], Float[Tensor, " p"]]:
    """Return the nearest centroid of each point, and the Euclidean distance to it."""
    nearest, _ = _nearest_by_block(points, centroids)
    pairs = zip(points.split(BLOCK), nearest.split(BLOCK), strict=True)
    return nearest, torch.cat([(part - centroids[own]).square_().sum(dim=1).sqrt_() for part, own in pairs])


def seeds(points: Float[Tensor, "p v"], count: int, generator: torch.Generator) -> Float[Tensor, "k v"]:
    """Return `count` of the points to begin k-means from, or as many as there are different ones.

    As k-means++ (Arthur and Vassilvitskii 2007), which draws each next centroid with a probability proportional to the
    squared distance to the nearest one so far; but once there are 8, a round draws an eighth as many as there are, all
    by the same distances. Several draws a round are those of k-means|| (Bahmani et al. 2012); here no more points than
    wanted are drawn, so that none must be dropped again. The distances cost as much as one iteration of k-means.

    generator: of the CPU.
    """
    lengths = torch.cat([part.square().sum(dim=1) for part in points.split(BLOCK)])
    same = 8 * torch.finfo(points.dtype).eps * float(lengths.max())  # below, a squared distance is nothing but rounding
    chosen = [torch.randint(len(points), (1,), generator=generator)]
    remaining = torch.full((len(points),), math.inf, dtype=torch.float64)
    total = 1
    while True:
        latest = points[chosen[-1].to(points.device)]
        remaining[chosen[-1]] = 0
        squared = (lengths + _nearest_by_block(points, latest)[1]).double().cpu()
        torch.minimum(remaining, squared.masked_fill_(squared <= same, 0), out=remaining)
        wanted = min(max(1, total // _PER_ROUND), count - total)
        # The smallest of exponential variables of these rates (Efraimidis and Spirakis 2006): draws without return.
        draws = -torch.rand(len(points), dtype=torch.float64, generator=generator).log_() / remaining
        picks = draws.argsort(stable=True)[:wanted]
        picks = picks[remaining[picks] > 0]
        if not len(picks):
            return points[torch.cat(chosen).to(points.device)]
        chosen.append(picks)
        total += len(picks)


# Hierarchies


@dataclass(frozen=True)
class Level:
    """Clusters of one level, none empty.

    centroids [k, v]. owners [m]: cluster of each element of the level below, which are the points for the first level.
    distances [m]: from each to the centroid of its cluster.
    """

    centroids: Float[Tensor, "k v"]
    owners: Int64[Tensor, " m"]
    distances: Float[Tensor, " m"]


def hierarchy(
    points: Float[Tensor, "p v"],
    counts: Sequence[int],
    generator: torch.Generator,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    iterations: int = 50,
    rounds: int = 10,
) -> list[Level]:
    """Return levels of so many clusters each, the finest first; fewer if there are not as many different points.

    counts: descending, and no more than there are points. generator: of the CPU.
    progress: called with (runs of k-means done, runs in all).
    iterations: of each k-means, at most. rounds: of resampling, on each level.
    """
    levels, total = list[Level](), len(counts) * (rounds + 1)
    for number, count in enumerate(counts):
        done = number * (rounds + 1)
        elements = levels[-1].centroids if levels else points
        progress(done, total)
        levels.append(
            _clustered(
                elements, count, iterations, rounds, generator, lambda one, done=done: progress(done + one, total)
            )
        )
    progress(total, total)
    return levels


def _clustered(
    points: Float[Tensor, "p v"],
    count: int,
    iterations: int,
    rounds: int,
    generator: torch.Generator,
    progress: Callable[[int], None],
) -> Level:
    def centroids_of(sample: Float[Tensor, "s v"]) -> Float[Tensor, "k v"]:
        starts = seeds(sample, min(count, len(sample)), generator)
        return kmeans(sample, starts, iterations, tolerance=TOLERANCE)

    centroids = centroids_of(points)
    owners, distances = assigned(points, centroids)
    central = math.floor(len(points) / (2 * count) + 0.5)  # half the mean size of a cluster, as in the paper's settings
    for done in range(rounds if central > 1 else 0):
        progress(done + 1)
        centroids = centroids_of(points[central_members(owners, distances, central)])
        owners, distances = assigned(points, centroids)
    present, owners = owners.unique(return_inverse=True)  # sorted
    return Level(centroids[present], owners, distances)


def central_members(owners: Int64[Tensor, " m"], distances: Float[Tensor, " m"], limit: int) -> Int64[Tensor, " c"]:
    """Return the places of the members nearest to the centroid of each cluster, up to `limit` of each; ascending."""
    order = distances.argsort(stable=True)
    order = order[owners[order].argsort(stable=True)]
    sizes = owners.bincount()
    ranks = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[owners[order]]
    return order[ranks < limit].sort().values
