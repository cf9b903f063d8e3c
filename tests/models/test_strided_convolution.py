"""`dinoscope.models.strided_convolution`: the same convolution, and gradients over single cells that are written."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dinoscope.models.backbone import BackboneConfig, build_backbone
from dinoscope.models.layers import StridedConv2d


def layers(kernel: int) -> tuple[nn.Conv2d, StridedConv2d]:
    torch.manual_seed(0)
    plain = nn.Conv2d(16, 16, kernel, stride=2, padding=kernel // 2)
    return plain, StridedConv2d.like(plain)


@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (4, 6)])
@pytest.mark.parametrize("bf16", [False, True])
def test_it_is_the_same_convolution(kernel: int, size: tuple[int, int], bf16: bool) -> None:
    plain, strided = layers(kernel)
    images = torch.randn(2, 16, *size)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        torch.testing.assert_close(strided(images).float(), plain(images).float(), atol=0.05 if bf16 else 0, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (5, 1), (1, 5)])
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_gradients_on_the_padding_are_zero_in_bf16(size: tuple[int, int], form: torch.memory_format) -> None:
    _, strided = layers(3)
    images = torch.randn(8, 16, *size).to(memory_format=form)
    for _ in range(4):
        soil_memory()
        strided.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            strided(images).float().square().sum().backward()
        kernel = gradient(strided)  # [out, in, rows, columns]
        assert kernel.isfinite().all()
        assert kernel.abs().max() < 1e6
        if size[0] == 1:
            assert not kernel[:, :, [0, 2]].any()
        if size[1] == 1:
            assert not kernel[:, :, :, [0, 2]].any()
        assert kernel[:, :, 1, 1].any()


def test_every_strided_convolution_of_a_resnet_is_one() -> None:
    net = build_backbone(BackboneConfig("resnet18")).net
    strided = {name for name, part in net.named_modules() if isinstance(part, nn.Conv2d) and max(part.stride) > 1}
    ours = {name for name, part in net.named_modules() if isinstance(part, StridedConv2d)}
    assert ours == strided
    assert {"conv1", "layer4.0.conv1", "layer4.0.downsample.0"} <= ours
    assert all(not parameter.is_meta for parameter in net.parameters())


def test_replacing_draws_no_random_numbers() -> None:
    """Else the fresh weights of a head would be other ones than before."""
    plain, _ = layers(3)
    before = torch.get_rng_state()
    assert StridedConv2d.like(plain).weight is plain.weight
    assert torch.equal(torch.get_rng_state(), before)


def soil_memory() -> None:
    """Leave numbers that would be seen in freed memory of many sizes."""
    for size in (2**9, 2**11, 2**12, 2**14, 2**16):
        torch.full((size,), 1e20)


def gradient(layer: nn.Conv2d) -> Tensor:
    assert layer.weight.grad is not None
    return layer.weight.grad
