"""Grad-CAM: by hand, against the library, and without leaving a trace on the network."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinoscope.errors import UserError
from dinoscope.evaluation.knn import KNNConfig, predict
from dinoscope.explain.gradcam import gradcam, gradcam_maps, log_vote, own_direction, vote_shares
from dinoscope.models.backbone import Backbone, BackboneConfig, build_backbone
from dinoscope.models.resnet import ResNetBackbone
from dinoscope.models.vit import ViTBackbone
from dinoscope.types import FeatureBank, Tokens
from tests.official_files import micro_registers


class ConvAndPool(Backbone):
    """One convolution of kernel and stride 2, then the mean over its cells: small enough to be worked by hand."""

    def __init__(self) -> None:
        super().__init__(BackboneConfig("conv_and_pool", 4), dim=2, patch_size=2)
        self.net = nn.Conv2d(3, 2, kernel_size=2, stride=2, bias=False)

    def forward(self, images: Tensor) -> Tokens:
        cells = self.net(images)
        return Tokens(None, cells.flatten(2).transpose(1, 2), (cells.shape[-2], cells.shape[-1]))


@pytest.fixture(params=["vit_micro_conv8", "micro_registers"])
def vit(request: pytest.FixtureRequest) -> ViTBackbone:
    return transformer(request.param)


def transformer(name: str) -> ViTBackbone:
    """Without registers, or with registers and layer scale."""
    torch.manual_seed(0)
    network = micro_registers() if name == "micro_registers" else build_backbone(BackboneConfig(name, 32)).eval()
    assert isinstance(network, ViTBackbone)
    return network


@pytest.fixture
def resnet() -> ResNetBackbone:
    torch.manual_seed(0)
    network = build_backbone(BackboneConfig("resnet_micro", 64)).eval()
    assert isinstance(network, ResNetBackbone)
    return network


def test_by_hand_on_one_convolution() -> None:
    """The first filter takes the red of a cell's first pixel, the second its green."""
    network = ConvAndPool()
    with torch.no_grad():
        network.net.weight.zero_()
        network.net.weight[0, 0, 0, 0] = network.net.weight[1, 1, 0, 0] = 1
    image = torch.zeros(1, 3, 4, 4)
    image[0, 0, ::2, ::2] = torch.tensor([[4.0, 0.0], [0.0, 8.0]])  # first channel of the four cells: mean 3
    image[0, 1, ::2, ::2] = torch.tensor([[0.0, 8.0], [-12.0, -12.0]])  # second: mean -4
    # Towards its own direction (3, -4) / 5, through the mean over 4 cells: weights (0.6, -0.8) / 4.
    # Cells: (4, 0) -> 2.4, (0, 8) -> -6.4, cut to 0, (0, -12) -> 9.6, (8, -12) -> 4.8 + 9.6; all over 4.
    expected = torch.tensor([[[2.4, 0.0], [9.6, 14.4]]]) / 4
    torch.testing.assert_close(gradcam(network, image), expected)
    torch.testing.assert_close(gradcam_maps(network, image), (expected / expected.sum())[:, None])
    # Towards the second channel alone the weights are (0, 1) / 4.
    second = gradcam(network, image, lambda features: features[:, 1])
    torch.testing.assert_close(second, torch.tensor([[[0.0, 2.0], [0.0, 0.0]]]))


def test_of_a_resnet_towards_itself_it_is_the_similarity_of_each_cell_to_the_feature(resnet: ResNetBackbone) -> None:
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        tokens = resnet(images)
        expected = (tokens.patches @ F.normalize(tokens.feature, dim=-1)[..., None]).squeeze(-1).relu()
    torch.testing.assert_close(gradcam(resnet, images).flatten(1), expected / (4 * 6))


def test_of_a_transformer_it_follows_from_finite_differences(vit: ViTBackbone) -> None:
    """Moving all patch tokens that enter the last block along one channel gives that channel's weight."""
    vit = vit.double()
    images, prefix = torch.randn(1, 3, 32, 48, dtype=torch.float64), vit.net.num_prefix_tokens
    with torch.no_grad():
        hidden = vit.run_blocks(vit.embed(images)[0], stop=-1)
        target = F.normalize(vit(images).feature, dim=-1)
        step, weights = 1e-5, []
        for channel in range(vit.dim):
            ends = []
            for sign in (1, -1):
                moved = hidden.clone()
                moved[:, prefix:, channel] += sign * step
                ends.append((vit.net.norm(vit.net.blocks[-1](moved))[:, 0] * target).sum())
            weights.append((ends[0] - ends[1]) / (2 * step) / 24)
        expected = (hidden[:, prefix:] @ torch.stack(weights)).relu()
    torch.testing.assert_close(gradcam(vit, images).flatten(1), expected, atol=1e-8, rtol=1e-5)


