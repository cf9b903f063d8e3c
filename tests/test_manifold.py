"""The sparse manifold transform against plain NumPy, and what is known of its solution."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from dinoscope.errors import UserError
from dinoscope.model_names import load_model
from dinoscope.models import manifold
from dinoscope.models.manifold import ManifoldBackbone, ManifoldSettings
from dinoscope.models.network import require_fitted

SMALL = ManifoldSettings(size=16, atoms=40, skipped=2, dim=5, patches=1_500, images=30, stride=3, fields=2)


def noise(count: int, seed: int = 0, side: int = 16) -> Tensor:
    """Images that are smooth on the left and rough on the right."""
    generator = torch.Generator().manual_seed(seed)
    rough = torch.rand(count, 3, side, side, generator=generator)
    smooth = torch.nn.functional.avg_pool2d(rough, 5, stride=1, padding=2)
    return (255 * torch.where(torch.arange(side) < side // 2, smooth, rough)).to(torch.uint8)


def learned(images: Tensor, batch: int = 8) -> dict[str, Tensor]:
    fit = ManifoldBackbone(SMALL).fit
    assert fit is not None
    return fit.learn(images.split(batch), lambda done, total: None)


@pytest.fixture(scope="module")
def fitted() -> ManifoldBackbone:
    backbone = ManifoldBackbone(SMALL).eval()
    backbone.load_state_dict(learned(noise(30)))
    return backbone


def plain_code(patch: np.ndarray, net: dict[str, np.ndarray]) -> np.ndarray:
    """patch: [3, 6, 6] from 0 to 255."""
    values = patch.astype(np.float64).ravel()
    values = (values - values.mean()) / np.sqrt(values.var(ddof=1) + 10)
    white = (values - net["offset"]) @ net["whitening"]
    return (net["atoms"] @ (white / np.linalg.norm(white)) >= 0.3).astype(np.float64)


def plain_codes(image: np.ndarray, net: dict[str, np.ndarray]) -> np.ndarray:
    """[4, 4, atoms]: 16 px, stride 3."""
    places = range(0, 11, 3)
    return np.array([[plain_code(image[:, y : y + 6, x : x + 6], net) for x in places] for y in places])


def scaled(rows: np.ndarray) -> np.ndarray:
    """Scale to length 1; 0 stays 0."""
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)


def weights(backbone: ManifoldBackbone) -> dict[str, np.ndarray]:
    return {name: tensor.double().numpy() for name, tensor in backbone.net.state_dict().items()}


def test_features_are_those_of_plain_numpy(fitted: ManifoldBackbone) -> None:
    images, net = noise(3, seed=9), weights(fitted)
    with torch.inference_mode():
        found = fitted(fitted.normalize(images)).feature
    assert found.shape == (3, 2 * 2 * 5)
    for image, feature in zip(images, found, strict=True):
        patches = scaled(plain_codes(image.numpy(), net) @ net["embedding"])
        fields = patches.reshape(2, 2, 2, 2, 5).mean(axis=(1, 3))
        np.testing.assert_allclose(feature.numpy(), scaled(fields).ravel() - net["mean"], rtol=1e-4, atol=1e-5)


def test_the_embedding_solves_the_problem_of_its_definition(fitted: ManifoldBackbone) -> None:
    images, net = noise(30), weights(fitted)
    means = np.array([plain_codes(image.numpy(), net).mean(axis=(0, 1)) for image in images])
    together = means.T @ means / len(means)
    generator_seed = SMALL.seed + 2
    patches = manifold.random_patches(images.float() / 255, SMALL, SMALL.atoms, generator_seed)
    codes = np.array([plain_code(255 * patch.reshape(3, 6, 6), net) for patch in patches.numpy()])
    alone = codes.T @ codes / len(codes)
    alone += 1e-3 * alone.diagonal().mean() * np.eye(len(alone))
    found = net["embedding"]
    np.testing.assert_allclose(found.T @ alone @ found, np.eye(5), atol=1e-4)
    values = scipy.linalg.eigvalsh(together, alone)[::-1]
    np.testing.assert_allclose((found.T @ together @ found).diagonal(), values[2:7], rtol=1e-4)
    assert abs(found).max() > 0.1


def test_training_images_describe_themselves_by_0_on_average(fitted: ManifoldBackbone) -> None:
    with torch.inference_mode():
        features = fitted(fitted.normalize(noise(30))).feature
    assert features.mean(dim=0).abs().max() < 1e-5
    assert features.abs().max() > 0.1


def test_patches_of_one_image_lie_closer_than_those_of_two(fitted: ManifoldBackbone) -> None:
    """What the embedding is chosen for, on images of two kinds that it was not fitted to."""
    net = weights(fitted)
    patches = np.array([plain_codes(image.numpy(), net) @ net["embedding"] for image in noise(12, seed=5)])
    patches = patches.reshape(12, 16, 5)
    within = np.square(patches - patches.mean(axis=1, keepdims=True)).mean()
    between = np.square(patches - patches.mean(axis=(0, 1))).mean()
    assert within < between


def test_what_is_fitted_depends_neither_on_batches_nor_on_the_precision() -> None:
    images = noise(30)
    one, other = learned(images, 8), learned(images, 30)
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], msg=name)
    backbone = ManifoldBackbone(SMALL).eval()
    backbone.load_state_dict(one)
    with torch.inference_mode():
        exact = backbone(backbone.normalize(images)).feature
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(backbone(backbone.normalize(images)).feature, exact)


def test_a_patch_without_atoms_is_0() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    assert torch.equal(manifold.embedded(nothing, nothing, torch.ones(4, 2), 3), torch.zeros(3, 2))
    row, atom = manifold.responses(torch.tensor([[1.0, 0.0], [0.0, -1.0]]), torch.tensor([[1.0, 0.0], [0.6, 0.8]]), 0.3)
    assert list(zip(row.tolist(), atom.tolist(), strict=True)) == [(0, 0), (0, 1)]


def test_it_is_named_and_says_what_it_is_made_of(fitted: ManifoldBackbone) -> None:
    model = load_model("manifold")
    assert (model.label, model.method) == ("sparse manifold transform", "manifold")
    with pytest.raises(UserError, match="manifold is made from training images and has seen none"):
        require_fitted(model.backbone)
    assert fitted.fit is None
    assert fitted.made_of.startswith("40 whitened 6 px patches at 16 px as atoms, embedded in 5 dimensions by 30 train")
