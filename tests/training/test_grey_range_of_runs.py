"""The grey range of a run: found once, kept with the weights, and used by everything that reads an image for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dinoscope import api, checkpoint
from dinoscope.cli import main
from dinoscope.cli.pictures import Drawing, PictureOptions
from dinoscope.data.benchmarks import find_masked_images
from dinoscope.data.finding import find_images
from dinoscope.data.grey_range import HEADER, bits_window, with_fallback
from dinoscope.data.loader import ViewsDataset
from dinoscope.data.sources import image_fraction
from dinoscope.demo.engine import Engine, Input
from dinoscope.demo.pictures import Limits
from dinoscope.errors import UserError
from dinoscope.evaluation.explain import find_image_files
from dinoscope.evaluation.voc import VocConfig, read_samples
from dinoscope.features import ExtractConfig, cached_extract, extract
from dinoscope.model_names import Model, load_model
from dinoscope.models.backbone import Backbone, BackboneConfig, build_backbone
from dinoscope.training.loop import train
from dinoscope.training.run_folder import read_config
from tests.conformance import cases
from tests.plain_process import PlainProcess
from tests.test_voc import write_voc

TWELVE = bits_window(12)


def sixteen_bit(folder: Path, largest: Sequence[int]) -> Path:
    """Write a grey ramp from 0 to each of these values as 16-bit PNGs, half of them in the folder of a class."""
    for number, value in enumerate(largest):
        place = folder / f"class-{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        ramp = np.linspace(0, value, 40 * 40).reshape(40, 40)
        Image.fromarray(ramp.astype(np.uint16)).save(place / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on eight images, the brightest of which needs twelve bits, though most need ten."""
    folder = tmp_path_factory.mktemp("deep")
    data = sixteen_bit(folder / "data", [900, 1000, 3000, 800, 700, 950, 600, 850])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DINOSCOPE_CACHE", str(folder / "cache"))
        train(cases.run_config("dino", data, folder / "run", epochs=1))
    return folder / "run"


def test_it_is_that_of_the_training_images_and_stays_with_the_weights(run: Path, tmp_path: Path) -> None:
    assert read_config(run).window == TWELVE
    newest = checkpoint.latest(run / "checkpoints")
    assert newest is not None
    for model in (run, newest, run / "exported"):
        assert load_model(str(model)).backbone.config.window == TWELVE
    assert json.loads((run / "exported/backbone.json").read_text())["backbone"]["window"] == list(TWELVE)
    assert main(["export", "--model", str(run), "--out", str(tmp_path / "model")]) == 0
    assert load_model(str(tmp_path / "model")).backbone.config.window == TWELVE
    assert load_model(f"random:{run}").backbone.config.window == TWELVE


def test_a_run_is_resumed_with_it_whatever_the_images_are_now(run: Path, tmp_path: Path) -> None:
    config = read_config(run)
    resumed = train(replace(config, window=None), resume=True)  # as whoever calls from Python gives it
    assert not resumed.interrupted
    assert read_config(run).window == TWELVE
    with pytest.raises(UserError, match="window"):
        train(replace(config, window=(1.0, 2.0)), resume=True)


def test_it_may_be_chosen(tmp_path: Path) -> None:
    data = sixteen_bit(tmp_path / "data", [900] * 8)
    train(cases.run_config("dino", data, tmp_path / "run", epochs=1, window=(40.0, 400.0)))
    assert read_config(tmp_path / "run").window == (40.0, 400.0)
    with pytest.raises(UserError, match="width above 0"):
        train(cases.run_config("dino", data, tmp_path / "other", epochs=1, window=(40.0, 0.0)))


