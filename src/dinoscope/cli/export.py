"""`dinoscope export`: a model's weights for use elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from dinoscope.errors import UserError

if TYPE_CHECKING:
    from dinoscope.models.backbone import BackboneConfig


@dataclass(frozen=True)
class Options:
    """Write a model's backbone as backbone.safetensors, and backbone.json that says how to build it.

    The weights are those that evaluations use (DINO: the teacher's), without head and optimiser. Their names
    are timm's: networks that timm has too load there strictly, as the printed lines show. Networks with a
    convolutional stem (vit_micro_conv8) are dinoscope's alone.
    """

    model: str
    """Run folder, exported folder, weights file (also others'), released weights (`dinoscope models`), or
    random:NETWORK."""

    out: Path
    """Folder to write."""

    overwrite: bool = False
    """Replace a model that is there."""


def main(argv: list[str]) -> int:
    """Export, and say how to load it. Raises UserError."""
    from rich.console import Console

    options = tyro.cli(Options, args=argv, prog="dinoscope export", config=(tyro.conf.FlagCreatePairsOff,))
    config = export(options)
    Console().print(how_to_load(options.out, config), markup=False, highlight=False, soft_wrap=True)
    return 0


def export(options: Options) -> BackboneConfig:
    """Write the folder; return the config of the network.

    Raises UserError where there is no model, or one stands in `options.out` already.
    """
    from dinoscope import checkpoint
    from dinoscope.cli.console import progress_bar
    from dinoscope.model_names import load_model

    model = load_model(options.model, progress_bar)
    if (options.out / checkpoint.BACKBONE_WEIGHTS).exists() and not options.overwrite:
        raise UserError(f"{options.out} holds a model already; choose another --out, or --overwrite to replace it")
    try:
        checkpoint.export_backbone(options.out, model.backbone, model.origin)
    except OSError as error:
        raise UserError(f"{options.out} could not be written: {error}") from error
    return model.backbone.config


def timm_arguments(config: BackboneConfig) -> dict[str, Any] | None:
    """Keyword arguments for `timm.create_model` that build this network there, or None where timm has none.

    The network gives the same features there at the size it was trained at; at other sizes timm's position
    embeddings are resized in another way than DINO's.
    """
    import timm

    from dinoscope.models.backbone import BACKBONES, ViTShape

    if not timm.is_model(config.name):
        return None
    size = {"img_size": config.layout_size} if isinstance(BACKBONES[config.name], ViTShape) else {}
    return {"model_name": config.name, "num_classes": 0, **size}


def how_to_load(folder: Path, config: BackboneConfig) -> str:
    """Lines of Python that load the exported folder."""
    from dinoscope import checkpoint

    lines = [f"{folder}: {config.name}, {config.image_size} px", f"  dinoscope.load({str(folder)!r})"]
    arguments = timm_arguments(config)
    if arguments is not None:
        shown = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        file = str(folder / checkpoint.BACKBONE_WEIGHTS)
        lines += [
            f"  net = timm.create_model({shown})",
            f"  net.load_state_dict(safetensors.torch.load_file({file!r}))",
        ]
    return "\n".join(lines)
