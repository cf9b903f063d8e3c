"""Measurements of a model on labelled images: what was measured, how, and where a run folder keeps it.

Every figure travels with its protocol, so that nothing is compared that was measured in different ways.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dinoscope import checkpoint
from dinoscope.data.folder import ImageFolder, find_images, label_fraction, resolve_split
from dinoscope.errors import UserError
from dinoscope.evaluation.knn import KNNConfig, knn, leave_one_out
from dinoscope.features import ExtractConfig, cached_extract, evaluation_view, extract, weights_hash
from dinoscope.features.extraction import Progress
from dinoscope.models.backbone import Backbone
from dinoscope.settings import from_dict, to_dict
from dinoscope.training.device import DTYPES
from dinoscope.training.run_folder import CONFIG
from dinoscope.types import FeatureBank, Metric

LABEL_SEED = 0
"""Chooses the images of a fraction of the labels: the same ones for every model that is compared."""

OF_THE_MODEL = frozenset({"weights", "weights_hash"})
"""Entries of a protocol that say which model was measured; comparable results share all others."""

Watch = Callable[[str], AbstractContextManager[Progress]]
"""Told what is being computed, gives a function to be called with (done, total) while it is."""


@dataclass(frozen=True)
class Measurement:
    """Figures, and how they came about.

    protocol: plain JSON values: the model (`OF_THE_MODEL`), and what two results must share to be compared.
    """

    protocol: Mapping[str, Any]
    metrics: tuple[Metric, ...]

    def to_json(self) -> str:
        """The text of the file that keeps it; ends with a newline."""
        return json.dumps(to_dict(self), indent=2) + "\n"

    @staticmethod
    def from_json(text: str, source: str) -> Measurement:
        """The inverse of `to_json`; `source` names the file for the error.

        Raises UserError for a text that is not exactly that.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise UserError(f"{source} is damaged: it is not JSON ({error}). Delete it and measure again") from error
        if not (isinstance(values, dict) and isinstance(values.get("metrics"), list)):
            raise UserError(f"{source} is no measurement: it holds no list of metrics. Delete it and measure again")
        return from_dict(Measurement, values, source)


@dataclass(frozen=True)
class Extract:
    """How the features of a measurement are computed.

    cached: keep them on disk, and take them from there (see `cached_extract`).
    watch: hears of the progress.
    """

    config: ExtractConfig = field(default_factory=ExtractConfig)
    cached: bool = True
    watch: Watch = lambda _: contextlib.nullcontext(lambda _, __: None)

    def __call__(self, backbone: Backbone, folder: ImageFolder, what: str) -> FeatureBank:
        """Features of the folder; `what` names them for whoever watches. Raises UserError as `extract` does."""
        compute = cached_extract if self.cached else extract
        with self.watch(what) as progress:
            return compute(backbone, folder, self.config, progress)


def kept_name(evaluation: str, fraction: float = 1.0) -> str:
    """Name of a result: `knn`, or with 10 % of the labels `knn-10`, so that neither overwrites the other."""
    return evaluation if fraction == 1 else f"{evaluation}-{100 * fraction:g}"


def keep(model: Path, name: str, measurement: Measurement) -> None:
    """Write MODEL/evaluations/NAME.json if the model is a run folder.

    Raises UserError where the file cannot be written.
    """
    if not (model / CONFIG).is_file():
        return
    file = _file(model, name)
    try:
        file.parent.mkdir(exist_ok=True)
        checkpoint.write_text(file, measurement.to_json())
    except OSError as error:
        raise UserError(f"the result could not be written to {file}: {error}") from error


def kept(model: Path, name: str) -> Measurement | None:
    """What `keep` wrote, or None where there is no such result.

    Raises UserError where the file is damaged.
    """
    file = _file(model, name)
    if not file.is_file():
        return None
    try:
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    return Measurement.from_json(text, str(file))


def train_and_val(data: Path) -> tuple[ImageFolder, ImageFolder]:
    """The labelled images of both splits. Raises UserError where a split or the labels are missing."""
    train, val = (find_images(resolve_split(data, split), labelled=True) for split in ("train", "val"))
    return train, val


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
    model: Path,
    gallery: ImageFolder,
    queries: ImageFolder | None,
    config: KNNConfig,
    extract: Extract,
    *,
    fraction: float = 1.0,
) -> Measurement:
    """Extract the features of gallery and queries, and vote; without queries each image is asked of all others.

    fraction: share of each class of the gallery that is used, in (0, 1].

    Raises UserError where there is no model, no labels, the queries have classes that the gallery lacks, or a
    fraction is asked for without queries.
    """
    if queries is None and fraction != 1:
        raise UserError("--label-fraction needs queries apart from the gallery: a val split, or --query")
    if queries is not None:
        require_known_classes(gallery, queries)
    if fraction != 1:
        gallery = label_fraction(gallery, fraction, LABEL_SEED)
    backbone = checkpoint.load_backbone(model)
    bank = extract(backbone, gallery, "features of the gallery")
    asked = bank if queries is None else extract(backbone, queries, "features of the queries")
    metrics = leave_one_out(bank, config) if queries is None else knn(bank, asked, config)
    protocol = KNNProtocol(
        **network_protocol(model, backbone, extract.config),
        temperature=config.temperature,
        label_fraction=fraction,
        classes=len(gallery.classes),
        gallery=str(gallery.root),
        gallery_images=len(bank.features),
        queries=None if queries is None else str(queries.root),
        query_images=len(asked.features),
    )
    return _measurement(protocol, metrics)


def network_protocol(model: Path, backbone: Backbone, config: ExtractConfig) -> dict[str, Any]:
    """The part of a protocol about weights, view and arithmetic."""
    view = evaluation_view(backbone, config)
    return {
        "weights": str(checkpoint.find_weights(model)),
        "weights_hash": weights_hash(backbone),
        "image_size": view.size,
        "crop_fraction": view.crop_fraction,
        "precision": next(name for name, dtype in DTYPES.items() if dtype == config.dtype),
    }


def require_known_classes(known: ImageFolder, asked: ImageFolder) -> None:
    """Refuse images of classes that `known` lacks, with a UserError that names them."""
    unknown = sorted(set(asked.classes).difference(known.classes))
    if unknown:
        raise UserError(
            f"{len(unknown)} of {len(asked.classes)} classes in {asked.root} are not in {known.root}: "
            f"{', '.join(unknown[:5])} (there: {', '.join(known.classes[:5])}...). "
            "The folder of a class must have the same name in both"
        )


def _measurement(protocol: Any, metrics: Iterable[Metric]) -> Measurement:
    return Measurement(to_dict(protocol), tuple(metrics))


def _file(model: Path, name: str) -> Path:
    return model / "evaluations" / f"{name}.json"
