"""`dinoscope attention` with several models, with true masks, with rollout, and with every block."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from dinoscope.cli import main
from dinoscope.data.benchmarks import encode_indices, find_masks
from dinoscope.errors import UserError
from tests.data.test_masked_images import write_voc

Folder = Callable[..., Path]
VIT, RESNET = "random:vit_micro_conv8", "random:resnet_micro"


def run(out: Path, *arguments: object) -> int:
    return main(["attention", *map(str, arguments), "--out", str(out), "--size", "32"])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".dinoscope")


def write_masks(images: Path, folder: Path, *, size: tuple[int, int] = (32, 40), value: int = 255) -> Path:
    folder.mkdir()
    for image in images.iterdir():
        mask = np.zeros(size, np.uint8)
        mask[8:24, 8:32] = value
        cv2.imwrite(str(folder / f"{image.stem}.png"), mask)
    return folder


def test_models_side_by_side(picture_folder: Folder, tmp_path: Path) -> None:
    assert run(tmp_path / "out", picture_folder(2), "--model", VIT, RESNET) == 0
    assert names(tmp_path / "out") == ["0000_compared.png", "0001_compared.png"]
    assert cv2.imread(str(tmp_path / "out" / "0000_compared.png")).shape[1] == 1198
    assert run(tmp_path / "many", "--model", *[VIT] * 6, picture_folder(1)) == 0  # two bands of three
    assert cv2.imread(str(tmp_path / "many" / "0000_compared.png")).shape[1] == 1198


def test_masks_give_a_jaccard_for_each_model(
    picture_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = picture_folder(2)
    masks = write_masks(images, tmp_path / "masks")
    # a mask that holds everything covers the image; the object is 16 x 24 of 32 x 40 px: 30%
    assert run(tmp_path / "out", images, "--model", VIT, RESNET, "--masks", masks, "--mass", "1") == 0
    told = capsys.readouterr().out
    assert "2 images" in told
    assert told.count("30.00") == 2
    (masks / "0001.png").unlink()
    assert run(tmp_path / "one", images, "--model", VIT, "--masks", masks, "--mass", "1") == 0
    assert names(tmp_path / "one") == ["0000_compared.png", "0001_compared.png"]
    assert "1 image" in capsys.readouterr().out


def test_void_pixels_are_not_counted(
    tmp_path: Path, picture_folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    images = picture_folder(1)
    (tmp_path / "masks").mkdir()
    classes = np.zeros((32, 40), np.uint8)
    classes[:16] = 255
    classes[16:, :20] = 7
    (tmp_path / "masks" / "0000.png").write_bytes(encode_indices(classes))
    # of the lower half, which counts, the left half is the object
    assert run(tmp_path / "out", images, "--model", VIT, "--masks", tmp_path / "masks", "--mass", "1") == 0
    assert "50.00" in capsys.readouterr().out


def test_an_image_without_objects_has_no_jaccard(
    picture_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = picture_folder(3)
    masks = write_masks(images, tmp_path / "masks")
    for name, values in (("0000", [1]), ("0001", [0]), ("0002", [0, 255])):
        classes = np.resize(np.array(values, np.uint8), (32, 40))
        (masks / f"{name}.png").write_bytes(encode_indices(classes))
    assert run(tmp_path / "out", images, "--model", VIT, "--masks", masks) == 0
    assert len(names(tmp_path / "out")) == 3
    assert "mean Jaccard of the masks, 1 image" in capsys.readouterr().out


def test_a_mask_of_another_size_is_reported(
    picture_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = picture_folder(2)
    masks = write_masks(images, tmp_path / "masks")
    cv2.imwrite(str(masks / "0001.png"), np.zeros((40, 32), np.uint8))
    assert run(tmp_path / "out", images, "--model", VIT, "--masks", masks) == 0
    assert names(tmp_path / "out") == ["0000_compared.png"]
    assert "0001.png is 32 x 40 px, its image 40 x 32 px" in capsys.readouterr().err


def test_masks_are_found_in_a_voc_folder_and_by_the_longest_path(tmp_path: Path) -> None:
    voc = write_voc(tmp_path, ["a", "b"], ["a"])
    files = [voc / "VOCdevkit/VOC2012/JPEGImages" / name for name in ("a.jpg", "none.jpg")]
    for root in (voc, voc / "VOCdevkit", voc / "VOCdevkit/VOC2012"):
        found = find_masks(files, root)
        assert [mask.name for mask in found.masks] == ["a.png"]
        assert found.without_mask == (str(files[1]),)
        assert not found.binary
    for name in ("0.png", "dog/0.png"):
        (tmp_path / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "masks" / name), np.full((2, 2), 255, np.uint8))
    found = find_masks([tmp_path / "frames/dog/0.jpg", tmp_path / "frames/cat/0.jpg"], tmp_path / "masks")
    assert [str(mask.relative_to(tmp_path / "masks")) for mask in found.masks] == ["dog/0.png", "0.png"]
    assert found.binary
    with pytest.raises(UserError, match=r"no mask of any image; looked for x\.png"):
        find_masks([tmp_path / "x.jpg"], tmp_path / "masks")
    with pytest.raises(UserError, match="not a folder"):
        find_masks(files, tmp_path / "nowhere")


def test_rollout_is_one_map(picture_folder: Folder, tmp_path: Path) -> None:
    assert run(tmp_path / "out", picture_folder(1), "--model", VIT, "--map", "rollout", "--separate") == 0
    kinds = ("head0", "head0_mask", "mean", "mean_mask", "rollout")
    assert names(tmp_path / "out") == [f"0000_{kind}.png" for kind in kinds]


def test_every_block_in_a_row(picture_folder: Folder, tmp_path: Path) -> None:
    assert run(tmp_path / "out", picture_folder(1), "--model", VIT, "--block", "all") == 0
    assert names(tmp_path / "out") == ["0000_blocks.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--model", "nowhere", "--map", "rolout"),  # before anything is loaded
            "no kind of map 'rolout'; did you mean rollout? there are: attention, rollout, energy, gradcam, centre",
        ),
        (("--model", RESNET, "--map", "rollout"), "rollout needs attention blocks"),
        (("--model", RESNET, "--block", "all"), "--block all needs attention blocks"),
        (("--model", VIT, RESNET, "--block", "1"), "resnet_micro has no attention blocks"),
        (("--model", VIT, VIT, "--separate"), "--separate is for one model"),
        (("--model", VIT, "--block", "all", "--map", "rollout"), "--block all is for --map attention"),
        (("--model", VIT, "--masks", "nowhere"), "--masks nowhere: no such folder"),
    ],
)
def test_settings_that_do_not_go_together(
    arguments: tuple[str, ...],
    message: str,
    picture_folder: Folder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(tmp_path / "out", picture_folder(1), *arguments) == 2
    assert message in capsys.readouterr().err
