"""Mixup and CutMix: what is drawn, what is mixed and which labels that makes, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.data.mixup import mixup_target

from dinoscope.data.mixing import Mixing, mixed, partners, shares
from dinoscope.methods.method import RunShape
from dinoscope.methods.supervised import Supervised, SupervisedConfig
from dinoscope.models.backbone import BackboneConfig
from dinoscope.types import Step, Views
from tests.conformance import cases

STEP = Step(0, 10, 10)
WHOLE = (1.0, 0.0, 0.0, 0.0, 0.0)


def rows(*values: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor([values])


def test_partners_are_neighbours() -> None:
    assert partners(torch.arange(6)[None]).tolist() == [[1, 0, 3, 2, 5, 4]]
    with pytest.raises(ValueError, match="3 images"):
        partners(torch.zeros(1, 3))


def test_mixup_blends_and_cutmix_replaces_a_box() -> None:
    """A view of zeros and one of ones; a quarter of the other; then a box of 1 x 2 of 4 x 4 pixels."""
    images = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])[None]
    blended = mixed(images, rows((0.75, 0, 0, 0, 0), WHOLE))
    assert torch.equal(blended[0, 0], torch.full((1, 4, 4), 0.25))
    assert torch.equal(blended[0, 1], torch.ones(1, 4, 4))
    boxed = mixed(images, rows((1, 1, 2, 0, 2), WHOLE))[0, 0, 0]
    expected = torch.zeros(4, 4)
    expected[1, :2] = 1
    assert torch.equal(boxed, expected)
    assert shares(rows((0.75, 0, 0, 0, 0), (1, 1, 2, 0, 2)), 4).tolist() == [[0.75, 1 - 2 / 16]]


def test_draws_are_a_pure_function_with_the_distribution_of_the_papers() -> None:
    mixing = Mixing(mixup=0.8, cutmix=1.0)
    first = np.stack([mixing.sample(3, 1, index, (32, 32, 16)) for index in range(2000)])
    again = mixing.sample(3, 1, 7, (32, 32, 16))
    assert (first[7] == again).all()
    assert (first[7] != mixing.sample(3, 2, 7, (32, 32, 16))).any()
    blended = first[:, 0][first[:, 0, 0] < 1]
    cut = first[:, 0][first[:, 0, 0] == 1]
    assert len(blended) / 2000 == pytest.approx(0.5, abs=0.04)
    # Beta(0.8, 0.8): mean 1/2, variance 1 / (4 (2 * 0.8 + 1)).
    assert blended[:, 0].mean() == pytest.approx(0.5, abs=0.03)
    assert blended[:, 0].var() == pytest.approx(1 / 10.4, abs=0.01)
    assert (blended[:, 1:] == 0).all()
    tops, bottoms, lefts, rights = cut[:, 1:].T
    assert (tops >= 0).all()
    assert (bottoms <= 32).all()
    assert (lefts >= 0).all()
    assert (rights <= 32).all()
    areas = (bottoms - tops) * (rights - lefts)
    assert 0 < areas.mean() < 32**2 / 2  # half the area is drawn in the mean, and cut at the edges
    small = first[:, 2][first[:, 2, 0] == 1]
    assert small[:, 1:].max() <= 16


@pytest.mark.parametrize(
    ("mixing", "blends", "cuts"),
    [
        (Mixing(mixup=1.0), True, False),
        (Mixing(cutmix=1.0), False, True),
        (Mixing(1.0, 1.0, probability=0), False, False),
    ],
)
def test_what_is_off_is_not_drawn(mixing: Mixing, blends: bool, cuts: bool) -> None:
    drawn = np.concatenate([mixing.sample(0, 0, index, (32,)) for index in range(50)])
    assert bool((drawn[:, 0] < 1).any()) == blends
    assert bool((drawn[:, 1:] > 0).any()) == cuts


def test_the_loss_is_that_of_timms_mixed_target() -> None:
    """One share for all and neighbours for partners: what timm makes of a batch of two, in which they are reversed."""
    torch.manual_seed(0)
    method = Supervised(SupervisedConfig(mixup=0.8), BackboneConfig("vit_micro_conv8", 32), classes=5)
    logits, labels, share = torch.randn(1, 2, 5), torch.tensor([[1, 3]]), 0.7
    outputs = {"logits": logits, "labels": labels, "other_labels": labels.flip(1), "shares": torch.full((1, 2), share)}
    result = method.loss(outputs, STEP)
    target = mixup_target(labels[0], 5, lam=share, smoothing=0.1)
    expected = -(target * F.log_softmax(logits[0], dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(result.loss, expected)


def test_accuracy_is_of_the_label_with_the_larger_share() -> None:
    method = Supervised(SupervisedConfig(cutmix=1.0), BackboneConfig("vit_micro_conv8", 32), classes=2)
    logits = torch.tensor([[[9.0, 0.0], [9.0, 0.0]]])
    outputs = {
        "logits": logits,
        "labels": torch.tensor([[0, 1]]),
        "other_labels": torch.tensor([[1, 0]]),
        "shares": torch.tensor([[0.9, 0.2]]),
    }
    assert method.loss(outputs, STEP).logged["training_top1"] == 100


def test_views_that_are_not_mixed_have_the_loss_of_plain_training() -> None:
    torch.manual_seed(0)
    config = BackboneConfig("vit_micro_conv8", 32)
    method = Supervised(SupervisedConfig(mixup=0.8), config, classes=3).eval()
    images = torch.randint(0, 256, (1, 4, 3, 32, 32), dtype=torch.uint8)
    views = Views(images, None, torch.arange(4), torch.tensor([0, 1, 2, 0]))
    plain = method.loss(method.encode(views), STEP)
    whole = Views(images, None, views.index, views.labels, mixes=torch.tensor(WHOLE).expand(1, 4, 5))
    torch.testing.assert_close(method.loss(method.encode(whole), STEP).loss, plain.loss)


def test_an_odd_micro_batch_is_refused() -> None:
    shape = RunShape(100, 10, 6, 3, 1, 1, 0, True)
    faults = list(SupervisedConfig(mixup=0.8).faults(shape))
    assert len(faults) == 1
    assert "even" in faults[0]
    assert not list(SupervisedConfig().faults(shape))


def test_a_batch_of_the_loader_brings_the_mixes_of_its_images(picture_folder, tmp_path) -> None:
    config = cases.run_config("supervised-mixed", picture_folder(16, classes=2), tmp_path / "run")
    views = cases.batch(config, step=1)
    assert views.mixes is not None
    sizes = (32, 32, 16, 16)
    mixing = Mixing(0.8, 1.0)
    for place, index in enumerate(views.index.tolist()):
        assert torch.equal(views.mixes[:, place], torch.from_numpy(mixing.sample(0, 0, index, sizes)))
    half = views.split(2)[1]
    assert half.mixes is not None
    assert torch.equal(half.mixes, views.mixes[:, 4:])


@pytest.mark.parametrize("wrong", [{"mixup": -1.0}, {"mix_probability": 1.5}, {"head_std": float("inf")}])
def test_values_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SupervisedConfig(**wrong)
