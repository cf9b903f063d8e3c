"""Label propagation through a video: objects are kept, given late or corrected; any network, any size of frame."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from dinoscope.errors import UserError
from dinoscope.evaluation import propagation
from dinoscope.evaluation.propagation import (
    PropagationConfig,
    cell_features,
    propagate,
    segment,
    warn_of_lost,
    working_size,
)
from dinoscope.models.backbone import Backbone, BackboneConfig, build_backbone
from dinoscope.types import Tokens
from tests.conftest import draw_picture

GOLDEN = Path(__file__).parent / "data" / "golden_propagation.safetensors"
SMALL = PropagationConfig(size=64, context=2, radius=2)


class Colors(Backbone):
    """A network whose tokens are the mean colours of patches of 8 pixels: what it sees is known."""

    def __init__(self) -> None:
        super().__init__(BackboneConfig(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)), 3, 8)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: torch.Tensor) -> Tokens:
        cells = nn.functional.avg_pool2d(images, 8) * self.scale
        return Tokens(None, cells.flatten(2).transpose(1, 2), (cells.shape[2], cells.shape[3]))


def moving(count: int, *, objects: int = 1, start: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Frames of 64 x 128 px, grey, on which squares move right 8 px a frame; and their masks."""
    colors = [(230, 20, 20), (20, 230, 20), (20, 20, 230)]
    frames, masks = [], []
    for number in range(count):
        frame, mask = np.full((64, 128, 3), 90, np.uint8), np.zeros((64, 128), np.uint8)
        for item in range(objects):
            if item and number < start:
                continue
            place = np.s_[24 * item : 24 * item + 16, 16 + 8 * number : 32 + 8 * number]
            frame[place], mask[place] = colors[item], item + 1
        frames.append(frame)
        masks.append(mask)
    return frames, masks


def backbone(name: str) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(BackboneConfig(name, 64)).eval()


@pytest.mark.parametrize("name", ["vit_micro_conv8", "resnet_micro"])
@pytest.mark.parametrize("size", [(64, 96), (101, 67), (40, 40)])
def test_any_network_and_frame_size_give_masks_of_the_frames_size(name: str, size: tuple[int, int]) -> None:
    frames = [draw_picture(number, size) for number in range(4)]
    mask = np.zeros(size, np.uint8)
    mask[: size[0] // 2, : size[1] // 2] = 7
    result = list(propagate(backbone(name), frames, {0: mask}, SMALL))
    assert len(result) == 4
    assert np.array_equal(result[0], mask)
    for each in result:
        assert each.shape == size
        assert each.dtype == np.uint8
        assert set(np.unique(each)) <= {0, 7}


@pytest.mark.parametrize("name", ["vit_micro_conv8", "resnet_micro"])
def test_frames_that_are_all_the_same_keep_the_mask(name: str) -> None:
    """Cell by cell: the mask is made of whole cells, and each cell is most like itself."""
    frames = [np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)] * 5
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:32] = 3
    config = PropagationConfig(size=64, top_k=1, radius=2)
    for result in propagate(backbone(name), frames, {0: mask}, config):
        middle = result[8::16, 8::16]
        assert np.array_equal(middle, mask[8::16, 8::16])


def test_moving_objects_are_followed_and_their_ids_kept() -> None:
    frames, masks = moving(6, objects=2)
    ids = np.array([0, 40, 200], np.uint8)
    results = list(propagate(Colors(), frames, {0: ids[masks[0]]}, SMALL))
    for result, mask in zip(results, masks, strict=True):
        for item in (1, 2):
            found, truth = result == ids[item], mask == item
            assert (found & truth).sum() / (found | truth).sum() > 0.7


def test_an_object_that_is_given_where_it_appears_is_followed_from_there() -> None:
    frames, masks = moving(7, objects=2, start=3)
    late = np.where(masks[3] == 2, 2, 0).astype(np.uint8)  # the first object is not drawn again
    results = list(propagate(Colors(), frames, {0: masks[0], 3: late}, SMALL))
    assert all(2 not in result for result in results[:3])
    assert np.array_equal(results[3] == 2, masks[3] == 2)
    for result, mask in zip(results[3:], masks[3:], strict=True):
        for item in (1, 2):
            assert ((result == item) & (mask == item)).sum() / ((result == item) | (mask == item)).sum() > 0.6


