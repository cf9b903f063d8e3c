"""`dinoscope knn`: k-NN accuracy of a model's features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from dinoscope.cli.command import Command
from dinoscope.cli.command import ModelName as Model
from dinoscope.cli.extraction import ExtractionOptions
from dinoscope.errors import UserError

if TYPE_CHECKING:
    from dinoscope.data.sources import ImageFolder
    from dinoscope.types import Result


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


def run(options: tyro.conf.OmitArgPrefixes[Options]) -> int:
    """Measure, print, and keep the result in the run folder if it is one. Raises UserError."""
    from dinoscope.cli.console import show
    from dinoscope.evaluation.results import keep, kept_name

    measurement = measure(options)
    show(measurement, "k-NN", protocol_line(measurement.protocol), as_json=options.json)
    keep(Path(options.model), kept_name("knn", options.label_fraction), measurement)
    return 0


def measure(options: Options) -> Result:
    """Find the folders and vote.

    Raises UserError where the folders are not labelled, or do not fit each other or the options; and as
    `load_model` and `measure_knn` do.
    """
    from dinoscope.cli.console import progress_bar
    from dinoscope.evaluation.knn import KNNConfig
    from dinoscope.measurement import measure_knn
    from dinoscope.model_names import load_model

    gallery, queries = _images(options)
    config = KNNConfig(options.ks, options.temperature)
    extract = options.extraction.extractor()
    model = load_model(options.model, progress_bar)
    return measure_knn(model, gallery, queries, config, extract, fraction=options.label_fraction)


def protocol_line(protocol: Mapping[str, Any]) -> str:
    """The protocol in one line for a person."""
    gallery = f"{protocol['gallery_images']} gallery images"
    if protocol["label_fraction"] != 1:
        gallery += f" ({protocol['label_fraction']:.3g} of the labels)"
    queries = f"{protocol['query_images']} queries" if protocol["queries"] else "each against all others"
    data = protocol["gallery"] + (f" and {protocol['queries']}" if protocol["queries"] else "")
    return (
        f"{gallery}, {queries}, {protocol['classes']} classes, {protocol['image_size']} px, "
        f"temperature {protocol['temperature']:g}, weights {protocol['weights']}, data {data}"
    )


def _images(options: Options) -> tuple[ImageFolder, ImageFolder | None]:
    """Gallery and queries; no queries where --data has no splits at all."""
    from dinoscope.data.sources import find_split
    from dinoscope.measurement import gallery_and_queries, gallery_and_queries_in

    data, gallery, query = options.data, options.gallery, options.query
    if data is None and gallery is not None and query is not None:
        return gallery_and_queries_in(gallery, query)
    if data is None or gallery is not None or query is not None:
        raise UserError("give either --data, or --gallery and --query together")
    try:
        return gallery_and_queries(data)
    except UserError as error:
        if (find_split(data, "train") is None) == (find_split(data, "val") is None):  # no split is missing
            raise
        raise UserError(f"{error} Or name two folders yourself with --gallery and --query.") from error


run.__doc__ = Options.__doc__
COMMANDS = {"knn": Command("k-NN accuracy of a model's features", run)}
