"""Checkpoint + images -> FeatureBank, in the evaluation protocol of DINO, with an on-disk cache."""

from dinoscope.features.cache import cached_extract
from dinoscope.features.extraction import ExtractConfig, describing, evaluation_view, extract, raw_pixels
from dinoscope.features.images import ImageView, default_crop_fraction, evaluation_image

__all__ = [
    "ExtractConfig",
    "ImageView",
    "cached_extract",
    "default_crop_fraction",
    "describing",
    "evaluation_image",
    "evaluation_view",
    "extract",
    "raw_pixels",
]
