"""`dinoscope scan`: what is printed, and what comes of mistakes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinoscope.cli import call, console
from dinoscope.cli.console import Console, progress_bar
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
    assert call("scan", [str(data)]) == 0
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
    assert call("scan", [str(data / "train" / "cat"), "--workers", "2"]) == 0
    table = rows(capsys.readouterr().out)
    assert table["images"] == ["3"]
    assert table["classes"] == ["no labels"]


def test_unreadable_files_are_listed_up_to_twenty(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(23):
        (data / "train/cat" / f"bad{i:02}.jpg").write_text("text")
    assert call("scan", [str(data)]) == 0
    printed = capsys.readouterr().out
    assert rows(printed)["unreadable"] == ["23", "0"]
    assert "cat/bad19.jpg  not an image" in printed
    assert "bad20" not in printed
    assert "and 3 more" in printed


def test_json_holds_everything(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(23):
        (data / "train/cat" / f"bad{i:02}.jpg").write_text("text")
    assert call("scan", [str(data), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert list(content) == ["train", "val", "shared"]
    assert content["train"]["images"] == 29
    assert len(content["train"]["unreadable"]) == 23
    assert content["train"]["complete"] is True


def test_headers_only(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (data / "train/cat/0.png").read_bytes()
    (data / "train/cat/0.png").write_bytes(whole[: whole.index(b"IDAT") + 12])
    assert call("scan", [str(data), "--headers-only"]) == 0
    printed = capsys.readouterr().out
    assert rows(printed)["unreadable"] == ["0", "0"]
    assert "Only headers were read" in printed
    call("scan", [str(data)])
    printed = capsys.readouterr().out
    assert rows(printed)["unreadable"] == ["1", "0"]
    assert "Only headers" not in printed


def test_what_splits_share_is_reported(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0.png of both classes in val is the file 0.png in train; one picture is saved again, and one is a patient's."""
    draw = np.random.default_rng(0)
    for name in ("p1_a", "p2_a", "p3_a"):
        Image.fromarray(draw.integers(0, 256, (40, 50, 3), np.uint8)).save(data / f"train/cat/{name}.png")
    with Image.open(data / "train/cat/p1_a.png") as picture:
        picture.save(data / "val/cat/p1_b.bmp")
    with Image.open(data / "train/cat/p2_a.png") as picture:
        picture.resize((100, 80), Image.Resampling.BICUBIC).save(data / "val/cat/p4_b.jpg")
    pattern = r"/(p\d|\d)"
    assert call("scan", [str(data), "--json", "--group", pattern]) == 0
    shared = json.loads(capsys.readouterr().out)["shared"]
    assert [(own["kind"], own["images"], own["groups"]) for own in shared] == [
        ("group", 3, 2),
        ("bytes", 2, 0),
        ("pixels", 1, 0),
        ("picture", 1, 0),
    ]
    assert shared[3]["pairs"] == [["cat/p4_b.jpg", "cat/p2_a.png"]]
    call("scan", [str(data), "--group", pattern])
    printed = capsys.readouterr().out
    assert rows(printed)["groups"] == ["6", "3"]
    assert "The same files in both splits: 2 images of val" in printed
    assert "cat/p1_b.bmp (val)  cat/p1_a.png (train)" in printed
    assert "of which at most 2 differ: 1 image of val." in printed
    call("scan", [str(data), "--group", pattern, "--headers-only"])
    printed = capsys.readouterr().out
    assert "Groups in both splits: 2, with 3 images of val" in printed
    assert "The same files" not in printed, "nothing but headers was read"


def test_names_that_are_not_unicode_can_be_printed(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "train/cat/caf\udce9.jpg").touch()
    assert call("scan", [str(data)]) == 0
    assert "caf?.jpg  empty file" in capsys.readouterr().out


def test_mistakes_are_raised_for_the_caller(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        call("scan", [str(tmp_path / "nowhere")])
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UserError, match="--workers must be from -1 to 1024, not -2"):
        call("scan", [str(tmp_path), "--workers", "-2"])


def test_wrong_arguments_exit_with_two(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="no option --wrokers; did you mean --workers"):
        call("scan", [str(data), "--wrokers", "2"])


def test_the_progress_bar_comes_late_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    shown = Console(file=io.StringIO(), width=100)
    with progress_bar("reading", shown, after=2.0) as progress:
        now = 1.9
        progress(10, 100)
        assert shown.file.getvalue() == ""
        now = 2.1
        progress(20, 100)
        progress(100, 100)
    assert shown.file.getvalue() == "reading (100)\n"


def test_all_unreadable_files_and_classes_can_be_listed(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(40):
        (data / "train" / f"class{i:02}").mkdir()
        (data / "train" / f"class{i:02}" / "bad.jpg").write_text("text")
    assert call("scan", [str(data), "--all"]) == 0
    printed = capsys.readouterr().out
    assert "class39/bad.jpg  not an image" in printed
    assert "class39" in rows(printed)
    assert "more" not in printed


def test_what_is_passed_over_is_counted(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("1.PSD", "2.psd", "notes.txt"):
        (data / "train" / name).touch()
    assert call("scan", [str(data)]) == 0
    assert rows(capsys.readouterr().out)["passed over"] == ["2 .psd, 1 .txt", "nothing"]
    call("scan", [str(data), "--json"])
    assert json.loads(capsys.readouterr().out)["train"]["passed_over"] == {".psd": 2, ".txt": 1}
