"""From a file of others to a backbone: find the network, rename it, build it, load it strictly, report the findings."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinoscope.errors import UserError, lookup
from dinoscope.models.backbone import (
    BACKBONES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Backbone,
    BackboneConfig,
    build_backbone,
    check_fit,
    load_strictly,
)
from dinoscope.models.network import usual_normalisation
from dinoscope.models.pretrained.networks import (
    PLAIN,
    Layout,
    Place,
    find_places,
    in_timm_names,
    infer_config,
    named_config,
    read_positions,
    recognise,
    unsupported,
)
from dinoscope.models.pretrained.reading import check_held, in_folder, read_file
from dinoscope.models.vit import ViTShape

Color = tuple[float, ...]

SETTINGS = (
    ("preprocessor_config.json", (), "image_mean", "image_std"),
    ("config.json", ("pretrained_cfg",), "mean", "std"),
)
"""Settings of transformers and of timm in a folder of a model hub: file, dictionaries that lead to the values, names of
mean and standard deviation."""

FIRST_LAYERS = ("patch_embed.proj.weight", "patch_embed.proj.0.weight", "stem.0.weight", "conv1.weight")
"""timm's names of the layer that sees the images: of ViT and Swin, of a ViT with a stem, of ConvNeXt, of ResNet."""

_YOURSELF = "Fix it, or give both --mean and --std to dinoscope import: then it is not read"


@dataclass(frozen=True)
class Choices:
    """What the person decides instead of the file.

    architecture: a name in `BACKBONES`; None tells it from the shapes.
    part: teacher, student, ema or plain, or the whole path to the network as an error lists it; None takes the one
        that the method's own evaluations take.
    mean, std: normalisation in [0, 1] that the network was trained with, a value for each channel. No file of weights
        states it; None takes what the settings next to one in a folder of a model hub state, else the usual one.
    """

    architecture: str | None = None
    part: str | None = None
    mean: Color | None = None
    std: Color | None = None


@dataclass(frozen=True)
class Found:
    """What a file turned out to hold.

    method: "" if the file does not tell. way: dictionaries and prefix that lead to the network.
    left_out: first words of the names of tensors that are not the network's. note: a caution; may be "".
    licence: of the weights; "" if the kind of file does not tell.
    """

    file: str
    layout: str
    method: str
    part: str
    way: str
    architecture: str
    image_size: int
    position_size: int | None
    left_out: tuple[str, ...]
    note: str
    licence: str = ""

    def line(self) -> str:
        """Return a description for a person, on one line."""
        method = self.method or "the file does not say the method"
        part = "" if self.part == PLAIN else f", its {self.part}"
        positions = "" if self.position_size is None else f" (positions for {self.position_size} px)"
        left_out = f"; left out: {', '.join(self.left_out)}" if self.left_out else ""
        licence = f"; {self.licence}" if self.licence else ""
        network = f"{self.architecture}, {self.image_size} px{positions}"
        return f"{self.layout} ({method}){part}: {network}{left_out}{licence}" + (f". {self.note}" if self.note else "")

    def provenance(self) -> dict[str, Any]:
        """Return plain JSON values, for the settings of an export."""
        return asdict(self) | {"file": Path(self.file).name, "left_out": list(self.left_out)}


