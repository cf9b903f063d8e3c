"""`dinoscope ablate`: whole studies, killed and gone on with, what it prints and what it refuses."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dinoscope.cli import main
from dinoscope.cli.studies import _say_measuring
from dinoscope.study.definition import named_studies, parse_study, resolve
from dinoscope.study.effects import AblationRun
from dinoscope.study.results import read_result, to_json
from dinoscope.study.state import STOPPED, Stopped, mark_stopped
from tests.study.studies import realistic
from tests.study.test_state import contents, settings
from tests.study.test_worker import PATIENCE, logged, wait_for

STUDY = """
title = "Outputs and balance"
seeds = [0]

[base]
epochs = 4
batch_size = 12
drop_path = 0.1
precision = "fp32"
saving.every_steps = 1
log_every = 1
evaluate_every = 2
optimizer.warmup_epochs = 0
views.global_size = 32
method.out_dim = 64
method.hidden_dim = 32
method.bottleneck_dim = 16

[axes.outputs]
title = "Outputs of the head (appendix C)"
setting = "method.out_dim"
values = [32, 64]

[axes.balance]
title = "Balance (Table 7)"
values = [{ label = "none", method.centering = "none" }]
"""
IDLE = '[axes.idle]\nsetting = "method.out_dim"\nvalues = [64]\n'
RUNS = ("baseline-s0", "outputs-32-s0", "balance-none-s0")
OF_THE_MACHINE = {"images_per_second", "seconds", "peak_memory"}


@pytest.fixture
def data(picture_folder) -> Path:
    picture_folder(12, classes=2, split="val")
    return picture_folder(24, classes=2, split="train")


def arguments(data: Path, out: Path, *more: str, text: str = STUDY) -> list[str]:
    file = out.with_name(f"{out.name}.toml")
    file.write_text(text)
    return ["ablate", str(file), "--data", str(data), "--out", str(out), "--device", "cpu", *more]


def runs_of(out: Path) -> list[AblationRun]:
    """Every run of the result, without what depends on the machine and the place."""
    return [
        replace(
            run,
            metrics={name: value for name, value in run.metrics.items() if name not in OF_THE_MACHINE},
            folder=Path(run.folder).name,
        )
        for run in read_result(out / "ablation.json").runs
    ]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_study_killed_in_the_middle_ends_in_the_same_table(data, tmp_path, started) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(arguments(data, whole, "--axes", "outputs")) == 0
    command = [sys.executable, "-m", "dinoscope", *arguments(data, killed, "--axes", "outputs")]
    for name, steps in (("baseline-s0", 2), ("outputs-32-s0", 3)):
        with (tmp_path / "study.log").open("wb") as log:
            study = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
        started.append(study)
        run = settings(data, killed / "runs" / name)
        wait_for(lambda run=run, steps=steps: logged(run) >= steps, f"the middle of {name}")
        study.kill()
        assert study.wait(PATIENCE) == -signal.SIGKILL
    assert not (killed / "ablation.json").exists()
    assert main(arguments(data, killed, "--axes", "outputs")) == 0
    assert runs_of(killed) == runs_of(whole)
    assert [run.variant.label for run in runs_of(whole)] == ["64", "32"]  # the base, called after its own value

    assert all({"knn", "linear", "rank"} <= run.metrics.keys() for run in runs_of(whole))
    assert "| 32" in (whole / "ablation.md").read_text()

    before = contents(killed / "runs")  # finished runs, and what was measured of them, are kept
    assert main(arguments(data, killed, "--axes", "outputs", text=STUDY.replace("[32, 64]", "[32]"))) == 0
    assert contents(killed / "runs") == before
    assert [run.variant.label for run in runs_of(killed)] == ["baseline", "32"]


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that do not outlive a test that fails."""
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_failed_and_stopped_runs_are_results(data, tmp_path, capsys) -> None:
    out = tmp_path / "study"
    lost = '{ label = "lost", init = "nowhere/at-all" }]'
    text = STUDY.replace('"none" }]', f'"none" }}, {lost}').replace("epochs = 4", "epochs = 1")
    assert lost in text
    argv = arguments(data, out, "--axes", "balance", "--jobs", "2", text=text)
    assert main(argv) == 1
    printed = capsys.readouterr()
    assert "1 of 3 runs failed: balance-lost-s0" in printed.err
    assert f"written to {out}: ablation.json, ablation.md" in printed.out
    found = {run.variant.label: run for run in runs_of(out)}
    assert found["lost"].state == "failed"
    assert "nowhere/at-all" in found["lost"].diagnosis
    assert found["baseline"].state in ("finished", "collapsed")

    stopped = out / "runs" / "balance-none-s0"  # as if a rule had stopped it before its end
    shutil.rmtree(stopped / "exported")
    mark_stopped(stopped, Stopped("stop-on-collapse", 1, "collapsed to one output"))
    before = contents(stopped)
    assert main(argv) == 1
    printed = capsys.readouterr()
    assert "stopped early before, and not begun again: balance-none-s0" in printed.err
    assert "balance-none-s0 stopped: stopped early after 1 steps: collapsed to one output" in printed.err
    assert contents(stopped) == before
    (run,) = [run for run in runs_of(out) if run.variant.label == "none"]
    assert run.state == "stopped"
    assert "knn" not in run.metrics


