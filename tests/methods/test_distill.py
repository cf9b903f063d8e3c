"""Distillation: the teacher stays what it is, is found again on resuming, and is refused if it is another."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dinoscope import checkpoint, cli
from dinoscope.errors import UserError
from dinoscope.methods.distill import Distill, DistillConfig
from dinoscope.model_names import load_model, shipped_model
from dinoscope.models.backbone import Backbone, BackboneConfig, build_backbone
from dinoscope.training.config import RunConfig
from dinoscope.training.loop import train
from dinoscope.training.run_folder import changed_settings, read_config
from dinoscope.training.trainer import Trainer
from tests.conformance import cases
from tests.conformance.test_methods import states_differ
from tests.training.test_loop import Stop, results, weights

CONFIG = cases.SETTINGS["distill"]
assert isinstance(CONFIG, DistillConfig)


@pytest.fixture
def settings(picture_folder: Callable[..., Path], tmp_path: Path) -> Callable[..., RunConfig]:
    """Return settings of nine steps on 24 pictures with a copy of the shipped model as teacher."""
    data, teacher = picture_folder(24, classes=2), tmp_path / "teacher"
    shutil.copytree(shipped_model(), teacher)

    def make(name: str = "run", **changes: object) -> RunConfig:
        method = replace(CONFIG, **{"teacher": str(teacher), **changes.pop("method", {})})
        return cases.run_config("distill", data, tmp_path / name, method=method, drop_path=0.2, **changes)

    return make


def method_of(trainer: Trainer) -> Distill:
    assert isinstance(trainer.method, Distill)
    return trainer.method


def export(folder: Path, name: str, size: int = 32, seed: int = 3) -> Path:
    """A model with random weights, exported."""
    torch.manual_seed(seed)
    checkpoint.export_backbone(folder, build_backbone(BackboneConfig(name, image_size=size)))
    return folder


def test_the_teacher_does_not_move(settings) -> None:
    trainer = cases.trainer(settings())
    method = method_of(trainer)
    before = {name: value.clone() for name, value in method.teacher.state_dict().items()}
    for _, views in zip(range(2), trainer.batches(), strict=False):
        trainer.make_step(views)
    assert states_differ(before, method.teacher.state_dict()) == []
    assert not any(module.training for module in method.teacher.modules())
    assert method.backbone.training
    assert all(parameter.grad is None for parameter in method.teacher.parameters())
    optimised = {id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]}
    assert optimised.isdisjoint(map(id, method.teacher.parameters()))
    assert optimised >= set(map(id, method.backbone.parameters()))


def test_batch_norm_of_a_teacher_does_not_move_either(settings, tmp_path) -> None:
    teacher = export(tmp_path / "resnet", "resnet_micro")
    trainer = cases.trainer(settings(method={"teacher": str(teacher)}, zero_init_residual=True))
    expected = checkpoint.load_backbone(teacher).state_dict()
    trainer.make_step(next(trainer.batches()))
    assert states_differ(expected, method_of(trainer).teacher.state_dict()) == []


def test_a_checkpoint_holds_no_weights_of_the_teacher(settings, tmp_path) -> None:
    trainer = cases.trainer(settings())
    assert not any("teacher" in name for name in trainer.method.state_dict())
    trainer.save(tmp_path / "step.safetensors")
    assert not any("teacher" in name for name in checkpoint.load(tmp_path / "step.safetensors").tensors)


def test_the_teacher_sees_the_global_views_alone_normalised_its_own_way(settings) -> None:
    trainer = cases.trainer(settings())
    method, views, seen = method_of(trainer), next(trainer.batches()), []
    method.teacher.mean.fill_(0.25)
    method.teacher.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    method.encode(views)
    (images,) = seen
    pixels = views.global_views.flatten(0, 1).float() / 255
    torch.testing.assert_close(images, (pixels - 0.25) / method.teacher.std)
    assert not method.encode(views)["target"].requires_grad


@pytest.mark.parametrize("loss", ["cosine", "mse"])
def test_the_loss_is_that_of_slow_numpy(settings, loss) -> None:
    config = settings(method={"loss": loss, "feature_weight": 2.0, "patch_weight": 0.5})
    trainer = cases.trainer(config, double=True)
    outputs = trainer.method.encode(next(trainer.batches()))
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "features": (4, 8, 96),
        "prediction": (4, 8, 96),
        "target": (2, 8, 96),
        "patch_prediction": (2, 8, 16, 96),
        "patch_target": (2, 8, 16, 96),
    }

    def distance(p: np.ndarray, t: np.ndarray) -> np.ndarray:
        if loss == "cosine":
            return 1 - (p * t).sum(-1) / (np.linalg.norm(p, axis=-1) * np.linalg.norm(t, axis=-1))
        white = (t - t.mean(-1, keepdims=True)) / np.sqrt(t.var(-1, keepdims=True) + 1e-5)
        return ((p - white) ** 2).mean(-1)

    arrays = {name: value.detach().numpy() for name, value in outputs.items()}
    p, t = arrays["prediction"], arrays["target"]
    pairs = [(0, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1)]
    features = np.mean([distance(p[i], t[j]) for i, j in pairs])
    patches = distance(arrays["patch_prediction"], arrays["patch_target"]).mean()
    result = trainer.method.loss(outputs, trainer.at(0))
    assert result.loss.item() == pytest.approx(2 * features + 0.5 * patches, rel=1e-12)
    assert result.logged["feature_loss"].item() == pytest.approx(features, rel=1e-12)
    assert result.logged["patch_loss"].item() == pytest.approx(patches, rel=1e-12)


def test_a_student_with_the_teachers_own_weights_has_nothing_to_learn(settings) -> None:
    trainer = cases.trainer(settings(method={"head_layers": 1}))
    method = method_of(trainer).eval()
    method.backbone.load_state_dict(method.teacher.weights_for(method.backbone.config), strict=False)
    method.backbone.net.load_state_dict(method.teacher.weights_for(method.backbone.config))
    for head in (method.head, method.patch_head):
        torch.nn.init.eye_(head[0].weight)
        torch.nn.init.zeros_(head[0].bias)
    views = next(trainer.batches())
    outputs = method.encode(replace(views, local_views=None))
    assert method.loss(outputs, trainer.at(0)).loss.item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("student", "teacher", "size", "grid"),
    [
        ("resnet_micro", "vit_micro_conv8", 0, (4, 4)),
        ("vit_micro_conv8", "resnet_micro", 0, (2, 2)),
        ("resnet_micro", "vit_micro_conv8", 64, (8, 8)),
    ],
)
def test_any_network_learns_from_any_other(settings, tmp_path, student, teacher, size, grid) -> None:
    changes = {"teacher": str(export(tmp_path / "other", teacher)), "teacher_size": size}
    trainer = cases.trainer(settings(backbone=student, method=changes))
    outputs = trainer.method.encode(next(trainer.batches()))
    assert outputs["patch_prediction"].shape == outputs["patch_target"].shape
    assert outputs["patch_target"].shape[2] == grid[0] * grid[1]
    assert outputs["prediction"].shape[-1] == method_of(trainer).teacher.dim
    first, last = (trainer.make_step(next(trainer.batches())) for _ in range(2))
    assert first["loss"] > last["loss"]


@pytest.mark.parametrize("name", ["feature_weight", "patch_weight"])
def test_a_part_without_weight_is_left_out(settings, name) -> None:
    trainer = cases.trainer(settings(method={name: 0.0}))
    method = method_of(trainer)
    assert hasattr(method, "head") == (name != "feature_weight")
    assert hasattr(method, "patch_head") == (name != "patch_weight")
    logged = trainer.make_step(next(trainer.batches()))
    assert ("feature_loss" in logged, "patch_loss" in logged) == (name != "feature_weight", name != "patch_weight")
    assert all(parameter.grad is not None for _, parameter in method.trained_parameters())


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="nothing would be learned"):
        DistillConfig(feature_weight=0, patch_weight=0)
    with pytest.raises(ValueError, match="teacher_size must be at least 0"):
        DistillConfig(teacher_size=-1)


def test_a_resumed_run_is_the_same_to_the_last_bit(settings) -> None:
    whole, stopped = settings("whole"), settings("stopped")
    train(whole)
    assert train(stopped, listeners=[Stop(4, signal.SIGTERM)]).interrupted
    train(stopped, resume=True)
    assert results(whole.out) == results(stopped.out)
    found, expected = weights(stopped.out), weights(whole.out)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_run_keeps_place_and_hash_of_its_teacher(settings, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = settings(method={"teacher": "teacher"}, epochs=1)
    train(config)
    stored = read_config(config.out)
    assert isinstance(stored.method, DistillConfig)
    assert stored.method.teacher == str(tmp_path / "teacher")
    assert stored.method.teacher_hash == load_model("shipped").weights_hash
    assert changed_settings(stored, config) == []  # a study asks so
    other = replace(config, method=replace(config.method, teacher_hash="00"))
    assert any(line.startswith("method.teacher_hash") for line in changed_settings(stored, other))


def test_a_run_goes_on_with_its_own_teacher_alone(settings, tmp_path) -> None:
    config = settings()
    train(config, listeners=[Stop(4, signal.SIGTERM)])
    stored = read_config(config.out)
    export(tmp_path / "teacher", "vit_micro_conv8", size=64)
    with pytest.raises(UserError, match="is not the model that the run began with"):
        train(stored, resume=True)
    shutil.rmtree(tmp_path / "teacher")
    with pytest.raises(UserError, match=f"--method.teacher {tmp_path / 'teacher'}: there is no file or folder"):
        train(stored, resume=True)
    shutil.copytree(shipped_model(), tmp_path / "teacher")
    assert not train(stored, resume=True).interrupted


def test_a_teacher_in_the_folder_of_the_run_is_refused(settings, tmp_path) -> None:
    config = settings("teacher")
    with pytest.raises(UserError, match="it lies in --out"):
        train(config, overwrite=True)
    assert isinstance(load_model(str(tmp_path / "teacher")).backbone, Backbone)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "distillation needs a trained model to learn from: give --method.teacher MODEL"),
        (["--method.teacher", "runs/none"], "--method.teacher runs/none: there is no file or folder runs/none"),
        (["--method.teacher", "random:timm:mixer_s16_224"], "give --method.teacher-size, such as 224"),
    ],
)
def test_a_teacher_that_cannot_teach_is_told_in_one_line(words, line, picture_folder, tmp_path, capsys) -> None:
    command = ["train", "--method", "distill", "--data", str(picture_folder(8)), "--out", str(tmp_path / "run")]
    command += ["--backbone", "vit_micro_conv8", "--views", "two_views_32", "--batch-size", "4", "--device", "cpu"]
    assert cli.main([*command, "--epochs", "1", "--optimizer.warmup-epochs", "0", *words]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert line in errors[-1]
    assert not any("Traceback" in error for error in errors)


def test_the_settings_are_options(capsys) -> None:
    assert cli.main(["train", "--method", "distill", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"--method.{name}" in text for name in ("teacher", "teacher-size", "patch-weight", "loss"))
    spec = json.loads(Path(cli.options.FILE).read_text())["commands"]["train"]
    assert spec["presets"]["recipe"]["distill_vit_small"]["method"] == "distill"
