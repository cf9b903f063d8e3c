"""How many images a second a network describes or a method trains on, how large it is, and how much memory it takes.

Forward: the whole network at evaluation, patch tokens included, on images that are already in the device's memory as
uint8: normalisation counts, reading and decoding do not.

Training: whole optimiser steps: views from host memory to the device, forward, loss, backward, clipping, update, and
what the method moves (teacher, queue, prototypes). Making the views is left out; `waiting_for_data` in a run's metrics
tells whether that would hold training up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dinoscope.config import to_dict
from dinoscope.data.masking import PatchMasking
from dinoscope.data.sources import ImageFolder
from dinoscope.errors import UserError
from dinoscope.evaluation import base
from dinoscope.evaluation.base import Context, Data
from dinoscope.evaluation.results import new_result
from dinoscope.features import Progress
from dinoscope.methods import method_name
from dinoscope.model_names import Model
from dinoscope.models.backbone import Backbone, BackboneConfig, build_backbone, without_drop_path
from dinoscope.recipes import run_config
from dinoscope.system import DTYPES, WARM_UP_CALLS, Machine, MemoryWatch, machine, time_calls
from dinoscope.training.config import RunConfig, check
from dinoscope.training.run_folder import read_config
from dinoscope.training.trainer import Trainer
from dinoscope.types import Metric, Result, Views

GPU_BATCH, CPU_BATCH = 128, 16
"""Images per forward by default; 128 is the batch of DINO's Table 2."""
_CLASSES = 10  # of the made-up labels
_MIN_STEPS = 1000  # of the made-up run; the steps that are made are in its middle, where nothing is frozen


@dataclass(frozen=True)
class ThroughputConfig:
    """Settings of the measurement of speed."""

    image_size: int = 224
    """Side of the square images, in pixels."""

    batch_size: int | None = None
    """Images per forward; by default 128 on a GPU and 16 on a CPU."""

    repeats: int = 5
    """Timed repeats, of which the median is given, and the slowest and fastest."""

    backbone: str | None = None
    """Instead of --model: the name of a network, with random weights; speed does not depend on them."""

    recipe: str | None = None
    """Instead of --model: a recipe, whose network (and with --training, method) is measured."""

    threads: int = 0
    """CPU threads; 0 leaves torch's choice. In training, a run's own setting comes first."""

    precision: Literal["fp32", "bf16", "fp16"] | None = None
    """Precision of the matrix products; by default fp32, and for training that of the run or recipe."""

    training: bool = False
    """Measure optimiser steps of the run's or recipe's method too, on views that are in memory."""

    training_batch_size: int | None = None
    """Images per optimiser step; by default that of the run or recipe."""


