"""The formats of an export by name, and the two that hold a state dict: dinoscope's own and timm's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dinoscope import __version__, checkpoint
from dinoscope.config import to_dict
from dinoscope.errors import UserError
from dinoscope.model_names import Model
from dinoscope.models.backbone import BACKBONES, TIMM, BackboneConfig, network, without_drop_path

FormatName = Literal["safetensors", "timm", "huggingface", "onnx", "torch-export"]
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Format:
    """files: what is written into the folder. write: does it, and returns lines that say how to load it."""

    files: tuple[str, ...]
    write: Callable[[Path, Model], list[str]]


def write(format: FormatName, folder: Path, model: Model, *, overwrite: bool = False) -> list[str]:
    """Write the model in a format; return lines that say how to load it. Every file is whole or not there.

    Raises UserError if the network cannot be had in that format, or one of its files is in the folder already
    and `overwrite` was not given, or the folder cannot be written.
    """
    chosen = formats()[format]
    present = [name for name in chosen.files if (folder / name).exists()]
    if present and not overwrite:
        raise UserError(
            f"{folder} holds a model already ({', '.join(present)}); choose another --out, or --overwrite to replace it"
        )
    try:
        return chosen.write(folder, model)
    except OSError as error:
        # The message of checkpoint.save names the file; those of the system do not.
        raise UserError(f"{folder} could not be written: {error}" if error.errno else str(error)) from error


def formats() -> dict[FormatName, Format]:
    """Return the formats by name."""
    from dinoscope.export import huggingface, programs

    return {
        "safetensors": Format((checkpoint.BACKBONE_WEIGHTS, checkpoint.BACKBONE_SETTINGS), write_safetensors),
        "timm": Format((WEIGHTS,), write_timm),
        "huggingface": Format((WEIGHTS, huggingface.CONFIG, huggingface.CARD), huggingface.write_huggingface),
        "onnx": Format((programs.ONNX_FILE,), programs.write_onnx),
        "torch-export": Format((programs.TORCH_FILE,), programs.write_torch_program),
    }


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
    if config.name not in BACKBONES and not config.name.startswith(TIMM):
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
