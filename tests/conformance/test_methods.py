"""Every method x every contract of `dinoscope.methods.method.Method`."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dinoscope import checkpoint
from dinoscope.methods import METHODS, build_method, method_name
from dinoscope.training.config import OptimizerConfig

from . import cases


@pytest.fixture(params=list(cases.SETTINGS))
def method(request: pytest.FixtureRequest) -> str:
    return request.param


def states_differ(first: dict[str, Tensor], second: dict[str, Tensor], tolerance: float = 0.0) -> list[str]:
    """Names of the tensors that are not equal within `tolerance`."""
    assert first.keys() == second.keys()
    return [
        name
        for name in first
        if not torch.allclose(first[name].double(), second[name].double(), atol=tolerance, rtol=0)
    ]


def test_every_method_has_a_case() -> None:
    assert {method_name(settings) for settings in cases.SETTINGS.values()} == set(METHODS)


def test_loss_is_finite_and_logged_values_are_scalars(method, picture_folder, tmp_path) -> None:
    trainer = cases.trainer(cases.run_config(method, picture_folder(8), tmp_path / "run"))
    outputs = trainer.method.encode(next(trainer.batches()))
    result = trainer.method.loss(outputs, trainer.at(0))
    assert math.isfinite(result.loss.item())
    assert result.loss.requires_grad
    for name, value in result.logged.items():
        assert value.ndim == 0, name
        assert not value.requires_grad, name
    for name, value in result.statistics.items():
        assert not value.requires_grad, name


@pytest.mark.parametrize("method", list(cases.LEARNED))  # ablations leave parts out
def test_curves_are_of_what_is_logged(method, picture_folder, tmp_path) -> None:
    trainer = cases.trainer(cases.run_config(method, picture_folder(8), tmp_path / "run"))
    logged = trainer.make_step(next(trainer.batches()))
    curves = METHODS[method_name(cases.SETTINGS[method])].curves
    assert {curve.name for curve in curves if not curve.optional} <= logged.keys()
    assert len({curve.title for curve in curves}) == len(curves)


def test_outputs_are_views_by_batch(method, picture_folder, tmp_path) -> None:
    config = cases.run_config(method, picture_folder(8), tmp_path / "run")
    outputs = cases.trainer(config).method.encode(cases.batch(config))
    for name, value in outputs.items():
        assert value.shape[1] == config.batch_size, name
    assert "features" in outputs


def test_only_trained_parameters_get_gradients(method, picture_folder, tmp_path) -> None:
    trainer = cases.trainer(cases.run_config(method, picture_folder(8), tmp_path / "run"))
    outputs = trainer.method.encode(next(trainer.batches()))
    trainer.method.loss(outputs, trainer.at(0)).loss.backward()
    trained = dict(trainer.method.trained_parameters())
    for name, parameter in trainer.method.named_parameters():
        assert (parameter.grad is not None) == (name in trained), name


def test_loss_changes_no_state(method, picture_folder, tmp_path) -> None:
    trainer = cases.trainer(cases.run_config(method, picture_folder(8), tmp_path / "run"))
    outputs = trainer.method.encode(next(trainer.batches()))
    before = {name: value.clone() for name, value in trainer.method.state_dict().items()}
    trainer.method.loss(outputs, trainer.at(0))
    assert states_differ(before, trainer.method.state_dict()) == []


def test_state_round_trip(method, picture_folder, tmp_path) -> None:
    """Saved when queues are full, in mid-epoch; both go on into the next epoch."""
    config = cases.run_config(method, picture_folder(24), tmp_path / "run")
    trainer = cases.trainer(config)
    batches = trainer.batches()
    for _ in range(2):
        trainer.make_step(next(batches))
    trainer.save(tmp_path / "step.safetensors")
    restored = cases.trainer(config)
    assert states_differ(trainer.method.state_dict(), restored.method.state_dict()) != []
    restored.restore(tmp_path / "step.safetensors")
    assert restored.next_step == 2
    again = restored.batches()
    for _ in range(2):
        trainer.make_step(next(batches))
        restored.make_step(next(again))
    assert states_differ(trainer.method.state_dict(), restored.method.state_dict()) == []


def test_accumulation_equals_the_large_batch(method, picture_folder, tmp_path) -> None:
    """In halves and in quarters, over three epochs; queues fill on the way."""
    data = picture_folder(16)
    whole = cases.trainer(cases.run_config(method, data, tmp_path / "a"), double=True)
    cut = [
        cases.trainer(cases.run_config(method, data, tmp_path / "b", accumulate=parts), double=True) for parts in (2, 4)
    ]
    before = {name: value.clone() for name, value in whole.method.state_dict().items()}
    for views in whole.batches():
        values = whole.make_step(views)
        for each in cut:
            assert values["loss"] == pytest.approx(each.make_step(views)["loss"], abs=1e-9)
    assert whole.next_step == 6
    for each in cut:
        assert states_differ(whole.method.state_dict(), each.method.state_dict(), tolerance=1e-8) == []
    assert len(states_differ(before, whole.method.state_dict(), tolerance=1e-4)) > 10


def test_two_passes_drop_the_same_paths(picture_folder, tmp_path) -> None:
    """With stochastic depth: the gradient of two passes is that of one graph over both micro-batches."""
    config = cases.run_config("simclr", picture_folder(8), tmp_path / "run", drop_path=0.5, accumulate=2)
    trainer = cases.trainer(config, double=True)
    method, views, step = trainer.method, next(trainer.batches()), trainer.at(0)
    trained = dict(method.trained_parameters())
    torch.manual_seed(7)
    trainer.gradient(views, step)
    two_passes = {name: parameter.grad.clone() for name, parameter in trained.items()}
    method.zero_grad()
    parts = []
    for number, micro in enumerate(views.split(2)):
        torch.manual_seed(7 + number)
        parts.append(method.encode(micro))
    whole = {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}
    method.loss(whole, step).loss.backward()
    assert states_differ(two_passes, {name: parameter.grad for name, parameter in trained.items()}, 1e-12) == []
    assert max(gradient.abs().max() for gradient in two_passes.values()) > 1e-3


def test_activation_checkpointing_changes_nothing(method, picture_folder, tmp_path) -> None:
    data = picture_folder(8)
    plain = cases.trainer(cases.run_config(method, data, tmp_path / "a", drop_path=0.2))
    saving = cases.trainer(cases.run_config(method, data, tmp_path / "b", drop_path=0.2, checkpoint_activations=True))
    views = next(plain.batches())
    plain.make_step(views)
    saving.make_step(views)
    assert states_differ(plain.method.state_dict(), saving.method.state_dict(), tolerance=1e-6) == []


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=[pytest.mark.slow] * (name in cases.VARIANTS)) for name in cases.LEARNED]
)
def test_eight_images_can_be_overfitted(method, picture_folder, tmp_path) -> None:
    """The same views of eight images over and over are learned by heart, without collapse."""
    rate, epochs = cases.RATES.get(method, (6e-2, 100))
    config = cases.run_config(
        method,
        picture_folder(8),
        tmp_path / "run",
        method=cases.OVERFITTING[method],
        optimizer=OptimizerConfig(learning_rate=rate, warmup_epochs=5),
        epochs=epochs,
    )
    trainer = cases.trainer(config)
    views = next(trainer.batches())
    steps = [trainer.make_step(views) for _ in range(trainer.total)]
    assert cases.LEARNED[method](steps), steps[-1]


def test_evaluated_backbone_is_found_in_a_checkpoint(method, picture_folder, tmp_path) -> None:
    trainer = cases.trainer(cases.run_config(method, picture_folder(8), tmp_path / "run"))
    views = next(trainer.batches())
    trainer.make_step(views)
    trainer.save(tmp_path / "step.safetensors")
    loaded = checkpoint.load_backbone(tmp_path / "step.safetensors")
    images = loaded.normalize(views.global_views[0])
    with torch.no_grad():
        expected = trainer.method.evaluated_backbone.eval()(images).feature
        assert torch.equal(loaded(images).feature, expected)


def test_method_is_built_from_its_settings(method) -> None:
    config = cases.run_config(method, Path(), Path())
    torch.manual_seed(0)
    first = build_method(config.method, config.backbone_config, classes=2).state_dict()
    torch.manual_seed(0)
    second = build_method(config.method, config.backbone_config, classes=2).state_dict()
    assert states_differ(first, second) == []


@pytest.mark.parametrize("method", ["simclr", "dino"])
def test_recomputed_activations_move_the_statistics_of_batch_norm_once(method, picture_folder, tmp_path) -> None:
    data = picture_folder(8)
    changes = {"backbone": "resnet_micro", "epochs": 1}
    plain = cases.trainer(cases.run_config(method, data, tmp_path / "a", **changes), double=True)
    saving = cases.trainer(
        cases.run_config(method, data, tmp_path / "b", checkpoint_activations=True, **changes), double=True
    )
    views = next(plain.batches())
    plain.make_step(views)
    saving.make_step(views)
    assert states_differ(plain.method.state_dict(), saving.method.state_dict(), tolerance=1e-9) == []


def test_the_first_of_two_passes_moves_no_statistics_of_batch_norm(picture_folder, tmp_path) -> None:
    """They have moved once for each micro-batch and size of view, not twice."""
    changes = {"backbone": "resnet_micro", "epochs": 1, "accumulate": 2}
    trainer = cases.trainer(cases.run_config("simclr", picture_folder(8), tmp_path / "run", **changes), double=True)
    views, method = next(trainer.batches()), trainer.method
    reference = cases.trainer(cases.run_config("simclr", tmp_path / "pictures", tmp_path / "b", **changes), double=True)
    with torch.no_grad():
        for micro in views.split(2):
            reference.method.encode(micro)
    trainer.make_step(views)
    moved, wanted = method.backbone.net.bn1, reference.method.backbone.net.bn1
    assert int(moved.num_batches_tracked) == int(wanted.num_batches_tracked) == 4
    torch.testing.assert_close(moved.running_mean, wanted.running_mean)
    torch.testing.assert_close(moved.running_var, wanted.running_var)


def test_logged_figures_do_not_depend_on_how_the_batch_is_cut(method, picture_folder, tmp_path) -> None:
    """The entropy of a mean and a deviation of embeddings would, if they were averaged over micro-batches."""
    data = picture_folder(8)
    whole, *cut = [
        cases.trainer(cases.run_config(method, data, tmp_path / "run", accumulate=parts), double=True)
        for parts in (1, 2, 4 if method in cases.PAIRED else 8)
    ]
    views = next(whole.batches())
    values = whole.make_step(views)
    for each in cut:
        assert each.make_step(views) == pytest.approx(values, abs=1e-9)
        torch.testing.assert_close(each.recent_features(), whole.recent_features(), atol=1e-9, rtol=0)
