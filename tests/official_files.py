"""Files with the key names of official releases, built from small random networks; nothing is fetched."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dinoscope.models import backbone as backbones
from dinoscope.models.backbone import Backbone, BackboneConfig, build_backbone
from dinoscope.models.pretrained import CATALOGUE, Release
from dinoscope.models.pretrained.released import cached_file
from dinoscope.models.vit import ViTBackbone, ViTShape

TINY = ViTShape(16, 64, 2, 1)
TINY_DINOV2 = ViTShape(14, 64, 2, 1, layer_scale=1e-5)
TINY_REGISTERS = ViTShape(14, 64, 2, 1, layer_scale=1e-5, registers=4)
TINY_HEADS = ViTShape(16, 96, 2, 12)


def register_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have small networks among `BACKBONES`, of every kind."""
    shapes = {"tiny": TINY, "tiny_dinov2": TINY_DINOV2, "tiny_registers": TINY_REGISTERS, "tiny_heads": TINY_HEADS}
    for name, shape in shapes.items():
        monkeypatch.setitem(backbones.BACKBONES, name, shape)


def release(
    monkeypatch: pytest.MonkeyPatch, name: str, network: str = "tiny", *, cached: bool = True, **changes: Any
) -> Release:
    """Have an entry of the catalogue whose weights are a small random network, in the cache unless said otherwise."""
    values = {"method": "DINO", "data": "pictures", "licence": "MIT", "source": "nobody", "knn": 70.0} | changes
    entry = Release(network, url=f"https://example.org/{name}.pth", **values)
    monkeypatch.setitem(CATALOGUE, name, entry)
    if cached:
        cached_file(entry).parent.mkdir(parents=True, exist_ok=True)
        torch.save(weights(random_network(network)), cached_file(entry))
    return entry


def random_network(name: str, image_size: int = 32, **changes: Any) -> Backbone:
    """A network in evaluation mode none of whose weights has a special value, as after training."""
    torch.manual_seed(len(name))
    network = build_backbone(BackboneConfig(name, image_size, **changes)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        for key, buffer in network.net.named_buffers():
            if "running_" in key:
                buffer += 0.3 * torch.rand_like(buffer)
    return network


def micro_registers() -> ViTBackbone:
    """A network of DINOv2's kind as small as vit_micro_conv8: four registers, and layer scale that matters."""
    torch.manual_seed(0)
    shape = ViTShape(8, 96, 3, 3, mlp_ratio=2.0, layer_scale=0.5, registers=4)
    network = shape.build(BackboneConfig("micro_registers", 32)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return network


def weights(network: Backbone, prefix: str = "") -> dict[str, Tensor]:
    return {prefix + name: tensor.clone() for name, tensor in network.net.state_dict().items()}


def head(prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}mlp.0.weight": torch.randn(4, 4), f"{prefix}last_layer.weight_v": torch.randn(4, 4)}


def dino_checkpoint(teacher: Backbone, student: Backbone) -> dict[str, Any]:
    """As main_dino.py saves it: the student within DDP, the teacher not, and the command line."""
    arguments = argparse.Namespace(arch="vit_small", output_dir=Path("/checkpoint/runs"), local_crops_number=8)
    return {
        "student": weights(student, "module.backbone.") | head("module.head."),
        "teacher": weights(teacher, "backbone.") | head("head."),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-3}]},
        "epoch": 100,
        "args": arguments,
        "dino_loss": {"center": torch.zeros(1, 4)},
    }


def official_dinov2(network: Backbone) -> dict[str, Tensor]:
    """dinov2's own names: a mask token; registers beside a class token that has a position of its own."""
    tensors = weights(network) | {"mask_token": torch.zeros(1, 64)}
    if "reg_token" in tensors:
        tensors["register_tokens"] = tensors.pop("reg_token")
        own = torch.randn(1, 1, tensors["cls_token"].shape[-1])
        tensors["pos_embed"] = torch.cat([own, tensors["pos_embed"]], dim=1)
        tensors["cls_token"] = tensors["cls_token"] - own
    return tensors


def hugging_face(tensors: dict[str, Tensor], prefix: str, dinov2: bool) -> dict[str, Tensor]:
    """The names of transformers' ViTModel or Dinov2Model, with queries, keys and values apart."""
    result: dict[str, Tensor] = {}
    block_names = {
        "attn.proj": "attention.output.dense",
        "norm1": "norm1" if dinov2 else "layernorm_before",
        "norm2": "norm2" if dinov2 else "layernorm_after",
        "mlp.fc1": "mlp.fc1" if dinov2 else "intermediate.dense",
        "mlp.fc2": "mlp.fc2" if dinov2 else "output.dense",
        "ls1.gamma": "layer_scale1.lambda1",
        "ls2.gamma": "layer_scale2.lambda1",
    }
    names = {"pos_embed": "position_embeddings", "patch_embed.proj": "patch_embeddings.projection"}
    for name, tensor in tensors.items():
        kind = name.rpartition(".")[2]
        if name.startswith("norm."):
            result[f"layernorm.{kind}"] = tensor
        elif not name.startswith("blocks."):
            stem = name if name in names or "." not in name else name.rpartition(".")[0]
            result[f"embeddings.{names.get(stem, stem)}" + ("" if stem == name else f".{kind}")] = tensor
        else:
            _, block, rest = name.split(".", 2)
            layer = f"encoder.layer.{block}."
            if rest.startswith("attn.qkv."):
                for part, third in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                    result[f"{layer}attention.attention.{part}.{kind}"] = third.clone()
            elif rest in block_names:
                result[layer + block_names[rest]] = tensor
            else:
                result[f"{layer}{block_names[rest.rpartition('.')[0]]}.{kind}"] = tensor
    return {prefix + name: tensor for name, tensor in result.items()}
