"""One gradient from several micro-batches, equal to that of the whole batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from dinoscope.methods.method import Method, Outputs
from dinoscope.types import Step, StepOutput, Views


def backward(
    method: Method,
    network: nn.Module,
    views: Views,
    step: Step,
    *,
    parts: int,
    precision: Callable[[], AbstractContextManager[object]],
    scale: Callable[[Tensor], Tensor],
) -> tuple[StepOutput, Tensor]:
    """Add the gradient of the batch's loss to the parameters, `parts` micro-batches at a time.

    Args:
        method: gives the loss; its state does not move here.
        network: runs `method.encode`: the method itself, or DistributedDataParallel around it.
        views: the whole batch of this process.
        step: where the run stands.
        parts: number of equal micro-batches.
        precision: context of the forward pass (autocast).
        scale: multiplies the loss before the backward pass (a gradient scaler).

    Returns the batch's loss, logged values and statistics (means over the micro-batches, which are of equal
    size), and the features of the last micro-batch for the monitor.
    """
    results: list[StepOutput] = []
    features = torch.empty(0)
    for number, micro in enumerate(views.split(parts)):
        with _reduction(network, last=number == parts - 1):
            with precision():
                outputs: Outputs = network(micro)
            result = method.loss(outputs, step)
            scale(result.loss / parts).backward()
        results.append(StepOutput(result.loss.detach(), result.logged, result.statistics))
        features = outputs["features"]
    return _mean(results), features


def _reduction(network: nn.Module, *, last: bool) -> AbstractContextManager[object]:
    """Processes exchange gradients once, with the last micro-batch."""
    if last or not isinstance(network, nn.parallel.DistributedDataParallel):
        return contextlib.nullcontext()
    return network.no_sync()


def _mean(results: list[StepOutput]) -> StepOutput:
    return StepOutput(
        torch.stack([result.loss for result in results]).mean(),
        _mean_values([result.logged for result in results]),
        _mean_values([result.statistics for result in results]),
    )


def _mean_values(values: list[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([value[name] for value in values]).mean(dim=0) for name in values[0]}
