"""Parity with the DINO reference: head, loss with gradients and centres, schedules, clipping."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dinoscope.losses.dino import dino_loss, teacher_probabilities, updated_center
from dinoscope.methods.dino import DINOConfig
from dinoscope.models.heads import DINOHead, HeadShape
from dinoscope.schedules import cosine, epoch_warmup, warmup_cosine
from dinoscope.training.trainer import clip_each

DATA = Path(__file__).parent.parent / "data"


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return load_file(DATA / "golden_dino.safetensors")


@pytest.fixture(scope="module")
def numbers() -> dict:
    return json.loads((DATA / "golden_dino.json").read_text())


def test_head(tensors) -> None:
    head = DINOHead(64, 256, HeadShape(hidden_dim=96, bottleneck_dim=32))
    weights = {name[5:]: value for name, value in tensors.items() if name.startswith(("head.mlp", "head.last"))}
    head.load_state_dict(weights, strict=True)
    torch.testing.assert_close(head(tensors["head.input"]), tensors["head.output"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("call", "epoch"), [(0, 0), (1, 1), (2, 5)])
def test_loss_gradient_and_centre(call, epoch, tensors, numbers) -> None:
    """Temperatures warm from 0.03 to 0.07 over three epochs; the calls are in epochs 0, 1 and 5."""
    golden, recorded = (
        numbers[f"loss.{call}"],
        {
            name: tensors[f"loss.{call}.{name}"]
            for name in ("student", "teacher", "center_before", "center_after", "student_grad")
        },
    )
    temperature = epoch_warmup(epoch, 3, 0.03, 0.07)
    assert temperature == pytest.approx(golden["teacher_temp"])
    student = recorded["student"].unflatten(0, (golden["n_views"], golden["batch"])).requires_grad_()
    teacher = recorded["teacher"].unflatten(0, (2, golden["batch"]))
    center = recorded["center_before"][0]
    loss = dino_loss(student, teacher_probabilities(teacher, center, temperature), golden["student_temp"])
    loss.backward()
    assert loss.item() == pytest.approx(golden["value"], abs=1e-5)
    torch.testing.assert_close(student.grad.flatten(0, 1), recorded["student_grad"], atol=1e-6, rtol=1e-4)
    moved = updated_center(center, teacher.mean(dim=(0, 1)), golden["center_momentum"])
    torch.testing.assert_close(moved, recorded["center_after"][0], atol=1e-7, rtol=0)


def test_learning_rate_schedule(numbers) -> None:
    recorded = numbers["cosine_schedule"]
    arguments, values = recorded["args"], recorded["values"]
    steps = arguments["niter_per_ep"]
    ours = [
        warmup_cosine(
            step,
            arguments["epochs"] * steps,
            arguments["warmup_epochs"] * steps,
            arguments["base_value"],
            arguments["final_value"],
        )
        for step in range(len(values))
    ]
    assert ours == pytest.approx(values, abs=1e-12)


def test_momentum_schedule(numbers) -> None:
    recorded = numbers["momentum_schedule"]
    arguments, values = recorded["args"], recorded["values"]
    start, end = arguments["base_value"], arguments["final_value"]
    ours = [cosine(start, end, step / len(values)) for step in range(len(values))]
    assert ours == pytest.approx(values, abs=1e-12)


def test_clipping_is_per_tensor(tensors) -> None:
    weight, bias = nn.Parameter(torch.zeros(4, 6)), nn.Parameter(torch.zeros(4))
    weight.grad, bias.grad = tensors["clip.weight_grad_before"].clone(), tensors["clip.bias_grad_before"].clone()
    norm = clip_each([weight, bias], 3.0)
    torch.testing.assert_close(weight.grad, tensors["clip.weight_grad_after"], atol=1e-6, rtol=0)
    torch.testing.assert_close(bias.grad, tensors["clip.bias_grad_after"], atol=1e-6, rtol=0)
    before = torch.cat([tensors["clip.weight_grad_before"].flatten(), tensors["clip.bias_grad_before"]])
    assert norm.item() == pytest.approx(before.norm().item(), rel=1e-5)


def test_loss_equals_the_plain_double_sum() -> None:
    """Against Eq. 3 written as two loops over views with a softmax of the student."""
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 3, 7, dtype=torch.float64), torch.randn(2, 3, 7, dtype=torch.float64)
    probabilities = teacher_probabilities(teacher, torch.randn(7, dtype=torch.float64), 0.05)
    terms = [
        -(probabilities[t] * torch.log_softmax(student[s] / 0.1, dim=-1)).sum(dim=-1).mean()
        for t in range(2)
        for s in range(5)
        if s != t
    ]
    assert dino_loss(student, probabilities, 0.1).item() == pytest.approx(torch.stack(terms).mean().item(), abs=1e-12)


def test_two_views_by_hand() -> None:
    """One image, two views, two outputs. Student logits 0 give q = (1/2, 1/2), so each of the two pairs costs ln 2."""
    teacher = torch.tensor([[[1.0, 0.0]], [[0.25, 0.75]]])
    assert dino_loss(torch.zeros(2, 1, 2), teacher, 0.1).item() == pytest.approx(0.6931472, abs=1e-6)


@pytest.mark.parametrize(
    "wrong", [{"teacher_temperature": 0.0}, {"center_momentum": 1.5}, {"out_dim": 1}, {"student_temperature": -1.0}]
)
def test_impossible_settings_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DINOConfig(**wrong)
