"""Features kept on disk: one file per (weights, images, view, arithmetic).

An entry holds features and the positions of their images in the folder. Names and labels always come from the
folder, so that relabelled images are not mistaken for what they were.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dinoscope import checkpoint
from dinoscope.cache import CACHE_VARIABLE, cache_folder
from dinoscope.data.folder import ImageFolder
from dinoscope.errors import UserError
from dinoscope.features.extraction import ExtractConfig, Progress, bank_of, evaluation_view, extract
from dinoscope.models.backbone import Backbone, without_drop_path
from dinoscope.settings import to_dict
from dinoscope.types import FeatureBank

CACHE_FORMAT = 1
"""Raise it when the same weights and images give other features than before: old entries are then unused."""

_log = logging.getLogger(__name__)


def cached_extract(
    backbone: Backbone, folder: ImageFolder, config: ExtractConfig, progress: Progress | None = None
) -> FeatureBank:
    """`extract`, or what it returned before for these weights, images and settings, from `cache_folder`.

    Images are recognised by relative path, size in bytes and time of change. A damaged entry is replaced, and
    one that cannot be written is done without; both with a warning. Raises UserError as `extract` does.
    """
    file = cache_folder("features") / f"{_key(backbone, folder, config)}.safetensors"
    found = _read(file, dim=config.dim(backbone))
    if found is not None:
        return bank_of(folder, *found)
    bank = extract(backbone, folder, config, progress)
    position = {path: index for index, path in enumerate(folder.paths)}
    _write(file, bank.features, torch.tensor([position[path] for path in bank.paths]))
    return bank


def weights_hash(backbone: Backbone) -> str:
    """32 hex digits of all that decides what the network computes: its config and its weights."""
    digest = hashlib.blake2b(digest_size=16)
    config = to_dict(without_drop_path(backbone.config))
    if config["position_size"] is None:  # results of before there was this setting stay those of their weights
        del config["position_size"]
    digest.update(json.dumps(config, sort_keys=True).encode())
    for name, tensor in sorted(backbone.state_dict().items()):
        digest.update(f"\0{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _key(backbone: Backbone, folder: ImageFolder, config: ExtractConfig) -> str:
    view = evaluation_view(backbone, config)
    parts = (
        CACHE_FORMAT,
        weights_hash(backbone),
        folder.fingerprint(),
        _times_hash(folder),
        view.size,
        view.crop_fraction,
        config.dtype,
        config.feature,
    )
    return hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=16).hexdigest()


def _times_hash(folder: ImageFolder) -> str:
    """Digest of the times of change: an image drawn anew may have as many bytes as the old one."""
    digest = hashlib.blake2b(digest_size=16)
    for index in range(len(folder)):
        path = folder.path(index)
        digest.update(b"%d\0" % (path.stat().st_mtime_ns if path.exists() else -1))
    return digest.hexdigest()


def _read(file: Path, *, dim: int) -> tuple[Float[Tensor, "k d"], Int[Tensor, " k"]] | None:
    """Return the features and positions that `_write` stored, or None."""
    if not file.is_file():
        return None
    try:
        tensors = checkpoint.load(file).tensors
    except UserError as error:
        _log.warning("cached features are damaged and are extracted again: %s", error)
        return None
    features, positions = tensors.get("features"), tensors.get("positions")
    if features is None or positions is None or features.shape != (len(positions), dim):
        _log.warning("cached features are not as they were written and are extracted again: %s", file)
        return None
    return features, positions


def _write(file: Path, features: Float[Tensor, "k d"], positions: Int[Tensor, " k"]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.save(file, {"features": features, "positions": positions}, {"format": CACHE_FORMAT})
    except OSError as error:
        _log.warning("features are not kept: %s (%s names another folder)", error, CACHE_VARIABLE)
