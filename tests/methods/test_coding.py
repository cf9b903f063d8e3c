"""SimDINO and EMP-SSL: what moves, what is refused, when they warn, and that their recipes are the published runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from dinoscope.data.views import VIEWS, sample_view, view_generator
from dinoscope.errors import UserError
from dinoscope.losses.coding_rate import coding_rate, max_coding_rate
from dinoscope.methods.emp import EMP, EMPConfig
from dinoscope.methods.method import Method
from dinoscope.methods.simdino import SimDINO, SimDINOConfig
from dinoscope.models.backbone import BackboneConfig
from dinoscope.recipes import run_config
from dinoscope.training.config import RunConfig, check
from dinoscope.types import Step, StepOutput
from tests.conformance import cases

VIT = BackboneConfig("vit_micro_conv8", image_size=32)
METHODS: dict[str, Method] = {
    "simdino": SimDINO(SimDINOConfig(hidden_dim=16, bottleneck_dim=8), VIT),
    "emp": EMP(EMPConfig(hidden_dim=16, projection_dim=8), VIT),
}


def recipe(name: str) -> RunConfig:
    return run_config(name, Path("data"), Path("out"))


def test_simdinos_teacher_follows_by_a_cosine_to_1_and_its_outputs_have_length_1() -> None:
    method = SimDINO(SimDINOConfig(hidden_dim=16, bottleneck_dim=8, teacher_momentum=0.5), VIT)
    lengths = method.student_head(torch.randn(4, method.evaluated_backbone.dim)).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.ones(4))
    student, teacher = (next(head.parameters()) for head in (method.student_head, method.teacher_head))
    with torch.no_grad():
        student.add_(1.0)
    begin = teacher.clone()
    method.after_step(Step(0, 10, 5), StepOutput(torch.zeros(())))
    torch.testing.assert_close(teacher, begin + 0.5)
    method.after_step(Step(10, 10, 5), StepOutput(torch.zeros(())))
    torch.testing.assert_close(teacher, begin + 0.5)


def test_simdino_has_no_prototypes_and_starts_with_equal_networks() -> None:
    method = METHODS["simdino"]
    names = {name for name, _ in method.named_parameters() if "last_layer" in name or "center" in name}
    assert names == set()
    weights = method.state_dict()
    assert all(
        torch.equal(tensor, weights[name.replace("student", "teacher", 1)])
        for name, tensor in weights.items()
        if name.startswith("student")
    )


@pytest.mark.parametrize("name", list(METHODS))
def test_collapse_is_seen_and_health_is_left_in_peace(name) -> None:
    """Constant, low-rank and evenly spread embeddings of 32 images in 8 dimensions."""
    method = METHODS[name]
    point = F.normalize(torch.ones(8), dim=0)
    spread = F.normalize(torch.randn(32, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    found = dict[str, str]()
    for kind, rows in {"constant": point.repeat(32, 1), "spread": spread}.items():
        views = rows.expand(2, 32, 8).contiguous().requires_grad_()
        outputs = {"student": views, "teacher": views.detach(), "projection": views, "local_projection": views[:0]}
        result = method.loss(outputs, Step(0, 10, 5))
        figures = {**result.logged, **method.health(result.statistics)}
        verdict = method.diagnose({key: float(value) for key, value in figures.items()})
        found[kind] = "healthy" if verdict is None else verdict.kind
    assert found == {"constant": "complete collapse", "spread": "healthy"}
    verdict = method.diagnose({"embedding_spread": 0.5, "coding_rate_share": 0.03})
    assert verdict is not None
    assert verdict.kind == "dimensional collapse"


def test_the_published_share_is_far_above_the_limit() -> None:
    """SimDINO's log: 0.424 of 0.4496. Features on a circle in 256 dimensions, of 512 images: below it."""
    angles = torch.linspace(0, 6.28, 512)
    circle = F.pad(torch.stack([angles.cos(), angles.sin()], dim=1), (0, 254))
    method = METHODS["simdino"]
    share = coding_rate(circle, 0.05).item() / max_coding_rate(512, 256, 0.05)
    assert method.diagnose({"embedding_spread": 0.06, "coding_rate_share": share}) is not None
    assert method.diagnose({"embedding_spread": 0.9, "coding_rate_share": 0.424 / 0.4496}) is None


