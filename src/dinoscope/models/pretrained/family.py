"""What a kind of file and a way of naming weights are; the kinds are in `networks` and in a file for each family."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from dinoscope.models.network import BackboneConfig


@dataclass(frozen=True)
class Layout:
    """A kind of file.

    says: how it was recognised, for a person. method: "" if the file does not tell.
    signs: each must be found in some name, written way/to/dictionary/tensor.name.
    part: what is taken of it by default.
    heads: attention heads of a ViT of some width; None if the file does not tell.
    licence: of all weights that are released in this kind of file; "" if it differs, or is not known.
    statistics: part of the name of a file -> mean and standard deviation of RGB that its network was trained with.
    """

    says: str
    signs: Sequence[str]
    method: str = ""
    part: str = "plain"
    heads: Callable[[int], int] | None = None
    licence: str = ""
    statistics: Mapping[str, Sequence[Sequence[float]]] | None = None


Renaming = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def unchanged(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors as they are."""
    return dict(tensors)


@dataclass(frozen=True)
class Family:
    """How a network names its weights.

    anchor: the tensor where it begins. signs: patterns; each must be found in the name of some tensor of the network.
    rename: to timm's names. heads: first words, then, of what is left out. finish: what remains to be done with the
        rest. A name that is neither left out nor timm's stays, so that a strict load reports it.
    config: (tensors in timm's names, kind of file, source, heads or None) -> which network it is, and for which image
        size. Raises UserError, KeyError for a tensor that is missing, ValueError or IndexError for other shapes.
    """

    anchor: str
    rename: Renaming
    heads: frozenset[str]
    config: Callable[[Mapping[str, Tensor], Layout, str, int | None], BackboneConfig]
    signs: tuple[str, ...] = ()
    finish: Renaming = unchanged
