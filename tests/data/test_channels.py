"""Images of 1 to 16 channels: what networks are given, what people are shown, views, and the measured normalisation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dinoscope.data.augment import adjust_contrast, apply_view, drawn_views, multi_crop
from dinoscope.data.augment_torch import DecodedBatch, decoded_crop, make_views
from dinoscope.data.images import RawImage, UnreadableImage, as_raw
from dinoscope.data.loader import StepSampler, ViewsDataset, view_loader
from dinoscope.data.normalisation import measured
from dinoscope.data.reader import Header, composite, parse_composite
from dinoscope.data.scan import scan
from dinoscope.data.sources import dataset_images
from dinoscope.data.views import VIEWS, ViewParameters, ViewsConfig, left_out, sample_views
from dinoscope.errors import UserError
from tests.data.test_datasets import Items

STRONG = replace(
    VIEWS["small_32"],
    jitter_probability=1.0,
    grayscale=0.5,
    vertical_flip=0.5,
    blur_probability=(1.0, 0.5, 0.5),
    solarize_probability=(0.5, 0.5, 0.5),
)


def values(channels: int, height: int = 40, width: int = 50, seed: int = 0) -> np.ndarray:
    """Smooth enough for views to keep it apart from noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 5, width // 5, channels), np.uint8)
    return coarse.repeat(5, axis=0).repeat(5, axis=1)


# What networks are given


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 16])
def test_a_network_of_the_images_channels_is_given_them_as_stored(channels: int) -> None:
    stored = values(channels)
    pixels = RawImage(stored).pixels(channels)
    np.testing.assert_array_equal(pixels, stored)
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable


def test_grey_is_repeated_and_rgb_becomes_luma() -> None:
    grey, rgb = values(1), values(3)
    np.testing.assert_array_equal(RawImage(grey).pixels(3), grey.repeat(3, axis=2))
    luma = RawImage(rgb).pixels(1)
    np.testing.assert_array_equal(luma[..., 0], np.asarray(Image.fromarray(rgb).convert("L")))
    assert luma.flags.writeable
    np.testing.assert_array_equal(RawImage(grey.repeat(3, axis=2)).pixels(1), grey)


@pytest.mark.parametrize(("stored", "wanted"), [(5, 3), (5, 1), (1, 5), (3, 5), (4, 3), (2, 1)])
def test_other_channels_are_refused_with_both_numbers(stored: int, wanted: int) -> None:
    with pytest.raises(UnreadableImage, match=rf"has {stored} channels?, and {wanted} are needed"):
        RawImage(values(stored)).pixels(wanted)


def test_deep_channels_are_mapped_by_one_grey_range() -> None:
    deep = np.arange(0, 4096, 512, dtype=np.uint16).reshape(1, 2, 4)
    expected = np.rint(deep * (255 / 4095)).astype(np.uint8)
    np.testing.assert_array_equal(RawImage(deep).pixels(4, (2047.5, 4095.0)), expected)


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 16])
def test_arrays_and_tensors_of_a_program(channels: int) -> None:
    stored = values(channels)
    np.testing.assert_array_equal(as_raw(stored).values, stored)
    np.testing.assert_array_equal(as_raw(torch.from_numpy(stored).permute(2, 0, 1)).values, stored)


def test_four_channels_that_are_not_rgb_with_transparency_are_given_as_a_raw_image() -> None:
    raw = RawImage(values(4))
    assert as_raw(raw) is raw
    assert as_raw(raw.values).values.shape[2] == 3


def test_a_header_fills_in_the_channels() -> None:
    assert (Header("", 1, 1).channels, Header("", 1, 1, grey=True).channels) == (3, 1)
    assert Header("", 1, 1, channels=5).channels == 5
    items = dataset_images(Items([values(5)]))
    assert items.header(0).channels == 5


# What people are shown


def test_a_composite() -> None:
    pixels = values(5)
    np.testing.assert_array_equal(RawImage(pixels).rgb(), pixels[..., :3])
    np.testing.assert_array_equal(composite(pixels, (4, 0, 2)), pixels[..., [4, 0, 2]])
    np.testing.assert_array_equal(composite(pixels, (3,)), pixels[..., [3, 3, 3]])
    np.testing.assert_array_equal(composite(pixels[..., :2]), pixels[..., [0, 1, 1]])
    np.testing.assert_array_equal(composite(pixels[..., :1], (4, 0, 2)), pixels[..., [0, 0, 0]])  # the only channel
    assert composite(pixels).flags.c_contiguous
    with pytest.raises(UserError, match=r"--composite 4,0,5 of an image of 5 channels: they count from 0 to 4"):
        composite(pixels, (4, 0, 5))


