"""`dinoscope knn`: k-NN accuracy of a model's features."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from dinoscope.cli.build import parse
from dinoscope.cli.extraction import ExtractionOptions
from dinoscope.cli.model_option import Model

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Options:
    """Classify images by their nearest neighbours among a model's features; nothing is trained.

    The gallery is the train split of --data, the queries its val split. In a folder without splits each image
    is asked of all others. The classes are the names of the folders.
    """

    model: Model

    data: Path | None = None
    """Folder with train/CLASS/... and val/CLASS/..., or only CLASS/..."""

    gallery: Path | None = None
    """Instead of --data, with --query: folder whose labels are known, CLASS/..."""

    query: Annotated[Path | None, tyro.conf.arg(aliases=["--queries"])] = None
    """Instead of --data, with --gallery: folder to be classified, CLASS/..."""

    ks: tuple[int, ...] = (10, 20, 100, 200)
    """Numbers of neighbours that vote, each measured on its own."""

    temperature: float = 0.07
    """A neighbour votes with exp(cosine similarity / temperature)."""

    label_fraction: float = 1.0
    """Share of each class of the gallery that is used, in (0, 1]."""

    json: bool = False
    """Print JSON instead of a table."""

    extraction: tyro.conf.OmitArgPrefixes[ExtractionOptions] = field(default_factory=ExtractionOptions)


def main(argv: list[str]) -> int:
    """Measure, print, and keep the result in the run folder if it is one. Raises UserError."""
    options = parse(
        Options,
        args=argv,
        prog="dinoscope knn",
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
    )
    from dinoscope.cli.console import progress_bar, show
    from dinoscope.evaluation.base import measure
    from dinoscope.evaluation.knn import EVALUATION, KNNConfig, protocol_line
    from dinoscope.model_names import load_model

    config = KNNConfig(options.ks, options.temperature, options.label_fraction, options.gallery, options.query)
    context = options.extraction.context()
    model = load_model(options.model, progress_bar)
    (result,) = measure(EVALUATION, [model], options.data, config, context)
    show(result, EVALUATION.title, protocol_line(result.protocol), as_json=options.json)
    return 0