def import_file(path: Path, choices: Choices | None = None) -> tuple[Backbone, Found]:
    """Build and load the network in a released file; returned in evaluation mode, on the CPU.

    path: the file, or a folder of a model hub, whose model.safetensors or pytorch_model.bin is meant.

    Raises UserError if the file cannot be opened safely, holds no network that is known here, or its tensors are
    not exactly the network's: the message names each kind that is missing, left over or of another shape.
    """
    choices, path = choices or Choices(), in_folder(path)
    content = read_file(path)
    if other := unsupported(content):
        raise UserError(
            f"{path} holds {other}, which is not supported: only ViTs as of DINO, DINOv2 and DINOv3, XCiTs, ResNets "
            "and DINOv3's ConvNeXts are"
        )
    layout = recognise(content)
    place = _choose(find_places(content), layout, choices.part, path)
    check_held(place.tensors, path)
    layout = read_positions(layout, place.tensors.get("pos_embed"))
    try:  # on "meta", where tensors of any size cost nothing
        empty = {name: tensor.to("meta") for name, tensor in place.tensors.items()}
        shapes, left_out = in_timm_names(empty, place.family)
    except (RuntimeError, IndexError, ValueError) as error:
        raise UserError(f"{path} is no network that is known here: its tensors do not fit each other") from error
    heads = _known_heads(layout, shapes, path)
    if choices.architecture is None:
        config = infer_config(shapes, place.family, layout, str(path), heads)
    else:
        lookup("network", choices.architecture, BACKBONES)
        config = named_config(choices.architecture, shapes, str(path))
    usual = usual_normalisation(_channels(shapes))
    check_fit(replace(config, mean=usual[0], std=usual[1]), shapes, path)
    tensors, _ = in_timm_names(place.tensors, place.family)
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise UserError(f"{path} holds weights that are no numbers (NaN or infinite), as {broken[0]}: it is damaged")
    open_question = None in (choices.mean, choices.std)
    stated = (stated_normalisation(path, len(usual[0])) or named_normalisation(layout, path)) if open_question else None
    stated = stated or (*usual, "")
    config = replace(config, mean=choices.mean or stated[0], std=choices.std or stated[1])
    if not len(config.mean) == len(config.std) == len(usual[0]):
        raise UserError(
            f"{path} takes {len(usual[0])} channels, and its normalisation has {len(config.mean)} and "
            f"{len(config.std)} values: give both --mean and --std for each channel"
        )
    backbone = build_backbone(config)
    load_strictly(backbone.net, tensors, path)
    found = Found(
        str(path),
        layout.says,
        layout.method,
        place.part,
        place.way,
        config.name,
        config.image_size,
        config.position_size,
        tuple(dict.fromkeys(left_out + place.others)),
        _note(layout, config, stated[2], heads, choices),
        layout.licence,
    )
    return backbone.eval(), found


def _channels(shapes: Mapping[str, Tensor]) -> int:
    """Return the channels that the first layer takes; 3 if it is not known by its name."""
    kernels = (shapes[name] for name in FIRST_LAYERS if name in shapes)
    return next((kernel.shape[1] for kernel in kernels if kernel.ndim == 4), 3)


def _choose(places: list[Place], layout: Layout, wanted: str | None, path: Path) -> Place:
    """Return the network that is meant. Raises UserError if there is none, or it is not clear which."""
    if not places:
        raise UserError(
            f"{path} holds no ViT or ResNet that is known here, no XCiT and no ConvNeXt: no tensor is called like the "
            "first of one (patch_embed.proj.weight, layer1.0.conv1.weight)"
        )
    there = ", ".join(f"{place.part} ({place.way or 'top'})" for place in places)
    if wanted is not None:
        chosen = [place for place in places if wanted in (place.part, place.way)]
        if not chosen:
            raise UserError(f"{path} has no part {wanted!r}; it has: {there}")
    else:
        ranked = (layout.part, PLAIN, "teacher", "student", "ema")
        best = min(ranked.index(place.part) for place in places)
        chosen = [place for place in places if ranked.index(place.part) == best]
    if len(chosen) > 1:
        raise UserError(f"{path} holds several networks: choose with --part, by what stands in brackets: {there}")
    return chosen[0]


def _known_heads(layout: Layout, shapes: Mapping[str, Tensor], path: Path) -> int | None:
    # Attention heads of a ViT, if the file or the settings next to it tell.
    projection = shapes.get("patch_embed.proj.weight")
    if projection is None or projection.ndim == 0:
        return None
    return layout.heads(projection.shape[0]) if layout.heads else stated_heads(path)


