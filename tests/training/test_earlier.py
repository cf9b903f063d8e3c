"""Runs, checkpoints and results of version 0.1 (commit 6d2a0c1) are read."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dinoscope import checkpoint
from dinoscope.evaluation.base import Context
from dinoscope.evaluation.results import kept, kept_names
from dinoscope.methods import method_name
from dinoscope.models.backbone import BACKBONES
from dinoscope.models.vit import ViTShape
from dinoscope.report.build import write_report
from dinoscope.study.results import read_result
from dinoscope.training.loop import train
from dinoscope.training.run_folder import read_circumstances, read_config, read_metrics, read_sessions

EARLIER = Path(__file__).parent.parent / "data" / "earlier"


@pytest.fixture(autouse=True)
def _nano(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network of these runs, too small for the registry."""
    monkeypatch.setitem(BACKBONES, "vit_nano", ViTShape(8, 12, 1, 1, mlp_ratio=2.0))


def test_a_stopped_run_is_resumed_to_the_same_end(tmp_path) -> None:
    run = Path(shutil.copytree(EARLIER / "stopped", tmp_path / "run"))
    config = replace(read_config(run), data=EARLIER / "pictures")
    assert (method_name(config.method), config.method.centering, config.max_megapixels) == ("dino", "sinkhorn", None)
    result = train(config, resume=True)
    assert (result.steps, result.interrupted) == (6, False)
    expected = checkpoint.load(EARLIER / "resumed.safetensors")
    found = checkpoint.load(run / "checkpoints" / "step-000000006.safetensors")
    assert found.metadata["data_fingerprint"] == expected.metadata["data_fingerprint"]
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():  # bit for bit on one machine; other CPUs round otherwise
        torch.testing.assert_close(found.tensors[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    assert [line["step"] for line in read_metrics(run) if "loss" in line] == list(range(6))
    first, second = read_sessions(run)
    assert (first.memory, bool(second.memory), second.first_step) == ("", True, 3)


def test_a_finished_run_is_read() -> None:
    run = EARLIER / "finished"
    config = read_config(run)
    assert (method_name(config.method), config.method.queue_size) == ("moco", 16)
    backbone = checkpoint.load_backbone(run)
    with torch.no_grad():
        feature = backbone(backbone.normalize(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))).feature
    assert feature.shape == (2, 12)
    assert read_circumstances(run).machines[0].endswith(f"torch {read_sessions(run)[0].versions['torch']}")
    assert read_circumstances(run).peak_memory is None


def test_results_are_read() -> None:
    run = EARLIER / "finished"
    names = {"knn": "knn_top1", "linear": "linear_top1", "throughput": "images_per_second"}
    for name, metric in names.items():
        result = kept(run, name)
        assert result is not None
        assert metric in {found.name for found in result.metrics}
    for name in ("voc", "explain", "davis"):
        assert kept_names(run, name) != []


def test_a_finished_run_is_reported(tmp_path) -> None:
    run = Path(shutil.copytree(EARLIER / "finished", tmp_path / "run"))
    context = Context(device=torch.device("cpu"), workers=0)
    written = write_report((str(run),), tmp_path / "report.html", EARLIER / "pictures", context=context)
    page = written.path.read_text(encoding="utf-8")
    assert "MoCo v2" in page
    knn = kept(run, "knn")
    assert knn is not None
    assert f"{knn.metrics[0].value:.1f}" in page


def test_an_ablation_study_is_read() -> None:
    result = read_result(EARLIER / "study" / "ablation.json")
    assert [(run.variant.label, run.state) for run in result.runs] == [("baseline", "finished"), ("8", "finished")]
    for run in ("base-s0", "outputs-8-s0"):
        known = read_circumstances(EARLIER / "study" / "runs" / run)
        assert known.code[0].startswith("0.1.0, commit 6d2a0c1")
        assert known.peak_memory is not None
        assert known.peak_memory / 1e6 in {found.metrics["peak_memory"] for found in result.runs}
