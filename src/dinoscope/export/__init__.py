"""A model for use elsewhere, in a format by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from dinoscope import checkpoint
from dinoscope.errors import UserError
from dinoscope.export import formats, programs
from dinoscope.model_names import Model

FormatName = Literal["safetensors", "timm", "huggingface", "onnx", "torch-export"]
FORMATS: dict[FormatName, tuple[tuple[str, ...], Callable[[Path, Model], list[str]]]] = {
    "safetensors": ((checkpoint.BACKBONE_WEIGHTS, checkpoint.BACKBONE_SETTINGS), formats.write_safetensors),
    "timm": ((formats.WEIGHTS,), formats.write_timm),
    "huggingface": ((formats.WEIGHTS, formats.CONFIG, formats.CARD), formats.write_huggingface),
    "onnx": ((programs.ONNX_FILE,), programs.write_onnx),
    "torch-export": ((programs.TORCH_FILE,), programs.write_torch_program),
}
"""Name -> the files that are written into a folder, and what writes them and returns lines on how to load them."""


def write(format: FormatName, folder: Path, model: Model, *, overwrite: bool = False) -> list[str]:
    """Write the model in a format; return lines on how to load it. Every file is whole or not there.

    Raises UserError if the network cannot be had in that format, or one of its files is in the folder already
    and `overwrite` was not given, or the folder cannot be written.
    """
    files, write_files = FORMATS[format]
    present = [name for name in files if (folder / name).exists()]
    if present and not overwrite:
        raise UserError(
            f"{folder} holds a model already ({', '.join(present)}); choose another --out, or --overwrite to replace it"
        )
    try:
        return write_files(folder, model)
    except OSError as error:
        # The message of checkpoint.save names the file; those of the system do not.
        raise UserError(f"{folder} could not be written: {error}" if error.errno else str(error)) from error
