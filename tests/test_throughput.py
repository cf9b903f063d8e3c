"""Speed, size and memory: what the figures say, what they rest on, and what is refused."""

from __future__ import annotations

import json
import mmap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dinoscope import system
from dinoscope.cli import main
from dinoscope.config import to_dict
from dinoscope.errors import UserError
from dinoscope.evaluation.results import kept
from dinoscope.evaluation.throughput import (
    CPU_BATCH,
    ThroughputConfig,
    made_up_views,
    protocol_line,
    throughput,
    training_throughput,
)
from dinoscope.methods.dino import DINO
from dinoscope.models.backbone import BackboneConfig, build_backbone
from dinoscope.system import Memory, MemoryWatch, Timing, machine, time_calls
from dinoscope.training.loop import train
from tests.conformance import cases

CPU = torch.device("cpu")
MICRO = BackboneConfig("vit_micro_conv8", image_size=32)


@pytest.fixture(autouse=True)
def _short_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "_LEAST_SECONDS", 0.02)


def values(metrics) -> dict[str, float]:
    return {metric.name: metric.value for metric in metrics}


# The clock and the memory


def test_a_call_of_known_length_is_timed_rightly(monkeypatch) -> None:
    now, calls = 5.0, 0
    monkeypatch.setattr(system.time, "perf_counter", lambda: now)

    def call() -> None:
        nonlocal now, calls
        calls += 1
        now += 0.25 if calls == 1 else 0.006  # the first call is a slow one

    timed = time_calls(call, CPU, repeats=3)
    assert timed.seconds == pytest.approx((0.006,) * 3)
    assert timed.calls == 4  # as many as fill a repeat of 0.02 s
    assert calls == system.WARM_UP_CALLS + 3 * timed.calls


def test_a_call_in_real_time_takes_at_least_its_time() -> None:
    timed = time_calls(lambda: time.sleep(0.005), CPU, repeats=2)
    assert all(seconds >= 0.005 for seconds in timed.seconds)


def test_images_per_second_are_the_median_the_slowest_and_the_fastest() -> None:
    metrics = Timing((0.5, 0.1, 0.25), calls=1).metrics("speed", images=10)
    assert values(metrics) == {"speed": 40, "speed_slowest": 20, "speed_fastest": 100}
    assert {metric.unit for metric in metrics} == {"images/s"}


def test_progress_is_told_from_the_first_call_on() -> None:
    heard: list[tuple[int, int]] = []
    time_calls(lambda: None, CPU, 2, lambda done, total: heard.append((done, total)))
    assert heard == [(0, 2), (1, 2), (2, 2)]


def test_no_repeats_are_refused() -> None:
    with pytest.raises(UserError, match="--repeats must be at least 1, not 0"):
        time_calls(lambda: None, CPU, 0)


def test_memory_on_a_cpu_is_the_growth_of_the_process_at_its_peak(monkeypatch) -> None:
    resident, peaks = iter([100]), iter([150, 420])
    monkeypatch.setattr(system, "_resident_bytes", lambda: next(resident))
    monkeypatch.setattr(system, "_peak_resident_bytes", lambda: next(peaks))
    memory = MemoryWatch(CPU).read()
    assert memory.peak == 320
    assert "growth" in memory.meaning
    assert values(Memory(3 * 2**20, "").metrics("peak")) == {"peak": 3}


def test_memory_below_an_earlier_peak_is_not_guessed(monkeypatch) -> None:
    monkeypatch.setattr(system, "_resident_bytes", lambda: 100)
    monkeypatch.setattr(system, "_peak_resident_bytes", lambda: 500)
    memory = MemoryWatch(CPU).read()
    assert memory.peak is None
    assert "held more before" in memory.meaning
    assert memory.metrics("peak") == []


def test_a_system_that_does_not_say_is_reported(monkeypatch) -> None:
    monkeypatch.setattr(system, "_resident_bytes", lambda: None)
    assert "does not say" in MemoryWatch(CPU).read().meaning


def test_memory_that_is_taken_is_seen() -> None:
    watch = MemoryWatch(CPU)
    room = (watch.peak or 0) - (watch.resident or 0)
    size = max(room, 0) + 64 * 2**20  # beyond whatever the tests held before
    with mmap.mmap(-1, size) as taken:  # from the system: an allocator may give what the process holds already
        for page in range(0, size, mmap.PAGESIZE):
            taken[page] = 1
        memory = watch.read()
    assert memory.peak is not None
    assert memory.peak >= 0.9 * size


def test_the_machine_has_a_name() -> None:
    here = machine(CPU)
    assert here.device == "cpu"
    assert here.name
    assert here.line() == f"{here.name}, 1 CPU thread, torch {torch.__version__}"


# The network


def test_the_network_alone() -> None:
    backbone = build_backbone(MICRO).train()
    config = ThroughputConfig(image_size=32, batch_size=4, repeats=2)
    metrics, protocol = throughput(backbone, CPU, config)
    found = values(metrics)
    assert found["parameters"] == pytest.approx(0.288408)  # counted by hand from the shape of the network
    assert found["images_per_second_slowest"] <= found["images_per_second"] <= found["images_per_second_fastest"]
    assert (protocol["backbone"], protocol["image_size"], protocol["batch_size"]) == ("vit_micro_conv8", 32, 4)
    assert (protocol["precision"], protocol["repeats"], protocol["machine"]) == ("fp32", 2, to_dict(machine(CPU)))
    assert "batch 4 of 32 px, fp32, median of 2 repeats" in protocol_line(protocol)


