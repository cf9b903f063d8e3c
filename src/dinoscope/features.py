"""Model + images -> FeatureBank, in the evaluation protocol of DINO, with a cache on disk; and features as files.

Images are shown with the short side resized and the centre cropped, in the order of their source. Features are cached
in one file per (weights, images, view, arithmetic), several for large sources. An entry holds features and the
positions of their images; names and labels always come from the source, which may have been relabelled since.
"""

from __future__ import annotations

import contextlib
import copy
import csv
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from dinoscope import checkpoint, distributed
from dinoscope.data.grey_range import Window, is_joined
from dinoscope.data.images import UnreadableImage
from dinoscope.data.loader import Batches, workers_for
from dinoscope.data.reader import require_fit
from dinoscope.data.sources import ImageSource, evenly
from dinoscope.errors import UserError
from dinoscope.files import CACHE_VARIABLE, cache_folder
from dinoscope.models.network import Backbone, require_fitted
from dinoscope.text import spreadsheet_cell
from dinoscope.types import FeatureBank

Progress = Callable[[int, int], None]
"""Called with (images done, images in all) after every batch."""

Watch = Callable[[str], AbstractContextManager[Progress]]
"""Takes what is being done; gives a function to call with (done, total) meanwhile."""

Describe = Callable[[UInt8[Tensor, "b c h w"]], Float[Tensor, "b d"]]
"""From images to float32 features."""

_SMALL_IMAGE = 64
_LONGEST_STRIP = 16
"""Length over width beyond which the ends of an image are cut before it is resized."""

CACHE_FORMAT = 1
"""Raise it when the same weights and images give other features than before: old entries are then unused."""

PIECE = 2**15
"""Images of one entry at most: what is lost if an extraction is interrupted. With 2048 numbers each it has 270 MB."""

_log = logging.getLogger(__name__)


# The image that the network is given


@dataclass(frozen=True)
class ImageView:
    """The part of an image that is shown: a square of `size` pixels, which keeps `crop_fraction` of the short side.

    window: grey range of images of more than 8 bits; None takes that of each image.
    channels: that the network takes. slices: with which it is given an image.
    """

    size: int
    crop_fraction: float
    window: Window | None = None
    channels: int = 3
    slices: int = 1


def default_crop_fraction(size: int) -> float:
    """Return 0.875 (resize to 256, crop 224: DINO), but 1 up to 64 pixels: small images have no margin to lose."""
    return 1.0 if size <= _SMALL_IMAGE else 0.875


def evaluation_image(image: UInt8[np.ndarray, "h w c"], size: int, crop_fraction: float) -> UInt8[Tensor, "c s s"]:
    """Resize the short side to round(size / crop_fraction), bicubic and antialiased; crop the centre `size`.

    Except for rounding, torchvision's Resize and CenterCrop give the same pixels for a Pillow image.
    """
    pixels = torch.from_numpy(without_ends(image)).permute(2, 0, 1)
    short = round(size / crop_fraction)
    resized = tv.resize(pixels, [short], interpolation=InterpolationMode.BICUBIC, antialias=True)
    return tv.center_crop(resized, [size, size]).contiguous()


