"""Views: the settings, what is drawn (against torchvision's own draws), and the pixels (against Pillow's)."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from itertools import product

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter, ImageOps
from scipy import stats
from torchvision.transforms import ColorJitter, InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as pillow

from dinoscope.data.augment import apply_view, bicubic_weights, bilinear_weights, blur_kernel, multi_crop
from dinoscope.data.views import (
    VIEWS,
    JitterOperation,
    ViewParameters,
    ViewsConfig,
    sample_view,
    view_generator,
)

IMAGENET = VIEWS["imagenet"]
PLAIN = ViewsConfig(
    horizontal_flip=0.0,
    jitter_probability=0.0,
    grayscale=0.0,
    blur_probability=(0.0, 0.0, 0.0),
    solarize_probability=(0.0, 0.0, 0.0),
)
PRESETS = pytest.mark.parametrize("config", VIEWS.values(), ids=VIEWS.keys())
WORD = st.integers(0, 2**64 - 1)

PILLOW_JITTER: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "brightness": pillow.adjust_brightness,
    "contrast": pillow.adjust_contrast,
    "saturation": pillow.adjust_saturation,
    "hue": pillow.adjust_hue,
}


def apply_view_plain(image: np.ndarray, parameters: ViewParameters) -> np.ndarray:
    """The same view by Pillow and torchvision, operation by operation, as DINO's reference makes it."""
    p = parameters
    view = pillow.resized_crop(
        Image.fromarray(image), p.top, p.left, p.height, p.width, [p.size, p.size], InterpolationMode(p.interpolation)
    )
    if p.horizontal_flip:
        view = pillow.hflip(view)
    if p.vertical_flip:
        view = pillow.vflip(view)
    for operation, factor in p.jitter:
        view = PILLOW_JITTER[operation](view, factor)
    if p.grayscale:
        view = pillow.rgb_to_grayscale(view, num_output_channels=3)
    if p.blur_radius:
        view = view.filter(ImageFilter.GaussianBlur(p.blur_radius))
    if p.solarize:
        view = ImageOps.solarize(view)
    return np.asarray(view)


