"""`dinoscope export`: a model for use elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from dinoscope.cli.build import parse
from dinoscope.cli.model_option import Model


@dataclass(frozen=True)
class Options:
    """Write a model's backbone for use elsewhere, without head and optimiser; the weights are those that evaluations
    use (DINO: the teacher's).

    safetensors: backbone.safetensors and backbone.json, for dinoscope; weights are named as in timm.
    timm: model.safetensors, which timm's network of that name loads strictly.
    huggingface: config.json, model.safetensors and a model card, in timm's layout for model hubs; nothing is sent.
    torch-export: model.pt2, a program that torch alone runs, for any batch and image size.
    onnx: model.onnx, the same for onnxruntime (pip install 'dinoscope[onnx]').

    Networks with a convolutional stem or a small-image stem (vit_micro_conv8, resnet18_small) are dinoscope's
    alone: timm has none that would load them.
    """

    model: Model

    out: Path
    """Folder to write."""

    format: Literal["safetensors", "timm", "huggingface", "onnx", "torch-export"] = "safetensors"
    """What to write; see above."""

    overwrite: bool = False
    """Replace a model that is there."""


def main(argv: list[str]) -> int:
    """Export, and say how to load it. Raises UserError."""
    from dinoscope.cli.console import Console

    options = parse(Options, args=argv, prog="dinoscope export", config=(tyro.conf.FlagCreatePairsOff,))
    Console().print("\n".join(export(options)), markup=False, highlight=False, soft_wrap=True)
    return 0


def export(options: Options) -> list[str]:
    """Write the folder; return what to tell the person: the network, and how to load it.

    Raises UserError where there is no model, or it cannot be written in that format to that folder.
    """
    from dinoscope.cli.console import Console, progress_bar
    from dinoscope.export import write
    from dinoscope.model_names import load_model

    model = load_model(options.model, progress_bar)
    # Tracing a large network takes a minute.
    with Console(stderr=True).status(f"writing {options.format}"):
        lines = write(options.format, options.out, model, overwrite=options.overwrite)
    config = model.backbone.config
    return [f"{options.out}: {config.name}, {config.image_size} px", *(f"  {line}" for line in lines)]
