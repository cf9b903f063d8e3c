"""`dinoscope knn`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dinoscope import checkpoint, cli
from dinoscope.cli import call
from dinoscope.errors import UserError
from dinoscope.evaluation import EVALUATIONS
from dinoscope.evaluation.compare import gather
from dinoscope.files import cache_folder
from dinoscope.model_names import load_models
from dinoscope.models.backbone import BackboneConfig, build_backbone
from dinoscope.types import Metric

MakeFolder = Callable[..., Path]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported folder of a tiny network with random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    checkpoint.export_backbone(folder, build_backbone(BackboneConfig("vit_micro_conv8", image_size=32)))
    return folder


@pytest.fixture
def data(picture_folder: MakeFolder) -> Path:
    """Twelve training pictures of three classes, the first six of which are also the validation pictures."""
    picture_folder(12, classes=3, split="train")
    return picture_folder(6, classes=3, split="val")


def run(model: Path, *options: object, ks: str = "1") -> int:
    return call("knn", ["--model", str(model), "--ks", *ks.split(), "--device", "cpu", *map(str, options)])


def result(capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    record = json.loads(capsys.readouterr().out)
    return {Metric(**metric).title: metric["value"] for metric in record["metrics"]}


def test_a_table_and_the_protocol_in_one_line(model: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(model, "--data", data, ks="1 10") == 0
    captured = capsys.readouterr()
    assert "knn_top1 (k = 1)" in captured.out
    assert "100.00" in captured.out  # every query has its twin in the gallery
    assert "knn_top1 (k = 10)" in captured.out
    assert f"12 gallery images, 6 queries, 3 classes, 32 px, temperature 0.07, weights {model}" in captured.out
    assert captured.err.splitlines() == ["features of the gallery (12)", "features of the queries (6)"]


def test_json(model: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(model, "--data", data, "--json", "--temperature", "0.1", "--image-size", "40") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["metrics"][0] == {
        "name": "knn_top1",
        "value": 100.0,
        "unit": "%",
        "higher_is_better": True,
        "low": pytest.approx(60.97, abs=0.01),  # Wilson: 6 / (6 + 1.96²)
        "high": 100.0,
        "n": 6,
        "parameters": {"k": 1},
    }
    protocol = record["protocol"]
    assert (protocol["gallery_images"], protocol["query_images"], protocol["classes"]) == (12, 6, 3)
    assert (protocol["image_size"], protocol["crop_fraction"], protocol["temperature"]) == (40, 1.0, 0.1)
    assert protocol["queries"] == str(data / "val")
    assert len(protocol["weights_hash"]) == 32


def test_a_run_folder_keeps_the_result(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folder = tmp_path / "run"
    shutil.copytree(model, run_folder / "exported")
    (run_folder / "config.json").write_text('{"run": {}}')
    assert run(run_folder, "--data", data, "--json") == 0
    assert (run_folder / "evaluations" / "knn.json").read_text() == capsys.readouterr().out


def test_other_models_are_left_as_they_are(model: Path, data: Path) -> None:
    before = sorted(model.iterdir())
    run(model, "--data", data)
    assert sorted(model.iterdir()) == before


def test_a_result_that_cannot_be_written_is_shown(model: Path, data: Path, tmp_path: Path, capsys, caplog) -> None:
    shutil.copytree(model, tmp_path / "run" / "exported")
    (tmp_path / "run" / "config.json").write_text('{"run": {}}')
    (tmp_path / "run" / "evaluations").touch()
    assert run(tmp_path / "run", "--data", data, "--json") == 0
    assert result(capsys)["knn_top1 (k = 1)"] == 100
    assert "could not be written" in caplog.text


@pytest.mark.parametrize("flag", ["--query", "--queries"])
def test_two_folders(model: Path, data: Path, capsys: pytest.CaptureFixture[str], flag: str) -> None:
    assert run(model, "--gallery", data / "train", flag, data / "val", "--json") == 0
    assert result(capsys)["knn_top1 (k = 1)"] == 100


def test_one_query_is_enough(model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    query = tmp_path / "query" / "class1"
    query.mkdir(parents=True)
    shutil.copy(data / "val" / "class1" / "0001.png", query)
    assert run(model, "--gallery", data / "train", "--query", query.parent, "--json", ks="1 200") == 0
    assert result(capsys)["knn_top1 (k = 1)"] == 100


def test_labels_are_matched_by_class_name(model: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(data / "val" / "class0")  # so that class1 is number 0 among the queries and 1 in the gallery
    assert run(model, "--data", data, "--json") == 0
    assert result(capsys)["knn_top1 (k = 1)"] == 100


def test_classes_that_the_gallery_lacks_are_named(model: Path, data: Path) -> None:
    (data / "val" / "class1").rename(data / "val" / "klass1")
    with pytest.raises(UserError, match=r"1 of 3 classes .* are not in .*: klass1 .*class0, class1, class2"):
        run(model, "--data", data)


@pytest.mark.parametrize("named_twice", [False, True])
def test_without_a_split_each_image_is_asked_of_the_others(
    model: Path, data: Path, capsys: pytest.CaptureFixture[str], named_twice: bool
) -> None:
    folder = data / "train"
    options = ["--gallery", folder, "--query", folder] if named_twice else ["--data", folder]
    assert run(model, *options) == 0
    out = capsys.readouterr().out
    assert "knn_leave_one_out_top1 (k = 1)" in out
    assert "12 gallery images, each against all others" in out
    with pytest.raises(UserError, match="--label-fraction needs queries"):
        run(model, *options, "--label-fraction", "0.5")


def test_a_fraction_of_the_labels(model: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(model, "--data", data, "--label-fraction", "0.25") == 0
    assert "3 gallery images (25 % of the labels)" in capsys.readouterr().out


def test_labels_are_needed(model: Path, picture_folder: MakeFolder) -> None:
    with pytest.raises(UserError, match="outside of any class folder"):
        run(model, "--data", picture_folder(3))


@pytest.mark.parametrize("options", [[], ["--gallery", "."], ["--query", "."], ["--data", ".", "--query", "."]])
def test_contradicting_folders(model: Path, options: list[str]) -> None:
    with pytest.raises(UserError, match="either --data, or --gallery and --query together"):
        run(model, *options)


def test_a_train_split_alone(model: Path, picture_folder: MakeFolder) -> None:
    with pytest.raises(UserError, match=r"no validation folder found .* --gallery and --query"):
        run(model, "--data", picture_folder(4, classes=2, split="train"))


def test_a_val_split_alone(model: Path, picture_folder: MakeFolder) -> None:
    """The folder above it is no gallery: the queries lie in it."""
    with pytest.raises(UserError, match=r"no training folder found next to val .* --gallery and --query"):
        run(model, "--data", picture_folder(4, classes=2, split="val"))


@pytest.mark.parametrize("splits", [("train", "val"), ("",)])
def test_a_single_class_is_refused(
    model: Path, picture_folder: MakeFolder, splits: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Every answer among one class is right; so it is of a folder one level too high."""
    for split in splits:
        data = picture_folder(4, classes=1, split=split)
    assert cli.main(["knn", "--model", str(model), "--data", str(data)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "all 4 images are of one class (class0)" in captured.err


def test_the_cache_can_be_left_out(model: Path, data: Path) -> None:
    run(model, "--data", data, "--no-cache")
    assert not cache_folder("features").exists()
    run(model, "--data", data)
    assert len(list(cache_folder("features").iterdir())) == 2


def test_a_mistake_is_one_line_and_exit_code_2(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["knn", "--model", "/no/such/model", "--data", str(data)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "dinoscope knn: there is no file or folder /no/such/model\n"


def test_a_fraction_does_not_overwrite_the_result_with_all_labels(model: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "run" / "exported")
    (tmp_path / "run" / "config.json").write_text('{"run": {}}')
    run(tmp_path / "run", "--data", data)
    run(tmp_path / "run", "--data", data, "--label-fraction", "0.25")
    sizes = {
        file.name: json.loads(file.read_text())["protocol"]["gallery_images"]
        for file in (tmp_path / "run" / "evaluations").iterdir()
    }
    assert sizes == {"knn.json": 12, "knn-25.json": 3}


# Groups and splits


@pytest.fixture
def patients(picture_folder: MakeFolder) -> Path:
    """Two classes of twelve pictures; CLASS/pN_M.png is of patient N, who has two pictures and one class."""
    folder = picture_folder(24, classes=2, name="patients")
    for kind in sorted(folder.iterdir()):
        for number, file in enumerate(sorted(kind.iterdir())):
            file.rename(kind / f"{kind.name}p{number // 2}_{number % 2}.png")
    return folder


PATIENT = r"/(?P<patient>class\d+p\d+)_"


def test_no_neighbour_of_the_same_group_and_the_protocol_says_so(
    model: Path, patients: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(model, "--data", patients, "--group", PATIENT) == 0
    printed = capsys.readouterr().out
    assert "each against all others, no neighbour of the same group, 2 classes" in printed
    assert f"data {patients}, groups by {PATIENT}" in printed
    assert run(model, "--data", patients, "--group", PATIENT, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["protocol"]["group"] == PATIENT
    assert record["protocol"]["max_voters"] == 22
    assert {metric["n"] for metric in record["metrics"]} == {12}
    assert "class0p0" not in json.dumps(record), "names of groups are not written"
    assert run(model, "--data", patients, "--json") == 0
    assert "group" not in json.loads(capsys.readouterr().out)["protocol"]


def test_a_split_keeps_groups_whole(model: Path, patients: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(model, "--data", patients, "--group", PATIENT, "--split", "0.5", "--json") == 0
    protocol = json.loads(capsys.readouterr().out)["protocol"]
    assert protocol["split"] == 0.5
    assert protocol["gallery"] == protocol["queries"] == str(patients)
    assert protocol["gallery_images"] + protocol["query_images"] == 24
    assert protocol["gallery_images"] % 2 == 0
    assert protocol["max_voters"] == protocol["gallery_images"], "no group is on both sides"
    assert run(model, "--data", patients, "--split", "0.5") == 0
    assert "a split that has 50 % to train on" in capsys.readouterr().out


def test_results_with_and_without_groups_are_kept_apart(model: Path, patients: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "run")
    (folder / "config.json").write_text('{"run": {}}')
    for options in ((), ("--group", PATIENT), ("--group", PATIENT, "--split", "0.5"), ("--group", PATIENT)):
        assert run(folder, "--data", patients, *options) == 0
    assert len(list((folder / "evaluations").iterdir())) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--group", "(x)"], "finds no group"),
        (["--group", "(class.)"], "the groups ((class.)) are the classes"),
        (["--split", "2"], "above 0 and below 1"),
    ],
)
def test_groups_and_splits_without_sense_are_refused(
    model: Path, patients: Path, options: list[str], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        run(model, "--data", patients, *options)
    assert message in str(caught.value)


def test_a_split_is_for_images_without_one(model: Path, data: Path) -> None:
    for options in (("--data", data), ("--gallery", data / "train", "--query", data / "val")):
        with pytest.raises(UserError, match="leave out --split"):
            run(model, *options, "--split", "0.5")


def test_groups_of_a_list_come_from_its_column(model: Path, patients: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted(patients.rglob("*.png"))
    rows = [f"{file.relative_to(patients)},{file.parent.name},{file.stem.partition('_')[0]}" for file in files]
    (patients / "list.csv").write_text("\n".join(["path,label,patient", *rows]))
    assert run(model, "--data", patients / "list.csv", "--json") == 0
    by_column = json.loads(capsys.readouterr().out)
    assert by_column["protocol"]["group"] == "column patient"
    assert run(model, "--data", patients, "--group", PATIENT, "--json") == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == by_column["metrics"]
    (patients / "bare.csv").write_text("\n".join(["path,label", *(row.rpartition(",")[0] for row in rows)]))
    with pytest.raises(UserError, match=r"\(column patient\).*\(unknown\) must come from one column"):
        run(model, "--gallery", patients / "list.csv", "--query", patients / "bare.csv")


def test_whitened_features_are_named_and_kept_apart(model: Path, data: Path, tmp_path: Path, capsys) -> None:
    home = tmp_path / "run" / "exported"
    shutil.copytree(model, home)
    settings = {"data": str(data), "out": str(home.parent)}
    (home.parent / "config.json").write_text(json.dumps({"run": settings}))
    assert run(home.parent, "--data", data) == 0
    assert ", whitened," not in capsys.readouterr().out
    assert run(home.parent, "--data", data, "--whitened") == 0
    assert ", whitened," in capsys.readouterr().out.replace("\n", " ")
    kept = {file.stem: json.loads(file.read_text()) for file in (home.parent / "evaluations").glob("knn*.json")}
    assert set(kept) == {"knn", "knn-whitened"}
    assert [kept[name]["protocol"].get("whitened") for name in ("knn", "knn-whitened")] == [None, True]
    (home.parent / "evaluations" / "knn.json").unlink()
    comparison = gather(load_models([str(home.parent)]), None, skip=EVALUATIONS)
    assert comparison.rows[0].cell("knn") is None  # what is whitened is not shown as if it were not
