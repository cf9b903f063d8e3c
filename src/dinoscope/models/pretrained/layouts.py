"""Where in a file a network stands, and whose file it is, told by the names of its tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

Family = Literal["vit", "transformers", "resnet", "sequential"]

ANCHORS: dict[Family, str] = {
    "vit": "patch_embed.proj.weight",
    "transformers": "embeddings.patch_embeddings.projection.weight",
    "resnet": "layer1.0.conv1.weight",
    "sequential": "4.0.conv1.weight",
}
"""How a network names its weights -> the tensor that tells where it begins. sequential: torchvision's ResNet as a list
of its children, as lightly has it."""

DEPTH = 6
"""Dictionaries within dictionaries that are looked into."""

PARTS = (
    (r"(?<![a-z])ema(?![a-z])", "ema"),
    (r"teacher|target|momentum|encoder_k\b", "teacher"),
    (r"student|online|encoder_q\b|base_encoder", "student"),
)
"""What the way to a network says -> the part it is; without any of these it is the only one, or the plain one."""

PLAIN = "plain"


def heads_of_64(width: int) -> int:
    """Attention heads of 64 channels each: ViTs of DINO, DINOv2, iBOT and DeiT."""
    return width // 64


def moco_v3_heads(width: int) -> int:
    """Attention heads of a ViT of MoCo v3 (vits.py; solo-learn's vit_mocov3.py and vit_mae.py): 12 up to ViT-B."""
    return 16 if width == 1024 else 12


@dataclass(frozen=True)
class Layout:
    """A kind of file.

    says: how it was recognised, for a person. method: as far as the file tells; "" where it does not.
    signs: each must be found in some name, written way/to/dictionary/tensor.name.
    part: what is taken of it where nothing else is asked for.
    heads: attention heads of a ViT of some width; None where the file does not tell.
    """

    says: str
    method: str
    signs: tuple[str, ...]
    part: str = PLAIN
    heads: Callable[[int], int] | None = None


LAYOUTS = (
    # iBOT's files are DINO's but for a mask token in the student and a second last layer for the patches.
    Layout("iBOT", "iBOT", (r"[/.](masked_embed$|head\.last_layer2\.)",), "teacher", heads_of_64),
    Layout(
        "DINO, full checkpoint",
        "DINO",
        (r"^student/(module\.)?backbone\.", r"^teacher/(module\.)?backbone\.", r"head\.last_layer\."),
        "teacher",
        heads_of_64,
    ),
    Layout("DINOv2, training checkpoint", "DINOv2", (r"(^|[/.])backbone\.", r"dino_head\."), "teacher", heads_of_64),
    Layout(
        "DINO, network and head",
        "DINO",
        (r"(^|[/.])backbone\.", r"(^|[/.])head\.mlp\.", r"(^|[/.])head\.last_layer\.weight_v$"),
        "teacher",
        heads_of_64,
    ),
    Layout("MoCo v3, checkpoint", "MoCo v3", (r"\bbase_encoder\.", r"\bmomentum_encoder\."), "student", moco_v3_heads),
    Layout("MoCo, checkpoint", "MoCo v1 or v2", (r"\bencoder_q\.",), "student"),
    Layout("SwAV, checkpoint", "SwAV", (r"\bprojection_head\.", r"\bprototypes\.")),
    Layout("BYOL, PyTorch port", "BYOL", (r"online_(encoder|net)\.", r"target_(encoder|net)\."), "student"),
    Layout("DINOv2, backbone", "DINOv2", (r"/(register_tokens|mask_token)$", r"ls1\.gamma$"), heads=heads_of_64),
    Layout("DINOv2 in timm's names", "DINOv2", (r"/(\w+\.)*reg_token$", r"ls1\.gamma$"), heads=heads_of_64),
    Layout(
        "DINOv2 in Hugging Face's names",
        "DINOv2",
        (r"patch_embeddings\.projection", r"layer_scale1\.lambda1$"),
        heads=heads_of_64,
    ),
    Layout("ViT in Hugging Face's names", "", (r"patch_embeddings\.projection",)),
    Layout(
        "solo-learn, checkpoint",
        "",
        (r"^state_dict/(backbone|encoder)\.", r"/(momentum_)?(projector|classifier)\."),
        heads=heads_of_64,
    ),
    Layout("DeiT", "supervised", (r"^model/patch_embed\.", r"^model/head\.weight$"), heads=heads_of_64),
    Layout("lightly, checkpoint", "", (r"backbone\.0\.weight$",)),
    # The classifier may have been trained with the network, or as a linear probe on frozen features.
    Layout("ResNet with a classifier (torchvision or timm)", "", (r"layer1\.0\.conv1", r"/(\w+\.)*fc\.weight$")),
    Layout("ViT with a classifier (timm)", "", (r"patch_embed\.proj", r"/(\w+\.)*head\.weight$")),
    Layout("ViT backbone (DINO or timm)", "", (r"patch_embed\.proj",)),
    Layout("ResNet backbone (torchvision or timm)", "", ()),
)
"""Looked through in order; the first whose signs are all there is it."""


OTHERS = (
    (r"layers\.\d+\.blocks\.\d+\.attn\.relative_position_bias_table$", "a Swin Transformer (EsViT's too)"),
    (r"cls_attn_blocks\.\d+\.", "an XCiT or CaiT"),
    (r"(^|\.)(downsample_layers\.\d+\.|stages\.\d+\.blocks\.\d+\.conv_dw\.)", "a ConvNeXt"),
    (r"(^|\.)(storage_tokens$|rope_embed\.)", "a ViT of DINOv3"),
    (r"blocks\.\d+\.mlp\.w12\.", "a ViT with SwiGLU, as DINOv2's ViT-g"),
    (r"(^|\.)blocks\.\d+\.attn\.relative_position_bias_table$|(^|\.)rel_pos_bias\.", "a BEiT"),
)
"""Names of tensors -> networks that are recognised only to say that they are not supported."""


@dataclass(frozen=True)
class Place:
    """A network in a file.

    way: dictionaries that lead to it, then what its tensors' names begin with: "teacher/module.backbone.".
    tensors: its tensors and those that share the beginning, without it.
    beside: first words of the names of everything else in the same dictionary.
    """

    way: str
    family: Family
    part: str
    tensors: Mapping[str, Tensor]
    beside: tuple[str, ...]


def recognise(content: Mapping[str, Any]) -> Layout:
    """The first of `LAYOUTS` that fits."""
    names = [f"{way}/{name}" for way, tensors in _dictionaries(content) for name in tensors]
    return next(layout for layout in LAYOUTS if all(any(re.search(s, n) for n in names) for s in layout.signs))


def unsupported(content: Mapping[str, Any]) -> str:
    """Which of `OTHERS` the file holds; "" for none of them."""
    names = [name for _, tensors in _dictionaries(content) for name in tensors]
    return next((kind for sign, kind in OTHERS if any(re.search(sign, name) for name in names)), "")


def find_places(content: Mapping[str, Any]) -> list[Place]:
    """Every network in the file, in the order of the file."""
    return [
        _place(way, tensors, name.removesuffix(anchor), family)
        for way, tensors in _dictionaries(content)
        for name in tensors
        for family, anchor in ANCHORS.items()
        if name == anchor or name.endswith(f".{anchor}")
    ]


def _place(way: str, tensors: Mapping[str, Tensor], prefix: str, family: Family) -> Place:
    path = f"{way}/{prefix}" if way else prefix
    part = next((part for sign, part in PARTS if re.search(sign, path)), PLAIN)
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    others = [name for name in tensors if not name.startswith(prefix)]
    beside = tuple(dict.fromkeys(re.match(r"(module\.)?[^.]*", name)[0] for name in others))  # pyright: ignore
    return Place(path, family, part, own, beside)


def _dictionaries(
    content: Mapping[str, Any], way: str = "", depth: int = 0, seen: set[int] | None = None
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every dictionary with tensors, with the way to it; the state of an optimiser is none.

    seen: dictionaries that were met, as a file may name the same one thousands of times, within itself too.
    """
    seen = set() if seen is None else seen
    if id(content) in seen:
        return
    seen.add(id(content))
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors:
        yield way, tensors
    for name, value in content.items():
        if isinstance(value, Mapping) and isinstance(name, str) and not name.startswith("optim") and depth < DEPTH:
            yield from _dictionaries(value, f"{way}/{name}" if way else name, depth + 1, seen)
