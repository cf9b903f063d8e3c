"""`dinoscope.cli.main`: commands, and what a person sees who makes a mistake."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from dinoscope import __version__
from dinoscope.cli import COMMANDS, main
from dinoscope.study.recipes import RECIPES

HEAVY = ("torch", "torchvision", "timm", "sklearn", "matplotlib", "numpy", "cv2")


def refusal(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr of a command that ends with 2."""
    assert main(argv) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.endswith("\n")
    assert output.err.count("\n") == 1, output.err
    assert "Traceback" not in output.err
    return output.err


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_command(argv, capsys) -> None:
    assert main(argv) == 0
    output = capsys.readouterr().out
    for name, text in COMMANDS.items():
        assert any(line.split()[:1] == [name] and line.endswith(text) for line in output.splitlines()), name


def test_help_is_light() -> None:
    """`dinoscope --help` imports nothing heavy, and takes less than a second of the processor."""
    program = (
        "import json, sys\n"
        "from dinoscope.cli import main\n"
        "code = main(['--help'])\n"
        f"print(json.dumps([code, [name for name in {HEAVY!r} if name in sys.modules]]), file=sys.stderr)\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert json.loads(result.stderr) == [0, []]
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def test_a_mistake_ends_the_process_with_2_and_one_line() -> None:
    result = subprocess.run([sys.executable, "-m", "dinoscope", "tran"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "dinoscope tran: there is no command 'tran'; did you mean 'train'?\n"


def test_version(capsys) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"dinoscope {__version__}\n"


def test_every_command_has_a_module_and_help(capsys) -> None:
    for name in COMMANDS:
        assert importlib.util.find_spec(f"dinoscope.cli.{name}") is not None, name
        assert callable(importlib.import_module(f"dinoscope.cli.{name}").main), name
        with pytest.raises(SystemExit) as end:
            main([name, "--help"])
        assert end.value.code == 0, name
        assert f"dinoscope {name}" in capsys.readouterr().out


def test_every_module_with_a_main_is_a_command() -> None:
    folder = Path(importlib.import_module("dinoscope.cli").__file__ or "").parent
    answering = {path.stem for path in folder.glob("[!_]*.py") if "\ndef main(" in path.read_text(encoding="utf-8")}
    assert answering == set(COMMANDS)


def test_an_unknown_command_offers_the_nearest(capsys) -> None:
    assert "did you mean 'attention'" in refusal(["atention"], capsys)


def test_a_command_like_no_other_points_to_help(capsys) -> None:
    assert "dinoscope --help" in refusal(["xyzzy"], capsys)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--recipe", "dino_small_image"], "no recipe 'dino_small_image'; did you mean dino_small_images"),
        (
            ["--backbone", "vit_smal_patch16_224"],
            "no backbone 'vit_smal_patch16_224'; did you mean vit_small_patch16_224",
        ),
        (["--method", "dyno"], "no method 'dyno'; did you mean dino"),
        (["--views", "smal_32"], "no preset of views 'smal_32'; did you mean small_32"),
    ],
    ids=["recipe", "backbone", "method", "views"],
)
def test_an_unknown_name_offers_the_nearest(options, words, picture_folder, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    common = ["--data", str(picture_folder(16)), "--out", str(out), "--batch-size", "8", "--device", "cpu"]
    assert words in refusal(["train", *options, *common], capsys)
    assert not out.exists()


def test_missing_data_is_named(tmp_path, capsys) -> None:
    line = refusal(["train", "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")], capsys)
    assert "nowhere: no such folder" in line
    assert not (tmp_path / "run").exists()


def test_data_without_images_is_named(tmp_path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    assert "no images" in refusal(["train", "--data", str(tmp_path / "empty"), "--out", str(tmp_path / "run")], capsys)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--views.hue", "0.7"], "hue is 0.7; allowed: from 0 to 0.5"),
        (["--method.teacher-temperature", "0"], "teacher_temperature must be above 0"),
        (["--method.out-dim", "1"], "out_dim must be at least 2"),
    ],
)
def test_a_value_out_of_range_is_one_line(options, words, picture_folder, tmp_path, capsys) -> None:
    data = str(picture_folder(8))
    assert words in refusal(["train", "--data", data, "--out", str(tmp_path / "run"), *options], capsys)
    assert not (tmp_path / "run").exists()


def test_an_existing_run_is_one_line(picture_folder, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.json").write_text("{}")
    options = ["--recipe", "quickstart", "--batch-size", "8"]
    line = refusal(["train", "--data", str(picture_folder(8)), "--out", str(out), *options], capsys)
    assert "exists already" in line
    assert os.listdir(out) == ["config.json"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--resume", "--overwrite", "--out", "run"], "exclude each other"),
        (["--resume"], "--resume needs --out"),
        (["--resume", "--out", "run"], "run is not a run folder"),
    ],
)
def test_what_cannot_be_resumed_is_one_line(options, words, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in refusal(["train", *options], capsys)


def test_recipes_are_listed(capsys) -> None:
    assert main(["recipes"]) == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip() and line[:1] != " "}
    assert set(RECIPES) <= listed


def test_ctrl_c_ends_with_130_and_one_line(monkeypatch, capsys) -> None:
    def interrupted(_: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("dinoscope.cli.recipes.main", interrupted)
    assert main(["recipes"]) == 130
    assert capsys.readouterr().err == "dinoscope recipes: stopped\n"
