"""`dinoscope train --init`: a run that begins from the weights of another model."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dinoscope import api, checkpoint
from dinoscope.errors import UserError
from dinoscope.methods.method import Method
from dinoscope.models.backbone import Backbone, BackboneConfig, build_backbone
from dinoscope.models.vit import ViTBackbone
from dinoscope.training import loop
from dinoscope.training.config import OptimizerConfig, RunConfig
from dinoscope.training.listeners import Listener, RunStart, StepRecord
from dinoscope.training.run_folder import read_config
from dinoscope.training.start import GENTLE_PEAK, facts_of, give_weights, load_initial, washes_out
from tests.cli.test_export import model
from tests.conformance import cases
from tests.official_files import register_tiny
from tests.plain_process import PlainProcess

Pictures = Callable[..., Path]


class Hear(Listener):
    """Keeps what was said and announced, and may end the run as a kill would, after a step."""

    def __init__(self, die_after: int = -1) -> None:
        self.die_after, self.said_lines, self.facts = die_after, list[str](), dict[str, str]()

    def said(self, message: str) -> None:
        self.said_lines.append(message)

    def started(self, start: RunStart) -> None:
        self.facts = dict(start.facts)

    def stepped(self, record: StepRecord) -> None:
        if record.step.index == self.die_after:
            raise KeyboardInterrupt


def begun(config: RunConfig) -> Method:
    """The method of a run as it stands before its first step."""
    initial = load_initial(config)
    trainer = cases.trainer(config)
    if initial is not None:
        give_weights(initial, trainer.method, str(config.init))
    return trainer.method


def backbones(method: Method) -> list[Backbone]:
    """The backbones in the layout of a loaded model, so that equal weights give equal bits; not a frozen teacher."""
    method.to(memory_format=torch.contiguous_format)
    return [module for module in method.modules() if isinstance(module, Backbone) and module not in method.frozen]


# First weights


@pytest.mark.parametrize("name", cases.SETTINGS)
def test_every_backbone_of_a_method_begins_with_the_features_of_the_model(
    name: str, picture_folder: Pictures, tmp_path: Path
) -> None:
    initial = model(tmp_path / "model", "vit_micro_conv8", 32)
    data = picture_folder(24, classes=2)
    config = cases.run_config(name, data, tmp_path / "out", init=str(tmp_path / "model"))
    images = torch.randn(2, 3, 32, 32)
    method, fresh = begun(config), cases.trainer(replace(config, init=None)).method
    found = backbones(method)
    assert len(found) == (2 if name.startswith(("dino", "moco", "byol", "simdino", "ibot", "esvit")) else 1)
    for backbone, before in zip(found, backbones(fresh), strict=True):
        backbone.eval()
        with torch.no_grad():
            assert torch.equal(backbone.feature(images), initial.feature(images))
            assert not torch.allclose(before.eval().feature(images), initial.feature(images), atol=1e-2)
    # What is not a backbone is as it would have been without a model to begin from.
    ours, theirs = method.state_dict(), fresh.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours if "backbone" not in key)


def test_the_first_step_sees_the_features_of_the_model(picture_folder: Pictures, tmp_path: Path) -> None:
    initial = model(tmp_path / "model", "vit_micro_conv8", 32)
    settings = {"init": str(tmp_path / "model"), "precision": "fp32"}
    config = cases.run_config("simclr", picture_folder(24), tmp_path / "out", **settings)
    trainer = cases.trainer(config)
    give_weights(load_initial(config) or pytest.fail("no model"), trainer.method, "model")
    views = next(trainer.batches())
    trainer.make_step(views)
    features = trainer.recent_features()
    with torch.no_grad():
        wanted = initial.feature(initial.normalize(views.global_views.flatten(0, 1)))
    torch.testing.assert_close(features[: len(wanted)], wanted, rtol=1e-4, atol=1e-5)


def test_the_head_of_a_run_is_not_taken_along(picture_folder: Pictures, tmp_path: Path) -> None:
    data = picture_folder(24)
    first = cases.run_config("dino", data, tmp_path / "first", epochs=1)
    loop.train(first)
    second = begun(replace(first, out=tmp_path / "second", init=str(tmp_path / "first")))
    newest = checkpoint.latest(tmp_path / "first" / "checkpoints") or pytest.fail("no checkpoint")
    kept = checkpoint.load(newest, "method.").tensors
    for key, tensor in second.state_dict().items():
        if key.startswith(("student_backbone.", "teacher_backbone.")):
            # the teacher's weights, which are those that evaluations use, for both
            assert torch.equal(tensor, kept[f"teacher_backbone.{key.partition('.')[2]}"]), key
    for part in ("student_head", "teacher_head"):
        keys = [key for key in kept if key.startswith(part) and kept[key].ndim > 1 and not key.endswith("weight_g")]
        assert keys
        assert not any(torch.equal(second.state_dict()[key], kept[key]) for key in keys)


@pytest.mark.parametrize("size", [16, 64])
def test_position_embeddings_are_laid_out_for_the_size_of_the_run(
    size: int, picture_folder: Pictures, tmp_path: Path
) -> None:
    initial = model(tmp_path / "model", "vit_micro_conv8", 32)
    views = replace(cases.VIEWS, global_size=size)
    config = cases.run_config("dino", picture_folder(8), tmp_path / "out", views=views, init=str(tmp_path / "model"))
    images = torch.randn(2, 3, size, size)
    for backbone in backbones(begun(config)):
        assert isinstance(backbone, ViTBackbone)
        assert backbone.config.image_size == size
        with torch.no_grad():
            torch.testing.assert_close(backbone.eval().feature(images), initial.feature(images), rtol=0, atol=1e-6)


def test_registers_and_layer_scale_come_along_and_positions_are_resized_as_the_model_does(
    picture_folder: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_tiny(monkeypatch)
    initial = model(tmp_path / "model", "tiny_registers", 28, 70)
    views = replace(cases.VIEWS, global_size=42, local_size=14)
    settings = {"backbone": "tiny_registers", "views": views, "init": str(tmp_path / "model")}
    config = cases.run_config("dino", picture_folder(8), tmp_path / "out", **settings)
    assert "laid out for 70 px and now for 42 px" in facts_of(initial.config, config)
    images = torch.randn(2, 3, 42, 42)
    for backbone in backbones(begun(config)):
        assert backbone.config.layout_size == 42
        with torch.no_grad():
            torch.testing.assert_close(backbone.eval().feature(images), initial.feature(images), rtol=0, atol=1e-6)


def test_statistics_of_batch_norm_come_along(picture_folder: Pictures, tmp_path: Path) -> None:
    initial = model(tmp_path / "model", "resnet_micro", 32)
    settings = {"backbone": "resnet_micro", "init": str(tmp_path / "model")}
    config = cases.run_config("byol", picture_folder(8), tmp_path / "out", **settings)
    images = torch.randn(2, 3, 32, 32)
    for backbone in backbones(begun(config)):
        with torch.no_grad():
            assert torch.equal(backbone.eval().feature(images), initial.feature(images))


# Refusals


def test_another_network_is_refused_before_anything_is_written(picture_folder: Pictures, tmp_path: Path) -> None:
    model(tmp_path / "model", "resnet_micro", 32)
    config = cases.run_config("dino", picture_folder(24), tmp_path / "out", init=str(tmp_path / "model"))
    with pytest.raises(UserError, match=r"is a resnet_micro, and the run's network is vit_micro_conv8.*--backbone"):
        loop.train(config)
    assert not (tmp_path / "out").exists()


def test_another_normalisation_is_refused(picture_folder: Pictures, tmp_path: Path) -> None:
    half = (0.5, 0.5, 0.5)
    checkpoint.export_backbone(
        tmp_path / "model", build_backbone(BackboneConfig("vit_micro_conv8", 32, 0.0, half, half))
    )
    config = cases.run_config("dino", picture_folder(24), tmp_path / "out", init=str(tmp_path / "model"))
    with pytest.raises(UserError, match=r"normalised with mean \(0\.5"):
        loop.train(config)
    taken = api.beginning_from(config, str(tmp_path / "model"))
    assert {backbone.config.mean for backbone in backbones(begun(taken))} == {half}


def test_a_run_does_not_delete_what_it_begins_from(picture_folder: Pictures, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = cases.run_config("dino", picture_folder(24), run, epochs=1)
    loop.train(config)
    before = checkpoint.latest(run / "checkpoints")
    with pytest.raises(UserError, match="lies in --out"):
        loop.train(replace(config, init=str(run)), overwrite=True)
    assert before is not None
    assert before.is_file()


def test_there_is_no_such_model(picture_folder: Pictures, tmp_path: Path) -> None:
    config = cases.run_config("dino", picture_folder(24), tmp_path / "out", init=str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="nothing"):
        loop.train(config)
    assert not (tmp_path / "out").exists()


# Whole runs


def test_resumed_without_the_model_it_ends_as_if_never_stopped(picture_folder: Pictures, tmp_path: Path) -> None:
    model(tmp_path / "model", "vit_micro_conv8", 32)
    data = picture_folder(24)
    config = cases.run_config("dino", data, tmp_path / "whole", drop_path=0.2, init=str(tmp_path / "model"))
    heard = Hear()
    loop.train(config, listeners=[heard])
    assert f"weights of {tmp_path / 'model'}" in heard.facts["begins from"]
    assert read_config(tmp_path / "whole").init == str(tmp_path / "model")

    stopped = replace(config, out=tmp_path / "stopped", saving=replace(config.saving, every_steps=2))
    with pytest.raises(KeyboardInterrupt):
        loop.train(stopped, listeners=[Hear(die_after=4)])
    shutil.rmtree(tmp_path / "model")
    heard = Hear()
    loop.train(stopped, resume=True, listeners=[heard])
    assert heard.facts["resumed"] == "at step 4"
    assert "begins from" not in heard.facts
    whole, resumed = (checkpoint.latest(tmp_path / name / "checkpoints") for name in ("whole", "stopped"))
    assert whole is not None
    assert resumed is not None
    ours, theirs = checkpoint.load(resumed).tensors, checkpoint.load(whole).tensors
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_command_takes_the_network_of_the_model(
    picture_folder: Pictures, tmp_path: Path, plain_process: PlainProcess
) -> None:
    model(tmp_path / "model", "vit_micro_conv8", 32)
    picture_folder(24)
    (tmp_path / "another").mkdir()
    train = ["train", "--recipe", "dino_small_images", "--data", "pictures", "--out", "out", "--init", "model"]
    train += ["--views", "small_32", "--epochs", "1", "--batch-size", "8", "--evaluate-every", "0", "--workers", "0"]
    train += ["--method.out-dim", "32", "--method.hidden-dim", "32", "--method.freeze-last-layer-epochs", "0"]
    train += ["--optimizer.warmup-epochs", "0", "--optimizer.learning-rate", "1e-2", "--device", "cpu"]
    commands = {
        "other network": [*train, "--backbone", "resnet_micro"],
        "train": train,
        "resume from another": ["train", "--out", "out", "--resume", "--init", "another"],
    }
    answers = plain_process.run(commands, tmp_path)
    code, _, error = answers["other network"]
    assert (code, error.count("\n")) == (2, 1)
    assert "--init model is a vit_micro_conv8, and the run's network is resnet_micro" in error
    code, _, error = answers["train"]
    assert code == 0, error
    assert "weights of model, whose network (vit_micro_conv8) is the run's; the head is fresh" in error
    assert "wash out what trained weights know" in " ".join(error.split())
    assert "wash out" in (tmp_path / "out" / "train.log").read_text()
    assert read_config(tmp_path / "out").backbone == "vit_micro_conv8"
    code, _, error = answers["resume from another"]
    assert code == 2
    assert re.search(r"init: \S+model -> \S+another", error)


def test_a_recipe_in_python_takes_the_network_of_the_model(tmp_path: Path) -> None:
    model(tmp_path / "model", "vit_micro_conv8", 32)
    taken = api.recipe("dino_small_images", "data", tmp_path / "out", init=str(tmp_path / "model"))
    assert taken.backbone == "vit_micro_conv8"
    assert taken.init == str(tmp_path / "model")


# The warning


@pytest.mark.parametrize(
    ("name", "rate", "batch", "init", "warned"),
    [
        ("adamw", GENTLE_PEAK, 256, "model", False),
        ("adamw", 1.1 * GENTLE_PEAK, 256, "model", True),
        ("adamw", 5e-4, 1024, "model", True),
        ("adamw", 5e-4, 32, "model", False),
        ("adamw", 5e-4, 1024, None, False),
        ("sgd", 0.03, 1024, "model", False),
    ],
)
def test_a_rate_that_would_wash_the_features_out_is_told(
    name: str, rate: float, batch: int, init: str | None, warned: bool, tmp_path: Path
) -> None:
    optimizer = OptimizerConfig(name=name, learning_rate=rate)  # pyright: ignore
    config = RunConfig(tmp_path, tmp_path / "out", init=init, optimizer=optimizer, batch_size=batch)
    warning = washes_out(config)
    assert (warning is not None) == warned
    if warning is not None:
        advised = float(warning.split("--optimizer.learning-rate ")[1].split()[0])
        assert advised * batch / 256 == pytest.approx(GENTLE_PEAK, rel=0.05)


@pytest.mark.parametrize(("scaling", "peak"), [("linear", 2e-3), ("sqrt", 1e-3), ("none", 5e-4)])
def test_the_warning_knows_how_the_rate_is_scaled(scaling: str, peak: float, tmp_path: Path) -> None:
    """A rate of 5e-4 at batch 1024; the advice keeps the peak at the gentle one."""
    optimizer = OptimizerConfig(learning_rate=5e-4, scaling=scaling)  # pyright: ignore
    config = RunConfig(tmp_path, tmp_path / "out", init="model", optimizer=optimizer, batch_size=1024)
    warning = washes_out(config)
    assert warning is not None
    assert f"rises to {peak:.1e}" in warning
    advised = float(warning.split("--optimizer.learning-rate ")[1].split()[0])
    gentle = replace(optimizer, learning_rate=advised)
    assert gentle.peak(1024) == pytest.approx(GENTLE_PEAK, rel=0.05)
