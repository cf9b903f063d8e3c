"""Duplicates: planted copies are found, the right one is kept, and files are moved only if they may be."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import dinoscope as ds
from dinoscope import near_duplicates
from dinoscope.cli import main
from dinoscope.data.finding import find_images
from dinoscope.data.images import as_raw
from dinoscope.data.reader import RawImage
from dinoscope.errors import UserError
from dinoscope.near_duplicates import Duplicates, DuplicatesConfig, descriptor, find_duplicates, mirrored, moves
from dinoscope.places import parse_place
from tests.html_checks import Page
from tests.pictures import draw_picture


def picture(seed: int, size: tuple[int, int] = (96, 120)) -> np.ndarray:
    return cv2.GaussianBlur(draw_picture(seed, size), (0, 0), 1)


def save(file: Path, pixels: np.ndarray, **options: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, **options)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten pictures in train, and in val an exact, a small, a JPEG and a mirrored copy of the first four."""
    root = tmp_path / "data"
    for number in range(10):
        save(root / "train" / f"{number}.png", picture(number))
    shutil.copy(root / "train" / "0.png", root / "val-exact.png")
    (root / "val").mkdir()
    shutil.move(root / "val-exact.png", root / "val" / "exact.png")
    save(root / "val" / "small.png", cv2.resize(picture(1), (60, 48), interpolation=cv2.INTER_AREA))
    save(root / "val" / "worse.jpg", picture(2), quality=20)
    save(root / "val" / "mirrored.png", picture(3)[:, ::-1])
    return root


def pairs(found: Duplicates) -> dict[str, tuple[str, str]]:
    """Each copy's kind and kept image."""
    return {own.key: (own.kind, group[0].key) for group in found.groups for own in group[1:]}


EXPECTED = {
    "val/exact.png": ("exact", "train/0.png"),
    "val/small.png": ("near", "train/1.png"),
    "val/worse.jpg": ("near", "train/2.png"),
}


def test_planted_copies_are_found_and_the_largest_is_kept(data: Path) -> None:
    found = pairs(find_duplicates(find_images(data)))
    twin = ("val/mirrored.png", "train/3.png")
    assert {key: value for key, value in found.items() if key not in twin} == EXPECTED
    (copy, (kind, kept)) = next(item for item in found.items() if item[0] in twin)
    assert (kind, {copy, kept}) == ("mirrored", set(twin))


def test_equal_pixels_alone(data: Path) -> None:
    found = find_duplicates(find_images(data), DuplicatesConfig(exact=True))
    assert pairs(found) == {"val/exact.png": ("exact", "train/0.png")}


def test_an_archive_and_joined_places_give_the_same_groups(data: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "images"), "zip", data)
    folder = [[own.key for own in group] for group in find_duplicates(find_images(data)).groups]
    assert [[own.key for own in group] for group in find_duplicates(find_images(Path(archive))).groups] == folder
    joined = parse_place(f"{data / 'train'} + {data / 'val'}")
    assert len(find_duplicates(find_images(joined)).groups) == len(folder) == 4


def test_the_mirrored_descriptor_is_that_of_the_mirrored_image() -> None:
    pixels = picture(5, (64, 64))
    straight = torch.from_numpy(descriptor(as_raw(pixels)))
    turned = descriptor(as_raw(np.ascontiguousarray(pixels[:, ::-1])))
    np.testing.assert_allclose(mirrored(straight[None])[0].numpy(), turned, atol=1e-2 * np.abs(turned).max())
    assert not np.allclose(straight.numpy(), turned, atol=0.1 * np.abs(turned).max())


def test_brightness_and_contrast_do_not_matter() -> None:
    pixels = picture(6)
    darker = np.rint(0.6 * pixels + 20).astype(np.uint8)
    one, two = (torch.from_numpy(descriptor(as_raw(values))) for values in (pixels, darker))
    assert torch.cosine_similarity(one, two, dim=0) > 0.999


def test_flat_images_are_copies_only_if_they_are_equal(tmp_path: Path) -> None:
    for name, value in (("a", 10), ("b", 10), ("c", 200)):
        save(tmp_path / f"{name}.png", np.full((20, 20, 3), value, np.uint8))
    assert pairs(find_duplicates(find_images(tmp_path))) == {"b.png": ("exact", "a.png")}


