"""`dinoscope linear`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import dinoscope
from dinoscope import checkpoint, cli
from dinoscope.errors import UserError
from dinoscope.evaluation.linear import EVALUATION, LinearConfig
from dinoscope.evaluation.results import kept
from dinoscope.models.backbone import BackboneConfig, build_backbone

MakeFolder = Callable[..., Path]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with an exported tiny network of random weights."""
    torch.manual_seed(0)
    run = tmp_path_factory.mktemp("run")
    (run / "config.json").write_text('{"run": {}}')
    (run / "exported").mkdir()
    checkpoint.export_backbone(run / "exported", build_backbone(BackboneConfig("vit_micro_conv8", image_size=32)))
    return run


@pytest.fixture
def data(picture_folder: MakeFolder) -> Path:
    """Thirty training pictures of three classes, the first nine of which are also the validation pictures."""
    picture_folder(30, classes=3, split="train")
    return picture_folder(9, classes=3, split="val")


@pytest.fixture(autouse=True)
def _nothing_kept(model: Path) -> None:
    """Each test begins without kept results."""
    shutil.rmtree(model / "evaluations", ignore_errors=True)


def run(model: Path, *options: object) -> int:
    return cli.main(["linear", "--model", str(model), "--device", "cpu", "--workers", "0", *map(str, options)])


