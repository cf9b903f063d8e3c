"""The kinds of maps that a picture can be made of, by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from dinoscope.explain.attention import attention_maps, count_heads
from dinoscope.explain.rollout import rollout_maps
from dinoscope.models.backbone import Backbone, ViTBackbone

MapKind = Callable[[Backbone, Tensor, int], Tensor]
"""(backbone, normalised images [b, 3, h, w], block) -> [b, maps, rows, columns], nowhere negative."""

MAPS: dict[str, MapKind] = {"attention": attention_maps, "rollout": rollout_maps}
"""attention: of each head of one block, or a ResNet's feature energy. rollout: all blocks up to that one in one map."""


def count_maps(kind: str, backbone: Backbone) -> int:
    """Number of maps for each image: one for each head, or a single one."""
    return count_heads(backbone) if kind == "attention" else 1


def map_title(kind: str, backbone: Backbone) -> str:
    """What a map of this kind shows, for a caption: a ResNet's `attention` is its feature energy."""
    if kind == "attention":
        return "attention" if isinstance(backbone, ViTBackbone) else "feature energy"
    return "attention rollout" if kind == "rollout" else kind
