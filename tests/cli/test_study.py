"""`dinoscope study`: a whole study, what it prints, and what it refuses."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest

from dinoscope.cli import main
from dinoscope.cli import studies as study_module
from dinoscope.cli.command import LINE
from dinoscope.cli.console import Console
from dinoscope.cli.progress import StudyTable, counts
from dinoscope.cli.studies import Execution, conclude, placed
from dinoscope.errors import UserError
from dinoscope.study.run import RunStatus, StudyResult
from dinoscope.training.config import RunConfig
from tests.study.test_state import contents, settings


def options(data: Path, out: Path, *more: str) -> list[str]:
    """Two runs of two steps."""
    common = ["--data", str(data), "--out", str(out), "--epochs", "2", "--device", "cpu", "--methods", "dino"]
    backbones = [] if "--backbones" in more else ["--backbones", "vit_micro_conv8"]
    return ["study", "small-comparison", *common, "--seeds", "0", "1", *backbones, *more]


@pytest.mark.slow
def test_a_whole_study_and_nothing_is_done_twice(picture_folder, tmp_path, capsys) -> None:
    picture_folder(12, classes=2, split="val")
    data, out = picture_folder(128, classes=2, split="train"), tmp_path / "study"
    assert main(options(data, out, "--jobs", "2")) == 0
    printed = capsys.readouterr()
    runs = [out / "runs" / f"dino-vit_micro_conv8-s{seed}" for seed in (0, 1)]
    for run in runs:
        assert (run / "exported" / "backbone.safetensors").is_file()
        values = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert any("knn_top1" in line for line in values)
        assert f"{run.name}: finished  epoch 2/2  step 2/2" in printed.err
    (row,) = [line for line in (out / "comparison" / "comparison.md").read_text().splitlines() if "| DINO" in line]
    assert row.count("±") == 2  # linear and k-NN over the two seeds
    before = contents(out / "runs")
    assert main(options(data, out)) == 0
    assert contents(out / "runs") == before
    assert capsys.readouterr().err.count("finished before") == 2
    assert main(options(data, out, "--epochs", "3")) == 2
    assert "s0 was begun with other settings: epochs: 2.0 -> 3.0" in capsys.readouterr().err
    assert contents(out / "runs") == before


def test_a_dry_run_lists_and_times_and_writes_nothing(picture_folder, tmp_path, capsys) -> None:
    data, out = picture_folder(130, classes=2), tmp_path / "study"
    assert main(options(data, out, "--dry-run", "--jobs", "2")) == 0
    printed = capsys.readouterr().out
    assert printed.index("dino-vit_micro_conv8-s0") < printed.index("dino-vit_micro_conv8-s1")
    assert "130" in printed
    assert "together about" in printed
    assert "2 at once take" in printed
    assert not out.exists()


REFUSALS = {
    "study": (
        ["study", "smal-comparison", "--data", "d", "--out", "o"],
        "no study 'smal-comparison'; did you mean small-comparison",
    ),
    "method": (["--methods", "dyno"], "no method 'dyno'; did you mean dino"),
    "backbone": (["--backbones", "resnet81"], "no backbone 'resnet81'; did you mean resnet18"),
    "few images": ([], "run dino-vit_micro_conv8-s0: --batch-size 128 is more than the 12 readable images"),
    "no val": ([], "no validation folder found"),
    "jobs": (["--jobs", "0"], "--jobs must be at least 1, not 0"),
    "threads": (["--threads", "-1"], "--threads must be from 0"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_mistake_is_one_line_and_nothing_starts(name, picture_folder, tmp_path, capsys) -> None:
    argv, words = REFUSALS[name]
    data = picture_folder(12, classes=2, split="train" if name == "no val" else "")
    argv = argv if name == "study" else options(data, tmp_path / "study", *argv)
    assert main(argv) == 2
    printed = capsys.readouterr()
    assert words in printed.err.splitlines()[-1]
    assert "Traceback" not in printed.err
    assert not (tmp_path / "study").exists()


def test_groups_and_split_are_those_of_every_run(picture_folder, tmp_path, capsys, monkeypatch) -> None:
    planned: list[RunConfig] = []

    def checked(configs):
        planned.extend(configs)
        raise UserError("that is all")

    monkeypatch.setattr(study_module, "_checked", checked)
    data, chosen = picture_folder(40, classes=2), ["--group", r"(\d)\.png", "--split", "0.6"]
    assert main(options(data, tmp_path / "study", *chosen)) == 2
    ablation = ["ablate", "collapse", "--data", str(data), "--out", str(tmp_path / "ablation"), "--device", "cpu"]
    assert main([*ablation, *chosen]) == 2
    assert len(planned) > 4
    assert {(config.group, config.split) for config in planned} == {(r"(\d)\.png", 0.6)}
    file = tmp_path / "mixed.toml"
    file.write_text('backbones = ["vit_micro_conv8"]\n[[changes]]\nmethods = ["dino"]\nset = { split = 0.5 }\n')
    mixed = ["study", str(file), "--data", str(data), "--out", str(tmp_path / "mixed")]
    assert main(mixed) == 2
    assert "changes group or split for some runs alone" in capsys.readouterr().err
    assert main([*mixed, "--split", "0.6"]) == 2
    assert "that is all" in capsys.readouterr().err


def test_studies_are_listed(capsys) -> None:
    assert main(["study"]) == 0
    assert "small-comparison" in capsys.readouterr().out


def status(tmp_path: Path, name: str, state: str, **more: object) -> RunStatus:
    return RunStatus(settings(tmp_path, tmp_path / name), state=state, **more)  # pyright: ignore


def concluded(tmp_path: Path, *states: str, interrupted: bool = False) -> int:
    runs = [
        status(tmp_path, f"r{number}", state, diagnosis="out of\nmemory" if state == "failed" else "")
        for number, state in enumerate(states)
    ]
    LINE.set("dinoscope study again")
    return conclude(StudyResult(runs, interrupted), "new", "stopped", "failed")


def test_exit_codes_say_how_it_ended(tmp_path, capsys) -> None:
    assert concluded(tmp_path, "finished", "finished") == 0
    assert concluded(tmp_path, "finished", "failed") == 1
    printed = capsys.readouterr()
    assert "r1 failed:\n    out of\n    memory\n" in printed.err
    assert "1 of 2 runs failed: r1" in printed.err
    assert "not finished: dinoscope study again" in printed.err
    assert printed.out == ""
    assert concluded(tmp_path, "finished", "stopped", "new", interrupted=True) == 130
    assert "not finished: dinoscope study again" in capsys.readouterr().err


def metrics(run: RunStatus, *lines: dict[str, float]) -> None:
    run.config.out.mkdir(exist_ok=True)
    with (run.config.out / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def shown(table: StudyTable, runs: list[RunStatus], max_rows: int | None = None) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(table.table(runs, max_rows))
    return console.file.getvalue()  # pyright: ignore


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> float:
    """The clock stands still at this time."""
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    return 1000.0


def test_the_table_follows_the_metrics(tmp_path, now) -> None:
    run, other = status(tmp_path, "a", "running", began=now - 42), status(tmp_path, "b", "new")
    table = StudyTable({"a": 9, "b": 9})
    assert "a   │ running │       │      │      │        │          │" in shown(table, [run, other])
    metrics(run, {"step": 4, "epoch": 1, "loss": 2.5, "images_per_second": 321.4})
    metrics(run, {"step": 4, "epoch": 1, "knn_top1": 43.21})
    with (run.config.out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "ep')  # a line that is being written
    text = shown(table, [run, other])
    for cell in ("2/3", "5/9", "2.500", "43.2", "321", "42 s", "new", "1 new, 1 running"):
        assert cell in text
    (run.config.out / "metrics.jsonl").unlink()  # it went on after a kill: a new file, from an earlier step
    metrics(run, {"step": 2, "epoch": 0, "loss": 3.0, "images_per_second": 9.0})
    text = shown(table, [run, other])
    assert "3/9" in text
    assert "43.2" not in text


def test_a_long_study_shows_what_matters(tmp_path) -> None:
    runs = [status(tmp_path, f"done{number}", "finished") for number in range(100)]
    runs += [status(tmp_path, "busy", "running", began=0.0), status(tmp_path, "broken", "failed", began=0.0, ended=5.0)]
    text = shown(StudyTable({}), runs, max_rows=4)
    assert "busy" in text
    assert "broken" in text
    assert text.count("done") == 2
    assert counts(runs) == "1 running, 100 finished, 1 failed"


def test_without_a_terminal_only_changes_are_lines(tmp_path, now) -> None:
    console = Console(file=io.StringIO(), width=200)
    run = status(tmp_path, "a", "running", began=now)
    runs = [run, status(tmp_path, "b", "finished", before=True), status(tmp_path, "c", "new")]
    with StudyTable({"a": 3}, console) as table:
        for _ in range(3):
            table(runs)
        run.state, run.ended = "failed", now + 7
        table(runs)
    assert console.file.getvalue() == "a: started\nb: finished before\na: failed  after 7 s\n"  # pyright: ignore


def test_a_terminal_gets_a_live_table(tmp_path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, height=30)
    with StudyTable({"a": 3}, console) as table:
        table.shown = float("-inf")
        table([status(tmp_path, "a", "running", began=time.monotonic())])
    assert "running" in console.file.getvalue()  # pyright: ignore


def test_gpus_are_spread_only_where_there_are_several(monkeypatch) -> None:
    import torch

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert study_module._gpus() == ("0", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert study_module._gpus() == ("3", "5")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert study_module._gpus() == ()


def test_scan_and_limit_of_unreadable_images_are_those_of_the_study() -> None:
    config = settings(Path("d"), Path("o"), max_unreadable=0.2)
    assert placed(config, Execution()).max_unreadable == 0.2
    given = placed(config, Execution(scan="headers", max_unreadable=0.0))
    assert (given.scan, given.max_unreadable) == ("headers", 0.0)
