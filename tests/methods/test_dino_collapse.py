"""Without one of DINO's two guards it collapses as its paper says (section 5.3, Fig. 7), and that is noticed."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dinoscope.methods.dino import DINO
from dinoscope.models.backbone import BackboneConfig
from dinoscope.training.config import OptimizerConfig
from tests.conformance import cases

LN_K = math.log(cases.DINO.out_dim)


def trained(data: Path, steps: int, **changes: object) -> tuple[DINO, dict[str, float]]:
    """The method after so many steps on the same two views of eight images, and the values of the last one."""
    config = cases.run_config(
        "dino",
        data,
        data / "run",
        method=replace(cases.DINO, **changes),
        views=replace(cases.VIEWS, num_local=0),
        optimizer=OptimizerConfig(learning_rate=4e-2, warmup_epochs=5),
        epochs=steps,
    )
    run = cases.trainer(config)
    views = next(run.batches())
    values = [run.make_step(views) for _ in range(steps)]
    return run.method, values[-1]


def test_sharpening_without_centring_ends_at_one_output(picture_folder, tmp_path) -> None:
    method, last = trained(picture_folder(8), 40, centering="none")
    assert last["teacher_entropy"] < 0.01 * LN_K
    assert last["teacher_marginal_entropy"] < 0.01 * LN_K
    assert last["kl_teacher_student"] < 0.05
    verdict = method.diagnose(last)
    assert verdict is not None
    assert verdict.kind == "one-hot collapse"
    assert "--method.centering center" in verdict.text


@pytest.mark.slow
def test_centring_without_sharpening_ends_at_the_uniform_output(picture_folder, tmp_path) -> None:
    method, last = trained(picture_folder(8), 110, teacher_temperature=0.1, warmup_teacher_temperature=0.1)
    assert last["teacher_entropy"] > 0.99 * LN_K
    assert last["kl_teacher_student"] < 0.05
    verdict = method.diagnose(last)
    assert verdict is not None
    assert verdict.kind == "uniform collapse"
    assert "--method.teacher-temperature below --method.student-temperature" in verdict.text


HEALTHY = {"teacher_marginal_entropy": 0.9 * LN_K, "teacher_entropy": 0.3 * LN_K, "cross_entropy": 0.5 * LN_K}


@pytest.mark.parametrize(
    ("changes", "values", "kind"),
    [
        ({}, HEALTHY, None),
        ({"loss": "kl"}, HEALTHY | {"cross_entropy": LN_K, "teacher_entropy": LN_K}, "uniform collapse"),
        ({"loss": "mse_softmax"}, HEALTHY | {"cross_entropy": LN_K, "teacher_entropy": LN_K}, "uniform collapse"),
        ({"centering": "softmax"}, HEALTHY | {"teacher_marginal_entropy": LN_K}, None),
        ({"centering": "none"}, HEALTHY | {"teacher_marginal_entropy": 0.01}, "one-hot collapse"),
        # an error of outputs knows no temperature: entropies say nothing of it, its own spread does
        ({"loss": "mse"}, HEALTHY | {"cross_entropy": LN_K, "teacher_entropy": LN_K, "output_spread": 0.5}, None),
        ({"loss": "mse"}, HEALTHY | {"teacher_marginal_entropy": 0.0, "output_spread": 0.5}, None),
        ({"loss": "mse"}, HEALTHY | {"output_spread": 0.001}, "complete collapse"),
    ],
)
def test_the_verdict_suits_the_settings(changes, values, kind) -> None:
    torch.manual_seed(0)
    verdict = DINO(replace(cases.DINO, **changes), BackboneConfig("vit_micro_conv8", 32)).diagnose(values)
    assert (verdict.kind if verdict else None) == kind


def test_advice_names_only_what_was_left_out() -> None:
    method = DINO(replace(cases.DINO, teacher="student"), BackboneConfig("vit_micro_conv8", 32))
    verdict = method.diagnose(HEALTHY | {"teacher_marginal_entropy": 0.01})
    assert verdict is not None
    assert "leave out what guards against it: --method.teacher ema." in verdict.text
    plain = DINO(cases.DINO, BackboneConfig("vit_micro_conv8", 32)).diagnose(
        HEALTHY | {"teacher_marginal_entropy": 0.01}
    )
    assert plain is not None
    assert "leave out" not in plain.text
