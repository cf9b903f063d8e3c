"""The methods, by name. A new method is a file in this folder and a line in `METHODS`."""

from __future__ import annotations

from dinoscope.methods import (
    barlow,
    byol,
    dino,
    distill,
    emp,
    esvit,
    ibot,
    mae,
    moco,
    simclr,
    simdino,
    supervised,
    swav,
    vicreg,
)
from dinoscope.methods.method import Display, Method, MethodConfig, MethodEntry
from dinoscope.models.backbone import BackboneConfig

METHODS: dict[str, MethodEntry] = {
    "dino": dino.METHOD,
    "simclr": simclr.METHOD,
    "moco": moco.METHOD,
    "byol": byol.METHOD,
    "swav": swav.METHOD,
    "barlow": barlow.METHOD,
    "vicreg": vicreg.METHOD,
    "distill": distill.METHOD,
    "emp": emp.METHOD,
    "simdino": simdino.METHOD,
    "esvit": esvit.METHOD,
    "ibot": ibot.METHOD,
    "mae": mae.METHOD,
    "supervised": supervised.METHOD,
}

DISPLAY: dict[str, Display] = {
    key: display
    for name, entry in sorted(METHODS.items(), key=lambda item: (not item[1].labels, item[1].year))
    for key, display in ({name: entry.display} | dict(entry.variants)).items()
}
"""`shown_name` of settings -> how tables and figures show them, in the order of the rows."""


def build_method(settings: MethodConfig, backbone: BackboneConfig, classes: int = 0) -> Method:
    """Return the method of these settings with fresh weights. classes: number in the data if it has labels."""
    entry = METHODS[method_name(settings)]
    return entry.build(settings, backbone, classes) if entry.labels else entry.build(settings, backbone)


def method_name(settings: MethodConfig) -> str:
    """Return the name in `METHODS` that the settings belong to."""
    return next(name for name, entry in METHODS.items() if type(settings) is entry.config)


def shown_name(settings: MethodConfig) -> str:
    """Return the key in `DISPLAY`: the method's name, or that of a variant ("moco_v3")."""
    return settings.variant or method_name(settings)
