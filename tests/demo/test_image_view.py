"""What is shown of one model: heads, masks and their figures, and pictures at the image's own size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dinoscope.demo.engine import Engine, Gaze
from dinoscope.demo.image_view import Controls, full_size, see, shrunk
from dinoscope.demo.pictures import Truth
from dinoscope.evaluation.jaccard import jaccard
from dinoscope.explain.attention import map_masks
from dinoscope.pictures import overlay


def test_shares_and_jaccard_of_mean_and_heads(engine: Engine, picture_file: Path) -> None:
    gaze = Gaze("vit", engine.picture(picture_file), 32)
    objects = np.zeros(gaze.picture.size, bool)
    objects[10:40, 20:50] = True
    truth = Truth(objects, np.ones_like(objects))
    view = see(engine, gaze, Controls(mass=0.5, head=1), truth)
    masks = map_masks(engine.maps(gaze, "attention", 2), 0.5)
    assert [head.number for head in view.heads] == [0, 1, 2]
    for head, mask in zip(view.heads, masks, strict=True):
        assert head.share == pytest.approx(mask.float().mean().item())
        assert head.jaccard == pytest.approx(jaccard(mask, torch.from_numpy(objects)))
    assert (view.head, view.share, view.jaccard) == (1, view.heads[1].share, view.heads[1].jaccard)
    assert view.block == (2, 3)


def test_void_does_not_count_and_an_empty_truth_has_no_score(engine: Engine, picture_file: Path) -> None:
    gaze = Gaze("vit", engine.picture(picture_file), 32)
    everything = np.ones(gaze.picture.size, bool)
    inside = everything.copy()
    inside[:, 32:] = False
    held = see(engine, gaze, Controls(mass=1.0), Truth(inside, inside))  # a mask of everything, judged where valid
    assert held.jaccard == 1.0
    assert see(engine, gaze, Controls(), Truth(~everything, everything)).jaccard is None
    assert see(engine, gaze, Controls(), None).jaccard is None


def test_networks_without_heads_show_one_map(engine: Engine, picture_file: Path) -> None:
    gaze = Gaze("resnet", engine.picture(picture_file), 32)
    view = see(engine, gaze, Controls(head=2), None)
    assert (view.heads, view.head, view.block) == ((), None, None)
    assert engine.shown_kind("resnet", "attention") == "energy"


def test_overlay_strength_and_patches(engine: Engine, picture_file: Path) -> None:
    gaze = Gaze("vit", engine.picture(picture_file), 32)
    faint, strong = (see(engine, gaze, Controls(opacity=each), None).overlay for each in (0.0, 1.0))
    values = engine.maps(gaze, "attention", 2).mean(dim=0).numpy()
    shown = shrunk(gaze.picture.pixels, 720)
    assert np.array_equal(strong, overlay(shown, values, opacity=1.0))
    flat = np.full_like(values, 1.0)
    assert np.array_equal(faint, overlay(shown, flat))  # nothing is laid over it, as where attention is even
    assert not np.array_equal(strong, faint)
    blocky = overlay(np.zeros((64, 64, 3), np.uint8), np.eye(2, dtype=np.float32), smooth=False)
    assert len(np.unique(blocky.reshape(-1, 3), axis=0)) == 2  # one colour for each kind of patch


def test_pictures_to_keep_are_as_large_as_the_image(engine: Engine, picture_file: Path) -> None:
    gaze = Gaze("vit", engine.picture(picture_file), 32)
    written = dict(full_size(engine, gaze, Controls()))
    assert list(written)[:6] == ["mean", "mean_mask", "mean_outline", "head1", "head1_mask", "head1_outline"]
    assert len(written) == 3 * 4
    assert {pixels.shape[:2] for pixels in written.values()} == {gaze.picture.size}
    assert set(np.unique(written["mean_mask"])) == {0, 255}
    single = dict(full_size(engine, gaze, Controls(kind="gradcam")))
    assert list(single) == ["gradcam", "gradcam_mask", "gradcam_outline"]


def test_pictures_are_shrunk_or_enlarged_to_be_seen() -> None:
    assert shrunk(np.zeros((3000, 1000, 3), np.uint8), 720).shape == (720, 240, 3)
    assert shrunk(np.zeros((32, 64, 3), np.uint8), 720).shape == (160, 320, 3)
    assert shrunk(np.zeros((400, 500, 3), np.uint8), 720).shape == (400, 500, 3)
