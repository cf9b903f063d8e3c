"""The fast linear probe: side by side as each alone, the rate chosen on training images only, mistakes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from dinoscope.errors import UserError
from dinoscope.evaluation.linear import (
    LinearConfig,
    Probes,
    choose_rate,
    folds,
    hold_out,
    linear,
    standardization,
    train_probes,
)
from dinoscope.types import FeatureBank

QUICK = LinearConfig(rates=(0.001, 0.01, 0.1), epochs=20, batch_size=16)


def bank_of(count: int, classes: int, *, distance: float, seed: int = 0, dim: int = 12) -> FeatureBank:
    """Normal clouds around one centre per class; offset and stretched, so that standardising matters."""
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    features = torch.randn(count, dim, generator=generator) + distance * centres[labels]
    stretched = 5 + features * torch.linspace(0.1, 10, dim)
    names = tuple(f"class{number}" for number in range(classes))
    return FeatureBank(stretched, labels, tuple(f"{seed}-{i:03d}.png" for i in range(count)), names)


def top1(train: FeatureBank, val: FeatureBank, rate: float, config: LinearConfig = QUICK) -> float:
    return {metric.name: metric.value for metric in linear(train, val, rate, config)}["linear_top1"]


def trained_plainly(bank: FeatureBank, rate: float, config: LinearConfig, first: Tensor, batches: list[Tensor]):
    """One classifier in torch's own words: nn.Linear, CrossEntropyLoss, SGD, CosineAnnealingLR."""
    mean, deviation = bank.features.mean(dim=0), bank.features.std(dim=0, correction=0)
    layer = nn.Linear(*first.shape)
    with torch.no_grad():
        layer.weight.copy_(first.T)
        layer.bias.zero_()
    optimizer = torch.optim.SGD(layer.parameters(), lr=rate * config.batch_size / 256, momentum=0.9, weight_decay=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    for batch in batches:
        assert bank.labels is not None
        logits = layer((bank.features[batch] - mean) / deviation)
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, bank.labels[batch]).backward()
        optimizer.step()
        schedule.step()
    return layer


