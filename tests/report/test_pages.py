"""Pages that explain: nothing is cut off, marks lie where they belong, and one colour means one value."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dinoscope.explain.attention import network_input
from dinoscope.model_names import Model
from dinoscope.models.backbone import BackboneConfig, build_backbone
from dinoscope.pictures import MARGIN, OUTLINE, color_picture, cosine_overlay, marked, overlay, per_band
from dinoscope.report.pages import (
    ModelInput,
    Shown,
    blocks_page,
    colors_page,
    comparison_page,
    model_note,
    segment_page,
    similarity_page,
)

GREY = np.full((40, 60, 3), 120, np.uint8)
TALL = np.full((200, 20, 3), 90, np.uint8)
LONG = "a_very_long_name_" * 20 + "$1.jpg"


def whole(page: np.ndarray) -> bool:
    """The margins are white, and what lies between them is not."""
    edge = MARGIN // 4
    margins = (page[:edge], page[-edge:], page[:, : MARGIN - 2], page[:, 2 - MARGIN :])
    return all((margin == 255).all() for margin in margins) and not (page == 255).all()


def model(network: str = "vit_micro_conv8") -> Model:
    torch.manual_seed(0)
    return Model(network, "model-with-a-long-name " * 8, build_backbone(BackboneConfig(network, 32)).eval())


def shown(models: list[Model], image: np.ndarray = GREY) -> Shown:
    return Shown(LONG, image, tuple(ModelInput(each, 32, network_input(each.backbone, image, 32)) for each in models))


@pytest.mark.parametrize(("count", "width"), [(1, 1198), (2, 1198), (3, 1198), (5, 1756), (8, 1472)])
def test_a_comparison_is_never_cut_off(count: int, width: int) -> None:
    models = [model("resnet_micro"), *[model()] * (count - 1)]
    truth = np.zeros((40, 60), np.uint8)
    truth[10:30, 10:30] = 1
    image = shown(models)
    page, jaccards = comparison_page(replace(image, mask=truth), "attention", -1, 0.6)
    assert whole(page.pixels())
    assert page.pixels().shape[1] == width
    assert jaccards is not None
    assert len(jaccards) == count
    without, none = comparison_page(image, "attention", -1, 0.6)
    assert none is None
    assert not np.array_equal(page.pixels(), without.pixels())


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (5, 5), (6, 3), (7, 4), (11, 4)])
def test_rows_are_as_even_as_can_be(count: int, expected: int) -> None:
    assert per_band(count, 5) == expected


def test_the_other_pages_are_never_cut_off() -> None:
    one = model()
    note = model_note(one, 32)
    assert whole(blocks_page(shown([one, one], TALL)).pixels())
    images = [("a" * 90, image, shown([one], image).inputs[0].patches()) for image in (GREY, TALL) * 4]
    for foreground in (False, True):
        assert whole(colors_page(images, LONG, note, foreground=foreground).pixels())
        assert whole(colors_page(images[:1], LONG, note, foreground=foreground).pixels())
    assert whole(similarity_page(images, [(5, 5), (59, 39)], (40, 60), note).pixels())
    assert whole(similarity_page(images, [(5, 5)], (40, 60), note, stretch=True).pixels())
    for by in ("attention", "pca"):
        page, mask = segment_page(shown([one]), by, -1, 0.6)
        assert whole(page.pixels())
        assert mask.shape == (4, 6)


def test_a_patch_is_one_colour() -> None:
    colors = np.array([[[1, 0, 0], [0, 0.5, 1]]], np.float32)
    picture = color_picture(colors, (10, 20))
    assert (picture[:, :10] == (255, 0, 0)).all()
    assert (picture[:, 10:] == (0, 128, 255)).all()


def test_cosines_have_one_scale_for_every_picture() -> None:
    none, half, full = (cosine_overlay(GREY, np.full((4, 6), value, np.float32)) for value in (-0.5, 0.5, 1.0))
    assert np.array_equal(none, GREY)
    assert 20 < np.abs(half.astype(int) - 120).max() < np.abs(full.astype(int) - 120).max()


@pytest.mark.parametrize("point", [(0, 0), (30, 20), (59, 39)])
def test_the_crosshair_lies_around_the_point_and_leaves_its_patch_free(point: tuple[int, int]) -> None:
    large = np.full((400, 600, 3), 120, np.uint8)
    left, top = point[0] // 5 * 5, point[1] // 5 * 5
    drawn = marked(large, point, (left, top, left + 5, top + 5), scale=10.0)
    rows, columns = np.nonzero((drawn == OUTLINE).all(axis=2))
    assert np.abs(columns - (left * 10 + 25)).max() <= 100
    assert np.abs(rows - (top * 10 + 25)).max() <= 100
    assert (drawn[top * 10 + 5 : top * 10 + 45, left * 10 + 5 : left * 10 + 45] == 120).all()
    assert (large == 120).all()


def test_a_few_odd_patches_do_not_take_the_colour_of_all_others() -> None:
    values = np.full((60, 60), 1.0, np.float32)
    values[20:40, 20:40] = 5
    values[0, 0] = 1e4
    drawn = overlay(np.full((600, 600, 3), 120, np.uint8), values)
    assert np.abs(drawn[300, 300].astype(int) - 120).max() > 20
