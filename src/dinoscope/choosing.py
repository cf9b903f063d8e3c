"""`--recipe auto`: facts of the images and of the machine -> method, network, views and the rest, and why.

`ROWS` is the whole of what is chosen, best row first; docs/choosing.md has the evidence. `choose` is a pure function of
the facts and of what the person gave, which it never changes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dinoscope.config import changed, leaves
from dinoscope.data.scan import ScanReport, check_readable
from dinoscope.data.sources import ImageSource, image_fraction
from dinoscope.data.views import VIEWS
from dinoscope.errors import UserError
from dinoscope.methods import METHODS, method_name
from dinoscope.methods.method import settings
from dinoscope.models.backbone import network
from dinoscope.recipes import RECIPES, small_settings
from dinoscope.system import available_cores, device_memory, pick_device, pick_precision
from dinoscope.training.config import RunConfig, check, total_steps, with_epochs
from dinoscope.training.start import found_images, scan_images

AUTO = "auto"

GB = 1e9

ASSUMED_MEMORY = 4 * GB
"""Memory in bytes that is assumed if a device does not report its own."""

SHARE_OF_MEMORY = 0.8
"""What a step may take of a device's memory."""


@dataclass(frozen=True)
class Facts:
    """What a choice depends on.

    images: that can be read. side: median of the images' shorter sides, in pixels. smallest, largest: of all sides.
    grey: at least 99 of 100 images have no colour.
    device: cpu, cuda or mps. memory: of it, in bytes; None if it is not known. half: whether it computes in bf16 or
        fp16.
    cores: of the CPU. processes: that train together.
    """

    images: int
    side: int
    smallest: int
    largest: int
    grey: bool
    device: str
    memory: int | None
    half: bool
    cores: int
    processes: int = 1


@dataclass(frozen=True)
class Row:
    """A choice, and what it is for.

    name: in a few words. why: what was measured or published, in one line.
    devices: cpu, cuda, mps. max_side: of images, median of the shorter sides. min_memory: bytes; with less, a later row
        is taken.
    settings: dotted setting -> value, as in a recipe, with "method" and, as "views", a preset.
    seen, epochs: images of the whole training, which epochs follow from, and fewest and most of these.
    memory, memory_per_image: bytes at the peak of a step in fp32, without images and for each image of a micro-batch,
        by `train --plan`; a test compares them.
    """

    name: str
    why: str
    devices: tuple[str, ...]
    max_side: float
    settings: Mapping[str, Any]
    seen: float
    epochs: tuple[float, float]
    memory: float
    memory_per_image: float
    min_memory: float = 0.0

    @property
    def method(self) -> str:
        return self.settings["method"]


GPU = ("cuda", "mps")

_EMP: dict[str, Any] = settings(
    {"method": "emp", "backbone": "airbench_micro", "drop_path": 0.0, "batch_size": 128},
    method={"hidden_dim": 512, "projection_dim": 256, "alignment_weight": 100.0},
    optimizer={"learning_rate": 4e-3, "weight_decay": 0.04, "final_weight_decay": 0.04},
)
_DINO: dict[str, Any] = {**RECIPES["dino_small_images_cpu"].settings, "method": "dino"}
_EMP_GPU: dict[str, Any] = {**RECIPES["emp_resnet18_cifar"].settings, "method": "emp"}
_FOLDER: dict[str, Any] = {**RECIPES["dino_folder"].settings, "method": "dino"}
_SMALL: dict[str, Any] = settings(
    {"method": "dino", "backbone": "vit_small_patch16_224", "batch_size": 256},
    method={"out_dim": 65536, "teacher_momentum": 0.996},
    optimizer={"learning_rate": 5e-4},
)
_FOUR_VIEWS = {"views": "two_views_32", "views.num_global": 4}

