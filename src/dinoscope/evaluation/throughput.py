"""How many images a second a network describes, how large it is, and how much memory it takes.

The whole network at evaluation, patch tokens included, on images that are already in the device's memory as uint8:
normalisation counts, reading and decoding do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dinoscope.config import to_dict
from dinoscope.errors import UserError
from dinoscope.evaluation.base import Column, Context, Data, Evaluation
from dinoscope.evaluation.results import new_result
from dinoscope.model_names import Model
from dinoscope.models.backbone import Backbone
from dinoscope.system import DTYPES, WARM_UP_CALLS, Machine, MemoryWatch, machine, time_calls
from dinoscope.types import Metric, Result

GPU_BATCH, CPU_BATCH = 128, 16
"""Images per forward unless said otherwise; 128 is the batch of DINO's Table 2."""


@dataclass(frozen=True)
class ThroughputConfig:
    """Settings of the measurement of speed."""

    image_size: int = 224
    """Side of the square images, in pixels."""

    batch_size: int | None = None
    """Images per forward; by default 128 on a GPU and 16 on a CPU."""

    repeats: int = 5
    """Timed repeats, of which the median is given, and the slowest and fastest."""


def throughput(
    backbone: Backbone,
    device: torch.device,
    config: ThroughputConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
    precision: str = "fp32",
) -> tuple[tuple[Metric, ...], dict[str, Any]]:
    """Measure the network, which is moved to `device` and afterwards in evaluation mode.

    Returns `parameters` (M), `images_per_second` (median; `_slowest` and `_fastest` of the repeats next to it), and
    `peak_memory` (MiB) if it can be known; and the protocol, without which no figure of speed means anything: backbone,
    image_size, batch_size, precision, repeats, forwards_per_repeat, warm_up_forwards, memory (what the figure of memory
    is, or why there is none), machine.

    Raises UserError if a setting is below 1, or the image smaller than a patch.
    """
    config, dtype = config or ThroughputConfig(), DTYPES[precision]
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
        with torch.inference_mode(), torch.autocast(device.type, dtype, dtype != torch.float32):
            return backbone(backbone.normalize(images)).feature

    timing, memory = time_calls(forward, device, config.repeats, progress), watch.read()
    protocol = {
        "backbone": backbone.config.name,
        "image_size": config.image_size,
        "batch_size": batch,
        "precision": precision,
        "repeats": config.repeats,
        "forwards_per_repeat": timing.calls,
        "warm_up_forwards": WARM_UP_CALLS,
        "memory": memory.meaning,
        "machine": to_dict(machine(device)),
    }
    metrics = (
        Metric("parameters", millions_of_parameters(backbone), "M", higher_is_better=False),
        *timing.metrics("images_per_second", batch),
        *memory.metrics("peak_memory"),
    )
    return metrics, protocol


def millions_of_parameters(backbone: Backbone) -> float:
    """Return the number of parameters of the backbone alone, without any head, in millions."""
    return sum(parameter.numel() for parameter in backbone.parameters()) / 1e6


# The evaluation


def run(models: Sequence[Model], data: Data, config: ThroughputConfig, context: Context) -> Iterator[Result]:
    """Measure each model's network. Raises UserError as `throughput` does."""
    for model in models:
        device = context.device or torch.device("cpu")
        with context.watch("forwards, timed") as progress:
            metrics, protocol = throughput(model.backbone, device, config, progress, context.precision)
        yield new_result("throughput", protocol, metrics)


def expected(model: Model, data: Data, config: ThroughputConfig, context: Context) -> dict[str, Any]:
    """Return the settings; on which machine is not asked."""
    settings = {"image_size": config.image_size, "precision": context.precision, "repeats": config.repeats}
    return settings if config.batch_size is None else settings | {"batch_size": config.batch_size}


def protocol_line(protocol: Mapping[str, Any]) -> str:
    """Return the protocol in one line for a person."""
    backbone = f"{protocol['backbone']}, " if "backbone" in protocol else ""
    memory = f"; memory: {protocol['memory']}" if "memory" in protocol else ""
    return (
        f"{backbone}batch {protocol['batch_size']} of {protocol['image_size']} px, {protocol['precision']}, "
        f"median of {protocol['repeats']} repeats; {Machine(**protocol['machine']).line()}{memory}"
    )


EVALUATION = Evaluation(
    "throughput",
    "im/s",
    "Measure how fast a network describes images that are in memory, how large it is, and what memory it takes.",
    "nothing",
    ThroughputConfig,
    run,
    (Column("throughput", "im/s", "images_per_second", unit="images/s", digits=0, ranked=False),),
    protocol_line,
    expected,
    default=True,
    by_network=True,
    uses=("device", "precision"),
)