def test_a_cpu_takes_a_smaller_batch_by_default(monkeypatch) -> None:
    seen: list[tuple[int, ...]] = []
    backbone = build_backbone(MICRO)
    forward = backbone.forward

    def spy(images):
        seen.append(tuple(images.shape))
        assert not torch.is_grad_enabled()
        assert not backbone.training
        return forward(images)

    monkeypatch.setattr(backbone, "forward", spy)
    throughput(backbone, CPU, ThroughputConfig(image_size=40, repeats=1))
    assert set(seen) == {(CPU_BATCH, 3, 40, 40)}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (ThroughputConfig(image_size=4), "less than one patch of vit_micro_conv8"),
        (ThroughputConfig(batch_size=0), "--batch-size must be at least 1, not 0"),
        (ThroughputConfig(image_size=32, repeats=0), "--repeats must be at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(config: ThroughputConfig, words: str) -> None:
    with pytest.raises(UserError, match=words):
        throughput(build_backbone(MICRO), CPU, config)


# Training


def test_training_steps_are_whole_and_leave_nothing(tmp_path: Path, monkeypatch) -> None:
    config = replace(cases.run_config("dino", tmp_path / "nowhere", tmp_path / "out"), batch_size=4, accumulate=2)
    steps: list[int] = []
    after = DINO.after_step

    def spy(method, step, output):
        assert method.student_backbone.net.cls_token.grad is not None
        assert 0 < step.index < step.total
        assert step.epoch >= method.config.freeze_last_layer_epochs
        steps.append(step.index)
        after(method, step, output)

    monkeypatch.setattr(DINO, "after_step", spy)
    metrics, protocol = training_throughput(config, CPU, repeats=2)
    assert len(steps) == system.WARM_UP_CALLS + 2 * protocol["steps_per_repeat"]
    assert len(set(steps)) == 1  # the same step each time
    assert values(metrics)["training_images_per_second"] > 0
    assert (protocol["method"], protocol["views"]) == ("dino", "2 x 32 + 2 x 16")
    assert (protocol["batch_size"], protocol["accumulate"]) == (4, 2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["simclr", "moco", "byol", "swav-queue", "supervised"])
def test_every_method_can_be_timed(name: str, tmp_path: Path) -> None:
    metrics, protocol = training_throughput(cases.run_config(name, tmp_path, tmp_path), CPU, repeats=1)
    assert protocol["method"] == name.split("-")[0]
    assert values(metrics)["training_images_per_second"] > 0


def test_made_up_views_have_the_numbers_and_sizes_of_the_settings(tmp_path: Path) -> None:
    config = cases.run_config("dino", tmp_path, tmp_path)
    views = made_up_views(config)
    assert views.global_views.shape == (2, 8, 3, 32, 32)
    assert views.local_views is not None
    assert views.local_views.shape == (2, 8, 3, 16, 16)
    assert views.labels is not None
    assert views.labels.shape == (8,)
    without = made_up_views(replace(config, views=replace(config.views, num_local=0)))
    assert without.local_views is None


def test_settings_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    config = replace(cases.run_config("dino", tmp_path, tmp_path), accumulate=3)
    with pytest.raises(UserError, match="cannot be cut into"):
        training_throughput(config, CPU)


# The command


def test_a_backbone_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--backbone", "vit_micro_conv8", "--image-size", "32", "--batch-size", "2", "--repeats", "1"]
    assert main(["throughput", *arguments, "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    assert "images_per_second" in captured.out
    assert "vit_micro_conv8, batch 2 of 32 px, fp32, median of 1 repeats" in captured.out
    assert "forwards, timed" in captured.err


def test_a_run_folder_keeps_both_results(
    picture_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(cases.run_config("dino", picture_folder(8), run, epochs=1))
    arguments = ["--image-size", "32", "--batch-size", "2", "--repeats", "1", "--device", "cpu", "--json"]
    assert main(["throughput", "--model", str(run), "--training", "--training-batch-size", "4", *arguments]) == 0
    printed = json.loads(capsys.readouterr().out)["models"]
    assert [each["model"] for each in printed] == ["run", "training run"]
    assert printed[1]["protocol"]["batch_size"] == 4
    for name, each in zip(("throughput", "training_throughput"), printed, strict=True):
        measurement = kept(run, name)
        assert measurement is not None
        assert measurement.protocol == each["protocol"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give one of --model, --backbone and --recipe"),
        (["--backbone", "resnet5"], "did you mean resnet50"),
        (["--recipe", "quickstar", "--training"], "did you mean quickstart"),
        (["--backbone", "resnet18", "--training"], "--training needs a method"),
        (["--recipe", "quickstart", "--training-batch-size", "4"], "--training-batch-size needs --training"),
        (["--backbone", "vit_micro_conv8", "--device", "cudax"], "--device cudax"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["throughput", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
