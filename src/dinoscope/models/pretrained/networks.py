"""Networks in files of others: where they are, whose they are, and which they are in timm's names.

All of it follows from the names and shapes of the tensors.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor

from dinoscope.errors import UserError
from dinoscope.models.backbone import BACKBONES, BackboneConfig
from dinoscope.models.pretrained import dinov3, xcit
from dinoscope.models.pretrained.family import Family, Layout, unchanged
from dinoscope.models.resnet import ResNetShape
from dinoscope.models.vit import ViTShape, sine_cosine_positions

DEPTH = 6
"""Depth of nested dictionaries that are searched."""

PARTS = (
    (r"(?<![a-z])ema(?![a-z])", "ema"),
    (r"teacher|target|momentum|encoder_k\b", "teacher"),
    (r"student|online|encoder_q\b|base_encoder", "student"),
)
"""Pattern in the path to a network -> which part it is; without any of these it is the plain one."""

PLAIN = "plain"


def heads_of_64(width: int) -> int:
    """Return the number of attention heads of 64 channels each: ViTs of DINO, DINOv2, iBOT and DeiT."""
    return width // 64


def moco_v3_heads(width: int) -> int:
    """Return the heads of a ViT of MoCo v3: 12 up to ViT-B (vits.py; solo-learn's vit_mocov3.py and vit_mae.py)."""
    return 16 if width == 1024 else 12


_TABLES = tomllib.loads(
    resources.files("dinoscope.models.pretrained").joinpath("layouts.toml").read_text(encoding="utf-8")
)
_HEADS = {"64": heads_of_64, "MoCo v3": moco_v3_heads}

LAYOUTS = tuple(
    Layout(**{**entry, "heads": _HEADS[entry["heads"]] if "heads" in entry else None}) for entry in _TABLES["layout"]
)
"""In order: the first whose signs are all present is taken."""


@dataclass(frozen=True)
class Place:
    """Where a network is in a file.

    way: dictionaries that lead to it, then what its tensors' names begin with: "teacher/module.backbone.".
    tensors: its tensors and those that share the beginning, without it.
    others: first words of the names of everything else in the same dictionary.
    """

    way: str
    family: Family
    part: str
    tensors: Mapping[str, Tensor]
    others: tuple[str, ...]


def recognise(content: Mapping[str, Any]) -> Layout:
    """Return the first of `LAYOUTS` that fits."""
    names = [f"{way}/{name}" for way, tensors in _dictionaries(content) for name in tensors]
    return next(layout for layout in LAYOUTS if all(any(re.search(s, n) for n in names) for s in layout.signs))


def unsupported(content: Mapping[str, Any]) -> str:
    """Return the network that the file holds, if it is known and not supported; else ""."""
    names = [name for _, tensors in _dictionaries(content) for name in tensors]
    return next((kind for sign, kind in _TABLES["unsupported"] if any(re.search(sign, name) for name in names)), "")


def find_places(content: Mapping[str, Any]) -> list[Place]:
    """Return every network in the file, in the order of the file."""
    places = (_place(way, tensors, name) for way, tensors in _dictionaries(content) for name in tensors)
    return [place for place in places if place is not None]


def _place(way: str, tensors: Mapping[str, Tensor], first: str) -> Place | None:
    # The network that begins with the tensor of that name: the first family whose signs are all there.
    for family in FAMILIES.values():
        if first != family.anchor and not first.endswith(f".{family.anchor}"):
            continue
        prefix = first.removesuffix(family.anchor)
        own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if all(any(re.search(sign, name) for name in own) for sign in family.signs):
            return _described(way, tensors, prefix, family, own)
    return None


def _described(
    way: str, tensors: Mapping[str, Tensor], prefix: str, family: Family, own: Mapping[str, Tensor]
) -> Place:
    path = f"{way}/{prefix}" if way else prefix
    part = next((part for sign, part in PARTS if re.search(sign, path)), PLAIN)
    others = [name for name in tensors if not name.startswith(prefix)]
    named = tuple(dict.fromkeys(re.match(r"(module\.)?[^.]*", name)[0] for name in others))  # pyright: ignore
    return Place(path, family, part, own, named)


def _dictionaries(
    content: Mapping[str, Any], way: str = "", depth: int = 0, seen: set[int] | None = None
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield every dictionary with tensors and the path to it, but for the state of an optimiser.

    seen: dictionaries that were visited: a file may name the same one thousands of times, within itself too.
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


ROUNDING = 5e-3
"""Difference that is allowed between a table of sines and its formula: the rounding of bfloat16 near 1 is 4e-3."""

DINOV2_SIZE = 224
"""Image size at which DINOv2 is evaluated; its positions are laid out for 518 px, where its training ended."""

CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
"""Place among the children of torchvision's ResNet -> their name."""


def in_timm_names(tensors: Mapping[str, Tensor], family: Family) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Rename tensors as timm does, leave out heads, and convert half precision to float32.

    Return them, and the first words of the names that are left out. A name that is neither a head's nor known stays,
    so that a strict load reports it.
    """
    renamed = family.rename(tensors)
    own = {name: tensor for name, tensor in renamed.items() if name.partition(".")[0] not in family.heads}
    left_out = dict.fromkeys(name.partition(".")[0] for name in renamed if name not in own)
    own = family.finish(own)
    floats = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in own.items()}
    return floats, tuple(left_out)


def _from_children(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {re.sub(r"^\d+", lambda place: CHILDREN.get(place[0], place[0]), name): t for name, t in tensors.items()}


def _from_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Queries, keys and values as one projection, if all three are there.
    for pattern, replacement in _TABLES["hidden"]:
        tensors = {re.sub(pattern, replacement, name): tensor for name, tensor in tensors.items()}
    result = dict(tensors)
    for name in tensors:
        if ".attn.query." not in name:
            continue
        three = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if all(each in tensors for each in three):
            result[name.replace(".query.", ".qkv.")] = torch.cat([result.pop(each) for each in three])
    return result


def _with_patch_positions(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # With registers, the positions of the prefix tokens are added to those tokens: the same sums, as timm keeps them.
    # DINOv2's training puts blocks in chunks for FSDP: blocks.CHUNK.BLOCK.name
    tensors = {re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name): tensor for name, tensor in tensors.items()}
    tensors = {("reg_token" if name == "register_tokens" else name): tensor for name, tensor in tensors.items()}
    if not {"reg_token", "pos_embed", "cls_token"} <= tensors.keys():
        return tensors
    positions, count = tensors["pos_embed"], tensors["reg_token"].shape[1]
    extra = next((n for n in (0, 1, 1 + count) if _is_square(positions.shape[1] - n)), 0)
    if extra:
        tensors["cls_token"] = tensors["cls_token"] + positions[:, :1]
    if extra > 1:
        tensors["reg_token"] = tensors["reg_token"] + positions[:, 1:extra]
    return tensors | {"pos_embed": positions[:, extra:]}


def _with_counters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Batch norm's counters, which files from before PyTorch 0.4.1 lack; no result depends on them.
    missing = {
        name.replace(".running_mean", ".num_batches_tracked"): torch.tensor(0)
        for name in tensors
        if name.endswith(".running_mean")
    }
    return missing | dict(tensors)


def _is_square(count: int) -> bool:
    return count > 0 and math.isqrt(count) ** 2 == count


def read_positions(layout: Layout, positions: Tensor | None) -> Layout:
    """Return the layout with what a fixed sine-cosine table of positions tells.

    MoCo v3 (vits.py) and MAE (util/pos_embed.py) have the same table but for the order of its two halves. Networks of
    MAE come with heads of 64 channels and, from solo-learn, as MoCo v3's.
    """
    if positions is None or positions.ndim != 3 or len(positions) != 1 or not positions.numel():
        return layout
    if not _is_square(positions.shape[1] - 1) or positions.shape[2] % 4:
        return layout
    row, column = sine_cosine_positions(positions.shape[2], math.isqrt(positions.shape[1] - 1))[0].chunk(2, dim=1)
    for method, halves in (("MoCo v3", [row, column]), ("MAE", [column, row])):
        table = F.pad(torch.cat(halves, dim=1), (0, 0, 1, 0))  # zeros for the class token
        if torch.allclose(positions[0].float(), table, atol=ROUNDING, rtol=0):
            known = method == "MoCo v3" or layout.says.startswith("solo-learn")
            says = layout.says if method in layout.says else f"{layout.says}, with the positions of {method}"
            return replace(layout, says=says, method=method, heads=moco_v3_heads if known else None)
    return layout


def infer_config(
    tensors: Mapping[str, Tensor], family: Family, layout: Layout, source: str, heads: int | None = None
) -> BackboneConfig:
    """Return which network it is, and for which image size, by the shapes of the tensors alone.

    heads: of a ViT, which no shape tells; None assumes heads of 64 channels.

    Raises UserError, with the sizes found, if it is none of them or lacks the tensors that tell.
    """
    try:
        return family.config(tensors, layout, source, heads)
    except KeyError as error:
        raise UserError(f"{source} is no network that is known here: it has no {error.args[0]!r}") from error
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise UserError(f"{source} is no network that is known here: its tensors have other shapes") from error


def named_config(name: str, tensors: Mapping[str, Tensor], source: str) -> BackboneConfig:
    """Return the config of the network of that name, for the image size of the tensors; `name` is in `BACKBONES`."""
    shape = BACKBONES[name]
    if not isinstance(shape, ViTShape):
        return BackboneConfig(name, shape.size)
    if "pos_embed" not in tensors:
        raise UserError(f"{source} is no {name}: it has no 'pos_embed'")
    return _sized(name, shape, tensors["pos_embed"], source)


def _vit_config(tensors: Mapping[str, Tensor], layout: Layout, source: str, heads: int | None) -> BackboneConfig:
    width, _, patch, _ = tensors["patch_embed.proj.weight"].shape
    depth = 1 + max((int(name.split(".")[1]) for name in tensors if re.match(r"blocks\.\d+\.", name)), default=-1)
    found = ViTShape(
        patch,
        width,
        depth,
        heads or heads_of_64(width),
        mlp_ratio=tensors["blocks.0.mlp.fc1.weight"].shape[0] / width,
        layer_scale=float("blocks.0.ls1.gamma" in tensors),
        registers=tensors["reg_token"].shape[1] if "reg_token" in tensors else 0,
    )
    vits = {name: shape for name, shape in BACKBONES.items() if isinstance(shape, ViTShape)}
    names = [name for name, shape in vits.items() if _alike(shape, found)]
    if not names:
        others = (
            ""
            if heads
            else ", ".join(n for n, shape in vits.items() if _alike(replace(shape, heads=found.heads), found))
        )
        scale = ", layer scale" if found.layer_scale else ""
        raise UserError(
            f"{source} is a ViT that is not known here: patch {patch}, width {width}, {depth} blocks, "
            f"{found.heads} heads, MLP x {found.mlp_ratio:g}, {found.registers} registers{scale}. If one of the "
            f"known networks is meant, name it with --arch{others and f' (of these sizes: {others})'}"
        )
    deit = layout.says == "DeiT"
    size = _layout_size(found, tensors["pos_embed"], source)
    names.sort(key=lambda name: (name.startswith("deit") != deit, not name.endswith(f"_{size}")))
    return _sized(names[0], found, tensors["pos_embed"], source)


def _alike(one: ViTShape, other: ViTShape) -> bool:
    # The first value of layer scale does not matter to trained weights.
    first, second = (
        (s.patch, s.width, s.depth, s.heads, s.stem, s.mlp_ratio, s.registers, s.layer_scale > 0) for s in (one, other)
    )
    return first == second


def _sized(name: str, shape: ViTShape, positions: Tensor, source: str) -> BackboneConfig:
    size = _layout_size(shape, positions, source)
    dinov2 = shape.layer_scale > 0 and size > DINOV2_SIZE
    return BackboneConfig(name, DINOV2_SIZE, position_size=size) if dinov2 else BackboneConfig(name, size)


def _layout_size(shape: ViTShape, positions: Tensor, source: str) -> int:
    # Side of the square image, in pixels, that the positions are laid out for.
    cells = positions.shape[1] - (0 if shape.registers else 1)
    if not _is_square(cells):
        raise UserError(
            f"{source} has position embeddings for {positions.shape[1]} tokens, which is no square of patches and one "
            "class token; distilled DeiT, with a second one, and images that are not square are not supported"
        )
    return math.isqrt(cells) * shape.patch


def _resnet_config(
    tensors: Mapping[str, Tensor], layout: Layout, source: str, heads: int | None = None
) -> BackboneConfig:
    block = Bottleneck if "layer1.0.conv3.weight" in tensors else BasicBlock
    counts = [
        len({name.split(".")[1] for name in tensors if name.startswith(f"layer{stage}.")}) for stage in range(1, 5)
    ]
    width, kernel = tensors["layer1.0.conv1.weight"].shape[0], tensors["conv1.weight"].shape[-1]
    for name, shape in BACKBONES.items():
        if (
            isinstance(shape, ResNetShape)
            and (shape.block, list(shape.layers), shape.width) == (block, counts, width)
            and (shape.stem_stride > 0) == (kernel == 3)
        ):
            return named_config(name, tensors, source)
    raise UserError(
        f"{source} is a ResNet that is not known here: {block.__name__} x {counts}, width {width}, first convolution "
        f"{kernel}x{kernel}. If one of the known networks is meant, name it with --arch"
    )


HEADS = frozenset(_TABLES["heads"])

FAMILIES: dict[str, Family] = {
    **dinov3.FAMILIES,
    **xcit.FAMILIES,
    "ViT": Family("patch_embed.proj.weight", unchanged, HEADS, _vit_config, finish=_with_patch_positions),
    "ViT, transformers": Family(
        "embeddings.patch_embeddings.projection.weight",
        _from_transformers,
        HEADS,
        _vit_config,
        finish=_with_patch_positions,
    ),
    "ResNet": Family("layer1.0.conv1.weight", unchanged, HEADS, _resnet_config, finish=_with_counters),
    # torchvision's ResNet as a list of its children, as lightly has it
    "ResNet, children": Family("4.0.conv1.weight", _from_children, HEADS, _resnet_config, finish=_with_counters),
}
"""In order: of those that begin with the same tensor, the first whose signs are all present is taken."""