@lru_cache
def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colour, texture and hard edges: [height, width, 3] uint8."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), max(height, width) / 20)
    image = 128 + 50 * smooth / max(smooth.std(), 1e-3) + 12 * cv2.GaussianBlur(noise, (0, 0), 1.0)
    for _ in range(12):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        radius = int(rng.integers(1, max(2, min(height, width) // 4)))
        cv2.circle(image, centre, radius, rng.uniform(0, 255, 3).tolist(), -1)
    return np.clip(image, 0, 255).astype(np.uint8)


def many_views(
    config: ViewsConfig, count: int, view: int = 0, height: int = 333, width: int = 500
) -> list[ViewParameters]:
    return [sample_view(config, view, height, width, view_generator(7, 0, i, view)) for i in range(count)]


# Settings


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_global", 0),
        ("num_local", -1),
        ("global_size", 0),
        ("local_size", 0),
        ("global_scale", (0.0, 1.0)),
        ("global_scale", (0.5, 0.4)),
        ("local_scale", (0.1, 1.1)),
        ("aspect_ratio", (0.0, 1.0)),
        ("horizontal_flip", 1.1),
        ("vertical_flip", -0.1),
        ("jitter_probability", float("nan")),
        ("brightness", -0.1),
        ("contrast", float("inf")),
        ("hue", 0.6),
        ("grayscale", 2),
        ("blur_probability", (1.0, 0.1, -0.5)),
        ("blur_radius", (2.0, 0.1)),
        ("solarize_probability", (0.0, 1.2, 0.0)),
    ],
)
def test_settings_out_of_range_are_refused_with_name_and_value(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{field} is .*; allowed: ") as error:
        replace(IMAGENET, **{field: value})
    assert str(value) in str(error.value)


def test_command_line_reads_settings_without_torch() -> None:
    program = "import sys, dinoscope.data.views; sys.exit('torch' in sys.modules or 'cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# The stream


@given(words=st.tuples(WORD, WORD, WORD, WORD))
def test_generator_is_philox_with_its_words_as_key_and_counter(words: tuple[int, int, int, int]) -> None:
    seed, epoch, index, view = words
    key, counter = np.array((seed, epoch), np.uint64), np.array((0, view, index, 0), np.uint64)
    expected = np.random.Generator(np.random.Philox(key=key, counter=counter)).random(9)
    np.testing.assert_array_equal(view_generator(*words).random(9), expected)


def test_every_word_changes_the_stream() -> None:
    streams = {tuple(view_generator(*words).random(4)) for words in product(range(3), repeat=4)}
    assert len(streams) == 3**4


def test_negative_seed_is_refused() -> None:
    with pytest.raises(OverflowError):
        view_generator(-1, 0, 0, 0)


# What is drawn


@given(
    words=st.tuples(WORD, WORD, WORD),
    height=st.integers(1, 5000),
    width=st.integers(1, 40),
    tall=st.booleans(),
    name=st.sampled_from(sorted(VIEWS)),
    data=st.data(),
)
def test_box_lies_inside_the_image_and_parameters_repeat(
    words: tuple[int, int, int], height: int, width: int, tall: bool, name: str, data: st.DataObject
) -> None:
    height, width = (height, width) if tall else (width, height)
    view = data.draw(st.integers(0, VIEWS[name].num_views - 1))
    first, second = (sample_view(VIEWS[name], view, height, width, view_generator(*words, view)) for _ in "ab")
    assert first == second
    assert 0 <= first.top < first.top + first.height <= height
    assert 0 <= first.left < first.left + first.width <= width


def test_views_of_an_image_differ() -> None:
    drawn = [sample_view(IMAGENET, view, 333, 500, view_generator(0, 0, 0, view)) for view in range(10)]
    assert len({(p.top, p.left, p.height, p.width) for p in drawn}) == 10
    assert [p.size for p in drawn] == [224] * 2 + [96] * 8


def test_one_setting_leaves_the_other_draws_alone() -> None:
    for before, after in zip(many_views(IMAGENET, 50), many_views(PLAIN, 50), strict=True):
        assert after == ViewParameters(before.top, before.left, before.height, before.width, before.size)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"horizontal_flip": 0.0}, "horizontal_flip"),
        ({"jitter_probability": 0.0}, "jitter"),
        ({"grayscale": 0.0}, "grayscale"),
        ({"blur_probability": (0.0, 0.0, 0.0)}, "blur_radius"),
        ({"solarize_probability": (0.0, 0.0, 0.0)}, "solarize"),
    ],
)
def test_each_augmentation_can_be_left_out_alone(change: dict[str, object], field: str) -> None:
    """It never happens then, happened before, and everything else is drawn as before."""
    off = replace(IMAGENET, **change)
    default = getattr(ViewParameters(0, 0, 1, 1, 1), field)
    pairs = [
        pair
        for view in (0, 1, 2)  # one of each kind
        for pair in zip(many_views(IMAGENET, 50, view), many_views(off, 50, view), strict=True)
    ]
    assert any(getattr(before, field) != default for before, _ in pairs)
    assert all(after == replace(before, **{field: default}) for before, after in pairs)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 48), (375, 500), (100, 131)])
def test_scales_of_1_leave_the_random_crop_out(height: int, width: int) -> None:
    """The whole image to within a pixel, where its shape lies within the aspect ratios (3/4 to 4/3)."""
    config = replace(IMAGENET, global_scale=(1.0, 1.0), local_scale=(1.0, 1.0))
    for view, index in product(range(10), range(20)):
        drawn = sample_view(config, view, height, width, view_generator(0, 0, index, view))
        assert drawn.height in (height - 1, height)
        assert drawn.width in (width - 1, width)
        assert height != width or (drawn.height, drawn.width) == (height, width)


def test_scales_of_1_take_the_middle_of_a_long_image_unless_its_shape_is_allowed() -> None:
    config = replace(IMAGENET, global_scale=(1.0, 1.0))
    drawn = sample_view(config, 0, 30, 90, view_generator(0, 0, 0, 0))
    assert (drawn.top, drawn.left, drawn.height, drawn.width) == (0, 25, 30, 40)
    wide = sample_view(replace(config, aspect_ratio=(1 / 3, 3.0)), 0, 30, 90, view_generator(0, 0, 0, 0))
    assert (wide.top, wide.left, wide.height, wide.width) == (0, 0, 30, 90)


