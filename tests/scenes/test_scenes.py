"""The embedded data set: the same bytes every time, in the layouts that other programs expect."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dinoscope.errors import UserError
from dinoscope.scenes import (
    CLASSES,
    KINDS,
    VOID,
    ScenesConfig,
    draw,
    draw_single,
    sample_backdrop,
    sample_item,
    sample_light,
    with_void_borders,
    write_scenes,
)

SMALL = ScenesConfig(
    train_per_class=2, val_per_class=1, voc_images=3, davis_sequences=2, davis_frames=3, davis_size=(60, 100)
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes") / "out", SMALL)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(scenes, tmp_path):
    again = contents(write_scenes(tmp_path / "again", SMALL))
    assert again == contents(scenes)
    other = contents(write_scenes(tmp_path / "other", replace(SMALL, seed=1)))
    assert other.keys() == again.keys()
    assert all(other[name] != again[name] for name in again if name.endswith(".jpg"))


def test_a_larger_set_begins_with_the_images_of_a_smaller_one(scenes, tmp_path):
    larger = contents(write_scenes(tmp_path / "larger", replace(SMALL, train_per_class=3, voc_images=4)))
    smaller = contents(scenes)
    assert all(larger[name] == smaller[name] for name in smaller if name.endswith((".jpg", ".png")))


def test_progress_counts_every_file_once(tmp_path):
    seen = []
    out = write_scenes(tmp_path / "out", SMALL, lambda done, total: seen.append((done, total)))
    files = len(contents(out)) - 1  # scenes.json comes after the last call
    assert seen == [(done, files) for done in range(1, files + 1)]


def test_image_folder_layout(scenes):
    assert sorted(path.name for path in (scenes / "folder/train").iterdir()) == sorted(CLASSES)
    for name in CLASSES:
        files = sorted(path.name for path in (scenes / "folder/train" / name).iterdir())
        assert files == ["00000.jpg", "00001.jpg"]
        with Image.open(scenes / f"folder/val/{name}/00000.jpg") as image:
            assert (image.mode, image.size) == ("RGB", (64, 64))


def test_masks_of_the_validation_images_are_binary_and_cover_an_object(scenes):
    for name in CLASSES:
        with Image.open(scenes / f"folder-masks/val/{name}/00000.png") as image:
            mask = np.asarray(image)
        assert mask.shape == (64, 64)
        assert set(np.unique(mask)) == {0, 255}
        assert 0.1 < np.mean(mask == 255) < 0.8


def test_the_mask_is_where_the_object_was_painted():
    """With and without the object, images differ under the mask and in the shadow, and nowhere else."""
    rng = np.random.default_rng(3)
    backdrop = sample_backdrop(rng, (64, 80), clutter=3)
    item = sample_item(rng, "gem", (40.0, 32.0), 20.0)
    light = sample_light(rng)
    image, shown = draw(backdrop, [item], light, np.random.default_rng(0))
    empty, _ = draw(backdrop, [], light, np.random.default_rng(0))
    changed = np.abs(image.astype(int) - empty.astype(int)).max(axis=2)
    inner = cv2.erode(shown, np.ones((3, 3), np.uint8)) > 0
    beyond_shadow = cv2.dilate(shown, np.ones((17, 17), np.uint8)) == 0
    assert image.shape == (64, 80, 3)
    assert np.mean(changed[inner] > 8) > 0.85
    assert changed[beyond_shadow].max() == 0


def test_colours_do_not_tell_the_class():
    """Mean colours of the classes lie closer together than images of one class do."""
    means = np.asarray(
        [
            [draw_single(SMALL, "train", place, index)[0].mean(axis=(0, 1)) for index in range(12)]
            for place in range(len(CLASSES))
        ]
    )
    assert means.mean(axis=1).std(axis=0).max() < means.std(axis=1).mean(axis=0).min()


def test_later_objects_hide_earlier_ones():
    rng = np.random.default_rng(0)
    items = [sample_item(rng, "ball", (30.0, 30.0), radius) for radius in (20.0, 8.0)]
    _, shown = draw(sample_backdrop(rng, (60, 60), clutter=0), items, sample_light(rng), rng)
    assert shown[30, 30] == 2
    assert shown[30, 45] == 1
    assert shown[2, 2] == 0


def test_an_object_outside_the_image_is_left_out():
    rng = np.random.default_rng(0)
    item = sample_item(rng, "leaf", (-200.0, 30.0), 20.0)
    _, shown = draw(sample_backdrop(rng, (60, 60), clutter=0), [item], sample_light(rng), rng)
    assert shown.max() == 0


@pytest.mark.parametrize("name", CLASSES)
def test_outlines_and_textures_stay_in_range(name):
    """Textures are weights; outlines stay inside the window that is reserved for an object (1.35 radii)."""
    rng = np.random.default_rng(0)
    item = replace(sample_item(rng, name, (64.0, 64.0), 50.0), tilt=0.0, squash=1.0, colors=((0,) * 3, (1,) * 3))
    angle = np.linspace(-np.pi, np.pi, 720, dtype=np.float32)
    outline = KINDS[name].outline(angle)
    assert outline.min() > 0.3
    assert 0.85 < outline.max() < 1.25
    image, shown = draw(sample_backdrop(rng, (128, 128), clutter=0), [item], sample_light(rng), rng)
    assert image[shown == 1].std() > 30


def test_voc_layout(scenes):
    root = scenes / "VOCdevkit/VOC2012"
    names = (root / "ImageSets/Segmentation/val.txt").read_text().split()
    assert len(names) == SMALL.voc_images
    sizes = set()
    for name in names:
        with Image.open(root / f"JPEGImages/{name}.jpg") as image:
            sizes.add(image.size)
        with Image.open(root / f"SegmentationClass/{name}.png") as mask:
            assert mask.mode == "P"
            assert mask.size == image.size
            ids = set(np.unique(np.asarray(mask)).tolist())
        assert ids <= {0, VOID, *range(1, len(CLASSES) + 1)}
        assert VOID in ids
        assert ids & set(range(1, len(CLASSES) + 1))
    assert len(sizes) > 1


def test_void_borders_run_along_both_sides_of_an_edge():
    shown = np.zeros((5, 9), np.uint8)
    shown[:, 4:] = 1
    classes = with_void_borders(shown, np.asarray([0, 7], np.uint8), width=3)
    assert classes.tolist() == [[0, 0, 0, VOID, VOID, 7, 7, 7, 7]] * 5


def test_two_objects_of_one_class_are_parted_by_a_border():
    shown = np.ones((4, 8), np.uint8)
    shown[:, 4:] = 2
    classes = with_void_borders(shown, np.asarray([0, 3, 3], np.uint8), width=3)
    assert (classes[:, 3:5] == VOID).all()


def test_davis_layout(scenes):
    root = scenes / "DAVIS"
    names = (root / "ImageSets/2017/val.txt").read_text().split()
    assert names == ["scene-00", "scene-01"]
    for place, name in enumerate(names):
        frames = sorted(path.stem for path in (root / "JPEGImages/480p" / name).iterdir())
        assert frames == ["00000", "00001", "00002"]
        assert frames == sorted(path.stem for path in (root / "Annotations/480p" / name).iterdir())
        first = Image.open(root / f"Annotations/480p/{name}/00000.png")
        assert (first.mode, first.size) == ("P", (100, 60))
        assert set(np.unique(np.asarray(first)).tolist()) == set(range(2 + place + 1))


def test_objects_of_a_video_move(scenes):
    folder = scenes / "DAVIS/Annotations/480p/scene-00"
    first, last = (np.asarray(Image.open(folder / f"{frame:05d}.png")) for frame in (0, 2))
    for place in (1, 2):
        shift = np.argwhere(first == place).mean(axis=0) - np.argwhere(last == place).mean(axis=0)
        assert np.hypot(*shift) > 5


def test_a_finished_folder_is_reused(scenes):
    before = (scenes / "scenes.json").stat().st_mtime_ns
    assert write_scenes(scenes, SMALL) == scenes
    assert (scenes / "scenes.json").stat().st_mtime_ns == before


def test_other_content_is_refused(scenes, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/holiday.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="no drawn scenes"):
        write_scenes(tmp_path / "mine", SMALL)
    with pytest.raises(UserError, match="another config"):
        write_scenes(scenes, replace(SMALL, seed=1))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="no drawn scenes"):
        write_scenes(tmp_path / "file", SMALL)


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    write_scenes(tmp_path / "out", SMALL)
    assert json.loads((tmp_path / "out/scenes.json").read_text())["config"]["train_per_class"] == 2


def test_a_stopped_writer_leaves_nothing(tmp_path):
    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "out", SMALL, stop)
    assert list(tmp_path.iterdir()) == []


def test_nonsense_is_refused():
    with pytest.raises(UserError, match="16 px"):
        ScenesConfig(size=8)
    with pytest.raises(UserError, match="negative"):
        ScenesConfig(train_per_class=-1)
