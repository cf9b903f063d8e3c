"""The k-NN classifier against recorded figures, numbers derived by hand, and a plain implementation."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from dinoscope.errors import UserError
from dinoscope.evaluation.knn import KNNConfig, knn, leave_one_out, nearest, predict, whitened
from dinoscope.types import FeatureBank

DATA = Path(__file__).parent / "data"


def plain_nearest(gallery: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """A full stable sort in float64: equal similarities stay in the order of their indices."""
    gallery, queries = gallery.double(), queries.double()
    lengths = queries.norm(dim=1)[:, None] * gallery.norm(dim=1)
    similarities = (queries @ gallery.T / lengths.clamp_min(1e-12)).sort(dim=1, descending=True, stable=True)
    return similarities.values[:, :k], similarities.indices[:, :k]


def plain_ranking(gallery: FeatureBank, query: Tensor, k: int, temperature: float) -> list[int]:
    """Votes of one query, counted one neighbour at a time."""
    assert gallery.labels is not None
    similarities, indices = plain_nearest(gallery.features, query[None], k)
    votes = dict.fromkeys(sorted(gallery.labels.tolist()), 0.0)
    for similarity, index in zip(similarities[0].tolist(), indices[0].tolist(), strict=True):
        votes[int(gallery.labels[index])] += math.exp(similarity / temperature)
    return sorted(votes, key=lambda label: (-votes[label], label))[: min(5, k)]


def signs(rows: int, dim: int, seed: int) -> Tensor:
    """Features of +1 and -1: with dim 4 or 16 every cosine is exact in float32, and most occur many times."""
    return torch.randint(0, 2, (rows, dim), generator=torch.Generator().manual_seed(seed)).float() * 2 - 1


def normals(rows: int, dim: int, seed: int) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def accuracies(gallery: FeatureBank, queries: FeatureBank, config: KNNConfig) -> dict[str, float]:
    return {metric.title: metric.value for metric in knn(gallery, queries, config)}


def test_recorded_reference_accuracies_are_met_exactly() -> None:
    recorded = json.loads((DATA / "golden_knn.json").read_text())
    tensors = load_file(DATA / "golden_knn.safetensors")
    measured = accuracies(
        FeatureBank(tensors["gallery"], tensors["gallery_labels"]),
        FeatureBank(tensors["query"], tensors["query_labels"]),
        KNNConfig(ks=(5, 10, 20, 100), temperature=recorded["temperature"]),
    )
    expected = {f"knn_{top} (k = {k})": recorded[str(k)][top] for k in (5, 10, 20, 100) for top in ("top1", "top5")}
    assert measured == expected


def test_one_near_neighbour_outvotes_two_far_ones_only_at_a_low_temperature() -> None:
    # Cosines 1, 0.8, 0.8. Class 7 has exp(1 / T), class 3 has 2 exp(0.8 / T): equal at T = 0.2 / ln 2 = 0.29.
    gallery = FeatureBank(torch.tensor([[1.0, 0.0], [0.8, 0.6], [4.0, -3.0]]), torch.tensor([7, 3, 3]))
    queries = FeatureBank(torch.tensor([[2.0, 0.0]]))
    assert predict(gallery, queries, KNNConfig(ks=(3,), temperature=0.28))[3].tolist() == [[7, 3]]
    assert predict(gallery, queries, KNNConfig(ks=(3,), temperature=0.30))[3].tolist() == [[3, 7]]


def test_accuracies_by_hand() -> None:
    # Two clusters on the axes. Three queries: right, right, and one that lies in the other class's cluster.
    gallery = FeatureBank(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]), torch.tensor([0, 0, 1, 1]))
    queries = FeatureBank(torch.tensor([[1.0, 0.2], [0.2, 1.0], [1.0, 0.1]]), torch.tensor([0, 1, 1]))
    measured = accuracies(gallery, queries, KNNConfig(ks=(2,)))
    assert measured == {"knn_top1 (k = 2)": pytest.approx(200 / 3), "knn_top5 (k = 2)": 100.0}


def test_a_class_without_votes_ranks_after_all_others_by_number() -> None:
    gallery = FeatureBank(torch.eye(6), torch.tensor([9, 8, 7, 6, 5, 4]))
    ranked = predict(gallery, FeatureBank(torch.eye(6)[:1]), KNNConfig(ks=(1, 6), temperature=0.001))
    assert ranked[1].tolist() == [[9]]
    assert ranked[6].tolist() == [[9, 4, 5, 6, 7]]  # exp(-1000) is no vote


@given(
    rows=st.integers(1, 200),
    queries=st.integers(1, 5),
    dim=st.sampled_from([4, 16]),
    k=st.integers(1, 200),
    max_bytes=st.sampled_from([3_000, 20_000, 2**28]),
    seed=st.integers(0, 2**16),
)
@example(rows=400, queries=3, dim=4, k=7, max_bytes=9_000, seed=0)  # 16 distinct features: nothing but ties
@example(rows=40, queries=3, dim=4, k=7, max_bytes=1, seed=0)  # one image at a time
@settings(max_examples=60)
def test_nearest_is_the_stable_full_sort(rows: int, queries: int, dim: int, k: int, max_bytes: int, seed: int) -> None:
    gallery, asked, k = signs(rows, dim, seed), signs(queries, dim, seed + 1), min(k, rows)
    similarities, indices = nearest(gallery, asked, k, max_bytes=max_bytes)
    expected = plain_nearest(gallery, asked, k)
    assert torch.equal(similarities.double(), expected[0])
    assert torch.equal(indices, expected[1])


@pytest.mark.parametrize("order", ["drawn", "ascending", "descending"])
@pytest.mark.parametrize("k", [1, 20, 200])
def test_nearest_over_many_blocks_in_any_order(order: str, k: int) -> None:
    gallery, queries = normals(20_000, 12, 0), normals(9, 12, 1)
    if order != "drawn":  # sorted by similarity to the first query: the worst case for a running threshold
        gallery = gallery[(gallery @ queries[0]).argsort(descending=order == "descending")]
    similarities, indices = nearest(gallery, queries, k, max_bytes=2**20)
    expected = plain_nearest(gallery, queries, k)
    torch.testing.assert_close(similarities.double(), expected[0], rtol=0, atol=1e-6)
    # Two images closer in similarity than float32 can tell may change places, but none may be missing.
    assert all(len(row.unique()) == k for row in indices)
    found = torch.cosine_similarity(gallery[indices].double(), queries[:, None].double(), dim=2)
    torch.testing.assert_close(found, expected[0], rtol=0, atol=1e-6)


def test_collapsed_features_give_the_first_images() -> None:
    similarities, indices = nearest(signs(1, 16, 0).expand(30_000, -1), signs(1, 16, 0).expand(3, -1), 200)
    assert torch.equal(indices, torch.arange(200).expand(3, -1))
    assert similarities.eq(1).all()


def test_zero_and_orthogonal_features_tie_at_zero() -> None:
    gallery = torch.tensor([[0.0, -1.0], [0.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    similarities, indices = nearest(gallery, torch.tensor([[1.0, 0.0], [-1.0, -0.0], [0.0, 0.0]]), 4)
    assert indices.tolist() == [[0, 1, 2, 3], [3, 0, 1, 2], [0, 1, 2, 3]]
    assert similarities.tolist() == [[0, 0, 0, -1], [1, 0, 0, 0], [0, 0, 0, 0]]


@given(
    classes=st.integers(1, 9),
    rows=st.integers(2, 60),
    temperature=st.sampled_from([0.03, 0.07, 1.0]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=40)
def test_ranking_is_the_plain_vote(classes: int, rows: int, temperature: float, seed: int) -> None:
    labels = torch.randint(0, classes, (rows,), generator=torch.Generator().manual_seed(seed)) * 3 - 1
    gallery, queries = FeatureBank(normals(rows, 5, seed), labels), normals(3, 5, seed + 1)
    config = KNNConfig(ks=(max(1, rows // 2), rows), temperature=temperature)
    for k, ranked in predict(gallery, FeatureBank(queries), config).items():
        expected = [plain_ranking(gallery, query, k, temperature) for query in queries]
        assert ranked.tolist() == expected


@pytest.mark.parametrize("max_bytes", [4_000, 50_000])
def test_memory_budget_does_not_change_the_answer(max_bytes: int) -> None:
    gallery = FeatureBank(normals(150, 8, 0), torch.arange(150) % 13)
    queries = FeatureBank(normals(9, 8, 1), torch.arange(9) % 13)
    whole = accuracies(gallery, queries, KNNConfig())
    assert accuracies(gallery, queries, KNNConfig(max_bytes=max_bytes)) == whole


def test_one_query_and_one_gallery_image(caplog: pytest.LogCaptureFixture) -> None:
    bank = FeatureBank(torch.ones(1, 3), torch.tensor([5]))
    with caplog.at_level(logging.WARNING):
        measured = accuracies(bank, bank, KNNConfig())
    assert measured == {"knn_top1 (k = 1)": 100.0, "knn_top5 (k = 1)": 100.0}
    assert [record.getMessage() for record in caplog.records] == [
        "k of [10, 20, 100, 200] lowered to 1: the gallery has no more images"
    ]


def test_leave_one_out_is_knn_against_all_others() -> None:
    labels = torch.arange(30) % 4
    features = torch.cat([signs(20, 4, 3), normals(10, 4, 4)])  # most images have an exact double
    measured = {
        metric.title: metric.value for metric in leave_one_out(FeatureBank(features, labels), KNNConfig((3, 29)))
    }
    for k in (3, 29):
        right = 0
        for image in range(30):
            others = torch.arange(30) != image
            rest = FeatureBank(features[others], labels[others])
            right += plain_ranking(rest, features[image], k, 0.07)[0] == int(labels[image])
        assert measured[f"knn_leave_one_out_top1 (k = {k})"] == pytest.approx(100 * right / 30)


# Groups


@given(
    rows=st.integers(2, 120),
    queries=st.integers(1, 5),
    groups=st.integers(2, 12),
    dim=st.sampled_from([4, 16]),
    k=st.integers(1, 120),
    max_bytes=st.sampled_from([3_000, 20_000, 2**28]),
    seed=st.integers(0, 2**16),
)
@example(rows=400, queries=4, groups=2, dim=4, k=250, max_bytes=9_000, seed=0)  # fewer than k are left
@settings(max_examples=60)
def test_nearest_of_other_groups_is_the_plain_sort_without_the_own_group(
    rows: int, queries: int, groups: int, dim: int, k: int, max_bytes: int, seed: int
) -> None:
    gallery, asked, k = signs(rows, dim, seed), signs(queries, dim, seed + 1), min(k, rows)
    draw = torch.Generator().manual_seed(seed)
    theirs, ours = torch.randint(groups, (rows,), generator=draw), torch.randint(groups, (queries,), generator=draw)
    similarities, indices = nearest(gallery, asked, k, groups=(theirs, ours), max_bytes=max_bytes)
    for query in range(queries):
        others = (theirs != ours[query]).nonzero()[:, 0]
        count = min(k, len(others))
        if count:
            values, places = plain_nearest(gallery[others], asked[query : query + 1], count)
            assert torch.equal(similarities[query, :count].double(), values[0])
            assert torch.equal(indices[query, :count], others[places[0]])
        assert similarities[query, count:].eq(-torch.inf).all()


def test_no_image_of_the_own_group_votes_with_and_without_a_split(caplog: pytest.LogCaptureFixture) -> None:
    labels, owners = torch.tensor([n % 3 for n in range(60)]), torch.tensor([n // 5 for n in range(60)])
    bank = FeatureBank(normals(60, 8, 0), labels, groups=owners)
    config = KNNConfig(ks=(3, 20, 58))
    alone = {metric.title.replace("_leave_one_out", ""): metric.value for metric in leave_one_out(bank, config)}
    assert alone == accuracies(bank, bank, config)
    assert "lowered to 55" in caplog.text
    for query in range(60):
        others = owners != owners[query]
        gallery = FeatureBank(bank.features[others], labels[others])
        for k, ranked in predict(
            bank, FeatureBank(bank.features[query : query + 1], groups=owners[query, None])
        ).items():
            assert ranked[0].tolist() == plain_ranking(gallery, bank.features[query], k, 0.07)[: ranked.shape[1]]


def test_queries_with_few_other_images_are_voted_on_by_those() -> None:
    # Query 0 has one gallery image of another group, query 1 four: the absent neighbours have no vote.
    gallery = FeatureBank(torch.eye(4), torch.tensor([0, 0, 0, 1]), groups=torch.tensor([7, 7, 7, 8]))
    queries = FeatureBank(torch.eye(4)[:2], torch.tensor([0, 0]), groups=torch.tensor([7, 9]))
    ranked = predict(gallery, queries, KNNConfig(ks=(4,)))
    assert ranked[4].tolist() == [[1, 0], [0, 1]]


def test_groups_of_one_side_alone_change_nothing() -> None:
    gallery, queries = FeatureBank(normals(30, 5, 0), torch.arange(30) % 3), FeatureBank(normals(4, 5, 1))
    expected = predict(gallery, queries)
    for changed in (replace(gallery, groups=torch.zeros(30, dtype=torch.int64)), gallery):
        assert all(torch.equal(ranked, expected[k]) for k, ranked in predict(changed, queries).items())


def test_a_gallery_of_one_group_is_refused() -> None:
    bank = FeatureBank(normals(6, 4, 0), torch.arange(6) % 2, groups=torch.ones(6, dtype=torch.int64))
    with pytest.raises(UserError, match="no neighbour of another group"):
        list(leave_one_out(bank))
    with pytest.raises(ValueError, match="exclude each other"):
        nearest(bank.features, bank.features, 1, exclude=torch.arange(6), groups=(bank.groups, bank.groups))


def test_accuracies_of_groups_have_intervals_over_the_groups() -> None:
    bank = FeatureBank(normals(60, 8, 0), torch.arange(60) % 3, groups=torch.arange(60) // 5)
    assert {metric.n for metric in leave_one_out(bank, KNNConfig(ks=(5,)))} == {12}


def test_labels_are_matched_by_class_name() -> None:
    gallery = FeatureBank(torch.eye(3), torch.tensor([0, 1, 2]), classes=("ant", "bee", "cat"))
    queries = FeatureBank(torch.eye(3)[1:], torch.tensor([0, 1]), classes=("bee", "dog"))
    assert accuracies(gallery, queries, KNNConfig(ks=(1,)))["knn_top1 (k = 1)"] == 50.0
    with pytest.raises(UserError, match=r"no class of the query set \(eel\.\.\.\) is in the gallery"):
        knn(gallery, FeatureBank(torch.eye(3)[:1], torch.tensor([0]), classes=("eel",)))


LABELLED = FeatureBank(torch.eye(3), torch.arange(3))


@pytest.mark.parametrize(
    ("gallery", "queries", "config", "message"),
    [
        (FeatureBank(torch.eye(3)), LABELLED, KNNConfig(), "the gallery has no labels"),
        (LABELLED, FeatureBank(torch.eye(3)), KNNConfig(), "the query set has no labels"),
        (FeatureBank(torch.empty(0, 3), torch.arange(0)), LABELLED, KNNConfig(), "the gallery is empty"),
        (LABELLED, FeatureBank(torch.empty(0, 3), torch.arange(0)), KNNConfig(), "the query set is empty"),
        (LABELLED, FeatureBank(torch.ones(1, 2), torch.arange(1)), KNNConfig(), "3 values, query features 2"),
        (
            LABELLED,
            FeatureBank(torch.full((1, 3), torch.nan), torch.arange(1)),
            KNNConfig(),
            "NaN or infinite",
        ),
        (FeatureBank(torch.eye(3) * torch.inf, torch.arange(3)), LABELLED, KNNConfig(), "NaN or infinite"),
        (LABELLED, LABELLED, KNNConfig(ks=()), "at least one k"),
        (LABELLED, LABELLED, KNNConfig(ks=(0, 5)), r"got \(0, 5\)"),
        (LABELLED, LABELLED, KNNConfig(temperature=0.0), "above 0"),
    ],
)
def test_mistakes_are_named(gallery: FeatureBank, queries: FeatureBank, config: KNNConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        knn(gallery, queries, config)


def test_leave_one_out_needs_two_images() -> None:
    with pytest.raises(UserError, match="at least one other image"):
        leave_one_out(FeatureBank(torch.ones(1, 3), torch.arange(1)))


@pytest.mark.parametrize("k", [0, 4])
def test_nearest_refuses_a_k_that_the_gallery_cannot_give(k: int) -> None:
    with pytest.raises(UserError, match=f"between 1 and 3.*got {k}"):
        nearest(torch.eye(3), torch.eye(3), k)


MEASURE_PEAK = """
import json, os, resource, torch
from dinoscope.evaluation.knn import KNNConfig, knn
from dinoscope.types import FeatureBank
torch.set_num_threads(1)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def growth(make, max_bytes):
    gallery = FeatureBank(make(20_000, 32), torch.arange(20_000) % 500)
    queries = FeatureBank(make(1_000, 32), torch.arange(1_000) % 500)
    small = FeatureBank(gallery.features[:100], gallery.labels[:100])
    list(knn(small, small, KNNConfig(ks=(10,))))  # libraries load what they need
    before = peak()
    list(knn(gallery, queries, KNNConfig(max_bytes=max_bytes)))
    return peak() - before

