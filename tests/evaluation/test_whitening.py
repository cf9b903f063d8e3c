"""PCA whitening."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dinoscope.errors import UserError
from dinoscope.evaluation.knn import unit
from dinoscope.evaluation.whitening import pca_whitening


def test_whitened_features_have_covariance_one_and_few_images_fewer_axes() -> None:
    features = torch.randn(300, 6, generator=torch.Generator().manual_seed(0)) @ torch.diag(torch.arange(1.0, 7))
    whitened = pca_whitening(unit(3 * features))(unit(features))  # their length does not matter
    assert whitened.mean(dim=0).numpy() == pytest.approx(np.zeros(6), abs=1e-6)
    assert (whitened.T @ whitened / 300).numpy() == pytest.approx(np.eye(6), abs=1e-5)
    assert pca_whitening(unit(features[:4]))(unit(features)).shape == (300, 3)
    with pytest.raises(UserError):
        pca_whitening(unit(features[:1]))
    with pytest.raises(UserError):
        pca_whitening(unit(features[:1].expand(5, 6)))
