"""The drawn mammograms: the same on every machine, valid DICOM of two makers, with a mask on each finding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")

from dinoscope.data.grey_range import HEADER  # noqa: E402
from dinoscope.data.images import decode  # noqa: E402
from dinoscope.data.scan import scan  # noqa: E402
from dinoscope.data.sources import images_in_folder  # noqa: E402
from dinoscope.errors import UserError  # noqa: E402
from dinoscope.mammograms import CLASSES, MammogramsConfig, exposed, write_mammograms  # noqa: E402

SMALL = MammogramsConfig(size=48, train_per_class=4, val_per_class=2)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mammograms(tmp_path_factory.mktemp("mammograms") / "out", SMALL)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}


def test_an_image_depends_on_its_numbers_alone(drawn: Path, tmp_path: Path) -> None:
    first = contents(drawn)
    larger = contents(write_mammograms(tmp_path / "larger", replace(SMALL, train_per_class=6)))
    assert len(first) == 6 * (4 + 2 + 2) + 1
    shared = {name for name in first if name.endswith((".dcm", ".png"))}
    assert all(larger[name] == first[name] for name in shared)
    other = contents(write_mammograms(tmp_path / "other", replace(SMALL, seed=1)))
    assert not any(other[name] == first[name] for name in shared if name.endswith(".dcm"))


def test_a_scan_finds_the_classes_the_windows_and_nothing_wrong(drawn: Path) -> None:
    report = scan(images_in_folder(drawn / "folder" / "train"))
    assert report.formats == {"DICOM": 24}
    assert not report.unreadable
    assert images_in_folder(drawn / "folder" / "train").classes == CLASSES


def test_both_makers_store_the_same_thing(drawn: Path) -> None:
    """High values are bright and of one unit, whether a file inverts them or scales them."""
    kinds: dict[str, int] = {}
    for split, images in (("train", SMALL.train_per_class), ("val", SMALL.val_per_class)):
        for number, name in enumerate(CLASSES):
            for index in range(images):
                path = drawn / "folder" / split / name / f"{index:05d}.dcm"
                header = pydicom.dcmread(path)
                kinds[header.PhotometricInterpretation] = header.BitsStored
                exposure = exposed(SMALL, split, number, index)
                wanted = np.clip(np.rint(900 * exposure.line_integral + 200), 0, 4095)
                shown = decode(path, window=(2047.5, 4095))[..., 0]
                np.testing.assert_allclose(shown, wanted / 4095 * 255, atol=0.51)
                own = decode(path, window=HEADER)[..., 0].astype(float)
                assert np.corrcoef(own.ravel(), wanted.ravel())[0, 1] > 0.9
                assert own.std() > 3 * shown.std()
    assert kinds == {"MONOCHROME1": 12, "MONOCHROME2": 14}


def test_two_images_are_of_one_patient(drawn: Path) -> None:
    files = sorted((drawn / "folder").rglob("*.dcm"))
    patients = [pydicom.dcmread(path, specific_tags=["PatientID"]).PatientID for path in files]
    assert len(set(patients)) == len(files) // 2
    assert patients[0] == patients[1] != patients[2]


@pytest.mark.parametrize("name", CLASSES)
def test_a_finding_lies_where_its_mask_is(name: str) -> None:
    """Against the same image without a finding's contrast: tissue alone has the same mean in and around the mask."""
    differences: list[float] = []
    for index in range(40):
        exposure = exposed(MammogramsConfig(), "val", CLASSES.index(name), index)
        inside = exposure.finding > 0
        assert 0.02 < inside.mean() < 0.6
        around = (cv2.dilate(exposure.finding, np.ones((9, 9))) > 0) & ~inside
        # A rim shows at its edge, as brightness, and within it, as darkness.
        part = inside & ~(cv2.erode(exposure.finding, np.ones((7, 7))) > 0) if name == "rim" else inside
        differences.append(float(exposure.line_integral[part].mean() - exposure.line_integral[around].mean()))
    assert np.mean(differences) > 4 * np.std(differences) / np.sqrt(len(differences))


def test_texture_has_the_spectrum_of_breast_tissue() -> None:
    from dinoscope.mammograms import _texture

    window = np.hanning(128)[:, None] * np.hanning(128)
    power = sum(np.abs(np.fft.fft2(_texture(np.random.default_rng(seed), 128) * window)) ** 2 for seed in range(40))
    frequency = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128)[None])
    band = (frequency > 0.04) & (frequency < 0.3)
    slope = np.polyfit(np.log(frequency[band]), np.log(power[band]), 1)[0]
    assert slope == pytest.approx(-3, abs=0.25)


def test_what_cannot_be_drawn_is_refused(drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="16 px"):
        MammogramsConfig(size=8)
    with pytest.raises(UserError, match="negative"):
        MammogramsConfig(val_per_class=-1)
    with pytest.raises(UserError, match="another config"):
        write_mammograms(drawn, replace(SMALL, seed=1))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/holiday.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="no drawn mammograms"):
        write_mammograms(tmp_path / "mine", SMALL)
