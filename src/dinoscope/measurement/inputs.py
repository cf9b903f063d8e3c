"""What a measurement is made on: labelled images, and how their features are computed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dinoscope.data.folder import SPLITS, ImageFolder, find_images, find_split, resolve_split
from dinoscope.errors import UserError
from dinoscope.features import ExtractConfig, cached_extract, evaluation_view, extract, weights_hash
from dinoscope.model_names import NamedModel, Watch, unwatched
from dinoscope.models.backbone import Backbone
from dinoscope.training.device import DTYPES
from dinoscope.types import FeatureBank

LABEL_SEED = 0
"""Chooses the images of a fraction of the labels: the same ones for every model that is compared."""


@dataclass(frozen=True)
class Extract:
    """How the features of a measurement are computed.

    cached: keep them on disk, and take them from there (see `cached_extract`); in the folder `place`, if it is given.
    watch: hears of the progress.
    """

    config: ExtractConfig = field(default_factory=ExtractConfig)
    cached: bool = True
    watch: Watch = unwatched
    place: Path | None = None

    def __call__(self, backbone: Backbone, folder: ImageFolder, what: str) -> FeatureBank:
        """Features of the folder; `what` names them for whoever watches. Raises UserError as `extract` does."""
        with self.watch(what) as progress:
            if self.cached:
                return cached_extract(backbone, folder, self.config, progress, self.place)
            return extract(backbone, folder, self.config, progress)


def train_and_val(data: Path) -> tuple[ImageFolder, ImageFolder]:
    """The labelled images of both splits. Raises UserError where a split or the labels are missing."""
    train, val = (find_images(root, labelled=True) for root in both_splits(data))
    return train, val


def both_splits(data: Path) -> tuple[Path, Path]:
    """The folders of the train split and of the val split. Raises UserError where one is missing.

    Training takes DATA itself where it has no train folder; a measurement must not, for val lies in it.
    """
    val, train = resolve_split(data, "val"), find_split(data, "train")
    if train is None:
        raise UserError(
            f"{data}: no training folder found beside {val.name} (looked for {', '.join(SPLITS['train'])}). "
            "Add one with labelled images."
        )
    return train, val


def network_protocol(model: NamedModel, config: ExtractConfig) -> dict[str, Any]:
    """The part of a protocol about weights, view and arithmetic."""
    view = evaluation_view(model.backbone, config)
    return {
        "weights": model.weights,
        "weights_hash": weights_hash(model.backbone),
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
