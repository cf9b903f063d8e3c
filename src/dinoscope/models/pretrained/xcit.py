"""Files of XCiT: the DINO repository's `dino_xcit_*` and the xcit repository's, for timm's network."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from dinoscope.errors import UserError
from dinoscope.models.foreign import TIMM
from dinoscope.models.network import BackboneConfig
from dinoscope.models.pretrained.family import Family, Layout

SIZE = 224

SIZES = {
    (128, 12): "nano_12",
    (192, 12): "tiny_12",
    (384, 12): "small_12",
    (192, 24): "tiny_24",
    (384, 24): "small_24",
    (512, 24): "medium_24",
    (768, 24): "large_24",
}
"""(width, blocks) -> the rest of the name."""

PATCHES = {3: 8, 4: 16}
"""Convolutions of stride 2 -> patch in pixels."""


def from_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename as timm does, and cut the projection of class attention: timm applies that of queries to one token."""
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        name = re.sub(r"^pos_embeder\.", "pos_embed.", name)
        if re.match(r"cls_attn_blocks\.\d+\.attn\.qkv\.", name):
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                result[name.replace(".qkv.", f".{part}.")] = third
        else:
            result[name] = tensor
    return result


def config(tensors: Mapping[str, Tensor], layout: Layout, source: str, heads: int | None) -> BackboneConfig:
    """Return which network of timm's it is."""
    width = tensors["cls_token"].shape[-1]
    depth = len({name.split(".")[1] for name in tensors if re.match(r"blocks\.\d+\.", name)})
    stem = len([name for name in tensors if re.fullmatch(r"patch_embed\.proj\.\d+\.0\.weight", name)])
    if (width, depth) not in SIZES or stem not in PATCHES:
        raise UserError(f"{source} is an XCiT that is not known here: width {width}, {depth} blocks, stem of {stem}")
    return BackboneConfig(f"{TIMM}xcit_{SIZES[width, depth]}_p{PATCHES[stem]}_{SIZE}", SIZE)


FAMILIES: dict[str, Family] = {
    "XCiT": Family(
        "patch_embed.proj.0.0.weight", from_official, frozenset({"head"}), config, signs=(r"^cls_attn_blocks\.",)
    ),
}
