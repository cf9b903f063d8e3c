"""The learning rate's peak and its scaling with the batch size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dinoscope.recipes import run_config
from dinoscope.training.config import OptimizerConfig, RunConfig
from dinoscope.training.trainer import build_optimizer, set_schedules
from dinoscope.types import Step

DATA = Path(__file__).parent.parent / "data"


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


@pytest.mark.parametrize("weight_decay", [0.0, 1e-6])
@pytest.mark.parametrize("decayed", ["weights", "all"])
def test_lars_adapts_weights_whatever_their_decay_and_others_only_if_they_decay(weight_decay, decayed) -> None:
    """The first step of a weight is 0.001 of its length times the rate, in any direction and of any gradient."""
    settings = OptimizerConfig(
        "lars", 0.5, 0.5, 0, weight_decay, weight_decay, scaling="none", start_learning_rate=0.5, decayed=decayed
    )
    config = RunConfig(Path(), Path(), optimizer=settings)
    weight, bias, norm = (torch.nn.Parameter(torch.full(shape, 2.0)) for shape in ((3, 4), (4,), (4,)))
    named = [("net.weight", weight), ("net.bias", bias), ("norm.weight", norm)]
    optimizer = build_optimizer(config, named)
    set_schedules(optimizer, config, Step(0, 10, 10))
    before = [parameter.detach().clone() for _, parameter in named]
    for _, parameter in named:
        parameter.grad = torch.full_like(parameter, 100.0)
    optimizer.step()
    moved = [(parameter.detach() - old).norm() for (_, parameter), old in zip(named, before, strict=True)]
    assert float(moved[0]) == pytest.approx(0.5 * 0.001 * float(before[0].norm()), rel=1e-4)
    plain, adapted = 0.5 * 100 * 2, 0.5 * 0.001 * float(before[1].norm())
    assert [float(length) for length in moved[1:]] == pytest.approx(
        [adapted if decayed == "all" else plain] * 2, rel=1e-4
    )


def test_larc_makes_the_steps_of_emp_ssls_code() -> None:
    """Recorded from tsb0601/EMP-SSL 8fc3758 (lars.py around SGD); in the second step the rate is clipped."""
    golden = load_file(DATA / "golden_coding.safetensors")
    rates = json.loads((DATA / "golden_coding.json").read_text())["larc.rates"]
    settings = OptimizerConfig("larc", 0.3, 0.0, 0, 1e-4, 1e-4, scaling="none", trust=0.005)
    config = RunConfig(Path(), Path(), optimizer=settings)
    weight, bias = (torch.nn.Parameter(golden[f"larc.{name}0"].clone()) for name in ("weight", "bias"))
    optimizer = build_optimizer(config, [("net.weight", weight), ("net.bias", bias)])
    set_schedules(optimizer, config, Step(0, 10, 10))
    for step, rate in enumerate(rates):
        for group in optimizer.param_groups:
            group["lr"] = rate
        weight.grad, bias.grad = golden[f"larc.weight_gradient{step}"], golden[f"larc.bias_gradient{step}"]
        optimizer.step()
        torch.testing.assert_close(weight.detach(), golden[f"larc.weight{step + 1}"], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(bias.detach(), golden[f"larc.bias{step + 1}"], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("decayed", "names"),
    [
        ("weights", {"net.cls_token", "net.pos_embed", "head.weight"}),
        ("not_tokens", {"head.weight"}),
        ("all", {"net.cls_token", "net.pos_embed", "head.weight", "head.bias", "net.norm.weight"}),
    ],
)
def test_what_has_weight_decay(decayed, names) -> None:
    shapes = {
        "net.cls_token": (1, 1, 4), "net.pos_embed": (1, 5, 4), "head.weight": (3, 4), "head.bias": (3,),
        "net.norm.weight": (4,),
    }  # fmt: skip
    parameters = {name: torch.nn.Parameter(torch.ones(shape)) for name, shape in shapes.items()}
    settings = OptimizerConfig("sgd", 1.0, weight_decay=0.1, final_weight_decay=0.1, warmup_epochs=0, decayed=decayed)
    config = RunConfig(Path(), Path(), optimizer=settings)
    optimizer = build_optimizer(config, parameters.items())
    set_schedules(optimizer, config, Step(0, 10, 10))
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert {name for name, parameter in parameters.items() if (parameter < 1).all()} == names


def test_the_warm_up_rises_from_its_start() -> None:
    """SwAV's script at batch 4096: from 0.3 to 4.8, then to 0.0048."""
    config = run_config("swav_resnet50", Path(), Path())
    groups = build_optimizer(config, [("weight", torch.nn.Parameter(torch.zeros(2, 2)))])
    rates = [set_schedules(groups, config, Step(index, 8000, 10))["learning_rate"] for index in range(8000)]
    assert (rates[0], rates[99], rates[100]) == pytest.approx((0.3, 4.8, 4.8))
    assert rates[1] - rates[0] == pytest.approx(4.5 / 99)
    assert rates[-1] == pytest.approx(0.0048, abs=1e-5)
