"""A map of images: their features in two dimensions, and how far its neighbourhoods can be trusted. Arrays out.

Features are compared by their cosine, as in k-NN, so each is scaled to length 1. Every method starts from the first two
principal components, so that the same features give the same map (Kobak and Linderman 2021: an informative start also
decides how much of the large-scale order t-SNE and UMAP keep).
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from dinoscope.errors import UserError, lookup
from dinoscope.explain.patches import principal_components, scores

MIN_IMAGES = 5
"""With fewer images there are no neighbourhoods, and every method gives the principal components."""
NEIGHBOURS = 10
"""Nearest neighbours of each image by which a map is judged; fewer if there are few images."""
PERPLEXITY = 30.0
"""van der Maaten and Hinton 2008: about how many neighbours count; at most a third of the other images."""
UMAP_NEIGHBOURS, UMAP_DISTANCE = 15, 0.1
"""The defaults of McInnes et al. 2018; at most all other images."""

_COLLAPSED = 1e-6
"""Root mean square distance from the mean feature below which features of length 1 differ by rounding alone."""
_START = 1e-4  # standard deviation of t-SNE's first coordinates, as in its authors' code


@dataclass(frozen=True)
class EmbeddingMap:
    """A map of n images.

    points: no unit, and no meaning of an axis of its own. method: key of `METHODS`; settings: in words.
    neighbours: k of the two figures; 0 if there are too few images.
    kept: mean share of an image's k nearest neighbours by features that are among its k nearest on the map.
    trustworthiness: 1 if no image came close on the map that is not close by features (Venna and Kaski 2001).
    """

    points: Float[ndarray, "n 2"]
    method: str
    settings: str
    neighbours: int = 0
    kept: float | None = None
    trustworthiness: float | None = None


def embedding_map(features: Float[Tensor, "n d"], method: str = "tsne", seed: int = 0) -> EmbeddingMap:
    """Place n images by their features, with a method of `METHODS`.

    Raises UserError for fewer than two images, for features that are not finite or all the same, an unknown method,
    or UMAP if it is not installed.
    """
    place, n = lookup("method of a map", method, METHODS), len(features)
    if n < 2:
        raise UserError(f"a map needs at least two images, and there are {n}")
    if not features.isfinite().all():
        raise UserError("the features are not finite: the weights are broken (did the training diverge?)")
    directions = F.normalize(features.double(), dim=1)
    if (directions - directions.mean(dim=0)).square().sum(dim=1).mean().sqrt() < _COLLAPSED:
        raise UserError("the features of all images are the same: the model has collapsed, and there is no map")
    if n < MIN_IMAGES:
        points, settings = _pca(directions, seed)
        return EmbeddingMap(points, "pca", settings)
    from sklearn.manifold import trustworthiness

    points, settings = place(directions, seed)
    k = min(NEIGHBOURS, (n - 1) // 2)  # trustworthiness is defined for k below n / 2
    # between vectors of length 1 the nearest by Euclidean distance are the nearest by cosine
    trust = float(trustworthiness(directions.numpy(), points, n_neighbors=k))
    return EmbeddingMap(points, method, settings, k, neighbours_kept(directions.numpy(), points, k), trust)


def best_method() -> str:
    """Return "umap" if it is installed, else "tsne"."""
    return "umap" if importlib.util.find_spec("umap") else "tsne"


def _start(directions: Float[Tensor, "n d"]) -> Float[ndarray, "n 2"]:
    """Return the first two principal components; a component that does not vary is 0."""
    return scores(principal_components(directions, count=2), directions).numpy()


def _pca(directions: Float[Tensor, "n d"], seed: int) -> tuple[Float[ndarray, "n 2"], str]:
    share = principal_components(directions, count=2).share.sum().item()
    return _start(directions), f"two components, {share:.0%} of the variance"


def _tsne(directions: Float[Tensor, "n d"], seed: int) -> tuple[Float[ndarray, "n 2"], str]:
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(directions) - 1) / 3)
    first = _start(directions)
    first = (first / first[:, 0].std() * _START).astype(np.float32)
    made = TSNE(perplexity=perplexity, metric="cosine", init=first, random_state=seed)  # pyright: ignore[reportArgumentType]
    points = made.fit_transform(directions.numpy()).astype(np.float64)
    return points, f"cosine, perplexity {perplexity:.3g}, from principal components, seed {seed}"


def _umap(directions: Float[Tensor, "n d"], seed: int) -> tuple[Float[ndarray, "n 2"], str]:
    if importlib.util.find_spec("umap") is None:
        raise UserError("UMAP is not installed: pip install 'dinoscope[umap]', or take t-SNE (tsne)")
    with warnings.catch_warnings():  # of its own dependencies, and of images that are equal
        warnings.simplefilter("ignore")
        from umap import UMAP

        neighbours, first = min(UMAP_NEIGHBOURS, len(directions) - 1), _start(directions)
        first = 10 * first / np.abs(first).max()  # the extent of its own start
        made = UMAP(
            n_neighbors=neighbours,
            min_dist=UMAP_DISTANCE,
            metric="cosine",
            init=first.astype(np.float32),  # pyright: ignore[reportArgumentType] (its type is str, its docs allow arrays)
            random_state=seed,
            n_jobs=1,
        )
        points = np.asarray(made.fit_transform(directions.numpy()), np.float64)
    return points, f"cosine, {neighbours} neighbours, distance {UMAP_DISTANCE}, from principal components, seed {seed}"


METHODS: dict[str, Callable[[Float[Tensor, "n d"], int], tuple[Float[ndarray, "n 2"], str]]] = {
    "pca": _pca,
    "tsne": _tsne,
    "umap": _umap,
}
"""name -> places features of length 1, and describes the settings."""
TITLES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}


def described(made: EmbeddingMap) -> str:
    """Describe method, settings, and how far the map can be trusted."""
    text = f"{TITLES[made.method]} ({made.settings})"
    if made.kept is None:
        return f"{text}; too few images to judge its neighbourhoods"
    by_chance = made.neighbours / (len(made.points) - 1)
    return (
        f"{text}; of the {made.neighbours} nearest neighbours of an image by features, {made.kept:.0%} are among its "
        f"{made.neighbours} nearest on the map (at random {by_chance:.0%}); trustworthiness "
        f"{made.trustworthiness:.2f} of 1"
    )


def neighbours_kept(before: Float[ndarray, "n d"], after: Float[ndarray, "n 2"], k: int) -> float:
    """Return the mean share of each row's k nearest others `before` that are among its k nearest `after` (Euclidean).

    Of others at the same distance the earlier are the nearer. k is below n.
    """
    from sklearn.metrics import pairwise_distances

    nearest: list[ndarray] = []
    for values in (before, after):
        distances = pairwise_distances(values)
        np.fill_diagonal(distances, np.inf)
        nearest.append(np.argsort(distances, axis=1, kind="stable")[:, :k])
    return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(*nearest, strict=True)]))
