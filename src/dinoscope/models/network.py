"""The contract of every backbone: normalised images in, `Tokens` out. Everything else is an optional capability."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from dinoscope.data.grey_range import check_window, is_joined
from dinoscope.data.neighbours import check_slices
from dinoscope.errors import UserError
from dinoscope.types import Tokens

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def usual_normalisation(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation where nothing is measured: ImageNet's; without colours, its mean over RGB."""
    if channels == 3:
        return IMAGENET_MEAN, IMAGENET_STD
    return (0.449,) * channels, (0.226,) * channels


def channels_made(window: tuple[float, ...] | None, slices: int) -> int | None:
    """Return how many channels joined windows or neighbouring slices make of a grey image; None without either.

    Raises UserError for both at once, and for wrong numbers of them.
    """
    if window is not None and len(window) != 2:
        check_window(window)
    check_slices(slices)
    if is_joined(window) and slices > 1:
        raise UserError(f"--slices {slices} and several windows exclude each other: each would make the channels")
    if is_joined(window):
        return len(window) // 2
    return slices if slices > 1 else None


ClassAttention = Callable[[Tensor, int], Float[Tensor, "b heads rows columns"]]
"""(normalised images [b, c, h, w], block) -> attention of the class token to the patches, for each head."""

MaskedForward = Callable[[Tensor, Tensor, Tensor], Tokens]
"""(normalised images [b, c, h, w], mask [b, n], mask token [1, d]) -> tokens with that one in the place of patches."""

VisibleForward = Callable[[Tensor, Tensor], Float[Tensor, "b m d"]]
"""(normalised images [b, c, h, w], numbers of patches [b, v]) -> prefix tokens and the tokens of these patches."""


@dataclass(frozen=True)
class BackboneConfig:
    """What is needed to build a backbone again, apart from its weights. Travels with every checkpoint.

    name: of a network, as `models.backbone.network` takes it.
    image_size: side of the square, in pixels, that evaluations take as the image size of the model.
    position_size: side of the square, in pixels, that the position embeddings are laid out for, if it differs
        (DINOv2: 518, and evaluated at 224); at all others they are interpolated. None: `image_size`.
    drop_path: highest rate of stochastic depth (linear over the blocks); only training uses it.
    mean, std: normalisation of each channel in [0, 1]; as many as the network takes channels, three for RGB.
    window: (level, width), the grey range by which images of more than 8 bits are read, that of the training set. None:
        each by its own (models of others, and those of runs from before there was a range). Several pairs, one behind
        the other: a window for each channel, all of one grey image.
    slices: neighbouring slices that an image is read with, a channel each.

    Raises UserError unless there are as many channels as windows, if they are joined, or as slices.
    """

    name: str = "vit_small_patch16_224"
    image_size: int = 224
    drop_path: float = 0.0
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    position_size: int | None = None
    window: tuple[float, ...] | None = None
    slices: int = 1

    def __post_init__(self) -> None:
        """Compare the channels with what they are made of."""
        made = channels_made(self.window, self.slices)
        if made is not None and made != self.channels:
            raise UserError(f"{self.name} takes {self.channels} channels, and its windows or slices make {made}")

    @property
    def channels(self) -> int:
        """How many channels the network takes."""
        return len(self.mean)

    @property
    def layout_size(self) -> int:
        """Side of the square, in pixels, that the position embeddings are laid out for."""
        return self.image_size if self.position_size is None else self.position_size


@runtime_checkable
class Network(Protocol):
    """An architecture: an entry of `BACKBONES`. A family is a class with these members and a dict of its networks.

    title: as the field writes it; "" for the name itself. patch: side in pixels that one patch token stands for.
    transformer: whether it has position embeddings and is trained with the settings of transformers.
    family: what lists call the family. about: the family in one line of text.
    size: side in pixels of the images that it is made for.
    """

    @property
    def title(self) -> str: ...
    @property
    def patch(self) -> int: ...
    @property
    def transformer(self) -> bool: ...
    @property
    def family(self) -> str: ...
    @property
    def about(self) -> str: ...
    @property
    def size(self) -> int: ...
    def check(self, config: BackboneConfig) -> None:
        """Raise UserError if the network cannot be built for these sizes."""
        ...

    def build(self, config: BackboneConfig) -> Backbone:
        """Build the network with fresh weights."""
        ...

    def baseline(self) -> Network:
        """Return the network whose fresh weights trained ones are compared with."""
        ...


