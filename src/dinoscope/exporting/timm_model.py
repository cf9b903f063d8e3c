"""A state dict that `timm.create_model` loads strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dinoscope import checkpoint
from dinoscope.errors import UserError
from dinoscope.exporting.subject import Subject
from dinoscope.models.backbone import BackboneConfig, network

WEIGHTS = "model.safetensors"


def timm_arguments(config: BackboneConfig) -> dict[str, Any] | None:
    """Keyword arguments for `timm.create_model` that build this network there, or None where timm has none.

    The network gives the same features there at the size that its position embeddings are laid out for; to others
    timm resizes them in another way than DINO does.
    """
    import timm

    if not timm.is_model(config.name):
        return None
    size = {"img_size": config.layout_size} if network(config.name).transformer else {}
    return {"model_name": config.name, "num_classes": 0, **size}


def twin_arguments(config: BackboneConfig) -> dict[str, Any]:
    """`timm_arguments`. Raises UserError where timm has no such network."""
    arguments = timm_arguments(config)
    if arguments is None:
        raise UserError(
            f"timm has no network {config.name}: it is dinoscope's alone. Export it with --format safetensors (loads "
            "here), onnx or torch-export (load without dinoscope)"
        )
    return arguments


def loading_lines(config: BackboneConfig, file: Path) -> list[str]:
    """Python that builds timm's twin and loads the file; nothing where there is no twin."""
    arguments = timm_arguments(config)
    if arguments is None:
        return []
    shown = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return [
        f"net = timm.create_model({shown})",
        f"net.load_state_dict(safetensors.torch.load_file({str(file)!r}))",
    ]


def write_timm(folder: Path, subject: Subject) -> list[str]:
    """Write `model.safetensors`; return the lines of Python that load it.

    Raises UserError where timm has no such network, OSError where the folder cannot be written.
    """
    config = subject.backbone.config
    twin_arguments(config)
    write_weights(folder / WEIGHTS, subject)
    return loading_lines(config, folder / WEIGHTS)


def write_weights(file: Path, subject: Subject) -> None:
    """Write the network's own state dict, making the folder; `dinoscope.load` reads it too."""
    file.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(file, subject.backbone.net.state_dict(), subject.settings())
