"""Features of patches: principal components as colours and foreground, and cosines with a chosen patch.

Components as in DINOv2 (Oquab et al. 2023, Fig. 1), of one image, or of several jointly, so that like parts get like
colours. They have no sign of their own: the first one points away from the border of the images, since photographs have
their object inside more often than at the edge, and the others to where their largest loading is positive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from dinoscope.errors import UserError
from dinoscope.models.network import Backbone, require_patches

COLORS = 3
LOW, HIGH = 0.02, 0.98
"""Quantiles of a component that become 0 and 1, so that a few odd patches do not take the colour of all others."""
_RELATIVE_ZERO = 1e-10  # of the largest variance, in float64: below, a component is rounding


@dataclass(frozen=True)
class Components:
    """Principal components of a set of features.

    mean: of the features. axes: one unit vector for each component; zeros if the features vary in fewer ways.
    share: of the variance, for each component.
    """

    mean: Float[Tensor, " d"]
    axes: Float[Tensor, "k d"]
    share: Float[Tensor, " k"]


@dataclass(frozen=True)
class PatchColors:
    """The colours of one image's patches, 0 to 1.

    foreground: which patches are coloured (all, unless the foreground was requested).
    share: of the variance of all coloured patches that the three components hold.
    """

    colors: Float[Tensor, "rows columns 3"]
    foreground: Bool[Tensor, "rows columns"]
    share: float


def stretched(maps: Sequence[Float[Tensor, "_ _"]]) -> list[Float[Tensor, "_ _"]]:
    """Scale values so that the lowest of all maps is 0 and the highest 1; zeros if they are all equal."""
    low, high = min(each.min() for each in maps), max(each.max() for each in maps)
    return [(each - low) / (high - low) if high > low else torch.zeros_like(each) for each in maps]


@torch.no_grad()
def patch_features(backbone: Backbone, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b rows columns d"]:
    """Return features of the patches after the last block (or stage); `images` are normalised.

    Raises UserError for a network without patches.
    """
    require_patches(backbone, "a picture of patch features")
    tokens = backbone(images)
    return tokens.patches.unflatten(1, tokens.grid)


def principal_components(features: Float[Tensor, "n d"], count: int = COLORS) -> Components:
    """Return the `count` directions of largest variance, largest first, in float64; the largest loading is positive."""
    values = features.double()
    mean = values.mean(dim=0)
    centred = values - mean
    n, d = centred.shape
    # the smaller of the two products has the same eigenvalues: 225 patches of a ResNet-50 need no 2048 x 2048
    variances, vectors = torch.linalg.eigh(centred.T @ centred if d <= n else centred @ centred.T)
    variances, vectors = variances.flip(0)[:count], vectors.flip(1)[:, :count]
    axes = F.normalize(vectors.T if d <= n else vectors.T @ centred, dim=1)
    total = centred.square().sum()
    real = variances > _RELATIVE_ZERO * total
    axes, variances = axes * real[:, None], variances * real
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    axes = axes * torch.where(largest < 0, -1.0, 1.0)
    missing = count - len(axes)
    share = variances / total.clamp_min(torch.finfo(torch.float64).tiny)
    return Components(mean, F.pad(axes, (0, 0, 0, missing)), F.pad(share, (0, missing)))


def scores(components: Components, features: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch k"]:
    """Return the coordinates of features along the components, in float64."""
    return (features.double() - components.mean) @ components.axes.T


def away_from_border(components: Components, images: Sequence[Float[Tensor, "_ _ d"]]) -> Components:
    """Flip the first component if its mean over the outermost patches of the images is above that over all of them."""
    first = [scores(components, image)[..., 0] for image in images]
    border = torch.cat([values[border_patches(values.shape[0], values.shape[1])] for values in first])
    if border.mean() <= torch.cat([values.flatten() for values in first]).mean():
        return components
    return replace(components, axes=torch.cat([-components.axes[:1], components.axes[1:]]))


def border_patches(rows: int, columns: int) -> Bool[Tensor, "{rows} {columns}"]:
    """Return the outermost patches of a grid."""
    border = torch.ones(rows, columns, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    return border


def otsu_threshold(values: Float[Tensor, " n"]) -> float:
    """Return the value that separates two groups of the largest variance between them (Otsu 1979, Eq. 18).

    It lies midway between two neighbouring values; of equal values it is that value.
    """
    ranked = values.double().sort().values
    n, total = len(ranked), ranked.sum()
    if n < 2:
        return ranked[0].item()
    count = torch.arange(1, n, dtype=torch.float64, device=ranked.device)
    below = ranked.cumsum(0)[:-1]
    between = count * (n - count) * (below / count - (total - below) / (n - count)).square()
    # of equal values some would fall on either side: no split there
    between = between.where(ranked[1:] > ranked[:-1], 0.0)
    best = int(between.argmax())
    return ((ranked[best] + ranked[best + 1]) / 2).item() if between[best] > 0 else ranked[0].item()


@dataclass(frozen=True)
class Foreground:
    """Patches whose coordinate along the first component is above a threshold. component: that one alone."""

    component: Components
    threshold: float

    def mask(self, image: Float[Tensor, "rows columns d"]) -> Bool[Tensor, "rows columns"]:
        """Return which patches of an image are foreground."""
        return scores(self.component, image)[..., 0] > self.threshold


def joint_foreground(images: Sequence[Float[Tensor, "_ _ d"]]) -> Foreground:
    """Return the foreground of images: above the Otsu threshold of their first joint component.

    If all patches are equal, no patch is foreground.
    """
    joined = torch.cat([image.flatten(0, 1) for image in images])
    component = away_from_border(principal_components(joined, count=1), images)
    first = [scores(component, image)[..., 0] for image in images]
    return Foreground(component, otsu_threshold(torch.cat([values.flatten() for values in first])))


def foreground_masks(images: Sequence[Float[Tensor, "_ _ d"]]) -> list[Bool[Tensor, "_ _"]]:
    """Return the patches [rows, columns] of each image that are `joint_foreground`."""
    foreground = joint_foreground(images)
    return [foreground.mask(image) for image in images]


@dataclass(frozen=True)
class ColorSpace:
    """Which colour a patch has: made of some images, and the same for any others.

    components: the three that become red, green and blue; None if no patch was foreground, and all are black.
    low, high: of each component, become 0 and 1. foreground: what is coloured; None for all patches.
    """

    components: Components | None
    low: Float[Tensor, " 3"]
    high: Float[Tensor, " 3"]
    foreground: Foreground | None = None

    def colors(self, image: Float[Tensor, "rows columns d"]) -> PatchColors:
        """Return the colours of an image's patches."""
        everywhere = torch.ones_like(image[..., 0], dtype=torch.bool)
        mask = everywhere if self.foreground is None else self.foreground.mask(image)
        if self.components is None:
            return PatchColors(torch.zeros(*mask.shape, COLORS), mask, 0.0)
        span = self.high - self.low
        flat = span <= 0
        scaled = ((scores(self.components, image) - self.low) / span.where(~flat, 1.0)).clamp(0, 1)
        share = self.components.share.sum().item()
        return PatchColors(scaled.where(~flat, 0.5).float() * mask[..., None], mask, share)


