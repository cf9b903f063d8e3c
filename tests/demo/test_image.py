"""The tab for one image without a browser: nothing that is shown is of another image, mask, layer or model."""

from __future__ import annotations

import re
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

gr = pytest.importorskip("gradio", reason="the page needs Gradio")

from dinoscope.demo.engine import Engine, Input  # noqa: E402
from dinoscope.demo.image import MEAN, ImageTab  # noqa: E402
from dinoscope.demo.pictures import Sample  # noqa: E402
from dinoscope.demo.site import NOTHING, Site, Words  # noqa: E402
from tests.conftest import draw_picture  # noqa: E402

ENGLISH = gr.Request(SimpleNamespace(headers={"accept-language": "en"}))
COLUMN = 6  # components of a model's column


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
    _shows_nothing(resnet)


def test_an_image_that_cannot_be_looked_at_shows_nothing_of_the_one_before(tab: ImageTab, tmp_path: Path) -> None:
    file = tmp_path / "wide.png"
    cv2.imwrite(str(file), draw_picture(1, (4, 9000)))
    results = tab.draw(values(tab, Sample(file), "vit", size="224"), ENGLISH)
    assert "1764000 patches; at most 12000" in results[1]
    _shows_nothing(results)
    file.unlink()
    results = tab.draw(values(tab, Sample(file), "vit"), ENGLISH)
    assert results[1] == ""
    _shows_nothing(results)
    assert "no longer here" in results[-1].value  # next to the pictures, until others are drawn
    assert results[-1].visible


def _shows_nothing(column: list[Any]) -> None:
    overlay, scale, mask = column[2:5]
    assert overlay is None
    assert mask is None
    assert scale["visible"] is False


def test_the_scale_ends_where_the_overlay_has_its_full_colour(tab: ImageTab, picture_file: Path) -> None:
    given = Input("vit", tab.site.engine.picture(picture_file))
    values_of_map = tab.site.engine.maps(given, "attention", 10**6).mean(dim=0)
    end = 1 + max(float(np.quantile(values_of_map / values_of_map.mean() - 1, 0.995, method="higher")), 1)
    scale = tab.draw(values(tab, Sample(picture_file), "vit", size="own"), ENGLISH)[3]
    assert f"{end:.1f} × the average" in scale.value
    red, green, blue = last_color(scale.value)
    assert red > green > blue  # the yellow end of the colours
    scale = tab.draw(values(tab, Sample(picture_file), "vit", size="own", opacity=0), ENGLISH)[3]
    assert last_color(scale.value) == (225, 225, 225)  # nothing is laid over the image


def last_color(scale: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"rgb\((\d+), (\d+), (\d+)\)", scale)[-1]))


def test_the_energy_of_a_transformer_says_why_it_shows_little(tab: ImageTab, picture_file: Path) -> None:
    data = values(tab, Sample(picture_file), "vit", "resnet", kind="energy", size="own")
    results = tab.draw(data, ENGLISH)
    vit, resnet = results[:COLUMN], results[COLUMN:]
    values_of_map = tab.site.engine.maps(Input("vit", tab.site.engine.picture(picture_file)), "energy", 0)
    assert f"at most {values_of_map.max() / values_of_map.mean():.1f} times the average" in vit[3].value
    assert "<p>" not in resnet[3].value  # it has no such norm


@pytest.mark.parametrize(("kind", "heads", "block"), [("attention", True, True), ("rollout", False, True),
                                                      ("gradcam", False, True), ("energy", False, False),
                                                      ("centre", False, False)])  # fmt: skip
def test_what_has_no_effect_cannot_be_moved(tab: ImageTab, kind: str, heads: bool, block: bool) -> None:
    head, slider, _ = tab.fit("vit", NOTHING, kind, MEAN, 0, 0)
    assert (head.interactive, slider.interactive) == (heads, block)
    head, slider, _ = tab.fit("resnet", NOTHING, kind, MEAN, 0, 0)
    assert (head.interactive, slider.interactive) == (False, False)


def test_early_and_late_layers_are_spoken_of_only_if_there_are_many(tab: ImageTab) -> None:
    def about(depth: int, monkey: pytest.MonkeyPatch) -> str:
        monkey.setattr(tab.site.engine, "depth", lambda model: depth)
        return tab.fit("vit", NOTHING, "attention", MEAN, 0, 0)[1].info.key

    with pytest.MonkeyPatch.context() as monkey:
        assert [about(depth, monkey) for depth in (1, 3, 7)] == ["image_block_info"] * 3
        assert [about(depth, monkey) for depth in (8, 12)] == ["image_block_deep"] * 2


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


@pytest.mark.parametrize("name", ["deep.tif", "flat.tif", "deep.png"])
def test_an_upload_that_browsers_cannot_show_gets_a_preview_and_stays_as_it_is(
    tab: ImageTab, tmp_path: Path, name: str
) -> None:
    grey = np.linspace(0, 65535 if name.startswith("deep") else 255, 700 * 900).reshape(700, 900)
    file = tmp_path / name
    assert cv2.imwrite(str(file), grey.astype(np.uint16 if name.startswith("deep") else np.uint8))
    picked, preview, _, _ = tab.take(str(file), ENGLISH)
    assert picked.path == file
    assert tab.site.engine.picture(picked.path).size == (700, 900)
    shown = cv2.imread(preview)
    assert shown.shape == (373, 480, 3)
    assert shown[0].mean() < 20 < 235 < shown[-1].mean()
    # the browser sends the preview back, which is not another image
    assert tab.take(preview, ENGLISH)[:2] == (gr.skip(), gr.skip())
    ordinary = tmp_path / "flat.png"
    cv2.imwrite(str(ordinary), draw_picture(1, (48, 64)))
    assert tab.take(str(ordinary), ENGLISH)[1] == gr.skip()


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
