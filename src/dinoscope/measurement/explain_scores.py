"""One map of one image, in numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from jaxtyping import Float
from torch import Tensor

from dinoscope.errors import UserError
from dinoscope.evaluation.jaccard import jaccard
from dinoscope.evaluation.localisation import TOLERANCE, area_share, energy_inside, pointing_chance, pointing_hit
from dinoscope.explain.attention import entropy, map_masks, mask_overlap, pair_agreement
from dinoscope.explain.faithfulness import Curves, PerturbationConfig
from dinoscope.measurement.explain_images import Objects


@dataclass(frozen=True)
class ExplainConfig:
    """How maps are made and measured.

    map: a key of `explain.maps.MAPS`. mass: share of a map that its mask holds.
    size: short side at which the networks see an image, in pixels; None takes the size each stores.
    tolerance: of the pointing game, in pixels of the original image.
    k, temperature: of the vote of a labelled gallery, if there is one.

    Raises UserError where a value is out of range.
    """

    map: str = "attention"
    block: int = -1
    mass: float = 0.6
    size: int | None = None
    tolerance: float = TOLERANCE
    k: int = 20
    temperature: float = 0.07
    perturbation: PerturbationConfig = field(default_factory=PerturbationConfig)

    def __post_init__(self) -> None:
        if not 0 < self.mass <= 1:
            raise UserError(f"the mass that a mask holds is a share above 0 and at most 1, not {self.mass:g}")
        if not self.tolerance >= 0:
            raise UserError(f"the tolerance of the pointing game is 0 px or more, not {self.tolerance}")
        if self.k < 1 or not self.temperature > 0:
            raise UserError(f"k must be at least 1 and the temperature above 0; got {self.k}, {self.temperature}")


@dataclass(frozen=True)
class Figure:
    """What a column of figures is. unit: "%" or "" for a plain number. higher_is_better: in the sense of a Metric.

    limits: the min and the max that it can have.
    """

    text: str
    unit: str = ""
    higher_is_better: bool = True
    limits: tuple[float, float] = (-math.inf, math.inf)


_PERCENT = (0.0, 100.0)

FIGURES: dict[str, Figure] = {
    "jaccard": Figure("Jaccard of the mask and the objects", "%", limits=_PERCENT),
    "pointing": Figure("maximum on an object (pointing game)", "%", limits=_PERCENT),
    "pointing_chance": Figure("the same of a pixel drawn by lot", "%", limits=_PERCENT),
    "energy": Figure("share of the map on objects", "%", limits=_PERCENT),
    "area": Figure("share of the image that is objects", "%", limits=_PERCENT),
    "deletion": Figure("area under deletion", higher_is_better=False),
    "insertion": Figure("area under insertion"),
    "random": Figure("area under either, in random orders"),
    "deletion_gain": Figure("deletion less random", higher_is_better=False),
    "insertion_gain": Figure("insertion less random"),
    "deletion_plain": Figure("area under deletion, score as it is", higher_is_better=False),
    "insertion_plain": Figure("area under insertion, score as it is"),
    "random_plain": Figure("area under either in random orders, score as it is"),
    "range": Figure("fall of the score from the image to the replaced image"),
    "entropy": Figure("entropy of a map, 1 is even; mean over the heads", limits=(0.0, 1.0)),
    "agreement": Figure("agreement of the heads, 1 is alike", limits=(0.0, 1.0)),
    "mask_overlap": Figure("Jaccard of the masks of two heads; mean over the pairs", "%", limits=_PERCENT),
}
"""name -> what it is; the columns of a table of images."""


@dataclass(frozen=True)
class ImageScores:
    """Figures of one image, some of `FIGURES`; what is not defined for it is left out.

    empty: the map is zero throughout.
    """

    name: str
    values: dict[str, float]
    curves: Curves | None = None
    head_entropies: tuple[float, ...] = ()
    empty: bool = False


def localisation(values: Float[Tensor, "rows columns"], objects: Objects, config: ExplainConfig) -> dict[str, float]:
    """How well a map lies on the objects. The truth keeps its own size."""
    truth, valid = objects.truth, objects.valid
    mask = map_masks(values, config.mass)
    return {
        "jaccard": 100 * jaccard(mask, truth, valid),
        "pointing": 100 * pointing_hit(values, truth, valid, config.tolerance),
        "pointing_chance": 100 * pointing_chance(truth, valid, config.tolerance),
        "energy": 100 * energy_inside(values, truth, valid),
        "area": 100 * area_share(truth, valid),
    }


def with_areas(scores: Sequence[ImageScores], *, scale: bool) -> tuple[ImageScores, ...]:
    """Add the areas under the curves of all images of one model.

    scale: in units of the mean fall of the score over these images. Where that is too small (`MIN_RANGE`), only the
        areas before scaling are added.
    """
    return tuple(replace(s, values=s.values | _areas(s.curves, mean_fall(scores) if scale else None)) for s in scores)


def mean_fall(scores: Sequence[ImageScores]) -> float:
    """How far the score falls from an image to the wholly replaced one, on average."""
    falls = [score.curves.range for score in scores if score.curves is not None]
    return sum(falls) / max(1, len(falls))


def _areas(curves: Curves | None, fall: float | None) -> dict[str, float]:
    if curves is None:
        return {}
    plain = dict(zip(("deletion_plain", "insertion_plain", "random_plain"), curves.areas, strict=True))
    shown = curves if fall is None else curves.scaled(fall)
    if shown is None:
        return plain | {"range": curves.range}
    deletion, insertion, random = shown.areas
    gains = {"deletion_gain": deletion - random, "insertion_gain": insertion - random}
    areas = {"deletion": deletion, "insertion": insertion, "random": random}
    return areas | gains | plain | {"range": curves.range}


def heads(maps: Float[Tensor, "heads rows columns"], mass: float) -> dict[str, float]:
    """Entropy, and where there is more than one map, how alike they are."""
    figures = {"entropy": entropy(maps).mean().item()}
    if len(maps) > 1:
        figures["agreement"] = pair_agreement(maps).item()
        figures["mask_overlap"] = 100 * mask_overlap(maps, mass).item()
    return figures
