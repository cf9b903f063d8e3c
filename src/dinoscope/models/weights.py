"""Weights into a network, strictly."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from dinoscope.errors import UserError
from dinoscope.models.backbone import BackboneConfig, build_backbone

NAMED = 5
"""Kinds of names that an error lists."""


def check_fit(config: BackboneConfig, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Compare the tensors with the network of that config, before memory is spent on the sizes that a file claims.

    Raises UserError as `load_strictly` does.
    """
    with torch.device("meta"):
        _check_shapes(build_backbone(config).net, tensors, source)


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Load all weights; name what is missing, left over or of another shape.

    Raises UserError; nothing is loaded then.
    """
    _check_shapes(module, tensors, source)
    module.load_state_dict(tensors, strict=True)


def _check_shapes(module: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    own = module.state_dict()
    faults = [f"missing: {_kinds(own.keys() - tensors.keys())}"] if own.keys() - tensors.keys() else []
    if tensors.keys() - own.keys():
        faults.append(f"left over: {_kinds(tensors.keys() - own.keys())}")
    faults += [
        f"{name} is {tuple(tensors[name].shape)} in the file and {tuple(own[name].shape)} here"
        for name in sorted(own.keys() & tensors.keys())
        if own[name].shape != tensors[name].shape
    ][:3]
    if faults:
        raise UserError(f"{source} does not fit {type(module).__name__}: {'; '.join(faults)}")


def _kinds(names: Iterable[str]) -> str:
    """Names, those that differ only in the number of a block as one: "blocks.*.ls1.gamma (12 times)"."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(re.sub(r"\.\d+\.", ".*.", name), []).append(name)
    shown = [each[0] if len(each) == 1 else f"{kind} ({len(each)} times)" for kind, each in groups.items()]
    return ", ".join(shown[:NAMED]) + (f" and {len(shown) - NAMED} more" if len(shown) > NAMED else "")
