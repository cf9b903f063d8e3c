"""Images of several places are those of one folder that holds them all."""

from __future__ import annotations

import pickle
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinoscope.data.finding import find_images, find_split, resolve_split
from dinoscope.errors import UserError
from dinoscope.places import JoinedPath, joined, parse_place
from tests.containers import write_tar, write_zip
from tests.pictures import write_pictures

WRITE = {0: lambda folder, out: folder, 1: write_tar, 2: write_zip}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("whole") / "pictures", 12, classes=3)


@settings(max_examples=10, deadline=None)
@given(owners=st.lists(st.sampled_from([0, 1, 2]), min_size=12, max_size=12).filter(lambda own: len(set(own)) > 1))
def test_a_folder_in_parts(whole: Path, owners: list[int]) -> None:
    expected = find_images(whole)
    with tempfile.TemporaryDirectory() as name:
        for path, owner in zip(expected.keys, owners, strict=True):
            file = Path(name, f"part{owner}", path)
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(whole / path, file)
        places = [WRITE[owner](Path(name, f"part{owner}"), Path(name, f"made{owner}")) for owner in sorted(set(owners))]
        images = find_images(joined(places))
        assert images.keys == expected.keys
        assert images.labels == expected.labels
        assert images.classes == expected.classes
        assert images.fingerprint() == expected.fingerprint()
        assert images.sizes() == expected.sizes()
        assert sorted(images.disk_order().tolist()) == list(range(12))
        by_owner = [owners[index] for index in images.disk_order()]
        assert by_owner == sorted(by_owner)
        chosen = [7, 0, 3]
        part, of_whole = images.subset(chosen), expected.subset(chosen)
        assert (part.keys, part.labels) == (of_whole.keys, of_whole.labels)
        assert part.fingerprint() == of_whole.fingerprint()
        assert sorted(part.disk_order().tolist()) == [0, 1, 2]
        received = pickle.loads(pickle.dumps(part))
        for index, place in enumerate(chosen):
            np.testing.assert_array_equal(received.read(index).values, expected.read(place).values)
            assert part.header(index) == expected.header(place)
            assert part.content(index) == expected.content(place)
            assert part.stamp(index)[0] == expected.stamp(place)[0]
        pattern = "([0-9])[.]png"
        assert tuple(images.grouped_by(pattern).groups) == tuple(expected.grouped_by(pattern).groups)
        assert images.without({images.keys[4]}).keys == expected.without({expected.keys[4]}).keys
        assert images.unlabelled().labels is None


def test_names_that_two_places_share(picture_folder, tmp_path: Path) -> None:
    one, other = picture_folder(4, classes=2, name="one"), picture_folder(6, classes=2, name="other")
    (tmp_path / "b").mkdir()
    images = find_images(joined([one, write_zip(other, tmp_path / "b" / "more")]))
    assert {key.partition("/")[0] for key in images.keys} == {"one", "more"}
    assert images.classes == ("class0", "class1")
    groups = images.grouped_by("(class[01])/").groups
    assert groups is not None
    assert len(set(groups)) == 2  # a group of one name is one, wherever it lies
    with pytest.raises(UserError, match="finds no group"):
        images.grouped_by("(one)/")  # a pattern sees the names without that of the place
    other.rename(tmp_path / "b" / "one")
    images = find_images(joined([one, tmp_path / "b" / "one"]))
    assert {key.rpartition("/class")[0] for key in images.keys} == {f"{tmp_path.name}/one", "b/one"}


def test_classes_of_places_that_differ(picture_folder, tmp_path: Path) -> None:
    first, second = picture_folder(4, classes=2, name="first"), picture_folder(3, classes=1, name="second")
    (second / "class0").rename(second / "a new one")
    third = picture_folder(2, name="third")
    images = find_images(joined([first, second]))
    assert images.classes == ("a new one", "class0", "class1")
    assert images.labels is not None
    assert [images.classes[label] for label in images.labels[:3]] == ["a new one"] * 3
    assert find_images(joined([first, third])).labels is None
    with pytest.raises(UserError, match="third"):
        find_images(joined([first, third]), labelled=True)
    assert find_images(joined([first, second]), labelled=False).labels is None


