"""The layout of DAVIS: what is found in it, and what is said where it is incomplete or wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from dinoscope.data.benchmarks import encode_indices, find_davis
from dinoscope.errors import UserError
from dinoscope.scenes import ScenesConfig, write_scenes

SIZE = (20, 30)
Layout = Callable[..., Path]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """`layout(["a", "b"], frames=4)` writes DAVIS: object 1 and object 2 in every frame, void around them."""

    def write(names: list[str], *, frames: int = 4, resolution: str = "480p", year: int = 2017) -> Path:
        root = tmp_path / "DAVIS"
        mask = np.zeros(SIZE, np.uint8)
        mask[2:6], mask[8:12], mask[14] = 1, 2, 255
        for name in names:
            for kind in ("JPEGImages", "Annotations"):
                (root / kind / resolution / name).mkdir(parents=True)
            for frame in range(frames):
                image = np.full((*SIZE, 3), 10 * frame, np.uint8)
                cv2.imwrite(str(root / "JPEGImages" / resolution / name / f"{frame:05d}.jpg"), image)
                (root / "Annotations" / resolution / name / f"{frame:05d}.png").write_bytes(encode_indices(mask))
        (root / "ImageSets" / str(year)).mkdir(parents=True)
        (root / "ImageSets" / str(year) / "val.txt").write_text("".join(f"{name}\n" for name in names))
        return root

    return write


def test_sequences_of_the_list_in_its_order(layout: Layout) -> None:
    found = find_davis(layout(["b", "a"]).parent)
    assert [sequence.name for sequence in found.sequences] == ["b", "a"]
    assert (found.resolution, found.year, found.complete) == ("480p", 2017, True)
    sequence = found.sequences[0]
    assert (len(sequence), sequence.size) == (4, SIZE)
    assert sequence.image(3).shape == (*SIZE, 3)
    assert abs(int(sequence.image(3).mean()) - 30) <= 1
    assert np.unique(sequence.mask(0)).tolist() == [0, 1, 2]
    assert sequence.mask(0)[14].tolist() == [0] * SIZE[1]  # void


def test_in_2016_everything_is_one_object(layout: Layout) -> None:
    sequence = find_davis(layout(["a"], year=2016), 2016).sequences[0]
    assert np.unique(sequence.mask(0)).tolist() == [0, 1]
    assert int(sequence.mask(0).sum()) == 9 * SIZE[1]


def test_drawn_scenes(tmp_path: Path) -> None:
    config = ScenesConfig(0, 16, 0, 0, 0, 2, 3, (40, 60))
    found = find_davis(write_scenes(tmp_path / "scenes", config))
    assert [(each.name, len(each), each.size) for each in found.sequences] == [
        ("scene-00", 3, (40, 60)),
        ("scene-01", 3, (40, 60)),
    ]
    assert int(found.sequences[1].mask(0).max()) == 3


def test_full_resolution_where_there_is_no_other(layout: Layout) -> None:
    assert find_davis(layout(["a"], resolution="Full-Resolution")).resolution == "Full-Resolution"


def test_named_sequences_need_no_list(layout: Layout) -> None:
    root = layout(["a", "b"])
    assert not find_davis(root, names=["b"]).complete
    assert find_davis(root, names=["b", "a", "b"]).complete
    (root / "ImageSets/2017/val.txt").unlink()
    assert [each.name for each in find_davis(root, names=["b"]).sequences] == ["b"]
    with pytest.raises(UserError, match=r"2017.val\.txt is missing.*--sequences"):
        find_davis(root)


def test_frames_without_annotation_are_none(layout: Layout) -> None:
    root = layout(["a"])
    (root / "Annotations/480p/a/00002.png").unlink()
    sequence = find_davis(root).sequences[0]
    assert [sequence.mask(index) is None for index in range(4)] == [False, False, True, False]
    assert len(sequence.limited(3)) == 3
    with pytest.raises(UserError, match="2 frames are too few"):
        sequence.limited(2)


def test_the_nearest_sequence_is_offered(layout: Layout) -> None:
    with pytest.raises(UserError, match=r"no sequence of .* 'blackswann'; did you mean blackswan"):
        find_davis(layout(["blackswan", "dog"]), names=["blackswann"])


def test_a_part_of_the_list_does_not_pass_for_the_whole(layout: Layout) -> None:
    root = layout(["a", "b"])
    (root / "ImageSets/2017/val.txt").write_text("a\ngone\nb\n")
    with pytest.raises(UserError, match=r"1 of the 3 sequences of 2017 .* such as gone.*--sequences a b"):
        find_davis(root)


def test_what_is_wrong_is_named(layout: Layout) -> None:
    root = layout(["a"])
    annotations = root / "Annotations/480p/a"
    first = annotations / "00000.png"
    kept = first.read_bytes()
    for name in ("../a", "..", "/etc", "x\\y"):
        (root / "ImageSets/2017/val.txt").write_text(f"{name}\n")
        with pytest.raises(UserError, match="cannot lead out of the folder"):
            find_davis(root)
    (root / "ImageSets/2017/val.txt").write_text("a\n")
    first.unlink()
    with pytest.raises(UserError, match=r"00000\.png is missing"):
        find_davis(root)
    first.write_bytes(encode_indices(np.zeros((20, 31), np.uint8)))
    with pytest.raises(UserError, match=r"00000\.png is 31 x 20 px, and .*00000\.jpg is 30 x 20"):
        find_davis(root)
    first.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"00000\.png: not an image"):
        find_davis(root)
    first.write_bytes(kept)
    (annotations / "00009.png").write_bytes(kept)
    with pytest.raises(UserError, match=r"annotations without a frame of their name in .*: 1, such as 00009"):
        find_davis(root)


def test_other_folders(layout: Layout, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        find_davis(tmp_path / "none")
    with pytest.raises(UserError, match="not laid out like DAVIS"):
        find_davis(tmp_path)
    root = layout(["a"], frames=2)
    with pytest.raises(UserError, match="2 frames; at least 3"):
        find_davis(root)
    shutil.copy(root / "JPEGImages/480p/a/00000.jpg", root / "JPEGImages/480p/a/00000.png")
    with pytest.raises(UserError, match=r"00000\.jpg is there with another ending too"):
        find_davis(root)
    (root / "Annotations/480p").rename(root / "Annotations/240p")
    with pytest.raises(UserError, match="no resolution in common"):
        find_davis(root)


def test_frames_without_leading_zeros_are_in_the_order_of_their_numbers(layout: Layout) -> None:
    root = layout(["a"], frames=12)
    for kind in ("JPEGImages", "Annotations"):
        for file in (root / kind / "480p/a").iterdir():
            file.rename(file.with_stem(str(int(file.stem) + 1)))
    sequence = find_davis(root).sequences[0]
    assert [frame.stem for frame in sequence.frames] == [str(number) for number in range(1, 13)]
    assert [file and file.stem for file in sequence.annotations] == [frame.stem for frame in sequence.frames]


def test_names_may_be_stored_in_two_unicode_forms(layout: Layout) -> None:
    """A list written on one system, folders and files unpacked on another."""
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    root = layout([composed])
    (root / "Annotations/480p" / composed).rename(root / "Annotations/480p" / decomposed)
    for number in range(4):
        frame = root / "JPEGImages/480p" / composed / f"{number:05d}.jpg"
        frame.rename(frame.with_stem(f"{decomposed}{number}"))
        mask = root / "Annotations/480p" / decomposed / f"{number:05d}.png"
        mask.rename(mask.with_stem(f"{composed}{number}"))
    (root / "Annotations/480p" / decomposed / "._0.png").touch()  # debris of an archive
    for found in (find_davis(root), find_davis(root, names=[decomposed])):
        assert None not in found.sequences[0].annotations
        assert np.unique(found.sequences[0].mask(0)).tolist() == [0, 1, 2]
    twin = root / "JPEGImages/480p" / composed / f"{composed}0.jpg"
    shutil.copy(twin.with_stem(f"{decomposed}0"), twin)
    with pytest.raises(UserError, match="another Unicode form"):
        find_davis(root)
