"""The contract between a method and the one training loop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from dinoscope.methods.health import Verdict
from dinoscope.models.backbone import Backbone
from dinoscope.types import Step, StepOutput, Views

Outputs = Mapping[str, Tensor]
"""Per-sample tensors of one forward, all [views, batch, ...], so that micro-batches join along dimension 1."""


@dataclass(frozen=True)
class RunShape:
    """What the settings of a method must fit.

    images, classes: of the training data (0 classes: no labels).
    batch_size, micro_batch: images per optimiser step over all processes, and per forward of one process.
    num_global, num_local: views per image.
    transformer: whether the backbone is a Vision Transformer (no batch norm, a patch projection).
    """

    images: int
    classes: int
    batch_size: int
    micro_batch: int
    epochs: float
    num_global: int
    num_local: int
    transformer: bool


def too_few_views(method: str, run: RunShape) -> Iterator[str]:
    """The fault of a run with one view of each image, for a method that compares views."""
    if run.num_global + run.num_local < 2:
        yield f"{method} compares views of an image: --views.num-global and --views.num-local must add up to 2 or more"


class MethodConfig(Protocol):
    """Settings of a method: a frozen dataclass."""

    def faults(self, run: RunShape) -> Iterator[str]:
        """What of these settings does not fit the run: one sentence each, with what to change."""
        ...


@runtime_checkable
class Method(Protocol):
    """A way of training. Encoding and loss are apart so that one routine accumulates for every method."""

    additive: bool
    """Whether the loss of a batch is the mean of the losses of its equal parts (given the method's state)."""

    def encode(self, views: Views) -> Outputs:
        """Run the networks; the only place where gradients and other processes' hooks meet the parameters."""
        ...

    def loss(self, outputs: Outputs, step: Step) -> StepOutput:
        """Scalar loss, values to log, and what `after_step` needs of the batch. Changes no state."""
        ...

    def health(self, statistics: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Scalars to log that are no means over images, from the statistics of the whole batch of all processes."""
        ...

    def before_update(self, step: Step) -> None:
        """Last word on the gradients, after clipping and before the optimiser (a frozen layer)."""
        ...

    def after_step(self, step: Step, output: StepOutput) -> None:
        """Move teacher, centre, queue, prototypes: once per optimiser step."""
        ...

    def diagnose(self, recent: Mapping[str, float]) -> Verdict | None:
        """Judge a run by the means of its recently logged values; None is healthy."""
        ...

    def trained_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Named parameters for the optimiser."""
        ...

    @property
    def evaluated_backbone(self) -> Backbone:
        """The network that evaluations use (the teacher's, where it is the better one)."""
        ...

    @property
    def evaluated_prefix(self) -> str:
        """Where that network's weights stand in the method's state dict."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything a checkpoint needs, as from `nn.Module`."""
        ...
