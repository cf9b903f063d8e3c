"""Jaccard of attention masks on PASCAL VOC 2012, as in the table of DINO's Fig. 4."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from dinoscope.data.benchmarks import find_masked_images
from dinoscope.measurement import VocConfig, Watch, measure_voc
from dinoscope.measurement.voc import PUBLISHED_MASS, PUBLISHED_SIDE
from dinoscope.measurement.voc_record import PUBLISHED, measurements, summarise
from dinoscope.model_names import Model
from dinoscope.reproduction.bench import Settings, seconds_of
from dinoscope.types import Metric, Result

VAL_IMAGES = 1449
"""Of the segmentation task of PASCAL VOC 2012."""

SCRIPT_MASS = 0.9
BATCH_SIZE = 8
_PROBED = 4  # images


class VocBench:
    """The validation images of VOCdevkit/VOC2012."""

    def __init__(self, data: Path, settings: Settings) -> None:
        """Find the images. Raises UserError where the layout is another, or a list or all masks are missing."""
        self.images = find_masked_images(data.resolve())
        self.square, self.options = settings.image_size or PUBLISHED_SIDE, settings

    @property
    def amount(self) -> str:
        """Images with masks."""
        return f"{len(self.images):,} images"

    @property
    def cautions(self) -> tuple[str, ...]:
        """Where it is not VOC 2012 val at 512 px."""
        said: list[str] = []
        if len(self.images) != VAL_IMAGES:
            said.append(f"not VOC 2012 val: {len(self.images):,} images with masks instead of {VAL_IMAGES:,}")
        if self.square != PUBLISHED_SIDE:
            said.append(f"squares of {self.square} px instead of {PUBLISHED_SIDE}")
        return tuple(said)

    @property
    def remarks(self) -> tuple[str, ...]:
        """The protocol."""
        return (
            f"Jaccard: image and mask at {self.square} x {self.square} px, attention of the class token in the last "
            "block, the smallest mask that holds so much of it, of each class of an image the head that fits best by "
            "the truth, mean over the classes of an image, then over images; void counts as not of the class",
            "The paper's text says 60 % of the attention, the public script of Naseer et al. takes 90 %: both are here",
            "`dinoscope voc` also measures without choosing by the truth, and with intervals",
        )

    @cached_property
    def _files(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for name, *files in zip(self.images.names, self.images.images, self.images.masks, strict=True):
            sizes = [file.stat().st_size if file.is_file() else -1 for file in files]
            digest.update(f"{name}\0{sizes}\0".encode())
        return digest.hexdigest()

    def settings(self, evaluation: str) -> Mapping[str, Any]:
        """Images and their size."""
        return {"data": str(self.images.root), "images": self._files, "evaluation": evaluation, "square": self.square}

    def measure(self, evaluation: str, model: Model, watch: Watch, scratch: Path) -> Result:
        """By the published protocol, at both masses."""
        config = self._config()
        with watch("attention masks") as progress:
            summary = summarise(measure_voc([model], self.images, config, progress))
        found = measurements(summary)[0]
        other = summary.intervals[0][PUBLISHED][config.all_masses.index(SCRIPT_MASS)]
        more = Metric(f"voc_jaccard_{PUBLISHED}", 100 * other.mean, parameters={"mass": SCRIPT_MASS})
        return Result("voc", found.protocol, (*found.metrics, more))

    def seconds(self, evaluation: str, model: Model) -> float:
        """From the masks of a few images."""
        few = self.images.subset(_PROBED)
        measure_voc([model], few.subset(1), self._config())  # the first forward is slow
        return seconds_of(lambda: measure_voc([model], few, self._config())) / len(few) * len(self.images)

    def _config(self) -> VocConfig:
        return VocConfig(
            ("published",),
            PUBLISHED_MASS,
            (SCRIPT_MASS,),
            self.square,
            device=self.options.device,
            batch_size=self.options.batch_size or BATCH_SIZE,
        )
