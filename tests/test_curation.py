"""Curation: the cap and the sample by brute force, copies, outliers, what it does to rare kinds, and the command."""

from __future__ import annotations

import csv
import itertools
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import dinoscope as ds
from dinoscope.checkpoint import export_backbone
from dinoscope.cli import main
from dinoscope.curation import CurationConfig, balanced_sample, centred, choose, largest_cap, outliers, shares
from dinoscope.data.finding import find_images
from dinoscope.data.listing import list_text
from dinoscope.errors import UserError
from dinoscope.model_names import unwatched
from dinoscope.models.backbone import BackboneConfig, build_backbone
from tests.html_checks import Page

MakeFolder = Callable[..., Path]
SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=8).map(np.array)


# The sample


def require_equal(counts: np.ndarray, sizes: np.ndarray) -> None:
    """Assert that clusters with images to spare give equally many, up to one, and that the others give no more."""
    assert (counts <= sizes).all()
    spare = counts[counts < sizes]
    if len(spare):
        assert spare.max() - spare.min() <= 1
        assert counts.max() <= spare.min() + 1


@given(SIZES, st.integers(0, 100))
def test_the_cap_is_the_largest(sizes: np.ndarray, target: int) -> None:
    fitting = [cap for cap in range(sizes.max() + 1) if np.minimum(sizes, cap).sum() <= target]
    assert largest_cap(sizes, target) == max(fitting)


@given(SIZES, st.integers(0, 100), st.integers(0, 9))
def test_shares_add_up_and_none_is_larger_than_its_cluster(sizes: np.ndarray, target: int, seed: int) -> None:
    given_ = shares(sizes, target, np.random.default_rng(seed).random(len(sizes)))
    assert given_.sum() == min(target, sizes.sum())
    require_equal(given_, sizes)


def test_what_the_cap_leaves_over_goes_by_rank() -> None:
    sizes, ranks = np.array([5, 1, 5, 5]), np.array([0.3, 0.0, 0.2, 0.1])
    assert shares(sizes, 9, ranks).tolist() == [2, 1, 3, 3]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(1, 80), st.integers(0, 9))
def test_a_sample_has_each_image_once_and_as_many_as_asked_for(parents: list[int], target: int, seed: int) -> None:
    first = np.unique(parents, return_inverse=True)[1]
    second = np.arange(first.max() + 1) // 2
    places = balanced_sample([first, second], target, torch.Generator().manual_seed(seed))
    assert len(places) == len(set(places.tolist())) == min(target, len(parents))
    of_second = np.bincount(second[first[places]], minlength=second.max() + 1)
    sizes = np.bincount(second[first])
    require_equal(of_second, sizes)
    for cluster in range(len(sizes)):  # the same one level below
        below = np.flatnonzero(second == cluster)
        counts = np.bincount(first[places], minlength=len(second))[below]
        require_equal(counts, np.bincount(first)[below])


def test_every_image_of_a_cluster_may_be_drawn() -> None:
    owners = [np.array([0] * 6)]
    drawn = {tuple(balanced_sample(owners, 2, torch.Generator().manual_seed(seed)).tolist()) for seed in range(400)}
    assert drawn == set(itertools.combinations(range(6), 2))


# Features


def mixture(seed: int = 0, deviation: float = 2.0) -> tuple[Tensor, np.ndarray]:
    """Features of a common kind (1,000), of nine rare ones (20 each), and the kind of each."""
    generator = torch.Generator().manual_seed(seed)
    kinds = np.repeat(np.arange(10), [1000, *[20] * 9])
    centres = 4 * torch.randn(10, 16, generator=generator)
    return centres[kinds] + deviation * torch.randn(len(kinds), 16, generator=generator), kinds


def test_rare_kinds_have_a_larger_share_of_the_choice() -> None:
    before, after = list[float](), list[float]()
    for seed in range(3):
        features, kinds = mixture(seed, deviation=1.0)
        chosen = choose(features, CurationConfig(share=0.2, keep_copies=True), unwatched).chosen
        assert chosen.sum() == 236
        before.append(float((kinds > 0).mean()))
        after.append(float((kinds[chosen] > 0).mean()))
    assert np.mean(after) > 2 * np.mean(before)


