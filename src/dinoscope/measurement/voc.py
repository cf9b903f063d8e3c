"""Jaccard of the attention masks of several models on the same images, with its protocols (see `evaluation.voc`)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from dinoscope.data.benchmarks import MaskedImages
from dinoscope.errors import UserError, lookup
from dinoscope.evaluation.statistics import BootstrapConfig
from dinoscope.evaluation.voc import (
    FixedHead,
    fixed_head,
    published_scores,
    strict_scores,
    two_halves,
    whole_image_scores,
)
from dinoscope.explain.attention import MAX_PATCHES, mass_masks, mean_and_heads
from dinoscope.explain.maps import MAPS
from dinoscope.measurement.voc_images import (
    NO_MASK,
    Batcher,
    Fault,
    Looks,
    Sample,
    VocProtocolName,
    default_threads,
    read_ahead,
)
from dinoscope.model_names import Model
from dinoscope.system import autocast

PUBLISHED_MASS, PUBLISHED_SIDE = 0.6, 512
"""The mass in the text and Fig. 4 of Caron et al. 2021, and the side in Naseer et al.'s code (whose mass is 0.9)."""


@dataclass(frozen=True)
class VocConfig:
    """How attention masks are made and compared with the truth.

    mass: share of the attention that a mask holds, in the figures.
    masses: for the sweep beside them; `mass` is added.
    square: side of the square of the published protocol, in pixels. short_side: of the strict one's images.
    map, block: a kind of map, of `explain.maps.MAPS`, and the block of the transformer, -1 the last.
    seed: of the halves between which the strict protocol chooses a head.
    batch_size: images per forward, at most. threads: that read images; -1 chooses. Neither changes a figure.

    Raises UserError where a value is out of range.
    """

    protocols: tuple[VocProtocolName, ...] = ("published", "strict")
    mass: float = PUBLISHED_MASS
    masses: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
    square: int = PUBLISHED_SIDE
    short_side: int = 480
    map: str = "attention"
    block: int = -1
    seed: int = 0
    bootstrap: BootstrapConfig = field(default_factory=BootstrapConfig)
    device: torch.device = torch.device("cpu")  # noqa: RUF009 (immutable)
    precision: str = "fp32"
    batch_size: int = 8
    threads: int = -1

    def __post_init__(self) -> None:
        lookup("kind of map", self.map, MAPS)
        if not self.protocols:
            raise UserError("no protocol is asked for")
        for mass in (self.mass, *self.masses):
            if not 0 < mass <= 1:
                raise UserError(f"the mass that a mask holds is a share above 0 and at most 1, not {mass:g}")
        if self.batch_size < 1:
            raise UserError(f"the batch size is {self.batch_size}; it must be at least 1")

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
    strict_mean: of the mean over the maps. strict_head: of one map chosen on other images; None where there were
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


def measure_voc(
    models: Sequence[Model],
    images: MaskedImages,
    config: VocConfig = VocConfig(),
    progress: Callable[[int, int], None] | None = None,
    *,
    keep_masks: bool = False,
) -> VocResult:
    """Show every image to every model, once for each protocol; an image that is of no use to one counts for none.

    Raises UserError where no image can be used, sizes do not fit the networks, or a model gives no numbers.
    """
    looks = _looks(models, config)
    tell = progress or (lambda done, total: None)
    recorders = [_Recorder(model, config, keep_masks) for model in models]
    batcher, faults, done = Batcher(config.batch_size), [_without_mask(name) for name in images.without_mask], 0
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
    with contextlib.closing(read_ahead(images, looks, threads, config.batch_size + threads)) as stream:
        for found in stream:
            if isinstance(found, Fault):
                faults.append(found)
                done += looks.per_image
            else:
                compute(batcher.add(found))
    compute(batcher.rest())
    return _gathered(images, config, recorders, faults)


def _looks(models: Sequence[Model], config: VocConfig) -> Looks:
    """How the images are shown to these networks. Raises UserError where that does not fit."""
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
        if "strict" in config.protocols and config.short_side < patch:
            raise UserError(f"--size must be at least one patch of {patch} px, not {config.short_side}")
    windows = tuple(dict.fromkeys(model.backbone.config.window for model in models))
    return Looks(config.protocols, config.square, config.short_side, patches, windows)


class _Recorder:
    """Runs one model and keeps, for each image, what its masks score."""

    def __init__(self, model: Model, config: VocConfig, keep_masks: bool) -> None:
        self.model, self.config, self.keep_masks = model, config, keep_masks
        model.backbone.to(config.device).eval()
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
        """Maps on the CPU, float32. Raises UserError where they are not finite."""
        backbone, config = self.model.backbone, self.config
        with torch.inference_mode(), autocast(config.precision, config.device):
            images = backbone.normalize(pixels.to(config.device, non_blocking=True))
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
    images: MaskedImages, config: VocConfig, recorders: Sequence[_Recorder], faults: Sequence[Fault]
) -> VocResult:
    """Raises UserError where no image was of use."""
    classes = recorders[0].classes
    if not classes:
        raise UserError(f"none of the {len(faults)} images in {images.root} can be used. The first: {faults[0].reason}")
    used = tuple(sorted(classes))
    first_half = two_halves(len(used), config.seed)
    scores = tuple(recorder.scores(used, first_half) for recorder in recorders)
    whole = {protocol: sum(found.values()) / len(found) for protocol, found in recorders[0].whole.items()}
    return VocResult(images, config, used, tuple(classes[index] for index in used), tuple(faults), scores, whole)


def _without_mask(name: str) -> Fault:
    return Fault(name, NO_MASK, f"{name} has no mask")
