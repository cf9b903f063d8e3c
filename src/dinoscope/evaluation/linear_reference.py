"""Linear probe in the protocol of DINO's evaluation: training images augmented anew in every epoch.

As in the reference: frozen network in evaluation mode, crops of 8 to 100 % of the area and flips, SGD with
momentum 0.9 without weight decay, batch size / 256 times the base rate, cosine to 0 by the epoch, features as
they are, crops resized bilinearly. Different here: the rest of an epoch that fills no batch is left out, and the figure
is the last epoch's, not the best one's on the validation images.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from dinoscope.data.images import UnreadableImage
from dinoscope.data.loader import StepSampler, ViewsDataset, default_workers, view_loader
from dinoscope.data.sources import ImageFolder
from dinoscope.data.views import VIEWS, ViewsConfig
from dinoscope.errors import UserError
from dinoscope.evaluation.linear import Progress, known_labels, require_positive, require_seed
from dinoscope.evaluation.probes import Probes, metrics
from dinoscope.features import ExtractConfig, describing, evaluation_view
from dinoscope.models.backbone import Backbone, ViTBackbone
from dinoscope.schedules import cosine
from dinoscope.types import FeatureBank, Metric

VIT_RATE, RESNET_RATE = 0.001, 0.3
"""Base learning rates for a batch of 256: the reference's default, and where its log of ResNet-50 starts."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReferenceConfig:
    """Settings of the linear probe in the reference's protocol.

    rate: base learning rate for a batch of 256; None takes the family's (`VIT_RATE`, `RESNET_RATE`).
    epochs: passes over the training images.
    batch_size: images per step; lowered to the number of images where there are fewer.
    seed: of the first weights, the order of the images, and their views.
    """

    rate: float | None = None
    epochs: int = 100
    batch_size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values out of range, with a UserError."""
        require_positive("learning rate", 1.0 if self.rate is None else self.rate)
        require_positive("number of epochs", self.epochs)
        require_positive("batch size", self.batch_size)
        require_seed(self.seed)

    def base_rate(self, backbone: Backbone) -> float:
        """The learning rate for a batch of 256."""
        if self.rate is not None:
            return self.rate
        return VIT_RATE if isinstance(backbone, ViTBackbone) else RESNET_RATE

    def usable_batch_size(self, images: int) -> int:
        """Images per step with so many training images."""
        return min(self.batch_size, images)


def linear_reference(
    backbone: Backbone,
    train: ImageFolder,
    val: FeatureBank,
    config: ReferenceConfig,
    extraction: ExtractConfig,
    progress: Progress | None = None,
) -> Iterator[Metric]:
    """`linear_reference_top1` and `linear_reference_top5` on `val` in %, after the last epoch.

    Args:
        train: labelled images; one that cannot be read is replaced by the next that can.
        val: features of the validation images, extracted with `extraction`.
        extraction: how features are computed; `feature` should be "linear".
        progress: told (steps done, steps in all).

    Raises UserError where labels are missing, `train` has one class only or lacks one of `val`, or no image can
    be read.
    """
    labels = known_labels(_without_features(train, val), val)
    probe = train_probe(backbone, train, config, extraction, progress)
    yield from metrics("linear_reference", probe.accuracy(val.features, labels), len(labels))


def train_probe(
    backbone: Backbone,
    train: ImageFolder,
    config: ReferenceConfig,
    extraction: ExtractConfig,
    progress: Progress | None,
) -> Probes:
    """The one classifier after the last epoch; arguments and errors as of `linear_reference`."""
    batch_size = config.usable_batch_size(len(train))
    if batch_size < config.batch_size:
        _log.warning("batch size %d lowered to %d, the number of training images", config.batch_size, batch_size)
    per_epoch = len(train) // batch_size
    total, device = config.epochs * per_epoch, extraction.device or backbone.mean.device
    view = evaluation_view(backbone, extraction)
    dataset = ViewsDataset(train, training_views(view.size), config.seed, view.window)
    sampler = StepSampler(len(train), batch_size, config.seed, range(total), rank=0, processes=1)
    workers = default_workers(processes=1) if extraction.workers < 0 else extraction.workers
    rate = config.base_rate(backbone) * batch_size / 256
    probe = Probes([rate], extraction.dim(backbone), len(train.classes), seed=config.seed, device=device)
    with describing(backbone, extraction) as describe:
        try:
            for step, views in enumerate(view_loader(dataset, sampler, workers, pin=device.type == "cuda")):
                factor = cosine(1.0, 0.0, (step // per_epoch) / config.epochs)
                probe.step(describe(views.global_views[0]), _labels(views.labels).to(device), factor)
                if progress is not None:
                    progress(step + 1, total)
        except UnreadableImage as error:
            raise UserError(f"{error}; see `dinoscope scan`") from error
    if not probe.weight.isfinite().all():
        raise UserError("a feature is NaN or infinite: the model diverged, or its weights are damaged")
    return probe


def training_views(size: int) -> ViewsConfig:
    """One random resized crop and a flip, no colours: the reference's training images for linear probes."""
    return replace(VIEWS["supervised"], global_size=size, interpolation="bilinear")


def _without_features(folder: ImageFolder, val: FeatureBank) -> FeatureBank:
    """The folder's labels and classes as a bank (its features take no memory), to be checked against `val`."""
    labels = None if folder.labels is None else torch.tensor(folder.labels)
    nothing = val.features.new_zeros(1, 1).expand(len(folder), val.features.shape[1])
    return FeatureBank(nothing, labels, folder.paths, folder.classes)


def _labels(labels: Int[Tensor, " b"] | None) -> Int[Tensor, " b"]:
    assert labels is not None, "known_labels has refused folders without labels"
    return labels
