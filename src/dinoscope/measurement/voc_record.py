"""What is said of Jaccard figures: intervals, differences of models, figures by class, and their protocol."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, islice

import torch

from dinoscope import checkpoint
from dinoscope.evaluation.results import new_result
from dinoscope.evaluation.statistics import Estimate, estimate_metric, interval_kind, mean_intervals
from dinoscope.measurement.voc import ModelScores, VocResult
from dinoscope.measurement.voc_images import count_faults
from dinoscope.types import Items, Result

PUBLISHED, STRICT_MEAN, STRICT_HEAD = "published", "strict_mean", "strict_head"
FIGURES = {
    PUBLISHED: "published: best head by the truth",
    STRICT_MEAN: "strict: mean over the heads",
    STRICT_HEAD: "strict: one head, chosen on other images",
}
"""name -> in words. Names as in `ModelScores.figures`."""


@dataclass(frozen=True)
class PublishedSetting:
    """The published protocol in words, and its size in pixels."""

    square: int
    images: str = "resized to a square (bilinear, antialiased), masks by the nearest pixel"
    head: str = "the best of each class of each image, chosen by the truth that it is measured by"
    void: str = "counted as not belonging to any class"
    mean: str = "over the classes of an image, then over the images"


@dataclass(frozen=True)
class StrictSetting:
    """The strict protocol in words, and its size in pixels."""

    short_side: int
    halves_seed: int
    images: str = "aspect kept (bicubic, antialiased), sides rounded to whole patches, masks at their own size"
    head: str = "none chosen (mean), or one chosen on the other half of the images"
    void: str = "left out"
    mean: str = "one mask against all objects of an image, then over the images"


@dataclass(frozen=True)
class VocProtocol:
    """How figures came about.

    network, fixed_heads, maps: of the model; fixed_heads were chosen at `mass` on the second and the first half.
    limit: the most images that were asked for, or None. left_out: images by reason.
    interval: kind of the intervals; earlier results, which do not say, have the bootstrap's of any number of images.
    """

    weights: str
    weights_hash: str
    network: str
    maps: int
    fixed_heads: tuple[int, ...] | None
    data: str
    data_name: str
    limit: int | None
    images: int
    left_out: dict[str, int]
    mass: float
    map: str
    block: int
    precision: str
    published: PublishedSetting | None
    strict: StrictSetting | None
    resamples: int
    confidence: float
    bootstrap_seed: int
    interval: str = "bootstrap"


@dataclass(frozen=True)
class Difference:
    """How much larger a figure of `second` is than that of `first`: mean and interval over the same images, paired."""

    first: str
    second: str
    figure: str
    interval: Estimate


@dataclass(frozen=True)
class VocSummary:
    """A result with its intervals, drawn once: all models and pairs share the resamples of the images.

    intervals: for each model, figure -> the mean and its interval for each mass, ascending.
    differences: the later of two models less the earlier, of every pair, at the chosen mass.
    """

    result: VocResult
    intervals: tuple[dict[str, list[Estimate]], ...]
    differences: tuple[Difference, ...]


def summarise(result: VocResult) -> VocSummary:
    """Draw the intervals."""
    at, models = result.config.at, result.models
    pairs = [(a, b, name) for a, b in combinations(models, 2) for name in a.figures]
    columns = [values for each in models for values in each.figures.values()]
    # the difference of two means over the same images is the mean of each image's difference: paired
    columns += [(b.figures[name] - a.figures[name])[:, at : at + 1] for a, b, name in pairs]
    masses = len(result.config.all_masses)
    limits = [(0.0, 1.0)] * (sum(len(each.figures) for each in models) * masses) + [(-1.0, 1.0)] * len(pairs)
    found = iter(mean_intervals(torch.cat(columns, dim=1), result.config.bootstrap, limits))
    intervals = tuple({name: list(islice(found, masses)) for name in each.figures} for each in models)
    differences = tuple(Difference(a.model.label, b.model.label, name, next(found)) for a, b, name in pairs)
    return VocSummary(result, intervals, differences)


def measurements(summary: VocSummary, limit: int | None = None) -> list[Result]:
    """Each model's figures at the chosen mass in %, each with its interval, and their protocol."""
    at, mass = summary.result.config.at, {"mass": summary.result.config.mass}
    return [
        new_result(
            "voc",
            _protocol(summary.result, scores, limit),
            [
                estimate_metric(f"voc_jaccard_{name}", each[at], len(summary.result.used), mass)
                for name, each in intervals.items()
            ],
            _items(summary.result, scores),
        )
        for scores, intervals in zip(summary.result.models, summary.intervals, strict=True)
    ]


def _items(result: VocResult, scores: ModelScores) -> Items:
    """Every image at the chosen mass."""
    names = [result.images.names[index] for index in result.used]
    at = result.config.at
    figures = {f"voc_jaccard_{name}": tuple((100 * values[:, at]).tolist()) for name, values in scores.figures.items()}
    return Items(tuple(names), figures)


def _protocol(result: VocResult, scores: ModelScores, limit: int | None) -> VocProtocol:
    config, model = result.config, scores.model
    heads = scores.strict_head
    return VocProtocol(
        weights="random" if model.path is None else str(checkpoint.find_weights(model.path)),
        weights_hash=model.weights_hash,
        network=model.backbone.config.name,
        maps=scores.maps,
        fixed_heads=None if heads is None else tuple(heads.heads[:, config.at].tolist()),
        data=str(result.images.root.resolve()),
        data_name=result.images.name,
        limit=limit,
        images=len(result.used),
        left_out=count_faults(result.faults),
        mass=config.mass,
        map=config.map,
        block=config.block,
        precision=config.precision,
        published=PublishedSetting(config.square) if "published" in config.protocols else None,
        strict=StrictSetting(config.short_side, config.seed) if "strict" in config.protocols else None,
        resamples=config.bootstrap.resamples,
        confidence=config.bootstrap.confidence,
        bootstrap_seed=config.bootstrap.seed,
        interval=interval_kind(len(result.used)),
    )


@dataclass(frozen=True)
class ClassFigures:
    """Means over the images that show a class, in [0, 1], one for each model. name: the value in the masks.

    published: of this class with its best head. strict_mean: of all objects of the images that show it.
    """

    value: int
    images: int
    published: tuple[float, ...] | None
    strict_mean: tuple[float, ...] | None


def by_class(result: VocResult) -> list[ClassFigures]:
    """Figures of every class that occurs, at the chosen mass."""
    at = result.config.at
    values = sorted({value for classes in result.classes for value in classes})
    found: list[ClassFigures] = []
    for value in values:
        showing = [place for place, classes in enumerate(result.classes) if value in classes]
        published = [
            torch.stack([each.of_classes[i][at, result.classes[i].index(value)] for i in showing]).mean().item()
            for each in result.models
            if each.of_classes
        ]
        strict = [each.strict_mean[showing, at].mean().item() for each in result.models if each.strict_mean is not None]
        found.append(ClassFigures(value, len(showing), tuple(published) or None, tuple(strict) or None))
    return found
