"""Images with masks: the layout of PASCAL VOC, and two folders side by side."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from dinoscope.data.index_png import encode_indices
from dinoscope.data.masked_images import find_masked_images
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
