"""`dinoscope.cli.main`: commands, and what a person sees who makes a mistake."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from dinoscope import __version__
from dinoscope.cli import main
from dinoscope.cli.options import commands
from dinoscope.recipes import RECIPES
from tests.conftest import draw_picture
from tests.plain_process import PlainProcess

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
    for name, spec in commands().items():
        end = spec.summary[1:].rstrip(".")  # all lines begin with a small letter and have no full stop
        assert any(line.split()[:1] == [name] and line.endswith(end) for line in output.splitlines()), name


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


def test_an_unknown_command_offers_the_nearest(capsys) -> None:
    assert "did you mean 'attention'" in refusal(["atention"], capsys)


def test_a_command_like_no_other_points_to_help(capsys) -> None:
    assert "dinoscope --help" in refusal(["xyzzy"], capsys)


# `train` itself, in a process of its own: the tests' import hook checks shapes and types, and does not know the
# placeholder that stands for an option not given yet.

COMMON = ["--data", "DATA", "--out", "OUT", "--batch-size", "8", "--device", "cpu"]

REFUSALS = {
    "recipe": (
        ["--recipe", "dino_small_image", *COMMON],
        "no recipe 'dino_small_image'; did you mean dino_small_images",
    ),
    "backbone": (
        ["--backbone", "vit_smal_patch16_224", *COMMON],
        "no backbone 'vit_smal_patch16_224'; did you mean vit_small_patch16_224",
    ),
    "method": (["--method", "dyno", *COMMON], "no method 'dyno'; did you mean dino"),
    "views": (["--views", "smal_32", *COMMON], "no preset of views 'smal_32'; did you mean small_32"),
    "no such folder": (["--data", "nowhere", "--out", "OUT"], "nowhere: no such folder"),
    "no images": (["--data", "EMPTY", "--out", "OUT"], "no images in this folder"),
    "warm-up": (
        [*COMMON, "--recipe", "dino_deit_small_100ep", "--epochs", "5", "--optimizer.warmup-epochs", "10"],
        "the warm-up of 10 epochs is not shorter than the run of 5",
    ),
    "existing run": (["--data", "DATA", "--out", "RUN", "--batch-size", "8", "--device", "cpu"], "RUN exists already"),
    "resume and overwrite": (["--resume", "--overwrite", "--out", "OUT"], "exclude each other"),
    "minutes and epochs": ([*COMMON, "--minutes", "2", "--epochs", "5"], "--minutes and --epochs exclude each other"),
    "no minutes": ([*COMMON, "--minutes", "0"], "--minutes must be above 0, not 0"),
    "resume nothing": (["--resume"], "--resume needs --out"),
    "resume no run": (["--resume", "--out", "OUT"], "OUT is not a run folder"),
}
"""name -> options of `train`, and words of the line that refuses them."""

OUT_OF_RANGE = {
    "hue": (["--views.hue", "0.7"], "hue is 0.7; allowed: from 0 to 0.5"),
    "teacher temperature": (
        ["--method", "dino", "--method.teacher-temperature", "0"],
        "teacher_temperature must be above 0, not 0.0",
    ),
    "prototypes": (["--method", "dino", "--method.out-dim", "1"], "out_dim must be at least 2"),
}
"""name -> options that a settings class refuses with ValueError, and words of the refusal."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images (DATA), without (EMPTY), and a run (RUN)."""
    root = tmp_path_factory.mktemp("cli")
    for name in ("DATA", "EMPTY", "RUN"):
        (root / name).mkdir()
    for number in range(16):
        cv2.imwrite(str(root / "DATA" / f"{number}.png"), draw_picture(number))
    (root / "RUN" / "config.json").write_text("{}")
    return root


@pytest.fixture(scope="module")
def answers(place: Path, plain_process: PlainProcess) -> dict[str, tuple[int, str, str]]:
    """Exit code, stdout and stderr of each refusal, and of each command's --help."""
    lines = {name: ["train", *options] for name, (options, _) in REFUSALS.items()}
    lines |= {name: ["train", *COMMON, *options] for name, (options, _) in OUT_OF_RANGE.items()}
    lines |= {f"{name} --help": [name, "--help"] for name in commands()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DINOSCOPE_CACHE", str(place / "cache"))
        return plain_process.run(lines, place)


@pytest.mark.parametrize("name", REFUSALS)
def test_a_mistake_in_train_is_one_line_and_writes_nothing(name, answers, place) -> None:
    code, out, err = answers[name]
    assert (code, out) == (2, ""), err
    assert REFUSALS[name][1] in err
    assert err.startswith("dinoscope train: ")
    assert err.count("\n") == 1
    assert {path.name for path in place.iterdir()} - {"cache"} == {"DATA", "EMPTY", "RUN"}
    assert [path.name for path in (place / "RUN").iterdir()] == ["config.json"]


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused_without_a_traceback(name, answers) -> None:
    code, out, err = answers[name]
    assert (code, out) == (2, "")
    assert OUT_OF_RANGE[name][1] in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", commands())
def test_every_command_has_help(name, answers) -> None:
    code, out, err = answers[f"{name} --help"]
    assert (code, err) == (0, "")
    assert f"dinoscope {name}" in out


def test_recipes_are_listed(capsys) -> None:
    assert main(["recipes"]) == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip() and line[:1] != " "}
    assert set(RECIPES) <= listed


def test_ctrl_c_ends_with_130_and_one_line(monkeypatch, capsys) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("dinoscope.cli.call", interrupted)
    assert main(["recipes"]) == 130
    assert capsys.readouterr().err == "dinoscope recipes: stopped\n"


def test_an_option_for_all_commands_takes_no_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--offline=1"]) == 2
    error = capsys.readouterr().err
    assert "--offline" in error
    assert error.count("\n") == 1