def color_space(images: Sequence[Float[Tensor, "_ _ d"]], *, foreground: bool = False) -> ColorSpace:
    """Return three components of the patches of all `images` jointly, as red, green and blue.

    foreground: analyse again, and colour, only what `joint_foreground` finds; the rest is black. Each component's 2%
    and 98% quantiles over the coloured patches become 0 and 1; one that does not vary is 0.5 throughout.
    """
    found = joint_foreground(images) if foreground else None
    chosen = torch.cat([image.flatten(0, 1) if found is None else image[found.mask(image)] for image in images])
    if not len(chosen):
        return ColorSpace(None, torch.zeros(COLORS), torch.zeros(COLORS), found)
    components = principal_components(chosen)
    if not foreground:
        components = away_from_border(components, images)
    # the nearest value at or inside of each quantile
    ranked = scores(components, chosen).sort(dim=0).values
    low, high = (ranked[round(share * (len(ranked) - 1))] for share in (LOW, HIGH))
    return ColorSpace(components, low, high, found)


def patch_colors(images: Sequence[Float[Tensor, "_ _ d"]], *, foreground: bool = False) -> list[PatchColors]:
    """Return the colours of the patches of `images` in their own joint `color_space`.

    Give one image for colours of its own.
    """
    space = color_space(images, foreground=foreground)
    return [space.colors(image) for image in images]


def patch_at(point: tuple[int, int], size: tuple[int, int], grid: tuple[int, int]) -> tuple[int, int]:
    """Return the patch (row, column) that holds the centre of a pixel.

    point: (x, y) of the original image, from (0, 0) at the upper left.
    size: (height, width) of the original image. grid: (rows, columns).

    Raises UserError for a point outside of the image.
    """
    (x, y), (height, width), (rows, columns) = point, size, grid
    if not (0 <= x < width and 0 <= y < height):
        raise UserError(
            f"the point {x},{y} lies outside of the image, which is {width} x {height} px: "
            f"x is 0 to {width - 1}, y is 0 to {height - 1}"
        )
    # whole numbers, so that no rounding decides on which side of an edge a centre lies
    return (2 * y + 1) * rows // (2 * height), (2 * x + 1) * columns // (2 * width)


def patch_box(
    patch: tuple[int, int], size: tuple[int, int], grid: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Return the edges (left, top, right, bottom) of a patch (row, column), in pixels of the original image."""
    (row, column), (height, width), (rows, columns) = patch, size, grid
    return column * width / columns, row * height / rows, (column + 1) * width / columns, (row + 1) * height / rows


def similarity_maps(
    queries: Float[Tensor, "q d"], patches: Float[Tensor, "rows columns d"]
) -> Float[Tensor, "q rows columns"]:
    """Return the cosine of each query's features with each patch's, -1 to 1; 0 for features that are all 0."""
    return (F.normalize(patches, dim=-1) @ F.normalize(queries, dim=-1).T).permute(2, 0, 1)