def test_what_is_like_a_copy_and_not_like_the_kept_one_is_indirect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Directions 0, 25 and 50 degrees: neighbours have a cosine of 0.906, the ends 0.643."""
    for place, side in enumerate((40, 30, 20)):
        save(tmp_path / f"{place}.png", picture(place, (side, side)))
    angle_of = {40: 0.0, 30: 25.0, 20: 50.0}

    def direction(image: RawImage) -> np.ndarray:
        angle = np.deg2rad(angle_of[image.values.shape[0]])
        values = np.zeros(144, np.float32)
        values[[0, 2]] = np.cos(angle), np.sin(angle)
        return values

    monkeypatch.setattr(near_duplicates, "descriptor", direction)
    found = find_duplicates(find_images(tmp_path), DuplicatesConfig(threshold=0.9))
    (group,) = found.groups
    assert [(own.key, own.kind) for own in group] == [("0.png", "kept"), ("1.png", "near"), ("2.png", "indirect")]
    assert [own.cosine for own in group] == pytest.approx([1, np.cos(np.deg2rad(25)), np.cos(np.deg2rad(50))])
    assert [file.name for file, _ in moves(found, tmp_path, tmp_path.parent / "away")] == ["1.png"]


def test_features_of_a_model_find_further_copies(data: Path) -> None:
    pixels = picture(4)
    pixels[:, 60:] = pixels[:, 60:].mean(axis=(0, 1))  # half of it is painted over
    save(data / "val" / "painted.png", pixels)
    assert not {"val/painted.png", "train/4.png"} & pairs(ds.duplicates(data)).keys()
    found = ds.duplicates(data, "pixels", model_threshold=0.7, device="cpu", cached=False)
    assert {own.key for own in found.of_kind("exact")} == {"val/exact.png"}
    (group,) = (group for group in found.groups if "val/painted.png" in {own.key for own in group})
    painted = next(own for own in group if own.key in ("val/painted.png", "train/4.png") and own.kind != "kept")
    assert painted.kind == "alike"
    assert 0.7 <= painted.cosine < 1


def test_thresholds_that_do_not_fit_are_refused(data: Path) -> None:
    with pytest.raises(UserError):
        ds.duplicates(data, "pixels")
    with pytest.raises(UserError):
        ds.duplicates(data, model_threshold=0.9)
    with pytest.raises(UserError):
        ds.duplicates(data, "pixels", model_threshold=0.9, exact=True)
    with pytest.raises(UserError):
        ds.duplicates(data, threshold=0.9, exact=True)


def test_unreadable_images_are_left_out(data: Path) -> None:
    (data / "train" / "broken.png").write_bytes(b"no image")
    found = ds.duplicates(data)
    assert [own.path for own in found.unreadable] == ["train/broken.png"]
    assert EXPECTED.items() <= pairs(found).items()


# The command


def test_nothing_moves_by_default(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path.relative_to(data) for path in data.rglob("*"))
    assert main(["duplicates", "--data", str(data), "--out", str(tmp_path / "out")]) == 0
    assert sorted(path.relative_to(data) for path in data.rglob("*")) == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["duplicates.csv", "duplicates.html"]
    with (tmp_path / "out" / "duplicates.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert rows[0] | {"bytes": ""} == {
        "group": "1",
        "file": "train/0.png",
        "kind": "kept",
        "cosine": "1.0000",
        "width": "120",
        "height": "96",
        "bytes": "",
    }
    page = Page((tmp_path / "out" / "duplicates.html").read_text())
    assert all(image["src"].startswith("data:image/webp") for image in page.images())
    assert [image["alt"] for image in page.images()] == [row["file"] for row in rows]
    size = sum(int(row["bytes"]) for row in rows if row["kind"] != "kept")
    out = capsys.readouterr().out
    assert f"{size / 1e3:,.1f} kB" in out
    assert "val/exact.png" in out


def test_copies_are_moved_with_their_relative_paths_and_a_list(data: Path, tmp_path: Path) -> None:
    before = {path.relative_to(data): path.read_bytes() for path in data.rglob("*.*")}
    away, out = tmp_path / "away", tmp_path / "out"
    assert main(["duplicates", "--data", str(data), "--out", str(out), "--remove-to", str(away)]) == 0
    moved = {path.relative_to(away): path.read_bytes() for path in away.rglob("*.*")}
    left = {path.relative_to(data): path.read_bytes() for path in data.rglob("*.*")}
    assert len(moved) == 4
    assert moved | left == before
    assert not moved.keys() & left.keys()
    assert not find_duplicates(find_images(data)).groups
    with (out / "moved.csv").open() as file:
        for row in csv.DictReader(file):
            shutil.move(row["to"], row["from"])
    assert {path.relative_to(data): path.read_bytes() for path in data.rglob("*.*")} == before


def test_an_earlier_list_of_moved_files_stays(data: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "moved.csv").write_text("earlier")
    line = ["duplicates", "--data", str(data), "--out", str(tmp_path / "out"), "--remove-to", str(tmp_path / "away")]
    assert main(line) == 0
    assert (tmp_path / "out" / "moved.csv").read_text() == "earlier"
    assert (tmp_path / "out" / "moved-2.csv").is_file()


def test_nothing_is_moved_if_a_file_is_in_the_way(data: Path, tmp_path: Path) -> None:
    away = tmp_path / "away"
    (away / "val").mkdir(parents=True)
    (away / "val" / "small.png").write_bytes(b"mine")
    with pytest.raises(UserError):
        moves(find_duplicates(find_images(data)), data, away)
    line = ["duplicates", "--data", str(data), "--out", str(tmp_path / "out"), "--remove-to", str(away)]
    assert main(line) == 2
    assert (away / "val" / "small.png").read_bytes() == b"mine"
    assert len(list(data.rglob("*.*"))) == 14
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["archive", "joined", "within", "file", "link"])
def test_what_copies_are_not_moved_out_of(
    kind: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, away = [str(data)], tmp_path / "away"
    if kind == "archive":
        place = [shutil.make_archive(str(tmp_path / "images"), "zip", data)]
    elif kind == "joined":
        place = [str(data / "train"), "--data", str(data / "val")]
    elif kind == "within":
        away = data / "away"
    elif kind == "file":
        away.write_text("")
    else:
        (data / "val" / "link.png").symlink_to(data / "train" / "0.png")
    assert main(["duplicates", "--data", *place, "--out", str(tmp_path / "out"), "--remove-to", str(away)]) == 2
    assert capsys.readouterr().err.count("\n") >= 1
    assert len(list(data.rglob("*.*"))) == 14 + (kind == "link")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("threshold", ["1.5", "-2"])
def test_a_threshold_out_of_range_is_refused(threshold: str, data: Path, tmp_path: Path) -> None:
    assert main(["duplicates", "--data", str(data), "--out", str(tmp_path / "out"), f"--threshold={threshold}"]) == 2
    assert not (tmp_path / "out").exists()
