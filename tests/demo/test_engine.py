"""A network is run once for each model, image and size; what is kept is what the plain way gives."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from dinoscope.demo.engine import Engine, Input, caching, count_bytes
from dinoscope.demo.pictures import Limits, Picture, Refused
from dinoscope.explain.attention import prepare
from dinoscope.explain.maps import MAPS
from dinoscope.explain.patches import patch_colors, patch_features, similarity_maps
from dinoscope.model_names import load_models
from dinoscope.models.vit import ViTBackbone
from tests.demo.conftest import named

pytest.importorskip("gradio", reason="the tabs need Gradio")

from dinoscope.demo.image import Controls, view
from dinoscope.demo.similarity import compare, stretched


@contextmanager
def blocks_run(engine: Engine, model: str) -> Iterator[list[int]]:
    """Counts every call of a block of the network, or of the whole one where it has no blocks, and of its stem."""
    backbone, calls = engine.models[model].backbone, [0]
    watched = [*backbone.net.blocks, backbone.net.patch_embed] if isinstance(backbone, ViTBackbone) else [backbone.net]

    def count(*_: object) -> None:
        calls[0] += 1

    handles = [module.register_forward_pre_hook(count) for module in watched]
    if isinstance(backbone, ViTBackbone):  # the pass uses the parts of a block, and not the block
        handles += [block.norm1.register_forward_pre_hook(count) for block in backbone.net.blocks]
    yield calls
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("model", ["vit", "resnet"])
def test_no_control_runs_the_network_again(engine: Engine, picture_file: Path, model: str) -> None:
    given = Input(model, engine.picture(picture_file), 32)
    attention = Controls()
    view(engine, given, attention, None)
    assert engine.passes == 1
    with blocks_run(engine, model) as calls:
        for head, block, mass, opacity, smooth in product((None, 0, 2), (0, 1, 2), (0.3, 0.9), (0.1, 1.0), (0, 1)):
            controls = replace(attention, head=head, block=block, mass=mass, opacity=opacity, smooth=bool(smooth))
            view(engine, given, controls, None)
    assert calls == [0]
    assert engine.passes == 1


@pytest.mark.parametrize("kind", ["energy", "gradcam", "rollout", "centre"])
def test_another_kind_of_map_is_made_once(engine: Engine, picture_file: Path, kind: str) -> None:
    given = Input("vit", engine.picture(picture_file), 32)
    for block in range(3):
        view(engine, given, Controls(kind=kind, block=block), None)
    with blocks_run(engine, "vit") as calls:
        for block, mass in product(range(3), (0.2, 0.8)):
            view(engine, given, Controls(kind=kind, block=block, mass=mass), None)
    assert calls == [0]
    assert engine.passes == 1


def test_clicks_and_colours_read_what_is_there(engine: Engine, picture_file: Path) -> None:
    inputs = (Input("vit", engine.picture(picture_file), 32), Input("vit", engine.picture(picture_file), 48))
    compare(engine, inputs, (0.5, 0.5), joint=True, stretch=True)
    compare(engine, inputs, (0.5, 0.5), joint=False, stretch=False)
    with blocks_run(engine, "vit") as calls:
        for x, y, joint in product((0.0, 0.4, 1.0), (0.1, 0.9), (False, True)):
            compare(engine, inputs, (x, y), joint=joint, stretch=joint)
    assert calls == [0]
    assert engine.passes == 2


def test_stretched_cosines_go_from_the_least_alike_to_the_most(engine: Engine, picture_file: Path) -> None:
    first, second = stretched([torch.tensor([[0.6, 1.0]]), torch.tensor([[0.5], [0.75]])])
    torch.testing.assert_close(first, torch.tensor([[0.2, 1.0]]))
    torch.testing.assert_close(second, torch.tensor([[0.0], [0.5]]))
    (even,) = stretched([torch.full((2, 3), 0.9)])
    assert not even.any()
    inputs = (Input("vit", engine.picture(picture_file), 32),)
    plain, wide = (compare(engine, inputs, (0.5, 0.5), joint=True, stretch=each) for each in (False, True))
    assert plain.low == wide.low == engine.similarity(inputs[0], (2, 2), inputs[0]).min().item()
    assert not np.array_equal(plain.similar[0], wide.similar[0])


def test_the_same_image_under_another_name_is_known(engine: Engine, picture_file: Path) -> None:
    copy = picture_file.with_name("copy.png")
    copy.write_bytes(picture_file.read_bytes())
    for file in (picture_file, copy):
        engine.run(Input("vit", engine.picture(file), 32))
    assert engine.passes == 1


@pytest.mark.parametrize("model", ["vit", "resnet"])
def test_maps_equal_the_plain_way(engine: Engine, picture_file: Path, model: str) -> None:
    given, backbone = Input(model, engine.picture(picture_file), 40), engine.models[model].backbone
    images = backbone.normalize(prepare(given.picture.pixels, 40, backbone.patch_size)[None])
    for kind in MAPS:
        for block in range(engine.depth(model)):
            if model == "resnet" and kind == "rollout":
                with pytest.raises(Refused, match="image_no_rollout"):
                    engine.maps(given, kind, block)
                continue
            plain_block = block if model == "vit" and kind in ("attention", "rollout", "gradcam") else -1
            plain = MAPS[kind](backbone, images, plain_block)[0]
            torch.testing.assert_close(engine.maps(given, kind, block), plain, atol=1e-5, rtol=1e-4)
    features = patch_features(backbone, images)[0]
    torch.testing.assert_close(engine.patches(given), features, atol=1e-5, rtol=1e-4)
    cosines = similarity_maps(features[1, 2][None], features)[0]
    torch.testing.assert_close(engine.similarity(given, (1, 2), given), cosines, atol=1e-5, rtol=1e-4)
    colors = patch_colors([features])[0].colors
    torch.testing.assert_close(engine.colors([given])[0].colors, colors, atol=1e-3, rtol=1e-3)


def test_a_layer_beyond_the_last_is_the_last_and_sizes_are_limited(picture_file: Path) -> None:
    engine = Engine([named("vit_micro_conv8", "vit")], Limits(most_size=40))
    given = Input("vit", engine.picture(picture_file), 5000)
    assert engine.size(given) == 40
    assert torch.equal(engine.maps(given, "attention", 99), engine.maps(given, "attention", 2))
    assert not torch.equal(engine.maps(given, "attention", 0), engine.maps(given, "attention", 2))


def test_broken_weights_are_refused(picture_file: Path) -> None:
    model = named("vit_micro_conv8", "broken")
    next(iter(model.backbone.parameters())).data.fill_(float("nan"))
    engine = Engine([model], Limits())
    with pytest.raises(Refused, match="model_broken"):
        engine.run(Input("broken", engine.picture(picture_file)))


def test_a_model_without_patches_shows_no_maps(engine: Engine, picture_file: Path) -> None:
    engine.models["resnet"].backbone.has_patches = False
    with pytest.raises(Refused, match="model_no_patches"):
        engine.maps(Input("resnet", engine.picture(picture_file)), "energy", 0)


def test_a_network_of_timm_shows_the_maps_that_need_no_attention(picture_file: Path) -> None:
    engine = Engine(load_models(["random:timm:test_convnext"]), Limits())
    (given,) = (Input(model, engine.picture(picture_file), 64) for model in engine.models)
    assert engine.shown_kind(given.model, "attention") == "energy"
    for kind in ("attention", "energy", "gradcam", "centre"):
        assert len(engine.maps(given, kind, 0)) == 1
    with pytest.raises(Refused, match="image_no_rollout"):
        engine.maps(given, "rollout", 0)


def test_an_image_of_too_many_patches_is_refused(engine: Engine, tmp_path: Path) -> None:
    import cv2

    file = tmp_path / "ribbon.png"
    cv2.imwrite(str(file), np.zeros((1, 1200, 3), np.uint8))
    with pytest.raises(Refused, match="picture_patches"):
        engine.run(Input("vit", engine.picture(file), 640))
    narrow = Engine(list(engine.models.values()), Limits(patches=11))
    picture = Picture("digest", np.zeros((24, 32, 3), np.uint8))  # 3 x 4 patches of 8 px
    with pytest.raises(Refused) as refused:
        narrow.run(Input("vit", picture, 24))
    assert refused.value.values == {"patches": 12, "most": 11}
    assert narrow.passes == 0
    assert Engine(list(engine.models.values()), Limits(patches=12)).run(Input("vit", picture, 24)).grid == (3, 4)


def test_results_stay_within_the_bound_and_the_least_recently_used_go() -> None:
    cached, made = caching(100), list[int]()

    def get(number: int, size: int = 40) -> np.ndarray:
        return cached(number, lambda: made.append(number) or np.zeros(size, np.uint8))

    get(1), get(2), get(1), get(3)  # 2 is the one used least recently
    assert set(cached.cache) == {1, 3}
    assert cached.cache.currsize == 80
    get(4, 101)  # more than everything: returned, and nothing has to go
    assert set(cached.cache) == {1, 3}
    assert made == [1, 2, 3, 4]


def test_a_result_is_made_once_for_all_who_ask_at_once() -> None:
    cached, made = caching(10**6), list[int]()

    def make() -> np.ndarray:
        made.append(1)
        time.sleep(0.05)
        return np.ones(3)

    threads = [threading.Thread(target=lambda: cached("key", make)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]


def test_a_failure_is_not_kept() -> None:
    cached = caching(100)
    with pytest.raises(ZeroDivisionError):
        cached("key", lambda: 1 / 0)
    assert cached("key", lambda: "now") == "now"


def test_bytes_of_whatever_is_kept(engine: Engine, picture_file: Path) -> None:
    assert count_bytes({"a": torch.zeros(3), "b": [np.zeros(2), "text", 5]}) == 12 + 16
    passed = engine.run(Input("vit", engine.picture(picture_file), 32))
    tokens = passed.grid[0] * passed.grid[1] + 1
    assert count_bytes(passed) == 3 * 4 * tokens * (96 + 3)  # three blocks: tokens of 96 values, a row for 3 heads
