"""k-NN accuracy of a model, with its protocol."""

from __future__ import annotations

from dataclasses import dataclass

from dinoscope.data.sources import ImageFolder, label_fraction
from dinoscope.errors import UserError
from dinoscope.evaluation.knn import KNNConfig, knn, leave_one_out
from dinoscope.evaluation.results import new_result
from dinoscope.measurement.inputs import LABEL_SEED, Extract, network_protocol, require_classes, require_known_classes
from dinoscope.model_names import Model
from dinoscope.types import Result


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


def measure_knn(
    model: Model,
    gallery: ImageFolder,
    queries: ImageFolder | None,
    config: KNNConfig,
    extract: Extract,
    *,
    fraction: float = 1.0,
) -> Result:
    """Extract the features of gallery and queries, and vote; without queries each image is asked of all others.

    fraction: share of each class of the gallery that is used, in (0, 1].

    Raises UserError where there are no labels or a single class, the queries have classes that the gallery lacks,
    or a fraction is asked for without queries.
    """
    if queries is None and fraction != 1:
        raise UserError("--label-fraction needs queries apart from the gallery: a val split, or --query")
    require_classes(gallery)
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
    return new_result("knn", protocol, metrics)
