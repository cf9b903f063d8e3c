"""What models' maps are worth, as numbers: on the objects, for the network itself, and head against head.

On objects: the pointing game and the share of energy, each next to its chance level. A map is enlarged to the ground
truth (bilinear, cell centres aligned). A map has no class here, so all objects of an image are one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from torch import Tensor

from dinoscope.config import to_dict
from dinoscope.data.benchmarks import VOID, MaskedImages, find_masked_images, object_pixels, voc_root
from dinoscope.data.finding import find_images, resolve_split
from dinoscope.data.grey_range import Window
from dinoscope.data.images import RawImage, UnreadableImage, read
from dinoscope.data.sources import ImageSource, evenly, hash_rank
from dinoscope.errors import UserError, lookup
from dinoscope.evaluation import base, statistics
from dinoscope.evaluation.base import INTERNAL, Context, Data, Evaluation, Labelled
from dinoscope.evaluation.results import new_result, variant_name
from dinoscope.evaluation.voc import jaccard
from dinoscope.explain.attention import entropy, map_masks, mask_overlap, pair_agreement, prepare
from dinoscope.explain.faithfulness import Curves, PerturbationConfig, perturbation_curves
from dinoscope.explain.gradcam import Score, gradcam_maps, log_vote, vote_shares
from dinoscope.explain.maps import MAPS, TITLES, centre_map, map_title
from dinoscope.features import Describe, describing
from dinoscope.model_names import Model
from dinoscope.places import parse_place
from dinoscope.tables import Column, Line, LineChart, LinePanel, Section, Table, TableRow
from dinoscope.text import ABSENT
from dinoscope.types import FeatureBank, Items, Metric, Result

# Maps on objects

TOLERANCE = 15.0
"""Pixels of the original image by which a map's maximum may miss the object (Zhang et al. 2016, the pointing game)."""
_EQUAL = 1e-6
"""Values closer than this, relative to the largest, are equal: enlarging rounds."""


