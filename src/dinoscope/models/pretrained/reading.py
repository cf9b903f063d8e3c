"""Weight files of others, read without running anything that is in them."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from dinoscope.errors import UserError

SUFFIXES = (".pth", ".pt", ".bin", ".tar", ".ckpt", ".torch", ".safetensors")
"""Endings of files that may hold weights."""


class StandIn:
    """Takes the place of a settings object in a pickle; keeps nothing of it."""

    def __new__(cls, *_: Any) -> StandIn:
        """Ignore what the object was made from."""
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        """Ignore the values."""


STOOD_IN_FOR = ("argparse.Namespace", "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib._local.PosixPath")
"""Classes in official checkpoints besides tensors: DINO's and DeiT's command line, and the paths in it. Not even these
are imported or built: the file gets `StandIn` for them."""


def read_file(path: Path) -> Mapping[str, Any]:
    """What a weight file holds: tensors by name, possibly in dictionaries within dictionaries, on the CPU.

    Raises UserError where the file is missing or damaged, or holds Python objects that opening could run.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not weights by name")
    return content


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from error


def _read_pickle(path: Path) -> Any:
    """torch.load, restricted to tensors and plain containers; mapped into memory where the format allows it."""
    try:
        with torch.serialization.safe_globals([(StandIn, name) for name in STOOD_IN_FOR]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)|(?:class|module|function) ([\w.]+)", str(error))
        if named is None:
            raise UserError(f"{path} is not a readable PyTorch file: it is damaged, or of another kind") from error
        raise UserError(_refusal(path, named[1] or named[2])) from error
    # Damaged archives surface as nearly any of these, from torch's C++ and from the unpickler alike.
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is not a readable PyTorch file: {reason}") from error


def _refusal(path: Path, name: str) -> str:
    convert = (
        "import torch; c = torch.load('IN', 'cpu', weights_only=False); "
        "torch.save(c.get('state_dict', c.get('model', c)), 'OUT')"
    )
    return (
        f"{path} holds Python objects besides weights ({name}), and opening those can run code, so it was not opened. "
        "If you trust where it comes from, keep only its weights, in a place where nothing can be harmed, and import "
        f'the result: python -c "{convert}"'
    )
