"""Jaccard on VOC: numbers derived by hand, the slow way gives the same, and what cannot be used is counted."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dinoscope.data.benchmarks import MaskedImages, encode_indices, find_masked_images
from dinoscope.errors import UserError
from dinoscope.evaluation.base import Context, differences
from dinoscope.evaluation.voc import (
    VocConfig,
    cell_jaccard,
    count_cells,
    fixed_head,
    jaccard,
    measure_voc,
    published_scores,
    strict_scores,
    two_halves,
    whole_image_scores,
)
from dinoscope.explain.attention import mass_mask, mass_masks
from dinoscope.explain.maps import MAPS
from dinoscope.model_names import Model, load_models
from dinoscope.models.backbone import Backbone
from dinoscope.types import Items, Result

# Two classes and a void pixel in each of two cells; a cell is 2 x 2 pixels:
#   A: three pixels of class 1, one void    B: background
#   C: four pixels of class 2               D: three of background, one void
MASK = np.array([[1, 1, 0, 0], [1, 255, 0, 0], [2, 2, 0, 0], [2, 2, 0, 255]], np.uint8)
# Cells A, B, C, D. Half of the mass is A and B in head 0, C and D in head 1;
# in their mean, .265 .235 .265 .235, it is A and C.
HEADS = torch.tensor([[[0.48, 0.42], [0.05, 0.05]], [[0.05, 0.05], [0.48, 0.42]]])


def write_voc(root: Path, masks: dict[str, np.ndarray], listed: list[str] | None = None) -> Path:
    voc = root / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (voc / folder).mkdir(parents=True)
    for number, (name, mask) in enumerate(masks.items()):
        picture = np.random.default_rng(number).integers(0, 255, (*mask.shape, 3), dtype=np.uint8)
        cv2.imwrite(str(voc / "JPEGImages" / f"{name}.jpg"), picture)
        (voc / "SegmentationClass" / f"{name}.png").write_bytes(encode_indices(mask))
    (voc / "ImageSets/Segmentation/val.txt").write_text("\n".join(listed or list(masks)) + "\n")
    return voc


def enlarged(mask: np.ndarray) -> np.ndarray:
    """Four times as large, so that a cell is a patch of vit_micro_conv8."""
    return np.repeat(np.repeat(mask, 4, axis=0), 4, axis=1)


def small_config(**changes: object) -> VocConfig:
    values: dict[str, object] = {"square": 16, "size": 16, "mass": 0.5, "masses": (0.5, 0.93)}
    return VocConfig(**{**values, **changes})  # pyright: ignore[reportArgumentType]


@pytest.fixture
def given_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every image's attention is `HEADS`."""

    def heads(backbone: Backbone, images: Tensor, block: int) -> Tensor:
        return HEADS.expand(len(images), -1, -1, -1)

    monkeypatch.setitem(MAPS, "attention", heads)


@pytest.fixture(scope="module")
def vit() -> Model:
    return load_models(["random:vit_micro_conv8"])[0]


def test_both_protocols_by_hand() -> None:
    counts = count_cells(MASK, (2, 2))
    assert counts.classes == (1, 2)
    assert counts.objects.tolist() == [[3, 0, 0, 0], [0, 0, 4, 0]]
    assert counts.void.tolist() == [1, 0, 0, 1]
    masks = mass_masks(torch.cat([HEADS.mean(dim=0, keepdim=True), HEADS]).flatten(1), (0.5,))[0]
    assert masks.int().tolist() == [[1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1]]
    # Void pixels count. Class 1, head 0: 3 of the 8 pixels of A and B, which hold all of it. Class 2, head 1: 4 of 8.
    scores, heads = published_scores(masks[1:], counts)
    assert scores.tolist() == pytest.approx([3 / 8, 4 / 8])
    assert heads.tolist() == [0, 1]
    # Void pixels do not. 7 pixels are objects. A and C: those and no other. A and B: 3 of 7, and 4 others.
    # C and D: 4 of 7, and 3 others.
    assert strict_scores(masks, counts).tolist() == pytest.approx([1, 3 / 11, 4 / 10])
    # the whole image: 3 and 4 of 16 pixels; 7 of the 14 that are not void
    assert whole_image_scores(counts) == pytest.approx(((3 / 16 + 4 / 16) / 2, 7 / 14))


