"""Every scientific format goes through the commands: scan, train, k-NN, features, pictures and the report.

The same slices are written as each format; read right, they train to the same weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dinoscope import checkpoint, cli
from dinoscope.data.finding import find_images
from dinoscope.data.grey_range import HEADER, with_fallback
from dinoscope.data.groups import group_numbers, key_file, own_key
from dinoscope.training.loop import train
from dinoscope.training.run_folder import read_config
from tests.conformance import cases
from tests.containers import WRITERS as CONTAINERS

# The largest value. It is odd: none lies half-way between two grey levels, where inversion rounds otherwise.
LEVELS = 2999


def write_npy(place: Path, slices: np.ndarray) -> None:
    np.save(place.with_suffix(".npy"), slices)


def write_tiff(place: Path, slices: np.ndarray) -> None:
    tifffile = pytest.importorskip("tifffile", reason="needs tifffile (extra microscopy)")
    tifffile.imwrite(place.with_suffix(".tif"), slices, photometric="minisblack", compression="zlib")


def write_nifti(place: Path, slices: np.ndarray) -> None:
    """Right, anterior, superior: the first axis is a slice's columns, the second its rows from below."""
    nibabel = pytest.importorskip("nibabel", reason="needs nibabel (extra medical)")
    voxels = slices.transpose(2, 1, 0)[:, ::-1].astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1, 1, 5, 1])), place.with_suffix(".nii.gz"))


def write_dicom(place: Path, slices: np.ndarray) -> None:
    """As MONOCHROME1 with an intercept, in a file without a suffix."""
    pytest.importorskip("pydicom", reason="needs pydicom (extra medical)")
    from tests.data.test_dicom import data_set, encoded

    stored = (LEVELS - slices).astype(np.uint16)
    dataset = data_set(stored, 12, PhotometricInterpretation="MONOCHROME1", RescaleSlope="1", RescaleIntercept="0")
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = (
        "Secret^Name",
        f"ID-4711-{place.name}",
        "19701231",
    )
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.StudyDate = (
        "1.2.840.4711.1",
        "1.2.840.4711.2",
        "20260130",
    )
    place.with_suffix("").write_bytes(encoded(dataset))


WRITERS: dict[str, Callable[[Path, np.ndarray], None]] = {
    "npy": write_npy,
    "tiff": write_tiff,
    "nifti": write_nifti,
    "dicom": write_dicom,
}


def folder_of(name: str, out: Path) -> Path:
    """Two classes of three files with five slices each, in train and val."""
    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in ("dark", "light"):
            for number in range(3):
                slices = draw.integers(0, LEVELS, (5, 20, 24))
                slices = (slices * (0.4 if label == "dark" else 1)).astype(np.uint16)
                slices[:, 0, 0], slices[:, 0, 1] = 0, LEVELS
                place = out / split / label / f"IM{number}"
                place.parent.mkdir(parents=True, exist_ok=True)
                WRITERS[name](place, slices)
    return out


