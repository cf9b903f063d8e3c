"""Multi-crop views: the pixels. Sampled parameters and an image in, uint8 views out.

Follows Pillow, on which DINO's reference pipeline runs, at a fraction of its time. On photographs a view differs from
Pillow's by less than one grey level on average, because of hue (8-bit HSV, rounded differently) and blur;
`tests/data/test_views.py` holds the bounds. Worker processes set `cv2.setNumThreads(1)` and `torch.set_num_threads(1)`:
one view is too small to share among threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np
import torch
from jaxtyping import Float32, Shaped, UInt8
from numpy import ndarray

from dinoscope.data import views
from dinoscope.data.reader import Reduction
from dinoscope.data.strong import strengthened
from dinoscope.data.views import Interpolation, JitterOperation, ViewParameters

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, the grey of Pillow, OpenCV and JPEG
TRUNCATE = -0.49  # Pillow's blends drop the fraction, OpenCV rounds. Short of a half: whole numbers stay.
_TRANSPOSED = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # bytes a pixel that OpenCV transposes, faster than numpy
_TINY = 48  # up to this side, in pixels, two small matrix products resize faster than torch


def multi_crop(
    image: UInt8[ndarray, "h w c"],
    config: views.ViewsConfig,
    seed: int,
    epoch: int,
    index: int,
    reduction: Reduction | None = None,
) -> tuple[UInt8[ndarray, "g s s c"], UInt8[ndarray, "l t t c"] | None]:
    """Return the global and the local views of an image, channels last; None without local views.

    A pure function of its arguments; `index` is the image's position in its data set, `reduction` how it was decoded.
    """
    pixels = [apply_view(image, view) for view in drawn_views(image, config, seed, epoch, index, reduction)]
    if config.is_strong:
        own = views.for_channels(config, image.shape[2])
        pixels = [strengthened(each, own, seed, epoch, index, view) for view, each in enumerate(pixels)]
    local_views = np.stack(pixels[config.num_global :]) if config.num_local else None
    return np.stack(pixels[: config.num_global]), local_views


def drawn_views(
    image: UInt8[ndarray, "h w c"],
    config: views.ViewsConfig,
    seed: int,
    epoch: int,
    index: int,
    reduction: Reduction | None = None,
) -> list[ViewParameters]:
    """Return the parameters of the views of `multi_crop`, with boxes in pixels of the image as it was decoded."""
    height, width, channels = image.shape
    whole = reduction or Reduction(height, width, 1)
    config = views.for_channels(config, channels)
    return views.sample_views(config, seed, epoch, index, whole.height, whole.width, whole.divisor)


def apply_view(image: UInt8[ndarray, "h w c"], parameters: ViewParameters) -> UInt8[ndarray, "s s c"]:
    """Turn an image into one view: crop, resize, flip, jitter, grey, blur, solarise, in DINO's order.

    parameters: of an image that is not RGB, drawn by settings that `views.for_channels` gives.
    """
    top, left, height, width = parameters.top, parameters.left, parameters.height, parameters.width
    crop, size = image[top : top + height, left : left + width], parameters.size
    if max(height, width, size) <= _TINY:
        pixels = _resize_tiny(crop, size, WEIGHTS[parameters.interpolation])
    else:
        pixels = _resize(crop, size, parameters.interpolation)
    if image.shape[2] == 1:  # OpenCV drops the axis of a single channel
        pixels = pixels.reshape(size, size)
    if parameters.horizontal_flip:
        pixels = cv2.flip(pixels, 1)
    if parameters.vertical_flip:
        pixels = cv2.flip(pixels, 0)
    for operation, factor in parameters.jitter:
        pixels = JITTER[operation](pixels, factor)
    if parameters.grayscale:  # one plane is enough from here on
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    if parameters.blur_radius:
        pixels = blur(pixels, parameters.blur_radius)
    if parameters.solarize:
        pixels = cv2.min(pixels, cv2.bitwise_not(pixels))  # x below 128, 255 - x from there
    if parameters.grayscale:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    return pixels[..., None] if image.shape[2] == 1 else pixels


def _resize(crop: UInt8[ndarray, "h w c"], size: int, interpolation: Interpolation) -> UInt8[ndarray, "s s c"]:
    """Resize with antialiasing by torch's kernel: Pillow's algorithm with AVX2 if a pixel's channels lie together.

    Axes are moved by numpy, whose views take a tenth of the time of torch's. With other numbers of channels the kernel
    is up to four times slower. So these are resized across, then down, as Pillow does, by a kernel that sees four
    neighbouring bytes of a row as the channels of a pixel: the result is the same.
    """
    if crop.shape[2] != 3:
        height, width, channels = crop.shape
        across = _resize_down(_transpose(crop).reshape(width, -1), size, interpolation)
        down = _transpose(across.reshape(size, height, channels)).reshape(height, -1)
        return _resize_down(down, size, interpolation).reshape(size, size, channels)
    planes = torch.from_numpy(crop.copy().reshape(1, *crop.shape).transpose(0, 3, 1, 2))
    resized = torch.nn.functional.interpolate(planes, (size, size), mode=interpolation, antialias=True)
    return resized.numpy()[0].transpose(1, 2, 0)


def _resize_down(rows: UInt8[ndarray, "h n"], size: int, interpolation: Interpolation) -> UInt8[ndarray, "s n"]:
    height, length = rows.shape
    rows = np.pad(rows, ((0, 0), (0, -length % 4))) if length % 4 else rows
    fours = torch.from_numpy(rows.reshape(1, height, -1, 4).transpose(0, 3, 1, 2))
    resized = torch.nn.functional.interpolate(fours, (size, fours.shape[3]), mode=interpolation, antialias=True)
    return np.ascontiguousarray(resized.numpy()[0].transpose(1, 2, 0).reshape(size, -1)[:, :length])


def _resize_tiny(
    crop: UInt8[ndarray, "h w c"], size: int, weights: Callable[[int, int], ndarray]
) -> UInt8[ndarray, "s s *c"]:
    """Resize by two matrix products, which start faster than torch's kernel does."""
    height, width, channels = crop.shape
    tall = weights(height, size) @ crop.astype(np.float32).reshape(height, width * channels)
    turned = _transpose(tall.reshape(size, width, channels)).reshape(width, size * channels)
    square = weights(width, size) @ turned
    rounded = cv2.addWeighted(square, 1, square, 0, 0, dtype=cv2.CV_8U)
    return _transpose(rounded.reshape(size, size, channels))


