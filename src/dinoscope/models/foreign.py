"""Networks that dinoscope does not define: any name of timm's, any module of the user's, and no network at all."""

from __future__ import annotations

import difflib
import functools
import math
from dataclasses import dataclass
from typing import Any, cast

import timm
import torch
from jaxtyping import Float
from timm.models import PretrainedCfg, group_parameters
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dinoscope.errors import UserError
from dinoscope.models.network import IMAGENET_MEAN, IMAGENET_STD, Backbone, BackboneConfig, Depths
from dinoscope.naming import TIMM
from dinoscope.types import Tokens

PIXELS = "pixels"
PIXELS_SIZE = 32
"""Side in pixels of the images that are compared pixel by pixel."""

Color = tuple[float, ...]


@dataclass(frozen=True)
class TimmNetwork:
    """A network that `timm.create_model` builds. name: timm's."""

    name: str
    family = "timm"
    about = "any network of timm's that gives a feature map or tokens, as timm:NAME, for methods that need no attention"

    @property
    def title(self) -> str:
        return self.name

    @property
    def size(self) -> int:
        return timm_config(self.name).image_size

    @property
    def patch(self) -> int:
        return _reduction(self.name)

    @property
    def transformer(self) -> bool:
        """Whether the image size is fixed, as it is by position embeddings."""
        return timm.get_pretrained_cfg(self.name).fixed_input_size  # pyright: ignore[reportOptionalMemberAccess]

    def check(self, config: BackboneConfig) -> None:
        with torch.device("meta"):
            self.build(config)

    def baseline(self) -> TimmNetwork:
        return self

    def build(self, config: BackboneConfig) -> TimmBackbone:
        sized: dict[str, Any] = {"img_size": config.layout_size} if self.transformer else {}
        if self.transformer and _takes_any_size(self.name):
            sized["dynamic_img_size"] = True
        if config.channels != 3:
            sized["in_chans"] = config.channels
        if config.drop_path:
            sized["drop_path_rate"] = config.drop_path
        try:
            return TimmBackbone(config, timm.create_model(self.name, num_classes=0, **sized))
        except TypeError as error:
            hint = " (leave out stochastic depth: --drop-path 0)" if "drop_path_rate" in str(error) else ""
            raise UserError(f"timm cannot build {self.name} with {', '.join(sized)}{hint}: {error}") from error
        except (AssertionError, RuntimeError, ValueError) as error:
            raise UserError(f"timm cannot build {self.name} for images of {config.layout_size} px: {error}") from error


@functools.cache
def _reduction(name: str) -> int:
    with torch.device("meta"):
        return _patch_size(timm.create_model(name, num_classes=0))


@functools.cache
def _takes_any_size(name: str) -> bool:
    try:
        with torch.device("meta"):
            timm.create_model(name, num_classes=0, dynamic_img_size=True)
    except TypeError:
        return False
    return True


def _patch_size(net: nn.Module) -> int:
    info = cast(Any, net).feature_info
    return int(info[-1]["reduction"]) if isinstance(info, list) else int(info.reduction()[-1])


def timm_network(name: str) -> TimmNetwork:
    """Return timm's network of that name, without weights.

    Raises UserError for a name that timm does not have, naming the nearest ones.
    """
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.6)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UserError(f"timm has no network {architecture!r}{hint}")
    return TimmNetwork(architecture)


def timm_config(name: str) -> BackboneConfig:
    """Return the config of timm's network with the image size and normalisation that timm gives for it.

    Raises UserError as `timm_network` does.
    """
    name = name.removeprefix(TIMM)
    architecture = timm_network(name).name
    settings = timm.get_pretrained_cfg(name) or PretrainedCfg()
    mean, std = cast(Color, settings.mean), cast(Color, settings.std)
    return BackboneConfig(f"{TIMM}{architecture}", settings.input_size[-1], mean=mean, std=std)


class TimmBackbone(Backbone):
    """A network of timm's. Its image feature is what timm gives to a classifier, after pooling and norm."""

    def __init__(self, config: BackboneConfig, net: nn.Module) -> None:
        super().__init__(config, int(cast(Any, net).head_hidden_size), _patch_size(net))
        self.net = net

    @property
    def depths(self) -> Depths | None:
        """Return the groups of timm's own layer decay, in which a final norm belongs to the last block."""
        name = self.config.name.removeprefix(TIMM)
        with torch.device("meta"):  # with a classifier, whose depth is that of heads
            whole = cast(Any, timm.create_model(name, num_classes=1))
        if not hasattr(whole, "group_matcher"):
            return None
        found = cast("dict[str, int]", group_parameters(whole, whole.group_matcher(coarse=False), reverse=True))
        top = max(found.values())
        return Depths({name: found.get(name, top) for name, _ in self.net.named_parameters()}, top)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Tokens:
        """Return timm's pooled feature, and the last feature map or the tokens of the patches."""
        net = cast(Any, self.net)
        if self.checkpoint_activations:
            if any(isinstance(layer, _BatchNorm) for layer in self.net.modules()):
                raise UserError(f"{self.config.name} has batch norm: its activations cannot be recomputed exactly")
            net.set_grad_checkpointing()
        features = net.forward_features(images)
        if not isinstance(features, Tensor):
            raise UserError(f"{self.config.name} gives {type(features).__name__}, not a feature map or tokens")
        if features.ndim == 3:
            prefix = int(getattr(net, "num_prefix_tokens", 0))
            grid = _grid(features.shape[1] - prefix, images.shape[-2] / images.shape[-1])
            patches = features[:, prefix:]
        else:
            cells = features.permute(0, 3, 1, 2) if getattr(net, "output_fmt", "NCHW") == "NHWC" else features
            patches, grid = cells.flatten(2).transpose(1, 2), (cells.shape[-2], cells.shape[-1])
        return Tokens(net.forward_head(features, pre_logits=True), patches, grid)


