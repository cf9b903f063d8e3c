"""The formats by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dinoscope import checkpoint
from dinoscope.errors import UserError
from dinoscope.exporting import huggingface, onnx_model, timm_model, torch_program
from dinoscope.exporting.safetensors_model import write_safetensors
from dinoscope.exporting.subject import Subject

FormatName = Literal["safetensors", "timm", "huggingface", "onnx", "torch-export"]


@dataclass(frozen=True)
class Format:
    """files: what is written into the folder. write: does it, and returns lines that say how to load it."""

    files: tuple[str, ...]
    write: Callable[[Path, Subject], list[str]]


FORMATS: dict[FormatName, Format] = {
    "safetensors": Format((checkpoint.BACKBONE_WEIGHTS, checkpoint.BACKBONE_SETTINGS), write_safetensors),
    "timm": Format((timm_model.WEIGHTS,), timm_model.write_timm),
    "huggingface": Format(
        (timm_model.WEIGHTS, huggingface.CONFIG, huggingface.CARD),
        huggingface.write_huggingface,
    ),
    "onnx": Format((onnx_model.FILE,), onnx_model.write_onnx),
    "torch-export": Format((torch_program.FILE,), torch_program.write_torch_program),
}


def write(format: FormatName, folder: Path, subject: Subject, *, overwrite: bool = False) -> list[str]:
    """Write the model in a format; return lines that say how to load it. Every file is whole or not there.

    Raises UserError where the network cannot be had in that format, or one of its files is in the folder already
    and `overwrite` was not given, or the folder cannot be written.
    """
    chosen = FORMATS[format]
    there = [name for name in chosen.files if (folder / name).exists()]
    if there and not overwrite:
        raise UserError(
            f"{folder} holds a model already ({', '.join(there)}); choose another --out, or --overwrite to replace it"
        )
    try:
        return chosen.write(folder, subject)
    except OSError as error:
        # What checkpoint.save raises says itself which file; the system's errors do not.
        raise UserError(f"{folder} could not be written: {error}" if error.errno else str(error)) from error
