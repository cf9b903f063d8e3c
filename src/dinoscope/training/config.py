"""The settings of a run: frozen, resolved once, saved in the run folder; and what contradicts them."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from dinoscope.config import changed, check_numbers, leaves
from dinoscope.data.grey_range import is_joined
from dinoscope.data.groups import of_headers
from dinoscope.data.reader import MAX_CHANNELS
from dinoscope.data.views import ViewsConfig
from dinoscope.errors import UserError
from dinoscope.methods.dino import DINOConfig
from dinoscope.methods.method import MethodConfig, RunShape
from dinoscope.models.backbone import IMAGENET_MEAN, IMAGENET_STD, BackboneConfig, build_backbone, check_backbone
from dinoscope.models.network import channels_made, require_depths, usual_normalisation


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimiser and its schedules.

    name: adamw (transformers), sgd (momentum 0.9), lars (large batches of convolutional networks) or larc (lars with
        Nesterov momentum, and no weight's rate above the learning rate: EMP-SSL).
    learning_rate: peak, for a batch of 256.
    min_learning_rate: the cosine ends here (not scaled).
    warmup_epochs: linear rise from `start_learning_rate`.
    weight_decay, final_weight_decay: cosine from one to the other.
    clip: largest norm of the gradient of each parameter tensor on its own; 0 for no clipping.
    scaling: of the peak with the batch size, by b / 256: "linear" (Goyal et al. 2017), its square root ("sqrt",
        Krizhevsky 2014), or "none".
    start_learning_rate: the warm-up begins here (not scaled).
    trust: of lars and larc: the share of its own length that a weight moves in a step, in lars times the learning
        rate. 0.001 in SimCLR, BYOL and SwAV, 0.005 in EMP-SSL.
    beta2: of adamw: memory of the mean squared gradients. MAE takes 0.95.
    decayed: parameters with weight decay: "weights", all but biases and other 1-D parameters (DINO); "not_tokens", of
        these neither class token nor positions (DeiT); "all" (MoCo, SwAV). LARS adapts its rate to all parameters that
        have weight decay.
    layer_decay: of fine-tuning, in (0, 1]: a layer learns at this factor times the rate of the next one, so that layers
        near the input change least: scale d^(L + 1 - i), with i = 0 for patches and positions, b + 1 for block b, and
        L + 1 for the final norm and the head (BEiT, MAE). 1 is the same rate for all.
    """

    name: Literal["adamw", "sgd", "lars", "larc"] = "adamw"
    learning_rate: float = 5e-4
    min_learning_rate: float = 1e-6
    warmup_epochs: float = 10
    weight_decay: float = 0.04
    final_weight_decay: float = 0.4
    clip: float = 3.0
    scaling: Literal["linear", "sqrt", "none"] = "linear"
    start_learning_rate: float = 0.0
    trust: float = 0.001
    beta2: float = 0.999
    decayed: Literal["weights", "not_tokens", "all"] = "weights"
    layer_decay: float = 1.0

    def scale(self, batch_size: int) -> float:
        """Return the factor of the peak learning rate: 1 for a batch of 256."""
        ratio = batch_size / 256
        return {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[self.scaling]

    def peak(self, batch_size: int) -> float:
        """Return the highest learning rate of a run."""
        return self.learning_rate * self.scale(batch_size)


@dataclass(frozen=True)
class SavingConfig:
    """When checkpoints are written.

    every_minutes: minutes between checkpoints.
    every_steps: optimiser steps between checkpoints; 0 for never.
    keep: number of the newest checkpoints that stay.
    """

    every_minutes: float = 10
    every_steps: int = 0
    keep: int = 2


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run.

    data: folder, archive (tar, zip, parquet) or list of images, or a pattern of several archives; of an archive or a
        list also its address (https, http or s3). Its `train` split is taken, if there is one. Several are joined.
    out: the run folder to write.
    method: settings of the method; their class decides which one it is.
    backbone: a network by name; `dinoscope backbones` lists them (`BACKBONES` of `dinoscope.models.backbone`), and
        timm:NAME takes one of timm's. It is built for images of `views.global_size`.
    image_size: side in pixels of the images on which the model is evaluated, during training and afterwards; None is
        `views.global_size`. The model stores it; training does not depend on it.
    init: a model to begin from, as `dinoscope.model_names.load_model` takes it, of the same network: its weights are
        the first ones of the backbone, student's and teacher's, under a fresh head. None for random weights.
    channels: of the images that the network takes, from 1 to 16. None takes that of the model to begin from, else 3,
        for which grey images are repeated, unless most images have neither 1 nor 3. 1 turns RGB into grey, and is the
        cheapest for images without colour. A model to begin from is adapted in its first layer.
    mean, std: normalisation of each channel in [0, 1]. A model to begin from with as many channels must have the same.
        In the place of the default (ImageNet's), images that are not 8-bit RGB take their own, as measured; so do
        images of other channels than three if three values are given, as by a recipe.
    window: LEVEL,WIDTH, the grey range of images of more than 8 bits: LEVEL - WIDTH / 2 becomes black, and
        LEVEL + WIDTH / 2 white; or lung, soft, bone or brain, for CT in Hounsfield units; or several of these, such as
        lung+soft+bone, which make as many channels of each grey image; or header, which takes the window in the header
        of each DICOM or NIfTI file, and for files without one the same as None. None takes that of the model to begin
        from, else of the training images: the smallest of 8, 10, 12, 14 and 16 bits that holds their largest value
        (signed, of more bits, or floats: from the smallest value to the largest). The model keeps it, and every later
        image is read by it.
    slices: neighbouring slices of the same volume, frames of the same file or files of the same DICOM series that
        become the channels of each image, which is the middle one: 3, or another odd number up to 15. At the ends the
        last slice is repeated. The model keeps it, and every later image is read with its neighbours. None takes that
        of the model to begin from, else 1.
    drop_path: stochastic depth of the student: highest rate, linear over the blocks.
    zero_init_residual: start every block of a ResNet as its shortcut, with a factor of 0 in its last batch norm, as
        SimCLR, BYOL and MoCo v3 do. Random baselines never start so.
    fraction: share of the training images to train on, in (0, 1]: the same ones for every seed, and all those of a
        smaller fraction, regardless of labels. Evaluations of the run still use all images.
    group: pattern that finds in the key of each image the patient, slide or video that it is of: '(?P<patient>[^/]+)/';
        or header:patient, header:study or header:series, which read it from the header of each DICOM file. The split
        keeps groups whole, and online k-NN takes no neighbour of the same group.
    split: share of images without a val split to train on, such as 0.8. Evaluations of the run measure on the rest.
        None trains on all.
    scan: check of the images of the fraction before the run begins. "full" decodes each, "headers" is faster and misses
        damaged pixels, "sample" decodes 2,000 of them, evenly spaced, and "none" nothing. "auto" is "full" for up to
        50,000 images, else "sample". In place of an image that turns out to be damaged later, the next one is taken.
    max_unreadable: share of these images that may be unreadable, from 0 to 1: they are left out.
    max_megapixels: largest image that is read, in million pixels; None is $DINOSCOPE_MAX_MEGAPIXELS, or 60 without it.
    decode: "full" decodes all pixels of an image. "reduced" decodes a JPEG at 1/2, 1/4 or 1/8 of its size if all its
        views of the epoch shrink their crops that much: faster for photographs of a camera, pixels a little different.
    shuffle_block: images that lie next to each other on the disk and are read together, for disks and networks on which
        reading here and there is slow: blocks are shuffled, and then the images of 16 blocks at a time. 0 shuffles all
        images of an epoch. Views do not depend on it.
    epochs: passes over the images (of the fraction); may be a fraction itself.
    batch_size: images per optimiser step, over all processes and micro-batches together.
    accumulate: number of micro-batches that a process cuts its part of the batch into, to save memory.
    checkpoint_activations: recompute activations in the backward pass: less memory, about a third slower.
    compile: compile the blocks of the networks with torch.compile, which takes minutes at the first step and is for
        long runs on a GPU. If it fails, the run continues without it. Evaluations never use it.
    sharding: of the networks over the processes: "none", each holds all of them; "fsdp", each holds a part of the
        weights, gradients and the optimiser's state, for networks of ViT-B's size and more. Checkpoints are the same.
    precision: fp32, bf16 or fp16 autocast; auto is bf16 if the device has it in hardware, else fp32.
    device: cpu, cuda or mps; auto takes the best that is available.
    threads: CPU threads of each process; 0 leaves torch's choice. Very small networks are fastest with 1.
    workers: loader processes; -1 chooses. The result does not depend on it.
    seed: of the first weights, the order of the images and the views.
    log_every: optimiser steps between lines of metrics.jsonl. A GPU is waited for only then, at the ends
        of epochs and before checkpoints, so a loss that is not finite is seen at the next of these.
    evaluate_every: epochs between online k-NN and attention snapshots; 0 for never.
    """

    data: Path
    out: Path
    method: MethodConfig = field(default_factory=DINOConfig)
    backbone: str = "vit_small_patch16_224"
    image_size: int | None = None
    init: str | None = None
    channels: int | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    window: tuple[float, ...] | None = None
    slices: int | None = None
    drop_path: float = 0.1
    zero_init_residual: bool = False
    views: ViewsConfig = field(default_factory=ViewsConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    saving: SavingConfig = field(default_factory=SavingConfig)
    fraction: float = 1.0
    group: str | None = None
    split: float | None = None
    scan: Literal["auto", "full", "headers", "sample", "none"] = "auto"
    max_unreadable: float = 0.05
    max_megapixels: float | None = None
    decode: Literal["full", "reduced"] = "full"
    shuffle_block: int = 0
    epochs: float = 100
    batch_size: int = 64
    accumulate: int = 1
    checkpoint_activations: bool = False
    compile: bool = False
    sharding: Literal["none", "fsdp"] = "none"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: str = "auto"
    threads: int = 0
    workers: int = -1
    seed: int = 0
    log_every: int = 10
    evaluate_every: int = 1

    @property
    def backbone_config(self) -> BackboneConfig:
        """The student's backbone."""
        trained = self.views.global_size
        shown = trained if self.image_size is None else self.image_size
        layout = None if shown == trained else trained
        slices = self.slices or 1
        return BackboneConfig(self.backbone, shown, self.drop_path, *self.normalisation, layout, self.window, slices)

    @property
    def fixed_channels(self) -> int | None:
        """As many channels as joined windows or slices make, else those that are given; None: the images decide."""
        made = channels_made(self.window, self.slices or 1)
        return self.channels if made is None else made

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and std for as many channels as the run has: until the images are measured, the usual ones."""
        if self.is_normalisation_open and self.fixed_channels is not None:
            return usual_normalisation(self.fixed_channels)
        return self.mean, self.std

    @property
    def is_normalisation_open(self) -> bool:
        """Whether mean and std are those of a recipe or a model for another number of channels than the run's."""
        is_from_there = len(self.mean) == 3 or self.init is not None
        fixed = self.fixed_channels
        return is_from_there and fixed is not None and len(self.mean) == len(self.std) != fixed


def total_steps(config: RunConfig, images: int) -> int:
    """Return the optimiser steps of a run on so many images; the rest of an epoch that fills no batch is left out."""
    return max(round(config.epochs * (images // config.batch_size)), 1)


def with_epochs(config: RunConfig, epochs: float | None) -> RunConfig:
    """Return the run with another length; None changes nothing.

    A shorter one warms up, and its method counts epochs and steps (`MethodConfig.shortened`), in proportion.
    """
    if epochs is None:
        return config
    share = min(epochs / config.epochs, 1)
    optimizer = replace(config.optimizer, warmup_epochs=config.optimizer.warmup_epochs * share)
    return replace(config, epochs=epochs, optimizer=optimizer, method=config.method.shortened(share))


def fitted_warm_up(config: RunConfig, usual: RunConfig, given: Collection[str]) -> tuple[RunConfig, str]:
    """Return the settings of a run that a person made too short for its warm-up, and what was changed, in words.

    What counts epochs shrinks as in `with_epochs`. Nothing changes, and nothing is reported, if the warm-up fits.
    usual: the settings without what the person gave. given: dotted names of that, which stays.
    """
    warm_up = config.optimizer.warmup_epochs
    if {"epochs"}.isdisjoint(given) or not 0 < config.epochs <= warm_up or config.epochs >= usual.epochs:
        return config, ""
    before = leaves(config)
    shorter = leaves(with_epochs(replace(config, epochs=usual.epochs), config.epochs))
    fitted = {name: value for name, value in shorter.items() if value != before[name] and name not in given}
    if "optimizer.warmup_epochs" not in fitted:
        return config, ""
    changes = ", ".join(f"{name} {before[name]:g} -> {value:.3g}" for name, value in fitted.items())
    return changed(config, fitted), f"shortened for {config.epochs:g} of {usual.epochs:g} epochs: {changes}"


def check(config: RunConfig, images: int, processes: int, classes: int = 0, passed_over: str = "") -> None:
    """Refuse settings that contradict each other, the data or the launch, before anything starts.

    images, classes: readable training images, and their classes (0: no labels).
    passed_over: other files in their folder, in words.
    Raises UserError naming the setting, its value and what to change.
    """
    check_settings(config)
    network, batch, optimizer = check_backbone(config.backbone_config), config.batch_size, config.optimizer
    peak, parts = optimizer.peak(batch), processes * config.accumulate
    cut = f"{processes} process(es) x {config.accumulate} micro-batch(es)"
    if batch % parts:
        raise UserError(f"--batch-size {batch} cannot be cut into {cut}: choose a multiple of {parts}")
    if batch > images:
        readable = f"the {images} readable images" if images != 1 else "the only readable image"
        others = f" (passed over: {passed_over})" if passed_over else ""
        raise UserError(f"--batch-size {batch} is more than {readable}{others}: lower it")
    for end, rate in (("min", optimizer.min_learning_rate), ("start", optimizer.start_learning_rate)):
        if rate > peak:
            rule = (
                f"{optimizer.learning_rate:g} x {optimizer.scale(batch):g} by --optimizer.scaling {optimizer.scaling}"
            )
            raise UserError(
                f"--optimizer.{end}-learning-rate {rate:g} is above the peak of {peak:g} ({rule}): lower it"
            )
    if config.image_size is not None and config.image_size < network.patch:
        patch = f"one patch of {config.backbone}, {network.patch} px"
        raise UserError(f"--image-size must be at least {patch}; not {config.image_size}")
    if config.sharding == "fsdp" and processes == 1:
        raise UserError("--sharding fsdp shares the networks among processes, and there is one: start it by torchrun")
    micro, views = batch // parts, config.views
    run = RunShape(images, classes, batch, micro, config.epochs, views.num_global, views.num_local, network.transformer)
    for fault in config.method.faults(run):
        raise UserError(fault)
    # In a transformer only the head may have batch norm, and sees all global views.
    has_norm = not network.transformer or getattr(config.method, "head_batch_norm", False)
    if has_norm and micro * (views.num_global if network.transformer else 1) < 2:
        raise UserError(
            f"batch norm needs 2 images or more in a forward, and --batch-size {batch} leaves {micro} for each of "
            f"{cut}: raise it"
        )


def fitted_channels(config: RunConfig, given: Collection[str]) -> RunConfig:
    """Return the settings without a recipe's number of channels if windows or slices that are given make another.

    given: names of the settings that a person gave; a number of channels among them stays, and so it does if none of
    them makes channels. Raises UserError as `channels_made` does.
    """
    made = channels_made(config.window, config.slices or 1)
    stays = "channels" in given or {"window", "slices", "init"}.isdisjoint(given)
    return config if stays or made in (None, config.channels) else replace(config, channels=None)


def check_settings(config: RunConfig) -> None:
    """Raise UserError for settings that are wrong whatever the images are, before these are listed."""
    check_numbers(config)
    if config.group is not None:
        of_headers(config.group)  # refuses what a header does not have
    optimizer, start, fixed = config.optimizer, config.optimizer.start_learning_rate, config.fixed_channels
    source = "windows of --window" if is_joined(config.window) else f"--slices {config.slices}"
    channels = f"--channels is {fixed}" if fixed == config.channels else f"the {source} make {fixed} channels"
    faults = [
        (config.epochs <= 0, f"--epochs must be above 0, not {config.epochs}"),
        (config.batch_size < 1, f"--batch-size must be at least 1, not {config.batch_size}"),
        (config.accumulate < 1, f"--accumulate must be at least 1, not {config.accumulate}"),
        (config.shuffle_block < 0, f"--shuffle-block must be at least 0, not {config.shuffle_block}"),
        (optimizer.learning_rate <= 0, f"--optimizer.learning-rate must be above 0, not {optimizer.learning_rate}"),
        (start < 0, f"--optimizer.start-learning-rate must be 0 or more, not {start}"),
        (optimizer.trust <= 0, f"--optimizer.trust must be above 0, not {optimizer.trust}"),
        (not 0 <= optimizer.beta2 < 1, f"--optimizer.beta2 must be at least 0 and below 1, not {optimizer.beta2}"),
        (
            not 0 < optimizer.layer_decay <= 1,
            f"--optimizer.layer-decay must be above 0 and at most 1, not {optimizer.layer_decay}",
        ),
        (optimizer.clip < 0, f"--optimizer.clip must be 0 (off) or more, not {optimizer.clip}"),
        (
            config.split is not None and not 0 < config.split < 1,
            f"--split must be above 0 and below 1, not {config.split}",
        ),
        (config.saving.keep < 1, f"--saving.keep must be at least 1, not {config.saving.keep}"),
        (not 0 <= config.max_unreadable <= 1, f"--max-unreadable must be from 0 to 1, not {config.max_unreadable}"),
        (
            config.max_megapixels is not None and config.max_megapixels < 1e-6,
            f"--max-megapixels must be above 0, not {config.max_megapixels}",
        ),
        (
            config.sharding == "fsdp"
            and (config.precision == "fp16" or optimizer.name in ("lars", "larc") or config.compile),
            "--sharding fsdp goes with --precision bf16 or fp32, --optimizer.name adamw or sgd, and without --compile",
        ),
        (config.log_every < 1, f"--log-every must be at least 1, not {config.log_every}"),
        (
            config.channels is not None and not 1 <= config.channels <= MAX_CHANNELS,
            f"--channels must be from 1 to {MAX_CHANNELS}, not {config.channels}",
        ),
        (
            config.channels is not None and fixed != config.channels,
            f"--channels is {config.channels}, and the {source} make {fixed} channels: leave it out or give {fixed}",
        ),
        (
            fixed is not None and len(config.normalisation[0]) != fixed,
            f"--mean has {len(config.mean)} values, and {channels}: give one for each",
        ),
        (
            len(config.mean) != len(config.std),
            f"--mean has {len(config.mean)} values and --std {len(config.std)}: give both for each channel",
        ),
        (
            min(config.std, default=0) <= 0,
            f"--std must be above 0 in each channel, not {' '.join(map(str, config.std))}",
        ),
        (
            optimizer.warmup_epochs >= config.epochs,
            f"the warm-up of {optimizer.warmup_epochs:g} epochs is not shorter than the run of {config.epochs:g}: "
            "lower --optimizer.warmup-epochs or raise --epochs",
        ),
    ]
    for is_fault, text in faults:
        if is_fault:
            raise UserError(text)
    check_backbone(config.backbone_config)
    if optimizer.layer_decay < 1:
        with torch.device("meta"):
            require_depths(build_backbone(config.backbone_config), "--optimizer.layer-decay")