def _transpose(pixels: Shaped[ndarray, "h w c"]) -> Shaped[ndarray, "w h *c"]:
    if pixels.itemsize * pixels.shape[2] in _TRANSPOSED:
        return cv2.transpose(pixels)
    return np.ascontiguousarray(pixels.swapaxes(0, 1))


@lru_cache(maxsize=_TINY**2)
def bicubic_weights(source: int, target: int) -> Float32[ndarray, "target source"]:
    """Return the matrix that resizes a row of `source` pixels to `target` as Pillow does.

    Each row is the cubic of Keys (1981) with a = -1/2, widened by the scale when shrinking, cut at the edges of the
    crop and normalised.
    """
    x = _distances(source, target)
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = np.where(x < 1, inner, np.where(x < 2, outer, 0.0))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


@lru_cache(maxsize=_TINY**2)
def bilinear_weights(source: int, target: int) -> Float32[ndarray, "target source"]:
    """Return the same with a triangle in place of the cubic."""
    weights = np.maximum(1 - _distances(source, target), 0.0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _distances(source: int, target: int) -> ndarray:
    """Distance of each source pixel from the centre of each target pixel, in pixels of the coarser of the two."""
    scale = source / target
    centres = (np.arange(target)[:, None] + 0.5) * scale - 0.5
    return np.abs(np.arange(source) - centres) / max(scale, 1.0)


WEIGHTS: dict[Interpolation, Callable[[int, int], ndarray]] = {"bicubic": bicubic_weights, "bilinear": bilinear_weights}


def adjust_brightness(pixels: UInt8[ndarray, "h w *c"], factor: float) -> UInt8[ndarray, "h w *c"]:
    """Blend with black."""
    return cv2.convertScaleAbs(pixels, alpha=factor, beta=TRUNCATE)


def adjust_contrast(pixels: UInt8[ndarray, "h w *c"], factor: float) -> UInt8[ndarray, "h w *c"]:
    """Blend with the mean grey of the view; of an image that is not RGB, the mean over its channels."""
    if pixels.shape[2:] == (3,):
        red, green, blue, _ = cv2.mean(pixels)
        gray = int(LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue + 0.5)
    else:
        gray = int(cv2.mean(pixels.reshape(len(pixels), -1))[0] + 0.5)
    offset = (1 - factor) * gray + TRUNCATE
    return cv2.addWeighted(pixels, factor, pixels, 0, offset)


def adjust_saturation(pixels: UInt8[ndarray, "h w 3"], factor: float) -> UInt8[ndarray, "h w 3"]:
    """Blend with the grey of each pixel."""
    red, green, blue = ((1 - factor) * weight for weight in LUMA)
    rows = (
        (red + factor, green, blue, TRUNCATE),
        (red, green + factor, blue, TRUNCATE),
        (red, green, blue + factor, TRUNCATE),
    )
    return cv2.transform(pixels, np.array(rows, dtype=np.float32))


def adjust_hue(pixels: UInt8[ndarray, "h w 3"], factor: float) -> UInt8[ndarray, "h w 3"]:
    """Turn the colour circle by `factor` turns, in 256 steps as torchvision does on Pillow images."""
    shift = np.zeros((pixels.shape[1], 3), dtype=np.uint8)
    shift[:, 0] = int(factor * 255) % 256
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL)
    hsv += shift  # wraps, as an angle should; whole rows at once, as strided access is slow
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


