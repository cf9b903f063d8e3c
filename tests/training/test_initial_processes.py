"""`dinoscope train --init` in two processes, as torchrun starts them: one fetches, both begin with the same weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dinoscope.models.pretrained.released import cached_file
from tests.models.test_pretrained_fetch import Site, site  # noqa: F401 (a fixture)
from tests.official_files import dino_checkpoint, random_network

pytestmark = pytest.mark.slow

PROGRAM = """
import json, os, sys
import torch
torch.set_num_threads(1)
from dinoscope.cli import main
from dinoscope.models.pretrained import CATALOGUE, Release
from dinoscope.training import start
CATALOGUE["small_dino"] = Release("vit_micro_patch8_64", "DINO", "", "", sys.argv[1], "")
give = start.give_weights
def given(initial, method, source):
    give(initial, method, source)
    torch.save(method.state_dict(), f"begun-{os.environ['RANK']}.pt")
start.give_weights = given
sys.exit(main(json.loads(sys.argv[2])))
"""

TRAIN = ["train", "--recipe", "dino_small_images", "--data", "pictures", "--out", "out", "--views", "small_32"]
TRAIN += ["--epochs", "1", "--batch-size", "8", "--evaluate-every", "0", "--workers", "0", "--device", "cpu"]
TRAIN += ["--method.out-dim", "32", "--method.hidden-dim", "32", "--method.freeze-last-layer-epochs", "0"]
TRAIN += ["--optimizer.warmup-epochs", "0", "--init", "small_dino"]


def in_two_processes(folder: Path, url: str) -> subprocess.CompletedProcess[str]:
    (folder / "program.py").write_text(PROGRAM)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "program.py", url, json.dumps(TRAIN)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)


def test_one_of_two_processes_fetches_and_both_begin_alike(picture_folder, tmp_path: Path, site: Site) -> None:  # noqa: F811
    picture_folder(16)
    network = random_network("vit_micro_patch8_64", 64)
    torch.save(dino_checkpoint(network, network), tmp_path / "released.pth")
    site.content = (tmp_path / "released.pth").read_bytes()
    trained = in_two_processes(tmp_path, f"{site.address}/weights.pth")
    assert trained.returncode == 0, trained.stderr
    assert site.seen == [None]
    assert trained.stderr.count("fetching small_dino") == 1
    assert cached_file(site.release()).read_bytes() == site.content
    first, second = (torch.load(tmp_path / f"begun-{rank}.pt", weights_only=True) for rank in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    for name, tensor in network.net.state_dict().items():
        if name != "pos_embed":  # laid out for 32 px now
            assert torch.equal(first[f"student_backbone.net.{name}"], tensor), name
            assert torch.equal(first[f"teacher_backbone.net.{name}"], tensor), name
    assert next((tmp_path / "out" / "checkpoints").glob("step-*.safetensors")).is_file()