def without_ends(image: Shaped[np.ndarray, "h w c"], times: int = _LONGEST_STRIP) -> Shaped[np.ndarray, "_ _ c"]:
    """Cut the ends off a strip longer than `times` its width: resizing a line of a million pixels takes much memory."""
    height, width = image.shape[:2]
    longest = times * min(height, width)
    top, left = max(0, (height - longest) // 2), max(0, (width - longest) // 2)
    return image[top : top + longest, left : left + longest]


class _EvaluationImages(Dataset[tuple[int, Tensor | None]]):
    """Item i is (i, uint8 [channels, size, size]), or (i, None) if the image cannot be read."""

    def __init__(self, images: ImageSource, view: ImageView) -> None:
        self.images, self.view = images.with_slices(view.slices), view

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[int, Tensor | None]:
        try:
            image = self.images.read(index).pixels(self.view.channels, self.view.window)
        except UnreadableImage:
            return index, None
        return index, evaluation_image(image, self.view.size, self.view.crop_fraction)


def _collate(samples: Sequence[tuple[int, Tensor | None]]) -> tuple[Tensor | None, list[int], int]:
    """Return the readable images, None if there are none, their positions, and the number of all images."""
    images = [image for _, image in samples if image is not None]
    positions = [index for index, image in samples if image is not None]
    return torch.stack(images) if images else None, positions, len(samples)


# Extraction


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
    return ImageView(size, fraction, backbone.config.window, backbone.config.channels, backbone.config.slices)


@contextlib.contextmanager
def evaluation_mode(backbone: Backbone, device: torch.device) -> Iterator[None]:
    """Move a network and keep it in evaluation mode meanwhile; afterwards every module is in the mode it was in.

    Raises UserError as `require_fitted` does.
    """
    require_fitted(backbone)
    modes = [(module, module.training) for module in backbone.to(device).modules()]
    backbone.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def describing(backbone: Backbone, config: ExtractConfig) -> Iterator[Describe]:
    """Provide the function from images to features that `extract` uses, which stay on the network's device.

    Modes and errors are as of `evaluation_mode`.
    """
    device = config.device or backbone.mean.device

    def describe(images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        exact = config.dtype == torch.float32
        with torch.inference_mode(), contextlib.nullcontext() if exact else torch.autocast(device.type, config.dtype):
            pixels = backbone.normalize(images.to(device, non_blocking=True))
            features = backbone.probe_features(pixels) if config.feature == "linear" else backbone(pixels).feature
        return features.float()

    with evaluation_mode(backbone, device):
        yield describe


def extract(
    backbone: Backbone, images: ImageSource, config: ExtractConfig, progress: Progress | None = None
) -> FeatureBank:
    """Return the feature of every readable image, float32 on the CPU, in the order of the source.

    Images that cannot be read are left out of features, labels and paths alike, and counted in a warning. Raises
    UserError if no image can be read, or a setting is out of range.
    """
    return _bank(images, *readable_features(backbone, images, config, progress))


def readable_features(
    backbone: Backbone, images: ImageSource, config: ExtractConfig, progress: Progress | None = None
) -> tuple[Float[Tensor, "k d"], Int[Tensor, " k"]]:
    """Return the features that `extract` gives, and the positions of their images; there may be none.

    Raises UserError if a setting is out of range.
    """
    total, batches = len(images), _batches(backbone, images, config)
    features, positions, done = torch.empty(total, config.dim(backbone)), list[int](), 0
    with describing(backbone, config) as describe:
        for pixels, places, count in batches:
            if pixels is not None:
                features[len(positions) : len(positions) + len(places)] = describe(pixels)
                positions += places
            done += count
            if progress is not None:
                progress(done, total)
    return features[: len(positions)], torch.tensor(positions, dtype=torch.int64)


def _batches(
    backbone: Backbone, images: ImageSource, config: ExtractConfig
) -> Batches[tuple[Tensor | None, list[int], int]]:
    # What `_collate` returns of all images.
    view, total = evaluation_view(backbone, config), len(images)
    require_channels(backbone, images)
    if config.batch_size < 1:
        raise UserError(f"the batch size is {config.batch_size}; it must be at least 1")
    return Batches[tuple[Tensor | None, list[int], int]](
        _EvaluationImages(images, view),
        min(workers_for(config.workers), total // config.batch_size),  # a process has a whole batch to read
        batch_size=config.batch_size,
        collate_fn=_collate,
        pin_memory=(config.device or backbone.mean.device).type == "cuda",
        # The loader draws a seed: from here, for measuring must not disturb the generator of a training run.
        generator=torch.Generator(),
    )


def require_channels(backbone: Backbone, images: ImageSource) -> None:
    """Raise UserError if the first image that can be read cannot be given to the network."""
    config = backbone.config
    for index in range(len(images)):
        try:
            header = images.header(index)
        except UnreadableImage:
            continue
        try:
            require_fit(header, config.channels, config.window, config.slices)
        except UnreadableImage as error:
            made = config.slices > 1 or is_joined(config.window)
            fault = f"{images.keys[index]} {error}" if made else f"images of {header.channels} channels"
            raise UserError(f"{images.name}: {fault}, and {config.name} takes {config.channels}") from error
        return


def _bank(images: ImageSource, features: Float[Tensor, "k d"], positions: Int[Tensor, " k"]) -> FeatureBank:
    """Name and label the features of the images at `positions`; warn of those that are missing.

    Raises UserError if there are none.
    """
    missing = sorted(set(range(len(images))).difference(positions.tolist()))
    if not len(positions):
        raise UserError(f"{images.name}: none of the {len(images)} images can be read; see `dinoscope scan`")
    if missing:
        count, first = f"{len(missing)} of {len(images)}", images.keys[missing[0]]
        _log.warning("%s: %s images cannot be read and are left out, as %s", images.name, count, first)
    readable = images.subset(positions.tolist())
    labels = None if readable.labels is None else torch.tensor(readable.labels)
    groups = None if readable.groups is None else torch.tensor(np.asarray(readable.groups, np.int64))
    return FeatureBank(features, labels, tuple(readable.keys), readable.classes, groups)


# Baselines that are made from images


def fitted(
    backbone: Backbone,
    images: ImageSource,
    config: ExtractConfig,
    watch: Watch,
    *,
    cached: bool = True,
    place: Path | None = None,
) -> Backbone:
    """Return the backbone, fitted to images without their labels if it must be (`Backbone.fit`); the given one stays.

    Of many images, `Fit.max_images` are taken, evenly spaced. What was learned is cached like features, under a hash of
    these images and the settings: cached, place as of `Context`. watch: shows progress.

    Raises UserError if no image can be read.
    """
    fit = backbone.fit
    if fit is None:
        return backbone
    chosen, view = images.subset(evenly(len(images), fit.max_images)), evaluation_view(backbone, config)
    exact = replace(config, dtype=torch.float32, feature="image")
    key = _cache_key(checkpoint.weights_hash(backbone), chosen, view, exact)
    file = (cache_folder("fitted") if place is None else place) / f"{backbone.config.name}-{key}.safetensors"
    cached = cached and images.stamp(0) is not None
    made = copy.deepcopy(backbone)
    tensors = _read_fitted(file, made) if cached else None
    if tensors is None:
        name, count = backbone.config.name, len(chosen)
        with watch(f"fitting {name}") as progress:  # reading counts as half of it
            parts = _readable_batches(backbone, chosen, config, lambda done: progress(done, 2 * count))
            tensors = fit.learn(parts, lambda done, total: progress(count + count * done // total, 2 * count))
        if cached:
            _save(file, tensors, f"{name} is not cached")
    made.load_state_dict(tensors)
    return made


def _readable_batches(
    backbone: Backbone, images: ImageSource, config: ExtractConfig, progress: Callable[[int], None]
) -> Iterator[UInt8[Tensor, "b c s s"]]:
    device, done, readable = config.device or backbone.mean.device, 0, False
    for pixels, _, count in _batches(backbone, images, config):
        if pixels is not None:
            readable = True
            yield pixels.to(device)
        done += count
        progress(done)
    if not readable:
        raise UserError(f"{images.name}: none of the {len(images)} images can be read; see `dinoscope scan`")


def _read_fitted(file: Path, backbone: Backbone) -> dict[str, Tensor] | None:
    # What `fitted` stored for this backbone, or None; only what has checksums is trusted.
    if not file.is_file():
        return None
    shapes = {name: tensor.shape for name, tensor in backbone.state_dict().items()}
    with contextlib.suppress(UserError):
        entry = checkpoint.load(file)
        found = {name: tensor.shape for name, tensor in entry.tensors.items()}
        if entry.verified and found == shapes and entry.metadata.get("entry") == file.stem:
            return dict(entry.tensors)
    _log.warning("%s is damaged, and %s is fitted again", file, backbone.config.name)
    return None


# The cache


def cached_extract(
    backbone: Backbone,
    images: ImageSource,
    config: ExtractConfig,
    progress: Progress | None = None,
    place: Path | None = None,
) -> FeatureBank:
    """Return what `extract` gives, or gave before for these weights, images and settings.

    place: folder of the cache; None is `cache_folder`'s. An interrupted extraction continues after the last whole piece
        of `PIECE` images. Processes of a group share the pieces, and read those of the others in this folder, which all
        of them must see.

    Images are recognised by key, size in bytes and time of change; features of a source without these are not cached. A
    damaged entry is replaced, and one that cannot be written is not cached; both with a warning. Raises UserError as
    `extract` does.
    """
    if images.stamp(0) is None:
        return extract(backbone, images, config, progress)
    if not backbone.has_own_probe:  # one entry serves both kinds of feature
        config = replace(config, feature="image")
    place, weights = cache_folder("features") if place is None else place, checkpoint.weights_hash(backbone)
    total, view = len(images), evaluation_view(backbone, config)
    starts, report = range(0, max(total, 1), PIECE), progress or (lambda done, total: None)

    def of_piece(start: int) -> tuple[Float[Tensor, "k d"], Int[Tensor, " k"]]:
        piece = images.subset(range(start, min(start + PIECE, total)))
        file = place / f"{_cache_key(weights, piece, view, config)}.safetensors"
        entry = _read(file, dim=config.dim(backbone))
        if entry is None:
            entry = readable_features(backbone, piece, config, lambda done, _: report(start + done, total))
            _write(file, *entry)
        return entry

    if distributed.world_size() > 1:
        require_same(images)
        for number in distributed.own_share(len(starts)):
            of_piece(starts[number])
        distributed.barrier()
    features, positions, filled = torch.empty(total, config.dim(backbone)), list[Tensor](), 0
    for start in starts:
        entry = of_piece(start)
        features[filled : filled + len(entry[0])] = entry[0]
        positions.append(entry[1] + start)
        filled += len(entry[0])
    return _bank(images, features[:filled], torch.cat(positions))


def require_same(images: ImageSource) -> None:
    """Raise UserError if the processes of a group do not have the same images."""
    if len(set(distributed.gather_texts(images.fingerprint()))) > 1:
        raise UserError(f"{images.name}: the processes do not find the same images; all must see one folder")


def _cache_key(weights: str, images: ImageSource, view: ImageView, config: ExtractConfig) -> str:
    stamps = (images.stamp(index) for index in range(len(images)))
    # The times of change too: an image drawn again may have as many bytes as the old one.
    times = _digest(b"".join(b"%d\0" % (-1 if stamp is None else stamp[1]) for stamp in stamps))
    parts = (CACHE_FORMAT, weights, images.fingerprint(), times, view.size, view.crop_fraction)
    context = images.with_slices(view.slices).neighbours_fingerprint()
    parts = (*parts, config.dtype, config.feature, *([context] if context else []))
    return _digest("\0".join(map(str, parts)).encode())


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _read(file: Path, *, dim: int) -> tuple[Float[Tensor, "k d"], Int[Tensor, " k"]] | None:
    # The features and positions that `_write` stored, or None; only what has checksums is trusted.
    if not file.is_file():
        return None
    try:
        entry = checkpoint.load(file)
    except UserError as error:
        _log.warning("cached features are damaged and are extracted again: %s", error)
        return None
    features, positions = entry.tensors.get("features"), entry.tensors.get("positions")
    if not entry.verified:
        fault = "of an earlier version, without checksums,"
    elif (
        features is None
        or positions is None
        or features.shape != (len(positions), dim)
        or entry.metadata.get("entry") != file.stem
        or not features.isfinite().all()
    ):
        fault = "not as they were written"
    else:
        return features, positions
    _log.warning("cached features are %s and are extracted again: %s", fault, file)
    return None


def _write(file: Path, features: Float[Tensor, "k d"], positions: Int[Tensor, " k"]) -> None:
    if not features.isfinite().all():  # a model's own NaN: nothing to keep, and when read it would count as damage
        return
    _save(file, {"features": features, "positions": positions}, "features are not cached")


def _save(file: Path, tensors: dict[str, Tensor], fault: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.save(file, tensors, {"format": CACHE_FORMAT, "entry": file.stem})
    except OSError as error:
        _log.warning("%s: %s (%s names another folder)", fault, error, CACHE_VARIABLE)


# Files


def _columns(bank: FeatureBank) -> tuple[list[str], list[str] | None, list[str]]:
    """Return the paths, the names of the classes (None without labels), and the names of the features.

    Bytes that are not UTF-8 (Linux allows them in names) become U+FFFD: the files are UTF-8.
    """

    def portable(names: Iterable[str]) -> list[str]:
        return [name.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for name in names]

    labels = None if bank.labels is None else portable(bank.classes[label] for label in bank.labels.tolist())
    return portable(bank.paths), labels, [f"feature_{index}" for index in range(bank.features.shape[1])]


def write_npz(path: Path, bank: FeatureBank) -> None:
    """Write the arrays path, label (with labels) and features; they open without pickle."""
    paths, labels, _ = _columns(bank)
    arrays = {"path": np.array(paths), "features": bank.features.numpy()}
    if labels is not None:
        arrays["label"] = np.array(labels)
    with path.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType] (no array is called allow_pickle)


def write_csv(path: Path, bank: FeatureBank) -> None:
    """Write a header and one row per image; nine digits give every float32 back exactly."""
    paths, labels, names = _columns(bank)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", *names])
        for name, label, feature in zip(paths, labels or [""] * len(paths), bank.features.tolist(), strict=True):
            writer.writerow([spreadsheet_cell(name), spreadsheet_cell(label), *(f"{value:.9g}" for value in feature)])


def write_parquet(path: Path, bank: FeatureBank) -> None:
    """Write the columns of csv, float32, null if there are no labels."""
    import pyarrow as pa  # pyright: ignore[reportMissingImports] (an extra)
    import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

    paths, labels, names = _columns(bank)
    texts = {"path": paths, "label": labels or [None] * len(paths)}
    columns = {name: pa.array(values, pa.string()) for name, values in texts.items()}
    columns |= {name: pa.array(values) for name, values in zip(names, bank.features.T.numpy(), strict=True)}
    pq.write_table(pa.table(columns), path)


WRITERS = {".npz": write_npz, ".csv": write_csv, ".parquet": write_parquet}
"""Ending of a file's name -> the function that writes features to it."""
