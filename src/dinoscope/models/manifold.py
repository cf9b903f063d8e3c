"""The sparse manifold transform: a description of images in closed form, without a network (Chen et al. 2022).

Patches of 6 px are contrast-normalised, whitened and scaled to length 1. The code of a patch is 1 for every atom of a
dictionary of random patches whose cosine with it reaches a threshold, else 0. An embedding of the atoms is chosen such
that patches of one image are close together: with V = E[code code'] over patches and M = E[mean code mean code'] over
images, its columns are the eigenvectors of M p = lambda V p with the largest lambda, which minimises the distance of
patches to the mean of their image while V becomes the identity. The first 16 are left out.
A patch is the sum of its atoms' embeddings, scaled to length 1; an image, their means over each of 4 x 4 fields, scaled
to length 1, less the mean over training images. Labels are never used.

Source: Y. Chen, Z. Yun, Y. Ma, B. Olshausen and Y. LeCun 2022, Minimalistic Unsupervised Representation Learning with
the Sparse Manifold Transform (arXiv 2209.15261). Deviations are listed in docs/baselines.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dinoscope.kmeans import rows_at_a_time
from dinoscope.models.whitened import (
    PatchBaseline,
    PatchSettings,
    Whitening,
    normalize_contrast,
    random_patches,
)

MANIFOLD = "manifold"
"""The name of the baseline."""

RIDGE = 1e-3
"""Share of the mean of V's diagonal that is added to it, so that atoms which hardly ever respond stay small."""

_IMAGES = 32  # images whose codes are held at the same time
_CENTRED_ON = 2_000  # about so many training images give the mean feature


@dataclass(frozen=True)
class ManifoldSettings(PatchSettings):
    """What decides the transform besides the images.

    stride: between the patches of an image that is described. atoms: of the dictionary. dim: of a patch's embedding.
    skipped: eigenvectors with the largest eigenvalues that are left out before these.
    threshold: cosine from which an atom responds. fields: in each row and column of the grid that patches are averaged
    over.
    """

    patches: int = 100_000
    images: int = 50_000
    whitening: float = 0.4
    stride: int = 2
    atoms: int = 6144
    skipped: int = 16
    dim: int = 384
    threshold: float = 0.3
    fields: int = 4

    @property
    def places(self) -> int:
        """Return the number of described patches in a row of an image."""
        return (self.size - self.patch) // self.stride + 1


class Manifold(Whitening):
    """Whitening, atoms [k, v] of length 1, their embedding [k, d], and the mean feature [fields * fields * d].

    All zero until it is fitted.
    """

    def __init__(self, settings: ManifoldSettings) -> None:
        super().__init__(settings.patch)
        self.atoms = nn.Parameter(torch.zeros(settings.atoms, 3 * settings.patch**2), requires_grad=False)
        self.embedding = nn.Parameter(torch.zeros(settings.atoms, settings.dim), requires_grad=False)
        self.mean = nn.Parameter(torch.zeros(settings.fields**2 * settings.dim), requires_grad=False)

    def directions(self, patches: Float[Tensor, "*n v"]) -> Float[Tensor, "*n v"]:
        """Normalise, whiten and scale to length 1."""
        return F.normalize(self.whiten(normalize_contrast(patches)), dim=-1)


