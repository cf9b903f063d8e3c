"""The options of all commands as data: current, explained, checked before torch is imported, with suggestions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dinoscope.cli import main
from dinoscope.cli.options import FILE, Option, Spec, commands, parse
from dinoscope.errors import UserError
from tests.plain_process import PlainProcess

HEAVY = ("torch", "torchvision", "timm", "sklearn", "matplotlib", "numpy", "cv2", "tyro")

MISTAKES = {
    "train --lr 3": "there is no option --lr; did you mean --optimizer.learning-rate?",
    "train --optimizer.lr 3": "did you mean --optimizer.learning-rate?",
    "train --optimizer.learning_rat 3": "no option --optimizer.learning-rat; did you mean --optimizer.learning-rate",
    "train --method.queue-size 3": "is an option of --method moco and swav, and none is named: add --method moco",
    "train --recipe quickstart --method.queue-size 3": "of --method moco and swav, and the method here is dino",
    "train --method moco --method.predictor mlp": "is an option of --method dino and esvit, and the method here",
    "train --recipe simclr_resnet50 --method.predictor mlp": "is an option of --method dino and esvit, and",
    "train --method dyno": "there is no method 'dyno'; did you mean dino",
    "train --recipe quickstar": "there is no recipe 'quickstar'; did you mean quickstart",
    "train --views smal_32": "there is no preset of views 'smal_32'; did you mean small_32",
    "train --data photos": "--out is missing: the run folder to write; `dinoscope train --help` explains it",
    "train --epochs": "--epochs needs FLOAT after it",
    "train --epochs ten": "--epochs must be a finite number, not 'ten'",
    "train --epochs inf": "--epochs must be a finite number, not 'inf'",
    "train --views.blur-probability 1 2": "--views.blur-probability needs FLOAT FLOAT FLOAT after it",
    "train --window 40": "--window must be LEVEL,WIDTH (two numbers)",
    "train --precision fp8": "--precision is 'fp8'; allowed: auto, fp32, bf16, fp16",
    "train --resume=1": "--resume takes no value: leave out '1'",
    "train photos": "'photos' is not expected here; `dinoscope train --help` lists the options",
    "knn": "--model is missing: one or more models; a folder of runs stands for them; `dinoscope knn",
    "knn --gpu 0": "did you mean --device?",
    "knn --kss 5": "did you mean --ks?",
    "knn --xyzzy": "there is no option --xyzzy; `dinoscope knn --help` lists the options",
    "attention a.png --model b --block some": "--block must be a whole number, or all, not 'some'",
    "scan": "FOLDER is missing: folder, archive or list of images",
    "import a b": "'b' is not expected here",
    "train --data /nowhere --out o": "/nowhere: no such folder. Check the path.",
    "train --data /nowhere --data /a.zip --out o": "/nowhere: no such folder",
    "train --data / --out o --init dino_vits1": "did you mean the released dino_vits16",
    "train --data / --out o --backbone vit_smal_patch16_224": "no backbone 'vit_smal_patch16_224'; did you mean vit_",
    "knn --model runs/none": "there is no file or folder runs/none",
    "knn --model shipped dino_vits1": "there is no file or folder dino_vits1; did you mean the released dino_vits16",
    "knn --model random:vit_micr": "'vit_micr' is neither a network nor a model. Did you mean vit_micro",
    "voc --model shipped --data / --masks /nowhere": "/nowhere: no such folder",
    "attention / --model shipped --map attenton": "there is no kind of map 'attenton'; did you mean attention",
    "attention /nowhere/a.png --model shipped": "/nowhere/a.png: no such file",
    "segment / --model shipped --by pcaa": "there is no way to segment 'pcaa'; did you mean pca",
    "compare shipped --out o --skip knnn": "there is no evaluation 'knnn'; did you mean knn",
    "compare shipped --out o --evaluations voc=/nowhere": "/nowhere: no such folder",
    "report /nowhere/runs --out o": "there is no file or folder /nowhere/runs",
    "verdict --data / --models pixels --skip lineer": "there is no part of a verdict 'lineer'; did you mean linear",
    "study equal-tim --data / --out o": "there is no study 'equal-tim'; did you mean equal-time",
    "ablate mine.toml --data / --out o": "mine.toml: no such file",
    "reproduce voc-tabl --data /": "there is no table 'voc-tabl'; did you mean voc-table",
}
"""A command line -> words of the line that refuses it."""


def test_the_file_is_current(plain_process: PlainProcess, tmp_path: Path) -> None:
    """`python -m dinoscope.cli.schema` makes it again."""
    program = "from dinoscope.cli import schema\ndef answer(_): return schema.text()"
    assert plain_process.ask(program, None, tmp_path) == FILE.read_text(encoding="utf-8")


def test_every_option_of_every_command_has_a_line_that_explains_it() -> None:
    options = [(name, option) for name, spec in commands().items() for option in spec.options]
    assert [(name, option.name) for name, option in options if len(option.help.split()) < 2] == []
    assert [(name, option.name) for name, option in options if not (option.flags or option.metavar.isupper())] == []


@pytest.mark.parametrize("line", MISTAKES)
def test_errors_of_usage_are_one_line(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert MISTAKES[line] in printed.err
    assert printed.err.count("\n") == 1


def test_help_and_errors_of_usage_import_nothing_heavy() -> None:
    lines = [*MISTAKES, *(f"{name} --help" for name in commands())]
    program = (
        "import json, sys\n"
        "from dinoscope.cli import main\n"
        f"codes = [main(line.split()) for line in {lines!r}]\n"
        f"print(json.dumps([codes, [name for name in {HEAVY!r} if name in sys.modules]]), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stderr.splitlines()[-1]) == [[2] * len(MISTAKES) + [0] * len(commands()), []]


def shown(argv: str, capsys: pytest.CaptureFixture[str]) -> str:
    command, *rest = argv.split()
    assert parse(command, [*rest, "--help"]) is None
    return " ".join(capsys.readouterr().out.split())


def test_help_shows_the_method_and_the_defaults_of_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    automatic = shown("train", capsys)
    assert "usage: dinoscope train --data PATH --out PATH [options]" in automatic
    assert (
        "--epochs FLOAT Passes over the images (of the fraction); may be a fraction itself. (default: auto)"
        in automatic
    )
    assert "--method.out-dim" not in automatic
    plain = shown("train --method dino", capsys)
    assert "method (dino): --method.out-dim" in plain
    assert "--method.queue-size" not in plain
    assert "--method.queue-size" in shown("train --method moco", capsys)
    quick = shown("train --recipe quickstart", capsys)
    assert "--epochs FLOAT Passes over the images (of the fraction); may be a fraction itself. (default: 12)" in quick
    assert "(default: 512)" in quick[quick.index("--method.out-dim") :][:300]
    reset = shown("train --recipe quickstart --method dino", capsys)  # a method by name has its own defaults
    assert "(default: 65536)" in reset[reset.index("--method.out-dim") :][:300]


def test_the_method_of_a_run_to_resume_decides_its_options(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"run": {"method": {"kind": "MoCoConfig"}}}))
    argv = ["--resume", "--out", str(tmp_path), "--method.queue-size", "64"]
    given = parse("train", argv)
    assert given is not None
    assert given.take("resume") == ""
    assert given.argv() == [f"--out={tmp_path}", "--method.queue-size=64"]


@pytest.fixture
def spec(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command with one option of each kind."""
    options = (
        Option("images", words=-1, metavar="IMAGE..."),
        Option("ks", ("--ks",), words=-1, metavar="INT..."),
        Option("at", ("--at",), metavar="X,Y", repeated=True),
        Option("block", ("--block",), metavar="INT"),
        Option("init", ("--init",), metavar="None|STR", choices=("None",)),
        Option("fast", ("--fast", "--no-fast"), words=0),
    )
    monkeypatch.setattr("dinoscope.cli.options.commands", lambda: {"draw": Spec("", "", "", options)})


