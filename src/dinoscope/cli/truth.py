"""True masks of the images that are drawn: read once for each image, and compared with the masks of models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from numpy import ndarray
from torch import Tensor

from dinoscope.cli.pictures import Seen
from dinoscope.data.benchmarks import VOID, MaskedImages, find_masks, object_pixels
from dinoscope.errors import UserError
from dinoscope.evaluation.voc import jaccard


@dataclass
class Truth:
    """The masks, that of the image at hand, and the Jaccard of each model's mask so far, by the model's label."""

    masks: MaskedImages
    current: tuple[Path, UInt8[ndarray, "h w"]] | None = None
    scores: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def fault(self, seen: Seen) -> str | None:
        """Read the mask of the image, if there is one; what is wrong with it, or None."""
        self.current = None
        if seen.file not in self.masks.images:
            return None
        index = self.masks.images.index(seen.file)
        try:
            self.current = seen.file, self.masks.truth(index, (seen.image.shape[0], seen.image.shape[1]))
        except UserError as error:
            return str(error)
        return None

    def objects(self, seen: Seen) -> Bool[ndarray, "h w"] | None:
        """Pixels of any object; None where the image has no mask."""
        classes = self._classes(seen)
        return None if classes is None else object_pixels(classes)

    def measure(self, seen: Seen, label: str, mask: Bool[Tensor, "rows columns"]) -> float | None:
        """Jaccard of a mask, 0 to 1, void not counted, and kept under the label.

        None where the image has no mask, or none of an object: there is nothing to lie on.
        """
        classes, objects = self._classes(seen), self.objects(seen)
        if classes is None or objects is None or not objects.any():
            return None
        score = jaccard(mask, torch.from_numpy(objects), torch.from_numpy(classes != VOID))
        self.scores[label].append(score)
        return score

    def _classes(self, seen: Seen) -> UInt8[ndarray, "h w"] | None:
        return self.current[1] if self.current is not None and self.current[0] == seen.file else None


def find_truth(files: Sequence[Path], masks: Path) -> Truth:
    """The masks of those files that have one. Raises UserError where none has."""
    return Truth(find_masks(files, masks))


def say_scores(truth: Truth, labels: Sequence[str]) -> None:
    """Print each model's mean Jaccard over the images that were drawn and whose masks show an object."""
    from dinoscope.cli.console import Console, metric_table
    from dinoscope.types import Metric

    count = len(truth.scores[labels[0]])
    if count:
        images = "1 image" if count == 1 else f"{count} images"
        metrics = [Metric(label, 100 * float(np.mean(truth.scores[label]))) for label in labels]
        Console().print(metric_table(f"mean Jaccard of the masks, {images}", metrics))
