"""Named views: what each method was published with, and settings for small images."""

from __future__ import annotations

from dinoscope.data.views import ViewsConfig


def small_32() -> ViewsConfig:
    """Views of 32 px images (CIFAR): 2 x 32 and 4 x 16 px.

    No blur: DINO's radii scaled from 224 to 32 px end at 0.29 px, which changes little, and SimCLR leaves
    blur out on CIFAR-10 (Chen et al. 2020, appendix B.9). Local crops cover at least 0.12 of the area, 11 px
    of side: below that a 16 px view is mostly interpolated. Four of them: a 32 px image holds few distinct
    parts.
    """
    return ViewsConfig(
        num_local=4, global_size=32, local_size=16, local_scale=(0.12, 0.4), blur_probability=(0.0, 0.0, 0.0)
    )


def small_64() -> ViewsConfig:
    """Views of 64 px images: 2 x 64 and 4 x 32 px.

    The largest blur keeps DINO's share of the view, 2 x 64 / 224 = 0.6 px. Local crops cover at least 0.1 of
    the area, 20 px of side, so that a 32 px view is not mostly interpolated.
    """
    return ViewsConfig(num_local=4, global_size=64, local_size=32, local_scale=(0.1, 0.4), blur_radius=(0.1, 0.6))


def two_views() -> ViewsConfig:
    """DINO without multi-crop: two global views that cover 0.14 to 1 of the image.

    The authors' setting for that case (github.com/facebookresearch/dino, issue 122).
    """
    return ViewsConfig(num_local=0, global_scale=(0.14, 1.0))


def two_views_32() -> ViewsConfig:
    """Two views of 32 px photographs (CIFAR), cheap enough for a CPU; no blur, as in `small_32`."""
    return ViewsConfig(num_local=0, global_size=32, global_scale=(0.2, 1.0), blur_probability=(0.0, 0.0, 0.0))


def scenes() -> ViewsConfig:
    """Two views of the drawn scenes at 32 px. Hue turns freely: colour tells no class, there as in photographs."""
    return ViewsConfig(
        num_local=0,
        global_size=32,
        global_scale=(0.3, 1.0),
        saturation=0.4,
        hue=0.5,
        blur_probability=(0.5, 0.1, 0.0),
        blur_radius=(0.1, 1.0),
        solarize_probability=(0.0, 0.1, 0.0),
    )


def simclr() -> ViewsConfig:
    """SimCLR's two views for ImageNet (Chen et al. 2020, appendix A): strong colours, blur on half of them."""
    return ViewsConfig(
        num_local=0,
        global_scale=(0.08, 1.0),
        brightness=0.8,
        contrast=0.8,
        saturation=0.8,
        hue=0.2,
        blur_probability=(0.5, 0.5, 0.5),
        solarize_probability=(0.0, 0.0, 0.0),
    )


def moco() -> ViewsConfig:
    """MoCo v2's two views for ImageNet (Chen et al. 2020), resized bilinearly as in its code."""
    return ViewsConfig(
        interpolation="bilinear",
        num_local=0,
        global_scale=(0.2, 1.0),
        saturation=0.4,
        blur_probability=(0.5, 0.5, 0.5),
        solarize_probability=(0.0, 0.0, 0.0),
    )


def byol() -> ViewsConfig:
    """BYOL's two unlike views for ImageNet (Grill et al. 2020, Table 6): blur 1 and 0.1, solarise 0 and 0.2."""
    return ViewsConfig(num_local=0, global_scale=(0.08, 1.0))


def swav() -> ViewsConfig:
    """SwAV's 2 x 224 + 6 x 96 crops for ImageNet (Caron et al. 2020, appendix A), colours as in SimCLR.

    Resized bilinearly, as in its code.
    """
    return ViewsConfig(
        interpolation="bilinear",
        num_local=6,
        global_scale=(0.14, 1.0),
        local_scale=(0.05, 0.14),
        brightness=0.8,
        contrast=0.8,
        saturation=0.8,
        hue=0.2,
        blur_probability=(0.5, 0.5, 0.5),
        solarize_probability=(0.0, 0.0, 0.0),
    )


def supervised() -> ViewsConfig:
    """One view, crop and flip only: training with labels, and linear probes."""
    return ViewsConfig(
        num_global=1,
        num_local=0,
        global_scale=(0.08, 1.0),
        jitter_probability=0.0,
        grayscale=0.0,
        blur_probability=(0.0, 0.0, 0.0),
        solarize_probability=(0.0, 0.0, 0.0),
    )


VIEWS: dict[str, ViewsConfig] = {
    "imagenet": ViewsConfig(),
    "small_32": small_32(),
    "small_64": small_64(),
    "two_views": two_views(),
    "two_views_32": two_views_32(),
    "scenes": scenes(),
    "simclr": simclr(),
    "moco": moco(),
    "byol": byol(),
    "swav": swav(),
    "supervised": supervised(),
}
