"""Nearest neighbours: exactly those of a plain loop, with classes, from the cache, and few where there are too many."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dinoscope.data.images import decode
from dinoscope.errors import UserError
from dinoscope.features import ExtractConfig, evaluation_image, evaluation_view
from dinoscope.model_names import Model, load_model
from tests.conftest import draw_picture

pytest.importorskip("gradio", reason="the tabs need Gradio")

from dinoscope.demo.neighbours import Gallery, draw_gallery


@pytest.fixture
def model() -> Model:
    return load_model("random:vit_micro_conv8")


def plain(model: Model, image: np.ndarray) -> np.ndarray:
    """The feature of one image, by hand."""
    backbone = model.backbone
    view = evaluation_view(backbone, ExtractConfig())
    pixels = evaluation_image(image, view.size, view.crop_fraction)[None]
    with torch.no_grad():
        return backbone(backbone.normalize(pixels)).feature[0].double().numpy()


@pytest.mark.parametrize("classes", [0, 3])
def test_neighbours_are_those_of_a_plain_loop(picture_folder: Callable[..., Path], model: Model, classes: int) -> None:
    folder = picture_folder(12, classes=classes)
    query = draw_picture(99)
    feature = plain(model, query)
    expected = []
    for path in sorted(folder.rglob("*.png")):
        other = plain(model, decode(path))
        cosine = float(feature @ other / np.linalg.norm(feature) / np.linalg.norm(other))
        expected.append((cosine, path))
    expected.sort(key=lambda each: -each[0])
    found = Gallery.open(folder, model).nearest(query, 5)
    assert [each.path for each in found] == [path for _, path in expected[:5]]
    assert np.allclose([each.cosine for each in found], [cosine for cosine, _ in expected[:5]], atol=1e-5)
    assert [each.label for each in found] == [each.path.parent.name if classes else None for each in found]


def test_an_image_of_the_folder_is_nearest_to_itself_unless_it_is_left_out(
    picture_folder: Callable[..., Path], model: Model
) -> None:
    folder = picture_folder(6)
    gallery, path = Gallery.open(folder, model), folder / "0003.png"
    image = decode(path)
    first = gallery.nearest(image, 1)[0]
    assert first.path == path
    assert first.cosine == pytest.approx(1, abs=1e-5)
    rest = gallery.nearest(image, 99, without=path)
    assert len(rest) == 5
    assert path not in [each.path for each in rest]


def test_of_too_many_images_some_are_taken_evenly_and_progress_is_told_once(
    picture_folder: Callable[..., Path], model: Model
) -> None:
    folder, told = picture_folder(10), list[tuple[int, int]]()
    gallery = Gallery.open(folder, model, lambda *each: told.append(each), limit=4)
    assert [path.name for path in gallery.paths] == ["0000.png", "0002.png", "0005.png", "0007.png"]
    assert (gallery.total, told[-1]) == (10, (4, 4))
    told.clear()
    again = Gallery.open(folder, model, lambda *each: told.append(each), limit=4)
    assert told == []  # from the cache
    assert torch.equal(again.features, gallery.features)


def test_a_training_split_is_taken_for_the_folder(picture_folder: Callable[..., Path], model: Model) -> None:
    picture_folder(4, classes=2, split="val")
    folder = picture_folder(6, classes=2, split="train")
    gallery = Gallery.open(folder, model)
    assert gallery.labels == ("class0",) * 3 + ("class1",) * 3


def test_a_folder_without_images_and_broken_weights_are_told(
    picture_folder: Callable[..., Path], model: Model, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no images"):
        Gallery.open(tmp_path / "empty", model)
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.fill_(torch.nan)
    with pytest.raises(UserError, match="not finite"):
        Gallery.open(picture_folder(3), model)


def test_the_drawn_gallery_has_classes(tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = Gallery.open(draw_gallery(tmp_path / "drawn"), model, limit=20)
    assert gallery.labels is not None
    assert len(set(gallery.labels)) == 10


def test_what_cannot_be_read_is_told_apart_from_what_was_too_much(
    picture_folder: Callable[..., Path], model: Model
) -> None:
    folder = picture_folder(4)
    (folder / "0002.png").write_bytes(b"not an image at all")
    gallery = Gallery.open(folder, model)
    assert (len(gallery.paths), gallery.unreadable, gallery.total) == (3, 1, 4)
