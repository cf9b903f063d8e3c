"""The contract between a method and the one training loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from dinoscope.models.backbone import Backbone
from dinoscope.types import Step, StepOutput, Views

Outputs = Mapping[str, Tensor]
"""Per-sample tensors of one forward, all [views, batch, ...], so that micro-batches join along dimension 1."""


@runtime_checkable
class Method(Protocol):
    """A self-supervised method. Encoding and loss are apart so that one routine accumulates for every method."""

    additive: bool
    """Whether the loss of a batch is the mean of the losses of its equal parts (given the method's state)."""

    def encode(self, views: Views) -> Outputs:
        """Run the networks; the only place where gradients and other processes' hooks meet the parameters."""
        ...

    def loss(self, outputs: Outputs, step: Step) -> StepOutput:
        """Scalar loss, values to log, and batch means that `after_step` needs. Changes no state."""
        ...

    def before_update(self, step: Step) -> None:
        """Last word on the gradients, after clipping and before the optimiser (a frozen layer)."""
        ...

    def after_step(self, step: Step, statistics: Mapping[str, Tensor]) -> None:
        """Move teacher, centre, queue, prototypes: once per optimiser step."""
        ...

    def trained_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Named parameters for the optimiser."""
        ...

    @property
    def uniform_loss(self) -> float:
        """The loss when the outputs carry no information; what a run that does not start stays at."""
        ...

    @property
    def evaluated_backbone(self) -> Backbone:
        """The network that evaluations use (the teacher's, where there is one)."""
        ...

    @property
    def evaluated_prefix(self) -> str:
        """Where that network's weights stand in the method's state dict."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything a checkpoint needs, as from `nn.Module`."""
        ...
