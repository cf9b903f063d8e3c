"""What a person may name as a model: a run, an exported model, a weights file, or a network with random weights."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dinoscope import checkpoint
from dinoscope.errors import UserError
from dinoscope.models.backbone import BACKBONES, Backbone, BackboneConfig, build_backbone

RANDOM = "random:"
"""Before the name of a network, or before a model whose network is meant: fresh weights instead of trained ones."""
SEED = 0
"""Of random weights."""


@dataclass(frozen=True)
class NamedModel:
    """A model in evaluation mode, on the CPU.

    name: as the person gave it. label: short and, within one table, unique.
    path: run folder, exported folder or weights file; None for random weights.
    """

    name: str
    label: str
    backbone: Backbone
    path: Path | None


def load_models(names: Sequence[str]) -> list[NamedModel]:
    """Load every model; labels that would be the same are told apart as in `distinct`.

    Raises UserError where none is named, and as `load_model` does.
    """
    if not names:
        raise UserError("no model: give --model RUN")
    models = [load_model(name) for name in names]
    labels = distinct([(model.label, model.path) for model in models])
    return [replace(model, label=label) for model, label in zip(models, labels, strict=True)]


def folder_names(labels: Sequence[str]) -> list[str]:
    """Names of folders for labels that may hold anything; those that would meet are numbered."""
    names: list[str] = []
    for label in labels:
        plain = re.sub(r"[^\w.+-]+", "-", label).strip("-.") or "model"
        name, number = plain, 1
        while name.casefold() in {each.casefold() for each in names}:
            number += 1
            name = f"{plain}-{number}"
        names.append(name)
    return names


def load_model(name: str) -> NamedModel:
    """One model: a path as `checkpoint.load_backbone` takes it, `random:NETWORK` or `random:PATH`.

    Raises UserError where there is no such network, or the path holds no model.
    """
    if name.startswith(RANDOM):
        config = _config(name.removeprefix(RANDOM))
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(SEED)
            backbone = build_backbone(config).eval()
        return NamedModel(name, f"random {config.name}", backbone, None)
    path = Path(name)
    return NamedModel(name, _label(path), checkpoint.load_backbone(path), path)


def _config(name: str) -> BackboneConfig:
    """Config of a network of `BACKBONES`, for the image size that ends its name, or of the model at a path."""
    if name not in BACKBONES:
        if not Path(name).exists():
            raise UserError(
                f"{RANDOM}{name}: {name!r} is neither a network nor a model. Networks: {', '.join(BACKBONES)}"
            )
        return checkpoint.load_backbone(Path(name)).config
    size = re.search(r"_(\d+)$", name)
    return BackboneConfig(name, image_size=int(size[1]) if size else BackboneConfig.image_size)


def _label(path: Path) -> str:
    """Name of the folder that a person gave the model; of RUN/exported that of RUN."""
    path = path.resolve()
    if path.is_file():
        path = path.parent
    return path.parent.name if path.name in ("exported", "checkpoints") else path.name


def distinct(labels: Sequence[tuple[str, Path | None]]) -> list[str]:
    """Labels of which no two are the same, from labels and the paths that they stand for.

    Those that are shared get as much of the path before them as tells them apart, else a number.
    """
    count = Counter(label for label, _ in labels)
    parts = {path: _telling_parts(path) for _, path in labels if path is not None}
    told: list[str] = []
    for label, path in labels:
        if count[label] > 1 and path is not None:
            others = [parts[other] for each, other in labels if each == label and other is not None]
            told.append(_shortest(parts[path], [other for other in others if other != parts[path]]))
        else:
            told.append(label)
    seen: Counter[str] = Counter()
    for index, label in enumerate(told):
        seen[label] += 1
        if seen[label] > 1:
            told[index] = f"{label} ({seen[label]})"
    return told


def _telling_parts(path: Path) -> tuple[str, ...]:
    """Parts of the whole path that a person chose: of RUN/checkpoints/step-9.safetensors, RUN and step-9."""
    path = path.resolve()
    path = path.with_suffix("") if path.is_file() else path
    return tuple(part for part in path.parts[1:] if part not in ("exported", "checkpoints"))


def _shortest(parts: tuple[str, ...], others: Sequence[tuple[str, ...]]) -> str:
    """The end of `parts`, two of them or more, that is the end of none of the others."""
    for length in range(2, len(parts)):
        if all(other[-length:] != parts[-length:] for other in others):
            return "/".join(parts[-length:])
    return "/".join(parts)
