"""`dinoscope linear`: accuracy of a linear classifier on a model's frozen features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from dinoscope.cli.command import Command
from dinoscope.cli.command import ModelName as Model
from dinoscope.cli.extraction import ExtractionOptions

if TYPE_CHECKING:
    from dinoscope.evaluation.linear import LinearConfig
    from dinoscope.evaluation.linear_reference import ReferenceConfig
    from dinoscope.types import Result

NAMES = {"fast": "linear", "reference": "linear-reference"}
"""protocol -> file in the run folder: neither overwrites the other."""


@dataclass(frozen=True)
class LinearExtraction(ExtractionOptions):
    """How the features are computed."""  # --batch-size belongs to the training of the probe

    batch_size: Annotated[int, tyro.conf.arg(name="extraction-batch-size")] = 64
    """Images at a time while features are computed. They do not depend on it."""


@dataclass(frozen=True)
class Options:
    """Train a linear classifier on a model's frozen features (train split), and measure it on the val split.

    Of a ViT narrower than 768 the class tokens of the last four blocks are classified, of a wider one the last
    block's class token and mean patch token, of a ResNet the pooled vector. The classes are the folders' names.
    """

    model: Model

    data: Path
    """Folder with train/CLASS/... and val/CLASS/..."""

    protocol: Literal["fast", "reference"] = "fast"
    """fast: features extracted once, the learning rate chosen on held-out training images. reference: DINO's
    own evaluation, training images cropped and flipped anew in every epoch: --epochs times the work."""

    label_fraction: float = 1.0
    """Share of each class of the training images that is used, in (0, 1]."""

    epochs: int = 100
    """Passes over the training images. The figures are those after the last one."""

    batch_size: int = 256
    """Training images per step."""

    learning_rate: float | None = None
    """For a batch of 256, and scaled with the batch. By default fast chooses among 13, and reference takes 0.001
    for a ViT, 0.3 for a ResNet."""

    seed: int = 0
    """Of the first weights, the order of the images, and their crops."""

    json: bool = False
    """Print JSON instead of a table."""

    extraction: tyro.conf.OmitArgPrefixes[LinearExtraction] = field(default_factory=LinearExtraction)


def run(options: tyro.conf.OmitArgPrefixes[Options]) -> int:
    """Measure, print, and keep the result in the run folder if it is one. Raises UserError."""
    from dinoscope.cli.console import show
    from dinoscope.evaluation.results import keep, kept_name

    measurement = measure(options)
    show(measurement, f"linear probe ({options.protocol})", protocol_line(measurement.protocol), as_json=options.json)
    keep(Path(options.model), kept_name(NAMES[options.protocol], options.label_fraction), measurement)
    return 0


def measure(options: Options) -> Result:
    """Find the images, train and measure.

    Raises UserError as `load_model` and `measure_linear` do, or for a setting out of range.
    """
    from dinoscope.cli.console import progress_bar
    from dinoscope.measurement import measure_linear, train_and_val
    from dinoscope.model_names import load_model

    config = _config(options)
    train, val = train_and_val(options.data)
    extract = options.extraction.extractor()
    model = load_model(options.model, progress_bar)
    return measure_linear(model, train, val, config, extract, fraction=options.label_fraction)


def protocol_line(protocol: Mapping[str, Any]) -> str:
    """The protocol in one line for a person."""
    train = f"{protocol['train_images']} training images"
    if protocol["label_fraction"] != 1:
        train += f" ({protocol['label_fraction']:.3g} of the labels)"
    prepared = "standardised, no augmentation" if protocol["protocol"] == "fast" else "crops and flips"
    return (
        f"last epoch of {protocol['epochs']}, on {protocol['val_images']} validation images; {train}, {prepared}, "
        f"{protocol['classes']} classes, {protocol['image_size']} px, {protocol['feature']}, "
        f"learning rate {protocol['learning_rate']:g} x {protocol['batch_size']} / 256 ({protocol['rate_choice']}), "
        f"weights {protocol['weights']}, data {protocol['train']} and {protocol['val']}"
    )


def _config(options: Options) -> LinearConfig | ReferenceConfig:
    from dinoscope.evaluation.linear import RATES, LinearConfig
    from dinoscope.evaluation.linear_reference import ReferenceConfig

    rate, epochs, batch_size, seed = options.learning_rate, options.epochs, options.batch_size, options.seed
    if options.protocol == "reference":
        return ReferenceConfig(rate, epochs, batch_size, seed)
    return LinearConfig(RATES if rate is None else (rate,), epochs, batch_size, seed)


run.__doc__ = Options.__doc__
COMMANDS = {"linear": Command("accuracy of a linear classifier on a model's frozen features", run)}
