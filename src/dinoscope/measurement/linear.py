"""Accuracy of a linear probe on a model's features, with its protocol."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dinoscope.data.sources import ImageFolder, label_fraction
from dinoscope.evaluation.linear import LinearConfig, choose_rate, known_labels, linear
from dinoscope.evaluation.linear_reference import ReferenceConfig, linear_reference
from dinoscope.evaluation.results import new_result
from dinoscope.measurement.inputs import LABEL_SEED, Extract, network_protocol, require_classes, require_known_classes
from dinoscope.model_names import Model
from dinoscope.models.backbone import WIDE, Backbone, ViTBackbone
from dinoscope.types import Result


@dataclass(frozen=True)
class LinearProtocol:
    """How figures of a linear probe came about. All are those after the last epoch.

    protocol: "fast" (features extracted once, standardised) or "reference" (training images augmented anew).
    feature: what of the network is classified.
    learning_rate: for a batch of 256.
    rate_choice: where it comes from; never from the validation images.
    rates_tried: how many it was chosen from; 1 where it was given.
    rate_at_edge: whether it is the smallest or the largest of those tried.
    """

    weights: str
    weights_hash: str
    image_size: int
    crop_fraction: float
    precision: str
    protocol: str
    feature: str
    label_fraction: float
    classes: int
    train: str
    train_images: int
    val: str
    val_images: int
    epochs: int
    batch_size: int
    seed: int
    learning_rate: float
    rate_choice: str
    rates_tried: int
    rate_at_edge: bool


def measure_linear(
    model: Model,
    train: ImageFolder,
    val: ImageFolder,
    config: LinearConfig | ReferenceConfig,
    extract: Extract,
    *,
    fraction: float = 1.0,
) -> Result:
    """Train a linear probe on frozen features, by the protocol that `config` belongs to, and report it on `val`.

    fraction: share of each class of `train` that is used, in (0, 1].

    Raises UserError where there are no labels, one class only, or `val` has classes that `train` lacks.
    """
    require_classes(train)
    require_known_classes(train, val)
    if fraction != 1:
        train = label_fraction(train, fraction, LABEL_SEED)
    backbone = model.backbone
    extract = replace(extract, config=replace(extract.config, feature="linear"))
    measure = _fast if isinstance(config, LinearConfig) else _reference
    found = measure(backbone, train, val, config, extract)  # pyright: ignore[reportArgumentType] (as just told apart)
    protocol = LinearProtocol(
        **network_protocol(model, extract.config),
        **found.protocol,
        feature=linear_feature_name(backbone),
        label_fraction=fraction,
        classes=len(train.classes),
        train=str(train.root),
        val=str(val.root),
        epochs=config.epochs,
        seed=config.seed,
    )
    return new_result("linear", protocol, found.metrics)


def _fast(backbone: Backbone, train: ImageFolder, val: ImageFolder, config: LinearConfig, extract: Extract) -> Result:
    config = replace(config, device=extract.config.device or config.device)
    bank = extract(backbone, train, "features of the training images")
    asked = extract(backbone, val, "features of the validation images")
    known_labels(bank, asked)  # refuses what cannot be reported on, before anything is trained
    with extract.watch("choosing the learning rate") as progress:
        choice = choose_rate(bank, config, progress)
    with extract.watch("training the probe") as progress:
        metrics = tuple(linear(bank, asked, choice.rate, config, progress))
    reason = "given"
    if choice.held_out:
        how = f"in {choice.folds}-fold cross-validation on {choice.held_out} training images"
        how = how if choice.folds else f"on {choice.held_out} held-out training images"
        reason = f"best of {len(config.rates)} {how}"
    protocol = {
        "protocol": "fast",
        "train_images": len(bank.features),
        "val_images": len(asked.features),
        "batch_size": min(config.batch_size, len(bank.features)),
        "learning_rate": choice.rate,
        "rate_choice": reason,
        "rates_tried": len(config.rates),
        "rate_at_edge": choice.at_edge,
    }
    return Result("linear", protocol, metrics)


def _reference(
    backbone: Backbone, train: ImageFolder, val: ImageFolder, config: ReferenceConfig, extract: Extract
) -> Result:
    asked = extract(backbone, val, "features of the validation images")
    with extract.watch("training the probe") as progress:
        metrics = tuple(linear_reference(backbone, train, asked, config, extract.config, progress))
    protocol = {
        "protocol": "reference",
        "train_images": len(train),
        "val_images": len(asked.features),
        "batch_size": config.usable_batch_size(len(train)),
        "learning_rate": config.base_rate(backbone),
        "rate_choice": "the family's default" if config.rate is None else "given",
        "rates_tried": 1,
        "rate_at_edge": False,
    }
    return Result("linear", protocol, metrics)


def linear_feature_name(backbone: Backbone) -> str:
    """What `Backbone.linear_feature` consists of, for a person."""
    blocks = backbone.linear_dim // backbone.dim
    if not isinstance(backbone, ViTBackbone):
        name = "pooled vector"
    elif backbone.dim >= WIDE:
        name = "class token and mean patch token of the last block"
    else:
        name = f"class tokens of the last {blocks} blocks" if blocks > 1 else "class token of the last block"
    return f"{name} ({backbone.linear_dim} values)"
