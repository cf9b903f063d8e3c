"""DINO's head: the weight-normalised last layer without its weights is the one with them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dinoscope.models.heads import WeightNormLinear


def layer(*, train_scale: bool) -> tuple[WeightNormLinear, torch.Tensor]:
    torch.manual_seed(0)
    made = WeightNormLinear(5, 9, train_scale=train_scale).double()
    with torch.no_grad():
        made.weight_g.uniform_(0.5, 2.0)
    return made, torch.randn(4, 5, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("train_scale", [True, False])
def test_outputs_and_gradients_are_those_of_weights_that_were_made(train_scale: bool) -> None:
    """Salimans & Kingma 2016: w = g v / |v|, row by row."""
    made, x = layer(train_scale=train_scale)
    wanted = [x, *(parameter for parameter in made.parameters() if parameter.requires_grad)]
    plain = F.linear(x, made.weight_g * made.weight_v / made.weight_v.norm(dim=1, keepdim=True))
    ours, weights = made(x), torch.randn_like(plain)
    torch.testing.assert_close(ours, plain, atol=1e-12, rtol=1e-12)
    gradients = [torch.autograd.grad(result, wanted, weights) for result in (ours, plain)]
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=1e-12)


def test_under_autocast_outputs_are_bf16_and_gradients_those_of_fp32_within_its_precision() -> None:
    made, x = layer(train_scale=True)
    made, x = made.float(), x.detach().float().requires_grad_()
    wanted, results = [x, *made.parameters()], []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            outputs = made(x)
        assert outputs.dtype == (torch.bfloat16 if enabled else torch.float32)
        results.append(torch.autograd.grad(outputs.float().square().sum(), wanted))
    for exact, found in zip(*results, strict=True):
        assert found.dtype == torch.float32
        assert (found - exact).norm() < 0.02 * exact.norm()
