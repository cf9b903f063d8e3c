"""Images in tar, zip and parquet files are the images of the folder that they were made of."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dinoscope.data import archives
from dinoscope.data.archives import Names, Numbers, folder_range
from dinoscope.data.finding import braces, find_images, find_split, resolve_split
from dinoscope.data.reader import UnreadableImage
from dinoscope.errors import UserError
from tests.containers import WRITERS, write_parquet, write_tar, write_zip

pytest.importorskip("pyarrow", reason="needs pyarrow (extra parquet)")


@pytest.fixture(params=list(WRITERS))
def write(request: pytest.FixtureRequest) -> Callable[[Path, Path], Path]:
    return WRITERS[request.param]


def tar_of(path: Path, contents: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_the_same_images_as_in_the_folder(picture_folder, write, tmp_path: Path) -> None:
    folder = find_images(picture_folder(14, classes=3))
    images = find_images(write(Path(folder.name), tmp_path / "made"))
    assert images.keys == folder.keys
    assert tuple(images.labels) == folder.labels
    assert images.classes == folder.classes
    assert images.fingerprint() == folder.fingerprint()
    assert images.sizes() == folder.sizes()
    for place in range(len(folder)):
        np.testing.assert_array_equal(images.read(place).values, folder.read(place).values)
        assert images.header(place) == folder.header(place)


def test_parts_keep_names_and_labels(picture_folder, write, tmp_path: Path) -> None:
    folder = find_images(picture_folder(14, classes=3))
    images = find_images(write(Path(folder.name), tmp_path / "made"))
    for chosen in ([], [3, 1, 12], range(4, 9)):
        part, expected = images.subset(chosen).subset(range(len(chosen))), folder.subset(chosen)
        assert part.keys == expected.keys
        assert tuple(part.labels) == expected.labels
        assert part.sizes() == expected.sizes()
    assert images.without({folder.keys[2]}).keys == folder.without({folder.keys[2]}).keys
    assert images.unlabelled().labels is None
    assert torch.tensor(images.labels).tolist() == list(folder.labels)
    assert np.asarray(images.subset([3, 1]).labels).tolist() == [folder.labels[3], folder.labels[1]]


def test_another_process_gets_the_place_and_not_the_images(picture_folder, write, tmp_path: Path) -> None:
    images = find_images(write(picture_folder(14, classes=3), tmp_path / "made"))
    images.read(0)
    sent = pickle.dumps(images.subset([5, 2]))
    assert len(sent) < 4000
    received = pickle.loads(sent)
    assert received.keys == images.subset([5, 2]).keys
    np.testing.assert_array_equal(received.read(0).values, images.read(5).values)


def test_splits_within_a_container(picture_folder, tmp_path: Path) -> None:
    picture_folder(8, classes=2, split="train")
    folder = picture_folder(4, classes=2, split="val")
    for place in (write_tar(folder, tmp_path / "a"), write_zip(folder, tmp_path / "b")):
        for split in ("train", "val"):
            expected = find_images(folder / split)
            assert find_split(place, split) == place / split
            images = find_images(resolve_split(place, split), labelled=True)
            assert images.keys == expected.keys
            assert images.classes == expected.classes
        assert find_images(place, splits=True).classes == ("class0", "class1")
        assert find_images(place).labels is None


def test_an_archive_of_a_folder_has_its_splits(picture_folder, tmp_path: Path) -> None:
    picture_folder(8, classes=2, split="train")
    picture_folder(4, classes=2, split="val")
    place = write_zip(tmp_path, tmp_path.parent / f"{tmp_path.name}-above")
    assert find_split(place, "val") == place / "pictures" / "val"
    assert len(find_images(find_split(place, "val"))) == 4
    assert find_images(place, splits=True).classes == ("class0", "class1")


def test_splits_are_found_next_to_a_stray_image(picture_folder, tmp_path: Path) -> None:
    picture_folder(8, classes=2, split="train")
    folder = picture_folder(4, classes=2, split="val")
    for stray in ("a cover.png", "z.png"):
        (folder / stray).write_bytes(next((folder / "val").rglob("*.png")).read_bytes())
    place = write_tar(folder, tmp_path / "a")
    for split, count in (("train", 8), ("val", 4)):
        assert find_split(place, split) == place / split
        assert len(find_images(place / split, labelled=True)) == count
    assert find_images(place, splits=True).labels is None
    assert find_images(folder, splits=True).labels is None
    with pytest.raises(UserError, match="not every image lies in a folder"):
        find_images(place, labelled=True)


def test_parquet_files_named_after_splits(picture_folder, tmp_path: Path) -> None:
    train, val = picture_folder(8, classes=2, name="one"), picture_folder(4, classes=2, name="two")
    data = tmp_path / "data"
    data.mkdir()
    write_parquet(train / "class0", data / "train-00000-of-00002")
    write_parquet(train / "class1", data / "train-00001-of-00002")
    write_parquet(val, data / "validation-00000-of-00001")
    for place in (data, data / "*.parquet"):
        assert find_split(place, "train") == data / "train-*.parquet"
        assert find_split(place, "val") == data / "validation-00000-of-00001.parquet"
    assert len(find_images(find_split(data, "train"))) == 8
    assert len(find_images(data)) == 12
    assert find_split(data / "train-*.parquet", "train") is None


def test_shards_are_joined_by_a_pattern(picture_folder, tmp_path: Path) -> None:
    folder = picture_folder(12, classes=3)
    for number in range(3):
        part = {
            f"class{number}/{file.name}": file.read_bytes() for file in sorted((folder / f"class{number}").iterdir())
        }
        tar_of(tmp_path / f"shard-{number:03d}.tar", part)
    expected = find_images(folder)
    for pattern in ("shard-*.tar", "shard-{000..002}.tar", "{shard-000.tar,shard-001.tar,shard-002.tar}"):
        images = find_images(tmp_path / pattern)
        assert images.keys == expected.keys
        assert tuple(images.labels) == expected.labels
        np.testing.assert_array_equal(images.read(7).values, expected.read(7).values)
    assert images.disk_order().tolist() == list(range(12))
    with pytest.raises(UserError, match="no such file"):
        find_images(tmp_path / "shard-{000..003}.tar")
    with pytest.raises(UserError, match="no file matches"):
        find_images(tmp_path / "part-*.tar")


def test_labels_of_webdataset(picture_folder, tmp_path: Path) -> None:
    image = next(picture_folder(1).glob("*.png")).read_bytes()
    contents = {f"{number:03d}.png": image for number in range(12)}
    contents |= {f"{number:03d}.cls": b"%d\n" % number for number in range(12)}
    images = find_images(tar_of(tmp_path / "a.tar", dict(sorted(contents.items()))))
    assert images.classes == tuple(map(str, range(12)))  # by value, not as texts
    assert tuple(images.labels) == tuple(range(12))
    assert images.passed_over == ((".cls", 12),)
    contents = {
        "a.png": image,
        "a.json": json.dumps({"label": "cat", "caption": "x"}).encode(),
        "b.png": image,
        "b.json": b"{",
    }
    assert find_images(tar_of(tmp_path / "b.tar", contents)).labels is None  # of one image it is not known


def test_what_is_not_an_image_is_counted(picture_folder, tmp_path: Path) -> None:
    image = next(picture_folder(1).glob("*.png")).read_bytes()
    contents = {
        "a.png": image,
        "b.txt": b"x",
        ".hidden/c.png": image,
        "__MACOSX/a.png": image,
        "../d.png": image,
        "e": b"",
    }
    images = find_images(tar_of(tmp_path / "a.tar", contents))
    assert images.keys == ("a.png",)
    assert dict(images.passed_over) == {".txt": 1, "without an ending": 1}
    with pytest.raises(UserError, match=r"no images.*1 \.txt"):
        find_images(tar_of(tmp_path / "b.tar", {"b.txt": b"x"}))


def test_of_two_members_with_one_name_the_last_counts(picture_folder, tmp_path: Path) -> None:
    one, other = (file.read_bytes() for file in sorted(picture_folder(2).glob("*.png")))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for content in (one, other):
            member = tarfile.TarInfo("a.png")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    images = find_images(tmp_path / "a.tar")
    assert list(images.sizes()) == [len(other)]
    tar_of(tmp_path / "b.tar", {"a.png": one})
    with pytest.raises(UserError, match=r"b\.tar: 'a\.png' is also in another"):
        find_images(tmp_path / "*.tar")


def test_the_index_is_kept_until_a_container_changes(picture_folder, tmp_path: Path, monkeypatch) -> None:
    place = write_tar(picture_folder(6), tmp_path / "a")
    first = find_images(place)
    monkeypatch.setattr(archives, "_collected", lambda *_: pytest.fail("made again"))
    assert find_images(place).keys == first.keys
    monkeypatch.undo()
    picture_folder(9)
    write_tar(tmp_path / "pictures", tmp_path / "a")
    assert len(find_images(place)) == 9


def test_a_damaged_index_is_made_again(picture_folder, tmp_path: Path) -> None:
    place = write_tar(picture_folder(6), tmp_path / "a")
    folder = find_images(place).index.folder
    (folder / "offsets.npy").write_bytes(b"no array")
    assert len(find_images(place)) == 6
    (folder / "index.json").write_text("{}")
    assert find_images(place).read(5).values.any()


def test_damaged_containers_are_named(picture_folder, tmp_path: Path) -> None:
    folder = picture_folder(6)
    tar, archive = write_tar(folder, tmp_path / "a"), write_zip(folder, tmp_path / "b")
    parquet = write_parquet(folder, tmp_path / "c")
    archive.write_bytes(archive.read_bytes()[:-30])
    parquet.write_bytes(b"PAR1" + parquet.read_bytes()[300:])
    for place in (archive, parquet):
        with pytest.raises(UserError, match=rf"{place.name}: .*damaged"):
            find_images(place)
    packed = tmp_path / "d.tar.gz"
    packed.write_bytes(gzip.compress(tar.read_bytes()))
    with pytest.raises(UserError, match=r"Decompress it first"):
        find_images(packed)


def test_a_container_cut_short_after_its_index_was_made(picture_folder, tmp_path: Path) -> None:
    place = write_tar(picture_folder(6), tmp_path / "a")
    images = find_images(place)
    os.truncate(place, 2000)
    with pytest.raises(UnreadableImage, match="truncated"):
        images.read(0)  # written last


def test_zip_files_that_are_refused(picture_folder, tmp_path: Path) -> None:
    image = next(picture_folder(1).glob("*.png"))
    place = tmp_path / "a.zip"
    with zipfile.ZipFile(place, "w", zipfile.ZIP_BZIP2) as archive:
        archive.write(image, "a.png")
    with pytest.raises(UserError, match=r"'a\.png' is compressed by method 12"):
        find_images(place)
    content = bytearray(write_zip(image.parent, tmp_path / "b").read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    place.write_bytes(content)
    with pytest.raises(UserError, match="encrypted"):
        find_images(place)


def test_a_member_that_unpacks_to_more_than_it_says(picture_folder, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(50_000_000))
    content = bytearray((tmp_path / "a.zip").read_bytes())
    begin = content.index(b"PK\x01\x02")
    content[begin + 24 : begin + 28] = (1000).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(UnreadableImage, match="another size"):
        find_images(tmp_path / "a.zip").read(0)
    content[begin + 24 : begin + 28] = (4_000_000_000).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(UnreadableImage, match="too large"):
        find_images(tmp_path / "a.zip").read(0)


def test_parquet_of_classes_with_names(picture_folder, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    image = next(picture_folder(1).glob("*.png")).read_bytes()
    table = pyarrow.table({"img": [{"bytes": image, "path": None}] * 3, "label": [1, 0, 1]})
    info = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    images = find_images(tmp_path / "a.parquet")
    assert images.keys == ("cat/a-1", "dog/a-0", "dog/a-2")
    assert images.classes == ("cat", "dog")
    assert images.read(2).values.any()
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"no column holds images.*columns: text"):
        find_images(tmp_path / "b.parquet")


# Lists of files


def test_a_list_of_paths(picture_folder, tmp_path: Path) -> None:
    folder = find_images(picture_folder(6))
    (tmp_path / "some.txt").write_text("# chosen\npictures/0003.png\n\npictures/0001.png\n")
    images = find_images(tmp_path / "some.txt")
    assert images.keys == ("pictures/0001.png", "pictures/0003.png")
    np.testing.assert_array_equal(images.read(1).values, folder.read(3).values)
    assert images.labels is None
    with pytest.raises(UserError, match=r"no labels.*column"):
        find_images(tmp_path / "some.txt", labelled=True)
    assert find_split(tmp_path / "some.txt", "train") is None


def test_a_table_of_paths_and_labels(picture_folder, tmp_path: Path) -> None:
    folder = picture_folder(6)
    rows = [f"{folder / f'{number:04d}.png'},{'ab'[number % 2]}" for number in range(6)]
    (tmp_path / "all.csv").write_text("\n".join(["Path,label", *rows]))
    images = find_images(tmp_path / "all.csv")
    assert images.classes == ("a", "b")
    assert images.labels == (0, 1, 0, 1, 0, 1)
    assert images.read(0).values.any()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path\n", "names no image"),
        ("name,label\na.png,x", "no column of paths"),
        ("path\na.png\na.png", "a.png is named twice"),
        ("path,label\na.png,x\nb.png,", "b.png has no label"),
    ],
)
def test_lists_that_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        find_images(tmp_path / "a.csv")


# Columns


@given(st.lists(st.text("ab/é", min_size=1, max_size=6), unique=True))
def test_names_are_those_of_a_list(texts: list[str]) -> None:
    encoded = sorted(os.fsencode(text) for text in texts)
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    names = Names(np.frombuffer(b"".join(encoded), np.uint8), ends, range(len(encoded)))
    plain = [os.fsdecode(text) for text in encoded]
    assert list(names) == plain
    assert names[1:] == tuple(plain[1:])
    for prefix in ("a/", "ab/", "é/"):
        first, last = folder_range(names, prefix)
        assert list(names[first:last]) == [text for text in plain if text.startswith(prefix)]


def test_numbers_are_those_of_python() -> None:
    labels = Numbers(np.array([3, 1, 2], np.int32), np.array([2, 0]))
    assert (list(labels), labels[1], type(labels[0])) == ([2, 3], 3, int)


def test_braces() -> None:
    assert braces("a{1,2}{x..y}") == ["a1{x..y}", "a2{x..y}"]
    assert braces("{08..11}") == ["08", "09", "10", "11"]
    assert braces("{8..11}") == ["8", "9", "10", "11"]
    assert braces("{0..1}{a,b}") == ["0a", "0b", "1a", "1b"]
    for wrong in ("{5..2}", "{0..99999999}"):
        with pytest.raises(UserError, match="count upwards"):
            braces(wrong)
