"""FSDP2: each process holds a part of every parameter, of its gradient and of the optimiser's state.

Checkpoints hold whole tensors, so that any number of processes can continue from them, sharded or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from dinoscope import distributed
from dinoscope.methods.method import Method


def shard(method: Method, device: torch.device) -> None:
    """Shard all parameters over the processes, in place: blocks of transformers each, and the rest together."""
    method.to(memory_format=torch.contiguous_format)  # FSDP2 takes no other layout
    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    for backbone in method.backbones:
        if backbone.transformer is not None:
            # Not the last block: the class token alone is computed from its weights without calling it.
            for block in backbone.transformer.blocks[:-1]:
                fully_shard(block, mesh=mesh)
    fully_shard(method, mesh=mesh)


def local(tensor: Tensor) -> Tensor:
    """Return this process's part; a tensor that is not sharded is returned as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the whole tensors. All processes must ask for them."""
    return {name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor for name, tensor in tensors.items()}


def like(tensor: Tensor, model: Any) -> Tensor:
    """Return a whole tensor sharded as `model` is, if that is sharded and of its shape."""
    if isinstance(model, DTensor) and tensor.shape == model.shape:
        return distribute_tensor(tensor.to(model.device), model.device_mesh, model.placements)
    return tensor


def like_module(tensors: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Return whole weights sharded as those of the module are."""
    own = module.state_dict()
    return {name: like(tensor, own.get(name)) for name, tensor in tensors.items()}
