"""What is particular to VICReg and Barlow Twins: the head, the signs of collapse, the published settings, refusals."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from dinoscope.data.views import ViewsConfig
from dinoscope.errors import UserError
from dinoscope.methods import build_method
from dinoscope.methods.barlow import BarlowConfig
from dinoscope.methods.health import participation_ratio
from dinoscope.methods.method import MethodConfig
from dinoscope.methods.vicreg import VICRegConfig
from dinoscope.models.backbone import BackboneConfig
from dinoscope.recipes import run_config
from dinoscope.training.config import OptimizerConfig, RunConfig, check
from dinoscope.types import Step, Views

VIT = BackboneConfig("vit_micro_conv8", image_size=32)
START = Step(0, 10, 5)
SMALL = {"hidden_dim": 16, "projection_dim": 8}
BOTH = (VICRegConfig, BarlowConfig)
HEALTHY = {"embedding_deviation": 0.9, "embedding_spread": 0.8, "participation_ratio": 30.0}


def views(batch: int = 6, num_global: int = 2) -> Views:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (num_global, batch, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return Views(images, None, torch.arange(batch))


@pytest.mark.parametrize("kind", BOTH)
def test_the_head_is_that_of_the_papers(kind) -> None:
    """Three linear maps, batch norm and ReLU after the first two, no bias at the end."""
    head = build_method(kind(**SMALL), VIT).get_submodule("head")
    linear, norm = nn.Linear, nn.BatchNorm1d
    assert [type(part) for part in head.children()] == [linear, norm, nn.ReLU, linear, norm, nn.ReLU, linear]
    assert [part.bias for part in head.children() if isinstance(part, linear)] == [None] * 3


def test_vicreg_weighs_its_terms() -> None:
    torch.manual_seed(0)
    method = build_method(VICRegConfig(**SMALL, invariance=3, variance=5, covariance=7), VIT)
    output = method.loss(method.encode(views()), START)
    terms = [float(output.logged[name]) for name in ("invariance", "variance", "covariance")]
    assert output.loss.item() == pytest.approx(3 * terms[0] + 5 * terms[1] + 7 * terms[2], rel=1e-5)
    assert min(terms) > 0


def test_barlow_twins_weighs_its_terms() -> None:
    torch.manual_seed(0)
    method = build_method(BarlowConfig(**SMALL, off_diagonal=0.5, scale=0.25), VIT)
    output = method.loss(method.encode(views()), START)
    terms = [float(output.logged[name]) for name in ("on_diagonal", "off_diagonal")]
    assert output.loss.item() == pytest.approx(0.25 * (terms[0] + 0.5 * terms[1]), rel=1e-5)
    assert min(terms) > 0


@pytest.mark.parametrize("kind", BOTH)
def test_local_views_are_not_paired_with_each_other(kind) -> None:
    """Two equal local views: the mean over one pair of globals and four with a local, as with one over three."""
    method = build_method(kind(**SMALL), VIT)
    draw = torch.Generator().manual_seed(0)
    of_global, local = torch.randn(2, 6, 8, generator=draw), torch.randn(1, 6, 8, generator=draw)

    def loss(locals_: torch.Tensor) -> torch.Tensor:
        return method.loss({"projection": of_global, "local_projection": locals_}, START).loss

    without, one, two = (loss(local.repeat(count, 1, 1)) for count in (0, 1, 2))
    torch.testing.assert_close(5 * two, without + 2 * (3 * one - without))


@pytest.mark.parametrize(
    ("kind", "values", "verdict"),
    [
        (VICRegConfig, {}, None),
        (VICRegConfig, {"embedding_deviation": 0.01}, "complete collapse"),
        (VICRegConfig, {"embedding_spread": 0.01}, "complete collapse"),
        (VICRegConfig, {"participation_ratio": 1.2}, "dimensional collapse"),
        (BarlowConfig, {}, None),
        (BarlowConfig, {"embedding_spread": 0.01}, "complete collapse"),
        (BarlowConfig, {"participation_ratio": 1.2}, "dimensional collapse"),
    ],
)
def test_collapse_is_reported(kind: type[MethodConfig], values: dict[str, float], verdict: str | None) -> None:
    found = build_method(kind(**SMALL), VIT).diagnose(HEALTHY | values)
    assert (found and found.kind) == verdict


@pytest.mark.parametrize("kind", BOTH)
def test_what_diagnosis_reads_is_logged(kind) -> None:
    method = build_method(kind(**SMALL), VIT)
    output = method.loss(method.encode(views()), START)
    logged = {**output.logged, **method.health(output.statistics)}
    assert method.diagnose({name: float(value) for name, value in logged.items()}) is None


def test_participation_ratio_by_hand() -> None:
    """Eigenvalues 9 and 1: 10^2 / 82. Equal ones count fully; the mean does not count; scale does not matter."""
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert float(participation_ratio(corners * torch.tensor([3.0, 1.0]) + 5)) == pytest.approx(100 / 82, rel=1e-5)
    assert float(participation_ratio(corners)) == pytest.approx(2)
    assert float(participation_ratio(torch.outer(torch.arange(4.0), torch.ones(6)))) == pytest.approx(1, rel=1e-5)
    assert float(participation_ratio(torch.ones(4, 3))) == 0


def test_participation_ratio_is_that_of_the_eigenvalues() -> None:
    draw = torch.Generator().manual_seed(0)
    for shape in ((20, 5), (5, 20)):
        rows = torch.randn(shape, generator=draw, dtype=torch.float64) + 3
        eigenvalues = torch.linalg.eigvalsh(torch.cov(rows.T))
        wanted = eigenvalues.sum().square() / eigenvalues.square().sum()
        torch.testing.assert_close(participation_ratio(rows), wanted)


def test_the_recipes_are_the_released_codes() -> None:
    """Read at facebookresearch/vicreg 4e12602 and facebookresearch/barlowtwins 8e8d284."""
    vicreg, barlow = (run_config(f"{name}_resnet50", Path("d"), Path("o")) for name in ("vicreg", "barlow"))
    assert (vicreg.method.invariance, vicreg.method.variance, vicreg.method.covariance) == (25, 25, 1)
    assert (barlow.method.off_diagonal, barlow.method.scale) == (0.0051, 1)
    for config in (vicreg, barlow):
        assert (config.method.hidden_dim, config.method.projection_dim, config.method.head_layers) == (8192, 8192, 3)
        assert (config.batch_size, config.epochs, config.zero_init_residual) == (2048, 1000, True)
        optimizer, shown = config.optimizer, config.views
        assert (optimizer.name, optimizer.weight_decay, optimizer.decayed) == ("lars", 1e-6, "weights")
        assert optimizer.final_weight_decay == optimizer.weight_decay
        assert optimizer.peak(config.batch_size) == pytest.approx(1.6)
        assert optimizer.min_learning_rate == pytest.approx(0.001 * 1.6)
        assert (optimizer.warmup_epochs, optimizer.start_learning_rate, optimizer.clip) == (10, 0, 0)
        assert (shown.num_global, shown.num_local, shown.global_scale) == (2, 0, (0.08, 1.0))
        assert (shown.blur_probability[:2], shown.solarize_probability[:2]) == ((1.0, 0.1), (0.0, 0.2))
        assert (shown.brightness, shown.contrast, shown.saturation, shown.hue) == (0.4, 0.4, 0.2, 0.1)


TWO = ViewsConfig(num_local=0, global_size=32)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 1}, "--batch-size must be 2 or more"),
        ({"views": replace(TWO, num_global=1)}, "must add up to 2 or more"),
    ],
)
def test_settings_that_do_not_fit_are_refused(kind, changes, message) -> None:
    optimizer = OptimizerConfig(warmup_epochs=0, min_learning_rate=0)
    config = RunConfig(Path(), Path(), backbone="vit_micro_conv8", views=TWO, batch_size=8, optimizer=optimizer)
    with pytest.raises(UserError, match=message):
        check(replace(config, method=kind(), **changes, epochs=2), images=64, processes=1)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (VICRegConfig, {"invariance": -1.0}),
        (VICRegConfig, {"projection_dim": 0}),
        (BarlowConfig, {"scale": 0.0}),
        (BarlowConfig, {"off_diagonal": -0.1}),
        (BarlowConfig, {"head_layers": 0}),
    ],
)
def test_impossible_settings_are_refused(kind, wrong) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        kind(**wrong)


@pytest.mark.parametrize("kind", BOTH)
def test_bfloat16_outputs_have_statistics_in_float32(kind) -> None:
    method = build_method(kind(**SMALL), VIT)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = method.encode(views())
    assert outputs["projection"].dtype == torch.bfloat16
    loss = method.loss(outputs, START).loss
    exact = method.loss({name: value.double() for name, value in outputs.items()}, START).loss
    assert loss.dtype == torch.float32
    assert math.isclose(float(loss), float(exact), rel_tol=1e-5)
