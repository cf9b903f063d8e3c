"""Released weights by name: what they are, whose, what was published of them, and where they are fetched from.

Nothing here was measured by dinoscope: `docs/weights.md` says how the figures are to be read.
"""

from __future__ import annotations

from dataclasses import dataclass

from dinoscope.models.backbone import BackboneConfig

DINO = "https://dl.fbaipublicfiles.com/dino"
DINOV2 = "https://dl.fbaipublicfiles.com/dinov2"
DEIT = "https://dl.fbaipublicfiles.com/deit"
MOCO = "https://dl.fbaipublicfiles.com/moco/moco_checkpoints"
MOCO_V3 = "https://dl.fbaipublicfiles.com/moco-v3"
SWAV = "https://dl.fbaipublicfiles.com/deepcluster"
TORCHVISION = "https://download.pytorch.org/models"
OPENMMLAB = "https://download.openmmlab.com/mmselfsup/1.x"

DINO_TABLE = "arXiv:2104.14294, Table 2"
DINO_README = "github.com/facebookresearch/dino"
DINOV2_README = "github.com/facebookresearch/dinov2"
DEIT_README = "github.com/facebookresearch/deit, README_deit.md"
OPENMMLAB_README = "github.com/open-mmlab/mmpretrain"

APACHE, BSD, CC_BY_NC = "Apache-2.0", "BSD-3-Clause", "CC-BY-NC-4.0"
IMAGENET = "ImageNet-1k"
LABELS = "ImageNet-1k with labels"
LVD = "LVD-142M, distilled from ViT-g"


@dataclass(frozen=True)
class Release:
    """One file of weights.

    architecture: a name in `BACKBONES`. licence: of the weights, as the repository that releases them says.
    knn, linear: published top-1 on ImageNet's validation images in %, of frozen features. own: top-1 of the network's
    own classifier, where it was trained with labels. None: not published by `source`.
    megabytes: millions of bytes of the file, where its source says so (torchvision: 97.8 MiB).
    digest: "sha256:..." or "md5:...", as many hex digits as the source gives; "" where it gives none.
    hub: the same weights at huggingface.co; "" where there are none that are known to be.
    note: what else a person should know.
    """

    architecture: str
    method: str
    data: str
    licence: str
    url: str
    source: str
    knn: float | None = None
    linear: float | None = None
    own: float | None = None
    megabytes: float | None = None
    digest: str = ""
    hub: str = ""
    note: str = ""
    position_size: int | None = None

    @property
    def file(self) -> str:
        """Name of the file."""
        return self.url.rpartition("/")[2]

    def config(self) -> BackboneConfig:
        """Of the network, without its weights."""
        return BackboneConfig(self.architecture, 224, position_size=self.position_size)


def _dino(architecture: str, file: str, knn: float, linear: float, hub: str = "") -> Release:
    url = f"{DINO}/{file}/{file}.pth"
    return Release(architecture, "DINO", IMAGENET, APACHE, url, DINO_README, knn, linear, hub=hub)


def _deit(size: str, digest: str, own: float) -> Release:
    name = f"deit_{size}_patch16_224"
    url, hub = f"{DEIT}/{name}-{digest}.pth", f"timm/{name}.fb_in1k"
    return Release(name, "supervised", LABELS, APACHE, url, DEIT_README, own=own, digest=f"sha256:{digest}", hub=hub)


def _dinov2(size: str, letter: str, knn: float, linear: float, registers: bool = False) -> Release:
    architecture = f"vit_{size}_patch14_{'reg4_' if registers else ''}dinov2"
    url = f"{DINOV2}/dinov2_vit{letter}14/dinov2_vit{letter}14_{'reg4_' if registers else ''}pretrain.pth"
    hub = f"timm/{architecture}.lvd142m"
    return Release(architecture, "DINOv2", LVD, APACHE, url, DINOV2_README, knn, linear, hub=hub, position_size=518)


