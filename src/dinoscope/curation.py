"""From a large uncurated collection to a good training set: copies, outliers, clusters, and a balanced sample.

1. Copies: images whose features are alike are joined, and of each connected group one image is kept (Oquab et al. 2023,
   DINOv2, appendix A.3). DINOv2 joins at a cosine of 0.6 of features that were made to find copies; features of
   self-supervised models need a higher threshold.
2. Outliers: images that are far from everything else. An image is one if the distance to the nearest image that is no
   copy of it lies above the third quartile of these distances by more than `FENCE` times their interquartile range
   (Tukey 1977, "far out"). They are listed, and left out on request alone, since a rare image looks the same.
3. Clusters: hierarchical k-means with resampling (`dinoscope.kmeans`), of features of length 1.
4. A balanced sample (Vo et al. 2024, arXiv 2405.15613): from the coarsest clusters down, each cluster gives as many
   images as any other, as far as it has them.

Everything follows from the features, the settings and the seed. Features are less their mean, and then of length 1:
those of many models have a large part in common, which hides what tells images apart (docs/curation.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from dinoscope.data.sources import ImageSource
from dinoscope.errors import UserError
from dinoscope.evaluation.base import Context
from dinoscope.evaluation.graph import NEAREST, components, similar_pairs
from dinoscope.evaluation.knn import unit
from dinoscope.features import Watch
from dinoscope.kmeans import hierarchy
from dinoscope.model_names import Model

FENCE = 3.0
"""Interquartile ranges above the third quartile from which an image is an outlier."""

_IMAGES_PER_CLUSTER = (20, 100)
"""Images for each cluster of the first and of the second level: those of the paper's setting of two levels."""


