"""What dinoscope has made is no data: it is passed over wherever a folder of images is read, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dinoscope.cli import main
from dinoscope.data.finding import find_images, find_split
from dinoscope.data.sources import images_within
from dinoscope.errors import UserError
from dinoscope.files import MARK, drawn_names, mark, nothing_but_made, write_all
from tests.data.test_sources import touch

RUN = json.dumps({"version": "0.1", "run": {"epochs": 3}})


def a_run(folder: Path) -> Path:
    """A run folder as the first edition left it: with pictures, and no list."""
    touch(folder, "attention/image-0.png", "checkpoints/step-000000003.safetensors")
    (folder / "config.json").write_text(RUN)
    return folder


def test_a_run_is_no_class_and_its_pictures_are_no_images(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.jpg", "dog/1.jpg")
    a_run(tmp_path / "runs" / "mine")
    a_run(tmp_path / "cat" / "other")
    folder = find_images(tmp_path)
    assert folder.paths == ("cat/1.jpg", "dog/1.jpg")
    assert folder.classes == ("cat", "dog")
    assert dict(folder.passed_over) == {"made by dinoscope": 2}


def test_a_run_is_no_split_and_hides_none(tmp_path: Path) -> None:
    """The folder of an archive is still the only one, and a run called test is no validation split."""
    touch(tmp_path, "archive/train/cat/1.jpg")
    a_run(tmp_path / "runs" / "deep" / "mine")
    assert find_split(tmp_path, "train") == tmp_path / "archive" / "train"
    a_run(tmp_path / "test")
    assert find_split(tmp_path, "val") is None


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"version": "1"}', '{"version": 1, "run": 2}', '{"run": {}}', "\0"]
)
def test_settings_of_somebody_else_make_no_run(tmp_path: Path, content: str) -> None:
    touch(tmp_path, "cat/1.jpg", "dog/1.jpg")
    (tmp_path / "cat" / "config.json").write_text(content)
    (tmp_path / "dog" / MARK).write_text(content)
    assert find_images(tmp_path).paths == ("cat/1.jpg", "dog/1.jpg")


def test_a_new_folder_is_marked_as_a_whole_and_any_other_by_its_pictures(tmp_path: Path) -> None:
    touch(tmp_path, "photo.jpg", "empty/notes.txt")
    for name in ("new", "empty", "."):
        mark(tmp_path / name, ["1.png"])
        touch(tmp_path, f"{name}/1.png", f"{name}/mine.png")
    mark(tmp_path / "new" / "masks", ["2.png"])
    assert not (tmp_path / "new" / "masks" / MARK).exists(), "all of it is dinoscope's already"
    mark(tmp_path, ["2.png"])
    assert drawn_names(tmp_path) == {"1.png", "2.png"}
    assert find_images(tmp_path).paths == ("empty/mine.png", "mine.png", "photo.jpg")
    assert [path.name for path in images_within(tmp_path)] == ["mine.png", "photo.jpg"]
    assert nothing_but_made(tmp_path / "new")
    assert not nothing_but_made(tmp_path / "empty")


def test_whoever_names_a_made_folder_gets_its_pictures(tmp_path: Path) -> None:
    mark(tmp_path / "out")
    touch(tmp_path, "out/1.png")
    assert find_images(tmp_path / "out").paths == ("1.png",)
    with pytest.raises(UserError, match=r"no images in this folder.*passed over: 1 made by dinoscope"):
        find_images(tmp_path)


def test_results_are_no_data(tmp_path: Path) -> None:
    touch(tmp_path, "photo.jpg")
    write_all(tmp_path, [("table.md", b"x"), ("curves.png", b"x"), ("curves.svg", b"x")])
    write_all(tmp_path / "figures", [("bars.png", b"x")])
    assert find_images(tmp_path).paths == ("photo.jpg",)


def test_pictures_of_commands_within_the_data_are_no_data(picture_folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command is at home in the folder of the images: where it writes by default, or among them."""
    data = picture_folder(3)
    before = find_images(data).paths
    monkeypatch.chdir(data)
    words = ["--model", "random:vit_micro_conv8", "--device", "cpu"]
    assert main(["attention", ".", *words]) == 0
    assert main(["pca", ".", *words, "--out", "."]) == 0
    assert main(["map", *words, "--data", ".", "--method", "pca"]) == 0
    assert {path.name for path in data.glob("*.png")} >= {"0000_pca.png", "map.png"}
    assert find_images(data).paths == before
