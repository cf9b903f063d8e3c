"""A map-style dataset of a Python program as images: the same views, features and fingerprints as a folder gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from dinoscope.data.finding import find_images
from dinoscope.data.grey_range import ValueRange
from dinoscope.data.images import UnreadableImage, as_raw, decode
from dinoscope.data.loader import StepSampler, ViewsDataset, collate, view_loader
from dinoscope.data.scan import scan
from dinoscope.data.sources import DatasetImages, balanced, dataset_images, image_fraction, label_fraction
from dinoscope.data.views import VIEWS
from dinoscope.errors import UserError
from dinoscope.features import ExtractConfig, cached_extract, extract
from dinoscope.models.backbone import BackboneConfig, build_backbone


class Items(Dataset[Any]):
    """A list as a dataset; what is callable is called when it is asked for."""

    def __init__(self, items: Sequence[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        item = self.items[index]
        return item() if callable(item) else item


def fail() -> None:
    raise KeyError("the disk is gone")


FORMS: dict[str, Callable[[Path], Any]] = {
    "path": lambda path: path,
    "text": str,
    "Pillow": lambda path: Image.open(path).copy(),
    "array": decode,
    "tensor": lambda path: torch.from_numpy(decode(path)).permute(2, 0, 1),
}


@pytest.mark.parametrize("form", FORMS)
def test_views_and_features_are_those_of_a_folder(picture_folder: Callable[..., Path], form: str) -> None:
    folder = find_images(picture_folder(8, classes=2))
    pairs = [(FORMS[form](folder.path(i)), folder.labels[i]) for i in range(8)]
    source = dataset_images(Items(pairs))
    assert source.labels == folder.labels
    sampler = StepSampler(8, 4, 0, range(2), rank=0, processes=1)
    loaders = [
        view_loader(ViewsDataset(images, VIEWS["small_32"], 0), sampler, 0, pin=False) for images in (folder, source)
    ]
    for expected, actual in zip(*loaders, strict=True):
        assert torch.equal(actual.global_views, expected.global_views)
        assert torch.equal(actual.local_views, expected.local_views)
        assert torch.equal(actual.labels, expected.labels)
    torch.manual_seed(0)
    backbone = build_backbone(BackboneConfig("vit_micro_conv8", image_size=32))
    expected, actual = (extract(backbone, images, ExtractConfig(workers=0)) for images in (folder, source))
    assert torch.equal(actual.features, expected.features)
    assert torch.equal(actual.labels, expected.labels)
    assert actual.paths == tuple(map(str, range(8)))
    assert torch.equal(cached_extract(backbone, source, ExtractConfig(workers=0)).features, expected.features)


def test_images_in_other_forms() -> None:
    grey = np.array([[0, 128, 255]], np.uint8)
    for image in (grey, grey[..., None], torch.from_numpy(grey), torch.from_numpy(grey)[None], Image.fromarray(grey)):
        np.testing.assert_array_equal(as_raw(image).rgb(), grey[..., None].repeat(3, axis=2))
    np.testing.assert_array_equal(as_raw(np.array([[True, False]])).rgb()[0, :, 0], [255, 0])
    unit = torch.tensor([0.0, 0.2, 1.0], dtype=torch.float16).expand(3, 1, 3)
    np.testing.assert_array_equal(as_raw(unit).rgb()[0], [[0] * 3, [51] * 3, [255] * 3])
    clear = np.array([[[255, 0, 0, 0], [255, 0, 0, 255]]], np.uint8)  # composited on white
    for image in (clear, Image.fromarray(clear)):
        np.testing.assert_array_equal(as_raw(image).rgb()[0], [[255, 255, 255], [255, 0, 0]])
    deep = as_raw(np.array([[0, 4095]], np.uint16))
    assert deep.range == ValueRange(0, 4095, True)
    np.testing.assert_array_equal(as_raw(Image.fromarray(np.array([[0, 4095]], np.uint16))).values, deep.values)


def test_an_image_is_no_window_into_the_callers_array() -> None:
    array = np.zeros((2, 2, 3), np.uint8)
    pixels = as_raw(array).rgb()
    pixels += 1
    assert not array.any()


@pytest.mark.parametrize("image", [None, 3, np.zeros(4), np.zeros((2, 2, 17)), np.zeros((0, 2, 3)), np.array([["a"]])])
def test_what_is_no_image_is_refused(image: object) -> None:
    with pytest.raises(UnreadableImage, match="is no image"):
        as_raw(image)


def picture(value: int) -> np.ndarray:
    return np.full((4, 5, 3), value, np.uint8)


def test_labels_may_be_texts_tensors_or_targets() -> None:
    texts = dataset_images(Items([(picture(0), "dog"), (picture(1), "cat"), (picture(2), "dog")]))
    assert (texts.labels, texts.classes) == ((1, 0, 1), ("cat", "dog"))
    tensors = dataset_images(Items([(picture(0), torch.tensor(2)), (picture(1), np.int64(0))]))
    assert (tensors.labels, tensors.classes) == ((2, 0), ("0", "1", "2"))
    known = Items([(picture(0), 9), fail])  # its items need not be made
    known.targets, known.classes = [1, 0], ["cat", "dog"]
    assert (dataset_images(known).labels, dataset_images(known).classes) == ((1, 0), ("cat", "dog"))
    unlabelled = dataset_images(Items([picture(0)]))
    assert (unlabelled.labels, unlabelled.classes) == (None, ())


@pytest.mark.parametrize(
    ("dataset", "reason"),
    [
        (Items([]), "has no items"),
        (Dataset(), "has no length"),
        (Items([(picture(0), -1)]), "-1 is no label"),
        (Items([(picture(0), 1.5)]), "1.5 is no label"),
        (Items([(picture(0), 1), (picture(0), "a")]), "'a' is no label"),
    ],
)
def test_other_datasets_are_refused(dataset: Dataset[Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        dataset_images(dataset)


def test_the_fingerprint_is_of_the_number_of_items_and_of_sixteen_of_them() -> None:
    def fingerprint(values: Sequence[int], labels: Sequence[int] | None = None) -> str:
        items = [picture(value) for value in values]
        return dataset_images(Items(items if labels is None else list(zip(items, labels, strict=True)))).fingerprint()

    values = list(range(31))  # looked at: 0, 2, 4, ... 30
    assert fingerprint(values) == fingerprint(values)
    assert fingerprint(values) != fingerprint(values[:-1])
    assert fingerprint(values) != fingerprint([*values[:-1], 99])
    assert fingerprint(values) == fingerprint([0, 99, *values[2:]])
    assert fingerprint(values, [0] * 31) != fingerprint(values, [1] * 31)


def test_parts_of_a_dataset() -> None:
    source = dataset_images(Items([(picture(i), i % 3) for i in range(12)]))
    part = source.without({"0", "5"}).subset([1, 0])
    assert (part.keys, part.labels) == (("2", "1"), (2, 1))
    np.testing.assert_array_equal(part.read(0).rgb(), picture(2))
    assert len(image_fraction(source, 0.5)) == 6
    assert sorted(label_fraction(source, 0.25, seed=0).labels or ()) == [0, 1, 2]
    assert sorted(balanced(source, 6).labels or ()) == [0, 0, 1, 1, 2, 2]
    assert source.sizes() == [0] * 12


def test_items_that_cannot_be_had_are_unreadable_images() -> None:
    source = dataset_images(Items([picture(0), fail, "missing.png", None, np.full((6, 8), 4095, np.uint16)]))
    report = scan(source)
    assert [fault.path for fault in report.unreadable] == ["1", "2", "3"]
    assert report.unreadable[0].reason == "item 1: KeyError: 'the disk is gone'"
    assert "No such file" in report.unreadable[1].reason
    assert (report.images, report.formats, report.over_8_bit, report.values) == (
        5,
        {"dataset": 2},
        1,
        ValueRange(4095, 4095, True),
    )


def test_nothing_is_remembered_of_a_dataset(tmp_path: Path) -> None:
    items = [picture(0)]
    source = dataset_images(Items(items))
    assert not scan(source, cache=tmp_path).unreadable
    items[0] = None
    assert len(scan(source, cache=tmp_path).unreadable) == 1


def test_an_unreadable_item_is_replaced_by_the_next_one() -> None:
    source: DatasetImages = dataset_images(Items([picture(0), fail, picture(2)]))
    dataset = ViewsDataset(source, VIEWS["small_32"], 0, sizes=source.sizes())
    views = collate([dataset[0, 1], dataset[0, 0]])
    assert views.index.tolist() == [2, 0]
    assert views.unreadable == (1,)
