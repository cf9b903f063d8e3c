"""Baselines without a network, by name."""

from __future__ import annotations

from collections.abc import Callable

from dinoscope.models.dictionary import PATCHES, DictionaryBackbone
from dinoscope.models.foreign import PIXELS, PixelsBackbone
from dinoscope.models.manifold import MANIFOLD, ManifoldBackbone
from dinoscope.models.network import Backbone

BASELINES: dict[str, tuple[str, Callable[[], Backbone]]] = {
    PIXELS: ("raw pixels", PixelsBackbone),
    PATCHES: ("whitened patches", DictionaryBackbone),
    MANIFOLD: ("sparse manifold transform", ManifoldBackbone),
}
"""name -> (what tables call it, how it is built), one line each."""