def test_a_composite_is_chosen_for_all_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = values(5)
    monkeypatch.setenv("DINOSCOPE_COMPOSITE", "4,3,2")
    np.testing.assert_array_equal(RawImage(pixels).rgb(), pixels[..., [4, 3, 2]])
    np.testing.assert_array_equal(RawImage(pixels).pixels(5), pixels)  # a network is given them in their own order
    for text in ("", "1,2", "a,b,c", "-1,0,1", "1,2,3,4"):
        with pytest.raises(UserError, match="--composite must be R,G,B"):
            parse_composite(text)


# Views


@pytest.mark.parametrize("channels", [1, 2, 5, 16])
@pytest.mark.parametrize("size", [(40, 50), (90, 70)])  # two ways of resizing
def test_each_channel_is_cropped_flipped_and_blurred_as_one_of_rgb(channels: int, size: tuple[int, int]) -> None:
    config = replace(STRONG, contrast=0.0, saturation=0.0, hue=0.0, grayscale=0.0, solarize_probability=(0, 0, 0))
    image = values(channels, *size)
    views, local_views = multi_crop(image, config, seed=0, epoch=1, index=2)
    assert local_views is not None
    for channel in range(channels):
        as_rgb = image[..., [channel] * 3]
        expected, expected_local = multi_crop(as_rgb, config, seed=0, epoch=1, index=2)
        np.testing.assert_allclose(views[..., channel].astype(int), expected[..., 0], atol=1)
        assert expected_local is not None
        np.testing.assert_allclose(local_views[..., channel].astype(int), expected_local[..., 0], atol=1)


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 6, 16])
@pytest.mark.parametrize("crop", [(61, 93, 80), (100, 50, 224), (200, 131, 64), (96, 40, 96)])
def test_other_channels_are_resized_as_torch_resizes_each(channels: int, crop: tuple[int, int, int]) -> None:
    height, width, size = crop
    image = np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)
    resized = apply_view(image, ViewParameters(0, 0, height, width, size))
    planes = torch.from_numpy(image).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(planes, (size, size), mode="bicubic", antialias=True)[0]
    np.testing.assert_array_equal(resized, expected.permute(1, 2, 0).numpy())


def test_a_grey_view_is_that_of_the_repeated_image() -> None:
    """To rounding: colours do nothing to grey, and solarisation is the same."""
    grey = values(1, 64, 64)
    for epoch in range(8):
        views, _ = multi_crop(grey, STRONG, 0, epoch, 0)
        expected, _ = multi_crop(grey.repeat(3, axis=2), STRONG, 0, epoch, 0)
        assert views.shape == (2, 32, 32, 1)
        difference = np.abs(views[..., 0].astype(int) - expected[..., 0])
        assert np.minimum(difference, 255 - difference).mean() < 1  # a level next to 128 may be solarised or not


def test_contrast_is_around_the_mean_of_all_channels() -> None:
    pixels = values(5)
    changed = adjust_contrast(pixels, 0.0)
    np.testing.assert_array_equal(changed, np.full_like(pixels, int(pixels.mean() + 0.5)))


def test_parameters_do_not_depend_on_the_channels() -> None:
    """Only what is not defined is left out of them."""
    whole = sample_views(STRONG, 0, 0, 0, 40, 50)
    assert drawn_views(values(3), STRONG, 0, 0, 0) == whole
    for channels in (1, 5):
        drawn = drawn_views(values(channels), STRONG, 0, 0, 0)
        for view, one in zip(whole, drawn, strict=True):
            kept = tuple(entry for entry in view.jitter if entry[0] in ("brightness", "contrast"))
            solarize = view.solarize and channels == 1
            assert one == replace(view, jitter=kept, grayscale=False, solarize=solarize)


