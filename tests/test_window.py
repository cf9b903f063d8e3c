"""One step of label propagation: equal to the plain computation over all pairs of cells, and to the reference."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize

from dinoscope.errors import UserError
from dinoscope.evaluation.propagation import PropagationConfig, _tile_side, propagate_labels

GOLDEN = Path(__file__).parent / "data" / "golden_propagation.safetensors"


def plain(target: Tensor, sources: Tensor, labels: Tensor, config: PropagationConfig) -> Tensor:
    """Cell by cell: sort what is in the window, keep what reaches the k-th, average."""
    rows, columns = labels.shape[-2:]
    radius = max(rows, columns) if config.radius is None else config.radius
    result = torch.zeros(labels.shape[1:], dtype=torch.float64)
    for row in range(rows):
        for column in range(columns):
            pairs = [
                (
                    float(source[r * columns + c].double() @ target[row * columns + column].double()),
                    label[:, r, c].double(),
                )
                for source, label in zip(sources, labels, strict=True)
                for r in range(max(0, row - radius), min(rows, row + radius + 1))
                for c in range(max(0, column - radius), min(columns, column + radius + 1))
            ]
            ranked = sorted((similarity for similarity, _ in pairs), reverse=True)
            least = ranked[min(config.top_k, len(ranked)) - 1] - 1e-12
            kept = [(math.exp(s / config.temperature), label) for s, label in pairs if s >= least]
            result[:, row, column] = sum(w * label for w, label in kept) / sum(w for w, _ in kept)
    return result.float()


def example(
    rows: int, columns: int, frames: int = 3, width: int = 8, labels: int = 3, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Frames that are noisy pictures of one scene, and any labels."""
    generator = torch.Generator().manual_seed(seed)
    scene = torch.randn(rows * columns, width, generator=generator)
    target = normalize(scene + torch.randn(scene.shape, generator=generator), dim=-1)
    sources = normalize(scene + torch.randn(frames, *scene.shape, generator=generator), dim=-1)
    return target, sources, torch.rand(frames, labels, rows, columns, generator=generator).softmax(dim=1)


@pytest.mark.parametrize("max_bytes", [1, 20_000, 150_000, 2**28])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 7), (9, 2), (11, 17), (16, 9)])
def test_windows_in_tiles_equal_the_plain_computation(rows: int, columns: int, max_bytes: int) -> None:
    config = PropagationConfig(radius=3, max_bytes=max_bytes)
    inputs = example(rows, columns)
    torch.testing.assert_close(propagate_labels(*inputs, config), plain(*inputs, config), atol=1e-6, rtol=1e-5)


@settings(max_examples=25)
@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    frames=st.integers(1, 4),
    radius=st.one_of(st.none(), st.integers(0, 5)),
    top_k=st.integers(1, 12),
    temperature=st.sampled_from([0.01, 0.1, 1.0]),
    max_bytes=st.sampled_from([1, 10_000, 2**28]),
    seed=st.integers(0, 100),
)
def test_any_setting_equals_the_plain_computation(
    rows: int,
    columns: int,
    frames: int,
    radius: int | None,
    top_k: int,
    temperature: float,
    max_bytes: int,
    seed: int,
) -> None:
    config = PropagationConfig(radius=radius, top_k=top_k, temperature=temperature, max_bytes=max_bytes)
    inputs = example(rows, columns, frames, seed=seed)
    torch.testing.assert_close(propagate_labels(*inputs, config), plain(*inputs, config), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("max_bytes", [1, 2**28])
def test_cells_that_are_tied_with_the_last_that_counts_count_too(max_bytes: int) -> None:
    """Features of few kinds: most similarities are equal, within a place's frames and between places."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.eye(4)
    target = kinds[torch.randint(4, (70,), generator=generator)]
    sources = kinds[torch.randint(4, (3, 70), generator=generator)]
    labels = torch.rand(3, 2, 7, 10, generator=generator)
    config = PropagationConfig(radius=2, max_bytes=max_bytes)
    torch.testing.assert_close(
        propagate_labels(target, sources, labels, config), plain(target, sources, labels, config)
    )


def test_where_all_features_are_equal_a_cell_gets_the_mean_of_its_window() -> None:
    features = normalize(torch.ones(3, 25, 4), dim=-1)
    labels = torch.zeros(2, 1, 5, 5)
    labels[1, 0, 0, 0] = 1.0
    result = propagate_labels(features[0], features[1:], labels, PropagationConfig(radius=1))
    assert result[0, 0, 0] == pytest.approx(1 / (2 * 4))  # in the corner 2 x 2 cells of 2 frames
    assert result[0, 1, 1] == pytest.approx(1 / (2 * 9))
    assert result[0, 2:].abs().max() == 0
    assert result[0, :, 2:].abs().max() == 0


def test_a_label_beyond_the_radius_is_not_reached_however_similar() -> None:
    """One cell looks like the target cell exactly, two columns away."""
    target, sources = torch.eye(5)[:, :5], torch.zeros(1, 5, 5)
    sources[0, 0] = target[2]
    labels = torch.zeros(1, 1, 1, 5)
    labels[0, 0, 0, 0] = 1.0
    assert propagate_labels(target, sources, labels, PropagationConfig(radius=1))[0, 0, 2] == 0
    near = propagate_labels(target, sources, labels, PropagationConfig(radius=2, top_k=1))
    assert near[0, 0, 2] == pytest.approx(1.0)


def test_a_very_low_temperature_is_the_nearest_neighbour_and_not_infinite() -> None:
    target, sources, labels = example(6, 6)
    cold = propagate_labels(target, sources, labels, PropagationConfig(radius=2, temperature=1e-6))
    first = propagate_labels(target, sources, labels, PropagationConfig(radius=2, top_k=1))
    torch.testing.assert_close(cold, first)


def test_equal_to_the_reference() -> None:
    """`label_propagation` of the reference, radius 2, on recorded features (6 x 9 cells, 3 frames, 3 labels)."""
    golden = load_file(GOLDEN)
    target, sources = normalize(golden["target"], dim=-1), normalize(golden["sources"], dim=-1)
    for max_bytes in (1, 2**28):
        config = PropagationConfig(radius=2, max_bytes=max_bytes)
        result = propagate_labels(target, sources, golden["labels"], config)
        torch.testing.assert_close(result, golden["prediction"], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"radius": -1}, "radius must be at least 0"),
        ({"context": -1}, "context"),
        ({"max_bytes": 0}, "max_bytes"),
        ({"size": 0}, "size"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"temperature": float("nan")}, "temperature"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, float], said: str) -> None:
    with pytest.raises(UserError, match=said):
        propagate_labels(*example(2, 2), replace(PropagationConfig(), **changes))


@pytest.mark.gpu
def test_the_same_on_a_gpu() -> None:
    inputs = example(20, 30)
    there = propagate_labels(*(each.cuda() for each in inputs), PropagationConfig())
    torch.testing.assert_close(there.cpu(), propagate_labels(*inputs, PropagationConfig()), atol=1e-4, rtol=1e-3)


def test_less_memory_gives_smaller_tiles() -> None:
    sides = [_tile_side((60, 104), 12, 8, budget) for budget in (1, 10**6, 3 * 10**6, 2**28)]
    assert sides == sorted(sides)
    assert sides[0] == 1
    assert sides[-1] == 8
    assert len(set(sides)) > 2
