"""Self-supervised vision, made usable, measured and visible. The functions are described in `dinoscope.api`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dinoscope.api import (
        EVALUATIONS,
        METHODS,
        RECIPES,
        VIEWS,
        RunConfig,
        UserError,
        ablate,
        attention,
        compare,
        curate,
        duplicates,
        embed,
        evaluate,
        knn,
        linear,
        load,
        load_patches,
        predict,
        recipe,
        report,
        train,
        verdict,
        wrap,
    )

__version__ = "0.1.0"

__all__ = [
    "EVALUATIONS",
    "METHODS",
    "RECIPES",
    "VIEWS",
    "RunConfig",
    "UserError",
    "ablate",
    "attention",
    "compare",
    "curate",
    "duplicates",
    "embed",
    "evaluate",
    "knn",
    "linear",
    "load",
    "load_patches",
    "predict",
    "recipe",
    "report",
    "train",
    "verdict",
    "wrap",
]


def __getattr__(name: str) -> Any:
    """Load torch and the rest only when a name is asked for: `import dinoscope` stays light.

    A module of the same name (`dinoscope.report`) is the package's own as long as the function was not asked for.
    """
    if name in __all__:
        value = getattr(importlib.import_module("dinoscope.api"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'dinoscope' has no attribute {name!r}")