def test_what_is_left_out_is_named() -> None:
    assert left_out(STRONG, 3) == []
    assert left_out(STRONG, 5) == ["saturation", "hue", "grayscale", "solarize"]
    assert left_out(STRONG, 1) == ["saturation", "hue", "grayscale"]
    assert left_out(replace(STRONG, jitter_probability=0.0, grayscale=0.0), 1) == []


@pytest.mark.parametrize("channels", [1, 5])
def test_views_by_torch_are_the_same_to_a_tenth_of_a_level(channels: int) -> None:
    image = values(channels, 60, 70)
    drawn = drawn_views(image, STRONG, 0, 0, 0)[: STRONG.num_global]
    ours = make_views([torch.from_numpy(image)], [drawn])[:, 0].permute(0, 2, 3, 1).numpy()
    for view, one in zip(drawn, ours, strict=True):
        assert np.abs(one.astype(int) - apply_view(image, view)).mean() < 0.3


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("decoded", [False, True])
def test_a_loader_gives_the_channels(channels: int, decoded: bool) -> None:
    images = dataset_images(Items([values(channels, seed=seed) for seed in range(4)]))
    config = replace(STRONG, device="cuda") if decoded else STRONG
    dataset = ViewsDataset(images, config, 0, channels=channels)
    batch = next(view_loader(dataset, StepSampler(4, 2, 0, range(1), rank=0, processes=1), 0, pin=False))
    views = batch.to(torch.device("cpu")) if isinstance(batch, DecodedBatch) else batch
    assert views.global_views.shape == (2, 2, channels, 32, 32)
    assert views.local_views is not None
    assert views.local_views.shape == (4, 2, channels, 16, 16)
    first, _ = decoded_crop(values(channels), STRONG, 0, 0, 0)
    assert first.shape[2] == channels


def test_an_image_of_other_channels_is_passed_over() -> None:
    images = dataset_images(Items([values(3), values(5)]))
    _, _, used, _, replaced, *_ = ViewsDataset(images, ViewsConfig(), 0, channels=5)[0, 0]
    assert (used, replaced) == (1, 0)


# Normalisation


def test_mean_and_deviation_of_each_channel() -> None:
    arrays = [values(5, seed=seed) for seed in range(3)]
    images = dataset_images(Items(arrays))
    mean, std = measured(images, 5, None) or pytest.fail("nothing was measured")
    pixels = np.concatenate([array.reshape(-1, 5) for array in arrays]) / 255
    np.testing.assert_allclose(mean, pixels.mean(axis=0), atol=6e-5)
    np.testing.assert_allclose(std, pixels.std(axis=0), atol=6e-5)


def test_it_is_of_values_after_the_grey_range() -> None:
    images = dataset_images(Items([np.full((4, 4), 300, np.uint16), np.full((4, 4), 100, np.uint16)]))
    assert measured(images, 1, (200.0, 200.0)) == ((0.5,), (0.5,))  # 100 is black and 300 white
    assert measured(images, 3, (200.0, 200.0)) == ((0.5,) * 3, (0.5,) * 3)


def test_a_channel_of_one_value_is_divided_by_a_grey_level() -> None:
    images = dataset_images(Items([np.full((4, 4, 2), 51, np.uint8)]))
    assert measured(images, 2, None) == ((0.2,) * 2, (0.0039,) * 2)


def test_it_is_cached_by_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dinoscope.data.finding import find_images

    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(values(1)[..., 0]).save(folder / "a.png")
    first = measured(find_images(folder), 1, None, cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1
    with monkeypatch.context() as patches:
        patches.setattr(RawImage, "pixels", lambda *_: pytest.fail("it was read again"))
        assert measured(find_images(folder), 1, None, cache=tmp_path / "cache") == first
    Image.fromarray(values(1, seed=1)[..., 0]).save(folder / "b.png")
    assert measured(find_images(folder), 1, None, cache=tmp_path / "cache") != first


def test_a_scan_counts_channels() -> None:
    report = scan(dataset_images(Items([values(3), values(5), values(5)])))
    assert report.channels == {5: 2, 3: 1}
    assert report.most_channels == 5
    assert not report.is_8_bit_rgb
    assert scan(dataset_images(Items([values(1), values(3), values(1)]))).is_8_bit_rgb
    assert scan(dataset_images(Items([values(1)]))).most_channels == 1
