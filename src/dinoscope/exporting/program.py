"""A network as a traced program: any batch, any image size, plain tensors in and out."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np
import torch
from timm.layers.attention import Attention
from torch import Tensor, nn

from dinoscope.errors import UserError
from dinoscope.models.backbone import Backbone
from dinoscope.models.vit import attention_rows, head_keys, scaled_queries

INPUT = "images"
OUTPUTS = ("feature", "patches", "attention")
"""Image feature [batch, dim], patch tokens [batch, rows * columns, dim], and of a Vision Transformer the class token's
attention to the patches in the last block [batch, heads, rows * columns]."""

TOLERANCE = 1e-4
"""Largest absolute difference between the program and the network that is accepted."""


class Program(nn.Module):
    """Normalised images [batch, 3, height, width] to the tensors of `OUTPUTS`; a ResNet has no attention."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The network with each block once; see `OUTPUTS` for the shapes."""
        transformer = self.backbone.transformer
        if transformer is None:
            tokens = self.backbone(images)
            return tokens.feature, tokens.patches
        prefix, last = transformer.prefix, transformer.blocks[-1]
        hidden = transformer.run_blocks(transformer.embed(images)[0], stop=-1)
        attention, normed = cast(Attention, last.attn), last.norm1(hidden)
        row = attention_rows(scaled_queries(attention, normed[:, :1]), head_keys(attention, normed))
        tokens = transformer.norm(last(hidden))
        return tokens[:, 0], tokens[:, prefix:], row[:, :, 0, prefix:]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what `forward` gives."""
        return OUTPUTS if self.backbone.transformer is not None else OUTPUTS[:2]

    @property
    def input_remark(self) -> str:
        """What `forward` takes, as a comment beside a line that calls it."""
        return f"# normalised float32 [batch, 3, height, width], any size from {2 * self.backbone.patch_size} px"


def trace(program: Program) -> torch.export.ExportedProgram:
    """Trace it with batch, height and width left open; torch refuses where it would have to fix one of them.

    A grid of one row or one column stays out: torch takes a size of 1 to be another program.
    """
    patch = program.backbone.patch_size
    example = torch.zeros(2, 3, 6 * patch, 5 * patch)
    free = torch.export.Dim.DYNAMIC
    with quiet():
        return torch.export.export(program, (example,), dynamic_shapes=({0: free, 2: free, 3: free},))


@torch.no_grad()
def check(program: Program, run: Callable[[np.ndarray], Sequence[np.ndarray]]) -> float:
    """Largest difference between what `run` makes of images and what the network makes of them, over three shapes.

    Raises UserError where it is above `TOLERANCE`.
    """
    patch = program.backbone.patch_size
    size = max(program.backbone.config.image_size, 2 * patch)
    generator, worst = torch.Generator().manual_seed(0), 0.0
    for shape in ((1, 3, size, size), (3, 3, 3 * patch, 5 * patch), (2, 3, size + patch, size)):
        images = torch.randn(shape, generator=generator)
        wanted = program(images)
        for name, ours, theirs in zip(program.outputs, wanted, run(images.numpy()), strict=True):
            difference = np.abs(ours.numpy() - theirs).max() if ours.shape == theirs.shape else np.inf
            if not difference <= TOLERANCE:  # NaN is above it too
                raise UserError(
                    f"the exported program gives another {name} than the network for images of {shape}: it differs by "
                    f"{difference:.1e}, and {TOLERANCE:g} is allowed. Nothing was written; please report this with the "
                    f"versions of torch ({torch.__version__}) and of the exporter"
                )
            worst = max(worst, float(difference))
    return worst


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep back what the exporters say about their own workings; errors come through."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
