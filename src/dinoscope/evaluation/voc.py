"""Jaccard of attention masks on PASCAL VOC: the published protocol, and a strict one next to it.

published (Caron et al. 2021, Fig. 4; Naseer et al. 2021 and their public evaluation): each class of an image is
compared with the mask of every head, the best head counts; mean over the classes of the image, then over images.
The truth chooses the head for each class of each image, and void pixels count as not belonging to the class.

strict: all objects of an image against one mask, void pixels left out, and nothing chosen by the truth of the
images that are reported: the mean over the heads, and one head that was chosen on other images.

A mask consists of whole cells (patches). With the pixels of each class counted once in each cell, the Jaccard of
any number of masks is a matrix product, and exactly what comparing pixel by pixel gives.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
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

from dinoscope import checkpoint
from dinoscope.data.benchmarks import (
    BACKGROUND,
    VOID,
    MaskedImages,
    SizesDisagree,
    find_masked_images,
)
from dinoscope.data.grey_range import Window
from dinoscope.data.images import UnreadableImage, decode, read
from dinoscope.errors import UserError, lookup
from dinoscope.evaluation import base
from dinoscope.evaluation.base import (
    ABREAST,
    INTERNAL,
    Context,
    Data,
    Evaluation,
    Labelled,
    best_first,
    differences_table,
)
from dinoscope.evaluation.results import new_result, settled, variant_name
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
from dinoscope.pictures import Sheet, Tile, fitted, tinted, truth_overlay, write_png
from dinoscope.system import autocast
from dinoscope.tables import BOLD, Column, Line, LineChart, LinePanel, Section, Table, TableRow, best_marked
from dinoscope.text import ABSENT
from dinoscope.types import Items, Metric, Result

# Jaccard


def jaccard(
    mask: Bool[Tensor, "rows columns"], truth: Bool[Tensor, "h w"], valid: Bool[Tensor, "h w"] | None = None
) -> float:
    """Intersection over union, over the valid pixels (VOC's void border is not valid).

    The mask may be coarser than the truth: a patch stands for all of its pixels. Two empty masks agree: 1, as in
    DAVIS.
    """
    prediction = F.interpolate(mask[None, None].float(), truth.shape, mode="nearest-exact")[0, 0].bool()
    if valid is not None:
        prediction, truth = prediction & valid, truth & valid
    union = int((prediction | truth).sum())
    return int((prediction & truth).sum()) / union if union else 1.0


@dataclass(frozen=True)
class CellCounts:
    """Pixels of a mask in each cell of a grid of (rows, columns), row by row, float64.

    classes: of the objects, ascending; row i of `objects` counts the pixels of `classes[i]`.
    pixels: all of them, void ones (`void`) and background included.
    """

    grid: tuple[int, int]
    classes: tuple[int, ...]
    objects: Float[Tensor, "classes cells"]
    void: Float[Tensor, " cells"]
    pixels: Float[Tensor, " cells"]


def count_cells(mask: UInt8[ndarray, "h w"], grid: tuple[int, int]) -> CellCounts:
    """Count the pixels of a VOC mask (0 background, 255 void, else a class) in each cell.

    A pixel belongs to the cell that nearest upsampling to the size of the mask shows there ("nearest-exact").
    """
    rows, columns = grid
    cells = rows * columns
    present = np.flatnonzero(np.bincount(mask.reshape(-1), minlength=256))
    place = np.zeros(256, np.int64)
    place[present] = cells * np.arange(len(present))
    cell_of = columns * nearest_cells(mask.shape[0], rows)[:, None] + nearest_cells(mask.shape[1], columns)
    counts = np.bincount((place[mask] + cell_of).reshape(-1), minlength=cells * len(present))
    per_value = torch.as_tensor(counts.reshape(len(present), cells)).double()
    objects = np.flatnonzero((present != BACKGROUND) & (present != VOID))
    void = per_value[-1] if present[-1] == VOID else torch.zeros(cells, dtype=torch.float64)
    classes = tuple(int(value) for value in present[objects])
    return CellCounts(grid, classes, per_value[torch.as_tensor(objects)], void, per_value.sum(dim=0))


def nearest_cells(pixels: int, cells: int) -> Int[ndarray, " pixels"]:
    """The cell of each pixel along one side, by torch's own arithmetic."""
    numbers = torch.arange(cells, dtype=torch.float32)[None, None]
    return F.interpolate(numbers, pixels, mode="nearest-exact")[0, 0].long().numpy()


def cell_jaccard(
    masks: Bool[Tensor, "*batch cells"], truth: Float[Tensor, "k cells"], counted: Float[Tensor, " cells"]
) -> Float[Tensor, "*batch k"]:
    """Jaccard of each mask with each of k truths. truth: pixels of it in each cell; counted: pixels that count.

    Two empty masks agree: 1, as in `jaccard`.
    """
    chosen = masks.double()
    intersection = chosen @ truth.T
    union = (chosen @ counted)[..., None] + truth.sum(dim=-1) - intersection
    return (intersection / union).where(union > 0, 1.0)


def published_scores(
    masks: Bool[Tensor, "*batch heads cells"], counts: CellCounts
) -> tuple[Float[Tensor, "*batch classes"], Int[Tensor, "*batch classes"]]:
    """Jaccard of each class of an image with the head that fits it best, and which head that is."""
    best = cell_jaccard(masks, counts.objects, counts.pixels).max(dim=-2)
    return best.values, best.indices


def strict_scores(masks: Bool[Tensor, "*batch maps cells"], counts: CellCounts) -> Float[Tensor, "*batch maps"]:
    """Jaccard of each mask with all objects together; void pixels count neither for nor against."""
    return cell_jaccard(masks, counts.objects.sum(dim=0, keepdim=True), counts.pixels - counts.void)[..., 0]


def whole_image_scores(counts: CellCounts) -> tuple[float, float]:
    """What a mask of the whole image would score, published and strict: what looking nowhere in particular gives."""
    everything = torch.ones(1, len(counts.pixels), dtype=torch.bool)
    published, _ = published_scores(everything, counts)
    return published.mean().item(), strict_scores(everything, counts).item()


@dataclass(frozen=True)
class FixedHead:
    """Each image's Jaccard with a head that was chosen on the other half of the images.

    heads: the head, from 0, for each mass (last dimension), chosen on the second half for the first (row 0), and
        the other way round (row 1).
    """

    scores: Float[Tensor, "n masses"]
    heads: Int[Tensor, "2 masses"]


def two_halves(images: int, seed: int) -> Bool[Tensor, " images"]:
    """Which images are in the first of two halves, drawn at random; of an odd number the second has one more."""
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
    first = torch.zeros(images, dtype=torch.bool)
    first[order[: images // 2]] = True
    return first


def fixed_head(scores: Float[Tensor, "n masses heads"], first: Bool[Tensor, " n"]) -> FixedHead | None:
    """Choose the head with the best mean on one half, report it on the other, and the other way round.

    first: the images of the first half. None if a half is empty: then there is nothing to choose on.
    """
    if first.all() or not first.any():
        return None
    chosen = torch.stack([scores[~first].mean(dim=0).argmax(dim=-1), scores[first].mean(dim=0).argmax(dim=-1)])
    head_of = torch.where(first[:, None], chosen[0], chosen[1])
    return FixedHead(scores.gather(-1, head_of[..., None])[..., 0], chosen)


# Images, as a protocol shows them


VocProtocolName = Literal["published", "strict"]

UNREADABLE_IMAGE = "image unreadable"
UNREADABLE_MASK = "mask unreadable"
NO_MASK = "mask missing"
SIZES_DISAGREE = "image and mask of different sizes"
NO_OBJECT = "no object in the mask"
TOO_LARGE = "too large for the network"

_MOST_WAITING = 8
"""Batches of images that may wait for others of their size."""


@dataclass(frozen=True)
class Fault:
    """An image that is left out. kind: a constant of this module, to be counted; reason: in full, for a person."""

    name: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Sample:
    """An image as one protocol shows it to networks of one patch size, and its mask counted in their cells.

    index: of the image. window: the grey range that it was read by.
    """

    index: int
    protocol: VocProtocolName
    patch: int
    pixels: UInt8[Tensor, "3 h w"]
    truth: CellCounts
    window: Window | None = None


@dataclass(frozen=True)
class Looks:
    """How images are shown.

    protocols: in which every image is shown.
    square: side of the square that "published" resizes image and mask to, in pixels.
    short_side: of the image in "strict", which keeps its aspect, in pixels.
    patches: the patch sizes of the networks. windows: their grey ranges.
    """

    protocols: tuple[VocProtocolName, ...]
    square: int
    short_side: int
    patches: tuple[int, ...]
    windows: tuple[Window | None, ...] = (None,)

    @property
    def per_image(self) -> int:
        """Samples that an image gives."""
        return len(self.protocols) * len(self.patches) * len(self.windows)


def read_samples(images: MaskedImages, index: int, looks: Looks) -> list[Sample] | Fault:
    """All samples of an image, or why there are none."""
    name = images.names[index]
    try:
        raw = read(images.images[index])
    except UnreadableImage as error:
        return Fault(name, UNREADABLE_IMAGE, f"{images.images[index]}: {error}")
    try:
        mask = images.truth(index, (raw.values.shape[0], raw.values.shape[1]))
    except SizesDisagree as error:
        return Fault(name, SIZES_DISAGREE, str(error))
    except UserError as error:
        return Fault(name, UNREADABLE_MASK, str(error))
    try:
        samples = [
            replace(_sample(image, mask, index, protocol, patch, looks), window=window)
            for window, image in ((window, raw.rgb(window)) for window in looks.windows)
            for protocol in looks.protocols
            for patch in looks.patches
        ]
    except UserError as error:
        return Fault(name, TOO_LARGE, f"{images.images[index]}: {error}")
    if not all(sample.truth.classes for sample in samples):
        return Fault(name, NO_OBJECT, f"{images.masks[index]}: no pixel belongs to an object")
    return samples


def _sample(
    image: UInt8[ndarray, "h w 3"],
    mask: UInt8[ndarray, "h w"],
    index: int,
    protocol: VocProtocolName,
    patch: int,
    looks: Looks,
) -> Sample:
    if protocol == "published":
        pixels, mask = squared(image, looks.square), squared_mask(mask, looks.square)
    else:
        pixels = prepare(image, looks.short_side, patch)
    grid = (pixels.shape[1] // patch, pixels.shape[2] // patch)
    return Sample(index, protocol, patch, pixels, count_cells(mask, grid))


def squared(image: UInt8[ndarray, "h w 3"], side: int) -> UInt8[Tensor, "3 side side"]:
    """Resize to a square, aspect ignored: bilinear with antialiasing, as torchvision's Resize of a Pillow image."""
    pixels = torch.as_tensor(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    return F.interpolate(pixels, (side, side), mode="bilinear", antialias=True)[0]


def squared_mask(mask: UInt8[ndarray, "h w"], side: int) -> UInt8[ndarray, "side side"]:
    """The nearest pixel: what Pillow does to palette images whatever it is asked for."""
    return np.asarray(Image.fromarray(mask).resize((side, side), Image.Resampling.NEAREST))


def default_threads() -> int:
    """Reading threads: the cores this process may use, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 8)


def read_ahead(
    images: MaskedImages, looks: Looks, threads: int, ahead: int
) -> Generator[list[Sample] | Fault, None, None]:
    """`read_samples` of every image, in order; up to `ahead` of them are read before they are asked for."""
    indices = iter(range(len(images)))
    waiting: deque[Future[list[Sample] | Fault]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="voc-images") as pool:

        def submit(count: int) -> None:
            waiting.extend(pool.submit(read_samples, images, index, looks) for index in islice(indices, count))

        try:
            submit(max(ahead, 1))
            while waiting:
                found = waiting.popleft().result()
                submit(1)
                yield found
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class Batcher:
    """Groups samples that a network can see at once: of one protocol, patch, grey range and size.

    Images of a rare size wait; when too many do, the largest group goes although it is not full.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.groups: dict[tuple[str, int, Window | None, torch.Size], list[Sample]] = {}

    def add(self, samples: Sequence[Sample]) -> list[list[Sample]]:
        """Take samples in; return the groups that are to be computed now."""
        ready: list[list[Sample]] = []
        for sample in samples:
            key = (sample.protocol, sample.patch, sample.window, sample.pixels.shape)
            group = self.groups.setdefault(key, [])
            group.append(sample)
            if len(group) == self.batch_size:
                ready.append(self.groups.pop(key))
        while sum(map(len, self.groups.values())) > _MOST_WAITING * self.batch_size:
            ready.append(self.groups.pop(max(self.groups, key=lambda key: len(self.groups[key]))))
        return ready

    def rest(self) -> list[list[Sample]]:
        """The groups that never filled."""
        rest = list(self.groups.values())
        self.groups = {}
        return rest


# Measuring models side by side


PUBLISHED_MASS, PUBLISHED_SIDE = 0.6, 512
"""The mass in the text and Fig. 4 of Caron et al. 2021, and the side in Naseer et al.'s code (whose mass is 0.9)."""


@dataclass(frozen=True)
class VocConfig:
    """How attention masks are made and compared with the truth.

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
    """published is that of the literature, in which the truth chooses the head; strict chooses nothing by the truth and
    leaves void pixels out. One alone takes half of the time."""

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
    """Of the resamples, and of the halves between which the strict protocol chooses a head."""

    resamples: int = 10_000
    """Of the bootstrap, for intervals."""

    save_masks: Path | None = None
    """Folder for MODEL/IMAGE.png: 255 where the mask is, at the image's own size (strict: the mean over the heads;
    published alone: the heads that the truth chose, together)."""

    threads: int = field(default=-1, metadata=INTERNAL)

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
    def bootstrap(self) -> BootstrapConfig:
        """Return how intervals are drawn."""
        return BootstrapConfig(self.resamples, seed=self.seed)

    @property
    def all_masses(self) -> tuple[float, ...]:
        """Every mass that is measured, ascending."""
        return tuple(sorted({*self.masses, self.mass}))

    @property
    def at(self) -> int:
        """Where `mass` is in `all_masses`."""
        return self.all_masses.index(self.mass)


@dataclass(frozen=True)
class ModelScores:
    """Jaccard of one model, in [0, 1], for each of n images and each mass, ascending.

    published: mean over the classes of an image, each with its best head; None where not asked for.
    of_classes: for each image what `published` is the mean of, [masses, classes].
    strict_mean: of the mean over the maps. strict_head: of one map chosen on other images; None if there were
        too few images to choose on.
    maps: heads, or 1 for a network without.
    masks: at `mass`, one value a patch: that of the mean map, or without the strict protocol the union of the
        heads that the truth chose; empty unless asked for.
    """

    model: Model
    maps: int
    published: Float[Tensor, "n masses"] | None
    of_classes: tuple[Float[Tensor, "masses _"], ...]
    strict_mean: Float[Tensor, "n masses"] | None
    strict_head: FixedHead | None
    masks: tuple[Bool[ndarray, "_ _"], ...] = ()

    @property
    def figures(self) -> dict[str, Float[Tensor, "n masses"]]:
        """name -> values, those that there are."""
        head = None if self.strict_head is None else self.strict_head.scores
        found = {"published": self.published, "strict_mean": self.strict_mean, "strict_head": head}
        return {name: values for name, values in found.items() if values is not None}


@dataclass(frozen=True)
class VocResult:
    """What was measured, on which images.

    used: positions of the n images in `images`. classes: of each of them (of its squared mask, if published).
    faults: the images that were left out.
    whole_image: protocol -> the mean over the images, in [0, 1], of a mask of the whole image.
    """

    images: MaskedImages
    config: VocConfig
    used: tuple[int, ...]
    classes: tuple[tuple[int, ...], ...]
    faults: tuple[Fault, ...]
    models: tuple[ModelScores, ...]
    whole_image: dict[str, float]
    context: Context


def measure_voc(
    models: Sequence[Model],
    images: MaskedImages,
    config: VocConfig = VocConfig(),
    progress: Callable[[int, int], None] | None = None,
    *,
    keep_masks: bool = False,
    context: Context | None = None,
) -> VocResult:
    """Show every image to every model, once for each protocol; an image that one model cannot use counts for none.

    Raises UserError if no image can be used, sizes do not fit the networks, or a model gives no numbers.
    """
    context = context or Context()
    batch_size = 8 if context.batch_size is None else context.batch_size
    if batch_size < 1:
        raise UserError(f"the batch size is {batch_size}; it must be at least 1")
    looks = _looks(models, config)
    tell = progress or _untold
    recorders = [_Recorder(model, config, context, keep_masks) for model in models]
    batcher, faults, done = Batcher(batch_size), [_without_mask(name) for name in images.without_mask], 0
    threads = default_threads() if config.threads < 1 else config.threads

    def compute(groups: Sequence[list[Sample]]) -> None:
        nonlocal done
        for group in groups:
            for recorder in recorders:
                backbone = recorder.model.backbone
                if (backbone.patch_size, backbone.config.window) == (group[0].patch, group[0].window):
                    recorder.record(group)
            done += len(group)
            tell(done // looks.per_image, len(images))

    tell(0, len(images))
    with contextlib.closing(read_ahead(images, looks, threads, batch_size + threads)) as stream:
        for found in stream:
            if isinstance(found, Fault):
                faults.append(found)
                done += looks.per_image
            else:
                compute(batcher.add(found))
    compute(batcher.rest())
    return _gathered(images, config, recorders, faults, context)


def _looks(models: Sequence[Model], config: VocConfig) -> Looks:
    """How the images are shown to these networks. Raises UserError if that does not fit."""
    if not models:
        raise UserError("no model: give --model RUN")
    patches = tuple(sorted({model.backbone.patch_size for model in models}))
    for patch in patches:
        if "published" in config.protocols and (config.square < patch or config.square % patch):
            common = math.lcm(*patches)
            raise UserError(
                f"the published protocol's square of {config.square} px does not consist of {patch} px patches: give "
                f"--square {max(1, round(config.square / common)) * common}, or --protocol strict"
            )
        if "published" in config.protocols and (config.square // patch) ** 2 > MAX_PATCHES:
            raise UserError(
                f"the published protocol's square of {config.square} px has more than {MAX_PATCHES} patches of "
                f"{patch} px: choose a smaller one"
            )
        if "strict" in config.protocols and config.size < patch:
            raise UserError(f"--size must be at least one patch of {patch} px, not {config.size}")
    windows = tuple(dict.fromkeys(model.backbone.config.window for model in models))
    return Looks(config.protocols, config.square, config.size, patches, windows)


class _Recorder:
    """Runs one model and keeps, for each image, what its masks score."""

    def __init__(self, model: Model, config: VocConfig, context: Context, keep_masks: bool) -> None:
        self.model, self.config, self.keep_masks = model, config, keep_masks
        self.device, self.precision = context.device or torch.device("cpu"), context.precision
        model.backbone.to(self.device).eval()
        self.of_classes: dict[int, Float[Tensor, "masses classes"]] = {}
        self.classes: dict[int, tuple[int, ...]] = {}
        self.strict: dict[int, Float[Tensor, "masses maps"]] = {}
        self.masks: dict[int, Bool[ndarray, "r c"]] = {}
        self.whole: dict[str, dict[int, float]] = {protocol: {} for protocol in config.protocols}
        self.maps = 0

    def record(self, group: Sequence[Sample]) -> None:
        """Compute the maps of images of one protocol and size, and score them."""
        maps = self._maps(torch.stack([sample.pixels for sample in group]))
        self.maps = maps.shape[1]
        if group[0].protocol == "strict":
            maps = mean_and_heads(maps)
        masks = mass_masks(maps.flatten(-2), self.config.all_masses).transpose(0, 1)
        for sample, of_image in zip(group, masks, strict=True):
            if sample.truth.grid != maps.shape[-2:]:
                raise ValueError(f"maps of {tuple(maps.shape[-2:])} cells, and {sample.truth.grid} were expected")
            self._score(sample, of_image)

    def _maps(self, pixels: Tensor) -> Float[Tensor, "b maps r c"]:
        """Maps on the CPU, float32. Raises UserError if they are not finite."""
        backbone, config = self.model.backbone, self.config
        with torch.inference_mode(), autocast(self.precision, self.device):
            images = backbone.normalize(pixels.to(self.device, non_blocking=True))
            maps = MAPS[config.map](backbone, images, config.block).float().cpu()
        if not maps.isfinite().all():
            raise UserError(
                f"{self.model.label}: a map is not finite; its weights are broken (did its training diverge?)"
            )
        return maps

    def _score(self, sample: Sample, masks: Bool[Tensor, "masses maps cells"]) -> None:
        kept, (published, strict) = None, whole_image_scores(sample.truth)
        self.whole[sample.protocol][sample.index] = published if sample.protocol == "published" else strict
        if sample.protocol == "published":
            self.of_classes[sample.index], heads = published_scores(masks, sample.truth)
            if "strict" not in self.config.protocols:
                kept = masks[self.config.at][heads[self.config.at]].any(dim=0)
        else:
            self.strict[sample.index] = strict_scores(masks, sample.truth)
            kept = masks[self.config.at, 0]
        if sample.protocol == self.config.protocols[0]:
            self.classes[sample.index] = sample.truth.classes
        if self.keep_masks and kept is not None:
            self.masks[sample.index] = kept.view(sample.truth.grid).numpy()

    def scores(self, used: Sequence[int], first_half: Bool[Tensor, " n"]) -> ModelScores:
        """Put the images in order."""
        of_classes = tuple(self.of_classes[index] for index in used if self.of_classes)
        strict = torch.stack([self.strict[index] for index in used]) if self.strict else None
        return ModelScores(
            self.model,
            self.maps,
            torch.stack([each.mean(dim=-1) for each in of_classes]) if of_classes else None,
            of_classes,
            None if strict is None else strict[..., 0],
            None if strict is None else fixed_head(strict[..., 1:], first_half),
            tuple(self.masks[index] for index in used if self.masks),
        )


def _gathered(
    images: MaskedImages, config: VocConfig, recorders: Sequence[_Recorder], faults: Sequence[Fault], context: Context
) -> VocResult:
    """Raises UserError if no image was of use."""
    classes = recorders[0].classes
    if not classes:
        raise UserError(f"none of the {len(faults)} images in {images.root} can be used. The first: {faults[0].reason}")
    used = tuple(sorted(classes))
    first_half = two_halves(len(used), config.seed)
    scores = tuple(recorder.scores(used, first_half) for recorder in recorders)
    whole = {protocol: sum(found.values()) / len(found) for protocol, found in recorders[0].whole.items()}
    shown = tuple(classes[index] for index in used)
    return VocResult(images, config, used, shown, tuple(faults), scores, whole, context)


def _untold(done: int, total: int) -> None:
    pass


def _without_mask(name: str) -> Fault:
    return Fault(name, NO_MASK, f"{name} has no mask")


# The evaluation

PREFIX = "voc_jaccard_"
FIGURES = {
    "published": "published: best head by the truth",
    "strict_mean": "strict: mean over the heads",
    "strict_head": "strict: one head, chosen on other images",
}
"""Name of a metric behind `PREFIX` -> in words. As in `ModelScores.figures`."""
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
"""The two protocols in words."""


def run(models: Sequence[Model], data: Data, config: VocConfig, context: Context) -> tuple[Result, ...]:
    """Show every image to every model, and score the masks.

    Metrics are in %: those of `FIGURES` at each mass, that of the figures first; then for each class (its value in the
    masks), at that mass, the means over the images that show it. Items are the images.

    Entries of the protocol: weights, weights_hash, network, maps; fixed_heads (chosen at `mass` on the second and the
    first half); data, data_name, limit (None if it left none out), images, left_out (by reason); mass, map, block,
    precision; published and strict (the protocols in words, with their sizes, or None); resamples, confidence,
    bootstrap_seed, interval (kind of the intervals); whole_image (what a mask of the whole image scores, in %);
    masks_from (the folder of the masks, if it is another one).

    Raises UserError if no image can be used, sizes do not fit the networks, or a model gives no numbers.
    """
    images, limit = _images(data, config)
    if config.save_masks is not None:
        names = (f"{folder}/{name}.png" for folder in _mask_folders(models) for name in images.names)
        claim(config.save_masks, names, overwrite=context.overwrite)
    with context.watch("attention masks") as progress:
        keep = config.save_masks is not None
        result = measure_voc(models, images, config, progress, keep_masks=keep, context=context)
    if config.save_masks is not None:
        _write_masks(config.save_masks, result, context)
    return tuple(results_of(result, limit))


def _images(data: Data, config: VocConfig) -> tuple[MaskedImages, int | None]:
    """Return the images, and the limit if it left any out."""
    if not isinstance(data, Path):
        raise UserError("no images to measure on: give --data VOCdevkit, or a folder of images with --masks")
    found = find_masked_images(data, config.masks, config.split)
    taken = found.subset(config.limit)
    return taken, None if len(taken) == len(found) else config.limit


def _mask_folders(models: Sequence[Model]) -> list[str]:
    return folder_names([model.label for model in models])


def _write_masks(folder: Path, result: VocResult, context: Context) -> None:
    """Write each mask of whole patches at the size of its image, by the nearest patch."""
    folders = _mask_folders([scores.model for scores in result.models])
    try:
        for name in folders:
            mark(folder / name, [f"{result.images.names[index]}.png" for index in result.used])
        with context.watch("writing masks") as tell:
            for place, index in enumerate(result.used):
                height, width = result.images.classes(index).shape
                for scores, name in zip(result.models, folders, strict=True):
                    path = folder / name / f"{result.images.names[index]}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    mask = 255 * scores.masks[place].astype(np.uint8)
                    write_png(path, cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT))
                tell(place + 1, len(result.used))
    except OSError as error:
        raise UserError(f"the masks could not be written: {error}") from error


def results_of(result: VocResult, limit: int | None = None) -> list[Result]:
    """Return each model's figures with their intervals. All models share the resamples of the images."""
    config, masses = result.config, result.config.all_masses
    columns = torch.cat([values for scores in result.models for values in scores.figures.values()], dim=1)
    estimates = iter(mean_intervals(columns, config.bootstrap, [(0.0, 1.0)] * columns.shape[1]))
    results: list[Result] = []
    for scores in result.models:
        metrics = [
            estimate_metric(PREFIX + name, estimate, len(result.used), {"mass": mass})
            for name in scores.figures
            for mass, estimate in zip(masses, islice(estimates, len(masses)), strict=True)
        ]
        metrics.sort(key=lambda metric: metric.parameters["mass"] != config.mass)  # stable: those of the table first
        metrics += _class_metrics(result, scores)
        results.append(new_result("voc", _protocol(result, scores, limit), metrics, _items(result, scores)))
    return results


def _class_metrics(result: VocResult, scores: ModelScores) -> Iterator[Metric]:
    at, mass = result.config.at, result.config.mass
    for value in sorted({value for classes in result.classes for value in classes}):
        showing = [place for place, classes in enumerate(result.classes) if value in classes]
        means: dict[str, Tensor] = {}
        if scores.of_classes:
            own = [scores.of_classes[place][at, result.classes[place].index(value)] for place in showing]
            means["published"] = torch.stack(own).mean()
        if scores.strict_mean is not None:
            means["strict_mean"] = scores.strict_mean[showing, at].mean()
        for name, mean in means.items():
            parameters = {"mass": mass, "class": value}
            yield Metric(PREFIX + name, 100 * mean.item(), n=len(showing), parameters=parameters)


def _items(result: VocResult, scores: ModelScores) -> Items:
    """Every image at the chosen mass, and its classes."""
    at = result.config.at
    return Items(
        tuple(result.images.names[index] for index in result.used),
        {PREFIX + name: tuple(map(float, 100 * values[:, at])) for name, values in scores.figures.items()},
        {fault.name: fault.reason for fault in result.faults},
        {"classes": tuple(" ".join(map(str, classes)) for classes in result.classes)},
    )


def _protocol(result: VocResult, scores: ModelScores, limit: int | None) -> dict[str, Any]:
    config, model, heads = result.config, scores.model, scores.strict_head
    return {
        "weights": "random" if model.path is None else str(checkpoint.find_weights(model.path)),
        "weights_hash": model.weights_hash,
        "network": model.backbone.config.name,
        "maps": scores.maps,
        "fixed_heads": None if heads is None else list(map(int, heads.heads[:, config.at])),
        "images": len(result.used),
        "left_out": dict(Counter(fault.kind for fault in result.faults)),
        **_settings(config, result.context),
        **_data_entries(result.images, limit),
        "interval": interval_kind(len(result.used)),
        "whole_image": {name: 100 * share for name, share in result.whole_image.items()},
        "masks_from": None if config.masks is None else str(config.masks.resolve()),
    }


def _settings(config: VocConfig, context: Context) -> dict[str, Any]:
    published, strict = ("published" in config.protocols), ("strict" in config.protocols)
    sizes = {"short_side": config.size, "halves_seed": config.seed}
    return {
        "mass": config.mass,
        "map": config.map,
        "block": config.block,
        "precision": context.precision,
        "published": {"square": config.square, **PUBLISHED_SETTING} if published else None,
        "strict": {**sizes, **STRICT_SETTING} if strict else None,
        "resamples": config.bootstrap.resamples,
        "confidence": config.bootstrap.confidence,
        "bootstrap_seed": config.bootstrap.seed,
    }


def _data_entries(images: MaskedImages, limit: int | None) -> dict[str, Any]:
    return {"data": str(images.root.resolve()), "data_name": images.name, "limit": limit}


def expected(model: Model, data: Data, config: VocConfig, context: Context) -> dict[str, Any]:
    """Return what is known of a protocol before the images are read."""
    settings = _settings(config, context)
    return settings if data is None else {**settings, **_data_entries(*_images(data, config))}


def protocol_line(protocol: Mapping[str, Any]) -> str:
    """Return the protocol in one line for a person."""
    names = " and ".join(name for name in ("published", "strict") if protocol[name])
    weights = f", weights {protocol['weights']}" if "weights" in protocol else ""
    return (
        f"{names} protocol, {protocol['images']} images of {protocol['data_name']} in {protocol['data']}, masks hold "
        f"{as_percent(protocol['mass'])} of the {_title(protocol)} of block {protocol['block']}, "
        f"{protocol['precision']}{weights}"
    )


def as_percent(share: float) -> str:
    """Return a share as a person writes it."""
    return f"{round(100 * share, 4):g} %"


def _title(protocol: Mapping[str, Any]) -> str:
    return str(TITLES.get(protocol["map"], protocol["map"]))


# Published figures

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
_VOC = "VOC 2012 "
"""Before the split, the name of data in VOC's layout."""
ALL_VAL = 1449


# Tables and curves


def tables(results: Labelled, published: bool = False) -> list[Table]:
    """Return the models best first, their differences, the sweep over the mass, and the classes."""
    found = [_models_table(results, published)]
    if len(results) > 1 and all(result.items for _, result in results):
        found.append(differences_table(results, {PREFIX + name: FIGURES[name] for name in _names(results)}))
    masses = dict.fromkeys(metric.parameters["mass"] for _, result in results for metric in result.metrics)
    found += [_sweep_table(results, sorted(masses))] if len(masses) > 1 else []
    classes = sorted({m.parameters["class"] for _, r in results for m in r.metrics if "class" in m.parameters})
    found += [_classes_table(results, classes)] if classes else []
    return found


def _names(results: Labelled) -> list[str]:
    return [name for name in FIGURES if any(result.metric(PREFIX + name) for _, result in results)]


def _value(result: Result, name: str) -> float | None:
    metric = result.metric(name)
    return None if metric is None else metric.value


def _models_table(results: Labelled, published: bool) -> Table:
    """Return one row for each model, best first by a figure that no truth was used for, if there is one."""
    protocol, names = results[0][1].protocol, _names(results)
    first = PREFIX + ("strict_mean" if "strict_mean" in names else "published")
    results = sorted(results, key=lambda row: -(_value(row[1], first) or 0))
    columns = (Column("Model"), *(Column(FIGURES[name], "right") for name in names))
    metrics = [[result.metric(PREFIX + name) for name in names] for _, result in results]
    rows = [
        TableRow((label, *(ABSENT if each is None else each.text() for each in row)))
        for (label, _), row in zip(results, metrics, strict=True)
    ]
    rows = best_marked(
        rows,
        [[None, *(None if each is None else each.value for each in row)] for row in metrics],
        lambda column, top, row: settled(results[top][1], results[row][1], PREFIX + names[column - 1]),
    )
    whole = {"published": "published", "strict_mean": "strict"}
    shares = [protocol.get("whole_image", {}).get(whole.get(name, "")) for name in names]
    if any(share is not None for share in shares):
        cells = (ABSENT if share is None else f"{share:.1f}" for share in shares)
        rows = (*rows, TableRow(("(the whole image as the mask)", *cells)))
    sections = [Section(tuple(rows), "Measured here" if published else "")]
    if published:
        lines = (
            TableRow(
                (f"{weights}, {architecture}", *(f"{figure:.1f}" if name == "published" else ABSENT for name in names))
            )
            for (weights, architecture), figure in PUBLISHED.items()
        )
        sections.append(Section(tuple(lines), "Published, VOC 2012 val"))
    interval = f" [{100 * protocol['confidence']:g} % interval]" if protocol["images"] > 1 else ""
    caption = (
        f"Jaccard of {_title(protocol)} masks in %{interval}: "
        f"{protocol['data_name']}, {protocol['images']} images, masks hold {as_percent(protocol['mass'])} of the "
        f"{_title(protocol)}"
    )
    news = [
        f"{FIGURES[name]}: no model's masks are better than the whole image, {share:.1f} % against {top:.1f} % of the "
        "best"
        for name, share in zip(names, shares, strict=True)
        if share is not None and share >= (top := max(_value(result, PREFIX + name) or 0 for _, result in results))
    ]
    bold = [BOLD] if any(row.best for row in rows) else []
    source = [_source(protocol)] if published else []
    return Table(columns, tuple(sections), caption, remarks=(*news, *_remarks(results), *bold, *source))


def _source(protocol: Mapping[str, Any]) -> str:
    if protocol["images"] == ALL_VAL:
        return SOURCE
    return (
        f"{SOURCE}. Those are of all {ALL_VAL:,} images, these of {protocol['images']}: for orientation, no comparison."
    )


def has_published(protocol: Mapping[str, Any]) -> bool:
    """Return whether published figures may stand next to results of this protocol."""
    square = protocol["published"] and protocol["published"]["square"]
    return (protocol["map"], protocol["data_name"], square) == ("attention", f"{_VOC}val", PUBLISHED_SIDE)


def _remarks(results: Labelled) -> list[str]:
    """Return how the figures came about, for a person."""
    protocol = results[0][1].protocol
    published, strict, remarks = protocol["published"], protocol["strict"], [f"Images and masks: {protocol['data']}."]
    if published:
        square = published["square"]
        remarks.append(
            f"Published protocol: image and mask at {square} x {square} px. The truth chooses the head: for each class "
            "of each image the head that fits it best counts, which nobody without the truth can do. Void pixels count "
            "as not belonging to the class, as in the public script."
        )
        if square != PUBLISHED_SIDE:
            remarks[-1] += f" At {square} px instead of {PUBLISHED_SIDE} it does not compare with published figures."
        if protocol["mass"] != PUBLISHED_MASS:
            remarks[-1] += (
                f" Masks hold {as_percent(protocol['mass'])} of the attention; the paper's text says "
                f"{as_percent(PUBLISHED_MASS)}, the public script 90 %."
            )
    if strict:
        remarks.append(
            f"Strict protocol: short side {strict['short_side']} px, aspect kept, void pixels left out, one mask "
            "against all objects of an image together. The one head is chosen on one half of the images and reported "
            f"on the other, both ways (halves: seed {strict['halves_seed']})."
        )
        if any(result.protocol["fixed_heads"] is None for _, result in results):
            remarks[-1] += " There are too few images to choose a head on."
    if protocol["map"] != "attention":
        remarks.insert(0, f"Maps: {_title(protocol)}, not attention, so that nothing compares with published figures.")
    elif single := [label for label, result in results if result.protocol["maps"] == 1]:
        remarks.append(
            f"Without heads, the one map (feature energy) is taken for the head and for the mean: {', '.join(single)}."
        )
    if protocol["limit"] is not None:
        remarks.append(
            f"Only {protocol['images']} of the images, evenly spaced (--limit {protocol['limit']}): not comparable "
            "with figures on all."
        )
    bootstrap = BootstrapConfig(protocol["resamples"], protocol["confidence"])
    remarks.append(interval_line(protocol["images"], "image", bootstrap))
    if protocol["images"] > 1:
        remarks[-1] += " The choice of a head is not repeated within it."
    if protocol["left_out"]:
        counted = ", ".join(f"{count} {kind}" for kind, count in protocol["left_out"].items())
        total = sum(protocol["left_out"].values())
        items = results[0][1].items
        reason = next(iter(items.left_out.values()), "") if items else ""
        remarks.append(f"{total} of {total + protocol['images']} images are left out: {counted}.")
        remarks[-1] += f" The first: {reason}." if reason else ""
    return remarks


def _sweep_table(results: Labelled, masses: Sequence[float]) -> Table:
    """Return each figure at every mass that was asked for; the models' table is at one of them, not at the best."""
    columns = (Column("Model"), *(Column(as_percent(mass), "right") for mass in masses))
    sections: list[Section] = []
    for name in _names(results):
        rows: list[TableRow] = []
        for label, result in results:
            metrics = [result.metric(PREFIX + name, mass=mass) for mass in masses]
            if any(metrics):
                cells = (ABSENT if each is None else f"{each.value:.1f}" for each in metrics)
                rows.append(TableRow((label, *cells)))
        sections.append(Section(tuple(rows), FIGURES[name]))
    mass = as_percent(results[0][1].protocol["mass"])
    caption = f"Jaccard in % by the mass that a mask holds; the figures above are at {mass}"
    remark = "The best mass was not chosen: choosing it by these figures would be choosing by the truth."
    return Table(columns, tuple(sections), caption, remarks=(remark,))


def _classes_table(results: Labelled, classes: Sequence[float]) -> Table:
    """Return every class that occurs, by its value in the masks."""
    shown = [
        (f"{label}, {name.replace('_', ' ')}", result, PREFIX + name)
        for name in ("published", "strict_mean")
        for label, result in results
        if result.metric(PREFIX + name)
    ]
    columns = (Column("Class"), Column("Images", "right"), *(Column(title, "right") for title, _, _ in shown))
    rows: list[TableRow] = []
    for value in classes:
        metrics = [result.metric(name, **{"class": value}) for _, result, name in shown]
        count = next((each.n for each in metrics if each is not None), None)
        cells = (ABSENT if each is None else f"{each.value:.1f}" for each in metrics)
        rows.append(TableRow((f"{value:g}", str(count), *cells)))
    remark = (
        "published: the class itself, with its best head. strict mean: all objects of the images that show the class, "
        "with the mean over the heads."
    )
    return Table(columns, (Section(tuple(rows)),), "Jaccard in % by class (its value in the masks)", remarks=(remark,))


def charts(results: Labelled) -> list[LineChart]:
    """Return the sweep over the mass, if there is one."""
    protocol = results[0][1].protocol
    panels: list[LinePanel] = []
    tops: list[float] = []
    x_title = f"share of the {_title(protocol)} in the mask (%)"
    for name in _names(results):
        lines: list[Line] = []
        for label, result in results:
            found = [m for m in result.metrics if m.name == PREFIX + name and "class" not in m.parameters]
            found.sort(key=lambda metric: metric.parameters["mass"])
            x, y = (100 * m.parameters["mass"] for m in found), (m.value for m in found)
            low = (m.value if m.low is None else m.low for m in found)
            high = (m.value if m.high is None else m.high for m in found)
            lines += [Line(label, tuple(x), tuple(y), tuple(low), tuple(high))] if len(found) > 1 else []
        if lines:
            at = 100 * protocol["mass"]
            tops.append(max(max(line.high) for line in lines))
            panels.append(LinePanel(FIGURES[name], tuple(lines), x_title, "Jaccard (%)", at=at))
    if not panels:
        return []
    bootstrap = BootstrapConfig(protocol["resamples"], protocol["confidence"])
    line = interval_line(protocol["images"], "image", bootstrap)
    note = f"{protocol['data_name']}, {protocol['images']} images. {line} Dashed: the mass of the table."
    limits = (0.0, min(100.0, 1.06 * max(tops)))  # one scale: the panels are there to be compared
    shown = tuple(replace(panel, limits=limits) for panel in panels)
    return [LineChart("sweep", "Jaccard by the mass that a mask holds", shown, note)]


# Best and worst


def examples(results: Sequence[Result], models: Sequence[Model], ends: int, context: Context) -> list[Sheet]:
    """Return sheets of the best and the worst images, their truth, and each model's mask, computed again.

    Raises UserError if the images are not there any more, or their masks' place was not kept.
    """
    protocol = results[0].protocol
    name = "strict" if protocol["strict"] else "published"
    figure = PREFIX + ("strict_mean" if name == "strict" else name)
    ranked = best_first(results, figure)
    if not ranked:
        return []
    count = len(ranked)
    chosen = ranked if count <= 2 * ends else [*ranked[:ends], *ranked[count - ends :]]
    config = VocConfig(
        protocol=name,
        mass=protocol["mass"],
        masses=(),
        map=protocol["map"],
        block=protocol["block"],
        size=protocol["strict"]["short_side"] if name == "strict" else VocConfig.size,
        square=protocol["published"]["square"] if name == "published" else VocConfig.square,
    )
    images = _measured_images(protocol).named([item for item, _ in chosen])
    shown = f"best and the worst {ends}" if count > len(chosen) else "best to the worst"
    mass = f"masks hold {as_percent(protocol['mass'])}"
    how = (
        f"published, {mass}: the truth chose the head of each class, shown together; mean over classes"
        if name == "published"
        else f"strict, {mass}: mean over the heads; Jaccard with all objects; light grey: void, not counted"
    )
    caption = (
        f"The {shown} of {protocol['images']} images of {protocol['data_name']}, by the mean of the models: {how}."
    )
    sheets: list[Sheet] = []
    for begin in range(0, len(models), ABREAST):
        with context.watch("masks of the best and worst images") as progress:
            part = measure_voc(
                models[begin : begin + ABREAST], images, config, progress, keep_masks=True, context=context
            )
        rows = [_tiles(part, place) for place in range(len(part.used))]
        sheets.append(Sheet(f"pictures-{len(sheets) + 1:02d}", tuple(rows), caption))
    return sheets


def _measured_images(protocol: Mapping[str, Any]) -> MaskedImages:
    if protocol.get("masks_from"):
        return find_masked_images(Path(protocol["data"]), Path(protocol["masks_from"]))
    if not protocol["data_name"].startswith(_VOC):
        raise UserError(f"where the masks of {protocol['data']} are is not kept")
    return find_masked_images(Path(protocol["data"]), split=protocol["data_name"].removeprefix(_VOC))


def _tiles(result: VocResult, place: int) -> tuple[Tile, ...]:
    """Return an image, its truth, and the mask of each model."""
    index, window = result.used[place], result.models[0].model.backbone.config.window
    shown = fitted(decode(result.images.images[index], window=window), 300)
    truth = result.images.classes(index)
    values = [str(value) for value in np.unique(truth) if value not in (BACKGROUND, VOID)]
    classes = f"class {values[0]}" if len(values) == 1 else f"classes {', '.join(values)}"
    tiles = [Tile(shown, result.images.names[index]), Tile(truth_overlay(shown, truth), "truth", classes)]
    for scores in result.models:
        score = next(iter(scores.figures.values()))[place, result.config.at]
        tiles.append(Tile(tinted(shown, scores.masks[place]), scores.model.label, f"{100 * score:.1f} %"))
    return tuple(tiles)


def _csv(results: Labelled) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return a row for each image and model, shares in [0, 1] at the chosen mass; empty if there is no figure."""
    rows: list[tuple[str, ...]] = []
    for label, result in results:
        items, mass = result.items or Items((), {}), f"{result.protocol['mass']:g}"
        for place, image in enumerate(items.names):
            figures = (items.figures.get(PREFIX + name) for name in FIGURES)
            values = ("" if each is None else f"{each[place] / 100:.6f}" for each in figures)
            rows.append((image, label, items.facts["classes"][place] if items.facts else "", mass, *values))
    return ("image", "model", "classes", "mass", *FIGURES), rows


def _file_name(config: Any, protocol: Mapping[str, Any]) -> str:
    return variant_name("voc", protocol["map"], protocol["block"], protocol["limit"])


EVALUATION = Evaluation(
    "voc",
    "VOC",
    "Compare masks of the last block's attention, or of other maps, with the objects of PASCAL VOC 2012.",
    "masks",
    VocConfig,
    run,
    (
        base.Column("voc", "VOC Jaccard", f"{PREFIX}strict_mean"),
        base.Column("voc_published", "VOC Jaccard, best head", f"{PREFIX}published"),
    ),
    protocol_line,
    expected,
    uses=("device", "precision", "batch_size"),
    file_name=_file_name,
    tables=tables,
    charts=charts,
    examples=examples,
    csv=_csv,
    has_published=has_published,
)
