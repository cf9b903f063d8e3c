"""`dinoscope throughput`: images per second, parameters and memory."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from dinoscope.cli.command import WHAT_MAY_BE_NAMED, Command
from dinoscope.errors import UserError

if TYPE_CHECKING:
    from dinoscope.models.backbone import Backbone
    from dinoscope.training.config import RunConfig
    from dinoscope.types import Result


@dataclass(frozen=True)
class Options:
    """Measure how fast a network describes images that are in memory, how large it is, and what memory it takes.

    Of a run folder, the result is kept in its evaluations/. Figures of other machines, batches or sizes cannot be
    compared; each is printed with its own.
    """

    model: Annotated[str | None, tyro.conf.arg(metavar="MODEL", help=WHAT_MAY_BE_NAMED)] = None

    backbone: str | None = None
    """Instead of --model: the name of a network, with random weights; speed does not depend on them."""

    recipe: str | None = None
    """Instead of --model: a recipe, whose network (and with --training, method) is measured."""

    image_size: int = 224
    """Side of the square images, in pixels."""

    batch_size: int | None = None
    """Images per forward; by default 128 on a GPU and 16 on a CPU."""

    repeats: int = 5
    """Timed repeats, of which the median is given, and the slowest and fastest."""

    device: str = "auto"
    """cpu, cuda, cuda:N or mps; auto takes the best there is."""

    threads: int = 0
    """CPU threads; 0 leaves torch's choice. In training, a run's own setting comes first."""

    precision: Literal["fp32", "bf16", "fp16"] | None = None
    """Of the matrix products; by default fp32, and in training that of the run or recipe."""

    training: bool = False
    """Measure optimiser steps of the run's or recipe's method too, on views that are in memory."""

    training_batch_size: int | None = None
    """Images per optimiser step; by default that of the run or recipe."""

    json: bool = False
    """Print JSON instead of tables."""


@dataclass(frozen=True)
class Timed:
    """What was measured, and under which name a run folder keeps it.

    line: the protocol in words.
    """

    name: str
    line: str
    result: Result


def run(options: tyro.conf.OmitArgPrefixes[Options]) -> int:
    """Measure, print, and keep the result in the run folder if it is one. Raises UserError."""
    from dinoscope.cli.console import Console, metric_table
    from dinoscope.evaluation.results import keep, plain

    results = measure(options)
    if options.json:
        print(json.dumps({timed.name: plain(timed.result) for timed in results}, indent=2))
    else:
        console = Console()
        for timed in results:
            console.print(metric_table(timed.name.replace("_", " "), timed.result.metrics))
            console.print(timed.line, markup=False, highlight=False, soft_wrap=True)
    if options.model is not None:
        for timed in results:
            keep(Path(options.model), timed.name, timed.result)
    return 0


def measure(options: Options) -> list[Timed]:
    """The network, and with --training its training.

    Raises UserError if the options contradict each other, there is no such network, or no such device.
    """
    import torch

    from dinoscope.cli.console import progress_bar
    from dinoscope.config import to_dict
    from dinoscope.evaluation.throughput import ThroughputConfig, protocol_line, throughput
    from dinoscope.system import pick_device
    from dinoscope.training.throughput import training_throughput
    from dinoscope.types import Result

    if sum(source is not None for source in (options.model, options.backbone, options.recipe)) != 1:
        raise UserError("give one of --model, --backbone and --recipe")
    if options.threads:
        torch.set_num_threads(options.threads)
    device, backbone, settings = pick_device(options.device), _backbone(options), _training_settings(options)
    config = ThroughputConfig(options.image_size, options.batch_size, options.repeats)
    results: list[Timed] = []
    with progress_bar("forwards, timed") as progress:
        metrics, found = throughput(backbone, device, config, progress, options.precision or "fp32")
    results.append(Timed("throughput", protocol_line(found), Result("throughput", found, metrics)))
    if settings is not None:
        try:
            with progress_bar("training steps, timed") as progress:
                metrics, protocol = training_throughput(settings, device, options.repeats, progress)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"a step of {settings.batch_size} images does not fit into the memory of {device}: "
                "give a smaller --training-batch-size"
            ) from error
        results.append(Timed("training_throughput", protocol.line(), Result("throughput", to_dict(protocol), metrics)))
    return results


def _training_settings(options: Options) -> RunConfig | None:
    """The settings of which a step is measured, or None without --training."""
    from dinoscope.recipes import run_config
    from dinoscope.training.run_folder import read_config

    if not options.training:
        if options.training_batch_size is not None:
            raise UserError("--training-batch-size needs --training")
        return None
    if options.backbone is not None:
        raise UserError("--training needs a method: give --recipe NAME, or a run folder as --model")
    if options.recipe is not None:
        config = run_config(options.recipe, Path("unread"), Path("unwritten"))
    else:
        assert options.model is not None
        config = read_config(Path(options.model))
    if options.training_batch_size is not None:
        config = replace(config, batch_size=options.training_batch_size)
    return config if options.precision is None else replace(config, precision=options.precision)


def _backbone(options: Options) -> Backbone:
    from dinoscope.cli.console import progress_bar
    from dinoscope.model_names import load_model
    from dinoscope.models.backbone import BackboneConfig, build_backbone, without_drop_path
    from dinoscope.recipes import run_config

    if options.model is not None:
        return load_model(options.model, progress_bar).backbone
    if options.recipe is not None:
        recipe = run_config(options.recipe, Path("unread"), Path("unwritten"))
        return build_backbone(without_drop_path(recipe.backbone_config))
    assert options.backbone is not None
    return build_backbone(BackboneConfig(options.backbone, image_size=options.image_size))


run.__doc__ = Options.__doc__
COMMANDS = {"throughput": Command("images per second, parameters and memory of a network, or of training it", run)}
