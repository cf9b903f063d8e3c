"""Scalars and pictures for TensorBoard."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

from dinoscope.files import writing
from dinoscope.training.listener import Listener, StepRecord


class TensorBoard(Listener):
    """Writes every logged scalar and picture to an event file, at once.

    Torch's SummaryWriter writes in a thread: of a full disk that thread tells with a traceback, and the run at some
    later step or never. So the records are written here, by TensorBoard's own encoder.
    """

    essential = True

    def __init__(self, folder: Path, first_step: int) -> None:
        """What earlier event files say of `first_step` and later ones is to be forgotten: those are made again."""
        # a second's import, only for training
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        # the name that TensorBoard looks for; files are read in the order of their names
        self.path = folder / f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        protocol: Any = event_pb2  # protobuf makes the classes at import
        self.event, log = protocol.Event, protocol.SessionLog
        with writing(self.path):
            folder.mkdir(exist_ok=True)
            self.records = RecordWriter(self.path.open("ab"))
            self._add(0, file_version="brain.Event:2")
            self._add(first_step, session_log=log(status=log.START))
            self.records.flush()

    def logged(self, record: StepRecord) -> None:
        """Write each scalar and picture under its name."""
        from torch.utils.tensorboard.summary import image, scalar

        with writing(self.path):
            for name, value in record.values.items():
                self._add(record.step.index, summary=scalar(name, value))
            for name, picture in record.pictures.items():
                self._add(record.step.index, summary=image(name, picture, dataformats="HWC"))
            self.records.flush()

    def closed(self) -> None:
        """Close the file."""
        with writing(self.path):
            self.records.close()

    def _add(self, step: int, **content: object) -> None:
        event = self.event(wall_time=time.time(), step=step, **content)
        self.records.write(event.SerializeToString())
