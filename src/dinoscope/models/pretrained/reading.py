"""Weight files of others, read without running anything that is in them."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dinoscope.errors import UserError

FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of the weights in a folder of Hugging Face's hub, for timm's models and transformers'."""


class StandIn:
    """Takes the place of an object in a pickle that is no weight; keeps nothing of it."""

    def __new__(cls, *_: Any) -> StandIn:
        """Ignore what the object was made from."""
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        """Ignore the values."""


STOOD_IN_FOR: dict[str, type] = {
    # The command line of DINO and DeiT, and the paths in it.
    "argparse.Namespace": StandIn,
    "pathlib.PosixPath": StandIn,
    "pathlib.WindowsPath": StandIn,
    "pathlib._local.PosixPath": StandIn,
    # The log of a training by MMEngine, which OpenMMLab's published files may keep (mmselfsup's publish_model.py drops
    # the optimiser alone): numbers, as NumPy arrays, and methods that pickle names by getattr.
    "mmengine.logging.history_buffer.HistoryBuffer": StandIn,
    "builtins.getattr": StandIn,
    # Best accuracies and the like.
    **{
        f"numpy.{package}.multiarray.{name}": StandIn
        for package in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    },
    "numpy.ndarray": StandIn,
    "numpy.dtype": StandIn,
    # The settings of PyTorch Lightning: a dictionary, whose items torch adds to plain ones only.
    "lightning_fabric.utilities.data.AttributeDict": OrderedDict,
    "lightning.fabric.utilities.data.AttributeDict": OrderedDict,
    "pytorch_lightning.utilities.parsing.AttributeDict": OrderedDict,
}
"""What checkpoints hold besides tensors, by the name in the file -> what is built instead. Nothing of these names is
imported or called, `getattr` no more than the others."""


def read_file(path: Path) -> Mapping[str, Any]:
    """Return what a weight file holds: tensors by name, possibly in nested dictionaries, on the CPU.

    Raises UserError if the file is missing or damaged, or holds Python objects that opening could run.
    """
    if not path.is_file():
        folder = f"{path} is a folder without {' or '.join(FOLDER_FILES)}: name the file of weights in it"
        raise UserError(folder if path.is_dir() else f"there is no file {path}")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not weights by name")
    return content


def check_held(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise UserError for a tensor that claims more numbers than the file holds of it, or that is no plain one."""
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_complex():
            raise UserError(f"{path}: {name} is not a plain tensor of numbers (sparse, quantised, complex or empty)")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise UserError(
                f"{path}: {name} claims {tensor.numel():,} numbers, and the file holds fewer: it is damaged, or made "
                "to exhaust the memory"
            )


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from error


def _read_pickle(path: Path) -> Any:
    """torch.load, restricted to tensors and plain containers; mapped into memory if the format allows it."""
    if fault := no_weights(path):
        raise UserError(f"{path} is not a readable PyTorch file: {fault}")
    zipped = zipfile.is_zipfile(path)
    try:
        stand_ins: list[Any] = [(stand_in, name) for name, stand_in in STOOD_IN_FOR.items()]
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)|(?:class|module|function) ([\w.]+)", str(error))
        if named is None:
            raise UserError(f"{path} is not a readable PyTorch file: {_kind(path)}") from error
        raise UserError(_refusal(path, named[1] or named[2])) from error
    # Damaged archives surface as nearly any of these, from torch's C++ and from the unpickler alike.
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        reason = "it is damaged, or of another kind" if zipped else "it is damaged or cut off; fetch it again"
        raise UserError(f"{path} is not a readable PyTorch file: {reason}") from error


def _kind(path: Path) -> str:
    """Return what a file is that is not torch's and does not name what it would build."""
    with path.open("rb") as file:
        begin = file.read(2)
    if begin[:1] == pickle.PROTO and begin[1:] != b"\x02":  # torch.save writes protocol 2
        return "it is a pickle that torch.save did not write; opening it could run code, so it was not opened"
    return "it is damaged, or of another kind"


def in_folder(path: Path) -> Path:
    """Return the file of weights in a folder as model hubs have it; `path` itself if it is no such folder."""
    return next((path / name for name in FOLDER_FILES if (path / name).is_file()), path)


def no_weights(path: Path) -> str:
    """Return what the file is, if its beginning or table of contents tells that it holds no weights; else ""."""
    with path.open("rb") as file:
        begin = file.read(64).lstrip()
    if not begin:
        return "it is empty"
    if re.match(rb"<[!?A-Za-z]", begin):  # more than "<", with which the length before a safetensors file may begin
        return "it is a web page, perhaps of a proxy or a login; fetch it again"
    if begin.startswith(b"version https://git-lfs"):
        return "it only stands for a file in Git LFS; fetch that (git lfs pull)"
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                names = {name.partition("/")[2] for name in archive.namelist()}
                unpacked = sum(entry.file_size for entry in archive.infolist())
        except (zipfile.BadZipFile, NotImplementedError, ValueError):
            return "it is a damaged archive; fetch it again"
        if "constants.pkl" in names:
            return "it is a TorchScript program, which is code; save the state_dict of its network instead"
        if "data.pkl" not in names:
            return "it is an archive of another kind"
        if unpacked > path.stat().st_size:  # torch.save compresses nothing
            size = path.stat().st_size
            return f"it is an archive of {size:,} bytes that unpacks to {unpacked:,}; save it again with torch.save"
    return ""


def _refusal(path: Path, name: str) -> str:
    convert = (
        "import torch; keep = lambda d: {k: keep(v) if isinstance(v, dict) else v for k, v in d.items() "
        "if isinstance(v, (dict, torch.Tensor))}; c = torch.load('IN', 'cpu', weights_only=False); "
        "torch.save(keep(c.state_dict() if hasattr(c, 'state_dict') else c), 'OUT')"
    )
    return (
        f"{path} holds Python objects besides weights ({name}), and opening those can run code, so it was not opened. "
        "If you trust where it comes from, keep only its weights, in a place where nothing can be harmed, and import "
        f'the result: python -c "{convert}"'
    )
