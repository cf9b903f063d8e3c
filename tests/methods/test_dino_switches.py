"""Every switch of DINO's ablations changes what it should, and nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dinoscope.config import from_dict, to_dict
from dinoscope.methods.dino import DINO, DINOConfig
from dinoscope.models.backbone import BackboneConfig
from dinoscope.models.heads import DINOHead, HeadShape
from dinoscope.training.config import RunConfig
from dinoscope.training.trainer import Trainer
from dinoscope.types import Step
from tests.conformance import cases
from tests.plain_process import PlainProcess

Folder = Callable[..., Path]

LAST = {f"{network}_head.last_layer.{name}" for network in ("student", "teacher") for name in ("weight_g", "weight_v")}
PLAIN_LAST = {f"{network}_head.last_layer.weight" for network in ("student", "teacher")}
BOTTLENECK = {f"{network}_head.mlp.4.{name}" for network in ("student", "teacher") for name in ("weight", "bias")}
PREDICTOR = {f"predictor.{layer}.{name}" for layer in (0, 2) for name in ("weight", "bias")}


@dataclass(frozen=True)
class Switch:
    """What a step with other settings has in common with the base's, from the same seed.

    changes: to the settings of the method.
    loss: whether the first loss is the same.
    student: whether the student's weights after the first step are the same, to rounding.
    added, removed: weights that it has and the base has not, and the other way round.
    head: whether what both heads have begins alike.
    """

    changes: Mapping[str, object]
    loss: bool = False
    student: bool = False
    added: frozenset[str] | set[str] = frozenset()
    removed: frozenset[str] | set[str] = frozenset()
    head: bool = True


SWITCHES = {
    "kl": Switch({"loss": "kl"}, student=True),
    "reverse_kl": Switch({"loss": "reverse_kl"}),
    "mse": Switch({"loss": "mse"}),
    "mse_softmax": Switch({"loss": "mse_softmax"}),
    "sinkhorn": Switch({"centering": "sinkhorn"}),
    "softmax": Switch({"centering": "softmax"}),
    "none": Switch({"centering": "none"}, loss=True, student=True),  # the centre begins at 0
    "student": Switch({"teacher": "student"}, loss=True, student=True),
    "previous_step": Switch({"teacher": "previous_step"}, loss=True, student=True),
    "previous_epoch": Switch({"teacher": "previous_epoch"}, loss=True, student=True),
    "frozen": Switch({"teacher": "frozen"}, loss=True, student=True),
    "predictor": Switch({"predictor": "mlp"}, added=PREDICTOR),
    "relu": Switch({"head_activation": "relu"}),
    "no_l2": Switch({"head_l2": False}),
    "no_weight_norm": Switch({"head_weight_norm": False}, added=PLAIN_LAST, removed=LAST),
    "no_bottleneck": Switch({"bottleneck_dim": 0}, removed=BOTTLENECK, head=False),
    "sharpening_off": Switch({"teacher_temperature": 0.1, "warmup_teacher_temperature": 0.1}),
}


def trainer(data: Path, **changes: object) -> Trainer:
    """On 24 pictures, 3 steps an epoch, with these changes to the settings of the method."""
    return cases.trainer(cases.run_config("dino", data, data / "run", method=replace(cases.DINO, **changes)))


def copied(trainer: Trainer, part: str = "") -> dict[str, Tensor]:
    """Weights as they are now, of one part by the name without it."""
    state = trainer.method.state_dict()
    return {name.removeprefix(part): value.clone() for name, value in state.items() if name.startswith(part)}


def equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import cv2

    from tests.conftest import draw_picture

    root = tmp_path_factory.mktemp("pictures")
    for number in range(24):
        cv2.imwrite(str(root / f"{number:02d}.png"), draw_picture(number))
    return root


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_changes_what_it_should_and_nothing_else(name: str, data: Path) -> None:
    switch = SWITCHES[name]
    base, other = trainer(data), trainer(data, **switch.changes)
    first, second = copied(base), copied(other)
    assert second.keys() - first.keys() == switch.added
    assert first.keys() - second.keys() == switch.removed
    shared = [key for key in first.keys() & second.keys() if switch.head or "_head." not in key]
    assert [key for key in shared if not torch.equal(first[key], second[key])] == []
    views, others = next(base.batches()), next(other.batches())
    assert torch.equal(views.global_views, others.global_views)
    assert views.local_views is not None
    assert others.local_views is not None
    assert torch.equal(views.local_views, others.local_views)
    values, changed = base.make_step(views), other.make_step(others)
    assert (values["loss"] == changed["loss"]) == switch.loss
    for schedule in ("learning_rate", "weight_decay"):
        assert values[schedule] == changed[schedule]
    has_momentum = switch.changes.get("teacher", "ema") == "ema"
    assert values.keys() - changed.keys() == (set() if has_momentum else {"teacher_momentum"})
    assert changed.keys() - values.keys() == ({"output_spread"} if name == "mse" else set())
    # AdamW's first step has the size of the learning rate whatever the gradient: what differs, differs by much
    moved = {
        key
        for key, value in copied(other, "student_backbone.").items()
        if not torch.allclose(value, copied(base, "student_backbone.")[key], atol=2e-6, rtol=0)
    }
    assert (moved == set()) == switch.student


# The teacher


def test_whose_weights_the_teacher_has(data: Path) -> None:
    """Over two epochs of three steps, bit by bit."""
    rules = ("ema", "student", "previous_step", "previous_epoch", "frozen")
    followed: dict[str, list[int | None]] = {}
    for rule in rules:
        run = trainer(data, teacher=rule)
        students = [copied(run, "student_")]
        found: list[int | None] = []
        batches = run.batches()
        for _ in range(6):
            run.make_step(next(batches))
            students.append(copied(run, "student_"))
            teacher = copied(run, "teacher_")
            found.append(next((step for step, student in enumerate(students) if equal(student, teacher)), None))
        followed[rule] = found
    assert followed == {
        "ema": [None] * 6,
        "student": [1, 2, 3, 4, 5, 6],
        "previous_step": [0, 1, 2, 3, 4, 5],
        "previous_epoch": [0, 0, 3, 3, 3, 6],
        "frozen": [0] * 6,
    }


@pytest.mark.parametrize("rule", ["student", "previous_step", "previous_epoch", "frozen"])
def test_what_is_evaluated_is_the_student_where_the_teacher_is_no_average(rule: str, data: Path) -> None:
    run = trainer(data, teacher=rule)
    run.make_step(next(run.batches()))
    assert run.method.evaluated_backbone is run.method.student_backbone
    assert run.method.evaluated_prefix == "student_backbone."
    views = next(run.batches())
    with torch.no_grad():
        own = run.method.student_backbone.feature(
            run.method.student_backbone.normalize(views.global_views.flatten(0, 1))
        )
        seen = run.method.encode(views)["features"]
    torch.testing.assert_close(seen.flatten(0, 1), own)


def test_the_teacher_is_evaluated_where_it_is_an_average(data: Path) -> None:
    method = trainer(data).method
    assert method.evaluated_backbone is method.teacher_backbone
    assert method.evaluated_prefix == "teacher_backbone."


@pytest.mark.parametrize("stopped_after", [2, 4])
def test_a_run_with_the_epochs_before_as_teacher_is_resumed_bit_by_bit(
    stopped_after: int, data: Path, tmp_path: Path
) -> None:
    run, again = trainer(data, teacher="previous_epoch"), trainer(data, teacher="previous_epoch")
    batches = run.batches()
    for _ in range(stopped_after):
        run.make_step(next(batches))
    run.save(tmp_path / "step.safetensors")
    again.restore(tmp_path / "step.safetensors")
    others = again.batches()
    for _ in range(3):
        assert run.make_step(next(batches))["loss"] == again.make_step(next(others))["loss"]
    assert equal(copied(run), copied(again))


# The centre


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_without_balance_there_is_no_centre(loss: str, data: Path) -> None:
    base, bare = trainer(data, loss=loss), trainer(data, loss=loss, centering="none")
    for run in (base, bare):
        batches = run.batches()
        values = [run.make_step(next(batches)) for _ in range(3)]
        assert values[0]["center_norm"] == 0
        assert (values[-1]["center_norm"] == 0) == (run is bare)
    assert base.method.center.abs().max() > 0
    assert bare.method.center.abs().max() == 0


# The loss within the method


def given_outputs(center: float = 1.0, **changes: object) -> tuple[float, dict[str, float]]:
    """Loss and logged values of two views of one image with two outputs; the centre's two values are alike."""
    config = replace(cases.DINO, out_dim=2, **changes)
    method = DINO(config, BackboneConfig("vit_micro_conv8", 32))
    method.center.fill_(center)
    outputs = {
        "student": torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]),
        "teacher": torch.tensor([[[3.0, 3.0]], [[2.0, 1.0]]]),
        "bottleneck": torch.ones(2, 1, 2),
    }
    result = method.loss(outputs, Step(0, 10, 5))
    return result.loss.item(), {name: value.item() for name, value in result.logged.items()}


