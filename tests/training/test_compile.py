"""`--compile`: the same run, the same names of weights, and without it if the compiler fails."""

from __future__ import annotations

import logging
import shutil

import pytest
import torch

from dinoscope.system import exact_cuda
from dinoscope.training import trainer as trainer_module
from dinoscope.training.loop import train
from tests.conformance import cases
from tests.conformance.test_methods import states_differ
from tests.training.test_loop import TOTAL, settings, weights


@pytest.fixture
def traced(monkeypatch):
    """Blocks are traced, with their backward pass, and what was traced is run as it is: no code is generated."""
    monkeypatch.setattr(trainer_module, "COMPILING", {"backend": "aot_eager", "dynamic": False})
    yield
    torch.compiler.reset()


@pytest.mark.parametrize(
    "changes",
    [
        {"drop_path": 0.2},
        pytest.param({"backbone": "resnet_micro"}, marks=pytest.mark.slow),
        pytest.param({"checkpoint_activations": True, "accumulate": 2}, marks=pytest.mark.slow),
    ],
)
def test_compiled_blocks_train_as_plain_ones(changes, traced, picture_folder, tmp_path) -> None:
    config = cases.run_config("dino", picture_folder(24), tmp_path, **changes)
    plain, compiled = (cases.trainer(cases.replace(config, compile=on), double=True) for on in (False, True))
    views = cases.batch(config)
    for _ in range(2):
        values = plain.make_step(views)
        assert compiled.make_step(views) == pytest.approx(values, rel=1e-9, abs=1e-9)
    assert compiled.compiled
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    assert plain.method.state_dict().keys() == compiled.method.state_dict().keys()
    assert states_differ(plain.method.state_dict(), compiled.method.state_dict(), tolerance=1e-9) == []


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_generated_code_drops_the_same_paths(picture_folder, tmp_path) -> None:
    config = cases.run_config("dino", picture_folder(24), tmp_path, drop_path=0.5)
    plain, compiled = cases.trainer(config), cases.trainer(cases.replace(config, compile=True))
    views = cases.batch(config)
    for _ in range(2):
        assert compiled.make_step(views) == pytest.approx(plain.make_step(views), rel=1e-4)
    assert compiled.compiled
    torch.compiler.reset()


def test_a_compiler_that_fails_is_not_used(monkeypatch, caplog, picture_folder, tmp_path) -> None:
    def fail(graph, inputs):
        raise RuntimeError("no compiler is here\nand more lines")

    monkeypatch.setattr(trainer_module, "COMPILING", {"backend": fail})
    data, plain, out = picture_folder(24), tmp_path / "plain", tmp_path / "run"
    # a ResNet: its first forward, which is made again, moves statistics
    train(settings(data, plain, backbone="resnet_micro", drop_path=0.0))
    with caplog.at_level(logging.WARNING, "dinoscope"):
        train(settings(data, out, backbone="resnet_micro", drop_path=0.0, compile=True))
    lines = [record.getMessage() for record in caplog.records if "--compile" in record.getMessage()]
    assert len(lines) == 1
    assert "no compiler is here" in lines[0]
    assert "\n" not in lines[0]
    assert states_differ(weights(out), weights(plain)) == []


def test_a_run_may_be_resumed_with_and_without_it(traced, picture_folder, tmp_path) -> None:
    config = settings(picture_folder(24), tmp_path / "run", evaluate_every=1, compile=True)
    assert train(config).steps == TOTAL
    assert train(cases.replace(config, compile=False), resume=True).steps == TOTAL


def test_products_on_cuda_are_exact_while_a_run_is_made() -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    with exact_cuda(torch.device("cuda")) as line:
        assert not matmul.allow_tf32
        assert not cudnn.allow_tf32
        assert cudnn.benchmark
        assert "no TF32" in line
    assert (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark) == before
    with exact_cuda(torch.device("cpu")) as line:
        assert line == ""
        assert (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark) == before
