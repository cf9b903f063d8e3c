"""Pixels of patches, and the loss of those that are hidden, against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dinoscope.losses.reconstruction import image_of, normalized_pixels, patch_errors, patch_pixels, pixel_scale


def test_patches_are_cut_row_by_row_and_put_together_again() -> None:
    images = torch.arange(2 * 3 * 4 * 6, dtype=torch.float64).view(2, 3, 4, 6)
    patches = patch_pixels(images, 2)
    assert patches.shape == (2, 6, 12)
    for image in range(2):
        for row in range(2):
            for column in range(3):
                values = [
                    float(images[image, channel, 2 * row + y, 2 * column + x])
                    for y in range(2)
                    for x in range(2)
                    for channel in range(3)
                ]
                assert patches[image, 3 * row + column].tolist() == values
    assert torch.equal(image_of(patches, (2, 3), 2), images)


def test_each_patch_is_normalized_by_its_own_values() -> None:
    """Of 1, 2, 3, 6: mean 3, unbiased variance 14 / 3. One grey becomes 0."""
    found = normalized_pixels(torch.tensor([[1.0, 2.0, 3.0, 6.0], [7.0, 7.0, 7.0, 7.0]], dtype=torch.float64))
    deviation = np.sqrt(14 / 3 + 1e-6)
    assert found[0].tolist() == pytest.approx([-2 / deviation, -1 / deviation, 0.0, 3 / deviation])
    assert found[1].tolist() == [0.0] * 4


def test_scale_undoes_the_normalization() -> None:
    patches = torch.randn(3, 5, 12, dtype=torch.float64) * 4 + 2
    mean, deviation = pixel_scale(patches)
    torch.testing.assert_close(normalized_pixels(patches) * deviation + mean, patches)


def test_the_error_is_a_mean_over_the_values_of_a_patch() -> None:
    found = patch_errors(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 4.0], [3.0, 1.0]]))
    assert found.tolist() == [2.5, 5.0]
