"""What models say about images, computed once and looked at again and again. Knows nothing of the page.

One pass through the network for each (model, image, size) serves every control of the page. What is made of it and
takes time (rollout, Grad-CAM, the patches' features) is made when it is first asked for, and kept as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from dinoscope.demo.decoding import Apart, in_this_process
from dinoscope.demo.kept import Kept
from dinoscope.demo.limits import Limits
from dinoscope.demo.pictures import Picture, Refused, read_picture
from dinoscope.explain.attention import MAX_PATCHES, count_heads, patch_grid, prepare
from dinoscope.explain.centre import centre_map
from dinoscope.explain.maps import MAPS
from dinoscope.explain.pca import PatchColors, patch_colors
from dinoscope.explain.similarity import similarity_maps
from dinoscope.explain.single_pass import (
    SinglePass,
    attention_of_pass,
    energy_of_patches,
    gradcam_of_pass,
    patches_of_pass,
    rollout_of_pass,
    single_pass,
)
from dinoscope.model_names import Model
from dinoscope.models.backbone import ViTBackbone

KINDS: tuple[str, ...] = tuple(MAPS)
OF_BLOCKS = ("attention", "rollout", "gradcam")
"""Kinds of maps that a transformer has one of for each block."""


@dataclass(frozen=True)
class Gaze:
    """One model that looks at one picture. size: short side in pixels; None is the one the model stores."""

    model: str
    picture: Picture
    size: int | None = None


class Engine:
    """The models by their labels, and what they said. Safe to call from several threads.

    passes: how often a network has been run; for who wants to know whether anything is computed again.
    window: grey range by which images are shown, that of the first model which has one; each model is given its own.
    apart: calls a function that reads a stranger's file, see `decoding.DecodingProcesses.run`.
    """

    def __init__(self, models: Sequence[Model], limits: Limits, apart: Apart = in_this_process) -> None:
        self.models = {model.label: model for model in models}
        self.apart = apart
        self.limits, self.passes = limits, 0
        windows = (model.backbone.config.window for model in models)
        self.window = next((window for window in windows if window is not None), None)
        self._kept = Kept(limits.cache_bytes)

    def picture(self, path: Path) -> Picture:
        """The image in a file. Raises Refused as `read_picture` does."""
        try:
            key = path, path.stat().st_mtime_ns
        except OSError as error:
            raise Refused("picture_gone") from error
        return self._kept.get(key, lambda: self.apart(read_picture, path, self.limits, self.window))

    def depth(self, model: str) -> int:
        """Number of blocks that a map can be of; 1 for a ResNet."""
        backbone = self.models[model].backbone
        return len(backbone.net.blocks) if isinstance(backbone, ViTBackbone) else 1

    def heads(self, model: str) -> int:
        """Number of heads; 1 for a ResNet."""
        return count_heads(self.models[model].backbone)

    def shown_kind(self, model: str, kind: str) -> str:
        """The kind of map that a model really gives: a ResNet's attention is its feature energy."""
        has_heads = isinstance(self.models[model].backbone, ViTBackbone)
        return "energy" if kind == "attention" and not has_heads else kind

    def size(self, gaze: Gaze) -> int:
        """Short side in pixels at which the model is given the picture, within the limits."""
        return min(gaze.size or self.models[gaze.model].backbone.config.image_size, self.limits.most_size)

    def maps(self, gaze: Gaze, kind: str, block: int) -> Float[Tensor, "maps rows columns"]:
        """The maps of a kind, as `explain.maps.MAPS` gives them; attention has one for each head.

        block: from 0; one beyond the network's last is the last. Kinds that are of the last block alone ignore it.
        Raises Refused for rollout of a network that has no attention, and as `look` does.
        """
        backbone, passed = self.models[gaze.model].backbone, self.look(gaze)
        block = min(block, self.depth(gaze.model) - 1)
        if kind == "attention" and isinstance(backbone, ViTBackbone):
            return attention_of_pass(backbone, passed, block)[0].float().cpu()
        if kind in ("attention", "energy"):
            return energy_of_patches(self.patches(gaze)[None])[0]
        if kind == "rollout":
            if not isinstance(backbone, ViTBackbone):
                raise Refused("image_no_rollout", model=gaze.model)
            return self._derived(gaze, (kind, block), lambda: rollout_of_pass(backbone, passed, block)[0].cpu())
        if kind == "gradcam":
            return self._derived(gaze, (kind,), lambda: torch.cat(gradcam_of_pass(backbone, passed)).cpu())[block]
        return centre_map(*passed.grid)[None]

    def patches(self, gaze: Gaze) -> Float[Tensor, "rows columns d"]:
        """Features of the patches behind the last block. Raises Refused as `look` does."""
        backbone, passed = self.models[gaze.model].backbone, self.look(gaze)
        return self._derived(gaze, ("patches",), lambda: patches_of_pass(backbone, passed)[0].float().cpu())

    def similarity(self, gaze: Gaze, patch: tuple[int, int], other: Gaze) -> Float[Tensor, "rows columns"]:
        """Cosine of one patch (row, column) of a picture with every patch of another one. Raises as `look` does."""
        return similarity_maps(self.patches(gaze)[patch][None], self.patches(other))[0]

    def colors(self, gazes: Sequence[Gaze]) -> list[PatchColors]:
        """Principal components of one model's patches of several pictures jointly. Raises Refused as `look` does."""
        key = ("colors", *(self._key(gaze) for gaze in gazes))
        return self._kept.get(key, lambda: patch_colors([self.patches(gaze) for gaze in gazes]))

    def look(self, gaze: Gaze) -> SinglePass:
        """What the pass of the model over the picture has left behind, which is run where it is not kept.

        Raises Refused where the picture has more patches than the limits allow, or the model's numbers are not finite.
        """
        return self._kept.get(self._key(gaze), lambda: self._run(gaze))

    def _run(self, gaze: Gaze) -> SinglePass:
        backbone = self.models[gaze.model].backbone
        rows, columns = patch_grid(gaze.picture.size, self.size(gaze), backbone.patch_size)
        most = min(self.limits.patches, MAX_PATCHES)
        if rows * columns > most:
            raise Refused("picture_patches", patches=rows * columns, most=most)
        pixels = prepare(gaze.picture.by(backbone.config.window), self.size(gaze), backbone.patch_size)
        self.passes += 1
        passed = single_pass(backbone, backbone.normalize(pixels[None].to(backbone.mean.device)))
        if not all(each.isfinite().all() for each in (*passed.rows, *([] if passed.last is None else [passed.last]))):
            raise Refused("model_broken", model=gaze.model)
        return passed

    def _key(self, gaze: Gaze) -> tuple[str, str, int]:
        return gaze.model, gaze.picture.digest, self.size(gaze)

    def _derived(self, gaze: Gaze, what: tuple[str | int, ...], make: Callable[[], Tensor]) -> Tensor:
        return self._kept.get((*self._key(gaze), *what), make)
