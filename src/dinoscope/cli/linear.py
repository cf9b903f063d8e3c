"""`dinoscope linear`: accuracy of a linear classifier on a model's frozen features."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from dinoscope.cli.build import parse
from dinoscope.cli.extraction import ExtractionOptions
from dinoscope.cli.model_option import Model

if TYPE_CHECKING:
    pass


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


def main(argv: list[str]) -> int:
    """Measure, print, and keep the result in the run folder if it is one. Raises UserError."""
    options = parse(
        Options,
        args=argv,
        prog="dinoscope linear",
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
    )
    from dinoscope.cli.console import progress_bar, show
    from dinoscope.evaluation.base import measure
    from dinoscope.evaluation.linear import EVALUATION, LinearConfig
    from dinoscope.model_names import load_model

    config = LinearConfig(
        options.protocol,
        options.label_fraction,
        options.epochs,
        options.batch_size,
        options.learning_rate,
        options.seed,
    )
    context = options.extraction.context()
    context.labelled(options.data)
    model = load_model(options.model, progress_bar)
    (result,) = measure(EVALUATION, [model], options.data, config, context)
    line = EVALUATION.protocol_line(result.protocol)
    show(result, f"linear probe ({options.protocol})", line, as_json=options.json)
    return 0
