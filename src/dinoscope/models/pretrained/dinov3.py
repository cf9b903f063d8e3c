"""Files of DINOv3: its ViT and its ConvNeXt, each in the official, in timm's and in Hugging Face's names.

The official names are those of facebookresearch/dinov3 (vision_transformer.py, convnext.py), Hugging Face's those of
transformers (modeling_dinov3_vit.py, modeling_dinov3_convnext.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dinoscope.errors import UserError
from dinoscope.models.backbone import BACKBONES
from dinoscope.models.convnext import ConvNeXtShape
from dinoscope.models.network import BackboneConfig
from dinoscope.models.pretrained.family import Family, Layout, unchanged
from dinoscope.models.rotary import RotaryShape, rotary_periods

VIT_HEADS = frozenset({"head", "mask_token", "local_cls_norm", "rope_embed", "rope_embeddings"})
"""What training alone used, and what follows from the image size."""

PERIODS_TOLERANCE = 2**-7
"""Relative tolerance for the periods in official files, which are rounded to bfloat16."""

GATED = (r"\.mlp\.w1\.", ".mlp.fc1_g."), (r"\.mlp\.w2\.", ".mlp.fc1_x."), (r"\.mlp\.w3\.", ".mlp.fc2.")

OFFICIAL_VIT = (
    (r"^storage_tokens$", "reg_token"),
    (r"\.ls([12])\.gamma$", r".gamma_\1"),
    *GATED,
)

HIDDEN_VIT = (
    (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.", ""),
    (r"^(model\.)?layer\.", "blocks."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.([qv])_proj\.bias$", r".attn.\1_bias"),
    (r"\.layer_scale([12])\.lambda1$", r".gamma_\1"),
    (r"\.mlp\.gate_proj\.", ".mlp.fc1_g."),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
)

OFFICIAL_CONVNEXT = (
    (r"^downsample_layers\.0\.", "stem."),
    (r"^downsample_layers\.([1-3])\.", r"stages.\1.downsample."),
    (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.pwconv([12])\.", r".mlp.fc\1."),
    (r"^norm\.", "head.norm."),
)

HIDDEN_CONVNEXT = (
    (r"^model\.", ""),
    (r"^stages\.0\.downsample_layers\.", "stem."),
    (r"^stages\.(\d+)\.downsample_layers\.", r"stages.\1.downsample."),
    (r"^stages\.(\d+)\.layers\.", r"stages.\1.blocks."),
    (r"\.depthwise_conv\.", ".conv_dw."),
    (r"\.pointwise_conv([12])\.", r".mlp.fc\1."),
    (r"(blocks\.\d+)\.layer_norm\.", r"\1.norm."),
    (r"^layer_norm\.", "head.norm."),
)


def _renamed(tensors: Mapping[str, Tensor], patterns: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        for pattern, replacement in patterns:
            name = re.sub(pattern, replacement, name)
        result[name] = tensor
    return result


def from_official_vit(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a ViT's tensors as timm does; the bias of queries, keys and values is multiplied by its mask and cut.

    Raises UserError if keys have a bias, or the positions turn with other periods than DINOv3's.
    """
    result = {name: tensor for name, tensor in tensors.items() if not name.endswith(".attn.qkv.bias_mask")}
    for name in tensors:
        if not name.endswith(".attn.qkv.bias"):
            continue
        bias, mask = result.pop(name), tensors.get(f"{name}_mask")
        query, key, value = (bias if mask is None else bias * mask).chunk(3)
        if not key.is_meta and not (key == 0).all():
            raise UserError(f"{name} gives keys a bias, which a ViT of DINOv3 has not: its mask is missing or damaged")
        result |= {name.replace("qkv.bias", "q_bias"): query, name.replace("qkv.bias", "v_bias"): value}
    if "rope_embed.periods" in result:
        periods = result["rope_embed.periods"].flatten().float()
        if not periods.is_meta:  # the values are read once the shapes are known to fit
            expected = rotary_periods(4 * len(periods))
            if not torch.allclose(periods, expected, rtol=PERIODS_TOLERANCE, atol=0):
                raise UserError("rope_embed.periods are not those of DINOv3's rotary positions, which alone are known")
    return _renamed(result, OFFICIAL_VIT)


