"""`dinoscope attention`: pictures for any images, nothing replaced unasked, mistakes told in one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from dinoscope import checkpoint
from dinoscope.cli import call
from dinoscope.cli.pictures import find_files
from dinoscope.errors import UserError
from dinoscope.files import MARK, unique_names
from dinoscope.models.backbone import BACKBONES, BackboneConfig, build_backbone

Folder = Callable[..., Path]
HEADS = BACKBONES["vit_micro_conv8"].heads


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("vit"), "vit_micro_conv8")


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("resnet"), "resnet18_small")


def exported(folder: Path, name: str) -> Path:
    torch.manual_seed(0)
    checkpoint.export_backbone(folder, build_backbone(BackboneConfig(name, 32)))
    return folder


def run(model: Path, out: Path, *arguments: object) -> int:
    return call("attention", [*map(str, arguments), "--model", str(model), "--out", str(out)])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != MARK)


def test_one_page_for_each_image_of_a_folder(
    vit: Path, picture_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "out"
    assert run(vit, out, picture_folder(3, size=(30, 50))) == 0
    assert names(out) == ["0000_attention.png", "0001_attention.png", "0002_attention.png"]
    assert cv2.imread(str(out / "0000_attention.png")).shape[1] == 1198
    assert f"3 pages in {out}" in capsys.readouterr().out


def test_pages_for_print(vit: Path, picture_folder: Folder, tmp_path: Path) -> None:
    image, out = picture_folder(1, size=(30, 50)) / "0000.png", tmp_path / "out"
    assert run(vit, out, image, "--dpi", 300, "--separate") == 0
    assert [file.name for file in sorted(out.glob("*.pdf"))] == ["0000_attention.pdf"]
    with Image.open(out / "0000_attention.png") as page:
        assert (page.width, round(page.info["dpi"][0])) == (2160, 300)
    assert cv2.imread(str(out / "0000_mean.png")).shape == (30, 50, 3)
    (out / "0000_attention.png").unlink()
    with pytest.raises(UserError, match=r"holds 0000_attention.pdf already"):
        run(vit, out, image)
    run(vit, out, image, "--overwrite")
    assert not list(out.glob("*.pdf"))  # no PDF of another page
    with pytest.raises(UserError, match="dpi must be 72 to 600, not 30"):
        run(vit, tmp_path / "none", image, "--dpi", 30)


def test_separate_pictures_are_as_large_as_the_image(vit: Path, picture_folder: Folder, tmp_path: Path) -> None:
    image = picture_folder(1, size=(30, 50)) / "0000.png"
    run(vit, tmp_path / "out", image, "--separate", "--size", 64, "--block", 0, "--mass", 0.8)
    heads = [f"0000_head{head}{kind}.png" for head in range(HEADS) for kind in ("", "_mask")]
    expected = ["0000_attention.png", "0000_mean.png", "0000_mean_mask.png", *heads]
    assert names(tmp_path / "out") == sorted(expected)
    for name in expected[1:]:
        assert cv2.imread(str(tmp_path / "out" / name)).shape == (30, 50, 3)


def test_a_resnet_shows_its_one_map(resnet: Path, picture_folder: Folder, tmp_path: Path) -> None:
    assert run(resnet, tmp_path / "out", picture_folder(1), "--separate") == 0
    shown = ("attention", "head0", "head0_mask", "mean", "mean_mask")
    assert names(tmp_path / "out") == [f"0000_{kind}.png" for kind in shown]
    with pytest.raises(UserError, match="no attention blocks"):
        run(resnet, tmp_path / "other", picture_folder(1), "--block", 3)


def test_pictures_are_replaced_only_on_request(vit: Path, picture_folder: Folder, tmp_path: Path) -> None:
    out, images = tmp_path / "out", picture_folder(2)
    run(vit, out, images)
    kept = out / "0001_attention.png"
    kept.write_bytes(b"mine")
    with pytest.raises(UserError, match=r"holds 0000_attention.png already.*--overwrite"):
        run(vit, out, images)
    assert kept.read_bytes() == b"mine"
    assert run(vit, out, images, "--overwrite") == 0
    assert kept.read_bytes() != b"mine"


def test_bad_images_are_listed_and_the_others_drawn(
    vit: Path, picture_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = picture_folder(1)
    (folder / "broken.png").write_bytes(b"no image")
    assert run(vit, tmp_path / "out", folder / "broken.png", folder / "none.jpg", folder / "0000.png") == 0
    assert names(tmp_path / "out") == ["0000_attention.png"]
    told = capsys.readouterr()
    assert "1 page in" in told.out
    assert "2 not drawn" in told.err
    assert str(folder / "broken.png") in told.err
    assert str(folder / "none.jpg") in told.err


def test_a_name_that_is_no_utf8_is_drawn_with_a_question_mark(
    vit: Path, picture_folder: Folder, tmp_path: Path
) -> None:
    folder, name = picture_folder(1), os.fsdecode(b"caf\xe9.png")
    (folder / "0000.png").rename(folder / name)
    assert run(vit, tmp_path / "out", folder) == 0
    assert [name.startswith("caf\udce9") for name in names(tmp_path / "out")] == [True]


def test_no_readable_image_is_an_error(vit: Path, tmp_path: Path) -> None:
    (tmp_path / "none.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"no image could be drawn.*none\.jpg"):
        run(vit, tmp_path / "out", tmp_path / "none.jpg")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--limit", "0"), "--limit must be at least 1"),
        (("--size", "7"), "--size must be at least one patch of 8 px, not 7"),
        (("--mass", "60"), "at most 1, not 60"),
        (("--block", "99"), "has no block 99"),
        (("--device", "abacus"), "abacus"),
    ],
)
def test_settings_out_of_range(
    arguments: tuple[str, ...], message: str, vit: Path, picture_folder: Folder, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        run(vit, tmp_path / "out", picture_folder(1), *arguments)


def test_no_images_named(vit: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name image files"):
        run(vit, tmp_path / "out")


def test_out_that_is_a_file(vit: Path, picture_folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="--out"):
        run(vit, tmp_path / "out", picture_folder(1))


def test_a_model_that_diverged(picture_folder: Folder, tmp_path: Path) -> None:
    backbone = build_backbone(BackboneConfig("vit_micro_conv8", 32))
    with torch.no_grad():
        next(backbone.parameters()).fill_(float("nan"))
    checkpoint.export_backbone(tmp_path / "model", backbone)
    with pytest.raises(UserError, match="not finite"):
        run(tmp_path / "model", tmp_path / "out", picture_folder(1))


def test_a_folder_is_sampled_evenly_and_files_are_all_taken(picture_folder: Folder) -> None:
    folder = picture_folder(10)
    numbers = [int(path.stem) for path in find_files([folder], 4)]
    assert numbers == [0, 2, 5, 7]
    files = [folder / f"{number:04d}.png" for number in range(10)]
    assert find_files(files, 4) == files


def test_names_that_meet_are_numbered() -> None:
    assert unique_names(["cat", "cat", "cat-2", "Cat", "dog"]) == ["cat", "cat-2", "cat-2-2", "Cat-3", "dog"]


def test_pictures_are_of_the_image_as_decoded(vit: Path, tmp_path: Path) -> None:
    """The mask that holds everything leaves the image as it is, apart from the outline."""
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "x.png"), image)
    run(vit, tmp_path / "out", tmp_path / "x.png", "--separate", "--mass", 1)
    mask = cv2.imread(str(tmp_path / "out" / "x_mean_mask.png"))
    assert np.array_equal(mask[2:-2, 2:-2], image[2:-2, 2:-2])
