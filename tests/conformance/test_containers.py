"""The same images in a folder or in any container train to the same weights, also when a run was killed and resumed."""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from torch import Tensor

from dinoscope import checkpoint, cli
from dinoscope.data.containers import CONTAINERS
from dinoscope.data.containers.container import Container, Entry, Progress
from dinoscope.data.finding import find_images
from dinoscope.training.listeners import Listener, StepRecord
from dinoscope.training.loop import train
from tests.conformance import cases
from tests.containers import WRITERS, files_of

pytest.importorskip("pyarrow", reason="needs pyarrow (extra parquet)")


class Stop(Listener):
    """Asks the run to end after its fourth step."""

    def stepped(self, record: StepRecord) -> None:
        if record.step.index == 3:
            os.kill(os.getpid(), signal.SIGINT)


def weights(run: Path) -> dict[str, Tensor]:
    return checkpoint.load(checkpoint.step_path(run / "checkpoints", 9)).tensors


def test_identical_weights(picture_folder, tmp_path: Path) -> None:
    data = picture_folder(24)
    train(cases.run_config("dino", data, tmp_path / "folder"))
    expected = weights(tmp_path / "folder")
    for name, write in WRITERS.items():
        run = tmp_path / name
        config = cases.run_config("dino", write(data, tmp_path / "made"), run, workers=1)
        assert train(config, listeners=[Stop()]).interrupted
        train(config, resume=True)
        actual = weights(run)
        assert expected.keys() == actual.keys()
        for key, tensor in expected.items():
            assert torch.equal(tensor, actual[key]), (name, key)


def test_commands_take_a_container(picture_folder, tmp_path: Path, capsys) -> None:
    picture_folder(12, classes=2, split="train")
    folder = picture_folder(6, classes=2, split="val")
    place = WRITERS["zip"](folder, tmp_path / "made")
    run = tmp_path / "run"
    train(cases.run_config("dino", place, run, epochs=1))
    commands = {
        "scan": f"scan {place}/train",
        "knn": f"knn --model {run} --data {place} --ks 3 --device cpu",
        "embed": f"embed --model {run} --data {place}/val --out {tmp_path}/features.npz --device cpu",
        "map": f"map --model {run} --data {place} --method pca --out {tmp_path}/map.png --device cpu",
        "report": f"report {run} --out {tmp_path}/report.html --device cpu",
    }
    for name, command in commands.items():
        assert cli.main(command.split()) == 0, (name, capsys.readouterr())


# What a change costs: a container is one file and one line of the registry. This one is "BOX", and then for each file
# the lengths of name and content as two integers, the name, and the content.


def _entries(path: Path, copies: BinaryIO, progress: Progress) -> Iterator[Entry]:
    content, place = path.read_bytes(), 3
    while place < len(content):
        name, size = struct.unpack_from(">II", content, place)
        place += 8 + name
        yield Entry(content[place - name : place].decode(), place, size)
        place += size


def test_a_new_container(picture_folder, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(CONTAINERS, "box", Container((".box",), lambda start: start.startswith(b"BOX"), _entries))
    folder = picture_folder(12, classes=2)
    parts = [
        struct.pack(">II", len(name), file.stat().st_size) + name.encode() + file.read_bytes()
        for name, file in files_of(folder)
    ]
    (tmp_path / "a.box").write_bytes(b"BOX" + b"".join(parts))
    assert find_images(tmp_path / "a.box").fingerprint() == find_images(folder).fingerprint()
    for place in (folder, tmp_path / "a.box"):
        train(cases.run_config("dino", place, tmp_path / f"run-{place.name}", epochs=1))
    one, other = (
        checkpoint.load(checkpoint.step_path(tmp_path / f"run-{name}" / "checkpoints", 1)).tensors
        for name in ("pictures", "a.box")
    )
    assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())
