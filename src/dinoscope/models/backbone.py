"""The networks by name: built with fresh weights, checked before they are built, loaded strictly."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from dinoscope.data.reader import MAX_CHANNELS
from dinoscope.errors import UserError, lookup
from dinoscope.models import airbench, convnext, resnet, rotary, swin, vit
from dinoscope.models.foreign import PIXELS, TIMM, timm_network, wrap
from dinoscope.models.network import IMAGENET_MEAN, IMAGENET_STD, Backbone, BackboneConfig, Network
from dinoscope.models.resnet import zero_residual_branches

__all__ = [
    "BACKBONES",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "PIXELS",
    "TIMM",
    "Backbone",
    "BackboneConfig",
    "Network",
    "build_backbone",
    "build_baseline",
    "check_backbone",
    "check_fit",
    "is_network",
    "load_strictly",
    "network",
    "network_title",
    "without_drop_path",
    "wrap",
    "zero_residual_branches",
]

MAX_IMAGE_SIZE = 4096
"""Side in pixels: a file of weights may claim any, and evaluations show the images at the size that it names."""
MAX_KINDS = 5
"""Kinds of names that an error lists."""

BACKBONES: dict[str, Network] = {
    **vit.NETWORKS,
    **resnet.NETWORKS,
    **rotary.NETWORKS,
    **convnext.NETWORKS,
    **swin.NETWORKS,
    **airbench.NETWORKS,
}
"""name -> network, one line for each family; any other network of timm's is `timm:NAME`."""


def network(name: str) -> Network:
    """Return a network of `BACKBONES`, or timm's for `timm:NAME`.

    Raises UserError for an unknown name, naming the nearest ones.
    """
    return timm_network(name.removeprefix(TIMM)) if name.startswith(TIMM) else lookup("backbone", name, BACKBONES)


def is_network(name: str) -> bool:
    """Return whether the network can be built by its name: pixels and modules of the user's cannot."""
    return name in BACKBONES or name.startswith(TIMM)


def network_title(name: str) -> str:
    """Return what tables call the network; an unknown one keeps its name."""
    if name not in BACKBONES:
        return name.removeprefix(TIMM)
    return BACKBONES[name].title or name


def build_backbone(config: BackboneConfig) -> Backbone:
    """Build the network with fresh weights. Raises UserError as `check_backbone` does."""
    return check_backbone(config).build(config)


def build_baseline(config: BackboneConfig) -> Backbone:
    """Build the network with fresh weights to compare trained ones with. Raises UserError as `check_backbone` does."""
    return check_backbone(config).baseline().build(config)


def check_backbone(config: BackboneConfig) -> Network:
    """Return the network, or refuse what cannot be built without building anything.

    Raises UserError for an unknown name, an image size that its patches do not fill, or one outside of 1 to
    `MAX_IMAGE_SIZE`, and for channels outside of 1 to `MAX_CHANNELS`.
    """
    found = network(config.name)
    if not 1 <= config.channels <= MAX_CHANNELS:
        raise UserError(f"{config.name} for images of {config.channels} channels; allowed: 1 to {MAX_CHANNELS}")
    if len(config.std) != config.channels:
        raise UserError(f"a mean of {config.channels} channels and a std of {len(config.std)}: give both for each")
    for size in (config.image_size, config.layout_size):
        if not 1 <= size <= MAX_IMAGE_SIZE:
            raise UserError(f"{config.name} for images of {size} px; allowed: 1 to {MAX_IMAGE_SIZE} px")
    found.check(config)
    return found


def without_drop_path(config: BackboneConfig) -> BackboneConfig:
    """Return the same network without stochastic depth: the teacher's, and what is exported."""
    return replace(config, drop_path=0.0)


def check_fit(config: BackboneConfig, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Compare the tensors with the network of that config, before memory is spent on the sizes that a file claims.

    Raises UserError as `load_strictly` does.
    """
    with torch.device("meta"):
        _check_shapes(build_backbone(config).net, tensors, source)


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Load all weights. Raises UserError if any is missing, left over or of another shape; nothing is loaded then."""
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
    """List names; those that differ only in the number of a block as one: "blocks.*.ls1.gamma (12 times)"."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(re.sub(r"\.\d+\.", ".*.", name), []).append(name)
    shown = [each[0] if len(each) == 1 else f"{kind} ({len(each)} times)" for kind, each in groups.items()]
    return ", ".join(shown[:MAX_KINDS]) + (f" and {len(shown) - MAX_KINDS} more" if len(shown) > MAX_KINDS else "")
