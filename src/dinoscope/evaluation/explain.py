"""What models' maps are worth, as numbers: on the objects, in the network's own eyes, and head against head.

Does a map lie on the object? The pointing game and the share of energy, each next to its chance level. A map may be
coarser than the truth; it is enlarged to it (bilinear, cell centres aligned). Pixels that are not valid (VOC's void)
count neither for nor against. A map has no class here, so all objects of an image are one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

from dinoscope import checkpoint
from dinoscope.config import to_dict
from dinoscope.data.benchmarks import VOID, MaskedImages, find_masked_images, object_pixels, voc_root
from dinoscope.data.grey_range import Window
from dinoscope.data.images import UnreadableImage, decode
from dinoscope.data.sources import ImageFolder, evenly, find_images, hash_rank, resolve_split
from dinoscope.errors import UserError, lookup
from dinoscope.evaluation import base
from dinoscope.evaluation.base import INTERNAL, Context, Data, Evaluation, Labelled
from dinoscope.evaluation.results import new_result, variant_name
from dinoscope.evaluation.statistics import (
    BootstrapConfig,
    Estimate,
    estimate_metric,
    interval_kind,
    interval_line,
    mean_intervals,
)
from dinoscope.evaluation.voc import jaccard
from dinoscope.explain.attention import entropy, map_masks, mask_overlap, pair_agreement, prepare
from dinoscope.explain.faithfulness import Curves, PerturbationConfig, perturbation_curves
from dinoscope.explain.gradcam import Score, gradcam_maps, log_vote, vote_shares
from dinoscope.explain.maps import MAPS, TITLES, centre_map, map_title
from dinoscope.features import Describe, describing
from dinoscope.model_names import Model
from dinoscope.models.backbone import Backbone
from dinoscope.tables import Column, Line, LineChart, LinePanel, Section, Table, TableRow
from dinoscope.text import ABSENT
from dinoscope.types import Items, Metric, Result

# Maps on objects

TOLERANCE = 15.0
"""Pixels of the original image by which a map's maximum may miss the object (Zhang et al. 2016, the pointing game)."""
_EQUAL = 1e-6
"""Values closer than this, relative to the largest, are equal: enlarging rounds."""


def pointing_hit(
    values: Float[Tensor, "rows columns"],
    truth: Bool[Tensor, "h w"],
    valid: Bool[Tensor, "h w"] | None = None,
    tolerance: float = TOLERANCE,
) -> float:
    """1 if the maximum of the map lies within `tolerance` px of an object, else 0 (Zhang et al. 2016).

    Of several equal maxima, the share that hits: what one of them, drawn by lot, would score on average. So an
    even map, or one of zeros, scores `pointing_chance`.

    Raises UserError if no valid pixel belongs to an object, or the tolerance is negative.
    """
    near, counted = _near(truth, valid, tolerance), _counted(truth, valid)
    enlarged = _enlarged(values, truth).masked_fill(~counted, -torch.inf)
    highest = enlarged.max()
    return near[enlarged >= highest - _EQUAL * highest.abs()].double().mean().item()


def pointing_chance(
    truth: Bool[Tensor, "h w"], valid: Bool[Tensor, "h w"] | None = None, tolerance: float = TOLERANCE
) -> float:
    """What a pixel drawn by lot scores in the pointing game. Raises UserError as `pointing_hit` does."""
    return _near(truth, valid, tolerance)[_counted(truth, valid)].double().mean().item()


def energy_inside(
    values: Float[Tensor, "rows columns"], truth: Bool[Tensor, "h w"], valid: Bool[Tensor, "h w"] | None = None
) -> float:
    """Share of a non-negative map that lies on objects (Wang et al. 2020, Score-CAM).

    A map of zeros prefers nothing and scores as an even one, `area_share`.

    Raises UserError if no valid pixel belongs to an object.
    """
    share, counted = area_share(truth, valid), _counted(truth, valid)
    enlarged = _enlarged(values, truth).double()
    total = enlarged[counted].sum()
    return (enlarged[counted & truth].sum() / total).item() if total > 0 else share


