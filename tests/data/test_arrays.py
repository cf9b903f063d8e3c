"""Arrays of numpy: images, stacks of images, and what is refused."""

from __future__ import annotations

import pickle
from io import BytesIO

import numpy as np
import pytest

from dinoscope.data import images
from dinoscope.data.images import UnreadableImage


def encoded(values: np.ndarray, **options: bool) -> bytes:
    stream = BytesIO()
    np.save(stream, values, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["u1", "<u2", ">u2", "i2", "i4", "f2", "f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(3, 2), (3, 2, 1), (3, 2, 3), (3, 2, 4)])
def test_an_image(kind: str, order: str, shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape)).astype(kind).reshape(shape, order=order)
    content = encoded(values)
    image = images.read_bytes(content, "x")
    np.testing.assert_array_equal(image.values, values.reshape(3, 2, -1)[..., :3])
    header = images.stream_header(BytesIO(content), "x", 100)
    assert (header.format, header.height, header.width, header.grey) == ("NPY", 3, 2, image.values.shape[2] == 1)
    assert header.sample == image.values.dtype.str[1:]
    assert image.values.dtype.isnative
    assert images.frames_of_bytes(content, "x") == ("",)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_a_stack(order: str, channels: tuple[int, ...]) -> None:
    values = np.asarray(np.random.default_rng(0).integers(0, 256, (5, 7, 6, *channels), np.uint8), order=order)
    content = encoded(values)
    names = images.frames_of_bytes(content, "x")
    assert names == tuple(f"frame={index}" for index in range(5))
    for name, frame in zip(names, values, strict=True):
        np.testing.assert_array_equal(images.read_bytes(content, "x", frame=name).values, frame.reshape(7, 6, -1))
    with pytest.raises(UnreadableImage, match=r"^several images: the file holds 5 images, frame=0 to frame=4"):
        images.read_bytes(content, "x")


@pytest.mark.parametrize("channels", [2, 5, 16])
def test_channels(channels: int) -> None:
    values = np.random.default_rng(0).integers(0, 60_000, (2, 18, 17, channels), np.uint16)
    for content, frames in ((encoded(values[0]), [""]), (encoded(values), ["frame=0", "frame=1"])):
        assert list(images.frames_of_bytes(content, "x")) == frames
        for place, frame in enumerate(frames):
            np.testing.assert_array_equal(images.read_bytes(content, "x", frame=frame).values, values[place])
        header = images.stream_header(BytesIO(content), "x", 1000, frames[-1])
        assert (header.channels, header.grey, header.sample) == (channels, False, "u2")


def test_true_is_white() -> None:
    assert images.read_bytes(encoded(np.array([[True, False]])), "x").values.tolist() == [[[255], [0]]]


class Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return pytest.fail, ("a pickle was loaded",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (encoded(np.array([[Trap()]], object)), "^not supported: an array of object"),
        (encoded(np.zeros((2, 2), complex)), "^not supported: an array of complex128"),
        (encoded(np.zeros((2, 2), "U3")), "^not supported: an array of <U3"),
        (encoded(np.zeros((3, 8, 8))), r"^not supported: an array of shape \(3, 8, 8\)"),
        (encoded(np.zeros((2, 9, 9, 17))), r"^not supported: an array of shape"),
        (encoded(np.zeros(5)), r"^not supported: an array of shape \(5,\)"),
        (encoded(np.zeros((0, 5))), "^not an image: an array of shape"),
        (encoded(np.zeros(())), "^not an image: an array of shape"),
        (encoded(np.zeros((300, 400), np.uint8)), "^too large: 400x300"),
        (encoded(np.zeros((9, 9)))[:-1], r"^damaged: an array of shape \(9, 9\) in a file of 775 bytes"),
        (encoded(np.zeros((9, 9)))[:50], "^damaged"),
        (b"\x93NUMPY\x01\x00v\x00" + b"(" * 118, "^damaged"),
        (b"\x93NUMPY\x03\x00v\x00\0\0" + b" " * 118, "^damaged"),
        (pickle.dumps(np.zeros((2, 2))), "^not an image"),
    ],
)
def test_what_is_no_image_is_refused(content: bytes, reason: str) -> None:
    for look in (images.read_bytes, images.frames_of_bytes):
        with pytest.raises(UnreadableImage, match=reason):
            look(content, "x", max_pixels=100_000)


def test_a_header_of_an_enormous_array_costs_nothing() -> None:
    content = encoded(np.zeros((9, 9), np.uint8)).replace(
        b"(9, 9), }" + b" " * 20, b"(9999, 9999, 9999, 3), }".ljust(29)
    )
    with pytest.raises(UnreadableImage, match=r"^damaged: an array of shape \(9999, 9999, 9999, 3\)"):
        images.read_bytes(content, "x", max_pixels=10**8)
