"""Graphs of similar images against a plain double loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dinoscope.errors import UserError
from dinoscope.evaluation import graph
from dinoscope.evaluation.graph import Pairs, components, similar_pairs


def drawn(n: int, d: int, *, clusters: int, noise: float, seed: int = 0) -> torch.Tensor:
    """Features around few centres, of any length."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(clusters, d, generator=generator)
    near = centres[torch.randint(0, clusters, (n,), generator=generator)]
    lengths = torch.rand(n, 1, generator=generator) + 0.5
    return (near + noise * torch.randn(n, d, generator=generator)) * lengths


def by_loops(features: torch.Tensor, threshold: float, nearest: int) -> dict[tuple[int, int], float]:
    """The same pairs by definition, with Python's own numbers."""
    rows = [[value / math.hypot(*row) for value in row] for row in features.tolist()]
    cosines = [[sum(a * b for a, b in zip(one, two, strict=True)) for two in rows] for one in rows]
    pairs: dict[tuple[int, int], float] = {}
    for i, own in enumerate(cosines):
        others = sorted((j for j in range(len(rows)) if j != i), key=lambda j: -own[j])
        for j in others[:nearest]:
            if own[j] >= threshold:
                pairs[min(i, j), max(i, j)] = own[j]
    return pairs


def as_dict(pairs: Pairs) -> dict[tuple[int, int], float]:
    return {(i, j): c for i, j, c in zip(*(values.tolist() for values in pairs), strict=True)}


@pytest.mark.parametrize("nearest", [1, 3, 64])
@pytest.mark.parametrize("threshold", [-1.0, 0.3, 0.9])
def test_pairs_equal_those_of_a_double_loop(threshold: float, nearest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "_STRIP", 7)
    features = drawn(40, 6, clusters=5, noise=0.3)
    pairs, expected = similar_pairs(features, threshold, nearest=nearest), by_loops(features, threshold, nearest)
    found = as_dict(pairs)
    assert expected
    assert found.keys() == expected.keys()
    assert max(abs(found[pair] - expected[pair]) for pair in expected) < 1e-6
    assert list(found) == sorted(found)
    assert (pairs.left < pairs.right).all()


def test_against_others_each_image_keeps_its_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "_STRIP", 4)
    ours, theirs = drawn(10, 6, clusters=3, noise=0.3), drawn(15, 6, clusters=3, noise=0.3, seed=0)
    cosines = torch.nn.functional.cosine_similarity(ours[:, None].double(), theirs[None].double(), dim=2)
    expected = {
        (i, j)
        for i in range(10)
        for j in sorted(range(15), key=lambda j: -cosines[i, j].item())[:2]
        if cosines[i, j] >= 0.5
    }
    pairs = similar_pairs(ours, 0.5, others=theirs, nearest=2)
    assert set(as_dict(pairs)) == expected
    assert any(i > j for i, j in expected)


def test_pairs_do_not_depend_on_threads() -> None:
    features, threads = drawn(5000, 16, clusters=50, noise=0.2), torch.get_num_threads()
    results: list[Pairs] = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            results.append(similar_pairs(features, 0.9, nearest=5))
    finally:
        torch.set_num_threads(threads)
    assert all(np.array_equal(one, two) for one, two in zip(*results, strict=True))
    assert len(results[0].left) > 5000


def test_progress_ends_at_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "_STRIP", 4)
    calls: list[tuple[int, int]] = []
    similar_pairs(drawn(10, 3, clusters=2, noise=0.1), 0.5, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(4, 10), (8, 10), (10, 10)]


def test_equal_images_beyond_the_nearest_are_one_group() -> None:
    features = torch.cat([torch.ones(100, 4), -torch.ones(3, 4)])
    pairs = similar_pairs(features, 0.99, nearest=64)
    assert components(103, pairs.left, pairs.right).tolist() == [0] * 100 + [100] * 3


@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_images_have_no_pairs(rows: int) -> None:
    pairs = similar_pairs(torch.ones(rows, 4), 0.5)
    assert len(pairs.left) == len(pairs.right) == len(pairs.cosine) == 0
    assert components(rows, pairs.left, pairs.right).tolist() == list(range(rows))


@pytest.mark.parametrize(("threshold", "nearest"), [(1.5, 64), (float("nan"), 64), (0.5, 0)])
def test_settings_out_of_range_are_refused(threshold: float, nearest: int) -> None:
    with pytest.raises(UserError):
        similar_pairs(torch.ones(4, 4), threshold, nearest=nearest)


def test_a_group_is_named_by_its_smallest_image() -> None:
    left, right = np.array([1, 3, 2, 5]), np.array([4, 4, 6, 6])
    assert components(8, left, right).tolist() == [0, 1, 2, 1, 1, 2, 2, 7]
