"""Groups from the headers of DICOM files: the same everywhere, behind a key, and in no file or text."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from dinoscope.data import groups
from dinoscope.data.finding import find_images
from dinoscope.data.groups import key_file, own_key, settled
from dinoscope.data.images import UnreadableImage
from dinoscope.data.sources import dataset_images
from dinoscope.errors import UserError
from dinoscope.evaluation.knn import nearest
from tests.containers import WRITERS
from tests.pictures import write_pictures

pytest.importorskip("pydicom", reason="pydicom reads DICOM: pip install 'dinoscope[medical]'")

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from tests.data.test_dicom import data_set, encoded

PIXELS = np.arange(12, dtype=np.uint8).reshape(3, 4)


def write(file: Path, patient: str | None, study: str = "1.2.1", frames: int = 1, **more: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    elements = {"PatientName": "Secret^Name", "StudyInstanceUID": study, "SeriesInstanceUID": f"{study}.7"}
    dataset = data_set(PIXELS if frames == 1 else np.stack([PIXELS] * frames), **elements, **more)
    if patient is not None:
        dataset.PatientID = patient
    file.write_bytes(encoded(dataset))
    return file


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """Two classes, three patients in both, each with two studies of an image; one image has three frames."""
    folder = tmp_path / "hospital"
    for label in ("ill", "well"):
        for number, patient in enumerate(("Ann^4711", "Bob^4712", "Cid^4713")):
            write(folder / label / f"{number}.dcm", patient, f"1.2.{number}", frames=3 if number == 1 else 1)
    return folder


def partition(images) -> list[int]:
    """Of each image the first one of its group."""
    numbers = list(images.groups)
    return [numbers.index(number) for number in numbers]


def test_the_patient_is_read_from_the_header(hospital: Path) -> None:
    images = find_images(hospital).grouped_by("header:patient")
    assert images.keys[1:4] == ("ill/1.dcm#frame=0", "ill/1.dcm#frame=1", "ill/1.dcm#frame=2")
    assert partition(images) == [0, 1, 1, 1, 4, 0, 1, 1, 1, 4]
    assert images.grouping == f"header:patient#{own_key().name}"
    assert min(images.groups) >= 0
    assert partition(images.grouped_by("header:study")) == partition(images)
    write(hospital / "ill" / "0.dcm", "Ann^4711", "1.9")
    assert partition(find_images(hospital).grouped_by("header:study"))[5] == 5
    assert partition(find_images(hospital).grouped_by("header:patient"))[5] == 0
    assert set(images.groups).isdisjoint(images.grouped_by("header:series").groups)


def test_groups_are_the_same_in_any_container(hospital: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs pyarrow (extra parquet)")
    wanted = find_images(hospital).grouped_by("header:patient")
    places = [write(hospital, tmp_path / "made") for write in WRITERS.values()]
    listing = tmp_path / "list.csv"
    listing.write_text("path,patient\n" + "".join(f"hospital/{key},x\n" for key in wanted.keys if "#" not in key))
    for place in places:
        images = find_images(place).grouped_by("header:patient")
        assert tuple(images.groups) == wanted.groups, place
        assert tuple(images.subset([4, 0]).groups) == (wanted.groups[4], wanted.groups[0])
    assert find_images(listing).grouping == "column patient"
    images = find_images(listing).grouped_by("header:patient")
    assert set(images.groups) <= set(wanted.groups)
    assert len(set(images.groups)) == 2
    assert images.grouped_by("none").groups is None


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_the_encoding_makes_no_difference(syntax, tmp_path: Path) -> None:
    write(tmp_path / "a.dcm", "id 7")
    dataset = data_set(PIXELS, PatientID=" id 7  ", PatientName="other")
    (tmp_path / "b.dcm").write_bytes(encoded(dataset, syntax))
    assert partition(find_images(tmp_path).grouped_by("header:patient")) == [0, 0]


def test_umlauts_are_one_patient_in_any_character_set(tmp_path: Path) -> None:
    write(tmp_path / "a.dcm", "Jörg", SpecificCharacterSet="ISO_IR 100")
    write(tmp_path / "b.dcm", "Jo\u0308rg", SpecificCharacterSet="ISO_IR 192")
    assert partition(find_images(tmp_path).grouped_by("header:patient")) == [0, 0]


def test_every_image_needs_one(tmp_path: Path) -> None:
    write(tmp_path / "a.dcm", "id")
    for number, patient in enumerate((None, "", "  ", None)):
        write(tmp_path / f"b{number}.dcm", patient)
    write_pictures(tmp_path / "c", 1)
    with pytest.raises(UserError) as caught:
        find_images(tmp_path).grouped_by("header:patient")
    text = str(caught.value)
    assert "5 of 6 files have none: b0.dcm (no patient ID), b1.dcm (no patient ID), b2.dcm (no patient ID), …" in text
    (tmp_path / "a.dcm").unlink()
    for file in tmp_path.glob("b*"):
        file.unlink()
    with pytest.raises(
        UserError, match=r"1 of 1 files have none: c/\S+ \(not supported: (JPEG|PNG) headers have no patient"
    ):
        find_images(tmp_path).grouped_by("header:patient")


def test_a_damaged_header_is_no_secret_told(tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn) -> None:
    content = write(tmp_path / "a.dcm", "Secret-4711" * 9, "not.a.uid.Secret").read_bytes()
    recwarn.clear()  # those of writing it
    changes = (b"\x10\0\x20\0LO", b"\x10\0\x20\0Z\xff"), (b"DICM", b"DICM\x02\0\0\0UL\xff\xff")
    for number, (old, new) in enumerate(changes):
        (tmp_path / f"b{number}.dcm").write_bytes(content.replace(old, new))
    (tmp_path / "c.dcm").write_bytes(content[: content.index(b"Secret-4711") + 6])
    texts = []
    for kind in ("patient", "study"):
        try:
            find_images(tmp_path).grouped_by(f"header:{kind}")
        except UserError as error:
            texts.append(str(error))
    assert texts
    told = " ".join([*texts, caplog.text, *(str(warning.message) for warning in recwarn)])
    assert "Secret" not in told


def test_datasets_have_no_headers() -> None:
    images = dataset_images(torch.utils.data.TensorDataset(torch.zeros(2, 3, 4, 4)))
    with pytest.raises(UnreadableImage):
        images.identifier(0, "patient")
    with pytest.raises(UserError, match=r"2 of 2 files have none: 0 \(no file\)"):
        images.grouped_by("header:patient")


def test_only_three_kinds(hospital: Path) -> None:
    with pytest.raises(UserError, match="header:patient, header:study, header:series"):
        find_images(hospital).grouped_by("header:name")


def test_no_neighbour_is_of_the_same_patient(hospital: Path) -> None:
    """Each image is most like those of its patient, which say nothing about the class."""
    images = find_images(hospital).grouped_by("header:patient")
    first = torch.tensor(partition(images))
    features = torch.eye(len(images))[first] + 0.01 * torch.eye(len(images))
    assert (first[nearest(features, features, 1)[1]] == first[:, None]).all(), "its own"
    numbers = torch.tensor(images.groups)
    _, neighbours = nearest(features, features, 2, groups=(numbers, numbers))
    assert (first[neighbours] != first[:, None]).all()


# The cache


def test_headers_are_read_once_and_the_cache_holds_keyed_hashes(
    hospital: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []
    first = find_images(hospital).grouped_by("header:patient", lambda *both: told.append(both))
    assert told[-1] == (6, 6)
    (store,) = (Path(os.environ["DINOSCOPE_CACHE"]) / "groups").iterdir()
    text = store.read_text()
    unkeyed = [str(number) for number in groups.group_numbers(["Ann^4711", "Bob^4712", "Cid^4713"])]
    assert not any(secret in text for secret in ("Ann^", "Bob^", "Secret", *unkeyed, own_key().secret.hex()))
    assert {row[2] for row in json.loads(text)["files"].values()} == set(first.groups)
    write(hospital / "ill" / "0.dcm", "someone else")
    read: list[int] = []
    kind = type(find_images(hospital))
    real = kind.identifier
    monkeypatch.setattr(kind, "identifier", lambda self, i, kind: (read.append(i), real(self, i, kind))[1])
    second = find_images(hospital).grouped_by("header:patient")
    assert read == [0]
    assert second.groups[1:] == first.groups[1:]
    assert second.groups[0] not in first.groups
    second.subset([3, 4]).grouped_by("header:patient")
    assert len(json.loads(store.read_text())["files"]) == 6, "a part does not make it forget the others"
    store.write_text("{")
    assert find_images(hospital).grouped_by("header:patient").groups == second.groups


# The key


def test_another_key_gives_other_numbers_and_the_same_groups(
    hospital: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = find_images(hospital).grouped_by("header:patient")
    monkeypatch.setenv(groups.KEY_VARIABLE, str(tmp_path / "other.key"))
    with pytest.raises(UserError, match="there is none"):
        find_images(hospital).grouped_by(images.grouping)
    assert not (tmp_path / "other.key").exists(), "a key that is missed is not replaced in silence"
    others = find_images(hospital).grouped_by("header:patient")
    assert set(images.groups).isdisjoint(others.groups)
    assert partition(images) == partition(others)
    assert images.grouping != others.grouping == settled("header:patient") == settled(others.grouping)
    with pytest.raises(UserError, match=f"in .*other.key it is {own_key().name}"):
        find_images(hospital).grouped_by(images.grouping)
    monkeypatch.undo()
    monkeypatch.setenv(groups.KEY_VARIABLE, str(tmp_path / "other.key"))
    assert find_images(hospital).grouped_by(others.grouping).groups == others.groups


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX's")
def test_the_key_is_its_owners_alone(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        key = own_key()
    assert str(key_file()) in caplog.text
    assert key_file().stat().st_mode & 0o777 == 0o600
    assert key.secret.hex() not in f"{key}{caplog.text}"
    assert key == own_key()
    caplog.clear()
    key_file().chmod(0o644)
    own_key()
    assert "chmod 600" in caplog.text


def test_a_first_use_that_is_killed_leaves_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for name in ("fsync", "link"):
        with monkeypatch.context() as patched:
            patched.setattr(os, name, killed)
            with pytest.raises(KeyboardInterrupt):
                own_key()
        assert not key_file().exists()
    assert len(own_key().secret) == 32


def test_a_file_system_without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refused)
    assert own_key() == own_key()
    assert [file.name for file in key_file().parent.iterdir()] == ["group.key"]


def _report_key(barrier, queue) -> None:
    barrier.wait()
    queue.put(own_key().secret.hex())


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="starting Python anew takes seconds")
def test_processes_that_make_the_key_at_once_agree() -> None:
    fork = multiprocessing.get_context("fork")
    barrier, queue = fork.Barrier(4), fork.Queue()
    processes = [fork.Process(target=_report_key, args=(barrier, queue)) for _ in range(4)]
    for process in processes:
        process.start()
    found = {queue.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert found == {key_file().read_text().strip()}
    assert [file.name for file in key_file().parent.iterdir()] == ["group.key"]


@pytest.mark.parametrize("text", ["", "ab" * 31, "AB" * 32, "\xff" * 64])
def test_a_damaged_key_is_refused_and_not_shown(text: str) -> None:
    key_file().write_text(text, encoding="latin-1")
    with pytest.raises(UserError) as caught:
        own_key()
    assert str(key_file()) in str(caught.value)
    assert not text or text not in str(caught.value)
    assert key_file().read_text(encoding="latin-1") == text