def value(result: Result, figure: str, mass: float = 0.5) -> float:
    metric = result.metric(f"voc_jaccard_{figure}", mass=mass)
    assert metric is not None
    return metric.value


def items(result: Result) -> Items:
    assert result.items is not None
    return result.items


@pytest.mark.usefixtures("given_heads")
def test_the_same_through_the_whole_way(tmp_path: Path, vit: Model) -> None:
    data = write_voc(tmp_path, {name: enlarged(MASK) for name in "abc"})
    (result,), (masks,) = measure_voc([vit], find_masked_images(data), small_config(), keep_masks=True)
    figures = items(result).figures
    assert figures["voc_jaccard_published"] == pytest.approx([100 * 7 / 16] * 3)
    assert figures["voc_jaccard_strict_mean"] == pytest.approx([100.0] * 3)
    assert figures["voc_jaccard_strict_head"] == pytest.approx([100 * 4 / 10] * 3)  # head 1, on every half
    assert result.protocol["fixed_heads"] == [1, 1]
    assert masks["a"].tolist() == [[True, False], [True, False]]
    assert result.protocol["whole_image"] == pytest.approx({"published": 100 * 7 / 32, "strict": 100 / 2})
    # at a mass of .93 it takes a third cell (.48 + .42 + .05), of two equal ones the earlier: A B C, and C D A
    assert value(result, "published", 0.93) == pytest.approx(100 * (3 / 12 + 4 / 12) / 2)
    assert value(result, "published") == pytest.approx(100 * 7 / 16)
    head = result.metrics[2]
    assert (head.name, head.parameters) == ("voc_jaccard_strict_head", {"mass": 0.5})
    assert head.value == pytest.approx(40)
    assert head.low is None  # three images that are all alike have no interval
    classes = [each for each in result.metrics if each.parameters.get("class")]
    assert [(each.name, each.parameters["class"], each.n) for each in classes[::2]] == [
        ("voc_jaccard_published", 1, 3),
        ("voc_jaccard_published", 2, 3),
    ]
    assert [each.value for each in classes[::2]] == pytest.approx([100 * 3 / 8, 100 * 4 / 8])


@pytest.mark.usefixtures("given_heads")
def test_published_alone_keeps_the_heads_that_the_ground_truth_chose(tmp_path: Path, vit: Model) -> None:
    images = find_masked_images(write_voc(tmp_path, {"a": enlarged(MASK)}))
    config = small_config(protocol="published")
    (result,), (masks,) = measure_voc([vit], images, config, keep_masks=True)
    assert masks["a"].all()  # A and B for class 1, C and D for class 2
    assert list(items(result).figures) == ["voc_jaccard_published"]


@pytest.mark.usefixtures("given_heads")
def test_one_image_is_too_few_to_choose_a_head_on(tmp_path: Path, vit: Model) -> None:
    images = find_masked_images(write_voc(tmp_path, {"a": enlarged(MASK)}))
    (result,), _ = measure_voc([vit], images, small_config())
    assert result.protocol["fixed_heads"] is None
    assert list(items(result).figures) == ["voc_jaccard_published", "voc_jaccard_strict_mean"]