def test_the_recipe_of_simdino_is_the_published_command() -> None:
    """main_dino.py of RobinWu218/SimDINO 8149fc4 with --eps 0.05 on 8 processes of 64 images."""
    run = recipe("simdino_deit_small")
    assert run.method == SimDINOConfig(eps=0.05 * 8, rate_images=64)
    assert run.batch_size == 8 * 64
    assert (run.views.num_global, run.views.num_local, run.epochs) == (2, 10, 100)
    optimizer = run.optimizer
    assert (optimizer.learning_rate, optimizer.clip, optimizer.warmup_epochs) == (5e-4, 3, 10)
    assert (optimizer.weight_decay, optimizer.final_weight_decay, run.drop_path) == (0.04, 0.4, 0.1)


def test_the_recipe_of_emp_is_the_published_command() -> None:
    """main.py of tsb0601/EMP-SSL 8fc3758 with --num_patches 20 --epoch 30."""
    run = recipe("emp_resnet18_cifar")
    optimizer = run.optimizer
    assert (run.batch_size, run.epochs, run.mean, run.std) == (100, 30, (0.5,) * 3, (0.5,) * 3)
    assert (optimizer.name, optimizer.trust, optimizer.peak(100)) == ("larc", 0.005, 0.3)
    assert (optimizer.weight_decay, optimizer.warmup_epochs, optimizer.min_learning_rate) == (1e-4, 0, 0)
    assert (optimizer.clip, optimizer.decayed, run.drop_path) == (0, "weights", 0)
    assert run.method == EMPConfig()


def test_the_head_of_emp_is_the_published_one() -> None:
    """Linear, batch norm, ReLU (the feature there); Linear, batch norm, ReLU, Linear."""
    method = EMP(EMPConfig(), BackboneConfig("resnet18_small", image_size=32))
    linear = [module for module in method.head if isinstance(module, torch.nn.Linear)]
    assert [(module.in_features, module.out_features) for module in linear] == [(512, 4096), (4096, 4096), (4096, 1024)]
    kinds = [type(module).__name__ for module in method.head]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear"]


def test_patches_are_squares_of_a_quarter_of_the_image() -> None:
    config = VIEWS["patches_32"]
    assert (config.num_global, config.num_local) == (20, 0)
    views = [sample_view(config, number, 32, 32, view_generator(0, 0, 3, number)) for number in range(20)]
    assert {(view.height, view.width, view.size) for view in views} == {(16, 16, 32)}
    assert len({(view.top, view.left) for view in views}) > 10
    photograph = sample_view(VIEWS["patches"], 0, 480, 640, view_generator(0, 0, 3, 0))
    assert photograph.height * photograph.width == pytest.approx(480 * 640 / 4, rel=0.01)


REFUSED = {
    "groups": ({"method": SimDINOConfig(rate_images=3)}, "cannot be cut into groups of --method.rate-images 3"),
    "group of one": ({"method": SimDINOConfig(rate_images=1)}, "a coding rate needs 2 images or more"),
    "one image": ({"method": SimDINOConfig(), "batch_size": 1}, "a coding rate needs 2 images or more"),
    "one image of EMP": ({"method": EMPConfig(), "batch_size": 1}, "a coding rate needs 2 images or more"),
    "one patch": (
        {"method": EMPConfig(), "views": replace(cases.VIEWS, num_global=1, num_local=0)},
        "must add up to 2 or more",
    ),
    "one view": (
        {"method": SimDINOConfig(), "views": replace(cases.VIEWS, num_global=1, num_local=0)},
        "must add up to 2 or more",
    ),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_settings_that_do_not_fit_are_refused(case) -> None:
    changes, message = REFUSED[case]
    config = cases.run_config("simdino", Path(), Path(), epochs=2, **{"batch_size": 8, **changes})
    with pytest.raises(UserError) as refusal:
        check(config, images=64, processes=1)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (SimDINOConfig, {"eps": 0.0}),
        (SimDINOConfig, {"teacher_momentum": 1.5}),
        (SimDINOConfig, {"bottleneck_dim": 0}),
        (EMPConfig, {"eps": -1.0}),
        (EMPConfig, {"alignment_weight": -1.0}),
    ],
)
def test_impossible_settings_are_refused(kind, wrong) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        kind(**wrong)
