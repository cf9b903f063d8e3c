"""Two processes, as torchrun starts them: they train on the same images or not at all, and one of them speaks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dinoscope import checkpoint
from dinoscope.data.finding import find_images
from dinoscope.training.run_folder import RunFolder
from dinoscope.training.start import read_unreadable

pytestmark = pytest.mark.slow

PROGRAM = """
import os, sys
import torch
torch.set_num_threads(1)
from dinoscope.cli import main
from dinoscope.training import start
find, missing = start.find_images, int(sys.argv[1])
if os.environ["RANK"] == "1":
    start.find_images = lambda root: find(root).subset(range(missing, len(find(root))))
sys.exit(main(sys.argv[2:]))
"""

TRAIN = ["train", "--recipe", "dino_small_images", "--data", "pictures", "--out", "out", "--views", "small_32"]
TRAIN += ["--backbone", "vit_micro_conv8", "--epochs", "1", "--batch-size", "8", "--evaluate-every", "0"]
TRAIN += ["--workers", "0", "--device", "cpu", "--method.out-dim", "32", "--method.hidden-dim", "32"]
TRAIN += ["--method.freeze-last-layer-epochs", "0", "--optimizer.warmup-epochs", "0"]


def in_two_processes(folder: Path, missing: int) -> subprocess.CompletedProcess[str]:
    """The second one does not find the first so many images."""
    (folder / "program.py").write_text(PROGRAM)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [*torchrun, "program.py", f"{missing}", *TRAIN]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)


def test_files_of_every_name_are_left_out_by_both(picture_folder, tmp_path: Path) -> None:
    data = picture_folder(40)
    for name in ("a\tb.png", "a\u2028b.png"):
        (data / name).write_bytes(b"no picture")
    trained = in_two_processes(tmp_path, 0)
    assert trained.returncode == 0, trained.stderr
    unreadable = read_unreadable(RunFolder(tmp_path / "out"))
    assert set(unreadable) == {"a\tb.png", "a\u2028b.png"}
    newest = checkpoint.latest(tmp_path / "out" / "checkpoints")
    assert newest is not None
    readable = [place for place, name in enumerate(find_images(data).paths) if name not in unreadable]
    assert checkpoint.load(newest).metadata["data_fingerprint"] == find_images(data).subset(readable).fingerprint()
    assert trained.stderr.count("on 40 images") == 1, trained.stderr
    assert "Warning" not in trained.stderr, trained.stderr


def test_other_images_are_refused_by_both(picture_folder, tmp_path: Path) -> None:
    picture_folder(40)
    trained = in_two_processes(tmp_path, 1)
    assert trained.returncode != 0
    assert "the processes do not find the same images" in trained.stderr
    assert not list((tmp_path / "out" / "checkpoints").iterdir())
