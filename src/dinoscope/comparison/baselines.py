"""What training is compared with: the same networks with random weights, and no network at all."""

from __future__ import annotations

from collections.abc import Sequence

from dinoscope.config import to_dict
from dinoscope.data.sources import label_fraction
from dinoscope.evaluation.base import LABEL_SEED
from dinoscope.evaluation.knn import KNNConfig, knn, leave_one_out
from dinoscope.features import raw_pixels
from dinoscope.model_names import SEED, Model, random_backbone
from dinoscope.models.backbone import is_network, without_drop_path
from dinoscope.quickstart import PIXELS_SIZE
from dinoscope.study.compare import Entry, K
from dinoscope.study.gather import Gatherer
from dinoscope.types import Result


def random_entries(gatherer: Gatherer, subjects: Sequence[Model]) -> list[Entry]:
    """Each network of the models with random weights: of runs once for each of their seeds.

    A network that is among the models with random weights already gets no other.
    """
    there = {subject.backbone.config.name for subject in subjects if subject.method == "random"}
    entries: dict[str, Entry] = {}
    for subject in subjects:
        settings = without_drop_path(subject.backbone.config)
        if settings.name in there or not is_network(settings.name):
            continue
        seed = SEED if subject.settings is None else subject.settings.get("seed", SEED)
        name = f"random weights of {settings.name} for {settings.image_size} px, seed {seed}"
        if name in entries:
            continue
        backbone = random_backbone(settings, seed)
        random = Model(name, name, backbone, method="random", settings=subject.settings, keeps_results=False)
        entries[name] = gatherer.entry(random)
    return list(entries.values())


def pixels_entry(gatherer: Gatherer) -> Entry | None:
    """k-NN of the images themselves, or None where there are no images that all were measured on."""
    if gatherer.images is None or "knn" in gatherer.measuring.skip:
        return None
    (gallery, queries), fraction = gatherer.images, gatherer.measuring.fraction
    if fraction != 1:
        gallery = label_fraction(gallery, fraction, LABEL_SEED)
    with gatherer.measuring.watch("raw pixels of the gallery") as progress:
        bank = raw_pixels(gallery, PIXELS_SIZE, progress=progress)
    config = KNNConfig(ks=(K,))
    if queries is None:
        metrics, asked = tuple(leave_one_out(bank, config)), bank
    else:
        with gatherer.measuring.watch("raw pixels of the queries") as progress:
            asked = raw_pixels(queries, PIXELS_SIZE, progress=progress)
        metrics = tuple(knn(bank, asked, config))
    protocol = {
        "image_size": PIXELS_SIZE,
        "temperature": config.temperature,
        "label_fraction": fraction,
        "classes": len(gallery.classes),
        "gallery": str(gallery.root),
        "gallery_images": len(bank.features),
        "queries": None if queries is None else str(queries.root),
        "query_images": len(asked.features),
    }
    remark = f"raw pixels: the images themselves at {PIXELS_SIZE} x {PIXELS_SIZE} px, the mean of each taken off"
    return Entry(
        "pixels",
        "",
        None,
        "raw pixels",
        measurements={"knn": Result("knn", to_dict(protocol), metrics)},
        remarks=(remark,),
    )
