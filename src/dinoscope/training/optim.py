"""Optimiser, its parameter groups and schedules, and clipping."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from dinoscope.schedules import cosine, warmup_cosine
from dinoscope.training.config import RunConfig
from dinoscope.types import Step

_TOKENS = ("cls_token", "pos_embed", "reg_token")
"""How the names of a Vision Transformer's tokens and positions end."""


def build_optimizer(config: RunConfig, parameters: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
    """Two groups: weights, and biases with all other 1-D parameters; see `OptimizerConfig.decayed`."""
    name, decayed = config.optimizer.name, config.optimizer.decayed
    weights: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for path, parameter in parameters:
        apart = parameter.ndim == 1 or path.endswith(".bias") or (decayed == "not_tokens" and path.endswith(_TOKENS))
        (others if apart else weights).append(parameter)
    groups = [{"params": weights, "decays": True}, {"params": others, "decays": decayed == "all", "weight_decay": 0.0}]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, weight_decay=0.0, fused=_can_fuse(weights))
    if name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=0.9, weight_decay=0.0)
    from timm.optim.lars import Lars

    # timm's LARS is plain SGD for a group without weight decay, unless it is told to adapt.
    for group in groups:
        group["always_adapt"] = group["decays"]
    return Lars(groups, lr=0.0, momentum=0.9, weight_decay=0.0)  # pyright: ignore[reportArgumentType] (timm infers int)


def set_schedules(optimizer: torch.optim.Optimizer, config: RunConfig, step: Step) -> dict[str, float]:
    """Set learning rate and weight decay for this step; return them for the log."""
    settings = config.optimizer
    warmup = round(settings.warmup_epochs * step.per_epoch)
    peak = settings.peak(config.batch_size)
    rate = warmup_cosine(step.index, step.total, warmup, peak, settings.min_learning_rate, settings.start_learning_rate)
    decay = cosine(settings.weight_decay, settings.final_weight_decay, step.index / step.total)
    for group in optimizer.param_groups:
        group["lr"] = rate
        if group["decays"]:
            group["weight_decay"] = decay
    return {"learning_rate": rate, "weight_decay": decay}


@torch.no_grad()
def clip_each(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Shorten every gradient tensor longer than `limit` to that length, each on its own.

    Returns the norm of all gradients together before clipping. limit 0 only measures.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch._foreach_norm(gradients)
    if limit > 0:
        # 1e-6 keeps a zero gradient from dividing by zero (the reference's rule)
        factors = [(limit / (norm + 1e-6)).clamp(max=1.0) for norm in norms]
        torch._foreach_mul_(gradients, factors)
    return torch.stack(norms).norm()


def _can_fuse(parameters: list[nn.Parameter]) -> bool:
    """Whether torch's one-kernel AdamW serves this device."""
    return parameters[0].device.type in ("cuda", "cpu")
