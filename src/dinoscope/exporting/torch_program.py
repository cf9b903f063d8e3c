"""A program of `torch.export`, which torch alone runs."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from dinoscope.exporting.program import Program, check, trace
from dinoscope.exporting.subject import Subject
from dinoscope.files import replacing

FILE = "model.pt2"
DESCRIPTION = "dinoscope.json"


def write_torch_program(folder: Path, subject: Subject) -> list[str]:
    """Write `model.pt2`, load it again and compare; return lines of Python that load it, and what was compared.

    Raises UserError where the program differs from the network, OSError where the folder cannot be written.
    """
    program = Program(subject.backbone)
    traced = trace(program)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / FILE) as partial:
        written = io.BytesIO()  # where the disk is full, torch's own writer of files ends the process
        torch.export.save(traced, written, extra_files={DESCRIPTION: subject.description()})
        partial.write_bytes(written.getbuffer())
        loaded = torch.export.load(partial).module()
        difference = check(program, lambda images: [output.numpy() for output in loaded(torch.from_numpy(images))])
    return [
        f"net = torch.export.load({str(folder / FILE)!r}).module()",
        f"{', '.join(program.outputs)} = net(images)   {program.input_remark}",
        f"# loaded again and compared with the network: {difference:.1e} apart at most",
    ]
