"""Model + images -> FeatureBank, in the evaluation protocol of DINO, with a cache on disk.

Images are shown with the short side resized and the centre cropped, in the order of their source. Features are kept in
one file per (weights, images, view, arithmetic), several for large sources. An entry holds features and the positions
of their images; names and labels always come from the source, so that relabelled images are not mistaken for what they
were.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from dinoscope import checkpoint
from dinoscope.data.grey_range import Window
from dinoscope.data.images import UnreadableImage
from dinoscope.data.loader import Batches, default_workers
from dinoscope.data.sources import ImageSource
from dinoscope.errors import UserError
from dinoscope.files import CACHE_VARIABLE, cache_folder
from dinoscope.models.foreign import PIXELS_SIZE, PixelsBackbone
from dinoscope.models.network import Backbone
from dinoscope.types import FeatureBank

Progress = Callable[[int, int], None]
"""Called with (images done, images in all) after every batch."""

Describe = Callable[[UInt8[Tensor, "b 3 h w"]], Float[Tensor, "b d"]]
"""From images to float32 features."""

_SMALL_IMAGE = 64
_LONGEST_STRIP = 16
"""Length over width beyond which the ends of an image are cut before it is resized."""

CACHE_FORMAT = 1
"""Raise it when the same weights and images give other features than before: old entries are then unused."""

PIECE = 2**15
"""Images of one entry at most: what is lost if an extraction is interrupted. With 2048 numbers each it has 270 MB."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageView:
    """The part of an image that is shown: a square of `size` pixels, which keeps `crop_fraction` of the short side.

    window: grey range of images of more than 8 bits; None takes that of each image.
    """

    size: int
    crop_fraction: float
    window: Window | None = None


@dataclass(frozen=True)
class Batch:
    """The readable ones of `asked` consecutive images (None if there are none), and their positions."""

    images: UInt8[Tensor, "b 3 s s"] | None
    positions: tuple[int, ...]
    asked: int

    def pin_memory(self) -> Batch:
        """Return the same batch in page-locked memory (called by torch's loader)."""
        return Batch(None if self.images is None else self.images.pin_memory(), self.positions, self.asked)


def default_crop_fraction(size: int) -> float:
    """Return 0.875 (resize to 256, crop 224: DINO), but 1 up to 64 pixels: small images have no margin to lose."""
    return 1.0 if size <= _SMALL_IMAGE else 0.875


def evaluation_image(image: UInt8[np.ndarray, "h w 3"], size: int, crop_fraction: float) -> UInt8[Tensor, "3 s s"]:
    """Resize the short side to round(size / crop_fraction), bicubic and antialiased; crop the centre `size`.

    The same pixels as torchvision's Resize and CenterCrop give for a Pillow image, but for rounding.
    """
    pixels = torch.from_numpy(without_ends(image)).permute(2, 0, 1)
    short = round(size / crop_fraction)
    resized = tv.resize(pixels, [short], interpolation=InterpolationMode.BICUBIC, antialias=True)
    return tv.center_crop(resized, [size, size]).contiguous()