@dataclass(frozen=True)
class CurationConfig:
    """Settings of a curation. Raises UserError if a value is out of range."""

    size: int | None = None
    """Number of images to choose. Give it, or --share."""

    share: float | None = None
    """Share of the images to choose instead, above 0 and at most 1."""

    clusters: tuple[int, ...] = ()
    """Numbers of clusters, the finest level first, such as 5000 1000. By default one for 20 images, and one for 100."""

    copies_above: float = 0.98
    """Cosine similarity of features, less their mean, from which two images are copies. The best value depends on the
    model: look at the page."""

    keep_copies: bool = False
    """Leave no copies out."""

    leave_out_outliers: bool = False
    """Leave out images that are far from everything else; otherwise they are only listed."""

    rounds: int = 10
    """Rounds of resampling on each level, which spread clusters evenly. 0 makes plain k-means."""

    iterations: int = 50
    """Iterations of each k-means at most; it ends when one improves it by less than a thousandth."""

    seed: int = 0
    """Seed of the clusters and the sample."""

    def __post_init__(self) -> None:
        if (self.size is None) == (self.share is None):
            raise UserError("how many images are wanted? Give --size, or --share, and not both")
        if self.size is not None and self.size < 1:
            raise UserError(f"--size must be 1 or more, not {self.size}")
        if self.share is not None and not 0 < self.share <= 1:
            raise UserError(f"--share must be above 0 and at most 1, not {self.share:g}")
        finer = [math.inf, *self.clusters]
        if any(count < 1 or count >= above for count, above in zip(self.clusters, finer, strict=False)):
            given = " ".join(map(str, self.clusters))
            raise UserError(f"--clusters are 1 or more, and fewer on each further level, not {given}")
        if not 0 < self.copies_above <= 1:
            raise UserError(f"--copies-above must be above 0 and at most 1, not {self.copies_above:g}")
        for name, value, lowest in (("rounds", self.rounds, 0), ("iterations", self.iterations, 1)):
            if value < lowest:
                raise UserError(f"--{name} must be {lowest} or more, not {value}")
        if self.seed < 0:
            raise UserError(f"the seed must be 0 or more, not {self.seed}")

    def wanted(self, images: int) -> int:
        """Return how many of so many images to choose, at least one. Raises UserError for more than there are."""
        if self.share is not None:
            return max(1, round(self.share * images))
        size = self.size or 0
        if size > images:
            raise UserError(f"--size {size} is more than the {images} images that there are")
        return size

    def levels(self, images: int) -> tuple[int, ...]:
        """Return how many clusters each level has, of so many images. Raises UserError for more than there are."""
        if self.clusters and self.clusters[0] > images:
            raise UserError(f"--clusters {self.clusters[0]} are more than the {images} images that are left to cluster")
        default = (images // each for each in _IMAGES_PER_CLUSTER)
        return self.clusters or tuple(count for count in default if count > 1) or (1,)


Fate = Literal["chosen", "copy", "outlier", "not drawn"]


@dataclass(frozen=True)
class Choice:
    """What became of n images.

    chosen: whether each is in the training set.
    copy_of: the image that stands for each in its group of copies, and that is kept; itself without copies.
    distances: from each to the nearest image that is no copy of it, between features of length 1; NaN if all of its
        nearest 64 images are copies.
    outlier: whether that is far. fence: the distance from which it is.
    clusters: of each level, the finest first: the cluster of each image; copies have that of the image they copy, and
        images that were left out before the clustering have -1.
    """

    chosen: Bool[np.ndarray, " n"]
    copy_of: Int64[np.ndarray, " n"]
    distances: Float64[np.ndarray, " n"]
    outlier: Bool[np.ndarray, " n"]
    fence: float
    clusters: tuple[Int64[np.ndarray, " n"], ...] = field(default=())

    @property
    def is_copy(self) -> Bool[np.ndarray, " n"]:
        """Whether each is a copy of another image."""
        return self.copy_of != np.arange(len(self.copy_of))

    def fates(self) -> list[Fate]:
        """Return why each image is there or not."""
        left_out = self.clusters[0] < 0
        reasons = np.select([self.chosen, self.is_copy, left_out], ["chosen", "copy", "outlier"], "not drawn")
        return reasons.tolist()


def centred(features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Return features less their mean, of length 1. Raises UserError if one is not finite."""
    return unit(features - features.mean(dim=0, dtype=torch.float64).float())


def choose(
    features: Float[Tensor, "n d"],
    config: CurationConfig,
    watch: Watch,
    *,
    for_copies: Float[Tensor, "n e"] | None = None,
) -> Choice:
    """Choose images by their features. for_copies: those that find copies; by default the same. watch: shows progress.

    If fewer images than wanted are left without copies and outliers, all of them are chosen. Memory besides the
    features: a normalised copy, up to two more of what is clustered, about 4 kB an image for neighbours, and 300 MB.

    Raises UserError if a feature is not finite, or there are not as many images as wanted or as clusters.
    """
    count = len(features)
    wanted = config.wanted(count)
    points = centred(features.cpu())
    with watch("looking for neighbours") as progress:
        pairs = similar_pairs(points, -1.0, nearest=NEAREST, progress=progress)
    close = pairs
    if for_copies is not None:
        with watch("looking for copies") as progress:
            close = similar_pairs(centred(for_copies.cpu()), config.copies_above, nearest=NEAREST, progress=progress)
    is_close = close.cosine >= (math.inf if config.keep_copies else config.copies_above)
    copy_of = components(count, close.left[is_close], close.right[is_close])
    distances = _nearest_others(copy_of, pairs.left, pairs.right, pairs.cosine)
    del pairs, close  # much memory
    is_copy = copy_of != np.arange(count)
    outlier, fence = outliers(distances, ~is_copy)
    kept = np.flatnonzero(~is_copy & ~(outlier & config.leave_out_outliers))
    if not len(kept):
        raise UserError("no image is left: all are outliers")
    counts = config.levels(len(kept))
    generator = torch.Generator().manual_seed(config.seed)
    with watch("clustering") as progress:
        levels = hierarchy(
            points[torch.from_numpy(kept)],
            counts,
            generator,
            progress,
            iterations=config.iterations,
            rounds=config.rounds,
        )
    owners = [level.owners.numpy() for level in levels]
    chosen = np.zeros(count, bool)
    chosen[kept[balanced_sample(owners, wanted, generator)]] = True
    clusters, own = list[Int64[np.ndarray, " n"]](), np.arange(len(kept))
    for of_level in owners:
        own = of_level[own]
        column = np.full(count, -1, np.int64)
        column[kept] = own
        clusters.append(column[copy_of])
    return Choice(chosen, copy_of, distances, outlier, fence, tuple(clusters))


# Outliers


def _nearest_others(
    copy_of: Int64[np.ndarray, " n"],
    left: Int64[np.ndarray, " p"],
    right: Int64[np.ndarray, " p"],
    cosine: Float[np.ndarray, " p"],
) -> Float64[np.ndarray, " n"]:
    """Return the distance from each image, or any copy of it, to the nearest image of another group; NaN if unknown."""
    differ = copy_of[left] != copy_of[right]
    best = np.full(len(copy_of), -np.inf)
    for side in (left, right):
        np.maximum.at(best, copy_of[side[differ]], cosine[differ])
    best = best[copy_of]
    return np.where(np.isinf(best), np.nan, np.sqrt(np.maximum(0, 2 - 2 * best)))


def outliers(
    distances: Float64[np.ndarray, " n"], counted: Bool[np.ndarray, " n"]
) -> tuple[Bool[np.ndarray, " n"], float]:
    """Return which images lie beyond the fence, and the fence: the third quartile + `FENCE` interquartile ranges.

    distances: to the nearest other image; NaN is no outlier. counted: whose distances make the quartiles.
    """
    known = distances[counted & ~np.isnan(distances)]
    if not len(known):
        return np.zeros(len(distances), bool), math.inf
    first, third = np.quantile(known, [0.25, 0.75])
    fence = float(third + FENCE * (third - first))
    return distances > fence, fence


# The balanced sample


def largest_cap(sizes: Int64[np.ndarray, " k"], target: int) -> int:
    """Return the largest whole cap c for which the sum of min(c, size) is at most `target`, by bisection.

    It is the largest size if the sum of the sizes is.
    """
    low, high = 0, int(sizes.max())
    if sizes.sum() <= target:
        return high
    while high - low > 1:  # the sum is at most the target at `low`, and above it at `high`
        middle = (low + high) // 2
        low, high = (middle, high) if np.minimum(sizes, middle).sum() <= target else (low, middle)
    return low


def shares(sizes: Int64[np.ndarray, " k"], target: int, ranks: Float64[np.ndarray, " k"]) -> Int64[np.ndarray, " k"]:
    """Return how many images each cluster gives: as many as any other, as far as it has them, `target` in all.

    All that there are if those are no more. What the cap leaves over goes to clusters above it, one to each, in the
    order of `ranks`.
    """
    cap = largest_cap(sizes, target)
    given = np.minimum(sizes, cap)
    above = np.flatnonzero(sizes > cap)
    given[above[ranks[above].argsort(kind="stable")][: target - int(given.sum())]] += 1
    return given


def balanced_sample(
    owners: Sequence[Int64[np.ndarray, " _"]], target: int, generator: torch.Generator
) -> Int64[np.ndarray, " s"]:
    """Return the places of the images of a balanced sample, ascending: `target`, or all if there are no more.

    owners: of each level, the finest first, the cluster of every element of the level below (of every image). Clusters
    are numbered without gaps. Within a cluster of the finest level, images are drawn at random.
    """
    sizes = [np.ones(len(owners[0]), np.int64)]  # images below each element, of all levels
    for parents in owners:
        below = np.zeros(int(parents.max()) + 1, np.int64)
        np.add.at(below, parents, sizes[-1])
        sizes.append(below)
    ranks = [torch.rand(len(each), dtype=torch.float64, generator=generator).numpy() for each in sizes]
    given = shares(sizes[-1], target, ranks[-1])
    for level in range(len(owners) - 1, -1, -1):
        parents = owners[level]
        order = parents.argsort(kind="stable")
        of_children = np.zeros(len(parents), np.int64)
        for parent, children in enumerate(np.split(order, np.bincount(parents).cumsum()[:-1])):
            of_children[children] = shares(sizes[level][children], int(given[parent]), ranks[level][children])
        given = of_children
    return np.flatnonzero(given)


# Images


@dataclass(frozen=True)
class Curation:
    """Images and what became of them.

    model: whose features were used. copies_model: whose features found copies.
    images: those that could be read. unreadable: names of the others.
    config: the settings.
    """

    model: Model
    copies_model: Model
    images: ImageSource
    unreadable: tuple[str, ...]
    choice: Choice
    config: CurationConfig

    @property
    def chosen(self) -> ImageSource:
        """The training set, in the order of the images."""
        return self.images.subset(np.flatnonzero(self.choice.chosen).tolist())


def curate_images(
    model: Model, images: ImageSource, config: CurationConfig, context: Context, copies_model: Model | None = None
) -> Curation:
    """Choose a training set from images, by the features of a model; labels are not used.

    copies_model: whose features find copies; by default those of `model`.

    Raises UserError as `choose` and `Context.features` do; what the number of images decides, before any is read.
    """
    if copies_model is not None and config.keep_copies:
        raise UserError("--keep-copies looks for no copies: leave out --copies-model, which is to find them")
    config.wanted(len(images))
    config.levels(len(images))
    model = context.fitted(model, (images, None))
    bank = context.features(model.backbone, images, "features")
    for_copies = None
    if copies_model is not None:
        copies_model = context.fitted(copies_model, (images, None))
        other = context.features(copies_model.backbone, images, "features that find copies")
        if other.paths != bank.paths:
            raise UserError(f"{images.name}: images changed while they were read; call it again")
        for_copies = other.features
    place, known = {key: index for index, key in enumerate(images.keys)}, set(bank.paths)
    readable = images.subset([place[path] for path in bank.paths])
    unreadable = tuple(key for key in images.keys if key not in known)
    choice = choose(bank.features, config, context.watch, for_copies=for_copies)
    return Curation(model, copies_model or model, readable, unreadable, choice, config)
