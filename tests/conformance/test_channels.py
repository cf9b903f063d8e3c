"""Images of 5 channels and of 1: training, resuming, evaluating, exporting and drawing, from a format of their own."""

from __future__ import annotations

import json
import os
import signal
import struct
from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dinoscope import api, checkpoint, cli
from dinoscope.data import images
from dinoscope.data.images import RawImage, decode
from dinoscope.data.reader import Header, Reader, Stream
from dinoscope.data.sources import dataset_images
from dinoscope.errors import UserError
from dinoscope.evaluation.online import AttentionSnapshots, OnlineKNN
from dinoscope.explain.history import read_history
from dinoscope.model_names import load_model
from dinoscope.models.backbone import IMAGENET_MEAN, IMAGENET_STD
from dinoscope.training.listeners import Listener, RunStart, StepRecord
from dinoscope.training.loop import train
from dinoscope.training.run_folder import read_config
from tests.conformance import cases
from tests.data.test_datasets import Items

# The reader: a file is "CUBE", height, width and channels as shorts, then values of 16 bits.


def read_header(stream: Stream, max_pixels: int) -> Header:
    height, width, channels = struct.unpack("<HHH", stream.read(10)[4:])
    return Header("Cube", height, width, sample="u2", channels=channels)


def read(content: BytesIO, max_pixels: int) -> RawImage:
    header = read_header(content, max_pixels)
    return RawImage(np.frombuffer(content.read(), "<u2").reshape(header.height, header.width, header.channels))


READER = Reader((".cube",), lambda start: start.startswith(b"CUBE"), read_header, read)


def cube(seed: int, channels: int) -> np.ndarray:
    """Values of 12 bits; a bright square whose place is the class."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 1500, (40, 36, channels)).astype(np.uint16)
    values[:20, 18 * (seed % 2) :][:, :18] += 2500
    return values * np.linspace(0.5, 1, channels)


@pytest.fixture(autouse=True)
def _cubes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(images.READERS, "Cube", READER)
    monkeypatch.setenv("DINOSCOPE_CACHE", str(tmp_path / "cache"))


def cubes(folder: Path, channels: int, count: int = 24) -> Path:
    for seed in range(count):
        place = folder / ("val" if seed % 4 == 3 else "train") / f"class{seed % 2}"
        place.mkdir(parents=True, exist_ok=True)
        values = cube(seed, channels).astype("<u2")
        (place / f"{seed:03d}.cube").write_bytes(b"CUBE" + struct.pack("<HHH", *values.shape) + values.tobytes())
    return folder


class Heard(Listener):
    """Keeps the facts that the log has, and may ask the run to end after a step."""

    def __init__(self, stop_after: int = -1) -> None:
        self.stop_after, self.facts = stop_after, dict[str, str]()

    def started(self, start: RunStart) -> None:
        self.facts = dict(start.facts)

    def stepped(self, record: StepRecord) -> None:
        if record.step.index == self.stop_after:
            os.kill(os.getpid(), signal.SIGINT)


def json_of(capsys: pytest.CaptureFixture, command: str) -> Mapping[str, object]:
    capsys.readouterr()
    assert cli.main(command.split()) == 0
    return json.loads(capsys.readouterr().out)


# From training to pictures


@pytest.mark.parametrize("channels", [5, 1])
def test_a_run_from_its_images_to_pictures(channels: int, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data, run, heard = cubes(tmp_path / "data", channels), tmp_path / "run", Heard()
    config = cases.run_config("dino", data, run, epochs=2, evaluate_every=1)
    config = replace(config, channels=1 if channels == 1 else None)  # five are taken without being asked for
    train(config, listeners=[heard, OnlineKNN(), AttentionSnapshots()])

    scanned = json_of(capsys, f"scan {data} --json")["train"]
    assert isinstance(scanned, dict)
    assert scanned["channels"] == {str(channels): 18}
    normalisation = tuple(scanned["mean"]), tuple(scanned["std"])
    saved = read_config(run)
    assert (saved.mean, saved.std) == normalisation
    assert (saved.mean, saved.std) == saved.normalisation
    left_out = "saturation, hue, grayscale" + (", solarize" if channels == 5 else "")
    assert heard.facts["views"] == f"without {left_out}: defined for RGB, not for {channels} channels"
    assert heard.facts["normalised by"].startswith("mean ")

    assert json_of(capsys, f"knn --model {run} --data {data} --ks 3 --device cpu --json")["metrics"]
    for place in ("exported", "timm"):
        model = run / "exported" if place == "exported" else tmp_path / place
        if place == "timm":
            assert cli.main(["export", "--model", str(run), "--out", str(model)]) == 0
        loaded = load_model(str(model)).backbone
        assert (loaded.config.mean, loaded.config.std) == normalisation
        assert loaded.config.channels == channels
    history = read_history(run)
    assert history is not None
    assert history.pictures[0].shape[2] == 3
    image = next((data / "val").rglob("*.cube"))
    for name, chosen in (("as-it-comes", ""), ("chosen", " --composite 4,3,2" if channels == 5 else "")):
        out = tmp_path / name
        assert cli.main(f"attention {image} --model {run} --out {out} --device cpu{chosen}".split()) == 0
        assert Image.open(next(out.glob("*.png"))).mode == "RGB"
    pictures = [next((tmp_path / name).glob("*.png")).read_bytes() for name in ("as-it-comes", "chosen")]
    assert (pictures[0] == pictures[1]) == (channels == 1)
    drawn = api.attention(run, image)
    np.testing.assert_array_equal(drawn.image, decode(image, window=saved.window))


def test_a_run_on_the_command_line_with_one_channel(tmp_path: Path) -> None:
    """Of RGB too, which becomes grey."""
    data = tmp_path / "data"
    data.mkdir()
    for seed in range(8):
        Image.fromarray((cube(seed, 3) / 16).astype(np.uint8)).save(data / f"{seed}.png")
    given = f"train --recipe dino_small_images_cpu --data {data} --out {tmp_path / 'run'} --channels 1 --epochs 2"
    assert cli.main(f"{given} --batch-size 4 --optimizer.warmup-epochs 0 --device cpu --workers 0".split()) == 0
    config = load_model(str(tmp_path / "run")).backbone.config
    assert config.channels == 1
    grey = np.concatenate([np.asarray(Image.open(file).convert("L")).ravel() for file in data.iterdir()]) / 255
    np.testing.assert_allclose((config.mean[0], config.std[0]), (grey.mean(), grey.std()), atol=6e-5)


@pytest.mark.parametrize("name", ["dino", "simclr", "moco-v3", "swav", "distill", "emp", "esvit", "mae", "supervised"])
def test_every_kind_of_method_learns_from_five_channels(name: str, tmp_path: Path) -> None:
    """Distillation's teacher takes three, and is refused."""
    source = dataset_images(Items([(cube(seed, 5), seed % 2) for seed in range(16)]))
    config = cases.run_config(name, tmp_path, tmp_path / "run", epochs=1)
    if name == "distill":
        with pytest.raises(UserError, match="takes images of 3 channels, and these have 5"):
            train(config, source=source)
        return
    assert train(config, source=source).steps == 2


