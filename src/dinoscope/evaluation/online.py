"""Listeners that measure and show a model while it is trained: online k-NN and attention snapshots."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dinoscope.data.finding import find_images, find_split
from dinoscope.data.grey_range import Window
from dinoscope.data.neighbours import shown
from dinoscope.data.reader import UnreadableImage
from dinoscope.data.sources import ImageSource, Source, first_to_last
from dinoscope.evaluation.knn import KNNConfig, knn, leave_one_out
from dinoscope.explain.attention import attention_maps, prepare
from dinoscope.explain.history import Snapshot, begin, keep_snapshot
from dinoscope.explain.maps import map_title
from dinoscope.features import ExtractConfig, extract, without_ends
from dinoscope.methods.method import Method
from dinoscope.models.backbone import Backbone
from dinoscope.pictures import overlay
from dinoscope.training.config import RunConfig
from dinoscope.training.listeners import Listener, Observation, RunStart
from dinoscope.training.start import found_images, split_of
from dinoscope.types import Step

logger = logging.getLogger("dinoscope")

MAX_GALLERY, MAX_QUERIES = 10_000, 2_000
"""Images of an online k-NN: enough to follow a run, cheap enough to do every epoch."""

MAX_ASPECT = 4
"""Length over width beyond which only the middle of an image is shown: the time grows with the square of it."""


def evenly_spaced(images: Source, limit: int) -> Source:
    """Return at most `limit` images, evenly spaced in their order, so that every class is there."""
    return images if len(images) <= limit else images.subset(first_to_last(len(images), limit))


@dataclass
class OnlineKNN(Listener):
    """k-NN top-1 (k = 20) of the evaluated backbone, if the images have labels.

    Queries are the images of the val split, or the rest of a split that the run makes. Without either, each training
    image is a query and all others are its gallery. With a val split and no train split nothing is measured, because
    training reads the images of both. No image of the query's own group votes.

    source: the training images, if they are not those of the run's folder; there is no val split then.
    """

    k: int = 20
    source: ImageSource | None = None
    gallery: ImageSource | None = None
    queries: ImageSource | None = None

    def started(self, start: RunStart) -> None:
        self._find(start.config)
        if self._has_no_gallery(start.config.data):
            logger.info("no online k-NN: %s has a val split and no train split", start.config.data)

    def evaluated(self, config: RunConfig, images: ImageSource) -> int:
        self._find(config)
        return sum(len(part) for part in (self.gallery, self.queries) if part is not None)

    def _has_no_gallery(self, data: Path) -> bool:
        return self.source is None and find_split(data, "val") is not None and find_split(data, "train") is None

    def _find(self, config: RunConfig) -> None:
        if self.gallery is not None or self._has_no_gallery(config.data):
            return
        gallery, queries = split_of(config, self.source)
        if self.source is None and (validation := find_split(config.data, "val")) is not None:
            queries = find_images(validation)
            queries = queries if config.group is None else queries.grouped_by(config.group)
        if gallery.labels is not None:
            self.gallery = evenly_spaced(gallery, MAX_GALLERY)
            if queries is not None and queries.labels is not None:
                self.queries = evenly_spaced(queries, MAX_QUERIES)

    def evaluate(self, step: Step, method: Method) -> Observation:
        if self.gallery is None:
            return Observation()
        config, extraction = KNNConfig(ks=(self.k,)), ExtractConfig(workers=0)
        gallery = extract(method.evaluated_backbone, self.gallery, extraction)
        if self.queries is None:
            metrics = leave_one_out(gallery, config)
        else:
            metrics = knn(gallery, extract(method.evaluated_backbone, self.queries, extraction), config)
        return Observation({"knn_top1": next(metric.value for metric in metrics if "top1" in metric.name)})


class AttentionSnapshots(Listener):
    """Attention on a few fixed images at every evaluation: overlays to log, and maps kept in the run's folder.

    They show how objects emerge. `explain.history` describes what is kept.

    Args:
        count: number of images, evenly spaced in the training images.
        source: the training images, if they are not those of the run's folder.
    """

    def __init__(self, count: int = 6, source: ImageSource | None = None) -> None:
        self.count, self.source = count, source
        self.names: tuple[str, ...] = ()
        self.images: list[np.ndarray] = []
        self.run: Path | None = None

    def started(self, start: RunStart) -> None:
        training = found_images(start.config, self.source)
        chosen = evenly_spaced(training, self.count)
        config = start.config.backbone_config
        found = readable_images(chosen.with_slices(config.slices), config.window, config.channels)
        images = {chosen.keys[position]: image for position, image in found}
        self.names, self.images = tuple(images), list(images.values())
        if not (self.images and start.config.evaluate_every):
            return
        try:
            begin(start.config.out, [shown(image, config.slices) for image in self.images], start.step.index)
        except OSError as error:
            logger.warning("attention snapshots are not kept: %s", error)
            return
        self.run = start.config.out
        if start.step.index == 0:
            self._keep(start.backbone, [mean_map(start.backbone, image)[1] for image in self.images], 0, 0.0)

    def evaluated(self, config: RunConfig, images: ImageSource) -> int:
        return min(self.count, len(images))

    def evaluate(self, step: Step, method: Method) -> Observation:
        backbone, steps = method.evaluated_backbone, step.index + 1
        maps = [mean_map(backbone, image) for image in self.images]
        self._keep(backbone, [values for _, values in maps], steps, steps / step.per_epoch)
        strips = (np.concatenate((picture, overlay(picture, values)), axis=1) for picture, values in maps)
        return Observation(pictures={f"attention/{number}": strip for number, strip in enumerate(strips)})

    def _keep(self, backbone: Backbone, maps: list[np.ndarray], steps: int, epoch: float) -> None:
        if self.run is None:
            return
        try:
            keep_snapshot(self.run, Snapshot(steps, epoch, map_title("attention", backbone), self.names, tuple(maps)))
        except OSError as error:
            logger.warning("the attention snapshot after step %d is not kept: %s", steps, error)


def readable_images(source: ImageSource, window: Window | None, channels: int = 3) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the images that can be decoded, with their positions in the source.

    uint8 [height, width, channels]; of a long strip, the middle (`MAX_ASPECT`).
    """
    for position in range(len(source)):
        with contextlib.suppress(UnreadableImage):
            pixels = source.read(position).pixels(channels, window)
            yield position, without_ends(pixels, MAX_ASPECT).copy()


def mean_map(backbone: Backbone, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the image at the model's size, as RGB [height, width, 3], and its mean attention [rows, columns]."""
    pixels = prepare(image, backbone.config.image_size, backbone.patch_size)
    with torch.no_grad():
        maps = attention_maps(backbone, backbone.normalize(pixels[None].to(backbone.mean.device)))
    return shown(pixels.permute(1, 2, 0).numpy(), backbone.config.slices), maps[0].mean(dim=0).float().cpu().numpy()
