"""Files of a run that cannot be written any more: one line, exit code 2, and what was saved before stays whole."""

from __future__ import annotations

import errno
import io
import logging
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dinoscope import checkpoint, cli
from dinoscope.errors import UserError
from dinoscope.training.config import SavingConfig
from dinoscope.training.listeners import Listener, LogFile, MetricsFile, StepRecord, TensorBoard, closing
from dinoscope.training.loop import train
from dinoscope.training.run_folder import read_metrics
from dinoscope.types import Step
from tests.conformance import cases

RECORD = StepRecord(Step(3, 9, 3), {"loss": 1.5})


class File(io.FileIO):
    """A file on a disk that may be full."""

    full = False

    def write(self, data) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


class FillsUp(Listener):
    """Fills the disk of a run's files whose names begin so, once the step of this index was made."""

    def __init__(self, name: str, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.name, self.step = name, step
        self.files: list[File] = []
        self.opened = Path.open
        monkeypatch.setattr(Path, "open", lambda path, *given, **options: self.open(path, *given, **options))

    def open(self, path: Path, mode: str = "r", *given: object, **options: object):
        if "a" not in mode or not path.name.startswith(self.name):
            return self.opened(path, mode, *given, **options)
        self.files.append(File(path, "a"))
        binary = io.BufferedWriter(self.files[-1])
        return binary if "b" in mode else io.TextIOWrapper(binary, line_buffering=True)

    def stepped(self, record: StepRecord) -> None:
        for file in self.files:
            file.full = record.step.index == self.step


def settings(data: Path, out: Path, **changes: object):
    return cases.run_config("dino", data, out, **{"saving": SavingConfig(every_steps=2, keep=9), **changes})


@pytest.mark.parametrize("name", ["metrics.jsonl", "events.out.tfevents"])
def test_a_disk_that_fills_up_ends_the_run_in_one_line(name, picture_folder, tmp_path, monkeypatch, capfd) -> None:
    out = tmp_path / "run"
    config = settings(picture_folder(24), out)
    disk = FillsUp(name, 4, monkeypatch)
    with pytest.raises(UserError, match=rf"{name}.*No space left on device.*--resume") as caught:
        train(config, listeners=[disk])
    assert disk.files
    assert "\n" not in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err  # nor from a thread

    newest = checkpoint.latest(out / "checkpoints")
    assert newest is not None
    assert checkpoint.load(newest).metadata["step"] == 4
    assert train(config, resume=True).steps == 9
    assert [line["step"] for line in read_metrics(out) if "loss" in line] == list(range(9))


def test_a_log_that_cannot_be_written_is_said_with_the_next_step(tmp_path, capfd) -> None:
    full = tmp_path / "train.log"
    full.symlink_to("/dev/full")
    log = LogFile(full)
    log.logged(RECORD)
    logging.getLogger("dinoscope").warning("an image became unreadable")
    with pytest.raises(UserError, match=r"train\.log could not be written: No space left"):
        log.logged(RECORD)
    with pytest.raises(UserError):
        log.closed()
    assert capfd.readouterr().err == ""
    assert log.handler not in logging.getLogger("dinoscope").handlers


def test_every_listener_is_closed_and_the_first_failure_is_the_one_told() -> None:
    closed: list[str] = []

    class Named(Listener):
        def __init__(self, name: str, essential: bool = True) -> None:
            self.name, self.essential = name, essential

        def closed(self) -> None:
            closed.append(self.name)
            raise ValueError(f"{self.name} failed")  # a listener of the caller's may raise anything

    with pytest.raises(UserError, match="the step failed") as told, closing([Named("a"), Named("b")]):
        raise UserError("the step failed")
    assert told.value.__notes__ == ["and while closing: a failed", "and while closing: b failed"]
    with pytest.raises(ValueError, match="a failed"), closing([Named("a"), Named("b")]):
        pass
    assert closed == ["a", "b"] * 2
    with closing([Named("a", essential=False)]):
        pass


def test_event_files_hold_scalars_and_pictures_and_forget_what_is_made_again(tmp_path) -> None:
    import numpy as np

    picture = np.zeros((8, 16, 3), np.uint8)
    for first, loss in ((0, 1.5), (2, 0.5)):
        board = TensorBoard(tmp_path / "tensorboard", first)
        for index in range(first, 4):
            step = Step(index, 9, 3)
            board.logged(StepRecord(step, {"loss": loss + index}, {"attention/0": picture}))
        board.closed()
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(0, 1.5), (1, 2.5), (2, 2.5), (3, 3.5)]
    assert next((image.step, image.width, image.height) for image in found.Images("attention/0")) == (0, 16, 8)


def test_a_damaged_metrics_file_is_named(tmp_path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 0}\n{"st\n{"step": 2}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged"):
        MetricsFile(file, 3)


def test_any_command_on_a_full_disk_ends_in_one_line(monkeypatch, capsys) -> None:
    def fill(argv: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere/features.safetensors")

    monkeypatch.setattr(cli, "call", lambda command, arguments: fill(arguments))
    assert cli.main(["recipes"]) == 2
    expected = "dinoscope recipes: somewhere/features.safetensors: No space left on device. Free space"
    assert capsys.readouterr().err.startswith(expected)
