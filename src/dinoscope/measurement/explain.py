"""What models' maps are worth, as numbers: on the objects, in the network's own eyes, and head against head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from dinoscope import checkpoint
from dinoscope.config import to_dict
from dinoscope.data.sources import ImageFolder, hash_rank
from dinoscope.errors import UserError, lookup
from dinoscope.evaluation.base import Context
from dinoscope.evaluation.results import new_result
from dinoscope.evaluation.statistics import Estimate, estimate_metric, mean_intervals
from dinoscope.explain.attention import entropy, prepare
from dinoscope.explain.faithfulness import Curves, perturbation_curves
from dinoscope.explain.gradcam import Score, gradcam_maps, log_vote, vote_shares
from dinoscope.explain.maps import MAPS, TITLES, centre_map, map_title
from dinoscope.features import Describe, describing
from dinoscope.measurement.explain_images import Subjects
from dinoscope.measurement.explain_scores import (
    FIGURES,
    ExplainConfig,
    ImageScores,
    heads,
    localisation,
    with_areas,
)
from dinoscope.model_names import Model
from dinoscope.models.backbone import Backbone
from dinoscope.types import Metric, Result

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
    """Figures that the same images have, so that these are drawn anew once for all of them."""
    groups: dict[tuple[bool, ...], list[str]] = {}
    for name in FIGURES:
        having = tuple(name in score.values for score in scores)
        if any(having):
            groups.setdefault(having, []).append(name)
    return list(groups.values())


@dataclass(frozen=True)
class ExplainResult:
    """All rows, the centred blob last where there are masks.

    faults: what was wrong with images that were left out. without_object: images without an object to lie on.
    """

    config: ExplainConfig
    subjects: Subjects
    gallery: ImageFolder | None
    rows: tuple[ModelResult, ...]
    faults: tuple[str, ...]
    without_object: int

    def protocol(self, row: ModelResult) -> dict[str, Any]:
        """How a row's figures came about, as plain values."""
        masked, model = self.subjects.masked, row.model
        return {
            "weights": None if model is None or model.path is None else str(checkpoint.find_weights(model.path)),
            "weights_hash": None if model is None else model.weights_hash,
            "network": None if model is None else model.backbone.config.name,
            "map_shown": row.map,
            "image_size": None if model is None else self.config.size or model.backbone.config.image_size,
            "data": str(self.subjects.data.resolve()),
            "masks": masked is not None,
            "images": len(row.scores),
            "images_left_out": len(self.faults),
            "images_without_object": self.without_object,
            "empty_maps": sum(score.empty for score in row.scores),
            "gallery": None if self.gallery is None else str(self.gallery.root.resolve()),
            "score": "cosine, scaled" if self.gallery is None else "share of the k-NN vote",
            **to_dict(self.config),
        }

    def measurement(self, row: ModelResult) -> Result:
        """What a run folder keeps."""
        return new_result("explain", self.protocol(row), row.metrics())


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

    Raises UserError where there is no such kind of map, the gallery has no labels, a model has no such block or
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
    return ExplainResult(config, subjects, gallery, tuple(rows), tuple(faults.values()), without_object)


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
    """Show each model a blank image, lest the last one be refused after all others were measured. Raises UserError."""
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
        measuring = _Measuring(backbone, config, describe, known, model.label)
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
            scores.append(ImageScores(name, values, curves, tuple(entropy(maps).tolist()), not one.any()))
    return ModelResult(model.label, model, map_title(config.map, backbone), tuple(scores))


@dataclass(frozen=True)
class _Measuring:
    """A network, and what is asked of it."""

    backbone: Backbone
    config: ExplainConfig
    describe: Describe
    known: _Gallery | None
    label: str

    def maps(
        self, pixels: UInt8[Tensor, "3 h w"]
    ) -> tuple[Float[Tensor, "maps rows columns"], Float[Tensor, "rows columns"]]:
        """Every map of an image, and the one that is measured: their mean. Raises UserError where not finite."""
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
        perturbation = replace(perturbation, seed=seed)
        score = None
        if self.known is not None:
            known, number = self.known, self._predicted(pixels)
            score = lambda features: known.shares(features)[:, number]
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
