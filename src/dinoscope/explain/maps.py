"""The kinds of maps, by name: whatever draws or measures one takes its kind from here."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from dinoscope.explain.attention import attention_maps, count_heads, energy_maps
from dinoscope.explain.centre import centre_maps
from dinoscope.explain.gradcam import gradcam_maps
from dinoscope.explain.rollout import rollout_maps
from dinoscope.models.backbone import Backbone, ViTBackbone

MapKind = Callable[[Backbone, Tensor, int], Tensor]
"""(backbone, normalised images [b, 3, h, w], block) -> [b, maps, rows, columns], nowhere negative."""

MAPS: dict[str, MapKind] = {
    "attention": attention_maps,
    "rollout": rollout_maps,
    "energy": energy_maps,
    "gradcam": gradcam_maps,
    "centre": centre_maps,
}
"""attention: of each head of one block; a ResNet's is its feature energy. rollout: all blocks up to that one.
gradcam: towards the image's own feature. centre: a blob in the middle that looks at no image: the bar to clear.
"""

TITLES = {
    "attention": "attention",
    "rollout": "attention rollout",
    "energy": "feature energy",
    "gradcam": "Grad-CAM",
    "centre": "centred blob",
}
"""kind -> what it is called in tables and captions."""


def count_maps(kind: str, backbone: Backbone) -> int:
    """Number of maps for each image: one for each head, or a single one."""
    return count_heads(backbone) if kind == "attention" else 1


def map_title(kind: str, backbone: Backbone) -> str:
    """What a map of this kind shows, for a caption: a ResNet's `attention` is its feature energy."""
    has_heads = isinstance(backbone, ViTBackbone)
    return TITLES["energy" if kind == "attention" and not has_heads else kind]
