"""The options of every command that computes features of a folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from dinoscope.features import ExtractConfig
    from dinoscope.measurement import Extract


@dataclass(frozen=True)
class ExtractionOptions:
    """How the features are computed."""

    image_size: int | None = None
    """Side of the square that the network sees, in pixels; by default the one the model stores."""

    crop_fraction: float | None = None
    """Part of the short side that the centre crop keeps; by default 0.875, and 1 up to 64 pixels."""

    device: str = "auto"
    """cpu, cuda, cuda:N or mps; auto takes the best there is."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the matrix products. Published figures are fp32."""

    batch_size: int = 64
    """Images at a time; lower it where memory is short. The features do not depend on it."""

    workers: int = -1
    """Processes that read images; -1 chooses. The features do not depend on it."""

    no_cache: bool = False
    """Compute anew and keep nothing; else features stay in $DINOSCOPE_CACHE or the system's cache folder."""

    def resolve(self) -> ExtractConfig:
        """The same as `dinoscope.features` takes it. Raises UserError where the device is not there."""
        from dinoscope.features import ExtractConfig
        from dinoscope.system import DTYPES, pick_device

        return ExtractConfig(
            pick_device(self.device),
            self.batch_size,
            self.workers,
            self.image_size,
            self.crop_fraction,
            DTYPES[self.precision],
        )

    def extractor(self) -> Extract:
        """What computes the features, with a progress bar."""
        from dinoscope.cli.console import progress_bar
        from dinoscope.measurement import Extract

        return Extract(self.resolve(), cached=not self.no_cache, watch=progress_bar)


EXTRACTION = ExtractionOptions()
