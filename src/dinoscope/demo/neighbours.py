"""The images of a folder that a model takes to be most like a given one. Knows nothing of the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from dinoscope.data.folder import evenly, find_images, resolve_split
from dinoscope.data.scenes import ScenesConfig, write_scenes
from dinoscope.errors import UserError
from dinoscope.features import ExtractConfig, cached_extract, describing, evaluation_image, evaluation_view
from dinoscope.model_names import Model

MOST_IMAGES = 2000
"""Images of a folder that are looked through; of more, so many are taken, spread evenly."""
_CONFIG = ExtractConfig(workers=0, batch_size=32)  # no processes beside a server's threads
_DRAWN = ScenesConfig(train_per_class=24, val_per_class=0, voc_images=0, davis_sequences=0, davis_frames=0)


@dataclass(frozen=True)
class Neighbour:
    """An image of the gallery. cosine: of its feature and that of the image it was compared with, -1 to 1.

    label: name of its class; None in a folder without classes.
    """

    path: Path
    cosine: float
    label: str | None


@dataclass(frozen=True, eq=False)
class Gallery:
    """The images of a folder as a model sees them.

    features: of length 1, in the order of `paths`. labels: None in a folder without classes.
    total: images in the folder, of which those that were too many are not in here. unreadable: nor are so many others.
    """

    model: Model
    paths: tuple[Path, ...]
    features: Float[Tensor, "n d"]
    labels: tuple[str, ...] | None
    total: int
    unreadable: int

    @staticmethod
    def open(
        folder: Path,
        model: Model,
        progress: Callable[[int, int], None] | None = None,
        limit: int = MOST_IMAGES,
    ) -> Gallery:
        """Describe the images of a folder, or of its training split; what was described before comes from the cache.

        progress: told (images done, of all); not called where all is in the cache.

        Raises UserError where there are no images, none can be read, or the model's features are not finite.
        """
        found = find_images(resolve_split(folder, "train"))
        taken = found.subset(evenly(len(found), limit))
        bank = cached_extract(model.backbone, taken, _CONFIG, progress)
        if not bank.features.isfinite().all():
            raise UserError(f"{model.label}: the features are not finite: the weights of this model are broken")
        labels = None if bank.labels is None else tuple(bank.classes[label] for label in bank.labels.tolist())
        paths = tuple(taken.root / path for path in bank.paths)
        return Gallery(model, paths, F.normalize(bank.features, dim=1), labels, len(found), len(taken) - len(paths))

    def nearest(self, image: UInt8[ndarray, "h w 3"], count: int, without: Path | None = None) -> list[Neighbour]:
        """The `count` most similar images, the most similar first, of equal ones the first of the folder.

        without: a file that is left out, where the image itself lies in the folder.
        """
        cosines = self.features @ self._describe(image)
        if without is not None:
            same = [path.resolve() == without.resolve() for path in self.paths]
            cosines = cosines.masked_fill(torch.tensor(same), -torch.inf)
        order = cosines.argsort(descending=True, stable=True)[:count].tolist()
        return [self._neighbour(place, cosines[place].item()) for place in order if cosines[place].isfinite()]

    def _neighbour(self, place: int, cosine: float) -> Neighbour:
        return Neighbour(self.paths[place], cosine, None if self.labels is None else self.labels[place])

    def _describe(self, image: UInt8[ndarray, "h w 3"]) -> Float[Tensor, " d"]:
        """The feature of an image, of length 1, computed as those of the folder are."""
        view = evaluation_view(self.model.backbone, _CONFIG)
        pixels = evaluation_image(image, view.size, view.crop_fraction)
        with describing(self.model.backbone, _CONFIG) as describe:
            return F.normalize(describe(pixels[None])[0].cpu(), dim=0)


def draw_gallery(folder: Path) -> Path:
    """Drawn scenes to look through, for whoever has no images: written into the folder unless they are there."""
    return write_scenes(folder, _DRAWN) / "folder"