def test_headers_alone_tell_what_the_file_could_hold(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = sixteen_bit(tmp_path / "data", [900] * 8)
    train(cases.run_config("dino", data, tmp_path / "run", epochs=1, scan="headers"))
    assert read_config(tmp_path / "run").window == bits_window(16)
    Image.fromarray(np.zeros((40, 40), np.float32)).save(data / "class-0/0.tif")
    (data / "class-0/0.png").unlink()
    train(cases.run_config("dino", data, tmp_path / "other", epochs=1, scan="headers"))
    assert read_config(tmp_path / "other").window is None
    assert "8 images of more than 8 bits, whose values were not read" in caplog.text


def test_only_the_share_that_is_used_decides(tmp_path: Path) -> None:
    data = sixteen_bit(tmp_path / "data", [900] * 16)
    unused = set(find_images(data).paths) - set(image_fraction(find_images(data), 0.5).paths)
    Image.fromarray(np.full((40, 40), 60000, np.uint16)).save(data / min(unused))
    train(cases.run_config("dino", data, tmp_path / "run", epochs=1, fraction=0.5))
    assert read_config(tmp_path / "run").window == bits_window(10)


def test_the_window_of_the_header_has_the_range_of_the_training_images_behind_it(tmp_path: Path) -> None:
    data = sixteen_bit(tmp_path / "data", [900, 3000] * 4)
    train(cases.run_config("dino", data, tmp_path / "run", epochs=1, window=HEADER))
    assert read_config(tmp_path / "run").window == with_fallback(TWELVE)
    assert load_model(str(tmp_path / "run")).backbone.config.window == with_fallback(TWELVE)
    assert not train(read_config(tmp_path / "run"), resume=True).interrupted


def test_a_run_on_eight_bits_has_none_and_neither_has_an_old_one(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / "data").mkdir(exist_ok=True)
        Image.linear_gradient("L").resize((40, 40 + number)).save(tmp_path / f"data/{number}.png")
    out = tmp_path / "run"
    train(cases.run_config("dino", tmp_path / "data", out, epochs=1))
    assert read_config(out).window is None
    settings = json.loads((out / "config.json").read_text())
    del settings["run"]["window"]
    (out / "config.json").write_text(json.dumps(settings))
    assert read_config(out).window is None
    assert not train(read_config(out), resume=True).interrupted


def test_the_command_line_takes_level_and_width(plain_process: PlainProcess, tmp_path: Path) -> None:
    # What it reads is tested in test_html_command.
    train_command = ["train", "--data", "images", "--out", "run", "--window"]
    said = plain_process.run({"help": ["train", "--help"], "bad": [*train_command, "40"]}, tmp_path)
    assert "--window LEVEL,WIDTH" in said["help"][1]
    assert said["bad"][0] == 2
    assert "--window must be LEVEL,WIDTH (two numbers), lung, soft, bone, brain, several of these" in said["bad"][2]
    assert "Traceback" not in said["bad"][2]


def test_a_run_that_begins_from_a_model_takes_its_range(run: Path) -> None:
    assert api.recipe("dino_small_images", "data", "out", init=str(run)).window == TWELVE


class TestEverythingReadsByTheModelsRange:
    """An image whose largest value is 1023: white by its own range, a quarter by the model's twelve bits."""

    @pytest.fixture
    def image(self, tmp_path: Path) -> Path:
        path = tmp_path / "images/image.png"
        path.parent.mkdir()
        Image.fromarray(np.full((32, 32), 1023, np.uint16)).save(path)
        return path

    @pytest.fixture
    def models(self) -> list[Model]:
        """One with a range, one without."""
        torch.manual_seed(0)
        first = build_backbone(BackboneConfig("vit_micro_conv8", 32, window=TWELVE)).eval()
        second = build_backbone(BackboneConfig("vit_micro_conv8", 32)).eval()
        second.load_state_dict(first.state_dict())
        return [Model(name, name, net, None) for name, net in (("ours", first), ("theirs", second))]

    def pixel(self, backbone: Backbone, shown: torch.Tensor) -> int:
        """Undo the normalisation."""
        return round(float((shown.flatten(1)[0, 0] * backbone.std[0] + backbone.mean[0]).item() * 255))

    def test_pictures(self, image: Path, models: list[Model]) -> None:
        ((_, shown),) = Drawing(PictureOptions(32, device="cpu"), [image], models).look("looking")
        pixels = [self.pixel(each.model.backbone, each.images) for each in shown.inputs]
        assert pixels == [64, 255]
        assert shown.image[0, 0, 0] == 64

    def test_features(self, image: Path, models: list[Model]) -> None:
        folder, config = find_images(image.parent), ExtractConfig(workers=0)
        ours, theirs = (extract(model.backbone, folder, config).features for model in models)
        grey = image.with_name("grey.png")
        Image.new("L", (32, 32), 64).save(grey)
        alike = extract(models[0].backbone, find_images(image.parent).subset([0]), config).features
        torch.testing.assert_close(ours, alike)
        assert not torch.allclose(ours, theirs)
        assert checkpoint.weights_hash(models[0].backbone) != checkpoint.weights_hash(models[1].backbone)
        assert torch.equal(cached_extract(models[0].backbone, folder, config).features, ours)

    def test_training_views(self, image: Path) -> None:
        dataset = ViewsDataset(find_images(image.parent), replace(cases.VIEWS, jitter_probability=0.0), 0, TWELVE)
        global_views, *_ = dataset[0, 0]
        assert global_views[0, 16, 16, 0] in (64, 255 - 64)  # as it is, or solarised

    def test_maps_and_masks(self, image: Path, models: list[Model], tmp_path: Path) -> None:
        pixels, _ = find_image_files(image.parent, None, None).read(0, TWELVE)
        assert pixels[0, 0, 0] == 64
        voc = write_voc(tmp_path / "voc", {"a": np.ones((32, 32), np.uint8)})
        Image.fromarray(np.full((32, 32), 1023, np.uint16)).save(tmp_path / "deep.png")
        found = replace(find_masked_images(voc), images=(tmp_path / "deep.png",))
        samples = read_samples(0, found, VocConfig(protocol="strict", size=32), [(8, TWELVE), (8, None)])
        assert isinstance(samples, list)
        assert {sample.network[1]: int(sample.pixels[0, 0, 0]) for sample in samples} == {TWELVE: 64, None: 255}

    def test_the_page(self, image: Path, models: list[Model]) -> None:
        engine = Engine(models, Limits())
        picture = engine.picture(image)
        assert picture.pixels[0, 0, 0] == 64
        assert [int(picture.given_to(model.backbone.config)[0, 0, 0]) for model in models] == [64, 255]
        ours, theirs = (engine.patches(Input(model.label, picture)) for model in models)
        assert not torch.allclose(ours, theirs)
