"""What a run will cost, from a trial of a few steps: memory at the peak by what it is for, arithmetic and time.

The trial makes real optimiser steps on views of the first images, and writes nothing. If a whole micro-batch would take
too long or too much memory, it takes smaller ones of two sizes: the bytes alive after each operation are linear in the
images, so the peak of the whole one follows, wherever in the step it lies. The peak with more than four micro-batches
follows from those with two and four.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from dinoscope.data.loader import default_workers
from dinoscope.data.sources import ImageSource, counted
from dinoscope.errors import UserError
from dinoscope.methods.method import RunShape
from dinoscope.model_names import Watch, say_once
from dinoscope.models.backbone import check_backbone
from dinoscope.system import MemoryWatch, available_cores, device_memory, exact_cuda
from dinoscope.training.budget import Budget, fit, open_ended
from dinoscope.training.config import RunConfig, check, check_settings, total_steps
from dinoscope.training.listeners import Listener
from dinoscope.training.start import prepared_device, scanned_images
from dinoscope.training.trainer import Trainer
from dinoscope.types import Views

TRIAL_SECONDS, STEP_SECONDS = 5.0, 5.0
"""How long steps are timed, and how long one may take if smaller micro-batches can be had."""

MAX_VIEWED = 16
"""Images whose views are made; the batches of the trial repeat them."""

FLOPS: dict[Any, Any] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda *qkv, **_: sdpa_flop_count(*qkv[:3]),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda *gradient_qkv, **_: (
        sdpa_backward_flop_count(*gradient_qkv[:4])
    ),
}
"""Attention on a CPU, for `FlopCounterMode`: torch counts that of GPUs only."""


@dataclass(frozen=True)
class Plan:
    """What a run costs in one process.

    micro_batch, trial: images in a forward of the run, and in the largest of the trial.
    parameters, other_parameters: with a gradient, and without one (a teacher's).
    memory: part -> bytes at the peak of a step: "weights", "teacher" (all that has no gradient), "optimizer",
        "gradients", "activations" (all other tensors) and "overhead": what the process holds beyond tensors, which are
        gaps between them, code, and buffers within kernels. The last is missing if the system does not report it.
    device_memory: bytes, of a GPU those that were free; None if they are not known.
    flops_per_image: of a step, teacher and recomputation included; a multiplication with an addition counts as two.
    seconds_per_step: with the making of the views, without evaluations.
    epochs, length: of the run; why so many, if they were chosen for a time: see `budget.Length.facts`.
    """

    device: str
    precision: str
    images: int
    steps: int
    micro_batch: int
    trial: int
    parameters: int
    other_parameters: int
    memory: dict[str, int]
    device_memory: int | None
    flops_per_image: float
    seconds_per_step: float
    epochs: float
    length: Mapping[str, str] = field(default_factory=dict[str, str])


def plan(
    config: RunConfig, watch: Watch = say_once, limit: Budget | None = None, listeners: Sequence[Listener] = ()
) -> Plan:
    """Return what the run will cost. Settings and images are checked as a run does it.

    limit: the time for the run, instead of its epochs, which are then chosen as the run would choose them.
    listeners: of the run: what they evaluate is a part of that time.
    Raises UserError for settings or data that do not fit, or if not even a small batch fits into memory.
    """
    check_settings(open_ended(config) if limit else config)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("--plan is about one process: leave torchrun out, and give that process's part of --batch-size")
    device = prepared_device(config)
    with watch("checking the images") as progress:
        images, _, completed = scanned_images(config, progress)
    wanted = open_ended(config) if limit else config
    check(wanted, len(images), 1, len(images.classes), counted(images.passed_over))
    config, length = completed, None
    if limit:
        with exact_cuda(device), watch("steps of the trial") as progress:
            length = fit(config, images, device, limit, [*listeners, _Shown(progress)])
            config = length.config
    with contextlib.suppress(OSError):  # Linux: else only a peak above that of the scan could be read
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    memory = MemoryWatch(device)
    try:
        with exact_cuda(device), watch("steps of the trial") as progress:
            planned = _Trial(config, images, device, progress).plan(memory)
    except torch.OutOfMemoryError as error:
        raise UserError(f"not even a small batch fits into the memory of {device}: take smaller views") from error
    return replace(planned, seconds_per_step=length.costs.step, length=length.facts) if length else planned


class _Shown(Listener):
    """Shows the trial that chooses a length."""

    def __init__(self, progress: Callable[[int, int], object]) -> None:
        self.progress = progress

    def tried(self, seconds: float, limit: float) -> None:
        self.progress(min(round(seconds), round(limit)), round(limit))


class _Trial:
    def __init__(self, config: RunConfig, images: ImageSource, device: torch.device, progress: Any) -> None:
        self.config, self.progress, self.made = config, progress, 0
        count = min(config.batch_size, MAX_VIEWED)
        self.trainer = Trainer(replace(config, batch_size=count, accumulate=1, workers=0), images, device)
        batches, begin = self.trainer.batches(), time.perf_counter()
        batch = next(batches)
        self.view_seconds = (time.perf_counter() - begin) / count  # of an image, on one core
        self.views = batch if isinstance(batch, Views) else batch.to(device)

    def step(self, images: int, parts: int) -> None:
        """Make a step of so many micro-batches with so many images each."""
        trainer, views = self.trainer, self.views
        self.progress(self.made, max(self.made + 1, 10))
        trainer.config = replace(self.config, batch_size=images * parts, accumulate=parts)
        trainer.next_step = trainer.total - 1  # where nothing is frozen any more
        which = torch.arange(images * parts) % views.batch_size
        trainer.make_step(views.select(which))
        if trainer.device.type != "cpu":
            torch.accelerator.synchronize(trainer.device)
        self.made += 1

    def seconds(self, images: int, parts: int, limit: float = 0.0) -> float:
        """Return the median over the steps that fit into `limit` seconds, one at least."""
        laps = list[float]()
        while not laps or sum(laps) < limit:
            begin = time.perf_counter()
            self.step(images, parts)
            laps.append(time.perf_counter() - begin)
        return statistics.median(laps)

    def live_bytes(self, images: int, parts: int) -> Float[Tensor, "operations 2"]:
        """Return the bytes of all tensors, and those of gradients, after each operation of a step."""
        with self.trainer.uncompiled(), _Tensors(self.trainer) as tensors:
            self.step(images, parts)
        return torch.tensor(tensors.levels, dtype=torch.float64)

    def sizes(self, micro: int, parts: int) -> list[int]:
        """Return the micro-batch, after those of its divisors, from 2 on, that the method can take."""
        config, images, views = self.config, self.trainer.images, self.config.views
        rest = config.epochs, views.num_global, views.num_local, check_backbone(config.backbone_config).transformer
        shapes = (RunShape(len(images), len(images.classes), size * parts, size, *rest) for size in range(2, micro))
        fitting = (shape.micro_batch for shape in shapes if not any(config.method.faults(shape)))
        return [*(size for size in fitting if micro % size == 0), micro]

    def plan(self, watch: MemoryWatch) -> Plan:
        trainer, config, method, device = self.trainer, self.config, self.trainer.method, self.trainer.device
        parts, micro = config.accumulate, config.batch_size // config.accumulate
        few, many = min(parts, 2), min(parts, 4)  # micro-batches that are measured
        sizes, available = self.sizes(micro, many), device_memory(device, free=True)
        small = large = sizes[0]
        for _ in range(8):  # fp16 leaves out steps until its scale fits, and before that the optimiser has no state
            self.step(small, 1)
            if trainer.optimizer.state:
                break
        one, low = self.seconds(small, 1), self.live_bytes(small, few)
        start, highest = float(low[0, 0]), float(low[:, 0].max())

        def is_cheap(size: int) -> bool:
            needed = start + (highest - start) * size / small
            return few * one * size / large <= STEP_SECONDS and (available is None or needed < available / 2)

        while larger := [size for size in sizes if size > large and (is_cheap(size) or size in sizes[:2])]:
            one, large = self.seconds(larger[-1], 1), larger[-1]
        one = one if few * one > TRIAL_SECONDS else self.seconds(large, 1, TRIAL_SECONDS / few)
        two = self.seconds(large, 2, TRIAL_SECONDS / 2) if parts > 1 else 2 * one
        grown = watch.read().peak
        high, peaks = low if large == small else self.live_bytes(large, few), list[Tensor]()
        for count in (few, many):  # bytes of all tensors at the peak, and of gradients
            before = low if count == few else self.live_bytes(small, count)
            after = high if count == few else before if large == small else self.live_bytes(large, count)
            if len(before) != len(after):  # the two sizes take different ways
                before, after = before.amax(0, keepdim=True), after.amax(0, keepdim=True)
            after = after + (after - before) * (micro - large) / max(large - small, 1)
            peaks.append(after[after[:, 0].argmax()])
        tensors, gradients = (peaks[0] + (peaks[1] - peaks[0]) * (parts - few) / max(many - few, 1)).tolist()
        with trainer.uncompiled(), FlopCounterMode(display=False, custom_mapping=FLOPS) as flops:
            self.step(small, 1)
        trained = [parameter for _, parameter in method.trained_parameters()]
        others = [parameter for parameter in method.parameters() if not parameter.requires_grad]
        memory = {
            "weights": _bytes(trained),
            "teacher": _bytes([*others, *method.buffers()]),
            "optimizer": _bytes(trainer.optimizer.state),
            "gradients": round(gradients),
        }
        memory["activations"] = round(tensors) - sum(memory.values())
        if grown is not None:
            tried = float(high[:, 0].max())
            memory["overhead"] = max(round((grown - tried) * tensors / tried), 0)
        seconds = 2 * one - two + parts * (two - one) * micro / large  # the update, and the micro-batches
        views, workers = config.batch_size * self.view_seconds, config.workers
        if workers := default_workers(1) if workers < 0 else workers:
            busy = seconds * min(torch.get_num_threads(), available_cores()) if device.type == "cpu" else 0
            seconds = max(seconds, views / workers, (busy + views) / available_cores())
        else:
            seconds += views
        return Plan(
            device=str(device),
            precision=trainer.precision,
            images=len(trainer.images),
            steps=total_steps(config, len(trainer.images)),
            micro_batch=micro,
            trial=large,
            parameters=sum(parameter.numel() for parameter in trained),
            other_parameters=sum(parameter.numel() for parameter in others),
            memory=memory,
            device_memory=available,
            flops_per_image=flops.get_total_flops() / small,
            seconds_per_step=seconds,
            epochs=config.epochs,
        )


class _Tensors(TorchDispatchMode):
    """Counts the bytes that are alive after each operation. Buffers within a kernel are not seen."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        self.trained = [parameter for _, parameter in trainer.method.trained_parameters()]
        self.alive, self.level, self.levels = dict[int, weakref.ref[Any]](), 0, list[tuple[int, int]]()
        self._add([*trainer.method.parameters(), *trainer.method.buffers(), trainer.optimizer.state])

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._add(result)
        self.levels.append((self.level, _bytes([parameter.grad for parameter in self.trained])))
        return result

    def _add(self, values: Any) -> None:
        for storage in (value.untyped_storage() for value in tree_leaves(values) if isinstance(value, Tensor)):
            key, size = storage._cdata, storage.nbytes()
            if key not in self.alive:
                self.alive[key] = weakref.ref(storage, lambda _, key=key, size=size: self._remove(key, size))
                self.level += size

    def _remove(self, key: int, size: int) -> None:
        del self.alive[key]
        self.level -= size


def _bytes(values: Any) -> int:
    return sum(value.nbytes for value in tree_leaves(values) if isinstance(value, Tensor))
