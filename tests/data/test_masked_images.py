"""Images with masks: the layout of PASCAL VOC, and two folders side by side."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from dinoscope.data.benchmarks import SizesDisagree, encode_indices, find_masked_images, find_masks
from dinoscope.data.sources import evenly
from dinoscope.errors import UserError


def write_voc(root: Path, names: list[str], listed: list[str]) -> Path:
    voc = root / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (voc / folder).mkdir(parents=True)
    for number, name in enumerate(names):
        cv2.imwrite(str(voc / "JPEGImages" / f"{name}.jpg"), np.full((6, 8, 3), 50, np.uint8))
        mask = np.full((6, 8), number + 1, np.uint8)
        mask[0] = 255
        (voc / "SegmentationClass" / f"{name}.png").write_bytes(encode_indices(mask))
    (voc / "ImageSets/Segmentation/val.txt").write_text("".join(f"{name}\n" for name in listed))
    return root


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_voc_is_found_wherever_it_was_unpacked(tmp_path: Path, below: str):
    found = find_masked_images(write_voc(tmp_path, ["a", "b"], ["b", "a", "c"]) / below)
    assert found.names == ("b", "a")
    assert found.without_mask == ("c",)
    assert not found.binary
    assert found.classes(0)[:2, 0].tolist() == [255, 2]


def test_a_folder_and_its_masks_meet_by_relative_name(tmp_path: Path):
    for name in ("x/1", "x/2", "y/1"):
        for kind, value in (("images", 9), ("masks", 255)):
            file = tmp_path / kind / f"{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            picture = np.zeros((4, 4), np.uint8)
            picture[1:3] = value
            cv2.imwrite(str(file), picture)
    (tmp_path / "masks/x/2.png").unlink()
    found = find_masked_images(tmp_path / "images", tmp_path / "masks")
    assert found.names == ("x/1", "y/1")
    assert found.without_mask == ("x/2",)
    assert found.binary
    assert found.classes(0)[:, 0].tolist() == [0, 1, 1, 0]
    assert found.subset(1).names == ("x/1",)


@pytest.mark.parametrize(
    ("listed", "said"),
    [([], "lists no images"), (["c"], "none of 1 images has a mask, such as c"), (["../a"], "lead out of the folder")],
)
def test_lists_that_lead_nowhere_are_refused(tmp_path: Path, listed: list[str], said: str):
    with pytest.raises(UserError, match=said):
        find_masked_images(write_voc(tmp_path, ["a"], listed))


def test_another_layout_is_refused_with_what_was_expected(tmp_path: Path):
    with pytest.raises(UserError, match="SegmentationClass"):
        find_masked_images(tmp_path)
    with pytest.raises(UserError, match="not a folder"):
        find_masked_images(tmp_path, tmp_path / "masks")


def test_a_damaged_mask_spoils_none_of_the_others(tmp_path: Path):
    for name in ("a", "b"):
        for kind in ("images", "masks"):
            (tmp_path / kind).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / kind / f"{name}.png"), np.full((4, 6), 255, np.uint8))
    (tmp_path / "masks/a.png").write_bytes(b"no picture")
    found = find_masked_images(tmp_path / "images", tmp_path / "masks")
    assert found.names == ("a", "b")
    assert found.binary
    with pytest.raises(UserError, match=r"a\.png: not a readable PNG"):
        found.ground_truth(0, (4, 6))
    assert found.ground_truth(1, (4, 6)).all()
    with pytest.raises(SizesDisagree, match=r"b\.png is 6 x 4 px, its image 6 x 5 px"):
        found.ground_truth(1, (5, 6))


def test_images_may_lie_elsewhere_than_the_voc_layout_that_has_their_masks(tmp_path: Path):
    voc = write_voc(tmp_path / "voc", ["a", "b"], ["a"])
    found = find_masked_images(voc / "VOCdevkit/VOC2012/JPEGImages", voc)
    assert found.names == ("a", "b")
    assert not found.binary


def test_a_limit_spreads_evenly_and_is_at_least_one():
    assert evenly(5, None) == [0, 1, 2, 3, 4]
    assert evenly(5, 2) == [0, 2]
    assert evenly(3, 9) == [0, 1, 2]
    with pytest.raises(UserError, match="--limit must be at least 1, not 0"):
        evenly(3, 0)


def test_masks_beside_their_images_are_not_taken_for_images(tmp_path: Path):
    for name in ("a.jpg", "a.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((4, 6), np.uint8))
    with pytest.raises(UserError, match=r"a\.jpg and a\.png would share one mask"):
        find_masked_images(tmp_path, tmp_path)


def test_a_mask_may_have_its_name_in_another_unicode_form(tmp_path: Path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    for kind, name in (("images", f"{composed}/{decomposed}"), ("masks", f"{decomposed}/{composed}")):
        file = tmp_path / kind / f"{name}.png"
        file.parent.mkdir(parents=True)
        cv2.imwrite(str(file), np.zeros((4, 4), np.uint8))
    images = tmp_path / "images"
    found = find_masked_images(images, tmp_path / "masks")
    assert found.names == (f"{composed}/{decomposed}",)
    assert found.masks[0].is_file()
    assert len(found.named([f"{composed}/{composed}"])) == 1
    assert len(find_masks([images / composed / f"{decomposed}.png"], tmp_path / "masks")) == 1
    cv2.imwrite(str(images / composed / f"{composed}.png"), np.zeros((4, 4), np.uint8))
    with pytest.raises(UserError, match="would share one mask"):
        find_masked_images(images, tmp_path / "masks")


def test_names_in_the_list_of_voc_may_have_another_unicode_form(tmp_path: Path):
    found = find_masked_images(write_voc(tmp_path, ["cafe\u0301"], ["caf\u00e9"]))
    assert found.images[0].is_file()
    assert found.masks[0].is_file()


def test_in_a_folder_of_soft_masks_white_is_the_object(tmp_path: Path):
    painted = np.zeros((40, 40), np.uint8)
    painted[10:30, 10:30] = 255
    soft = cv2.GaussianBlur(painted, (5, 5), 1.5)
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        cv2.imwrite(str(tmp_path / kind / "a.png"), soft)
    found = find_masked_images(tmp_path / "images", tmp_path / "masks")
    assert found.binary
    assert np.array_equal(found.classes(0), soft >= 128)
