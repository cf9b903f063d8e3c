"""The two formats that hold a state dict, dinoscope's own and timm's, and what every export states about its model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dinoscope import __version__, checkpoint
from dinoscope.config import to_dict
from dinoscope.errors import UserError
from dinoscope.model_names import Model
from dinoscope.models.backbone import TIMM, BackboneConfig, is_network, network, without_drop_path

WEIGHTS = "model.safetensors"


def settings(model: Model) -> dict[str, Any]:
    """Return how to build the network again, how to normalise its images, and where its weights are from."""
    origin = {} if model.origin is None else {"origin": dict(model.origin)}
    return {"backbone": to_dict(without_drop_path(model.backbone.config)), **origin}


def description(model: Model) -> str:
    """Return `settings` as JSON."""
    return json.dumps({"version": __version__, **settings(model)})


def write_safetensors(folder: Path, model: Model) -> list[str]:
    """Write `backbone.safetensors` and `backbone.json`; return the lines of Python that load them.

    Raises UserError for a network that cannot be built by its name, OSError if the folder cannot be written.
    """
    config = model.backbone.config
    if not is_network(config.name):
        raise UserError(f"{config.name} is a module of yours, which dinoscope cannot build again: save it with torch")
    checkpoint.export_backbone(folder, model.backbone, model.origin)
    lines = loading_lines(config, folder / checkpoint.BACKBONE_WEIGHTS)
    return [f"dinoscope.load({str(folder)!r})", *lines]


def timm_arguments(config: BackboneConfig) -> dict[str, Any] | None:
    """Return keyword arguments for `timm.create_model` that build this network there, or None if timm has none.

    The network gives the same features there at the size that its position embeddings are laid out for; to others
    timm resizes them in another way than DINO does.
    """
    import timm

    name = config.name.removeprefix(TIMM)
    if not timm.is_model(name):
        return None
    size = {"img_size": config.layout_size} if network(config.name).transformer else {}
    return {"model_name": name, "num_classes": 0, **size}


def twin_arguments(config: BackboneConfig) -> dict[str, Any]:
    """Return `timm_arguments`. Raises UserError if timm has no such network."""
    arguments = timm_arguments(config)
    if arguments is None:
        raise UserError(
            f"timm has no network {config.name}: it is dinoscope's alone. Export it with --format safetensors (loads "
            "here), onnx or torch-export (load without dinoscope)"
        )
    return arguments


def loading_lines(config: BackboneConfig, file: Path) -> list[str]:
    """Return Python that builds timm's twin and loads the file; nothing if there is no twin."""
    arguments = timm_arguments(config)
    if arguments is None:
        return []
    shown = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return [
        f"net = timm.create_model({shown})",
        f"net.load_state_dict(safetensors.torch.load_file({str(file)!r}))",
    ]


def write_timm(folder: Path, model: Model) -> list[str]:
    """Write `model.safetensors`, which `timm.create_model` loads strictly; return the lines of Python that load it.

    Raises UserError if timm has no such network, OSError if the folder cannot be written.
    """
    twin_arguments(model.backbone.config)
    write_weights(folder / WEIGHTS, model)
    return loading_lines(model.backbone.config, folder / WEIGHTS)


def write_weights(file: Path, model: Model) -> None:
    """Write the network's own state dict, making the folder; `dinoscope.load` reads it too."""
    file.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(file, model.backbone.net.state_dict(), settings(model))
