"""Checkpoints and exported models: safetensors with JSON, written atomically, loaded strictly.

Nothing is ever pickled or unpickled, so that opening a file cannot run code.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dinoscope import __version__
from dinoscope.config import from_dict, to_dict
from dinoscope.errors import UserError
from dinoscope.files import replacing, write_text
from dinoscope.models.backbone import (
    Backbone,
    BackboneConfig,
    build_backbone,
    check_fit,
    load_strictly,
    without_drop_path,
)
from dinoscope.models.pretrained.reading import FOLDER_FILES, in_folder

METADATA_KEY = "dinoscope"
CHECKSUMS = "crc32"
"""Metadata entry with the CRC-32 of every tensor, by name, and of the other metadata, under "". None in older files."""

RACES = 5
"""Times that checkpoints may be pruned between being found and being read."""

logger = logging.getLogger("dinoscope")

BACKBONE_WEIGHTS = "backbone.safetensors"
BACKBONE_SETTINGS = "backbone.json"


@dataclass(frozen=True)
class Checkpoint:
    """A read file: its tensors by name, and its metadata (plain JSON values).

    verified: whether the file holds checksums, which `load` compares; older files hold none.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]
    verified: bool


def save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write one safetensors file whose header carries `metadata` as JSON. Whole or not at all.

    Raises OSError if the disk is full or read-only; a file that stood at `path` before is then untouched.
    """
    text = json.dumps({"version": __version__, **metadata})
    contiguous = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    checksums = {"": zlib.crc32(text.encode())} | {name: _crc32(tensor) for name, tensor in contiguous.items()}
    # One entry, because safetensors writes several in any order: equal checkpoints are equal files.
    header = {METADATA_KEY: json.dumps({**json.loads(text), CHECKSUMS: checksums})}
    with replacing(path) as partial:
        try:
            save_file(contiguous, partial, metadata=header)
        except SafetensorError as error:
            raise OSError(f"{path} could not be written: {error}") from error


def _crc32(tensor: Tensor) -> int:
    """Return the CRC-32 of type, shape and bytes. Every flipped bit changes it, and other damage with 1 - 2^-32.

    Not a cryptographic digest, because it guards against accidents, and those take 2 to 5 times as long as CRC-32 does.
    """
    kind = zlib.crc32(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    return zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, kind)


def load(path: Path, prefix: str = "") -> Checkpoint:
    """Read the tensors whose names begin with `prefix` (it is cut off), and the metadata; compare their checksums.

    Raises UserError for a file that is missing, damaged, or not of this program.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            names = list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names if name.startswith(prefix)}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from error
    if METADATA_KEY not in header:
        raise UserError(f"{path} was not written by dinoscope: its header has no {METADATA_KEY!r} entry")
    try:
        metadata = json.loads(header[METADATA_KEY])
    except ValueError as error:
        raise UserError(f"{path} is damaged: its {METADATA_KEY!r} entry is not JSON ({error})") from error
    if not isinstance(metadata, dict):
        raise UserError(f"{path} is damaged: its {METADATA_KEY!r} entry holds no names and values")
    checksums = metadata.pop(CHECKSUMS, None)
    if checksums is not None:
        _check_checksums(path, checksums, metadata, names, tensors)
    values = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return Checkpoint(values, metadata, verified=checksums is not None)


