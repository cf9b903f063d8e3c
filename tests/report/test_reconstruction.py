"""Reconstructions: pictures of what a method predicts of hidden patches, and the section that shows them."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dinoscope import api
from dinoscope.methods.mae import MAE, MAEConfig
from dinoscope.model_names import load_models
from dinoscope.models.backbone import BackboneConfig
from dinoscope.report.page import Figure, Notice, Section
from dinoscope.report.runs import Material, read_runs
from dinoscope.report.sections import reconstruction
from tests.conformance import cases
from tests.pictures import write_pictures


def drawer(norm_pixels: bool) -> MAE:
    torch.manual_seed(0)
    config = MAEConfig(decoder_dim=32, decoder_depth=1, decoder_heads=4, norm_pixels=norm_pixels)
    return MAE(config, BackboneConfig("vit_micro_patch8_64", image_size=32))


@pytest.mark.parametrize("norm_pixels", [True, False])
def test_what_is_seen_stays_and_what_is_hidden_is_predicted(norm_pixels: bool) -> None:
    """A decoder that answers 0 gives the mean of each hidden patch, or without normalisation the data set's mean."""
    method = drawer(norm_pixels)
    with torch.no_grad():
        method.decoder.pixels.weight.zero_()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    masks = method.masking.sample_batch(0, 0, range(2), 1)[0]
    drawn = method.reconstruction.draw(images, masks)
    mean = 255 * method.backbone.mean.view(3)
    for image in range(2):
        for patch in range(16):
            place = (
                slice(None),
                slice(8 * (patch // 4), 8 * (patch // 4) + 8),
                slice(8 * (patch % 4), 8 * (patch % 4) + 8),
            )
            before, after = images[image][place].double(), drawn[image][place].double()
            if not masks[image, patch]:
                assert torch.equal(before, after)
            elif norm_pixels:  # the mean is that of the normalised values of all channels
                std = 255 * method.backbone.std.view(3, 1, 1)
                level = ((before - mean.view(3, 1, 1)) / std).mean()
                wanted = (level * std + mean.view(3, 1, 1)).expand_as(after).round()
                assert (after - wanted).abs().max() <= 1
            else:
                assert (after - mean.round().view(3, 1, 1)).abs().max() <= 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reconstruction")
    data = write_pictures(root / "data", 16, classes=2, split="train")
    for name in ("mae", "simclr"):
        api.train(cases.run_config(name, data, root / name, epochs=1))
    return root


def material(root: Path, *names: str, pictures: bool = True) -> Material:
    paths = [root / name for name in names]
    return Material(tuple(read_runs(paths)), tuple(load_models([str(path) for path in paths])), pictures=pictures)


def test_a_run_that_can_draw_is_shown_and_others_are_not(trained: Path) -> None:
    section = reconstruction.section(material(trained, "mae", "simclr"))
    assert isinstance(section, Section)
    (figure,) = section.blocks
    assert isinstance(figure, Figure)
    assert figure.caption.startswith("mae: 6 training images of ")
    assert "75% of the patches are hidden" in figure.caption
    with Image.open(io.BytesIO(figure.picture)) as picture:
        assert np.asarray(picture.convert("RGB")).std() > 20
    assert reconstruction.section(material(trained, "simclr")) is None
    assert reconstruction.section(material(trained, "mae", pictures=False)) is None


def test_a_damaged_checkpoint_is_named(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "mae", tmp_path / "mae")
    for file in (tmp_path / "mae" / "checkpoints").iterdir():
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    section = reconstruction.section(material(tmp_path, "mae"))
    assert isinstance(section, Section)
    (notice,) = section.blocks
    assert isinstance(notice, Notice)
    assert notice.kind == "warning"
    assert notice.text.startswith("mae: ")
