"""The teacher: a copy of the student that follows it as a moving average."""

from __future__ import annotations

import torch
from torch import nn


def copy_parameters(source: nn.Module, target: nn.Module) -> None:
    """Give `target` the parameters and buffers of `source` (strict), and stop its gradients."""
    target.load_state_dict(source.state_dict(), strict=True)
    target.requires_grad_(False)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher = momentum * teacher + (1 - momentum) * student, over parameters only (Caron et al. 2021).

    Buffers (batch-norm statistics) are the teacher's own: it runs in training mode.
    """
    targets = [parameter.data for parameter in teacher.parameters()]
    sources = [parameter.data for parameter in student.parameters()]
    torch._foreach_lerp_(targets, sources, 1 - momentum)