def test_a_table_and_the_protocol_in_one_line(model: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(model, "--data", data) == 0
    captured = capsys.readouterr()
    assert "linear_top1" in captured.out
    assert "100.00" in captured.out  # every validation picture has its twin among those trained on
    line = captured.out.splitlines()[-1]
    assert "last epoch of 100, on 9 validation images; 30 training images, standardised, no augmentation" in line
    assert "class tokens of the last 3 blocks (288 values)" in line
    assert "x 30 / 256 (best of 13 in 5-fold cross-validation on 30 training images)" in line
    assert "choosing the learning rate (500)" in captured.err  # five folds


def test_the_record_says_what_was_done(model: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(model, "--data", data, "--json", "--epochs", "30", "--batch-size", "9") == 0
    out = capsys.readouterr().out
    assert (model / "evaluations" / "linear.json").read_text() == out
    protocol = json.loads(out)["protocol"]
    assert (protocol["train_images"], protocol["val_images"], protocol["classes"]) == (30, 9, 3)
    assert (protocol["protocol"], protocol["epochs"], protocol["batch_size"]) == ("fast", 30, 9)
    assert protocol["learning_rate"] in LinearConfig().rates
    rows_differ = {name: value for name, value in protocol.items() if name != "learning_rate"}  # as of a comparison
    assert "own learning rates x 9 / 256 (best of" in EVALUATION.protocol_line(rows_differ)
    measured = dinoscope.linear(model, data, LinearConfig(epochs=30, batch_size=9), device="cpu")
    found = kept(model, "linear")
    assert found is not None
    assert list(found.metrics) == measured


def test_each_protocol_and_fraction_has_a_file_of_its_own(model: Path, data: Path) -> None:
    for options in ([], ["--label-fraction", "0.5"], ["--protocol", "reference"]):
        assert run(model, "--data", data, "--epochs", "2", *options) == 0
    assert {file.name for file in (model / "evaluations").iterdir()} == {
        "linear.json",
        "linear-50.json",
        "linear-reference.json",
    }
    half = kept(model, "linear-50")
    assert half is not None
    assert (half.protocol["train_images"], half.protocol["label_fraction"]) == (15, 0.5)


def test_the_reference_protocol(model: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--protocol", "reference", "--epochs", "3", "--batch-size", "10", "--learning-rate", "2"]
    assert run(model, "--data", data, *options) == 0
    captured = capsys.readouterr()
    assert "linear_reference_top1" in captured.out
    assert "last epoch of 3, on 9 validation images; 30 training images, crops and flips" in captured.out
    assert "learning rate 2 x 10 / 256 (given)" in captured.out
    assert "training the probe (9)" in captured.err


def test_validation_labels_do_not_choose_the_learning_rate(model: Path, data: Path) -> None:
    """The classes of the validation pictures change places: other figures, the same learning rate."""
    found = []
    for _ in range(2):
        assert run(model, "--data", data) == 0
        found.append(kept(model, "linear"))
        (data / "val" / "class0").rename(data / "val" / "x")
        (data / "val" / "class1").rename(data / "val" / "class0")
        (data / "val" / "x").rename(data / "val" / "class1")
    assert found[0].protocol["learning_rate"] == found[1].protocol["learning_rate"]
    assert found[0].metrics[0].value > found[1].metrics[0].value


def test_one_image_of_a_class_needs_a_learning_rate(
    model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data", data, "--label-fraction", "0.01", "--epochs", "2"]
    assert run(model, *options) == 2
    assert "every class has a single training image" in capsys.readouterr().err
    assert run(model, *options, "--learning-rate", "0.01") == 0
    assert "3 training images (1 % of the labels)" in capsys.readouterr().out


class TestMistakes:
    """Each is one line on stderr, nothing on stdout, and exit code 2."""

    def refused(self, capsys: pytest.CaptureFixture[str], model: Path, *options: object) -> str:
        assert run(model, *options) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        return captured.err

    def test_no_labels(self, model: Path, picture_folder: MakeFolder, capsys: pytest.CaptureFixture[str]) -> None:
        picture_folder(2, split="val")
        assert "outside of any class folder" in self.refused(capsys, model, "--data", picture_folder(2, split="train"))

    def test_no_validation_split(
        self, model: Path, picture_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data = picture_folder(4, classes=2, split="train")
        assert "no validation folder" in self.refused(capsys, model, "--data", data)

    def test_a_class_without_training_images(self, model: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (data / "val" / "class1").rename(data / "val" / "klass1")
        assert "1 of 3 classes" in self.refused(capsys, model, "--data", data)

    def test_a_single_class(self, model: Path, picture_folder: MakeFolder, capsys: pytest.CaptureFixture[str]) -> None:
        picture_folder(2, classes=1, split="val")
        data = picture_folder(4, classes=1, split="train")
        assert "all 4 images are of one class (class0)" in self.refused(capsys, model, "--data", data)

    @pytest.mark.parametrize(
        ("option", "value", "reason"),
        [
            ("--epochs", 0, "number of epochs must be above 0"),
            ("--batch-size", -1, "batch size must be above 0"),
            ("--learning-rate", 0, "learning rate must be above 0"),
            ("--label-fraction", 2, "fraction of labels is 2.0"),
        ],
    )
    def test_settings_out_of_range(
        self, model: Path, data: Path, capsys: pytest.CaptureFixture[str], option: str, value: float, reason: str
    ) -> None:
        for protocol in ("fast", "reference"):
            options = ["--data", data, "--protocol", protocol, option, value]
            assert reason in self.refused(capsys, model, *options)


def test_a_diverged_model(data: Path, tmp_path: Path) -> None:
    network = build_backbone(BackboneConfig("vit_micro_conv8", image_size=32))
    with torch.no_grad():
        network.net.norm.bias.fill_(torch.nan)  # pyright: ignore
    checkpoint.export_backbone(tmp_path / "model", network)
    with pytest.raises(UserError, match="NaN or infinite"):
        dinoscope.linear(tmp_path / "model", data, device="cpu")


def test_a_split_by_groups(model: Path, picture_folder: MakeFolder, capsys: pytest.CaptureFixture[str]) -> None:
    folder = picture_folder(30, classes=2, name="patients")
    options = ["--data", folder, "--group", r"/0*(\d+).*\.", "--split", "0.6", "--epochs", "2"]
    assert run(model, *options) == 0
    printed = capsys.readouterr().out
    assert f"data {folder}, a split that has 60 % to train on, groups by" in printed
    protocol = kept(model, "linear").protocol
    assert protocol["train_images"] + protocol["val_images"] == 30
    assert (protocol["group"], protocol["split"]) == (r"/0*(\d+).*\.", 0.6)
