"""The options of the commands that set models beside each other: on which images what is missing is measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from dinoscope.cli.command import ExtractionOptions
from dinoscope.errors import UserError

if TYPE_CHECKING:
    from dinoscope.evaluation.compare import Measuring


@dataclass(frozen=True)
class MeasuringOptions:
    """What is measured of models, and on which images."""

    data: Path | None = None
    """Labelled images to measure on: train/CLASS/... and val/CLASS/..., or only CLASS/..."""

    label_fraction: float = 1.0
    """Share of each class of the training images whose labels are used, in (0, 1]."""

    no_baselines: bool = False
    """Leave out raw pixels and networks with random weights, which stand beside the models where --data is given."""

    skip: tuple[Literal["knn", "linear", "throughput"], ...] = ()
    """Measure none of these anew; what is kept is shown."""

    extraction: tyro.conf.OmitArgPrefixes[ExtractionOptions] = field(default_factory=ExtractionOptions)

    def measuring(self, throughput_image_size: int = 224, throughput_batch_size: int | None = None) -> Measuring:
        """The same as the library takes it, with progress bars. throughput: as `ThroughputConfig` has it.

        Raises UserError where the share of labels is out of range, or for the device.
        """
        from dinoscope.cli.console import progress_bar
        from dinoscope.evaluation.compare import Measuring
        from dinoscope.evaluation.throughput import ThroughputConfig

        if not 0 < self.label_fraction <= 1:
            raise UserError(f"--label-fraction must be above 0 and at most 1, not {self.label_fraction:g}")
        speed = ThroughputConfig(throughput_image_size, throughput_batch_size)
        context = self.extraction.context()
        return Measuring(self.data, self.label_fraction, frozenset(self.skip), context, speed, progress_bar)
