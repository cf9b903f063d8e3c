"""The names that stand for models next to paths, and what is said of one that stands for none. No torch is needed."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from pathlib import Path

from dinoscope.errors import UserError
from dinoscope.places import may_exist

RANDOM = "random:"
"""Prefix of a network or model: its network with fresh weights."""
UNTRAINED = "random"
"""In a list of models: the network of the first other one with fresh weights."""
SHIPPED = "shipped"
"""The model that travels with the package."""
TIMM = "timm:"
"""Prefix of a network that timm builds."""


def require_model_name(
    name: str, released: Collection[str], baselines: Collection[str], networks: Collection[str]
) -> None:
    """Raise UserError if `model_names.load_model` knows no such name, and no path is called so."""
    network = name.removeprefix(RANDOM)
    if network != name:
        if not (network in networks or _is_model(network, released)):
            raise UserError(unknown_network(network, networks, released))
    elif not (name == UNTRAINED or name in baselines or _is_model(name, released)):
        raise UserError(unknown_model(name, released))


def _is_model(name: str, released: Collection[str]) -> bool:
    return name == SHIPPED or name in released or name.startswith(TIMM) or may_exist(Path(name))


def unknown_model(name: str, released: Collection[str]) -> str:
    """Return the line that refuses a name."""
    if len(Path(name).parts) > 1:
        return f"there is no file or folder {name}"
    near = difflib.get_close_matches(name, released, n=3, cutoff=0.6)
    hint = f"did you mean the released {' or '.join(near)}?" if near else "`dinoscope models` lists released weights"
    return f"there is no file or folder {name}; {hint}"


def unknown_network(name: str, networks: Collection[str], released: Collection[str]) -> str:
    """Return the line that refuses what follows `RANDOM`."""
    near = difflib.get_close_matches(name, [*networks, *released], n=3, cutoff=0.6)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Networks: {', '.join(networks)}"
    return f"{RANDOM}{name}: {name!r} is neither a network nor a model. {hint}"
