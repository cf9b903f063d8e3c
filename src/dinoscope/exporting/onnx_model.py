"""An ONNX model, for onnxruntime and whatever else reads ONNX."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch

from dinoscope.errors import UserError
from dinoscope.exporting.program import INPUT, Program, check, quiet, trace
from dinoscope.exporting.subject import Subject
from dinoscope.files import replacing

FILE = "model.onnx"
METADATA_KEY = "dinoscope"
NAMED = {INPUT: {0: "batch", 2: "height", 3: "width"}}


def write_onnx(folder: Path, subject: Subject) -> list[str]:
    """Write `model.onnx` and compare it in onnxruntime, if that is installed; return lines of Python that run it.

    Raises UserError where the packages are missing or the model differs from the network, OSError where the folder
    cannot be written.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--format onnx needs the package(s) {', '.join(missing)}: pip install 'dinoscope[onnx]'")
    program = Program(subject.backbone)
    traced = trace(program)
    with quiet():
        model = torch.onnx.export(
            traced,
            (),
            dynamo=True,
            input_names=[INPUT],
            output_names=list(program.outputs),
            dynamic_shapes=NAMED,
            verbose=False,
        )
    if model is None:
        raise RuntimeError("torch.onnx.export gave no model")
    model.model.metadata_props[METADATA_KEY] = subject.description()
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / FILE) as partial:
        model.save(partial, external_data=False)
        remark = _compare(partial, program)
    return [
        f"session = onnxruntime.InferenceSession({str(folder / FILE)!r})",
        f"{', '.join(program.outputs)} = session.run(None, {{{INPUT!r}: images}})   {program.input_remark}",
        f"# {remark}",
    ]


def _compare(file: Path, program: Program) -> str:
    if importlib.util.find_spec("onnxruntime") is None:
        return "not compared with the network: onnxruntime is not installed (pip install 'dinoscope[onnx]')"
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def run(images: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(output) for output in session.run(list(program.outputs), {INPUT: images})]

    return f"compared with the network in onnxruntime: {check(program, run):.1e} apart at most"
