"""The tab for one image without a browser: nothing that is shown is of another image, mask, layer or model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

gr = pytest.importorskip("gradio", reason="the page needs Gradio")

from dinoscope.demo.engine import Engine  # noqa: E402
from dinoscope.demo.image_actions import ImageActions, Shown  # noqa: E402
from dinoscope.demo.image_controls import NOTHING, fit_controls  # noqa: E402
from dinoscope.demo.image_tab import build_image_tab  # noqa: E402
from dinoscope.demo.page import all_words  # noqa: E402
from dinoscope.demo.site import Picked, Site  # noqa: E402
from tests.conftest import draw_picture  # noqa: E402

ENGLISH = gr.Request(SimpleNamespace(headers={"accept-language": "en"}))
COLUMN = 5  # components of a model's column


@pytest.fixture
def site(engine: Engine, tmp_path: Path) -> Site:
    folder = tmp_path / "made"
    folder.mkdir()
    return Site(engine, all_words(None), engine.limits, [], folder)


@pytest.fixture
def actions(site: Site) -> ImageActions:
    with gr.Blocks() as demo:
        return ImageActions(site, build_image_tab(site, [], demo))


def values(shown: Shown, picked: Picked | None, first: str, second: str = NOTHING, **controls: Any) -> dict[Any, Any]:
    """What Gradio hands to the tab's functions."""
    data = {component: component.value for component in shown.panel.components}
    data |= {getattr(shown.panel, name): value for name, value in controls.items()}
    return data | {shown.picked: picked, shown.first: first, shown.second: second}


def test_a_model_without_attention_says_so_beside_one_that_has_it(actions: ImageActions, picture_file: Path) -> None:
    data = values(actions.shown, Picked(picture_file, "x"), "vit", "resnet", kind="rollout", size="own")
    results = actions.draw(data, ENGLISH)
    vit, resnet = results[:COLUMN], results[COLUMN:]
    assert "of the image" in vit[1]
    assert Path(vit[2]).is_file()
    assert "no attention to roll out" in resnet[1]
    assert vit[1].startswith("**vit**\n\n")
    assert resnet[2:4] == [None, None]


def test_an_image_that_cannot_be_looked_at_shows_nothing_of_the_one_before(
    actions: ImageActions, tmp_path: Path
) -> None:
    file = tmp_path / "wide.png"
    cv2.imwrite(str(file), draw_picture(1, (4, 9000)))
    results = actions.draw(values(actions.shown, Picked(file, "wide"), "vit", size="224"), ENGLISH)
    assert "1764000 patches; at most 12000" in results[1]
    assert results[2:4] == [None, None]
    file.unlink()
    assert actions.draw(values(actions.shown, Picked(file, "wide"), "vit"), ENGLISH)[1:4] == ["", None, None]


def test_a_true_mask_is_forgotten_with_its_image(actions: ImageActions, picture_file: Path) -> None:
    picked, _, mask = actions.take(str(picture_file), ENGLISH)
    assert picked.path == picture_file
    assert mask is None
    assert actions.take(None, ENGLISH)[2] is None
    preview = actions.site.show(np.zeros((8, 8, 3), np.uint8))
    assert actions.take(preview, ENGLISH)[2] == gr.skip()  # a sample that has just been picked


@pytest.mark.parametrize(("layer", "expected"), [((1, 1), 3), ((3, 3), 3), ((2, 3), 2), ((9, 12), 3)])
def test_the_last_layer_stays_the_last_of_other_models(site: Site, layer: tuple[int, int], expected: int) -> None:
    _, slider, depth = fit_controls(site, ["resnet", "vit"], "attention", "mean", layer)
    assert depth == 3
    assert slider.value == expected
    assert slider.maximum == 3


def test_images_of_long_names_are_saved(
    actions: ImageActions, picture_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    picked = Picked(picture_file, "ñ" * 100)
    model = replace(actions.site.engine.models["vit"], label="m" * 120)
    actions.site.engine.models[model.label] = model
    actions.save(values(actions.shown, picked, model.label, size="own"), ENGLISH)
    assert list(actions.site.folder.glob("*/ñ*_mean_mask.png"))
