"""Does the network need what a map points at? Deletion and insertion (Petsiuk et al. 2018, RISE).

Deletion replaces the patches that a map ranks first, in steps, until none is left; insertion reveals them in the same
order on an image that is wholly replaced. The figure is the area under a score of what the network still, or already,
sees: small for deletion and large for insertion, measured against random orders, as it also depends on the network.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import cv2
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from dinoscope.errors import UserError
from dinoscope.explain.gradcam import Score
from dinoscope.features import Describe

MIN_RANGE = 0.001
"""Smallest fall of the score for which `Curves.scaled` is defined: features are float32, whose cosines are exact to
about a millionth, and a thousandth of the scale must show."""


@dataclass(frozen=True)
class PerturbationConfig:
    """How images are perturbed.

    steps: parts that the patches are cut into; never more than there are patches.
    orders: random orders in the control.
    fill: what replaces a patch: the blurred image, or the image's mean colour.
    blur: standard deviation of the blur as a share of the short side. RISE blurs by 5 px of 224 (0.022); this is more,
        since little blur leaves all but fine textures.
    seed: of the random orders, and of the order among equal patches.
    batch_size: perturbed images per forward.
    """

    steps: int = 20
    orders: int = 3
    fill: Literal["blur", "mean"] = "blur"
    blur: float = 0.1
    seed: int = 0
    batch_size: int = 64

    def __post_init__(self) -> None:
        if min(self.steps, self.orders, self.batch_size) < 1:
            raise UserError(
                "steps, random orders and batch size must be at least 1; "
                f"got {self.steps}, {self.orders} and {self.batch_size}"
            )
        if not 0 < self.blur <= 1:
            raise UserError(f"the blur is a share of the short side above 0 and at most 1, not {self.blur}")


@dataclass(frozen=True)
class Curves:
    """Scores of one image while it is perturbed.

    share: of the patches that are replaced (deletion, random) or revealed (insertion), from 0 to 1.
    random: deletion in random orders. Insertion in a random order is deletion in another one seen backwards, so its
        mean area is the control of both.
    """

    share: Float[Tensor, " steps"]
    deletion: Float[Tensor, " steps"]
    insertion: Float[Tensor, " steps"]
    random: Float[Tensor, "orders steps"]

    @property
    def range(self) -> float:
        """Return how far the score falls from the image to the wholly replaced image."""
        return (self.deletion[0] - self.deletion[-1]).item()

    @property
    def areas(self) -> tuple[float, float, float]:
        """Return the areas under deletion, under insertion, and under the mean of the random orders."""
        curves = (self.deletion, self.insertion, self.random.mean(dim=0))
        deletion, insertion, random = (torch.trapezoid(curve, self.share).item() for curve in curves)
        return deletion, insertion, random

    def scaled(self, fall: float) -> Curves | None:
        """Return the curves with 0 for the wholly replaced image, in units of `fall`, so that networks can be compared.

        fall: the mean `range` of many images; by its own, an image that hardly changes would weigh most. The mean of
            the scaled curves then runs between 1 and 0.

        None if the fall is below `MIN_RANGE`: to this network the two images are the same.
        """
        if fall < MIN_RANGE:
            return None
        deletion, insertion, random = (
            (curve - self.deletion[-1]) / fall for curve in (self.deletion, self.insertion, self.random)
        )
        return replace(self, deletion=deletion, insertion=insertion, random=random)


@torch.no_grad()
def perturbation_curves(
    describe: Describe,
    image: UInt8[Tensor, "c h w"],
    values: Float[Tensor, "rows columns"],
    config: PerturbationConfig = PerturbationConfig(),
    score: Score | None = None,
) -> Curves:
    """Perturb an image in the order of a map. The grid of the map must fill the image.

    describe: from images to features. score: of the features; by default the cosine with the image's own.

    Raises UserError if the map or a feature is not finite.
    """
    if not values.isfinite().all():
        raise UserError("a map that is not finite ranks no patches: the weights of this model are broken")
    order = patch_order(values, config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    orders = torch.stack([order, *(torch.randperm(len(order), generator=generator) for _ in range(config.orders))])
    counts = step_counts(len(order), config.steps)
    deleted = orders.argsort(dim=1)[:, None, :] < counts[:, None]
    revealed = ~deleted[:1]
    # all curves begin and end with the same two images, which are described once
    ends, inner = deleted[0, [0, -1]], torch.cat([deleted, revealed])[:, 1:-1]
    masks = torch.cat([ends, inner.flatten(0, 1)]).unflatten(1, values.shape)
    filling, parts = substitute(image, config), list[Tensor]()
    for part in masks.split(config.batch_size):
        replaced = F.interpolate(part[:, None].float(), image.shape[-2:], mode="nearest-exact").bool()
        parts.append(describe(torch.where(replaced, filling, image)))
    features = torch.cat(parts)
    if not features.isfinite().all():
        raise UserError("features that are not finite are like nothing: the weights of this model are broken")
    if score is None:
        scores = F.cosine_similarity(features.double(), features[0].expand_as(features), dim=-1).cpu()
    else:
        scores = score(features).double().cpu()
    whole, nothing = scores[0].expand(len(inner), 1), scores[1].expand(len(inner), 1)
    first, last = whole.clone(), nothing.clone()
    first[-1], last[-1] = scores[1], scores[0]
    *falling, insertion = torch.cat([first, scores[2:].view(len(inner), -1), last], dim=1)
    return Curves(counts / len(order), falling[0], insertion, torch.stack(falling[1:]))


def patch_order(values: Float[Tensor, "rows columns"], seed: int = 0) -> Int[Tensor, " n"]:
    """Return the patches, row by row, from the highest value down; equal ones in a random order that the seed chooses.

    In reading order instead, a map of many zeros would claim to rank the top of an image above its bottom.
    """
    flat = values.detach().flatten().cpu()
    shuffled = torch.randperm(len(flat), generator=torch.Generator().manual_seed(seed))
    return shuffled[flat[shuffled].sort(descending=True, stable=True).indices]


def step_counts(patches: int, steps: int) -> Int[Tensor, " s"]:
    """Return how many patches are replaced after each step, from 0 to all."""
    steps = min(steps, patches)
    return torch.tensor([round(step * patches / steps) for step in range(steps + 1)])


def substitute(image: UInt8[Tensor, "c h w"], config: PerturbationConfig) -> UInt8[Tensor, "c h w"]:
    """Return what replaces an image's patches: itself, blurred; or its mean colour throughout."""
    if config.fill == "mean":
        return image.float().mean(dim=(1, 2), keepdim=True).round().to(torch.uint8).expand_as(image)
    pixels = image.permute(1, 2, 0).cpu().numpy()
    sigma = config.blur * min(pixels.shape[:2])
    blurred = cv2.GaussianBlur(pixels, (0, 0), sigma).reshape(pixels.shape)  # OpenCV drops the axis of one channel
    return torch.from_numpy(blurred).permute(2, 0, 1)