def test_a_teacher_of_three_channels_is_given_grey_images_as_rgb(tmp_path: Path) -> None:
    source = dataset_images(Items([(cube(seed, 1), seed % 2) for seed in range(16)]))
    config = cases.run_config("distill", tmp_path, tmp_path / "run", epochs=1, channels=1)
    assert train(config, source=source).steps == 2


@pytest.mark.parametrize("channels", [1, 5])
def test_a_resumed_run_is_the_same_to_the_bit(channels: int, tmp_path: Path) -> None:
    source = dataset_images(Items([cube(seed, channels) for seed in range(16)]))
    first, second = (cases.run_config("dino", tmp_path, tmp_path / name, channels=channels) for name in ("a", "b"))
    train(first, source=source)
    assert train(second, source=source, listeners=[Heard(stop_after=2)]).interrupted
    train(second, source=source, resume=True)
    ours, theirs = (
        checkpoint.load(checkpoint.step_path(config.out / "checkpoints", 6)).tensors for config in (first, second)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


# What decides the channels and the normalisation


def test_8_bit_images_are_trained_on_as_before(tmp_path: Path) -> None:
    """Grey ones too, unless one channel is asked for."""
    for channels in (1, 3):
        arrays = [(cube(seed, channels) / 16).astype(np.uint8) for seed in range(8)]
        config = cases.run_config("dino", tmp_path, tmp_path / f"run{channels}", epochs=1)
        train(config, source=dataset_images(Items(arrays)))
        saved = read_config(config.out)
        assert (saved.mean, saved.std, saved.channels) == (IMAGENET_MEAN, IMAGENET_STD, None)


def test_images_of_more_than_8_bits_are_normalised_by_their_own(tmp_path: Path) -> None:
    arrays = [cube(seed, 1).astype(np.uint16) for seed in range(8)]
    given = cases.run_config("dino", tmp_path, tmp_path / "given", epochs=1, mean=(0.5,) * 3, std=(0.25,) * 3)
    train(given, source=dataset_images(Items(arrays)))
    assert read_config(given.out).mean == (0.5,) * 3
    own = replace(given, out=tmp_path / "own", mean=IMAGENET_MEAN, std=IMAGENET_STD)
    train(own, source=dataset_images(Items(arrays)))
    saved, values = read_config(own.out), np.stack(arrays) / 4095
    np.testing.assert_allclose(saved.mean, [values.mean()] * 3, atol=1e-3)
    np.testing.assert_allclose(saved.std, [values.std()] * 3, atol=1e-3)
    train(own, source=dataset_images(Items(arrays)), resume=True)  # with the default, as it was started


def test_images_of_other_channels_are_left_out(tmp_path: Path) -> None:
    arrays = [(cube(seed, 5 if seed else 3) / 16).astype(np.uint8) for seed in range(24)]
    config = cases.run_config("dino", tmp_path, tmp_path / "run", epochs=1)
    train(config, source=dataset_images(Items(arrays)))
    assert load_model(str(config.out)).backbone.config.channels == 5
    left_out = json.loads((config.out / "unreadable.json").read_text())
    assert left_out == {"0": "has 3 channels, and 5 are needed"}


def test_channels_that_contradict_the_images_are_refused(tmp_path: Path) -> None:
    source = dataset_images(Items([cube(seed, 5) for seed in range(16)]))
    config = cases.run_config("dino", tmp_path, tmp_path / "run", epochs=1)
    for changes, text in (
        ({"channels": 3}, "images of 5 channels, and the run's network takes 3: give --channels 5"),
        ({"channels": 17}, "--channels must be from 1 to 16, not 17"),
        ({"channels": 5, "mean": (0.5,) * 4, "std": (0.5,) * 4}, "--mean has 4 values, and --channels is 5"),
        ({"mean": (0.5,) * 4, "std": (0.5,) * 4}, "images of 5 channels, and the run's network takes 4"),
        ({"mean": (0.5,) * 4}, "--mean has 4 values and --std 3"),
    ):
        with pytest.raises(UserError, match=text):
            train(replace(config, **changes), source=source)


def test_a_model_is_not_evaluated_on_other_channels(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = cubes(tmp_path / "data", 5)
    assert cli.main(f"knn --model shipped --data {data} --ks 3 --device cpu".split()) == 2
    assert "images of 5 channels, and vit_micro_conv8 takes 3" in capsys.readouterr().err


# A model to begin from


@pytest.mark.parametrize("channels", [1, 5])
def test_a_run_begins_from_a_model_of_three_channels(channels: int, tmp_path: Path) -> None:
    source, heard = dataset_images(Items([cube(seed, channels) for seed in range(16)])), Heard()
    config = cases.run_config("dino", tmp_path, tmp_path / "run", epochs=1, init="shipped", channels=channels)
    train(config, source=source, listeners=[heard])
    assert heard.facts["begins from"].startswith(
        f"weights of shipped, whose network (vit_micro_conv8, its first layer adapted from 3 to {channels} channels)"
    )
    assert load_model(str(config.out)).backbone.config.channels == channels


def test_a_model_of_five_channels_is_adapted_to_rgb(tmp_path: Path) -> None:
    config = cases.run_config("dino", tmp_path, tmp_path / "five", epochs=1)
    train(config, source=dataset_images(Items([cube(seed, 5) for seed in range(16)])))
    init = api.beginning_from(replace(config, out=tmp_path / "three"), str(config.out))
    train(replace(init, channels=3), source=dataset_images(Items([(cube(s, 3) / 16).astype("u1") for s in range(16)])))
    saved = read_config(init.out)
    assert (saved.mean, saved.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert load_model(str(init.out)).backbone.config.channels == 3


def test_a_model_of_three_channels_is_trained_on_with_grey_images_as_they_are(tmp_path: Path) -> None:
    source = dataset_images(Items([cube(seed, 1) for seed in range(16)]))
    init = api.beginning_from(cases.run_config("dino", tmp_path, tmp_path / "run", epochs=1), "shipped")
    train(init, source=source)
    saved = read_config(init.out)
    assert (saved.mean, saved.std) == (init.mean, init.std)  # the model's, though the images have 12 bits
    five = dataset_images(Items([cube(seed, 5) for seed in range(16)]))
    with pytest.raises(UserError, match="give --channels 5, to which a model to begin from is adapted"):
        train(replace(init, out=tmp_path / "five"), source=five)
