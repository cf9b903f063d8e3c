"""Published figures on ImageNet, VOC and DAVIS, to set beside one's own: never measured here, always labelled so."""

from __future__ import annotations

from dataclasses import dataclass

LABEL = "published, ImageNet"

SOURCE = (
    "Published, ImageNet: Caron et al. 2021, Emerging Properties in Self-Supervised Vision Transformers, Table 2; "
    "top-1 in % on the validation images; throughput there on an NVIDIA V100 GPU with 128 images per forward. "
    "On ViT-S, BYOL, MoCo v2 and SwAV were run by its authors. "
    "Linear: DINO's protocol (here `linear --protocol reference`) where no note says otherwise. "
    "Not measured here, and not comparable with figures on other data"
)

_OWN_PROTOCOL = "the linear figure is its own paper's, by a protocol that is neither DINO's nor `dinoscope linear`'s"
_OWN_CLASSIFIER = "accuracy of the network's own classifier; there was no linear probe"


@dataclass(frozen=True)
class Published:
    """One row. method: a key of `compare.METHOD_NAMES`; parameters in millions; linear and knn: top-1 in %.

    note: what must be known of its linear figure.
    """

    method: str
    architecture: str
    parameters: float
    images_per_second: float
    linear: float
    knn: float
    note: str = ""


PUBLISHED = (
    Published("supervised", "RN50", 23, 1237, 79.3, 79.3, _OWN_CLASSIFIER),
    Published("simclr", "RN50", 23, 1237, 69.1, 60.7, _OWN_PROTOCOL),
    Published("moco", "RN50", 23, 1237, 71.1, 61.9, _OWN_PROTOCOL),
    Published("byol", "RN50", 23, 1237, 74.4, 64.8, _OWN_PROTOCOL),
    Published("swav", "RN50", 23, 1237, 75.3, 65.7, _OWN_PROTOCOL),
    Published("dino", "RN50", 23, 1237, 75.3, 67.5),
    Published("supervised", "ViT-S/16", 21, 1007, 79.8, 79.8, _OWN_CLASSIFIER),
    Published("moco", "ViT-S/16", 21, 1007, 72.7, 64.4),
    Published("byol", "ViT-S/16", 21, 1007, 71.4, 66.6),
    Published("swav", "ViT-S/16", 21, 1007, 73.5, 66.3),
    Published("dino", "ViT-S/16", 21, 1007, 77.0, 74.5),
)
