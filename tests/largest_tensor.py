"""How large a tensor a computation makes, for tests that something is never built whole."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def largest_tensor(compute: Callable[[], object]) -> int:
    """Elements of the largest tensor that any operation returns while `compute` runs."""
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                largest = max(largest, result.numel())
            return result

    with Watch():
        compute()
    return largest