class ManifoldBackbone(PatchBaseline):
    """The transform as a backbone: `Tokens.cls` is the grid of mean embeddings [b, fields * fields * dim]."""

    probe_title = "mean embeddings of 4 x 4 fields"
    net: Manifold
    settings: ManifoldSettings

    def __init__(self, settings: ManifoldSettings | None = None) -> None:
        self.settings = own = settings or ManifoldSettings()
        super().__init__(MANIFOLD, own, own.fields**2 * own.dim, Manifold(own))

    @property
    def made_of(self) -> str:
        """What a protocol tells of it."""
        own = self.settings
        return (
            f"{own.atoms} whitened {own.patch} px patches at {own.size} px as atoms, embedded in {own.dim} dimensions "
            f"by {int(self.net.images)} training images without labels; means over {own.fields} x {own.fields} fields"
        )

    def describe(self, images: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b d"]:
        return self._grids(images, self.net) - self.net.mean

    def _grids(self, images: Float[Tensor, "b 3 s s"], net: Manifold) -> Float[Tensor, "b d"]:
        return torch.cat([self._grid(part, net) for part in images.split(_IMAGES)])

    def _grid(self, images: Float[Tensor, "b 3 s s"], net: Manifold) -> Float[Tensor, "b d"]:
        own, directions = self.settings, self._directions(images, net)
        row, atom = responses(directions, net.atoms, own.threshold)
        patches = embedded(row, atom, net.embedding, len(directions))
        cells = patches.view(len(images), own.places, own.places, own.dim).permute(0, 3, 1, 2)
        fields = F.normalize(F.adaptive_avg_pool2d(cells, own.fields), dim=1)
        return fields.permute(0, 2, 3, 1).flatten(1)

    def _directions(self, images: Float[Tensor, "b 3 s s"], net: Manifold) -> Float[Tensor, "p v"]:
        patches = F.unfold(images, self.settings.patch, stride=self.settings.stride)
        return net.directions(patches.transpose(1, 2).flatten(0, 1))

    def learned(self, images: Float[Tensor, "n 3 s s"], progress: Callable[[int, int], None]) -> Manifold:
        own, fitted = self.settings, Manifold(self.settings).to(images.device)
        drawn = normalize_contrast(random_patches(images, own, own.atoms, own.seed))
        fitted.fit_whitening(drawn, own.whitening)
        fitted.atoms.copy_(fitted.directions(random_patches(images, own, own.atoms, own.seed + 1))[: own.atoms])
        patches = fitted.directions(random_patches(images, own, own.atoms, own.seed + 2))
        alone = second_moment(patches, fitted.atoms, own.threshold)
        together = torch.zeros_like(alone)
        done = 0
        for part in images.split(_IMAGES):
            means = mean_codes(self._directions(part, fitted), fitted.atoms, own.threshold, own.places**2)
            together.addmm_(means.T, means)
            done += len(part)
            progress(done, len(images))
        fitted.embedding.copy_(spectral_embedding(together / len(images), alone, own.skipped, own.dim))
        sample = images[:: -(-len(images) // _CENTRED_ON)]
        fitted.mean.copy_(self._grids(sample, fitted).mean(dim=0))
        return fitted


# The steps, each a pure function


def responses(
    directions: Float[Tensor, "p v"], atoms: Float[Tensor, "k v"], threshold: float
) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
    """Return (patch, atom) of every pair whose cosine reaches the threshold, in the order of the patches."""
    at_a_time = rows_at_a_time(directions.device, len(atoms))
    found = [(part @ atoms.T >= threshold).nonzero().T for part in directions.split(at_a_time)]
    row = torch.cat([rows + number * at_a_time for number, (rows, _) in enumerate(found)])
    return row, torch.cat([atom for _, atom in found])


def second_moment(
    directions: Float[Tensor, "p v"], atoms: Float[Tensor, "k v"], threshold: float
) -> Float[Tensor, "k k"]:
    """Return V, the mean of code code' over these patches."""
    moment = atoms.new_zeros(len(atoms), len(atoms))
    for part in directions.split(rows_at_a_time(directions.device, len(atoms))):
        codes = (part @ atoms.T).ge_(threshold)
        moment.addmm_(codes.T, codes)
    return moment / len(directions)


def mean_codes(
    directions: Float[Tensor, "p v"], atoms: Float[Tensor, "k v"], threshold: float, patches: int
) -> Float[Tensor, "n k"]:
    """Return the mean code of each image, of so many patches."""
    return torch.stack([(image @ atoms.T).ge_(threshold).mean(dim=0) for image in directions.split(patches)])


def spectral_embedding(
    together: Float[Tensor, "k k"], alone: Float[Tensor, "k k"], skipped: int, dim: int
) -> Float[Tensor, "k d"]:
    """Return the eigenvectors p of M p = lambda V p with the largest lambda, p' V p = 1, largest first.

    together: M. alone: V, to which `RIDGE` is added. skipped: of the largest, left out.
    """
    moment = alone.double()
    moment.diagonal().add_(RIDGE * moment.diagonal().mean())
    root = torch.linalg.cholesky(moment)  # V = root root', so that root' p are orthonormal
    half = torch.linalg.solve_triangular(root, together.double(), upper=False)
    whole = torch.linalg.solve_triangular(root, half.T, upper=False)
    _, vectors = torch.linalg.eigh((whole + whole.T) / 2)
    largest = vectors.flip(1)[:, skipped : skipped + dim]
    return torch.linalg.solve_triangular(root.T, largest, upper=True).to(alone)


def embedded(
    row: Int[Tensor, " m"], atom: Int[Tensor, " m"], embedding: Float[Tensor, "k d"], patches: int
) -> Float[Tensor, "p d"]:
    """Return the sum of the embeddings of each patch's atoms, scaled to length 1; 0 for a patch without any."""
    counts = row.bincount(minlength=patches)
    sums = F.embedding_bag(atom, embedding, counts.cumsum(0) - counts, mode="sum")
    return F.normalize(sums, dim=-1)
