"""Features of all images of a source: the image feature (class token or pooled vector), or that of linear probes."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from dinoscope.data.sources import ImageSource
from dinoscope.errors import UserError
from dinoscope.features.images import Batch, ImageView, default_crop_fraction, evaluation_batches
from dinoscope.models.backbone import Backbone
from dinoscope.types import FeatureBank

Progress = Callable[[int, int], None]
"""Told (images done, images in all) after every batch."""

Describe = Callable[[UInt8[Tensor, "b 3 h w"]], Float[Tensor, "b d"]]
"""From images to float32 features."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExtractConfig:
    """How features are computed.

    device: where the network runs; it is moved there. None leaves it where it is.
    batch_size, workers: images per forward, loader processes (-1 chooses). Features do not depend on them.
    image_size: side of the square given to the network, in pixels; None takes the size of its config.
    crop_fraction: part of the resized short side that the centre crop keeps, in (0, 1]; None takes
        `default_crop_fraction` of the image size.
    dtype: of the matrix products (autocast); features are float32 in any case.
    feature: "image" is `Tokens.feature`, "linear" is `Backbone.linear_feature`.
    """

    device: torch.device | None = None
    batch_size: int = 64
    workers: int = -1
    image_size: int | None = None
    crop_fraction: float | None = None
    dtype: torch.dtype = torch.float32
    feature: Literal["image", "linear"] = "image"

    def dim(self, backbone: Backbone) -> int:
        """Width of the features of this network."""
        return backbone.linear_dim if self.feature == "linear" else backbone.dim


def evaluation_view(backbone: Backbone, config: ExtractConfig) -> ImageView:
    """What `extract` shows to this network of each image: the config, with its defaults filled in.

    Raises UserError where the image is smaller than a patch, or the fraction is not in (0, 1].
    """
    size = backbone.config.image_size if config.image_size is None else config.image_size
    if size < backbone.patch_size:
        raise UserError(
            f"the image size is {size}, but {backbone.config.name} needs at least one patch of "
            f"{backbone.patch_size} px (its own image size is {backbone.config.image_size})"
        )
    fraction = default_crop_fraction(size) if config.crop_fraction is None else config.crop_fraction
    if not 0 < fraction <= 1:
        raise UserError(f"the crop fraction is {fraction}; it must be above 0 and at most 1 (nothing cut off)")
    return ImageView(size, fraction, backbone.config.window)


def extract(
    backbone: Backbone, images: ImageSource, config: ExtractConfig, progress: Progress | None = None
) -> FeatureBank:
    """Return the feature of every readable image, float32 on the CPU, in the order of the source.

    Images that cannot be read are left out of features, labels and paths alike, and counted in a warning. The
    network's modules are afterwards in the modes they were in.

    Raises UserError where no image can be read, or a setting is out of range.
    """
    return bank_of(images, *readable_features(backbone, images, config, progress))


def readable_features(
    backbone: Backbone, images: ImageSource, config: ExtractConfig, progress: Progress | None = None
) -> tuple[Float[Tensor, "k d"], Int[Tensor, " k"]]:
    """The features that `extract` gives, and the positions of their images; there may be none.

    Raises UserError where a setting is out of range.
    """
    device = config.device or backbone.mean.device
    view, pin = evaluation_view(backbone, config), device.type == "cuda"
    batches = evaluation_batches(images, view, batch_size=config.batch_size, workers=config.workers, pin=pin)
    with describing(backbone, config) as describe:
        return _gather(batches, describe, len(images), config.dim(backbone), progress)


@contextlib.contextmanager
def describing(backbone: Backbone, config: ExtractConfig) -> Iterator[Describe]:
    """Give the function from images to features that `extract` uses, which stay on the network's device.

    The network is in evaluation mode meanwhile; afterwards every module is in the mode it was in.
    """
    device = config.device or backbone.mean.device

    def describe(images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        with torch.inference_mode(), _autocast(device, config.dtype):
            pixels = backbone.normalize(images.to(device, non_blocking=True))
            features = backbone.linear_feature(pixels) if config.feature == "linear" else backbone(pixels).feature
        return features.float()

    with _evaluating(backbone.to(device)):
        yield describe


def raw_pixels(
    images: ImageSource, size: int = 32, *, workers: int = 0, progress: Progress | None = None
) -> FeatureBank:
    """The images themselves as features [n, 3 * size * size]: what k-NN reaches without a network.

    From each image its own mean is taken, so that the cosine of two images is the correlation of pixels.
    """
    view = ImageView(size, default_crop_fraction(size))
    batches = evaluation_batches(images, view, batch_size=64, workers=workers, pin=False)
    features, positions = _gather(batches, _centred_pixels, len(images), 3 * size * size, progress)
    return bank_of(images, features, positions)


def bank_of(images: ImageSource, features: Float[Tensor, "k d"], positions: Int[Tensor, " k"]) -> FeatureBank:
    """Name and label the features of the images at `positions`; warn of those that are missing.

    Raises UserError where there are none.
    """
    kept = positions.tolist()
    missing = sorted(set(range(len(images))).difference(kept))
    if not kept:
        raise UserError(f"{images.name}: none of the {len(images)} images can be read; see `dinoscope scan`")
    if missing:
        count, first = f"{len(missing)} of {len(images)}", images.key(missing[0])
        _log.warning("%s: %s images cannot be read and are left out, as %s", images.name, count, first)
    readable = images.subset(kept)
    labels = None if readable.labels is None else torch.tensor(readable.labels)
    return FeatureBank(features, labels, tuple(readable.keys), readable.classes)


def _gather(
    batches: Iterable[Batch],
    describe: Describe,
    total: int,
    dim: int,
    progress: Progress | None,
) -> tuple[Float[Tensor, "k d"], Int[Tensor, " k"]]:
    """Describe all batches; return the features of the k readable images of `total`, and their positions."""
    features, positions, done = torch.empty(total, dim), list[int](), 0
    for batch in batches:
        if batch.images is not None:
            first = len(positions)
            positions += batch.positions
            features[first : len(positions)] = describe(batch.images)
        done += batch.asked
        if progress is not None:
            progress(done, total)
    return features[: len(positions)], torch.tensor(positions, dtype=torch.int64)


def _centred_pixels(images: UInt8[Tensor, "b 3 s s"]) -> Float[Tensor, "b d"]:
    pixels = images.flatten(1).float() / 255
    return pixels - pixels.mean(dim=1, keepdim=True)


def _autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[object]:
    return contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


@contextlib.contextmanager
def _evaluating(backbone: Backbone) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module is in the mode it was in."""
    modes = [(module, module.training) for module in backbone.modules()]
    backbone.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