@settings(max_examples=40)
@given(
    st.integers(0, 10_000),
    st.tuples(st.integers(3, 40), st.integers(3, 40)),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_counting_in_cells_is_comparing_pixels(seed: int, size: tuple[int, int], grid: tuple[int, int]) -> None:
    generator = np.random.default_rng(seed)
    mask = generator.choice(np.array([0, 0, 3, 7, 255], np.uint8), size)
    maps = torch.from_numpy(generator.random((3, *grid), dtype=np.float32))
    masks = torch.stack([mass_mask(each.flatten(), 0.6).view(grid) for each in maps])
    large = F.interpolate(masks[None].float(), size, mode="nearest-exact")[0] > 0
    ground_truth = torch.from_numpy(mask)
    counts = count_cells(mask, grid)
    present = [value for value in (3, 7) if (mask == value).any()]
    assert counts.classes == tuple(present)
    assert counts.pixels.sum() == mask.size
    if present:
        slow = (
            torch.tensor([[jaccard(head, ground_truth == value) for value in present] for head in large])
            .max(dim=0)
            .values
        )
        torch.testing.assert_close(published_scores(masks.flatten(1), counts)[0].float(), slow)
    foreground = (ground_truth > 0) & (ground_truth < 255)
    slow = torch.tensor([jaccard(head, foreground, ground_truth < 255) for head in large])
    fast = strict_scores(masks.flatten(1), counts).float()
    torch.testing.assert_close(fast, slow)
    assert ((fast >= 0) & (fast <= 1)).all()
    order = torch.randperm(masks[0].numel(), generator=torch.Generator().manual_seed(seed))
    shuffled = cell_jaccard(masks.flatten(1)[:, order], counts.objects[:, order], counts.pixels[order])
    torch.testing.assert_close(shuffled, cell_jaccard(masks.flatten(1), counts.objects, counts.pixels))


def test_ranking_once_gives_the_same_masks() -> None:
    maps = torch.rand(2, 3, 50, generator=torch.Generator().manual_seed(0)).round(decimals=1)  # with ties
    masses = (0.1, 0.6, 0.95, 1.0)
    every = mass_masks(maps, masses)
    assert every.shape == (4, 2, 3, 50)
    for mass, masks in zip(masses, every, strict=True):
        assert torch.equal(masks, mass_mask(maps, mass))
    with pytest.raises(UserError, match=r"at most 1, not 1\.5"):
        mass_masks(maps, (0.5, 1.5))


def test_a_head_is_chosen_on_the_other_half() -> None:
    # head 0 fits the first two images, head 1 the others: each half is reported with the head of the other
    scores = torch.tensor([[[0.9, 0.1]], [[0.7, 0.3]], [[0.2, 0.6]], [[0.0, 0.8]]])
    found = fixed_head(scores, torch.tensor([True, True, False, False]))
    assert found is not None
    values, heads = found
    assert heads.tolist() == [[1], [0]]
    assert values[:, 0].tolist() == pytest.approx([0.1, 0.3, 0.2, 0.0])
    assert fixed_head(scores, torch.zeros(4, dtype=torch.bool)) is None


def test_halves_are_seeded_and_equal() -> None:
    first = two_halves(101, seed=3)
    assert first.sum() == 50
    assert torch.equal(first, two_halves(101, seed=3))
    assert not torch.equal(first, two_halves(101, seed=4))


def spoilt(tmp_path: Path) -> MaskedImages:
    masks = {name: enlarged(MASK) for name in ("good", "size", "empty", "image", "mask")}
    masks["empty"] = np.where(masks["empty"] == 255, 255, 0).astype(np.uint8)
    voc = write_voc(tmp_path, masks, [*masks, "gone", "bare"])
    (voc / "SegmentationClass" / "size.png").write_bytes(encode_indices(MASK))
    (voc / "JPEGImages" / "image.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (voc / "SegmentationClass" / "mask.png").write_bytes(b"no mask")
    (voc / "SegmentationClass" / "gone.png").write_bytes(encode_indices(MASK))  # and no image
    return find_masked_images(voc)


def test_what_cannot_be_used_is_counted(tmp_path: Path, vit: Model) -> None:
    told: list[tuple[int, int]] = []
    (result,), _ = measure_voc([vit], spoilt(tmp_path), small_config(), lambda *done: told.append(done))
    assert items(result).names == ("good",)
    left_out = items(result).left_out
    assert set(left_out) == {"bare", "size", "empty", "image", "mask", "gone"}
    assert "is 4 x 4 px, its image 16 x 16 px" in left_out["size"]
    assert result.protocol["left_out"] == {
        "mask missing": 1,
        "image and mask of different sizes": 1,
        "no object in the mask": 1,
        "image unreadable": 2,
        "mask unreadable": 1,
    }
    assert result.protocol["images"] == 1
    assert told[-1] == (6, 6)


def test_nothing_that_can_be_used_is_an_error(tmp_path: Path, vit: Model) -> None:
    images = find_masked_images(write_voc(tmp_path, {"a": np.zeros((16, 16), np.uint8)}))
    with pytest.raises(UserError, match=r"none of the 1 images .* The first: .*a.png: no pixel belongs to an object"):
        measure_voc([vit], images, small_config())


def scenes_results(folder: Path, batch_size: int, **changes: object) -> list[Result]:
    models, context = load_models(["random:vit_micro_conv8", "random:resnet_micro"]), Context(batch_size=batch_size)
    config = small_config(square=64, size=48, **changes)
    return measure_voc(models, find_masked_images(folder), config, context=context)[0]


def test_the_order_and_the_batch_do_not_matter(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    shapes = [(40, 60), (60, 40), (40, 60), (50, 50), (40, 60)]
    masks = {
        str(n): np.kron(generator.integers(0, 3, (5, 5)), np.ones((12, 12)))[:h, :w].astype(np.uint8)
        for n, (h, w) in enumerate(shapes)
    }
    voc = write_voc(tmp_path, masks)
    one, many = scenes_results(voc, batch_size=1, threads=1), scenes_results(voc, batch_size=4, threads=2)
    for a, b in zip(one, many, strict=True):
        assert items(a).figures.keys() == items(b).figures.keys()
        for name, values in items(a).figures.items():
            np.testing.assert_allclose(values, items(b).figures[name], atol=2, rtol=0)  # ties of rounded sums
    (voc / "ImageSets/Segmentation/val.txt").write_text("4\n2\n0\n1\n3\n")
    turned = scenes_results(voc, batch_size=1)
    for name in ("voc_jaccard_published", "voc_jaccard_strict_mean"):
        there, here = items(one[0]).figures[name], items(turned[0]).figures[name]
        np.testing.assert_allclose(here, np.take(there, [4, 2, 0, 1, 3]))
    figures = items(one[1]).figures
    assert one[1].protocol["maps"] == 1
    np.testing.assert_allclose(figures["voc_jaccard_strict_head"], figures["voc_jaccard_strict_mean"])  # the one map
    labelled = list(zip(("vit", "resnet"), one, strict=True))
    for name in ("published", "strict_mean", "strict_head"):
        ((first, second, interval),) = differences(labelled, f"voc_jaccard_{name}")
        assert (first, second) == ("vit", "resnet")
        assert interval.mean == pytest.approx(value(one[1], name) - value(one[0], name))
        assert interval.low < interval.mean < interval.high


def test_weights_that_give_no_numbers_are_named(tmp_path: Path, vit: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MAPS, "attention", lambda *_: HEADS[None] * torch.nan)
    images = find_masked_images(write_voc(tmp_path, {"a": enlarged(MASK)}))
    with pytest.raises(UserError, match="random vit_micro_conv8: a map is not finite"):
        measure_voc([vit], images, small_config())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"square": 8 * 300}, "has more than 65536 patches of 8 px: choose a smaller one"),
        ({"square": 20}, "square of 20 px does not consist of 8 px patches: give --square 16, or"),
        ({"size": 4}, "at least one patch of 8 px, not 4"),
        ({"mass": 0.0}, "mass that a mask holds is a share above 0 and at most 1, not 0"),
        ({"masses": (0.5, 1.5)}, r"at most 1, not 1\.5"),
    ],
)
def test_settings_out_of_range(tmp_path: Path, vit: Model, changes: dict[str, object], said: str) -> None:
    images = find_masked_images(write_voc(tmp_path, {"a": enlarged(MASK)}))
    with pytest.raises(UserError, match=said):
        measure_voc([vit], images, small_config(**changes))


def test_a_batch_of_no_images_is_refused(tmp_path: Path, vit: Model) -> None:
    images = find_masked_images(write_voc(tmp_path, {"a": enlarged(MASK)}))
    with pytest.raises(UserError, match="at least 1"):
        measure_voc([vit], images, small_config(), context=Context(batch_size=0))


def test_other_kinds_of_maps_have_one_map_and_are_named(tmp_path: Path, vit: Model) -> None:
    images = find_masked_images(write_voc(tmp_path, {"a": enlarged(MASK)}))
    (result,), _ = measure_voc([vit], images, small_config(map="centre"))
    assert result.protocol["maps"] == 1
    with pytest.raises(UserError, match="no kind of map 'atention'; did you mean attention"):
        small_config(map="atention")
