"""How many images a second a network describes, how large it is, and how much memory it takes.

The whole network at evaluation, patch tokens included, on images that are already in the device's memory as uint8:
normalisation counts, reading and decoding do not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from dinoscope.errors import UserError
from dinoscope.models.backbone import Backbone
from dinoscope.system import WARM_UP_CALLS, Machine, MemoryWatch, machine, time_calls
from dinoscope.types import Metric

GPU_BATCH, CPU_BATCH = 128, 16
"""Images per forward unless said otherwise; 128 is the batch of DINO's Table 2."""


@dataclass(frozen=True)
class ThroughputConfig:
    """How it is measured.

    image_size: side of the square images, in pixels.
    batch_size: images per forward; None takes 128 on a GPU, 16 on a CPU.
    repeats: timed repeats, of which the median is taken.
    dtype: of the matrix products (autocast).
    """

    image_size: int = 224
    batch_size: int | None = None
    repeats: int = 5
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class ThroughputProtocol:
    """The circumstances, without which no figure of speed means anything.

    memory: what the figure of memory is, or why there is none.
    """

    backbone: str
    image_size: int
    batch_size: int
    precision: str
    repeats: int
    forwards_per_repeat: int
    warm_up_forwards: int
    memory: str
    machine: Machine

    def line(self) -> str:
        """In one line for a person."""
        return (
            f"{self.backbone}, batch {self.batch_size} of {self.image_size} px, {self.precision}, "
            f"median of {self.repeats} repeats; {self.machine.line()}; "
            f"memory: {self.memory}"
        )


def throughput(
    backbone: Backbone,
    device: torch.device,
    config: ThroughputConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[tuple[Metric, ...], ThroughputProtocol]:
    """Measure the network, which is moved to `device` and afterwards in evaluation mode.

    Returns `parameters` (M), `images_per_second` (median; `_slowest` and `_fastest` of the repeats beside it), and
    `peak_memory` (MiB) where it can be known.

    Raises UserError where a setting is below 1, or the image smaller than a patch.
    """
    config = config or ThroughputConfig()
    batch = (GPU_BATCH if device.type == "cuda" else CPU_BATCH) if config.batch_size is None else config.batch_size
    if batch < 1:
        raise UserError(f"--batch-size must be at least 1, not {batch}")
    if config.image_size < backbone.patch_size:
        raise UserError(
            f"--image-size {config.image_size} is less than one patch of {backbone.config.name} "
            f"({backbone.patch_size} px)"
        )
    watch = MemoryWatch(device)
    backbone.to(device).eval()
    shape = (batch, 3, config.image_size, config.image_size)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).to(device)

    def forward() -> object:
        with torch.inference_mode(), torch.autocast(device.type, config.dtype, config.dtype != torch.float32):
            return backbone(backbone.normalize(images)).feature

    timing, memory = time_calls(forward, device, config.repeats, progress), watch.read()
    protocol = ThroughputProtocol(
        backbone=backbone.config.name,
        image_size=config.image_size,
        batch_size=batch,
        precision=_PRECISIONS[config.dtype],
        repeats=config.repeats,
        forwards_per_repeat=timing.calls,
        warm_up_forwards=WARM_UP_CALLS,
        memory=memory.meaning,
        machine=machine(device),
    )
    metrics = (
        Metric("parameters", millions_of_parameters(backbone), "M", higher_is_better=False),
        *timing.metrics("images_per_second", batch),
        *memory.metrics("peak_memory"),
    )
    return metrics, protocol


def millions_of_parameters(backbone: Backbone) -> float:
    """Parameters of the backbone alone, without any head, in millions."""
    return sum(parameter.numel() for parameter in backbone.parameters()) / 1e6


_PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