def from_hidden_vit(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a ViT's tensors in Hugging Face's names as timm does, with one projection for queries, keys and values."""
    result = _renamed(tensors, HIDDEN_VIT)
    for name in list(result):
        if name.endswith(".mlp.up_proj.weight") or name.endswith(".mlp.up_proj.bias"):
            gated = name.replace("up_proj", "fc1_g") in result
            result[name.replace("up_proj", "fc1_x" if gated else "fc1")] = result.pop(name)
        if name.endswith(".attention.q_proj.weight"):
            three = [name.replace(".q_proj.", f".{part}_proj.") for part in "qkv"]
            if all(each in result for each in three):
                joined = torch.cat([result.pop(each) for each in three])
                result[name.replace(".attention.q_proj.", ".attn.qkv.")] = joined
    return result


def from_official_convnext(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a ConvNeXt's tensors as timm does."""
    return _renamed(tensors, OFFICIAL_CONVNEXT)


def from_hidden_convnext(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a ConvNeXt's tensors in Hugging Face's names as timm does."""
    return _renamed(tensors, HIDDEN_CONVNEXT)


def vit_config(tensors: Mapping[str, Tensor], layout: Layout, source: str, heads: int | None) -> BackboneConfig:
    """Return which `RotaryShape` of `BACKBONES` it is."""
    width, _, patch, _ = tensors["patch_embed.proj.weight"].shape
    gated, bias = "blocks.0.mlp.fc1_g.weight" in tensors, "blocks.0.attn.q_bias" in tensors
    hidden = tensors[f"blocks.0.mlp.{'fc1_g' if gated else 'fc1'}.weight"].shape[0]
    found = (patch, width, _count(tensors, r"blocks\.(\d+)\."), hidden, gated, bias, tensors["reg_token"].shape[1])
    for name, shape in BACKBONES.items():
        if isinstance(shape, RotaryShape):
            sizes = shape.patch, shape.width, shape.depth, shape.hidden, shape.gated, shape.bias, shape.registers
            if sizes == found:
                return BackboneConfig(name, shape.size)
    raise UserError(
        f"{source} is a ViT of DINOv3's kind that is not known here: patch {patch}, width {width}, {found[2]} blocks, "
        f"{'SwiGLU' if gated else 'MLP'} of {hidden}, {found[-1]} registers, {'a' if bias else 'no'} bias of queries"
    )


def convnext_config(tensors: Mapping[str, Tensor], layout: Layout, source: str, heads: int | None) -> BackboneConfig:
    """Return which `ConvNeXtShape` of `BACKBONES` it is."""
    depths = tuple(_count(tensors, rf"stages\.{stage}\.blocks\.(\d+)\.") for stage in range(4))
    width = tensors["stem.0.weight"].shape[0]
    for name, shape in BACKBONES.items():
        if isinstance(shape, ConvNeXtShape) and (shape.depths, shape.width) == (depths, width):
            return BackboneConfig(name, shape.size)
    raise UserError(f"{source} is a ConvNeXt that is not known here: {depths} blocks, width {width}")


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    return 1 + max((int(found[1]) for name in tensors if (found := re.match(pattern, name))), default=-1)


HIDDEN_ANCHOR = "stages.0.downsample_layers.0.weight"
DUPLICATES = frozenset({"norms"})
"""The final norm under a second name, in official files of the ConvNeXt."""

FAMILIES: dict[str, Family] = {
    "DINOv3 ViT": Family(
        "patch_embed.proj.weight", from_official_vit, VIT_HEADS, vit_config, signs=(r"^storage_tokens$",)
    ),
    "DINOv3 ViT, timm": Family(
        "patch_embed.proj.weight", unchanged, VIT_HEADS, vit_config, signs=(r"^reg_token$", r"^blocks\.0\.gamma_1$")
    ),
    "DINOv3 ViT, transformers": Family(
        "embeddings.patch_embeddings.weight", from_hidden_vit, VIT_HEADS, vit_config, signs=(r"register_tokens$",)
    ),
    "DINOv3 ConvNeXt": Family(
        "downsample_layers.0.0.weight", from_official_convnext, DUPLICATES, convnext_config, signs=(r"^norms\.3\.",)
    ),
    "DINOv3 ConvNeXt, timm": Family(
        "stem.0.weight", unchanged, DUPLICATES, convnext_config, signs=(r"^stages\.0\.blocks\.0\.conv_dw\.",)
    ),
    "DINOv3 ConvNeXt, transformers": Family(
        HIDDEN_ANCHOR,
        from_hidden_convnext,
        DUPLICATES,
        convnext_config,
        signs=(r"\.depthwise_conv\.", r"^layer_norm\."),
    ),
    # newer versions of transformers put the stages below "model.", and the final norm not
    "DINOv3 ConvNeXt, transformers 5": Family(
        f"model.{HIDDEN_ANCHOR}", from_hidden_convnext, DUPLICATES, convnext_config, signs=(r"^layer_norm\.",)
    ),
}
