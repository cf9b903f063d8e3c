"""`dinoscope knn`: k-NN accuracy of a model's features."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from dinoscope.cli.extraction import ExtractionOptions
from dinoscope.errors import UserError

if TYPE_CHECKING:
    from dinoscope.data.folder import ImageFolder
    from dinoscope.models.backbone import Backbone
    from dinoscope.types import Metric

LABEL_SEED = 0
"""Chooses the images of --label-fraction: the same ones for every model that is compared."""


@dataclass(frozen=True)
class Options:
    """Classify images by their nearest neighbours among a model's features; nothing is trained.

    The gallery is the train split of --data, the queries its val split. In a folder without splits each image
    is asked of all others. The classes are the names of the folders.
    """

    model: Path
    """Run folder, exported folder, or weights file (.safetensors)."""

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


@dataclass(frozen=True)
class Protocol:
    """How the figures came about; what two results must share to be compared.

    queries: their folder, or None where each image of the gallery was asked of all others.
    """

    weights: str
    weights_hash: str
    image_size: int
    crop_fraction: float
    precision: str
    temperature: float
    label_fraction: float
    classes: int
    gallery: str
    gallery_images: int
    queries: str | None
    query_images: int

    def line(self) -> str:
        """The protocol in one line for a person."""
        gallery = f"{self.gallery_images} gallery images"
        if self.label_fraction != 1:
            gallery += f" ({self.label_fraction:.3g} of the labels)"
        queries = f"{self.query_images} queries" if self.queries else "each against all others"
        return (
            f"{gallery}, {queries}, {self.classes} classes, {self.image_size} px, "
            f"temperature {self.temperature:g}, weights {self.weights}"
        )


def main(argv: list[str]) -> int:
    """Measure, print, and keep the result in the run folder if it is one. Raises UserError."""
    from rich.console import Console

    from dinoscope.cli.console import metric_table

    options = tyro.cli(
        Options,
        args=argv,
        prog="dinoscope knn",
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
    )
    metrics, protocol = measure(options)
    record = {"protocol": asdict(protocol), "metrics": [asdict(metric) for metric in metrics]}
    text = json.dumps(record, indent=2) + "\n"
    if options.json:
        print(text, end="")
    else:
        console = Console()
        console.print(metric_table("k-NN", metrics))
        console.print(protocol.line(), markup=False, highlight=False, soft_wrap=True)
    _keep(options.model, text)
    return 0


def measure(options: Options) -> tuple[tuple[Metric, ...], Protocol]:
    """Extract the features of gallery and queries, and vote.

    Raises UserError where there is no model, no labels, or the queries have classes that the gallery lacks.
    """
    from dinoscope import checkpoint
    from dinoscope.evaluation.knn import KNNConfig, knn, leave_one_out

    gallery, queries = find_folders(options)
    backbone = checkpoint.load_backbone(options.model)
    config = KNNConfig(options.ks, options.temperature)
    bank = options.extraction.extract(backbone, gallery, "features of the gallery")
    if queries is None:
        metrics, asked = tuple(leave_one_out(bank, config)), len(bank.features)
    else:
        query_bank = options.extraction.extract(backbone, queries, "features of the queries")
        metrics, asked = tuple(knn(bank, query_bank, config)), len(query_bank.features)
    return metrics, _protocol(options, backbone, gallery, len(bank.features), queries, asked)


def find_folders(options: Options) -> tuple[ImageFolder, ImageFolder | None]:
    """The gallery, and the queries; or all images and None where there is no split to tell them apart.

    Raises UserError where the folders are not labelled, or do not fit each other or the options.
    """
    from dinoscope.data.folder import find_images, label_fraction

    gallery_root, query_root = _roots(options)
    gallery = find_images(gallery_root, labelled=True)
    if query_root is None or query_root.resolve() == gallery_root.resolve():
        if options.label_fraction != 1:
            raise UserError("--label-fraction needs queries apart from the gallery: a val split, or --query")
        return gallery, None
    queries = find_images(query_root, labelled=True)
    unknown = sorted(set(queries.classes).difference(gallery.classes))
    if unknown:
        raise UserError(
            f"{len(unknown)} of {len(queries.classes)} classes in {query_root} are not in {gallery_root}: "
            f"{', '.join(unknown[:5])} (there: {', '.join(gallery.classes[:5])}...). "
            "The folder of a class must have the same name in both"
        )
    if options.label_fraction != 1:
        gallery = label_fraction(gallery, options.label_fraction, LABEL_SEED)
    return gallery, queries


def _roots(options: Options) -> tuple[Path, Path | None]:
    """Folders of the gallery and the queries; no queries where --data has no splits at all."""
    from dinoscope.data.folder import find_split, resolve_split

    data, gallery, query = options.data, options.gallery, options.query
    if data is None and gallery is not None and query is not None:
        return gallery, query
    if data is None or gallery is not None or query is not None:
        raise UserError("give either --data, or --gallery and --query together")
    if find_split(data, "train") is None and find_split(data, "val") is None:
        return data, None
    return resolve_split(data, "train"), resolve_split(data, "val")


def _protocol(
    options: Options,
    backbone: Backbone,
    gallery: ImageFolder,
    gallery_images: int,
    queries: ImageFolder | None,
    query_images: int,
) -> Protocol:
    from dinoscope import checkpoint
    from dinoscope.features import evaluation_view, weights_hash

    view = evaluation_view(backbone, options.extraction.resolve())
    return Protocol(
        weights=str(checkpoint.find_weights(options.model)),
        weights_hash=weights_hash(backbone),
        image_size=view.size,
        crop_fraction=view.crop_fraction,
        precision=options.extraction.precision,
        temperature=options.temperature,
        label_fraction=options.label_fraction,
        classes=len(gallery.classes),
        gallery=str(gallery.root),
        gallery_images=gallery_images,
        queries=None if queries is None else str(queries.root),
        query_images=query_images,
    )


def _keep(model: Path, text: str) -> None:
    """Write evaluations/knn.json if the model is a run folder."""
    from dinoscope import checkpoint
    from dinoscope.training.run_folder import CONFIG

    if not (model / CONFIG).is_file():
        return
    file = model / "evaluations" / "knn.json"
    try:
        file.parent.mkdir(exist_ok=True)
        checkpoint.write_text(file, text)
    except OSError as error:
        raise UserError(f"the result could not be written to {file}: {error}") from error
