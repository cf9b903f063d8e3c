"""`dinoscope scan`: what is printed, and what comes of mistakes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from dinoscope.cli import scan as command
from dinoscope.errors import UserError


@pytest.fixture(autouse=True)
def _cache_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DINOSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Splits with two classes: 3 + 3 images in train, 1 + 1 in val."""
    root = tmp_path / "data"
    for split, count in (("train", 3), ("val", 1)):
        for kind in ("cat", "[red]dog"):
            folder = root / split / kind
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(np.full((20, 30, 3), 9 * i, np.uint8)).save(folder / f"{i}.png")
    return root


def rows(printed: str) -> dict[str, list[str]]:
    """The table rows by their first cell."""
    lines = (line.strip("│┃ ").replace("┃", "│").split("│") for line in printed.splitlines())
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines if len(cells) > 1}


def test_splits_are_reported_side_by_side(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(data)]) == 0
    captured = capsys.readouterr()
    table = rows(captured.out)
    assert table["images"] == ["6", "2"]
    assert table["unreadable"] == ["0", "0"]
    assert table["formats"] == ["PNG 6", "PNG 2"]
    assert table["width: smallest, median, largest"] == ["30, 30, 30 px"] * 2
    assert table["classes"] == ["2", "2"]
    assert table["cat"] == ["3", "1"]
    assert table["[red]dog"] == ["3", "1"], "names are not markup"
    assert captured.err == "", "no progress bar for a short scan"


def test_a_folder_without_splits_and_labels(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(data / "train" / "cat"), "--workers", "2"]) == 0
    table = rows(capsys.readouterr().out)
    assert table["images"] == ["3"]
    assert table["classes"] == ["no labels"]


def test_unreadable_files_are_listed_up_to_twenty(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(23):
        (data / "train/cat" / f"bad{i:02}.jpg").write_text("text")
    assert command.main([str(data)]) == 0
    printed = capsys.readouterr().out
    assert rows(printed)["unreadable"] == ["23", "0"]
    assert "cat/bad19.jpg  not an image" in printed
    assert "bad20" not in printed
    assert "and 3 more" in printed


def test_json_holds_everything(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(23):
        (data / "train/cat" / f"bad{i:02}.jpg").write_text("text")
    assert command.main([str(data), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert list(content) == ["train", "val"]
    assert content["train"]["images"] == 29
    assert len(content["train"]["unreadable"]) == 23
    assert content["train"]["complete"] is True


def test_headers_only(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (data / "train/cat/0.png").read_bytes()
    (data / "train/cat/0.png").write_bytes(whole[: whole.index(b"IDAT") + 12])
    assert command.main([str(data), "--headers-only"]) == 0
    printed = capsys.readouterr().out
    assert rows(printed)["unreadable"] == ["0", "0"]
    assert "Only headers were read" in printed
    command.main([str(data)])
    printed = capsys.readouterr().out
    assert rows(printed)["unreadable"] == ["1", "0"]
    assert "Only headers" not in printed


def test_names_that_are_not_unicode_can_be_printed(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "train/cat/caf\udce9.jpg").touch()
    assert command.main([str(data)]) == 0
    assert "caf?.jpg  empty file" in capsys.readouterr().out


def test_mistakes_are_raised_for_the_caller(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        command.main([str(tmp_path / "nowhere")])
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UserError, match="workers is -2"):
        command.main([str(tmp_path), "--workers", "-2"])


def test_wrong_arguments_exit_with_two(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main([str(data), "--wrokers", "2"])
    assert stopped.value.code == 2


def test_the_progress_bar_comes_late_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(command.time, "monotonic", lambda: now)
    console = Console(file=io.StringIO(), force_terminal=True)
    with command.LateProgress("reading", console) as progress:
        now = 1.9
        progress.update(10, 100)
        assert progress.bar is None
        now = 2.1
        progress.update(20, 100)
        assert progress.bar is not None
        assert progress.bar.tasks[0].completed == 20
        progress.update(100, 100)
    assert progress.bar.finished
    assert not progress.bar.live.is_started


def test_importing_the_command_loads_nothing_heavy() -> None:
    heavy = ["torch", "tyro", "rich", "PIL", "numpy"]
    code = f"import sys, dinoscope.cli.scan; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_all_unreadable_files_and_classes_can_be_listed(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(40):
        (data / "train" / f"class{i:02}").mkdir()
        (data / "train" / f"class{i:02}" / "bad.jpg").write_text("text")
    assert command.main([str(data), "--all"]) == 0
    printed = capsys.readouterr().out
    assert "class39/bad.jpg  not an image" in printed
    assert "class39" in rows(printed)
    assert "more" not in printed


def test_what_is_passed_over_is_counted(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("1.HEIC", "2.heic", "notes.txt"):
        (data / "train" / name).touch()
    assert command.main([str(data)]) == 0
    assert rows(capsys.readouterr().out)["passed over"] == ["2 .heic, 1 .txt", "nothing"]
    command.main([str(data), "--json"])
    assert json.loads(capsys.readouterr().out)["train"]["passed_over"] == {".heic": 2, ".txt": 1}
