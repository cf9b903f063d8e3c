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
from dinoscope.measurement.record import (
    OF_THE_MODEL,
    Examples,
    Measurement,
    cached_home,
    conditions,
    keep,
    keep_as,
    keep_in,
    kept,
    kept_name,
    kept_names,
    newest_first,
    settled,
    trusted_figures,
    variant_name,
)
from dinoscope.measurement.voc import VocConfig, VocResult, measure_voc

__all__ = [
    "LABEL_SEED",
    "OF_THE_MODEL",
    "Examples",
    "Extract",
    "Measurement",
    "VocConfig",
    "VocResult",
    "Watch",
    "cached_home",
    "conditions",
    "gallery_and_queries",
    "gallery_and_queries_in",
    "keep",
    "keep_as",
    "keep_in",
    "kept",
    "kept_name",
    "kept_names",
    "measure_knn",
    "measure_linear",
    "measure_voc",
    "newest_first",
    "settled",
    "train_and_val",
    "trusted_figures",
    "variant_name",
]
