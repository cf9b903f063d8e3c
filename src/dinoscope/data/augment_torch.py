"""Multi-crop views by torch, on any device and for a batch at a time, from the parameters that `augment` takes too.

The operations are those of `dinoscope.data.augment`, in float32 and rounded to whole grey levels where it rounds. A
view differs from its by a tenth of a grey level on average. Resizing and blurring are matrix products, a matrix for
each view; flips are in those of the resize.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

from dinoscope.data.augment import LUMA, TRUNCATE, blur_kernel, drawn_views
from dinoscope.data.reader import Reduction
from dinoscope.data.views import Interpolation, JitterOperation, ViewParameters, ViewsConfig
from dinoscope.types import Views


@dataclass(frozen=True)
class DecodedBatch:
    """A batch of images and the parameters of their views; `to` makes the views on a device.

    pixels: all images one behind the other, each [height, width, channels]: one tensor is shared, pinned and sent at
        once. channels: as many of all.
    sizes: height and width of each. drawn: the views of each, global ones first, with boxes within its pixels.
    index, labels, unreadable, masks, mixes: as of `Views`.
    """

    pixels: UInt8[Tensor, " n"]
    sizes: tuple[tuple[int, int], ...]
    drawn: tuple[list[ViewParameters], ...]
    num_global: int
    index: Int[Tensor, " b"]
    labels: Int[Tensor, " b"] | None = None
    unreadable: tuple[int, ...] = ()
    masks: Bool[Tensor, "g b p"] | None = None
    channels: int = 3
    mixes: Float[Tensor, "v b 5"] | None = None

    def pin_memory(self) -> DecodedBatch:
        labels = None if self.labels is None else self.labels.pin_memory()
        mixes = None if self.mixes is None else self.mixes.pin_memory()
        return replace(self, pixels=self.pixels.pin_memory(), labels=labels, mixes=mixes)

    def to(self, device: torch.device) -> Views:
        """Send the images to the device and compute their views there."""
        lengths = [self.channels * height * width for height, width in self.sizes]
        flat = self.pixels.to(device, non_blocking=True).split(lengths)
        images = [values.view(*size, self.channels) for values, size in zip(flat, self.sizes, strict=True)]
        count = self.num_global
        local_views = [drawn[count:] for drawn in self.drawn]
        return Views(
            make_views(images, [drawn[:count] for drawn in self.drawn]),
            make_views(images, local_views) if local_views[0] else None,
            self.index,
            None if self.labels is None else self.labels.to(device, non_blocking=True),
            self.unreadable,
            self.masks,
            None if self.mixes is None else self.mixes.to(device, non_blocking=True),
        )


def decoded_crop(
    image: UInt8[ndarray, "h w c"],
    config: ViewsConfig,
    seed: int,
    epoch: int,
    index: int,
    reduction: Reduction | None = None,
) -> tuple[UInt8[ndarray, "i j c"], list[ViewParameters]]:
    """Return the part of an image that its views cover, and their parameters with boxes within it.

    The views are those of `augment.multi_crop` for the same arguments.
    """
    drawn = drawn_views(image, config, seed, epoch, index, reduction)
    top, left = min(view.top for view in drawn), min(view.left for view in drawn)
    bottom, right = (max(view.top + view.height for view in drawn), max(view.left + view.width for view in drawn))
    moved = [replace(view, top=view.top - top, left=view.left - left) for view in drawn]
    return np.ascontiguousarray(image[top:bottom, left:right]), moved


@torch.no_grad()
def make_views(
    images: Sequence[UInt8[Tensor, "_ _ c"]], drawn: Sequence[Sequence[ViewParameters]]
) -> UInt8[Tensor, "v b c s s"]:
    """Return the views of a batch. drawn: those of each image, as many and all of one size."""
    resized = [resize(image, views) for image, views in zip(images, drawn, strict=True)]
    pixels = torch.stack(resized, dim=1)
    views = [view for place in zip(*drawn, strict=True) for view in place]  # in the order of [v, b]
    return change_colours(pixels.flatten(0, 1), views).to(torch.uint8).view(pixels.shape)


def resize(image: UInt8[Tensor, "h w c"], views: Sequence[ViewParameters]) -> Float[Tensor, "v c s s"]:
    """Crop, resize with antialiasing and flip. views: of one size and interpolation."""
    size, interpolation, device = views[0].size, views[0].interpolation, image.device
    height, width, _ = image.shape
    boxes = torch.tensor([(v.top, v.height, v.left, v.width) for v in views], dtype=torch.float32).to(device)
    flips = torch.tensor([(v.vertical_flip, v.horizontal_flip) for v in views]).to(device)
    rows = resize_matrices(boxes[:, 0], boxes[:, 1], flips[:, 0], height, size, interpolation)
    columns = resize_matrices(boxes[:, 2], boxes[:, 3], flips[:, 1], width, size, interpolation)
    # h, w: the image; s, t: the view; v: views; c: channels. Across first and rounded in between, as Pillow does.
    across = rounded(torch.einsum("hwc,vtw->vcht", image.float(), columns))
    return rounded(torch.einsum("vsh,vcht->vcst", rows, across))


def resize_matrices(
    start: Float[Tensor, " v"],
    length: Float[Tensor, " v"],
    flip: Bool[Tensor, " v"],
    source: int,
    target: int,
    interpolation: Interpolation,
) -> Float[Tensor, "v t s"]:
    """Return matrices that resize a part of `source` pixels to `target`, as `augment.bicubic_weights` does.

    start, length: of the part; pixels outside of it have no weight. flip: reverse the result.
    """
    start, length = start[:, None, None], length[:, None, None]
    place = torch.arange(source, device=start.device) - start  # pixels from the beginning of the part
    scale = length / target
    centres = (torch.arange(target, device=start.device)[:, None] + 0.5) * scale - 0.5
    x = (place - centres).abs() / scale.clamp(min=1)
    weights = KERNELS[interpolation](x) * ((place >= 0) & (place < length))
    weights = weights / weights.sum(dim=-1, keepdim=True)
    return torch.where(flip[:, None, None], weights.flip(1), weights)


def _bicubic(x: Tensor) -> Tensor:
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, inner, torch.where(x < 2, outer, 0))


KERNELS: dict[Interpolation, Callable[[Tensor], Tensor]] = {
    "bicubic": _bicubic,
    "bilinear": lambda x: (1 - x).clamp(min=0),
}


def rounded(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Round to whole grey levels from 0 to 255."""
    return values.round().clamp(0, 255)