def test_the_seed_decides_everything_else() -> None:
    features, _ = mixture()
    one, again, other = (choose(features, CurationConfig(share=0.2, seed=seed), unwatched) for seed in (1, 1, 2))
    assert np.array_equal(one.chosen, again.chosen)
    assert all(np.array_equal(a, b) for a, b in zip(one.clusters, again.clusters, strict=True))
    assert not np.array_equal(one.chosen, other.chosen)
    assert len(one.clusters) == 2


def test_of_copies_the_first_is_kept() -> None:
    features, _ = mixture()
    noise = 0.01 * torch.randn(50, 16, generator=torch.Generator().manual_seed(9))
    doubled = torch.cat([features, features[100:150] + noise])
    choice = choose(doubled, CurationConfig(share=1.0), unwatched)
    expected = np.r_[np.arange(1180), np.arange(100, 150)]
    assert np.array_equal(choice.copy_of, expected)
    assert np.flatnonzero(choice.is_copy).tolist() == list(range(1180, 1230))
    assert choice.chosen.tolist() == [True] * 1180 + [False] * 50  # all that are left, though more were wanted
    assert set(choice.fates()[1180:]) == {"copy"}
    assert np.array_equal(choice.clusters[0][1180:], choice.clusters[0][100:150])
    np.testing.assert_allclose(choice.distances[1180:], choice.distances[100:150])  # not to each other
    kept = choose(doubled, CurationConfig(share=1.0, keep_copies=True), unwatched)
    assert kept.chosen.all()


def test_other_features_may_find_copies() -> None:
    features, _ = mixture()
    for_copies = torch.eye(1180)
    for_copies[7] = for_copies[3]
    choice = choose(features, CurationConfig(size=20), unwatched, for_copies=for_copies)
    assert np.flatnonzero(choice.is_copy).tolist() == [7]
    assert choice.copy_of[7] == 3


def test_distances_are_those_to_the_nearest_image() -> None:
    features, _ = mixture()
    choice = choose(features[:200], CurationConfig(size=20, keep_copies=True), unwatched)
    plain = torch.cdist(centred(features[:200]).double(), centred(features[:200]).double())
    plain.fill_diagonal_(torch.inf)
    np.testing.assert_allclose(choice.distances, plain.amin(dim=1).numpy(), atol=1e-3)


def test_what_is_far_from_everything_is_listed_and_left_out_on_request() -> None:
    generator = torch.Generator().manual_seed(0)
    axes = torch.eye(40)
    signs = torch.tensor([[1.0], [-1.0]]).repeat(150, 1)
    features = 10 * signs * axes[0] + torch.randn(300, 40, generator=generator)
    features[[5, 77]] = 90 * axes[[1, 2]]
    settings = {"keep_copies": True}
    listed = choose(features, CurationConfig(size=100, **settings), unwatched)
    assert np.flatnonzero(listed.outlier).tolist() == [5, 77]
    assert "outlier" not in listed.fates()
    left_out = choose(features, CurationConfig(size=298, leave_out_outliers=True, **settings), unwatched)
    assert [place for place, fate in enumerate(left_out.fates()) if fate == "outlier"] == [5, 77]
    assert left_out.chosen.sum() == 298
    assert left_out.clusters[0][[5, 77]].tolist() == [-1, -1]


def test_the_fence_is_tukeys() -> None:
    distances = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 11.0, 11.1, np.nan])
    counted = np.array([True] * 5 + [False] * 2 + [True])
    found, fence = outliers(distances, counted)
    assert fence == 4 + 3 * (4 - 2)
    assert found.tolist() == [False] * 5 + [True, True, False]
    assert not outliers(np.full(3, np.nan), np.ones(3, bool))[0].any()


def test_numbers_that_do_not_fit() -> None:
    features, _ = mixture()
    for config, text in (
        (CurationConfig(size=1181), "--size 1181 is more than the 1180 images"),
        (
            CurationConfig(size=10, clusters=(1200, 3), keep_copies=True),
            "--clusters 1200 are more than the 1180 images",
        ),
    ):
        with pytest.raises(UserError, match=text):
            choose(features, config, unwatched)
    for changes, text in (
        ({}, "Give --size, or --share"),
        ({"size": 5, "share": 0.5}, "not both"),
        ({"size": 0}, "--size must be 1 or more"),
        ({"share": 1.5}, "--share"),
        ({"size": 5, "clusters": (5, 5)}, "--clusters"),
        ({"size": 5, "clusters": (5, 0)}, "--clusters"),
        ({"size": 5, "copies_above": 0.0}, "--copies-above"),
        ({"size": 5, "rounds": -1}, "--rounds"),
        ({"size": 5, "iterations": 0}, "--iterations"),
        ({"size": 5, "seed": -1}, "seed"),
    ):
        with pytest.raises(UserError, match=text):
            CurationConfig(**changes)
    features[3, 2] = torch.nan
    with pytest.raises(UserError, match="NaN"):
        choose(features, CurationConfig(size=5), unwatched)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_fewest_images(count: int) -> None:
    features = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    choice = choose(features, CurationConfig(size=count), unwatched)
    assert choice.chosen.all()
    assert not choice.outlier.any()


