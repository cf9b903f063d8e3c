"""Every benchmark runs, in its smallest form and without the references, which are not here."""

from __future__ import annotations

import importlib.util
import multiprocessing.dummy
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tests.pictures import write_pictures

FOLDER = Path(__file__).parents[1] / "benchmarks"
SHARED = "taking_turns"

SMALLEST = {
    "channels": ("--repeats", "1"),
    "collapse": ("--settings", "1", "--steps", "20"),
    "containers": ("index", "--images", "2000"),
    "copies": ("--data", "DATA", "--out", "OUT", "--images", "2"),
    "curation": ("--images", "300", "--epochs", "2", "--seeds", "1"),
    "davis": ("--patch", "16", "--repeats", "1"),
    "davis_scores": ("--frames", "3", "--size", "48", "--repeats", "1"),
    "demo_attention": ("--network", "vit_micro_patch16_64", "--size", "64", "--repeats", "1", "--threads", "1"),
    "dicom": ("--files", "5"),
    "duplicates": ("--images", "12", "--copies", "4"),
    "gpu": ("--rehearse",),
    "knn": ("--gallery", "2000", "--queries", "20", "--dim", "16", "--repeats", "1"),
    "patch_features": ("--network", "vit_micro_conv8", "--frames", "2", "--repeats", "1"),
    "label_free": ("--rehearse",),
    "retrieval": ("--images", "300", "--dim", "8"),
    "train_step": ("--batch", "2", "--network", "vit_micro_patch16_64", "--repeats", "1"),
    "views": ("--images", "1", "--repeats", "1"),
    "voc": ("--images", "1", "--network", "vit_micro_patch16_64", "--batch-size", "1", "--repeats", "1"),
}
"""benchmark -> options."""

LONG = {"channels", "collapse", "containers", "curation", "gpu", "patch_features"}
"""More than a few seconds, even so."""

THREADS = SimpleNamespace(Pipe=multiprocessing.dummy.Pipe, Process=threading.Thread)
"""Stands for a context of multiprocessing: a process of its own takes seconds to start."""


def test_every_benchmark_is_run_here() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} - {SHARED} == SMALLEST.keys()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in SMALLEST])
def test_a_benchmark_runs(name, monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    if name == "dicom":
        pytest.importorskip("pydicom")
    if name == "patch_features":
        pytest.importorskip("zarr")
    benchmark = imported(name)
    if name == "davis":
        monkeypatch.setattr(benchmark, "in_fresh_process", benchmark.frame_bytes)
        monkeypatch.setattr(benchmark, "DIM", 16)
    if name == "train_step":
        monkeypatch.setattr(benchmark.mp, "get_context", lambda kind: THREADS)
        monkeypatch.setattr(benchmark, "OUTPUTS", 64)
    if name == "copies":
        write_pictures(tmp_path / "images", 2)
    places = {"DATA": str(tmp_path / "images"), "OUT": str(tmp_path / "out")}
    monkeypatch.setattr(sys, "argv", [name, *(places.get(option, option) for option in SMALLEST[name])])
    if name == "gpu":  # it sets how blocks are compiled
        monkeypatch.setattr(benchmark.trainer_module, "COMPILING", benchmark.trainer_module.COMPILING)
    assert not benchmark.main()
    out = capsys.readouterr().out
    assert any(character.isdigit() for character in out)
    assert "failed" not in out


def imported(name: str) -> ModuleType:
    """The file as a module of another name: `knn` and `views` are too short to be taken."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_correlations_are_over_all_runs_and_over_those_of_a_method(monkeypatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    benchmark = imported("label_free")
    scores = {
        f"{method}{number}": {
            "knn": 50.0 + number,
            "rank": float(-number),
            "lidar": float(number**2),
            "last loss": loss,
        }
        for method, loss in (("emp", 1.0), ("simclr", 9.0))
        for number in range(4)
    }
    methods = {name: name[:-1] for name in scores}
    found = {(each.runs, each.score): each for each in benchmark.correlations(scores, methods)}
    assert {key: round(each.value, 6) for key, each in found.items()} == {
        (runs, score): sign for runs in ("all", "emp", "simclr") for score, sign in (("rank", -1), ("lidar", 1))
    }  # losses of a method are all equal here, and of several are not compared
    assert found["all", "rank"].n == 8
    three = {name: scores[name] for name in ("emp0", "emp1", "emp2")}
    assert benchmark.correlations(three, methods) == []
    (one,) = [benchmark.correlation("all", "lidar", (1, 2, 3, 4, 5), (1, 2, 3, 5, 4))]
    assert one.value == pytest.approx(0.9)  # 1 - 6 x 2 / (5 x 24)
    assert (one.low, one.high) == pytest.approx((-0.169, 0.996), abs=0.001)  # tanh(1.472 -+ 1.96 x 0.838)
