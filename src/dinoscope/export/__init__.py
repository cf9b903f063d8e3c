"""A model for use elsewhere, in a format by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dinoscope import checkpoint
from dinoscope.errors import UserError
from dinoscope.export import formats, huggingface, programs
from dinoscope.model_names import Model

FormatName = Literal["safetensors", "timm", "huggingface", "onnx", "torch-export"]


@dataclass(frozen=True)
class Format:
    """files: what is written into the folder. write: does it, and returns lines that say how to load it."""

    files: tuple[str, ...]
    write: Callable[[Path, Model], list[str]]


FORMATS: dict[FormatName, Format] = {
    "safetensors": Format((checkpoint.BACKBONE_WEIGHTS, checkpoint.BACKBONE_SETTINGS), formats.write_safetensors),
    "timm": Format((formats.WEIGHTS,), formats.write_timm),
    "huggingface": Format((formats.WEIGHTS, huggingface.CONFIG, huggingface.CARD), huggingface.write_huggingface),
    "onnx": Format((programs.ONNX_FILE,), programs.write_onnx),
    "torch-export": Format((programs.TORCH_FILE,), programs.write_torch_program),
}


def write(format: FormatName, folder: Path, model: Model, *, overwrite: bool = False) -> list[str]:
    """Write the model in a format; return lines that say how to load it. Every file is whole or not there.

    Raises UserError if the network cannot be had in that format, or one of its files is in the folder already
    and `overwrite` was not given, or the folder cannot be written.
    """
    chosen = FORMATS[format]
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