def test_a_later_mask_corrects_the_objects_that_it_names() -> None:
    frames, masks = moving(4)
    elsewhere = np.zeros_like(masks[0])
    elsewhere[40:56, 96:120] = 1
    results = list(propagate(Colors(), frames, {0: masks[0], 2: elsewhere}, SMALL))
    assert (results[1] == 1)[:16].any()
    assert np.array_equal(results[2], elsewhere)


def test_objects_may_all_come_late() -> None:
    frames, masks = moving(4)
    results = list(propagate(Colors(), frames, {0: np.zeros_like(masks[0]), 2: masks[2]}, SMALL))
    assert [1 in result for result in results] == [False, False, True, True]


def test_only_the_first_frame_and_the_context_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    held = []

    def spy(target: torch.Tensor, sources: list[torch.Tensor], labels: torch.Tensor, config: object) -> torch.Tensor:
        held.append([round(source[0, 0].item()) for source in sources])
        return labels[0]

    def numbered(backbone: object, frame: np.ndarray, size: object) -> tuple[torch.Tensor, tuple[int, int]]:
        return torch.full((4, 1), float(frame[0, 0, 0])), (2, 2)

    monkeypatch.setattr(propagation, "propagate_labels", spy)
    monkeypatch.setattr(propagation, "cell_features", numbered)
    frames = [np.full((16, 16, 3), number, np.uint8) for number in range(14)]
    for context in (2, 10):
        held.clear()
        list(propagate(Colors(), frames, {0: np.ones((16, 16), np.uint8)}, PropagationConfig(context=context)))
        assert [sorted(each) for each in held] == [
            [0, *range(max(1, number - context), number)] for number in range(1, 14)
        ]


def test_without_context_only_the_first_frame_counts() -> None:
    frames, masks = moving(3)
    assert len(list(propagate(Colors(), frames, {0: masks[0]}, PropagationConfig(size=64, context=0)))) == 3


def test_context_beyond_any_memory_() -> None:
    frames, masks = moving(12)
    many = PropagationConfig(size=64, context=10**9, radius=2)
    enough = PropagationConfig(size=64, context=11, radius=2)
    results = [list(propagate(Colors(), frames, {0: masks[0]}, config)) for config in (many, enough)]
    assert all(np.array_equal(*pair) for pair in zip(*results, strict=True))
    assert len(results[0]) == 12


def test_frames_are_taken_one_at_a_time_and_progress_is_told() -> None:
    taken: list[int] = []
    told: list[tuple[int, int]] = []
    frames, masks = moving(3)

    def stream() -> Iterator[np.ndarray]:
        for number, frame in enumerate(frames):
            taken.append(number)
            yield frame

    results = propagate(Colors(), stream(), {0: masks[0]}, SMALL, "cpu", lambda done, total: told.append((done, total)))
    next(results)
    assert taken == [0]
    assert len(list(results)) == 2
    assert [done for done, _ in told] == [1, 2, 3]
    told.clear()
    list(propagate(Colors(), frames, {0: masks[0]}, SMALL, progress=lambda done, total: told.append((done, total))))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_an_object_smaller_than_a_cell_is_told(caplog: pytest.LogCaptureFixture) -> None:
    _, masks = moving(1)
    with caplog.at_level(logging.WARNING):
        warn_of_lost(masks[0], "first.png", 64, 8)
        assert not caplog.text
        masks[0][0, 127] = 9
        warn_of_lost(masks[0], "first.png", 64, 8)
    assert "first.png: object 9 is smaller than a patch" in caplog.text


@pytest.mark.parametrize(
    ("height", "width", "size", "patch", "expected"),
    [
        (480, 854, 480, 8, (480, 832)),  # DAVIS, as published
        (854, 480, 480, 16, (832, 480)),
        (1080, 1920, 480, 16, (480, 832)),
        (480, 1152, 480, 8, (480, 1152)),
        (480, 854, 480, 14, (476, 840)),  # a step of 70
        (480, 854, 480, 32, (480, 832)),
        (480, 480, 480, 8, (480, 448)),
        (30, 40, 64, 8, (64, 64)),
        (40, 40, 32, 8, (32, 64)),
    ],
)
def test_size_at_which_the_network_sees_a_frame(
    height: int, width: int, size: int, patch: int, expected: tuple[int, int]
) -> None:
    assert working_size(height, width, size, patch) == expected


