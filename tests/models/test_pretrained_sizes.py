"""Files that claim sizes, others' and our own: compared before any memory is spent on them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dinoscope import checkpoint
from dinoscope.config import to_dict
from dinoscope.errors import UserError
from dinoscope.models import backbone as backbones
from dinoscope.models.backbone import MAX_IMAGE_SIZE
from dinoscope.models.pretrained import import_file, importing
from dinoscope.models.pretrained.networks import find_places
from tests.official_files import official_dinov2, random_network, register_tiny, weights

LARGE = 10**5
"""Squared, and times 4 bytes, 40 GB."""


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    register_tiny(monkeypatch)


@pytest.fixture
def nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is built is built on "meta", where it takes no memory; tensors are not converted before either."""

    def refuse(*_: Any) -> None:
        pytest.fail("memory would have been spent on what the file claims")

    monkeypatch.setattr(importing, "build_backbone", refuse)
    monkeypatch.setattr(checkpoint, "build_backbone", refuse)
    monkeypatch.setattr(torch, "isfinite", refuse)


def vit(**changes: Tensor) -> dict[str, Tensor]:
    return weights(random_network("tiny")) | changes


def registers(**changes: Tensor) -> dict[str, Tensor]:
    return official_dinov2(random_network("tiny_registers", 28)) | changes


ONE = torch.zeros(1)
CLAIMS: dict[str, tuple[Callable[[], dict[str, Tensor]], str]] = {
    "one number as a table of positions": (
        lambda: vit(pos_embed=ONE.expand(1, 1 + LARGE**2, 64)),
        r"pos_embed claims 640,000,000,064 numbers, and the file holds fewer",
    ),
    "the same in half precision, to be converted": (
        lambda: vit(pos_embed=ONE.half().expand(1, 1 + LARGE**2, 64)),
        "pos_embed claims",
    ),
    "a table of no width": (
        lambda: vit(pos_embed=torch.zeros(1, 1 + LARGE**2, 0)),
        f"images of {16 * LARGE} px; allowed: 1 to {MAX_IMAGE_SIZE} px",
    ),
    "a smaller table of no width": (
        lambda: vit(pos_embed=torch.zeros(1, 1 + 250**2, 0)),
        r"pos_embed is \(1, 62501, 0\) in the file and \(1, 62501, 64\) here",
    ),
    "a class token and positions that grow when added": (
        lambda: registers(cls_token=torch.zeros(1, LARGE, 1), pos_embed=torch.zeros(1, 5, LARGE)),
        "in the file and",
    ),
    "a class token and positions that cannot be added": (
        lambda: registers(cls_token=torch.zeros(1, 1, 63)),
        "do not fit each other",
    ),
    "no width at all": (
        lambda: vit(**{"patch_embed.proj.weight": torch.zeros(0, 3, 16, 16)}),
        "its tensors have other shapes",
    ),
    "sparse": (lambda: vit(pos_embed=torch.zeros(1, 5, 64).to_sparse()), "pos_embed is not a plain tensor"),
    "without data": (lambda: vit(pos_embed=torch.zeros(1, 5, 64, device="meta")), "pos_embed is not a plain tensor"),
    "complex": (lambda: vit(pos_embed=torch.zeros(1, 5, 64, dtype=torch.complex64)), "pos_embed is not a plain tensor"),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_file_s_claims_are_compared_before_memory_is_spent(claim: str, nothing_is_built, tmp_path: Path) -> None:
    make, said = CLAIMS[claim]
    torch.save(make(), tmp_path / "file.pth")
    assert (tmp_path / "file.pth").stat().st_size < 4 * 10**6
    with pytest.raises(UserError, match=said) as refusal:
        import_file(tmp_path / "file.pth")
    assert "\n" not in str(refusal.value)


def test_an_archive_that_unpacks_to_more_than_it_is_is_not_opened(tmp_path: Path, monkeypatch) -> None:
    whole = io.BytesIO()
    torch.save({"x": torch.zeros(10**6)}, whole)
    with zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        archive = zipfile.ZipFile(whole)
        for entry in archive.infolist():
            packed.writestr(entry.filename, archive.read(entry))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(UserError, match=r"an archive of [\d,]+ bytes that unpacks to 4,000,\d+"):
        import_file(tmp_path / "packed.pth")


def test_a_dictionary_within_itself_is_looked_at_once(tmp_path: Path) -> None:
    inner: dict[str, Any] = {"x": torch.zeros(1)}
    for _ in range(5):  # 100 ** 5 ways to the same tensor
        inner = {str(name): inner for name in range(100)}
    assert find_places(inner) == []


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("tiny", {"image_size": 16 * 200}, r"pos_embed is \(1, 5, 64\) in the file and \(1, 40001, 64\) here"),
        ("tiny", {"position_size": 16 * 200}, r"pos_embed is \(1, 5, 64\)"),
        ("tiny", {"image_size": 16 * LARGE, "position_size": 32}, "for images of 1600000 px; allowed: 1 to"),
        ("tiny", {"image_size": 0}, "for images of 0 px; allowed: 1 to"),
        ("resnet_micro", {"image_size": LARGE}, "for images of 100000 px; allowed: 1 to"),
        ("resnet_micro", {"name": "resnet50"}, "missing: "),
    ],
)
def test_sizes_in_our_own_metadata_are_not_believed(name, changes, said, nothing_is_built, tmp_path: Path) -> None:
    network = random_network(name)
    metadata = {"backbone": to_dict(network.config) | changes}
    checkpoint.save(tmp_path / "model.safetensors", network.net.state_dict(), metadata)
    with pytest.raises(UserError, match=said):
        checkpoint.load_backbone(tmp_path / "model.safetensors")


def test_loading_draws_no_other_random_numbers_than_building(tmp_path: Path) -> None:
    """The comparison on "meta" leaves torch's generator alone."""
    network = random_network("tiny")
    checkpoint.export_backbone(tmp_path, network)
    torch.manual_seed(0)
    backbones.build_backbone(network.config)
    expected = torch.rand(3)
    torch.manual_seed(0)
    checkpoint.load_backbone(tmp_path)
    assert torch.equal(torch.rand(3), expected)
