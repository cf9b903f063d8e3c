"""k-means against a plain loop and scikit-learn, its seeds, and hierarchies of clusters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from dinoscope import kmeans
from dinoscope.kmeans import assigned, central_members, hierarchy, nearest_centroids, seeds


def noise(count: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain_kmeans(points: Tensor, starts: Tensor, iterations: int) -> np.ndarray:
    """Lloyd's loop in float64."""
    plain, means = points.double().numpy(), starts.double().numpy()
    for _ in range(iterations):
        nearest = ((plain[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
        means = np.stack([plain[nearest == k].mean(axis=0) if (nearest == k).any() else means[k] for k in range(5)])
    return means


@pytest.mark.parametrize("block", [1, 7, 300, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kmeans_is_lloyds_whatever_the_blocks_and_an_empty_centroid_stays(block: int, dtype: torch.dtype) -> None:
    points, done = noise(300, 4), list[int]()
    points[1] = points[0]  # two equal centroids to begin with: all points go to the first
    found = kmeans.kmeans(points, points[:5], 4, done.append, block=block, dtype=dtype)
    np.testing.assert_allclose(found.numpy(), plain_kmeans(points, points[:5], 4), rtol=1e-5, atol=1e-5)
    assert done == [1, 2, 3, 4]
    assert torch.equal(kmeans.kmeans(points, points[:5], 1, block=block)[1], points[1])


def test_kmeans_and_the_assignment_are_those_of_scikit_learn() -> None:
    points = noise(500, 6)
    theirs = KMeans(12, init=points[:12].numpy(), n_init=1, max_iter=300, tol=0, algorithm="lloyd").fit(points.numpy())
    ours = kmeans.kmeans(points, points[:12], 300)
    np.testing.assert_allclose(ours.numpy(), theirs.cluster_centers_, atol=1e-4)
    owners, distances = assigned(points, ours)
    assert owners.tolist() == theirs.labels_.tolist()
    assert float(distances.double().square().sum()) == pytest.approx(theirs.inertia_, rel=1e-4)


def test_sums_of_blocks_are_the_sums_of_their_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block can be computed elsewhere: its sums in float64, added in order, give the same bits."""
    monkeypatch.setattr(kmeans, "BLOCK", 64)
    points, starts = noise(300, 4), noise(5, 4, seed=1)
    sums, counts = torch.zeros(5, 4, dtype=torch.float64), torch.zeros(5, dtype=torch.int64)
    for part in points.split(64):
        nearest = nearest_centroids(part, starts)[0]
        own = torch.zeros(5, 4, dtype=torch.float64).index_add_(0, nearest, part.double())
        sums, counts = sums + own, counts + nearest.bincount(minlength=5)
    assert counts.min() > 0
    expected = (sums / counts[:, None]).float()
    assert torch.equal(kmeans.kmeans(points, starts, 1, block=64), expected)


def test_it_ends_when_it_hardly_improves() -> None:
    points, done = noise(400, 3), list[int]()
    kmeans.kmeans(points, points[:8], 500, done.append, tolerance=0.01)
    first = len(done)
    done.clear()
    kmeans.kmeans(points, points[:8], 500, done.append, tolerance=1e-6)
    assert 2 <= first < len(done) < 500
    done.clear()
    kmeans.kmeans(points[:8], points[:8], 500, done.append, tolerance=0.01)  # distances of 0 cannot improve
    assert len(done) <= 2


def test_seeds_are_different_points_and_one_lies_in_each_distant_group() -> None:
    centres = 100 * torch.eye(6)
    points = centres.repeat_interleave(50, dim=0) + noise(300, 6)
    chosen = seeds(points, 6, generator())
    assert sorted(chosen.argmax(dim=1).tolist()) == [0, 1, 2, 3, 4, 5]
    many = seeds(points, 120, generator())
    assert len(many.unique(dim=0)) == 120
    assert (many[:, None] == points).all(dim=2).any(dim=1).all()
    assert torch.equal(many, seeds(points, 120, generator()))
    assert not torch.equal(many, seeds(points, 120, generator(1)))


def test_seeds_are_no_more_than_there_are_different_points() -> None:
    points = noise(9, 5).repeat(20, 1)
    assert len(seeds(points, 30, generator())) == 9
    assert len(seeds(points, 1, generator())) == 1


def test_the_first_seeds_are_drawn_by_squared_distance() -> None:
    """Of points at distance 0, 1 and 3 from the first seed, the last is the second seed nine times of ten."""
    points = torch.tensor([[0.0], [0.0], [1.0], [-3.0]])
    seconds = [seeds(points, 2, generator(seed)) for seed in range(3000)]
    of_first = [float(both[1]) for both in seconds if float(both[0]) == 0]
    assert set(of_first) == {1.0, -3.0}
    assert np.mean([value == -3 for value in of_first]) == pytest.approx(0.9, abs=0.03)


def test_central_members_are_the_nearest_of_each_cluster() -> None:
    owners = torch.randint(7, (200,), generator=generator())
    distances = torch.rand(200, generator=generator(1))
    expected = list[int]()
    for cluster in range(7):
        members = [place for place in range(200) if owners[place] == cluster]
        expected += sorted(members, key=lambda place: float(distances[place]))[:4]
    assert central_members(owners, distances, 4).tolist() == sorted(expected)


def test_each_level_clusters_the_centroids_below() -> None:
    points, calls = noise(600, 5), list[tuple[int, int]]()
    first, second = hierarchy(points, [40, 6], generator(), lambda *done: calls.append(done), rounds=3)
    assert first.owners.shape == (600,)
    assert first.centroids.shape == (40, 5)
    assert second.owners.shape == (40,)
    assert second.centroids.shape == (6, 5)
    for level, elements in ((first, points), (second, first.centroids)):
        assert sorted(set(level.owners.tolist())) == list(range(len(level.centroids)))  # none is empty
        distances = torch.cdist(elements.double(), level.centroids.double())
        assert torch.equal(distances.argmin(dim=1), level.owners)
        torch.testing.assert_close(level.distances, distances.amin(dim=1).float(), rtol=1e-4, atol=1e-4)
    assert calls[-1] == (8, 8)
    assert calls == sorted(calls)


def test_the_same_seed_gives_the_same_hierarchy() -> None:
    points = noise(500, 8)
    one, again, other = (hierarchy(points, [30, 5], generator(seed)) for seed in (3, 3, 4))
    assert all(
        torch.equal(a.owners, b.owners) and torch.equal(a.centroids, b.centroids)
        for a, b in zip(one, again, strict=True)
    )
    assert not torch.equal(one[0].owners, other[0].owners)


def test_resampling_gives_rare_kinds_more_clusters() -> None:
    """Of 2,000 points 95 % are in one half of the space; after resampling, clusters are shared out by its extent."""
    common, rare = torch.rand(1900, 2, generator=generator()), torch.rand(100, 2, generator=generator(1))
    points = torch.cat([common, rare + torch.tensor([1.0, 0.0])])

    def of_rare(rounds: int) -> int:
        (level,) = hierarchy(points, [60], generator(), rounds=rounds)
        return int((level.centroids[:, 0] > 1).sum())

    assert of_rare(10) > 1.5 * of_rare(0)


def test_few_different_points_make_few_clusters() -> None:
    points = noise(4, 3).repeat(10, 1)
    first, second = hierarchy(points, [10, 2], generator())
    assert len(first.centroids) == 4
    assert len(second.centroids) <= 2
