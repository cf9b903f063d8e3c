"""What every table has: data, checked before anything heavy, how a model is measured on it, and how long that takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from dinoscope.measurement import Watch
from dinoscope.model_names import Model, unwatched
from dinoscope.types import Result


@dataclass(frozen=True)
class Settings:
    """What a person may choose for any table.

    image_size: side at which networks see images, in pixels; None is the published one.
    batch_size: images at a time; None is the measurement's own. workers: of the loader; -1 chooses. Neither changes
        a figure.
    watch: hears how far the data are listed.
    """

    image_size: int | None = None
    device: torch.device = torch.device("cpu")  # noqa: RUF009 (immutable)
    batch_size: int | None = None
    workers: int = -1
    watch: Watch = unwatched


@runtime_checkable
class Bench(Protocol):
    """The data of a table, and how a model is measured on it.

    amount: images or frames, for a person. cautions: why figures are not comparable with the published ones.
    remarks: the protocol, and where it is not the paper's.
    """

    @property
    def amount(self) -> str: ...  # noqa: D102 (see above)

    @property
    def cautions(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def remarks(self) -> tuple[str, ...]: ...  # noqa: D102

    def settings(self, evaluation: str) -> Mapping[str, Any]:
        """All that decides a figure but the weights, as plain values."""
        ...

    def measure(self, evaluation: str, model: Model, watch: Watch, scratch: Path) -> Result:
        """Measure. Raises UserError.

        scratch: a folder, there or not, for what a start that is broken off leaves to the next one. It is deleted when
            the measurement is kept.
        """
        ...

    def seconds(self, evaluation: str, model: Model) -> float:
        """Roughly how long that takes, from a short probe on the same data. Raises UserError."""
        ...


def seconds_of(call: Callable[[], object]) -> float:
    """Time of one call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
