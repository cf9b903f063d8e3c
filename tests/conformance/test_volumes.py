"""Volumes with neighbouring slices, or several windows, as channels: from the scan to the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dinoscope import api, checkpoint, cli
from dinoscope.cli.pictures import Drawing, PictureOptions
from dinoscope.data import images
from dinoscope.data.finding import find_images
from dinoscope.data.grey_range import WINDOWS, parse_window
from dinoscope.data.sources import dataset_images
from dinoscope.demo.pictures import Limits, Refused, read_picture
from dinoscope.errors import UserError
from dinoscope.evaluation.online import AttentionSnapshots, OnlineKNN
from dinoscope.explain.history import read_history
from dinoscope.model_names import load_model
from dinoscope.models.backbone import BackboneConfig
from dinoscope.training.loop import train
from dinoscope.training.run_folder import read_config
from tests.conformance import cases
from tests.conformance.test_channels import Heard
from tests.data.test_datasets import Items


def volume(seed: int, slices: int = 9) -> np.ndarray:
    """Hounsfield units [slices, 40, 36] of air, tissue and bone that change from slice to slice."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-1000, 300, (slices, 40, 36))
    for number, plane in enumerate(values):
        plane[4 + number : 20 + number, 18 * (seed % 2) :][:, :16] = 200 + 100 * number
    return values.astype(np.int16)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DINOSCOPE_CACHE", str(tmp_path / "cache"))


def volumes(folder: Path) -> Path:
    nibabel = pytest.importorskip("nibabel", reason="nibabel reads NIfTI: pip install 'dinoscope[medical]'")
    for seed in range(4):
        place = folder / ("train", "val")[seed // 2] / f"class{seed % 2}"
        place.mkdir(parents=True)
        voxels = np.ascontiguousarray(volume(seed, 9 if seed < 2 else 4)[:, ::-1].transpose(2, 1, 0))
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1, 1, 3, 1])), place / f"patient{seed}.nii.gz")
    return folder


def weights(run: Path) -> Mapping[str, torch.Tensor]:
    newest = checkpoint.latest(run / "checkpoints")
    assert newest is not None
    return checkpoint.load(newest, "method.").tensors


def same(one: Path, other: Path) -> bool:
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def command(text: str) -> None:
    assert cli.main(text.split()) == 0


CASES = {
    "slices": ("--slices 3", {"slices": 3}, 3),
    "windows": ("--window lung+soft+bone+brain", {"window": parse_window("lung+soft+bone+brain")}, 4),
}


