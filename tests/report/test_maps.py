"""Maps of images by their features: the numbers, the pictures, the command and the section."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from dinoscope.cli import main
from dinoscope.data.sources import balanced
from dinoscope.errors import UserError
from dinoscope.evaluation.base import Context
from dinoscope.explain.embedding import METHODS, described, embedding_map, neighbours_kept
from dinoscope.model_names import Model
from dinoscope.models.backbone import BackboneConfig, build_backbone
from dinoscope.pictures import Page
from dinoscope.report.maps import (
    CLASS_COLORS,
    Labelling,
    image_colors,
    points_page,
    points_panel,
    thumbnail_cells,
    thumbnails_page,
)
from dinoscope.report.page import Figure, Notice
from dinoscope.report.runs import Material
from dinoscope.report.sections import embedding

PICTURES = Callable[..., Path]
MODEL = "random:vit_micro_conv8"
FAST = ("pca", "tsne")


def groups(count: int, apart: float = 6.0) -> Tensor:
    """Features in two groups, the even and the odd ones."""
    features = torch.randn(count, 16, generator=torch.Generator().manual_seed(0))
    features[:, 0] += torch.where(torch.arange(count) % 2 == 0, apart, -apart)
    return features


@pytest.mark.parametrize("method", FAST)
@pytest.mark.parametrize("count", [2, 3, 4, 5, 7, 40])
def test_any_number_of_images_has_a_map_and_always_the_same(method: str, count: int) -> None:
    first, again = (embedding_map(groups(count), method) for _ in range(2))
    assert first.points.shape == (count, 2)
    assert np.isfinite(first.points).all()
    assert np.ptp(first.points, axis=0).max() > 0
    np.testing.assert_array_equal(first.points, again.points)
    assert (first.kept is None) == (count < 5)


@pytest.mark.parametrize("method", FAST)
def test_two_groups_stay_two_groups(method: str) -> None:
    points = embedding_map(groups(40), method).points
    middles = points[::2].mean(axis=0), points[1::2].mean(axis=0)
    nearer = [np.argmin([np.linalg.norm(point - middle) for middle in middles]) for point in points]
    assert nearer == [0, 1] * 20


@pytest.mark.slow  # UMAP compiles itself first
@pytest.mark.skipif(importlib.util.find_spec("umap") is None, reason="UMAP is an extra")
def test_umap_too_with_few_images_and_with_equal_ones() -> None:
    for features in (groups(6), groups(4).repeat(5, 1)):
        first, again = (embedding_map(features, "umap") for _ in range(2))
        assert first.method == "umap"
        assert np.isfinite(first.points).all()
        np.testing.assert_array_equal(first.points, again.points)


def test_without_umap_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "umap" else real(name))
    with pytest.raises(UserError, match="dinoscope\\[umap\\]"):
        embedding_map(groups(9), "umap")


@pytest.mark.parametrize("method", FAST)
def test_the_same_image_several_times_lies_in_one_place(method: str) -> None:
    made = embedding_map(groups(4).repeat(5, 1), method)
    spread = np.ptp(made.points, axis=0).max()
    np.testing.assert_allclose(made.points[:4], made.points[4:8], atol=0.05 * spread)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("features", [torch.ones(9, 4), torch.zeros(9, 4), torch.ones(9, 4) + 1e-8])
def test_a_collapsed_model_is_said_to_have_collapsed(method: str, features: Tensor) -> None:
    with pytest.raises(UserError, match="collapsed"):
        embedding_map(features, method)


def test_what_has_no_map_is_refused() -> None:
    with pytest.raises(UserError, match="at least two images, and there are 1"):
        embedding_map(groups(1))
    with pytest.raises(UserError, match="not finite"):
        embedding_map(torch.full((9, 4), float("nan")))
    with pytest.raises(UserError, match="tsne"):
        embedding_map(groups(9), "tsn")


def test_length_does_not_matter_since_features_are_compared_by_their_cosine() -> None:
    features = groups(12)
    longer = features * torch.arange(1, 13)[:, None]
    np.testing.assert_allclose(embedding_map(features, "pca").points, embedding_map(longer, "pca").points, atol=1e-6)


def test_neighbours_that_are_kept_by_hand() -> None:
    """On a line 0 1 3 7 each has one nearest: 1, 0, 1, 2. On the map 0 7 1 3 they are 2, 3, 0, 2."""
    before = np.array([[0.0], [1.0], [3.0], [7.0]])
    after = np.array([[0.0, 0.0], [7.0, 0.0], [1.0, 0.0], [3.0, 0.0]])
    assert neighbours_kept(before, before.repeat(2, axis=1), 1) == 1
    assert neighbours_kept(before, after, 1) == 1 / 4
    assert neighbours_kept(before, after, 3) == 1


def test_the_two_figures_tell_a_good_map_from_a_random_one() -> None:
    """A plane is kept whole by its principal components; each figure falls where the map is shuffled."""
    plane = torch.randn(60, 2, generator=torch.Generator().manual_seed(1)) * 0.05
    features = torch.cat([plane, torch.ones(60, 1)], dim=1)
    made = embedding_map(features, "pca")
    assert made.kept is not None
    assert made.kept > 0.97
    assert made.trustworthiness is not None
    assert made.trustworthiness > 0.99
    shuffled = made.points[np.random.default_rng(0).permutation(60)]
    assert neighbours_kept(features.double().numpy(), shuffled, 10) < 0.3
    assert "17%" in described(made)
    assert "too few" in described(embedding_map(groups(3)))


@given(st.integers(1, 200), st.integers(1, 30), st.integers(1, 30), st.integers(0, 5))
def test_no_two_thumbnails_share_a_cell_and_none_is_far_from_its_place(
    count: int, columns: int, rows: int, seed: int
) -> None:
    places = np.random.default_rng(seed).uniform(0, 1, (count, 2)) ** 2 * (columns, rows)
    cells = thumbnail_cells(places, (columns, rows))
    assert len(set(cells.values())) == len(cells) >= 1
    for index, (column, row) in cells.items():
        assert 0 <= column < columns
        assert 0 <= row < rows
        assert np.hypot(*(places[index] - (column + 0.5, row + 0.5))) <= 2


def test_with_room_for_all_every_thumbnail_is_in_its_own_cell() -> None:
    places = np.array([[0.5, 0.5], [3.4, 0.6], [1.5, 2.5]])
    assert thumbnail_cells(places, (4, 3)) == {0: (0, 0), 1: (3, 0), 2: (1, 2)}


@pytest.mark.parametrize("count", [2, 5, 300])
def test_pictures_of_any_number_of_images(count: int) -> None:
    made = embedding_map(groups(count), "pca")
    images = [np.full((30, 20 + index % 3, 3), index % 256, np.uint8) for index in range(count)]
    labelling = Labelling(tuple(index % 2 for index in range(count)), ("even", "odd"))
    page, shown = thumbnails_page(made.points, images, labelling, "title", "note")
    assert 2 <= shown <= count
    below, _ = thumbnails_page(made.points, images, None, "title", "note")
    assert below.height < page.height  # no legend without classes
    panels = [("one", "", made.points), ("two", "", -made.points)]
    assert points_page(panels, labelling).width == page.width
    printed, as_many = thumbnails_page(made.points, images, labelling, "title", "note", dpi=300)
    assert as_many == shown
    assert printed.pixels().shape[1] == points_page(panels, labelling, dpi=300).pixels().shape[1] == 2160


def test_equal_points_and_points_on_a_line_can_be_drawn() -> None:
    for points in (np.zeros((3, 2)), np.array([[0.0, 0.0], [0.0, 5.0], [0.0, 9.0]])):
        assert (points_panel(points, image_colors(3, None), 100) < 128).any()
        thumbnails_page(points, [np.zeros((8, 8, 3), np.uint8)] * 3, None)


def test_every_dot_has_the_colour_of_its_class() -> None:
    labelling = Labelling((0, 2), ("a", "b", "c"))
    colors = image_colors(2, labelling)
    panel = points_panel(np.array([[0.0, 0.0], [1.0, 1.0]]), colors, 101)
    found = {tuple(int(value) for value in pixel) for pixel in panel.reshape(-1, 3)}
    for color in colors:
        assert tuple(color.tolist()) in found
    corner = panel[60:, :40].reshape(-1, 3)  # y points up: the first is below, at the left
    assert (corner == colors[0]).all(axis=1).any()
    assert not (corner == colors[1]).all(axis=1).any()


def test_more_classes_than_colours_still_differ_but_are_not_named() -> None:
    count = len(CLASS_COLORS) + 30
    labelling = Labelling(tuple(range(count)), tuple(map(str, range(count))))
    assert not labelling.can_be_named
    assert len(np.unique(image_colors(count, labelling), axis=0)) == count


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(1, 40))
def test_balanced_takes_as_many_of_each_class_as_can_be(labels: list[int], most: int) -> None:
    from dinoscope.data.sources import ImageFolder

    paths = tuple(f"{index:03d}.png" for index in range(len(labels)))
    folder = ImageFolder(Path("x"), paths, tuple(labels), tuple("abcdefg"))
    chosen = balanced(folder, most)
    assert len(chosen) == min(most, len(folder))
    assert sorted(set(chosen.paths)) == list(chosen.paths)
    assert chosen.labels is not None
    taken, there = ([each.count(value) for value in sorted(set(labels))] for each in (list(chosen.labels), labels))
    for mine, mine_of in zip(taken, there, strict=True):
        assert mine == mine_of or mine >= max(taken) - 1


def run(model: str, data: Path, out: Path, *more: str) -> int:
    return main(["map", "--model", *model.split(), "--data", str(data), "--out", str(out), "--workers", "0", *more])


def test_the_command_colours_the_classes_below_splits(picture_folder: PICTURES, tmp_path: Path, monkeypatch) -> None:
    picture_folder(6, classes=2, split="train")
    data = picture_folder(6, classes=2, split="val")
    seen: list[Labelling | None] = []

    def page(panels: object, labelling: Labelling | None, **options: object) -> Page:
        seen.append(labelling)
        return Page(9, 9)

    monkeypatch.setattr("dinoscope.report.maps.points_page", page)
    assert run(MODEL, data, tmp_path / "a.png", "--points", "--method", "pca") == 0
    assert [found and found.classes for found in seen] == [("class0", "class1")]


def test_the_command_writes_the_same_picture_twice(picture_folder: PICTURES, tmp_path: Path, capsys) -> None:
    data = picture_folder(12, classes=3)
    assert run(MODEL, data, tmp_path / "a.png", "--limit", "9") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "9 of 12 images" in said
    assert "trustworthiness" in said
    assert run(MODEL, data, tmp_path / "b.png", "--limit", "9") == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert run(f"{MODEL} random:resnet_micro", data, tmp_path / "c.png", "--method", "pca") == 0
    assert Image.open(tmp_path / "c.png").width > 1000


def test_the_command_refuses_in_one_line(picture_folder: PICTURES, tmp_path: Path, capsys) -> None:
    data = picture_folder(3)
    out = tmp_path / "a.png"
    out.write_bytes(b"mine")
    for more, said in (
        ((), "exists already"),
        (("--limit", "1", "--overwrite"), "at least 2"),
    ):
        assert run(MODEL, data, out, *more) == 2
        assert said in capsys.readouterr().err
    assert run(MODEL, data, tmp_path / "a.jpg") == 2
    assert out.read_bytes() == b"mine"


def subject(name: str, *, constant: bool = False) -> Model:
    backbone = build_backbone(BackboneConfig("vit_micro_conv8", 32)).eval()
    if constant:
        with torch.no_grad():
            for parameter in backbone.parameters():
                parameter.zero_()
            next(p for n, p in reversed(list(backbone.named_parameters())) if n.endswith("norm.bias")).fill_(1)
    return Model(name, Path(name).name, backbone, Path(name), method="dino")


def test_the_section_shows_every_model_and_tells_which_has_collapsed(
    picture_folder: PICTURES, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = replace(subject("runs/a"), settings={"data": str(picture_folder(12, classes=3))})
    models = (first, subject("runs/b"), subject("runs/c", constant=True))
    material = Material(models=models, context=Context(cached=False))
    monkeypatch.setattr(embedding, "best_method", lambda: "tsne")
    section = embedding.section(material)
    assert section is not None
    figures = [block for block in section.blocks if isinstance(block, Figure)]
    assert len(figures) == 3
    assert "12 of the 12 images" in figures[0].caption
    assert "a, b" in figures[0].alt.replace("runs/", "")
    notices = [block for block in section.blocks if isinstance(block, Notice)]
    assert [("collapsed" in each.text, each.kind) for each in notices] == [(True, "warning")]


def test_no_section_without_images() -> None:
    assert embedding.section(Material(models=(subject("runs/a"),))) is None
    assert embedding.section(Material()) is None