def change_colours(pixels: Float[Tensor, "n c s s"], views: Sequence[ViewParameters]) -> Float[Tensor, "n c s s"]:
    """Jitter, grey, blur and solarise, each for all views at once that have it."""

    def change(operation: Callable[[Tensor, Tensor], Tensor], values: dict[int, float]) -> None:
        """values: place of a view -> what the operation takes for it; on the CPU, as kernels are made of it."""
        if values:
            chosen = torch.tensor(list(values)).to(pixels.device)
            pixels[chosen] = operation(pixels[chosen], torch.tensor(list(values.values())))

    for step in range(max(len(view.jitter) for view in views)):
        drawn = {place: view.jitter[step] for place, view in enumerate(views) if step < len(view.jitter)}
        for name, adjust in JITTER.items():
            change(adjust, {place: factor for place, (drawn_name, factor) in drawn.items() if drawn_name == name})
    change(lambda x, _: rounded(_grey(x)).expand_as(x), {n: 1.0 for n, view in enumerate(views) if view.grayscale})
    change(blur, {n: view.blur_radius for n, view in enumerate(views) if view.blur_radius})
    change(lambda x, _: torch.minimum(x, 255 - x), {n: 1.0 for n, view in enumerate(views) if view.solarize})
    return pixels


def _grey(pixels: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n 1 s s"]:
    red, green, blue = pixels.split(1, dim=1)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def _blend(pixels: Tensor, other: Tensor | float, factors: Float[Tensor, " n"]) -> Tensor:
    factors = factors.to(pixels.device)[:, None, None, None]
    return rounded(factors * pixels + (1 - factors) * other + TRUNCATE)


def adjust_brightness(pixels: Float[Tensor, "n c s s"], factors: Float[Tensor, " n"]) -> Float[Tensor, "n c s s"]:
    """Blend with black."""
    return _blend(pixels, 0.0, factors)


def adjust_contrast(pixels: Float[Tensor, "n c s s"], factors: Float[Tensor, " n"]) -> Float[Tensor, "n c s s"]:
    """Blend with the mean grey of the view; of an image that is not RGB, the mean over its channels."""
    means = pixels.mean(dim=(2, 3), keepdim=True)
    grey = _grey(means) if pixels.shape[1] == 3 else means.mean(dim=1, keepdim=True)
    return _blend(pixels, grey.add(0.5).floor(), factors)


def adjust_saturation(pixels: Float[Tensor, "n 3 s s"], factors: Float[Tensor, " n"]) -> Float[Tensor, "n 3 s s"]:
    """Blend with the grey of each pixel."""
    return _blend(pixels, _grey(pixels), factors)


def adjust_hue(pixels: Float[Tensor, "n 3 s s"], factors: Float[Tensor, " n"]) -> Float[Tensor, "n 3 s s"]:
    """Turn the colour circle, by way of hue, saturation and value of 8 bits each, as OpenCV does."""
    red, green, blue = pixels.unbind(1)
    value, chroma = pixels.amax(1), pixels.amax(1) - pixels.amin(1)
    saturation = (255 * chroma / value.clamp(min=1)).round() / 255
    sixth = torch.where(
        value == red,
        green - blue,
        torch.where(value == green, blue - red + 2 * chroma, red - green + 4 * chroma),
    )
    hue = (256 / 6 * sixth / chroma.clamp(min=1)).round()
    shift = (factors * 255).trunc().to(pixels.device)[:, None, None]
    sextant = (hue + shift).remainder(256) * (6 / 255)  # 255 here and 256 above, as OpenCV has it
    channels = [(sextant + offset).remainder(6) for offset in (5, 3, 1)]
    lost = torch.stack([torch.minimum(k, 4 - k).clamp(0, 1) for k in channels], dim=1)
    return rounded(value[:, None] * (1 - saturation[:, None] * lost))


JITTER: dict[JitterOperation, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}


def blur(pixels: Float[Tensor, "n c s s"], radii: Float[Tensor, " n"]) -> Float[Tensor, "n c s s"]:
    """Blur with the kernels of `augment.blur_kernel`, edges repeated."""
    kernels = [blur_kernel(round(radius, 2)) for radius in radii.tolist()]
    reach, size = max(len(kernel) for kernel in kernels) // 2, pixels.shape[-1]
    taps = np.stack([np.pad(kernel, reach - len(kernel) // 2) for kernel in kernels])
    weights = torch.from_numpy(taps.astype(np.float32)).to(pixels.device)
    offsets = torch.arange(-reach, reach + 1, device=pixels.device)
    sources = (torch.arange(size, device=pixels.device)[:, None] + offsets).clamp(0, size - 1)
    matrices = pixels.new_zeros(len(kernels), 1, size, size)
    shape = (len(kernels), 1, *sources.shape)
    matrices.scatter_add_(3, sources.expand(shape), weights[:, None, None].expand(shape))
    return rounded(matrices @ pixels @ matrices.mT)
