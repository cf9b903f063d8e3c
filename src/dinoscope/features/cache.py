"""Features kept on disk: one file per (weights, images, view, arithmetic), of large folders several.

An entry holds features and the positions of their images in the folder. Names and labels always come from the
folder, so that relabelled images are not mistaken for what they were.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dinoscope import checkpoint
from dinoscope.data.sources import ImageSource
from dinoscope.errors import UserError
from dinoscope.features.extraction import ExtractConfig, Progress, bank_of, evaluation_view, extract, readable_features
from dinoscope.features.images import ImageView
from dinoscope.files import CACHE_VARIABLE, cache_folder
from dinoscope.models.backbone import Backbone
from dinoscope.types import FeatureBank

CACHE_FORMAT = 1
"""Raise it when the same weights and images give other features than before: old entries are then unused."""

PIECE = 2**15
"""Images of one entry at most: what is lost where an extraction is broken off. With 2048 numbers each it has 270 MB."""

_log = logging.getLogger(__name__)


def cached_extract(
    backbone: Backbone,
    images: ImageSource,
    config: ExtractConfig,
    progress: Progress | None = None,
    place: Path | None = None,
) -> FeatureBank:
    """`extract`, or what it returned before for these weights, images and settings.

    place: the folder that it is kept in; None is `cache_folder`'s. An extraction that was broken off goes on after
        the last whole piece of `PIECE` images.

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
    """The same for a piece that begins at `start` of `total` images."""
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
    """Digest of the times of change: an image drawn anew may have as many bytes as the old one."""
    digest = hashlib.blake2b(digest_size=16)
    for index in range(len(images)):
        stamp = images.stamp(index)
        digest.update(b"%d\0" % (-1 if stamp is None else stamp[1]))
    return digest.hexdigest()


def _read(file: Path, *, dim: int) -> tuple[Float[Tensor, "k d"], Int[Tensor, " k"]] | None:
    """Return the features and positions that `_write` stored, or None; only what has checksums is believed."""
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