cases = {
    "drawn": (torch.randn, 8 * 2**20),
    "collapsed": (torch.ones, 8 * 2**20),
    "at once": (torch.randn, 2**30),
}
for name, case in cases.items():
    # a peak is never lowered, and a started program begins with that of the one that started it: a fork does not
    if os.fork() == 0:
        print(json.dumps([name, growth(*case)]), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""


@pytest.fixture(scope="module")
def peaks() -> dict[str, int]:
    """Bytes by which a process grows at its worst, by case."""
    run = subprocess.run([sys.executable, "-c", MEASURE_PEAK], capture_output=True, text=True, check=True)
    return dict(json.loads(line) for line in run.stdout.splitlines())


@pytest.mark.parametrize("features", ["drawn", "collapsed"])
def test_working_memory_stays_at_the_budget(features: str, peaks: dict[str, int]) -> None:
    # All similarities at once take 80 MB; with collapsed features every one of them is a candidate.
    assert peaks["at once"] > 64 * 2**20
    assert peaks[features] < peaks["at once"] / 3


def test_whitening_is_that_of_the_gallery_and_gives_each_axis_its_variance() -> None:
    scales = torch.tensor([3.0, 1.0, 0.3, 0.1])
    gallery = FeatureBank(normals(500, 4, 0) * scales + 1)
    queries = FeatureBank(normals(20, 4, 1) * scales + 1)
    made, others = whitened(gallery, queries)
    before = torch.nn.functional.normalize(gallery.features.double(), dim=1)
    variances, axes = torch.linalg.eigh(torch.cov(before.T, correction=0))
    expected = variances / (variances + variances[-1] / 1000)
    assert torch.allclose(made.features.mean(dim=0), torch.zeros(4), atol=1e-5)
    assert torch.allclose(torch.cov(made.features.T.double(), correction=0), torch.diag(expected), atol=1e-4)
    plain = torch.nn.functional.normalize(queries.features.double(), dim=1) - before.mean(dim=0)
    plain = plain @ axes / (variances + variances[-1] / 1000).sqrt()
    assert torch.allclose(others.features.double().abs(), plain.abs(), atol=1e-4)  # the sign of an axis is free


def test_whitening_finds_a_class_in_a_direction_of_little_variance() -> None:
    def bank(seed: int) -> FeatureBank:
        labels = torch.arange(400) % 2
        features = normals(400, 8, seed)
        features[:, 0] = 5 + 0.1 * features[:, 0]
        features[:, 1] = (labels * 2 - 1) * 0.3 + 0.05 * features[:, 1]
        return FeatureBank(features, labels)

    gallery, queries, config = bank(0), bank(1), KNNConfig(ks=(20,))
    as_they_are = accuracies(gallery, queries, config)["knn_top1 (k = 20)"]
    better = accuracies(*whitened(gallery, queries), config)["knn_top1 (k = 20)"]
    assert better > as_they_are + 5


@pytest.mark.parametrize(("value", "words"), [(1.0, "features differ"), (math.nan, "NaN or infinite")])
def test_what_cannot_be_whitened_is_refused(value: float, words: str) -> None:
    with pytest.raises(UserError, match=words):
        whitened(FeatureBank(torch.full((5, 3), value)))
