"""What baselines of whitened patches share: how patches are cut, contrast-normalised and whitened, and the `fit`.

Sources: A. Coates, H. Lee and A. Y. Ng 2011, An Analysis of Single-Layer Networks in Unsupervised Feature Learning
(section 3.2). `CONTRAST` and the default of `whitening` are not in the paper; they are those of the authors' public
demo (kmeans_demo.m).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dinoscope.models.network import Backbone, BackboneConfig, Fit
from dinoscope.types import Tokens

CONTRAST = 10 / 255**2
"""Added to the variance of a patch before it is divided by its root (10 for pixels from 0 to 255)."""


@dataclass(frozen=True)
class PatchSettings:
    """Which patches a baseline is made from.

    size: side in pixels that images are resized to. patch: side of a patch.
    patches: drawn at random for the whitening and the dictionary.
    images: that patches are drawn from, at most, evenly spaced among the training images.
    whitening: added to the eigenvalues of the covariance before the whitening divides by their roots.
    seed: of the patches and the dictionary.
    """

    size: int = 32
    patch: int = 6
    patches: int = 200_000
    images: int = 5_000
    whitening: float = 0.1
    seed: int = 0

    @property
    def side(self) -> int:
        """Return the number of places of a patch in a row of an image."""
        return self.size - self.patch + 1


class Whitening(nn.Module):
    """The whitening of contrast-normalised patches of v = 3 * patch * patch values, channels first. Zero until fitted.

    offset [v], whitening [v, v]. images: how many it was fitted to; 0 before.
    """

    images: Tensor

    def __init__(self, patch: int) -> None:
        super().__init__()
        values = 3 * patch**2
        self.offset = nn.Parameter(torch.zeros(values), requires_grad=False)
        self.whitening = nn.Parameter(torch.zeros(values, values), requires_grad=False)
        self.register_buffer("images", torch.zeros((), dtype=torch.int64))

    def whiten(self, patches: Float[Tensor, "*n v"]) -> Float[Tensor, "*n v"]:
        """Whiten contrast-normalised patches."""
        return (patches - self.offset) @ self.whitening

    def fit_whitening(self, patches: Float[Tensor, "p v"], floor: float) -> None:
        """Set offset and whitening to those of these contrast-normalised patches; see `zca`."""
        self.offset.copy_(patches.mean(dim=0))
        self.whitening.copy_(zca(patches, floor))


class PatchBaseline(Backbone):
    """A description of whole images by their patches, made from training images: `Tokens.cls` alone.

    It is computed in float32 whatever the precision. Images of another size are resized to `settings.size`.
    """

    has_patches = False
    net: Whitening
    settings: PatchSettings

    def __init__(self, name: str, settings: PatchSettings, dim: int, net: Whitening) -> None:
        config = BackboneConfig(name, settings.size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        super().__init__(config, dim, 1)
        self.signature, self.net = repr(settings), net

    @property
    def fit(self) -> Fit | None:
        """Capability: see `models.network.Fit`. None once it is fitted."""
        return None if self.net.images else Fit(self.settings.images, self._learn)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Tokens:
        with torch.autocast(images.device.type, enabled=False):
            feature = self.describe(self._resized(images.float()))
        return Tokens(feature, feature[:, None], (1, 1))

    @abstractmethod
    def describe(self, images: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b d"]:
        """Return the features of images of `settings.size`, in [0, 1]."""

    @abstractmethod
    def learned(self, images: Float[Tensor, "n 3 s s"], progress: Callable[[int, int], None]) -> Whitening:
        """Return `net`, fitted to these images in [0, 1]."""

    @torch.no_grad()
    def _learn(self, batches: Iterable[Tensor], progress: Callable[[int, int], None]) -> dict[str, Tensor]:
        images = torch.cat([self._resized(batch.float() / 255) for batch in batches])
        fitted = self.learned(images, progress)
        fitted.images.fill_(len(images))
        return {f"net.{name}": tensor.cpu() for name, tensor in fitted.state_dict().items()}

    def _resized(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 s s"]:
        size = (self.settings.size, self.settings.size)
        if images.shape[-2:] == size:
            return images
        return F.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)


# The steps, each a pure function


def normalize_contrast(patches: Float[Tensor, "*n v"]) -> Float[Tensor, "*n v"]:
    """Return patches less their mean, over the root of their variance and `CONTRAST` (section 3.2.1)."""
    centred = patches - patches.mean(dim=-1, keepdim=True)
    variance = squares(centred)[..., None] / (patches.shape[-1] - 1)  # torch.var takes ten times as long
    return centred * (variance + CONTRAST).rsqrt()


def random_patches(
    images: Float[Tensor, "n 3 s s"], settings: PatchSettings, fewest: int, seed: int
) -> Float[Tensor, "p v"]:
    """Return `settings.patches` patches from random places of random images.

    No more than there are places, but at least `fewest`.
    """
    side, count = settings.side, min(settings.patches, len(images) * settings.side**2)
    count = max(count, fewest)
    generator = torch.Generator().manual_seed(seed)
    place, row, column = (
        torch.randint(limit, (count, 1, 1, 1), generator=generator) for limit in (len(images), side, side)
    )
    channel = torch.arange(3)[:, None, None]
    inside = torch.arange(settings.patch)
    return images[place, channel, row + inside[:, None], column + inside].flatten(1)


def zca(patches: Float[Tensor, "p v"], floor: float) -> Float[Tensor, "v v"]:
    """Return V (D + floor)^(-1/2) V', where V D V' is the covariance of the patches (section 3.2.2)."""
    values, vectors = torch.linalg.eigh(torch.cov(patches.double().T))
    return (vectors * (values.clamp(min=0) + floor).rsqrt() @ vectors.T).float()


def squares(vectors: Float[Tensor, "*n v"]) -> Float[Tensor, "*n"]:
    """Return the squared length of each vector."""
    return vectors.square().sum(dim=-1)