@pytest.mark.parametrize("count", [0, 1, 6, 10])
def test_any_number_of_local_views_leaves_the_global_ones_alone(count: int) -> None:
    config = replace(IMAGENET, num_local=count)
    drawn = [sample_view(config, view, 60, 80, view_generator(0, 0, 0, view)) for view in range(config.num_views)]
    assert [p.size for p in drawn] == [224] * 2 + [96] * count
    assert drawn[:2] == [sample_view(IMAGENET, view, 60, 80, view_generator(0, 0, 0, view)) for view in range(2)]


@pytest.mark.parametrize("view", [-1, 10])
def test_view_that_does_not_exist_is_refused(view: int) -> None:
    with pytest.raises(ValueError, match="allowed: 0 to 9"):
        sample_view(IMAGENET, view, 10, 10, view_generator(0, 0, 0, 0))


def test_empty_image_is_refused() -> None:
    with pytest.raises(ValueError, match="0 x 10"):
        sample_view(IMAGENET, 0, 0, 10, view_generator(0, 0, 0, 0))


# In the last two shapes few crops of a global view fit, so that the fallback is drawn as well.
@pytest.mark.parametrize(
    ("view", "height", "width"), [(0, 333, 500), (2, 333, 500), (2, 64, 64), (0, 60, 200), (0, 300, 40)]
)
def test_crops_are_distributed_as_torchvisions(view: int, height: int, width: int) -> None:
    count = 1500
    scale = IMAGENET.local_scale if view else IMAGENET.global_scale
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, scale, IMAGENET.aspect_ratio) for _ in range(count)])
    boxes = many_views(IMAGENET, count, view, height, width)
    ours = np.array([(p.top, p.left, p.height, p.width) for p in boxes])
    for name, measure in {
        "top": lambda box: box[:, 0],
        "left": lambda box: box[:, 1],
        "area": lambda box: box[:, 2] * box[:, 3],
        "aspect ratio": lambda box: box[:, 3] / box[:, 2],
    }.items():
        assert stats.ks_2samp(measure(ours), measure(theirs), method="asymp").pvalue > 0.001, name


def test_jitter_is_distributed_as_torchvisions() -> None:
    count = 2000
    torch.manual_seed(0)
    jitter = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
    limits = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    theirs = [ColorJitter.get_params(*limits) for _ in range(count)]
    ours = [p.jitter for p in many_views(replace(IMAGENET, jitter_probability=1.0), count)]
    for place, name in enumerate(PILLOW_JITTER):
        factors = [dict(each)[name] for each in ours]
        assert stats.ks_2samp(factors, [each[1 + place] for each in theirs]).pvalue > 0.001, name
    orders = Counter(tuple(name for name, _ in each) for each in ours)
    assert len(orders) == 24
    assert stats.chisquare(list(orders.values())).pvalue > 0.001


def test_operations_without_strength_are_left_out() -> None:
    config = replace(IMAGENET, jitter_probability=1.0, brightness=0.0, hue=0.0)
    for parameters in many_views(config, 20):
        assert sorted(name for name, _ in parameters.jitter) == ["contrast", "saturation"]


# Caron et al. 2021, appendix; blur and solarisation differ on the global views and the local ones.
@pytest.mark.parametrize(("view", "blurred", "solarized"), [(0, 1.0, 0.0), (1, 0.1, 0.2), (2, 0.5, 0.0)])
def test_frequencies_are_those_of_dino(view: int, blurred: float, solarized: float) -> None:
    count = 1500
    drawn = many_views(IMAGENET, count, view)
    for happened, probability in (
        ([p.horizontal_flip for p in drawn], 0.5),
        ([p.vertical_flip for p in drawn], 0.0),
        ([bool(p.jitter) for p in drawn], 0.8),
        ([p.grayscale for p in drawn], 0.2),
        ([p.blur_radius > 0 for p in drawn], blurred),
        ([p.solarize for p in drawn], solarized),
    ):
        assert stats.binomtest(sum(happened), count, probability).pvalue > 0.001
    radii = [p.blur_radius for p in drawn if p.blur_radius]
    assert stats.kstest(radii, stats.uniform(0.1, 1.9).cdf).pvalue > 0.001


# The pixels

# A photograph shrunk, and enlarged from boxes that are not square, to sizes on both sides of the tiny path.
BOXES = pytest.mark.parametrize("box", [(10, 20, 280, 370), (5, 5, 30, 40), (5, 5, 25, 20)])
SIZES = pytest.mark.parametrize("size", [32, 96, 224])


