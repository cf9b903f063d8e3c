"""Which device, and which arithmetic on it."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch

from dinoscope import distributed
from dinoscope.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """The named device; auto is CUDA (this process's GPU), else MPS, else the CPU.

    Raises UserError where the device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device {name}: torch sees no CUDA device; use --device cpu or auto")
    if name == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps: torch sees no Apple GPU; use --device cpu or auto")
    if name == "cuda":
        name = f"cuda:{distributed.local_rank() % torch.cuda.device_count()}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name} is not a device: use auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def pick_precision(name: str, device: torch.device) -> str:
    """The named precision; auto is bf16 where the device multiplies it in hardware, fp16 on older GPUs, else fp32."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device.type == "cpu" and has_fast_bf16() else "fp32"


def has_fast_bf16() -> bool:
    """Whether this CPU has bf16 dot products; without them oneDNN falls back to loops hundreds of times slower."""
    capable = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # pyright: ignore
    return bool(capable)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Context in which matrix products run in `precision`."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, DTYPES[precision])
