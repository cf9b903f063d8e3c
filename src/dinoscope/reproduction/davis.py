"""Video object segmentation on DAVIS 2017, as in DINO's Table 5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dinoscope.data.benchmarks import find_davis
from dinoscope.errors import UserError
from dinoscope.evaluation.propagation import working_size
from dinoscope.evaluation.window import PropagationConfig
from dinoscope.measurement import Watch
from dinoscope.measurement.davis import (
    SequenceResult,
    davis_measurement,
    propagated,
    propagation_protocol,
    score_masks,
)
from dinoscope.model_names import Model
from dinoscope.reproduction.bench import Settings, seconds_of
from dinoscope.types import Result

SEQUENCES = 30
"""In the list of DAVIS 2017 val."""

_PROBED = 5  # frames


class DavisBench:
    """The sequences of ImageSets/2017/val.txt."""

    def __init__(self, data: Path, settings: Settings) -> None:
        """Find the sequences. Raises UserError as `find_davis` does, also where one of the list is missing."""
        self.davis = find_davis(data.resolve(), 2017)
        usual = PropagationConfig()
        self.config = usual if settings.image_size is None else replace(usual, size=settings.image_size)
        self.options = settings

    @property
    def frames(self) -> int:
        """Of all sequences."""
        return sum(map(len, self.davis.sequences))

    @property
    def amount(self) -> str:
        """Frames and sequences."""
        return f"{self.frames:,} frames of {len(self.davis.sequences)} sequences"

    @property
    def cautions(self) -> tuple[str, ...]:
        """Where it is not DAVIS 2017 val at 480p."""
        said: list[str] = []
        if len(self.davis.sequences) != SEQUENCES:
            said.append(f"not DAVIS 2017 val: {len(self.davis.sequences)} sequences instead of {SEQUENCES}")
        if self.davis.resolution != "480p":
            said.append(f"frames at {self.davis.resolution} instead of 480p")
        if self.config.size != PropagationConfig.size:
            said.append(f"short side {self.config.size} px instead of {PropagationConfig.size}")
        return tuple(said)

    @property
    def remarks(self) -> tuple[str, ...]:
        """The protocol."""
        config = self.config
        return (
            f"J and F: short side {config.size} px, first and {config.context} previous frames, radius "
            f"{config.radius}, top {config.top_k}, temperature {config.temperature:g}; scored as by the official "
            "scorer: means over objects, first and last frame left out. The settings are those of the public script",
            "Pixels are normalised as the networks were trained (standard deviation of red 0.229; the public script "
            "divides by 0.228), so that small differences are to be expected",
        )

    @cached_property
    def _fingerprints(self) -> list[str]:
        return [sequence.fingerprint() for sequence in self.davis.sequences]

    def settings(self, evaluation: str) -> Mapping[str, Any]:
        """Frames, first masks, and how labels travel."""
        names = [sequence.name for sequence in self.davis.sequences]
        return {
            "data": str(self.davis.root),
            "sequences": names,
            "frames": self._fingerprints,
            **propagation_protocol(self.config),
        }

    def measure(self, evaluation: str, model: Model, watch: Watch, scratch: Path) -> Result:
        """Follow the objects of every sequence."""
        for sequence in self.davis.sequences:  # what does not fit is said before the hours
            working_size(*sequence.size, self.config.size, model.backbone.patch_size)
        follow, results, before = propagated(model, self.config, self.options.device), list[SequenceResult](), 0
        with watch("following objects") as progress:
            for sequence in self.davis.sequences:
                start = before
                results.append(
                    score_masks(sequence, follow, lambda index, *_, start=start: progress(start + index, self.frames))
                )
                before += len(sequence)
        return davis_measurement(self.davis, results, model, self.config)

    def seconds(self, evaluation: str, model: Model) -> float:
        """From the first frames of the first sequence; later ones are compared with more frames."""
        if not self.davis.sequences:
            raise UserError(f"{self.davis.root}: no sequence to measure on")
        first = self.davis.sequences[0]
        first = first.limited(min(_PROBED, len(first)))
        follow = propagated(model, self.config, self.options.device)
        return seconds_of(lambda: score_masks(first, follow)) / len(first) * self.frames
