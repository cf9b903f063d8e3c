"""Rotary positions: the table, attention maps by a plain computation, and what every model can be asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from torch import Tensor

from dinoscope.errors import UserError
from dinoscope.explain.attention import attention_maps, attention_of_blocks
from dinoscope.explain.gradcam import gradcam_maps
from dinoscope.explain.maps import (
    attention_of_pass,
    gradcam_of_pass,
    patches_of_pass,
    rollout_of_pass,
    single_pass,
)
from dinoscope.explain.patches import patch_features
from dinoscope.explain.rollout import rollout_maps
from dinoscope.export.programs import Program, check, trace
from dinoscope.models.backbone import BackboneConfig
from dinoscope.models.convnext import ConvNeXtShape
from dinoscope.models.rotary import RotaryBackbone, RotaryShape, rotary_table

SHAPES = {
    "bias": RotaryShape(8, 64, 3, 2, 128, bias=True),
    "gated": RotaryShape(8, 48, 2, 3, 64, gated=True, registers=2),
}


def trained(shape: RotaryShape) -> RotaryBackbone:
    """A network none of whose weights has a special value, and which does not attend evenly."""
    torch.manual_seed(1)
    network = shape.baseline().build(BackboneConfig("rotary", 32)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network


def turned(vectors: np.ndarray, rows: int, columns: int, prefix: int) -> np.ndarray:
    """Rotate [heads, tokens, e] pair by pair with complex numbers: channels c and c + e / 2 are one number."""
    half = vectors.shape[-1] // 2
    numbers = vectors[..., :half] + 1j * vectors[..., half:]
    for row in range(rows):
        for column in range(columns):
            y, x = 2 * (row + 0.5) / rows - 1, 2 * (column + 0.5) / columns - 1
            periods = [100 ** (2 * i / half) for i in range(half // 2)]
            angles = np.array([2 * np.pi * place / period for place in (y, x) for period in periods])
            numbers[:, prefix + row * columns + column] *= np.exp(1j * angles)
    return np.concatenate([numbers.real, numbers.imag], axis=-1)


@pytest.mark.parametrize("kind", SHAPES)
@torch.no_grad()
def test_attention_is_the_softmax_of_turned_queries_and_keys(kind: str) -> None:
    shape, (rows, columns) = SHAPES[kind], (3, 5)
    network, images = trained(shape), torch.randn(2, 3, 8 * 3, 8 * 5)
    tokens, grid = network.embed(images)
    assert grid == (rows, columns)
    tokens = network.blocks_on(grid)[0](tokens)  # what enters the second block
    block: Any = network.net.blocks[1]
    prefix, width = 1 + shape.registers, shape.width // shape.heads
    normed = block.norm1(tokens)
    query, key, _ = (normed @ block.attn.qkv.weight.T).chunk(3, dim=-1)
    if shape.bias:
        query = query + block.attn.q_bias
    maps = attention_maps(network, images, 1)
    for index in range(2):
        heads = [
            turned(part[index].double().numpy().reshape(-1, shape.heads, width).swapaxes(0, 1), rows, columns, prefix)
            for part in (query, key)
        ]
        scores = np.exp(heads[0][:, 0, None] @ heads[1].swapaxes(1, 2) / np.sqrt(width))[:, 0]
        expected = (scores / scores.sum(axis=-1, keepdims=True))[:, prefix:].reshape(shape.heads, rows, columns)
        np.testing.assert_allclose(maps[index].numpy(), expected, atol=1e-5)


def test_the_table_leaves_tokens_before_the_patches_alone() -> None:
    table = rotary_table((2, 3), 16, 5)
    assert table.shape == (5 + 6, 32)
    assert (table[:5, :16] == 0).all()
    assert (table[:5, 16:] == 1).all()
    middle = rotary_table((1, 1), 16, 0)  # of a single patch, which lies at (0, 0)
    assert (middle[:, :16] == 0).all()


@pytest.mark.parametrize("kind", SHAPES)
def test_all_maps_are_those_of_the_plain_way(kind: str) -> None:
    network, images = trained(SHAPES[kind]), torch.randn(2, 3, 24, 40)
    passed = single_pass(network, images)
    blocks = range(len(network.blocks))
    gradcams = gradcam_of_pass(network, passed)
    every = list(attention_of_blocks(network, images))
    for block in blocks:
        close(attention_of_pass(network, passed, block), attention_maps(network, images, block))
        close(every[block], attention_maps(network, images, block))
        close(gradcams[block], gradcam_maps(network, images, block))
        close(rollout_of_pass(network, passed, block), rollout_maps(network, images, block))
    close(patches_of_pass(network, passed), patch_features(network, images))


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one.detach(), other.detach(), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_any_image_size_and_what_is_left_over_of_a_patch() -> None:
    network, images = trained(SHAPES["bias"]), torch.randn(1, 3, 24, 40)
    tokens = network(images)
    assert (tokens.grid, tokens.patches.shape) == ((3, 5), (1, 15, 64))
    wider = torch.cat([images, torch.randn(1, 3, 24, 7)], dim=-1)
    torch.testing.assert_close(network(wider).feature, tokens.feature)
    torch.testing.assert_close(
        network.probe_features(images), torch.cat([tokens.feature, tokens.patches.mean(dim=1)], dim=1)
    )
    assert network.probe_dim == 128
    with pytest.raises(UserError, match="multiple of its patch of 8 px; 36 is not"):
        SHAPES["bias"].check(BackboneConfig("rotary", 36))


def test_recomputed_activations_give_the_same_gradients() -> None:
    network, images = trained(SHAPES["gated"]), torch.randn(2, 3, 16, 24)
    gradients: list[Tensor] = []
    for recomputed in (False, True):
        network.checkpoint_activations = recomputed
        network.zero_grad()
        network(images).patches.square().sum().backward()
        block: Any = network.net.blocks[0]
        gradients.append(block.attn.qkv.weight.grad.clone())
    torch.testing.assert_close(*gradients)


@pytest.fixture
def traced() -> Iterator[None]:
    """In a trace, sizes are symbols and no numbers, which the checks of types do not know."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("traced")
def test_a_traced_program_takes_any_size() -> None:
    network = trained(SHAPES["bias"])
    program = Program(network)
    traced = trace(program).module()
    check(program, lambda images: [output.numpy() for output in traced(torch.from_numpy(images))])


@torch.no_grad()
def test_a_convnext_has_no_attention_and_its_patches_are_normalised() -> None:
    torch.manual_seed(0)
    network = ConvNeXtShape((1, 1, 1, 1), 8).baseline().build(BackboneConfig("convnext", 64)).eval()
    images = torch.randn(2, 3, 64, 96)
    tokens = network(images)
    assert (tokens.grid, tokens.patches.shape) == ((2, 3), (2, 6, 64))
    torch.testing.assert_close(tokens.feature, network.net(images))
    torch.testing.assert_close(tokens.patches.mean(dim=-1), torch.zeros(2, 6), atol=1e-5, rtol=0)
    assert network.class_attention is None
    with pytest.raises(UserError, match="attention rollout needs attention blocks, and convnext has none"):
        rollout_maps(network, images)
