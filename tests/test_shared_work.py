"""Processes of a group share features, duplicates and k-means, and come to what one process comes to."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.distributed import nn

from dinoscope import distributed, features, kmeans, near_duplicates
from dinoscope.data.finding import find_images
from dinoscope.data.sources import ImageSource
from dinoscope.distributed import process_group
from dinoscope.errors import UserError
from dinoscope.evaluation import graph
from dinoscope.features import ExtractConfig, cached_extract
from dinoscope.kmeans import hierarchy
from dinoscope.model_names import load_model
from tests.pictures import write_pictures

PROCESSES = 2


def joined(rank: int, port: int) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(PROCESSES), "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0", "MASTER_PORT": str(port)}


def digest(tensors: Iterable[Tensor]) -> str:
    return hashlib.sha256(b"".join(tensor.contiguous().numpy().tobytes() for tensor in tensors)).hexdigest()


def work(images: ImageSource, cache: Path) -> dict[str, str]:
    """Features, pairs, clusters and copies, in pieces so small that each process has several."""
    features.PIECE, graph._STRIP, kmeans.BLOCK, near_duplicates._CHUNK = 8, 16, 32, 3
    bank = cached_extract(load_model("random:vit_micro_conv8").backbone, images, ExtractConfig(workers=0), place=cache)
    points = torch.randn(500, 12, generator=torch.Generator().manual_seed(1))
    pairs = graph.similar_pairs(points, 0.3, nearest=5)
    against = graph.similar_pairs(points, 0.3, others=points[:70], nearest=5)
    levels = hierarchy(points, (40, 8), torch.Generator().manual_seed(2), iterations=20, rounds=2)
    found = near_duplicates.find_duplicates(images)
    return {
        "features": digest([bank.features]) + " ".join(bank.paths),
        "pairs": digest(torch.from_numpy(part) for part in (*pairs, *against)),
        "clusters": digest(part for level in levels for part in (level.centroids, level.owners, level.distances)),
        "copies": f"{found.groups} {found.unreadable}",
    }


def _check_gradients(rank: int) -> None:
    """Rows and gradients equal those of torch's own functions, bit for bit, also of transposed views."""
    weights = torch.randn(5, 8, generator=torch.Generator().manual_seed(rank + 1))

    def outcome(join: Callable[[Tensor], Tensor], add: Callable[[Tensor], Tensor]) -> list[Tensor]:
        start = torch.randn(4, 5, generator=torch.Generator().manual_seed(rank)).requires_grad_()
        rows = join(start)
        total = add(rows.mean(dim=0))
        (rows.T * weights).sum().add(total.square().sum()).backward()
        assert start.grad is not None
        return [rows.detach(), total.detach(), start.grad]

    def rows_of_torch(value: Tensor) -> Tensor:
        rows = torch.cat(list(nn.functional.all_gather(value)))
        rows.register_hook(lambda gradient: gradient.contiguous())
        return rows

    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        expected = outcome(rows_of_torch, nn.functional.all_reduce)
    with warnings.catch_warnings(action="error"):
        found = outcome(distributed.gather, distributed.sum_with_gradient)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def _work(rank: int, data: Path, out: Path, port: int) -> None:
    joined(rank, port)
    torch.set_num_threads(1)
    with process_group(torch.device("cpu")):
        done: list[range] = []
        share = distributed.own_share

        def noted(count: int) -> range:
            done.append(share(count))
            return done[-1]

        distributed.own_share = noted
        for name, text in work(find_images(data), out / "cache").items():
            (out / f"{name}.{rank}").write_text(text)
        assert all(part.step == PROCESSES and part.start == rank for part in done)
        assert sum(map(len, done)) > 20
        own = distributed.gather_uneven(torch.full((rank + 2, 3), float(rank)))
        assert own.tolist() == [[0.0] * 3] * 2 + [[1.0] * 3] * 3
        _check_gradients(rank)
        assert distributed.gather_texts("é\udcff" * rank) == ["", "é\udcff"]
        with pytest.raises(UserError, match="do not find the same images"):
            features.require_same(find_images(data).subset(range(rank, 10)))


def test_two_processes_come_to_what_one_comes_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    write_pictures(data, 30, classes=2)
    first = next(data.rglob("*.png"))
    (data / "copy.png").write_bytes(first.read_bytes())
    (data / "damaged.png").write_bytes(b"no picture")
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    mp.spawn(_work, (data, tmp_path, store.port), nprocs=PROCESSES)
    for module, name in ((features, "PIECE"), (graph, "_STRIP"), (kmeans, "BLOCK"), (near_duplicates, "_CHUNK")):
        monkeypatch.setattr(module, name, getattr(module, name))  # `work` changes them
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = work(find_images(data), tmp_path / "other")
    finally:
        torch.set_num_threads(threads)
    assert "damaged.png" in alone["copies"]
    assert "copy.png" in alone["copies"]
    for name, text in alone.items():
        for rank in range(PROCESSES):
            assert (tmp_path / f"{name}.{rank}").read_text() == text, name


@pytest.mark.slow
def test_commands_under_torchrun_write_the_same_files(tmp_path: Path) -> None:
    write_pictures(tmp_path / "data", 24, classes=2)
    first = next((tmp_path / "data").rglob("*.png"))
    (tmp_path / "data" / "copy.png").write_bytes(first.read_bytes())
    model = ["--model", "random:vit_micro_conv8", "--device", "cpu", "--workers", "0"]
    commands = {
        "features.npz": ["embed", *model, "--data", "data", "--out"],
        "chosen.txt": ["curate", *model, "--data", "data", "--size", "10", "--clusters", "4", "2", "--out"],
        "copies": ["duplicates", "--data", "data", "--device", "cpu", "--out"],
    }
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "dinoscope"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    for name, arguments in commands.items():
        for folder, start in (("one", ["-m", "dinoscope"]), ("two", torchrun)):
            (tmp_path / folder).mkdir(exist_ok=True)
            variables = {**environment, "DINOSCOPE_CACHE": str(tmp_path / f"cache-{folder}")}
            command = [sys.executable, *start, *arguments, f"{folder}/{name}"]
            done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            assert done.stdout.count(f"{folder}/{name}") >= 1
        assert done.stdout.count("features, labels of") <= 1
    for name in ("features.npz", "copies/duplicates.csv", "chosen-images.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    lists = [(tmp_path / folder / "chosen.txt").read_text().splitlines() for folder in ("one", "two")]
    assert lists[0] == lists[1]
