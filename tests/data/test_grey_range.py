"""The grey range: which values become black and white, and how a person names it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dinoscope.cli import options
from dinoscope.data.grey_range import (
    HEADER,
    WINDOWS,
    ValueRange,
    bits_window,
    check_window,
    describe,
    fallback,
    is_header,
    is_joined,
    joined,
    parse_window,
    range_of,
    separate,
    to_uint8,
    window_text,
    with_fallback,
)
from dinoscope.data.reader import RawImage, UnreadableImage
from dinoscope.errors import UserError


def test_values_alone_take_their_own_range() -> None:
    np.testing.assert_array_equal(to_uint8(np.array([-1000, 0, 3000], np.int32)), [0, 64, 255])
    np.testing.assert_array_equal(to_uint8(np.array([0, 65536], np.int32)), [0, 255])
    np.testing.assert_array_equal(to_uint8(np.array([-5, -5], np.int32)), [0, 0])
    np.testing.assert_array_equal(to_uint8(np.array([0, 2**32 - 1], np.uint32)), [0, 255])
    np.testing.assert_array_equal(to_uint8(np.array([np.nan, 2, 4, np.inf, -np.inf], np.float32)), [0, 0, 255, 255, 0])
    np.testing.assert_array_equal(to_uint8(np.array([np.nan, np.inf], np.float32)), [0, 0])


def test_a_window_is_linear_and_clips() -> None:
    # level 40, width 400: -160 is black, 240 is white, and 41 is 201 / 400 of 255: 128.1
    for kind in (np.int16, np.int32, np.float32):
        values = np.array([-2000, -160, 41, 240, 241], kind)
        np.testing.assert_array_equal(to_uint8(values, (40.0, 400.0)), [0, 0, 128, 255, 255])
    np.testing.assert_array_equal(to_uint8(np.array([-128, 0, 127], np.int8), (0.0, 256.0)), [0, 128, 254])
    np.testing.assert_array_equal(to_uint8(np.array([0, 65535], ">u2"), bits_window(16)), [0, 255])


def test_a_table_and_arithmetic_agree() -> None:
    values = np.arange(65536, dtype=np.uint16)
    for window in (bits_window(10), bits_window(16), (3000.5, 123.25)):
        np.testing.assert_array_equal(to_uint8(values, window), to_uint8(values.astype(np.int64), window))
        signed = values.view(np.int16)
        np.testing.assert_array_equal(to_uint8(signed, window), to_uint8(signed.astype(np.int64), window))


@pytest.mark.parametrize(
    ("largest", "bits"), [(1, 8), (255, 8), (256, 10), (1023, 10), (4095, 12), (4096, 14), (65535, 16)]
)
def test_the_smallest_bit_depth_that_holds_the_largest_value(largest: int, bits: int) -> None:
    assert ValueRange(0, largest, True).window == bits_window(bits)


def test_other_ranges() -> None:
    assert bits_window(12) == (2047.5, 4095.0)
    assert ValueRange(-1000, 3000, True).window == (1000.0, 4000.0)
    assert ValueRange(0, 70000, True).window == (35000.0, 70000.0)
    assert ValueRange(0.1, 0.9, False).window == (0.5, 1.0)
    assert ValueRange(0.0, 2.0, False).window == (1.0, 2.0)


def test_the_range_of_several_images_holds_them_all() -> None:
    ranges = [range_of(np.array(values, np.uint16)) for values in ([0, 100], [7, 4000], [50, 60])]
    assert joined([each for each in ranges if each is not None]) == ValueRange(0, 4000, True)
    assert joined([]) is None
    assert range_of(np.array([np.nan], np.float32)) is None
    mixed = joined([ValueRange(0, 4000, True), ValueRange(0, 0.5, False)])
    assert mixed == ValueRange(0, 4000, False)


def test_a_window_is_read_as_it_is_written() -> None:
    for window in ((2047.5, 4095.0), (-600.0, 1500.0), (0.1, 1e-3)):
        assert parse_window(window_text(window)) == window
    assert parse_window("-600,1500") == (-600.0, 1500.0)
    assert window_text(bits_window(12)) == "2047.5,4095"
    assert describe(bits_window(12)) == "0 to 4095, 12 bits (--window 2047.5,4095)"


NO_WINDOWS = ["", "40", "40 400", "a,b", "1,2,3", "40,0", "40,-1", "nan,4", "0,inf", "header,4", "header,4,0", "liver"]
NO_WINDOWS += ["lung+", "lung++soft", "lung+header", "header,4,5+lung", "lung+40", "soft+40,0", "+".join(["lung"] * 17)]


@pytest.mark.parametrize("text", NO_WINDOWS)
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--window"):
        parse_window(text)


def test_windows_by_name() -> None:
    assert parse_window("lung") == (-600, 1500)
    assert parse_window("soft") == (40, 400)
    assert tuple(WINDOWS) == options.WINDOW_NAMES


def test_joined_windows_are_read_as_they_are_written() -> None:
    joined_up = parse_window("lung+soft+400,1800")
    assert joined_up == (*WINDOWS["lung"], *WINDOWS["soft"], *WINDOWS["bone"])
    assert window_text(joined_up) == "-600,1500+40,400+400,1800"
    assert describe(joined_up) == (
        "-1350 to 150, -160 to 240, -500 to 1300, a channel each (--window -600,1500+40,400+400,1800)"
    )
    assert parse_window("1e+3,2e+3") == (1e3, 2e3)
    assert parse_window("1e+3,2e+3+bone+-600,+15e+2") == (1e3, 2e3, *WINDOWS["bone"], -600, 1500)
    for window in (joined_up, (0.0, 1e20, -5.0, 1e-7), (40.0, 400.0) * 16):
        assert parse_window(window_text(window)) == window
        assert separate(window) == tuple(zip(window[::2], window[1::2], strict=True))
        assert not is_header(window)
    assert is_joined(joined_up)
    assert not any(map(is_joined, (None, HEADER, (40.0, 400.0))))


@pytest.mark.parametrize("window", [(), (1.0,), (1.0, 2.0, 3.0), (1.0, 2.0, 3.0, 0.0), (1.0, 2.0) * 17])
def test_numbers_that_are_no_windows_are_refused(window: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="--window"):
        check_window(window)


def test_each_window_makes_a_channel_of_a_grey_image() -> None:
    values = np.random.default_rng(0).integers(-2000, 2000, (4, 5, 1)).astype(np.int16)
    padding = np.random.default_rng(1).random((4, 5, 1)) < 0.3
    image, window = RawImage(values, white_is_zero=True, padding=padding), parse_window("lung+soft+bone+brain")
    pixels = image.pixels(4, window)
    for channel, one in enumerate(separate(window)):
        np.testing.assert_array_equal(pixels[..., [channel]], image.pixels(1, one))
    np.testing.assert_array_equal(image.rgb(window), pixels[..., :3])
    np.testing.assert_array_equal(image.pixels(2, window[:4]), pixels[..., :2])


def test_joined_windows_take_grey_values_of_more_than_8_bits() -> None:
    window = parse_window("lung+soft")
    for values, text in ((np.zeros((2, 2, 1), "u1"), "no more than 8 bits"), (np.ones((2, 2, 3), "u2"), "3 channels")):
        with pytest.raises(UnreadableImage, match=f"has {text}, and --window"):
            RawImage(values).pixels(2, window)
        assert RawImage(values).rgb(window).shape == (2, 2, 3)  # a person is shown something


@pytest.mark.parametrize("window", [HEADER, with_fallback((40.0, 400.0)), with_fallback(bits_window(12))])
def test_the_window_of_the_header_is_written_and_read_like_any_other(window: tuple[float, float]) -> None:
    assert parse_window(window_text(window)) == window
    assert is_header(window)
    assert tuple(json.loads(json.dumps(window))) == window


def test_what_stands_behind_the_window_of_the_header() -> None:
    assert fallback(None) is None
    assert fallback(HEADER) is None
    assert fallback((40.0, 400.0)) == fallback(with_fallback((40.0, 400.0))) == (40.0, 400.0)
    assert not is_header((40.0, 400.0))
    assert not is_header(None)
    assert window_text(with_fallback((40.0, 400.0))) == "header,40,400"
    assert describe(HEADER) == "the file's own (--window header)"
    assert describe(with_fallback(bits_window(12))) == (
        "the file's own, else 0 to 4095, 12 bits (--window header,2047.5,4095)"
    )