def throughput(
    backbone: Backbone,
    device: torch.device,
    config: ThroughputConfig | None = None,
    progress: Progress | None = None,
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
    shape = (batch, backbone.config.channels, config.image_size, config.image_size)
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
    parameters = Metric("parameters", millions_of_parameters(backbone), "M", higher_is_better=False)
    return (parameters, *timing.metrics("images_per_second", batch), *memory.metrics("peak_memory")), protocol


def millions_of_parameters(backbone: Backbone) -> float:
    """Return the number of parameters of the backbone alone, without any head, in millions."""
    return sum(parameter.numel() for parameter in backbone.parameters()) / 1e6


def training_throughput(
    config: RunConfig, device: torch.device, repeats: int = 5, progress: Callable[[int, int], None] | None = None
) -> tuple[tuple[Metric, ...], dict[str, Any]]:
    """Measure optimiser steps of a run's settings on made-up views; no image is read, nothing is written.

    Returns `training_images_per_second` (images, not views; median; `_slowest` and `_fastest` next to it), and
    `training_peak_memory` (MiB) if it can be known; and the protocol: method, backbone, views (number and size), and
    otherwise as that of `throughput`.

    Raises UserError if the settings contradict each other, a step does not fit into memory, or `repeats` is below 1.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    config = replace(config, epochs=max(config.epochs, 1))
    count = config.batch_size * math.ceil(_MIN_STEPS / config.epochs)
    names, labels = tuple(map(str, range(count))), tuple(number % _CLASSES for number in range(count))
    images = ImageFolder(Path("made-up-images"), names, labels, names[:_CLASSES])
    check(config, count, processes=1, classes=_CLASSES)
    watch = MemoryWatch(device)
    try:
        trainer = Trainer(config, images, device)
        views = made_up_views(config, trainer.method.masking)

        def step() -> None:
            trainer.next_step = trainer.total // 2  # always the same step, however many are made
            trainer.make_step(views)

        timing, memory = time_calls(step, device, repeats, progress), watch.read()
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"a step of {config.batch_size} images does not fit into the memory of {device}: "
            "give a smaller --training-batch-size"
        ) from error
    sizes = config.views
    local = f" + {sizes.num_local} x {sizes.local_size}" if sizes.num_local else ""
    protocol = {
        "method": method_name(config.method),
        "backbone": config.backbone,
        "views": f"{sizes.num_global} x {sizes.global_size}{local}",
        "batch_size": config.batch_size,
        "accumulate": config.accumulate,
        "precision": trainer.precision,
        "repeats": repeats,
        "steps_per_repeat": timing.calls,
        "warm_up_steps": WARM_UP_CALLS,
        "memory": memory.meaning,
        "machine": to_dict(machine(device)),
    }
    metrics = timing.metrics("training_images_per_second", config.batch_size)
    return (*metrics, *memory.metrics("training_peak_memory")), protocol


def made_up_views(config: RunConfig, masking: PatchMasking | None = None) -> Views:
    """Return random views of one batch, in the number and sizes of the settings, with labels and, if asked, masks."""
    generator = torch.Generator().manual_seed(0)

    def pixels(count: int, size: int) -> Tensor:
        shape = (count, config.batch_size, config.backbone_config.channels, size, size)
        return torch.randint(256, shape, dtype=torch.uint8, generator=generator)

    views, index = config.views, torch.arange(config.batch_size)
    local_views = pixels(views.num_local, views.local_size) if views.num_local else None
    masks = None if masking is None else masking.sample_batch(0, 0, range(config.batch_size), views.num_global)
    return Views(pixels(views.num_global, views.global_size), local_views, index, index % _CLASSES, masks=masks)


# The evaluation


def run(models: Sequence[Model], data: Data, config: ThroughputConfig, context: Context) -> Iterator[Result]:
    """Measure each model's network, or the one that the settings name; then training, if asked for.

    The entry label of a protocol names what is no model.

    Raises UserError if the settings contradict each other, or as `throughput` and `training_throughput` do.
    """
    if sum((bool(models), config.backbone is not None, config.recipe is not None)) != 1:
        raise UserError("give one of --model, --backbone and --recipe")
    if config.training_batch_size is not None and not config.training:
        raise UserError("--training-batch-size needs --training")
    if config.training and config.backbone is not None:
        raise UserError("--training needs a method: give --recipe NAME, or a run folder as --model")
    if config.threads:
        torch.set_num_threads(config.threads)
    networks, runs = [(model.backbone, "") for model in models], list[tuple[str, RunConfig, Model | None]]()
    if config.training:
        runs = [(model.label, read_config(model.run or Path(model.name)), model) for model in models]
    if config.backbone is not None:
        backbone = build_backbone(BackboneConfig(config.backbone, image_size=config.image_size))
        networks.append((backbone, config.backbone))
    if config.recipe is not None:
        recipe = run_config(config.recipe, Path("unread"), Path("unwritten"))
        networks.append((build_backbone(without_drop_path(recipe.backbone_config)), config.recipe))
        runs += [(config.recipe, recipe, None)] if config.training else []
    device = context.device or torch.device("cpu")
    for backbone, name in networks:
        with context.watch("forwards, timed") as progress:
            metrics, protocol = throughput(backbone, device, config, progress, config.precision or context.precision)
        yield new_result("throughput", protocol | ({"label": name} if name else {}), metrics)
    for name, settings, model in runs:
        changes = {"batch_size": config.training_batch_size, "precision": config.precision}
        settings = replace(settings, **{key: value for key, value in changes.items() if value is not None})
        with context.watch("training steps, timed") as progress:
            metrics, protocol = training_throughput(settings, device, config.repeats, progress)
        result = new_result("throughput", {**protocol, "label": f"training {name}"}, metrics)
        if model is not None:
            base.keep_result(EVALUATION, model, config, result)
        yield result


def expected(model: Model, data: Data, config: ThroughputConfig, context: Context) -> dict[str, Any]:
    precision = config.precision or context.precision
    settings = {"image_size": config.image_size, "precision": precision, "repeats": config.repeats}
    return settings if config.batch_size is None else settings | {"batch_size": config.batch_size}


def protocol_line(protocol: Mapping[str, Any]) -> str:
    if "method" in protocol:
        what = f"training {protocol['backbone']} with {protocol['method']}, {protocol['views']} px"
        what += f", batch {protocol['batch_size']}"
    else:
        network = f"{protocol['backbone']}, " if "backbone" in protocol else ""
        what = f"{network}batch {protocol['batch_size']} of {protocol['image_size']} px"
    memory = f"; memory: {protocol['memory']}" if "memory" in protocol else ""
    machine_line = Machine(**protocol["machine"]).line()
    return f"{what}, {protocol['precision']}, median of {protocol['repeats']} repeats; {machine_line}{memory}"


EVALUATION = base.Evaluation(
    "throughput",
    "im/s",
    "Measure how fast a network describes images that are in memory, how large it is, and what memory it takes.",
    "nothing",
    ThroughputConfig,
    run,
    (base.Column("throughput", "im/s", "images_per_second", unit="images/s", digits=0, ranked=False),),
    protocol_line,
    expected,
    default=True,
    by_network=True,
    needs_no_model=True,
    uses=("device",),
    file_name=lambda config, protocol: "training_throughput" if "method" in protocol else "throughput",
)