def _check_checksums(
    path: Path, expected: Any, metadata: Mapping[str, Any], names: list[str], tensors: Mapping[str, Tensor]
) -> None:
    if not isinstance(expected, dict) or expected.keys() != {"", *names}:
        raise UserError(f"{path} is damaged: its checksums do not fit the names of its tensors")
    actual = {"": zlib.crc32(json.dumps(metadata).encode())} | {name: _crc32(each) for name, each in tensors.items()}
    wrong = [name or "the metadata" for name, checksum in actual.items() if checksum != expected[name]]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise UserError(f"{path} is damaged: {wrong[0]}{more} differs from what was written (another CRC-32)")


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Return the state of an optimiser as flat tensors ("3.exp_avg") and its parameter groups as plain values."""
    state = optimizer.state_dict()
    tensors = {
        f"{index}.{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for index, values in state["state"].items()
        for name, value in values.items()
        if value is not None
    }
    return tensors, state["param_groups"]


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], groups: list[dict[str, Any]]
) -> None:
    """Undo `optimizer_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for parameter, values in optimizer.state.items():
        # Fused optimisers pass over the memory of a parameter and its state side by side: both need one layout.
        values |= {
            name: torch.empty_like(parameter, dtype=value.dtype).copy_(value)
            for name, value in values.items()
            if isinstance(value, Tensor) and value.shape == parameter.shape
        }


def export_backbone(folder: Path, backbone: Backbone, origin: Mapping[str, Any] | None = None) -> None:
    """Write `backbone.safetensors` (the network's own key names, as in timm) and `backbone.json`.

    origin: plain JSON values about the source of the weights; kept in both files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {"backbone": to_dict(without_drop_path(backbone.config))}
    if origin is not None:
        settings["origin"] = dict(origin)
    save(folder / BACKBONE_WEIGHTS, backbone.net.state_dict(), settings)
    write_text(folder / BACKBONE_SETTINGS, json.dumps({"version": __version__, **settings}, indent=2) + "\n")


def weights_hash(backbone: Backbone) -> str:
    """Return 32 hex digits of all that decides what the network computes: its config and its weights."""
    digest = hashlib.blake2b(digest_size=16)
    config = to_dict(without_drop_path(backbone.config))
    # Results from before these settings stay those of their weights.
    for later, before in (("position_size", None), ("window", None), ("slices", 1)):
        if config[later] == before:
            del config[later]
    digest.update(json.dumps(config, sort_keys=True).encode() + backbone.signature.encode())
    for name, tensor in sorted(backbone.state_dict().items()):
        digest.update(f"\0{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def load_backbone(path: Path) -> Backbone:
    """Build and load the backbone of a run folder, an exported folder, or a checkpoint or weights file.

    Returned in evaluation mode, on the CPU, without stochastic depth.
    Raises UserError if `path` holds no model.
    """
    file = find_weights(path)
    metadata = read_metadata(file)
    if "backbone" not in metadata:
        raise UserError(f"{file} holds no model: it was written by dinoscope for something else")
    prefix = metadata.get("evaluated_prefix", "")
    if not isinstance(prefix, str):
        raise UserError(f"{file} is damaged: its evaluated_prefix is {prefix!r}, not a text")
    checkpoint = load(file, prefix)
    # In a training checkpoint the network stands below the backbone module; an export is the network itself.
    tensors = {name.removeprefix("net."): tensor for name, tensor in checkpoint.tensors.items()}
    config = without_drop_path(from_dict(BackboneConfig, checkpoint.metadata["backbone"], str(file)))
    check_fit(config, tensors, file)
    backbone = build_backbone(config)
    load_strictly(backbone.net, tensors, file)
    return backbone.eval()


def read_metadata(file: Path) -> dict[str, Any]:
    """Return the metadata of a file without its tensors."""
    return load(file, prefix="\0").metadata


def find_weights(path: Path) -> Path:
    """Return the weights file that `path` stands for: itself, an exported one, that of a model hub's folder, or a run's
    newest checkpoint that is not damaged.

    Raises UserError if there is none.
    """
    if path.is_file():
        return path
    if not path.exists():
        raise UserError(f"there is no file or folder {path}")
    for exported in (path / BACKBONE_WEIGHTS, path / "exported" / BACKBONE_WEIGHTS):
        if exported.is_file():
            return exported
    newest, damaged = newest_whole(path / "checkpoints")
    for fault in damaged.values():
        logger.warning("%s. Instead, %s is used", fault, newest)
    newest = newest or in_folder(path)
    if newest == path:
        raise UserError(
            f"{path} holds no model: expected a run folder with a checkpoint, a folder with "
            f"{', '.join((BACKBONE_WEIGHTS, *FOLDER_FILES))}, or a file of weights"
        )
    return newest


def latest(folder: Path) -> Path | None:
    """Return the newest checkpoint of a `checkpoints` folder, or None."""
    return next(iter(_newest_first(folder)), None)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.safetensors"), reverse=True)


def newest_whole(folder: Path) -> tuple[Path | None, dict[Path, str]]:
    """Return the newest checkpoint of a `checkpoints` folder that is not damaged, and the faults of each newer one.

    Raises UserError if there are checkpoints and all of them are damaged.
    """
    damaged: dict[Path, str] = {}
    for path in _newest_first(folder):
        try:
            status = path.stat()
            _read_once(path, status.st_mtime_ns, status.st_size)
        except FileNotFoundError:  # pruned meanwhile
            continue
        except UserError as error:
            damaged[path] = str(error)
        else:
            return path, damaged
    if damaged:
        raise UserError(f"{next(iter(damaged.values()))}. No other checkpoint in {folder} is whole: put back a copy")
    return None, {}


@functools.lru_cache(maxsize=64)
def _read_once(path: Path, changed: int, size: int) -> None:
    """Read and compare a whole file, which takes a while, once for each state of it; raises as `load` does."""
    load(path)


def newest_metadata(folder: Path) -> dict[str, Any] | None:
    """Return the metadata of the newest checkpoint whose header can be read, or None without any checkpoint.

    Raises UserError if there are checkpoints and no header can be read.
    """
    for _ in range(RACES):  # a run under way prunes its folder at any moment
        damaged: list[UserError] = []
        paths = _newest_first(folder)
        for path in paths:
            try:
                return read_metadata(path)
            except UserError as error:
                if path.exists():
                    damaged.append(error)
        if len(damaged) == len(paths):
            if damaged:
                raise damaged[0]
            return None
    raise UserError(f"{folder}: another process is at this run and prunes its checkpoints; try again")


def step_path(folder: Path, step: int) -> Path:
    """Return where the checkpoint after `step` optimiser steps is kept; names sort by step."""
    return folder / f"step-{step:09d}.safetensors"


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints (1 or more), and what a killed process left half written.

    Only for the process that writes to this folder, and not while it does.
    """
    for old in _newest_first(folder)[keep:]:
        with contextlib.suppress(PermissionError):  # Windows: somebody reads it; it goes after the next checkpoint
            old.unlink()
    for abandoned in folder.glob(".step-*.partial-*"):
        shutil.rmtree(abandoned)
