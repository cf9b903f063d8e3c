"""Entropy and agreement of heads, by hand and at their ends."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dinoscope.errors import UserError
from dinoscope.explain.attention import entropy, mask_overlap, pair_agreement


def head(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, -1)


def test_entropy_by_hand() -> None:
    maps = torch.stack([head(1, 1, 1, 1), head(0, 3, 0, 0), head(0.2, 0.2, 0, 0), head(0, 0, 0, 0)])
    torch.testing.assert_close(entropy(maps), torch.tensor([1, 0, 0.5, 1], dtype=torch.float64))
    assert entropy(head(0.5, 0.25, 0.125, 0.125)).item() == pytest.approx(1.75 / 2)  # bits, of two
    assert entropy(torch.ones(1, 1)).item() == 1


def test_agreement_by_hand() -> None:
    alike, apart = head(0.2, 0.6, 0.2, 0), head(0, 0, 0, 5)
    assert pair_agreement(torch.stack([alike, 3 * alike])).item() == pytest.approx(1)
    assert pair_agreement(torch.stack([alike, apart])).item() == pytest.approx(0)
    # (1/2, 1/2, 0, 0) and (0, 1/2, 1/2, 0): their middle has 1.5 bits, each of them 1: a divergence of half a bit
    halves = torch.stack([head(1, 1, 0, 0), head(0, 1, 1, 0)])
    assert pair_agreement(halves).item() == pytest.approx(0.5)
    three = torch.stack([alike, alike, apart])  # pairs: 1, 0, 0
    assert pair_agreement(three).item() == pytest.approx(1 / 3)


def test_overlap_by_hand() -> None:
    maps = torch.stack([head(5, 4, 1, 0), head(0, 6, 3, 1)])  # 0.6 of the mass: patches 0 and 1; patch 1
    assert mask_overlap(maps, 0.6).item() == 0.5
    assert mask_overlap(maps, 0.9).item() == pytest.approx(1 / 3)  # 0, 1; 1, 2
    assert mask_overlap(torch.zeros(2, 1, 4), 0.6).item() == 1  # two empty masks agree


@given(st.integers(2, 5), st.integers(1, 6), st.integers(0, 2**31))
def test_within_bounds_and_blind_to_the_order_of_heads_and_patches(heads: int, patches: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(3, heads, 2, patches, generator=generator)
    spread, agreement = entropy(maps), pair_agreement(maps)
    assert ((spread >= 0) & (spread <= 1 + 1e-12)).all()
    assert ((agreement >= 0) & (agreement <= 1)).all()
    torch.testing.assert_close(pair_agreement(maps.flip(1, 3)), agreement)
    torch.testing.assert_close(entropy(7 * maps.flip(2)), spread)


def test_one_head_agrees_with_nothing() -> None:
    for score in (pair_agreement, lambda maps: mask_overlap(maps, 0.6)):
        with pytest.raises(UserError, match="two heads or more"):
            score(torch.ones(1, 2, 2))


def test_entropy_is_in_nats_before_it_is_divided() -> None:
    assert entropy(head(1, 1, 0, 0)).item() * math.log(4) == pytest.approx(math.log(2))
