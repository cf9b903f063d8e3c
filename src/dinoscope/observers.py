"""Listeners that measure and show a model while it is trained: online k-NN and attention snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dinoscope.data.decode import UnreadableImage, decode
from dinoscope.data.folder import ImageFolder, find_images, find_split, resolve_split
from dinoscope.evaluation.knn import KNNConfig, knn, leave_one_out
from dinoscope.explain.attention import attention_maps, prepare
from dinoscope.features import ExtractConfig, extract
from dinoscope.methods.method import Method
from dinoscope.models.backbone import Backbone
from dinoscope.report.figures import overlay
from dinoscope.training.listener import Evaluation, Listener, RunStart
from dinoscope.types import Step

MOST_GALLERY, MOST_QUERIES = 10_000, 2_000
"""Images that an online k-NN looks at: enough to follow a run, cheap enough to do every epoch."""


def spread(folder: ImageFolder, most: int) -> ImageFolder:
    """At most `most` images, evenly spaced in the folder's order, so that every class is there."""
    if len(folder) <= most:
        return folder
    return folder.subset([round(position) for position in np.linspace(0, len(folder) - 1, most)])


@dataclass
class OnlineKNN(Listener):
    """k-NN top-1 (k = 20) of the evaluated backbone, where the folder has labels.

    Queries are the `val` images where there is such a split; else each training image is asked of the others.
    """

    k: int = 20
    gallery: ImageFolder | None = None
    queries: ImageFolder | None = None

    def started(self, start: RunStart) -> None:
        """Find the labelled images."""
        gallery = find_images(resolve_split(start.config.data, "train"))
        validation = find_split(start.config.data, "val")
        queries = find_images(validation) if validation else None
        if gallery.labels is None:
            return
        self.gallery = spread(gallery, MOST_GALLERY)
        if queries is not None and queries.labels is not None:
            self.queries = spread(queries, MOST_QUERIES)

    def evaluate(self, step: Step, method: Method) -> Evaluation:
        """Extract and vote."""
        if self.gallery is None:
            return Evaluation()
        config = KNNConfig(ks=(self.k,))
        gallery = extract(method.evaluated_backbone, self.gallery, ExtractConfig(workers=0))
        if self.queries is None:
            metrics = leave_one_out(gallery, config)
        else:
            metrics = knn(gallery, extract(method.evaluated_backbone, self.queries, ExtractConfig(workers=0)), config)
        return Evaluation({"knn_top1": next(metric.value for metric in metrics if "top1" in metric.name)})


class AttentionSnapshots(Listener):
    """Attention overlays of a few fixed images into TensorBoard, so that one sees objects emerge.

    Args:
        count: number of images, evenly spaced in the training folder.
    """

    def __init__(self, count: int = 6) -> None:
        self.count = count
        self.images: list[np.ndarray] = []

    def started(self, start: RunStart) -> None:
        """Choose and read the images."""
        folder = spread(find_images(resolve_split(start.config.data, "train")), self.count)
        self.images = readable_images([folder.path(position) for position in range(len(folder))])

    def evaluate(self, step: Step, method: Method) -> Evaluation:
        """Each image beside its mean attention."""
        backbone = method.evaluated_backbone
        strips = {
            f"attention/{number}": np.concatenate(attention_pair(backbone, image), axis=1)
            for number, image in enumerate(self.images)
        }
        return Evaluation(pictures=strips)


def readable_images(paths: Sequence[Path]) -> list[np.ndarray]:
    """The images that can be decoded, uint8 [height, width, 3]."""
    images: list[np.ndarray] = []
    for path in paths:
        try:
            images.append(decode(path))
        except UnreadableImage:
            continue
    return images


def attention_pair(backbone: Backbone, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The image at the model's size, and the mean attention over it; both uint8 [height, width, 3]."""
    device = next(backbone.parameters()).device
    pixels = prepare(image, backbone.config.image_size, backbone.patch_size)
    with torch.no_grad():
        maps = attention_maps(backbone, backbone.normalize(pixels[None].to(device)))
    picture = pixels.permute(1, 2, 0).numpy()
    return picture, overlay(picture, maps[0].mean(dim=0).cpu().numpy())