def _note(layout: Layout, config: BackboneConfig, normalised_by: str, known_heads: int | None, choices: Choices) -> str:
    """Return what a person must know before trusting the features. normalised_by: file of settings; "" for none."""
    notes: list[str] = []
    shape = BACKBONES.get(config.name)
    if isinstance(shape, ViTShape) and known_heads is None and choices.architecture is None:
        notes.append(
            f"The file does not say how many heads its attention has: {shape.heads} are assumed, of 64 channels each. "
            "With another number the features are wrong; dinoscope import --arch names another network"
        )
    if isinstance(shape, ViTShape) and known_heads not in (None, shape.heads):
        notes.append(
            f"{config.name} has {shape.heads} heads, and by all signs the network in the file has {known_heads}: the "
            "features are wrong if it has"
        )
    if layout.says.startswith("solo-learn") and config.name.endswith("_small"):
        notes.append(
            "solo-learn's networks for small images pad the first convolution by 2 pixels, this one by 1: features "
            "differ at the border"
        )
    if normalised_by and (config.mean, config.std) != (IMAGENET_MEAN, IMAGENET_STD):
        mean, std = (", ".join(f"{part:g}" for part in color) for color in (config.mean, config.std))
        notes.append(f"Normalised as {normalised_by} says: mean {mean}; std {std}")
    return ". ".join(notes)


def stated_normalisation(weights: Path, channels: int = 3) -> tuple[Color, Color, str] | None:
    """Return mean and standard deviation in [0, 1], and the file that states them; None if none does.

    Raises UserError if such a file is damaged or states impossible values; it is not read with `Choices` of both.
    """
    for name, way, mean, std in SETTINGS:
        file = weights.with_name(name)
        values = _read(file) if file.is_file() else {}
        for step in way:
            values = values.get(step) or {}
        if isinstance(values, Mapping) and mean in values and std in values:
            means = _color(file, mean, values[mean], channels)
            return means, _color(file, std, values[std], channels, positive=True), name
    return None


def named_normalisation(layout: Layout, weights: Path) -> tuple[Color, Color, str] | None:
    """Return mean and standard deviation that the name of a released file stands for, and the name; None for others."""
    for part, (mean, std) in (layout.statistics or {}).items():
        if part in weights.name:
            return (
                _color(weights, part, mean, 3),
                _color(weights, part, std, 3, positive=True),
                f"the name {weights.name}",
            )
    return None


def stated_heads(weights: Path) -> int | None:
    """Return the attention heads that config.json of transformers (a number) or timm (a network) states, or None."""
    file, values = weights.with_name("config.json"), {}
    with contextlib.suppress(UserError):  # `stated_normalisation` raises it, if it needs the file
        values = _read(file) if file.is_file() else {}
    heads, name = values.get("num_attention_heads"), values.get("architecture")
    shape = BACKBONES.get(name) if isinstance(name, str) else None
    if isinstance(shape, ViTShape):
        return shape.heads
    return heads if isinstance(heads, int) and heads > 0 else None


def _read(file: Path) -> Mapping[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file}, which states how images are normalised, cannot be read: {error}. {_YOURSELF}"
        ) from error
    return values if isinstance(values, Mapping) else {}


def _color(file: Path, name: str, value: Any, channels: int, *, positive: bool = False) -> Color:
    try:
        color = tuple(map(float, value))
        if len(color) != channels:
            raise ValueError(f"{len(color)} numbers")
    except (TypeError, ValueError) as error:
        raise UserError(f"{file}: {name} is {value!r}, not {channels} numbers. {_YOURSELF}") from error
    if not all(part > 0 if positive else 0 <= part <= 1 for part in color):
        allowed = "each must be above 0" if positive else "each must lie in [0, 1]"
        raise UserError(f"{file}: {name} is {value!r}; {allowed}. {_YOURSELF}")
    return color