JITTER: dict[JitterOperation, Callable[[ndarray, float], ndarray]] = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}


def blur(pixels: UInt8[ndarray, "h w *c"], radius: float) -> UInt8[ndarray, "h w *c"]:
    """Blur with standard deviation `radius` > 0 in pixels, edges repeated (Pillow's GaussianBlur).

    Pillow filters and rounds six times, and repeats the edge each time; here it is twice and once.
    """
    kernel = blur_kernel(round(radius, 2))  # finer steps drown in the kernel's own, and would defeat its cache
    return cv2.sepFilter2D(pixels, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)


@lru_cache(maxsize=1024)
def blur_kernel(radius: float) -> ndarray:
    """Return Pillow's Gaussian of standard deviation `radius` > 0, [taps]: three extended boxes in a row.

    An extended box has 2 n + 1 full taps and a fraction of one at each end, so that its variance can be any
    number, here radius**2 / 3 (Gwosdek et al. 2011). The taps are multiples of 1/256 that sum to one: OpenCV
    filters bytes with such integers, and if left to round them would brighten or darken the view.
    """
    variance = radius**2 / 3
    n = int((math.sqrt(12 * variance + 1) - 1) / 2)
    end = (2 * n + 1) * (n * (n + 1) - 3 * variance) / (6 * (variance - (n + 1) ** 2))
    box = np.array([end, *[1.0] * (2 * n + 1), end]) / (2 * (n + end) + 1)
    kernel = np.rint(np.convolve(np.convolve(box, box), box) * 256)
    kernel[len(kernel) // 2] += 256 - kernel.sum()
    return kernel[kernel > 0] / 256  # every tap is worked through, at the ends often zero
