"""What a person may name as a model: a run, an exported model, a weights file, or a network with random weights."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
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
    """Load every model; labels that would be the same get the folder above, or a number.

    Raises UserError where none is named, and as `load_model` does.
    """
    if not names:
        raise UserError("no model: give --model RUN")
    models = [load_model(name) for name in names]
    return [NamedModel(m.name, label, m.backbone, m.path) for m, label in zip(models, _labels(models), strict=True)]


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


def _labels(models: Sequence[NamedModel]) -> list[str]:
    """The labels, those that are shared told apart by the folder above, else by a number."""
    count = Counter(model.label for model in models)
    labels = [
        f"{model.path.resolve().parent.name}/{model.label}" if count[model.label] > 1 and model.path else model.label
        for model in models
    ]
    seen: Counter[str] = Counter()
    for index, label in enumerate(labels):
        seen[label] += 1
        if seen[label] > 1:
            labels[index] = f"{label} ({seen[label]})"
    return labels