@pytest.mark.parametrize("name", ["resnet_micro", "vit_micro_conv8", "micro_registers"])
@pytest.mark.parametrize("labelled", [False, True])
def test_equals_the_library_up_to_its_normalisation(name: str, labelled: bool) -> None:
    library = pytest.importorskip("pytorch_grad_cam")
    torch.manual_seed(0)
    backbone = build_backbone(BackboneConfig(name, 64)).eval() if name == "resnet_micro" else transformer(name)
    images = torch.randn(2, 3, 64, 64)
    reference = torch.randn(backbone.dim) if labelled else None

    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = backbone

        def forward(self, images: Tensor) -> Tensor:
            return self.backbone(images).feature

    score = own_direction if reference is None else partial(F.cosine_similarity, x2=reference[None])
    layer, reshape = backbone.net.layer4 if name == "resnet_micro" else backbone.net.blocks[-2], None
    if isinstance(backbone, ViTBackbone):
        reshape = lambda tokens: tokens[:, backbone.net.num_prefix_tokens :].transpose(1, 2).unflatten(2, (8, 8))
    ours = gradcam(backbone, images, score)
    with library.GradCAM(Features(), [layer], reshape) as cam:
        theirs = cam(images, [lambda feature: score(feature[None])[0]] * 2)
    backbone.zero_grad(set_to_none=True)
    # the library stretches each map to 0..1, enlarges it with OpenCV, and stretches again
    assert (ours.amax(dim=(1, 2)) > 0).all()
    from pytorch_grad_cam.utils.image import scale_cam_image

    expected = scale_cam_image(scale_cam_image(ours.numpy(), (64, 64)))
    np.testing.assert_allclose(expected, theirs, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet_micro", "vit_micro_conv8"])
def test_frozen_weights_inference_mode_and_no_trace(name: str) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(BackboneConfig(name, 32)).eval()
    images = torch.randn(2, 3, 32, 32)
    expected = gradcam(backbone, images)
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert not expected.requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(gradcam(backbone, images.clone()), expected)
    with torch.no_grad():
        torch.testing.assert_close(gradcam(backbone, images), expected)
    torch.testing.assert_close(gradcam(backbone.requires_grad_(False), images), expected)
    maps = gradcam_maps(backbone, images)
    torch.testing.assert_close(maps.sum(dim=(1, 2, 3)), torch.ones(2))
    torch.testing.assert_close(gradcam(backbone, images[1:]), expected[1:])  # an image's map is its own


def test_a_cosine_with_itself_would_have_no_gradient(resnet: ResNetBackbone) -> None:
    """Why `own_direction` is an inner product."""
    images = torch.randn(1, 3, 64, 64)
    itself = gradcam(resnet, images, lambda features: F.cosine_similarity(features, features.detach()))
    assert itself.max() < 1e-5 * gradcam(resnet, images).max()


def test_blocks(vit: ViTBackbone, resnet: ResNetBackbone) -> None:
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(gradcam(vit, images, block=2), gradcam(vit, images, block=-1))
    assert not torch.allclose(gradcam(vit, images, block=0), gradcam(vit, images, block=2))
    with pytest.raises(UserError, match="no block 3: its blocks are 0 to 2"):
        gradcam(vit, images, block=3)
    with pytest.raises(UserError, match="resnet_micro has no attention blocks"):
        gradcam(resnet, images, block=0)


# Scores of features


def test_votes_by_hand() -> None:
    """Neighbours at cosine 1, 0.6 and -1; temperature 0.2: votes e^5, e^3, e^-5."""
    gallery = torch.tensor([[2.0, 0.0], [0.6, 0.8], [-1.0, 0.0]])
    labels, feature = torch.tensor([0, 1, 1]), torch.tensor([[3.0, 0.0]])
    votes = torch.tensor([5.0, 3.0, -5.0]).exp()
    every = torch.stack([votes[0], votes[1] + votes[2]]) / votes.sum()
    torch.testing.assert_close(vote_shares(feature, gallery, labels, 2, 99, 0.2), every[None])
    nearest_two = votes[:2] / votes[:2].sum()
    torch.testing.assert_close(vote_shares(feature, gallery, labels, 2, 2, 0.2), nearest_two[None])
    torch.testing.assert_close(log_vote(feature, gallery[1:], 99, 0.2), (votes[1] + votes[2]).log()[None])


def test_the_class_with_most_votes_is_that_of_the_k_nn() -> None:
    torch.manual_seed(1)
    gallery = FeatureBank(torch.randn(60, 8), torch.arange(60) % 4)
    queries = torch.randn(20, 8)
    predicted = predict(gallery, FeatureBank(queries), KNNConfig(ks=(10,)))[10][:, 0]
    assert gallery.labels is not None
    shares = vote_shares(queries, gallery.features, gallery.labels, 4, k=10)
    assert torch.equal(shares.argmax(dim=1), predicted)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(20))