def test_splits_of_each_place(picture_folder, tmp_path: Path) -> None:
    for name in ("one", "two"):
        picture_folder(4, classes=2, split="train", name=name)
        picture_folder(2, classes=2, split="val", name=name)
    one, two, more = tmp_path / "one", write_tar(tmp_path / "two", tmp_path / "two"), picture_folder(6, name="more")
    data = joined([one, two, more])
    assert find_split(data, "train") == JoinedPath((one / "train", two / "train", more))
    assert find_split(data, "val") == JoinedPath((one / "val", two / "val"))
    assert len(find_images(resolve_split(data, "train"))) == 14
    assert find_split(joined([one, more]), "val") == one / "val"
    plain = joined([more, picture_folder(2, name="others")])
    assert find_split(plain, "train") is None
    assert resolve_split(plain, "train") == plain
    with pytest.raises(UserError, match="no validation folder"):
        resolve_split(plain, "val")


def test_groups_of_lists(picture_folder, tmp_path: Path) -> None:
    places = []
    for name in ("one", "two"):
        folder = picture_folder(2, name=name)
        rows = [f"{path.name},{name}{index},p{index}" for index, path in enumerate(sorted(folder.iterdir()))]
        (folder / "list.csv").write_text("\n".join(["path,label,patient", *rows]))
        places.append(folder / "list.csv")
    images = find_images(joined(places))
    assert images.grouping == "column patient"
    assert images.groups is not None
    assert len(set(images.groups)) == 2
    assert images.classes == ("one0", "one1", "two0", "two1")
    assert find_images(joined([places[0], picture_folder(2, name="three")])).groups is None


def test_the_text_of_joined_places(tmp_path: Path) -> None:
    data = joined([Path("photos"), Path("cats + dogs"), parse_place("s3://bucket/a.tar")])
    assert isinstance(data, JoinedPath)
    assert parse_place(str(data)) == data
    assert str(data) == f"{Path.cwd()}/photos + {Path.cwd()}/cats + dogs + s3://bucket/a.tar"
    assert parse_place("cats + dogs") == Path("cats + dogs")  # the name of one folder
    assert joined([Path("photos")]) == Path("photos")
    with pytest.raises(UserError, match="given twice"):
        joined([Path("photos"), Path("photos")])


def test_neighbours_and_patients_come_from_the_files_of_each_place(tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="pydicom reads DICOM: pip install 'dinoscope[medical]'")
    from tests.data.test_dicom import data_set, encoded

    rng = np.random.default_rng(0)
    for name, patient in (("one", "anna"), ("two", "anna"), ("three", "berta")):
        (tmp_path / name).mkdir()
        values = rng.integers(0, 4096, (3, 8, 8)).astype(np.uint16)
        content = encoded(data_set(values, PatientID=patient))
        (tmp_path / name / f"{name}.dcm").write_bytes(content)
    places = [tmp_path / "one", tmp_path / "two", write_tar(tmp_path / "three", tmp_path / "made")]
    images = find_images(joined(places)).with_slices(3)
    assert len(images) == 9
    for index, key in enumerate(images.keys):
        assert images.header(index).channels == 3
        folder = tmp_path / key.partition(".dcm")[0].rpartition("/")[2]
        alone = find_images(folder).with_slices(3)
        np.testing.assert_array_equal(images.read(index).values, alone.read(index % 3).values)
    numbers = images.grouped_by("header:patient").groups
    assert numbers is not None
    patients = {key.partition(".dcm")[0]: number for key, number in zip(images.keys, numbers, strict=True)}
    assert patients["one"] == patients["two"] != patients["three"]
    assert images.grouped_by("none").groups is None


def test_a_place_is_given_once(tmp_path: Path) -> None:
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    for other in ("photos", "photos/sub", "photos/../photos", "link"):
        for places in ([tmp_path / "photos", tmp_path / other], [tmp_path / other, tmp_path / "photos"]):
            with pytest.raises(UserError, match="give each place of images once"):
                joined(places)
    assert len(joined([tmp_path / "photos", tmp_path / "photos2"]).places) == 2
    with pytest.raises(UserError, match="a single place"):
        _ = joined([tmp_path / "photos", tmp_path / "photos2"]).parent