def test_the_papers_squared_error_by_hand() -> None:
    """Centred and brought to length 1 the teacher says (1, 1) / sqrt 2 and (1, 0): 2 - sqrt 2 and 0 to the others."""
    loss, _ = given_outputs(loss="mse")
    assert loss == pytest.approx((2 - math.sqrt(2)) / 2, abs=1e-6)
    assert given_outputs(loss="mse", teacher_temperature=0.5, student_temperature=0.7)[0] == loss
    # without a centre (3, 3) keeps its direction, and (2, 1) / sqrt 5 lies 2 / sqrt 5 along the first view
    bare, _ = given_outputs(center=0.0, loss="mse", centering="none")
    assert bare == pytest.approx((2 - math.sqrt(2) + 2 - 4 / math.sqrt(5)) / 2, abs=1e-6)


@pytest.mark.parametrize("loss", ["kl", "reverse_kl", "mse", "mse_softmax"])
def test_what_is_logged_means_the_same_whatever_the_loss(loss: str) -> None:
    base, found = given_outputs()[1], given_outputs(loss=loss)[1]
    for name, value in base.items():
        assert found[name] == pytest.approx(value, abs=1e-6), name
    assert base["cross_entropy"] == pytest.approx(given_outputs()[0])
    assert found["kl_teacher_student"] == pytest.approx(found["cross_entropy"] - found["teacher_entropy"])


