"""Measurements of a model on labelled images.

Every figure travels with its protocol, so that nothing is compared that was measured in different ways.
"""

from dinoscope.measurement.inputs import (
    LABEL_SEED,
    Extract,
    Watch,
    gallery_and_queries,
    gallery_and_queries_in,
    train_and_val,
)
from dinoscope.measurement.knn import measure_knn
from dinoscope.measurement.linear import measure_linear
from dinoscope.measurement.voc import VocConfig, VocResult, measure_voc

__all__ = [
    "LABEL_SEED",
    "Extract",
    "VocConfig",
    "VocResult",
    "Watch",
    "gallery_and_queries",
    "gallery_and_queries_in",
    "measure_knn",
    "measure_linear",
    "measure_voc",
    "train_and_val",
]
