"""Features: what the network sees, how they are gathered, and the cache."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torchvision import transforms

from dinoscope import checkpoint, features
from dinoscope.checkpoint import weights_hash
from dinoscope.data.finding import find_images
from dinoscope.data.images import decode
from dinoscope.data.sources import ImageFolder
from dinoscope.errors import UserError
from dinoscope.features import (
    ExtractConfig,
    cached_extract,
    default_crop_fraction,
    evaluation_image,
    evaluation_view,
    extract,
)
from dinoscope.files import cache_folder
from dinoscope.models.backbone import Backbone, BackboneConfig, build_backbone
from dinoscope.models.foreign import PixelsBackbone
from dinoscope.types import FeatureBank
from tests.conftest import draw_picture

CPU = ExtractConfig(torch.device("cpu"), batch_size=4, workers=0)
MakeFolder = Callable[..., Path]


def build(name: str = "vit_micro_conv8", seed: int = 0) -> Backbone:
    torch.manual_seed(seed)
    return build_backbone(BackboneConfig(name, image_size=32)).eval()


@pytest.fixture(scope="module")
def micro() -> Backbone:
    return build()


@pytest.fixture
def labelled(picture_folder: MakeFolder) -> ImageFolder:
    """Ten pictures of three classes."""
    return find_images(picture_folder(10, classes=3))


def same(bank: FeatureBank, other: FeatureBank) -> bool:
    labels_agree = (
        other.labels is None if bank.labels is None else torch.equal(bank.labels, torch.as_tensor(other.labels))
    )
    names_agree = (bank.paths, bank.classes) == (other.paths, other.classes)
    return labels_agree and names_agree and torch.allclose(bank.features, other.features, atol=1e-5)


class TestEvaluationImage:
    @pytest.mark.parametrize("shape", [(40, 50), (300, 200), (37, 91), (48, 48), (12, 20)])
    @pytest.mark.parametrize(("size", "fraction"), [(32, 1.0), (56, 0.875), (96, 0.875)])
    def test_same_pixels_as_torchvision_on_pillow(self, shape: tuple[int, int], size: int, fraction: float) -> None:
        picture = draw_picture(1, shape)
        short = round(size / fraction)
        bicubic = transforms.InterpolationMode.BICUBIC
        reference = transforms.Compose([transforms.Resize(short, bicubic), transforms.CenterCrop(size)])
        expected = np.array(reference(Image.fromarray(picture))).astype(int)
        ours = evaluation_image(picture, size, fraction)
        assert ours.dtype == torch.uint8
        difference = np.abs(ours.permute(1, 2, 0).numpy().astype(int) - expected)
        assert difference.max() <= 2  # both round to 8 bits between the two passes, with weights of other widths
        assert (difference > 1).mean() < 1e-3

    def test_an_image_of_the_right_size_is_not_touched(self) -> None:
        picture = draw_picture(2, (32, 32))
        assert np.array_equal(evaluation_image(picture, 32, 1.0).permute(1, 2, 0).numpy(), picture)

    @pytest.mark.parametrize("shape", [(1, 2_000_000), (2_000_000, 1), (1, 1)])
    def test_extreme_shapes_fit_in_memory(self, shape: tuple[int, int]) -> None:
        picture = np.full((*shape, 3), 77, dtype=np.uint8)
        assert evaluation_image(picture, 224, 0.875).unique().tolist() == [77]

    def test_the_centre_of_a_strip_is_kept(self) -> None:
        picture = np.zeros((10, 1001, 3), dtype=np.uint8)
        picture[:, 450:551] = 255
        assert evaluation_image(picture, 32, 1.0).min() == 255

    def test_small_images_lose_no_margin(self) -> None:
        assert [default_crop_fraction(size) for size in (32, 64, 65, 224)] == [1, 1, 0.875, 0.875]
        assert round(224 / default_crop_fraction(224)) == 256


class TestExtract:
    def test_features_of_each_image_in_the_order_of_the_folder(self, micro: Backbone, labelled: ImageFolder) -> None:
        bank = extract(micro, labelled, CPU)
        images = [evaluation_image(decode(labelled.path(i)), 32, 1.0) for i in range(len(labelled))]
        with torch.no_grad():
            tokens = micro(micro.normalize(torch.stack(images)))
        assert tokens.cls is not None
        expected = FeatureBank(tokens.cls, torch.tensor(labelled.labels), labelled.paths, labelled.classes)
        assert same(bank, expected)
        assert bank.features.dtype == torch.float32
        assert not bank.features.is_inference()

    def test_features_for_linear_probes(self, micro: Backbone, labelled: ImageFolder) -> None:
        config = ExtractConfig(torch.device("cpu"), batch_size=4, workers=0, feature="linear")
        banks = [compute(micro, labelled, config) for compute in (extract, cached_extract, cached_extract)]
        image = evaluation_image(decode(labelled.path(9)), 32, 1.0)
        with torch.no_grad():
            expected = micro.probe_features(micro.normalize(image[None]))
        for bank in banks:
            torch.testing.assert_close(bank.features[9:], expected, atol=1e-5, rtol=1e-4)

    def test_a_resnet_gives_its_pooled_vector(self, labelled: ImageFolder) -> None:
        resnet = build("resnet18_small")
        bank = extract(resnet, labelled, CPU)
        image = evaluation_image(decode(labelled.path(0)), 32, 1.0)
        with torch.no_grad():
            expected = resnet.net(resnet.normalize(image[None]))
        torch.testing.assert_close(bank.features[:1], expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (3, 2), (64, -1)])
    def test_batches_and_workers_do_not_matter(
        self, micro: Backbone, labelled: ImageFolder, batch_size: int, workers: int
    ) -> None:
        config = ExtractConfig(torch.device("cpu"), batch_size, workers)
        assert same(extract(micro, labelled, config), extract(micro, labelled, CPU))

    def test_without_labels(self, micro: Backbone, picture_folder: MakeFolder) -> None:
        bank = extract(micro, find_images(picture_folder(3)), CPU)
        assert bank.labels is None
        assert bank.classes == ()
        assert bank.paths == ("0000.png", "0001.png", "0002.png")

    def test_unreadable_images_are_left_out_and_counted(
        self, micro: Backbone, labelled: ImageFolder, caplog: pytest.LogCaptureFixture
    ) -> None:
        whole = extract(micro, labelled, CPU)
        assert not caplog.records
        gone = [0, 4, 5, 6, 7]  # with batches of four, one batch has no image left
        for index in gone:
            labelled.path(index).write_bytes(b"no image")
        done: list[tuple[int, int]] = []
        bank = extract(micro, labelled, CPU, lambda *call: done.append(call))
        kept = [index for index in range(10) if index not in gone]
        assert whole.labels is not None
        expected = FeatureBank(
            whole.features[kept], whole.labels[kept], tuple(whole.paths[i] for i in kept), whole.classes
        )
        assert same(bank, expected)
        assert "5 of 10 images cannot be read" in caplog.text
        assert labelled.paths[0] in caplog.text
        assert done == [(4, 10), (8, 10), (10, 10)]

    def test_no_image_at_all(self, micro: Backbone, labelled: ImageFolder) -> None:
        for index in range(10):
            labelled.path(index).unlink()
        with pytest.raises(UserError, match="none of the 10 images can be read"):
            extract(micro, labelled, CPU)

    def test_the_network_and_the_generator_are_left_as_they_were(self, labelled: ImageFolder) -> None:
        network = build().train()
        network.net.blocks[1].eval()
        modes = [module.training for module in network.modules()]
        state = torch.get_rng_state()
        extract(network, labelled, ExtractConfig(batch_size=4, workers=0))
        assert [module.training for module in network.modules()] == modes
        assert torch.equal(torch.get_rng_state(), state)

    def test_stochastic_depth_is_off(self, labelled: ImageFolder) -> None:
        torch.manual_seed(0)
        network = build_backbone(BackboneConfig("vit_micro_conv8", image_size=32, drop_path=0.5)).train()
        assert same(extract(network, labelled, CPU), extract(network, labelled, CPU))

    def test_reduced_precision_is_close_and_float32(self, micro: Backbone, labelled: ImageFolder) -> None:
        reduced = ExtractConfig(torch.device("cpu"), workers=0, dtype=torch.bfloat16)
        bank, exact = extract(micro, labelled, reduced), extract(micro, labelled, CPU)
        assert bank.features.dtype == torch.float32
        assert torch.cosine_similarity(bank.features, exact.features).min() > 0.999
        assert not torch.equal(bank.features, exact.features)

    @pytest.mark.gpu
    def test_a_gpu_gives_the_same(self, micro: Backbone, labelled: ImageFolder) -> None:
        exact = extract(micro, labelled, CPU)
        network = build()
        network.load_state_dict(micro.state_dict())
        bank = extract(network, labelled, ExtractConfig(torch.device("cuda"), 3, workers=2))
        assert bank.features.device.type == "cpu"
        torch.testing.assert_close(bank.features, exact.features, rtol=1e-2, atol=1e-2)

    def test_another_image_size(self, micro: Backbone, labelled: ImageFolder) -> None:
        config = ExtractConfig(torch.device("cpu"), workers=0, image_size=40, crop_fraction=0.5)
        view = evaluation_view(micro, config)
        assert (view.size, view.crop_fraction) == (40, 0.5)
        assert extract(micro, labelled, config).features.shape == (10, micro.dim)

    @pytest.mark.parametrize(
        ("config", "reason"),
        [
            (ExtractConfig(image_size=7), "at least one patch of 8 px"),
            (ExtractConfig(crop_fraction=0.0), "crop fraction is 0.0"),
            (ExtractConfig(crop_fraction=1.5), "crop fraction is 1.5"),
            (ExtractConfig(batch_size=0), "batch size is 0"),
        ],
    )
    def test_settings_out_of_range(
        self, micro: Backbone, labelled: ImageFolder, config: ExtractConfig, reason: str
    ) -> None:
        with pytest.raises(UserError, match=reason):
            extract(micro, labelled, config)


class TestCache:
    @pytest.fixture
    def extractions(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Grows by one entry with each real extraction."""
        made: list[str] = []

        compute = features.readable_features

        def counted(backbone: Backbone, folder: ImageFolder, *rest: Any) -> tuple[Tensor, Tensor]:
            made.append(folder.root.name)
            return compute(backbone, folder, *rest)

        monkeypatch.setattr(features, "readable_features", counted)
        return made

    def entry(self) -> Path:
        (entry,) = cache_folder("features").iterdir()
        return entry

    def test_the_second_time_nothing_is_computed(
        self, micro: Backbone, labelled: ImageFolder, extractions: list[str]
    ) -> None:
        first, second = (cached_extract(micro, labelled, CPU) for _ in range(2))
        assert len(extractions) == 1
        assert same(first, second)
        assert torch.equal(first.features, second.features)

    def test_an_extraction_that_was_broken_off_goes_on_after_the_last_whole_piece(
        self, micro: Backbone, labelled: ImageFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        labelled.path(5).write_bytes(b"no image")
        whole = extract(micro, labelled, CPU)
        monkeypatch.setattr(features, "PIECE", 4)
        compute, seen = features.readable_features, list[int]()

        def until(backbone: Backbone, folder: ImageFolder, *rest: Any) -> tuple[Tensor, Tensor]:
            seen.append(len(folder))
            if len(seen) == 2:
                raise KeyboardInterrupt
            return compute(backbone, folder, *rest)

        monkeypatch.setattr(features, "readable_features", until)
        with pytest.raises(KeyboardInterrupt):
            cached_extract(micro, labelled, CPU, place=tmp_path / "kept")
        heard = list[tuple[int, int]]()
        bank = cached_extract(micro, labelled, CPU, lambda *told: heard.append(told), tmp_path / "kept")
        assert seen == [4, 4, 4, 2]
        assert heard == [(8, 10), (10, 10)]
        assert same(bank, whole)
        assert bank.paths == whole.paths
        assert len(list((tmp_path / "kept").iterdir())) == 3
        assert not cache_folder("features").exists()

    def test_a_moved_folder_is_recognised(
        self, micro: Backbone, labelled: ImageFolder, extractions: list[str], tmp_path: Path
    ) -> None:
        first = cached_extract(micro, labelled, CPU)
        shutil.move(labelled.root, tmp_path / "moved")
        assert same(cached_extract(micro, find_images(tmp_path / "moved"), CPU), first)
        assert len(extractions) == 1

    def test_speed_settings_share_an_entry(
        self, micro: Backbone, labelled: ImageFolder, extractions: list[str]
    ) -> None:
        cached_extract(micro, labelled, CPU)
        cached_extract(micro, labelled, ExtractConfig(batch_size=1, workers=0, image_size=32, crop_fraction=1.0))
        assert len(extractions) == 1

    @pytest.mark.parametrize(
        "config",
        [
            ExtractConfig(workers=0, image_size=40),
            ExtractConfig(workers=0, crop_fraction=0.9),
            ExtractConfig(workers=0, dtype=torch.bfloat16),
            ExtractConfig(workers=0, feature="linear"),
        ],
    )
    def test_another_view_is_another_entry(
        self, micro: Backbone, labelled: ImageFolder, extractions: list[str], config: ExtractConfig
    ) -> None:
        cached_extract(micro, labelled, CPU)
        cached_extract(micro, labelled, config)
        assert len(extractions) == 2

    def test_other_weights_are_another_entry(
        self, micro: Backbone, labelled: ImageFolder, extractions: list[str]
    ) -> None:
        other = build()
        with torch.no_grad():
            other.net.norm.bias[0] += 1e-6
        assert same(cached_extract(micro, labelled, CPU), cached_extract(other, labelled, CPU))
        assert len(extractions) == 2

    def test_an_image_drawn_anew_is_another_entry(
        self, micro: Backbone, picture_folder: MakeFolder, extractions: list[str]
    ) -> None:
        root = picture_folder(1)
        file = root / "0000.bmp"  # of the same size in bytes, whatever is drawn
        cv2.imwrite(str(file), draw_picture(1))
        os.utime(file, ns=(0, 0))
        first = cached_extract(micro, find_images(root), CPU)
        cv2.imwrite(str(file), draw_picture(2))
        assert not same(cached_extract(micro, find_images(root), CPU), first)
        assert len(extractions) == 2

    def test_labels_are_those_of_the_folder(self, micro: Backbone, labelled: ImageFolder) -> None:
        cached_extract(micro, labelled, CPU)
        relabelled = ImageFolder(labelled.root, labelled.paths, (1,) * 10, ("a", "b"))
        bank = cached_extract(micro, relabelled, CPU)
        assert bank.labels is not None
        assert bank.labels.tolist() == [1] * 10
        assert bank.classes == ("a", "b")

    def test_unreadable_images_are_remembered_and_told_again(
        self,
        micro: Backbone,
        labelled: ImageFolder,
        extractions: list[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        labelled.path(2).write_bytes(b"no image")
        first = cached_extract(micro, labelled, CPU)
        caplog.clear()
        assert same(cached_extract(micro, labelled, CPU), first)
        assert labelled.paths[2] not in first.paths
        assert "1 of 10 images cannot be read" in caplog.text
        assert len(extractions) == 1

    @pytest.mark.parametrize("damage", [lambda whole: whole[:-8], lambda whole: b"", lambda whole: b"x" * 99])
    def test_a_damaged_entry_is_replaced(
        self,
        micro: Backbone,
        labelled: ImageFolder,
        extractions: list[str],
        caplog: pytest.LogCaptureFixture,
        damage: Callable[[bytes], bytes],
    ) -> None:
        first = cached_extract(micro, labelled, CPU)
        self.entry().write_bytes(damage(self.entry().read_bytes()))
        assert same(cached_extract(micro, labelled, CPU), first)
        assert "extracted again" in caplog.text
        assert same(cached_extract(micro, labelled, CPU), first)
        assert len(extractions) == 2

    @pytest.mark.parametrize(
        "damage",
        [
            lambda stored: stored["features"].__setitem__(3, math.nan),
            lambda stored: stored["features"].copy_(stored["features"].flip(0)),
            lambda stored: stored["features"][2].view(torch.int32).bitwise_xor_(1),
            lambda stored: stored["positions"].copy_(stored["positions"].flip(0)),
        ],
        ids=["nan", "rows", "bit", "positions"],
    )
    @pytest.mark.parametrize("checksums", [True, False])
    def test_an_entry_that_was_not_written_so_is_not_believed(
        self, micro: Backbone, labelled: ImageFolder, damage: Callable[[dict[str, Tensor]], object], checksums: bool
    ) -> None:
        first = cached_extract(micro, labelled, CPU)
        with safe_open(self.entry(), framework="pt") as file:
            header, stored = file.metadata(), {name: file.get_tensor(name) for name in ("features", "positions")}
        damage(stored)
        if not checksums:
            metadata = json.loads(header[checkpoint.METADATA_KEY])
            del metadata[checkpoint.CHECKSUMS]
            header = {checkpoint.METADATA_KEY: json.dumps(metadata)}
        save_file(stored, self.entry(), metadata=header)
        assert torch.equal(cached_extract(micro, labelled, CPU).features, first.features)

    def test_the_entry_of_other_images_under_this_name_is_not_believed(
        self, micro: Backbone, labelled: ImageFolder
    ) -> None:
        first = cached_extract(micro, labelled, CPU)
        place, entry = self.entry().parent, self.entry()
        cached_extract(micro, labelled.subset(range(9, -1, -1)), CPU)
        (other,) = set(place.iterdir()) - {entry}
        other.replace(entry)
        assert torch.equal(cached_extract(micro, labelled, CPU).features, first.features)

    def test_the_nan_of_a_broken_model_is_not_kept(self, labelled: ImageFolder) -> None:
        broken = build()
        with torch.no_grad():
            next(broken.net.parameters()).fill_(math.nan)
        assert cached_extract(broken, labelled, CPU).features.isnan().all()
        assert not cache_folder("features").exists()

    def test_an_entry_of_another_form_is_replaced(
        self, micro: Backbone, labelled: ImageFolder, caplog: pytest.LogCaptureFixture
    ) -> None:
        first = cached_extract(micro, labelled, CPU)
        features.checkpoint.save(self.entry(), {"features": torch.zeros(10, 7)}, {})
        assert same(cached_extract(micro, labelled, CPU), first)
        assert "extracted again" in caplog.text

    def test_no_room_for_an_entry_is_only_a_warning(
        self,
        micro: Backbone,
        labelled: ImageFolder,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("DINOSCOPE_CACHE", str(tmp_path / "file"))
        with caplog.at_level(logging.WARNING):
            bank = cached_extract(micro, labelled, CPU)
        assert len(bank.features) == 10
        assert "DINOSCOPE_CACHE" in caplog.text

    def test_the_folder_follows_the_environment(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("DINOSCOPE_CACHE", str(tmp_path))
        assert cache_folder("features") == tmp_path / "features"
        monkeypatch.delenv("DINOSCOPE_CACHE")
        assert "dinoscope" in cache_folder("features").parts

    def test_the_hash_is_of_the_function_not_of_the_mode(self, micro: Backbone) -> None:
        assert len(weights_hash(micro)) == 32
        assert weights_hash(build().train()) == weights_hash(micro)
        assert weights_hash(build(seed=1)) != weights_hash(micro)
        wider = build_backbone(BackboneConfig("vit_micro_conv8", image_size=32, mean=(0.5, 0.5, 0.5)))
        wider.load_state_dict(micro.state_dict())
        assert weights_hash(wider) != weights_hash(micro)


class TestRawPixels:
    def test_the_cosine_is_the_correlation_of_the_pixels(self, labelled: ImageFolder) -> None:
        bank = extract(PixelsBackbone(8), labelled, ExtractConfig(workers=0))
        assert bank.features.shape == (10, 3 * 8 * 8)
        assert bank.paths == labelled.paths
        images = [evaluation_image(decode(labelled.path(i)), 8, 1.0).flatten().double() for i in (0, 1)]
        cosine = torch.cosine_similarity(bank.features[0], bank.features[1], dim=0)
        assert cosine.item() == pytest.approx(torch.corrcoef(torch.stack(images))[0, 1].item(), abs=1e-5)