def test_probes_side_by_side_equal_each_trained_alone_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = bank_of(40, 3, distance=0.5)
    config = replace(QUICK, epochs=4, rates=(0.01, 0.3, 5.0))
    batches: list[Tensor] = []
    step = Probes.step

    def recorded(probes: Probes, features: Tensor, labels: Tensor, factor: float) -> None:
        # A batch is recognised by its features: each image has its own.
        raw = features / standardize.scale + standardize.mean
        batches.append(torch.cdist(raw, bank.features).argmin(dim=1))
        step(probes, features, labels, factor)

    rows = torch.arange(40)
    standardize = standardization(bank.features, rows)
    monkeypatch.setattr(Probes, "step", recorded)
    probes, _ = train_probes(bank, rows, config.rates, config, None)
    assert [len(batch) for batch in batches] == [14, 13, 13] * 4
    for epoch in range(4):
        assert sorted(torch.cat(batches[3 * epoch : 3 * epoch + 3]).tolist()) == list(range(40))
    first = Probes((1.0,), 12, 3, seed=config.seed, device=torch.device("cpu")).weight[:, 0]
    for number, rate in enumerate(config.rates):
        layer = trained_plainly(bank, rate, config, first, batches)
        torch.testing.assert_close(probes.weight[:, number], layer.weight.T, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(probes.bias[number], layer.bias, atol=1e-4, rtol=1e-4)
        assert (probes.weight[:, number] - first).abs().max() > 1e-3


def test_first_weights_have_the_deviation_of_the_reference() -> None:
    weight = Probes((1.0, 2.0), 500, 40, seed=0, device=torch.device("cpu")).weight
    assert weight[:, 0].std().item() == pytest.approx(0.01, rel=0.03)
    assert torch.equal(weight[:, 0], weight[:, 1])


def test_accuracy_by_hand() -> None:
    probes = Probes((1.0,), 7, 7, seed=0, device=torch.device("cpu"))
    probes.weight = torch.eye(7)[:, None]  # the logits are the features
    features = torch.tensor([[7.0, 6, 5, 4, 3, 2, 1]]).expand(4, -1)
    # Best class: 0, right for the first image; among the five best are 0 to 4, right for three of four.
    accuracy = probes.accuracy(features, torch.tensor([0, 1, 4, 5]))
    assert accuracy[:, 0].tolist() == [25.0, 75.0]


def test_separable_features_are_told_apart() -> None:
    train, val = bank_of(60, 4, distance=8), bank_of(32, 4, distance=8, seed=1)
    choice = choose_rate(train, QUICK)
    assert list(linear(train, val, choice.rate, QUICK)) == list(linear(train, val, choice.rate, QUICK))
    assert {metric.name: metric.value for metric in linear(train, val, choice.rate, QUICK)} == {
        "linear_top1": 100.0,
        "linear_top5": 100.0,
    }


def test_labels_without_meaning_are_at_chance() -> None:
    train, val = bank_of(200, 4, distance=8), bank_of(400, 4, distance=8, seed=1)
    assert train.labels is not None
    permuted = train.labels[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    meaningless = replace(train, labels=permuted)
    assert top1(meaningless, val, 0.01) < 50 < top1(train, val, 0.01)  # chance: 25


def test_the_classes_of_the_validation_images_are_matched_by_name() -> None:
    train, val = bank_of(60, 3, distance=8), bank_of(30, 3, distance=8, seed=1)
    assert val.labels is not None
    only_two = val.labels != 0
    renumbered = FeatureBank(
        val.features[only_two], val.labels[only_two] - 1, tuple(f"{i}" for i in range(20)), ("class1", "class2")
    )
    assert top1(train, renumbered, 0.01) == 100


def test_a_feature_that_is_constant_in_training_does_not_matter() -> None:
    train, val = bank_of(60, 3, distance=8), bank_of(30, 3, distance=8, seed=1)
    train.features[:, 2] = 0.1
    val.features[:, 2] = torch.randn(30) * 1e6
    assert top1(train, val, 0.01) == 100


class TestHoldOut:
    def test_a_tenth_of_each_class_and_at_least_one_that_is_not_the_last(self) -> None:
        labels = torch.tensor([0] * 40 + [1] * 12 + [2] * 2 + [3])
        bank = FeatureBank(torch.randn(55, 2), labels, tuple(f"{i}.png" for i in range(55)))
        kept, held = hold_out(bank)
        assert torch.equal(torch.cat([kept, held]).sort().values, torch.arange(55))
        assert labels[held].bincount(minlength=4).tolist() == [4, 1, 1, 0]

    def test_the_same_images_whatever_their_order_and_features(self) -> None:
        bank = bank_of(50, 2, distance=1)
        assert bank.labels is not None
        order = torch.randperm(50, generator=torch.Generator().manual_seed(3))
        shuffled = FeatureBank(
            torch.zeros(50, 2), bank.labels[order], tuple(bank.paths[i] for i in order.tolist()), bank.classes
        )
        names = [{b.paths[i] for i in hold_out(b)[1].tolist()} for b in (bank, shuffled)]
        assert names[0] == names[1]
        assert len(names[0]) == 4  # of 25 images of a class: 2


class TestGroups:
    """Twelve groups of five images; the last one alone has class 2."""

    @pytest.fixture
    def bank(self) -> FeatureBank:
        groups = torch.arange(60) // 5
        labels = torch.where(groups == 11, 2, groups % 2)
        return FeatureBank(torch.randn(60, 2), labels, tuple(f"{i}.png" for i in range(60)), groups=groups * 10**16)

    def test_whole_groups_are_held_out_but_none_with_the_last_images_of_a_class(self, bank: FeatureBank) -> None:
        assert bank.groups is not None
        assert bank.labels is not None
        for kept, held in (hold_out(bank), *folds(bank)):
            assert not set(bank.groups[kept].tolist()) & set(bank.groups[held].tolist())
            assert set(bank.labels[kept].tolist()) == {0, 1, 2}
        assert len(hold_out(bank)[1]) == 10  # two groups reach a tenth of 60
        held = torch.cat([held for _, held in folds(bank)]).sort().values
        assert held.tolist() == list(range(55))

    def test_few_groups_choose_by_cross_validation_however_many_images_they_have(self, bank: FeatureBank) -> None:
        assert bank.labels is not None
        assert bank.groups is not None
        many = FeatureBank(
            bank.features.repeat(40, 1), bank.labels.repeat(40), classes=("a", "b", "c"), groups=bank.groups.repeat(40)
        )
        choice = choose_rate(many, replace(QUICK, rates=(0.01, 0.1), epochs=1))
        assert (choice.held_out, choice.folds) == (55 * 40, 5)

    def test_classes_of_one_group_each_leave_none_to_choose_with(self, bank: FeatureBank) -> None:
        assert bank.labels is not None
        with pytest.raises(UserError, match="training images of a single group"):
            choose_rate(replace(bank, groups=bank.labels.clone()), QUICK)

    def test_accuracies_have_intervals_over_the_groups_of_the_validation_images(self, bank: FeatureBank) -> None:
        assert {metric.n for metric in linear(bank, bank, 0.01, QUICK)} == {12}


class TestChoice:
    def test_only_held_out_training_images_choose(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With the held-out images' labels wrong, the worst rate is chosen: they decide, and are not trained on."""
        monkeypatch.setattr("dinoscope.evaluation.linear.FEWEST_HELD_OUT", 1)
        train = bank_of(120, 3, distance=1.5)
        assert train.labels is not None
        config = replace(QUICK, rates=(1e-6, 0.02), epochs=10)
        choice = choose_rate(train, config)
        assert (choice.rate, choice.held_out, choice.folds) == (0.02, 12, 0)
        held = hold_out(train)[1]
        labels = train.labels.clone()
        labels[held] = (labels[held] + 1) % 3
        # hold_out goes by class, so the relabelled bank may hold out other images: it is given the same ones.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("dinoscope.evaluation.linear.hold_out", lambda _: (hold_out(train)[0], held))
            choice = choose_rate(replace(train, labels=labels), config)
        assert choice.accuracies[0] > choice.accuracies[1]
        assert choice.rate == 1e-6

    def test_few_images_choose_by_cross_validation_and_all_of_them_do(self) -> None:
        calls: list[tuple[int, int]] = []
        choice = choose_rate(bank_of(30, 3, distance=1.5), QUICK, lambda *call: calls.append(call))
        assert (choice.held_out, choice.folds) == (30, 5)
        assert calls[-1] == (5 * 40, 5 * 40)  # 24 of 30 images are two batches, 20 epochs, five times
        assert calls == sorted(calls)

    def test_a_hundred_held_out_images_choose_alone(self) -> None:
        choice = choose_rate(bank_of(1000, 2, distance=1.5, dim=4), replace(QUICK, rates=(0.01, 0.1), epochs=1))
        assert (choice.held_out, choice.folds) == (100, 0)

    def test_folds_hold_every_image_out_once_but_the_only_one_of_a_class(self) -> None:
        labels = torch.tensor([0] * 7 + [1] * 2 + [2])
        parts = folds(FeatureBank(torch.zeros(10, 1), labels))
        assert torch.cat([held for _, held in parts]).sort().values.tolist() == list(range(9))
        assert all(torch.equal(torch.cat(part).sort().values, torch.arange(10)) for part in parts)
        assert [labels[held].bincount(minlength=2).tolist() for _, held in parts] == [
            [2, 1],
            [2, 1],
            [1, 0],
            [1, 0],
            [1, 0],
        ]

    def test_of_equally_good_rates_the_middle_one(self) -> None:
        train = bank_of(60, 3, distance=20)
        choice = choose_rate(train, replace(QUICK, rates=(0.1, 0.001, 0.3, 0.03, 0.01)))
        assert choice.accuracies == (100.0,) * 5
        assert choice.rate == 0.03
        assert not choice.at_edge

    def test_a_choice_at_the_edge_is_a_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        choice = choose_rate(bank_of(120, 3, distance=1.5), replace(QUICK, rates=(1e-9, 1e-8, 0.02)))
        assert choice.at_edge
        assert choice.rate == 0.02
        assert "0.02 is at the edge" in caplog.text

    def test_one_rate_needs_no_choice(self) -> None:
        choice = choose_rate(bank_of(6, 3, distance=1), replace(QUICK, rates=(0.5,)))
        assert (choice.rate, choice.held_out, choice.at_edge) == (0.5, 0, False)

    def test_no_image_to_spare(self) -> None:
        with pytest.raises(UserError, match="none to hold out"):
            choose_rate(bank_of(3, 3, distance=1), QUICK)


def test_another_seed_is_another_run() -> None:
    train = bank_of(40, 3, distance=0.5)
    rows = torch.arange(40)
    weights = [train_probes(train, rows, (0.1,), replace(QUICK, seed=seed), None)[0].weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.allclose(weights[0], weights[2])


def test_progress_reaches_its_end() -> None:
    calls: list[tuple[int, int]] = []
    train = bank_of(40, 3, distance=1)
    list(linear(train, train, 0.1, QUICK, lambda *call: calls.append(call)))
    assert calls[0] == (3, 60)
    assert calls[-1] == (60, 60)
    assert len(calls) == 20


@pytest.mark.gpu
def test_a_gpu_gives_the_same() -> None:
    train, val = bank_of(60, 4, distance=1), bank_of(100, 4, distance=1, seed=1)
    config = replace(QUICK, device=torch.device("cuda"))
    assert top1(train, val, 0.1, config) == pytest.approx(top1(train, val, 0.1), abs=1.01)


class TestMistakes:
    train = bank_of(12, 3, distance=1)

    @pytest.mark.parametrize(
        ("train", "val", "reason"),
        [
            (replace(train, labels=None), train, "training images have no labels"),
            (train, replace(train, labels=None), "validation images have no labels"),
            (replace(train, labels=torch.zeros(12, dtype=torch.int64)), train, "all of one class"),
            (replace(train, labels=train.labels % 2), train, "1 of the classes .* no training image: class2"),
            (train, replace(train, classes=("class0", "cat", "dog")), "2 of the classes .*: cat, dog"),
            (replace(train, features=train.features[:, :5]), train, "differ in length"),
            (replace(train, features=train.features * torch.nan), train, "NaN or infinite"),
        ],
    )
    def test_banks_that_do_not_fit(self, train: FeatureBank, val: FeatureBank, reason: str) -> None:
        with pytest.raises(UserError, match=reason):
            list(linear(train, val, 0.1, QUICK))

    @pytest.mark.parametrize(
        ("settings", "reason"),
        [
            ({"epochs": 0}, "number of epochs must be above 0; got 0"),
            ({"batch_size": 0}, "batch size must be above 0; got 0"),
            ({"rates": ()}, "learning rate must be above 0; got none"),
            ({"rates": (0.1, -1.0)}, "learning rate must be above 0; got -1"),
            ({"rates": (float("nan"),)}, "learning rate must be above 0; got nan"),
        ],
    )
    def test_settings_out_of_range(self, settings: dict[str, object], reason: str) -> None:
        with pytest.raises(UserError, match=reason):
            LinearConfig(**settings)  # pyright: ignore
