"""The choice of memory layout and attention kernel changes results by rounding alone, and a resumed run repeats it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from timm.layers.attention import Attention

from dinoscope.models.layers import choose_kernels
from dinoscope.training import trainer as training
from tests.conformance import cases


def settings(data, out, **changes):
    return cases.run_config("dino", data, out, **changes)


def parameters(run) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in run.method.named_parameters()}


@pytest.mark.parametrize("backbone", ["resnet_micro", "vit_micro_conv8"])
def test_the_layout_changes_a_step_by_rounding_alone(backbone, picture_folder, tmp_path, monkeypatch) -> None:
    config = settings(picture_folder(8), tmp_path / "run", backbone=backbone)
    chosen = cases.trainer(config, double=True)
    monkeypatch.setattr(training, "choose_kernels", lambda *arguments: None)
    plain = cases.trainer(config, double=True)
    views = next(plain.batches())
    for _ in range(2):
        assert chosen.make_step(views)["loss"] == pytest.approx(plain.make_step(views)["loss"], abs=1e-12)
    torch.testing.assert_close(parameters(chosen), parameters(plain), atol=1e-10, rtol=1e-8)


def test_gradients_and_state_have_the_layout_of_their_parameters_also_after_a_restart(picture_folder, tmp_path) -> None:
    """Fused optimisers read all three side by side, and would mix up the numbers of two layouts."""
    config = settings(picture_folder(8), tmp_path / "run", backbone="resnet_micro", accumulate=2)
    first = cases.trainer(config)
    views = next(first.batches())
    first.make_step(views)
    first.save(tmp_path / "file")
    second = cases.trainer(config)
    second.restore(tmp_path / "file")
    for run in (first, second):
        run.make_step(views)
        convolutions = [each for _, each in run.method.trained_parameters() if each.ndim == 4]
        assert any(each.is_contiguous(memory_format=torch.channels_last) for each in convolutions)
        for weights in convolutions:
            state = run.optimizer.state[weights]
            assert weights.grad is not None
            assert (
                weights.stride() == weights.grad.stride() == state["exp_avg"].stride() == state["exp_avg_sq"].stride()
            )
    torch.testing.assert_close(parameters(first), parameters(second), atol=0, rtol=0)


@pytest.mark.parametrize(("device", "precision", "fused"), [("cpu", "bf16", False), ("cpu", "fp32", True)])
def test_attention_is_not_fused_in_bf16_on_a_cpu(device, precision, fused) -> None:
    attention = Attention(dim=32, num_heads=2)
    tokens = torch.randn(2, 9, 32)
    before = attention(tokens)
    choose_kernels(torch.nn.Sequential(attention), torch.device(device), precision)
    assert attention.fused_attn == fused
    torch.testing.assert_close(attention(tokens), before)


def test_the_loss_in_bf16_stays_near_that_in_fp32_over_fifty_steps(picture_folder, tmp_path) -> None:
    config = settings(picture_folder(16), tmp_path / "run", epochs=25, views=replace(cases.VIEWS, num_local=0))
    losses = {}
    for precision in ("fp32", "bf16"):
        run = cases.trainer(replace(config, precision=precision))
        losses[precision] = torch.tensor([run.make_step(views)["loss"] for views in run.batches()])
    assert len(losses["fp32"]) == 50
    difference = (losses["bf16"] - losses["fp32"]).abs()
    assert difference[:10].max() < 0.03
    assert difference.max() < 0.15
