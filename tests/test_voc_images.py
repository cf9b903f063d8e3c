"""How images and masks of VOC come to the networks: resized as the protocols say, and grouped by size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from dinoscope.data.benchmarks import find_masked_images
from dinoscope.evaluation.voc import Sample, VocConfig, batches, count_cells, read_samples, squared, squared_mask
from tests.test_voc import write_voc


def test_squares_are_those_of_pillow() -> None:
    generator = np.random.default_rng(0)
    image = cv2.resize(
        generator.integers(0, 255, (9, 12, 3), dtype=np.uint8), (500, 375), interpolation=cv2.INTER_CUBIC
    )
    theirs = np.asarray(Image.fromarray(image).resize((512, 512), Image.Resampling.BILINEAR))
    ours = squared(image, 512).permute(1, 2, 0).numpy()
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    mask = generator.choice(np.array([0, 3, 255], np.uint8), (375, 500))
    palette = Image.fromarray(mask, mode="P")
    assert np.array_equal(squared_mask(mask, 512), np.asarray(palette.resize((512, 512), Image.Resampling.BILINEAR)))


def test_images_wait_for_others_of_their_size_but_not_for_ever() -> None:
    def sample(index: int, width: int) -> Sample:
        counts = count_cells(np.ones((8, width), np.uint8), (1, width // 8))
        return Sample(index, "strict", (8, None), torch.zeros(3, 8, width, dtype=torch.uint8), counts)

    taken: list[int] = []

    def images() -> Iterator[list[Sample]]:
        for index, width in enumerate([8, 16, 8, *range(24, 24 + 16 * 8, 8)]):
            taken.append(index)
            yield [sample(index, width)]

    groups = batches(images(), batch_size=2)
    assert ([s.index for s in next(groups)], len(taken)) == ([0, 2], 3)
    assert ([s.index for s in next(groups)], len(taken)) == ([1], 19)
    assert len(list(groups)) == 16


def test_samples_keep_the_aspect_or_become_squares(tmp_path: Path) -> None:
    images = find_masked_images(write_voc(tmp_path, {"a": np.ones((60, 90), np.uint8)}))
    samples = read_samples(0, images, VocConfig(square=64, size=48), [(8, None), (16, None)])
    assert isinstance(samples, list)
    shapes = {(s.protocol, s.network[0]): (tuple(s.pixels.shape), s.counts.grid) for s in samples}
    assert shapes == {
        ("published", 8): ((3, 64, 64), (8, 8)),
        ("published", 16): ((3, 64, 64), (4, 4)),
        ("strict", 8): ((3, 48, 72), (6, 9)),
        ("strict", 16): ((3, 48, 64), (3, 4)),
    }
