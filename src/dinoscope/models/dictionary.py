"""A baseline without a network: a dictionary of whitened patches, learned by k-means (Coates, Lee and Ng 2011).

Images of 32 px are cut into all patches of 6 px. Each patch is contrast-normalised, ZCA-whitened, and described by how
much closer than average it lies to each centroid ("triangle" encoding); the sums over the four quadrants of the image
are its feature. Patches, whitening and centroids come from training images; labels are never used.

Sources: A. Coates, H. Lee and A. Y. Ng 2011, An Analysis of Single-Layer Networks in Unsupervised Feature Learning
(equation 2, pooling: section 3); A. Coates and A. Y. Ng 2011, The Importance of Encoding Versus Training with Sparse
Coding and Vector Quantization. `STANDARDIZATION` is not in the papers; it is that of the authors' public demo
(kmeans_demo.m).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dinoscope.kmeans import kmeans, rows_at_a_time
from dinoscope.models.whitened import (
    PatchBaseline,
    PatchSettings,
    Whitening,
    normalize_contrast,
    random_patches,
    squares,
)

PATCHES = "patches"
"""The name of the baseline."""

STANDARDIZATION = 0.01
"""Added to the variance of a feature before it is divided by its root."""

_IMAGES = 256  # between two reports of progress


@dataclass(frozen=True)
class DictionarySettings(PatchSettings):
    """What decides the dictionary besides the images.

    centroids: of the dictionary; the first ones are random patches. iterations: of k-means.
    """

    centroids: int = 800
    iterations: int = 20


class Dictionary(Whitening):
    """Whitening and centroids: what is learned. All zero until it is fitted.

    centroids [k, v]: of whitened patches.
    mean, deviation [4 * k]: of the pooled features of the images that it was fitted to.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, settings: DictionarySettings) -> None:
        super().__init__(settings.patch)
        k = settings.centroids
        self.centroids = nn.Parameter(torch.zeros(k, 3 * settings.patch**2), requires_grad=False)
        self.register_buffer("mean", torch.zeros(4 * k))
        self.register_buffer("deviation", torch.ones(4 * k))


class DictionaryBackbone(PatchBaseline):
    """The dictionary as a backbone: `Tokens.cls` is the pooled feature [b, 4 * centroids], standardised."""

    probe_title = "sums over quadrants"
    net: Dictionary
    settings: DictionarySettings

    def __init__(self, settings: DictionarySettings | None = None) -> None:
        self.settings = settings or DictionarySettings()
        super().__init__(PATCHES, self.settings, 4 * self.settings.centroids, Dictionary(self.settings))

    @property
    def made_of(self) -> str:
        """What a protocol tells of it."""
        own = self.settings
        return (
            f"{own.centroids} centroids of whitened {own.patch} px patches at {own.size} px, from "
            f"{int(self.net.images)} training images without labels; sums over quadrants, standardised"
        )

    def describe(self, images: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b d"]:
        return (self._pooled(images, self.net) - self.net.mean) / self.net.deviation

    def _pooled(self, images: Float[Tensor, "b 3 s s"], net: Dictionary) -> Float[Tensor, "b f"]:
        own, weights = self.settings, quadrants(self.settings.side).to(images.device)
        parts: list[Tensor] = []
        for part in images.split(rows_at_a_time(images.device, own.side**2 * own.centroids)):
            patches = normalize_contrast(F.unfold(part, own.patch).transpose(1, 2))
            parts.append(weights @ triangle(net.whiten(patches), net.centroids))
        return torch.cat(parts).flatten(1)

    def learned(self, images: Float[Tensor, "n 3 s s"], progress: Callable[[int, int], None]) -> Dictionary:
        own, fitted = self.settings, Dictionary(self.settings).to(images.device)
        total = own.iterations + len(images)
        patches = normalize_contrast(random_patches(images, own, own.centroids, own.seed))
        fitted.fit_whitening(patches, own.whitening)
        patches = fitted.whiten(patches)
        # Patches are in random order. Sums as they were made for the published figures: float32, of all at once.
        starts, done = patches[: own.centroids], lambda iterations: progress(iterations, total)
        made = kmeans(patches, starts, own.iterations, done, block=len(patches), dtype=torch.float32)
        fitted.centroids.copy_(made)
        features: list[Tensor] = []
        for part in images.split(_IMAGES):
            features.append(self._pooled(part, fitted))
            progress(own.iterations + sum(map(len, features)), total)
        pooled = torch.cat(features)
        fitted.mean.copy_(pooled.mean(dim=0))
        fitted.deviation.copy_((pooled.var(dim=0, correction=0) + STANDARDIZATION).sqrt())
        return fitted


# The steps, each a pure function


def squared_distances(patches: Float[Tensor, "*n v"], centroids: Float[Tensor, "k v"]) -> Float[Tensor, "*n k"]:
    """Return squared Euclidean distances by one matrix product; rounding may leave them a little below 0."""
    lengths = squares(centroids)
    left = torch.cat([patches, squares(patches)[..., None], torch.ones_like(patches[..., :1])], dim=-1)
    right = torch.cat([-2 * centroids, torch.ones_like(lengths)[:, None], lengths[:, None]], dim=1)
    return left @ right.T


def triangle(patches: Float[Tensor, "*n v"], centroids: Float[Tensor, "k v"]) -> Float[Tensor, "*n k"]:
    """Return max(0, mean distance to all centroids - distance to each) (equation 2)."""
    distances = squared_distances(patches, centroids).clamp_(min=0).sqrt_()
    return torch.sub(distances.mean(dim=-1, keepdim=True), distances, out=distances).relu_()


def quadrants(side: int) -> Float[Tensor, "4 n"]:
    """Return as 0 and 1 which of side x side patches lie in each quadrant; of an odd side the first half is larger."""
    half = torch.arange(side) >= (side + 1) // 2
    number = 2 * half[:, None] + half
    return (number.flatten() == torch.arange(4)[:, None]).float()
