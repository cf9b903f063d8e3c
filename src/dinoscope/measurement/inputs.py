"""What a measurement is made on: labelled images, and how their features are computed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dinoscope.data.sources import SPLITS, ImageFolder, find_images, find_split, resolve_split
from dinoscope.errors import UserError
from dinoscope.features import ExtractConfig, cached_extract, evaluation_view, extract
from dinoscope.model_names import Model, Watch, unwatched
from dinoscope.models.backbone import Backbone
from dinoscope.system import DTYPES
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
    """Return the labelled images of both splits.

    Raises UserError if a split or the labels are missing, or the training images are of one class.
    """
    train, val = (find_images(root.resolve(), labelled=True) for root in both_splits(data))
    require_classes(train)
    return train, val


def gallery_and_queries(data: Path) -> tuple[ImageFolder, ImageFolder | None]:
    """Return the labelled images of the train split and of the val split; of a folder without splits all, and None.

    Raises UserError if there is one split alone, or as `gallery_and_queries_in` does.
    """
    if find_split(data, "train") is None and find_split(data, "val") is None:
        return gallery_and_queries_in(data, None)
    return gallery_and_queries_in(*both_splits(data))


def gallery_and_queries_in(gallery: Path, queries: Path | None) -> tuple[ImageFolder, ImageFolder | None]:
    """Return the labelled images of two folders, whose paths are made absolute; no queries if both are the same.

    Raises UserError if there are no labels, or the gallery holds a single class.
    """
    known = find_images(gallery.resolve(), labelled=True)
    require_classes(known)
    apart = queries is not None and queries.resolve() != known.root
    return known, find_images(queries.resolve(), labelled=True) if queries and apart else None


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


def network_protocol(model: Model, config: ExtractConfig) -> dict[str, Any]:
    """The part of a protocol about weights, view and arithmetic."""
    view = evaluation_view(model.backbone, config)
    return {
        "weights": model.weights,
        "weights_hash": model.weights_hash,
        "image_size": view.size,
        "crop_fraction": view.crop_fraction,
        "precision": next(name for name, dtype in DTYPES.items() if dtype == config.dtype),
    }


def require_classes(known: ImageFolder) -> None:
    """Refuse labelled images of a single class, with a UserError: every answer would be right."""
    present = sorted({known.classes[label] for label in known.labels or ()})
    if len(present) < 2:
        raise UserError(
            f"{known.root}: all {len(known)} images are of one class ({', '.join(present)}), so every answer is right. "
            "Give images of at least two classes; the folder may be one level too high"
        )


def require_known_classes(known: ImageFolder, asked: ImageFolder) -> None:
    """Refuse images of classes that `known` lacks, with a UserError that names them."""
    unknown = sorted(set(asked.classes).difference(known.classes))
    if unknown:
        raise UserError(
            f"{len(unknown)} of {len(asked.classes)} classes in {asked.root} are not in {known.root}: "
            f"{', '.join(unknown[:5])} (there: {', '.join(known.classes[:5])}...). "
            "The folder of a class must have the same name in both"
        )
