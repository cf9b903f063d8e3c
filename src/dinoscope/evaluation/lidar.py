"""LiDAR: how many directions tell images apart that are changed at random, without labels (Thilak et al. 2023).

Each of n images is a class, and its q augmented views are the members; the image itself is not among them. With B, the
covariance of the means of classes, and W, the mean covariance within classes plus delta I, the eigenvalues of
W^(-1/2) B W^(-1/2) are those of linear discriminant analysis. LiDAR is exp of the entropy of their shares + epsilon
(arXiv 2312.04000, section 4), from 1 to the width of the features. Directions that vary with the augmentation alone
count for RankMe, and not here.

delta 1e-4 and epsilon 1e-8 are those of common implementations; the paper gives none. The paper measures the output of
the head on the method's own augmentations; here it is the feature of the backbone on one kind of augmentation, so
that models can be compared. At most n - 1 directions can be told apart: take more images than features are wide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from dinoscope.data.augment import apply_view
from dinoscope.data.images import UnreadableImage
from dinoscope.data.sources import ImageSource, evenly
from dinoscope.data.views import VIEWS, ViewsConfig, for_channels, sample_view, view_generator
from dinoscope.errors import UserError, lookup
from dinoscope.evaluation.base import Column, Context, Data, Evaluation, made_of, shown_entries, shown_images
from dinoscope.evaluation.results import new_result
from dinoscope.features import describing, evaluation_view
from dinoscope.model_names import Model
from dinoscope.models.network import Backbone
from dinoscope.types import Metric, Result

DELTA = 1e-4
"""Added to the diagonal of the covariance within classes."""
EPSILON = 1e-8
"""Added to the shares of the eigenvalues."""
_AT_ONCE = 64
"""Views per forward."""


@dataclass(frozen=True)
class LiDARConfig:
    """Settings of LiDAR. Raises UserError if a value is out of range."""

    limit: int = 1000
    """At most so many images, evenly spaced; more than the features are wide, if there are as many."""

    views: int = 10
    """Augmented views of each image. The paper advises 50."""

    augmentation: str = "simclr"
    """Preset of views (`dinoscope train --views`) whose global views are drawn."""

    seed: int = 0
    """Seed of the views, which are the same for every model."""

    def __post_init__(self) -> None:
        if self.limit < 2 or self.views < 2:
            raise UserError("--limit and --views must be at least 2: variances have to be measured")
        if self.seed < 0:
            raise UserError(f"the seed must be 0 or more, not {self.seed}")
        lookup("preset of views", self.augmentation, VIEWS)


def lidar(features: Float[Tensor, "n q d"], delta: float = DELTA, epsilon: float = EPSILON) -> float:
    """Return LiDAR of q views of each of n images, in float64; from 1 to min(n - 1, d), and a little more by epsilon.

    Features without any difference between images give 1.

    The eigenvalues of W^(-1/2) B W^(-1/2) are the squared singular values of L^(-1) M with W = L L^T and
    B = M M^T / (n - 1), so that no square root of a matrix is needed.

    Raises ValueError for fewer than two images or views, UserError for features that are not finite.
    """
    n, q, width = features.shape
    if n < 2 or q < 2:
        raise ValueError(f"LiDAR needs at least two images and two views of each, not {n} and {q}")
    if not bool(features.isfinite().all()):
        raise UserError("a feature is NaN or infinite: the model diverged, or its weights are damaged")
    exact = features.double()
    means = exact.mean(dim=1)
    within = (exact - means[:, None]).flatten(0, 1)
    scatter = within.T @ within / (n * q)
    scatter.diagonal().add_(delta)
    between = (means - means.mean(dim=0)).T / (n - 1) ** 0.5  # [d, n]
    factor = cast(Tensor, torch.linalg.cholesky(scatter))  # pyright: ignore[reportUnknownMemberType]
    whitened = cast(Tensor, torch.linalg.solve_triangular(factor, between, upper=False))  # pyright: ignore[reportUnknownMemberType]
    values = cast(Tensor, torch.linalg.svdvals(whitened)).square()[: min(n - 1, width)]  # pyright: ignore[reportUnknownMemberType]
    total = float(values.sum())
    if total <= torch.finfo(torch.float64).eps:
        return 1.0
    shares = values / total + epsilon
    return float(torch.exp(-(shares * shares.log()).sum()))


def views_of(
    image: UInt8[ndarray, "h w c"], config: ViewsConfig, count: int, seed: int, index: int
) -> UInt8[ndarray, "q s s c"]:
    """Return augmented views of an image: a pure function of the arguments, each view of (seed, index, its number).

    All are drawn as global views behind the first, which some presets draw otherwise. index: the image's position in
    its source.
    """
    config = for_channels(replace(config, num_global=count + 1, num_local=0), image.shape[2])
    drawn = (
        sample_view(config, view, image.shape[0], image.shape[1], view_generator(seed, 0, index, view))
        for view in range(1, count + 1)
    )
    return np.stack([apply_view(image, parameters) for parameters in drawn])


# The evaluation


def run(models: Sequence[Model], data: Data, config: LiDARConfig, context: Context) -> Iterator[Result]:
    """Measure views of the val images, or of the training images if there is no val split.

    Entries of the protocol: those of `Context.network` but the crop; images (their folder), count, most (the limit),
    views, augmentation, seed, delta, epsilon.

    Raises UserError if fewer than two images can be read.
    """
    images = shown_images(data)
    for model in models:
        features = _features(model.backbone, images, config, context)
        value = lidar(features)
        yield new_result("lidar", expected(model, (images, None), config, context), [Metric("lidar", value, "")])


def _features(backbone: Backbone, images: ImageSource, config: LiDARConfig, context: Context) -> Float[Tensor, "n q d"]:
    extraction, network = context.extraction(), backbone.config
    views = replace(VIEWS[config.augmentation], global_size=evaluation_view(backbone, extraction).size)
    positions, source = evenly(len(images), config.limit), images.with_slices(network.slices)
    at_once = max(1, (context.batch_size or _AT_ONCE) // config.views)
    features: list[Tensor] = []
    with context.watch("views of images for LiDAR") as progress, describing(backbone, extraction) as describe:
        for start in range(0, len(positions), at_once):
            drawn: list[ndarray] = []
            for index in positions[start : start + at_once]:
                try:
                    image = source.read(index).pixels(network.channels, network.window)
                except UnreadableImage:
                    continue
                drawn.append(views_of(image, views, config.views, config.seed, index))
            if drawn:
                pixels = torch.as_tensor(np.concatenate(drawn)).permute(0, 3, 1, 2)
                features.append(describe(pixels).cpu().view(len(drawn), config.views, -1))
            progress(min(start + at_once, len(positions)), len(positions))
    if sum(map(len, features)) < 2:
        raise UserError(f"{images.name}: LiDAR needs at least two images that can be read")
    return torch.cat(features)


def expected(model: Model, data: Data, config: LiDARConfig, context: Context) -> dict[str, Any]:
    protocol = {name: value for name, value in context.network(model).items() if name != "crop_fraction"}
    protocol |= {"most": config.limit, "views": config.views, "augmentation": config.augmentation}
    protocol |= {"seed": config.seed, "delta": DELTA, "epsilon": EPSILON}
    return protocol | shown_entries(data)


def protocol_line(protocol: Mapping[str, Any]) -> str:
    weights = f", weights {protocol['weights']}" if "weights" in protocol else ""
    weights += made_of(protocol)
    return (
        f"{min(protocol['count'], protocol['most'])} images of {protocol['images']}, {protocol['views']} views of each "
        f"({protocol['augmentation']}, seed {protocol['seed']}), {protocol['image_size']} px, {protocol['precision']}, "
        f"delta {protocol['delta']:g}, epsilon {protocol['epsilon']:g}{weights}"
    )


EVALUATION = Evaluation(
    "lidar",
    "LiDAR",
    "Measure in how many directions a model's features tell changed images apart (LiDAR): no labels are needed.",
    "images",
    LiDARConfig,
    run,
    (Column("lidar", "LiDAR", "lidar", unit="", ranked=False),),
    protocol_line,
    expected,
    lambda data, config, context: shown_images(data),
    uses=("device", "precision", "batch_size", "image_size"),
)
