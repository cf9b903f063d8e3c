"""The records that cross rooms."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from dinoscope.errors import UserError


@dataclass(frozen=True)
class Views:
    """The augmented views of one batch, uint8 RGB, grouped by resolution so that each group is one forward.

    global_views: [views, batch, channels, height, width].
    local_views: [views, batch, channels, height, width] at the smaller size, or None without multi-crop.
    index: [batch], position of each image in its data set.
    labels: [batch] class numbers, or None if the folder has none.
    unreadable: positions whose file could not be decoded and was replaced by the next readable one.
    masks: [views, batch, rows * columns], the patches of the global views that the method hides, or None. They stay on
        the CPU, as `index` does: which rows of patches are taken must not depend on what a device has to be asked for.
    mixes: [views, batch, 5], global views first: how each is mixed with that of another image (`data.mixing`), or None.
    """

    global_views: UInt8[Tensor, "g b c h w"]
    local_views: UInt8[Tensor, "l b c s t"] | None
    index: Int[Tensor, " b"]
    labels: Int[Tensor, " b"] | None = None
    unreadable: tuple[int, ...] = ()
    masks: Bool[Tensor, "g b p"] | None = None
    mixes: Float[Tensor, "v b 5"] | None = None

    @property
    def batch_size(self) -> int:
        return self.index.shape[0]

    def to(self, device: torch.device) -> Views:
        return self._changed(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Views:
        return self._changed(Tensor.pin_memory)

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Views:
        local = None if self.local_views is None else change(self.local_views)
        labels = None if self.labels is None else change(self.labels)
        mixes = None if self.mixes is None else change(self.mixes)
        return replace(self, global_views=change(self.global_views), local_views=local, labels=labels, mixes=mixes)

    def select(self, images: slice | Int[Tensor, " c"]) -> Views:
        """Return the views of these images of the batch."""
        local = None if self.local_views is None else self.local_views[:, images]
        labels = None if self.labels is None else self.labels[images]
        masks = None if self.masks is None else self.masks[:, images]
        mixes = None if self.mixes is None else self.mixes[:, images]
        return Views(self.global_views[:, images], local, self.index[images], labels, masks=masks, mixes=mixes)

    def split(self, parts: int) -> tuple[Views, ...]:
        """Cut the batch into `parts` equal micro-batches, in order.

        Raises ValueError if the batch is not divisible: unequal parts would weight images unequally.
        """
        if self.batch_size % parts:
            raise ValueError(f"a batch of {self.batch_size} images cannot be cut into {parts} equal parts")
        size = self.batch_size // parts
        return tuple(self.select(slice(start, start + size)) for start in range(0, self.batch_size, size))


@dataclass(frozen=True)
class Tokens:
    """What every backbone returns.

    cls: [batch, dim] the network's own image feature (of a class token), or None if it has none (ResNet).
    patches: [batch, rows * columns, width] in row-major order; of width dim, unless the network has its own feature.
    grid: (rows, columns).
    """

    cls: Float[Tensor, "b d"] | None
    patches: Float[Tensor, "b n e"]
    grid: tuple[int, int]

    @property
    def feature(self) -> Float[Tensor, "b d"]:
        return self.patches.mean(dim=1) if self.cls is None else self.cls


@dataclass(frozen=True)
class Step:
    """A position in a run. `index` counts optimiser steps from 0."""

    index: int
    total: int
    per_epoch: int

    @property
    def epoch(self) -> int:
        return self.index // self.per_epoch

    @property
    def position(self) -> float:
        """In epochs; its whole part is `epoch`."""
        return self.index / self.per_epoch

    @property
    def progress(self) -> float:
        return self.index / self.total

    @property
    def epochs(self) -> int:
        return -(-self.total // self.per_epoch)  # the last may be partial


@dataclass(frozen=True)
class StepOutput:
    """A scalar loss, scalars to log, and what `after_step` and `health` need of the batch.

    logged: means over the batch; statistics: means of more than one value (a centre, a mean probability). Those of
        micro-batches and processes are averaged, so neither may hold anything but means over images (no entropy of a
        mean, no deviation).
    rows: of single images, [views, batch, ...] (keys for a queue); those of micro-batches are joined in order.
    """

    loss: Float[Tensor, ""]
    logged: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    statistics: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    rows: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])


@dataclass(frozen=True)
class FeatureBank:
    """Features of a set of images: [n, dim] float32, class numbers [n] or None, and the files they came from.

    groups: number of the group (patient, slide, video...) of each image, see `data.groups`; None if unknown.
    """

    features: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"] | None = None
    paths: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    groups: Int[Tensor, " n"] | None = None

    def to_pandas(self) -> Any:
        """Return a pandas.DataFrame with the path, the name of the class and the features f0, f1, ..."""
        pandas = import_pandas()
        frame = pandas.DataFrame(self.features.numpy(), columns=[f"f{i}" for i in range(self.features.shape[1])])
        if self.labels is not None:
            frame.insert(0, "label", [self.classes[n] if self.classes else n for n in map(int, self.labels)])
        if self.paths:
            frame.insert(0, "path", list(self.paths))
        return frame


@dataclass(frozen=True)
class Metric:
    """One measured number.

    unit: "%", "images/s", "nats"...; "" for a plain number.
    low, high: the ends of its 95 % confidence interval, in its unit; None if it has none.
    n: how many images, videos or the like the interval is over; None if there is none.
    parameters: what it was measured with, if there are several of its name: {"k": 20}, {"mass": 0.6}.
    """

    name: str
    value: float
    unit: str = "%"
    higher_is_better: bool = True
    low: float | None = None
    high: float | None = None
    n: int | None = None
    parameters: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def title(self) -> str:
        """The name, with the parameters: "knn_top1 (k = 20)"."""
        values = ", ".join(f"{name} = {value:g}" for name, value in self.parameters.items())
        return f"{self.name} ({values})" if values else self.name

    def text(self, digits: int = 1, *, sign: bool = False) -> str:
        """Return the value, and if there is one its interval in brackets: "74.5 [73.9, 75.0]"."""
        form = f"{'+' if sign else ''}.{digits}f"
        if self.low is None or self.high is None:
            return f"{self.value:{form}}"
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"


@dataclass(frozen=True)
class Items:
    """Scores of single images or videos.

    figures: name of a metric -> one value for each of `names`, in the metric's unit.
    left_out: name of what could not be measured -> why.
    facts: other columns, as text: {"classes": ("1 5", "3")}.
    """

    names: tuple[str, ...]
    figures: Mapping[str, tuple[float, ...]]
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])
    facts: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])


@dataclass(frozen=True)
class Result:
    """What one evaluation measured of one model, and how.

    evaluation: a key of `evaluation.EVALUATIONS`.
    protocol: plain JSON values: the model, the data and the settings; see `evaluation.results.conditions`.
    items: the scores that the metrics are means of, if they are kept.
    """

    evaluation: str
    protocol: Mapping[str, Any]
    metrics: tuple[Metric, ...]
    items: Items | None = None

    def metric(self, name: str, **parameters: float) -> Metric | None:
        """Return the first metric of this name with these parameters among its own; None if there is none."""
        named = (metric for metric in self.metrics if metric.name == name)
        return next((metric for metric in named if parameters.items() <= metric.parameters.items()), None)


def import_pandas() -> Any:
    """Return pandas. Raises UserError if it is not installed: only `.to_pandas()` needs it."""
    try:
        return importlib.import_module("pandas")
    except ImportError as error:
        raise UserError("to_pandas() needs pandas: pip install pandas") from error
