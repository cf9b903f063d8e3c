"""Every scientific format goes through the commands: scan, train, k-NN, features, pictures and the report.

The same slices are written as each format; read right, they train to the same weights.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dinoscope import checkpoint, cli
from dinoscope.data.finding import find_images
from dinoscope.data.grey_range import HEADER, with_fallback
from dinoscope.training.loop import train
from tests.conformance import cases

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
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = "Secret^Name", "ID-4711", "19701231"
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
    written = [file for file in tmp_path.rglob("*") if file.is_file() and not file.is_relative_to(data)]
    assert len(written) > 10
    for file in written:
        content = file.read_bytes()
        assert not any(secret in content for secret in (b"Secret", b"ID-4711", b"19701231")), file


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