def absolute_difference(image: np.ndarray, parameters: ViewParameters) -> np.ndarray:
    fast = apply_view(image, parameters)
    assert fast.dtype == np.uint8
    assert fast.shape == (parameters.size, parameters.size, 3)
    return np.abs(fast.astype(int) - apply_view_plain(image, parameters))


def assert_close(image: np.ndarray, parameters: ViewParameters, mean: float, largest: int, share: float = 0.0) -> None:
    """Hold the mean absolute difference in grey levels, and the share of differences beyond `largest`."""
    difference = absolute_difference(image, parameters)
    assert difference.mean() <= mean
    assert (difference > largest).mean() <= share


@BOXES
@SIZES
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"horizontal_flip": True},
        {"vertical_flip": True},
        {"horizontal_flip": True, "vertical_flip": True},
        {"grayscale": True},
        {"solarize": True},
        {"interpolation": "bilinear"},
    ],
    ids=lambda changes: "+".join(changes) or "resize",
)
def test_geometry_grey_and_solarisation_are_pillows(
    box: tuple[int, int, int, int], size: int, changes: dict[str, bool]
) -> None:
    assert_close(photograph(300, 400), ViewParameters(*box, size, **changes), mean=0.2, largest=2)


@BOXES
@SIZES
@pytest.mark.parametrize("operation", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("factor", [0.1, 0.6, 1.0, 1.4])
def test_blends_are_pillows(
    box: tuple[int, int, int, int], size: int, operation: JitterOperation, factor: float
) -> None:
    parameters = ViewParameters(*box, size, jitter=((operation, factor),))
    assert_close(photograph(300, 400), parameters, mean=0.3, largest=3)


@BOXES
@SIZES
@pytest.mark.parametrize("factor", [-0.5, -0.1, 0.0, 0.03, 0.1])
def test_hue_is_pillows_but_for_the_rounding_of_its_8_bits(
    box: tuple[int, int, int, int], size: int, factor: float
) -> None:
    parameters = ViewParameters(*box, size, jitter=(("hue", factor),))
    assert_close(photograph(300, 400), parameters, mean=1.5, largest=12, share=0.001)


@BOXES
@SIZES
@pytest.mark.parametrize("radius", [0.1, 0.3, 0.5, 1.0, 1.5, 2.0])
def test_blur_is_pillows_but_for_the_edges(box: tuple[int, int, int, int], size: int, radius: float) -> None:
    parameters = ViewParameters(*box, size, blur_radius=radius)
    assert_close(photograph(300, 400), parameters, mean=0.8, largest=3, share=0.05)


@PRESETS
def test_whole_views_are_pillows_to_one_grey_level(config: ViewsConfig) -> None:
    side = min(config.global_size * 3 // 2, 300)
    means = []
    for index, view in product(range(8), range(config.num_views)):
        parameters = sample_view(config, view, side, side + 30, view_generator(0, 0, index, view))
        difference = absolute_difference(photograph(side, side + 30, index), parameters)
        assert (difference > 16).mean() <= 0.04
        means.append(difference.mean())
    assert np.mean(means) <= 1
    assert np.max(means) <= 3.5


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 500), (500, 2), (1, 48), (7, 3)])
@SIZES
def test_images_of_extreme_shape(height: int, width: int, size: int) -> None:
    image = photograph(height, width)
    # Pillow cuts overshoots at 0 and 255 after each direction; the tiny path once, after both.
    assert_close(image, ViewParameters(0, 0, height, width, size), mean=0.4, largest=2, share=0.02)
    for view in (0, 5):
        parameters = sample_view(IMAGENET, view, height, width, view_generator(0, 0, 0, view))
        assert_close(image, parameters, mean=3.0, largest=16, share=0.02)


def test_tiny_path_and_torch_agree_where_they_meet() -> None:
    image = photograph(60, 60)
    for side in (48, 49):
        for size in (16, 47, 48, 49):
            for interpolation in ("bicubic", "bilinear"):
                parameters = ViewParameters(3, 4, side, side - 5, size, interpolation=interpolation)
                assert_close(image, parameters, mean=0.25, largest=2, share=0.005)