def evaluation_batches(
    images: ImageSource, view: ImageView, *, batch_size: int, workers: int, pin: bool
) -> Batches[Batch]:
    """Return the images of a source in its order, in batches; an unreadable one makes its batch shorter.

    workers: processes (-1 chooses), though no more than there are whole batches to read.

    Raises UserError for a batch size below 1.
    """
    if batch_size < 1:
        raise UserError(f"the batch size is {batch_size}; it must be at least 1")
    chosen = default_workers(processes=1) if workers < 0 else workers
    return Batches(
        _EvaluationImages(images, view),
        min(chosen, len(images) // batch_size),
        batch_size=batch_size,
        collate_fn=_collate,
        pin_memory=pin,
        # The loader draws a seed: from here, for measuring must not disturb the generator of a training run.
        generator=torch.Generator(),
    )


class _EvaluationImages(Dataset[tuple[int, Tensor | None]]):
    """Item i is (i, uint8 [3, size, size]), or (i, None) if the image cannot be read."""

    def __init__(self, images: ImageSource, view: ImageView) -> None:
        self.images, self.view = images, view

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[int, Tensor | None]:
        try:
            image = self.images.read(index).rgb(self.view.window)
        except UnreadableImage:
            return index, None
        return index, evaluation_image(image, self.view.size, self.view.crop_fraction)


def _collate(samples: Sequence[tuple[int, Tensor | None]]) -> Batch:
    images = [image for _, image in samples if image is not None]
    positions = tuple(index for index, image in samples if image is not None)
    return Batch(torch.stack(images) if images else None, positions, len(samples))


def without_ends(image: Shaped[np.ndarray, "h w c"], times: int = _LONGEST_STRIP) -> Shaped[np.ndarray, "_ _ c"]:
    """Cut the ends off a strip that is longer than `times` its width.

    Resized whole, a line of a million pixels would not fit in memory.
    """
    height, width = image.shape[:2]
    longest = times * min(height, width)
    top, left = max(0, (height - longest) // 2), max(0, (width - longest) // 2)
    return image[top : top + longest, left : left + longest]


@dataclass(frozen=True)
class ExtractConfig:
    """How features are computed.

    device: where the network runs; it is moved there. None leaves it where it is.
    batch_size, workers: images per forward, loader processes (-1 chooses). Features do not depend on them.
    image_size: side of the square given to the network, in pixels; None takes the size of its config.
    crop_fraction: part of the resized short side that the centre crop keeps, in (0, 1]; None takes
        `default_crop_fraction` of the image size.
    dtype: of the matrix products (autocast); features are float32 in any case.
    feature: "image" is `Tokens.feature`, "linear" is `Backbone.probe_features`.
    """

    device: torch.device | None = None
    batch_size: int = 64
    workers: int = -1
    image_size: int | None = None
    crop_fraction: float | None = None
    dtype: torch.dtype = torch.float32
    feature: Literal["image", "linear"] = "image"

    def dim(self, backbone: Backbone) -> int:
        """Return the width of the features of this network."""
        return backbone.probe_dim if self.feature == "linear" else backbone.dim


def evaluation_view(backbone: Backbone, config: ExtractConfig) -> ImageView:
    """Return what `extract` shows to this network of each image: the config, with its defaults filled in.

    Raises UserError if the image is smaller than a patch, or the fraction is not in (0, 1].
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

    Raises UserError if no image can be read, or a setting is out of range.
    """
    return bank_of(images, *readable_features(backbone, images, config, progress))


def readable_features(
    backbone: Backbone, images: ImageSource, config: ExtractConfig, progress: Progress | None = None
) -> tuple[Float[Tensor, "k d"], Int[Tensor, " k"]]:
    """Return the features that `extract` gives, and the positions of their images; there may be none.

    Raises UserError if a setting is out of range.
    """
    device = config.device or backbone.mean.device
    view, pin = evaluation_view(backbone, config), device.type == "cuda"
    batches = evaluation_batches(images, view, batch_size=config.batch_size, workers=config.workers, pin=pin)
    with describing(backbone, config) as describe:
        return _gather(batches, describe, len(images), config.dim(backbone), progress)


@contextlib.contextmanager
def describing(backbone: Backbone, config: ExtractConfig) -> Iterator[Describe]:
    """Provide the function from images to features that `extract` uses, which stay on the network's device.

    The network is in evaluation mode meanwhile; afterwards every module is in the mode it was in.
    """
    device = config.device or backbone.mean.device

    def describe(images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        with torch.inference_mode(), _autocast(device, config.dtype):
            pixels = backbone.normalize(images.to(device, non_blocking=True))
            features = backbone.probe_features(pixels) if config.feature == "linear" else backbone(pixels).feature
        return features.float()

    with _evaluating(backbone.to(device)):
        yield describe


def raw_pixels(
    images: ImageSource, size: int = PIXELS_SIZE, *, workers: int = 0, progress: Progress | None = None
) -> FeatureBank:
    """Return the images themselves as features [n, 3 * size * size]: what k-NN reaches without a network.

    From each image its own mean is taken, so that the cosine of two images is the correlation of pixels.
    """
    return extract(PixelsBackbone(size), images, ExtractConfig(workers=workers), progress)


def bank_of(images: ImageSource, features: Float[Tensor, "k d"], positions: Int[Tensor, " k"]) -> FeatureBank:
    """Name and label the features of the images at `positions`; warn of those that are missing.

    Raises UserError if there are none.
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


def _autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[object]:
    return contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


@contextlib.contextmanager
def _evaluating(backbone: Backbone) -> Iterator[None]:
    modes = [(module, module.training) for module in backbone.modules()]
    backbone.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def cached_extract(
    backbone: Backbone,
    images: ImageSource,
    config: ExtractConfig,
    progress: Progress | None = None,
    place: Path | None = None,
) -> FeatureBank:
    """Return what `extract` gives, or gave before for these weights, images and settings.

    place: the folder that it is kept in; None is `cache_folder`'s. An interrupted extraction continues
        after the last whole piece of `PIECE` images.

    Images are recognised by key, size in bytes and time of change; from a source without these, nothing is kept. A
    damaged entry is replaced, and one that cannot be written is done without; both with a warning. Raises UserError as
    `extract` does.
    """
    if images.stamp(0) is None:
        return extract(backbone, images, config, progress)
    place, weights = cache_folder("features") if place is None else place, checkpoint.weights_hash(backbone)
    total, view = len(images), evaluation_view(backbone, config)
    features, positions, filled = torch.empty(total, config.dim(backbone)), list[Tensor](), 0
    for start in range(0, max(total, 1), PIECE):
        piece = images.subset(range(start, min(start + PIECE, total)))
        file = place / f"{_key(weights, piece, view, config)}.safetensors"
        found = _read(file, dim=config.dim(backbone))
        if found is None:
            found = readable_features(backbone, piece, config, _counted_on(progress, start, total))
            _write(file, *found)
        features[filled : filled + len(found[0])] = found[0]
        positions.append(found[1] + start)
        filled += len(found[0])
    return bank_of(images, features[:filled], torch.cat(positions))


def _counted_on(progress: Progress | None, start: int, total: int) -> Progress | None:
    return None if progress is None else lambda done, _: progress(start + done, total)


def _key(weights: str, images: ImageSource, view: ImageView, config: ExtractConfig) -> str:
    parts = (
        CACHE_FORMAT,
        weights,
        images.fingerprint(),
        _times_hash(images),
        view.size,
        view.crop_fraction,
        config.dtype,
        config.feature,
    )
    return hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=16).hexdigest()


def _times_hash(images: ImageSource) -> str:
    # Digest of the times of change: an image drawn again may have as many bytes as the old one.
    digest = hashlib.blake2b(digest_size=16)
    for index in range(len(images)):
        stamp = images.stamp(index)
        digest.update(b"%d\0" % (-1 if stamp is None else stamp[1]))
    return digest.hexdigest()


def _read(file: Path, *, dim: int) -> tuple[Float[Tensor, "k d"], Int[Tensor, " k"]] | None:
    # The features and positions that `_write` stored, or None; only what has checksums is trusted.
    if not file.is_file():
        return None
    try:
        entry = checkpoint.load(file)
    except UserError as error:
        _log.warning("cached features are damaged and are extracted again: %s", error)
        return None
    if not entry.verified:
        _log.warning("cached features are of an earlier version, without checksums, and are extracted again: %s", file)
        return None
    features, positions = entry.tensors.get("features"), entry.tensors.get("positions")
    if (
        features is None
        or positions is None
        or features.shape != (len(positions), dim)
        or entry.metadata.get("entry") != file.stem
        or not features.isfinite().all()
    ):
        _log.warning("cached features are not as they were written and are extracted again: %s", file)
        return None
    return features, positions


def _write(file: Path, features: Float[Tensor, "k d"], positions: Int[Tensor, " k"]) -> None:
    if not features.isfinite().all():  # a model's own NaN: nothing to keep, and when read it would count as damage
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        facts = {"format": CACHE_FORMAT, "entry": file.stem}
        checkpoint.save(file, {"features": features, "positions": positions}, facts)
    except OSError as error:
        _log.warning("features are not kept: %s (%s names another folder)", error, CACHE_VARIABLE)
