"""Multi-crop views: the settings, and the parameters of one view as a pure function of (seed, epoch, index, view).

`dinoscope.data.augment` applies them. So a run does not depend on the number of workers or on where it was interrupted.
Needs numpy only: the command line reads it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.random.bit_generator import ISeedSequence

Interpolation = Literal["bicubic", "bilinear"]
JitterOperation = Literal["brightness", "contrast", "saturation", "hue"]

_CROP_ATTEMPTS = 10  # as torchvision's RandomResizedCrop
_DRAWS_PER_ATTEMPT = 4  # area, aspect ratio, top, left
_CROP_DRAWS = _CROP_ATTEMPTS * _DRAWS_PER_ATTEMPT
_JITTER_DRAWS = 9  # whether, four ranks, four factors
_SWITCH_DRAWS = 6  # horizontal flip, vertical flip, grey, blur, blur radius, solarise
_DRAWS = _CROP_DRAWS + _JITTER_DRAWS + _SWITCH_DRAWS


@dataclass(frozen=True)
class ViewsConfig:
    """DINO's multi-crop augmentation (Caron et al. 2021, section 3.1 and appendix; colours as in BYOL).

    The defaults are DINO's for photographs. Fields that hold three probabilities give them for (the first
    global view, the other global views, the local views).

    num_global, num_local: views per image.
    global_size, local_size: side of the square views, in pixels.
    global_scale, local_scale: smallest and largest share of the image's area that a crop covers.
    aspect_ratio: smallest and largest width / height of a crop, before it is resized to a square.
    horizontal_flip, vertical_flip: probabilities; vertical flips suit images without an up (cells, maps).
    jitter_probability: of changing the colours, in random order, by the next four.
    brightness, contrast, saturation: a factor is drawn from [max(0, 1 - x), 1 + x]; 0 changes nothing.
    hue: a shift is drawn from [-hue, hue], in turns of the colour circle; at most 0.5.
    grayscale: probability of dropping all colour.
    blur_probability: three probabilities of a Gaussian blur.
    blur_radius: smallest and largest standard deviation of the blur, in pixels of the view.
    solarize_probability: three probabilities of inverting the values from 128 up.
    randaugment: magnitude of RandAugment (Cubuk et al. 2020), from 1 to 10; 0 for none. For training with labels: DeiT
        takes 9. RGB only.
    erasing: probability of putting noise in a box of 2 to 33 % of the view (Zhong et al. 2020); DeiT takes 0.25.
    interpolation: of resizing a crop: bicubic (DINO, BYOL, SimCLR) or bilinear (MoCo, SwAV); both with antialiasing.
    device: where the pixels of views are computed in a training: cpu, by the loader processes, or cuda, of decoded
        images that these send. Parameters are the same, pixels differ by a tenth of a grey level on average.

    Raises ValueError for a value out of range.
    """

    num_global: int = 2
    num_local: int = 8
    global_size: int = 224
    local_size: int = 96
    global_scale: tuple[float, float] = (0.4, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.4)
    aspect_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    horizontal_flip: float = 0.5
    vertical_flip: float = 0.0
    jitter_probability: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grayscale: float = 0.2
    blur_probability: tuple[float, float, float] = (1.0, 0.1, 0.5)
    blur_radius: tuple[float, float] = (0.1, 2.0)
    solarize_probability: tuple[float, float, float] = (0.0, 0.2, 0.0)
    randaugment: int = 0
    erasing: float = 0.0
    interpolation: Interpolation = "bicubic"
    device: Literal["cpu", "cuda"] = "cpu"

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        limits = {"num_global": (1, math.inf), "num_local": (0, math.inf), "hue": (0, 0.5)}
        limits |= dict.fromkeys(("global_size", "local_size"), (1, math.inf))
        limits |= dict.fromkeys(("horizontal_flip", "vertical_flip", "jitter_probability", "grayscale"), (0, 1))
        limits |= {"randaugment": (0, 10), "erasing": (0, 1)}
        limits |= dict.fromkeys(("brightness", "contrast", "saturation"), (0, math.inf))
        for name, (lowest, highest) in limits.items():
            value = getattr(self, name)
            allowed = f"at least {lowest}" if highest == math.inf else f"from {lowest} to {highest}"
            _check(name, value, lowest <= value <= highest and value < math.inf, allowed)
        for name in ("blur_probability", "solarize_probability"):
            value = getattr(self, name)
            allowed = "three probabilities from 0 to 1, for the first global view, the other global views and the local"
            _check(name, value, all(0 <= probability <= 1 for probability in value), f"{allowed} views")
        for name, highest in {
            "global_scale": 1,
            "local_scale": 1,
            "aspect_ratio": math.inf,
            "blur_radius": math.inf,
        }.items():
            low, high = value = getattr(self, name)
            limit = "" if highest == math.inf else f" <= {highest}"
            is_range = 0 < low <= high <= highest and high < math.inf
            _check(name, value, is_range, f"(low, high) with 0 < low <= high{limit}")
        names = get_args(Interpolation)
        _check("interpolation", repr(self.interpolation), self.interpolation in names, ", ".join(names))
        _check("device", repr(self.device), self.device in ("cpu", "cuda"), "cpu, cuda")
        allowed = "cpu, which RandAugment and random erasing are made on"
        _check("device", repr(self.device), self.device == "cpu" or not self.is_strong, allowed)

    @property
    def is_strong(self) -> bool:
        """Whether there is RandAugment or random erasing."""
        return self.randaugment > 0 or self.erasing > 0

    @property
    def num_views(self) -> int:
        """Views per image, global and local."""
        return self.num_global + self.num_local


def _check(name: str, value: object, is_allowed: bool, allowed: str) -> None:
    if not is_allowed:
        raise ValueError(f"{name} is {value}; allowed: {allowed}")


@dataclass(frozen=True, slots=True)
class ViewParameters:
    """Everything that turns an image into one view, in the order in which it is applied.

    top, left, height, width: the crop box, in pixels of the image.
    size: side of the square view, in pixels.
    jitter: colour operations with their factors, in order; empty for none. Hue's factor is in turns.
    blur_radius: standard deviation of the Gaussian blur in pixels of the view; 0 for none.
    """

    top: int
    left: int
    height: int
    width: int
    size: int
    horizontal_flip: bool = False
    vertical_flip: bool = False
    jitter: tuple[tuple[JitterOperation, float], ...] = ()
    grayscale: bool = False
    blur_radius: float = 0.0
    solarize: bool = False
    interpolation: Interpolation = "bicubic"


class _Key(ISeedSequence):
    """Hands Philox its key as it is.

    `Philox(key=...)` gives the same stream, but first reads entropy from the system, which it discards: 20 us instead
    of 3 us for every view.
    """

    def __init__(self, key: np.ndarray) -> None:
        self.key = key

    def generate_state(self, n_words: int, dtype: type = np.uint32) -> np.ndarray:
        """Return the key: Philox requests exactly its two 64-bit words."""
        return self.key


@lru_cache(maxsize=64)
def for_channels(config: ViewsConfig, channels: int) -> ViewsConfig:
    """Return the settings without what is not defined for images of so many channels; for RGB everything is.

    All else is drawn as with the whole settings, since every decision has a place of its own among the draws. Grey
    images can be solarised as RGB ones are; of other channels, nothing says that 128 is the middle.
    """
    if channels == 3:
        return config
    solarize = config.solarize_probability if channels == 1 else (0.0, 0.0, 0.0)
    return replace(config, saturation=0.0, hue=0.0, grayscale=0.0, solarize_probability=solarize, randaugment=0)


def left_out(config: ViewsConfig, channels: int) -> list[str]:
    """Return the names of the augmentations that `for_channels` takes out of the settings."""
    own, jitters = for_channels(config, channels), config.jitter_probability > 0
    names = {
        "saturation": jitters and own.saturation != config.saturation,
        "hue": jitters and own.hue != config.hue,
        "grayscale": own.grayscale != config.grayscale,
        "solarize": own.solarize_probability != config.solarize_probability,
        "randaugment": own.randaugment != config.randaugment,
    }
    return [name for name, is_missing in names.items() if is_missing]


def view_generator(seed: int, epoch: int, index: int, view: int, stream: int = 0) -> np.random.Generator:
    """Return a random stream of one view: a pure function of its arguments, each from 0 to 2**64 - 1.

    Philox encrypts a counter (Salmon et al. 2011): with (seed, epoch) as the key, and view, index and stream as words
    of the counter, no two streams meet. Stream 0 is for the view itself. Raises OverflowError for a number out of
    range.
    """
    key = _Key(np.array((seed, epoch), dtype=np.uint64))
    counter = np.array((0, view, index, stream), dtype=np.uint64)
    # numpy documents ISeedSequence as a seed; its type stubs know only SeedSequence.
    return np.random.Generator(np.random.Philox(key, counter=counter))  # pyright: ignore[reportArgumentType]


def sample_view(config: ViewsConfig, view: int, height: int, width: int, rng: np.random.Generator) -> ViewParameters:
    """Draw the parameters of view number `view` (global views first) of an image of height x width pixels.

    The distributions are those of torchvision's RandomResizedCrop, RandomHorizontalFlip, ColorJitter and
    RandomGrayscale, and of DINO's blur and solarisation. Every decision has its own place among a fixed number of
    draws, so changing one setting leaves the others' outcomes as they were. Raises ValueError for a view that the
    settings do not have, or an empty image.
    """
    if not 0 <= view < config.num_views:
        raise ValueError(f"view is {view}; allowed: 0 to {config.num_views - 1}")
    if height < 1 or width < 1:
        raise ValueError(f"the image is {height} x {width} pixels; allowed: at least 1 x 1")
    is_global = view < config.num_global
    kind = min(view, 1) if is_global else 2  # which of the settings' three probabilities
    draws = rng.random(_DRAWS).tolist()
    scale = config.global_scale if is_global else config.local_scale
    top, left, crop_height, crop_width = _sample_crop(height, width, scale, config.aspect_ratio, draws)
    horizontal, vertical, gray, blur, radius, solarize = draws[_CROP_DRAWS + _JITTER_DRAWS :]
    return ViewParameters(
        top=top,
        left=left,
        height=crop_height,
        width=crop_width,
        size=config.global_size if is_global else config.local_size,
        horizontal_flip=horizontal < config.horizontal_flip,
        vertical_flip=vertical < config.vertical_flip,
        jitter=_sample_jitter(config, draws[_CROP_DRAWS : _CROP_DRAWS + _JITTER_DRAWS]),
        grayscale=gray < config.grayscale,
        blur_radius=_between(config.blur_radius, radius) if blur < config.blur_probability[kind] else 0.0,
        solarize=solarize < config.solarize_probability[kind],
        interpolation=config.interpolation,
    )


def sample_views(
    config: ViewsConfig, seed: int, epoch: int, index: int, height: int, width: int, divisor: int = 1
) -> list[ViewParameters]:
    """Draw the parameters of all views of an image of height x width pixels, global views first.

    A pure function of its arguments; `index` is the image's position in its data set.
    divisor: both sides were divided by it when the image was decoded. The boxes are in its pixels then: each end is
    rounded to whole ones, which moves it by half of one at most.
    """
    numbers = range(config.num_views)
    drawn = [sample_view(config, view, height, width, view_generator(seed, epoch, index, view)) for view in numbers]
    return drawn if divisor == 1 else [_reduced(view, height // divisor, width // divisor, divisor) for view in drawn]


def _reduced(view: ViewParameters, height: int, width: int, divisor: int) -> ViewParameters:
    """Round the box to pixels of the reduced image, of which height x width lie within the whole one."""
    top, left = round(view.top / divisor), round(view.left / divisor)
    bottom = min(round((view.top + view.height) / divisor), height)
    right = min(round((view.left + view.width) / divisor), width)
    return replace(view, top=top, left=left, height=bottom - top, width=right - left)


def largest_divisor(config: ViewsConfig, seed: int, epoch: int, index: int, height: int, width: int) -> int:
    """Return the largest of 1, 2, 4 and 8 by which each of the image's views shrinks both sides of its crop, or more.

    Decoded at 1/n of its size for such an n, no view enlarges it, but for the rounding of its box.
    """
    if min(height, width) < 2 * max(config.global_size, config.local_size if config.num_local else 0):
        return 1
    drawn = sample_views(config, seed, epoch, index, height, width)
    shrinking = min(min(view.height, view.width) / view.size for view in drawn)
    return next((divisor for divisor in (8, 4, 2) if divisor <= shrinking), 1)


def _between(limits: tuple[float, float], draw: float) -> float:
    return limits[0] + (limits[1] - limits[0]) * draw


def _sample_crop(
    height: int, width: int, scale: tuple[float, float], aspect_ratio: tuple[float, float], draws: Sequence[float]
) -> tuple[int, int, int, int]:
    """Draw a box (top, left, height, width) inside the image (torchvision's RandomResizedCrop).

    The area is uniform, the aspect ratio log-uniform. A box that does not fit is drawn again, ten times in all; then
    it is the largest centred box of an allowed aspect ratio, at least 1 x 1.
    """
    log_ratio = (math.log(aspect_ratio[0]), math.log(aspect_ratio[1]))
    for start in range(0, _CROP_DRAWS, _DRAWS_PER_ATTEMPT):
        area = height * width * _between(scale, draws[start])
        ratio = math.exp(_between(log_ratio, draws[start + 1]))
        crop_height = round(math.sqrt(area / ratio))
        crop_width = round(math.sqrt(area * ratio))
        if 0 < crop_height <= height and 0 < crop_width <= width:
            top = int(draws[start + 2] * (height - crop_height + 1))
            left = int(draws[start + 3] * (width - crop_width + 1))
            return top, left, crop_height, crop_width
    crop_height = max(1, min(height, round(width / aspect_ratio[0])))
    crop_width = max(1, min(width, round(height * aspect_ratio[1])))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def _sample_jitter(config: ViewsConfig, draws: Sequence[float]) -> tuple[tuple[JitterOperation, float], ...]:
    """Draw the colour operations in random order (torchvision's ColorJitter).

    draws: [9]: whether at all, four ranks, four factors.
    """
    if draws[0] >= config.jitter_probability:
        return ()

    def around_1(strength: float) -> tuple[float, float]:
        return max(0.0, 1 - strength), 1 + strength

    operations: tuple[tuple[JitterOperation, tuple[float, float]], ...] = (
        ("brightness", around_1(config.brightness)),
        ("contrast", around_1(config.contrast)),
        ("saturation", around_1(config.saturation)),
        ("hue", (-config.hue, config.hue)),
    )
    ranked = sorted(zip(draws[1:5], draws[5:9], operations, strict=True))
    return tuple((name, _between(limits, factor)) for _, factor, (name, limits) in ranked if limits[0] < limits[1])


# What each method was published with, and settings for small images.
_NO_BLUR = (0.0, 0.0, 0.0)
# BYOL for ImageNet (Grill et al. 2020, Table 6): two unlike views, blur 1 and 0.1, solarise 0 and 0.2.
_BYOL = ViewsConfig(num_local=0, global_scale=(0.08, 1.0))
_NO_SOLARIZE = replace(_BYOL, solarize_probability=_NO_BLUR)
# SimCLR for ImageNet (Chen et al. 2020, appendix A): two views with strong colours, blur on half of them.
_STRONG = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}
_SIMCLR = replace(_NO_SOLARIZE, **_STRONG, blur_probability=(0.5, 0.5, 0.5))
# EMP-SSL (Tong et al. 2023, and its code): many patches of a quarter of the image, all drawn alike.
_PATCHES = ViewsConfig(
    num_global=20,
    num_local=0,
    global_scale=(0.25, 0.25),
    saturation=0.4,
    hue=0.2,
    blur_probability=(0.1, 0.1, 0.1),
    solarize_probability=(0.1, 0.1, 0.1),
)

# Grey images whose values mean something: nothing is inverted; brightness and contrast change as between windows.
_GREY = ViewsConfig(
    num_local=6,
    brightness=0.2,
    contrast=0.3,
    saturation=0.0,
    hue=0.0,
    grayscale=0.0,
    blur_probability=(0.5, 0.1, 0.25),
    blur_radius=(0.1, 1.0),
    solarize_probability=(0.0, 0.0, 0.0),
)

VIEWS: dict[str, ViewsConfig] = {
    "imagenet": ViewsConfig(),
    # 32 px images (CIFAR). No blur: DINO's radii scaled from 224 to 32 px end at 0.29 px, which changes little, and
    # SimCLR leaves blur out on CIFAR-10 (Chen et al. 2020, appendix B.9). Local crops cover at least 0.12 of the area,
    # 11 px of side: below that a 16 px view is mostly interpolated. Four of them: a 32 px image has few distinct parts.
    "small_32": ViewsConfig(
        num_local=4, global_size=32, local_size=16, local_scale=(0.12, 0.4), blur_probability=_NO_BLUR
    ),
    # The largest blur keeps DINO's share of the view, 2 x 64 / 224 = 0.6 px. Local crops cover at least 0.1 of the
    # area, 20 px of side, so that a 32 px view is not mostly interpolated.
    "small_64": ViewsConfig(num_local=4, global_size=64, local_size=32, local_scale=(0.1, 0.4), blur_radius=(0.1, 0.6)),
    # DINO without multi-crop, as its authors set it (github.com/facebookresearch/dino, issue 122).
    "two_views": ViewsConfig(num_local=0, global_scale=(0.14, 1.0)),
    # 32 px photographs, cheap enough for a CPU; no blur, as in small_32.
    "two_views_32": ViewsConfig(num_local=0, global_size=32, global_scale=(0.2, 1.0), blur_probability=_NO_BLUR),
    # The drawn scenes. Hue turns freely: colour tells no class, there as in photographs.
    "scenes": ViewsConfig(
        num_local=0,
        global_size=32,
        global_scale=(0.3, 1.0),
        saturation=0.4,
        hue=0.5,
        blur_probability=(0.5, 0.1, 0.0),
        blur_radius=(0.1, 1.0),
        solarize_probability=(0.0, 0.1, 0.0),
    ),
    # Radiographs: large crops, because a finding may be small; no flip, because the heart lies on one side.
    "xray": replace(_GREY, global_scale=(0.5, 1.0), local_scale=(0.1, 0.4), horizontal_flip=0.0),
    # CT slices: no flip either (liver, spleen); smaller crops, because organs are larger than findings.
    "ct": replace(_GREY, global_scale=(0.4, 1.0), local_scale=(0.08, 0.4), horizontal_flip=0.0),
    # Cells and tissue have no up, so both flips. Their size matters, so local crops cover at least 0.1 of the area.
    "microscopy": replace(_GREY, global_scale=(0.4, 1.0), local_scale=(0.1, 0.4), vertical_flip=0.5),
    # The drawn mammograms, on a CPU: regions without an up, and a quarter of the pixels.
    "mammograms": replace(_GREY, num_local=0, global_size=32, global_scale=(0.3, 1.0), vertical_flip=0.5),
    "simclr": _SIMCLR,
    # MoCo v2 for ImageNet (Chen et al. 2020), resized bilinearly as in its code.
    "moco": replace(
        _SIMCLR,
        interpolation="bilinear",
        global_scale=(0.2, 1.0),
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        hue=0.1,
    ),
    "byol": _BYOL,
    # SwAV's 2 x 224 + 6 x 96 crops for ImageNet (Caron et al. 2020, appendix A), resized bilinearly as in its code.
    "swav": replace(_SIMCLR, interpolation="bilinear", num_local=6, global_scale=(0.14, 1.0), local_scale=(0.05, 0.14)),
    "patches": _PATCHES,
    # Its code's for CIFAR: squares of 16 px, enlarged to 32 px.
    "patches_32": replace(_PATCHES, global_size=32, aspect_ratio=(1.0, 1.0), interpolation="bilinear"),
    # One view: training with labels, and linear probes.
    "supervised": replace(_NO_SOLARIZE, num_global=1, jitter_probability=0.0, grayscale=0.0, blur_probability=_NO_BLUR),
}