CATALOGUE: dict[str, Release] = {
    "dino_vits16": _dino(
        "vit_small_patch16_224", "dino_deitsmall16_pretrain", 74.5, 77.0, "timm/vit_small_patch16_224.dino"
    ),
    "dino_vits8": _dino(
        "vit_small_patch8_224", "dino_deitsmall8_pretrain", 78.3, 79.7, "timm/vit_small_patch8_224.dino"
    ),
    "dino_vitb16": _dino(
        "vit_base_patch16_224", "dino_vitbase16_pretrain", 76.1, 78.2, "timm/vit_base_patch16_224.dino"
    ),
    "dino_vitb8": _dino("vit_base_patch8_224", "dino_vitbase8_pretrain", 77.4, 80.1, "timm/vit_base_patch8_224.dino"),
    "dino_resnet50": _dino("resnet50", "dino_resnet50_pretrain", 67.5, 75.3),
    "deit_tiny": _deit("tiny", "a1311bcf", 72.2),
    "deit_small": _deit("small", "cd65a155", 79.9),
    "deit_base": _deit("base", "b5f2ef4d", 81.8),
    "supervised_resnet50": Release(
        "resnet50",
        "supervised",
        LABELS,
        BSD,
        f"{TORCHVISION}/resnet50-0676ba61.pth",
        "torchvision, ResNet50_Weights.IMAGENET1K_V1",
        own=76.13,
        megabytes=102.5,
        digest="sha256:0676ba61",
        hub="timm/resnet50.tv_in1k",
        note="the usual 90 epochs",
    ),
    "supervised_resnet50_v2": Release(
        "resnet50",
        "supervised",
        LABELS,
        BSD,
        f"{TORCHVISION}/resnet50-11ad3fa6.pth",
        "torchvision, ResNet50_Weights.IMAGENET1K_V2",
        own=80.86,
        megabytes=102.5,
        digest="sha256:11ad3fa6",
        hub="timm/resnet50.tv2_in1k",
        note="torchvision's long recipe; its figure is of images resized to 232 px",
    ),
    "moco_v2_resnet50": Release(
        "resnet50",
        "MoCo v2",
        IMAGENET,
        CC_BY_NC,
        f"{MOCO}/moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar",
        f"github.com/facebookresearch/moco; k-NN {DINO_TABLE}",
        61.9,
        71.1,
        digest="md5:a04e12f8",
        note="800 epochs",
    ),
    "moco_v3_vits16": Release(
        "vit_small_heads12_patch16_224",
        "MoCo v3",
        IMAGENET,
        CC_BY_NC,
        f"{MOCO_V3}/vit-s-300ep/vit-s-300ep.pth.tar",
        "github.com/facebookresearch/moco-v3, CONFIG.md",
        linear=73.2,
        note="300 epochs; 12 heads; the file is a whole training checkpoint",
    ),
    "moco_v3_resnet50": Release(
        "resnet50",
        "MoCo v3",
        IMAGENET,
        CC_BY_NC,
        f"{MOCO_V3}/r-50-1000ep/r-50-1000ep.pth.tar",
        "github.com/facebookresearch/moco-v3, CONFIG.md",
        linear=74.6,
        note="1000 epochs; the file is a whole training checkpoint",
    ),
    "swav_resnet50": Release(
        "resnet50",
        "SwAV",
        IMAGENET,
        CC_BY_NC,
        f"{SWAV}/swav_800ep_pretrain.pth.tar",
        f"github.com/facebookresearch/swav; k-NN {DINO_TABLE}",
        65.7,
        75.3,
        note="800 epochs, with multi-crop",
    ),
    "simclr_resnet50": Release(
        "resnet50",
        "SimCLR",
        IMAGENET,
        APACHE,
        f"{OPENMMLAB}/simclr/simclr_resnet50_16xb256-coslr-800e_in1k/"
        "simclr_resnet50_16xb256-coslr-800e_in1k_20220825-85fcc4de.pth",
        OPENMMLAB_README,
        linear=69.2,
        digest="sha256:85fcc4de",
        note="800 epochs, trained by OpenMMLab: the authors released TensorFlow weights only",
    ),
    "byol_resnet50": Release(
        "resnet50",
        "BYOL",
        IMAGENET,
        APACHE,
        f"{OPENMMLAB}/byol/byol_resnet50_16xb256-coslr-200e_in1k/"
        "byol_resnet50_16xb256-coslr-200e_in1k_20220825-de817331.pth",
        OPENMMLAB_README,
        linear=71.8,
        digest="sha256:de817331",
        note="200 epochs, trained by OpenMMLab: the authors released JAX weights only",
    ),
    "dinov2_vits14": _dinov2("small", "s", 79.0, 81.1),
    "dinov2_vits14_reg": _dinov2("small", "s", 79.1, 80.9, registers=True),
    "dinov2_vitb14": _dinov2("base", "b", 82.1, 84.5),
    "dinov2_vitb14_reg": _dinov2("base", "b", 82.0, 84.6, registers=True),
    "dinov2_vitl14": _dinov2("large", "l", 83.5, 86.3),
    "dinov2_vitl14_reg": _dinov2("large", "l", 83.8, 86.7, registers=True),
}
