"""Groups of images: from a pattern or a column, the same numbers everywhere, and splits that keep them whole."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dinoscope.data.finding import find_images
from dinoscope.data.groups import group_numbers, matched
from dinoscope.data.sources import ImageFolder, dataset_images, split_images
from dinoscope.errors import UserError
from tests.containers import WRITERS

PATIENT = r"^[^/]+/(?P<patient>p\d+)"


def patients(count: int, images: int = 3, classes: int = 2) -> ImageFolder:
    """Images cat0/p0_0.png ... of patients who each have one class; there are no files."""
    names = [f"cat{n % classes}/p{n}_{i}.png" for n in range(count) for i in range(images)]
    return ImageFolder(Path("anywhere"), tuple(names)).labelled_by([name.partition("/")[0] for name in names])


def test_a_pattern_names_groups() -> None:
    images = patients(4).grouped_by(PATIENT)
    assert images.grouping == PATIENT
    assert images.groups is not None
    assert [images.groups.index(number) for number in images.groups] == [0] * 3 + [3] * 3 + [6] * 3 + [9] * 3
    assert images.subset([11, 0]).groups == (images.groups[11], images.groups[0])
    assert images.without({images.keys[0]}).groups == images.groups[1:]
    assert images.unlabelled().groups == images.groups
    assert "p1" not in repr(images.groups), "names are not kept"


def test_groups_have_the_same_number_in_all_sources_and_a_number_of_63_bits() -> None:
    assert group_numbers(["a", "b", "a"]).tolist() == [group_numbers([name])[0] for name in "aba"]
    assert group_numbers(["caf\u00e9"]) == group_numbers(["cafe\u0301"])
    numbers = group_numbers(map(str, range(1000)))
    assert numbers.min() >= 0
    assert len(set(numbers.tolist())) == 1000


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("([a-z", "no regular expression"),
        ("p\\d+", "has 0 parts in parentheses"),
        ("(p)(\\d+)", "has 2 parts in parentheses"),
        ("(p[012]_)", "finds no group in 'cat1/p3_0.png'"),
        ("(x)?p", "finds no group in 'cat0/p0_0.png'"),
    ],
)
def test_patterns_that_name_no_group_are_refused(pattern: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        patients(4).grouped_by(pattern)
    assert message in str(caught.value)


def test_the_pattern_is_searched_anywhere_and_needs_no_name() -> None:
    assert list(matched(["a/p1.png", "b-p2.png"], r"(p\d)", "")) == ["p1", "p2"]


def test_groups_of_archives_are_those_of_the_folder_as_one_array(
    picture_folder: Callable[..., Path], tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow", reason="needs pyarrow (extra parquet)")
    folder = find_images(picture_folder(14, classes=3)).grouped_by(r"(\d)\.")
    for write in WRITERS.values():
        images = find_images(write(Path(folder.name), tmp_path / "made")).grouped_by(r"(\d)\.")
        assert tuple(images.groups) == folder.groups
        assert np.asarray(images.groups).dtype == np.int64
        for chosen in ([], [3, 1, 12], range(4, 9)):
            part = images.subset(chosen).subset(range(len(chosen)))
            assert tuple(part.groups) == folder.subset(chosen).groups
        assert tuple(pickle.loads(pickle.dumps(images.subset([5, 2]))).groups) == folder.subset([5, 2]).groups


def test_groups_of_a_dataset() -> None:
    images = dataset_images(torch.utils.data.TensorDataset(torch.zeros(12, 3, 4, 4)))
    images = images.grouped_by(r"(\d)$").subset([1, 11, 0])
    assert images.groups is not None
    assert images.groups[0] == images.groups[1] != images.groups[2]


# Lists


def listed(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(rows))
    return path


def test_a_column_of_a_list_tells_groups(tmp_path: Path) -> None:
    rows = ("b.png,cat,anna,s1", "a.png,dog,bert,s2", "c.png,dog,anna,s3")
    images = find_images(listed(tmp_path / "a.csv", "path,label,Patient,study", *rows))
    assert images.keys == ("a.png", "b.png", "c.png")
    assert images.grouping == "column patient"
    assert images.groups == tuple(group_numbers(["bert", "anna", "anna"]).tolist())
    assert find_images(listed(tmp_path / "b.csv", "path,label", "a.png,cat")).groups is None
    assert find_images(listed(tmp_path / "c.tsv", "path\tvideo", "a.png\tone", "b.png\tone")).labels is None
    assert len(set(find_images(tmp_path / "c.tsv").groups)) == 1


def test_every_image_of_a_list_needs_a_group(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"b\.png has no group"):
        find_images(listed(tmp_path / "a.csv", "path,slide", "a.png,1", "b.png,"))


# Splits


@pytest.mark.parametrize("grouped", [False, True])
def test_a_split_has_about_the_share_and_both_sides_are_the_images(grouped: bool) -> None:
    images = patients(400)
    images = images.grouped_by(PATIENT) if grouped else images
    train, rest = split_images(images, 0.8)
    assert 0.75 < len(train) / len(images) < 0.85
    assert sorted(train.keys + rest.keys) == sorted(images.keys)
    assert train.keys == tuple(key for key in images.keys if key in set(train.keys))
    assert train.labels == tuple(images.labels[images.keys.index(key)] for key in train.keys)
    if grouped:
        assert not set(train.groups) & set(rest.groups)


def test_a_split_does_not_depend_on_the_place_and_images_that_are_added_move_no_other() -> None:
    few, many = patients(30).grouped_by(PATIENT), patients(300).grouped_by(PATIENT)
    small, large = split_images(few, 0.8), split_images(many, 0.8)
    assert set(small[0].keys) == set(large[0].keys) & set(few.keys)
    assert set(split_images(many, 0.5)[0].keys) < set(large[0].keys)
    # as recorded: any machine must give these
    assert [n for n in range(10) if f"cat{n % 2}/p{n}_0.png" in small[1].keys] == RECORDED


RECORDED = [1, 7, 8]


def test_splits_without_sense_are_refused() -> None:
    for share in (0, 1, -0.1, 1.5, float("nan")):
        with pytest.raises(UserError, match="above 0 and below 1"):
            split_images(patients(4), share)
    for share in (1e-9, 1 - 1e-9):
        with pytest.raises(UserError, match="of 2 groups leaves none"):
            split_images(patients(2).grouped_by(PATIENT), share)
