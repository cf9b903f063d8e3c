"""Traced programs of a network, for any batch and image size: ONNX, and torch.export. Compared before they are kept.

Those of a network that cannot be traced for all sizes at once (`Backbone.traced_at_one_size`) take images of its own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dinoscope.errors import UserError
from dinoscope.export.formats import description
from dinoscope.files import replacing
from dinoscope.model_names import Model
from dinoscope.models.network import Backbone
from dinoscope.models.vit import class_row

ONNX_FILE, TORCH_FILE = "model.onnx", "model.pt2"
INPUT = "images"
OUTPUTS = ("feature", "patches", "attention")
"""Image feature [batch, dim], patch tokens [batch, rows * columns, dim], and of a transformer the class token's
attention to the patches in the last block [batch, heads, rows * columns]."""

TOLERANCE = 1e-4
"""Largest absolute difference between the program and the network that is accepted."""


class Program(nn.Module):
    """A network to be traced: normalised images [batch, channels, height, width] to the tensors of `OUTPUTS`."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.outputs = OUTPUTS if backbone.transformer is not None else OUTPUTS[:2]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run each block once; see `OUTPUTS` for the shapes."""
        transformer = self.backbone.transformer
        if transformer is None:
            tokens = self.backbone(images)
            return tokens.feature, tokens.patches
        hidden, grid = transformer.embed(images)
        *earlier, last = transformer.blocks_on(grid)
        for block in earlier:
            hidden = block(hidden)
        row, prefix = class_row(last, hidden), transformer.prefix
        tokens = transformer.norm(last(hidden))
        return tokens[:, 0], tokens[:, prefix:], row[:, :, prefix:]

    def line(self, call: str) -> str:
        """Return a line of Python that runs the program, with what it takes as a comment."""
        size, channels = f"any size from {2 * self.backbone.patch_size} px", self.backbone.config.channels
        if self.backbone.traced_at_one_size:
            size = f"of {self.backbone.config.image_size} px"
        return f"{', '.join(self.outputs)} = {call}   # normalised float32 [batch, {channels}, height, width], {size}"


def trace(program: Program) -> torch.export.ExportedProgram:
    """Trace the network with batch, height and width left open; torch refuses if it would have to fix one of them.

    A grid of one row or one column is excluded: to torch, a size of 1 is another program. Of a network that is traced
    at one size, only the batch is left open.
    """
    backbone, patch, size = program.backbone, program.backbone.patch_size, program.backbone.config.image_size
    sides = (size, size) if backbone.traced_at_one_size else (6 * patch, 5 * patch)
    free = dict.fromkeys(_free(backbone), torch.export.Dim.DYNAMIC)
    with quiet():
        return torch.export.export(program, (torch.zeros(2, backbone.config.channels, *sides),), dynamic_shapes=(free,))


def _free(backbone: Backbone) -> dict[int, str]:
    """Return the dimensions of the images that a program leaves open, with their names."""
    return {0: "batch"} if backbone.traced_at_one_size else {0: "batch", 2: "height", 3: "width"}


@torch.no_grad()
def check(program: Program, run: Callable[[np.ndarray], Sequence[np.ndarray]]) -> float:
    """Return the largest difference between the outputs of `run` and of the network, over batches of several shapes.

    Raises UserError if it is above `TOLERANCE`.
    """
    patch = program.backbone.patch_size
    size = max(program.backbone.config.image_size, 2 * patch)
    generator, largest = torch.Generator().manual_seed(0), 0.0
    sizes = [(1, size, size), (3, 3 * patch, 5 * patch), (2, size + patch, size)]
    if program.backbone.traced_at_one_size:
        own = program.backbone.config.image_size
        sizes = [(1, own, own), (3, own, own)]
    for count, height, width in sizes:
        shape = (count, program.backbone.config.channels, height, width)
        images = torch.randn(shape, generator=generator)
        for name, ours, theirs in zip(program.outputs, program(images), run(images.numpy()), strict=True):
            difference = np.abs(ours.numpy() - theirs).max() if ours.shape == theirs.shape else np.inf
            if not difference <= TOLERANCE:  # NaN is above it too
                raise UserError(
                    f"the exported program gives another {name} than the network for images of {shape}: it differs by "
                    f"{difference:.1e}, and {TOLERANCE:g} is allowed. Nothing was written; please report this with the "
                    f"versions of torch ({torch.__version__}) and of the exporter"
                )
            largest = max(largest, float(difference))
    return largest


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what the exporters report about their own workings; errors come through."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(max(before, logging.WARNING))
        try:
            yield
        finally:
            logging.disable(before)


def write_onnx(folder: Path, model: Model) -> list[str]:
    """Write `model.onnx` and compare it in onnxruntime, if that is installed; return lines of Python that run it.

    Raises UserError if the packages are missing or the model differs from the network, OSError if the folder cannot
    be written.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--format onnx needs the package(s) {', '.join(missing)}: pip install 'dinoscope[onnx]'")
    program = Program(model.backbone)
    traced = trace(program)
    with quiet():
        exported = torch.onnx.export(
            traced,
            (),
            dynamo=True,
            input_names=[INPUT],
            output_names=list(program.outputs),
            dynamic_shapes={INPUT: _free(program.backbone)},
            verbose=False,
        )
    if exported is None:
        raise RuntimeError("torch.onnx.export gave no model")
    exported.model.metadata_props["dinoscope"] = json.dumps(description(model))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / ONNX_FILE
    with replacing(file) as partial:
        exported.save(partial, external_data=False)
        remark = _compare(partial, program)
    load = f"session = onnxruntime.InferenceSession({str(file)!r})"
    return [load, program.line(f"session.run(None, {{{INPUT!r}: images}})"), f"# {remark}"]


def _compare(file: Path, program: Program) -> str:
    if importlib.util.find_spec("onnxruntime") is None:
        return "not compared with the network: onnxruntime is not installed (pip install 'dinoscope[onnx]')"
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def run(images: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(output) for output in session.run(list(program.outputs), {INPUT: images})]

    return f"compared with the network in onnxruntime: {check(program, run):.1e} apart at most"


def write_torch_program(folder: Path, model: Model) -> list[str]:
    """Write `model.pt2`, load it again and compare; return lines of Python that load it, and what was compared.

    Raises UserError if the program differs from the network, OSError if the folder cannot be written.
    """
    program, file = Program(model.backbone), folder / TORCH_FILE
    traced = trace(program)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial:
        written = io.BytesIO()  # torch's own writer of files ends the process if the disk is full
        torch.export.save(traced, written, extra_files={"dinoscope.json": json.dumps(description(model))})
        partial.write_bytes(written.getbuffer())
        loaded = torch.export.load(partial).module()
        difference = check(program, lambda images: [output.numpy() for output in loaded(torch.from_numpy(images))])
    return [
        f"net = torch.export.load({str(file)!r}).module()",
        program.line("net(images)"),
        f"# loaded again and compared with the network: {difference:.1e} apart at most",
    ]