# Lists


def test_a_list_is_read_back(picture_folder: MakeFolder, tmp_path: Path) -> None:
    data = picture_folder(6, classes=3)
    odd = data / "class0" / "#a, b.png"
    (data / "class0" / "0000.png").rename(odd)
    images = find_images(data)
    for name in ("all.txt", "all.csv", "all.tsv", "pictures/inside.csv", "elsewhere/all.csv"):
        place = tmp_path / name
        place.parent.mkdir(exist_ok=True)
        place.write_text(list_text(place, images))
        found = find_images(place)
        assert [found.content(index) for index in range(6)] == [images.content(index) for index in range(6)]
        if place.suffix != ".txt":
            assert found.labels == images.labels
            assert found.classes == images.classes
    assert (tmp_path / "all.txt").read_text().splitlines()[0] == "pictures/class0/#a, b.png"
    inside = (tmp_path / "pictures" / "inside.csv").read_text()
    assert inside.splitlines()[:2] == [
        "path,label",
        '"class0/#a, b.png",class0',
    ]


def test_names_that_begin_like_a_comment(picture_folder: MakeFolder, tmp_path: Path) -> None:
    data = picture_folder(2)
    (data / "0000.png").rename(data / "#1.png")
    (data / "0001.png").rename(data / " 2.png")
    place = data / "all.txt"
    place.write_text(list_text(place, find_images(data)))
    assert sorted(find_images(place).keys) == [" 2.png", "#1.png"]


