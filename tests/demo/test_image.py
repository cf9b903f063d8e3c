"""The tab for one image without a browser: nothing that is shown is of another image, mask, layer or model."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

gr = pytest.importorskip("gradio", reason="the page needs Gradio")

from dinoscope.demo.engine import Engine  # noqa: E402
from dinoscope.demo.image import ImageTab  # noqa: E402
from dinoscope.demo.pictures import Sample  # noqa: E402
from dinoscope.demo.site import NOTHING, Site, Words  # noqa: E402
from tests.conftest import draw_picture  # noqa: E402

ENGLISH = gr.Request(SimpleNamespace(headers={"accept-language": "en"}))
COLUMN = 5  # components of a model's column


@pytest.fixture
def site(engine: Engine, tmp_path: Path) -> Site:
    folder = tmp_path / "made"
    folder.mkdir()
    return Site(engine, Words(), [], folder)


@pytest.fixture
def tab(site: Site) -> ImageTab:
    with gr.Blocks() as demo:
        return ImageTab(site, demo)


def values(tab: ImageTab, picked: Sample | None, first: str, second: str = NOTHING, **controls: Any) -> dict[Any, Any]:
    """What Gradio hands to the tab's functions."""
    data = {component: component.value for component in tab.controls}
    data |= {getattr(tab, name): value for name, value in controls.items()}
    return data | {tab.picked: picked, tab.first: first, tab.second: second}


def test_a_model_without_attention_says_so_beside_one_that_has_it(tab: ImageTab, picture_file: Path) -> None:
    data = values(tab, Sample(picture_file), "vit", "resnet", kind="rollout", size="own")
    results = tab.draw(data, ENGLISH)
    vit, resnet = results[:COLUMN], results[COLUMN:]
    assert "of the image" in vit[1]
    file = Path(vit[2]["value"])
    assert file.read_bytes().startswith(b"\x89PNG")
    assert file.name == "picture-vit-rollout.png"
    assert vit[2]["alt_text"] == "Rollout (all layers): vit, picture.png"
    assert "no attention to roll out" in resnet[1]
    assert vit[1].startswith("**vit**\n\n")
    assert resnet[2:4] == [None, None]


def test_an_image_that_cannot_be_looked_at_shows_nothing_of_the_one_before(tab: ImageTab, tmp_path: Path) -> None:
    file = tmp_path / "wide.png"
    cv2.imwrite(str(file), draw_picture(1, (4, 9000)))
    results = tab.draw(values(tab, Sample(file), "vit", size="224"), ENGLISH)
    assert "1764000 patches; at most 12000" in results[1]
    assert results[2:4] == [None, None]
    file.unlink()
    results = tab.draw(values(tab, Sample(file), "vit"), ENGLISH)
    assert results[1:4] == ["", None, None]
    assert "no longer here" in results[-1].value  # next to the pictures, until others are drawn
    assert results[-1].visible


def test_a_sample_that_is_gone_says_so_below_the_field(tab: ImageTab, tmp_path: Path) -> None:
    site = replace(tab.site, samples=[Sample(tmp_path / "gone.png")])
    picked, field, complaint = site.sample_or_reason(0, ENGLISH)
    assert picked == field == gr.skip()
    assert "no longer here" in complaint.value


def test_a_true_mask_is_forgotten_with_its_image(tab: ImageTab, picture_file: Path) -> None:
    picked, _, _, mask = tab.take(str(picture_file), ENGLISH)
    assert picked.path == picture_file
    assert mask is None
    assert tab.take(None, ENGLISH)[3] is None
    preview = tab.site.show(np.zeros((8, 8, 3), np.uint8))
    assert tab.take(preview, ENGLISH)[3] == gr.skip()  # a sample that has just been picked


@pytest.mark.parametrize(("layer", "expected"), [((0, 0), 2), ((2, 2), 2), ((1, 2), 1), ((8, 11), 2)])
def test_the_last_layer_stays_the_last_of_other_models(tab: ImageTab, layer: tuple[int, int], expected: int) -> None:
    _, slider, last = tab.fit("resnet", "vit", "attention", "mean", *layer)
    assert last == 2
    assert slider.value == expected
    assert slider.maximum == 2


def test_images_of_long_names_are_saved(
    tab: ImageTab, picture_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    picked = Sample(picture_file.rename(picture_file.with_name("ñ" * 100 + ".png")))
    model = replace(tab.site.engine.models["vit"], label="m" * 120)
    tab.site.engine.models[model.label] = model
    tab.save(values(tab, picked, model.label, size="own"), ENGLISH)
    (file,) = tab.site.folder.glob("*/*.zip")
    assert file.name == "ñ" * 40 + "-maps.zip"
    with zipfile.ZipFile(file) as archive:
        assert len(archive.namelist()) == 3 * 4
        assert all(len(name.encode()) <= 255 for name in archive.namelist())


def test_one_zip_holds_the_pictures_of_both_models_under_telling_names(
    tab: ImageTab, picture_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(picture_file.parent))
    picked = Sample(picture_file.rename(picture_file.with_name("my cat?.png")))
    for label in ("runs/a b", "runs/a:b"):  # of equal names on a disk
        tab.site.engine.models[label] = replace(tab.site.engine.models["vit"], label=label)
    update, _ = tab.save(values(tab, picked, "runs/a b", "runs/a:b", size="own"), ENGLISH)
    path = update.value["path"] if isinstance(update.value, dict) else update.value
    assert Path(path).name == "my-cat-maps.zip"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        with archive.open("my-cat-runs-a-b-2-head1-mask.png") as entry:
            assert cv2.imdecode(np.frombuffer(entry.read(), np.uint8), cv2.IMREAD_UNCHANGED).shape == (48, 64)
    assert len(set(names)) == len(names) == 2 * 3 * 4
    assert {"my-cat-runs-a-b-mean.png", "my-cat-runs-a-b-2-head2-outline.png"} < set(names)
