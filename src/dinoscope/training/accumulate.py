"""One gradient from several micro-batches, equal to that of the whole batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from dinoscope import distributed
from dinoscope.methods.method import Method, Outputs
from dinoscope.models.layers import statistics_held
from dinoscope.types import Step, StepOutput, Views

MicroBatches = Sequence[Views]
Precision = Callable[[], AbstractContextManager[object]]
Scale = Callable[[Tensor], Tensor]


def backward(
    method: Method,
    network: nn.Module,
    views: Views,
    step: Step,
    *,
    parts: int,
    precision: Precision,
    scale: Scale,
) -> tuple[StepOutput, Tensor]:
    """Add the gradient of the loss of this process's batch to the parameters, `parts` micro-batches at a time.

    Args:
        method: gives the loss; its state does not move here.
        network: runs `method.encode`: the method itself, or DistributedDataParallel around it.
        views: the whole batch of this process.
        step: where the run stands.
        parts: number of equal micro-batches.
        precision: context of the forward pass (autocast).
        scale: multiplies the loss before the backward pass (a gradient scaler).

    Returns the loss, logged values and statistics of the batch of all processes (means over the micro-batches and the
    processes, which have as many images each), this process's kept rows, and its features [views, batch, dim] for the
    monitor.
    """
    micro_batches = views.split(parts)
    if parts == 1 or method.additive:
        return _one_pass(method, network, micro_batches, step, precision, scale)
    return _two_passes(method, network, micro_batches, step, precision, scale)


def cut_differently(method: nn.Module, begun_with: int, parts: int) -> str | None:
    """A warning where a run goes on with another number of micro-batches and has batch norm, to which they matter."""
    normed = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in method.modules())
    if parts == begun_with or not normed:
        return None
    return (
        f"--accumulate {parts} where the run was begun with {begun_with}: batch norm sees batches of another size "
        "from here on, so the result is not that of a run without a stop"
    )


def _one_pass(
    method: Method, network: nn.Module, micro_batches: MicroBatches, step: Step, precision: Precision, scale: Scale
) -> tuple[StepOutput, Tensor]:
    """The loss is a mean over images: gradients of the micro-batches' losses add up."""
    results: list[StepOutput] = []
    features: list[Tensor] = []
    for number, micro in enumerate(micro_batches, start=1):
        with _reduction(network, last=number == len(micro_batches)):
            with precision():
                outputs: Outputs = network(micro)
            result = method.loss(outputs, step)
            scale(result.loss / len(micro_batches)).backward()
        results.append(result)
        features.append(outputs["features"].detach())
    return _mean(results), torch.cat(features, dim=1)


def _two_passes(
    method: Method, network: nn.Module, micro_batches: MicroBatches, step: Step, precision: Precision, scale: Scale
) -> tuple[StepOutput, Tensor]:
    """The loss needs the whole batch: outputs first, then their gradients, then each micro-batch again.

    Both passes of a micro-batch begin with the same seed on every device, so that stochastic depth drops the same
    paths (GradCache, Gao et al. 2021).
    """
    seeds = [(torch.initial_seed() + number) % 2**63 for number in range(len(micro_batches))]
    cached: list[Outputs] = []
    for micro, seed in zip(micro_batches, seeds, strict=True):
        torch.manual_seed(seed)
        with torch.no_grad(), precision(), statistics_held(network):  # the second pass moves them
            cached.append(network(micro))
    whole = {name: torch.cat([outputs[name] for outputs in cached], dim=1) for name in cached[0]}
    for rows in whole.values():
        rows.requires_grad_(rows.is_floating_point())  # not the labels
    result = method.loss(whole, step)
    scale(result.loss).backward()
    start = 0
    for number, (micro, seed) in enumerate(zip(micro_batches, seeds, strict=True), start=1):
        torch.manual_seed(seed)
        with _reduction(network, last=number == len(micro_batches)):
            with precision():
                outputs: Outputs = network(micro)
            stop = start + micro.batch_size
            pairs = [
                (output, gradient[:, start:stop])
                for name, output in outputs.items()
                if output.requires_grad and (gradient := whole[name].grad) is not None
            ]
            torch.autograd.backward([output for output, _ in pairs], [gradient for _, gradient in pairs])
        start = stop
    return _mean([result]), whole["features"].detach()


def _reduction(network: nn.Module, *, last: bool) -> AbstractContextManager[object]:
    """Processes exchange gradients once, with the last micro-batch."""
    if last or not isinstance(network, nn.parallel.DistributedDataParallel):
        return contextlib.nullcontext()
    return network.no_sync()


def _mean(results: list[StepOutput]) -> StepOutput:
    """One record for the whole batch, cut off from the graph; its rows are this process's."""
    loss = torch.stack([result.loss.detach() for result in results]).mean()
    logged = _mean_values([result.logged for result in results])
    statistics = _mean_values([result.statistics for result in results])
    # One exchange for all scalars, on the device of the loss: some are made on the CPU.
    scalars = distributed.mean_reduce(torch.stack([loss, *(value.to(loss) for value in logged.values())]))
    return StepOutput(
        scalars[0],
        dict(zip(logged, scalars[1:], strict=True)),
        {name: distributed.mean_reduce(value) for name, value in statistics.items()},
        {name: torch.cat([result.kept[name].detach() for result in results], dim=1) for name in results[0].kept},
    )


def _mean_values(values: list[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    stacked = {name: torch.stack([value[name].detach() for value in values]) for name in values[0]}
    # From the first on, so that the mean of equal values is that value: temperatures and momenta are logged too.
    return {name: rows[0] + (rows - rows[0]).mean(dim=0) for name, rows in stacked.items()}
