"""The learning rate's peak and its scaling with the batch size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dinoscope.training.config import OptimizerConfig, RunConfig
from dinoscope.training.optim import build_optimizer, set_schedules
from dinoscope.types import Step


@pytest.mark.parametrize(
    ("scaling", "batch", "factor"),
    [
        ("linear", 256, 1), ("sqrt", 256, 1), ("none", 256, 1),
        ("linear", 1024, 4), ("sqrt", 1024, 2), ("none", 1024, 1),
        ("linear", 64, 1 / 4), ("sqrt", 64, 1 / 2), ("none", 64, 1),
    ],
)  # fmt: skip
def test_the_peak_follows_the_batch_by_the_rule(scaling: str, batch: int, factor: float) -> None:
    """The last step of the warm-up stands at the peak; the end of the cosine is not scaled."""
    optimizer = OptimizerConfig(learning_rate=0.1, min_learning_rate=1e-3, scaling=scaling, warmup_epochs=1)  # pyright: ignore
    config = RunConfig(Path(), Path(), optimizer=optimizer, batch_size=batch)
    groups = build_optimizer(config, [("weight", torch.nn.Parameter(torch.zeros(2, 2)))])
    rates = [set_schedules(groups, config, Step(index, 1000, 10))["learning_rate"] for index in range(1000)]
    assert max(rates) == rates[9] == pytest.approx(0.1 * factor)
    assert groups.param_groups[0]["lr"] == rates[-1] == pytest.approx(1e-3, abs=1e-5)


def test_linear_is_what_it_was() -> None:
    assert OptimizerConfig().scaling == "linear"
    assert OptimizerConfig().peak(1024) == 5e-4 * 1024 / 256
