"""Scalars and pictures for TensorBoard."""

from __future__ import annotations

from pathlib import Path

from dinoscope.training.listener import Listener, StepRecord


class TensorBoard(Listener):
    """Writes every logged scalar; `writer` also takes pictures."""

    def __init__(self, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # a second's import, only for training

        self.writer = SummaryWriter(str(folder), purge_step=first_step)

    def logged(self, record: StepRecord) -> None:
        """Write each scalar and picture under its name."""
        for name, value in record.values.items():
            self.writer.add_scalar(name, value, record.step.index)
        for name, picture in record.pictures.items():
            self.writer.add_image(name, picture, record.step.index, dataformats="HWC")

    def closed(self) -> None:
        """Flush and close."""
        self.writer.close()
