"""Sinkhorn-Knopp and KoLeo: golden parity, examples by hand, properties."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from dinoscope.losses.dino import koleo_loss
from dinoscope.losses.sinkhorn import sinkhorn

DATA = Path(__file__).parent.parent / "data"


def test_sinkhorn_equals_the_recorded_codes() -> None:
    golden = load_file(DATA / "golden_sinkhorn.safetensors")
    codes = sinkhorn(golden["swav.sinkhorn_input"], 0.05, 3)
    torch.testing.assert_close(codes, golden["swav.sinkhorn_output_eps0.05_iter3"], atol=1e-6, rtol=0)


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(2, 12), st.integers(2, 9))
def test_sinkhorn_uses_all_outputs_equally(seed: int, rows: int, columns: int) -> None:
    logits = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    shares = sinkhorn(logits, 0.5, iterations=300)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(rows, dtype=torch.float64))
    equal = torch.full((columns,), rows / columns, dtype=torch.float64)
    torch.testing.assert_close(shares.sum(dim=0), equal, atol=1e-4, rtol=0)


def test_sinkhorn_survives_large_logits() -> None:
    shares = sinkhorn(torch.tensor([[500.0, 0.0], [0.0, 500.0]]), 0.05)
    torch.testing.assert_close(shares, torch.eye(2))


def test_koleo_by_hand() -> None:
    """Unit vectors at 0, 90 and 180 degrees: every nearest neighbour is sqrt(2) away, whatever the lengths."""
    features = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-5.0, 0.0]])
    assert koleo_loss(features).item() == pytest.approx(-math.log(math.sqrt(2)), abs=1e-3)


def test_koleo_pushes_neighbours_apart() -> None:
    features = torch.nn.functional.normalize(torch.tensor([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.0]]), dim=-1)
    moving = features.clone().requires_grad_()
    koleo_loss(moving).backward()
    moved = torch.nn.functional.normalize(features - 0.01 * moving.grad, dim=-1)
    assert (moved[0] - moved[1]).norm() > (features[0] - features[1]).norm()


def test_koleo_is_finite_for_equal_features() -> None:
    features = torch.ones(4, 3, requires_grad=True)
    loss = koleo_loss(features)
    loss.backward()
    assert math.isfinite(loss.item())
    assert torch.isfinite(features.grad).all()
