"""k-NN and linear probes on ImageNet, as in DINO's Table 2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dinoscope.data.sources import ImageFolder, evenly, find_images, find_split
from dinoscope.errors import UserError
from dinoscope.evaluation.knn import KNNConfig
from dinoscope.evaluation.linear import LinearConfig
from dinoscope.evaluation.linear_reference import ReferenceConfig
from dinoscope.features import ExtractConfig, default_crop_fraction, extract
from dinoscope.measurement import Extract, Watch, measure_knn, measure_linear
from dinoscope.measurement.inputs import require_known_classes
from dinoscope.model_names import Model
from dinoscope.reproduction.bench import Settings, seconds_of
from dinoscope.types import Result

IMAGE_SIZE = 224
CLASSES, TRAIN_IMAGES, VAL_IMAGES = 1000, 1_281_167, 50_000
"""Of ImageNet-1k (ILSVRC 2012)."""

K = 20
"""Neighbours of the published k-NN figures."""

LINEAR, LINEAR_REFERENCE = "linear", "linear-reference"
BATCH_SIZE = 64
_PROBED = 32  # images


class ImageNetBench:
    """DATA/train/CLASS/... and DATA/val/CLASS/..."""

    def __init__(self, data: Path, settings: Settings, linear: str | None = LINEAR) -> None:
        """Find the images. linear: `LINEAR`, `LINEAR_REFERENCE` or None.

        Raises UserError where a split or its class folders are missing, or classes differ between them.
        """
        roots = [find_split(data, split) for split in ("train", "val")]
        absent = [name for name, root in zip(("train", "val"), roots, strict=True) if root is None]
        if absent:
            raise UserError(
                f"{data} has no folder {' and no folder '.join(absent)}: expected is ImageNet as train/CLASS/*.JPEG "
                "and val/CLASS/*.JPEG, with the same names of classes in both"
            )
        self.train, self.val = (_listed(root.resolve(), settings.watch) for root in roots if root is not None)
        require_known_classes(self.train, self.val)
        if len(self.train) < K:
            raise UserError(f"{self.train.root}: {len(self.train)} images, and {K} neighbours are to vote")
        self.image_size, self.linear, self.options = settings.image_size or IMAGE_SIZE, linear, settings

    @property
    def amount(self) -> str:
        """Images of both splits."""
        return f"{len(self.train):,} training and {len(self.val):,} validation images"

    @property
    def cautions(self) -> tuple[str, ...]:
        """Where it is not ImageNet-1k at 224 px."""
        said: list[str] = []
        found = (len(self.train.classes), len(self.train), len(self.val))
        if found != (CLASSES, TRAIN_IMAGES, VAL_IMAGES):
            said.append(
                f"not ImageNet-1k: {found[0]:,} classes, {found[1]:,} training and {found[2]:,} validation images "
                f"instead of {CLASSES:,}, {TRAIN_IMAGES:,} and {VAL_IMAGES:,}"
            )
        if self.image_size != IMAGE_SIZE:
            said.append(f"images of {self.image_size} px instead of {IMAGE_SIZE}")
        return tuple(said)

    @property
    def remarks(self) -> tuple[str, ...]:
        """The protocols."""
        short = round(self.image_size / default_crop_fraction(self.image_size))
        said = [
            f"k-NN: features of the last class token (ResNet: pooled), all training images, weights "
            f"exp(cosine / {KNNConfig.temperature:g}), short side {short} px (bicubic), centre {self.image_size} px, "
            "fp32; as in the paper"
        ]
        if self.linear == LINEAR:
            said.append(
                f"linear: the fast protocol. Features are extracted once, without augmentation, and standardised; the "
                f"learning rate is chosen on held-out training images; last of {LinearConfig.epochs} epochs. The "
                "papers train on augmented images (--linear reference) and sweep by figures of their own"
            )
        elif self.linear == LINEAR_REFERENCE:
            said.append(
                f"linear: DINO's protocol, {ReferenceConfig.epochs} epochs of crops and flips; the figure is the "
                "last epoch's, not the best one's on the validation images. Other papers than DINO's sweep settings of "
                "their own"
            )
        return tuple(said)

    @cached_property
    def _images(self) -> dict[str, str]:
        return {
            "train": str(self.train.root),
            "train_images": self.train.fingerprint(),
            "val": str(self.val.root),
            "val_images": self.val.fingerprint(),
        }

    def settings(self, evaluation: str) -> Mapping[str, Any]:
        """Images and their size."""
        return {**self._images, "evaluation": evaluation, "image_size": self.image_size, "precision": "fp32"}

    def measure(self, evaluation: str, model: Model, watch: Watch, scratch: Path) -> Result:
        """k-NN, or a probe. Features are kept on disk only until it is made: they are gigabytes for each model."""
        extracting = Extract(self._config(), watch=watch, place=scratch)
        if evaluation == "knn":
            return measure_knn(model, self.train, self.val, KNNConfig(), extracting)
        config = LinearConfig() if evaluation == LINEAR else ReferenceConfig()
        return measure_linear(model, self.train, self.val, config, extracting)

    def seconds(self, evaluation: str, model: Model) -> float:
        """From the features of a few images, read by this process; votes and the training of a probe come on top."""
        feature = "image" if evaluation == "knn" else "linear"
        config = replace(self._config(), feature=feature, workers=0)
        few = self.train.subset(evenly(len(self.train), _PROBED))
        extract(model.backbone, few.subset([0]), config)  # the first forward is slow
        each = seconds_of(lambda: extract(model.backbone, few, config)) / len(few)
        passes = ReferenceConfig.epochs if evaluation == LINEAR_REFERENCE else 1
        return each * (passes * len(self.train) + len(self.val))

    def _config(self) -> ExtractConfig:
        options = self.options
        return ExtractConfig(options.device, options.batch_size or BATCH_SIZE, options.workers, self.image_size)


def _listed(root: Path, watch: Watch) -> ImageFolder:
    with watch(f"listing {root.name}, in classes") as progress:
        return find_images(root, labelled=True, progress=progress)
