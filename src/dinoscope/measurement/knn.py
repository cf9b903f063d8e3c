"""k-NN accuracy of a model, with its protocol."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dinoscope.data.folder import ImageFolder, find_images, find_split, label_fraction
from dinoscope.errors import UserError
from dinoscope.evaluation.knn import KNNConfig, knn, leave_one_out
from dinoscope.measurement.inputs import LABEL_SEED, Extract, both_splits, network_protocol, require_known_classes
from dinoscope.measurement.record import Measurement
from dinoscope.model_names import NamedModel


@dataclass(frozen=True)
class KNNProtocol:
    """How figures of k-NN came about.

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


def gallery_and_queries(data: Path) -> tuple[ImageFolder, ImageFolder | None]:
    """The labelled images of the train split and of the val split; of a folder without splits all, and no queries.

    Raises UserError where one split alone is there, or there are no labels.
    """
    if find_split(data, "train") is None and find_split(data, "val") is None:
        return gallery_and_queries_in(data, None)
    return gallery_and_queries_in(*both_splits(data))


def gallery_and_queries_in(gallery: Path, queries: Path | None) -> tuple[ImageFolder, ImageFolder | None]:
    """The labelled images of two folders; no queries where both are the same. Raises UserError without labels."""
    apart = queries is not None and queries.resolve() != gallery.resolve()
    return find_images(gallery, labelled=True), find_images(queries, labelled=True) if queries and apart else None


def measure_knn(
    model: NamedModel,
    gallery: ImageFolder,
    queries: ImageFolder | None,
    config: KNNConfig,
    extract: Extract,
    *,
    fraction: float = 1.0,
) -> Measurement:
    """Extract the features of gallery and queries, and vote; without queries each image is asked of all others.

    fraction: share of each class of the gallery that is used, in (0, 1].

    Raises UserError where there are no labels, the queries have classes that the gallery lacks, or a
    fraction is asked for without queries.
    """
    if queries is None and fraction != 1:
        raise UserError("--label-fraction needs queries apart from the gallery: a val split, or --query")
    if queries is not None:
        require_known_classes(gallery, queries)
    if fraction != 1:
        gallery = label_fraction(gallery, fraction, LABEL_SEED)
    bank = extract(model.backbone, gallery, "features of the gallery")
    asked = bank if queries is None else extract(model.backbone, queries, "features of the queries")
    metrics = leave_one_out(bank, config) if queries is None else knn(bank, asked, config)
    protocol = KNNProtocol(
        **network_protocol(model, extract.config),
        temperature=config.temperature,
        label_fraction=fraction,
        classes=len(gallery.classes),
        gallery=str(gallery.root),
        gallery_images=len(bank.features),
        queries=None if queries is None else str(queries.root),
        query_images=len(asked.features),
    )
    return Measurement.of(protocol, metrics)