def area_share(truth: Bool[Tensor, "h w"], valid: Bool[Tensor, "h w"] | None = None) -> float:
    """Share of the valid pixels that belong to objects: the energy inside, of an even map.

    Raises UserError if there is none.
    """
    counted = _counted(truth, valid)
    objects = int((truth & counted).sum())
    if not objects:
        raise UserError("no pixel of this image belongs to an object")
    return objects / int(counted.sum())


def _counted(truth: Bool[Tensor, "h w"], valid: Bool[Tensor, "h w"] | None) -> Bool[Tensor, "h w"]:
    return torch.ones_like(truth) if valid is None else valid


def _near(truth: Bool[Tensor, "h w"], valid: Bool[Tensor, "h w"] | None, tolerance: float) -> Bool[Tensor, "h w"]:
    """Pixels at most `tolerance` from an object, by the Euclidean distance of their centres."""
    if not tolerance >= 0:
        raise UserError(f"the tolerance of the pointing game is a distance in pixels, 0 or more; not {tolerance}")
    area_share(truth, valid)  # refuses an image without objects
    elsewhere = (~(truth & _counted(truth, valid))).cpu().numpy().astype(np.uint8)
    distance = cv2.distanceTransform(elsewhere, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return torch.as_tensor(distance <= tolerance, device=truth.device)


def _enlarged(values: Float[Tensor, "rows columns"], truth: Bool[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    return F.interpolate(values[None, None].float(), truth.shape, mode="bilinear")[0, 0]


# Images


@dataclass(frozen=True)
class Objects:
    """Where an image's objects are, all of them as one, and which pixels count."""

    truth: Bool[Tensor, "h w"]
    valid: Bool[Tensor, "h w"]


@dataclass(frozen=True)
class Subjects:
    """Image files with unique names; masked: the same files with their masks, or None."""

    data: Path
    names: tuple[str, ...]
    files: tuple[Path, ...]
    masked: MaskedImages | None = None

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int, window: Window | None = None) -> tuple[UInt8[ndarray, "h w 3"], Objects | None]:
        """The image, and its objects, or None if it has none, or there are no masks.

        window: the model's grey range.
        Raises UserError if either file cannot be read, or the two are not of one size.
        """
        try:
            image = decode(self.files[index], window=window)
        except UnreadableImage as error:
            raise UserError(f"{self.files[index]}: {error}") from error
        if self.masked is None:
            return image, None
        mask = self.masked.ground_truth(index, (image.shape[0], image.shape[1]))
        objects = Objects(torch.as_tensor(object_pixels(mask)), torch.as_tensor(mask != VOID))
        return image, objects if objects.truth.any() else None


def find_subjects(data: Path, masks: Path | None, limit: int | None) -> Subjects:
    """A folder of images, with the masks of the same names below `masks`; or a VOC layout, which holds its own.

    limit: at most so many images, spread evenly.

    Raises UserError if there are no images, no image has a mask though masks were named, or the limit is
    below 1.
    """
    if masks is not None or voc_root(data) is not None:
        masked = find_masked_images(data, masks).subset(limit)
        return Subjects(data, masked.names, masked.images, masked)
    folder = find_images(data, labelled=False)
    chosen = folder.subset(evenly(len(folder), limit))
    return Subjects(data, chosen.paths, tuple(chosen.path(i) for i in range(len(chosen))))


# One map of one image


@dataclass(frozen=True)
class ExplainConfig:
    """How maps are made and measured.

    k, temperature: of the vote of a labelled gallery, if there is one.

    Raises UserError if a value is out of range.
    """

    masks: Path | None = None
    """Folder of masks (PNG) with the names of the images, or a VOC folder: 0 is background, 255 void, all else object;
    if there are only 0 and 255, 255 is the object."""

    gallery: Path | None = None
    """Labelled images, CLASS/...: deletion, insertion and Grad-CAM then follow the k-NN vote for an image's class
    instead of its feature."""

    limit: int | None = None
    """At most so many images, evenly spaced."""

    map: str = "attention"
    """attention (of a ResNet: feature energy), rollout, energy, gradcam, or centre (looks at no image)."""

    block: int = -1
    """Block of the transformer: from 0, or from the end with -1 the last."""

    mass: float = 0.6
    """Share of a map that its mask holds, above 0 and at most 1."""

    size: int | None = None
    """Short side at which a network sees an image, in pixels; by default the one the model stores."""

    tolerance: float = TOLERANCE
    """Pixels of the original by which a map's maximum may miss the object. 15 is published, for photographs of about
    500 px; take less if images are small."""

    k: int = field(default=20, metadata=INTERNAL)
    temperature: float = field(default=0.07, metadata=INTERNAL)

    steps: int = 20
    """Steps of deletion and of insertion."""

    random_orders: int = 3
    """Random orders in the control of deletion and insertion."""

    fill: Literal["blur", "mean"] = "blur"
    """What replaces a patch: the blurred image, or its mean colour."""

    blur: float = 0.1
    """Standard deviation of that blur, as a share of the short side."""

    seed: int = 0
    """Of the random orders."""

    @property
    def perturbation(self) -> PerturbationConfig:
        """Return how images are perturbed."""
        return PerturbationConfig(self.steps, self.random_orders, self.fill, self.blur, self.seed)

    def __post_init__(self) -> None:
        if not 0 < self.mass <= 1:
            raise UserError(f"the mass that a mask holds is a share above 0 and at most 1, not {self.mass:g}")
        if not self.tolerance >= 0:
            raise UserError(f"the tolerance of the pointing game is 0 px or more, not {self.tolerance}")
        if self.k < 1 or not self.temperature > 0:
            raise UserError(f"k must be at least 1 and the temperature above 0; got {self.k}, {self.temperature}")
        _ = self.perturbation  # refuses what is out of range


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
    """Entropy, and if there is more than one map, how alike they are."""
    figures = {"entropy": entropy(maps).mean().item()}
    if len(maps) > 1:
        figures["agreement"] = pair_agreement(maps).item()
        figures["mask_overlap"] = 100 * mask_overlap(maps, mass).item()
    return figures


# Models


CENTRE = "centre bias"


@dataclass(frozen=True)
class ModelResult:
    """A row: what was measured of each image that could be read.

    model: None for the map that looks at nothing. map: what it is, in words.
    """

    label: str
    model: Model | None
    map: str
    scores: tuple[ImageScores, ...]

    def values(self, figure: str) -> Float[Tensor, " n"]:
        """One of `FIGURES` of every image that has it."""
        return torch.tensor([s.values[figure] for s in self.scores if figure in s.values], dtype=torch.float64)

    @cached_property
    def intervals(self) -> dict[str, Estimate]:
        """Mean over the images that have it, with its 95 % interval if there is one, of each of `FIGURES`."""
        found: dict[str, Estimate] = {}
        for names in _defined_together(self.scores):
            rows = [[score.values[name] for name in names] for score in self.scores if names[0] in score.values]
            limits = [FIGURES[name].limits for name in names]
            found |= zip(names, mean_intervals(torch.tensor(rows, dtype=torch.float64), limits=limits), strict=True)
        return found

    @property
    def lift(self) -> float | None:
        """Energy on objects over the objects' area, both averaged first: small objects count by their area."""
        energy, area = self.values("energy"), self.values("area")
        return (energy.mean() / area.mean()).item() if len(energy) else None

    def metrics(self) -> Iterator[Metric]:
        """Yield `explain_FIGURE` with its interval, and `explain_lift`."""
        for name, figure in FIGURES.items():
            if (interval := self.intervals.get(name)) is not None:
                metric = estimate_metric(f"explain_{name}", interval, len(self.values(name)), scale=1)
                yield replace(metric, unit=figure.unit, higher_is_better=figure.higher_is_better)
        if self.lift is not None:
            yield Metric("explain_lift", self.lift, "")


def _defined_together(scores: Sequence[ImageScores]) -> list[list[str]]:
    """Figures that the same images have, so that these images are resampled once for all of them."""
    groups: dict[tuple[bool, ...], list[str]] = {}
    for name in FIGURES:
        having = tuple(name in score.values for score in scores)
        if any(having):
            groups.setdefault(having, []).append(name)
    return list(groups.values())


@dataclass(frozen=True)
class ExplainResult:
    """All rows, the centred blob last if there are masks.

    faults: name of an image that was left out -> what was wrong. without_object: images without an object to lie on.
    """

    config: ExplainConfig
    subjects: Subjects
    gallery: ImageFolder | None
    rows: tuple[ModelResult, ...]
    faults: Mapping[str, str]
    without_object: int


def explain_models(
    models: Sequence[Model],
    subjects: Subjects,
    config: ExplainConfig,
    context: Context,
    gallery: ImageFolder | None = None,
) -> ExplainResult:
    """Measure the maps of every model on every image.

    context: of the features of the gallery; says on which device the networks run, and is watched.
    gallery: labelled images. With them, deletion and insertion follow the k-NN vote for the class that the whole
        image is given, and Grad-CAM points towards that class. Without, both follow the image's own feature.

    Raises UserError if there is no such kind of map, the gallery has no labels, a model has no such block or
    gives no numbers, or no image can be read.
    """
    lookup("kind of map", config.map, MAPS)
    if gallery is not None and gallery.labels is None:
        raise UserError(f"{gallery.root}: a gallery needs one folder per class, CLASS/image.jpg")
    _try_all(models, config, context)
    faults: dict[str, str] = {}
    rows = [_model_result(model, subjects, config, context, gallery, faults) for model in models]
    # an image that one network cannot see at all is left out for all: rows are of the same images
    kept = [tuple(score for score in row.scores if score.name not in faults) for row in rows]
    rows = [replace(row, scores=with_areas(s, scale=gallery is None)) for row, s in zip(rows, kept, strict=True)]
    if not rows or not rows[0].scores:
        raise UserError("no image could be measured: " + "; ".join(list(faults.values())[:3]))
    without_object = 0
    if subjects.masked is not None:
        without_object = sum("energy" not in score.values for score in rows[0].scores)
        rows.append(_centre_result(subjects, config, faults))
    return ExplainResult(config, subjects, gallery, tuple(rows), faults, without_object)


@dataclass(frozen=True)
class _Gallery:
    """Features of labelled images, and the vote among them."""

    features: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]
    classes: int
    config: ExplainConfig

    def shares(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b classes"]:
        return vote_shares(features, self.features, self.labels, self.classes, self.config.k, self.config.temperature)

    def target(self, number: int) -> Score:
        """The vote for a class, for Grad-CAM."""
        members = self.features[self.labels == number]
        return partial(log_vote, members=members, k=self.config.k, temperature=self.config.temperature)


def _try_all(models: Sequence[Model], config: ExplainConfig, context: Context) -> None:
    """Show each model a blank image, so that a misfit is refused before anything is measured. Raises UserError."""
    for model in models:
        backbone = model.backbone.to(context.device or model.backbone.mean.device)
        name, patch = backbone.config.name, backbone.patch_size
        if config.size is not None and config.size < patch:
            raise UserError(f"--size must be at least one patch of {name}, {patch} px; not {config.size}")
        blank = torch.zeros(3, patch, patch, dtype=torch.uint8)
        with describing(backbone, context.extraction()) as describe:
            _Measuring(backbone, config, describe, None, model.label).maps(blank)
            _require_finite(describe(blank[None]), f"{model.label}: a feature")


def _require_finite(values: Tensor, what: str) -> None:
    if not values.isfinite().all():
        raise UserError(f"{what} is not finite; its weights are broken (did its training diverge?)")


def _model_result(
    model: Model,
    subjects: Subjects,
    config: ExplainConfig,
    context: Context,
    gallery: ImageFolder | None,
    faults: dict[str, str],
) -> ModelResult:
    """All images under one model; those that cannot be used are added to `faults`."""
    backbone = model.backbone.to(context.device or model.backbone.mean.device)
    known = None if gallery is None else _known(backbone, gallery, config, context, model.label)
    scores: list[ImageScores] = []
    with describing(backbone, context.extraction()) as describe, context.watch(model.label) as progress:
        measuring = _Measuring(backbone, config, describe, known, model.label, context.batch_size or 64)
        for index, name in enumerate(subjects.names):
            progress(index, len(subjects))
            try:
                image, objects = subjects.read(index, backbone.config.window)
                pixels = prepare(image, config.size or backbone.config.image_size, backbone.patch_size)
            except UserError as error:
                faults.setdefault(name, str(error))
                continue
            maps, one = measuring.maps(pixels)
            values = heads(maps, config.mass)
            if objects is not None:
                values |= localisation(one, objects, config)
            curves = measuring.curves(pixels, one, name)
            scores.append(ImageScores(name, values, curves, tuple(map(float, entropy(maps))), not one.any()))
    return ModelResult(model.label, model, map_title(config.map, backbone), tuple(scores))


@dataclass(frozen=True)
class _Measuring:
    """A network, and what is asked of it."""

    backbone: Backbone
    config: ExplainConfig
    describe: Describe
    known: _Gallery | None
    label: str
    batch_size: int = 64

    def maps(
        self, pixels: UInt8[Tensor, "3 h w"]
    ) -> tuple[Float[Tensor, "maps rows columns"], Float[Tensor, "rows columns"]]:
        """Every map of an image, and the one that is measured: their mean. Raises UserError if not finite."""
        images = self.backbone.normalize(pixels[None].to(self.backbone.mean.device))
        if self.config.map == "gradcam" and self.known is not None:
            target = self.known.target(self._predicted(pixels))
            maps = gradcam_maps(self.backbone, images, self.config.block, target)
        else:
            with torch.no_grad():
                maps = MAPS[self.config.map](self.backbone, images, self.config.block)
        _require_finite(maps, f"{self.label}: a map")
        found = maps[0].float().cpu()
        return found, found.mean(dim=0)

    def curves(self, pixels: UInt8[Tensor, "3 h w"], values: Float[Tensor, "rows columns"], name: str) -> Curves:
        """Deletion and insertion, towards the image's own feature or the class it is given.

        The random orders differ from image to image, or few orders would decide the control of all of them.
        """
        perturbation = self.config.perturbation
        seed = int.from_bytes(hash_rank(perturbation.seed, name)[:4])
        perturbation = replace(perturbation, seed=seed, batch_size=self.batch_size)
        score: Score | None = None
        if self.known is not None:
            known, number = self.known, self._predicted(pixels)

            def score_of_class(features: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
                return known.shares(features)[:, number]

            score = score_of_class
        return perturbation_curves(self.describe, pixels, values, perturbation, score)

    def _predicted(self, pixels: UInt8[Tensor, "3 h w"]) -> int:
        assert self.known is not None
        return int(self.known.shares(self.describe(pixels[None])).argmax())


def _known(backbone: Backbone, gallery: ImageFolder, config: ExplainConfig, context: Context, label: str) -> _Gallery:
    bank = context.features(backbone, gallery, f"{label}: features of the gallery")
    assert bank.labels is not None
    device = backbone.mean.device
    return _Gallery(bank.features.to(device), bank.labels.to(device), len(gallery.classes), config)


def _centre_result(subjects: Subjects, config: ExplainConfig, faults: dict[str, str]) -> ModelResult:
    """The centred blob on the same images, at their own size: it has no patches and no network to be asked."""
    scores: list[ImageScores] = []
    for index, name in enumerate(subjects.names):
        if name in faults:
            continue
        image, objects = subjects.read(index)
        values = centre_map(*image.shape[:2])
        found = {} if objects is None else localisation(values, objects, config)
        scores.append(ImageScores(name, found))
    return ModelResult(CENTRE, None, TITLES["centre"], tuple(scores))


# The evaluation

_SHARES = np.linspace(0, 1, 41)
"""Where curves are averaged."""


def run(models: Sequence[Model], data: Data, config: ExplainConfig, context: Context) -> tuple[Result, ...]:
    """Measure the maps of every model on every image; with masks, a blob in the middle of the image comes last.

    Metrics are `explain_FIGURE` of `FIGURES` and `explain_lift`; then the entropy of each head, and the mean curves of
    deletion and insertion, with the head or the share of the patches as a parameter. Items are the images; a figure
    that an image does not have is not a number.

    Raises UserError if there is no such kind of map, the gallery has no labels, a model has no such block or gives no
    numbers, or no image can be read.
    """
    if not isinstance(data, Path):
        raise UserError("no images to measure on: give --data FOLDER")
    gallery = None if config.gallery is None else find_images(resolve_split(config.gallery, "train"), labelled=True)
    subjects = find_subjects(data, config.masks, config.limit)
    # the images that are measured are not cropped: the gallery's are no more than to their middle square
    context = replace(context, image_size=config.size, crop_fraction=1.0)
    result = explain_models(models, subjects, config, context, gallery)
    return tuple(result_of(result, row) for row in result.rows)


def result_of(result: ExplainResult, row: ModelResult) -> Result:
    """Return a row as a result."""
    figures = {
        f"explain_{name}": tuple(score.values.get(name, math.nan) for score in row.scores)
        for name in FIGURES
        if any(name in score.values for score in row.scores)
    }
    left_out = dict(result.faults)
    if result.subjects.masked is not None:
        left_out |= dict.fromkeys(result.subjects.masked.without_mask, "without a mask")
    items = Items(tuple(score.name for score in row.scores), figures, left_out)
    return new_result("explain", _protocol(result, row), _metrics(result, row), items)


def _metrics(result: ExplainResult, row: ModelResult) -> Iterator[Metric]:
    yield from row.metrics()
    heads = zip(*(score.head_entropies for score in row.scores), strict=True)
    for number, head in enumerate(heads):
        yield Metric("explain_entropy_of_head", sum(head) / len(head), "", parameters={"head": number})
    curves = [score.curves for score in row.scores if score.curves is not None]
    if result.gallery is None:
        fall = mean_fall(row.scores)
        curves = [scaled for each in curves if (scaled := each.scaled(fall)) is not None]
    for name in ("deletion", "insertion", "random") if curves else ():
        values = [each.random.mean(dim=0) if name == "random" else getattr(each, name) for each in curves]
        mean = np.mean([np.interp(_SHARES, c.share.numpy(), v.numpy()) for c, v in zip(curves, values, strict=True)], 0)
        for share, value in zip(_SHARES.tolist(), mean.tolist(), strict=True):
            yield Metric(f"explain_{name}_curve", value, "", name != "deletion", parameters={"share": share})


def _protocol(result: ExplainResult, row: ModelResult) -> dict[str, Any]:
    """Return how a row's figures came about."""
    masked, model = result.subjects.masked, row.model
    return {
        "weights": None if model is None or model.path is None else str(checkpoint.find_weights(model.path)),
        "weights_hash": None if model is None else model.weights_hash,
        "network": None if model is None else model.backbone.config.name,
        "map_shown": row.map,
        "image_size": None if model is None else result.config.size or model.backbone.config.image_size,
        "data": str(result.subjects.data.resolve()),
        "masks": masked is not None,
        "images": len(row.scores),
        "images_left_out": len(result.faults),
        "images_without_object": result.without_object,
        "empty_maps": sum(score.empty for score in row.scores),
        "gallery": None if result.gallery is None else str(result.gallery.root.resolve()),
        "score": "cosine, scaled" if result.gallery is None else "share of the k-NN vote",
        **_settings(result.config),
        **({"label": row.label} if model is None else {}),
    }


def _settings(config: ExplainConfig) -> dict[str, Any]:
    names = ("map", "block", "mass", "size", "tolerance", "k", "temperature")
    return {**{name: getattr(config, name) for name in names}, "perturbation": to_dict(config.perturbation)}


def expected(model: Model, data: Data, config: ExplainConfig, context: Context) -> dict[str, Any]:
    """Return what is known of a protocol before the images are read."""
    settings = _settings(config)
    if not isinstance(data, Path):
        return settings
    subjects = find_subjects(data, config.masks, config.limit)
    return {**settings, "data": str(data.resolve()), "masks": subjects.masked is not None}


def protocol_line(protocol: Mapping[str, Any]) -> str:
    """Return the protocol in one line for a person."""
    perturbation = protocol["perturbation"]
    objects = f", masks hold {protocol['mass']:.0%}" if protocol["masks"] else ""
    weights = f", weights {protocol['weights']}" if protocol.get("weights") else ""
    return (
        f"{protocol['images']} images of {protocol['data']}, {TITLES.get(protocol['map'], protocol['map'])} of block "
        f"{protocol['block']}{objects}, {perturbation['steps']} steps of deletion and insertion, {protocol['score']}"
        f"{weights}"
    )


# Tables and curves

ON_OBJECTS = ("jaccard", "pointing", "energy", "lift")
"""Columns that need masks."""
IN_THE_NETWORK = ("deletion", "deletion_gain", "insertion", "insertion_gain", "entropy", "agreement")
"""Columns that do not."""
_TITLES = {
    "jaccard": "Jaccard %",
    "pointing": "pointing %",
    "energy": "energy %",
    "lift": "lift",
    "deletion": "delete ↓",
    "deletion_gain": "– rand. ↓",
    "insertion": "insert ↑",
    "insertion_gain": "– rand. ↑",
    "entropy": "entropy",
    "agreement": "agree",
}
_WITH_INTERVAL = ("jaccard", "pointing", "energy", "deletion_gain", "insertion_gain")


def tables(results: Labelled, published: bool = False) -> list[Table]:
    """Return what the maps are worth on objects, with the centred blob and chance, and in the network's own eyes."""
    masked = results[0][1].protocol["masks"]
    halves = [IN_THE_NETWORK] if not masked else [ON_OBJECTS, IN_THE_NETWORK]
    found = [_half(results, names, about_objects=names == ON_OBJECTS) for names in halves]
    return [replace(found[0], remarks=tuple(_remarks(results))), *found[1:]]


def _half(results: Labelled, names: Sequence[str], *, about_objects: bool) -> Table:
    """Return a row per model; about objects also the centred blob and chance."""
    tells_map = about_objects or not results[0][1].protocol["masks"]
    texts = (Column("model"), Column("map")) if tells_map else (Column("model"),)
    columns = (*texts, *(Column(_TITLES[name], "right") for name in names))
    rows = [
        TableRow((label, result.protocol["map_shown"])[: len(texts)] + tuple(_cell(result, name) for name in names))
        for label, result in results
        if about_objects or result.protocol["weights_hash"] is not None
    ]
    if about_objects:
        rows.append(TableRow(("chance", "even map", *(_chance(results[0][1], name) for name in names))))
    protocol = results[0][1].protocol
    caption = f"What the maps are worth on {protocol['images']} images of {Path(protocol['data']).name}"
    return Table(columns, (Section(tuple(rows)),), caption)


def _cell(result: Result, name: str) -> str:
    metric = result.metric(f"explain_{name}")
    if metric is None:
        return ABSENT
    digits = 2 if name == "lift" else 1 if metric.unit == "%" else 3
    return metric.text(digits) if name in _WITH_INTERVAL else f"{metric.value:.{digits}f}"


def _chance(result: Result, name: str) -> str:
    """Return the figure of an even map; its mask would depend on how equal patches are ordered: it has no Jaccard."""
    metric = result.metric({"pointing": "explain_pointing_chance", "energy": "explain_area"}.get(name, ""))
    if metric is not None:
        return f"{metric.value:.1f}"
    return "1.00" if name == "lift" and result.metric("explain_lift") else ABSENT


def _remarks(results: Labelled) -> Iterator[str]:
    protocol = results[0][1].protocol
    perturbation, count = protocol["perturbation"], protocol["images"]
    # figures that need objects are means over fewer images than others
    counts = {m.n for _, r in results for name in _WITH_INTERVAL if (m := r.metric(f"explain_{name}")) and m.n}
    kinds = {interval_kind(each): each for each in sorted(counts)}
    for each in kinds.values():
        yield interval_line(each, "image", BootstrapConfig())
    if protocol["masks"]:
        miss = f"its maximum may miss by {protocol['tolerance']:g} px"
        yield f"Masks hold {protocol['mass']:.0%} of the mean over the heads; {miss}."
        yield f"Lift: energy over the objects' area. A map says something where it clears the {CENTRE} and chance."
    what = f"{perturbation['blur']:.0%} blur" if perturbation["fill"] == "blur" else "the mean colour"
    score = (
        "cosine with the image's own feature, scaled so that it falls from 1 to 0 on average"
        if protocol["gallery"] is None
        else f"share of the vote of {protocol['k']} neighbours for the class that the whole image is given"
    )
    yield (
        f"Delete and insert (areas): {perturbation['steps']} steps, {what}, {score}; "
        f"rand.: {perturbation['orders']} random orders of each image."
    )
    yield "Entropy: 1 is an even map. Agreement: 1 is heads that are alike; one map has none."
    left_out: Mapping[str, str] = {} if results[0][1].items is None else results[0][1].items.left_out
    unmasked = [name for name, reason in left_out.items() if reason == "without a mask"]
    if faults := [reason for reason in left_out.values() if reason != "without a mask"]:
        yield f"{len(faults)} of {len(faults) + count} images could not be used, such as {faults[0]}"
    if unmasked:
        yield f"Without a mask, and left out: {len(unmasked)} images, such as {unmasked[0]}"
    if protocol["images_without_object"]:
        yield (
            f"Without an object, and only in the columns that need none: {protocol['images_without_object']} of "
            f"{count} images."
        )
    for label, result in results:
        if empty := result.protocol["empty_maps"]:
            yield (
                f"{label}: {empty} of {count} maps are zero throughout; on objects they count as even, and their masks "
                "are empty."
            )
        if result.protocol["weights_hash"] is not None and result.metric("explain_deletion") is None:
            yield (
                f"{label}: its features hardly change when an image is wholly replaced; deletion and insertion are not "
                "defined."
            )


def charts(results: Labelled) -> list[LineChart]:
    """Return one panel per model: deletion falls and insertion rises; dashed the same in random orders, either way."""
    y_title = "similarity, scaled" if results[0][1].protocol["gallery"] is None else "share of the vote"
    panels: list[LinePanel] = []
    for label, result in results:
        curves = {
            name: tuple(metric.value for metric in result.metrics if metric.name == f"explain_{name}_curve")
            for name in ("deletion", "insertion", "random")
        }
        if curves["deletion"]:
            x = tuple(_SHARES.tolist())
            lines = (
                Line("deletion (share replaced)", x, curves["deletion"], color="#d55e00"),  # Okabe and Ito
                Line("insertion (share revealed)", x, curves["insertion"], color="#0072b2"),
                Line("random order", x, curves["random"], color="#767676", style="--"),
                Line("random order", x, curves["random"][::-1], color="#767676", style="--"),
            )
            title = f"{label}: {result.protocol['map_shown']}"
            panels.append(LinePanel(title, lines, "share of the patches", y_title))
    return [LineChart("curves", "Deletion and insertion", tuple(panels))] if panels else []


def _csv(results: Labelled) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return one row per model and image; empty if a figure is not defined."""
    rows: list[tuple[str, ...]] = []
    for label, result in results:
        items = result.items or Items((), {})
        for place, name in enumerate(items.names):
            values = [items.figures.get(f"explain_{each}", (math.nan,) * len(items.names))[place] for each in FIGURES]
            rows.append((label, name, *("" if math.isnan(value) else f"{value:.6g}" for value in values)))
    return ("model", "image", *FIGURES), rows


def _file_name(config: ExplainConfig, protocol: Mapping[str, Any]) -> str:
    whole = config.limit is None or protocol["images"] + protocol["images_left_out"] < config.limit
    gallery = None if config.gallery is None else "gallery"
    return variant_name("explain", protocol["map"], protocol["block"], gallery, None if whole else config.limit)


EVALUATION = Evaluation(
    "explain",
    "Maps",
    "Measure what maps are worth: on the objects, by taking away what they point at, and head by head.",
    "images",
    ExplainConfig,
    run,
    (
        base.Column("insertion_gain", "Insertion gain", "explain_insertion_gain", unit="", digits=3),
        base.Column("energy", "Energy on objects", "explain_energy"),
    ),
    protocol_line,
    expected,
    uses=("device", "batch_size"),
    file_name=_file_name,
    tables=tables,
    charts=charts,
    csv=_csv,
)