def test_studies_are_listed_and_shown(capsys) -> None:
    assert main(["ablate"]) == 0
    printed = capsys.readouterr().out
    assert "components" in printed
    assert "Figure 7" in printed
    assert main(["ablate", "collapse", "--show", "--seeds", "0", "1", "2"]) == 0
    text = capsys.readouterr().out
    study = parse_study(text, "collapse", "")
    assert (study.recipe, study.seeds) == ("quickstart", (0, 1, 2))
    assert study.changes == {"method.centering": "center", "method.koleo": 0.0}
    assert main(["ablate", "batch-size", "--show", "--recipe", "dino_deit_small_100ep"]) == 0
    assert "batch_size = 1024" in capsys.readouterr().out


def test_a_dry_run_lists_times_and_writes_nothing(data, tmp_path, capsys) -> None:
    out = tmp_path / "study"
    assert main(arguments(data, out, "--dry-run")) == 0
    printed = capsys.readouterr().out
    for name in RUNS:
        assert name in printed
    assert "together about" in printed
    assert "3 runs, 288 images still to be seen" in printed  # 3 runs x 8 steps x 12 images
    assert not out.exists()
    assert main(arguments(data, out, "--dry-run", "--axes", "balance", "--epochs", "2")) == 0
    assert "2 runs, 96 images" in capsys.readouterr().out


REFUSALS = {
    "name": (["ablate", "colapse"], "no study 'colapse'; did you mean collapse"),
    "file": (["ablate", "nothing.toml"], "nothing.toml: no such file"),
    "axis": (["--axes", "outptus"], "no axis 'outptus'; did you mean outputs"),
    "recipe": (["--recipe", "quikstart"], "there is no recipe 'quikstart'; did you mean quickstart"),
    "seeds": (["--seeds", "1", "1"], "the seed '1' is given twice"),
    "idle": (["--axes", "idle"], "every value is the baseline's own (64), so there is nothing to vary"),
    "jobs": (["--jobs", "0"], "--jobs must be at least 1"),
    "masks": (["--masks", "nowhere"], "--masks nowhere: no such folder"),
    "few images": (["--data", "FEW"], "run baseline-s0: --batch-size 12 is more than the 3 readable images"),
    "median without labels": (["--data", "PLAIN", "--stop-median"], "--stop-median compares online k-NN"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_mistake_is_one_line_and_nothing_starts(name, data, picture_folder, tmp_path, capsys) -> None:
    argv, words = REFUSALS[name]
    places = {"FEW": lambda: picture_folder(3, name="few"), "PLAIN": lambda: picture_folder(20, name="plain")}
    argv = [str(places[part]()) if part in places else part for part in argv]
    if argv[0] == "--data":  # given twice, it would join the places
        data, argv = Path(argv[1]), argv[2:]
    argv = argv if argv[:1] == ["ablate"] else arguments(data, tmp_path / "study", *argv, text=STUDY + IDLE)
    assert main(argv) == 2
    printed = capsys.readouterr()
    assert words in printed.err.splitlines()[-1]
    assert "Traceback" not in printed.err
    assert not (tmp_path / "study").exists()


def test_the_result_of_another_study_is_not_written_over(data, tmp_path, capsys) -> None:
    out = tmp_path / "study"
    out.mkdir()
    (out / "ablation.json").write_text(to_json(realistic()))  # called collapse-study
    before = contents(out)
    assert main(arguments(data, out)) == 2
    assert "holds the result of the study 'collapse-study', not of 'study': choose" in capsys.readouterr().err
    assert contents(out) == before
    (out / "ablation.json").write_text("{")  # damaged: it can be made again
    assert main(arguments(data, out, "--dry-run", "--axes", "balance")) == 0


def test_measuring_says_each_run_where_there_is_no_terminal(capsys, monkeypatch) -> None:
    _say_measuring("baseline-s0", 1, 3)
    assert capsys.readouterr().err == "baseline-s0: measuring (1 of 3)\n"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)  # there, bars move
    _say_measuring("base-s1", 2, 3)
    assert capsys.readouterr().err == ""


def test_data_and_out_are_needed(tmp_path, capsys) -> None:
    assert main(["ablate", "collapse", "--out", str(tmp_path / "study")]) == 2
    assert "--data, the folder of images, is missing" in capsys.readouterr().err
    assert main(["ablate", "collapse", "--data", str(tmp_path)]) == 2
    assert "--out, the folder of the study, is missing" in capsys.readouterr().err


def test_the_file_in_the_docs_is_a_study(tmp_path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "ablation.md").read_text()
    assert STOPPED in page
    study, combinations = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    found = resolve(parse_study(study, "docs", "docs"), tmp_path, tmp_path)
    assert [variant.label for variant, _ in found[1:]] == ["64", "256", "512", "no batch norm", "narrow"]
    listed = study.replace("one-at-a-time", "listed") + combinations
    found = resolve(parse_study(listed, "docs", "docs"), tmp_path, tmp_path)
    assert [variant.label for variant, _ in found[1:]] == ["64 x narrow"]
    for name in named_studies():
        assert f"| `{name}` |" in page