@pytest.mark.parametrize("name", list(WRITERS))
def test_from_scan_to_report(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = folder_of(name, tmp_path / "data"), tmp_path / "run"
    assert len(find_images(data / "train")) == 30
    train(cases.run_config("dino", data, run, epochs=1, workers=1, window=(LEVELS / 2, float(LEVELS))))
    commands = {
        "scan": f"scan {data}",
        "knn": f"knn --model {run} --data {data} --ks 3 --device cpu",
        "embed": f"embed --model {run} --data {data}/val --out {tmp_path}/features.csv --device cpu",
        "map": f"map --model {run} --data {data} --method pca --out {tmp_path}/map.png --device cpu",
        "attention": f"attention --model {run} {data}/val --limit 2 --out {tmp_path}/attention --device cpu",
        "report": f"report {run} --out {tmp_path}/report.html --device cpu",
    }
    for command, line in commands.items():
        assert cli.main(line.split()) == 0, (command, capsys.readouterr())
    assert_nothing_of_headers_in(tmp_path, data)


def assert_nothing_of_headers_in(folder: Path, data: Path, *more: bytes) -> None:
    """No file below a folder, but for the data, has anything of the headers, nor what else must not be there."""
    secrets = (b"Secret", b"ID-4711", b"19701231", b"1.2.840.4711", b"20260130", *more)
    written = [file for file in folder.rglob("*") if file.is_file() and not file.is_relative_to(data)]
    assert len(written) > 10
    for file in written:
        content = file.read_bytes()
        assert not any(secret in content for secret in secrets), file


@pytest.mark.parametrize("container", ["folder", "deflated zip"])
def test_groups_of_headers_are_in_no_file_but_as_keyed_hashes(
    container: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """From parquet files, bytes are copied into the cache whole, so these are not among them."""
    monkeypatch.setenv("DINOSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DINOSCOPE_GROUP_KEY_FILE", str(tmp_path / "key" / "group.key"))
    (tmp_path / "key").mkdir()
    (tmp_path / "key" / "group.key").write_text("5a" * 32)  # so few patients are split otherwise by another key
    data, run, draw = tmp_path / "data", tmp_path / "run", np.random.default_rng(0)
    for label, light in (("dark", 0.4), ("light", 1.0)):
        (data / "images" / label).mkdir(parents=True)
        for number in range(6):
            write_dicom(
                data / "images" / label / f"IM{number}", (draw.integers(0, LEVELS, (4, 20, 24)) * light).astype("u2")
            )
    place = data / "images" if container == "folder" else CONTAINERS[container](data / "images", data / "packed")
    train(cases.run_config("dino", place, run, epochs=1, group="header:patient", split=0.6, window=(1500.0, 3000.0)))
    commands = {
        "scan": f"scan {place} --group header:study",
        "knn": f"knn --model {run} --data {place} --ks 3 --device cpu --out {tmp_path}/knn",
        "wrong": f"knn --model {run} --data {place} --ks 3 --device cpu --group header:series",
    }
    if container == "folder":
        commands["report"] = f"report {run} --out {tmp_path}/report.html --data {place} --skip linear throughput"
    for command, line in commands.items():
        assert cli.main(line.split()) == (2 if command == "wrong" else 0), (command, capsys.readouterr())
    kept = json.loads((run / "evaluations" / "knn.json").read_text())["protocol"]
    assert kept["group"] == read_config(run).group == f"header:patient#{own_key().name}"
    assert kept["split"] == 0.6
    assert kept["query_images"] % 8 == 0 < kept["query_images"], "patients are whole, over both classes"
    names = [f"ID-4711-IM{number}" for number in range(6)]
    numbers = group_numbers(names).tolist()
    digests = [hashlib.blake2b(name.encode(), digest_size=8).hexdigest() for name in names]
    hashes = [str(number).encode() for number in numbers] + [digest.encode() for digest in digests]
    assert_nothing_of_headers_in(tmp_path, data, *hashes)
    captured = capsys.readouterr()
    told = f"{captured.out}{captured.err}{caplog.text}"
    assert not any(secret in told for secret in ("Secret", "ID-4711", own_key().secret.hex(), *map(str, numbers)))
    key = key_file().read_bytes().strip()
    assert not any(key in file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file())


def test_neighbours_of_a_series_leave_nothing_of_headers_in_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of the series, the cache has a number by a key, and neither its UID nor a hash that anybody can make."""
    pytest.importorskip("pydicom", reason="needs pydicom (extra medical)")
    from tests.data.test_dicom import data_set, encoded

    monkeypatch.setenv("DINOSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DINOSCOPE_GROUP_KEY_FILE", str(tmp_path / "key" / "group.key"))
    data, run, draw = tmp_path / "data", tmp_path / "run", np.random.default_rng(0)
    uids = [f"1.2.840.4711.{number}" for number in range(2)]
    for uid in uids:
        folder = data / f"class{uid[-1]}"
        folder.mkdir(parents=True)
        for number in range(8):
            dataset = data_set(draw.integers(0, LEVELS, (20, 24)).astype(np.uint16), 12)
            dataset.PatientName, dataset.PatientID, dataset.StudyDate = "Secret^Name", "ID-4711", "20260130"
            dataset.SeriesInstanceUID, dataset.StudyInstanceUID = uid, "1.2.840.4711.99"
            dataset.InstanceNumber, dataset.ImagePositionPatient = number, ["0", "0", f"{number}"]
            dataset.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
            (folder / f"IM{number}").write_bytes(encoded(dataset))
    train(cases.run_config("dino", data, run, epochs=1, slices=3, window=(1500.0, 3000.0)))
    for line in (
        f"knn --model {run} --data {data} --ks 3 --device cpu --out {tmp_path}/knn",
        f"report {run} --out {tmp_path}/report.html --data {data} --skip linear throughput",
    ):
        assert cli.main(line.split()) == 0
    (cached,) = (tmp_path / "cache" / "series").glob("*.json")
    rows = json.loads(cached.read_text())["files"]
    assert len(rows) == 16
    stacks = {stack for _, _, (stack, _, _) in rows.values()}
    assert len(stacks) == 2
    assert own_key().name in cached.name
    digests = [hashlib.blake2b(uid.encode(), digest_size=8).hexdigest().encode() for uid in uids]
    numbers = group_numbers(uids).tolist()
    assert stacks.isdisjoint(numbers)
    assert_nothing_of_headers_in(tmp_path, data, *digests, *(str(number).encode() for number in numbers))
    assert not any(secret in caplog.text for secret in ("Secret", "ID-4711", "1.2.840.4711"))
    key = key_file().read_bytes().strip()
    assert not any(key in file.read_bytes() for file in run.rglob("*") if file.is_file())


def test_all_formats_give_the_same_weights(tmp_path: Path) -> None:
    weights = {}
    for name in WRITERS:
        data = folder_of(name, tmp_path / name)
        config = cases.run_config("dino", data, tmp_path / f"run-{name}", epochs=1, window=(LEVELS / 2, float(LEVELS)))
        train(config)
        weights[name] = checkpoint.load(checkpoint.step_path(tmp_path / f"run-{name}" / "checkpoints", 3)).tensors
    for name, tensors in weights.items():
        for key, tensor in weights["npy"].items():
            torch.testing.assert_close(tensor, tensors[key], rtol=0, atol=0, equal_nan=True, msg=f"{name}: {key}")


def test_a_header_window_is_kept_by_the_model(tmp_path: Path) -> None:
    data, run = folder_of("dicom", tmp_path / "data"), tmp_path / "run"
    train(cases.run_config("dino", data, run, epochs=1, window=HEADER))
    from dinoscope.model_names import load_model

    assert load_model(str(run)).backbone.config.window == with_fallback((2047.5, 4095.0))