def test_what_tyro_is_given(spec: None, tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    argv = [
        f"{tmp_path / 'a.png'}",
        "--ks",
        "1",
        "2",
        "--at",
        "-1,2",
        "--block=-3",
        "--no_fast",
        "--at",
        "3,4",
        "--block",
        "-1",
        "--init=x",
    ]
    given = parse("draw", argv)
    assert given is not None
    assert given.argv() == [argv[0], "--ks", "1", "2", "--at=-1,2", "--no-fast", "--at=3,4", "--block=-1", "--init=x"]


def test_an_unknown_option_is_refused_before_a_missing_one(spec: None) -> None:
    with pytest.raises(UserError, match="no option --blok; did you mean --block"):
        parse("draw", ["--blok", "1"])


PLACES = (
    "https://example.org/images.zip",
    "shards/{000..127}.tar",
    "images.zip/train",
    "volume.nii#3",
)


@pytest.mark.parametrize("place", PLACES)
def test_what_only_its_reader_knows_is_left_to_the_reader(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("images.zip").touch()
    assert parse("scan", [place]) is not None


@pytest.mark.parametrize("name", ["shipped", "random", "pixels", "dino_vits16", "timm:x", "random:timm:x", "mine"])
def test_every_kind_of_name_of_a_model_is_taken(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    assert parse("knn", ["--model", name]) is not None
    assert name in ("random", "pixels") or parse("knn", ["--model", f"random:{name.removeprefix('random:')}"])
