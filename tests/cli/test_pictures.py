"""`dinoscope pca`, `similarity` and `segment`, and what they share with `attention`: end to end, on small pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dinoscope import checkpoint
from dinoscope.cli import main
from dinoscope.cli.pictures import models_and_images
from dinoscope.files import MARK
from dinoscope.models.backbone import BackboneConfig, build_backbone

Folder = Callable[..., Path]
VIT, RESNET = "random:vit_micro_conv8", "random:resnet_micro"
SIZE = ("--size", "32")


def run(*arguments: object) -> int:
    return main([*map(str, arguments), *SIZE])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != MARK)


def command(name: str) -> tuple[str, ...]:
    """The command with what it needs beside images, model and out."""
    return (name, "--at", "5,5") if name == "similarity" else (name,)


# What all of them share


@pytest.mark.parametrize("name", ["pca", "similarity", "segment", "attention"])
@pytest.mark.parametrize("model", [VIT, RESNET])
def test_pictures_are_the_same_each_time(name: str, model: str, picture_folder: Folder, tmp_path: Path) -> None:
    image = picture_folder(1) / "0000.png"
    for out in ("one", "two"):
        assert run(*command(name), image, "--model", model, "--out", tmp_path / out) == 0
    assert names(tmp_path / "one")
    for each in names(tmp_path / "one"):
        assert (tmp_path / "one" / each).read_bytes() == (tmp_path / "two" / each).read_bytes()
        assert cv2.imread(str(tmp_path / "one" / each)) is not None


@pytest.mark.parametrize("name", ["pca", "similarity", "segment"])
def test_pictures_are_replaced_only_on_request(
    name: str, picture_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*command(name), picture_folder(1) / "0000.png", "--model", VIT, "--out", tmp_path / "out")
    assert run(*words) == 0
    kept = tmp_path / "out" / names(tmp_path / "out")[0]
    kept.write_bytes(b"mine")
    capsys.readouterr()
    assert run(*words) == 2
    assert "already: name another folder with --out, or add --overwrite" in capsys.readouterr().err
    assert kept.read_bytes() == b"mine"
    assert run(*words, "--overwrite") == 0
    assert kept.read_bytes() != b"mine"


@pytest.mark.parametrize(("name", "drawn"), [("pca", 2), ("segment", 2), ("similarity", 1)])
def test_a_broken_image_is_reported_and_the_others_drawn(
    name: str, drawn: int, picture_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = picture_folder(2)
    (folder / "broken.png").write_bytes(b"no image")
    first = (folder / "0000.png",) if name == "similarity" else ()
    assert run(*command(name), *first, folder, "--model", VIT, "--out", tmp_path / "out") == 0
    told = capsys.readouterr()
    assert f"{drawn} page" in told.out
    assert "1 not drawn" in told.err
    assert str(folder / "broken.png") in told.err
    assert not any("broken" in each for each in names(tmp_path / "out"))


@pytest.mark.parametrize("name", ["pca", "similarity", "segment", "attention"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--size", "7"), "--size must be at least one patch of 8 px, not 7"),
        (("--limit", "0"), "--limit must be at least 1"),
        (("--device", "abacus"), "abacus"),
        (("--model", "random:vit_macro"), "neither a network nor a model"),
    ],
)
def test_options_out_of_range_are_told_in_one_line(
    name: str,
    words: tuple[str, str],
    message: str,
    picture_folder: Folder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = () if words[0] == "--model" else ("--model", VIT)
    image = picture_folder(1) / "0000.png"
    assert main([*command(name), str(image), *model, "--out", str(tmp_path / "out"), *words]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("name", ["pca", "similarity", "segment"])
def test_no_readable_image_is_an_error(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none.jpg").write_bytes(b"no image")
    assert run(*command(name), tmp_path / "none.jpg", "--model", VIT, "--out", tmp_path / "out") == 2
    assert "none.jpg" in capsys.readouterr().err
    assert names(tmp_path / "out") == []


@pytest.mark.parametrize("name", ["pca", "similarity", "segment"])
def test_a_model_that_diverged(name: str, picture_folder: Folder, tmp_path: Path) -> None:
    backbone = build_backbone(BackboneConfig("vit_micro_conv8", 32))
    with torch.no_grad():
        next(backbone.parameters()).fill_(float("nan"))
    checkpoint.export_backbone(tmp_path / "model", backbone)
    assert run(*command(name), picture_folder(1), "--model", tmp_path / "model", "--out", tmp_path / "out") == 2


# pca


def test_each_image_alone_and_all_jointly(picture_folder: Folder, tmp_path: Path) -> None:
    folder = picture_folder(3)
    assert run("pca", folder, "--model", VIT, "--out", tmp_path / "out") == 0
    assert names(tmp_path / "out") == ["0000_pca.png", "0001_pca.png", "0002_pca.png"]
    assert run("pca", folder, "--model", RESNET, "--out", tmp_path / "joint", "--joint", "--foreground") == 0
    assert names(tmp_path / "joint") == ["joint_pca.png"]
    page = cv2.imread(str(tmp_path / "joint" / "joint_pca.png"))
    assert page.shape[1] == 1198
    assert not (page[20:60] == 255).all()  # the heading


def test_one_image_cannot_be_joint(picture_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pca", picture_folder(1), "--model", VIT, "--out", tmp_path / "out", "--joint") == 2
    assert "at least two images" in capsys.readouterr().err
    assert names(tmp_path / "out") == []


# similarity


def test_a_row_for_each_point_and_a_column_for_each_image(picture_folder: Folder, tmp_path: Path) -> None:
    folder = picture_folder(7)
    words, image = ("similarity", "--model", VIT), folder / "0000.png"
    assert run(*words, image, "--at", "0,0", "--out", tmp_path / "one") == 0
    assert run(*words, image, "--at", "0,0", "--at", "39,31", "--out", tmp_path / "two") == 0
    assert run(*words, image, folder, "--at", "0,0", "--out", tmp_path / "many") == 0
    one, two, many = (cv2.imread(str(tmp_path / out / "0000_similarity.png")) for out in ("one", "two", "many"))
    assert one.shape[1] == two.shape[1] == 1198
    assert two.shape[0] > 1.5 * one.shape[0]
    assert many.shape[1] > 1198


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ("40,0", "outside of the image, which is 40 x 32 px"),
        ("0, 32", "y is 0 to 31"),
        ("5", "--at must be two whole numbers with a comma between them, not '5'"),
        ("1,2,3", "--at must be two whole numbers"),
        ("x,y", "not 'x,y'"),
    ],
)
def test_bad_points(
    at: str, message: str, picture_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = picture_folder(1) / "0000.png"
    assert run("similarity", image, "--at", at, "--model", VIT, "--out", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or names(tmp_path / "out") == []


def test_similarity_needs_a_point(picture_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = picture_folder(1) / "0000.png"
    assert run("similarity", image, "--model", VIT, "--out", tmp_path / "out") == 2
    assert "--at" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_first_of_similar_images_must_be_a_readable_file(
    picture_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = picture_folder(2)
    (folder / "broken.png").write_bytes(b"no image")
    out = ("--model", VIT, "--at", "1,1", "--out", tmp_path / "out")
    assert run("similarity", folder, *out) == 2
    assert "is a folder" in capsys.readouterr().err
    assert run("similarity", folder / "broken.png", folder / "0000.png", *out) == 2
    assert "the first image must be readable" in capsys.readouterr().err


# segment


@pytest.mark.parametrize("by", ["attention", "rollout", "energy", "pca"])
def test_masks_and_cutouts_are_as_large_as_the_image(by: str, picture_folder: Folder, tmp_path: Path) -> None:
    image = picture_folder(1, size=(50, 77)) / "0000.png"
    assert run("segment", image, "--model", VIT, "--by", by, "--cutout", "--out", tmp_path / "out") == 0
    assert names(tmp_path / "out") == ["0000_cutout.png", "0000_mask.png", "0000_segment.png"]
    mask = cv2.imread(str(tmp_path / "out" / "0000_mask.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (50, 77)
    assert set(np.unique(mask)) == {0, 255}
    cutout = cv2.imread(str(tmp_path / "out" / "0000_cutout.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(cutout[..., 3], mask)
    assert np.array_equal(cutout[..., :3], cv2.imread(str(image)))


def test_the_mask_holds_the_mass(picture_folder: Folder, tmp_path: Path) -> None:
    shares = []
    for mass in ("0.3", "0.9", "1"):
        words = ("segment", picture_folder(1), "--model", RESNET, "--mass", mass, "--out", tmp_path / mass)
        assert run(*words) == 0
        shares.append((cv2.imread(str(tmp_path / mass / "0000_mask.png")) > 0).mean())
    assert shares == sorted(shares)
    assert shares[0] < 0.5
    assert shares[2] == 1


def test_the_foreground_of_components_is_the_object(tmp_path: Path) -> None:
    """A red square on grey: a network need not be trained to tell them apart."""
    picture = np.full((96, 96, 3), 128, np.uint8)
    picture[32:64, 40:72] = (0, 0, 255)
    cv2.imwrite(str(tmp_path / "x.png"), picture)
    words = ["segment", str(tmp_path / "x.png"), "--model", VIT, "--by", "pca", "--size", "96"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    mask = cv2.imread(str(tmp_path / "out" / "x_mask.png"), cv2.IMREAD_GRAYSCALE) > 0
    truth = (picture[..., 2] == 255) & (picture[..., 0] == 0)
    assert (mask & truth).sum() / (mask | truth).sum() > 0.5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--by", "atention"), "no way to segment 'atention'; did you mean attention"),
        (("--block", "7"), "has no block 7"),
        (("--mass", "0"), "at most 1, not 0"),
    ],
)
def test_segment_settings_out_of_range(
    words: tuple[str, str], message: str, picture_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("segment", picture_folder(1), "--model", VIT, "--out", tmp_path / "out", *words) == 2
    assert message in capsys.readouterr().err


# Where models end and images begin


def test_models_and_images_are_told_apart_by_what_they_are(picture_folder: Folder, tmp_path: Path) -> None:
    pictures, model = picture_folder(1), tmp_path / "model"
    checkpoint.export_backbone(model, build_backbone(BackboneConfig("vit_micro_conv8", 32)))
    others = [str(model), VIT, "runs/mistyped"]
    words = [str(model), *others, str(pictures), str(pictures / "0000.png"), "none.JPG"]
    models, images = models_and_images(words, [Path("last.png")])
    assert models == [str(model), *others]
    assert images == [pictures, pictures / "0000.png", Path("none.JPG"), Path("last.png")]
    assert models_and_images([str(pictures)], []) == ([str(pictures)], [])


def test_a_named_file_that_cannot_be_read_says_why(
    picture_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also after --model, where the ending tells an image from a model; a JPEG may have any of its names."""
    folder = picture_folder(1)
    picture = cv2.imread(str(folder / "0000.png"))
    for name in ("a.jfif", "b.JXL"):
        (tmp_path / name).write_bytes(cv2.imencode(".jpg", picture)[1].tobytes())
    (tmp_path / "c.jxl").write_bytes(b"\xff\x0a" + bytes(16))
    files = [tmp_path / name for name in ("a.jfif", "b.JXL", "c.jxl")]
    assert run("pca", "--out", tmp_path / "out", "--model", VIT, *files) == 0
    assert names(tmp_path / "out") == ["a_pca.png", "b_pca.png"], "the content decides"
    assert f"{files[2]}: not supported: JPEG XL, save it as PNG or JPEG" in capsys.readouterr().err