@runtime_checkable
class AttentionBlock(Protocol):
    """A block of a transformer for the patches of one grid: tokens in, tokens out, and what its attention is made of.

    normed: tokens after `norm1`. Positions that a network gives to queries and keys are in them.
    """

    def __call__(self, tokens: Float[Tensor, "b n d"], /) -> Float[Tensor, "b n d"]: ...
    def norm1(self, tokens: Float[Tensor, "b m d"], /) -> Float[Tensor, "b m d"]:
        """Apply the norm before the attention."""
        ...

    def queries(self, normed: Float[Tensor, "b n d"], part: slice) -> Float[Tensor, "b heads m e"]:
        """Return the queries of some of the tokens, scaled by 1 / sqrt(e)."""
        ...

    def keys(self, normed: Float[Tensor, "b n d"]) -> Float[Tensor, "b heads n e"]:
        """Return the keys of all tokens."""
        ...

    def with_class_row(
        self, tokens: Float[Tensor, "b n d"]
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b heads n"]]:
        """Return what leaves the block, and the class token's row of its attention, without stochastic depth."""
        ...


@runtime_checkable
class Transformer(Protocol):
    """Capability: tokens pass through attention blocks one after another. Rollout and maps of one block need it.

    blocks: the modules, from first to last. prefix: tokens before the patches; the first is the class token.
    """

    config: BackboneConfig

    @property
    def blocks(self) -> Sequence[nn.Module]: ...
    @property
    def prefix(self) -> int: ...
    def blocks_on(self, grid: tuple[int, int]) -> Sequence[AttentionBlock]:
        """Return the blocks for tokens of the patches of `grid` = (rows, columns)."""
        ...

    def embed(self, images: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b n d"], tuple[int, int]]:
        """Return the input of the first block, and the patch grid."""
        ...

    def norm(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Apply the final norm."""
        ...


@dataclass(frozen=True)
class Fit:
    """Capability of a baseline: it is made from images, without labels, before it describes any.

    max_images: how many it is made from, at most.
    learn: takes uint8 images [b, 3, h, w] in batches and a function to call with (done, total); returns the state dict
        of the backbone that is made. The same images give the same one.
    """

    max_images: int
    learn: Callable[[Iterable[UInt8[Tensor, "b 3 h w"]], Callable[[int, int], None]], dict[str, Tensor]]


@dataclass(frozen=True)
class Depths:
    """Capability: how deep each weight lies, for learning rates that fall towards the input (`layer_decay`).

    by_name: name of a parameter of `Backbone.net` -> its depth. 0 is what comes before the first block (patches, class
        token, positions), b + 1 is block b, counted from 0.
    top: the depth of what comes after the last block: the final norm, and the head of a method.
    """

    by_name: Mapping[str, int]
    top: int


def depths_by_block(net: nn.Module, blocks: Sequence[nn.Module]) -> Depths:
    """Return the depths of a network that is a row of blocks, in their order, from the order of its parameters.

    What lies between two blocks (a downsampling before a stage) has the depth of the one that follows.
    """
    numbers = {id(parameter): number for number, block in enumerate(blocks, 1) for parameter in block.parameters()}
    by_name, top = dict[str, int](), len(blocks) + 1
    following = top
    for name, parameter in reversed(list(net.named_parameters())):
        own = numbers.get(id(parameter))
        following = own or following
        by_name[name] = own or (0 if following == 1 else following)
    return Depths(by_name, top)


class Backbone(nn.Module):
    """Config, feature width and normalisation, which all networks share, and what a network can do besides.

    dim: width of the image feature. patch_size: side in pixels that one patch stands for.
    net: the network itself; its state dict is what an export holds.
    has_patches: whether the patches show places of the image.
    signature: what its name does not tell of the network, for the hash of its weights.
    probe_title: what `probe_features` consists of, for a person.
    traced_at_one_size: whether a traced program of it takes only images of its own size, as what it does depends on
        the size in too many ways.
    made_of: what a protocol must tell of one that was fitted to images (`fit`); "" for all others.
    """

    config: BackboneConfig
    dim: int
    patch_size: int
    net: nn.Module
    checkpoint_activations: bool
    mean: Tensor
    std: Tensor
    has_patches: bool = True
    traced_at_one_size: bool = False
    signature: str = ""
    probe_title: str = "pooled vector"
    made_of: str = ""

    def __init__(self, config: BackboneConfig, dim: int, patch_size: int) -> None:
        super().__init__()
        self.config, self.dim, self.patch_size, self.checkpoint_activations = config, dim, patch_size, False
        self.register_buffer("mean", torch.tensor(config.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(-1, 1, 1), persistent=False)

    def __call__(self, images: Float[Tensor, "b c h w"]) -> Tokens:
        """Run the network; see `forward` of the subclass."""
        return cast(Tokens, super().__call__(images))

    def normalize(self, images: UInt8[Tensor, "*batch k h w"]) -> Float[Tensor, "*batch c h w"]:
        """Turn uint8 images into the network's input, in the dtype of its weights.

        Grey images become RGB for a network of three channels, and RGB grey for one of a single channel. Raises
        UserError for any other number of channels that is not the network's.
        """
        images = self._in_its_channels(images)
        dtype = next(self.parameters(), self.mean).dtype
        return (images.to(dtype) / 255 - self.mean.to(dtype)) / self.std.to(dtype)

    def _in_its_channels(self, images: UInt8[Tensor, "*batch k h w"]) -> UInt8[Tensor, "*batch c h w"]:
        given, taken = images.shape[-3], self.config.channels
        if given == taken:
            return images
        if (given, taken) == (1, 3):
            return images.expand(*images.shape[:-3], 3, *images.shape[-2:])
        if (given, taken) == (3, 1):  # as Pillow's convert("L") and `RawImage.pixels`: ITU-R 601 in integers
            red, green, blue = images.int().split(1, dim=-3)
            return ((19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16).to(torch.uint8)
        raise UserError(f"{self.config.name} takes images of {taken} channels, and these have {given}")

    def feature(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Return `forward(images).feature` for callers that need no patches."""
        return self(images).feature

    @property
    def compiled_parts(self) -> Sequence[nn.Module]:
        """What `--compile` compiles, each on its own; by default the parts that the network consists of."""
        return tuple(self.net.children())

    @property
    def probe_dim(self) -> int:
        """Width of `probe_features`."""
        return self.dim

    def probe_features(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Return what DINO's linear probe is trained on; by default the image feature."""
        return self.feature(images)

    @property
    def has_own_probe(self) -> bool:
        """Whether `probe_features` differs from the image feature."""
        return type(self).probe_features is not Backbone.probe_features

    def weights_for(self, config: BackboneConfig) -> dict[str, Tensor]:
        """Return the weights of `net` for the same network with the layout of `config`."""
        return self.net.state_dict()

    @property
    def class_attention(self) -> ClassAttention | None:
        """Capability: attention of the class token to the patches; None without a class token."""
        return None

    @property
    def heads(self) -> int:
        """Attention heads of the last block; 0 without `class_attention`."""
        return 0

    @property
    def transformer(self) -> Transformer | None:
        """Capability: see `Transformer`."""
        return None

    @property
    def depths(self) -> Depths | None:
        """Capability: see `Depths`. None if the network's layers are not known."""
        return None

    @property
    def fit(self) -> Fit | None:
        """Capability: see `Fit`. None for a network, and for what is already fitted."""
        return None

    @property
    def masked_forward(self) -> MaskedForward | None:
        """Capability: run the network with a mask token in place of some patches, before positions are added."""
        return None

    @property
    def visible_forward(self) -> VisibleForward | None:
        """Capability: run the network on some of the patches, as many of each image; no other pixel reaches it."""
        return None

    @property
    def patch_projection(self) -> nn.Module | None:
        """What turns pixels into patch tokens, for methods that freeze it; None if there is no such layer."""
        return None


def require_fitted(backbone: Backbone) -> None:
    """Raise UserError for a baseline that must be fitted to images first (`Backbone.fit`)."""
    if backbone.fit is not None:
        name = backbone.config.name
        raise UserError(f"{name} is made from training images and has seen none: use it with --data FOLDER")


def require_patches(backbone: Backbone, what: str) -> None:
    """Raise UserError for a network that gives only a feature of the whole image. what: the evaluation or map."""
    if not backbone.has_patches:
        raise UserError(f"{what} needs features of patches, and {backbone.config.name} gives one feature for an image")


def require_transformer(backbone: Backbone, what: str) -> Transformer:
    """Return the capability, or raise UserError if the network lacks it. what: the evaluation or map."""
    transformer = backbone.transformer
    if transformer is None:
        raise UserError(f"{what} needs attention blocks, and {backbone.config.name} has none")
    return transformer


def require_depths(backbone: Backbone, what: str) -> Depths:
    """Return the capability, or raise UserError if the network lacks it. what: the option."""
    depths, name = backbone.depths, backbone.config.name
    if depths is None:
        raise UserError(f"{what} needs to know a network's layers, and {name} has none by name: leave it out")
    return depths


def modules_of(parent: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Yield (parent, name, child) of every module below `parent`; a child may be exchanged meanwhile."""
    for module in list(parent.modules()):
        for name, child in module.named_children():
            yield module, name, child
