"""MAE (He et al. 2022): a network that sees a quarter of the patches, and a light decoder that draws the others."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int, UInt8
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from dinoscope.data.masking import PatchMasking
from dinoscope.errors import UserError
from dinoscope.losses.dino import at_least_float32
from dinoscope.losses.reconstruction import image_of, normalized_pixels, patch_errors, patch_pixels, pixel_scale
from dinoscope.methods import method
from dinoscope.methods.health import Verdict, no_reconstruction
from dinoscope.methods.method import Method, MethodConfig, Outputs, Recipe, Reconstruction, RunShape, settings
from dinoscope.models.backbone import Backbone, BackboneConfig, build_backbone
from dinoscope.models.vit import fix_positions, run_blocks, sine_cosine_positions
from dinoscope.types import Step, StepOutput, Views


@dataclass(frozen=True)
class MAEConfig(MethodConfig):
    """Settings of MAE; the defaults are the paper's.

    mask_ratio: share of the patches of each view that is hidden. Each image, epoch and view has its own mask.
    norm_pixels: predict the pixels of each patch less their mean, divided by their deviation; else the pixels as
        the network gets them.
    decoder_dim, decoder_depth, decoder_heads: width, blocks and attention heads of the decoder.
    """

    mask_ratio: float = 0.75
    norm_pixels: bool = True
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16

    def __post_init__(self) -> None:
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio must be above 0 and below 1, not {self.mask_ratio:g}")
        self.check_range(1, math.inf, "decoder_dim", "decoder_depth", "decoder_heads")
        for name, divisor in (("4 (sines and cosines of row and column)", 4), ("decoder_heads", self.decoder_heads)):
            if self.decoder_dim % divisor:
                raise ValueError(f"decoder_dim must be a multiple of {name}, not {self.decoder_dim}")

    def faults(self, run: RunShape) -> Iterator[str]:
        if not run.transformer:
            yield "MAE leaves patches out: choose a Vision Transformer as --backbone"
        if run.num_local:
            yield "MAE predicts the rest of one view: --views.num-local must be 0"


class Patches(NamedTuple):
    """Numbers of the patches of each view that are seen, and of those that are hidden; as many of every view."""

    visible: Int[Tensor, "r m"]
    hidden: Int[Tensor, "r h"]

    @classmethod
    def of(cls, masks: Bool[Tensor, "r n"]) -> Patches:
        """Read them off masks on the CPU, so that no device is asked for their count."""
        return cls(*(of_kind.nonzero()[:, 1].view(len(masks), -1) for of_kind in (~masks, masks)))

    def to(self, device: torch.device) -> Patches:
        return Patches(*(numbers.to(device, non_blocking=True) for numbers in self))


class Decoder(nn.Module):
    """Blocks over all tokens, with one mask token for the hidden patches, and a linear map to pixels."""

    def __init__(self, config: MAEConfig, encoder: Backbone) -> None:
        super().__init__()
        width, heads, side = config.decoder_dim, config.decoder_heads, encoder.config.layout_size // encoder.patch_size
        norm = cast("type[nn.Module]", functools.partial(nn.LayerNorm, eps=1e-6))
        self.project = nn.Linear(encoder.dim, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.positions: Tensor
        self.register_buffer("positions", sine_cosine_positions(width, side).to(self.mask_token), persistent=False)
        blocks = [Block(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(config.decoder_depth)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm(width)
        self.pixels = nn.Linear(width, encoder.config.channels * encoder.patch_size**2)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, tokens: Float[Tensor, "r m d"], patches: Patches, encoder: Backbone) -> Float[Tensor, "r h p"]:
        """Return the pixels of the hidden patches. tokens: prefix tokens, then the visible patches.

        Attention does not depend on the order of tokens, so the hidden ones simply follow.
        """
        embedded, rows, seen = self.project(tokens), len(tokens), patches.visible.shape[1]
        positions = self.positions.expand(rows, -1, -1)
        at_visible, at_hidden = (positions.gather(1, _wide(numbers, positions)) for numbers in patches)
        prefix, visible = embedded[:, :-seen], embedded[:, -seen:] + at_visible
        hidden = self.mask_token + at_hidden
        whole = torch.cat([prefix.to(hidden.dtype), visible.to(hidden.dtype), hidden], dim=1)
        decoded = run_blocks(encoder, cast("list[Block]", list(self.blocks)), whole)
        return self.pixels(self.norm(decoded[:, -hidden.shape[1] :]))


def _wide(numbers: Int[Tensor, "r m"], rows: Float[Tensor, "r n d"]) -> Int[Tensor, "r m d"]:
    return numbers[:, :, None].expand(-1, -1, rows.shape[-1])


class MAE(Method):
    """The network encodes the visible patches alone; the decoder, which is thrown away later, draws the hidden ones."""

    def __init__(self, config: MAEConfig, backbone: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(backbone)
        forward = self.backbone.visible_forward
        if forward is None:
            raise UserError(
                f"MAE leaves patches out, which {backbone.name} cannot: choose a vit_... network of dinoscope"
            )
        self.visible_forward = forward
        self.decoder = Decoder(config, self.backbone)
        _draw_weights(self)
        fix_positions(self.backbone)
        side = backbone.layout_size // self.backbone.patch_size
        ratio = config.mask_ratio
        self.masking = PatchMasking(side, side, (ratio, ratio), probability=1.0, shape="random")

    def encode(self, views: Views) -> Outputs:
        """Return predictions and targets of the hidden patches, [views, batch, hidden, values], and class tokens."""
        if views.masks is None:
            raise ValueError("MAE needs the masks of the views: make them by its `masking`")
        images = self.backbone.normalize(views.global_views.flatten(0, 1))
        patches = Patches.of(views.masks.flatten(0, 1)).to(images.device)
        tokens = self.visible_forward(images, patches.visible)
        outputs = {
            "prediction": self.decoder(tokens, patches, self.backbone),
            "target": self._target(images, patches.hidden),
            "features": tokens[:, 0],
        }
        return {name: rows.reshape(-1, views.batch_size, *rows.shape[1:]) for name, rows in outputs.items()}

    @torch.no_grad()
    def _target(self, images: Float[Tensor, "r c h w"], hidden: Int[Tensor, "r m"]) -> Float[Tensor, "r m p"]:
        pixels = patch_pixels(images, self.backbone.patch_size)
        chosen = pixels.gather(1, _wide(hidden, pixels))
        return normalized_pixels(chosen) if self.config.norm_pixels else chosen

    @property
    def reconstruction(self) -> Reconstruction:
        """See `Reconstruction`. Normalised predictions get mean and deviation of the true patch back."""
        note = (
            "A hidden patch is given the true mean and deviation of its values, which the network does not predict: "
            "look at its pattern."
        )
        return Reconstruction(self._draw, note if self.config.norm_pixels else "")

    @torch.no_grad()
    def _draw(self, images: UInt8[Tensor, "b c h w"], masks: Bool[Tensor, "b n"]) -> UInt8[Tensor, "b c h w"]:
        backbone = self.backbone
        normal, patches = backbone.normalize(images), Patches.of(masks).to(images.device)
        predicted = self.decoder(self.visible_forward(normal, patches.visible), patches, backbone)
        pixels = patch_pixels(normal, backbone.patch_size)
        where = _wide(patches.hidden, pixels)
        if self.config.norm_pixels:
            mean, deviation = pixel_scale(pixels.gather(1, where))
            predicted = predicted * deviation + mean
        size, side = images.shape[-1], backbone.patch_size
        drawn = image_of(pixels.scatter(1, where, predicted), (images.shape[-2] // side, size // side), side)
        return (255 * (drawn * backbone.std + backbone.mean)).round().clamp(0, 255).to(torch.uint8)

    def loss(self, outputs: Outputs, step: Step) -> StepOutput:
        """Return the mean squared error over the values of a patch, then over the hidden patches of all images."""
        target = at_least_float32(outputs["target"].detach())
        error = patch_errors(outputs["prediction"], target).mean()
        return StepOutput(error, {}, {"errors": torch.stack([error.detach(), target.square().mean()])})

    def health(self, statistics: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the share of the target's mean square that is predicted: 0 for one grey everywhere, 1 for all."""
        error, size = statistics["errors"].unbind()
        return {"explained_share": 1 - error / size.clamp_min(torch.finfo(size.dtype).tiny)}

    def diagnose(self, recent: Mapping[str, float]) -> Verdict | None:
        advice = "Raise the learning rate or shorten its warm-up; small networks need small patches and images."
        return no_reconstruction(recent["explained_share"], advice)


