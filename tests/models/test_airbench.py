"""The network for minutes: its fixed first layer, first weights, and what activation checkpointing must not change."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dinoscope.models.airbench import Airbench, AirbenchBackbone, Block, haar_filters
from dinoscope.models.backbone import BackboneConfig, build_backbone


def micro(size: int = 32) -> AirbenchBackbone:
    torch.manual_seed(0)
    backbone = build_backbone(BackboneConfig("airbench_micro", image_size=size))
    assert isinstance(backbone, AirbenchBackbone)
    return backbone


def test_the_filters_are_orthonormal_and_one_alone_answers_to_grey() -> None:
    filters = haar_filters().flatten(1)
    torch.testing.assert_close(filters @ filters.T, torch.eye(12), atol=1e-6, rtol=0)
    answers = filters @ torch.full((12,), 0.5)
    assert (answers.abs() > 1e-6).sum() == 1


def test_the_stem_takes_out_correlations_of_colours_and_neighbours() -> None:
    generator = torch.Generator().manual_seed(0)
    grey = torch.randn(64, 1, 32, 32, generator=generator)
    smooth = nn.functional.avg_pool2d(grey, 5, stride=1, padding=2)
    images = 0.5 + smooth + 0.05 * torch.randn(64, 3, 32, 32, generator=generator)
    stem = Airbench((8, 8, 8)).stem.train()
    filtered = nn.functional.conv2d(images, stem.filters)
    cells = stem.norm(filtered).transpose(0, 1).flatten(1)

    def largest(rows: torch.Tensor) -> float:
        correlation = torch.corrcoef(rows)
        return float((correlation - torch.eye(len(correlation))).abs().max())

    pixels = nn.functional.unfold(images, 2).transpose(0, 1).flatten(1)
    assert largest(pixels) > 0.8
    assert largest(cells) < 0.1
    variance = filtered.var(dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(cells.var(dim=1, correction=0), variance / (variance + stem.norm.eps))


def test_a_convolution_starts_as_the_identity_of_its_first_channels() -> None:
    block = micro().net.blocks[1]
    assert isinstance(block, Block)
    layer = block.conv1
    cells = torch.randn(2, 32, 5, 5)
    torch.testing.assert_close(layer(cells)[:, :32], cells)
    assert float(layer.weight[32:].detach().std()) > 0.01


@pytest.mark.parametrize("side", [1, 2, 7, 8, 33])
def test_every_size_is_taken(side: int) -> None:
    tokens = micro().eval()(torch.randn(2, 3, side, 24))
    assert tokens.grid == (max(side // 8, 1), 3)
    assert tokens.feature.isfinite().all()


def test_recomputing_blocks_changes_neither_gradients_nor_statistics() -> None:
    plain, images = micro().train(), torch.randn(4, 3, 24, 24)
    saving = copy.deepcopy(plain)
    saving.checkpoint_activations = True
    for network in (plain, saving):
        network(images).feature.square().sum().backward()
    for (name, one), (_, other) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=name)
    for (name, one), (_, other) in zip(plain.named_buffers(), saving.named_buffers(), strict=True):
        torch.testing.assert_close(one, other, msg=name)