ROWS: tuple[Row, ...] = (
    Row(
        "small images on a CPU",
        "62 % k-NN on CIFAR-10 after ten minutes on one core, more than any other method (docs/results/photographs.md)",
        devices=("cpu",),
        max_side=40,
        settings=_EMP | _FOUR_VIEWS | {"views.global_size": 24},
        seen=100_000,
        epochs=(1, 100),
        memory=0.028 * GB,
        memory_per_image=0.0025 * GB,
    ),
    Row(
        "images of about 64 px on a CPU",
        "the method that learns fastest on images of 32 px here; at 48 px it is not measured",
        devices=("cpu",),
        max_side=64,
        settings=_EMP | _FOUR_VIEWS | {"views.global_size": 48},
        seen=30_000,
        epochs=(1, 100),
        memory=0.028 * GB,
        memory_per_image=0.0097 * GB,
    ),
    Row(
        "photographs on a CPU",
        "the method that learns fastest on images of 32 px here; at 48 px it is not measured",
        devices=("cpu",),
        max_side=math.inf,
        settings=_EMP | _FOUR_VIEWS | {"views.global_size": 48, "decode": "reduced"},
        seen=30_000,
        epochs=(1, 100),
        memory=0.028 * GB,
        memory_per_image=0.0097 * GB,
    ),
    Row(
        "a CPU and a transformer",
        "the network of the quickstart, which learns on a CPU (docs/results/README.md)",
        devices=("cpu",),
        max_side=math.inf,
        settings=_DINO,
        seen=300_000,
        epochs=(6, 100),
        memory=0.009 * GB,
        memory_per_image=0.0009 * GB,
    ),
    Row(
        "small images on a GPU",
        "published on CIFAR-10: linear 90.7 % after 10 epochs (docs/methods/emp.md); not run here",
        devices=GPU,
        max_side=64,
        min_memory=3 * GB,
        settings=_EMP_GPU,
        seen=1_500_000,
        epochs=(2, 100),
        memory=0.478 * GB,
        memory_per_image=0.0962 * GB,
    ),
    Row(
        "photographs on a GPU",
        "DINO's own network and views; published on ImageNet: k-NN 69.3 % after 100 epochs (docs/methods/dino.md)",
        devices=GPU,
        max_side=math.inf,
        min_memory=7 * GB,
        settings=_SMALL,
        seen=20_000_000,
        epochs=(10, 300),
        memory=0.949 * GB,
        memory_per_image=0.2032 * GB,
    ),
    Row(
        "a small GPU and small images",
        "the recipe dino_small_images; not measured on a GPU",
        devices=GPU,
        max_side=64,
        settings={**RECIPES["dino_small_images"].settings, "method": "dino"},
        seen=5_000_000,
        epochs=(10, 300),
        memory=0.159 * GB,
        memory_per_image=0.029 * GB,
    ),
    Row(
        "a small GPU",
        "about 15 times cheaper an image than DINO's ViT-S at 224 px (the recipe dino_folder); not measured",
        devices=GPU,
        max_side=math.inf,
        settings=_FOLDER,
        seen=5_000_000,
        epochs=(10, 300),
        memory=0.161 * GB,
        memory_per_image=0.0302 * GB,
    ),
)
"""What is chosen: the first row that is for the device and the size of the images, and runs with what was given."""

OUTPUTS = ((200_000, 65536), (20_000, 16384), (0, 4096))
"""(images from which on, at most so many outputs of DINO's head): small sets want a few thousand."""

WARM_UP = 0.1
"""Share of the epochs in which the learning rate rises."""

EVALUATIONS = 10
"""Online evaluations of a run."""

FEW = 200
"""With fewer images, the advice is to begin from released weights."""

MIXED = 8
"""If the longest side of all images is more than this many times the shortest, the output mentions it."""

MIN_BATCH, STEPS_PER_EPOCH = 16, 4
"""A batch is halved, but not below the first, until an epoch has so many steps."""

FEW_CORES = 2
"""Cores up to which a run on a CPU computes with one thread, as loader, system and all else need the other. Of two
threads, each waits for the other at every operation: a step took twice the processor time (docs/choosing.md)."""


CHOSEN = (
    *("backbone", "epochs", "batch-size", "accumulate", "drop-path", "evaluate-every", "decode", "threads"),
    *("views.num-global", "views.num-local", "views.global-size", "views.local-size"),
    *("optimizer.name", "optimizer.learning-rate", "optimizer.warmup-epochs", "optimizer.weight-decay"),
    *("optimizer.final-weight-decay",),
)
"""Options whose default help gives as `AUTO`."""


@dataclass(frozen=True)
class Choice:
    """Settings of a run, and why, in three lines: the images, the method, the network with all else."""

    config: RunConfig
    row: Row
    reasons: tuple[str, str, str]


