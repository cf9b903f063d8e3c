"""A file that holds several images is several samples, in a folder, a list and an archive alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dinoscope.cli.pictures import picture_name
from dinoscope.data import samples
from dinoscope.data.finding import find_images
from dinoscope.data.reader import split_key
from dinoscope.data.samples import keys_of
from tests.containers import WRITERS


@pytest.fixture
def folder(picture_folder, tmp_path: Path) -> Path:
    """Two pictures, a stack of two images without a suffix of its own format, and what is no image."""
    folder = picture_folder(2)
    stack = np.random.default_rng(0).integers(0, 255, (2, 8, 9), np.uint8)
    np.save(folder / "stack.npy", stack)
    (folder / "stack.npy").with_name("IM0001").write_bytes((folder / "stack.npy").read_bytes())
    (folder / "README").write_text("no image")
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (folder / "damaged.npy").write_bytes(b"\x93NUMPY\x01\x00")
    return folder


KEYS = (
    "0000.png",
    "0001.png",
    "IM0001#frame=0",
    "IM0001#frame=1",
    "damaged.npy",
    "stack.npy#frame=0",
    "stack.npy#frame=1",
)


def test_in_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = find_images(folder)
    assert images.keys == KEYS
    assert dict(images.passed_over) == {"without an ending": 2}
    stack = np.load(folder / "stack.npy")
    for place in range(2):
        np.testing.assert_array_equal(images.read(5 + place).values[..., 0], stack[place])
        assert (images.header(5 + place).height, images.header(5 + place).width) == (8, 9)
        assert images.path(5 + place) == folder / "stack.npy"
    monkeypatch.setattr(samples, "frames", lambda path: pytest.fail(f"{path} is read again"))
    with pytest.raises(pytest.fail.Exception, match=r"damaged\.npy"):  # what failed is tried again
        find_images(folder)
    (folder / "damaged.npy").unlink()
    assert len(find_images(folder)) == 6


def test_a_file_that_changes_is_counted_again(folder: Path) -> None:
    assert len(find_images(folder)) == 7
    np.save(folder / "stack.npy", np.zeros((5, 8, 9), np.uint8))
    assert len(find_images(folder)) == 10


@pytest.mark.parametrize("kind", ["tar", "deflated zip"])
def test_in_an_archive(folder: Path, kind: str, tmp_path: Path) -> None:
    images, plain = find_images(WRITERS[kind](folder, tmp_path / "made")), find_images(folder)
    assert images.keys == KEYS
    assert images.passed_over == plain.passed_over
    for place in (0, 3, 6):
        np.testing.assert_array_equal(images.read(place).values, plain.read(place).values)
        assert images.header(place) == plain.header(place)


def test_in_a_list(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "some.csv").write_text(
        "path,label\npictures/stack.npy,a\npictures/IM0001#frame=1,b\npictures/0000.png,b\n"
    )
    images = find_images(tmp_path / "some.csv")
    assert [Path(key).name for key in images.keys] == ["0000.png", "IM0001#frame=1", *KEYS[5:]]
    assert images.labels == (1, 1, 0, 0)


def test_keys() -> None:
    assert keys_of("a/b.dcm", ("",)) == ["a/b.dcm"]
    for name in ("", "frame=12", "page=0", "axis=2,slice=7", "volume=1,axis=2,slice=17"):
        assert split_key(keys_of("a#b/c.nii.gz", (name,))[0]) == ("a#b/c.nii.gz", name)
    assert split_key("a#1.png") == ("a#1.png", "")


def test_names_of_pictures() -> None:
    names = {
        "a.dcm": "a",
        "a.dcm#frame=12": "a-frame12",
        "b.nii.gz#axis=2,slice=7": "b.nii-axis2-slice7",
        "c#1.png": "c#1",
    }
    assert {name: picture_name(Path("folder") / name) for name in names} == names
