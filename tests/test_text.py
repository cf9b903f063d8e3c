"""Names of files and classes are text: no escape codes on a terminal, no formulas in a spreadsheet."""

from __future__ import annotations

import csv
import logging
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dinoscope import checkpoint
from dinoscope.cli import main
from dinoscope.models.backbone import BackboneConfig, build_backbone
from dinoscope.text import PrintableFormatter, printable, spreadsheet_cell
from tests.pictures import write_pictures

EVIL = "=\x1b]0;owned\x07\x1b[31m\x9b1m\u202ered"


@given(st.text(st.characters()))
def test_printable_text_has_no_control_characters_and_other_text_stays(text: str) -> None:
    shown = printable(text)
    assert not [one for one in shown if unicodedata.category(one) in ("Cc", "Cs") and one not in "\t\n"]
    assert printable(shown) == shown
    if text.isascii() and text.isprintable():
        assert shown == text


@pytest.mark.parametrize("cell", ["=1+1", "@SUM(A1)", "+cmd|' /C calc'!A0", "-A1", " =1", "-2+3+cmd|x", "\t=1", "=-1"])
def test_formulas_become_text(cell: str) -> None:
    assert spreadsheet_cell(cell) == f"'{cell}"


@pytest.mark.parametrize(
    "cell", ["", "-1.5", "+3", "-1e-05", "-inf", "-0.5 ± 0.2", "+0.3 [-0.1, 1]", "a=b", "x@y", "–"]
)
def test_numbers_and_names_stay(cell: str) -> None:
    assert spreadsheet_cell(cell) == cell


def test_log_lines_are_printable() -> None:
    record = logging.LogRecord("dinoscope", logging.WARNING, "", 0, "cannot read %s", ("\x1b[31m.png",), None)
    assert PrintableFormatter().format(record) == "cannot read \\x1b[31m.png"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "m\x1b[31m"
    checkpoint.export_backbone(folder, build_backbone(BackboneConfig("vit_micro_conv8", image_size=32)))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, one with a name that takes over a terminal; one of its files too, and one cannot be read."""
    root = tmp_path_factory.mktemp("data")
    for split, count in (("train", 12), ("val", 6)):
        folder = write_pictures(root / "d", count, classes=2, split=split, size=(32, 40)) / split
        evil = (folder / "class0").rename(folder / EVIL)
        file = min(evil.iterdir())
        file.rename(evil / f"{EVIL}.png")
        (evil / f"broken{EVIL}.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    return root / "d"


@pytest.mark.parametrize(
    "command",
    [
        ["scan", "DATA"],
        ["knn", "--model", "MODEL", "--data", "DATA", "--ks", "3"],
        pytest.param(["linear", "--model", "MODEL", "--data", "DATA", "--epochs", "1"], marks=pytest.mark.slow),
        pytest.param(["compare", "MODEL", "--data", "DATA", "--out", "OUT"], marks=pytest.mark.slow),
        ["embed", "--model", "MODEL", "--data", "DATA/train", "--out", "OUT.csv"],
        pytest.param(
            ["map", "--model", "MODEL", "--data", "DATA/train", "--out", "OUT.png", "--method", "pca"],
            marks=pytest.mark.slow,
        ),
        ["attention", "--model", "MODEL", "DATA/val", "--out", "OUT"],
        ["pca", "--model", "MODEL", "DATA/val/class1", "--out", "OUT"],
        ["segment", "--model", "MODEL", "DATA/val", "--out", "OUT"],
        ["throughput", "--model", "MODEL", "--image-size", "32", "--batch-size", "2", "--repeats", "1"],
        ["export", "--model", "MODEL", "--out", "OUT"],
        ["import", "DATA/train/EVIL/EVIL.png", "--out", "OUT"],
        ["train", "--resume", "--out", "OUT\x1b[31m"],
        ["track", "DATA/nothing\x1b[31m.mp4", "--mask", "m.png", "--model", "MODEL"],
        ["no\x1b[31m-command"],
    ],
    ids=lambda command: printable(command[0]),
)
def test_no_command_prints_escape_codes(
    command: Sequence[str], model: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    places = {"MODEL": str(model), "DATA": str(data), "OUT": str(tmp_path / "out\x1b[32m"), "EVIL": EVIL}
    arguments = []
    for argument in command:
        for name, place in places.items():
            argument = argument.replace(name, place)
        arguments.append(argument)
    code = main(arguments)
    said = capfd.readouterr()
    assert code in (0, 2)
    assert said.out + said.err
    assert printable(said.out + said.err) == said.out + said.err
    for table in tmp_path.rglob("*.csv"):
        with table.open(newline="", encoding="utf-8") as file:
            assert not [cell for row in csv.reader(file) for cell in row if spreadsheet_cell(cell) != cell]