def test_kl_is_what_is_logged_as_such() -> None:
    loss, logged = given_outputs(loss="kl")
    assert loss == pytest.approx(logged["kl_teacher_student"], abs=1e-6)


# The head


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_linear_maps_of_the_head(layers: int) -> None:
    """With a bottleneck one more than `layers` (the last one), without it `layers` in all (the paper's appendix C)."""

    def maps(shape: HeadShape) -> list[tuple[int, ...]]:
        weights = DINOHead(8, 32, shape).state_dict()
        return [tuple(value.shape) for name, value in weights.items() if name.endswith(("weight", "weight_v"))]

    shape = HeadShape(hidden_dim=16, bottleneck_dim=4, layers=layers)
    hidden = [(16, 8), *[(16, 16)] * (layers - 2)] if layers > 1 else []
    width = 16 if layers > 1 else 8
    assert maps(shape) == [*hidden, (4, width), (32, 4)]
    bare = maps(replace(shape, bottleneck_dim=0, weight_norm=False))
    assert bare == [*hidden, (32, width)]
    assert len(bare) == layers


def test_the_head_by_hand() -> None:
    """Features (3, 4) through a head of the last layer alone, and through a bottleneck that is the identity."""
    features = torch.tensor([[3.0, 4.0]])
    bare = DINOHead(2, 2, HeadShape(bottleneck_dim=0, layers=1, weight_norm=False))
    with torch.no_grad():
        bare.last_layer.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, -1.0]]))
        torch.testing.assert_close(bare(features), torch.tensor([[11.0, -4.0]]))
        for l2, expected in ((True, [[0.6, 0.8]]), (False, [[3.0, 4.0]])):
            head = DINOHead(2, 2, HeadShape(bottleneck_dim=2, layers=1, l2=l2))
            head.mlp[0].weight.copy_(torch.eye(2))
            torch.testing.assert_close(head.bottleneck(features), torch.tensor(expected))
            head.last_layer.weight_v.copy_(torch.tensor([[5.0, 0.0], [0.0, 0.1]]))  # of length 1 once normalised
            torch.testing.assert_close(head(features), torch.tensor(expected))


def test_relu_is_zero_where_gelu_is_not() -> None:
    features = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    for activation, zeros in (("relu", True), ("gelu", False)):
        torch.manual_seed(0)
        head = DINOHead(8, 4, HeadShape(hidden_dim=16, bottleneck_dim=0, layers=2, activation=activation))
        assert bool((head.bottleneck(features) == 0).any()) == zeros


