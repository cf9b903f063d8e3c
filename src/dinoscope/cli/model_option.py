"""`--model` as every command that loads models takes it, described in the same words."""

from __future__ import annotations

from typing import Annotated

import tyro

WHAT_MAY_BE_NAMED = (
    "Run folder, exported folder, weights file (also others'), released weights (`dinoscope models`), random:NETWORK, "
    "or random:MODEL for a model's network with random weights."
)

_ONE = tyro.conf.arg(metavar="MODEL", help=WHAT_MAY_BE_NAMED)

Model = Annotated[str, _ONE]
"""One model, as `model_names.load_model` takes it."""

AnyModel = Annotated[str | None, _ONE]
"""Likewise, where the command can do without."""

Models = Annotated[tuple[str, ...], tyro.conf.arg(metavar="MODEL...", help=f"One or more. {WHAT_MAY_BE_NAMED}")]
"""Models, as `model_names.load_models` takes them."""
