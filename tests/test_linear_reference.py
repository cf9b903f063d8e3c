"""The linear probe in the reference's protocol, against the same thing in torch's own words."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dinoscope.data.augment import multi_crop
from dinoscope.data.finding import find_images
from dinoscope.data.images import decode
from dinoscope.data.loader import permutation
from dinoscope.data.sources import ImageFolder
from dinoscope.data.views import sample_view, view_generator
from dinoscope.errors import UserError
from dinoscope.evaluation.linear import (
    RESNET_RATE,
    VIT_RATE,
    LinearConfig,
    Probes,
    base_rate,
    linear_reference,
    train_probe,
    training_views,
)
from dinoscope.features import ExtractConfig, extract
from dinoscope.models.backbone import Backbone, BackboneConfig, build_backbone
from dinoscope.types import FeatureBank

MakeFolder = Callable[..., Path]
CPU = ExtractConfig(torch.device("cpu"), batch_size=4, workers=0, feature="linear")
reference = functools.partial(LinearConfig, "reference")
QUICK = reference(learning_rate=0.5, epochs=3, batch_size=5)


def build(name: str = "vit_micro_conv8", drop_path: float = 0.0) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(BackboneConfig(name, image_size=32, drop_path=drop_path)).eval()


@pytest.fixture(scope="module")
def micro() -> Backbone:
    return build()


@pytest.fixture
def images(picture_folder: MakeFolder) -> ImageFolder:
    """Twelve pictures of three classes."""
    return find_images(picture_folder(12, classes=3))


def crops_and_labels(folder: ImageFolder, epoch: int, indices: list[int]) -> tuple[Tensor, Tensor]:
    assert folder.labels is not None
    views = [
        multi_crop(decode(folder.path(i)), training_views(32), seed=QUICK.seed, epoch=epoch, index=i)[0]
        for i in indices
    ]
    return torch.from_numpy(np.concatenate(views)).movedim(-1, 1), torch.tensor([folder.labels[i] for i in indices])


def test_the_same_weights_as_torch(micro: Backbone, images: ImageFolder) -> None:
    layer = nn.Linear(micro.probe_dim, 3)
    first = Probes((1.0,), micro.probe_dim, 3, seed=QUICK.seed, device=torch.device("cpu")).weight[:, 0]
    with torch.no_grad():
        layer.weight.copy_(first.T)
        layer.bias.zero_()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5 * 5 / 256, momentum=0.9, weight_decay=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, QUICK.epochs, eta_min=0)
    for epoch in range(QUICK.epochs):
        order = permutation(12, QUICK.seed, epoch).tolist()
        for batch in (order[:5], order[5:10]):
            crops, labels = crops_and_labels(images, epoch, batch)
            with torch.no_grad():
                features = micro.probe_features(micro.normalize(crops))
            optimizer.zero_grad()
            nn.functional.cross_entropy(layer(features), labels).backward()
            optimizer.step()
        schedule.step()
    probe = train_probe(micro, images, QUICK, CPU, None)
    torch.testing.assert_close(probe.weight[:, 0], layer.weight.T, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(probe.bias[0], layer.bias, atol=1e-5, rtol=1e-4)
    assert (probe.weight[:, 0] - first).abs().max() > 1e-3


def test_crops_and_flips_only() -> None:
    config = training_views(32)
    drawn = [sample_view(config, 0, 40, 50, view_generator(0, 0, i, 0)) for i in range(300)]
    assert not any(p.jitter or p.grayscale or p.blur_radius or p.solarize or p.vertical_flip for p in drawn)
    assert 110 < sum(p.horizontal_flip for p in drawn) < 190
    shares = [p.height * p.width / 2000 for p in drawn]
    assert min(shares) < 0.12
    assert max(shares) > 0.9
    assert config.num_views == 1


def test_the_images_are_learned(micro: Backbone, images: ImageFolder) -> None:
    calls: list[tuple[int, int]] = []
    config = reference(learning_rate=1.0, epochs=40, batch_size=4)
    bank = extract(micro, images, CPU)
    measured = list(linear_reference(micro, images, bank, config, CPU, lambda *call: calls.append(call)))
    assert [metric.name for metric in measured] == ["linear_reference_top1", "linear_reference_top5"]
    assert measured[0].value >= 75  # a third by chance
    assert measured[1].value == 100
    assert calls == [(step, 120) for step in range(1, 121)]
    assert measured == list(linear_reference(micro, images, bank, config, CPU))


def test_the_network_is_frozen_in_evaluation_mode_and_left_as_it_was(micro: Backbone, images: ImageFolder) -> None:
    network = build(drop_path=0.5).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    probe = train_probe(network, images, QUICK, CPU, None)
    torch.testing.assert_close(probe.weight, train_probe(micro, images, QUICK, CPU, None).weight)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_workers_do_not_matter(micro: Backbone, images: ImageFolder) -> None:
    two = ExtractConfig(torch.device("cpu"), workers=2, feature="linear")
    weights = [train_probe(micro, images, QUICK, extraction, None).weight for extraction in (CPU, two)]
    assert torch.equal(weights[0], weights[1])


def test_the_base_rate_is_the_family_s_unless_given(micro: Backbone) -> None:
    resnet = build("resnet18_small")
    assert base_rate(reference(), micro) == VIT_RATE == 0.001
    assert base_rate(reference(), resnet) == RESNET_RATE == 0.3
    assert base_rate(reference(learning_rate=0.02), resnet) == 0.02


def test_fewer_images_than_a_batch(micro: Backbone, images: ImageFolder, caplog: pytest.LogCaptureFixture) -> None:
    config = reference(epochs=1)
    with caplog.at_level(logging.WARNING):
        train_probe(micro, images, config, CPU, None)
    assert "batch size 256 lowered to 12" in caplog.text


def test_mistakes(micro: Backbone, images: ImageFolder) -> None:
    bank = extract(micro, images, CPU)
    one_class = ImageFolder(images.root, images.paths, (0,) * 12, images.classes)
    unlabelled = ImageFolder(images.root, images.paths)
    other = FeatureBank(bank.features, bank.labels, bank.paths, ("cat", *images.classes[:2]))
    for train, val, reason in (
        (one_class, bank, "all of one class"),
        (unlabelled, bank, "training images have no labels"),
        (images, other, "no training image: cat"),
    ):
        with pytest.raises(UserError, match=reason):
            list(linear_reference(micro, train, val, QUICK, CPU))
    with pytest.raises(UserError, match="epochs must be above 0"):
        reference(epochs=0)
    for index in range(12):
        images.path(index).unlink()
    with pytest.raises(UserError, match="none of the 12 images"):
        list(linear_reference(micro, images, bank, QUICK, CPU))