def test_bicubic_weights_by_hand() -> None:
    # Halving: an output's centre lies between two inputs, 0.25 and 0.75 output pixels from the nearest four.
    near, far = 1.5 * 0.25**3 - 2.5 * 0.25**2 + 1, 1.5 * 0.75**3 - 2.5 * 0.75**2 + 1
    outer = -0.5 * 1.25**3 + 2.5 * 1.25**2 - 4 * 1.25 + 2
    outermost = -0.5 * 1.75**3 + 2.5 * 1.75**2 - 4 * 1.75 + 2
    row = np.array([outermost, outer, far, near, near, far, outer, outermost])
    np.testing.assert_allclose(bicubic_weights(16, 8)[3], [0] * 3 + [*(row / row.sum())] + [0] * 5, atol=1e-6)
    np.testing.assert_allclose(bicubic_weights(5, 5), np.eye(5), atol=1e-6)


def test_bilinear_weights_by_hand() -> None:
    """Halving: the nearest four at 0.25 and 0.75 output pixels. Doubling: an output lies a quarter from its pixel."""
    np.testing.assert_allclose(bilinear_weights(16, 8)[3], [0] * 5 + [1 / 8, 3 / 8, 3 / 8, 1 / 8] + [0] * 7, atol=1e-6)
    np.testing.assert_allclose(bilinear_weights(4, 8)[3], [0, 3 / 4, 1 / 4, 0], atol=1e-6)
    np.testing.assert_allclose(bilinear_weights(5, 5), np.eye(5), atol=1e-6)


def test_the_views_of_moco_swav_and_emp_are_resized_as_in_their_code() -> None:
    bilinear = {name for name, config in VIEWS.items() if config.interpolation == "bilinear"}
    assert bilinear == {"moco", "swav", "patches_32"}
    assert all(view.interpolation == "bilinear" for view in many_views(VIEWS["swav"], 2, view=5))


@given(radius=st.floats(0.5, 5.0))
def test_blur_kernel_is_symmetric_sums_to_one_and_has_its_variance(radius: float) -> None:
    kernel = blur_kernel(radius)
    offsets = np.arange(len(kernel)) - len(kernel) // 2
    np.testing.assert_array_equal(kernel, kernel[::-1])
    assert kernel.sum() == 1
    assert kernel @ offsets**2 == pytest.approx(radius**2, rel=0.1)  # taps are whole 256ths


# Whole images


@PRESETS
def test_multi_crop_is_its_views_stacked(config: ViewsConfig) -> None:
    image = photograph(70, 90)
    large, small = multi_crop(image, config, seed=1, epoch=2, index=3)
    views = [
        apply_view(image, sample_view(config, view, 70, 90, view_generator(1, 2, 3, view)))
        for view in range(config.num_views)
    ]
    np.testing.assert_array_equal(large, np.stack(views[: config.num_global]))
    if config.num_local:
        np.testing.assert_array_equal(small, np.stack(views[config.num_global :]))
    else:
        assert small is None


@settings(max_examples=50)
@given(height=st.integers(1, 80), width=st.integers(1, 80), name=st.sampled_from(sorted(VIEWS)), index=WORD)
def test_any_size_gives_uint8_views_of_the_size_asked_for(height: int, width: int, name: str, index: int) -> None:
    config = VIEWS[name]
    image = np.full((height, width, 3), 200, np.uint8)
    large, small = multi_crop(image, config, seed=0, epoch=0, index=index)
    assert large.shape == (config.num_global, config.global_size, config.global_size, 3)
    assert large.dtype == np.uint8
    if small is not None:
        assert small.shape == (config.num_local, config.local_size, config.local_size, 3)
        assert small.dtype == np.uint8


def test_image_is_neither_changed_nor_shared_and_may_be_read_only_or_strided() -> None:
    parameters = ViewParameters(0, 0, 224, 224, 224, jitter=(("hue", 0.1),))
    before = photograph(224, 224)
    image = before.copy()
    image.setflags(write=False)
    view = apply_view(image, parameters)
    untouched = apply_view(image, replace(parameters, jitter=()))
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(untouched, before)
    assert not np.shares_memory(untouched, image)
    turned = np.ascontiguousarray(image.transpose(2, 0, 1)).transpose(1, 2, 0)
    np.testing.assert_array_equal(apply_view(turned, parameters), view)
