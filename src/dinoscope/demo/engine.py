"""What models compute for images: once, and then read again by every control of the page. Knows nothing of Gradio.

One pass through the network for each (model, image, size) serves all controls. What is derived from it and takes time
(rollout, Grad-CAM, the patches' features) is computed when it is first needed and cached within a limit of bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import cachetools
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dinoscope.demo.pictures import MB, Limits, Picture, Refused, read_picture
from dinoscope.explain import maps as explain_maps
from dinoscope.explain.attention import MAX_PATCHES, energy_of_patches, patch_grid, prepare
from dinoscope.explain.patches import PatchColors, patch_colors, similarity_maps
from dinoscope.model_names import Model

T = TypeVar("T")

OF_BLOCKS = ("attention", "rollout", "gradcam")
"""Kinds of maps that a transformer has one of for each block."""

Apart = Callable[..., Any]
"""Calls a function that reads a stranger's file: `apart(function, *arguments, deadlines=1)` returns what it returns."""


@dataclass(frozen=True)
class Input:
    """A picture and the model that is given it. size: short side in pixels; None is the one that the model stores."""

    model: str
    picture: Picture
    size: int | None = None


class Engine:
    """The models by their labels, and what they computed. Safe to call from several threads.

    apart: reads strangers' files; without it they are read in this process, without a deadline.
    passes: how often a network was run.
    window: grey range by which images are shown: that of the first model which has one. Each model is given its own.
    cached: see `caching`.
    """

    def __init__(self, models: Sequence[Model], limits: Limits, apart: Apart | None = None) -> None:
        self.models = {model.label: model for model in models}
        self.limits, self.passes = limits, 0
        self.apart = apart or (lambda function, *arguments, deadlines=1: function(*arguments))
        windows = (model.backbone.config.window for model in models)
        self.window = next((window for window in windows if window is not None), None)
        self.cached = caching(int(limits.cache_mb * MB))

    def picture(self, path: Path) -> Picture:
        """Return the image in a file. Raises Refused as `read_picture` does."""
        try:
            key = path, path.stat().st_mtime_ns
        except OSError as error:
            raise Refused("picture_gone") from error
        return self.cached(key, lambda: self.apart(read_picture, path, self.limits, self.window))

    def depth(self, model: str) -> int:
        """Return the number of blocks that a map can be of; 1 for a network that is no transformer."""
        transformer = self.models[model].backbone.transformer
        return 1 if transformer is None else len(transformer.blocks)

    def heads(self, model: str) -> int:
        """Return the number of attention heads; 1 without attention."""
        return self.models[model].backbone.heads or 1

    def shown_kind(self, model: str, kind: str) -> str:
        """Return the kind of map that a model really gives: without attention it is the feature energy."""
        attention = self.models[model].backbone.class_attention
        return "energy" if kind == "attention" and attention is None else kind

    def size(self, given: Input) -> int:
        """Return the short side in pixels at which the model is given the picture, within the limits."""
        return min(given.size or self.models[given.model].backbone.config.image_size, self.limits.most_size)

    def maps(self, given: Input, kind: str, block: int) -> Float[Tensor, "maps rows columns"]:
        """Return the maps of a kind, as `explain.maps.MAPS` gives them; attention has one for each head.

        block: from 0; beyond the network's last it is the last. Kinds that are of the last block alone ignore it.
        Raises Refused for rollout of a network without attention, and as `run` does.
        """
        backbone, passed, key = self.models[given.model].backbone, self.run(given), self._key(given)
        block = min(block, self.depth(given.model) - 1)
        if kind == "attention" and backbone.transformer is not None:
            return explain_maps.attention_of_pass(backbone, passed, block)[0].float().cpu()
        if kind in ("attention", "energy"):
            return energy_of_patches(self.patches(given)[None])[0]
        if kind == "rollout":
            if backbone.transformer is None:
                raise Refused("image_no_rollout", model=given.model)
            return self.cached(
                (*key, kind, block), lambda: explain_maps.rollout_of_pass(backbone, passed, block)[0].cpu()
            )
        if kind == "gradcam":
            return self.cached((*key, kind), lambda: torch.cat(explain_maps.gradcam_of_pass(backbone, passed)).cpu())[
                block
            ]
        return explain_maps.centre_map(*passed.grid)[None]

    def patches(self, given: Input) -> Float[Tensor, "rows columns d"]:
        """Return the patches' features after the last block. Raises Refused as `run` does."""
        backbone, passed = self.models[given.model].backbone, self.run(given)
        key = (*self._key(given), "patches")
        return self.cached(key, lambda: explain_maps.patches_of_pass(backbone, passed)[0].float().cpu())

    def similarity(self, given: Input, patch: tuple[int, int], other: Input) -> Float[Tensor, "rows columns"]:
        """Return the cosine of one patch (row, column) with every patch of another picture. Raises as `run` does."""
        return similarity_maps(self.patches(given)[patch][None], self.patches(other))[0]

    def colors(self, inputs: Sequence[Input]) -> list[PatchColors]:
        """Return the principal components of one model's patches, of several pictures jointly. Raises as `run` does."""
        key = ("colors", *map(self._key, inputs))
        return self.cached(key, lambda: patch_colors([self.patches(given) for given in inputs]))

    def run(self, given: Input) -> explain_maps.SinglePass:
        """Return the stored pass of the model over the picture, after running it if it is not in the cache.

        Raises Refused if the model has no patches, the picture more of them than the limits allow, or the model's
        numbers are not finite.
        """
        return self.cached(self._key(given), lambda: self._run(given))

    def _run(self, given: Input) -> explain_maps.SinglePass:
        backbone = self.models[given.model].backbone
        if not backbone.has_patches:
            raise Refused("model_no_patches", model=given.model)
        rows, columns = patch_grid(given.picture.size, self.size(given), backbone.patch_size)
        max_patches = min(self.limits.patches, MAX_PATCHES)
        if rows * columns > max_patches:
            raise Refused("picture_patches", patches=rows * columns, most=max_patches)
        pixels = prepare(given.picture.given_to(backbone.config), self.size(given), backbone.patch_size)
        self.passes += 1
        passed = explain_maps.single_pass(backbone, backbone.normalize(pixels[None].to(backbone.mean.device)))
        if not all(values.isfinite().all() for values in (*passed.rows, passed.last) if values is not None):
            raise Refused("model_broken", model=given.model)
        return passed

    def _key(self, given: Input) -> tuple[Hashable, ...]:
        return given.model, given.picture.digest, self.size(given)


def caching(max_bytes: int) -> Any:
    """Return a function `cached(key, make)` that makes each result once, however many threads ask for it together.

    Results are stored up to `max_bytes` in `cached.cache`; the least recently used is removed first. A result beyond
    the limit is returned and not stored, and neither is a failure.
    """
    cache = cachetools.LRUCache[Hashable, Any](max_bytes, getsizeof=count_bytes)

    @cachetools.cached(cache, key=lambda key, make: key, condition=threading.Condition())
    def cached(key: Hashable, make: Callable[[], T]) -> T:
        return make()

    return cached


def count_bytes(result: object) -> int:
    """Return the bytes of all tensors and arrays in a result, however nested; everything else counts as 0."""
    if isinstance(result, torch.Tensor | np.ndarray):
        return result.nbytes
    if is_dataclass(result) and not isinstance(result, type):
        return sum(count_bytes(getattr(result, field.name)) for field in fields(result))
    if isinstance(result, Mapping):
        return sum(map(count_bytes, result.values()))
    if isinstance(result, Sequence) and not isinstance(result, str | bytes):
        return sum(map(count_bytes, result))
    return 0
