"""Views by torch, batched, against those of the loader's processes: the same parameters, pixels to a grey level."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinoscope.data.augment import JITTER as PLAIN_JITTER
from dinoscope.data.augment import WEIGHTS, apply_view, multi_crop
from dinoscope.data.augment_torch import change_colours, decoded_crop, make_views, resize_matrices
from dinoscope.data.finding import find_images
from dinoscope.data.loader import StepSampler, ViewsDataset, view_loader
from dinoscope.data.reader import Reduction
from dinoscope.data.sources import ImageSource
from dinoscope.data.views import VIEWS, JitterOperation, ViewParameters, ViewsConfig
from dinoscope.errors import UserError
from dinoscope.training import trainer
from dinoscope.training.loop import train
from dinoscope.training.run_folder import read_metrics
from tests.conformance import cases
from tests.data.test_views import BOXES, PRESETS, SIZES, photograph
from tests.training.test_loop import Stop


def assert_close(image: np.ndarray, parameters: ViewParameters, mean: float = 1.0) -> None:
    (view,) = make_views([torch.from_numpy(image)], [[parameters]])[:, 0]
    difference = np.abs(view.permute(1, 2, 0).numpy().astype(int) - apply_view(image, parameters))
    assert difference.mean() <= mean


@BOXES
@SIZES
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"horizontal_flip": True},
        {"vertical_flip": True},
        {"grayscale": True},
        {"solarize": True},
        {"interpolation": "bilinear"},
        *({"blur_radius": radius} for radius in (0.1, 0.5, 1.0, 2.0)),
    ],
    ids=str,
)
def test_geometry_grey_blur_and_solarisation(
    box: tuple[int, int, int, int], size: int, changes: dict[str, bool]
) -> None:
    assert_close(photograph(300, 400), ViewParameters(*box, size, **changes), mean=0.2)


@pytest.mark.parametrize("operation", PLAIN_JITTER)
@pytest.mark.parametrize("factor", [-0.5, -0.1, 0.0, 0.03, 0.1, 0.6, 1.0, 1.4])
def test_jitter_of_the_same_pixels(operation: JitterOperation, factor: float) -> None:
    if operation != "hue" and factor < 0:
        return
    image = photograph(96, 96)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    jittered = change_colours(pixels, [ViewParameters(0, 0, 96, 96, 96, jitter=((operation, factor),))])
    expected = PLAIN_JITTER[operation](image, factor)
    assert np.abs(jittered[0].permute(1, 2, 0).numpy() - expected).mean() <= 0.05


@pytest.mark.parametrize("interpolation", WEIGHTS)
@pytest.mark.parametrize(("start", "length", "source", "target"), [(0, 20, 20, 7), (3, 12, 20, 7), (5, 4, 9, 30)])
def test_resize_matrices_are_those_of_the_tiny_path(
    interpolation: str, start: int, length: int, source: int, target: int
) -> None:
    ends, flip = (torch.tensor([float(start)] * 2), torch.tensor([float(length)] * 2)), torch.tensor([False, True])
    upright, reversed_ = resize_matrices(*ends, flip, source, target, interpolation).numpy()
    expected = np.zeros((target, source), np.float32)
    expected[:, start : start + length] = WEIGHTS[interpolation](length, target)
    np.testing.assert_allclose(upright, expected, atol=1e-6)
    np.testing.assert_array_equal(reversed_, upright[::-1])


@PRESETS
def test_batches_of_every_preset_differ_by_a_fraction_of_a_grey_level(config: ViewsConfig) -> None:
    config = replace(config, global_size=min(config.global_size, 96), local_size=min(config.local_size, 48))
    images = [photograph(150, 200), photograph(90, 64), photograph(200, 130)]
    decoded = [decoded_crop(image, config, 1, 2, index) for index, image in enumerate(images)]
    count = config.num_global
    for group, part in enumerate((slice(None, count), slice(count, None))):
        if not decoded[0][1][part]:
            continue
        views = make_views([torch.from_numpy(crop) for crop, _ in decoded], [drawn[part] for _, drawn in decoded])
        expected = [multi_crop(image, config, 1, 2, index)[group] for index, image in enumerate(images)]
        difference = views.movedim(2, -1).numpy().astype(int) - np.stack(expected, axis=1)
        assert np.abs(difference).mean() < 0.2


@settings(max_examples=60, deadline=None)
@given(
    index=st.integers(0, 2**32),
    height=st.integers(20, 300),
    width=st.integers(20, 300),
    name=st.sampled_from(["imagenet", "scenes", "simclr", "moco"]),
    divisor=st.sampled_from([1, 2]),
)
def test_any_image_and_parameters(index: int, height: int, width: int, name: str, divisor: int) -> None:
    config = replace(VIEWS[name], global_size=64, local_size=32)
    image = photograph(height, width)
    reduction = None if divisor == 1 else Reduction(height * 2, width * 2, 2)
    crop, drawn = decoded_crop(image, config, 0, 0, index, reduction)
    expected = [view for part in multi_crop(image, config, 0, 0, index, reduction) if part is not None for view in part]
    means = []
    for parameters, view in zip(drawn, expected, strict=True):
        made = make_views([torch.from_numpy(crop)], [[parameters]])[0, 0].permute(1, 2, 0).numpy()
        means.append(np.abs(made.astype(int) - view).mean())
    assert np.mean(means) < 1


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_of_the_loader(picture_folder: Callable[..., Path], workers: int) -> None:
    """Every field, with and without loader processes."""
    folder = find_images(picture_folder(8, classes=2))
    sampler = StepSampler(8, 4, 0, range(2), rank=0, processes=1)
    made, decoded = (
        view_loader(
            ViewsDataset(folder, replace(VIEWS["small_64"], device=device), 0),
            sampler,
            workers if device == "cuda" else 0,
            pin=False,
        )
        for device in ("cpu", "cuda")
    )
    for expected, batch in zip(made, decoded, strict=True):
        views = batch.to(torch.device("cpu"))
        assert torch.equal(views.index, expected.index)
        assert torch.equal(views.labels, expected.labels)
        assert views.unreadable == batch.unreadable == expected.unreadable
        for one, other in ((views.global_views, expected.global_views), (views.local_views, expected.local_views)):
            assert one.shape == other.shape
            assert one.dtype == other.dtype
            assert (one.float() - other.float()).abs().mean() < 1
    decoded.close()


def test_a_run_on_views_by_torch_resumes_exactly_and_learns_as_one_on_those_of_the_loader(
    picture_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU, which a run chooses only for views of the loader."""
    config = cases.run_config("dino", picture_folder(24), tmp_path / "loader")
    train(config)

    def dataset(images: ImageSource, views: ViewsConfig, *rest: Any, **ways: bool) -> ViewsDataset:
        return ViewsDataset(images, replace(views, device="cuda"), *rest, **ways)

    monkeypatch.setattr(trainer, "ViewsDataset", dataset)
    whole, stopped = (replace(config, out=tmp_path / name) for name in ("whole", "stopped"))
    train(whole)
    train(stopped, listeners=[Stop(4, signal.SIGTERM)])
    train(stopped, resume=True)
    (by_loader, *by_torch) = (read_metrics(tmp_path / name) for name in ("loader", "whole", "stopped"))
    losses = [[line["loss"] for line in lines if "loss" in line] for lines in (by_loader, *by_torch)]
    assert losses[1] == losses[2]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


def test_views_on_cuda_need_a_run_on_cuda(picture_folder: Callable[..., Path], tmp_path: Path) -> None:
    config = cases.run_config("dino", picture_folder(24), tmp_path / "run")
    with pytest.raises(UserError, match=r"--views\.device cuda"):
        train(replace(config, views=replace(config.views, device="cuda"), device="cpu"))
    assert not config.out.exists()
