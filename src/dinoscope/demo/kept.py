"""What was computed and is kept, up to so many bytes: what was used least recently goes first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch

T = TypeVar("T")


class Kept:
    """A mapping from keys to results. A result larger than the bound is given out and not kept."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.bytes = most_bytes, 0
        self._results: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock, self._making = threading.Lock(), dict[Hashable, threading.Lock]()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The result under the key, made once where it is not there, however many ask for it at the same time."""
        found = self._find(key)
        if found is not None:
            return cast(T, found[0])
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:
            found = self._find(key)  # another may have made it meanwhile
            if found is not None:
                return cast(T, found[0])
            try:
                result = make()
                self._keep(key, result)
            finally:
                with self._lock:
                    self._making.pop(key, None)
        return result

    def __contains__(self, key: Hashable) -> bool:
        with self._lock:
            return key in self._results

    def _find(self, key: Hashable) -> tuple[Any, int] | None:
        with self._lock:
            found = self._results.get(key)
            if found is not None:
                self._results.move_to_end(key)
            return found

    def _keep(self, key: Hashable, result: object) -> None:
        size = count_bytes(result)
        if size > self.most_bytes:
            return
        with self._lock:
            self._results[key] = result, size
            self.bytes += size
            while self.bytes > self.most_bytes:
                _, (_, gone) = self._results.popitem(last=False)
                self.bytes -= gone


def count_bytes(result: object) -> int:
    """Bytes of all tensors and arrays in a result, however nested; what else is in it weighs nothing."""
    if isinstance(result, torch.Tensor):
        return result.numel() * result.element_size()
    if isinstance(result, np.ndarray):
        return result.nbytes
    if is_dataclass(result) and not isinstance(result, type):
        return sum(count_bytes(getattr(result, field.name)) for field in fields(result))
    if isinstance(result, Mapping):
        return sum(map(count_bytes, result.values()))
    if isinstance(result, Sequence) and not isinstance(result, str | bytes):
        return sum(map(count_bytes, result))
    return 0