def choose(facts: Facts, base: RunConfig, given: Collection[str] = ()) -> Choice:
    """Return what the facts advise.

    base: settings with what the person gave; its other values do not matter. given: the names of these, dotted, with
        "method" if it was named. They stay as they are, and rows that do not run with them are left out.
    Raises UserError, that of the first such row, if there is no other.
    """
    faults = list[UserError]()
    for row in ROWS:
        enough = (facts.memory or ASSUMED_MEMORY) >= row.min_memory
        if facts.device not in row.devices or facts.side > row.max_side or not enough:
            continue
        try:
            config = _config(row, facts, base, given)
            check(config, facts.images, facts.processes, classes=2 * METHODS[method_name(config.method)].labels)
        except UserError as error:
            faults.append(error)
        else:
            return Choice(config, row, _reasons(row, facts, config, given))
    raise faults[0]


def _config(row: Row, facts: Facts, base: RunConfig, given: Collection[str]) -> RunConfig:
    chosen = dict(row.settings)
    method = method_name(base.method) if "method" in given else row.method
    if method != row.method:
        backbone = base.backbone if "backbone" in given else row.settings["backbone"]
        sizes = {name: value for name, value in chosen.items() if name in ("decode", "views.global_size")}
        chosen = small_settings(method, backbone, row.settings.get("views", "imagenet")) | sizes
    preset = VIEWS[chosen.pop("views", "imagenet")]
    chosen = {f"views.{name}": value for name, value in leaves(preset).items()} | chosen
    chosen.pop("method", None)

    def filled(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
        known = leaves(config)
        return changed(config, {name: value for name, value in values.items() if name in known and name not in given})

    config = base if "method" in given else replace(base, method=METHODS[method].config())
    config = filled(config, chosen)
    config = filled(config, _sizes(config, given) | _colours(facts))
    config = filled(config, {"batch_size": _batch(config.batch_size, facts)} | _threads(facts))
    low, high = row.epochs
    epochs = float(f"{min(max(row.seen / facts.images, low), high):.2g}")
    warm_up = 0.0 if chosen.get("optimizer.warmup_epochs") == 0 else WARM_UP * epochs
    config = filled(config, {"epochs": epochs, "optimizer.warmup_epochs": warm_up})
    config = filled(config, _lengths(config, facts))
    if "epochs" in given and base.epochs < epochs:  # what counts epochs shrinks with them
        shorter, own = leaves(with_epochs(replace(config, epochs=epochs), base.epochs)), leaves(config)
        config = filled(config, {name: value for name, value in shorter.items() if value != own[name]})
    if not {"backbone", "method"} & set(given) and not any(name.startswith("views.") for name in given):
        config = filled(config, {"accumulate": _parts(row, facts, config.batch_size)})
    return config


def _sizes(config: RunConfig, given: Collection[str]) -> dict[str, Any]:
    """Return sizes of views that the patches of a transformer fill, if the person chose the network."""
    if "backbone" not in given or not network(config.backbone).transformer:
        return {}
    patch, views = network(config.backbone).patch, config.views
    sizes = {"views.global_size": views.global_size, "views.local_size": views.local_size}
    return {name: max(round(size / patch), 2) * patch for name, size in sizes.items()}


def _threads(facts: Facts) -> dict[str, Any]:
    return {"threads": 1} if facts.device == "cpu" and facts.cores <= FEW_CORES else {}


def _colours(facts: Facts) -> dict[str, Any]:
    return {"views.saturation": 0.0, "views.hue": 0.0, "views.grayscale": 0.0} if facts.grey else {}


def _batch(batch: int, facts: Facts) -> int:
    """Return a batch for an epoch of a few steps, in parts of equal size for all processes."""
    while batch > MIN_BATCH and batch * STEPS_PER_EPOCH > facts.images:
        batch //= 2
    batch = min(batch, facts.images)
    return max(batch // facts.processes, 1) * facts.processes


def _lengths(config: RunConfig, facts: Facts) -> dict[str, Any]:
    """Return what depends on the number of images and steps."""
    steps = total_steps(config, facts.images)
    chosen: dict[str, Any] = {"evaluate_every": max(round(config.epochs / EVALUATIONS), 1)}
    own = leaves(config)
    if "method.out_dim" in own:
        most = next(outputs for images, outputs in OUTPUTS if facts.images >= images)
        chosen["method.out_dim"] = min(own["method.out_dim"], most)
    if "method.teacher_momentum" in own:
        # The teacher is about the mean of the last 1 / (1 - momentum) steps: a fortieth of the run.
        chosen["method.teacher_momentum"] = round(min(max(1 - 40 / steps, 0.97), 0.996), 4)
    return chosen


def _parts(row: Row, facts: Facts, batch: int) -> int:
    """Return the fewest micro-batches with which a step fits into the memory; the most, if it never does."""
    own = batch // facts.processes
    parts = [count for count in range(1, own + 1) if own % count == 0 and (own // count >= 2 or own == 1)]
    limit = SHARE_OF_MEMORY * (facts.memory or ASSUMED_MEMORY)
    fitting = (count for count in parts if row.memory + row.memory_per_image * own / count <= limit)
    return next(fitting, parts[-1])


def _reasons(row: Row, facts: Facts, config: RunConfig, given: Collection[str]) -> tuple[str, str, str]:
    colour = "grey, so views change no colours" if facts.grey else "in colour"
    images = f"images: {facts.images:,} of {facts.side} px (median of the shorter side), {colour}: {row.name}"
    if facts.largest > MIXED * facts.smallest:
        images += f"; sides from {facts.smallest} to {facts.largest} px, and each view shows a share of its image"
    if facts.images < FEW:
        images += "; few to learn from: released weights know more (`dinoscope models`, --init)"
    name = method_name(config.method)
    why = "as you gave it" if "method" in given else row.why
    views, yours = config.views, ", ".join(sorted(_groups(given)))
    own = f"; given by you: {yours}" if yours else ""
    local = f" and {views.num_local} of {views.local_size} px" if views.num_local else ""
    cut = f" cut into {config.accumulate}" if config.accumulate > 1 else ""
    machine = [facts.device, f"{facts.cores} cores"]
    machine += [] if facts.memory is None else [f"{facts.memory / GB:.3g} GB"]
    machine += ["half precision"] if facts.half else []
    return (
        images,
        f"method: {name} ({METHODS[name].display.title}): {why}",
        f"network: {config.backbone}, {views.num_global} views of {views.global_size} px{local}, batch "
        f"{config.batch_size}{cut}, {config.epochs:g} epoch{'s' * (config.epochs != 1)}, for {', '.join(machine)}{own}",
    )


def _groups(given: Collection[str]) -> set[str]:
    return {"views" if name.startswith("views.") else name for name in given} - {"data", "out", "device"}


def chosen(
    base: RunConfig, given: Collection[str], progress: Callable[[int, int], None], source: ImageSource | None = None
) -> Choice:
    """Look over the images of a run and the machine, and choose.

    The images are checked as the run does it, which then takes what is known of them from the cache.
    Raises UserError if there are no images, or too many of them cannot be read.
    """
    _check_given(base, given)
    progress(0, 0)
    images = image_fraction(found_images(base, source, progress), base.fraction)
    report = scan_images(replace(base, scan="sample") if base.scan == "none" else base, images, progress)
    check_readable(images.name, report.unreadable, report.images, base.max_unreadable)
    return choose(facts_of(report, base, len(images)), base, given)


def _check_given(base: RunConfig, given: Collection[str]) -> None:
    """Raise UserError for a number of the person's that is wrong whatever the images are, before these are read."""
    for name in {"epochs", "batch_size", "accumulate"} & set(given):
        if (value := leaves(base)[name]) <= 0:
            raise UserError(f"--{name.replace('_', '-')} must be above 0, not {value:g}")


def facts_of(report: ScanReport, config: RunConfig, images: int) -> Facts:
    """Return the facts of images that were looked over, all or some of them, on this machine."""
    device = pick_device(config.device)
    readable = report.images - len(report.unreadable)
    widths, heights = report.widths, report.heights
    if widths is None or heights is None:
        raise UserError(f"{report.root}: none of its images can be read")
    return Facts(
        images=images - len(report.unreadable),
        side=min(widths.median, heights.median),
        smallest=min(widths.minimum, heights.minimum),
        largest=max(widths.maximum, heights.maximum),
        grey=report.grey >= 0.99 * readable,
        device=device.type,
        memory=device_memory(device),
        half=pick_precision(config.precision, device) != "fp32",
        cores=available_cores(),
        processes=int(os.environ.get("WORLD_SIZE", "1")),
    )
