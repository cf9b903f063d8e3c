"""Jaccard of attention masks on PASCAL VOC, by the published protocol and by a strict one.

published (Caron et al. 2021, Fig. 4; Naseer et al. 2021 and their public script): each class of an image is compared
with the mask of every head, and the best head counts; mean over the classes of the image, then over the images. So the
ground truth chooses the head, and void pixels count as not belonging to the class.

strict: one mask against all objects of an image, without void pixels. The ground truth of the images that are reported
chooses nothing: the mask is that of the mean over the heads, or of one head that was chosen on other images.

A mask consists of whole cells (patches). With the pixels of each class counted once in each cell, the Jaccard of any
number of masks is a matrix product, and exactly what comparing pixel by pixel gives.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray
from PIL import Image
from torch import Tensor

from dinoscope.data.benchmarks import BACKGROUND, VOID, MaskedImages, SizesDisagree, find_masked_images
from dinoscope.data.grey_range import Window
from dinoscope.data.images import UnreadableImage, decode, read
from dinoscope.errors import UserError, lookup
from dinoscope.evaluation import base
from dinoscope.evaluation.base import Context, Data, Labelled
from dinoscope.evaluation.results import new_result, variant_name
from dinoscope.evaluation.statistics import (
    BootstrapConfig,
    estimate_metric,
    interval_kind,
    interval_line,
    mean_intervals,
)
from dinoscope.explain.attention import MAX_PATCHES, mass_masks, mean_and_heads, prepare
from dinoscope.explain.maps import MAPS, TITLES
from dinoscope.files import claim, mark
from dinoscope.model_names import Model, folder_names
from dinoscope.pictures import Sheet, Tile, fitted, ground_truth_overlay, sheet_tile, tinted, write_png
from dinoscope.system import autocast, available_cores
from dinoscope.tables import Column, Line, LineChart, LinePanel, Section, Table, TableRow
from dinoscope.text import figure
from dinoscope.types import Items, Metric, Result

Masks = list[dict[str, Bool[ndarray, "_ _"]]]
"""For each model: name of an image -> its mask, one value for each patch."""

# Jaccard


def jaccard(
    mask: Bool[Tensor, "rows columns"], ground_truth: Bool[Tensor, "h w"], valid: Bool[Tensor, "h w"] | None = None
) -> float:
    """Return intersection over union, over the valid pixels (VOC's void border is not valid).

    The mask may be coarser than the ground truth: a patch stands for all of its pixels. Two empty masks give 1, as in
    DAVIS.
    """
    prediction = F.interpolate(mask[None, None].float(), ground_truth.shape, mode="nearest-exact")[0, 0].bool()
    if valid is not None:
        prediction, ground_truth = prediction & valid, ground_truth & valid
    union = int((prediction | ground_truth).sum())
    return int((prediction & ground_truth).sum()) / union if union else 1.0


@dataclass(frozen=True)
class CellCounts:
    """Pixels of a mask in each cell of a grid of (rows, columns), row by row, float64.

    classes: of the objects, ascending; row i of `objects` counts the pixels of `classes[i]`.
    pixels: all of them, with void ones (`void`) and background.
    """

    grid: tuple[int, int]
    classes: tuple[int, ...]
    objects: Float[Tensor, "classes cells"]
    void: Float[Tensor, " cells"]
    pixels: Float[Tensor, " cells"]


def count_cells(mask: UInt8[ndarray, "h w"], grid: tuple[int, int]) -> CellCounts:
    """Count the pixels of a VOC mask (0 background, 255 void, else a class) in each cell.

    A pixel belongs to the cell that torch's nearest upsampling to the size of the mask shows there ("nearest-exact").
    """
    cells = math.prod(grid)
    row, column = (
        F.interpolate(torch.arange(side, dtype=torch.float32)[None, None], pixels, mode="nearest-exact")[0, 0].long()
        for side, pixels in zip(grid, mask.shape, strict=True)
    )
    present = np.flatnonzero(np.bincount(mask.reshape(-1), minlength=256))
    place = np.zeros(256, np.int64)
    place[present] = cells * np.arange(len(present))
    cell_of = (grid[1] * row[:, None] + column).numpy()
    counts = np.bincount((place[mask] + cell_of).reshape(-1), minlength=cells * len(present))
    per_value = torch.as_tensor(counts.reshape(len(present), cells)).double()
    objects = np.flatnonzero((present != BACKGROUND) & (present != VOID))
    void = per_value[-1] if present[-1] == VOID else torch.zeros(cells, dtype=torch.float64)
    classes = tuple(int(value) for value in present[objects])
    return CellCounts(grid, classes, per_value[torch.as_tensor(objects)], void, per_value.sum(dim=0))


def cell_jaccard(
    masks: Bool[Tensor, "*batch cells"], regions: Float[Tensor, "k cells"], counted: Float[Tensor, " cells"]
) -> Float[Tensor, "*batch k"]:
    """Return the Jaccard of each mask with each of k regions, which are given by their pixels in each cell.

    counted: pixels that count in each cell. Two empty masks give 1, as in `jaccard`.
    """
    chosen = masks.double()
    intersection = chosen @ regions.T
    union = (chosen @ counted)[..., None] + regions.sum(dim=-1) - intersection
    return (intersection / union).where(union > 0, 1.0)


def published_scores(
    masks: Bool[Tensor, "*batch heads cells"], counts: CellCounts
) -> tuple[Float[Tensor, "*batch classes"], Int[Tensor, "*batch classes"]]:
    """Return the Jaccard of each class of an image with the head that fits it best, and which head that is."""
    best = cell_jaccard(masks, counts.objects, counts.pixels).max(dim=-2)
    return best.values, best.indices


def strict_scores(masks: Bool[Tensor, "*batch maps cells"], counts: CellCounts) -> Float[Tensor, "*batch maps"]:
    """Return the Jaccard of each mask with all objects together; void pixels count neither for nor against."""
    return cell_jaccard(masks, counts.objects.sum(dim=0, keepdim=True), counts.pixels - counts.void)[..., 0]


def whole_image_scores(counts: CellCounts) -> tuple[float, float]:
    """Return what the whole image as the mask scores, published and strict: a floor for masks that tell something."""
    everything = torch.ones(1, len(counts.pixels), dtype=torch.bool)
    published, _ = published_scores(everything, counts)
    return published.mean().item(), strict_scores(everything, counts).item()


def two_halves(images: int, seed: int) -> Bool[Tensor, " images"]:
    """Return which images are in the first of two random halves; of an odd number the second has one more."""
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
    first = torch.zeros(images, dtype=torch.bool)
    first[order[: images // 2]] = True
    return first


def fixed_head(
    scores: Float[Tensor, "n masses heads"], first: Bool[Tensor, " n"]
) -> tuple[Float[Tensor, "n masses"], Int[Tensor, "2 masses"]] | None:
    """Choose the head with the best mean on one half and report it on the other, and the other way round.

    first: the images of the first half. Returns each image's score with the head that was chosen on the other half,
    and the heads (from 0) that were chosen on the second and on the first half; None if a half is empty.
    """
    if first.all() or not first.any():
        return None
    chosen = torch.stack([scores[~first].mean(dim=0).argmax(dim=-1), scores[first].mean(dim=0).argmax(dim=-1)])
    head_of = torch.where(first[:, None], chosen[0], chosen[1])
    return scores.gather(-1, head_of[..., None])[..., 0], chosen


# Settings

PUBLISHED_MASS, PUBLISHED_SIDE = 0.6, 512
"""The mass in the text and Fig. 4 of Caron et al. 2021, and the side in Naseer et al.'s code (whose mass is 0.9)."""

VocProtocolName = Literal["published", "strict"]


@dataclass(frozen=True)
class VocConfig:
    """How attention masks are made and compared with the ground truth.

    threads: that read images; -1 chooses. Neither they nor the batch size change a figure.

    Raises UserError if a value is out of range.
    """

    masks: Path | None = None
    """Folder of masks (PNG) with the names of the images, or a VOC folder: 0 is background, 255 void, all else a class;
    if there are only 0 and 255, 255 is the object."""

    split: str = "val"
    """ImageSets/Segmentation/SPLIT.txt lists the images: val, train, trainval."""

    limit: int | None = None
    """At most so many images, evenly spaced."""

    protocol: Literal["both", "published", "strict"] = "both"
    """published is that of the literature, in which the ground truth chooses the head; strict chooses nothing by the
    ground truth and leaves void pixels out. One alone takes half of the time."""

    mass: float = PUBLISHED_MASS
    """Share of the attention that a mask holds. 0.6 is the published text's, 0.9 the public script's."""

    masses: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
    """For the table and the figure of the sweep. None of them is chosen for you."""

    size: int = 480
    """Strict protocol: short side at which the networks see an image, in pixels; the aspect is kept."""

    square: int = PUBLISHED_SIDE
    """Published protocol: side of the square, in pixels. Other than 512 does not compare with published figures."""

    map: str = "attention"
    """attention (of a ResNet: feature energy), rollout, energy, gradcam, or centre (looks at no image). Published
    figures are of attention."""

    block: int = -1
    """Block of the transformer: from 0, or from the end with -1 the last."""

    seed: int = 0
    """Seed of the resamples, and of the halves between which the strict protocol chooses a head."""

    resamples: int = 10_000
    """Resamples of the bootstrap, for intervals."""

    save_masks: Path | None = None
    """Folder for MODEL/IMAGE.png: 255 where the mask is, at the image's own size (strict: the mean over the heads;
    published alone: the heads that the ground truth chose, together)."""

    threads: int = field(default=-1, metadata=base.INTERNAL)

    def __post_init__(self) -> None:
        lookup("kind of map", self.map, MAPS)
        for mass in (self.mass, *self.masses):
            if not 0 < mass <= 1:
                raise UserError(f"the mass that a mask holds is a share above 0 and at most 1, not {mass:g}")

    @property
    def protocols(self) -> tuple[VocProtocolName, ...]:
        """Return the protocols that are measured."""
        return ("published", "strict") if self.protocol == "both" else (self.protocol,)

    @property
    def all_masses(self) -> tuple[float, ...]:
        """Return every mass that is measured, ascending."""
        return tuple(sorted({*self.masses, self.mass}))

    @property
    def at(self) -> int:
        """Return where `mass` is in `all_masses`."""
        return self.all_masses.index(self.mass)


# Images, as a protocol shows them

_MAX_WAITING = 8
"""Batches of images that may wait for others of their size."""

Network = tuple[int, Window | None]
"""What decides how an image is shown: patch size in pixels, grey range."""


@dataclass(frozen=True)
class Sample:
    """Image number `index` as one protocol shows it to a network, and its mask counted in the network's cells."""

    index: int
    protocol: VocProtocolName
    network: Network
    pixels: UInt8[Tensor, "3 h w"]
    counts: CellCounts


def read_samples(
    index: int, images: MaskedImages, config: VocConfig, networks: Sequence[Network]
) -> list[Sample] | tuple[str, str]:
    """Return an image as every protocol shows it to every network.

    If it cannot be used: why, in a few words that are to be counted, and in full for a person.
    """
    file = images.images[index]
    try:
        raw = read(file)
        mask = images.ground_truth(index, (raw.values.shape[0], raw.values.shape[1]))
    except UnreadableImage as error:
        return "image unreadable", f"{file}: {error}"
    except SizesDisagree as error:
        return "image and mask of different sizes", str(error)
    except UserError as error:
        return "mask unreadable", str(error)
    rgb = {window: raw.rgb(window) for _, window in networks}
    samples: list[Sample] = []
    for protocol, (patch, window) in itertools.product(config.protocols, networks):
        if protocol == "published":
            pixels, shown = squared(rgb[window], config.square), squared_mask(mask, config.square)
        else:
            try:
                pixels, shown = prepare(rgb[window], config.size, patch), mask
            except UserError as error:
                return "too large for the network", f"{file}: {error}"
        counts = count_cells(shown, (pixels.shape[1] // patch, pixels.shape[2] // patch))
        if not counts.classes:
            return "no object in the mask", f"{images.masks[index]}: no pixel belongs to an object"
        samples.append(Sample(index, protocol, (patch, window), pixels, counts))
    return samples


def squared(image: UInt8[ndarray, "h w 3"], side: int) -> UInt8[Tensor, "3 side side"]:
    """Resize to a square, aspect ignored: bilinear with antialiasing, as torchvision's Resize of a Pillow image."""
    pixels = torch.as_tensor(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    return F.interpolate(pixels, (side, side), mode="bilinear", antialias=True)[0]


def squared_mask(mask: UInt8[ndarray, "h w"], side: int) -> UInt8[ndarray, "side side"]:
    """Resize to a square by the nearest pixel: what Pillow does to palette images whatever it is asked for."""
    return np.asarray(Image.fromarray(mask).resize((side, side), Image.Resampling.NEAREST))


def batches(images: Iterable[Sequence[Sample]], batch_size: int) -> Iterator[list[Sample]]:
    """Group the samples of images into what a network can see at once: one protocol, one kind of network, one size.

    Images of a rare size wait; when too many do, the largest group goes although it is not full.
    """
    groups: dict[tuple[str, Network, torch.Size], list[Sample]] = {}
    for samples in images:
        for sample in samples:
            key = (sample.protocol, sample.network, sample.pixels.shape)
            groups.setdefault(key, []).append(sample)
            if len(groups[key]) == batch_size:
                yield groups.pop(key)
        while sum(map(len, groups.values())) > _MAX_WAITING * batch_size:
            yield groups.pop(max(groups, key=lambda key: len(groups[key])))
    yield from groups.values()


# Measuring models together


def measure_voc(
    models: Sequence[Model],
    images: MaskedImages,
    config: VocConfig = VocConfig(),
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    limit: int | None = None,
    keep_masks: bool = False,
    context: Context | None = None,
) -> tuple[list[Result], Masks]:
    """Show every image to every model, once for each protocol; an image that one model cannot use counts for none.

    limit: what `images` was cut to, for the protocol. Returns each model's result and its masks at `config.mass` (see
    `VocConfig.save_masks`), none unless they are kept.

    Raises UserError if no image can be used, sizes do not fit the networks, or a model gives no numbers.
    """
    context = context or Context()
    batch_size = 8 if context.batch_size is None else context.batch_size
    if batch_size < 1:
        raise UserError(f"the batch size is {batch_size}; it must be at least 1")
    networks = _networks(models, config)
    for model in models:
        model.backbone.to(context.device or "cpu").eval()
    scores = [_Scores() for _ in models]
    left_out = {name: ("mask missing", f"{name} has no mask") for name in images.without_mask}
    per_image, done = len(config.protocols) * len(networks), 0
    threads = min(available_cores(), 8) if config.threads < 1 else config.threads
    read_one = functools.partial(read_samples, images=images, config=config, networks=networks)
    stream = base.mapped_ahead(read_one, range(len(images)), threads, batch_size + threads)

    def usable() -> Iterator[list[Sample]]:
        nonlocal done
        for name, samples in zip(images.names, stream, strict=True):
            if isinstance(samples, tuple):
                left_out[name] = samples
                done += per_image
            else:
                yield samples

    progress(0, len(images))
    with contextlib.closing(stream):
        for group in batches(usable(), batch_size):
            for model, own in zip(models, scores, strict=True):
                if _network(model) == group[0].network:
                    own.add(group, _maps(model, group, config, context), config)
            done += len(group)
            progress(done // per_image, len(images))
    masks = [{images.names[index]: mask for index, mask in own.masks.items()} if keep_masks else {} for own in scores]
    return _results(models, scores, images, left_out, config, context, limit), masks


def _network(model: Model) -> Network:
    return model.backbone.patch_size, model.backbone.config.window


def _networks(models: Sequence[Model], config: VocConfig) -> list[Network]:
    """Return what is shown to these models. Raises UserError if sizes do not fit."""
    if not models:
        raise UserError("no model: give --model RUN")
    networks = sorted(dict.fromkeys(map(_network, models)), key=lambda network: network[0])
    common, square = math.lcm(*(patch for patch, _ in networks)), f"square of {config.square} px"
    for patch, _ in networks:
        if "published" in config.protocols and (config.square < patch or config.square % patch):
            raise UserError(
                f"the published protocol's {square} does not consist of {patch} px patches: give "
                f"--square {max(1, round(config.square / common)) * common}, or --protocol strict"
            )
        if "published" in config.protocols and (config.square // patch) ** 2 > MAX_PATCHES:
            raise UserError(f"the {square} has more than {MAX_PATCHES} patches of {patch} px: choose a smaller one")
        if "strict" in config.protocols and config.size < patch:
            raise UserError(f"--size must be at least one patch of {patch} px, not {config.size}")
    return networks


def _maps(model: Model, group: Sequence[Sample], config: VocConfig, context: Context) -> Float[Tensor, "b maps r c"]:
    """Return the maps of images of one size, on the CPU, float32. Raises UserError if they are not finite."""
    device = context.device or torch.device("cpu")
    with torch.inference_mode(), autocast(context.precision, device):
        pixels = torch.stack([sample.pixels for sample in group]).to(device, non_blocking=True)
        maps = MAPS[config.map](model.backbone, model.normalize(pixels), config.block).float().cpu()
    if not maps.isfinite().all():
        raise UserError(f"{model.label}: a map is not finite; its weights are broken (did its training diverge?)")
    if maps.shape[-2:] != group[0].counts.grid:
        raise ValueError(f"maps of {tuple(maps.shape[-2:])} cells, and {group[0].counts.grid} were expected")
    return maps


class _Scores:
    """What the masks of one model score at each mass, by number of the image.

    maps: heads, or 1 for a network without. classes: of the image (of its squared mask, if published).
    published: Jaccard of each class with its best head. strict: of the mean over the heads, then of each head.
    whole: protocol -> what the whole image as the mask scores. masks: those that `VocConfig.save_masks` shows.
    """

    def __init__(self) -> None:
        self.maps = 0
        self.classes: dict[int, tuple[int, ...]] = {}
        self.published: dict[int, Float[Tensor, "masses classes"]] = {}
        self.strict: dict[int, Float[Tensor, "masses maps"]] = {}
        self.whole: dict[str, list[float]] = {}
        self.masks: dict[int, Bool[ndarray, "r c"]] = {}

    def add(self, group: Sequence[Sample], maps: Float[Tensor, "b maps r c"], config: VocConfig) -> None:
        """Score the masks of images of one protocol and size."""
        strict, self.maps = group[0].protocol == "strict", maps.shape[1]
        masses = mass_masks((mean_and_heads(maps) if strict else maps).flatten(-2), config.all_masses)
        for sample, masks in zip(group, masses.transpose(0, 1), strict=True):
            counts, index = sample.counts, sample.index
            self.whole.setdefault(sample.protocol, []).append(whole_image_scores(counts)[strict])
            if strict:
                self.strict[index], shown = strict_scores(masks, counts), masks[config.at, 0]
            else:
                self.published[index], heads = published_scores(masks, counts)
                shown = masks[config.at][heads[config.at]].any(dim=0)
            if sample.protocol == config.protocols[0]:
                self.classes[index] = counts.classes
            if sample.protocol == config.protocols[-1]:
                self.masks[index] = shown.view(counts.grid).numpy()


def _results(
    models: Sequence[Model],
    scores: Sequence[_Scores],
    images: MaskedImages,
    left_out: Mapping[str, tuple[str, str]],
    config: VocConfig,
    context: Context,
    limit: int | None,
) -> list[Result]:
    """Return each model's figures with their intervals. All models share the resamples of the images."""
    reasons = {name: reason for name, (_, reason) in left_out.items()}
    used = sorted(scores[0].classes)
    if not used:
        first = next(iter(reasons.values()))
        raise UserError(f"none of the {len(reasons)} images in {images.root} can be used. The first: {first}")
    classes = [scores[0].classes[index] for index in used]
    first_half = two_halves(len(used), config.seed)
    figures: list[dict[str, Tensor]] = [{} for _ in models]
    heads: list[list[int] | None] = [None for _ in models]
    for number, own in enumerate(scores):
        if own.published:
            figures[number][BEST_HEAD] = torch.stack([own.published[index].mean(dim=-1) for index in used])
        if own.strict:
            strict = torch.stack([own.strict[index] for index in used])
            figures[number][MEAN] = strict[..., 0]
            if fixed := fixed_head(strict[..., 1:], first_half):
                figures[number][FIXED_HEAD] = fixed[0]
                heads[number] = [int(head) for head in fixed[1][:, config.at]]
    columns = torch.cat([values for own in figures for values in own.values()], dim=1)
    bootstrap = BootstrapConfig(config.resamples, seed=config.seed)
    estimates = iter(mean_intervals(columns, bootstrap, [(0.0, 1.0)] * columns.shape[1]))
    results: list[Result] = []
    for number, (model, own) in enumerate(zip(models, figures, strict=True)):
        metrics = [
            estimate_metric(name, next(estimates), len(used), {"mass": mass})
            for name, mass in itertools.product(own, config.all_masses)
        ]
        metrics.sort(key=lambda metric: metric.parameters["mass"] != config.mass)  # stable: those of the table first
        published = scores[number].published
        for value in sorted({value for shown in classes for value in shown}):
            showing = [place for place, shown in enumerate(classes) if value in shown]
            for name in (name for name in own if name != FIXED_HEAD):
                if name == MEAN:
                    values = own[MEAN][showing, config.at]
                else:
                    columns = [published[used[place]][config.at, classes[place].index(value)] for place in showing]
                    values = torch.stack(columns)
                parameters = {"mass": config.mass, "class": value}
                metrics.append(Metric(name, 100 * values.mean().item(), n=len(showing), parameters=parameters))
        protocol = {
            "weights": "random" if model.path is None else model.weights,
            "weights_hash": model.weights_hash,
            "network": model.backbone.config.name,
            "maps": scores[number].maps,
            "fixed_heads": heads[number],
            "images": len(used),
            "left_out": dict(Counter(kind for kind, _ in left_out.values())),
            **_known(config, context, images, limit),
            "interval": interval_kind(len(used)),
            "whole_image": {name: 100 * (sum(whole) / len(whole)) for name, whole in scores[0].whole.items()},
            "masks_from": None if config.masks is None else str(config.masks.resolve()),
        }
        items = Items(
            tuple(images.names[index] for index in used),
            {name: tuple(map(float, 100 * values[:, config.at])) for name, values in own.items()},
            reasons,
            {"classes": tuple(" ".join(map(str, shown)) for shown in classes)},
        )
        results.append(new_result("voc", protocol, metrics, items))
    return results


# The evaluation

PREFIX = "voc_jaccard_"
BEST_HEAD, MEAN, FIXED_HEAD = f"{PREFIX}published", f"{PREFIX}strict_mean", f"{PREFIX}strict_head"
FIGURES = {
    BEST_HEAD: "published: best head by the ground truth",
    MEAN: "strict: mean over the heads",
    FIXED_HEAD: "strict: one head, chosen on other images",
}
"""Name of a metric -> in words."""

# Both protocols in words. They are part of every result, and results are compared by them: a word changed here would
# make earlier results incomparable.
PUBLISHED_SETTING = {
    "images": "resized to a square (bilinear, antialiased), masks by the nearest pixel",
    "head": "the best of each class of each image, chosen by the truth that it is measured by",
    "void": "counted as not belonging to any class",
    "mean": "over the classes of an image, then over the images",
}
STRICT_SETTING = {
    "images": "aspect kept (bicubic, antialiased), sides rounded to whole patches, masks at their own size",
    "head": "none chosen (mean), or one chosen on the other half of the images",
    "void": "left out",
    "mean": "one mask against all objects of an image, then over the images",
}


def run(models: Sequence[Model], data: Data, config: VocConfig, context: Context) -> list[Result]:
    """Show every image to every model, and score the masks.

    Metrics are in %: those of `FIGURES` at each mass, that of the figures first; then for each class (its value in the
    masks), at that mass, the means over the images that show it. Items are the images.

    In the protocol, fixed_heads are those chosen at `mass` on the second and on the first half, limit is None if it
    left none out, and whole_image is what a mask of the whole image scores, in %.

    Raises UserError as `measure_voc` does, or if there are no images or the masks cannot be written.
    """
    images, limit = _images(data, config)
    folders, out = folder_names([model.label for model in models]), config.save_masks
    if out is not None:
        claim(out, [f"{folder}/{name}.png" for folder in folders for name in images.names], overwrite=context.overwrite)
    with context.watch("attention masks") as progress:
        results, masks = measure_voc(
            models, images, config, progress, limit=limit, keep_masks=out is not None, context=context
        )
    if out is not None:
        with context.watch("writing masks") as progress:
            _write_masks([out / folder for folder in folders], images, masks, progress)
    return results


def _images(data: Data, config: VocConfig) -> tuple[MaskedImages, int | None]:
    """Return the images, and the limit if it left any out."""
    if not isinstance(data, Path):
        raise UserError("no images to measure on: give --data VOCdevkit, or a folder of images with --masks")
    images = find_masked_images(data, config.masks, config.split)
    taken = images.subset(config.limit)
    return taken, None if len(taken) == len(images) else config.limit


def _write_masks(
    folders: Sequence[Path], images: MaskedImages, masks: Masks, progress: Callable[[int, int], None]
) -> None:
    """Write each model's masks to its folder, at the sizes of their images, by the nearest patch."""
    try:
        for folder in folders:
            mark(folder, [f"{name}.png" for name in masks[0]])
        for done, name in enumerate(masks[0], start=1):
            size = images.classes(images.names.index(name)).shape[::-1]
            for folder, own in zip(folders, masks, strict=True):
                path = folder / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                mask = 255 * own[name].astype(np.uint8)
                write_png(path, cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT))
            progress(done, len(masks[0]))
    except OSError as error:
        raise UserError(f"the masks could not be written: {error}") from error


def expected(model: Model, data: Data, config: VocConfig, context: Context) -> dict[str, Any]:
    """Return what is known of a protocol before the images are read."""
    return _known(config, context, *((None, None) if data is None else _images(data, config)))


def _known(config: VocConfig, context: Context, images: MaskedImages | None, limit: int | None) -> dict[str, Any]:
    strict_sizes = {"short_side": config.size, "halves_seed": config.seed}
    settings = {
        "mass": config.mass,
        "map": config.map,
        "block": config.block,
        "precision": context.precision,
        "published": {"square": config.square, **PUBLISHED_SETTING} if "published" in config.protocols else None,
        "strict": {**strict_sizes, **STRICT_SETTING} if "strict" in config.protocols else None,
        "resamples": config.resamples,
        "confidence": BootstrapConfig.confidence,
        "bootstrap_seed": config.seed,
    }
    if images is None:
        return settings
    return {**settings, "data": str(images.root.resolve()), "data_name": images.name, "limit": limit}


def protocol_line(protocol: Mapping[str, Any]) -> str:
    """Return the protocol in one line for a person."""
    names = " and ".join(name for name in ("published", "strict") if protocol[name])
    weights = f", weights {protocol['weights']}" if "weights" in protocol else ""
    return (
        f"{names} protocol, {protocol['images']} images of {protocol['data_name']} in {protocol['data']}, "
        f"{_masks_hold(protocol)} of block {protocol['block']}, {protocol['precision']}{weights}"
    )


def _masks_hold(protocol: Mapping[str, Any]) -> str:
    return f"masks hold {_percent(protocol['mass'])} of the {_title(protocol)}"


def _percent(share: float) -> str:
    return f"{round(100 * share, 4):g} %"


def _title(protocol: Mapping[str, Any]) -> str:
    return str(TITLES.get(protocol["map"], protocol["map"]))


# Tables and curves

SOURCE = (
    "Published: Caron et al. 2021, Emerging Properties in Self-Supervised Vision Transformers, table in Fig. 4; "
    "validation images of PASCAL VOC 2012, masks of 60 % of the attention, best head. Networks trained on ImageNet. "
    "Not measured here"
)
PUBLISHED = {
    ("Random", "ViT-S/16"): 22.0,
    ("Supervised", "ViT-S/16"): 27.3,
    ("DINO", "ViT-S/16"): 45.9,
    ("Random", "ViT-S/8"): 21.8,
    ("Supervised", "ViT-S/8"): 23.7,
    ("DINO", "ViT-S/8"): 44.7,
}
"""(Weights, architecture) -> Jaccard in % by the published protocol."""
ALL_VAL = 1449


def tables(results: Labelled, published: bool = False) -> list[Table]:
    """Return the models best first, their differences, the sweep over the mass, and the classes."""
    titles = _titles(results)
    tables = [_models_table(results, titles, published)]
    if len(results) > 1 and all(result.items for _, result in results):
        tables.append(base.differences_table(results, titles))
    metrics = [metric for _, result in results for metric in result.metrics]
    masses = sorted({metric.parameters["mass"] for metric in metrics})
    if len(masses) > 1:
        tables.append(_sweep_table(results, titles, masses))
    classes = sorted({metric.parameters["class"] for metric in metrics if "class" in metric.parameters})
    if classes:
        tables.append(_classes_table(results, classes))
    return tables


def _titles(results: Labelled) -> dict[str, str]:
    """Return the figures that the results have, in words."""
    return {name: title for name, title in FIGURES.items() if any(result.metric(name) for _, result in results)}


def _models_table(results: Labelled, titles: Mapping[str, str], published: bool) -> Table:
    """Return one row for each model, best first by a figure that no ground truth was used for, if there is one."""
    protocol = results[0][1].protocol
    whole = protocol.get("whole_image", {})
    shares = {BEST_HEAD: whole.get("published"), MEAN: whole.get("strict")}
    shares = {name: share for name, share in shares.items() if share is not None and name in titles}
    remarks: list[str] = []
    for name, share in shares.items():
        best = max(metric.value if (metric := result.metric(name)) else 0 for _, result in results)
        if share >= best:
            remarks.append(
                f"{titles[name]}: no model's masks are better than the whole image, {share:.1f} % against {best:.1f} % "
                "of the best"
            )
    rows = {f"{weights}, {architecture}": {BEST_HEAD: value} for (weights, architecture), value in PUBLISHED.items()}
    few = f". Those are of all {ALL_VAL:,} images, these of {protocol['images']}: for orientation, no comparison."
    source = SOURCE if protocol["images"] == ALL_VAL else SOURCE + few
    interval = f" [{100 * protocol['confidence']:g} % interval]" if protocol["images"] > 1 else ""
    images = f"{protocol['data_name']}, {protocol['images']} images, {_masks_hold(protocol)}"
    return base.models_table(
        results,
        titles,
        f"Jaccard of {_title(protocol)} masks in %{interval}: {images}",
        [*remarks, *_remarks(results)],
        rank=MEAN if MEAN in titles else BEST_HEAD,
        extra={"(the whole image as the mask)": shares} if shares else {},
        published=("Published, VOC 2012 val", rows, source) if published else None,
    )


def _remarks(results: Labelled) -> Iterator[str]:
    """Yield how the figures came about, for a person."""
    protocol, items = results[0][1].protocol, results[0][1].items
    published, strict, images, mass = (protocol[name] for name in ("published", "strict", "images", "mass"))
    single = [label for label, result in results if result.protocol["maps"] == 1]
    if protocol["map"] != "attention":
        yield f"Maps: {_title(protocol)}, not attention: not comparable with published figures."
    yield f"Images and masks: {protocol['data']}."
    if published:
        square = published["square"]
        other = f" At {square} px instead of {PUBLISHED_SIDE} it does not compare with published figures."
        script = (
            f" Masks hold {_percent(mass)} of the attention; the paper's text says {_percent(PUBLISHED_MASS)}, the "
            "public script 90 %."
        )
        yield (
            f"Published protocol: image and mask at {square} x {square} px. The ground truth chooses the head: for "
            "each class of each image the head that fits it best counts, which nobody without the ground truth can do. "
            "Void pixels count as not belonging to the class, as in the public script."
            + (other if square != PUBLISHED_SIDE else "")
            + (script if mass != PUBLISHED_MASS else "")
        )
    if strict:
        few = any(result.protocol["fixed_heads"] is None for _, result in results)
        yield (
            f"Strict protocol: short side {strict['short_side']} px, aspect kept, void pixels left out, one mask "
            "against all objects of an image together. The one head is chosen on one half of the images and reported "
            f"on the other, both ways (halves: seed {strict['halves_seed']})."
            + (" There are too few images to choose a head on." if few else "")
        )
    if protocol["map"] == "attention" and single:
        yield f"Without heads, the one map (feature energy) is both the head and the mean: {', '.join(single)}."
    if protocol["limit"] is not None:
        yield (
            f"Only {images} of the images, evenly spaced (--limit {protocol['limit']}): not comparable with figures on "
            "all."
        )
    yield _interval_line(protocol) + (" The choice of a head is not repeated within it." if images > 1 else "")
    if protocol["left_out"]:
        kinds = ", ".join(f"{count} {kind}" for kind, count in protocol["left_out"].items())
        total = sum(protocol["left_out"].values())
        first = f" The first: {next(iter(items.left_out.values()))}." if items is not None and items.left_out else ""
        yield f"{total} of {total + images} images are left out: {kinds}.{first}"


def _interval_line(protocol: Mapping[str, Any]) -> str:
    return interval_line(protocol["images"], "image", BootstrapConfig(protocol["resamples"], protocol["confidence"]))


def _sweep_table(results: Labelled, titles: Mapping[str, str], masses: Sequence[float]) -> Table:
    """Return each figure at every mass that was asked for; the models' table is at one of them, not at the best."""
    sections: list[Section] = []
    for name, title in titles.items():
        rows: list[TableRow] = []
        for label, result in results:
            metrics = [result.metric(name, mass=mass) for mass in masses]
            if any(metrics):
                rows.append(TableRow((label, *(figure(metric and metric.value) for metric in metrics))))
        sections.append(Section(tuple(rows), title))
    columns = (Column("Model"), *(Column(_percent(mass), "right") for mass in masses))
    mass = _percent(results[0][1].protocol["mass"])
    caption = f"Jaccard in % by the mass that a mask holds; the figures above are at {mass}"
    remark = "The best mass was not chosen: choosing it by these figures would be choosing by the ground truth."
    return Table(columns, tuple(sections), caption, remarks=(remark,))


def _classes_table(results: Labelled, classes: Sequence[float]) -> Table:
    """Return every class that occurs, by its value in the masks."""
    shown = [
        (f"{label}, {name.removeprefix(PREFIX).replace('_', ' ')}", result, name)
        for name in (BEST_HEAD, MEAN)
        for label, result in results
        if result.metric(name)
    ]
    columns = (Column("Class"), Column("Images", "right"), *(Column(title, "right") for title, _, _ in shown))
    rows: list[TableRow] = []
    for value in classes:
        metrics = [result.metric(name, **{"class": value}) for _, result, name in shown]
        count = next((metric.n for metric in metrics if metric is not None), None)
        rows.append(TableRow((f"{value:g}", str(count), *(figure(metric and metric.value) for metric in metrics))))
    remark = (
        "published: the class itself, with its best head. strict mean: all objects of the images that show the class, "
        "with the mean over the heads."
    )
    return Table(columns, (Section(tuple(rows)),), "Jaccard in % by class (its value in the masks)", remarks=(remark,))


def charts(results: Labelled) -> list[LineChart]:
    """Return the sweep over the mass, if there is one."""
    protocol, panels, top = results[0][1].protocol, list[LinePanel](), 0.0
    for name, title in _titles(results).items():
        lines: list[Line] = []
        for label, result in results:
            points = [
                (100 * m.parameters["mass"], m.value, m.value if m.low is None else m.low, m.high or m.value)
                for m in result.metrics
                if m.name == name and "class" not in m.parameters
            ]
            if len(points) > 1:
                x, y, low, high = zip(*sorted(points), strict=True)
                lines.append(Line(label, x, y, low, high))
                top = max(top, *high)
        if lines:
            x_title = f"share of the {_title(protocol)} in the mask (%)"
            panels.append(LinePanel(title, tuple(lines), x_title, "Jaccard (%)", at=100 * protocol["mass"]))
    if not panels:
        return []
    limits = (0.0, min(100.0, 1.06 * top))  # one scale: the panels are there to be compared
    images = f"{protocol['data_name']}, {protocol['images']} images."
    note = f"{images} {_interval_line(protocol)} Dashed: the mass of the table."
    shown = tuple(replace(panel, limits=limits) for panel in panels)
    return [LineChart("sweep", "Jaccard by the mass that a mask holds", shown, note)]


# Best and worst


def examples(
    results: Sequence[Result], models: Sequence[Model], ends: int, context: Context, dpi: int | None = None
) -> list[Sheet]:
    """Return sheets of the best and the worst images, their ground truth, and each model's mask, computed again.

    Raises UserError if the images are not there any more, or their masks' place was not kept.
    """
    protocol = results[0].protocol
    data, published, strict = Path(protocol["data"]), protocol["published"], protocol["strict"]
    name = MEAN if strict else BEST_HEAD
    ranked = [item for item, _ in base.best_first(results, name)]
    if not ranked:
        return []
    chosen = ranked if len(ranked) <= 2 * ends else [*ranked[:ends], *ranked[len(ranked) - ends :]]
    if masks_from := protocol.get("masks_from"):
        images = find_masked_images(data, Path(masks_from))
    elif protocol["data_name"].startswith("VOC 2012 "):
        images = find_masked_images(data, split=protocol["data_name"].removeprefix("VOC 2012 "))
    else:
        raise UserError(f"{data}: the place of its masks is not kept with the result")
    images = images.named(chosen)
    config = VocConfig(
        protocol="strict" if strict else "published",
        mass=protocol["mass"],
        masses=(),
        map=protocol["map"],
        block=protocol["block"],
        size=strict["short_side"] if strict else VocConfig.size,
        square=VocConfig.square if strict else published["square"],
    )
    shown = f"best and the worst {ends}" if len(ranked) > len(chosen) else "best to the worst"
    how = (
        "mean over the heads; Jaccard with all objects; light grey: void, not counted"
        if strict
        else "the ground truth chose the head of each class, shown together; mean over classes"
    )
    caption = (
        f"The {shown} of {protocol['images']} images of {protocol['data_name']}, by the mean of the models: "
        f"{config.protocol}, masks hold {_percent(protocol['mass'])}: {how}."
    )
    sheets: list[Sheet] = []
    for begin in range(0, len(models), base.ABREAST):
        part = models[begin : begin + base.ABREAST]
        with context.watch("masks of the best and worst images") as progress:
            again, masks = measure_voc(part, images, config, progress, keep_masks=True, context=context)
        scores, rows = dict(base.best_first(again, name)), list[tuple[Tile, ...]]()
        for index, item in enumerate(images.names):
            if item not in scores:
                continue
            decoded = decode(images.images[index], window=part[0].backbone.config.window)
            picture = fitted(decoded, sheet_tile(dpi))
            ground_truth = images.classes(index)
            values = [str(value) for value in np.unique(ground_truth) if value not in (BACKGROUND, VOID)]
            classes = f"class{'es' * (len(values) > 1)} {', '.join(values)}"
            tiles = [Tile(picture, item), Tile(ground_truth_overlay(picture, ground_truth), "ground truth", classes)]
            for model, own, score in zip(part, masks, scores[item], strict=True):
                tiles.append(Tile(tinted(picture, own[item]), model.label, f"{score:.1f} %"))
            rows.append(tuple(tiles))
        sheets.append(Sheet(f"pictures-{len(sheets) + 1:02d}", tuple(rows), caption, dpi))
    return sheets


def _csv(results: Labelled) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return a row for each image and model, shares in [0, 1] at the chosen mass; empty if there is no figure."""
    rows: list[tuple[str, ...]] = []
    for label, result in results:
        items, mass = result.items or Items((), {}), f"{result.protocol['mass']:g}"
        for place, image in enumerate(items.names):
            columns = (items.figures.get(name) for name in FIGURES)
            values = ("" if column is None else f"{column[place] / 100:.6f}" for column in columns)
            rows.append((image, label, items.facts["classes"][place] if items.facts else "", mass, *values))
    return ("image", "model", "classes", "mass", *(name.removeprefix(PREFIX) for name in FIGURES)), rows


EVALUATION = base.Evaluation(
    "voc",
    "VOC",
    "Compare masks of the last block's attention, or of other maps, with the objects of PASCAL VOC 2012.",
    "masks",
    VocConfig,
    run,
    (base.Column("voc", "VOC Jaccard", MEAN), base.Column("voc_published", "VOC Jaccard, best head", BEST_HEAD)),
    protocol_line,
    expected,
    lambda data, config, context: _images(data, config),
    uses=("device", "precision", "batch_size"),
    file_name=lambda config, protocol: variant_name("voc", protocol["map"], protocol["block"], protocol["limit"]),
    tables=tables,
    charts=charts,
    examples=examples,
    csv=_csv,
)
