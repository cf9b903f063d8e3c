"""The methods, by name."""

from __future__ import annotations

from typing import Any

from dinoscope.methods.byol import BYOL, BYOLConfig
from dinoscope.methods.dino import DINO, DINOConfig
from dinoscope.methods.moco import MoCo, MoCoConfig
from dinoscope.methods.online import OnlineMethod
from dinoscope.methods.simclr import SimCLR, SimCLRConfig
from dinoscope.methods.supervised import Supervised, SupervisedConfig
from dinoscope.methods.swav import SwAV, SwAVConfig
from dinoscope.models.backbone import BackboneConfig

MethodSettings = DINOConfig | SimCLRConfig | MoCoConfig | BYOLConfig | SwAVConfig | SupervisedConfig

METHODS: dict[str, tuple[type[Any], type[OnlineMethod]]] = {
    "dino": (DINOConfig, DINO),
    "simclr": (SimCLRConfig, SimCLR),
    "moco": (MoCoConfig, MoCo),
    "byol": (BYOLConfig, BYOL),
    "swav": (SwAVConfig, SwAV),
    "supervised": (SupervisedConfig, Supervised),
}
"""name -> (settings, method); a method is built from its settings and a `BackboneConfig`."""


def build_method(settings: MethodSettings, backbone: BackboneConfig, classes: int = 0) -> OnlineMethod:
    """The method that `settings` belong to, with fresh weights. classes: of the data, where it has labels."""
    if isinstance(settings, SupervisedConfig):
        return Supervised(settings, backbone, classes)
    _, method = METHODS[method_name(settings)]
    return method(settings, backbone)


def shown_name(settings: MethodSettings) -> str:
    """Return the name of the method in tables: that in `METHODS`, but MoCo without a queue is "moco_v3"."""
    third = isinstance(settings, MoCoConfig) and settings.queue_size == 0
    return "moco_v3" if third else method_name(settings)


def method_name(settings: MethodSettings) -> str:
    """The name in `METHODS` that `settings` belong to."""
    return next(name for name, (kind, _) in METHODS.items() if isinstance(settings, kind))
