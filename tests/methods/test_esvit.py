"""What is particular to EsViT: the loss of regions, its head and centre, DINO without it, and Swin Transformers."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dinoscope.losses.esvit import best_matches, region_loss
from dinoscope.methods import method_name
from dinoscope.methods.dino import DINOConfig
from dinoscope.methods.esvit import EsViT, EsViTConfig
from dinoscope.models.backbone import BackboneConfig
from dinoscope.training.config import OptimizerConfig
from dinoscope.types import Step
from tests.conformance import cases
from tests.conformance.test_methods import states_differ

DATA = Path(__file__).parents[1] / "data"
HEAD: dict[str, Any] = {"out_dim": 24, "hidden_dim": 16, "bottleneck_dim": 8, "freeze_last_layer_epochs": 0}
SMALL = EsViTConfig(**HEAD)
SWIN = BackboneConfig("swin_micro", image_size=32)


# The loss


def test_loss_gradients_and_centres_equal_the_authors_code() -> None:
    golden = json.loads((DATA / "golden_esvit.json").read_text())["esvit"]
    tensors = {
        name.removeprefix("esvit."): value for name, value in load_file(DATA / "golden_esvit.safetensors").items()
    }
    config = replace(SMALL, out_dim=golden["outputs"], teacher_temperature=0.07, warmup_teacher_temperature_epochs=4)
    method = EsViT(config, SWIN)
    method.center.copy_(tensors["center"][0])
    method.region_center.copy_(tensors["region_center"][0])
    of_views, of_regions = (-1, golden["images"]), (-1, golden["images"], golden["regions"])
    of_local = (-1, golden["images"], golden["local_regions"])
    outputs = {
        "student": tensors["student"].unflatten(0, of_views).requires_grad_(),
        "teacher": tensors["teacher"].unflatten(0, of_views),
        "regions": tensors["regions"].unflatten(0, of_regions).requires_grad_(),
        "local_regions": tensors["local_regions"].unflatten(0, of_local).requires_grad_(),
        "teacher_regions": tensors["teacher_regions"].unflatten(0, of_regions),
        "region_features": tensors["features"].unflatten(0, of_regions),
        "local_region_features": tensors["local_features"].unflatten(0, of_local),
        "teacher_region_features": tensors["teacher_features"].unflatten(0, of_regions),
    }
    step = Step(2 * 5, 50, 5)
    assert method.temperature(step) == pytest.approx(golden["teacher_temperature"])
    output = method.loss(outputs, step)
    output.loss.backward()
    assert output.loss.item() == pytest.approx(golden["loss"], abs=1e-5)
    for name in ("student", "regions", "local_regions"):
        gradient = outputs[name].grad
        assert gradient is not None
        shaped = tensors[f"{name}_grad"].unflatten(0, outputs[name].shape[:-1])
        torch.testing.assert_close(gradient, shaped, atol=1e-6, rtol=1e-4)
    method.after_step(step, output)
    torch.testing.assert_close(method.center, tensors["center_after"][0], atol=1e-6, rtol=0)
    torch.testing.assert_close(method.region_center, tensors["region_center_after"][0], atol=1e-6, rtol=0)


def test_the_best_match_by_hand() -> None:
    """By the angle, not the length; the first of equal ones; two regions may have the same."""
    student = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.1]])
    teacher = torch.tensor([[0.0, 9.0], [3.0, 0.0], [2.0, 0.0]])
    # cosines: 0, 1, 1; 0.8, 0.6, 0.6; about 0.1, -1, -1
    assert best_matches(student, teacher).tolist() == [1, 0, 0]


def test_the_loss_of_regions_by_loops() -> None:
    torch.manual_seed(0)
    counts, images, outputs, width = (4, 4, 2), 3, 5, 6
    student = [torch.randn(images, count, outputs, dtype=torch.float64) for count in counts]
    features = [torch.randn(images, count, width, dtype=torch.float64) for count in counts]
    teacher = torch.randn(2, images, 4, outputs, dtype=torch.float64).softmax(dim=-1)
    teacher_features = torch.randn(2, images, 4, width, dtype=torch.float64)
    pairs: list[float] = []
    for view, count in enumerate(counts):
        for other in range(2):
            if other == view:
                continue
            terms = list[float]()
            for image in range(images):
                for region in range(count):
                    own = features[view][image, region]
                    cosines = [float(own @ row / (own.norm() * row.norm())) for row in teacher_features[other, image]]
                    target = teacher[other, image, cosines.index(max(cosines))]
                    share = (student[view][image, region] / 0.2).softmax(dim=0)
                    terms.append(-sum(float(p) * math.log(float(q)) for p, q in zip(target, share, strict=True)))
            pairs.append(sum(terms) / len(terms))
    assert len(pairs) == 4
    ours = region_loss(student, features, teacher, teacher_features, 0.2)
    assert ours.item() == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


# Its parts


def state(method: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in method.state_dict().items() if "region" not in name}


@pytest.mark.parametrize("backbone", ["swin_micro", "vit_micro_conv8", "resnet_micro"])
def test_without_the_loss_of_regions_it_is_dino(backbone: str, picture_folder, tmp_path) -> None:
    data, changes = picture_folder(16), {"backbone": backbone, "drop_path": 0.1}
    dino, esvit, regions = [
        cases.trainer(cases.run_config("dino", data, tmp_path / "run", method=method, **changes))
        for method in (DINOConfig(**HEAD), EsViTConfig(**HEAD, view_weight=1.0, region_weight=0.0), SMALL)
    ]
    assert method_name(esvit.config.method) == "esvit"
    assert states_differ(dino.method.state_dict(), state(regions.method)) == []  # the same first weights
    batches = dino.batches()
    for _ in range(3):
        views = next(batches)
        ours, theirs = esvit.make_step(views), dino.make_step(views)
        assert {name: ours[name] for name in theirs} == theirs
    assert states_differ(dino.method.state_dict(), esvit.method.state_dict()) == []


def test_both_heads_follow_and_are_held(picture_folder, tmp_path) -> None:
    config = cases.run_config(
        "esvit", picture_folder(8), tmp_path / "run", method=replace(SMALL, freeze_last_layer_epochs=1)
    )
    trainer = cases.trainer(config)
    method = trainer.method
    assert isinstance(method, EsViT)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    trainer.make_step(next(trainer.batches()))
    changed = {name for name, value in method.state_dict().items() if not torch.equal(value, before[name])}
    for head in ("student_head", "student_region_head"):
        assert f"{head}.mlp.0.weight" in changed
        assert f"{head}.last_layer.weight_v" not in changed
    for name in ("teacher_region_head.mlp.0.weight", "region_center", "center"):
        assert name in changed
    assert not torch.equal(method.region_center, method.center)


def test_collapse_of_the_regions_alone_is_reported() -> None:
    method, uniform = EsViT(SMALL, SWIN), math.log(SMALL.out_dim)
    healthy = {"teacher_marginal_entropy": 2.0, "cross_entropy": 2.0, "teacher_entropy": 1.0}
    regions = {"region_marginal_entropy": 2.0, "region_cross_entropy": 2.0, "region_teacher_entropy": 1.0}
    assert method.diagnose(healthy | regions) is None
    one = method.diagnose(healthy | regions | {"region_marginal_entropy": 0.0})
    assert one is not None
    assert one.kind == "one-hot collapse of regions"
    stuck = method.diagnose(healthy | regions | {"region_cross_entropy": uniform, "region_teacher_entropy": uniform})
    assert stuck is not None
    assert stuck.kind == "uniform collapse of regions"
    views = method.diagnose(healthy | regions | {"teacher_marginal_entropy": 0.0})
    assert views is not None
    assert views.kind == "one-hot collapse"


def test_settings_that_regions_do_not_have_are_refused() -> None:
    refused: list[dict[str, Any]] = [{"loss": "mse"}, {"predictor": "mlp"}]
    for changes in refused:
        with pytest.raises(ValueError, match="region_weight 0"):
            EsViTConfig(**changes)
        EsViTConfig(**changes, region_weight=0.0)
    with pytest.raises(ValueError, match="region_weight must be at least 0"):
        EsViTConfig(region_weight=-1.0)


# On a Swin Transformer: the conformance suite runs a ViT


@pytest.mark.parametrize("name", ["esvit", "esvit-sinkhorn"])
def test_accumulation_equals_the_large_batch_on_a_swin(name: str, picture_folder, tmp_path) -> None:
    data = picture_folder(8)
    whole, cut = [
        cases.trainer(
            cases.run_config(name, data, tmp_path / "run", backbone="swin_micro", drop_path=0.0, accumulate=parts),
            double=True,
        )
        for parts in (1, 2)
    ]
    for views in whole.batches():
        assert cut.make_step(views) == pytest.approx(whole.make_step(views), abs=1e-9)
    assert states_differ(whole.method.state_dict(), cut.method.state_dict(), tolerance=1e-8) == []


def test_a_resumed_run_on_a_swin_is_the_same_to_the_bit(picture_folder, tmp_path) -> None:
    config = cases.run_config("esvit", picture_folder(16), tmp_path / "run", backbone="swin_micro", drop_path=0.2)
    trainer = cases.trainer(config)
    batches = trainer.batches()
    trainer.make_step(next(batches))
    trainer.save(tmp_path / "step.safetensors")
    restored = cases.trainer(config)
    restored.restore(tmp_path / "step.safetensors")
    again = restored.batches()
    for _ in range(2):
        trainer.make_step(next(batches))
        restored.make_step(next(again))
    assert states_differ(trainer.method.state_dict(), restored.method.state_dict()) == []


@pytest.mark.slow
def test_a_swin_learns_eight_images_by_heart(picture_folder, tmp_path) -> None:
    config = cases.run_config(
        "esvit",
        picture_folder(8),
        tmp_path / "run",
        method=cases.OVERFITTING["esvit"],
        backbone="swin_micro",
        optimizer=OptimizerConfig(learning_rate=6e-2, warmup_epochs=5),
        epochs=100,
    )
    trainer = cases.trainer(config)
    views = next(trainer.batches())
    steps = [trainer.make_step(views) for _ in range(trainer.total)]
    assert cases.LEARNED["esvit"](steps), steps[-1]
