"""What is shown of one model: heads, masks and their figures, and pictures at the image's own size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dinoscope.demo.engine import Engine, Input
from dinoscope.demo.pictures import GroundTruth, shrunk
from dinoscope.evaluation.voc import jaccard
from dinoscope.explain.attention import map_masks
from dinoscope.pictures import overlay

pytest.importorskip("gradio", reason="the tabs need Gradio")

from dinoscope.demo.image import Controls, draw_map, full_size, view


def test_shares_and_jaccard_of_mean_and_heads(engine: Engine, picture_file: Path) -> None:
    given = Input("vit", engine.picture(picture_file), 32)
    objects = np.zeros(given.picture.size, bool)
    objects[10:40, 20:50] = True
    truth = GroundTruth(objects, np.ones_like(objects))
    drawn = view(engine, given, Controls(mass=0.5, head=1), truth)
    masks = map_masks(engine.maps(given, "attention", 2), 0.5)
    assert len(drawn.maps) == 4  # the mean, and three heads
    for share, score, mask in zip(drawn.shares[1:], drawn.jaccards[1:], masks, strict=True):
        assert share == pytest.approx(mask.float().mean().item())
        assert score == pytest.approx(jaccard(mask, torch.from_numpy(objects)))
    assert (drawn.place, drawn.block) == (2, (2, 3))


def test_void_does_not_count_and_an_empty_truth_has_no_score(engine: Engine, picture_file: Path) -> None:
    given = Input("vit", engine.picture(picture_file), 32)
    everything = np.ones(given.picture.size, bool)
    inside = everything.copy()
    inside[:, 32:] = False
    held = view(engine, given, Controls(mass=1.0), GroundTruth(inside, inside))  # a mask of everything
    assert held.jaccards[0] == 1.0
    assert view(engine, given, Controls(), GroundTruth(~everything, everything)).jaccards == [None] * 4
    assert view(engine, given, Controls()).jaccards == [None] * 4


def test_networks_without_heads_show_one_map(engine: Engine, picture_file: Path) -> None:
    given = Input("resnet", engine.picture(picture_file), 32)
    drawn = view(engine, given, Controls(head=2))
    assert (len(drawn.maps), drawn.place, drawn.block) == (1, 0, None)
    assert engine.shown_kind("resnet", "attention") == "energy"


def test_overlay_strength_and_patches(engine: Engine, picture_file: Path) -> None:
    given = Input("vit", engine.picture(picture_file), 32)
    shown = shrunk(given.picture.pixels, 720)
    drawn = view(engine, given, Controls())
    faint, strong = (draw_map(shown, drawn.maps[0], Controls(opacity=each)) for each in (0.0, 1.0))
    values = engine.maps(given, "attention", 2).mean(dim=0).numpy()
    assert np.array_equal(strong, overlay(shown, values, opacity=1.0))
    flat = np.full_like(values, 1.0)
    assert np.array_equal(faint, overlay(shown, flat))  # nothing is laid over it, as where attention is even
    assert not np.array_equal(strong, faint)
    blocky = overlay(np.zeros((64, 64, 3), np.uint8), np.eye(2, dtype=np.float32), smooth=False)
    assert len(np.unique(blocky.reshape(-1, 3), axis=0)) == 2  # one colour for each kind of patch


def test_pictures_to_keep_are_as_large_as_the_image(engine: Engine, picture_file: Path) -> None:
    given = Input("vit", engine.picture(picture_file), 32)
    written = dict(full_size(engine, given, Controls()))
    assert list(written)[:6] == ["mean", "mean-mask", "mean-outline", "head0", "head0-mask", "head0-outline"]
    assert len(written) == 3 * 4
    assert {pixels.shape[:2] for pixels in written.values()} == {given.picture.size}
    assert set(np.unique(written["mean-mask"])) == {0, 255}
    single = dict(full_size(engine, given, Controls(kind="gradcam")))
    assert list(single) == ["gradcam", "gradcam-mask", "gradcam-outline"]
    assert "layer1-head2-mask" in dict(full_size(engine, given, Controls(block=1)))
    resnet = full_size(engine, Input("resnet", given.picture, 32), Controls())
    assert next(resnet)[0] == "energy"  # what is shown for attention


def test_pictures_are_shrunk_or_enlarged_to_be_seen() -> None:
    assert shrunk(np.zeros((3000, 1000, 3), np.uint8), 720).shape == (720, 240, 3)
    assert shrunk(np.zeros((32, 64, 3), np.uint8), 720).shape == (160, 320, 3)
    assert shrunk(np.zeros((400, 500, 3), np.uint8), 720).shape == (400, 500, 3)