@pytest.mark.parametrize("batch_norm", [False, True])
def test_only_the_student_predicts(batch_norm: bool, data: Path) -> None:
    run = trainer(data, predictor="mlp", head_batch_norm=batch_norm)
    trained = {name for name, _ in run.method.trained_parameters()}
    assert {name for name in trained if name.startswith("predictor.")}
    assert not {name for name in run.method.state_dict() if name.startswith("teacher") and "predictor" in name}
    assert any(isinstance(module, torch.nn.BatchNorm1d) for module in run.method.predictor) == batch_norm
    before = copied(run, "predictor.")
    views = next(run.batches())
    outputs = run.method.encode(views)
    head, predictor = run.method.student_head, run.method.predictor
    rows = outputs["bottleneck"].flatten(0, 1)
    expected = head.last_layer(torch.nn.functional.normalize(predictor(rows), dim=-1))
    torch.testing.assert_close(outputs["student"].flatten(0, 1), expected)
    run.make_step(views)
    assert not equal(before, copied(run, "predictor."))


# Settings


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": "mse", "centering": "sinkhorn"}, "loss mse compares outputs, and centering sinkhorn"),
        ({"loss": "mse", "centering": "softmax"}, "take centering center or none, or loss mse_softmax"),
        ({"bottleneck_dim": -1}, "bottleneck_dim must be at least 0"),
        ({"hidden_dim": 0}, "hidden_dim must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DINOConfig(**changes)


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("loss", "cross_entropy, kl, reverse_kl, mse, mse_softmax"),
        ("centering", "center, sinkhorn, softmax, none"),
        ("teacher", "ema, student, previous_step, previous_epoch, frozen"),
        ("predictor", "none, mlp"),
        ("head_activation", "gelu, relu"),
    ],
)
def test_another_word_is_refused_with_those_that_there_are(name: str, allowed: str) -> None:
    config = DINOConfig()
    object.__setattr__(config, name, "l2")  # past the tests' own check of types, which a user does not have
    with pytest.raises(ValueError, match=f"{name} is 'l2'; allowed: {allowed}$"):
        config.__post_init__()


def test_settings_from_before_the_switches_are_read_as_they_were(tmp_path: Path) -> None:
    values = to_dict(RunConfig(tmp_path, tmp_path / "out"))
    new = ("loss", "teacher", "predictor", "head_activation", "head_l2", "head_weight_norm")
    for name in new:
        del values["method"][name]
    del values["fraction"], values["optimizer"]["scaling"], values["zero_init_residual"]
    assert from_dict(RunConfig, values, "config.json") == RunConfig(tmp_path, tmp_path / "out")


def test_the_command_takes_them_and_keeps_them(data: Path, tmp_path: Path, plain_process: PlainProcess) -> None:
    """In a process of its own, for the same reason."""
    options = (
        f"--data {data} --out {tmp_path / 'run'} --method dino --backbone vit_micro_conv8 --views.global-size 32 "
        "--views.local-size 16 --views.num-local 0 --epochs 1 --batch-size 8 --optimizer.warmup-epochs 0 "
        "--fraction 0.7 --optimizer.scaling sqrt --workers 0 --device cpu --evaluate-every 0 "
        "--method.out-dim 32 --method.hidden-dim 16 --method.bottleneck-dim 8 --method.loss reverse_kl "
        "--method.centering softmax --method.teacher previous_epoch --method.predictor mlp "
        "--method.head-activation relu --method.no-head-l2 --method.no-head-weight-norm "
        "--method.freeze-last-layer-epochs 0"
    )
    code, _, error = plain_process.run({"train": ["train", *options.split()]}, tmp_path)["train"]
    assert code == 0, error
    run = json.loads((tmp_path / "run" / "config.json").read_text())["run"]
    assert run["fraction"] == 0.7
    assert run["optimizer"]["scaling"] == "sqrt"
    wanted = {"loss": "reverse_kl", "centering": "softmax", "teacher": "previous_epoch", "predictor": "mlp"}
    wanted |= {"head_activation": "relu", "head_l2": False, "head_weight_norm": False}
    assert wanted.items() <= run["method"].items()