def test_segmentation_is_that_of_the_reference() -> None:
    golden = load_file(GOLDEN)
    assert np.array_equal(segment(golden["prediction"], 8, (45, 77)), golden["segmentation"].numpy())


def test_first_labels_are_those_of_the_reference() -> None:
    golden = load_file(GOLDEN)
    mask = golden["mask"].numpy()
    grid = tuple(side // 8 for side in working_size(*mask.shape, 64, 8))
    cells = propagation._one_hot(mask, np.unique(mask), grid)
    assert torch.equal(cells[: len(golden["mask_cells"])], golden["mask_cells"].float())
    assert not cells[len(golden["mask_cells"]) :].any()


def test_where_one_label_is_everywhere_it_is_chosen() -> None:
    cells = torch.zeros(2, 2, 3)
    cells[1] = 1.0
    assert (segment(cells, 8, (16, 24)) == 1).all()


def test_features_have_length_one_and_large_frames_are_averaged() -> None:
    fine = np.zeros((256, 256, 3), np.uint8)
    fine[::2] = 255  # rows so fine that sampling every fourth pixel would see but one of the two
    features, grid = cell_features(Colors(), np.maximum(fine, [0, 200, 0]).astype(np.uint8), 64)
    assert grid == (8, 8)
    assert features.shape == (64, 3)
    assert torch.allclose(features.norm(dim=1), torch.ones(64))
    assert features[:, 1].min() > 0.9  # the mean is grey in red and blue, which is 0 to this network


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        ({1: np.ones((64, 128), np.uint8)}, "no mask for frame 0"),
        ({0: np.zeros((64, 128), np.uint8)}, "no object to follow"),
        ({0: np.ones((64, 128), np.uint8), -1: np.ones((64, 128), np.uint8)}, "counted from 0"),
        ({0: np.ones((64, 120), np.uint8)}, "mask of frame 0 is 120 x 64 px, and the frames are 128 x 64"),
        ({0: np.ones((64, 128), np.uint8), 1: np.ones((4, 4), np.uint8)}, "mask of frame 1 is 4 x 4 px"),
        ({0: np.ones((64, 128), np.uint8), 9: np.ones((64, 128), np.uint8)}, "frame 9, and there are only 2 frames"),
    ],
)
def test_masks_that_do_not_fit_are_refused(masks: dict[int, np.ndarray], said: str) -> None:
    with pytest.raises(UserError, match=said):
        list(propagate(Colors(), moving(2)[0], masks, SMALL))


def test_frames_that_do_not_fit_are_refused() -> None:
    frames, masks = moving(2)
    with pytest.raises(UserError, match="frame 1 is 100 x 64 px, and the first frame is 128 x 64"):
        list(propagate(Colors(), [frames[0], frames[1][:, :100]], {0: masks[0]}, SMALL))
    with pytest.raises(UserError, match="there are no frames"):
        list(propagate(Colors(), [], {0: masks[0]}, SMALL))
    with pytest.raises(UserError, match="at least one patch of 8 px"):
        list(propagate(Colors(), frames, {0: masks[0]}, PropagationConfig(size=7)))
    with pytest.raises(UserError, match="the limit is 65536: choose a smaller size"):
        working_size(10, 100_000, 480, 8)


def test_settings_are_checked_before_anything_is_computed() -> None:
    with pytest.raises(UserError, match="context"):
        propagate(Colors(), [], {0: np.ones((2, 2), np.uint8)}, PropagationConfig(context=-1))


def test_broken_weights_are_told() -> None:
    broken = Colors()
    nn.init.constant_(broken.scale, float("nan"))
    frames, masks = moving(1)
    with pytest.raises(UserError, match="not finite"):
        list(propagate(broken, frames, {0: masks[0]}, SMALL))


def test_ids_of_a_palette_png_survive(tmp_path: Path) -> None:
    """Masks read from files are read-only arrays or not: both are taken."""
    frames, masks = moving(2)
    Image.fromarray(masks[0]).save(tmp_path / "mask.png")
    mask = np.asarray(Image.open(tmp_path / "mask.png"))
    assert not mask.flags.writeable
    assert len(list(propagate(Colors(), frames, {0: mask}, SMALL))) == 2