def on_objects(
    values: Float[Tensor, "rows columns"],
    truth: Bool[Tensor, "h w"],
    valid: Bool[Tensor, "h w"] | None = None,
    tolerance: float = TOLERANCE,
) -> dict[str, float]:
    """Return how well a map lies on the objects, and what chance gives, each 0 to 1; pixels not valid do not count.

    pointing: 1 if the map's maximum lies within `tolerance` px of an object, else 0 (Zhang et al. 2016). Of several
        equal maxima, the share that hits: an even map, or one of zeros, scores as chance does.
    pointing_chance: score of a pixel drawn at random in the pointing game.
    energy: share of a non-negative map that lies on objects (Wang et al. 2020, Score-CAM); of a map of zeros, `area`.
    area: share of the valid pixels that belong to objects, which is the energy of an even map.

    Raises UserError if no valid pixel belongs to an object.
    """
    valid = torch.ones_like(truth) if valid is None else valid
    objects = truth & valid
    if not objects.any():
        raise UserError("no pixel of this image belongs to an object")
    # Euclidean distance of the centres of pixels
    elsewhere = (~objects).cpu().numpy().astype(np.uint8)
    distance = cv2.distanceTransform(elsewhere, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    near = torch.as_tensor(distance <= tolerance, device=truth.device)
    enlarged = F.interpolate(values[None, None].float(), truth.shape, mode="bilinear")[0, 0]
    counted = enlarged.masked_fill(~valid, -torch.inf)
    highest = counted.max()
    maxima = counted >= highest - _EQUAL * highest.abs()
    total, area = enlarged.double()[valid].sum(), int(objects.sum()) / int(valid.sum())
    return {
        "pointing": near[maxima].double().mean().item(),
        "pointing_chance": near[valid].double().mean().item(),
        "energy": (enlarged.double()[objects].sum() / total).item() if total > 0 else area,
        "area": area,
    }


# Images


@dataclass(frozen=True)
class ImageFiles:
    """Images with unique names, in a source or, with masks, as files of `masked`."""

    names: Sequence[str]
    images: ImageSource | None
    masked: MaskedImages | None = None

    def read(
        self, index: int, window: Window | None = None, channels: int | None = None, slices: int = 1
    ) -> tuple[UInt8[ndarray, "h w c"], ndarray | None]:
        """Return the image, and its mask [h, w] (255 void), or None if it shows no object, or there are no masks.

        window, channels, slices: those of the model; without channels, the image as it is shown. Raises UserError if
        either file cannot be read, or their sizes differ.
        """
        try:
            raw = self._read(index, slices)
            image = raw.rgb(window) if channels is None else raw.pixels(channels, window)
        except UnreadableImage as error:
            raise UserError(f"{self.names[index]}: {error}") from error
        mask = None if self.masked is None else self.masked.ground_truth(index, (image.shape[0], image.shape[1]))
        return image, mask if mask is not None and object_pixels(mask).any() else None

    def _read(self, index: int, slices: int) -> RawImage:
        if self.images is not None:
            return self.images.with_slices(slices).read(index)
        assert self.masked is not None
        return read(self.masked.images[index], slices=slices)


def find_image_files(data: Path, masks: Path | None, limit: int | None) -> ImageFiles:
    """Return a folder's images, with the masks of the same names below `masks`; a VOC layout holds its own.

    limit: at most so many images, evenly spaced.

    Raises UserError if there are no images, no image has a mask though masks were named, or the limit is below 1.
    """
    if masks is not None or voc_root(data) is not None:
        masked = find_masked_images(data, masks).subset(limit)
        return ImageFiles(masked.names, None, masked)
    folder = find_images(data, labelled=False)
    chosen = folder.subset(evenly(len(folder), limit))
    return ImageFiles(chosen.keys, chosen)


# One map of one image


@dataclass(frozen=True)
class ExplainConfig:
    """How maps are made and measured.

    k, temperature: of the vote of a labelled gallery, if there is one.

    Raises UserError if there is no such kind of map, or a value is out of range.
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
    """Seed of the random orders."""

    @property
    def perturbation(self) -> PerturbationConfig:
        """Return how images are perturbed."""
        return PerturbationConfig(self.steps, self.random_orders, self.fill, self.blur, self.seed)

    def __post_init__(self) -> None:
        lookup("kind of map", self.map, MAPS)
        if not 0 < self.mass <= 1:
            raise UserError(f"the mass that a mask holds is a share above 0 and at most 1, not {self.mass:g}")
        if not self.tolerance >= 0:
            raise UserError(f"the tolerance of the pointing game is 0 px or more, not {self.tolerance}")
        if self.k < 1 or not self.temperature > 0:
            raise UserError(f"k must be at least 1 and the temperature above 0; got {self.k}, {self.temperature}")
        _ = self.perturbation  # refuses what is out of range


_PERCENT, _SHARE, _ANY = (0.0, 100.0), (0.0, 1.0), (-math.inf, math.inf)

FIGURES = {
    "jaccard": _PERCENT,  # of the mask and the objects
    "pointing": _PERCENT,  # the maximum lies on an object
    "pointing_chance": _PERCENT,  # a pixel drawn at random does
    "energy": _PERCENT,  # share of the map on objects
    "area": _PERCENT,  # share of the image that is objects
    "deletion": _ANY,  # area under the curve
    "insertion": _ANY,
    "random": _ANY,  # area under either, in random orders
    "deletion_gain": _ANY,  # deletion less random
    "insertion_gain": _ANY,
    "deletion_plain": _ANY,  # areas of the score before it is scaled
    "insertion_plain": _ANY,
    "random_plain": _ANY,
    "range": _ANY,  # fall of the score from the image to the replaced image
    "entropy": _SHARE,  # of a map, 1 is even; mean over the heads
    "agreement": _SHARE,  # of the heads, 1 is alike
    "mask_overlap": _PERCENT,  # Jaccard of the masks of two heads; mean over the pairs
}
"""name -> the min and the max of a figure of an image; the columns of a table of images. Deletion: lower is better."""


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


def localisation(
    values: Float[Tensor, "rows columns"], mask: UInt8[ndarray, "h w"], config: ExplainConfig
) -> dict[str, float]:
    """Return how well a map lies on the objects, in %. The ground truth keeps its own size."""
    truth, valid = torch.as_tensor(object_pixels(mask)), torch.as_tensor(mask != VOID)
    overlap = jaccard(map_masks(values, config.mass), truth, valid)
    shares = {"jaccard": overlap, **on_objects(values, truth, valid, config.tolerance)}
    return {name: 100 * share for name, share in shares.items()}


@dataclass(frozen=True)
class _Measuring:
    """A network, and how its maps are measured. gallery: features of labelled images, which vote for a class."""

    model: Model
    config: ExplainConfig
    describe: Describe
    gallery: FeatureBank | None = None
    batch_size: int = 64

    def image(self, pixels: UInt8[Tensor, "c h w"], name: str, mask: ndarray | None) -> ImageScores:
        """Return the figures of an image but for the areas. Raises UserError if a map is not finite."""
        config = self.config
        number = None if self.gallery is None else int(self._vote(self.describe(pixels[None])).argmax())
        maps = self.maps(pixels, number)
        mean, entropies = maps.mean(dim=0), entropy(maps)
        values = {"entropy": entropies.mean().item()}
        if len(maps) > 1:
            values["agreement"] = pair_agreement(maps).item()
            values["mask_overlap"] = 100 * mask_overlap(maps, config.mass).item()
        if mask is not None:
            values |= localisation(mean, mask, config)
        # the random orders differ from image to image, or few orders would decide the control of all of them
        seed = int.from_bytes(hash_rank(config.seed, name)[:4])
        perturbation = replace(config.perturbation, seed=seed, batch_size=self.batch_size)
        score: Score | None = None if number is None else lambda features: self._vote(features)[:, number]
        curves = perturbation_curves(self.describe, pixels, mean, perturbation, score)
        return ImageScores(name, values, curves, tuple(map(float, entropies)), not mean.any())

    def maps(self, pixels: UInt8[Tensor, "c h w"], number: int | None = None) -> Float[Tensor, "maps rows columns"]:
        """Return every map of an image. number: of the class that Grad-CAM points to. Raises UserError as `image`."""
        config, backbone = self.config, self.model.backbone
        images = backbone.normalize(pixels[None].to(backbone.mean.device))
        if config.map == "gradcam" and self.gallery is not None:
            members = self.gallery.features[self.gallery.labels == number]
            target = partial(log_vote, members=members, k=config.k, temperature=config.temperature)
            maps = gradcam_maps(backbone, images, config.block, target)
        else:
            with torch.no_grad():
                maps = MAPS[config.map](backbone, images, config.block)
        _require_finite(maps, f"{self.model.label}: a map")
        return maps[0].float().cpu()

    def _vote(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b classes"]:
        known, config = self.gallery, self.config
        assert known is not None
        assert known.labels is not None
        return vote_shares(features, known.features, known.labels, len(known.classes), config.k, config.temperature)


def _require_finite(values: Tensor, what: str) -> None:
    if not values.isfinite().all():
        raise UserError(f"{what} is not finite; its weights are broken (did its training diverge?)")


def _with_areas(scores: Sequence[ImageScores], *, scale: bool) -> list[ImageScores]:
    """Add the areas under the curves of all images of one model.

    scale: in units of the mean fall of the score from an image to the wholly replaced one, as the curves then are. If
        that is too small (`MIN_RANGE`), there are no curves, and only the areas before scaling.
    """
    pairs = [(score, score.curves) for score in scores if score.curves is not None]
    fall = sum(curves.range for _, curves in pairs) / max(1, len(pairs))
    found: list[ImageScores] = []
    for score, curves in pairs:
        plain = zip(("deletion_plain", "insertion_plain", "random_plain"), curves.areas, strict=True)
        values = {**score.values, **dict(plain), "range": curves.range}
        shown = curves.scaled(fall) if scale else curves
        if shown is not None:
            deletion, insertion, random = shown.areas
            values |= {"deletion": deletion, "insertion": insertion, "random": random}
            values |= {"deletion_gain": deletion - random, "insertion_gain": insertion - random}
        found.append(replace(score, values=values, curves=shown))
    return found


# The evaluation

CENTRE = "centre bias"
_SHARES = np.linspace(0, 1, 41)
"""Shares of the patches at which curves are averaged."""
_WITHOUT_MASK = "without a mask"


def run(models: Sequence[Model], data: Data, config: ExplainConfig, context: Context) -> tuple[Result, ...]:
    """Measure the maps of every model on every image; with masks, a blob in the middle of the image comes last.

    With a gallery of labelled images, deletion and insertion follow the k-NN vote for the class that the whole image
    is given, and Grad-CAM points towards that class. Without, both follow the image's own feature.

    Metrics are `explain_FIGURE` of `FIGURES` and `explain_lift`; then the entropy of each head, and the mean curves of
    deletion and insertion, with the head or the share of the patches as a parameter. Items are the images; a figure
    that an image does not have is not a number.

    Raises UserError if the gallery has no labels, a model has no such block or gives no
    numbers, or no image can be read.
    """
    data = _folder(data)
    images, gallery = _images(data, config)
    # the images that are measured are not cropped: the gallery's are no more than to their middle square
    context = replace(context, image_size=config.size, crop_fraction=1.0)
    _refuse_misfits(models, config, context)
    faults: dict[str, str] = {}
    scores: list[list[ImageScores]] = []
    for model in models:
        backbone = model.backbone.to(context.device or model.backbone.mean.device)
        bank = None
        if gallery is not None:
            bank = context.features(backbone, gallery, f"{model.label}: features of the gallery")
            device = backbone.mean.device
            labels = None if bank.labels is None else bank.labels.to(device)
            bank = replace(bank, features=bank.features.to(device), labels=labels, classes=gallery.classes)
        with describing(backbone, context.extraction()) as describe, context.watch(model.label) as progress:
            measuring = _Measuring(model, config, describe, bank, context.batch_size or 64)
            scores.append([])
            for index, name in enumerate(images.names):
                progress(index, len(images.names))
                try:
                    given = backbone.config
                    image, mask = images.read(index, given.window, given.channels, given.slices)
                    pixels = prepare(image, config.size or given.image_size, backbone.patch_size)
                except UserError as error:
                    faults.setdefault(name, str(error))
                else:
                    scores[-1].append(measuring.image(pixels, name, mask))
    # an image that one network cannot see at all is left out for all: rows are of the same images
    scores = [[score for score in of_model if score.name not in faults] for of_model in scores]
    if not scores or not scores[0]:
        raise UserError("no image could be measured: " + "; ".join(list(faults.values())[:3]))
    scores = [_with_areas(of_model, scale=gallery is None) for of_model in scores]
    rows: list[tuple[Model | None, list[ImageScores]]] = list(zip(models, scores, strict=True))
    if images.masked is not None:
        rows.append((None, _centre_scores(images, config, faults)))
    return tuple(_result(model, of_model, images, faults, data, config) for model, of_model in rows)


def _refuse_misfits(models: Sequence[Model], config: ExplainConfig, context: Context) -> None:
    """Show each model a blank image, so that a misfit is refused before anything is measured. Raises UserError."""
    for model in models:
        backbone = model.backbone.to(context.device or model.backbone.mean.device)
        name, patch = backbone.config.name, backbone.patch_size
        if config.size is not None and config.size < patch:
            raise UserError(f"--size must be at least one patch of {name}, {patch} px; not {config.size}")
        blank = torch.zeros(backbone.config.channels, patch, patch, dtype=torch.uint8)
        with describing(backbone, context.extraction()) as describe:
            _Measuring(model, config, describe).maps(blank)
            _require_finite(describe(blank[None]), f"{model.label}: a feature")


def _centre_scores(images: ImageFiles, config: ExplainConfig, faults: Mapping[str, str]) -> list[ImageScores]:
    """Score the centred blob on the same images, at their own size: it has no patches, and no network to ask."""
    scores: list[ImageScores] = []
    for index, name in enumerate(images.names):
        if name not in faults:
            image, mask = images.read(index)
            blob = centre_map(*image.shape[:2])
            scores.append(ImageScores(name, {} if mask is None else localisation(blob, mask, config)))
    return scores


def _result(
    model: Model | None,
    scores: Sequence[ImageScores],
    images: ImageFiles,
    faults: Mapping[str, str],
    data: Path,
    config: ExplainConfig,
) -> Result:
    masked = images.masked
    protocol = {
        "weights": None if model is None or model.path is None else model.weights,
        "weights_hash": None if model is None else model.weights_hash,
        "network": None if model is None else model.backbone.config.name,
        "map_shown": TITLES["centre"] if model is None else map_title(config.map, model.backbone),
        "image_size": None if model is None else config.size or model.backbone.config.image_size,
        "data": str(data.resolve()),
        "masks": masked is not None,
        "images": len(scores),
        "images_left_out": len(faults),
        "images_without_object": 0 if masked is None else sum("energy" not in score.values for score in scores),
        "empty_maps": sum(score.empty for score in scores),
        "gallery": None if config.gallery is None else str(resolve_split(config.gallery, "train").resolve()),
        "score": "cosine, scaled" if config.gallery is None else "share of the k-NN vote",
        **_settings(config),
        **({"label": CENTRE} if model is None else {}),
    }
    figures = {
        f"explain_{name}": tuple(score.values.get(name, math.nan) for score in scores)
        for name in FIGURES
        if any(name in score.values for score in scores)
    }
    without_mask = () if masked is None else masked.without_mask
    items = Items(
        tuple(score.name for score in scores), figures, {**faults, **dict.fromkeys(without_mask, _WITHOUT_MASK)}
    )
    return new_result("explain", protocol, _metrics(scores), items)


def _metrics(scores: Sequence[ImageScores]) -> Iterator[Metric]:
    # figures that the same images have are estimated together, so that these images are resampled once for all of them
    groups: dict[tuple[bool, ...], list[str]] = {}
    for name in FIGURES:
        groups.setdefault(tuple(name in score.values for score in scores), []).append(name)
    estimates: dict[str, tuple[statistics.Estimate, int]] = {}
    for having, names in groups.items():
        if any(having):
            rows = [[score.values[name] for name in names] for score in scores if names[0] in score.values]
            limits = [FIGURES[name] for name in names]
            intervals = statistics.mean_intervals(torch.tensor(rows, dtype=torch.float64), limits=limits)
            estimates |= {name: (interval, len(rows)) for name, interval in zip(names, intervals, strict=True)}
    for name, limits in FIGURES.items():
        if name in estimates:
            metric = statistics.estimate_metric(f"explain_{name}", *estimates[name], scale=1)
            unit = "%" if limits == _PERCENT else ""
            yield replace(metric, unit=unit, higher_is_better=not name.startswith("deletion"))
    if "energy" in estimates:  # both averaged first: small objects count by their area
        energy, area = (
            torch.tensor([score.values[name] for score in scores if name in score.values], dtype=torch.float64).mean()
            for name in ("energy", "area")
        )
        yield Metric("explain_lift", (energy / area).item(), "")
    for number, head in enumerate(zip(*(score.head_entropies for score in scores), strict=True)):
        yield Metric("explain_entropy_of_head", sum(head) / len(head), "", parameters={"head": number})
    curves = [score.curves for score in scores if score.curves is not None]
    for name in ("deletion", "insertion", "random") if curves else ():
        values = [each.random.mean(dim=0) if name == "random" else getattr(each, name) for each in curves]
        mean = np.mean([np.interp(_SHARES, c.share.numpy(), v.numpy()) for c, v in zip(curves, values, strict=True)], 0)
        for share, value in zip(_SHARES.tolist(), mean.tolist(), strict=True):
            yield Metric(f"explain_{name}_curve", value, "", name != "deletion", parameters={"share": share})


def _settings(config: ExplainConfig) -> dict[str, Any]:
    names = ("map", "block", "mass", "size", "tolerance", "k", "temperature")
    return {**{name: getattr(config, name) for name in names}, "perturbation": to_dict(config.perturbation)}


def _folder(data: Data) -> Path:
    if not isinstance(data, Path):
        raise UserError("no images to measure on: give --data FOLDER")
    return data


def _images(data: Path, config: ExplainConfig) -> tuple[ImageFiles, ImageSource | None]:
    """Return the images, and the gallery if there is one."""
    gallery = None if config.gallery is None else find_images(resolve_split(config.gallery, "train"), labelled=True)
    return find_image_files(data, config.masks, config.limit), gallery


def expected(model: Model, data: Data, config: ExplainConfig, context: Context) -> dict[str, Any]:
    """Return what is known of a protocol before the images are read."""
    settings = _settings(config)
    if not isinstance(data, Path):
        return settings
    images = find_image_files(data, config.masks, config.limit)
    return {**settings, "data": str(data.resolve()), "masks": images.masked is not None}


def protocol_line(protocol: Mapping[str, Any]) -> str:
    """Return the protocol in one line for a person."""
    objects = f", masks hold {protocol['mass']:.0%}" if protocol["masks"] else ""
    weights = f", weights {protocol['weights']}" if protocol.get("weights") else ""
    return (
        f"{protocol['images']} images of {protocol['data']}, {TITLES.get(protocol['map'], protocol['map'])} of block "
        f"{protocol['block']}{objects}, {protocol['perturbation']['steps']} steps of deletion and insertion, "
        f"{protocol['score']}{weights}"
    )


# Tables and curves

ON_OBJECTS = {"jaccard": "Jaccard %", "pointing": "pointing %", "energy": "energy %", "lift": "lift"}
"""Columns that need masks, and their titles."""
IN_THE_NETWORK = {
    "deletion": "delete ↓",
    "deletion_gain": "– rand. ↓",
    "insertion": "insert ↑",
    "insertion_gain": "– rand. ↑",
    "entropy": "entropy",
    "agreement": "agree",
}
"""Columns that do not."""
_WITH_INTERVAL = ("jaccard", "pointing", "energy", "deletion_gain", "insertion_gain")


def tables(results: Labelled, published: bool = False) -> list[Table]:
    """Return what the maps are worth on objects, with the centred blob and chance, and for the network itself."""
    protocol = results[0][1].protocol
    caption = f"What the maps are worth on {protocol['images']} images of {parse_place(protocol['data']).name}"
    found: list[Table] = []
    for titles in (ON_OBJECTS, IN_THE_NETWORK) if protocol["masks"] else (IN_THE_NETWORK,):
        about_objects, texts = titles is ON_OBJECTS, ("model",) if found else ("model", "map")
        rows = [
            (label, result.protocol["map_shown"])[: len(texts)] + tuple(_cell(result, name) for name in titles)
            for label, result in results
            if about_objects or result.protocol["weights_hash"] is not None
        ]
        if about_objects:
            rows.append(("chance", "even map", *(_chance(results[0][1], name) for name in titles)))
        columns = (*map(Column, texts), *(Column(title, "right") for title in titles.values()))
        remarks = () if found else tuple(_remarks(results))
        found.append(Table(columns, (Section(tuple(map(TableRow, rows))),), caption, remarks=remarks))
    return found


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
    protocol, items = results[0][1].protocol, results[0][1].items
    perturbation, count = protocol["perturbation"], protocol["images"]
    # figures that need objects are means over fewer images than others
    counts = {m.n for _, r in results for name in _WITH_INTERVAL if (m := r.metric(f"explain_{name}")) and m.n}
    for each in {statistics.interval_kind(each): each for each in sorted(counts)}.values():
        yield statistics.interval_line(each, "image", statistics.BootstrapConfig())
    if protocol["masks"]:
        miss = f"its maximum may miss by {protocol['tolerance']:g} px"
        yield f"Masks hold {protocol['mass']:.0%} of the mean over the heads; {miss}."
        yield f"Lift: energy over the objects' area. A map means something if it clears the {CENTRE} and chance."
    what = f"{perturbation['blur']:.0%} blur" if perturbation["fill"] == "blur" else "the mean colour"
    score = (
        "cosine with the image's own feature, scaled so that it falls from 1 to 0 on average"
        if protocol["gallery"] is None
        else f"share of the vote of {protocol['k']} neighbours for the class that the whole image is given"
    )
    orders = f"{perturbation['orders']} random orders of each image"
    yield f"Delete and insert (areas): {perturbation['steps']} steps, {what}, {score}; rand.: {orders}."
    yield "Entropy: 1 is an even map. Agreement: 1 is heads that are alike; one map has none."
    left_out: Mapping[str, str] = {} if items is None else items.left_out
    unmasked = [name for name, reason in left_out.items() if reason == _WITHOUT_MASK]
    if faults := [reason for reason in left_out.values() if reason != _WITHOUT_MASK]:
        yield f"{len(faults)} of {len(faults) + count} images could not be used, such as {faults[0]}"
    if unmasked:
        yield f"Without a mask, and left out: {len(unmasked)} images, such as {unmasked[0]}"
    if without := protocol["images_without_object"]:
        yield f"Without an object, and only in the columns that need none: {without} of {count} images."
    for label, result in results:
        if empty := result.protocol["empty_maps"]:
            zero = f"{label}: {empty} of {count} maps are zero throughout"
            yield f"{zero}; on objects they count as even, and their masks are empty."
        if result.protocol["weights_hash"] is not None and result.metric("explain_deletion") is None:
            change = f"{label}: its features hardly change when an image is wholly replaced"
            yield f"{change}; deletion and insertion are not defined."


def charts(results: Labelled) -> list[LineChart]:
    """Return one panel per model: deletion falls and insertion rises; dashed the same in random orders, either way."""
    y_title = "similarity, scaled" if results[0][1].protocol["gallery"] is None else "share of the vote"
    panels: list[LinePanel] = []
    for label, result in results:
        deletion, insertion, random = (
            tuple(metric.value for metric in result.metrics if metric.name == f"explain_{name}_curve")
            for name in ("deletion", "insertion", "random")
        )
        if deletion:
            x = tuple(_SHARES.tolist())
            lines = (
                Line("deletion (share replaced)", x, deletion, color="#d55e00"),  # Okabe and Ito
                Line("insertion (share revealed)", x, insertion, color="#0072b2"),
                Line("random order", x, random, color="#767676", style="--"),
                Line("random order", x, random[::-1], color="#767676", style="--"),
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
    lambda data, config, context: _images(_folder(data), config),
    uses=("device", "batch_size"),
    file_name=_file_name,
    tables=tables,
    charts=charts,
    csv=_csv,
)