def _grid(count: int, aspect: float) -> tuple[int, int]:
    """Return rows and columns of `count` patches of an image whose height is `aspect` times its width."""
    rows = round(math.sqrt(count * aspect))
    if rows * (count // max(rows, 1)) != count:
        raise UserError(f"{count} tokens are no grid of patches")
    return rows, count // rows


class WrappedBackbone(Backbone):
    """A module of the user's that maps images to features [b, d], to feature maps [b, d, rows, columns] or `Tokens`."""

    def __init__(self, config: BackboneConfig, net: nn.Module, dim: int, patch_size: int, has_patches: bool) -> None:
        super().__init__(config, dim, patch_size)
        self.net, self.has_patches, self.signature = net, has_patches, repr(net)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Tokens:
        return _as_tokens(self.net(images), self.config.name)


def _as_tokens(output: Any, name: str) -> Tokens:
    if isinstance(output, Tokens):
        return output
    if isinstance(output, Tensor) and output.ndim == 2:
        return Tokens(output, output[:, None], (1, 1))
    if isinstance(output, Tensor) and output.ndim == 4:
        return Tokens(None, output.flatten(2).transpose(1, 2), (output.shape[-2], output.shape[-1]))
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise UserError(
        f"{name} gives {shape}; a backbone gives features [images, width], feature maps [images, width, rows, columns] "
        "or dinoscope's Tokens"
    )


@torch.no_grad()
def wrap(
    module: nn.Module, image_size: int = 224, mean: Color = IMAGENET_MEAN, std: Color = IMAGENET_STD, name: str = ""
) -> Backbone:
    """Return a module of the user's as a backbone in evaluation mode, without copying its weights.

    It is run once on an empty image to see what it gives: features [b, d], feature maps [b, d, rows, columns] (the
    image feature is their mean) or `Tokens`. A `Backbone` is returned as it is.

    Args:
        module: maps normalised images [b, c, h, w].
        image_size: side in pixels at which evaluations show images.
        mean, std: normalisation in [0, 1] that it expects, a value for each channel.
        name: in tables; by default the class's.

    Raises UserError if its output is of another kind, or it cannot run on such an image.
    """
    if isinstance(module, Backbone):
        return module.eval()
    name = name or type(module).__name__
    module.eval()
    example = next(module.parameters(), torch.zeros(()))
    try:
        tokens = _as_tokens(module(example.new_zeros(1, len(mean), image_size, image_size)), name)
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"{name} cannot be run on an image [1, {len(mean)}, {image_size}, {image_size}]: {error}"
        ) from error
    rows = tokens.grid[0]
    has_patches = rows * tokens.grid[1] > 1
    patch = max(image_size // rows, 1) if has_patches else 1
    config = BackboneConfig(name, image_size, mean=mean, std=std)
    return WrappedBackbone(config, module, tokens.feature.shape[-1], patch, has_patches).eval()


class PixelsBackbone(Backbone):
    """No network: the image itself as its feature, [b, 3 * h * w], less its own mean.

    So the cosine of two images is the correlation of their pixels.
    """

    probe_title = "pixels"

    def __init__(self, size: int = PIXELS_SIZE) -> None:
        super().__init__(BackboneConfig(PIXELS, size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)), 3 * size**2, 1)
        self.net = nn.Identity()

    def forward(self, images: Float[Tensor, "b c h w"]) -> Tokens:
        pixels = images.flatten(1)
        grid = (images.shape[-2], images.shape[-1])
        return Tokens(pixels - pixels.mean(dim=1, keepdim=True), images.flatten(2).transpose(1, 2), grid)


def pretrained_timm(name: str) -> tuple[TimmBackbone, dict[str, Any]]:
    """Return a network with timm's released weights, fetched by timm on first use, and where they are from.

    The weights are loaded strictly, with timm's classifier, which is then removed. Raises UserError if there is no such
    network, it has no weights, or they cannot be fetched.
    """
    architecture = timm_network(name).name
    settings = timm.get_pretrained_cfg(name, allow_unregistered=False)
    if settings is None or not settings.has_weights:
        raise UserError(f"timm has no weights for {name}; random:{TIMM}{architecture} is the network without them")
    try:
        net = cast(Any, timm.create_model(name, pretrained=True))
    except Exception as error:  # of any of the libraries that fetch
        reason = str(error).partition("\n")[0]
        raise UserError(f"the weights of {TIMM}{name} cannot be fetched or loaded by timm: {reason}") from error
    net.reset_classifier(0)
    backbone = TimmNetwork(architecture).build(timm_config(name))
    backbone.net.load_state_dict(net.state_dict(), strict=True)
    origin = {"name": f"{TIMM}{name}", "licence": settings.license or "", "url": settings.hf_hub_id or settings.url}
    return backbone.eval(), origin
