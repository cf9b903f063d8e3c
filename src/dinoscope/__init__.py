"""Self-supervised vision, made usable, measured and visible."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dinoscope.api import attention, knn, linear, load, recipe, train

__version__ = "0.1.0"

__all__ = ["attention", "knn", "linear", "load", "recipe", "train"]


def __getattr__(name: str) -> Any:
    """Load torch and the rest only when a function is asked for: `import dinoscope` stays light."""
    if name in __all__:
        return getattr(importlib.import_module("dinoscope.api"), name)
    raise AttributeError(f"module 'dinoscope' has no attribute {name!r}")
