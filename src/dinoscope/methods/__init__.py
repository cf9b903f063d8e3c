"""The methods, by name."""

from __future__ import annotations

from typing import Any

from dinoscope.methods.dino import DINO, DINOConfig
from dinoscope.models.backbone import BackboneConfig

METHODS = {"dino": (DINOConfig, DINO)}
"""name -> (settings, method); a method is built from its settings and a `BackboneConfig`."""


def build_method(settings: Any, backbone: BackboneConfig) -> DINO:
    """The method that `settings` belong to, with fresh weights."""
    return next(method for kind, method in METHODS.values() if isinstance(settings, kind))(settings, backbone)


def method_name(settings: Any) -> str:
    """The name in `METHODS` that `settings` belong to."""
    return next(name for name, (kind, _) in METHODS.items() if isinstance(settings, kind))