@pytest.mark.parametrize("case", CASES)
def test_volumes_from_the_scan_to_the_report(case: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options, settings, channels = CASES[case]
    data, run, again = volumes(tmp_path / "data"), tmp_path / "run", tmp_path / "again"
    command(f"scan {data} --json")
    assert json.loads(capsys.readouterr().out)["train"]["images"] == 18

    heard = Heard()
    config = cases.run_config("dino", data, run, epochs=2, evaluate_every=1)
    config = replace(config, **settings)
    train(config, listeners=[heard, OnlineKNN(), AttentionSnapshots()])
    saved = read_config(run)
    assert (saved.slices, saved.window) == (settings.get("slices"), settings.get("window", saved.window))
    assert len(saved.mean) == len(set(saved.mean)) == channels
    assert ("slices" in heard.facts) == (case == "slices")
    for place in (run, run / "exported"):
        kept = load_model(str(place)).backbone.config
        assert (kept.slices, kept.window, kept.channels) == (settings.get("slices", 1), saved.window, channels)

    second = replace(config, out=again)
    assert train(second, listeners=[Heard(stop_after=1), AttentionSnapshots()]).interrupted
    command(f"train --out {again} --resume {options}")  # given again, it is the same
    assert same(run, again)

    command(f"knn --model {run} --data {data} --ks 3 --device cpu --json")
    command(f"embed --model {run} --data {data}/val --out {tmp_path}/first.npz --device cpu --no-cache")
    command(f"embed --model {again} --data {data}/val --out {tmp_path}/second.npz --device cpu")
    first, other = (np.load(tmp_path / f"{name}.npz")["features"] for name in ("first", "second"))
    assert first.shape[0] == 8
    np.testing.assert_array_equal(first, other)
    if case == "slices":
        command(f"report {run} --out {tmp_path}/report.html --device cpu")
        assert "What the models look at" in (tmp_path / "report.html").read_text()

    # The first slice and the one behind it, whatever the folder holds: the ends repeat.
    file = data / "val/class0/patient2.nii.gz"
    named = file.with_name(f"{file.name}#axis=2,slice=0")
    command(f"attention --out {tmp_path}/pictures --device cpu --model {run} {named}")
    assert len(list((tmp_path / "pictures").glob("patient2*.png"))) == 1
    drawing = Drawing(PictureOptions(device="cpu"), [named], [str(run)])
    (_, drawn), planes = next(iter(drawing.look("looking"))), volume(2, 4)
    grey = planes[[0, 0, 1]].transpose(1, 2, 0) if case == "slices" else planes[0][..., None]
    given = images.RawImage(grey).pixels(channels, saved.window)
    np.testing.assert_array_equal(api.attention(run, named).image, drawn.image)
    found = find_images(data / "val").with_slices(kept.slices)
    np.testing.assert_array_equal(found.read(0).pixels(channels, saved.window), given)
    if case == "slices":  # a person is shown the slice alone
        np.testing.assert_array_equal(drawn.image, images.decode(named, window=saved.window))
        history = read_history(run)
        assert history is not None
        assert all((picture == picture[..., :1]).all() for picture in history.pictures)


def hand_stacked(stack: np.ndarray) -> np.ndarray:
    """Each slice between its neighbours, as channels: [slices, h, w, 3]."""
    return np.stack([np.concatenate([stack[:1], stack[:-1]]), stack, np.concatenate([stack[1:], stack[-1:]])], axis=3)


@pytest.mark.parametrize("ending", ["npy", "tif"])
def test_slices_are_the_same_as_channels_that_were_stacked_by_hand(ending: str, tmp_path: Path) -> None:
    runs: list[Path] = []
    for name in ("stacks", "by-hand"):
        (tmp_path / name).mkdir()
        for seed in range(2):
            stack = (volume(seed) + 1000).astype(np.uint16)
            stack, file = hand_stacked(stack) if name == "by-hand" else stack, tmp_path / name / f"{seed}.{ending}"
            if ending == "npy":
                np.save(file, stack)
            else:
                tifffile = pytest.importorskip("tifffile", reason="pip install 'dinoscope[microscopy]'")
                tifffile.imwrite(file, stack, photometric="rgb" if stack.ndim == 4 else "minisblack")
        config = cases.run_config("dino", tmp_path / name, tmp_path / f"run-{name}", epochs=1)
        train(replace(config, slices=3 if name == "stacks" else None))
        runs.append(config.out)
    one, other = (read_config(run) for run in runs)
    assert (one.window, one.mean, one.std) == (other.window, other.mean, other.std)
    assert same(*runs)


def test_a_series_of_single_files_trains_as_a_file_of_its_frames(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Two series in a folder: the same weights, and the same features from the command line, also of a subset."""
    pytest.importorskip("pydicom", reason="pydicom reads DICOM: pip install 'dinoscope[medical]'")
    from tests.data.test_dicom import data_set, encoded

    for seed in range(2):
        stack = volume(seed)
        place, frames = tmp_path / f"series/class{seed}", tmp_path / f"frames/class{seed}"
        place.mkdir(parents=True)
        frames.mkdir(parents=True)
        (frames / "s.dcm").write_bytes(encoded(data_set(stack)))
        for number, plane in enumerate(stack):
            dataset = data_set(plane, SeriesInstanceUID=f"1.2.{seed}", InstanceNumber=20 - number)
            dataset.ImagePositionPatient = ["0", "0", f"{3 * number}"]
            dataset.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
            (place / f"{number}.dcm").write_bytes(encoded(dataset))
    runs = [tmp_path / f"run-{name}" for name in ("series", "frames")]
    for run, name in zip(runs, ("series", "frames"), strict=True):
        train(cases.run_config("dino", tmp_path / name, run, epochs=1, slices=3, workers=1))
        command(f"embed --model {run} --data {tmp_path}/{name} --out {run}.npz --device cpu")
    one, other = (read_config(run) for run in runs)
    assert (one.window, one.mean, one.std) == (other.window, other.mean, other.std)
    assert same(*runs)
    features = [np.load(f"{run}.npz")["features"] for run in runs]
    assert len(features[0]) == 18
    np.testing.assert_array_equal(*features)
    command(f"knn --model {runs[0]} --data {tmp_path}/series --split 0.5 --device cpu --ks 1")
    assert "2 classes" in capsys.readouterr().out


def test_stacks_of_8_bits_are_measured_too_and_resumed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for seed in range(2):
        np.save(tmp_path / f"data/{seed}.npy", (volume(seed) // 8 + 127).astype(np.uint8))
    config = cases.run_config("dino", tmp_path / "data", tmp_path / "run", epochs=1, slices=3)
    train(config)
    saved = read_config(config.out)
    assert saved.window is None
    assert len(set(saved.mean)) == 3
    train(config, resume=True)  # with the default, as it was started
    train(replace(config, slices=None), resume=True)
    with pytest.raises(UserError, match="slices: 3 -> 5"):
        train(replace(config, slices=5), resume=True)


def stacks(folder: Path) -> Path:
    folder.mkdir()
    for seed in range(2):
        np.save(folder / f"{seed}.npy", volume(seed))
    return folder


def test_a_run_begins_from_a_model_of_slices(tmp_path: Path) -> None:
    data = stacks(tmp_path / "data")
    train(cases.run_config("dino", data, tmp_path / "five", epochs=1, slices=5))
    config = cases.run_config("dino", data, tmp_path / "next", epochs=1)
    init = api.beginning_from(config, str(tmp_path / "five"))
    assert init.slices == 5
    train(init)
    assert load_model(str(config.out)).backbone.config.slices == 5
    train(replace(init, slices=3, out=tmp_path / "three"))  # the first layer is adapted
    assert load_model(str(tmp_path / "three")).backbone.config.channels == 3
    train(replace(init, slices=1, window=parse_window("lung+soft"), out=tmp_path / "windows"))
    assert load_model(str(tmp_path / "windows")).backbone.config.channels == 2


def test_what_cannot_be_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = stacks(tmp_path / "data")
    for seed in range(8):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(np.full((40, 36), seed, np.uint8)).save(tmp_path / f"photos/{seed}.png")
    np.save(tmp_path / "colours.npy", np.zeros((9, 40, 36, 3), np.uint16))
    (tmp_path / "colours.txt").write_text("colours.npy")
    given = f"train --recipe dino_small_images_cpu --out {tmp_path}/run --device cpu --data"
    for options, text in (
        (f"{data} --slices 2", "--slices must be odd, from 1 to 15, not 2"),
        (f"{data} --slices 3 --window lung+soft", "--slices 3 and several windows exclude each other"),
        (f"{data} --slices 3 --channels 1", "--channels is 1, and the --slices 3 make 3 channels"),
        (f"{data} --window lung+soft --channels 3", "--channels is 3, and the windows of --window make 2 channels"),
        (f"{data} --window lung+header", "--window"),
        (f"{tmp_path}/photos --slices 3", "alone in its file, and none is in a series with another"),
        (f"{tmp_path}/photos --window lung+soft", "takes grey images of more than 8 bits, and 8 of 8 are others"),
        (f"{tmp_path}/colours.txt --slices 3", "--slices 3 takes grey images, and 9 of 9 are others"),
    ):
        assert cli.main(f"{given} {options}".split()) == 2
        said = capsys.readouterr().err
        assert text in " ".join(said.split())
        assert "Traceback" not in said
        assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="alone in its file"):
        train(
            cases.run_config("dino", tmp_path, tmp_path / "run", slices=3),
            source=dataset_images(Items([volume(0)[place] for place in range(8)])),
        )


def test_a_model_is_evaluated_on_what_it_takes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = stacks(tmp_path / "data")
    for name, settings in (("windows", {"window": (*WINDOWS["lung"], *WINDOWS["soft"])}), ("slices", {"slices": 5})):
        train(cases.run_config("dino", data, tmp_path / name, epochs=1, **settings))
    (tmp_path / "photos").mkdir()
    Image.linear_gradient("L").resize((40, 40)).save(tmp_path / "photos/0.png")
    out = f"--data {tmp_path}/photos --out {tmp_path}/features.npz --device cpu"
    assert cli.main(f"embed --model {tmp_path}/windows {out}".split()) == 2
    assert "0.png has no more than 8 bits, and --window -600,1500+40,400 takes grey" in capsys.readouterr().err
    command(f"embed --model {tmp_path}/slices {out}")  # the image is repeated
    picture = read_picture(tmp_path / "photos/0.png", Limits())
    kept = {name: load_model(str(tmp_path / name)).backbone.config for name in ("windows", "slices")}
    assert (picture.given_to(kept["slices"]) == np.asarray(Image.open(tmp_path / "photos/0.png"))[..., None]).all()
    with pytest.raises(Refused):
        picture.given_to(kept["windows"])


def test_settings_of_a_damaged_model_are_refused() -> None:
    for settings, text in (
        ({"slices": 5}, "takes 3 channels, and its windows or slices make 5"),
        ({"window": (1.0, 2.0) * 2}, "takes 3 channels, and its windows or slices make 2"),
        ({"window": (1.0,)}, "--window needs a level and a width"),
        ({"slices": 4}, "--slices must be odd"),
    ):
        with pytest.raises(UserError, match=text):
            BackboneConfig(**settings)
    assert BackboneConfig(slices=3).channels == 3
