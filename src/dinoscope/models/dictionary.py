"""A baseline without a network: a dictionary of whitened patches, learned by k-means (Coates, Lee and Ng 2011).

Images of 32 px are cut into all patches of 6 px. Each patch is contrast-normalised, ZCA-whitened, and described by how
much closer than average it lies to each centroid ("triangle" encoding); the sums over the four quadrants of the image
are its feature. Patches, whitening and centroids come from training images; labels are never used.

Sources: A. Coates, H. Lee and A. Y. Ng 2011, An Analysis of Single-Layer Networks in Unsupervised Feature Learning
(preprocessing, equation 2, pooling: section 3); A. Coates and A. Y. Ng 2011, The Importance of Encoding Versus Training
with Sparse Coding and Vector Quantization. The three constants below are not in the papers; they are those of the
authors' public demo (kmeans_demo.m).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dinoscope.models.network import Backbone, BackboneConfig, Fit
from dinoscope.types import Tokens

PATCHES = "patches"
"""The name of the baseline."""

CONTRAST = 10 / 255**2
"""Added to the variance of a patch before it is divided by its root (10 for pixels from 0 to 255)."""
WHITENING = 0.1
"""Added to the eigenvalues of the covariance before the whitening divides by their roots."""
STANDARDIZATION = 0.01
"""Added to the variance of a feature before it is divided by its root."""

_IMAGES = 256  # between two reports of progress
_CPU_BYTES, _GPU_BYTES = 2**25, 2**28  # of distances at a time: on a CPU they stay in the last cache


@dataclass(frozen=True)
class DictionarySettings:
    """What decides the dictionary besides the images.

    size: side in pixels that images are resized to. patch: side of a patch. centroids: of the dictionary.
    patches: drawn at random for the whitening and k-means. iterations: of k-means. images: that patches are drawn from,
    at most, evenly spaced among the training images. seed: of the patches and the first centroids.
    """

    size: int = 32
    patch: int = 6
    centroids: int = 800
    patches: int = 200_000
    iterations: int = 20
    images: int = 5_000
    seed: int = 0

    @property
    def side(self) -> int:
        """Return the number of patches in a row of an image."""
        return self.size - self.patch + 1


class Dictionary(nn.Module):
    """Whitening and centroids: what is learned. All zero until it is fitted.

    offset [v], whitening [v, v]: of contrast-normalised patches of v = 3 * patch * patch values, channels first.
    centroids [k, v]: of whitened patches.
    mean, deviation [4 * k]: of the pooled features of the images that it was fitted to.
    images: how many those were; 0 before.
    """

    images: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, settings: DictionarySettings) -> None:
        super().__init__()
        values, k = 3 * settings.patch**2, settings.centroids
        self.offset = nn.Parameter(torch.zeros(values), requires_grad=False)
        self.whitening = nn.Parameter(torch.zeros(values, values), requires_grad=False)
        self.centroids = nn.Parameter(torch.zeros(k, values), requires_grad=False)
        self.register_buffer("mean", torch.zeros(4 * k))
        self.register_buffer("deviation", torch.ones(4 * k))
        self.register_buffer("images", torch.zeros((), dtype=torch.int64))

    def whiten(self, patches: Float[Tensor, "*n v"]) -> Float[Tensor, "*n v"]:
        """Whiten contrast-normalised patches."""
        return (patches - self.offset) @ self.whitening


class DictionaryBackbone(Backbone):
    """The dictionary as a backbone: `Tokens.cls` is the pooled feature [b, 4 * centroids], standardised.

    It is computed in float32 whatever the precision. Images of another size are resized to `settings.size`.
    """

    has_patches = False
    probe_title = "sums over quadrants"
    net: Dictionary

    def __init__(self, settings: DictionarySettings | None = None) -> None:
        self.settings = settings or DictionarySettings()
        config = BackboneConfig(PATCHES, self.settings.size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        super().__init__(config, 4 * self.settings.centroids, 1)
        self.signature = repr(self.settings)
        self.net = Dictionary(self.settings)

    @property
    def fit(self) -> Fit | None:
        """Capability: see `models.network.Fit`. None once it is fitted."""
        return None if self.net.images else Fit(self.settings.images, self._fit)

    @property
    def made_of(self) -> str:
        """What a protocol tells of it."""
        own = self.settings
        return (
            f"{own.centroids} centroids of whitened {own.patch} px patches at {own.size} px, from "
            f"{int(self.net.images)} training images without labels; sums over quadrants, standardised"
        )

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Tokens:
        with torch.autocast(images.device.type, enabled=False):
            pooled = self._pooled(self._resized(images.float()), self.net)
            feature = (pooled - self.net.mean) / self.net.deviation
        return Tokens(feature, feature[:, None], (1, 1))

    def _resized(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 s s"]:
        size = (self.settings.size, self.settings.size)
        if images.shape[-2:] == size:
            return images
        return F.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)

    def _pooled(self, images: Float[Tensor, "b 3 s s"], net: Dictionary) -> Float[Tensor, "b f"]:
        own, weights = self.settings, quadrants(self.settings.side).to(images.device)
        at_a_time = max(1, _room(images.device) // (4 * own.side**2 * own.centroids))
        parts: list[Tensor] = []
        for part in images.split(at_a_time):
            patches = normalize_contrast(F.unfold(part, own.patch).transpose(1, 2))
            parts.append(weights @ triangle(net.whiten(patches), net.centroids))
        return torch.cat(parts).flatten(1)

    @torch.no_grad()
    def _fit(self, batches: Iterable[Tensor], progress: Callable[[int, int], None]) -> dict[str, Tensor]:
        images = torch.cat([self._resized(batch.float() / 255) for batch in batches])
        own, fitted = self.settings, Dictionary(self.settings).to(images.device)
        total = own.iterations + len(images)
        patches = normalize_contrast(random_patches(images, own))
        fitted.offset.copy_(patches.mean(dim=0))
        fitted.whitening.copy_(zca(patches))
        patches = fitted.whiten(patches)
        fitted.centroids.copy_(kmeans(patches, own.centroids, own.iterations, lambda done: progress(done, total)))
        features: list[Tensor] = []
        for part in images.split(_IMAGES):
            features.append(self._pooled(part, fitted))
            progress(own.iterations + sum(map(len, features)), total)
        pooled = torch.cat(features)
        fitted.mean.copy_(pooled.mean(dim=0))
        fitted.deviation.copy_((pooled.var(dim=0, correction=0) + STANDARDIZATION).sqrt())
        fitted.images.fill_(len(images))
        return {f"net.{name}": tensor.cpu() for name, tensor in fitted.state_dict().items()}


# The steps, each a pure function


def normalize_contrast(patches: Float[Tensor, "*n v"]) -> Float[Tensor, "*n v"]:
    """Return patches less their mean, over the root of their variance and `CONTRAST` (section 3.2.1)."""
    centred = patches - patches.mean(dim=-1, keepdim=True)
    variance = squares(centred)[..., None] / (patches.shape[-1] - 1)  # torch.var takes ten times as long
    return centred * (variance + CONTRAST).rsqrt()


def random_patches(images: Float[Tensor, "n 3 s s"], settings: DictionarySettings) -> Float[Tensor, "p v"]:
    """Return `settings.patches` patches from random places of random images, but no more than there are places."""
    side, count = settings.side, min(settings.patches, len(images) * settings.side**2)
    count = max(count, settings.centroids)
    generator = torch.Generator().manual_seed(settings.seed)
    place, row, column = (
        torch.randint(limit, (count, 1, 1, 1), generator=generator) for limit in (len(images), side, side)
    )
    channel = torch.arange(3)[:, None, None]
    inside = torch.arange(settings.patch)
    return images[place, channel, row + inside[:, None], column + inside].flatten(1)


def zca(patches: Float[Tensor, "p v"]) -> Float[Tensor, "v v"]:
    """Return V (D + `WHITENING`)^(-1/2) V', where V D V' is the covariance of the patches (section 3.2.2)."""
    values, vectors = torch.linalg.eigh(torch.cov(patches.double().T))
    return (vectors * (values.clamp(min=0) + WHITENING).rsqrt() @ vectors.T).float()


def squares(vectors: Float[Tensor, "*n v"]) -> Float[Tensor, "*n"]:
    """Return the squared length of each vector."""
    return vectors.square().sum(dim=-1)


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


def kmeans(
    patches: Float[Tensor, "p v"], centroids: int, iterations: int, progress: Callable[[int], None] = lambda _: None
) -> Float[Tensor, "k v"]:
    """Return centroids after so many of Lloyd's iterations from the first patches; one without any patch stays.

    patches: in random order. Sums are made in the order of the patches, so the result is the same every time.
    """
    means = patches[:centroids].clone()
    for iteration in range(iterations):
        nearest = nearest_centroids(patches, means)
        counts = nearest.bincount(minlength=centroids)
        order, starts = nearest.argsort(stable=True), counts.cumsum(0) - counts
        sums = F.embedding_bag(order, patches, starts, mode="sum")
        means = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], means)
        progress(iteration + 1)
    return means


def nearest_centroids(patches: Float[Tensor, "p v"], centroids: Float[Tensor, "k v"]) -> Int[Tensor, " p"]:
    """Return which centroid is nearest to each patch; of equally near ones, the first."""
    lengths = squares(centroids)
    rows = max(1, _room(patches.device) // (4 * len(centroids)))
    return torch.cat([torch.addmm(lengths, part, centroids.T, alpha=-2).argmin(dim=1) for part in patches.split(rows)])


def _room(device: torch.device) -> int:
    return _CPU_BYTES if device.type == "cpu" else _GPU_BYTES