@torch.no_grad()
def _draw_weights(of: MAE) -> None:
    """Draw first weights as the authors' code: every linear map and the patch projection Xavier-uniform, biases 0."""
    for module in of.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    projection = getattr(of.backbone.patch_projection, "proj", None)
    if isinstance(projection, nn.Conv2d):  # and no convolutional stem
        nn.init.xavier_uniform_(projection.weight.flatten(1))


_VIEWS: dict[str, Any] = {"global_scale": (0.2, 1.0)}

METHOD = method.MethodEntry(
    config=MAEConfig,
    build=MAE,
    display=method.Display(
        "MAE",
        deviations={
            "method.norm_pixels": (True, "it predicts pixels that are not normalised by patch"),
            "method.mask_ratio": (0.75, "another share of the patches is hidden than its paper's"),
        },
    ),
    year=2021,
    curves=(
        method.Curve(
            "Explained share",
            "share",
            "explained_share",
            "Explained share of the hidden pixels: 0 if one grey is predicted everywhere, 1 if all is right.",
        ),
    ),
    transformers_only=True,
    recipes={
        "mae_vit_base": Recipe(
            """ImageNet, ViT-B/16, MAE for 800 epochs at batch 4096.

Published with 1600 epochs: linear 68.0, fine-tuned 83.6 (He et al. 2022, Tables 12 and 3).""",
            settings(
                {"backbone": "vit_base_patch16_224", "drop_path": 0.0, "views": "supervised", "epochs": 800}
                | {"batch_size": 4096},
                views=_VIEWS,
                optimizer=method.optimizer("adamw", 1.5e-4, 0.05, warmup_epochs=40) | {"beta2": 0.95},
            ),
        ),
        "mae_small_images": Recipe(
            """Images of 32 to 64 px (CIFAR): ViT-Ti/4 and a decoder of two blocks, 400 epochs, for a GPU.

dinoscope train --recipe mae_small_images --data cifar10 --out RUN
Not run yet. For 64 px: --views.global-size 64 --backbone vit_tiny_patch8_64""",
            settings(
                {"backbone": "vit_tiny_patch4_32", "drop_path": 0.0, "views": "supervised", "epochs": 400}
                | {"batch_size": 512},
                method={"decoder_dim": 128, "decoder_depth": 2, "decoder_heads": 4},
                views=_VIEWS | {"global_size": 32},
                optimizer=method.optimizer("adamw", 1e-3, 0.05, warmup_epochs=20) | {"beta2": 0.95},
            ),
        ),
        "mae_small_images_cpu": Recipe(
            """Images of 32 to 64 px on a CPU: a ViT of three blocks with patches of 4 px, a decoder of one.

dinoscope train --recipe mae_small_images_cpu --data cifar10 --out RUN
For 64 px: --views.global-size 64 --backbone vit_micro_patch8_64""",
            settings(
                {"backbone": "vit_micro_patch4_64", "drop_path": 0.0, "views": "supervised", "threads": 1}
                | {"epochs": 10, "batch_size": 128},
                method={"decoder_dim": 64, "decoder_depth": 1, "decoder_heads": 4},
                views=_VIEWS | {"global_size": 32},
                optimizer=method.optimizer("adamw", 2e-3, 0.05, warmup_epochs=0.5) | {"beta2": 0.95},
            ),
        ),
    },
    # One view with crop and flip alone: the paper found no use for more (Table 1e).
    small=lambda views, transformer: settings(
        {"views": "supervised"},
        method={"decoder_dim": 64, "decoder_depth": 1, "decoder_heads": 4},
        views={"global_size": views.global_size, "global_scale": views.global_scale},
    ),
)