def test_groups_and_single_images_of_a_file_stay(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (10, 200)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    (tmp_path / "all.csv").write_text("path,patient\nstack.tif,p1\n")
    images = find_images(tmp_path / "all.csv")
    assert len(images) == 2
    second = tmp_path / "second.csv"
    second.write_text(list_text(second, images.subset([1])))
    found = find_images(second)
    assert found.keys == ("stack.tif#page=1",)
    assert found.grouping == "column group"
    assert found.read(0).values.max() == 200


def test_what_no_list_can_name(picture_folder: MakeFolder, tmp_path: Path) -> None:
    data = picture_folder(3)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(data / "0000.png", "0000.png")
    with pytest.raises(UserError, match="Unpack"):
        list_text(tmp_path / "all.txt", find_images(tmp_path / "a.zip"))
    with pytest.raises(UserError, match=r"\.txt, \.csv, \.tsv"):
        list_text(tmp_path / "all.json", find_images(data))
    (data / "0001.png").rename(data / "one\ntwo.png")
    with pytest.raises(UserError, match="line break"):
        list_text(tmp_path / "all.txt", find_images(data))


# The command


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported folder of a tiny network with random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    export_backbone(folder, build_backbone(BackboneConfig("vit_micro_conv8", image_size=32)))
    return folder


@pytest.fixture
def data(picture_folder: MakeFolder) -> Path:
    """Train and val; of the training images one is there twice, and one cannot be read."""
    for split, count in (("train", 40), ("val", 6)):
        place = picture_folder(count, classes=2, split=split)
    content = (place / "train" / "class0" / "0000.png").read_bytes()
    (place / "train" / "class1" / "again.png").write_bytes(content)
    (place / "train" / "class0" / "broken.png").write_bytes(b"no image")
    return place


def arguments(model: Path, data: Path, out: Path, *options: str) -> list[str]:
    shared = ["--model", str(model), "--data", str(data), "--out", str(out), "--device", "cpu", "--workers", "0"]
    return ["curate", *shared, *options]


def test_from_a_folder_to_a_training(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sets" / "half.csv"
    options = ["--size", "20", "--clusters", "6", "2", "--copies-above", "0.999999"]
    assert main(arguments(model, data, out, *options)) == 0
    assert "20 chosen" in capsys.readouterr().out
    chosen, every = find_images(out), find_images(data / "train")
    assert len(chosen) == 20
    assert chosen.classes == ("class0", "class1")
    with (tmp_path / "sets" / "half-images.csv").open(newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    assert sorted(rows) == sorted(every.keys)
    assert sum(row["chosen"] == "yes" for row in rows.values()) == 20
    copy = rows["class1/again.png"]
    assert (copy["chosen"], copy["reason"], copy["copy_of"]) == ("no", "copy", "class0/0000.png")
    assert rows["class0/broken.png"]["reason"] == "unreadable"
    for path, row in rows.items():
        assert (row["chosen"] == "yes") == any(key.endswith(path) for key in chosen.keys)
        assert (row["chosen"] == "yes") == (row["reason"] == "")
    page = (tmp_path / "sets" / "half.html").read_text()
    assert any("copies of others" in text for text in Page(page).shown)
    assert page.count("data:image/webp") >= 10
    small = ["--backbone", "vit_micro_conv8", "--image-size", "32", "--batch-size", "20", "--epochs", "1"]
    small += ["--device", "cpu", "--workers", "0", "--optimizer.warmup-epochs", "0", "--views.num-local", "0"]
    small += [
        "--views.global-size",
        "32",
        "--method",
        "dino",
        "--method.out-dim",
        "64",
        "--evaluate-every",
        "0",
        "--scan",
        "none",
    ]
    assert main(["train", "--data", str(out), "--out", str(tmp_path / "run"), *small]) == 0
    assert (tmp_path / "run" / "metrics.jsonl").exists()


def test_the_same_command_writes_the_same_files(model: Path, data: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert main(arguments(model, data, tmp_path / name / "half.txt", "--share", "0.5")) == 0
    for name in ("half.txt", "half-images.csv", "half.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_mistakes_are_one_line_and_write_nothing(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(data / "val" / "class0" / "0000.png", "0000.png")
    (tmp_path / "file").write_text("")
    out, half = tmp_path / "sets" / "half.txt", ["--share", "0.5"]
    for changed, options, text in (
        ((data, out), ["--size", "1000"], "--size 1000 is more than the 42 images"),
        ((data, out), ["--size", "5", "--clusters", "100"], "--clusters 100 are more than the 42 images"),
        ((data, out), [], "--size"),
        ((data, out.with_suffix(".json")), half, ".txt, .csv, .tsv"),
        ((data, tmp_path / "file" / "half.txt"), half, "is a file"),
        ((tmp_path / "a.zip", out), half, "Unpack archives"),
    ):
        assert main(arguments(model, *changed, *options)) == 2
        error = capsys.readouterr().err
        assert text in error
        assert "Traceback" not in error
        assert not (tmp_path / "sets").exists()
    assert main(arguments(model, data, out, *half)) == 0
    assert main(arguments(model, data, out, *half)) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(arguments(model, data, out, *half, "--overwrite")) == 0


def test_archives_and_datasets_in_python(model: Path, data: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in sorted((data / "train").rglob("0*.png")):
            archive.write(path, path.relative_to(data / "train").as_posix())
    settings = {"workers": 0}
    packed = ds.curate(model, tmp_path / "a.zip", share=0.5, device="cpu", settings=settings)
    assert len(packed.chosen) == 20
    with pytest.raises(UserError, match="Unpack archives"):
        ds.curate(model, tmp_path / "a.zip", share=0.5, out=tmp_path / "half.txt")
    listed = ds.curate(model, data, share=0.5, device="cpu", settings=settings, out=tmp_path / "half.txt")
    assert len(find_images(tmp_path / "half.txt")) == len(listed.chosen) == 20
    assert listed.unreadable == ("class0/broken.png",)


def test_several_folders_make_one_list(model: Path, data: Path, tmp_path: Path) -> None:
    command = arguments(model, data / "val", tmp_path / "all.csv", "--share", "1", "--keep-copies")
    assert main([*command, "--data", str(data / "train" / "class0")]) == 0
    keys = find_images(tmp_path / "all.csv").keys
    assert len(keys) == 6 + 20
    assert sum("/train/" in key for key in keys) == 20


@pytest.mark.parametrize(("images", "expected"), [(5, (1,)), (45, (2,)), (250, (12, 2)), (100_000, (5000, 1000))])
def test_the_default_levels(images: int, expected: tuple[int, ...]) -> None:
    assert CurationConfig(size=1).levels(images) == expected
