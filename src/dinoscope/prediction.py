"""The classifier of a run that was trained with labels: classes of images, and their probabilities as a file.

Checkpoints of such runs hold a linear layer from the image feature to the classes, and the names of these.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dinoscope import checkpoint
from dinoscope.data.finding import find_images
from dinoscope.data.images import extensions
from dinoscope.data.joined import joined_images
from dinoscope.data.listing import is_listing
from dinoscope.data.samples import samples_in
from dinoscope.data.sources import ImageFolder, ImageSource
from dinoscope.errors import UserError
from dinoscope.files import replacing
from dinoscope.model_names import Model
from dinoscope.places import JoinedPath
from dinoscope.remote import RemotePath
from dinoscope.text import spreadsheet_cell
from dinoscope.types import FeatureBank, import_pandas

_ROWS = 4096  # images at a time, so that a thousand classes need no memory for all of them


@dataclass(frozen=True)
class Classifier:
    """A linear layer from image features [n, d] to classes."""

    weight: Float[Tensor, "c d"]
    bias: Float[Tensor, " c"]
    classes: tuple[str, ...]

    def top(self, features: Float[Tensor, "n d"], count: int) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
        """Return the `count` largest probabilities, or all if there are fewer, and the numbers of their classes."""
        parts: list[tuple[Tensor, Tensor]] = []
        for rows in torch.split(features, _ROWS):
            found = (rows @ self.weight.T + self.bias).softmax(dim=1).topk(min(count, len(self.classes)), dim=1)
            parts.append((found.values, found.indices))
        return torch.cat([values for values, _ in parts]), torch.cat([places for _, places in parts])

    def hits(self, features: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> Bool[Tensor, "n 2"]:
        """Return whether a label is the first guess, and whether it is among the first five."""
        right = self.top(features, 5)[1] == labels[:, None]
        return torch.stack([right[:, 0], right.any(dim=1)], dim=1)


def load_classifier(model: Model) -> Classifier:
    """Return the classifier of a run that was trained with labels: that of the weights of the model.

    Raises UserError if the model is no run, was trained without labels, or by a version that kept no names of classes.
    """
    tune = f"fine-tune it on labelled images first: dinoscope finetune --model {model.name} --data FOLDER --out OUT"
    if model.path is None or (model.run is None and not _is_checkpoint(model.path)):
        raise UserError(f"{model.name} has no classifier, which only a run that was trained with labels has: {tune}")
    file: Path | None = model.path
    if model.path.is_dir():
        file, _ = checkpoint.newest_whole(model.path / "checkpoints")
        if file is None:
            raise UserError(f"{model.name} has no checkpoint, and the classifier is kept in one: train it, or --resume")
    assert file is not None
    metadata = checkpoint.read_metadata(file)
    entry = metadata.get("classifier")
    if not isinstance(entry, dict):
        if metadata.get("method") == "supervised":
            raise UserError(f"{file} is of a version that kept no names of classes: train it again")
        how = metadata.get("method")
        raise UserError(f"{model.name} was trained without labels ({how}), so it knows no classes: {tune}")
    prefix, classes = str(entry.get("prefix")), tuple(map(str, entry.get("classes", ())))
    tensors = checkpoint.load(file, prefix).tensors
    weight, bias = tensors.get("weight"), tensors.get("bias")
    wanted = (len(classes), model.backbone.dim), (len(classes),)
    if weight is None or bias is None or (weight.shape, bias.shape) != wanted:
        raise UserError(f"{file} is damaged: its classifier does not fit its network and its {len(classes)} classes")
    return Classifier(weight.float(), bias.float(), classes)


def _is_checkpoint(path: Path) -> bool:
    return path.is_file() and path.suffix == ".safetensors" and "run" in checkpoint.read_metadata(path)


@dataclass(frozen=True)
class Predictions:
    """The most probable classes of images.

    paths: of all images, in order. readable: whether each could be read; the others have no row in what follows.
    probabilities, labels: [n, k] of the readable ones, the largest first; labels are numbers of `classes`.
    """

    paths: tuple[str, ...]
    readable: tuple[bool, ...]
    probabilities: Float[Tensor, "n k"]
    labels: Int[Tensor, "n k"]
    classes: tuple[str, ...]

    @property
    def unreadable(self) -> tuple[str, ...]:
        """The paths of images that could not be read."""
        return tuple(path for path, is_read in zip(self.paths, self.readable, strict=True) if not is_read)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of columns: file, class, probability, class_2, probability_2, ..."""
        ranks = range(2, self.labels.shape[1] + 1)
        more = (f"{name}_{rank}" for rank in ranks for name in ("class", "probability"))
        return ("file", "class", "probability", *more)

    def rows(self) -> list[list[str | float | None]]:
        """Return a row for each image; of one that could not be read, all but the file is None."""
        values = iter(zip(self.labels.tolist(), self.probabilities.tolist(), strict=True))
        rows: list[list[str | float | None]] = []
        for path, is_read in zip(self.paths, self.readable, strict=True):
            row: list[str | float | None] = [path]
            if is_read:
                labels, probabilities = next(values)
                for label, probability in zip(labels, probabilities, strict=True):
                    row += [self.classes[label], probability]
            rows.append(row + [None] * (len(self.columns) - len(row)))
        return rows

    def to_pandas(self) -> Any:
        """Return the rows as a pandas.DataFrame. Needs pandas."""
        return import_pandas().DataFrame(self.rows(), columns=list(self.columns))


def predictions(images: ImageSource, bank: FeatureBank, classifier: Classifier, count: int) -> Predictions:
    """Return the `count` most probable classes of each image. bank: features of those of them that can be read."""
    probabilities, labels = classifier.top(bank.features, count)
    known = set(bank.paths)
    readable = tuple(key in known for key in images.keys)
    return Predictions(tuple(images.keys), readable, probabilities, labels, classifier.classes)


def write_csv(out: Path, found: Predictions) -> None:
    """Write the rows, whole or not at all. Raises UserError if the file cannot be written."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(found.columns)
            for row in found.rows():
                writer.writerow(["" if cell is None else _cell(cell) for cell in row])
    except OSError as error:
        raise UserError(f"{out} could not be written: {error.strerror or error}") from error


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return spreadsheet_cell(value.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
    return f"{value:.6f}"


def images_at(place: Path) -> ImageSource:
    """Return the images of a place as `find_images` takes it, or of single image files, or of several of these.

    Raises UserError if one does not exist or holds no image.
    """
    places = place.places if isinstance(place, JoinedPath) else (place,)
    files = [own for own in places if _is_image_file(own)]
    parts: dict[str, ImageSource] = {}
    if files:
        root = Path(os.path.commonpath([file.parent.absolute() for file in files]))
        paths = dict.fromkeys(file.absolute().relative_to(root).as_posix() for file in files)
        parts[str(root)] = ImageFolder(root, tuple(sorted(samples_in(root, paths), key=os.fsencode)))
    parts |= {str(own): find_images(own, labelled=False) for own in places if own not in files}
    return next(iter(parts.values())) if len(parts) == 1 else joined_images(str(place), parts)


def _is_image_file(place: Path) -> bool:
    if isinstance(place, RemotePath) or is_listing(place) or not place.is_file():
        return False
    return place.name.lower().endswith(extensions())


def shown(names: Sequence[str], limit: int = 5) -> str:
    """Return the first names, and how many there are more."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
