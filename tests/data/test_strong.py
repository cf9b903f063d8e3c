"""RandAugment and random erasing: pure functions of the view, and what they draw."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest

from dinoscope.data import strong
from dinoscope.data.augment import multi_crop
from dinoscope.data.strong import erased, strengthened
from dinoscope.data.views import VIEWS, ViewsConfig, for_channels, left_out, view_generator

PLAIN = replace(VIEWS["supervised"], global_size=32)
STRONG = replace(PLAIN, randaugment=9, erasing=0.25)


def _numpy_state() -> list[int]:
    return np.random.get_state(legacy=False)["state"]["key"].tolist()


def picture(channels: int = 3, side: int = 48) -> np.ndarray:
    places = np.arange(side)
    planes = [(places[:, None] * (n + 2) + places * 3) % 251 for n in range(channels)]
    return np.stack(planes, axis=2).astype(np.uint8)


def test_views_are_the_same_whatever_was_drawn_before_and_leave_the_generators_alone() -> None:
    image = picture()
    random.seed(1)
    np.random.seed(1)
    state = _numpy_state()
    first = [multi_crop(image, STRONG, 5, 2, index)[0] for index in range(20)]
    assert _numpy_state() == state
    state = random.getstate()  # Python's own is drawn from by these tests' checks of types, too
    with strong._seeded(3):
        random.random()
    assert random.getstate() == state
    random.seed(2)
    np.random.seed(2)
    again = [multi_crop(image, STRONG, 5, 2, index)[0] for index in range(20)]
    assert all((one == other).all() for one, other in zip(first, again, strict=True))
    assert any((one != other).any() for one, other in itertools.pairwise(first))


def test_without_them_the_views_are_what_they_were_and_with_them_crops_stay() -> None:
    image = picture()
    plain = multi_crop(image, PLAIN, 0, 0, 3)[0]
    assert (multi_crop(image, replace(PLAIN, randaugment=0, erasing=0.0), 0, 0, 3)[0] == plain).all()
    # Erasing alone leaves every pixel outside of one box as it was.
    changed = [
        (multi_crop(image, replace(PLAIN, erasing=1.0), 0, 0, i)[0] != multi_crop(image, PLAIN, 0, 0, i)[0])
        for i in range(9)
    ]
    assert all(0 < difference.any(axis=3).mean() < 0.4 for difference in changed)


def test_a_quarter_of_the_views_is_erased_in_a_box_of_2_to_33_percent() -> None:
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    shares = []
    for index in range(400):
        pixels = strengthened(image, replace(PLAIN, erasing=0.25), 0, 0, index, 0)
        rows, columns = np.nonzero(pixels.any(axis=2))
        shares.append((np.ptp(rows) + 1) * (np.ptp(columns) + 1) / 32**2 if len(rows) else 0.0)
    hit = [share for share in shares if share]
    assert len(hit) / 400 == pytest.approx(0.25, abs=0.06)
    assert min(hit) > 0.01
    assert max(hit) < 0.36
    assert np.mean(hit) == pytest.approx((0.02 + 1 / 3) / 2, abs=0.03)


def test_noise_is_normal_around_the_mean_of_photographs() -> None:
    noise = np.concatenate(
        [
            pixels[pixels.any(axis=2)]
            for index in range(60)
            if (pixels := erased(np.zeros((64, 64, 3), np.uint8), view_generator(0, 0, index, 0))).any()
        ]
    )
    assert noise.mean(axis=0) == pytest.approx([123.7, 116.3, 103.5], abs=3)  # 255 times ImageNet's
    assert noise.std(axis=0) == pytest.approx([57, 56, 55], abs=3)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_are_erased_but_have_no_randaugment(channels: int) -> None:
    assert for_channels(STRONG, channels).randaugment == 0
    assert "randaugment" in left_out(STRONG, channels)
    assert multi_crop(picture(channels), replace(STRONG, erasing=1.0), 0, 0, 0)[0].shape == (1, 32, 32, channels)


@pytest.mark.parametrize(
    "wrong", [{"randaugment": 11}, {"randaugment": -1}, {"erasing": 1.5}, {"randaugment": 9, "device": "cuda"}]
)
def test_values_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="allowed"):
        ViewsConfig(**wrong)  # pyright: ignore[reportArgumentType]
